//! SHA-256 and what the specifications make of it: S256 challenges (RFC 7636), `at_hash` (OpenID Connect Core §3.1.3.6).
use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use crate::b64;

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

/// `at_hash` / `c_hash` for tokens signed with a SHA-256 algorithm: the left half of the hash, base64url.
#[must_use]
pub fn left_half(text: &str) -> String {
    let hash = sha256(text.as_bytes());
    let (left, _) = hash.split_at(16);
    b64::encode(left)
}

/// Whether two strings of octets are equal, in time that depends on their lengths only.
#[must_use]
pub fn eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
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
    fn equality_needs_equal_lengths() {
        assert!(eq(b"abc", b"abc"));
        assert!(!eq(b"abc", b"abd"));
        assert!(!eq(b"abc", b"ab"));
    }
}
