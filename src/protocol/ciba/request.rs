//! A backchannel authentication request: its parameters, in the form or in a signed request object (CIBA Core §7.1, FAPI-CIBA §5.2.2).
use serde_json::{Map, Value};
use tokens::{Alg, hash, jwk::KeySet, jws::Parsed};

use crate::{Client, Code, Form, OAuthError, Profile, Settings, visible};

/// Longest `binding_message`, characters.
const LONGEST_MESSAGE: usize = 64;
/// Longest `client_notification_token`, characters (CIBA Core §7.1).
const LONGEST_TOKEN: usize = 1024;
/// Shortest: 128 bits in base64url.
const SHORTEST_TOKEN: usize = 22;
/// Seconds between `nbf` and `exp` of a request object at most (FAPI-CIBA §5.2.2).
const LIFE: i64 = 3600;
/// Longest a request may wait, seconds.
const LONGEST_WAIT: i64 = 3600;
/// Authentication classes looked at.
const MOST_CLASSES: usize = 10;
/// Longest name of one, octets.
const LONGEST_CLASS: usize = 256;
/// Longest hint, octets.
const LONGEST_HINT: usize = 4096;

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A username.
    Login(String),
    /// An ID token of ours.
    IdToken(String),
}

/// A request, its parameters checked one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub hint: Hint,
    pub scope: String,
    pub resource: Vec<String>,
    pub acr: Vec<String>,
    pub binding_message: Option<String>,
    pub notification_token: Option<String>,
    /// Seconds.
    pub requested_expiry: Option<i64>,
}

/// The one-time id of a request object, and until when it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    pub id: Vec<u8>,
    pub expires_at: i64,
}

/// The parameters a request may carry.
const PARAMETERS: [&str; 12] = [
    "authorization_details",
    "scope",
    "client_notification_token",
    "acr_values",
    "login_hint_token",
    "id_token_hint",
    "login_hint",
    "binding_message",
    "user_code",
    "requested_expiry",
    "request_context",
    "resource",
];

/// How a client sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent<'a> {
    /// In the form.
    Plain,
    /// In this request object.
    Signed(&'a str, Alg),
}

/// Tells the two apart: a client that registered an algorithm signs, and no other does (CIBA Core §7.1.1); FAPI wants every request signed
/// (FAPI-CIBA §5.2.2).
///
/// # Errors
/// `invalid_request`.
pub fn sent<'a>(client: &Client, form: &'a Form<'_>, profile: Profile) -> Result<Sent<'a>, OAuthError> {
    let alg = client.backchannel_authentication_request_signing_alg.as_deref().and_then(Alg::read);
    match (form.get("request"), alg) {
        (None, None) if profile != Profile::Fapi2 => Ok(Sent::Plain),
        (None, _) => Err(OAuthError::request("the request has to be signed")),
        (Some(_), None) => Err(OAuthError::request("the client is not registered to sign its requests")),
        (Some(_), Some(_)) if PARAMETERS.iter().any(|name| form.has(name)) => {
            Err(OAuthError::request("parameters belong inside the signed request"))
        }
        (Some(text), Some(alg)) => Ok(Sent::Signed(text, alg)),
    }
}

/// Reads the parameters of a form.
///
/// # Errors
/// `invalid_request`, `invalid_binding_message`, `expired_login_hint_token`.
pub fn of_form(form: &Form<'_>) -> Result<Asked, OAuthError> {
    if form.has("authorization_details") {
        return Err(crate::authorize::details::NOT_HERE);
    }
    read(&|name| Ok(form.get(name).map(str::to_owned)), form.all("resource").map(str::to_owned).collect())
}

/// Believes a request object and reads its claims.
///
/// # Errors
/// `invalid_request` for everything that is wrong with the object itself.
pub fn of_object(text: &str, alg: Alg, keys: &KeySet, client: &Client, issuer: &str, now: i64) -> Result<(Asked, Once), OAuthError> {
    let refuse = |why: &'static str| OAuthError::request("the signed request is not valid").because(why);
    let parsed = Parsed::parse(text).map_err(|_| refuse("not a strict JWS"))?;
    if parsed.alg != alg {
        return Err(refuse("not the registered algorithm"));
    }
    let key = keys.find(parsed.kid.as_deref(), alg).ok_or_else(|| refuse("no such key"))?;
    let verified = parsed.verify(key).map_err(|_| refuse("the signature is wrong"))?;
    let claims: &Map<String, Value> = &verified;
    let is = |name: &str, wanted: &str| claims.get(name).and_then(Value::as_str) == Some(wanted);
    if !is("iss", &client.client_id) {
        return Err(refuse("iss is not the client"));
    }
    let among = |all: &Vec<Value>| all.iter().any(|one| one.as_str() == Some(issuer));
    if !is("aud", issuer) && !claims.get("aud").and_then(Value::as_array).is_some_and(among) {
        return Err(refuse("aud is not this issuer"));
    }
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    let (Some(exp), Some(nbf), Some(iat)) = (time("exp"), time("nbf"), time("iat")) else {
        return Err(refuse("exp, nbf or iat is missing"));
    };
    let latest = now + Settings::LEEWAY;
    if exp <= now - Settings::LEEWAY || nbf > latest || iat > latest {
        return Err(refuse("expired or not yet valid"));
    }
    if exp.saturating_sub(nbf) > LIFE || exp > latest + LIFE || nbf < now - LIFE - Settings::LEEWAY {
        return Err(refuse("valid for too long"));
    }
    let jti = claims.get("jti").and_then(Value::as_str).filter(|j| (1..=256).contains(&j.len())).ok_or_else(|| refuse("jti is missing"))?;
    let once = Once {
        id: hash::sha256(format!("ciba\0{}\0{jti}", client.client_id).as_bytes()).to_vec(),
        expires_at: exp + Settings::LEEWAY + ledger::revocation::SPENT_KEPT_S,
    };
    if claims.contains_key("authorization_details") {
        return Err(crate::authorize::details::NOT_HERE);
    }
    let text = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
        Some(Value::Number(number)) if name == "requested_expiry" => Ok(Some(number.to_string())),
        Some(_) => Err(refuse("a claim is not text")),
    };
    let resource = match claims.get("resource") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => {
            all.iter().map(|r| r.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(|| refuse("resource is not text"))?
        }
        Some(_) => return Err(refuse("resource is not text")),
    };
    Ok((read(&text, resource)?, once))
}

