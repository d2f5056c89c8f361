//! Who a believed credential speaks for, and what the upstream is told of it.
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use ledger::{Facts, RevocationKind, RevocationSet};
use serde_json::Value;
use tokens::access::AccessClaims;

/// Who issued a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    /// This authorization server: its revocations apply.
    Own,
    /// A trusted issuer, by its `iss`.
    Foreign(Arc<str>),
    /// A certificate authority of the listener, by its name.
    Authority(Arc<str>),
}

/// What kind of credential it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JWT access token (RFC 9068), checked here.
    Jwt,
    /// An opaque token, introspected (RFC 7662).
    Opaque,
    /// An API key, asked about as an opaque token is.
    ApiKey,
    /// The client certificate of the connection.
    Certificate,
    /// A browser's session at this gateway.
    Session,
}

impl Kind {
    /// Its name in routes, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Opaque => "opaque",
            Self::ApiKey => "api_key",
            Self::Certificate => "mtls",
            Self::Session => "session",
        }
    }
}

/// The device a credential stands for.
pub use tokens::device::DeviceClaim as Device;

/// A believed credential. Times, audience, scope and revocations are asked again on every request.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    pub issuer: Issuer,
    pub kind: Kind,
    pub claims: AccessClaims,
    /// The key that signed it, or the API key it is.
    pub kid: Option<String>,
    /// The device it stands for, if it does.
    pub device: Option<Arc<Device>>,
}

/// A number for settings, from what they say: equal ones have the same, in every table. What was made under the settings of a table that has been
/// replaced since is then never taken for what other settings ask.
#[must_use]
pub(crate) fn mark(settings: &impl std::fmt::Debug) -> usize {
    let digest = tokens::hash::sha256(format!("{settings:?}").as_bytes());
    digest.first_chunk().map_or(0, |head| usize::from_be_bytes(*head))
}

/// A claim that cannot be put into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

impl Identity {
    /// The device that a token of this issuer (or an answer about one) says it is. What another issuer says is nobody's device here.
    #[must_use]
    pub fn device_of(issuer: &Issuer, claims: &AccessClaims) -> Option<Arc<Device>> {
        if *issuer == Issuer::Own { Device::read(&claims.raw).map(Arc::new) } else { None }
    }

