//! OAuth clients (RFC 7591 §2 member names, plus Doorward's own).
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Settings, client_auth, grants, scope};

/// A registered client, as administrators and registration write it. Its secret is not in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    pub client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    pub redirect_uris: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_logout_redirect_uris: Vec<String>,
    pub grant_types: Vec<String>,
    pub response_types: Vec<String>,
    pub token_endpoint_auth_method: String,
    /// Space-separated: what it may ask for.
    pub scope: String,
    /// Resource indicators it may ask for (RFC 8707).
    pub allowed_resources: Vec<String>,
    /// No consent page.
    pub first_party: bool,
    /// Default true; false possible for a confidential client only.
    pub require_pkce: bool,
    /// Overrides the resource server's: `jwt` or `opaque`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_format: Option<String>,
    /// Overrides the resource server's, e.g. `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token_ttl: Option<String>,
    /// JOSE name; default RS256 (OpenID Connect Registration §2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token_signed_response_alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiate_login_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<serde_json::Value>,
    pub disabled: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            client_name: None,
            client_uri: None,
            logo_uri: None,
            policy_uri: None,
            tos_uri: None,
            contacts: Vec::new(),
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            grant_types: vec!["authorization_code".into()],
            response_types: vec!["code".into()],
            token_endpoint_auth_method: "client_secret_basic".into(),
            scope: String::new(),
            allowed_resources: Vec::new(),
            first_party: false,
            require_pkce: true,
            access_token_format: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            id_token_signed_response_alg: None,
            default_max_age: None,
            initiate_login_uri: None,
            jwks: None,
            disabled: false,
        }
    }
}

impl Client {
    /// Whether it has no credential (RFC 6749 §2.1).
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.token_endpoint_auth_method == "none"
    }
    /// Whether it may use a grant type.
    #[must_use]
    pub fn may_use(&self, grant_type: &str) -> bool {
        self.grant_types.iter().any(|g| g == grant_type)
    }
}

impl Record for Client {
    const KIND: ObjectKind = ObjectKind::Client;
    fn id(&self) -> &str {
        &self.client_id
    }
    fn key(&self) -> &str {
        &self.client_id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Found::default();
        if !is_id(&self.client_id) {
            found.at("client_id", "1 to 128 characters of A-Z a-z 0-9 . _ ~ : / -");
        }
        self.kinds(&mut found);
        self.addresses(&mut found);
        self.asks(&mut found);
        self.tokens(&mut found);
        found.0
    }
}

/// Mistakes as they are found.
#[derive(Default)]
struct Found(Vec<Mistake>);

impl Found {
    fn at(&mut self, member: impl Into<String>, why: impl Into<String>) {
        self.0.push(Mistake::new(member, why));
    }
}

impl Client {
    /// Grant types, response types and authentication must be known here and agree.
    fn kinds(&self, found: &mut Found) {
        for (i, grant) in self.grant_types.iter().enumerate() {
            if !grants::ALL.contains(&grant.as_str()) {
                found.at(format!("grant_types[{i}]"), format!("not supported; one of {}", grants::ALL.join(", ")));
            }
        }
        for (i, response) in self.response_types.iter().enumerate() {
            if response != "code" {
                found.at(format!("response_types[{i}]"), "not supported; only code");
            }
        }
        if client_auth::Method::parse(&self.token_endpoint_auth_method).is_none() {
            found.at("token_endpoint_auth_method", "not supported; client_secret_basic, client_secret_post or none");
        }
        if self.is_public() && self.may_use(grants::CLIENT_CREDENTIALS) {
            found.at("grant_types", "client_credentials needs a client that can prove who it is (RFC 6749 §4.4)");
        }
        if self.is_public() && !self.require_pkce {
            found.at("require_pkce", "may be false for a confidential client only");
        }
        if self.may_use(grants::AUTHORIZATION_CODE) && !self.response_types.iter().any(|r| r == "code") {
            found.at("response_types", "authorization_code needs code (RFC 7591 §2.1)");
        }
        if self.jwks.as_ref().is_some_and(|set| !set.get("keys").is_some_and(serde_json::Value::is_array)) {
            found.at("jwks", "must be a JWK Set: an object with an array keys (RFC 7517 §5)");
        }
    }

