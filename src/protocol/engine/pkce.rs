//! Proof key for code exchange, S256 only (RFC 7636; RFC 9700 §2.1.1).
use crate::OAuthError;

/// Whether a verifier has the length and characters of RFC 7636 §4.1.
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

/// A verifier is due exactly if a challenge was stored: none without one (downgrade), one for one.
///
/// # Errors
/// `invalid_grant`.
pub(crate) fn verify(challenge: Option<&str>, verifier: Option<&str>) -> Result<(), OAuthError> {
    match (challenge, verifier) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(OAuthError::grant("code_verifier without a challenge")),
        (Some(_), None) => Err(OAuthError::grant("code_verifier is missing")),
        (Some(_), Some(verifier)) if !is_verifier(verifier) => Err(OAuthError::grant("code_verifier is malformed")),
        (Some(challenge), Some(verifier)) => {
            let proved = tokens::hash::eq(tokens::hash::s256(verifier).as_bytes(), challenge.as_bytes());
            if proved { Ok(()) } else { Err(OAuthError::grant("code_verifier does not match")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_due_exactly_if_a_challenge_was_stored() {
        // RFC 7636 appendix B
        let (verifier, challenge) = ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(verify(Some(challenge), Some(verifier)).is_ok());
        assert!(verify(None, None).is_ok());
        for (challenge, verifier) in
            [(None, Some(verifier)), (Some(challenge), None), (Some(challenge), Some("short")), (Some(verifier), Some(verifier))]
        {
            assert_eq!(verify(challenge, verifier).unwrap_err().code, crate::Code::InvalidGrant);
        }
    }
}
