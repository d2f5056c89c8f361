//! Software statements: what a trusted issuer says of a client outweighs what the client says (RFC 7591 §2.3).
use serde_json::{Map, Value};
use tokens::{Alg, jwk::VerifyingKey, jws::Parsed};

use super::Refused;
use crate::{Code, Settings};

/// The member that carries one.
pub const MEMBER: &str = "software_statement";
/// Claims about the statement itself.
const OF_THE_STATEMENT: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// Types of tokens that are no statements (RFC 8725 §3.11), lower case, without `application/`.
const OTHER_TYPES: [&str; 6] = ["at+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "oauth-authz-req+jwt", "dpop+jwt"];
/// Claims of ID tokens, logout tokens and security events (§3.12).
const OF_OTHER_TOKENS: [&str; 7] = ["nonce", "at_hash", "c_hash", "events", "auth_time", "sid", "cnf"];

/// What a statement says of where it comes from, before it is believed: whose keys to look for.
#[derive(Debug)]
pub struct Presented<'a> {
    parsed: Parsed<'a>,
    /// The issuer it names.
    pub issuer: String,
}

impl<'a> Presented<'a> {
    /// The statement in a request, if there is one.
    ///
    /// # Errors
    /// `invalid_software_statement` if it is no JWT with an `iss`.
    pub fn of(given: &'a Map<String, Value>) -> Result<Option<Self>, Refused> {
        let Some(value) = given.get(MEMBER).filter(|v| !v.is_null()) else { return Ok(None) };
        let parsed = value.as_str().and_then(|text| Parsed::parse(text).ok()).ok_or_else(|| invalid("is not a signed JWT"))?;
        let issuer = parsed.unverified_issuer().ok_or_else(|| invalid("names no issuer (RFC 7591 §2.3)"))?.to_owned();
        Ok(Some(Self { parsed, issuer }))
    }
    /// The key it names.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.parsed.kid.as_deref()
    }
    /// The algorithm it names.
    #[must_use]
    pub const fn alg(&self) -> Alg {
        self.parsed.alg
    }
    /// Believes it with the issuer's key. What it says is left; what it says about itself is taken out.
    ///
    /// # Errors
    /// `invalid_software_statement`.
    pub fn believe(&self, key: Option<&VerifyingKey>, settings: &Settings, now: i64) -> Result<Map<String, Value>, Refused> {
        let key = key.ok_or_else(|| invalid("is signed with a key that is not known"))?;
        let verified = self.parsed.verify(key).map_err(|_| invalid("has a wrong signature"))?;
        let claims: &Map<String, Value> = &verified;
        let typ = self.parsed.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        if OTHER_TYPES.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
            || OF_OTHER_TOKENS.iter().any(|c| claims.contains_key(*c))
        {
            return Err(invalid("is a token for something else"));
        }
        let time = |name: &str| claims.get(name).map(|v| v.as_f64().ok_or_else(|| invalid("has a time that is no number"))).transpose();
        let leeway = Settings::LEEWAY as f64;
        if time("exp")?.is_some_and(|exp| exp + leeway <= now as f64) {
            return Err(invalid("has expired"));
        }
        if [time("nbf")?, time("iat")?].iter().flatten().any(|from| from - leeway > now as f64) {
            return Err(invalid("is not valid yet"));
        }
        let ours = |aud: &Value| aud.as_str() == Some(&settings.issuer) || aud.as_str() == Some(&settings.url("/register"));
        let meant = match claims.get("aud") {
            None => true,
            Some(Value::Array(many)) => many.iter().any(ours),
            Some(one) => ours(one),
        };
        if !meant {
            return Err(invalid("is meant for another server"));
        }
        Ok(claims.iter().filter(|(name, _)| !OF_THE_STATEMENT.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect())
    }
}

/// Lays what a statement says over what the client says: the statement wins (RFC 7591 §2.3).
pub fn over(given: &mut Map<String, Value>, stated: Map<String, Value>) {
    given.extend(stated);
}

/// The refusal of a statement whose issuer may not make any here.
#[must_use]
pub fn unapproved() -> Refused {
    Refused::new(Code::UnapprovedSoftwareStatement, "software_statement: its issuer is not trusted for software statements here")
}

fn invalid(why: &str) -> Refused {
    Refused::new(Code::InvalidSoftwareStatement, &format!("{MEMBER}: {why}"))
}
