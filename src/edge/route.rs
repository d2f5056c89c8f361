//! Routes as an administrator writes them (`/admin/v1/routes`).
use std::collections::BTreeMap;

use http::{HeaderName, Method};
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};

use crate::{
    assertion::SignedAssertion,
    bounds::Limits,
    canary::Canary,
    certificate::{CertificateRules, ClientCertificate},
    cors::Cors,
    exchange::TokenExchange,
    host, path,
    rate::RateLimits,
    session::RouteSession,
    upstream::{Upstream, good_id},
    validation::Validation,
    version::Version,
    version_match::VersionMatch,
};

/// Which requests a route is for. Every member given must match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Host names without port; empty: any host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Start of the normalised path; the longest wins. `/a` covers `/a` and `/a/…`, `/a/` covers `/a/…` only.
    pub path_prefix: String,
    /// Methods, case-sensitive; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Header names and the exact values they must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The version of the API the request has to ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionMatch>,
}

impl Default for Match {
    fn default() -> Self {
        Self { hosts: Vec::new(), path_prefix: "/".into(), methods: Vec::new(), headers: BTreeMap::new(), version: None }
    }
}

/// An upstream by name or written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UpstreamRef {
    /// The id of an upstream.
    Named(String),
    /// An upstream of this route alone.
    Inline(Box<Upstream>),
}

impl Default for UpstreamRef {
    fn default() -> Self {
        Self::Named(String::new())
    }
}

/// When a locally good token is still asked about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Local check and pushed revocations; introspection when the feed is too old; refusal when that fails.
    #[default]
    Push,
    /// Introspection every time, cached at most `cache_ttl`.
    Introspect,
    /// Signature and times only.
    Offline,
}

/// What a route demands of a caller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// `jwt`, `opaque`, `none` (makes the credential optional).
    pub accept: Vec<String>,
    /// `self` or issuers; empty: `self`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// What must be among the token's `aud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Scopes that must all be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    pub freshness: Freshness,
    /// How long an introspection answer may be kept, e.g. `"5s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<String>,
    /// How old the revocation feed may be before tokens are introspected, e.g. `"5s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_staleness: Option<String>,
    /// `dpop`, `mtls`: the token must be bound to a key by one of them; empty: it may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sender_constraint: Vec<String>,
    /// Authentication context classes; the token's `acr` must be one of them or a stronger one (RFC 9470); empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acr_values: Vec<String>,
    /// How long ago the person may have logged in (the token's `auth_time`), e.g. `"5m"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Which client certificates count, and for whom; only with `mtls` ([`crate::certificate`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateRules>,
}

/// What the upstream is told of the caller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// Header → claim. Absent: `X-Doorward-Subject`=sub, `X-Doorward-Client`=client_id, `X-Doorward-Scope`=scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// A short JWT of the gateway's own about the caller ([`crate::assertion`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_assertion: Option<SignedAssertion>,
    /// The assertion takes the place of the credential: opaque outside, a JWT inside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub phantom: bool,
    /// Tells the upstream the client certificate of the connection in `Client-Cert` (RFC 9440); `"chain"`: and what is between it and
    /// its authority in `Client-Cert-Chain`.
    #[serde(skip_serializing_if = "ClientCertificate::is_absent")]
    pub client_certificate: ClientCertificate,
}

/// A gateway route. Without `auth` and without `public: true` it lets nobody through.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    pub id: String,
    #[serde(rename = "match")]
    pub matches: Match,
    pub upstream: UpstreamRef,
    /// Removes `match.path_prefix` from the forwarded path, keeping the leading slash.
    pub strip_prefix: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityHeaders>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Of browser sessions, where `auth.accept` names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<RouteSession>,
    /// Lets everybody through. Must be said.
    pub public: bool,
    /// Passes the caller's credentials on to the upstream.
    pub forward_credentials: bool,
    /// The caller's token becomes one for the upstream (RFC 8693).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<TokenExchange>,
    /// Tells the upstream the caller's address, scheme and host in `X-Forwarded-*`.
    pub forwarded: bool,
    /// Cedar policies that decide over every request ([`crate::rules`]), or `shared`: the stored ones do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Cedar policies (or `shared`) that are asked beside the ones that decide; where they differ is counted and logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_shadow: Option<String>,
    /// What policies know it by besides its id and upstream: it is in each `Tag`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Which pages of other origins may call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// What its requests have to look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The life of the API's version that this route serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Sends a part of the requests to another upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// The identity headers of a route that names none.
