//! How a trusted issuer is asked about its opaque tokens (RFC 7662), and how the gateway proves itself to it.
use ledger::Mistake;
use serde::{Deserialize, Serialize};
use tokens::Alg;

use crate::issuer::url_fault;

/// How the gateway proves who it is (RFC 7591 §2).
pub const METHODS: [&str; 4] = ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"];

/// Where and as whom an issuer is asked. The write-only member `secret` (the client's secret, or the private key as PKCS#8 PEM) is kept sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Introspection {
    /// The introspection endpoint.
    pub endpoint: String,
    /// The gateway's client there.
    pub client_id: String,
    /// One of [`METHODS`]; empty: `client_secret_basic`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// What `private_key_jwt` is signed with; absent: what the key is for, of an RSA key `PS256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_alg: Option<String>,
    /// The certificate of `tls_client_auth`, PEM, leaf first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Whether answers have to be signed (RFC 9701).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub signed_response: bool,
}

/// Where an issuer's secret lies among the secrets of its object.
pub const SLOT: &str = "introspection";

/// The place that an issuer's secret is sealed for.
#[must_use]
pub fn place(issuer_id: &str) -> String {
    format!("trusted_issuer:{issuer_id}:{SLOT}")
}

impl Introspection {
    /// The method, the default filled in.
    #[must_use]
    pub fn method(&self) -> &str {
        if self.auth.is_empty() { METHODS[0] } else { &self.auth }
    }

    pub(crate) fn mistakes(&self, out: &mut Vec<Mistake>) {
        let mut say = |at: &str, why: &str| out.push(Mistake::new(format!("introspection.{at}"), why));
        if let Some(why) = url_fault(&self.endpoint) {
            say("endpoint", why);
        }
        if self.client_id.is_empty() || !self.client_id.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            say("client_id", "the gateway's client at this issuer is needed");
        }
        if !METHODS.contains(&self.method()) {
            say("auth", "must be client_secret_basic, client_secret_post, private_key_jwt or tls_client_auth");
        }
        if self.signing_alg.as_deref().is_some_and(|alg| Alg::parse(alg).is_none()) {
            say("signing_alg", "must be one of ES256, ES384, RS256, PS256, EdDSA, ML-DSA-65");
        }
        if self.signing_alg.is_some() && self.method() != "private_key_jwt" {
            say("signing_alg", "is for private_key_jwt");
        }
        match (&self.certificate, self.method()) {
            (None, "tls_client_auth") => say("certificate", "tls_client_auth needs one"),
            (Some(pem), "tls_client_auth") if !pem.contains("-----BEGIN CERTIFICATE-----") => say("certificate", "is not PEM"),
            (Some(_), method) if method != "tls_client_auth" => say("certificate", "is for tls_client_auth"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn wrong(members: Value) -> Vec<String> {
        let mut whole = json!({"endpoint": "https://a.example/i", "client_id": "gw"});
        for (name, value) in members.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let mut out = Vec::new();
        serde_json::from_value::<Introspection>(whole).unwrap().mistakes(&mut out);
        out.into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn what_may_be_said() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        for good in [
            json!({}),
            json!({"auth": "client_secret_post", "signed_response": true}),
            json!({"auth": "private_key_jwt", "signing_alg": "ES256"}),
            json!({"auth": "tls_client_auth", "certificate": pem}),
        ] {
            assert_eq!(wrong(good.clone()), Vec::<String>::new(), "{good}");
        }
        for (bad, at) in [
            (json!({"endpoint": "nowhere"}), "endpoint"),
            (json!({"client_id": ""}), "client_id"),
            (json!({"auth": "none"}), "auth"),
            (json!({"auth": "private_key_jwt", "signing_alg": "HS256"}), "signing_alg"),
            (json!({"auth": "tls_client_auth"}), "certificate"),
            (json!({"certificate": pem}), "certificate"),
        ] {
            assert_eq!(wrong(bad.clone()), [format!("introspection.{at}")], "{bad}");
        }
    }
}
