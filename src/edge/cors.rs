//! Which pages of other origins may call a route and read its answers (Fetch §3.2).
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use ledger::Mistake;
use serde::{Deserialize, Serialize};

use crate::{host::Host, route::Route};

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// What a preflight answer depends on.
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
);
/// Methods a page may use without asking (Fetch §2.2.1).
const SAFELISTED: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];
/// Browsers keep an answer no longer.
const MAX_AGE_S: i64 = 86_400;
const MOST: usize = 100;

/// `cors` of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Origins (`https://app.example.com`), with one label left open (`https://*.example.com`), `null`, or `*` alone.
    pub allow_origins: Vec<String>,
    /// Absent: those of the route, else GET, HEAD and POST.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Header names, or `*` alone (which does not stand for `Authorization`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Header names that a page may read, or `*` alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Whether cookies and client certificates go with a page's requests.
    pub allow_credentials: bool,
    /// How long a browser may remember an answer to a preflight, e.g. `"10m"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Whether pages of public addresses may call this route at a private one.
    pub allow_private_network: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    Any,
    These {
        exact: Vec<Box<str>>,
        /// Before the open label and after it.
        open: Vec<(Box<str>, Box<str>)>,
    },
}

/// The rules made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    origins: Origins,
    methods: Vec<Method>,
    any_header: bool,
    /// In lower case.
    headers: Vec<Box<str>>,
    credentials: bool,
    private_network: bool,
    allow_methods: HeaderValue,
    allow_headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

/// `null` as a route has to write it.
const NULL: &str = "null";

/// An origin in its one spelling, or with `*` for its first label.
fn origin(text: &str) -> Result<(), &'static str> {
    if text == NULL {
        return Ok(());
    }
    let (scheme, host) = text.split_once("://").ok_or("an origin such as https://app.example.com is needed")?;
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    if !scheme_ok {
        return Err("the scheme of an origin is written in lower case");
    }
    let named = match host.strip_prefix("*.") {
        Some(rest) if !rest.contains('.') || rest.split('.').any(str::is_empty) => return Err("an open label needs two labels after it"),
        Some(rest) => rest,
        None => host,
    };
    if named.contains('*') {
        return Err("only the whole first label may be open: https://*.example.com");
    }
    let parsed = Host::parse(named.as_bytes()).map_err(|_| "an origin has a host, perhaps a port, and nothing after it")?;
    if named.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a host is written in lower case");
    }
    let default = match scheme {
        "https" => Some("443"),
        "http" => Some("80"),
        _ => None,
    };
    if parsed.port.is_some() && named.rsplit(':').next() == default {
        return Err("browsers leave out a scheme's own port: so does an origin here");
    }
    Ok(())
}

impl Cors {
    pub(crate) fn mistakes(&self, route: &Route, out: &mut Vec<Mistake>) {
        let mut wrong = |at: String, why: &str| out.push(Mistake::new(format!("cors.{at}"), why));
        if self.allow_origins.is_empty() || self.allow_origins.len() > MOST {
            wrong("allow_origins".into(), "1 to 100 origins, or \"*\"");
        }
        let any = self.allow_origins.iter().any(|o| o == "*");
        for (n, text) in self.allow_origins.iter().enumerate() {
            if text == "*" {
                if self.allow_origins.len() > 1 {
                    wrong(format!("allow_origins[{n}]"), "\"*\" stands alone");
                }
            } else if let Err(why) = origin(text) {
                wrong(format!("allow_origins[{n}]"), why);
            }
        }
        if self.allow_credentials {
            if any {
                wrong("allow_credentials".into(), "with \"*\" every page on the web would act for its visitor: name the origins");
            }
            if self.allow_origins.iter().any(|o| o == NULL) {
                wrong("allow_credentials".into(), "\"null\" is the origin of every sandboxed page: it never acts for its visitor");
            }
            let session = route.auth.as_ref().is_some_and(|auth| auth.accept.iter().any(|kind| kind == "session"));
            if session && self.allow_origins.iter().any(|o| o.contains("://*.")) {
                wrong("allow_credentials".into(), "on a route that takes browser sessions, name each origin");
            }
            for (member, names) in [("allow_headers", &self.allow_headers), ("expose_headers", &self.expose_headers)] {
                if names.iter().any(|n| n == "*") {
                    wrong(member.into(), "with credentials \"*\" means a header of that name (Fetch §3.2.5): name the headers");
                }
            }
        }
        for (member, names) in [("allow_headers", &self.allow_headers), ("expose_headers", &self.expose_headers)] {
            if names.len() > MOST {
                wrong(member.into(), "at most 100 names");
            }
            for (n, name) in names.iter().enumerate() {
                if name == "*"
                    && names.len() > 1
                    && !(member == "allow_headers" && names.iter().all(|n| n == "*" || n.eq_ignore_ascii_case("authorization")))
                {
                    wrong(format!("{member}[{n}]"), "\"*\" stands alone (or beside Authorization, which it does not mean)");
                } else if name != "*" && HeaderName::from_bytes(name.as_bytes()).is_err() {
                    wrong(format!("{member}[{n}]"), "not a header name (RFC 9110 §5.1)");
                }
            }
        }
        for (n, method) in self.allow_methods.iter().enumerate() {
            let known = Method::from_bytes(method.as_bytes()).is_ok() && !method.bytes().any(|b| b.is_ascii_lowercase());
            if !known || matches!(method.as_str(), "TRACE" | "TRACK" | "CONNECT") {
                wrong(format!("allow_methods[{n}]"), "a method in capitals that is forwarded");
            }
        }
        if self.max_age.as_ref().is_some_and(|text| tokens::duration::parse(text).is_none_or(|s| s > MAX_AGE_S)) {
            wrong("max_age".into(), "a duration such as \"10m\", at most 1d, is needed");
        }
    }

