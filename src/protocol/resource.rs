//! Resource servers: audiences, their scopes and token format (RFC 8707).
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Client, Code, OAuthError, Settings, authorize, client, scope, signing};

/// A scope that a resource server offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeEntry {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A protected API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceServer {
    /// URL-safe id; derived from the identifier when absent.
    pub id: String,
    /// The `aud`: an absolute URI without fragment.
    pub identifier: String,
    pub name: String,
    pub scopes: Vec<ScopeEntry>,
    /// `jwt` or `opaque`.
    pub access_token_format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_ttl: Option<String>,
    /// What signs its JWT access tokens; ES256 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_signing_alg: Option<String>,
    /// Whether its JWT access tokens have a place in a status list (Token Status List).
    #[serde(skip_serializing_if = "is_false")]
    pub status_list: bool,
    /// Clients that may introspect its tokens.
    pub introspection_clients: Vec<String>,
    /// Types of `authorization_details` it understands (RFC 9396 §10).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_details_types: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for ResourceServer {
    fn default() -> Self {
        Self {
            id: String::new(),
            identifier: String::new(),
            name: String::new(),
            scopes: Vec::new(),
            access_token_format: "jwt".into(),
            access_token_ttl: None,
            access_token_signing_alg: None,
            status_list: false,
            introspection_clients: Vec::new(),
            authorization_details_types: Vec::new(),
        }
    }
}

impl Record for ResourceServer {
    const KIND: ObjectKind = ObjectKind::ResourceServer;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.identifier
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut at = |member: String, why: &str| found.push(Mistake::new(member, why));
        if !client::is_id(&self.id) || self.id.contains('/') {
            at("id".into(), "1 to 128 characters of A-Z a-z 0-9 . _ ~ : -");
        }
        if !is_identifier(&self.identifier) {
            at("identifier".into(), "must be an absolute URI without fragment (RFC 8707 §2)");
        }
        for (i, entry) in self.scopes.iter().enumerate() {
            if !scope::is_token(&entry.name) {
                at(format!("scopes[{i}].name"), "is no scope token (RFC 6749 §3.3)");
            }
            if entry.name.starts_with(scope::BUILT_IN_PREFIX) || scope::IDENTITY.contains(&entry.name.as_str()) {
                at(format!("scopes[{i}].name"), "belongs to the authorization server");
            }
            if self.scopes.iter().take(i).any(|s| s.name == entry.name) {
                at(format!("scopes[{i}].name"), "is listed twice");
            }
        }
        if !matches!(self.access_token_format.as_str(), "jwt" | "opaque") {
            at("access_token_format".into(), "jwt or opaque");
        }
        if let Some(Err(why)) = self.access_token_ttl.as_deref().map(client::access_token_ttl) {
            at("access_token_ttl".into(), why);
        }
        if self.access_token_signing_alg.as_deref().is_some_and(|alg| !signing::is_name(alg)) {
            at("access_token_signing_alg".into(), "not supported; one of ES256, ES384, RS256, PS256, EdDSA, ML-DSA-65");
        }
        for (i, kind) in self.authorization_details_types.iter().enumerate() {
            if !authorize::details::is_type(kind) {
                at(format!("authorization_details_types[{i}]"), "1 to 128 visible characters without quotes");
            }
        }
        for (i, id) in self.introspection_clients.iter().enumerate() {
            if !client::is_id(id) {
                at(format!("introspection_clients[{i}]"), "is no client_id");
            }
        }
        found
    }
}

/// Whether a text may name a resource: an absolute URI without fragment (RFC 8707 §2).
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.len() <= 2048 && !text.contains('#') && text.bytes().all(|b| b > b' ' && b < 0x7f) && Url::parse(text).is_ok()
}

/// The audience of what a client asks for (RFC 8707 §2.1): the one it names, else the only one it may name, else this
/// issuer. A machine that asks for nothing but the server's own scopes means the server.
///
/// # Errors
/// `invalid_target`.
pub fn choose<'a>(
    requested: impl IntoIterator<Item = &'a str>,
    requested_scope: Option<&str>,
    client: &Client,
    settings: &Settings,
) -> Result<String, OAuthError> {
    let target = |description| OAuthError::new(Code::InvalidTarget, description);
    let mut requested = requested.into_iter();
    if let Some(resource) = requested.next() {
        if requested.next().is_some() {
            return Err(target("only one resource may be named"));
        }
        if resource == settings.issuer || client.allowed_resources.iter().any(|r| r == resource) {
            return Ok(resource.to_owned());
        }
        return Err(target("the client may not ask for this resource"));
    }
    let own =
        |scope: &str| !scope.trim().is_empty() && scope.split(' ').filter(|t| !t.is_empty()).all(|t| t.starts_with(scope::BUILT_IN_PREFIX));
    if requested_scope.is_some_and(own) {
        return Ok(settings.issuer.clone());
    }
    match client.allowed_resources.as_slice() {
        [] => Ok(settings.issuer.clone()),
        [only] => Ok(only.clone()),
        _ => Err(target("the resource must be named")),
    }
}

/// Checks a `resource` at the token endpoint against what was granted (RFC 8707 §2.2).
///
/// # Errors
/// `invalid_target`.
pub fn agrees<'a>(requested: impl IntoIterator<Item = &'a str>, granted: &str) -> Result<(), OAuthError> {
    let mut others = requested.into_iter().filter(|r| *r != granted);
    if others.next().is_some() { Err(OAuthError::new(Code::InvalidTarget, "the resource was not granted")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_is_named_or_the_only_one_or_the_server() {
        let settings = Settings::for_issuer("https://id.example.com");
        let (a, b) = ("https://a.example.com", "https://b.example.com");
        let client = |all: &[&str]| Client { allowed_resources: all.iter().map(|r| (*r).to_owned()).collect(), ..Client::default() };
        let choose = |named: &[&str], scope, c: &Client| choose(named.iter().copied(), scope, c, &settings).map_err(|e| e.code);
        assert_eq!(choose(&[a], None, &client(&[a, b])).unwrap(), a);
        assert_eq!(choose(&[], None, &client(&[a])).unwrap(), a);
        assert_eq!(choose(&[], None, &client(&[])).unwrap(), settings.issuer);
        assert_eq!(choose(&[], None, &client(&[a, b])), Err(Code::InvalidTarget));
        assert_eq!(choose(&[b], None, &client(&[a])), Err(Code::InvalidTarget));
        assert_eq!(choose(&[a, b], None, &client(&[a, b])), Err(Code::InvalidTarget));
        assert_eq!(choose(&[], Some("doorward.feed doorward.introspect"), &client(&[a])).unwrap(), settings.issuer);
        assert_eq!(choose(&[], Some("doorward.feed read"), &client(&[a])).unwrap(), a);
    }

    #[test]
    fn a_resource_server_is_a_uri_with_scopes_of_its_own() {
        let server = ResourceServer {
            id: "api".into(),
            identifier: "api#x".into(),
            scopes: ["read", "read", "doorward.admin", "a b"].map(|n| ScopeEntry { name: n.into(), description: None }).to_vec(),
            access_token_ttl: Some("25h".into()),
            ..ResourceServer::default()
        };
        let at: Vec<String> = server.mistakes().into_iter().map(|m| m.at).collect();
        assert_eq!(at, ["identifier", "scopes[1].name", "scopes[2].name", "scopes[3].name", "access_token_ttl"]);
    }
}
