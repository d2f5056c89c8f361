//! Proofs, right and wrong (RFC 9449 §4.3, §11.6).
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::json;

use super::*;
use crate::sign::SigningKey;

const NOW: i64 = 1_800_000_000;

fn plain(path: &str) -> Option<Cow<'_, str>> {
    path.starts_with('/').then(|| path.into())
}

struct Key {
    public: Jwk,
    pair: EcdsaKeyPair,
}

fn another() -> Key {
    let (signing, pkcs8) = SigningKey::generate(Alg::ES256).expect("generates");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).expect("a key");
    Key { public: signing.jwk().clone(), pair }
}

fn key() -> &'static Key {
    static KEY: std::sync::OnceLock<Key> = std::sync::OnceLock::new();
    KEY.get_or_init(another)
}

/// A compact JWS of this header and these claims, signed by `key`.
fn signed(key: &Key, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", b64::encode(header.to_string().as_bytes()), b64::encode(claims.to_string().as_bytes()));
    let signature = key.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signs");
    format!("{message}.{}", b64::encode(signature.as_ref()))
}

fn bare(key: &Key) -> Value {
    let mut jwk = serde_json::to_value(&key.public).expect("json");
    for member in ["kid", "alg", "use"] {
        jwk.as_object_mut().expect("object").remove(member);
    }
    jwk
}

