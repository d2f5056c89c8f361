//! What the upstream is told under our signature: a short JWT (RFC 7519) about the caller of one request, never a token anybody takes for access.
//!
//! `identity.signed_assertion` sends it in a header of its own, `identity.phantom` in `Authorization: Bearer` where the caller's credential
//! stood: opaque outside, a JWT inside. It has a type, keys and an issuer of its own, so that neither this gateway nor the authorization
//! server nor a resource that expects access tokens (RFC 9068) can take it for one.
use http::{
    HeaderName,
    header::{self, AUTHORIZATION},
};
use ledger::Mistake;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::Alg;

use crate::{
    headers,
    identity::{self, Identity, Issuer},
    route::Route,
};

/// The `typ` of an assertion (RFC 8725 §3.11).
pub const TYP: &str = "identity+jwt";
/// Where it goes unless the route says otherwise.
pub const HEADER: &str = "X-Doorward-Assertion";
/// The longest assertion that is sent, octets.
pub const MAX_LEN: usize = 16 * 1024;
/// How long one counts at most, seconds.
pub const MAX_TTL_S: i64 = 300;
const TTL_S: i64 = 60;

/// The claims we write ourselves, or that mean something to whoever takes access tokens.
const OURS: [&str; 22] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "typ",
    "cnf",
    "client_id",
    "scope",
    "act",
    "device",
    "credential",
    "htm",
    "htu",
    "seq",
    "grant",
    "from",
    "status",
    "active",
    "token_type",
];

/// `true`, or how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignedAssertion {
    /// As it is by default, or not at all.
    Plain(bool),
    /// With these settings.
    Written(Settings),
}

/// How an assertion is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Default `X-Doorward-Assertion`; `Authorization` sends it as a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Its `aud`; default the upstream's id (of one written into the route the route's id), of a phantom token the route's audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Default 60 s, at most 5 min; never longer than the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Further claims of the credential that are passed on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// `ES256` (default) or `EdDSA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Whether it names the request it is for (`htm`, `htu`): one signature a request.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub request: bool,
}

/// An assertion made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub header: HeaderName,
    /// Whether it is sent as a bearer token.
    pub bearer: bool,
    pub audience: String,
    pub ttl_s: i64,
    pub claims: Vec<String>,
    pub alg: Alg,
    pub request: bool,
    /// Equal where all the rest is.
    pub id: usize,
}

/// What a route says of assertions: its settings, and whether the assertion takes the place of the credential.
fn said(route: &Route) -> Option<(Settings, bool)> {
    let identity = route.identity.as_ref()?;
    let settings = match &identity.signed_assertion {
        Some(SignedAssertion::Written(settings)) => Some(settings.clone()),
        Some(SignedAssertion::Plain(true)) => Some(Settings::default()),
        Some(SignedAssertion::Plain(false)) | None => None,
    };
    match (settings, identity.phantom) {
        (None, false) => None,
        (settings, phantom) => Some((settings.unwrap_or_default(), phantom)),
    }
}

fn is_authorization(name: &str) -> bool {
    name.eq_ignore_ascii_case("authorization")
}

/// Everything that is wrong with what a route says of assertions.
pub(crate) fn mistakes(route: &Route, out: &mut Vec<Mistake>) {
    let Some((settings, phantom)) = said(route) else { return };
    let at = |member: &str| format!("identity.signed_assertion.{member}");
    let whole = if phantom { "identity.phantom" } else { "identity.signed_assertion" };
    if route.auth.is_none() {
        out.push(Mistake::new(whole, "nobody is known where no credential is asked for: the route needs auth"));
    }
    let header = settings.header.as_deref();
    let bearer = phantom || header.is_some_and(is_authorization);
    if bearer && route.forward_credentials {
        out.push(Mistake::new(whole, "stands where the caller's credential would: forward_credentials cannot be true"));
    }
    if bearer && route.token_exchange.is_some() {
        out.push(Mistake::new(whole, "an exchanged token stands in Authorization: say one or the other"));
    }
    match header {
        Some(name) if phantom && !is_authorization(name) => {
            out.push(Mistake::new(at("header"), "a phantom token goes in Authorization; leave one of the two out"));
        }
        Some(name) if is_authorization(name) => {}
        Some(name) if HeaderName::from_bytes(name.as_bytes()).is_err() || name.contains('_') => {
            out.push(Mistake::new(at("header"), "a header name without '_' is needed (RFC 9110 §5.1)"));
        }
        Some(name) if headers::reserved(name) => {
            out.push(Mistake::new(at("header"), "this header belongs to the connection or to the request itself"));
        }
        _ => {}
    }
    let name = header.unwrap_or(HEADER);
    if !bearer && route.identity_headers().keys().any(|other| other.eq_ignore_ascii_case(name)) {
        out.push(Mistake::new(at("header"), "an identity header has this name"));
    }
    if settings.audience.as_ref().is_some_and(String::is_empty) {
        out.push(Mistake::new(at("audience"), "is empty"));
    }
    if settings.ttl.as_ref().is_some_and(|ttl| !tokens::duration::parse(ttl).is_some_and(|s| (1..=MAX_TTL_S).contains(&s))) {
        out.push(Mistake::new(at("ttl"), "a duration from 1s to 5m is needed"));
    }
    if settings.alg.as_deref().is_some_and(|alg| !["ES256", "EdDSA"].contains(&alg)) {
        out.push(Mistake::new(at("alg"), "must be \"ES256\" or \"EdDSA\""));
    }
    for (n, claim) in settings.claims.iter().enumerate() {
        if claim.is_empty() || OURS.contains(&claim.as_str()) {
            out.push(Mistake::new(at(&format!("claims[{n}]")), "is empty, or a claim that the gateway writes or keeps itself"));
        }
    }
    if settings.claims.len() > 32 {
        out.push(Mistake::new(at("claims"), "at most 32"));
    }
}

