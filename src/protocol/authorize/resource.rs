//! `resource` and `scope`: for whom the access token will be, and what of it (RFC 8707 §2, RFC 6749 §3.3).
use super::{Code, Desk, Params, Refusal, Request};
use crate::{
    Client,
    scope::{self, Audience, Party},
};

/// The audience a request means: the one it names, the client's only one, or the issuer for a client that has none.
pub fn target<'a>(params: &'a Params, client: &'a Client, issuer: &'a str) -> Result<&'a str, Refusal> {
    let asked = if params.all("resource").count() > 1 {
        return Err(Refusal::new(Code::InvalidTarget, "only one resource may be asked for at a time"));
    } else {
        params.one("resource")?
    };
    match (asked, client.allowed_resources.as_slice()) {
        (Some(one), allowed) if one == issuer || allowed.iter().any(|a| a == one) => Ok(one),
        (Some(_), _) => Err(Refusal::new(Code::InvalidTarget, "the resource is not one of this client's")),
        (None, []) => Ok(issuer),
        (None, [only]) => Ok(only),
        (None, _) => Err(Refusal::new(Code::InvalidTarget, "this client has several resources and must name one")),
    }
}

/// Step: the resource is known.
pub(super) fn known(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let asked = target(params, desk.client, desk.issuer)?;
    if asked != desk.issuer && desk.server.is_none_or(|s| s.identifier != asked) {
        return Err(Refusal::new(Code::InvalidTarget, "the resource is not known here"));
    }
    request.resource = asked.to_owned();
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