fn header(change: &[(&str, Value)]) -> Value {
    changed(json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": bare(key())}), change)
}

fn claims(change: &[(&str, Value)]) -> Value {
    changed(json!({"jti": "j", "htm": "GET", "htu": "https://api.example.com/a", "iat": NOW}), change)
}

fn changed(mut value: Value, change: &[(&str, Value)]) -> Value {
    let map = value.as_object_mut().expect("an object");
    for (name, new) in change {
        if new.is_null() {
            map.remove(*name)
        } else {
            map.insert((*name).to_owned(), new.clone())
        };
    }
    value
}

fn tried(proof: &str, token: Option<&str>, nonces: Option<&Nonces>) -> Result<Proof, Unproved> {
    let targets = [Target::new("https", "api.example.com", "/a").expect("a target")];
    verify(proof, &Expected { method: "GET", targets: &targets, algs: &ALGS, normalise: plain, token, nonces, now: NOW })
}

fn of(head: &[(&str, Value)], body: &[(&str, Value)]) -> Result<Proof, Unproved> {
    tried(&signed(key(), &header(head), &claims(body)), None, None)
}

#[test]
fn a_right_proof_says_its_key() {
    let proof = of(&[], &[("extra", json!({"a": 1}))]).expect("believed");
    assert_eq!((proof.jkt, proof.jti, proof.iat), (key().public.thumbprint(), "j".into(), NOW));
}

#[test]
fn the_example_of_rfc_9449_section_7_1() {
    let proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let targets = [Target::new("https", "resource.example.org", "/protectedresource").expect("a target")];
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    let expected =
        Expected { method: "GET", targets: &targets, algs: &ALGS, normalise: plain, token: Some(token), nonces: None, now: 1_562_262_618 };
    assert_eq!(verify(proof, &expected).expect("believed").jkt, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    assert_eq!(verify(proof, &Expected { token: Some("another"), ..expected }), Err(Refusal::Claim("ath").into()));
}

#[test]
fn the_header_is_exactly_that_of_a_proof() {
    let other = another();
    let with = |member: &str, value: Value| changed(bare(key()), &[(member, value)]);
    for head in [
        [("typ", Value::Null)],
        [("typ", json!("JWT"))],
        [("typ", json!("at+jwt"))],
        [("typ", json!("DPoP+jwt"))],
        [("typ", json!("application/dpop+jwt"))],
        [("alg", json!("none"))],
        [("alg", json!("HS256"))],
        [("alg", json!("RS256"))],
        [("alg", json!("ES384"))],
        [("alg", Value::Null)],
        [("jwk", Value::Null)],
        [("jwk", json!("key"))],
        [("jwk", json!({}))],
        [("jwk", json!({"kty": "oct", "k": "AAAA"}))],
        [("jwk", with("d", json!("AAAA")))],
        [("jwk", with("k", json!("AAAA")))],
        [("jwk", with("use", json!("enc")))],
        [("jwk", with("alg", json!("ES384")))],
        [("jwk", with("x", json!("AAAA")))],
        [("jwk", bare(&other))],
        [("crit", json!(["exp"]))],
        [("kid", json!(5))],
    ] {
        assert!(of(&head, &[]).is_err(), "{head:?}");
    }
    assert!(of(&[("kid", json!("k"))], &[]).is_ok());
}

#[test]
fn the_claims_are_about_this_request() {
    for body in [
        [("jti", Value::Null)],
        [("jti", json!(""))],
        [("jti", json!("j".repeat(257)))],
        [("jti", json!(5))],
        [("htm", Value::Null)],
        [("htm", json!("POST"))],
        [("htm", json!("get"))],
        [("htu", Value::Null)],
        [("htu", json!("https://api.example.com/b"))],
        [("htu", json!("https://api.example.com/A"))],
        [("htu", json!("https://api.example.com/a/"))],
        [("htu", json!("http://api.example.com/a"))],
        [("htu", json!("https://api.example.com:8443/a"))],
        [("htu", json!("https://api.example.org/a"))],
        [("htu", json!("https://u@api.example.com/a"))],
        [("htu", json!("/a"))],
        [("htu", json!(["https://api.example.com/a"]))],
        [("iat", Value::Null)],
        [("iat", json!(NOW.to_string()))],
        [("iat", json!(NOW - 61))],
        [("iat", json!(NOW + 61))],
        [("iat", json!(NOW - 3600))],
        [("iat", json!(NOW + 3600))],
        [("iat", json!(1e300))],
        [("exp", json!(NOW - 10))],
        [("exp", json!("x"))],
        [("nbf", json!(NOW + 11))],
        [("nbf", json!(true))],
    ] {
        assert!(of(&[], &body).is_err(), "{body:?}");
    }
    for body in [
        [("jti", json!("é".repeat(256)))],
        [("htu", json!("HTTPS://API.Example.com:443/a?x=1#y"))],
        [("htu", json!("https://api.example.com./a?x=//y"))],
        [("iat", json!(NOW - 60))],
        [("iat", json!(NOW + 10))],
        [("iat", json!(1_799_999_999.5))],
        [("exp", json!(NOW + 1))],
        [("nbf", json!(NOW - 1))],
    ] {
        assert!(of(&[], &body).is_ok(), "{body:?}");
    }
}

#[test]
fn a_token_is_named_by_its_hash() {
    let ath = b64::encode(&hash::sha256(b"token"));
    let with = |ath: Value| tried(&signed(key(), &header(&[]), &claims(&[("ath", ath)])), Some("token"), None);
    assert!(with(json!(ath)).is_ok());
    for wrong in [Value::Null, json!(""), json!(format!("{ath}=")), json!(b64::encode(&hash::sha256(b"tokem")))] {
        assert_eq!(with(wrong.clone()), Err(Refusal::Claim("ath").into()), "{wrong}");
    }
}

#[test]
fn a_nonce_lives_for_one_to_two_minutes_and_in_its_own_domain() {
    let nonces = Nonces::new(MacKey::new([7; 32]), "as");
    let with = |nonce: Value| tried(&signed(key(), &header(&[]), &claims(&[("nonce", nonce)])), None, Some(&nonces));
    assert!(with(json!(nonces.current(NOW))).is_ok() && with(json!(nonces.current(NOW - 60))).is_ok());
    for stale in [
        Value::Null,
        json!(""),
        json!(nonces.current(NOW - 120)),
        json!(nonces.current(NOW + 60)),
        json!(Nonces::new(MacKey::new([7; 32]), "rs").current(NOW)),
    ] {
        assert_eq!(with(stale.clone()), Err(Unproved::Nonce), "{stale}");
    }
}

#[test]
fn one_time_ids_are_of_a_key() {
    let proof = |jkt: &str, jti: &str| Proof { jkt: jkt.into(), jti: jti.into(), iat: NOW };
    assert_ne!(proof("a", "b").once(), proof("c", "b").once());
    assert_eq!(proof("a", "b").once(), proof("a", "b").once());
    assert!(proof("a", "b").until() > NOW + MAX_AGE);
}

proptest::proptest! {
    #[test]
    fn verifying_anything_never_panics(text in "\\PC{0,200}") {
        let _ = tried(&text, None, None);
    }

    #[test]
    fn any_address_is_read_without_panic_and_equals_itself(htu in "\\PC{0,60}") {
        if let Some(target) = Target::of(&htu, plain) {
            let longer = format!("{htu}?x#y");
            proptest::prop_assert!(target.path.starts_with('/'));
            proptest::prop_assert_eq!(Target::of(&longer, plain), Some(target));
        }
    }

    #[test]
    fn an_address_is_itself_in_any_case_with_or_without_its_default_port(host in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{2,5}){0,2}", path in "(/[a-zA-Z0-9]{0,8}){0,4}", query in "[a-z=&?]{0,8}") {
        let plainly = format!("https://{host}{path}");
        let loudly = format!("HTTPS://{}:443{path}?{query}", host.to_uppercase());
        proptest::prop_assert_eq!(Target::of(&plainly, plain), Target::of(&loudly, plain));
        proptest::prop_assert!(Target::of(&plainly, plain).is_some());
    }

    #[test]
    fn any_changed_octet_spoils_it(at in 0_usize..400) {
        static PROOF: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let proof = PROOF.get_or_init(|| signed(key(), &header(&[]), &claims(&[])));
        let mut bent = proof.clone().into_bytes();
        let at = at % bent.len();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        proptest::prop_assert!(tried(&String::from_utf8(bent).expect("ascii"), None, None).is_err());
    }
}

#[test]
fn an_address_is_at_the_host_that_a_request_names() {
    let at = |uri: &str, host: &str| Target::of(uri, |path| Some(path.into())).expect("an address").is_at(host);
    assert!(at("https://id.example.com/token", "id.example.com") && at("https://id.example.com/token", "ID.example.com:443"));
    assert!(!at("https://id.example.com/token", "id.example.com:8443") && at("https://id.example.com:8443/token", "id.example.com:8443"));
    for host in ["", "evil.example", "id.example.com.evil", "u@id.example.com", "id.example.com/x"] {
        assert!(!at("https://id.example.com/token", host), "{host}");
    }
}
