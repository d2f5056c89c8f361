//! The client stands for itself (RFC 6749 §4.4).
use ledger::Change;

use super::{CLIENT_CREDENTIALS, Granted, answer, audience, unauthorized};
use crate::{
    AuthenticatedClient, Form, OAuthError, ResourceServer,
    authorize::details,
    client_auth, evidence, issue,
    issue::{Context, Order},
    resource,
    scope::{self, Audience, Party},
};

/// The resource such a request is for, to be loaded before [`decide`].
///
/// # Errors
/// `unauthorized_client`, `invalid_target`.
pub fn target(ctx: &Context<'_>, client: &AuthenticatedClient, form: &Form<'_>) -> Result<String, OAuthError> {
    if !client.client().may_use(CLIENT_CREDENTIALS) || client.method() == client_auth::Method::None {
        return Err(unauthorized());
    }
    resource::choose(form.all("resource"), form.get("scope"), client.client(), ctx.settings)
}

/// Gives an access token for `target`. No refresh token (RFC 6749 §4.4.3).
///
/// # Errors
/// `unauthorized_client`, `invalid_target`, `invalid_scope`.
pub fn decide(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    form: &Form<'_>,
    target: &str,
    server: Option<&ResourceServer>,
) -> Result<Granted, OAuthError> {
    if !client.client().may_use(CLIENT_CREDENTIALS) || client.method() == client_auth::Method::None {
        return Err(unauthorized());
    }
    let audience = audience(target, ctx.settings, server)?;
    let scope = scope::grant(form.get("scope"), client.client(), audience, Party::Machine)?;
    let details = form.get("authorization_details").map(|text| details::read(text, client.client(), server)).transpose()?;
    // The server's own administration and feed take bearer tokens under every profile.
    let bound = match audience {
        Audience::Issuer => evidence::registered(client.client(), ctx.evidence)?,
        Audience::Server(_) => evidence::demand(client.client(), ctx.evidence, ctx.settings)?,
    };
    let access = issue::access_token(
        ctx,
        &Order {
            client: client.client(),
            server,
            audience: target,
            subject: client.id(),
            grant: None,
            session: None,
            scope: &scope,
            authentication: None,
            user: None,
            grant_type: CLIENT_CREDENTIALS,
            confirmation: bound.as_ref(),
            details: details.as_ref(),
            actor: None,
            from: None,
            device: None,
        },
    )?;
    let (issued, mut answer) = answer(access, scope.to_string());
    answer.details = details;
    Ok(Granted { change: Change::new().step(client.unchanged()).and(issued), answer })
}