pub const DEFAULT_IDENTITY: [(&str, &str); 3] =
    [("X-Doorward-Subject", "sub"), ("X-Doorward-Client", "client_id"), ("X-Doorward-Scope", "scope")];

impl Route {
    /// Header → claim, the default if the route names none.
    #[must_use]
    pub fn identity_headers(&self) -> BTreeMap<String, String> {
        match self.identity.as_ref().and_then(|i| i.headers.clone()) {
            Some(map) => map,
            None => DEFAULT_IDENTITY.iter().map(|(h, c)| ((*h).to_owned(), (*c).to_owned())).collect(),
        }
    }
}

impl Record for Route {
    const KIND: ObjectKind = ObjectKind::Route;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut out = Vec::new();
        if !good_id(&self.id) {
            out.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        self.matches.mistakes(&mut out);
        match &self.upstream {
            UpstreamRef::Named(id) if id.is_empty() => {
                out.push(Mistake::new("upstream", "an upstream's id, or {\"targets\": …}, is needed"));
            }
            UpstreamRef::Named(_) => {}
            UpstreamRef::Inline(up) => {
                out.extend(up.faults().into_iter().map(|m| Mistake::new(format!("upstream.{}", m.at), m.why)));
            }
        }
        match (&self.auth, self.public) {
            (Some(_), true) => out.push(Mistake::new("public", "a public route has no auth: say one or the other")),
            (Some(auth), false) => auth.mistakes(&mut out),
            _ => {}
        }
        if let Some(limit) = &self.rate_limit {
            limit.mistakes(self.auth.is_some(), &mut out);
        }
        if let Some(limits) = &self.limits {
            limits.mistakes(self.auth.is_some(), &mut out);
        }
        if let Some(version) = &self.version {
            version.mistakes(&mut out);
        }
        if let Some(canary) = &self.canary {
            canary.mistakes(self.auth.is_some(), &mut out);
        }
        if let Some(session) = &self.session {
            session.mistakes(self.auth.as_ref().is_some_and(|auth| auth.accepts("session")), &mut out);
            if session.forward_access_token && self.identity.as_ref().is_some_and(|identity| identity.phantom) {
                out.push(Mistake::new("session.forward_access_token", "identity.phantom stands in the same place: say one of them"));
            }
        }
        self.identity_mistakes(&mut out);
        crate::assertion::mistakes(self, &mut out);
        crate::exchange::mistakes(self, &mut out);
        crate::rules::mistakes(self, &mut out);
        if let Some(cors) = &self.cors {
            cors.mistakes(self, &mut out);
        }
        if let Some(Err(mistakes)) = self.validation.as_ref().map(Validation::ready) {
            out.extend(mistakes);
        }
        out
    }
}

impl Route {
    fn identity_mistakes(&self, out: &mut Vec<Mistake>) {
        let Some(identity) = &self.identity else { return };
        let mut seen = std::collections::BTreeSet::new();
        for (header, claim) in identity.headers.iter().flatten() {
            let at = format!("identity.headers.{header}");
            if !seen.insert(header.to_ascii_lowercase()) {
                out.push(Mistake::new(at.clone(), "is named twice: names of headers do not differ by case"));
            }
            if HeaderName::from_bytes(header.as_bytes()).is_err() || header.contains('_') {
                out.push(Mistake::new(at.clone(), "a header name without '_' is needed (RFC 9110 §5.1)"));
            } else if crate::headers::reserved(header) {
                out.push(Mistake::new(at.clone(), "this header belongs to the connection or to the request itself"));
            }
            if claim.is_empty() {
                out.push(Mistake::new(at, "names no claim"));
            }
        }
    }
}

