//! What a client's registration must satisfy: each check notes every mistake it finds (RFC 7591 §2, CONTRACT §5).
use ledger::Mistake;
use url::Url;

use super::{Client, access_token_ttl};
use crate::{client_auth, grants, scope};

/// Mistakes as they are found.
#[derive(Default)]
pub(super) struct Found(pub Vec<Mistake>);

impl Found {
    pub(super) fn at(&mut self, member: impl Into<String>, why: impl Into<String>) {
        self.0.push(Mistake::new(member, why));
    }
}

impl Client {
    /// Grant types, response types and authentication must be known here and agree.
    pub(super) fn kinds(&self, found: &mut Found) {
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

    pub(super) fn addresses(&self, found: &mut Found) {
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

    pub(super) fn asks(&self, found: &mut Found) {
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

    pub(super) fn tokens(&self, found: &mut Found) {
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
