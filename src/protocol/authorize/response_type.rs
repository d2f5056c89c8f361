//! `response_type`: the code flow only (RFC 6749 §3.1.1, OAuth 2.1 §1.3).
use super::{Code, Desk, Params, Refusal, Request};

/// Step: exactly `code`, and the client is registered for it.
pub(super) fn code_only(params: &Params, desk: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    match params.one("response_type")? {
        None => Err(Refusal::new(Code::InvalidRequest, "response_type is missing")),
        Some("code") if desk.client.response_types.iter().any(|r| r == "code") => Ok(()),
        Some("code") => Err(Refusal::new(Code::UnauthorizedClient, "this client is not registered for response_type code")),
        Some(_) => Err(Refusal::new(Code::UnsupportedResponseType, "only response_type code is supported")),
    }
}