impl Match {
    fn mistakes(&self, out: &mut Vec<Mistake>) {
        match path::normalise(&self.path_prefix) {
            Err(why) => out.push(Mistake::new("match.path_prefix", format!("must start with '/' and be a plain path: {}", why.reason()))),
            Ok(normal) if normal != self.path_prefix => {
                out.push(Mistake::new("match.path_prefix", format!("is written {normal:?} after normalisation; write it so")));
            }
            Ok(_) => {}
        }
        for (n, name) in self.hosts.iter().enumerate() {
            let good = host::Host::parse(name.as_bytes()).is_ok_and(|h| h.port.is_none()) && !name.contains('*');
            if !good {
                out.push(Mistake::new(format!("match.hosts[{n}]"), "a host name or address without port or wildcard is needed"));
            }
        }
        for (n, method) in self.methods.iter().enumerate() {
            let at = format!("match.methods[{n}]");
            if Method::from_bytes(method.as_bytes()).is_err() {
                out.push(Mistake::new(at, "not a method name (RFC 9110 §9.1)"));
            } else if matches!(method.as_str(), "TRACE" | "TRACK" | "CONNECT") {
                out.push(Mistake::new(at, "TRACE, TRACK and CONNECT are never forwarded"));
            } else if method.bytes().any(|b| b.is_ascii_lowercase()) {
                out.push(Mistake::new(at, "method names are case-sensitive; write it in capitals"));
            }
        }
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || name.contains('_') || http::HeaderValue::from_str(value).is_err() {
                out.push(Mistake::new(format!("match.headers.{name}"), "a header field without '_' in its name is needed (RFC 9110 §5)"));
            }
        }
        if let Some(version) = &self.version {
            version.mistakes(out);
        }
    }
}

impl Auth {
    /// Whether a kind of credential is accepted.
    #[must_use]
    pub fn accepts(&self, kind: &str) -> bool {
        self.accept.iter().any(|accepted| accepted == kind)
    }

