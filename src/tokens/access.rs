//! JWT access tokens (RFC 9068): the claims we write, and what makes one believable.
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Confirmation, Refusal, Verified, device::DeviceClaim, jwk::VerifyingKey, jws::Parsed};

/// The type of our access tokens.
pub const TYP: &str = "at+jwt";
/// The furthest an `exp` may lie ahead, seconds (ten years).
pub const MAX_AHEAD: i64 = 10 * 366 * 86400;

/// Private claim of an exchanged token: the tokens it came from. What ends one of them, or a client they were issued to, ends it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Their `jti`s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jti: Vec<String>,
    /// The clients they were issued to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_id: Vec<String>,
}

impl Origin {
    /// What the claim says; nothing of one that does not read.
    #[must_use]
    pub fn read(claims: &Map<String, Value>) -> Option<Self> {
        claims.get("from").and_then(|claim| Self::deserialize(claim).ok())
    }
}

/// The claims of an access token we issue.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AccessTokenClaims<'a> {
    pub iss: &'a str,
    pub sub: &'a str,
    /// The resource (RFC 8707).
    pub aud: &'a str,
    pub client_id: &'a str,
    /// Seconds since the epoch.
    pub iat: i64,
    /// Seconds since the epoch.
    pub exp: i64,
    pub jti: &'a str,
    /// Space-separated; left out when empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub scope: &'a str,
    /// Private claim: the grant it belongs to; absent for client credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<&'a str>,
    /// Private claim: the ledger position known at issue.
    pub seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub amr: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub roles: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub groups: &'a [String],
    /// What its holder has to prove (RFC 8705 §3.1, RFC 9449 §6.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<&'a Confirmation>,
    /// Who acts for the subject (RFC 8693 §4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<&'a Value>,
    /// What was granted in detail (RFC 9396 §9.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_details: Option<&'a Value>,
    /// The tokens it was exchanged from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a Origin>,
    /// The device whose credential it is ([`crate::device`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<&'a DeviceClaim>,
    /// Where its status is listed (Token Status List §6).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a Value>,
}

/// The claims of a believed access token.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessClaims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    /// Seconds since the epoch; fractions are rounded up.
    pub exp: i64,
    pub nbf: Option<i64>,
    pub iat: Option<i64>,
    pub jti: Option<String>,
    pub client_id: Option<String>,
    /// Space-separated; empty if absent.
    pub scope: String,
    pub grant: Option<String>,
    pub sid: Option<String>,
    /// 0 if absent.
    pub seq: u64,
    /// The tokens it was exchanged from, if it is ours.
    pub from: Option<Origin>,
    /// The keys its holder has to prove; whoever lets the token in has to ask for them.
    pub cnf: Option<Confirmation>,
    /// Every claim as it came.
    pub raw: Arc<Map<String, Value>>,
}

impl AccessClaims {
    /// Whether a scope was granted.
    #[must_use]
    pub fn has_scope(&self, name: &str) -> bool {
        self.scope.split(' ').any(|s| s == name)
    }
}

/// What is expected of an access token.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The exact issuer.
    pub issuer: &'a str,
    /// Must be among its `aud`. May only be left out for our own `at+jwt` tokens.
    pub audience: Option<&'a str>,
    /// Accepted types without `application/`: `at+jwt`; `JWT` only for a trusted issuer registered so (it then must name
    /// the audience and carry none of the marks of an ID, logout or event token).
    pub typ: &'a [&'a str],
    /// Seconds since the epoch.
    pub now: i64,
    /// Seconds of clock difference forgiven.
    pub leeway: i64,
}

/// Believes an access token: signature, type, issuer, audience, times. It may be bound to a key: [`AccessClaims::cnf`] has to be
/// proved by whoever lets it in; a binding that cannot be proved here is refused.
///
/// # Errors
/// The first thing that is wrong.
pub fn believe(parsed: &Parsed<'_>, key: &VerifyingKey, expected: &Expected<'_>) -> Result<Verified<AccessClaims>, Refusal> {
    let typ = expected.typ.iter().find(|typ| parsed.is_typ(typ)).ok_or(Refusal::Type)?;
    let verified = parsed.verify(key)?;
    let claims = read(&verified)?;
    if claims.iss != expected.issuer {
        return Err(Refusal::Issuer);
    }
    let ours = typ.eq_ignore_ascii_case(TYP);
    match expected.audience {
        Some(audience) if !claims.aud.iter().any(|aud| aud == audience) => return Err(Refusal::Audience),
        None if !ours => return Err(Refusal::Audience),
        _ => {}
    }
    if !ours && ["nonce", "at_hash", "c_hash", "s_hash", "events"].iter().any(|mark| claims.raw.contains_key(*mark)) {
        return Err(Refusal::Type);
    }
    timely(&claims, expected.now, expected.leeway)?;
    Ok(Verified::new(claims))
}

