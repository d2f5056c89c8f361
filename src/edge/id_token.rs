//! ID tokens and logout tokens as a relying party believes them (OpenID Connect Core §3.1.3.7, Back-Channel Logout 1.0 §2.6).
use std::sync::Arc;

use serde_json::{Map, Value};
use tokens::{Alg, hash, jwk::VerifyingKey, jws::Parsed};

use crate::admission::LEEWAY;

/// Seconds after its issue in which an ID token is redeemed.
const FRESH: i64 = 600;
/// Seconds a logout token is good for, whatever it says.
const LOGOUT_TTL: i64 = 300;
/// The event of a logout token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest subject, session or token id, octets.
const MAX_ID: usize = 255;

/// What an ID or logout token has to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub algorithms: &'a [Alg],
    /// Seconds since the epoch.
    pub now: i64,
}

/// What came with an ID token.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// What was sent, at a login; a refreshed token may leave it out.
    pub nonce: Option<&'a str>,
    pub access_token: &'a str,
    /// How long ago the login may be, if that was asked.
    pub max_age: Option<i64>,
}

/// Who logged in.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    pub sub: String,
    pub sid: Option<String>,
    /// Every claim as it came.
    pub claims: Arc<Map<String, Value>>,
}

/// Believes an ID token.
///
/// # Errors
/// The first thing that is wrong, for the log.
pub fn believe(parsed: &Parsed<'_>, key: &VerifyingKey, expected: &Expected<'_>, beside: &Beside<'_>) -> Result<Person, &'static str> {
    if parsed.typ.is_some() && !parsed.is_typ("JWT") {
        return Err("id_token_type");
    }
    let claims = signed(parsed, key, expected)?;
    if claims.contains_key("events") {
        return Err("id_token_type");
    }
    let exp = time(&claims, "exp").ok_or("id_token_exp")?;
    if expected.now >= exp.saturating_add(LEEWAY) {
        return Err("id_token_expired");
    }
    let iat = time(&claims, "iat").ok_or("id_token_iat")?;
    if iat > expected.now + LEEWAY || iat < expected.now - FRESH {
        return Err("id_token_iat");
    }
    if time(&claims, "nbf").is_some_and(|nbf| nbf > expected.now + LEEWAY) {
        return Err("id_token_nbf");
    }
    match (claims.get("nonce").and_then(Value::as_str), beside.nonce) {
        (Some(told), Some(sent)) if hash::eq(told.as_bytes(), sent.as_bytes()) => {}
        (None, None) => {}
        // A refreshed token may repeat the nonce of the login; it was compared then.
        (Some(_), None) => {}
        _ => return Err("id_token_nonce"),
    }
    match claims.get("at_hash") {
        None => {}
        Some(Value::String(told)) if *told == hash::half(parsed.alg, beside.access_token) => {}
        Some(_) => return Err("id_token_at_hash"),
    }
    if let Some(max_age) = beside.max_age {
        let at = time(&claims, "auth_time").ok_or("id_token_auth_time")?;
        if expected.now - at > max_age.saturating_add(LEEWAY) || at > expected.now + LEEWAY {
            return Err("id_token_auth_time");
        }
    }
    let sub = id(&claims, "sub")?.ok_or("id_token_sub")?;
    Ok(Person { sub, sid: id(&claims, "sid")?, claims })
}

/// Whose sessions a logout token ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logout {
    pub sub: Option<String>,
    pub sid: Option<String>,
    /// One-time.
    pub jti: String,
    /// Until when it could be accepted, seconds since the epoch.
    pub until: i64,
}

