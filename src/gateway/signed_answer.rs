//! Signed introspection answers (RFC 9701): believed when the server's own key signed them, for us, just now.
use http::HeaderMap;
use serde_json::Value;
use tokens::jws::Parsed;

use crate::source::{IntrospectError, KeySource};

/// The media type, and with it the `typ`.
pub(crate) const MEDIA_TYPE: &str = "application/token-introspection+jwt";
const TYP: &str = "token-introspection+jwt";
/// How old an answer may be, and how far ahead its clock, seconds.
const MAX_AGE_S: i64 = 60;
const LEEWAY_S: i64 = 10;

/// Whether an answer says it is a signed one.
pub(crate) fn is_signed(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// The introspection answer in a signed one of `issuer` for the client `audience`.
///
/// # Errors
/// [`IntrospectError::Nonsense`] for whatever is not exactly that; [`IntrospectError::Unavailable`] without keys to judge by.
pub(crate) async fn open(text: &[u8], (issuer, audience): (&str, &str), keys: &dyn KeySource, now: i64) -> Result<Value, IntrospectError> {
    let wrong = |_| IntrospectError::Nonsense;
    let text = std::str::from_utf8(text).map_err(|_| IntrospectError::Nonsense)?;
    let parsed = Parsed::parse(text.trim_ascii()).map_err(wrong)?;
    if !parsed.is_typ(TYP) {
        return Err(IntrospectError::Nonsense);
    }
    let key = match keys.find(parsed.kid.as_deref(), parsed.alg) {
        Some(key) => key,
        None => {
            keys.refresh().await;
            let nobody = if keys.usable() { IntrospectError::Nonsense } else { IntrospectError::Unavailable };
            keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(nobody)?
        }
    };
    let claims = parsed.verify(&key).map_err(wrong)?.into_inner();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let aud = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => many.iter().any(|one| one == audience),
        _ => false,
    };
    let iat = claims.get("iat").and_then(Value::as_f64).ok_or(IntrospectError::Nonsense)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch are far below 2^52")]
    let just_now = iat <= (now + LEEWAY_S) as f64 && iat >= (now - MAX_AGE_S) as f64;
    if text("iss") != Some(issuer) || !aud || !just_now {
        return Err(IntrospectError::Nonsense);
    }
    claims.get("token_introspection").filter(|answer| answer.is_object()).cloned().ok_or(IntrospectError::Nonsense)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::json;
    use tokens::{Alg, jwk::VerifyingKey, sign::SigningKey};

    use super::*;

    struct One(SigningKey);
    #[async_trait]
    impl KeySource for One {
        fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey> {
            (kid == Some(self.0.kid()) && alg == self.0.alg()).then(|| self.0.verifying())
        }
    }

    #[tokio::test]
    async fn an_answer_is_ours_fresh_typed_and_signed_or_it_is_none() {
        let (key, other) = (SigningKey::generate(Alg::ES256).unwrap().0, SigningKey::generate(Alg::ES256).unwrap().0);
        let good = json!({"iss": "https://as", "aud": "gw", "iat": 100, "token_introspection": {"active": true}});
        let keys = One(key.clone());
        let opened = |text: String| {
            let keys = One(keys.0.clone());
            async move { open(text.as_bytes(), ("https://as", "gw"), &keys, 110).await }
        };
        assert_eq!(opened(key.sign_jwt(TYP, &good).unwrap()).await, Ok(json!({"active": true})));
        for (name, value) in [
            ("iss", json!("https://other")),
            ("aud", json!("other")),
            ("aud", json!(null)),
            ("iat", json!(40)),
            ("iat", json!(200)),
            ("iat", json!("now")),
            ("token_introspection", json!("x")),
        ] {
            let mut bad = good.clone();
            bad[name] = value.clone();
            assert_eq!(opened(key.sign_jwt(TYP, &bad).unwrap()).await, Err(IntrospectError::Nonsense), "{name} {value}");
        }
        assert!(opened(key.sign_jwt("JWT", &good).unwrap()).await.is_err());
        assert!(opened(key.sign_jwt("at+jwt", &good).unwrap()).await.is_err());
        assert!(opened(other.sign_jwt(TYP, &good).unwrap()).await.is_err());
        assert!(opened(json!({"active": true}).to_string()).await.is_err());
    }
}
