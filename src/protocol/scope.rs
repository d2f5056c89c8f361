//! Scope: parsing (RFC 6749 §3.3) and what of it a client gets.
use std::fmt;

use crate::{Client, Code, OAuthError, ResourceServer};

/// Scope tokens, sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Vec<String>);

/// Scopes about a person (OpenID Connect Core §5.4, §11): of every audience, never of a machine.
pub const IDENTITY: [&str; 6] = ["openid", "profile", "email", "address", "phone", "offline_access"];
/// Scopes of the authorization server itself: available where it is the audience, and to machines only. What a client may do here is the
/// client's right, never a person's to give away (RFC 9700 §2.3).
pub const BUILT_IN: [&str; 7] = [
    "doorward.admin",
    "doorward.admin.read",
    "doorward.introspect",
    "doorward.feed",
    "doorward.register",
    "doorward.decide",
    "doorward.signals",
];
/// What begins a scope of the authorization server itself.
pub const BUILT_IN_PREFIX: &str = "doorward.";

/// Whose API an access token is for.
#[derive(Debug, Clone, Copy)]
pub enum Audience<'a> {
    /// This issuer itself: its admin REST, feed and userinfo.
    Issuer,
    /// A registered API.
    Server(&'a ResourceServer),
}

/// Who stands behind a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// A person, who logged in.
    Person,
    /// The client itself.
    Machine,
}

impl Scope {
    /// Reads space-separated scope tokens.
    ///
    /// # Errors
    /// `invalid_scope` on characters outside RFC 6749 §3.3.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        let mut tokens: Vec<String> = Vec::new();
        for token in text.split(' ').filter(|t| !t.is_empty()) {
            if !is_token(token) {
                return Err(OAuthError::new(Code::InvalidScope, "the scope is malformed"));
            }
            tokens.push(token.to_owned());
        }
        tokens.sort_unstable();
        tokens.dedup();
        Ok(Self(tokens))
    }

    /// Whether it holds a scope token.
    #[must_use]
    pub fn has(&self, token: &str) -> bool {
        self.0.iter().any(|t| t == token)
    }
    /// In sorted order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether everything in it is in `other` too.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.iter().all(|t| other.has(t))
    }
    /// What of it passes a test.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|t| keep(t)).cloned().collect())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, token) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(token)?;
        }
        Ok(())
    }
}

impl<S: Into<String>> FromIterator<S> for Scope {
    fn from_iter<I: IntoIterator<Item = S>>(tokens: I) -> Self {
        let mut tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self(tokens)
    }
}

/// `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )` (RFC 6749 §3.3).
#[must_use]
pub fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Whether a space-separated list holds a scope token.
#[must_use]
pub fn list_has(list: &str, token: &str) -> bool {
    list.split(' ').any(|t| t == token)
}

/// What a client gets of what it asked for: never more than it is registered for, never more than the audience offers.
///
/// # Errors
/// `invalid_scope` when a token is malformed or not one of the client's, or when nothing of what was asked is left.
pub fn grant(requested: Option<&str>, client: &Client, audience: Audience<'_>, party: Party) -> Result<Scope, OAuthError> {
    let registered = Scope::parse(&client.scope)?;
    let Some(requested) = requested else { return Ok(registered.only(|t| offered(t, audience, party))) };
    let asked = Scope::parse(requested)?;
    if !asked.within(&registered) {
        return Err(OAuthError::new(Code::InvalidScope, "the client may not ask for this scope"));
    }
    if party == Party::Person && asked.iter().any(|t| t.starts_with(BUILT_IN_PREFIX)) {
        return Err(OAuthError::new(Code::InvalidScope, "no person can give this scope"));
    }
    let granted = asked.only(|t| offered(t, audience, party));
    if granted.is_empty() && !asked.is_empty() {
        return Err(OAuthError::new(Code::InvalidScope, "the resource does not offer this scope"));
    }
    Ok(granted)
}

/// What of a scope that was given once the client still has and the audience still offers.
///
/// # Errors
/// `invalid_grant` if nothing of it is left.
pub fn left(given: &Scope, client: &Client, audience: Audience<'_>, party: Party) -> Result<Scope, OAuthError> {
    let registered = Scope::parse(&client.scope)?;
    let left = given.only(|token| registered.has(token) && offered(token, audience, party));
    if left.is_empty() && !given.is_empty() {
        return Err(OAuthError::grant("nothing is left of the scope that was given"));
    }
    Ok(left)
}

fn offered(token: &str, audience: Audience<'_>, party: Party) -> bool {
    if IDENTITY.contains(&token) {
        return party == Party::Person;
    }
    match audience {
        Audience::Issuer => party == Party::Machine && BUILT_IN.contains(&token),
        Audience::Server(server) => !token.starts_with(BUILT_IN_PREFIX) && server.scopes.iter().any(|s| s.name == token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ScopeEntry;

    fn client(scope: &str) -> Client {
        Client { client_id: "c".into(), scope: scope.into(), ..Client::default() }
    }
    fn server() -> ResourceServer {
        let scopes = ["read", "write", "doorward.admin"].map(|n| ScopeEntry { name: n.into(), description: None }).to_vec();
        ResourceServer { identifier: "https://api.example.com".into(), scopes, ..ResourceServer::default() }
    }

    #[test]
    fn a_client_gets_what_it_asked_for_within_its_registration_and_the_audience() {
        let (c, s) = (client("read write openid other"), server());
        let got = |asked, party| grant(asked, &c, Audience::Server(&s), party).map(|g| g.to_string());
        assert_eq!(got(Some("write read read"), Party::Machine).unwrap(), "read write");
        assert_eq!(got(Some("openid read"), Party::Person).unwrap(), "openid read");
        assert_eq!(got(Some("openid read"), Party::Machine).unwrap(), "read");
        assert_eq!(got(None, Party::Machine).unwrap(), "read write");
        assert_eq!(got(Some("admin"), Party::Machine).unwrap_err().code, Code::InvalidScope);
        assert_eq!(got(Some("other"), Party::Machine).unwrap_err().code, Code::InvalidScope);
        assert_eq!(got(Some("re\"ad"), Party::Machine).unwrap_err().code, Code::InvalidScope);
    }

    #[test]
    fn scopes_of_the_server_itself_belong_to_its_own_audience_only() {
        let (c, s) = (client("read doorward.admin"), server());
        assert!(grant(Some("doorward.admin"), &c, Audience::Server(&s), Party::Machine).is_err());
        assert_eq!(grant(Some("doorward.admin"), &c, Audience::Issuer, Party::Machine).unwrap().to_string(), "doorward.admin");
    }

    #[test]
    fn no_person_gives_away_what_only_a_client_may_have() {
        let c = client("openid doorward.admin doorward.admin.read doorward.made-up");
        for asked in ["doorward.admin", "openid doorward.admin", "openid doorward.admin.read"] {
            assert_eq!(grant(Some(asked), &c, Audience::Issuer, Party::Person).unwrap_err().code, Code::InvalidScope, "{asked}");
        }
        assert_eq!(grant(None, &c, Audience::Issuer, Party::Person).unwrap().to_string(), "openid");
        assert_eq!(grant(None, &c, Audience::Issuer, Party::Machine).unwrap().to_string(), "doorward.admin doorward.admin.read");
    }
}
