//! What the token endpoint gives for what (RFC 6749 §1.3): one file a grant type, each one pure decision.
pub mod assertion;
pub mod ciba;
pub mod client_credentials;
pub mod code;
pub mod decoupled;
pub mod device;
pub mod family;
pub mod jwt_bearer;
pub mod refresh;
pub mod token_exchange;

use accounts::User;
use ledger::{Change, EventKind, Grant, NewEvent, RevocationKind, Step};

use tokens::Confirmation;

use crate::{
    AuthenticatedClient, Client, Code, OAuthError, ResourceServer, Settings, evidence,
    issue::{Access, Answer, Context},
    scope::Audience,
};

/// `authorization_code`
pub const AUTHORIZATION_CODE: &str = "authorization_code";
/// `refresh_token`
pub const REFRESH_TOKEN: &str = "refresh_token";
/// `client_credentials`
pub const CLIENT_CREDENTIALS: &str = "client_credentials";
/// `implicit`: not of the token endpoint; a client is registered for it to get tokens from `/authorize` (RFC 7591 §2.1).
pub const IMPLICIT: &str = "implicit";
/// `urn:ietf:params:oauth:grant-type:device_code` (RFC 8628 §3.4)
pub const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// `urn:openid:params:grant-type:ciba` (CIBA Core §4)
pub const CIBA: &str = "urn:openid:params:grant-type:ciba";
/// `urn:ietf:params:oauth:grant-type:token-exchange` (RFC 8693 §2.1)
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// `urn:ietf:params:oauth:grant-type:jwt-bearer` (RFC 7523 §2.1)
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Every grant type of this version.
pub const ALL: [&str; 7] = [AUTHORIZATION_CODE, REFRESH_TOKEN, CLIENT_CREDENTIALS, DEVICE_CODE, CIBA, TOKEN_EXCHANGE, JWT_BEARER];

/// What clients may use that registered or published themselves, unless the configuration says otherwise: where a person is asked first.
pub const OF_STRANGERS: [&str; 4] = [AUTHORIZATION_CODE, REFRESH_TOKEN, IMPLICIT, DEVICE_CODE];

/// What a grant gives: the answer may be sent once the change is durable.
#[derive(Debug)]
pub struct Granted {
    /// To be applied first.
    pub change: Change,
    /// To be sent then.
    pub answer: Answer,
}

/// A refusal, and what has to become durable before it is told (the end of a family whose token came twice).
#[derive(Debug)]
pub struct Refused {
    /// What the client hears.
    pub error: OAuthError,
    /// To be applied before.
    pub change: Option<Change>,
}

impl From<OAuthError> for Refused {
    fn from(error: OAuthError) -> Self {
        Self { error, change: None }
    }
}

/// The error for a grant type the client is not registered for.
pub(crate) fn unauthorized() -> OAuthError {
    OAuthError::new(Code::UnauthorizedClient, "the client may not use this grant type")
}

/// What this request's tokens are bound to.
fn bound(ctx: &Context<'_>, client: &AuthenticatedClient) -> Result<Option<Confirmation>, OAuthError> {
    evidence::demand(client.client(), ctx.evidence, ctx.settings)
}

/// Who stands behind a grant and what it is for, loaded.
#[derive(Debug, Clone, Copy)]
pub struct Behind<'a> {
    /// The grant.
    pub grant: Option<&'a Grant>,
    /// The person's account.
    pub user: Option<&'a User>,
    /// The registered API, if the resource is not the issuer.
    pub server: Option<&'a ResourceServer>,
}

impl<'a> Behind<'a> {
    /// The grant and the person, if both may still act.
    fn live(&self, now: i64) -> Result<(&'a Grant, &'a User), OAuthError> {
        let grant = self.grant.filter(|g| g.ended_at.is_none() && g.expires_at > now);
        let grant = grant.ok_or_else(|| OAuthError::grant("the grant has ended"))?;
        let user = self.user.filter(|u| !u.disabled && u.id == grant.subject);
        Ok((grant, user.ok_or_else(|| OAuthError::grant("the account is gone or disabled"))?))
    }
}

/// The audience behind a granted resource.
///
/// # Errors
/// `invalid_target` if no resource server is registered under it.
pub fn audience<'a>(resource: &str, settings: &Settings, server: Option<&'a ResourceServer>) -> Result<Audience<'a>, OAuthError> {
    match server {
        _ if resource == settings.issuer => Ok(Audience::Issuer),
        Some(server) if server.identifier == resource => Ok(Audience::Server(server)),
        _ => Err(OAuthError::new(Code::InvalidTarget, "the resource is not known here")),
    }
}

/// Whether a resource that was granted once is still one of the client's.
fn still_allowed(client: &Client, resource: &str, settings: &Settings) -> Result<(), OAuthError> {
    if resource == settings.issuer || client.allowed_resources.iter().any(|r| r == resource) {
        return Ok(());
    }
    Err(OAuthError::new(Code::InvalidTarget, "the resource is no longer one of the client's"))
}

/// Ends a grant that has not ended, and everything issued from it. `told` are the events that say why, once.
#[must_use]
pub fn end(grant: &str, subject: &str, client_id: &str, now_ms: i64, told: &[EventKind]) -> Change {
    let now = now_ms.div_euclid(1000);
    let mut change = Change::new()
        // Expired or not: tokens of it may outlive it.
        .step(Step::GrantLive { id: grant.to_owned(), now: i64::MIN })
        .step(Step::EndGrant { id: grant.to_owned(), now })
        .revoke(RevocationKind::Grant, grant, now_ms, now + Settings::MAX_ACCESS_TOKEN_TTL);
    change.events = told.iter().map(|kind| NewEvent::new(*kind, now_ms).subject(subject).client(client_id).grant(grant)).collect();
    change
}

/// The answer around an access token.
fn answer(access: Access, scope: String) -> (Change, Answer) {
    let Access { text, format, token_type, expires_in, change } = access;
    let answer = Answer {
        access_token: text,
        format,
        token_type,
        expires_in,
        scope,
        details: None,
        issued_token_type: None,
        refresh_token: None,
        id_token: None,
    };
    (change, answer)
}

#[cfg(test)]
mod tests;
