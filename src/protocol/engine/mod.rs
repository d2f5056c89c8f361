//! The code and refresh grants as oxide-auth's state machines, driven from here.
//!
//! The machines do no I/O: whatever they ask for was loaded before and is given at once. They contribute the order of
//! the checks as states that cannot be skipped; shims keep them away from secrets (a machine sees public ids only), from
//! their own lifetimes, error documents and comparisons of parsed URIs (see docs/decisions/0006-oauth-core.md).
pub(crate) mod code;
pub(crate) mod pkce;
pub(crate) mod refresh;

use std::sync::LazyLock;

use oxide_auth::{
    code_grant::error::AccessTokenErrorType,
    primitives::{
        grant::{Extensions, Grant},
        issuer::{RefreshedToken, TokenType},
    },
};
use url::Url;

use crate::{Code, OAuthError};

/// What the machines are shown instead of a secret, and as the end of things whose end was checked before.
const FAR: &str = "9999-12-31T23:59:59Z";

/// What the machines are told was issued, with that end: read once.
static RECEIPT: LazyLock<Option<RefreshedToken>> =
    LazyLock::new(|| Some(RefreshedToken { token: String::new(), refresh: None, until: FAR.parse().ok()?, token_type: TokenType::Bearer }));
/// The address of a grant that has none.
static NOWHERE: LazyLock<Option<Url>> = LazyLock::new(|| Url::parse("about:blank").ok());

fn receipt() -> Result<RefreshedToken, OAuthError> {
    RECEIPT.clone().ok_or_else(|| OAuthError::fault("a constant time does not parse"))
}

fn nowhere() -> Result<Url, OAuthError> {
    NOWHERE.clone().ok_or_else(|| OAuthError::fault("a constant URI does not parse"))
}

/// A grant in the machines' vocabulary.
fn grant(client_id: &str, owner: &str, scope: &str, redirect_uri: Url, extensions: Extensions) -> Result<Box<Grant>, OAuthError> {
    Ok(Box::new(Grant {
        owner_id: owner.to_owned(),
        client_id: client_id.to_owned(),
        scope: scope.parse().map_err(|_| OAuthError::fault("a stored scope does not parse"))?,
        redirect_uri,
        until: receipt()?.until,
        extensions,
    }))
}

/// The machines' refusals in our table (RFC 6749 §5.2).
fn refusal(kind: AccessTokenErrorType) -> OAuthError {
    match kind {
        AccessTokenErrorType::InvalidGrant => OAuthError::grant("refused by the grant's machine"),
        AccessTokenErrorType::InvalidScope => OAuthError::new(Code::InvalidScope, "the scope was not granted"),
        AccessTokenErrorType::InvalidClient => OAuthError::client("refused by the grant's machine"),
        AccessTokenErrorType::UnauthorizedClient => OAuthError::new(Code::UnauthorizedClient, "the client may not use this grant type"),
        AccessTokenErrorType::UnsupportedGrantType => OAuthError::new(Code::UnsupportedGrantType, "unsupported grant_type"),
        _ => OAuthError::request("the request is malformed"),
    }
}