    fn mistakes(&self, out: &mut Vec<Mistake>) {
        let (mut tokens_accepted, mut others_accepted) = (false, false);
        for (n, kind) in self.accept.iter().enumerate() {
            let at = format!("auth.accept[{n}]");
            match kind.as_str() {
                "jwt" | "opaque" => tokens_accepted = true,
                "none" => {}
                "mtls" | "session" | "api_key" => others_accepted = true,
                _ => out.push(Mistake::new(at, "must be \"jwt\", \"opaque\", \"api_key\", \"mtls\", \"session\" or \"none\"")),
            }
        }
        if !tokens_accepted && !others_accepted {
            let why = "name what is accepted, such as \"jwt\" or \"opaque\"; a route for everybody says public: true instead of auth";
            out.push(Mistake::new("auth.accept", why));
        }
        crate::certificate::mistakes(self, out);
        if tokens_accepted && self.audience.as_ref().is_none_or(String::is_empty) {
            out.push(Mistake::new("auth.audience", "the audience tokens must be meant for is needed (RFC 9068 §4)"));
        }
        let token = |b: u8| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b);
        for (n, scope) in self.scopes.iter().enumerate() {
            if scope.is_empty() || !scope.bytes().all(token) {
                out.push(Mistake::new(format!("auth.scopes[{n}]"), "not a scope name (RFC 6749 §3.3)"));
            }
        }
        for (n, class) in self.acr_values.iter().enumerate() {
            if class.is_empty() || !class.bytes().all(token) {
                out.push(Mistake::new(format!("auth.acr_values[{n}]"), "not an authentication context class"));
            }
        }
        for (at, text) in
            [("auth.cache_ttl", &self.cache_ttl), ("auth.max_staleness", &self.max_staleness), ("auth.max_age", &self.max_age)]
        {
            if text.as_ref().is_some_and(|t| tokens::duration::parse(t).is_none()) {
                out.push(Mistake::new(at, "a duration such as \"5s\" is needed"));
            }
        }
        if !self.sender_constraint.is_empty() && self.accepts("api_key") {
            out.push(Mistake::new(
                "auth.sender_constraint",
                "an API key is bound to nobody: a route that demands that cannot accept \"api_key\"",
            ));
        }
        if !self.sender_constraint.is_empty() && self.accepts("session") {
            out.push(Mistake::new(
                "auth.sender_constraint",
                "a browser's session is bound to no key: a route that demands that cannot accept \"session\"",
            ));
        }
        for (n, kind) in self.sender_constraint.iter().enumerate() {
            if !matches!(kind.as_str(), "dpop" | "mtls") {
                out.push(Mistake::new(format!("auth.sender_constraint[{n}]"), "must be \"dpop\" or \"mtls\""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(value: serde_json::Value) -> Vec<String> {
        serde_json::from_value::<Route>(value).unwrap().mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn the_contracts_routes_are_good() {
        let read = json!({"id": "read", "match": {"path_prefix": "/api/", "methods": ["GET"]}, "upstream": "echo", "auth": {"accept": ["jwt", "opaque"],
            "issuers": ["self", "https://other.example.com"], "audience": "https://api.example.com", "scopes": ["read"], "freshness": "push"}});
        assert_eq!(mistakes(read), Vec::<String>::new());
        let open = json!({"id": "open", "match": {"path_prefix": "/public/"}, "upstream": {"targets": [{"url": "http://127.0.0.1:9000"}]}, "public": true});
        assert_eq!(mistakes(open), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_built_is_refused_not_ignored() {
        let route = json!({"id": "r", "upstream": "u", "policy": "permit(principal)", "cors": {}, "validation": {},
            "auth": {"accept": ["jwt", "api_key", "mtls"], "audience": "a", "sender_constraint": ["dpop", "mtls", "luck"], "acr_values": ["urn:x", "a\"b"], "max_age": "0s"}});
        let got = mistakes(route);
        for at in [
            "policy",
            "cors.allow_origins",
            "validation",
            "auth.sender_constraint",
            "auth.sender_constraint[2]",
            "auth.acr_values[1]",
            "auth.max_age",
        ] {
            assert!(got.iter().any(|m| m == at), "{at} in {got:?}");
        }
        assert!(serde_json::from_value::<Route>(json!({"id": "r", "nonsense": 1})).is_err());
    }

    #[test]
    fn every_mistake_of_a_route_is_named_at_once() {
        let route = json!({"id": "", "match": {"path_prefix": "/a/../b", "methods": ["get", "TRACE"], "hosts": ["a:80", "*.b"]}, "upstream": "",
            "auth": {"accept": ["none"]}, "public": true, "rate_limit": {"key": "phase-of-moon", "rate": 0, "period": "x"}});
        let got = mistakes(route);
        for at in [
            "id",
            "match.path_prefix",
            "match.methods[0]",
            "match.methods[1]",
            "match.hosts[0]",
            "match.hosts[1]",
            "upstream",
            "public",
            "rate_limit.key",
            "rate_limit.rate",
            "rate_limit.period",
        ] {
            assert!(got.iter().any(|m| m == at), "{at} in {got:?}");
        }
    }

    #[test]
    fn one_header_is_not_told_twice_and_none_is_asked_for_that_never_comes() {
        let route = json!({"id": "r", "match": {"headers": {"x_y": "1"}}, "upstream": "u", "public": true,
            "identity": {"headers": {"X-A": "sub", "x-a": "client_id"}}});
        assert_eq!(mistakes(route), ["match.headers.x_y", "identity.headers.x-a"]);
    }
}
