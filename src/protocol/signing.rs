//! Which algorithm signs what: names as registered, keys as the ring has them (RFC 7518 §3.1, RFC 8037, RFC 9964).
use ledger::Mistake;
use serde_json::{Map, Value};
use tokens::{Alg, keyring::KeyRing, sign::SigningKey};

use crate::{OAuthError, Profile, Settings};

/// What this server signs with under these settings.
pub fn supported(settings: &Settings) -> impl Iterator<Item = Alg> + use<> {
    let post_quantum = settings.post_quantum;
    Alg::EVERY.into_iter().filter(move |alg| post_quantum || *alg != Alg::MlDsa65)
}

/// Whether answers to clients may be signed with it: FAPI 2.0 knows PS256, ES256 and EdDSA (Security Profile §5.4.1); the post-quantum
/// algorithm is a choice beside them.
#[must_use]
pub fn allowed(profile: Profile, alg: Alg) -> bool {
    profile != Profile::Fapi2 || !matches!(alg, Alg::RS256 | Alg::ES384)
}

/// What answers to clients may be signed with, by name, for metadata.
#[must_use]
pub fn names(settings: &Settings) -> Vec<&'static str> {
    supported(settings).filter(|alg| allowed(settings.profile, *alg)).map(Alg::as_str).collect()
}

/// Whether a registration may name it as what signs its answers.
#[must_use]
pub fn is_name(name: &str) -> bool {
    Alg::parse(name).is_some()
}

/// The key that signs what was registered with that algorithm; ES256 where the profile does not know it.
///
/// # Errors
/// `server_error` if no key does: the setting that made the name possible was taken back.
pub fn key<'a>(keys: &'a KeyRing, profile: Profile, registered: Option<&str>, default: Alg) -> Result<&'a SigningKey, OAuthError> {
    let alg = registered.map_or(Some(default), Alg::parse).map(|alg| if allowed(profile, alg) { alg } else { Alg::ES256 });
    let fault = || OAuthError::fault(format!("no key signs {}", registered.unwrap_or(default.as_str())));
    alg.and_then(|alg| keys.signing(alg)).ok_or_else(fault)
}

/// The members of a registration that want an algorithm which the profile does not know.
#[must_use]
pub fn forbidden(members: &Map<String, Value>, profile: Profile) -> Vec<Mistake> {
    let wants = |name: &str, value: &Value| {
        name.ends_with("_signed_response_alg") && value.as_str().and_then(Alg::parse).is_some_and(|alg| !allowed(profile, alg))
    };
    let wrong = members.iter().filter(|(name, value)| wants(name, value));
    wrong.map(|(name, _)| Mistake::new(name.as_str(), "PS256, ES256 or EdDSA (FAPI 2.0)")).collect()
}

/// The members of a registration that want the post-quantum algorithm of a deployment that has none.
#[must_use]
pub fn mistakes(members: &Map<String, Value>, post_quantum: bool) -> Vec<Mistake> {
    let wants = |name: &str, value: &Value| name.ends_with("_alg") && value.as_str() == Some(Alg::MlDsa65.as_str());
    let named = members.iter().filter(|(name, value)| wants(name, value)).map(|(name, _)| name.clone());
    // What a trusted issuer signs with.
    let listed = members.get("algorithms").and_then(Value::as_array).into_iter().flatten().enumerate();
    let listed = listed.filter(|(_, alg)| alg.as_str() == Some(Alg::MlDsa65.as_str())).map(|(n, _)| format!("algorithms[{n}]"));
    let unable = named.chain(listed).filter(|_| !post_quantum);
    unable.map(|at| Mistake::new(at, "needs [keys] post_quantum = true")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_post_quantum_algorithm_is_there_only_where_it_is_wanted() {
        let classical = Settings::for_issuer("https://id");
        let hybrid = Settings { post_quantum: true, ..classical.clone() };
        assert_eq!(names(&classical), ["ES256", "ES384", "RS256", "PS256", "EdDSA"]);
        assert_eq!(names(&hybrid).last(), Some(&"ML-DSA-65"));
        let members =
            json!({"id_token_signed_response_alg": "ML-DSA-65", "userinfo_signed_response_alg": "ES256", "client_name": "ML-DSA-65"});
        let wrong: Vec<String> = mistakes(members.as_object().unwrap(), false).into_iter().map(|m| m.at).collect();
        assert_eq!(wrong, ["id_token_signed_response_alg"]);
        assert!(mistakes(members.as_object().unwrap(), true).is_empty());
        let issuer = json!({"issuer": "https://x", "algorithms": ["ES256", "ML-DSA-65"]});
        let wrong: Vec<String> = mistakes(issuer.as_object().unwrap(), false).into_iter().map(|m| m.at).collect();
        assert_eq!(wrong, ["algorithms[1]"]);
        assert!(mistakes(issuer.as_object().unwrap(), true).is_empty());
        assert!(is_name("PS256") && !is_name("none") && !is_name("HS256") && !is_name("RS512"));
    }

    #[test]
    fn fapi_knows_no_rs256_whatever_was_registered() {
        let fapi = Settings { profile: Profile::Fapi2, ..Settings::for_issuer("https://id") };
        assert_eq!(names(&fapi), ["ES256", "PS256", "EdDSA"]);
        let kept = |alg| tokens::keyring::Kept {
            state: tokens::keyring::State::Current,
            key: SigningKey::generate(alg).unwrap().0,
            changed_at: 0,
        };
        let ring = KeyRing::new(vec![kept(Alg::ES256), kept(Alg::ES384)]);
        for name in [None, Some("RS256"), Some("ES384")] {
            assert_eq!(key(&ring, Profile::Fapi2, name, Alg::RS256).unwrap().alg(), Alg::ES256, "{name:?}");
        }
        assert_eq!(key(&ring, Profile::Standard, Some("ES384"), Alg::RS256).unwrap().alg(), Alg::ES384);
        let members = json!({"id_token_signed_response_alg": "RS256", "userinfo_signed_response_alg": "PS256", "client_name": "RS256"});
        let wrong: Vec<String> = forbidden(members.as_object().unwrap(), Profile::Fapi2).into_iter().map(|m| m.at).collect();
        assert_eq!(wrong, ["id_token_signed_response_alg"]);
        assert!(forbidden(members.as_object().unwrap(), Profile::OidcDynamic).is_empty());
    }

    #[test]
    fn a_key_that_is_not_there_is_a_fault_and_never_another_key() {
        let kept = |alg| tokens::keyring::Kept {
            state: tokens::keyring::State::Current,
            key: SigningKey::generate(alg).unwrap().0,
            changed_at: 0,
        };
        let ring = KeyRing::new(vec![kept(Alg::ES256), kept(Alg::EdDSA)]);
        assert_eq!(key(&ring, Profile::Standard, None, Alg::ES256).unwrap().alg(), Alg::ES256);
        assert_eq!(key(&ring, Profile::Standard, Some("EdDSA"), Alg::ES256).unwrap().alg(), Alg::EdDSA);
        for name in ["ML-DSA-65", "none", "PS256"] {
            assert_eq!(key(&ring, Profile::Standard, Some(name), Alg::ES256).unwrap_err().code, crate::Code::ServerError);
        }
    }
}
