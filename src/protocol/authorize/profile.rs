//! What FAPI 2.0 forbids at the front door, and requests that have to be pushed first (FAPI 2.0 Security Profile §5.3.2, RFC 9126 §5, §6).
use super::{Code, Desk, Params, Refusal, Request};
use crate::Profile;

/// Step: under `fapi2` only confidential clients with keys of their own, at https addresses.
pub(super) fn fapi(_: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    if desk.settings.profile != Profile::Fapi2 {
        return Ok(());
    }
    if desk.client.is_public() || desk.client.token_endpoint_auth_method.starts_with("client_secret_") {
        return Err(Refusal::new(Code::UnauthorizedClient, "a client has to authenticate with a key of its own here"));
    }
    if !request.back.address.as_str().starts_with("https://") {
        return Err(Refusal::new(Code::InvalidRequest, "redirect_uri must be https"));
    }
    Ok(())
}

/// Step: a plain request is refused where requests have to be pushed.
pub(super) fn pushed_first(_: &Params, desk: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    if desk.settings.profile == Profile::Fapi2 || desk.client.require_pushed_authorization_requests {
        return Err(Refusal::new(Code::InvalidRequest, "the request has to be pushed first"));
    }
    Ok(())
}
