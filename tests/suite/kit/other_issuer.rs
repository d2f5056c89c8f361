//! A certified authorization server from its package (npm oidc-provider), run beside ours by `tests/clients/foreign_issuer.mjs`.
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use super::http::{Answer, Go, client, env};
use super::server::{WATCHER, free_port};
use super::services;

/// The running server. Ends with the test process.
pub struct OtherIssuer {
    pub url: String,
    pub address: String,
    child: Child,
    _leash: Option<ChildStdin>,
}

impl OtherIssuer {
    /// Starts it with these clients; `None` and said out loud where the package is not installed.
    pub fn start(clients: &Value, resource: &str) -> Option<Self> {
        let Some(modules) = env("DOORWARD_TEST_NODE_MODULES") else {
            services::skip("npm packages (DOORWARD_TEST_NODE_MODULES)");
            return None;
        };
        let port = free_port();
        let script = format!("{}/tests/clients/foreign_issuer.mjs", env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", "node", &script])
            .env("NODE_MODULES", modules)
            .env("PORT", port.to_string())
            .env("CLIENTS", clients.to_string())
            .env("RESOURCE", resource)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node runs");
        let leash = child.stdin.take();
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        while !line.starts_with("ready") {
            line.clear();
            assert!(out.read_line(&mut line).is_ok_and(|n| n > 0), "oidc-provider did not start");
        }
        let address = format!("127.0.0.1:{port}");
        Some(Self { url: format!("http://{address}"), address, child, _leash: leash })
    }

    /// An access token by client credentials.
    pub fn token(&self, id: &str, secret: &str, resource: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("scope", "read"), ("resource", resource)];
        let answer = client().post(format!("{}/token", self.url)).basic_auth(id, Some(secret)).form(&form).go().expect(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    pub fn revoke(&self, id: &str, secret: &str, token: &str) -> Answer {
        let form = [("token", token)];
        client().post(format!("{}/token/revocation", self.url)).basic_auth(id, Some(secret)).form(&form).go()
    }
}

impl Drop for OtherIssuer {
    fn drop(&mut self) {
        drop(self._leash.take());
        let _ = self.child.wait();
    }
}
