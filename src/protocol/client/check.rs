//! What a client's registration must satisfy: each check notes every mistake it finds (RFC 7591 §2, CONTRACT §5).
use ledger::Mistake;
use url::Url;

use super::{Client, access_token_ttl};
use crate::{
    authorize::{ResponseType, details, request_object},
    client_auth, grants, scope, signing, visible,
};

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
            if !grants::ALL.contains(&grant.as_str()) && grant != grants::IMPLICIT {
                found.at(format!("grant_types[{i}]"), format!("not supported; one of {}", grants::ALL.join(", ")));
            }
        }
        for (member, why) in grants::ciba::mistakes(self) {
            found.at(member, why);
        }
        for (member, why) in grants::token_exchange::mistakes(self) {
            found.at(member, why);
        }
        if self.is_public() && self.may_use(grants::JWT_BEARER) {
            found.at("grant_types", "jwt-bearer needs a client that can prove who it is");
        }
        for (i, response) in self.response_types.iter().enumerate() {
            if ResponseType::parse(response).is_none_or(|kind| !kind.code && !kind.id_token) {
                found.at(format!("response_types[{i}]"), format!("not supported; one of {}", names(", ")));
            }
        }
        for (member, why) in client_auth::registered::mistakes(self) {
            found.at(member, why);
        }
        if self.is_public() && self.may_use(grants::CLIENT_CREDENTIALS) {
            found.at("grant_types", "client_credentials needs a client that can prove who it is (RFC 6749 §4.4)");
        }
        if self.is_public() && !self.require_pkce {
            found.at("require_pkce", "may be false for a confidential client only");
        }
        let answers = |of: fn(ResponseType) -> bool| self.response_types.iter().filter_map(|r| ResponseType::parse(r)).any(of);
        if self.may_use(grants::AUTHORIZATION_CODE) && !answers(|kind| kind.code) {
            found.at("response_types", "authorization_code needs code (RFC 7591 §2.1)");
        }
        if answers(ResponseType::is_front) && !self.may_use(grants::IMPLICIT) {
            found.at("grant_types", "a response type with id_token or token needs implicit (RFC 7591 §2.1)");
        }
        self.requests(found);
    }

    /// Request objects, signed responses and what may be asked for in detail.
    fn requests(&self, found: &mut Found) {
        let named = |name: &Option<String>, possible: &dyn Fn(&str) -> bool| name.as_deref().is_none_or(possible);
        if !named(&self.request_object_signing_alg, &|n| tokens::Alg::read(n).is_some_and(|alg| request_object::SIGNED_WITH.contains(&alg)))
        {
            found.at("request_object_signing_alg", "not supported; ES256, PS256, EdDSA, ES384 or RS256");
        }
        if !named(&self.authorization_signed_response_alg, &signing::is_name) {
            found.at("authorization_signed_response_alg", "not supported; one of ES256, ES384, RS256, PS256, EdDSA, ML-DSA-65");
        }
        if self.require_signed_request_object && self.jwks.is_none() && self.jwks_uri.is_none() {
            found.at("require_signed_request_object", "needs jwks or jwks_uri");
        }
        if self.require_signed_request_object && self.request_object_signing_alg.as_deref() == Some("RS256") {
            found.at("request_object_signing_alg", "RS256 is not accepted where request objects are required");
        }
        if self.request_uris.len() > 20 {
            found.at("request_uris", "at most 20");
        }
        for (i, uri) in self.request_uris.iter().enumerate() {
            if !uri.starts_with("https://") || uri.len() > 512 || Url::parse(uri).is_err() {
                found.at(format!("request_uris[{i}]"), "must be an https URI of at most 512 characters");
            }
        }
        for (i, kind) in self.authorization_details_types.iter().enumerate() {
            if !details::is_type(kind) {
                found.at(format!("authorization_details_types[{i}]"), "1 to 128 visible characters without quotes");
            }
        }
    }

    pub(super) fn addresses(&self, found: &mut Found) {
        if (self.may_use(grants::AUTHORIZATION_CODE) || self.may_use(grants::IMPLICIT)) && self.redirect_uris.is_empty() {
            found.at("redirect_uris", "authorization_code and implicit need at least one");
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
        let pages =
            [("client_uri", &self.client_uri), ("logo_uri", &self.logo_uri), ("policy_uri", &self.policy_uri), ("tos_uri", &self.tos_uri)];
        for (member, uri) in pages {
            if uri.as_deref().is_some_and(|u| !is_page(u)) {
                found.at(member, "must be an https URI");
            }
        }
        if self.initiate_login_uri.as_deref().is_some_and(|u| !u.starts_with("https://") || !is_page(u)) {
            found.at("initiate_login_uri", "must be an https URI (OpenID Connect Core §4)");
        }
        self.logout(found);
        if self.client_name.as_deref().is_some_and(|n| n.chars().count() > 200 || !visible::is_plain(n)) {
            found.at("client_name", "1 to 200 characters, none of which controls, hides or turns round others");
        }
    }

    /// Where it hears of the end of a session (OpenID Connect Back-Channel Logout §2.2, Front-Channel Logout §2).
    fn logout(&self, found: &mut Found) {
        let uris = [("backchannel_logout_uri", &self.backchannel_logout_uri), ("frontchannel_logout_uri", &self.frontchannel_logout_uri)];
        for (member, uri) in uris {
            if let Some(Err(why)) = uri.as_deref().map(|u| return_address(u, false)) {
                found.at(member, why);
            }
        }
        let own = |uri: &str| {
            let place = |uri: &str| {
                let url = Url::parse(uri).ok()?;
                // The port of a loopback address is free (RFC 8252 §7.3).
                Some((url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default().filter(|_| !is_loopback(&url))))
            };
            self.redirect_uris.iter().any(|r| place(r).is_some_and(|r| place(uri) == Some(r)))
        };
        if self.frontchannel_logout_uri.as_deref().is_some_and(|u| !own(u)) {
            found.at("frontchannel_logout_uri", "must have the scheme, host and port of a redirect URI");
        }
        let acr = |class: &String| class.is_empty() || class.len() > 256 || class.contains(char::is_whitespace);
        if self.default_acr_values.len() > 16 || self.default_acr_values.iter().any(acr) {
            found.at("default_acr_values", "at most 16 classes of at most 256 characters without spaces");
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
        let signed = [
            ("id_token_signed_response_alg", &self.id_token_signed_response_alg),
            ("userinfo_signed_response_alg", &self.userinfo_signed_response_alg),
            ("introspection_signed_response_alg", &self.introspection_signed_response_alg),
        ];
        for (member, name) in signed {
            if name.as_deref().is_some_and(|name| !signing::is_name(name)) {
                // A token nobody can sign would be a fault at every exchange.
                found.at(member, "not supported; one of ES256, ES384, RS256, PS256, EdDSA, ML-DSA-65");
            }
        }
        if self.default_max_age.is_some_and(|age| age < 0) {
            found.at("default_max_age", "seconds, zero or more");
        }
    }
}

/// The response types that can be registered.
fn names(between: &str) -> String {
    ResponseType::names().collect::<Vec<_>>().join(between)
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

/// Whether this server may ever call it, as far as it can be seen: the outbound rules are asked when it is called.
pub(crate) fn is_callable(uri: &str) -> bool {
    let plain = |url: Url| url.host_str().is_some() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    is_page(uri) && Url::parse(uri).is_ok_and(plain)
}

fn is_page(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))
}
