//! Request objects: the parameters of a request, signed by its client (RFC 9101, OpenID Connect Core §6, FAPI 2.0 Message Signing §5.3).
//!
//! A pure function of the text, the client's keys and the time: whoever fetches keys or objects does it before.
use std::sync::Arc;

use serde_json::{Map, Value};
use tokens::{Alg, jwk::KeySet, jws::Parsed};

use super::{Code, Desk, Params, Refusal, Request};
use crate::{Client, Profile, Settings, scope};

/// Longest life of an object, and its greatest age, seconds (FAPI 2.0 Message Signing §5.3.1).
const LONGEST: i64 = 3600;
/// What is about the object and not of the request.
const ENVELOPE: [&str; 7] = ["iss", "aud", "exp", "nbf", "iat", "jti", "sub"];
/// Every algorithm an object may be signed with; RS256 only where FAPI does not rule.
pub const SIGNED_WITH: [Alg; 5] = [Alg::ES256, Alg::PS256, Alg::EdDSA, Alg::ES384, Alg::RS256];

const fn bad(hears: &'static str) -> Refusal {
    Refusal::new(Code::InvalidRequestObject, hears)
}

/// Where an object came in: that decides what beside it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// At `/authorize`: OpenID Connect lets what is missing inside stand outside (Core §6.1), RFC 9101 §5 does not.
    Authorize,
    /// At `/par`: only what is inside counts (RFC 9126 §3).
    Pushed,
}

/// Whether FAPI's rules are this client's.
fn strict(client: &Client, settings: &Settings) -> bool {
    settings.profile == Profile::Fapi2 || client.require_signed_request_object
}

/// The key id an object names, for whoever has to find its key; nothing in it is believed yet.
///
/// # Errors
/// It is no signed object: `alg` `none` and symmetric algorithms have no name here.
pub fn key_id(text: &str) -> Result<Option<String>, Refusal> {
    Ok(parse(text)?.kid)
}

/// Reads an object as text.
fn parse(text: &str) -> Result<Parsed<'_>, Refusal> {
    let parsed = Parsed::parse(text).map_err(|_| bad("the request object is not a signed JWT"))?;
    let typed = parsed.typ.is_none() || parsed.is_typ("oauth-authz-req+jwt") || parsed.is_typ("JWT");
    if typed { Ok(parsed) } else { Err(bad("the request object has another type")) }
}

/// Believes an object and takes its members for parameters; `outside` is what came beside it.
///
/// # Errors
/// `invalid_request_object`.
pub fn unpack(
    text: &str,
    outside: &Params,
    came: Came,
    (client, settings): (&Client, &Settings),
    keys: &KeySet,
    now: i64,
) -> Result<Params, Refusal> {
    let strict = strict(client, settings);
    let parsed = parse(text)?;
    let allowed = match client.request_object_signing_alg.as_deref() {
        Some(name) => Alg::read(name) == Some(parsed.alg),
        None => true,
    };
    if !allowed || !SIGNED_WITH.contains(&parsed.alg) || (strict && parsed.alg == Alg::RS256) {
        return Err(bad("the request object is signed with an algorithm that is not allowed"));
    }
    let key = keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(bad("the request object is signed with an unknown key"))?;
    let verified = parsed.verify(key).map_err(|_| bad("the signature of the request object is wrong"))?;
    let claims: &Arc<Map<String, Value>> = &verified;
    envelope(claims, client, settings, strict || settings.profile != Profile::OidcDynamic, now)?;
    if strict {
        times_of_fapi(claims, now)?;
    }
    let inside = members(claims)?;
    let merged = came == Came::Authorize && !strict && outside.one("scope")?.is_some_and(|s| scope::list_has(s, "openid"));
    if merged && outside.one("response_type")?.is_some_and(|o| inside.one("response_type").is_ok_and(|i| i.is_some_and(|i| i != o))) {
        return Err(bad("response_type is another one inside the request object"));
    }
    Ok(if merged { inside.over(outside) } else { inside }.signed_by(&client.client_id))
}

/// Who made it, for whom, and until when.
fn envelope(claims: &Map<String, Value>, client: &Client, settings: &Settings, whole: bool, now: i64) -> Result<(), Refusal> {
    for name in ["client_id", "iss"] {
        match claims.get(name) {
            Some(Value::String(id)) if *id == client.client_id => {}
            None if !whole => {}
            _ => return Err(bad("iss and client_id of the request object must be the client's")),
        }
    }
    let issuer = settings.issuer.as_str();
    match claims.get("aud") {
        Some(Value::String(one)) if one == issuer => {}
        Some(Value::Array(many)) if many.iter().any(|one| one == issuer) => {}
        None if !whole => {}
        _ => return Err(bad("aud of the request object must be this issuer")),
    }
    match time(claims, "exp")? {
        Some(exp) if exp.saturating_add(Settings::LEEWAY) > now => {}
        Some(_) => return Err(bad("the request object has expired")),
        None if !whole => {}
        None => return Err(bad("the request object has no exp")),
    }
    let early = |at: Option<i64>| at.is_some_and(|at| at > now.saturating_add(Settings::LEEWAY));
    if early(time(claims, "nbf")?) || early(time(claims, "iat")?) {
        return Err(bad("the request object is not valid yet"));
    }
    Ok(())
}

