//! Workload identity: the token a platform gave a workload proves the client it is (RFC 7523 §3, RFC 7521 §4.2).
//!
//! Such a token is the platform's, used by its workload for as long as it lives: it is not one-time.
use serde_json::Value;

use super::{Means, assertion};
use crate::{OAuthError, Settings, client::Workload};

/// The longest such a token may have to live, seconds: what is valid for longer is a secret that nobody changes.
const LONGEST: i64 = 24 * 3600 + Settings::LEEWAY;

/// Looks whether a trusted issuer's token is the registered workload's, for this server, now.
///
/// # Errors
/// `invalid_client`.
pub(super) fn believe(shown: &assertion::Shown, workload: &Workload, means: &Means<'_>) -> Result<(), OAuthError> {
    let refuse = OAuthError::client;
    let parsed = shown.parse()?;
    if parsed.typ.is_some() && !parsed.is_typ("JWT") {
        return Err(refuse("the typ of the workload's token is another"));
    }
    if !means.issuer_algorithms.contains(&parsed.alg) || !assertion::admitted(parsed.alg, means.settings) {
        return Err(refuse("the workload's token is signed with an algorithm that is not allowed"));
    }
    let key = means.keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(refuse("no key of the issuer's fits the workload's token"))?;
    let claims = parsed.verify(key).map_err(|_| refuse("the signature of the workload's token is wrong"))?.into_inner();
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&workload.issuer) || text("sub") != Some(&workload.subject) {
        return Err(refuse("the token is of another workload"));
    }
    let wanted = workload.audience.as_deref().unwrap_or(&means.settings.issuer);
    let named = match claims.get("aud") {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(several)) => several.iter().any(|one| one == wanted),
        _ => false,
    };
    if !named {
        return Err(refuse("the workload's token is for somebody else"));
    }
    let expires_at = assertion::times(&claims, means.now)?;
    if expires_at > means.now + LONGEST {
        return Err(refuse("the workload's token is valid for too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokens::{Alg, jwk::KeySet, secret::MacKey, sign::SigningKey};

    use super::*;
    use crate::{
        Form, Settings,
        client_auth::{Keys, tests::means},
    };

    #[test]
    fn only_the_registered_workloads_token_for_this_server_counts() {
        let (key, mac) = (SigningKey::generate(Alg::ES256).unwrap().0, MacKey::new([7; 32]));
        let (settings, keys) = (Settings::for_issuer("https://id.example.com"), Keys::new(KeySet::new(vec![key.verifying()])));
        let workload = Workload { issuer: "https://cluster".into(), subject: "system:serviceaccount:a:b".into(), audience: None };
        let judged = |sub: &str, aud: Value, exp: i64, algorithms: &[Alg]| {
            let claims = json!({"iss": "https://cluster", "sub": sub, "aud": aud, "exp": exp});
            let form =
                format!("client_id=c&client_assertion_type={}&client_assertion={}", assertion::TYPE, key.sign_jwt("JWT", &claims).unwrap());
            let shown = assertion::present(&Form::read(form.as_bytes()).unwrap()).unwrap();
            assert_eq!(shown.client_id, "c");
            let means = Means { issuer_algorithms: algorithms, ..means(&mac, &settings, &keys) };
            believe(&shown.assertion.unwrap(), &workload, &means).is_ok()
        };
        let (sub, aud, exp) = ("system:serviceaccount:a:b", json!(["https://id.example.com", "x"]), 1_003_600);
        assert!(judged(sub, aud.clone(), exp, &[Alg::ES256]));
        assert!(!judged("system:serviceaccount:a:c", aud.clone(), exp, &[Alg::ES256]));
        assert!(!judged(sub, json!("x"), exp, &[Alg::ES256]));
        assert!(!judged(sub, aud.clone(), 999_000, &[Alg::ES256]));
        assert!(judged(sub, aud.clone(), 1_086_400, &[Alg::ES256]));
        assert!(!judged(sub, aud.clone(), 1_086_411, &[Alg::ES256]), "a token for years");
        assert!(!judged(sub, aud, exp, &[Alg::RS256]), "an algorithm the issuer does not use");
    }
}
