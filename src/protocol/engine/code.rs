//! Drives oxide-auth's access token machine: authorization code grant (RFC 6749 §4.1.3).
use std::borrow::Cow;

use oxide_auth::{
    code_grant::{
        accesstoken::{AccessToken, Authorization, Error, Input, Output, Request},
        extensions::Pkce,
    },
    primitives::{
        grant::{Extensions, Value},
        issuer::{IssuedToken, TokenType},
    },
};
use url::Url;

use super::{grant, pkce, receipt as refreshed, refusal};
use crate::OAuthError;

/// A redemption whose client is authenticated and whose code was found.
pub(crate) struct Redemption<'a> {
    /// The authenticated client.
    pub client_id: &'a str,
    /// The code's public id.
    pub code: &'a str,
    /// As the request says.
    pub redirect_uri: &'a str,
    /// As the request says.
    pub verifier: Option<&'a str>,
    /// As stored with the code.
    pub stored: Stored<'a>,
}

/// What was stored with the code.
pub(crate) struct Stored<'a> {
    pub client_id: &'a str,
    pub subject: &'a str,
    pub redirect_uri: &'a str,
    pub challenge: Option<&'a str>,
    pub scope: &'a str,
}

/// The machine's view of the request: no secrets, one client.
struct Shim<'a>(&'a Redemption<'a>);

impl Request for Shim<'_> {
    fn valid(&self) -> bool {
        true
    }
    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.code.into())
    }
    fn authorization(&self) -> Authorization<'_> {
        Authorization::Username(self.0.client_id.into())
    }
    fn client_id(&self) -> Option<Cow<'_, str>> {
        None
    }
    fn redirect_uri(&self) -> Option<Cow<'_, str>> {
        Some(self.0.redirect_uri.into())
    }
    fn grant_type(&self) -> Option<Cow<'_, str>> {
        Some("authorization_code".into())
    }
    fn extension(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.verifier.filter(|_| key == "code_verifier").map(Cow::Borrowed)
    }
}

/// Takes a redemption through every state and issues in the last one.
///
/// # Errors
/// `invalid_grant` for another client's code, another redirect URI or a wrong verifier; what `issue` says.
pub(crate) fn redeem<T>(redemption: &Redemption<'_>, issue: impl FnOnce() -> Result<T, OAuthError>) -> Result<T, OAuthError> {
    let stored = &redemption.stored;
    // Compared as the strings they are; the machine compares parsed URIs.
    if redemption.redirect_uri != stored.redirect_uri {
        return Err(OAuthError::grant("another redirect_uri"));
    }
    pkce::verify(stored.challenge, redemption.verifier)?;
    let mut machine = AccessToken::new(&Shim(redemption));
    let mut issue = Some(issue);
    let mut issued = None;
    let mut input = Input::None;
    loop {
        input = match machine.advance(input) {
            Output::Authenticate { client, passdata: None } if client == redemption.client_id => Input::Authenticated,
            Output::Authenticate { .. } => return Err(OAuthError::client("the machine asked for another client")),
            Output::Recover { code } if code == redemption.code => Input::Recovered(Some(recovered(stored)?)),
            Output::Recover { .. } => return Err(OAuthError::grant("the machine asked for another code")),
            Output::Extend { extensions } => Input::Extended { access_extensions: extend(extensions, redemption.verifier)? },
            Output::Issue { .. } => {
                issued = issue.take().map(|issue| issue()).transpose()?;
                Input::Issued(receipt()?)
            }
            Output::Ok(_) => return issued.ok_or_else(|| OAuthError::fault("the machine ended without issuing")),
            Output::Err(error) => return Err(refused(*error)),
        };
    }
}

fn recovered(stored: &Stored<'_>) -> Result<Box<oxide_auth::primitives::grant::Grant>, OAuthError> {
    let redirect_uri = Url::parse(stored.redirect_uri).map_err(|_| OAuthError::fault("a stored redirect_uri does not parse"))?;
    let mut extensions = Extensions::new();
    if let Some(challenge) = stored.challenge {
        extensions.set(&Pkce::required(), Value::private(Some(format!("{challenge}S"))));
    }
    grant(stored.client_id, stored.subject, stored.scope, redirect_uri, extensions)
}

/// The machine's own PKCE, after ours: required where a challenge is stored.
fn extend(extensions: &mut Extensions, verifier: Option<&str>) -> Result<Extensions, OAuthError> {
    let pkce = Pkce::required();
    let challenge = extensions.remove(&pkce);
    if challenge.is_some() {
        pkce.verify(challenge, verifier.map(Cow::Borrowed)).map_err(|()| OAuthError::grant("code_verifier does not match"))?;
    }
    Ok(Extensions::new())
}

/// What the machine is told was issued: the tokens themselves are none of its business.
fn receipt() -> Result<IssuedToken, OAuthError> {
    Ok(IssuedToken { token: String::new(), refresh: None, until: refreshed()?.until, token_type: TokenType::Bearer })
}

fn refused(error: Error) -> OAuthError {
    match error {
        Error::Invalid(mut description) => refusal(description.description().kind()),
        Error::Unauthorized(mut description, _) => refusal(description.description().kind()),
        Error::Primitive(_) => OAuthError::fault("the machine was driven wrongly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn redemption<'a>(client_id: &'a str, redirect_uri: &'a str, verifier: Option<&'a str>) -> Redemption<'a> {
        let stored = Stored { client_id: "c", subject: "u", redirect_uri: "https://rp", challenge: Some(CHALLENGE), scope: "openid read" };
        Redemption { client_id, code: "id", redirect_uri, verifier, stored }
    }

    #[test]
    fn the_machine_issues_exactly_once_for_the_right_request() {
        let mut count = 0;
        redeem(&redemption("c", "https://rp", Some(VERIFIER)), || {
            count += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn another_client_another_address_or_no_verifier_get_invalid_grant_and_nothing() {
        for (client, uri, verifier) in
            [("d", "https://rp", Some(VERIFIER)), ("c", "https://rp/", Some(VERIFIER)), ("c", "https://rp", None)]
        {
            let refused = redeem(&redemption(client, uri, verifier), || -> Result<(), _> { panic!("issued") }).unwrap_err();
            assert_eq!(refused.code, Code::InvalidGrant, "{client} {uri}");
        }
    }
}
