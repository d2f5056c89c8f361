//! JSON Web Keys and sets (RFC 7517, RFC 8037, RFC 9964): only whole public keys come out.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tokens::jwk::{Jwk, KeySet};

fuzz_target!(|data: &[u8]| {
    if let Ok(set) = KeySet::from_json(data) {
        for key in set.iter() {
            assert!(!key.verifies(b"message", b"signature"));
            assert_eq!(key.jwk().thumbprint().len(), 43);
            assert!(set.find(key.kid(), key.alg()).is_some() || key.kid().is_none());
        }
    }
    // The same octets as one key of a set.
    if let Ok(jwk) = serde_json::from_slice::<Jwk>(data) {
        let _ = (jwk.thumbprint(), jwk.algorithms());
        let _ = KeySet::from_json(&[b"{\"keys\":[", data, b"]}"].concat());
    }
});
