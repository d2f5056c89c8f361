//! Drives oxide-auth's refresh machine (RFC 6749 §6).
use std::borrow::Cow;

use oxide_auth::{
    code_grant::refresh::{Error, Input, Output, Refresh, Request},
    primitives::grant::Extensions,
};

use super::{grant, nowhere, receipt, refusal};
use crate::{OAuthError, Scope};

/// A refresh whose client is authenticated and whose token was found.
pub(crate) struct Refreshing<'a> {
    /// The authenticated client.
    pub client_id: &'a str,
    /// The token's public id.
    pub token: &'a str,
    /// As the request says.
    pub scope: Option<&'a str>,
    /// Whose token it is.
    pub stored_client: &'a str,
    /// Whom it is about.
    pub subject: &'a str,
    /// What was granted.
    pub stored_scope: &'a str,
}

struct Shim<'a>(&'a Refreshing<'a>);

impl Request for Shim<'_> {
    fn valid(&self) -> bool {
        true
    }
    fn refresh_token(&self) -> Option<Cow<'_, str>> {
        Some(self.0.token.into())
    }
    fn scope(&self) -> Option<Cow<'_, str>> {
        self.0.scope.map(Cow::Borrowed)
    }
    fn grant_type(&self) -> Option<Cow<'_, str>> {
        Some("refresh_token".into())
    }
    fn authorization(&self) -> Option<(Cow<'_, str>, Cow<'_, [u8]>)> {
        // Authenticated before; the machine wants a pair.
        Some((self.0.client_id.into(), Cow::Borrowed(&[])))
    }
    fn extension(&self, _key: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// Takes a refresh through every state; `issue` gets the scope for the new access token.
///
/// # Errors
/// `invalid_grant` for another client's token, `invalid_scope` for more than was granted, what `issue` says.
pub(crate) fn refresh<T>(refreshing: &Refreshing<'_>, issue: impl FnOnce(&Scope) -> Result<T, OAuthError>) -> Result<T, OAuthError> {
    let mut machine = Refresh::new(&Shim(refreshing));
    let mut issue = Some(issue);
    let mut issued = None;
    let mut input = Input::None;
    loop {
        input = match machine.advance(input) {
            Output::Unauthenticated { client, .. } if client == refreshing.client_id => {
                Input::Authenticated { scope: refreshing.scope.map(Cow::Borrowed) }
            }
            Output::Unauthenticated { .. } => return Err(OAuthError::client("the machine asked for another client")),
            Output::RecoverRefresh { token } if token == refreshing.token => {
                Input::Recovered { scope: refreshing.scope.map(Cow::Borrowed), grant: Some(recovered(refreshing)?) }
            }
            Output::RecoverRefresh { .. } => return Err(OAuthError::grant("the machine asked for another token")),
            Output::Refresh { grant, .. } => {
                let scope: Scope = grant.scope.iter().collect();
                issued = issue.take().map(|issue| issue(&scope)).transpose()?;
                Input::Refreshed(receipt()?)
            }
            Output::Ok(_) => return issued.ok_or_else(|| OAuthError::fault("the machine ended without issuing")),
            Output::Err(error) => return Err(refused(error)),
        };
    }
}

fn recovered(refreshing: &Refreshing<'_>) -> Result<Box<oxide_auth::primitives::grant::Grant>, OAuthError> {
    // The machine's grant needs an address; a refresh has none.
    grant(refreshing.stored_client, refreshing.subject, refreshing.stored_scope, nowhere()?, Extensions::new())
}

fn refused(error: Error) -> OAuthError {
    match error {
        Error::Invalid(mut description) | Error::Unauthorized(mut description, _) => refusal(description.description().kind()),
        Error::Primitive => OAuthError::fault("the machine was driven wrongly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn run(client_id: &str, scope: Option<&str>) -> Result<String, OAuthError> {
        let refreshing = Refreshing { client_id, token: "id", scope, stored_client: "c", subject: "u", stored_scope: "openid read" };
        refresh(&refreshing, |scope| Ok(scope.to_string()))
    }

    #[test]
    fn scope_may_be_narrowed_never_widened() {
        assert_eq!(run("c", None).unwrap(), "openid read");
        assert_eq!(run("c", Some("read")).unwrap(), "read");
        assert_eq!(run("c", Some("read write")).unwrap_err().code, Code::InvalidScope);
        assert_eq!(run("c", Some("\"")).unwrap_err().code, Code::InvalidScope);
    }

    #[test]
    fn another_clients_token_is_invalid_grant() {
        assert_eq!(run("d", None).unwrap_err().code, Code::InvalidGrant);
    }
}
