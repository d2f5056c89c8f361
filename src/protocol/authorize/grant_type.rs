//! Whether the client may use the flow it asks for (RFC 7591 §2.1, `grant_types`).
use super::{Code, Desk, Params, Refusal, Request};
use crate::grants;

/// Step: the client is registered for authorization codes, and for what comes through the browser besides.
pub(super) fn registered(_: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let kind = request.response_type;
    if kind.code && !desk.client.may_use(grants::AUTHORIZATION_CODE) {
        return Err(Refusal::new(Code::UnauthorizedClient, "this client is not registered for authorization codes"));
    }
    if kind.is_front() && !desk.client.may_use(grants::IMPLICIT) {
        return Err(Refusal::new(Code::UnauthorizedClient, "this client is not registered for tokens from this endpoint"));
    }
    Ok(())
}