impl Assertion {
    /// A route's, made ready; `upstream` is the id of its upstream, if that has one.
    pub(crate) fn of(route: &Route, upstream: Option<&str>) -> Option<Self> {
        let (settings, phantom) = said(route)?;
        let name = if phantom { "Authorization" } else { settings.header.as_deref().unwrap_or(HEADER) };
        let audience = settings.audience.or_else(|| {
            let resource = route.auth.as_ref().and_then(|auth| auth.audience.clone());
            if phantom { resource } else { None }
        });
        let assertion = Self {
            header: HeaderName::from_bytes(name.as_bytes()).ok()?,
            bearer: is_authorization(name),
            audience: audience.unwrap_or_else(|| upstream.unwrap_or(&route.id).to_owned()),
            ttl_s: settings.ttl.as_deref().and_then(tokens::duration::parse).unwrap_or(TTL_S).clamp(1, MAX_TTL_S),
            claims: settings.claims,
            alg: settings.alg.as_deref().and_then(Alg::parse).unwrap_or(Alg::ES256),
            request: settings.request,
            id: 0,
        };
        let id = identity::mark(&assertion);
        Some(Self { id, ..assertion })
    }

    /// The header that callers may not use, if it is one of its own.
    #[must_use]
    pub fn alias(&self) -> Option<&str> {
        (self.header != AUTHORIZATION).then(|| self.header.as_str())
    }

    /// The claims about a caller now, and when they end. `request` is the method and the URI of the request it is for.
    #[must_use]
    pub fn claims(&self, gateway: &str, who: &Identity, request: Option<(&str, &str)>, now: i64) -> (Map<String, Value>, i64) {
        let exp = now.saturating_add(self.ttl_s).min(who.claims.exp);
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        put("iss", gateway.into());
        put("sub", who.claims.sub.as_str().into());
        put("aud", self.audience.as_str().into());
        put("iat", now.into());
        put("exp", exp.into());
        if let Some(client) = &who.claims.client_id {
            put("client_id", client.as_str().into());
        }
        if !who.claims.scope.is_empty() {
            put("scope", who.claims.scope.as_str().into());
        }
        if let Some(act) = who.claims.raw.get("act") {
            put("act", act.clone());
        }
        if let Some(device) = &who.device {
            put("device", json!({"id": device.id, "type": device.kind, "groups": device.groups}));
        }
        let issuer = match &who.issuer {
            Issuer::Own => who.claims.iss.as_str(),
            Issuer::Foreign(name) | Issuer::Authority(name) => name,
        };
        // Two issuers may give one name to two people: whose name it is goes with it.
        let mut credential = Map::new();
        credential.insert("kind".to_owned(), who.kind.as_str().into());
        if !issuer.is_empty() {
            credential.insert("iss".to_owned(), issuer.into());
        }
        put("credential", Value::Object(credential));
        for name in &self.claims {
            if let Some(value) = who.claims.raw.get(name).filter(|value| !value.is_null()) {
                put(name, value.clone());
            }
        }
        if let Some((method, uri)) = request {
            put("htm", method.into());
            put("htu", uri.into());
        }
        (out, exp)
    }
}

/// Whether a name is one that only the gateway writes, whatever the routes say.
pub(crate) const fn default_alias() -> &'static str {
    HEADER
}

