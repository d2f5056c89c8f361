//! Security events of trusted issuers: what they say ends here too (RFC 8417, RFC 8935; CAEP §3.1).
use ledger::{Change, EventKind, NewEvent, RevocationKind};
use serde_json::{Map, Value};
use tokens::{Refusal, jwk::VerifyingKey, jws::Parsed};

use super::{CREDENTIAL_CHANGE, SESSION_REVOKED, VERIFICATION, event, subject};
use crate::Settings;

/// Seconds a foreign token may be older than the event that ended it and still be remembered as ended.
pub const REMEMBER: i64 = Settings::MAX_ACCESS_TOKEN_TTL + Settings::SKEW;

/// Why a security event token is not taken (RFC 8935 §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It cannot be read as one.
    Request,
    /// Its key or signature is wrong.
    Key,
    /// It is another issuer's.
    Issuer,
    /// It is for somebody else.
    Audience,
}

impl NotTaken {
    /// The wire code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Request => "invalid_request",
            Self::Key => "invalid_key",
            Self::Issuer => "invalid_issuer",
            Self::Audience => "invalid_audience",
        }
    }
}

/// A believed security event token.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    issuer: String,
    /// Its one-time id.
    pub jti: String,
    claims: Map<String, Value>,
}

/// Believes a token of a trusted issuer.
///
/// # Errors
/// Why not.
pub fn believe(parsed: &Parsed<'_>, key: &VerifyingKey, issuer: &str, audience: &str, now: i64) -> Result<Taken, NotTaken> {
    if !parsed.is_typ(event::TYP) {
        return Err(NotTaken::Request);
    }
    let claims = parsed.verify(key).map_err(|why| if why == Refusal::Signature { NotTaken::Key } else { NotTaken::Request })?.into_inner();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(issuer) {
        return Err(NotTaken::Issuer);
    }
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(all)) => all.iter().any(|one| one == audience),
        _ => false,
    };
    if !meant {
        return Err(NotTaken::Audience);
    }
    let jti = text("jti").filter(|jti| (1..=512).contains(&jti.len())).ok_or(NotTaken::Request)?;
    let iat = claims.get("iat").and_then(Value::as_i64).ok_or(NotTaken::Request)?;
    // A SET does not expire (RFC 8417 §2.2); one from the future is nonsense, and `exp`, `sub` belong to other kinds of token.
    if iat > now + Settings::SKEW || claims.contains_key("exp") || !claims.get("events").is_some_and(Value::is_object) {
        return Err(NotTaken::Request);
    }
    Ok(Taken { issuer: issuer.to_owned(), jti: jti.to_owned(), claims: (*claims).clone() })
}

/// How the set of revocations names what a foreign issuer names: no foreign subject is ever one of ours.
#[must_use]
pub fn foreign(issuer: &str, id: &str) -> String {
    format!("{issuer}|{id}")
}

impl Taken {
    /// What ends by it, and the event that tells of it. `at_ms` of a revocation is when the other side says it happened: a token of
    /// theirs dies if it was issued at or before that.
    #[must_use]
    pub fn change(&self, now_ms: i64) -> Change {
        let now = now_ms.div_euclid(1000);
        let mut change = Change::new();
        let mut told = NewEvent::new(EventKind::SignalReceived, now_ms).with("issuer", self.issuer.as_str());
        let events = self.claims.get("events").and_then(Value::as_object).into_iter().flatten();
        for (kind, body) in events.filter(|(kind, _)| kind.as_str() != VERIFICATION) {
            told = told.with("kind", kind.as_str());
            if kind != SESSION_REVOKED && kind != CREDENTIAL_CHANGE {
                continue;
            }
            let said = body.get("event_timestamp").and_then(Value::as_i64).or_else(|| self.claims.get("iat").and_then(Value::as_i64));
            let at_ms = said.unwrap_or(now).min(now).saturating_mul(1000);
            // Before the final specification the subject was a member of the event.
            let about = self.claims.get("sub_id").or_else(|| body.get("subject")).and_then(subject::read);
            let (what, id) = match about {
                Some(subject::Named::Person { issuer, subject }) if issuer == self.issuer => (RevocationKind::Subject, subject),
                Some(subject::Named::Session(id)) if kind == SESSION_REVOKED => (RevocationKind::Session, id),
                Some(subject::Named::Token { issuer, jti }) if issuer == self.issuer && kind == SESSION_REVOKED => {
                    (RevocationKind::Token, jti)
                }
                _ => continue,
            };
            told = told.with("revoked", what.as_str());
            change = change.revoke(what, foreign(&self.issuer, &id), at_ms, now + REMEMBER);
        }
        change.event(told)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::{Alg, sign::SigningKey};

    use super::*;

    fn tried(typ: &str, change: &[(&str, Value)]) -> Result<Taken, NotTaken> {
        static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
        let key = KEY.get_or_init(|| SigningKey::generate(Alg::ES256).unwrap().0);
        let mut claims = json!({"iss": "https://o", "aud": "https://i", "iat": 100, "jti": "j",
            "sub_id": {"format": "iss_sub", "iss": "https://o", "sub": "a"}, "events": {SESSION_REVOKED: {"event_timestamp": 90}}});
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        let token = key.sign_jwt(typ, &claims).unwrap();
        believe(&Parsed::parse(&token).unwrap(), &key.verifying(), "https://o", "https://i", 100)
    }

    #[test]
    fn only_a_security_event_token_for_us_is_taken() {
        assert!(tried("secevent+jwt", &[]).is_ok());
        assert_eq!(tried("JWT", &[]), Err(NotTaken::Request));
        assert_eq!(tried("secevent+jwt", &[("iss", json!("https://x"))]), Err(NotTaken::Issuer));
        assert_eq!(tried("secevent+jwt", &[("aud", json!(["https://x"]))]), Err(NotTaken::Audience));
        for (name, value) in [("iat", json!(999)), ("jti", json!("")), ("events", json!([])), ("exp", json!(1000))] {
            assert_eq!(tried("secevent+jwt", &[(name, value)]), Err(NotTaken::Request), "{name}");
        }
    }

    #[test]
    fn it_ends_what_is_the_senders_and_nothing_of_ours() {
        let change = tried("secevent+jwt", &[]).unwrap().change(100_000);
        let ledger::Step::Revoke(revocation) = &change.steps[0] else { panic!("a revocation") };
        assert_eq!((revocation.kind, revocation.id.as_str(), revocation.at_ms), (RevocationKind::Subject, "https://o|a", 90_000));
        let ours = tried("secevent+jwt", &[("sub_id", json!({"format": "iss_sub", "iss": "https://i", "sub": "a"}))]).unwrap();
        assert!(ours.change(100_000).steps.is_empty());
        let verification = tried("secevent+jwt", &[("events", json!({VERIFICATION: {}}))]).unwrap();
        assert!(verification.change(100_000).steps.is_empty());
    }
}