    /// Made ready for a route that takes these methods (none: any).
    #[must_use]
    pub fn ready(&self, of_route: &[Method]) -> Option<Box<Ready>> {
        let origins = if self.allow_origins.iter().any(|o| o == "*") {
            Origins::Any
        } else {
            let open = self
                .allow_origins
                .iter()
                .filter_map(|o| o.split_once("*.").map(|(scheme, rest)| (scheme.into(), format!(".{rest}").into())));
            let exact = self.allow_origins.iter().filter(|o| !o.contains("*.")).map(|o| o.as_str().into());
            Origins::These { exact: exact.collect(), open: open.collect() }
        };
        let mut methods: Vec<Method> = self.allow_methods.iter().filter_map(|m| Method::from_bytes(m.as_bytes()).ok()).collect();
        if methods.is_empty() {
            methods = if of_route.is_empty() { SAFELISTED.to_vec() } else { of_route.to_vec() };
        }
        let list = |names: &[String]| if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() };
        Some(Box::new(Ready {
            origins,
            allow_methods: HeaderValue::from_str(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")).ok()?,
            methods,
            any_header: self.allow_headers.iter().any(|n| n == "*"),
            headers: self.allow_headers.iter().map(|n| n.to_ascii_lowercase().into()).collect(),
            credentials: self.allow_credentials,
            private_network: self.allow_private_network,
            allow_headers: list(&self.allow_headers),
            expose: list(&self.expose_headers),
            max_age: self.max_age.as_deref().and_then(tokens::duration::parse).map(HeaderValue::from),
        }))
    }
}

/// What a page asks before it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight<'a> {
    pub origin: &'a HeaderValue,
    pub method: Method,
}

impl<'a> Preflight<'a> {
    /// Whether a request is one: OPTIONS with one `Origin` and one `Access-Control-Request-Method`.
    #[must_use]
    pub fn of(method: &Method, headers: &'a HeaderMap) -> Option<Self> {
        if *method != Method::OPTIONS {
            return None;
        }
        let only = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        let (origin, asked) = (only(ORIGIN)?, only(ACCESS_CONTROL_REQUEST_METHOD)?);
        Some(Self { origin, method: Method::from_bytes(asked.as_bytes()).ok()? })
    }
}

impl Ready {
    /// Whether pages of an origin may call.
    #[must_use]
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        match &self.origins {
            // An opaque origin counts as any other here: nothing of the visitor's goes with it.
            Origins::Any => true,
            Origins::These { exact, open } => {
                let Ok(text) = origin.to_str() else { return false };
                exact.iter().any(|own| **own == *text)
                    || open.iter().any(|(before, after)| {
                        let label = text.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                        label.is_some_and(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
                    })
            }
        }
    }