/// Believes a logout token.
///
/// # Errors
/// The first thing that is wrong, for the log.
pub fn logout(parsed: &Parsed<'_>, key: &VerifyingKey, expected: &Expected<'_>) -> Result<Logout, &'static str> {
    if parsed.typ.is_some() && !parsed.is_typ("logout+jwt") && !parsed.is_typ("JWT") {
        return Err("logout_token_type");
    }
    let claims = signed(parsed, key, expected)?;
    if claims.contains_key("nonce") {
        return Err("logout_token_nonce");
    }
    let told = claims.get("events").and_then(|events| events.get(EVENT));
    if !told.is_some_and(Value::is_object) {
        return Err("logout_token_events");
    }
    let iat = time(&claims, "iat").ok_or("logout_token_iat")?;
    let until = time(&claims, "exp").unwrap_or(i64::MAX).min(iat.saturating_add(LOGOUT_TTL)).saturating_add(LEEWAY);
    if iat > expected.now + LEEWAY || expected.now >= until {
        return Err("logout_token_expired");
    }
    let jti = id(&claims, "jti")?.ok_or("logout_token_jti")?;
    let (sub, sid) = (id(&claims, "sub")?, id(&claims, "sid")?);
    if sub.is_none() && sid.is_none() {
        return Err("logout_token_about_nobody");
    }
    Ok(Logout { sub, sid, jti, until })
}

/// What both kinds have to be: of that issuer, for this client alone, signed by its key with an algorithm it uses.
fn signed(parsed: &Parsed<'_>, key: &VerifyingKey, expected: &Expected<'_>) -> Result<Arc<Map<String, Value>>, &'static str> {
    if !expected.algorithms.contains(&parsed.alg) {
        return Err("token_algorithm");
    }
    let claims = parsed.verify(key).map_err(|_| "token_signature")?.into_inner();
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err("token_issuer");
    }
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => one == expected.client_id,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(expected.client_id)) && many.iter().all(Value::is_string),
        _ => false,
    };
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|many| many.len() > 1);
    match claims.get("azp") {
        Some(azp) if azp.as_str() != Some(expected.client_id) => return Err("token_authorized_party"),
        None if several => return Err("token_authorized_party"),
        _ => {}
    }
    if meant { Ok(claims) } else { Err("token_audience") }
}

fn time(claims: &Map<String, Value>, name: &str) -> Option<i64> {
    let value = claims.get(name)?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which the checks refuse")]
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64))
}

