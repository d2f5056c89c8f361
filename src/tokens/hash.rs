//! SHA-256 and what the specifications make of it: S256 challenges (RFC 7636), `at_hash` (OpenID Connect Core §3.1.3.6).
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{Digest, SHA256, SHA384, SHA512, digest},
};
use sha3::{
    Shake256,
    digest::{ExtendableOutput as _, Update as _},
};

use crate::{Alg, b64};

/// SHA-256.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, data).as_ref());
    out
}

/// `BASE64URL(SHA256(ASCII(verifier)))`: the S256 challenge of a PKCE verifier (RFC 7636 §4.2).
#[must_use]
pub fn s256(verifier: &str) -> String {
    b64::encode(&sha256(verifier.as_bytes()))
}

/// `at_hash` / `c_hash` / `s_hash` in a token signed with `alg` (Core §3.1.3.6): the left half of the hash that the algorithm uses, base64url.
/// Ed25519 uses SHA-512; for ML-DSA the hash is SHAKE256 with 64 octets of output, as relying parties' libraries have it.
#[must_use]
pub fn half(alg: Alg, text: &str) -> String {
    let of = |hash: Digest| b64::encode(hash.as_ref().split_at(hash.as_ref().len() / 2).0);
    match alg {
        Alg::ES256 | Alg::RS256 | Alg::PS256 => left_half(text),
        Alg::ES384 => of(digest(&SHA384, text.as_bytes())),
        Alg::EdDSA => of(digest(&SHA512, text.as_bytes())),
        Alg::MlDsa65 => {
            let (mut shake, mut out) = (Shake256::default(), [0; 64]);
            shake.update(text.as_bytes());
            shake.finalize_xof_into(&mut out);
            b64::encode(out.split_at(32).0)
        }
    }
}

/// The left half of a text's SHA-256, base64url: a short name for it.
#[must_use]
pub fn left_half(text: &str) -> String {
    let hash = sha256(text.as_bytes());
    let (left, _) = hash.split_at(16);
    b64::encode(left)
}

/// Whether two strings of octets are equal, in time that depends on their lengths only.
#[must_use]
pub fn eq(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s256_of_rfc_7636_appendix_b() {
        assert_eq!(s256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn at_hash_of_openid_connect_core_appendix_a() {
        assert_eq!(left_half("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"), "77QmUPtjPfzWtF2AnpK9RQ");
    }

    #[test]
    fn the_hash_beside_a_token_is_that_of_the_signature() {
        let expected = [
            (Alg::RS256, "ungWv48Bz-pBQUDeXa4iIw"),
            (Alg::ES384, "ywB1P0WjXou1oD1pmsZQBycsMqsO3tFj"),
            (Alg::EdDSA, "3a81oZNherrMQXNJriBBMRLm-k6JqX6iCp7u5ktV05o"),
            (Alg::MlDsa65, "SDNmYBNgqHccaGMIDMQRTY20RTD48eHuT5TqN-eLVzk"),
        ];
        for (alg, left) in expected {
            assert_eq!(half(alg, "abc"), left, "{alg}");
        }
    }

    #[test]
    fn equality_needs_equal_lengths() {
        assert!(eq(b"abc", b"abc"));
        assert!(!eq(b"abc", b"abd"));
        assert!(!eq(b"abc", b"ab"));
    }
}
