//! Whether the client may use the code flow at all (RFC 7591 §2, `grant_types`).
use super::{Code, Desk, Params, Refusal, Request};

/// Step: the client is registered for authorization codes.
pub(super) fn authorization_code(_: &Params, desk: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    if desk.client.may_use("authorization_code") {
        Ok(())
    } else {
        Err(Refusal::new(Code::UnauthorizedClient, "this client is not registered for authorization codes"))
    }
}
