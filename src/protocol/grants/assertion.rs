//! JWTs of other issuers that may become tokens here (RFC 7523 §3, RFC 8693 §3): believed, and whom they mean.
use serde_json::{Map, Value};
use tokens::{Alg, hash, jwk::KeySet, jws::Parsed};

use super::token_exchange::{DEPTH, depth};
use crate::{Settings, client_auth};

/// Seconds an assertion may be valid for at most.
const LIFE: i64 = 3600;
/// Octets of an `act` or `may_act`: it becomes part of our own tokens.
const LARGEST: usize = 1024;
/// Longest name of a subject, octets.
const LONGEST: usize = 255;

/// What this deployment believes of an issuer.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Its `iss`, exactly.
    pub issuer: &'a str,
    /// How it signs.
    pub algs: &'a [Alg],
    /// The claim that names the subject.
    pub claim: &'a str,
    /// Whether that name is a username here; otherwise it stays the issuer's.
    pub person: bool,
}

/// Whom an assertion means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The person of that username.
    Person(String),
    /// Somebody this server has no account of: the issuer's name for them, behind the issuer's.
    Other(String),
}

/// A believed assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub issuer: String,
    pub subject: Named,
    /// Seconds since the epoch.
    pub expires_at: i64,
    pub jti: Option<String>,
    /// Who acts already (RFC 8693 §4.1).
    pub act: Option<Value>,
    /// Who may act (RFC 8693 §4.4).
    pub may_act: Option<Value>,
}

impl Assertion {
    /// The id under which its one use is remembered.
    #[must_use]
    pub fn once(&self) -> Option<Vec<u8>> {
        let jti = self.jti.as_deref()?;
        Some(hash::sha256(format!("assertion\0{}\0{jti}", self.issuer).as_bytes()).to_vec())
    }
}