    fn addresses(&self, found: &mut Found) {
        if self.may_use(grants::AUTHORIZATION_CODE) && self.redirect_uris.is_empty() {
            found.at("redirect_uris", "authorization_code needs at least one");
        }
        for (i, uri) in self.redirect_uris.iter().enumerate() {
            if let Err(why) = return_address(uri, self.is_public()) {
                found.at(format!("redirect_uris[{i}]"), why);
            }
        }
        for (i, uri) in self.post_logout_redirect_uris.iter().enumerate() {
            if let Err(why) = return_address(uri, self.is_public()) {
                found.at(format!("post_logout_redirect_uris[{i}]"), why);
            }
        }
        let pages = [
            ("client_uri", &self.client_uri),
            ("logo_uri", &self.logo_uri),
            ("policy_uri", &self.policy_uri),
            ("tos_uri", &self.tos_uri),
            ("initiate_login_uri", &self.initiate_login_uri),
        ];
        for (member, uri) in pages {
            if uri.as_deref().is_some_and(|u| !is_page(u)) {
                found.at(member, "must be an https URI");
            }
        }
        if self.client_name.as_deref().is_some_and(|n| n.is_empty() || n.chars().count() > 200 || n.chars().any(char::is_control)) {
            found.at("client_name", "1 to 200 characters without control characters");
        }
    }

    fn asks(&self, found: &mut Found) {
        if let Some(bad) = self.scope.split_ascii_whitespace().find(|t| !scope::is_token(t)) {
            found.at("scope", format!("{bad:?} is no scope token (RFC 6749 §3.3)"));
        }
        if self.scope.bytes().any(|b| b.is_ascii_whitespace() && b != b' ') {
            found.at("scope", "tokens are separated by spaces");
        }
        if self.is_public() && self.scope.split(' ').any(|t| t.starts_with(scope::BUILT_IN_PREFIX)) {
            found.at("scope", "a public client cannot have scopes of the server itself");
        }
        for (i, resource) in self.allowed_resources.iter().enumerate() {
            if !crate::resource::is_identifier(resource) {
                found.at(format!("allowed_resources[{i}]"), "must be an absolute URI without fragment (RFC 8707 §2)");
            }
            if self.allowed_resources.iter().take(i).any(|r| r == resource) {
                found.at(format!("allowed_resources[{i}]"), "is listed twice");
            }
        }
    }

    fn tokens(&self, found: &mut Found) {
        if self.access_token_format.as_deref().is_some_and(|f| !matches!(f, "jwt" | "opaque")) {
            found.at("access_token_format", "jwt or opaque");
        }
        if let Some(text) = &self.access_token_ttl
            && let Err(why) = access_token_ttl(text)
        {
            found.at("access_token_ttl", why);
        }
        if self.refresh_token_ttl.as_deref().is_some_and(|t| tokens::duration::parse(t).is_none()) {
            found.at("refresh_token_ttl", "a duration such as \"30d\"");
        }
        if self.id_token_signed_response_alg.as_deref().is_some_and(|a| !matches!(a, "RS256" | "ES256")) {
            // Keys are made for these two; a token nobody can sign would be a fault at every exchange.
            found.at("id_token_signed_response_alg", "not supported; RS256 or ES256");
        }
        if self.default_max_age.is_some_and(|age| age < 0) {
            found.at("default_max_age", "seconds, zero or more");
        }
    }
}

/// Reads an access token lifetime.
///
/// # Errors
/// In words, when it is no duration or too long to be remembered after a revocation.
pub(crate) fn access_token_ttl(text: &str) -> Result<i64, &'static str> {
    match tokens::duration::parse(text) {
        None => Err("a duration such as \"5m\""),
        Some(ttl) if ttl > Settings::MAX_ACCESS_TOKEN_TTL => Err("at most 24h"),
        Some(ttl) => Ok(ttl),
    }
}

