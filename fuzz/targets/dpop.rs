//! DPoP proofs (RFC 9449 §4.3): any text, any claims under a good key, any address in `htu`.
#![no_main]
use std::{borrow::Cow, sync::LazyLock};

use aws_lc_rs::signature::Ed25519KeyPair;
use libfuzzer_sys::fuzz_target;
use tokens::{
    Alg, b64,
    dpop::{self, Expected, Target},
    sign::SigningKey,
};

const NOW: i64 = 1_800_000_000;

/// A key, and the same once more as what signs any header.
static KEYS: LazyLock<(SigningKey, Ed25519KeyPair)> = LazyLock::new(|| {
    let (key, pkcs8) = SigningKey::generate(Alg::EdDSA).expect("a key");
    (key, Ed25519KeyPair::from_pkcs8(&pkcs8).expect("reads"))
});

fn normalise(path: &str) -> Option<Cow<'_, str>> {
    edge::path::normalise(path).ok()
}

fn judge(text: &str) {
    let targets: Vec<Target<'_>> = Target::new("https", "api.example.com", "/x").into_iter().collect();
    let expected =
        Expected { method: "POST", targets: &targets, algs: &dpop::ALGS, normalise, token: Some("token"), nonces: None, now: NOW };
    if let Ok(proof) = dpop::verify(text, &expected) {
        assert!(!proof.jti.is_empty() && (proof.iat - NOW).abs() <= 120);
        let _ = (proof.once(), proof.until());
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    judge(text);
    let _ = Target::of(text, normalise);
    let mut key = KEYS.0.jwk().clone();
    (key.alg, key.kid, key.use_) = (None, None, None);
    let header = serde_json::json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": key}).to_string();
    let sign = |claims: &str| {
        let input = format!("{}.{}", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()));
        let signature = KEYS.1.try_sign(input.as_bytes()).expect("signs");
        format!("{input}.{}", b64::encode(signature.as_ref()))
    };
    judge(&sign(text));
    let claims =
        serde_json::json!({"htm": "POST", "htu": text, "jti": "j", "iat": NOW, "ath": b64::encode(&tokens::hash::sha256(b"token"))});
    judge(&sign(&claims.to_string()));
});