/// Believes an assertion for this server.
///
/// # Errors
/// In words, for the log.
pub fn believe(parsed: &Parsed<'_>, keys: &KeySet, trust: &Trust<'_>, settings: &Settings, now: i64) -> Result<Assertion, &'static str> {
    if !trust.algs.contains(&parsed.alg) || !client_auth::assertion::admitted(parsed.alg, settings) {
        return Err("not an algorithm of the issuer's");
    }
    if parsed.typ.is_some() && !parsed.is_typ("JWT") {
        return Err("not of the type of an assertion");
    }
    let key = keys.find(parsed.kid.as_deref(), parsed.alg).ok_or("no such key")?;
    let verified = parsed.verify(key).map_err(|_| "the signature is wrong")?;
    let claims: &Map<String, Value> = &verified;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(trust.issuer) {
        return Err("another issuer's");
    }
    if claims.contains_key("events") {
        return Err("a security event is no assertion");
    }
    let endpoint = settings.url("/token");
    let here = |aud: &str| aud == settings.issuer || aud == endpoint;
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => here(one),
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str().is_some_and(here)),
        _ => false,
    };
    if !meant {
        return Err("aud is not this server");
    }
    let time = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "saturates, which the range checks refuse")]
        Some(value) => value.as_i64().or_else(|| value.as_f64().map(|s| s as i64)).map(Some).ok_or(name),
    };
    let (latest, exp) = (now + Settings::LEEWAY, time("exp")?.ok_or("exp is missing")?);
    if exp <= now - Settings::LEEWAY {
        return Err("expired");
    }
    if exp > latest + LIFE {
        return Err("valid for too long");
    }
    if time("nbf")?.is_some_and(|nbf| nbf > latest) || time("iat")?.is_some_and(|iat| iat > latest) {
        return Err("not yet valid");
    }
    if time("iat")?.unwrap_or(exp - LIFE) <= settings.not_before {
        return Err("older than the database, which was restored since");
    }
    if text("sub").is_none_or(str::is_empty) {
        return Err("sub is missing");
    }
    let name = text(trust.claim).filter(|n| (1..=LONGEST).contains(&n.len()) && !n.chars().any(char::is_control));
    let name = name.ok_or("the claim that names the subject is missing or no name")?;
    if trust.claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
        return Err("the address is not verified");
    }
    let subject = if trust.person { Named::Person(name.to_owned()) } else { Named::Other(format!("{}|{name}", trust.issuer)) };
    let jti = match claims.get("jti") {
        None => None,
        Some(Value::String(jti)) if (1..=256).contains(&jti.len()) => Some(jti.clone()),
        Some(_) => return Err("jti is not text"),
    };
    let object = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) if depth(value) > DEPTH || value.to_string().len() > LARGEST => Err("act or may_act is too large"),
        Some(value @ Value::Object(_)) => Ok(Some(value.clone())),
        Some(_) => Err(name),
    };
    Ok(Assertion { issuer: trust.issuer.to_owned(), subject, expires_at: exp, jti, act: object("act")?, may_act: object("may_act")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::sign::SigningKey;

    use super::*;
    use crate::Profile;

    const NOW: i64 = 1_800_000_000;

    fn tried(trust: &Trust<'_>, typ: &str, change: &[(&str, Value)]) -> Result<Assertion, &'static str> {
        static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
        let key = KEY.get_or_init(|| SigningKey::generate(Alg::ES256).unwrap().0);
        let mut claims = json!({"iss": "https://other", "sub": "alice", "aud": "https://id", "exp": NOW + 60, "jti": "j"});
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        let token = key.sign_jwt(typ, &claims).unwrap();
        let keys = KeySet::new(vec![key.verifying()]);
        believe(&Parsed::parse(&token).unwrap(), &keys, trust, &Settings::for_issuer("https://id"), NOW)
    }

    #[test]
    fn none_from_before_a_restore_is_believed() {
        let key = SigningKey::generate(Alg::ES256).unwrap().0;
        let trust = Trust { issuer: "https://other", algs: &[Alg::ES256], claim: "sub", person: true };
        let settings = Settings { not_before: NOW - 5, ..Settings::for_issuer("https://id") };
        let tried = |times: Value| {
            let mut claims = json!({"iss": "https://other", "sub": "alice", "aud": "https://id", "jti": "j"});
            claims.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
            let token = key.sign_jwt("JWT", &claims).unwrap();
            believe(&Parsed::parse(&token).unwrap(), &KeySet::new(vec![key.verifying()]), &trust, &settings, NOW).is_ok()
        };
        assert!(tried(json!({"exp": NOW + 60, "iat": NOW - 4})));
        assert!(!tried(json!({"exp": NOW + 60, "iat": NOW - 5})));
        assert!(!tried(json!({"exp": NOW + 60})), "made at an unknown time, perhaps before");
    }

    #[test]
    fn an_assertion_is_believed_for_this_server_and_an_hour() {
        let trust = Trust { issuer: "https://other", algs: &[Alg::ES256], claim: "sub", person: true };
        let good = tried(&trust, "JWT", &[]).unwrap();
        assert_eq!(good.subject, Named::Person("alice".into()));
        assert!(good.once().is_some());
        for aud in [json!("https://id/token"), json!(["x", "https://id"])] {
            assert!(tried(&trust, "JWT", &[("aud", aud)]).is_ok());
        }
        for (name, value) in [
            ("iss", json!("https://else")),
            ("aud", json!("https://id/")),
            ("aud", json!([])),
            ("aud", Value::Null),
            ("exp", json!(NOW - 10)),
            ("exp", json!(NOW + 3700)),
            ("exp", json!("soon")),
            ("exp", Value::Null),
            ("nbf", json!(NOW + 61)),
            ("iat", json!(NOW + 61)),
            ("sub", json!("")),
            ("sub", json!(5)),
            ("sub", json!("a\u{0}b")),
            ("jti", json!(5)),
            ("events", json!({})),
            ("act", json!("x")),
            ("act", json!({"sub": "x".repeat(1024)})),
            ("act", json!({"act": {"act": {"act": {"act": {"act": {}}}}}})),
            ("may_act", json!({"sub": "x".repeat(1024)})),
        ] {
            assert!(tried(&trust, "JWT", &[(name, value.clone())]).is_err(), "{name} {value}");
        }
        for typ in ["at+jwt", "logout+jwt", "secevent+jwt"] {
            assert!(tried(&trust, typ, &[]).is_err(), "{typ}");
        }
        assert!(tried(&Trust { algs: &[Alg::RS256], ..trust }, "JWT", &[]).is_err());
    }

    #[test]
    fn under_fapi_an_issuer_signs_as_clients_do() {
        for (alg, profile, good) in
            [(Alg::ES384, Profile::Standard, true), (Alg::ES384, Profile::Fapi2, false), (Alg::ES256, Profile::Fapi2, true)]
        {
            let key = SigningKey::generate(alg).unwrap().0;
            let claims = json!({"iss": "https://other", "sub": "alice", "aud": "https://id", "exp": NOW + 60, "jti": "j"});
            let (token, keys) = (key.sign_jwt("JWT", &claims).unwrap(), KeySet::new(vec![key.verifying()]));
            let trust = Trust { issuer: "https://other", algs: &[Alg::ES384, Alg::ES256], claim: "sub", person: true };
            let settings = Settings { profile, ..Settings::for_issuer("https://id") };
            assert_eq!(believe(&Parsed::parse(&token).unwrap(), &keys, &trust, &settings, NOW).is_ok(), good, "{alg:?} {profile:?}");
        }
    }

    #[test]
    fn an_address_names_somebody_only_when_it_is_verified() {
        let trust = Trust { issuer: "https://other", algs: &[Alg::ES256], claim: "email", person: true };
        let email = ("email", json!("a@example.com"));
        assert!(tried(&trust, "JWT", std::slice::from_ref(&email)).is_err());
        assert!(tried(&trust, "JWT", &[email.clone(), ("email_verified", json!("true"))]).is_err());
        let good = tried(&trust, "JWT", &[email, ("email_verified", json!(true))]).unwrap();
        assert_eq!(good.subject, Named::Person("a@example.com".into()));
    }

    #[test]
    fn somebody_elses_subject_keeps_its_issuers_name() {
        let trust = Trust { issuer: "https://other", algs: &[Alg::ES256], claim: "sub", person: false };
        assert_eq!(tried(&trust, "JWT", &[]).unwrap().subject, Named::Other("https://other|alice".into()));
    }
}
