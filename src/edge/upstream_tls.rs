//! TLS towards an upstream: whom it has to prove to be, and who we prove to be. Keys stay in files.
use ledger::Mistake;
use serde::{Deserialize, Serialize};

/// TLS of an upstream. Without it the deployment's roots and each target's own name count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM file of the only authorities believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// The same as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The name asked for (SNI) and proved, if not the target's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file of our certificate and its chain (mutual TLS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<String>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<String>,
    /// The SPIFFE ID that the upstream's certificate must have, instead of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Always `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

const MOST_PEM: usize = 64 * 1024;

impl UpstreamTls {
    /// What is wrong.
    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        let mut bad = |at: &str, why: &str| out.push(Mistake::new(format!("tls.{at}"), why));
        if self.verify == Some(false) {
            bad("verify", "an upstream's certificate is always verified; name its authority in ca_file");
        }
        if self.ca_file.is_some() && self.ca_pem.is_some() {
            bad("ca_pem", "ca_file or ca_pem, not both");
        }
        if let Some(pem) = &self.ca_pem {
            if pem.contains("PRIVATE KEY") {
                bad("ca_pem", "a private key does not belong here");
            } else if pem.len() > MOST_PEM || !pem.contains("-----BEGIN CERTIFICATE-----") {
                bad("ca_pem", "certificates in PEM, at most 64 KiB, are needed");
            }
        }
        let files = [
            ("ca_file", &self.ca_file),
            ("client_certificate_file", &self.client_certificate_file),
            ("client_key_file", &self.client_key_file),
        ];
        for (at, file) in files {
            if file.as_ref().is_some_and(|f| !f.starts_with('/') || f.contains('\0') || f.len() > 1024) {
                bad(at, "an absolute path is needed");
            }
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            bad("client_key_file", "client_certificate_file and client_key_file belong together");
        }
        if self.server_name.as_ref().is_some_and(|n| crate::host::Host::parse(n.as_bytes()).is_err() || n.contains(':')) {
            bad("server_name", "a host name is needed");
        }
        if let Some(id) = &self.spiffe_id
            && !(spiffe(id) && id.len() <= 2048)
        {
            bad("spiffe_id", "a SPIFFE ID such as spiffe://example.org/service is needed");
        }
        if self.spiffe_id.is_some() && self.ca_file.is_none() && self.ca_pem.is_none() {
            bad("spiffe_id", "needs ca_file or ca_pem: only the trust domain's own authority may vouch for it");
        }
    }
}

/// `spiffe://` trust domain, path of non-empty segments without dots (SPIFFE-ID §2).
fn spiffe(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(fit);
    !domain.is_empty() && domain.bytes().all(|b| fit(b) && !b.is_ascii_uppercase()) && path.is_none_or(|path| path.split('/').all(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_switches_verification_off_and_keys_stay_in_files() {
        let wrong = |json: serde_json::Value| {
            let tls: UpstreamTls = serde_json::from_value(json).unwrap();
            let mut out = Vec::new();
            tls.mistakes(&mut out);
            out.into_iter().map(|m| m.at).collect::<Vec<_>>()
        };
        assert!(wrong(serde_json::json!({"verify": true, "ca_file": "/etc/ca.pem", "server_name": "a.example"})).is_empty());
        assert!(wrong(serde_json::json!({"ca_file": "/a", "spiffe_id": "spiffe://example.org/ns/a"})).is_empty());
        assert_eq!(wrong(serde_json::json!({"verify": false})), ["tls.verify"]);
        assert_eq!(wrong(serde_json::json!({"ca_pem": "-----BEGIN PRIVATE KEY-----"})), ["tls.ca_pem"]);
        assert_eq!(wrong(serde_json::json!({"ca_file": "ca.pem"})), ["tls.ca_file"]);
        assert_eq!(wrong(serde_json::json!({"client_key_file": "/k"})), ["tls.client_key_file"]);
        assert_eq!(wrong(serde_json::json!({"spiffe_id": "spiffe://example.org/a"})), ["tls.spiffe_id"]);
        for id in ["spiffe://", "spiffe://A/b", "spiffe://a//b", "spiffe://a/../b", "https://a/b", "spiffe://a/b?c", "spiffe://a:1/b"] {
            assert_eq!(wrong(serde_json::json!({"ca_file": "/a", "spiffe_id": id})), ["tls.spiffe_id"], "{id}");
        }
    }
}