    /// By what a revocation may name it. Other issuers' tokens are not named by our revocations.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        let device = self.device.as_ref().map(|device| device.id.as_str());
        if self.issuer != Issuer::Own {
            // A certificate that stands for a device of ours ends with it: `seq` is the position known when that was looked for.
            let ours = device.filter(|_| matches!(self.issuer, Issuer::Authority(_)));
            return Facts { device: ours, seq: self.claims.seq, ..Facts::default() };
        }
        Facts {
            token: self.claims.jti.as_deref(),
            grant: self.claims.grant.as_deref(),
            session: self.claims.sid.as_deref(),
            client: self.claims.client_id.as_deref(),
            subject: Some(&self.claims.sub),
            device,
            key: self.kid.as_deref(),
            seq: self.claims.seq,
            from: self.claims.from.as_ref(),
        }
    }

    /// Whether its own issuer told that it has ended: the person, the session or the token, at or after it was issued
    /// (CAEP §3.1). Without an `iat` nothing can be said for it. A login session that has ended stays so: a browser's session that is made
    /// of it later is none.
    #[must_use]
    pub fn ended_elsewhere(&self, revoked: &RevocationSet) -> bool {
        let issuer = match (&self.issuer, self.kind) {
            (Issuer::Foreign(issuer), _) => &**issuer,
            // A session also ends when its issuer says so to the gateway itself (OpenID Connect Back-Channel Logout).
            (Issuer::Own, Kind::Session) => self.claims.iss.as_str(),
            _ => return false,
        };
        let issued_ms = self.claims.iat.map_or(i64::MIN, |iat| iat.saturating_mul(1000));
        let named = [
            (RevocationKind::Subject, Some(self.claims.sub.as_str())),
            (RevocationKind::Session, self.claims.sid.as_deref()),
            (RevocationKind::Token, self.claims.jti.as_deref()),
        ];
        named.into_iter().any(|(kind, id)| {
            let ended = id.and_then(|id| revoked.ended_at(kind, &format!("{issuer}|{id}")));
            let for_good = kind == RevocationKind::Token || (kind == RevocationKind::Session && self.kind == Kind::Session);
            ended.is_some_and(|at_ms| for_good || issued_ms <= at_ms)
        })
    }

    /// The identity headers of a mapping; an absent claim gives none.
    ///
    /// # Errors
    /// [`Unfit`] if a claim has control characters.
    pub fn headers(&self, mapping: &[(HeaderName, String)]) -> Result<Vec<(HeaderName, HeaderValue)>, Unfit> {
        let mut out = Vec::with_capacity(mapping.len());
        for (name, claim) in mapping {
            if let Some(text) = self.text(claim)? {
                out.push((name.clone(), HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Unfit)?));
            }
        }
        Ok(out)
    }

    fn text(&self, claim: &str) -> Result<Option<String>, Unfit> {
        let text = match self.claims.raw.get(claim) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                if items.iter().filter_map(Value::as_str).any(|i| i.chars().any(char::is_control)) {
                    return Err(Unfit);
                }
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            Some(other) => other.to_string(),
        };
        if text.chars().any(char::is_control) { Err(Unfit) } else { Ok(Some(text)) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    pub fn identity(raw: Value) -> Identity {
        let text = |n: &str| raw.get(n).and_then(Value::as_str).map(str::to_owned);
        Identity {
            issuer: Issuer::Own,
            kind: Kind::Jwt,
            kid: Some("k".into()),
            device: None,
            claims: AccessClaims {
                iss: "https://id.example.com".into(),
                sub: text("sub").unwrap_or_default(),
                aud: text("aud").into_iter().collect(),
                exp: raw["exp"].as_i64().unwrap_or(1_000),
                nbf: None,
                iat: None,
                jti: text("jti"),
                client_id: text("client_id"),
                scope: text("scope").unwrap_or_default(),
                grant: text("grant"),
                sid: None,
                seq: raw["seq"].as_u64().unwrap_or(0),
                from: None,
                cnf: None,
                raw: Arc::new(raw.as_object().cloned().unwrap_or_default()),
            },
        }
    }

    #[test]
    fn a_login_session_that_has_ended_makes_no_session_later() {
        let revoked = RevocationSet::new();
        let ended = |kind, id: &str| ledger::Revocation { kind, id: format!("https://i|{id}"), seq: 1, at_ms: 100_500, expires_at: 9_999 };
        let of = |kind, iat| {
            let mut who = identity(json!({"sub": "p"}));
            (who.kind, who.issuer, who.claims.iat) = (kind, Issuer::Foreign("https://i".into()), Some(iat));
            who.claims.sid = Some("s".into());
            who.ended_elsewhere(&revoked)
        };
        revoked.apply(&ended(RevocationKind::Session, "s"));
        assert!(of(Kind::Session, 102) && of(Kind::Jwt, 100));
        assert!(!of(Kind::Jwt, 102), "a token that was issued after it");
        revoked.apply(&ended(RevocationKind::Session, "other"));
        let revoked = RevocationSet::new();
        revoked.apply(&ended(RevocationKind::Subject, "p"));
        let mut who = identity(json!({"sub": "p"}));
        (who.kind, who.issuer, who.claims.iat) = (Kind::Session, Issuer::Foreign("https://i".into()), Some(102));
        assert!(!who.ended_elsewhere(&revoked), "the person logged in again");
    }

    #[test]
    fn absent_claims_give_no_header_and_control_characters_none_at_all() {
        let mapping = [(HeaderName::from_static("x-sub"), "sub".to_owned()), (HeaderName::from_static("x-roles"), "roles".to_owned())];
        let who = identity(json!({"sub": "aé"}));
        assert_eq!(who.headers(&mapping).unwrap().len(), 1);
        assert_eq!(identity(json!({"sub": "a", "roles": ["x", "y"]})).headers(&mapping).unwrap()[1].1, "x y");
        assert_eq!(identity(json!({"sub": "a\r\nX-Admin: 1"})).headers(&mapping), Err(Unfit));
        assert_eq!(identity(json!({"sub": "a", "roles": ["x\u{0}"]})).headers(&mapping), Err(Unfit));
    }
}
