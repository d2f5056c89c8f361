//! Browser sessions on a route: its member `session`, the cookie, and whose pages may act with it.
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{COOKIE, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use ledger::Mistake;
use serde::{Deserialize, Serialize};
use url::Url;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What a route says about browser sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSession {
    /// Whether the upstream is sent the session's access token as `Authorization: Bearer`.
    pub forward_access_token: bool,
    /// `origin` (default): a request that may change something, or opens a WebSocket, must come from a page of this very host (or of
    /// `trusted_origins`); `off`: the upstream sees to that itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
    /// Origins whose pages may act with the session too, e.g. `https://app.example.com`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_origins: Vec<String>,
}

impl RouteSession {
    /// What is wrong with it; `accepted`: the route takes sessions at all.
    pub fn mistakes(&self, accepted: bool, out: &mut Vec<Mistake>) {
        if !accepted {
            out.push(Mistake::new("session", "is for routes whose auth.accept names \"session\""));
        }
        if self.csrf.as_deref().is_some_and(|csrf| !matches!(csrf, "origin" | "off")) {
            out.push(Mistake::new("session.csrf", "must be \"origin\" or \"off\""));
        }
        for (n, origin) in self.trusted_origins.iter().enumerate() {
            let good = Url::parse(origin).is_ok_and(|url| {
                url.origin().is_tuple() && matches!(url.scheme(), "https" | "http") && url.origin().ascii_serialization() == *origin
            });
            if !good {
                out.push(Mistake::new(format!("session.trusted_origins[{n}]"), "an origin is needed: https://host or https://host:port"));
            }
        }
    }
}

/// The same made ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub forward_access_token: bool,
    /// Pages of any site may act with the session.
    pub any_site: bool,
    pub trusted_origins: Vec<String>,
}

impl Rules {
    /// Made ready.
    #[must_use]
    pub fn new(given: &RouteSession) -> Self {
        Self {
            forward_access_token: given.forward_access_token,
            any_site: given.csrf.as_deref() == Some("off"),
            trusted_origins: given.trusted_origins.clone(),
        }
    }

    /// Whether a request with the session's cookie may act: it only reads, or it comes from a page that may. Browsers say where a request
    /// comes from; what says nothing is not let in by a cookie.
    #[must_use]
    pub fn may_act(&self, method: &Method, headers: &HeaderMap, scheme: &str, host: &str) -> bool {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !opens_websocket(headers);
        if reads || self.any_site {
            return true;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(_), Some(_)) => false,
            (Some(one), None) => {
                let told = one.to_str().unwrap_or_default();
                let site = headers.get(FETCH_SITE);
                // A page that wants no referrer has its forms say `null`; what kind of site it is of, the browser says all the same.
                self.trusted_origins.iter().any(|trusted| trusted == told)
                    || (told == "null" && site.is_some_and(|site| site == "same-origin"))
                    || (is_origin(told, scheme, host) && site.is_none_or(|site| site == "same-origin"))
            }
            (None, _) => headers.get(FETCH_SITE).is_some_and(|site| site == "same-origin"),
        }
    }
}

/// Whether a request may be a WebSocket's handshake. Servers that ask on behalf of others leave `Upgrade` out, which is for one hop; what a
/// page's script cannot leave out stays (RFC 6455 §4.1).
pub(crate) fn opens_websocket(headers: &HeaderMap) -> bool {
    [UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION].iter().any(|name| headers.contains_key(name))
        || headers.get(FETCH_MODE).is_some_and(|mode| mode == "websocket")
}

/// Whether an origin is that of this scheme and host.
fn is_origin(told: &str, scheme: &str, host: &str) -> bool {
    let of = |text: &str| Url::parse(text).ok().map(|url| url.origin()).filter(url::Origin::is_tuple);
    match (of(told), of(&format!("{scheme}://{host}"))) {
        (Some(told), Some(own)) => told == own,
        _ => false,
    }
}

/// How a cookie of the gateway is called and marked: behind TLS bound to the host (RFC 6265bis), on loopback without TLS as browsers take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    name: String,
    secure: bool,
}

