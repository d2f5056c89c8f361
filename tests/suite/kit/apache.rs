//! Apache with mod_auth_openidc: a private process with two sites, from the packages of the system.
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::authority::Authority;
use super::http::{b64, now, random, wait_until};
use super::seed::GW;
use super::server::{WATCHER, free_port};

const BINARY: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/apache.conf");

/// Whether Apache and the module are installed.
pub fn installed() -> bool {
    Path::new(BINARY).exists() && Path::new(MODULES).join("mod_auth_openidc.so").exists()
}

/// A running Apache. Killed when dropped, and when the test process ends in any way.
pub struct Apache {
    dir: tempfile::TempDir,
    child: Child,
    leash: Option<ChildStdin>,
    ports: [u16; 2],
    secret: String,
}

fn openssl(dir: &Path, args: &str) -> String {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

impl Apache {
    /// Starts it for an issuer of this authority, which need not run yet.
    pub fn start(issuer: &str, authority: &Authority) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::Builder::new().prefix("doorward-apache-").tempdir().expect("a directory");
        // It gives up root for a user who has to read this.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable");
        let at = |name: &str| dir.path().join(name);
        for (page, text) in [
            ("protected", r#"<p id="user"><!--#echo var="REMOTE_USER" --></p><p id="name"><!--#echo var="OIDC_CLAIM_name" --></p>"#),
            ("api", r#"<p id="user"><!--#echo var="REMOTE_USER" --></p>"#),
            ("bye", r#"<p id="bye">Goodbye</p>"#),
        ] {
            std::fs::create_dir_all(at("pages").join(page)).expect("a folder");
            std::fs::write(at("pages").join(page).join("index.html"), text).expect("a page");
        }
        std::fs::copy(authority.file(), at("ca.pem")).expect("a copy");
        std::fs::set_permissions(at("ca.pem"), std::fs::Permissions::from_mode(0o644)).expect("readable");
        openssl(dir.path(), "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out apache.key");
        openssl(dir.path(), "pkey -in apache.key -pubout -out apache.pub");
        let (ports, secret) = ([free_port(), free_port()], random());
        let mut config = std::fs::read_to_string(CONFIG).expect("the configuration");
        for (name, value) in [
            ("DIR", dir.path().display().to_string()),
            ("MODULES", MODULES.to_owned()),
            ("ISSUER", issuer.to_owned()),
            ("RANDOM", random()),
            ("PORT_ONE", ports[0].to_string()),
            ("PORT_TWO", ports[1].to_string()),
            ("SECRET", secret.clone()),
            ("EXP", (now() + 3600).to_string()),
            ("GW_ID", GW.id.to_owned()),
            ("GW_SECRET", GW.secret.to_owned()),
        ] {
            config = config.replace(&format!("@{name}@"), &value);
        }
        std::fs::write(at("apache.conf"), config).expect("written");
        let log = std::fs::File::create(at("start.log")).expect("a log");
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher", BINARY, "-X", "-f"])
            .arg(at("apache.conf"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("Apache runs");
        let leash = child.stdin.take();
        let mut apache = Self { dir, child, leash, ports, secret };
        wait_until("Apache listens", Duration::from_secs(15), || {
            assert!(apache.child.try_wait().expect("a status").is_none(), "Apache ended: {}", apache.log());
            ports.iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
        apache
    }

    /// A URL of a site: 0 has a secret, 1 a key.
    pub fn url(&self, site: usize, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[site])
    }

    /// What the outbound policy has to except, so that the sites hear of logouts.
    pub fn addresses(&self) -> String {
        json!(self.ports.map(|port| format!("127.0.0.1:{port}"))).to_string()
    }

    /// The registration of a site.
    pub fn client(&self, site: usize, resource: &str) -> Value {
        let back = self.url(site, "/protected/redirect_uri");
        let mut client = json!({
            "client_id": if site == 0 { "apache-secret" } else { "apache-key" }, "redirect_uris": [back], "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"], "scope": "openid profile email offline_access read",
            "allowed_resources": [resource], "post_logout_redirect_uris": [self.url(site, "/bye/")],
            "backchannel_logout_uri": format!("{back}?logout=backchannel"), "backchannel_logout_session_required": true
        });
        if site == 0 {
            client["token_endpoint_auth_method"] = json!("client_secret_basic");
            client["client_secret"] = json!(self.secret);
        } else {
            let modulus = openssl(self.dir.path(), "rsa -in apache.key -noout -modulus");
            let hex = modulus.trim().trim_start_matches("Modulus=");
            let octets: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
            let key = json!({"kty": "RSA", "kid": "apache", "use": "sig", "n": b64(octets), "e": "AQAB"});
            client["token_endpoint_auth_method"] = json!("private_key_jwt");
            // It names the token endpoint in `aud`, and signs with RS256.
            client["assertion_audience"] = json!("legacy");
            client["token_endpoint_auth_signing_alg"] = json!("RS256");
            client["request_object_signing_alg"] = json!("RS256");
            client["jwks"] = json!({"keys": [key]});
        }
        client
    }

    /// What it said: the end of its logs.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let lines: Vec<String> = read("error.log").lines().map(|l| l.chars().take(400).collect()).collect();
        format!("{}\n{}", read("start.log"), lines[lines.len().saturating_sub(60)..].join("\n"))
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("Apache said: {}", self.log());
        }
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}
