//! An https issuer under an authority of the test's own: its certificates, and those of clients.
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::http::RUNTIME;
use super::server::House;
use super::services;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// Certificates in a house's folder: `ca.pem`; `server.pem` for localhost; the clients' `app.pem` and `other.pem` of the authority, and
/// `own.pem` of nobody. Each has its `.key`.
pub struct Authority {
    house: House,
}

/// Turns a house into one with https, whose listeners ask for client certificates: the public one and the gateway take any. `None` and said
/// out loud where openssl is missing.
pub fn certified(house: &mut House) -> Option<Authority> {
    if !services::has("openssl") {
        services::skip("openssl");
        return None;
    }
    house.issuer = house.issuer.replace("http://127.0.0.1", "https://localhost");
    let issuer = house.issuer.clone();
    house.text("server.issuer", &issuer).text("server.mtls_listen", "127.0.0.1:0");
    let path = |house: &House, name: &str| house.path(name).display().to_string();
    let (cert, key) = (path(house, "server.pem"), path(house, "server.key"));
    let authorities = json!([path(house, "ca.pem")]).to_string();
    for section in ["server.tls", "gateway.tls"] {
        let name = |key: &str| -> &'static str { Box::leak(format!("{section}.{key}").into_boxed_str()) };
        house.text(name("cert_file"), &cert).text(name("key_file"), &key).set(name("client_ca_files"), &authorities);
    }
    house.text("gateway.tls.client_certificates", "any");
    let authority = Authority { house: house.clone() };
    authority.openssl(&format!("req -x509 {KEY} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    authority.certify("server", "/CN=localhost", "DNS:localhost,IP:127.0.0.1");
    authority.certify("app", "/O=Example/CN=app", "DNS:app.example.com");
    authority.certify("other", "/O=Example/CN=other", "DNS:other.example.com");
    authority.openssl(&format!("req -x509 {KEY} -days 2 -subj /CN=own -keyout own.key -out own.pem"));
    Some(authority)
}

impl Authority {
    fn openssl(&self, args: &str) {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(self.house.dir()).output().expect("openssl runs");
        assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn certify(&self, name: &str, subject: &str, names: &str) {
        self.openssl(&format!("req -new {KEY} -subj {subject} -addext subjectAltName={names} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out {name}.pem"
        ));
    }

    /// The file of the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.house.path("ca.pem")
    }

    /// The folder of all files.
    pub fn folder(&self) -> String {
        self.house.dir().display().to_string()
    }

    /// An HTTP client that trusts this authority.
    #[expect(clippy::disallowed_methods, reason = "a client that trusts the test's own authority")]
    pub fn client(&self) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(&std::fs::read(self.file()).expect("a certificate")).expect("PEM");
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().add_root_certificate(authority);
        RUNTIME.block_on(async { builder.build().expect("an HTTP client") })
    }
}