fn id(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_ID => Ok(Some(text.clone())),
        Some(_) => Err("token_id"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::sign::SigningKey;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const ALGS: [Alg; 1] = [Alg::ES256];

    fn key() -> &'static SigningKey {
        static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
        KEY.get_or_init(|| SigningKey::generate(Alg::ES256).unwrap().0)
    }

    fn expected() -> Expected<'static> {
        Expected { issuer: "https://i", client_id: "gw", algorithms: &ALGS, now: NOW }
    }

    fn changed(mut base: Value, change: &[(&str, Value)]) -> Value {
        for (name, value) in change {
            if value.is_null() {
                base.as_object_mut().unwrap().remove(*name);
            } else {
                base[*name] = value.clone();
            }
        }
        base
    }

    fn tried(typ: &str, change: &[(&str, Value)]) -> Result<Person, &'static str> {
        let claims = json!({"iss": "https://i", "aud": "gw", "sub": "s", "sid": "d", "exp": NOW + 60, "iat": NOW, "nonce": "n",
            "at_hash": hash::half(Alg::ES256, "at"), "auth_time": NOW - 5});
        let token = key().sign_jwt(typ, &changed(claims, change)).unwrap();
        let beside = Beside { nonce: Some("n"), access_token: "at", max_age: Some(60) };
        believe(&Parsed::parse(&token).unwrap(), &key().verifying(), &expected(), &beside)
    }

    #[test]
    fn an_id_token_is_believed_only_if_everything_is_right() {
        let person = tried("JWT", &[]).unwrap();
        assert_eq!((person.sub.as_str(), person.sid.as_deref()), ("s", Some("d")));
        assert!(tried("JWT", &[("aud", json!(["gw", "other"])), ("azp", json!("gw"))]).is_ok());
        assert!(tried("JWT", &[("at_hash", Value::Null)]).is_ok());
        for (typ, name, value, why) in [
            ("at+jwt", "x", json!(1), "id_token_type"),
            ("logout+jwt", "x", json!(1), "id_token_type"),
            ("JWT", "events", json!({}), "id_token_type"),
            ("JWT", "iss", json!("https://i/"), "token_issuer"),
            ("JWT", "aud", json!("other"), "token_audience"),
            ("JWT", "aud", json!(["other"]), "token_audience"),
            ("JWT", "aud", json!(["gw", "other"]), "token_authorized_party"),
            ("JWT", "azp", json!("other"), "token_authorized_party"),
            ("JWT", "nonce", json!("m"), "id_token_nonce"),
            ("JWT", "nonce", Value::Null, "id_token_nonce"),
            ("JWT", "exp", json!(NOW - 11), "id_token_expired"),
            ("JWT", "exp", Value::Null, "id_token_exp"),
            ("JWT", "iat", json!(NOW + 60), "id_token_iat"),
            ("JWT", "iat", json!(NOW - 3600), "id_token_iat"),
            ("JWT", "at_hash", json!("x"), "id_token_at_hash"),
            ("JWT", "auth_time", json!(NOW - 600), "id_token_auth_time"),
            ("JWT", "auth_time", Value::Null, "id_token_auth_time"),
            ("JWT", "sub", Value::Null, "id_token_sub"),
            ("JWT", "sub", json!("s".repeat(300)), "token_id"),
        ] {
            assert_eq!(tried(typ, &[(name, value.clone())]).err(), Some(why), "{name} {value}");
        }
    }

    #[test]
    fn another_key_or_algorithm_is_nobody() {
        let token = key().sign_jwt("JWT", &json!({"iss": "https://i", "aud": "gw"})).unwrap();
        let parsed = Parsed::parse(&token).unwrap();
        let other = SigningKey::generate(Alg::ES256).unwrap().0;
        let beside = Beside { nonce: None, access_token: "at", max_age: None };
        assert_eq!(believe(&parsed, &other.verifying(), &expected(), &beside).err(), Some("token_signature"));
        let strict = Expected { algorithms: &[Alg::RS256], ..expected() };
        assert_eq!(believe(&parsed, &key().verifying(), &strict, &beside).err(), Some("token_algorithm"));
    }

    fn ended(typ: &str, change: &[(&str, Value)]) -> Result<Logout, &'static str> {
        let claims = json!({"iss": "https://i", "aud": "gw", "sub": "s", "sid": "d", "iat": NOW, "exp": NOW + 120, "jti": "j", "events": {EVENT: {}}});
        let token = key().sign_jwt(typ, &changed(claims, change)).unwrap();
        logout(&Parsed::parse(&token).unwrap(), &key().verifying(), &expected())
    }

    #[test]
    fn a_logout_token_is_believed_only_if_everything_is_right() {
        assert_eq!(ended("logout+jwt", &[]).unwrap().sid.as_deref(), Some("d"));
        assert!(ended("JWT", &[("sid", Value::Null), ("exp", Value::Null)]).is_ok());
        for (typ, name, value, why) in [
            ("at+jwt", "x", json!(1), "logout_token_type"),
            ("JWT", "nonce", json!("n"), "logout_token_nonce"),
            ("JWT", "events", Value::Null, "logout_token_events"),
            ("JWT", "events", json!({EVENT: "yes"}), "logout_token_events"),
            ("JWT", "iat", json!(NOW - 400), "logout_token_expired"),
            ("JWT", "iat", json!(NOW + 60), "logout_token_expired"),
            ("JWT", "exp", json!(NOW - 60), "logout_token_expired"),
            ("JWT", "jti", Value::Null, "logout_token_jti"),
            ("JWT", "aud", json!("other"), "token_audience"),
            ("JWT", "iss", json!("https://j"), "token_issuer"),
        ] {
            assert_eq!(ended(typ, &[(name, value.clone())]).err(), Some(why), "{name} {value}");
        }
        assert_eq!(ended("JWT", &[("sub", Value::Null), ("sid", Value::Null)]).err(), Some("logout_token_about_nobody"));
    }
}