impl Cookie {
    /// The cookie of that plain name.
    #[must_use]
    pub fn new(name: &str, secure: bool) -> Self {
        Self { name: if secure { format!("__Host-{name}") } else { name.to_owned() }, secure }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `Set-Cookie` with a value, for so many seconds or as long as the browser runs.
    #[must_use]
    pub fn set(&self, value: &str, seconds: Option<i64>) -> Option<HeaderValue> {
        let age = seconds.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        let secure = if self.secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={value}{age}; Path=/; HttpOnly; SameSite=Lax{secure}", self.name)).ok()
    }

    /// `Set-Cookie` that takes it away.
    #[must_use]
    pub fn remove(&self) -> Option<HeaderValue> {
        self.set("", Some(0))
    }
}

/// What a request's cookies say under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent<'a> {
    Nothing,
    One(&'a str),
    /// Somebody else set one: none is believed.
    Several,
}

/// The cookie of that name.
#[must_use]
pub fn sent<'a>(headers: &'a HeaderMap, name: &str) -> Sent<'a> {
    let mut found = Sent::Nothing;
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|b| *b == b';') {
            let pair = pair.trim_ascii();
            let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) else { continue };
            let Ok(value) = std::str::from_utf8(value) else { return Sent::Several };
            found = match found {
                Sent::Nothing => Sent::One(value),
                _ => return Sent::Several,
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(*name, HeaderValue::from_static(value));
        }
        out
    }

    #[test]
    fn a_page_of_another_origin_may_look_but_not_act() {
        let rules = Rules { trusted_origins: vec!["https://app.example".into()], ..Rules::default() };
        let may = |method: &Method, pairs: &[(&'static str, &'static str)]| rules.may_act(method, &headers(pairs), "https", "a.example");
        assert!(may(&Method::GET, &[("origin", "https://evil.example")]));
        for good in [
            &[("origin", "https://a.example")][..],
            &[("origin", "https://a.example:443"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-origin")],
            &[("origin", "null"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")],
        ] {
            assert!(may(&Method::POST, good), "{good:?}");
        }
        for evil in [
            &[][..],
            &[("origin", "null")],
            &[("origin", "null"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://a.example")],
            &[("origin", "https://a.example.evil.example")],
            &[("origin", "https://a.example:444")],
            &[("origin", "https://a.example"), ("sec-fetch-site", "cross-site")],
            &[("origin", "https://a.example"), ("origin", "https://a.example")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!may(&Method::POST, evil), "{evil:?}");
            assert!(!may(&Method::from_bytes(b"PURGE").unwrap(), evil), "{evil:?}");
        }
        assert!(!may(&Method::GET, &[("upgrade", "websocket"), ("origin", "https://evil.example")]));
        assert!(!may(&Method::GET, &[("upgrade", "websocket")]));
        // Fronts that ask for a decision leave `Upgrade` out.
        for mark in [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13"), ("sec-fetch-mode", "websocket")] {
            assert!(!may(&Method::GET, &[mark, ("origin", "https://evil.example")]), "{mark:?}");
            assert!(may(&Method::GET, &[mark, ("origin", "https://a.example")]), "{mark:?}");
        }
        let off = Rules { any_site: true, ..Rules::default() };
        assert!(off.may_act(&Method::POST, &headers(&[]), "https", "a.example"));
    }

    #[test]
    fn a_cookie_that_came_twice_is_not_believed() {
        assert_eq!(sent(&headers(&[("cookie", "a=1; s=x")]), "s"), Sent::One("x"));
        assert_eq!(sent(&headers(&[("cookie", "a=1"), ("cookie", "s=x")]), "s"), Sent::One("x"));
        assert_eq!(sent(&headers(&[("cookie", "s=x; s=y")]), "s"), Sent::Several);
        assert_eq!(sent(&headers(&[("cookie", "s=x"), ("cookie", "s=x")]), "s"), Sent::Several);
        assert_eq!(sent(&headers(&[("cookie", "ss=x; S=y")]), "s"), Sent::Nothing);
    }

    #[test]
    fn behind_tls_the_cookie_is_bound_to_the_host() {
        let line = |secure, seconds| Cookie::new("c", secure).set("v", seconds).unwrap().to_str().unwrap().to_owned();
        assert_eq!(line(true, None), "__Host-c=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(line(false, Some(60)), "c=v; Max-Age=60; Path=/; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn every_mistake_is_named() {
        let wrong = RouteSession {
            csrf: Some("maybe".into()),
            trusted_origins: vec!["https://a.example/".into(), "https://b.example".into()],
            ..RouteSession::default()
        };
        let mut out = Vec::new();
        wrong.mistakes(false, &mut out);
        assert_eq!(out.iter().map(|m| m.at.as_str()).collect::<Vec<_>>(), ["session", "session.csrf", "session.trusted_origins[0]"]);
    }
}