/// The content type of the key set.
pub const JWKS_TYPE: (HeaderName, &str) = (header::CONTENT_TYPE, "application/jwk-set+json");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ledger::Record;

    use super::*;
    use crate::identity::{Device, tests::identity};

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn route(identity: Value) -> Route {
        serde_json::from_value(
            json!({"id": "r", "upstream": "u", "auth": {"accept": ["jwt"], "audience": "https://api"}, "identity": identity}),
        )
        .unwrap()
    }

    fn wrong(identity: Value) -> Vec<String> {
        route(identity).mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn what_a_route_may_say() {
        for good in [
            json!({"signed_assertion": true}),
            json!({"signed_assertion": false}),
            json!({"phantom": true}),
            json!({"signed_assertion": {"header": "Authorization", "ttl": "5m", "alg": "EdDSA", "claims": ["email"], "request": true}}),
            json!({"signed_assertion": {"ttl": "1s", "audience": "x"}, "phantom": true}),
        ] {
            assert_eq!(wrong(good.clone()), Vec::<String>::new(), "{good}");
        }
        for (bad, at) in [
            (json!({"header": "a_b"}), "header"),
            (json!({"header": "Host"}), "header"),
            (json!({"header": "x-doorward-subject"}), "header"),
            (json!({"ttl": "6m"}), "ttl"),
            (json!({"ttl": "0s"}), "ttl"),
            (json!({"alg": "HS256"}), "alg"),
            (json!({"alg": "RS256"}), "alg"),
            (json!({"claims": ["email", "cnf"]}), "claims[1]"),
            (json!({"audience": ""}), "audience"),
        ] {
            assert_eq!(wrong(json!({"signed_assertion": bad.clone()})), [format!("identity.signed_assertion.{at}")], "{bad}");
        }
        assert_eq!(wrong(json!({"signed_assertion": {"header": "X-A"}, "phantom": true})), ["identity.signed_assertion.header"]);
        let mut forwarding = route(json!({"phantom": true}));
        forwarding.forward_credentials = true;
        assert_eq!(forwarding.mistakes().first().map(|m| m.at.as_str()), Some("identity.phantom"));
        let public: Route =
            serde_json::from_value(json!({"id": "r", "upstream": "u", "public": true, "identity": {"signed_assertion": true}})).unwrap();
        assert_eq!(public.mistakes().first().map(|m| m.at.as_str()), Some("identity.signed_assertion"));
    }

    #[test]
    fn whose_it_is_for_and_where_it_goes() {
        let plain = Assertion::of(&route(json!({"signed_assertion": true})), Some("u")).unwrap();
        assert_eq!((plain.header.as_str(), plain.bearer, plain.audience.as_str(), plain.ttl_s), ("x-doorward-assertion", false, "u", 60));
        assert_eq!(Assertion::of(&route(json!({"signed_assertion": true})), None).unwrap().audience, "r");
        let again = Assertion::of(&route(json!({"signed_assertion": {"ttl": "60s"}})), Some("u")).unwrap();
        assert_eq!(again.id, plain.id, "the same, however it is written");
        assert_ne!(Assertion::of(&route(json!({"signed_assertion": true})), Some("v")).unwrap().id, plain.id);
        let phantom = Assertion::of(&route(json!({"phantom": true})), Some("u")).unwrap();
        assert_eq!((phantom.header, phantom.bearer, phantom.audience.as_str()), (AUTHORIZATION, true, "https://api"));
        assert_eq!(Assertion::of(&route(json!({"signed_assertion": false})), None), None);
    }

    #[test]
    fn it_tells_of_the_caller_and_never_outlives_the_credential() {
        let asks = Assertion::of(&route(json!({"signed_assertion": {"claims": ["email", "missing"], "ttl": "2m"}})), Some("u")).unwrap();
        let mut who = identity(json!({"sub": "alice", "client_id": "app", "scope": "read", "email": "a@x", "secret": 1, "exp": 1_000,
            "act": {"sub": "b"}, "cnf": {"jkt": "k"}}));
        who.device = Some(Arc::new(Device { id: "d".into(), kind: "sensor".into(), groups: vec!["hall".into()], ..Device::default() }));
        let (claims, exp) = asks.claims("https://gw", &who, Some(("GET", "https://h/p")), 500);
        assert_eq!(exp, 620);
        let expected = json!({"iss": "https://gw", "sub": "alice", "aud": "u", "iat": 500, "exp": 620, "client_id": "app", "scope": "read",
            "act": {"sub": "b"}, "device": {"id": "d", "type": "sensor", "groups": ["hall"]}, "credential": {"kind": "jwt", "iss": "https://id.example.com"},
            "email": "a@x", "htm": "GET", "htu": "https://h/p"});
        assert_eq!(Value::Object(claims), expected);
        assert_eq!(asks.claims("g", &who, None, 950).1, 1_000);
        who.issuer = Issuer::Foreign("https://other".into());
        assert_eq!(asks.claims("g", &who, None, 500).0.get("credential"), Some(&json!({"kind": "jwt", "iss": "https://other"})));
    }
}
