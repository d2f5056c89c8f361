//! `id_token_hint`: an ID token of ours says who is meant (OpenID Connect Core §3.1.2.1, RP-Initiated Logout §2).
use serde_json::{Map, Value};
use tokens::{jwk::KeySet, jws::Parsed};

use super::{Code, Desk, Params, Refusal, Request};

/// What an ID token of ours says. It may have expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Who.
    pub subject: String,
    /// In which session.
    pub session: Option<String>,
    /// Issued to whom.
    pub audience: Vec<String>,
}

/// Believes an ID token of ours: our signature, our issuer. `None` for anything else.
#[must_use]
pub fn believe(text: &str, issuer: &str, keys: &KeySet) -> Option<Hint> {
    let parsed = Parsed::parse(text).ok()?;
    let key = keys.find(parsed.kid.as_deref(), parsed.alg)?;
    let verified = parsed.verify(key).ok()?;
    let claims: &Map<String, Value> = &verified;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    // Our access tokens (RFC 9068) carry the same issuer and keys; their type tells them apart.
    if text("iss").as_deref() != Some(issuer) || (parsed.typ.is_some() && !parsed.is_typ("JWT")) {
        return None;
    }
    // What else we sign under that type (userinfo answers) lacks the times that every ID token has (Core §2).
    if !["exp", "iat"].iter().all(|name| claims.get(*name).is_some_and(Value::is_i64)) {
        return None;
    }
    let audience = match claims.get("aud")? {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => return None,
    };
    Some(Hint { subject: text("sub")?, session: text("sid"), audience })
}

/// Step: a hint must be ours; its subject is who must be the one.
pub(super) fn subject(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let Some(text) = params.one("id_token_hint")? else { return Ok(()) };
    let hint = believe(text, &desk.settings.issuer, desk.keys)
        .filter(|h| h.audience.contains(&desk.client.client_id))
        .ok_or(Refusal::new(Code::InvalidRequest, "id_token_hint is not an ID token of this issuer for this client"))?;
    if request.subject.as_ref().is_some_and(|s| *s != hint.subject) {
        return Err(Refusal::new(Code::InvalidRequest, "id_token_hint and claims name different people"));
    }
    request.subject = Some(hint.subject);
    Ok(())
}
