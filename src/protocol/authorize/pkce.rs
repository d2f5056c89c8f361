//! Proof key for code exchange: S256 only (RFC 7636, RFC 9700 §2.1.1).
use super::{Code, Desk, Params, Refusal, Request};
use crate::Profile;

/// A base64url SHA-256 value: 43 characters.
const CHALLENGE: usize = 43;

/// Step: a well-formed S256 challenge; none only where a confidential client was registered to go without.
pub(super) fn s256(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let method = params.one("code_challenge_method")?;
    let Some(challenge) = params.one("code_challenge")? else {
        // Without a code there is nothing to redeem.
        let asked_for = desk.client.require_pkce || desk.client.is_public() || desk.settings.profile == Profile::Fapi2;
        let required = asked_for && request.response_type.code;
        return match method {
            _ if required => Err(Refusal::new(Code::InvalidRequest, "code_challenge is required")),
            Some(_) => Err(Refusal::new(Code::InvalidRequest, "code_challenge_method without code_challenge")),
            None => Ok(()),
        };
    };
    if method != Some("S256") {
        return Err(Refusal::new(Code::InvalidRequest, "code_challenge_method must be S256"));
    }
    if challenge.len() != CHALLENGE || !challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(Refusal::new(Code::InvalidRequest, "code_challenge is not a base64url SHA-256 value"));
    }
    request.code_challenge = Some(challenge.to_owned());
    Ok(())
}
