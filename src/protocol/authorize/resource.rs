//! `resource` and `scope`: for whom the access token will be, and what of it (RFC 8707 §2, RFC 6749 §3.3).
use super::{Code, Desk, Params, Refusal, Request};
use crate::{
    Client, Settings, resource,
    scope::{self, Audience, Party},
};

/// The audience a request means.
///
/// # Errors
/// `invalid_target`.
pub fn target(params: &Params, client: &Client, settings: &Settings) -> Result<String, Refusal> {
    let named = params.all("resource").filter(|r| !r.is_empty());
    Ok(resource::choose(named, params.one("scope")?, client, settings)?)
}

/// Step: the resource is known.
pub(super) fn known(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let asked = target(params, desk.client, desk.settings)?;
    if asked != desk.settings.issuer && desk.server.is_none_or(|s| s.identifier != asked) {
        return Err(Refusal::new(Code::InvalidTarget, "the resource is not known here"));
    }
    request.resource = asked;
    Ok(())
}

/// Step: the scope is the client's and the resource's.
pub(super) fn scope(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let audience = match desk.server {
        Some(server) if server.identifier == request.resource => Audience::Server(server),
        _ => Audience::Issuer,
    };
    let granted = scope::grant(params.one("scope")?, desk.client, audience, Party::Person)?;
    request.scope = granted.iter().map(str::to_owned).collect();
    Ok(())
}