    /// The answer to a preflight.
    ///
    /// # Errors
    /// Why not, for the log; whoever asks hears nothing but that it may not.
    pub fn preflight(&self, asked: &Preflight<'_>, headers: &HeaderMap) -> Result<HeaderMap, &'static str> {
        if !self.allows(asked.origin) {
            return Err("cors_origin");
        }
        if !self.methods.contains(&asked.method) && !SAFELISTED.contains(&asked.method) {
            return Err("cors_method");
        }
        for line in headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
            let line = line.to_str().map_err(|_| "cors_header")?.to_ascii_lowercase();
            let known = |name: &str| self.headers.iter().any(|own| **own == *name) || (self.any_header && name != "authorization");
            if line.split(',').map(|name| name.trim_matches([' ', '\t'])).any(|name| !name.is_empty() && !known(name)) {
                return Err("cors_header");
            }
        }
        let mut out = HeaderMap::new();
        let private = headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|v| v == "true");
        if private && !self.private_network {
            return Err("cors_private_network");
        }
        if private {
            out.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        self.name(&mut out, asked.origin);
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone());
        if let Some(names) = &self.allow_headers {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        if let Some(age) = &self.max_age {
            out.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        Ok(out)
    }

    fn name(&self, out: &mut HeaderMap, origin: &HeaderValue) {
        let any = self.origins == Origins::Any && !self.credentials;
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, if any { HeaderValue::from_static("*") } else { origin.clone() });
        if self.credentials {
            out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// Says on an answer, the upstream's or our own, who may read it. What the upstream says of that itself does not count.
    pub fn decorate(&self, answer: &mut HeaderMap, origin: Option<&HeaderValue>) {
        let theirs: Vec<HeaderName> = answer.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in theirs {
            answer.remove(name);
        }
        vary(answer, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            self.name(answer, origin);
            if let Some(names) = &self.expose {
                answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
            }
        }
    }

    /// What every answer to a preflight varies by.
    pub fn vary_preflight(answer: &mut HeaderMap) {
        vary(answer, VARY_PREFLIGHT);
    }
}

fn vary(answer: &mut HeaderMap, by: HeaderValue) {
    let names = |value: &HeaderValue| value.to_str().unwrap_or_default().to_ascii_lowercase();
    let has = |name: &str| answer.get_all(VARY).iter().any(|v| names(v).split(',').any(|own| own.trim() == name || own.trim() == "*"));
    if !names(&by).split(',').all(|name| has(name.trim())) {
        answer.append(VARY, by);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Cors {
        serde_json::from_value(value).unwrap()
    }

    fn wrong(value: Value, accept: &[&str]) -> Vec<String> {
        let route: Route = serde_json::from_value(json!({"id": "r", "upstream": "u", "auth": {"accept": accept}})).unwrap();
        let mut out = Vec::new();
        read(value).mistakes(&route, &mut out);
        out.into_iter().map(|m| m.at).collect()
    }

    fn header(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn an_origin_is_compared_as_it_is_spelled() {
        let ready = read(json!({"allow_origins": ["https://app.example.com", "http://127.0.0.1:3000", "https://*.example.org"]}))
            .ready(&[])
            .unwrap();
        for good in ["https://app.example.com", "http://127.0.0.1:3000", "https://a.example.org", "https://a-1.example.org"] {
            assert!(ready.allows(&HeaderValue::from_static(good)), "{good}");
        }
        for bad in [
            "null",
            "https://app.example.com.evil.net",
            "https://app.example.com:8443",
            "http://app.example.com",
            "https://App.example.com",
            "https://example.org",
            "https://.example.org",
            "https://a.b.example.org",
            "https://evil.net#.example.org",
            "https://evil.net/.example.org",
            "https://evil.net:1.example.org",
            "https://aexample.org",
            "https://a.example.org:444",
            "",
        ] {
            assert!(!ready.allows(&HeaderValue::from_static(bad)), "{bad}");
        }
    }

    #[test]
    fn every_mistake_is_named() {
        assert_eq!(
            wrong(
                json!({"allow_origins": ["https://a.example", "https://*.a.example"], "allow_headers": ["X-A"], "max_age": "1d"}),
                &["jwt"]
            ),
            Vec::<String>::new()
        );
        assert_eq!(wrong(json!({"allow_origins": []}), &["jwt"]), ["cors.allow_origins"]);
        for bad in [
            "a.example",
            "https://a.example/",
            "https://A.example",
            "HTTPS://a.example",
            "https://a.example:443",
            "http://a.example:80",
            "https://*",
            "https://*.example",
            "https://a*.b.example",
            "https://*.*.b.example",
            "https://u@a.example",
        ] {
            assert_eq!(wrong(json!({"allow_origins": [bad]}), &["jwt"]), ["cors.allow_origins[0]"], "{bad}");
        }
        assert_eq!(wrong(json!({"allow_origins": ["*"], "allow_credentials": true}), &["jwt"]), ["cors.allow_credentials"]);
        assert_eq!(wrong(json!({"allow_origins": ["null"], "allow_credentials": true}), &["jwt"]), ["cors.allow_credentials"]);
        assert_eq!(
            wrong(json!({"allow_origins": ["https://*.a.example"], "allow_credentials": true}), &["session"]),
            ["cors.allow_credentials"]
        );
        assert_eq!(
            wrong(
                json!({"allow_origins": ["https://a.example"], "allow_credentials": true, "allow_headers": ["*"], "expose_headers": ["*"]}),
                &["jwt"]
            ),
            ["cors.allow_headers", "cors.expose_headers"]
        );
        assert_eq!(
            wrong(json!({"allow_origins": ["*"], "allow_headers": ["a b"], "allow_methods": ["get", "TRACE"], "max_age": "2d"}), &["jwt"]),
            ["cors.allow_headers[0]", "cors.allow_methods[0]", "cors.allow_methods[1]", "cors.max_age"]
        );
    }

    #[test]
    fn a_preflight_is_answered_by_what_it_asks() {
        let ready = read(json!({"allow_origins": ["https://a.example"], "allow_methods": ["GET", "PUT"], "allow_headers": ["Authorization", "X-Mine"], "allow_credentials": true, "max_age": "10m"})).ready(&[]).unwrap();
        let ask = |origin: &'static str, method: &'static str, names: &'static str, private: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, header(origin));
            headers.insert(ACCESS_CONTROL_REQUEST_METHOD, header(method));
            headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, header(names));
            if private {
                headers.insert(REQUEST_PRIVATE_NETWORK, header("true"));
            }
            ready.preflight(&Preflight::of(&Method::OPTIONS, &headers).unwrap(), &headers)
        };
        let good = ask("https://a.example", "PUT", "authorization, x-mine", false).unwrap();
        assert_eq!(good[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!((&good[ACCESS_CONTROL_ALLOW_CREDENTIALS], &good[ACCESS_CONTROL_MAX_AGE]), (&header("true"), &header("600")));
        assert_eq!(ask("https://b.example", "PUT", "", false), Err("cors_origin"));
        assert_eq!(ask("https://a.example", "DELETE", "", false), Err("cors_method"));
        assert_eq!(ask("https://a.example", "PUT", "x-mine,x-other", false), Err("cors_header"));
        assert_eq!(ask("https://a.example", "PUT", "", true), Err("cors_private_network"));
        let open = read(json!({"allow_origins": ["*"], "allow_headers": ["*"]})).ready(&[Method::DELETE]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, header("x-any"));
        let page = header("https://any.example");
        let asked = Preflight { origin: &page, method: Method::DELETE };
        assert_eq!(open.preflight(&asked, &headers).unwrap()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, header("Authorization"));
        assert_eq!(open.preflight(&asked, &headers), Err("cors_header"), "a credential is named or not allowed");
    }

    #[test]
    fn what_the_upstream_says_of_origins_does_not_count() {
        let ready = read(json!({"allow_origins": ["https://a.example"], "expose_headers": ["X-Total"]})).ready(&[]).unwrap();
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, header("*"));
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, header("true"));
        answer.insert(VARY, header("Accept-Encoding"));
        let mut other = answer.clone();
        ready.decorate(&mut answer, Some(&header("https://a.example")));
        assert_eq!(
            (&answer[ACCESS_CONTROL_ALLOW_ORIGIN], &answer[ACCESS_CONTROL_EXPOSE_HEADERS]),
            (&header("https://a.example"), &header("X-Total"))
        );
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(answer.get_all(VARY).iter().collect::<Vec<_>>(), ["Accept-Encoding", "Origin"]);
        ready.decorate(&mut other, Some(&header("https://b.example")));
        assert!(!other.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && other.contains_key(VARY));
        ready.decorate(&mut other, None);
        assert_eq!(other.get_all(VARY).iter().count(), 2, "said once");
    }
}