/// Checks the times of claims that were believed before: for every further hit of a kept token.
///
/// # Errors
/// [`Refusal::Expired`], [`Refusal::NotYetValid`] or [`Refusal::Claim`].
pub fn timely(claims: &AccessClaims, now: i64, leeway: i64) -> Result<(), Refusal> {
    if now >= claims.exp.saturating_add(leeway) {
        return Err(Refusal::Expired);
    }
    if claims.exp > now.saturating_add(MAX_AHEAD) {
        return Err(Refusal::Claim("exp is more than ten years ahead"));
    }
    let latest = now.saturating_add(leeway);
    if claims.nbf.is_some_and(|nbf| nbf > latest) || claims.iat.is_some_and(|iat| iat > latest) {
        return Err(Refusal::NotYetValid);
    }
    Ok(())
}

/// What a token is known by, for asking whether it was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks<'a> {
    pub token: Option<&'a str>,
    pub grant: Option<&'a str>,
    pub session: Option<&'a str>,
    pub client: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub key: Option<&'a str>,
    pub seq: u64,
}

/// The marks of a believed token and the key that signed it.
#[must_use]
pub fn facts<'a>(claims: &'a AccessClaims, kid: Option<&'a str>) -> Marks<'a> {
    Marks {
        token: claims.jti.as_deref(),
        grant: claims.grant.as_deref(),
        session: claims.sid.as_deref(),
        client: claims.client_id.as_deref(),
        subject: Some(&claims.sub),
        key: kid,
        seq: claims.seq,
    }
}

fn read(raw: &Arc<Map<String, Value>>) -> Result<AccessClaims, Refusal> {
    let wrong = Refusal::Claim;
    let text = |name: &'static str| match raw.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(name)),
    };
    let time = |name: &'static str| match raw.get(name) {
        None => Ok(None),
        Some(value) => date(value).map(Some).ok_or(wrong(name)),
    };
    let aud = match raw.get("aud") {
        None => return Err(wrong("aud")),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or(wrong("aud"))?,
        Some(_) => return Err(wrong("aud")),
    };
    let seq = match raw.get("seq") {
        None => 0,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    let cnf = match raw.get("cnf") {
        None => None,
        Some(claim) => Some(Confirmation::read(claim).ok_or(Refusal::Confirmation)?),
    };
    Ok(AccessClaims {
        iss: text("iss")?.ok_or(wrong("iss"))?,
        sub: text("sub")?.ok_or(wrong("sub"))?,
        aud,
        exp: time("exp")?.ok_or(wrong("exp"))?,
        nbf: time("nbf")?,
        iat: time("iat")?,
        jti: text("jti")?,
        client_id: text("client_id")?,
        scope: text("scope")?.unwrap_or_default(),
        grant: text("grant")?,
        sid: text("sid")?,
        seq,
        from: Origin::read(raw),
        cnf,
        raw: Arc::clone(raw),
    })
}

