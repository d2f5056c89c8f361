//! What a token is bound to: a key or certificate its holder has to prove (RFC 7800, RFC 8705 §3.1, RFC 9449 §6).
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A `cnf` claim. A method of confirmation that has no field here cannot be proved here, so such a claim is not read at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The RFC 7638 thumbprint of the DPoP key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
    /// The SHA-256 thumbprint of the client certificate, base64url.
    #[serde(rename = "x5t#S256", default, skip_serializing_if = "Option::is_none")]
    pub x5t_s256: Option<String>,
}

impl Confirmation {
    /// Reads a `cnf` claim; `None` if it binds in a way nobody here can prove, or to nothing.
    #[must_use]
    pub fn read(claim: &Value) -> Option<Self> {
        Self::deserialize(claim).ok().filter(|cnf| !cnf.is_empty())
    }
    /// Whether it binds to nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.jkt.is_none() && self.x5t_s256.is_none()
    }
    /// The `token_type` of a token bound so (RFC 9449 §5, RFC 6750 §6.1.1).
    #[must_use]
    pub const fn token_type(&self) -> &'static str {
        if self.jkt.is_some() { "DPoP" } else { "Bearer" }
    }
    /// Whether the keys a request proved are the ones it binds to.
    #[must_use]
    pub fn proved(&self, jkt: Option<&str>, x5t_s256: Option<&str>) -> bool {
        let one = |bound: &Option<String>, shown: Option<&str>| bound.as_deref().is_none_or(|b| shown == Some(b));
        !self.is_empty() && one(&self.jkt, jkt) && one(&self.x5t_s256, x5t_s256)
    }
}

/// How a token is presented (RFC 6750 §2.1, RFC 9449 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer`
    Bearer,
    /// `DPoP`
    Dpop,
}

impl Scheme {
    /// The scheme of that name, in any case.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        match name {
            name if name.eq_ignore_ascii_case(b"bearer") => Some(Self::Bearer),
            name if name.eq_ignore_ascii_case(b"dpop") => Some(Self::Dpop),
            _ => None,
        }
    }

    /// Whether a token that is bound so may come in by this scheme with these keys proved: a token of a DPoP key by `DPoP` only, every
    /// other by `Bearer` only (RFC 9449 §7.2).
    #[must_use]
    pub fn lets_in(self, bound: Option<&Confirmation>, jkt: Option<&str>, x5t_s256: Option<&str>) -> bool {
        match (self, bound) {
            (Self::Bearer, None) => true,
            (Self::Dpop, None) => false,
            (Self::Bearer, Some(cnf)) => cnf.jkt.is_none() && cnf.proved(None, x5t_s256),
            (Self::Dpop, Some(cnf)) => cnf.jkt.is_some() && cnf.proved(jkt, x5t_s256),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_proved_is_not_read() {
        assert_eq!(Confirmation::read(&json!({"jkt": "a"})).and_then(|c| c.jkt).as_deref(), Some("a"));
        assert_eq!(Confirmation::read(&json!({"x5t#S256": "a"})).and_then(|c| c.x5t_s256).as_deref(), Some("a"));
        for other in [json!({}), json!({"jwk": {}}), json!({"jkt": "a", "kid": "b"}), json!({"jkt": 5}), json!("a"), json!(null)] {
            assert_eq!(Confirmation::read(&other), None, "{other}");
        }
    }

    #[test]
    fn a_bound_token_is_no_bearer_token_and_an_unbound_one_no_other() {
        let key = Confirmation { jkt: Some("k".into()), x5t_s256: None };
        let certificate = Confirmation { jkt: None, x5t_s256: Some("c".into()) };
        assert!(Scheme::Bearer.lets_in(None, None, None) && !Scheme::Dpop.lets_in(None, Some("k"), None));
        assert!(Scheme::Dpop.lets_in(Some(&key), Some("k"), None) && !Scheme::Bearer.lets_in(Some(&key), Some("k"), None));
        assert!(!Scheme::Dpop.lets_in(Some(&key), Some("other"), None) && !Scheme::Dpop.lets_in(Some(&key), None, Some("c")));
        assert!(Scheme::Bearer.lets_in(Some(&certificate), None, Some("c")) && !Scheme::Bearer.lets_in(Some(&certificate), None, None));
        assert!(!Scheme::Dpop.lets_in(Some(&certificate), Some("k"), Some("c")));
        assert_eq!(
            (Scheme::parse(b"dPoP"), Scheme::parse(b"BEARER"), Scheme::parse(b"Basic")),
            (Some(Scheme::Dpop), Some(Scheme::Bearer), None)
        );
    }

    #[test]
    fn every_key_it_names_has_to_be_shown() {
        let both = Confirmation { jkt: Some("k".into()), x5t_s256: Some("c".into()) };
        assert!(both.proved(Some("k"), Some("c")) && !both.proved(Some("k"), None) && !both.proved(None, Some("c")));
        assert!(!Confirmation::default().proved(Some("k"), None));
    }
}