/// FAPI 2.0 Message Signing §5.3.1: young, and not for long.
fn times_of_fapi(claims: &Map<String, Value>, now: i64) -> Result<(), Refusal> {
    let nbf = time(claims, "nbf")?.ok_or(bad("the request object has no nbf"))?;
    let exp = time(claims, "exp")?.ok_or(bad("the request object has no exp"))?;
    if exp.saturating_sub(nbf) > LONGEST {
        return Err(bad("the request object is valid for too long"));
    }
    if now.saturating_sub(nbf) > LONGEST + Settings::LEEWAY {
        return Err(bad("the request object is too old"));
    }
    Ok(())
}

/// A NumericDate, whole seconds.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match (value.as_i64(), value.as_f64()) {
            (Some(whole), _) => Ok(Some(whole)),
            #[expect(clippy::cast_possible_truncation, reason = "within the bounds that are looked at")]
            (None, Some(part)) if part.abs() < 1e15 => Ok(Some(part.floor() as i64)),
            _ => Err(bad("a time in the request object is no number")),
        },
    }
}

/// Whether a member that is not text may be what its parameter is said to be (RFC 9101 §4, OpenID Connect Core §6.1, RFC 9396 §2). What
/// is no parameter here is ignored, whatever it is.
fn typed(name: &str, value: &Value) -> bool {
    const TEXTS: [&str; 18] = [
        "acr_values",
        "claims_locales",
        "code_challenge",
        "code_challenge_method",
        "display",
        "dpop_jkt",
        "id_token_hint",
        "login_hint",
        "nonce",
        "prompt",
        "redirect_uri",
        "resource",
        "response_mode",
        "response_type",
        "scope",
        "state",
        "ui_locales",
        "client_id",
    ];
    match name {
        "max_age" => value.is_number(),
        "claims" => value.is_object(),
        "authorization_details" => value.is_array(),
        _ => !TEXTS.contains(&name),
    }
}

/// The members as parameters: text as it is, numbers as text, objects and arrays as JSON text.
fn members(claims: &Map<String, Value>) -> Result<Params, Refusal> {
    if claims.contains_key("request") || claims.contains_key("request_uri") {
        return Err(bad("a request object cannot contain another"));
    }
    let mut pairs = Vec::with_capacity(claims.len());
    for (name, value) in claims.iter().filter(|(name, _)| !ENVELOPE.contains(&name.as_str())) {
        match value {
            Value::Null => {}
            Value::String(text) => pairs.push((name.clone(), text.clone())),
            Value::Array(many) if name == "resource" => {
                let texts = many.iter().map(|one| one.as_str().ok_or(bad("resource of the request object is not text")));
                for text in texts {
                    pairs.push((name.clone(), text?.to_owned()));
                }
            }
            other if typed(name, other) => pairs.push((name.clone(), other.to_string())),
            _ => return Err(bad("a member of the request object is of another type than its parameter")),
        }
    }
    Params::of(pairs).ok_or(bad("the request object has too many members"))
}

/// Step: what was signed has been read before; what cannot be served is refused rather than ignored, and so is what had to be signed.
pub(super) fn read_before(params: &Params, desk: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    const REFUSED: [(&str, Refusal); 3] = [
        ("request", Refusal::new(Code::RequestNotSupported, "request objects are not supported here")),
        ("request_uri", Refusal::new(Code::RequestUriNotSupported, "request objects by reference are not supported")),
        ("registration", Refusal::new(Code::RegistrationNotSupported, "the registration parameter is not supported")),
    ];
    if let Some((_, refusal)) = REFUSED.iter().find(|(name, _)| params.all(name).any(|v| !v.is_empty())) {
        return Err(*refusal);
    }
    if desk.client.require_signed_request_object && !params.is_signed() {
        return Err(Refusal::new(Code::InvalidRequest, "the request has to come in a signed request object"));
    }
    Ok(())
}

/// Metadata (RFC 9101 §10.5, OpenID Connect Discovery §3).
pub(crate) fn metadata(settings: &Settings, members: &mut Map<String, Value>) {
    let algs: Vec<&str> = SIGNED_WITH.iter().map(|a| a.as_str()).filter(|a| settings.profile != Profile::Fapi2 || *a != "RS256").collect();
    members.insert("request_object_signing_alg_values_supported".into(), Value::from(algs));
    if by_reference(settings) {
        members.insert("require_request_uri_registration".into(), Value::from(true));
    }
}

/// Whether objects may be fetched from a client's address (OpenID Connect Core §6.2): only for the sake of old certification profiles.
#[must_use]
pub fn by_reference(settings: &Settings) -> bool {
    settings.profile == Profile::OidcDynamic
}

/// Whether a reference may be fetched: https, and registered by its client, with the same fragment or none (Registration §2).
#[must_use]
pub fn may_fetch(uri: &str, client: &Client) -> bool {
    let bare = |u: &str| u.split('#').next().unwrap_or_default().to_owned();
    uri.starts_with("https://") && uri.len() <= 512 && client.request_uris.iter().any(|known| known == uri || *known == bare(uri))
}

#[cfg(test)]
#[path = "request_object_tests.rs"]
mod tests;
