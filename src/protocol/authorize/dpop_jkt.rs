//! `dpop_jkt`: the key a code will be bound to (RFC 9449 §10).
use super::{Code, Desk, Params, Refusal, Request};

/// A base64url SHA-256 value: 43 characters.
const THUMBPRINT: usize = 43;

/// Step: a well-formed thumbprint. The key that a pushed request proved must be the same, and stands in for the parameter (§10.1).
pub(super) fn thumbprint(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let asked = params.one("dpop_jkt")?;
    if asked.is_some_and(|a| a.len() != THUMBPRINT || !a.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))) {
        return Err(Refusal::new(Code::InvalidRequest, "dpop_jkt is not a base64url SHA-256 value"));
    }
    let proved = desk.evidence.proof.as_ref().map(|p| p.jkt.as_str());
    if let (Some(asked), Some(proved)) = (asked, proved)
        && asked != proved
    {
        return Err(Refusal::new(Code::InvalidRequest, "dpop_jkt names another key than the proof"));
    }
    request.dpop_jkt = asked.or(proved).map(str::to_owned);
    Ok(())
}