fn read(text: &dyn Fn(&str) -> Result<Option<String>, OAuthError>, resource: Vec<String>) -> Result<Asked, OAuthError> {
    let (login, id_token, token) = (text("login_hint")?, text("id_token_hint")?, text("login_hint_token")?);
    if [&login, &id_token, &token].iter().filter(|h| h.is_some()).count() != 1 {
        return Err(OAuthError::request("exactly one of login_hint, login_hint_token and id_token_hint is needed"));
    }
    let hint = match (login, id_token) {
        (Some(name), _) if name.len() <= LONGEST_HINT => Hint::Login(name),
        (None, Some(hint)) => Hint::IdToken(hint),
        (Some(_), _) => return Err(OAuthError::request("the login_hint is too long")),
        (None, None) => return Err(OAuthError::request("login_hint_token is not supported")),
    };
    let scope = text("scope")?.ok_or(OAuthError::request("scope is missing"))?;
    if !crate::scope::list_has(&scope, "openid") {
        return Err(OAuthError::new(Code::InvalidScope, "scope must contain openid"));
    }
    let binding_message = text("binding_message")?;
    if binding_message.as_deref().is_some_and(|m| m.chars().count() > LONGEST_MESSAGE || !visible::is_plain(m)) {
        return Err(OAuthError::new(Code::InvalidBindingMessage, "binding_message has to be at most 64 printable characters"));
    }
    let requested_expiry = match text("requested_expiry")? {
        None => None,
        Some(text) => match text.parse::<i64>() {
            Ok(seconds) if seconds > 0 => Some(seconds.min(LONGEST_WAIT)),
            _ => return Err(OAuthError::request("requested_expiry has to be a positive number")),
        },
    };
    let acr: Vec<String> =
        text("acr_values")?.unwrap_or_default().split(' ').filter(|c| !c.is_empty()).take(MOST_CLASSES).map(str::to_owned).collect();
    if acr.iter().any(|class| class.len() > LONGEST_CLASS) {
        return Err(OAuthError::request("acr_values is too long"));
    }
    Ok(Asked { hint, scope, resource, acr, binding_message, notification_token: text("client_notification_token")?, requested_expiry })
}

/// Whether a text can be the bearer token of a notification (RFC 6750 §2.1) with enough in it.
#[must_use]
pub fn is_notification_token(text: &str) -> bool {
    (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(form: &str) -> Result<Asked, Code> {
        of_form(&Form::read(form.as_bytes()).unwrap()).map_err(|e| e.code)
    }

    #[test]
    fn a_request_names_one_person_and_asks_for_openid() {
        let good = asked("scope=openid%20read&login_hint=alice&requested_expiry=7200&acr_values=a%20b&binding_message=W4").unwrap();
        assert_eq!((good.hint, good.requested_expiry), (Hint::Login("alice".into()), Some(3600)));
        assert_eq!((good.acr, good.binding_message), (vec!["a".to_owned(), "b".to_owned()], Some("W4".to_owned())));
        assert_eq!(asked("scope=openid&id_token_hint=x").unwrap().hint, Hint::IdToken("x".into()));
        for (form, code) in [
            ("scope=openid", Code::InvalidRequest),
            ("scope=openid&login_hint=a&id_token_hint=b", Code::InvalidRequest),
            ("scope=openid&login_hint_token=a", Code::InvalidRequest),
            ("login_hint=a", Code::InvalidRequest),
            ("scope=read&login_hint=a", Code::InvalidScope),
            ("scope=openid&login_hint=a&requested_expiry=0", Code::InvalidRequest),
            ("scope=openid&login_hint=a&requested_expiry=-1", Code::InvalidRequest),
            ("scope=openid&login_hint=a&binding_message=a%E2%80%AEb", Code::InvalidBindingMessage),
            ("scope=openid&login_hint=a&authorization_details=%5B%5D", Code::InvalidAuthorizationDetails),
        ] {
            assert_eq!(asked(form), Err(code), "{form}");
        }
    }

    #[test]
    fn fapi_wants_every_request_signed() {
        let (client, form) = (Client::default(), Form::read(b"scope=openid&login_hint=a").unwrap());
        assert_eq!(sent(&client, &form, Profile::Standard).unwrap(), Sent::Plain);
        assert_eq!(sent(&client, &form, Profile::Fapi2).unwrap_err().code, Code::InvalidRequest);
    }

    #[test]
    fn a_notification_token_is_a_bearer_token_with_enough_in_it() {
        assert!(is_notification_token(&"a".repeat(22)) && is_notification_token(&"~".repeat(1024)));
        for bad in ["a".repeat(21), "a".repeat(1025), format!("{} b", "a".repeat(30)), format!("{}\n", "a".repeat(30))] {
            assert!(!is_notification_token(&bad), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_any_object_never_panics(text in "\\PC{0,200}") {
            let client = Client { client_id: "c".into(), ..Client::default() };
            proptest::prop_assert!(of_object(&text, Alg::ES256, &KeySet::default(), &client, "https://id", 0).is_err());
        }
    }
}