/// A `NumericDate` (RFC 7519 §2), fractions rounded up; out-of-range numbers saturate and fail the time checks.
fn date(value: &Value) -> Option<i64> {
    if let Some(whole) = value.as_i64() {
        return Some(whole);
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which the range checks refuse")]
    value.as_f64().map(|seconds| seconds.ceil() as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Alg, sign::SigningKey};

    const NOW: i64 = 1_800_000_000;

    fn key() -> &'static SigningKey {
        static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
        KEY.get_or_init(|| SigningKey::generate(Alg::ES256).expect("generates").0)
    }

    fn claims(change: &[(&str, Value)]) -> Value {
        let mut claims = json!({"iss": "https://i", "sub": "s", "aud": "https://api", "client_id": "c", "exp": NOW + 60, "iat": NOW, "jti": "j", "scope": "read write"});
        for (name, value) in change {
            let map = claims.as_object_mut().expect("an object");
            if value.is_null() {
                map.remove(*name)
            } else {
                map.insert((*name).to_owned(), value.clone())
            };
        }
        claims
    }

    fn tried(typ: &str, accepted: &[&str], change: &[(&str, Value)]) -> Result<Verified<AccessClaims>, Refusal> {
        let token = key().sign_jwt(typ, &claims(change)).expect("signs");
        let expected = Expected { issuer: "https://i", audience: Some("https://api"), typ: accepted, now: NOW, leeway: 10 };
        believe(&Parsed::parse(&token)?, &key().verifying(), &expected)
    }

    fn at(change: &[(&str, Value)]) -> Result<Verified<AccessClaims>, Refusal> {
        tried("at+jwt", &["at+jwt"], change)
    }

    #[test]
    fn what_we_issue_we_believe() {
        let amr = ["pwd".to_owned()];
        let issued = AccessTokenClaims {
            iss: "https://i",
            sub: "s",
            aud: "https://api",
            client_id: "c",
            iat: NOW,
            exp: NOW + 60,
            jti: "j",
            scope: "read write",
            grant: Some("g"),
            sid: Some("d"),
            seq: 7,
            amr: &amr,
            ..AccessTokenClaims::default()
        };
        let token = key().sign_jwt(TYP, &issued).expect("signs");
        let expected = Expected { issuer: "https://i", audience: Some("https://api"), typ: &[TYP], now: NOW, leeway: 10 };
        let believed = believe(&Parsed::parse(&token).expect("strict"), &key().verifying(), &expected).expect("believed");
        assert!(believed.has_scope("read") && !believed.has_scope("rea"));
        let marks = facts(&believed, Some(key().kid()));
        assert_eq!(
            (marks.token, marks.grant, marks.session, marks.client, marks.subject, marks.seq),
            (Some("j"), Some("g"), Some("d"), Some("c"), Some("s"), 7)
        );
    }

    #[test]
    fn the_type_is_compared_in_any_case_with_or_without_application() {
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            assert!(tried(typ, &["at+jwt"], &[]).is_ok(), "{typ}");
        }
        for typ in ["JWT", "", "at+jwt ", "application/application/at+jwt", "logout+jwt", "application/"] {
            assert_eq!(tried(typ, &["at+jwt"], &[]).err(), Some(Refusal::Type), "{typ}");
        }
    }

    #[test]
    fn an_older_servers_type_must_not_hide_an_id_or_logout_token() {
        assert!(tried("JWT", &["at+jwt", "JWT"], &[]).is_ok());
        for mark in ["nonce", "at_hash", "events"] {
            assert_eq!(tried("JWT", &["JWT"], &[(mark, json!("x"))]).err(), Some(Refusal::Type), "{mark}");
        }
        assert_eq!(tried("JWT", &["JWT"], &[("aud", json!("client"))]).err(), Some(Refusal::Audience));
    }

    #[test]
    fn a_token_dies_at_exp_plus_leeway_and_lives_from_nbf_minus_leeway() {
        assert!(at(&[("exp", json!(NOW - 9))]).is_ok());
        assert_eq!(at(&[("exp", json!(NOW - 10))]).err(), Some(Refusal::Expired));
        assert!(at(&[("exp", json!(f64::from(1_799_999_990_i32) + 0.5))]).is_ok());
        assert!(at(&[("nbf", json!(NOW + 10))]).is_ok());
        assert_eq!(at(&[("nbf", json!(NOW + 11))]).err(), Some(Refusal::NotYetValid));
        assert_eq!(at(&[("iat", json!(NOW + 61))]).err(), Some(Refusal::NotYetValid));
        for exp in [json!(NOW + 11 * 366 * 86400), json!(1e300), json!(u64::MAX)] {
            assert!(at(&[("exp", exp)]).is_err());
        }
    }

    #[test]
    fn claims_of_the_wrong_type_and_missing_ones_are_refused() {
        for (name, value) in [
            ("exp", json!("1800000060")),
            ("exp", Value::Null),
            ("exp", json!(true)),
            ("nbf", json!("0")),
            ("iss", Value::Null),
            ("iss", json!("https://i/")),
            ("aud", Value::Null),
            ("aud", json!([])),
            ("aud", json!(["https://api", 5])),
            ("aud", json!("https://api/")),
            ("sub", Value::Null),
            ("scope", json!(["read"])),
            ("cnf", json!({"jwk": {"kty": "EC"}})),
            ("cnf", json!({})),
        ] {
            assert!(at(&[(name, value.clone())]).is_err(), "{name} {value}");
        }
        assert!(at(&[("aud", json!(["x", "https://api"]))]).is_ok());
    }
}