/// Whether a text may be an id in URLs, headers and claims.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~:/-".contains(&b))
}

/// What a redirect URI may be (CONTRACT §5; RFC 9700 §4.1, RFC 8252 §7, §8.4).
fn return_address(uri: &str, public: bool) -> Result<(), &'static str> {
    let Ok(url) = Url::parse(uri) else { return Err("must be an absolute URI") };
    if uri.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'\\') {
        return Err("must be printable ASCII without spaces");
    }
    if uri.contains('#') {
        return Err("must have no fragment (RFC 6749 §3.1.2)");
    }
    if uri.contains('*') {
        return Err("must have no wildcard");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user or password");
    }
    match url.scheme() {
        "https" => url.host_str().map(|_| ()).ok_or("must name a host"),
        "http" if is_loopback(&url) => Ok(()),
        "http" => Err("must be https (http only for a loopback address)"),
        "javascript" | "data" | "file" | "blob" | "about" | "vbscript" | "ftp" | "ws" | "wss" | "mailto" | "view-source" => {
            Err("this scheme does not lead back to an application")
        }
        _ if public => Ok(()),
        _ => Err("must be https (a private-use scheme is for public clients only)"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn is_page(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Client {
        Client { client_id: "web".into(), redirect_uris: vec!["https://rp.example.com/cb".into()], ..Client::default() }
    }
    fn wrong(client: &Client) -> Vec<String> {
        client.mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn redirect_uris_lead_to_one_place_of_the_application() {
        for bad in [
            "/cb",
            "https://rp/*",
            "https://rp/#f",
            "javascript:alert(1)",
            "data:text/html,x",
            "http://rp.example.com/cb",
            "https://u:p@rp/cb",
            "https://rp/a b",
            "com.example:/cb",
            "ftp://rp/",
        ] {
            let client = Client { redirect_uris: vec![bad.into()], ..web() };
            assert_eq!(wrong(&client), ["redirect_uris[0]"], "{bad}");
        }
        for good in ["https://rp.example.com/cb?x=1", "http://127.0.0.1/cb", "http://[::1]:80/cb", "http://localhost:3000/cb"] {
            assert!(wrong(&Client { redirect_uris: vec![good.into()], ..web() }).is_empty(), "{good}");
        }
        let app = Client { redirect_uris: vec!["com.example.app:/cb".into()], token_endpoint_auth_method: "none".into(), ..web() };
        assert!(wrong(&app).is_empty());
    }

    #[test]
    fn what_this_version_does_not_do_is_a_mistake_not_a_surprise() {
        let client = Client {
            grant_types: vec!["authorization_code".into(), "implicit".into()],
            response_types: vec!["code".into(), "id_token".into()],
            token_endpoint_auth_method: "private_key_jwt".into(),
            id_token_signed_response_alg: Some("EdDSA".into()),
            ..web()
        };
        assert_eq!(wrong(&client), ["grant_types[1]", "response_types[1]", "token_endpoint_auth_method", "id_token_signed_response_alg"]);
    }

    #[test]
    fn a_public_client_has_pkce_and_nothing_of_a_machine() {
        let client = Client {
            token_endpoint_auth_method: "none".into(),
            require_pkce: false,
            grant_types: vec!["authorization_code".into(), "client_credentials".into()],
            scope: "doorward.admin".into(),
            ..web()
        };
        assert_eq!(wrong(&client), ["grant_types", "require_pkce", "scope"]);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let client = Client {
            client_id: "a b".into(),
            redirect_uris: Vec::new(),
            access_token_format: Some("saml".into()),
            access_token_ttl: Some("2d".into()),
            refresh_token_ttl: Some("long".into()),
            allowed_resources: vec!["api".into()],
            ..web()
        };
        let at = ["client_id", "redirect_uris", "allowed_resources[0]", "access_token_format", "access_token_ttl", "refresh_token_ttl"];
        assert_eq!(wrong(&client), at);
    }
}
