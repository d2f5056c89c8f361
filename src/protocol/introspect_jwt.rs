//! Introspection answers as signed JWTs (RFC 9701): for callers that keep them as evidence.
use serde_json::{Map, Value, json};
use tokens::{Alg, keyring::KeyRing};

use crate::{Client, OAuthError, Profile, Settings, signing};

/// The media type of a signed answer (§5).
pub const MEDIA_TYPE: &str = "application/token-introspection+jwt";
const TYP: &str = "token-introspection+jwt";

/// Whether a caller gets its answers signed: it registered an algorithm for them, or asks for the media type (§4).
#[must_use]
pub fn wanted<'a>(caller: &Client, mut accept: impl Iterator<Item = &'a str>) -> bool {
    caller.introspection_signed_response_alg.is_some() || accept.any(|line| line.split(',').any(names))
}

fn names(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let named = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(MEDIA_TYPE));
    let refused = parts.any(|parameter| parameter.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0));
    named && !refused
}

/// Signs an answer for its caller (§5): `token_introspection` holds exactly what the plain answer would have said.
///
/// # Errors
/// `server_error` if no key signs what the caller registered.
pub fn sign(answer: &[u8], caller: &Client, keys: &KeyRing, settings: &Settings, now: i64) -> Result<String, OAuthError> {
    // RS256 where nothing is registered (§6); FAPI 2.0 knows no RS256.
    let usual = if settings.profile == Profile::Fapi2 { Alg::ES256 } else { Alg::RS256 };
    let key = signing::key(keys, settings.profile, caller.introspection_signed_response_alg.as_deref(), usual)?;
    let told: Value = serde_json::from_slice(answer).map_err(|e| OAuthError::fault(e.to_string()))?;
    let claims = json!({"iss": settings.issuer, "aud": caller.client_id, "iat": now, "token_introspection": told});
    key.sign_jwt(TYP, &claims).map_err(|e| OAuthError::fault(e.to_string()))
}

/// What metadata says of it (§7).
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("introspection_signing_alg_values_supported".into(), json!(signing::names(settings)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_signed_for_those_who_ask_or_registered() {
        let plain = Client::default();
        let wants = |accept: &[&str]| wanted(&plain, accept.iter().copied());
        assert!(wants(&["application/token-introspection+jwt"]));
        assert!(wants(&["text/html", "application/json;q=0.5, Application/Token-Introspection+JWT ; q=0.9"]));
        for accept in [&[][..], &["*/*"], &["application/json"], &["application/token-introspection+jwt;q=0"], &["application/jwt"]] {
            assert!(!wants(accept), "{accept:?}");
        }
        let registered = Client { introspection_signed_response_alg: Some("ES256".into()), ..Client::default() };
        assert!(wanted(&registered, std::iter::empty()));
    }
}
