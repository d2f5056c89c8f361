//! What a front tells of the request it asks about: in exactly one dialect, completely, and without a word that contradicts another.
//!
//! A front passes on what its client sent beside what it says itself. Whatever it forgot to overwrite may be the client's word for which
//! path is asked for (CVE-2026-40575): so each member has to be there once, and members of another dialect have to be absent.
use std::net::IpAddr;

use edge::{Refusal, forwarded};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use rustls_pki_types::CertificateDer;

/// How a front asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Either of the next two, whichever it is.
    Any,
    /// nginx `auth_request`: `X-Original-Method` and `X-Original-URL` (or `X-Original-URI` with `X-Forwarded-Proto` and `-Host`).
    Nginx,
    /// Traefik, Caddy, HAProxy: `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`.
    Forward,
    /// Envoy's `ext_authz` over HTTP: the request itself, its path after `/auth/envoy`.
    Envoy,
    /// Envoy's `ext_authz` over gRPC.
    Grpc,
}

impl Dialect {
    /// Its name in logs and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Nginx => "nginx",
            Self::Forward => "forward",
            Self::Envoy => "envoy_http",
            Self::Grpc => "envoy_grpc",
        }
    }
}

/// Where the paths of Envoy's dialect begin.
pub(crate) const ENVOY: &str = "/auth/envoy";

const ORIGINAL_METHOD: &str = "x-original-method";
const ORIGINAL_URL: &str = "x-original-url";
const ORIGINAL_URI: &str = "x-original-uri";
const METHOD: &str = "x-forwarded-method";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";
const URI: &str = "x-forwarded-uri";
const FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

/// What is the front's or the connection's and not the client's: taken off before anything is decided.
const FRONTS: [&str; 17] = [
    ORIGINAL_METHOD,
    ORIGINAL_URL,
    ORIGINAL_URI,
    METHOD,
    PROTO,
    HOST,
    URI,
    FOR,
    FORWARDED,
    "client-cert",
    "client-cert-chain",
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-server",
    "connection",
    "content-length",
    "transfer-encoding",
];

/// The request that is asked about.
pub(crate) struct Original {
    pub method: Method,
    pub https: bool,
    /// As it came, normalised by nobody.
    pub path: String,
    pub query: Option<String>,
    pub source: IpAddr,
    /// The client's, with the `Host` that counts.
    pub headers: HeaderMap,
    /// The client's certificates that the front has seen proved, leaf first.
    pub chain: Option<Vec<CertificateDer<'static>>>,
    /// Whether the front takes headers off that are named to it.
    pub removes: bool,
}

const fn wrong<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Malformed(why))
}

/// The only value of a name; `None` if there is none.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => match std::str::from_utf8(one.as_bytes()) {
            Ok(text) if !text.is_empty() => Ok(Some(text)),
            _ => wrong("front_empty"),
        },
        _ => wrong("front_twice"),
    }
}

fn needed<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    only(headers, name)?.ok_or(Refusal::Malformed("front_missing"))
}

/// A scheme; a WebSocket's counts as the one it is spoken over.
fn https(scheme: &str) -> Result<bool, Refusal> {
    match scheme {
        "https" | "wss" => Ok(true),
        "http" | "ws" => Ok(false),
        _ => wrong("front_scheme"),
    }
}

/// The parts of what a front tells, before they are taken together.
struct Parted {
    method: String,
    https: bool,
    host: String,
    target: String,
}

fn nginx(headers: &HeaderMap) -> Result<Parted, Refusal> {
    if headers.contains_key(METHOD) || headers.contains_key(URI) {
        return wrong("front_two_dialects");
    }
    let method = needed(headers, ORIGINAL_METHOD)?.to_owned();
    let (proto, host) = (only(headers, PROTO)?, only(headers, HOST)?);
    let (url, uri) = (only(headers, ORIGINAL_URL)?, only(headers, ORIGINAL_URI)?);
    let parted = match (url, uri) {
        (Some(url), _) => {
            let (scheme, rest) = url.split_once("://").ok_or(Refusal::Malformed("front_url"))?;
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, target) = rest.split_at_checked(at).unwrap_or((rest, ""));
            Parted { method, https: https(scheme)?, host: host.to_owned(), target: target.to_owned() }
        }
        (None, Some(uri)) => {
            let (Some(proto), Some(host)) = (proto, host) else { return wrong("front_missing") };
            Parted { method, https: https(proto)?, host: host.to_owned(), target: uri.to_owned() }
        }
        (None, None) => return wrong("front_missing"),
    };
    // Whatever is said twice has to be said alike.
    let differs = uri.is_some_and(|uri| uri != parted.target)
        || host.is_some_and(|host| !host.eq_ignore_ascii_case(&parted.host))
        || proto.map(https).transpose()?.is_some_and(|https| https != parted.https);
    if differs { wrong("front_disagrees") } else { Ok(parted) }
}

fn forward(headers: &HeaderMap) -> Result<Parted, Refusal> {
    if headers.contains_key(ORIGINAL_METHOD) || headers.contains_key(ORIGINAL_URL) || headers.contains_key(ORIGINAL_URI) {
        return wrong("front_two_dialects");
    }
    Ok(Parted {
        method: needed(headers, METHOD)?.to_owned(),
        https: https(needed(headers, PROTO)?)?,
        host: needed(headers, HOST)?.to_owned(),
        target: needed(headers, URI)?.to_owned(),
    })
}

fn envoy(parts: &Parts) -> Result<Parted, Refusal> {
    let headers = &parts.headers;
    if [ORIGINAL_METHOD, ORIGINAL_URL, ORIGINAL_URI, METHOD, URI].into_iter().any(|name| headers.contains_key(name)) {
        return wrong("front_two_dialects");
    }
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => needed(headers, "host")?,
    };
    if only(headers, HOST)?.is_some_and(|other| !other.eq_ignore_ascii_case(host)) {
        return wrong("front_disagrees");
    }
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).strip_prefix(ENVOY).unwrap_or_default();
    Ok(Parted {
        method: parts.method.as_str().to_owned(),
        https: https(needed(headers, PROTO)?)?,
        host: host.to_owned(),
        target: target.to_owned(),
    })
}

/// Reads what is told; `trusted` are the proxies before the front.
pub(crate) fn read(dialect: Dialect, mut parts: Parts, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> Result<Original, Refusal> {
    let parted = match dialect {
        Dialect::Nginx => nginx(&parts.headers)?,
        Dialect::Any if parts.headers.contains_key(ORIGINAL_METHOD) => nginx(&parts.headers)?,
        Dialect::Any | Dialect::Forward => forward(&parts.headers)?,
        Dialect::Envoy | Dialect::Grpc => envoy(&parts)?,
    };
    let headers = &parts.headers;
    if !headers.contains_key(FOR) {
        return wrong("front_missing");
    }
    // The front itself is believed; two headers that disagree leave nobody.
    let source = forwarded::source(peer, headers, |ip| ip == peer || trusted(ip)).ok_or(Refusal::Malformed("front_source"))?;
    if headers.contains_key(FORWARDED) {
        let alone: HeaderMap = headers.get_all(FORWARDED).iter().map(|line| (header::FORWARDED, line.clone())).collect();
        if forwarded::scheme(&alone).is_some_and(|scheme| (scheme == "https") != parted.https) {
            return wrong("front_disagrees");
        }
    }
    for name in FRONTS {
        parts.headers.remove(name);
    }
    assemble(parted.method.as_bytes(), parted.https, &parted.host, &parted.target, parts.headers, source)
}

/// Puts the parts together, and refuses what a front would pass on otherwise than it was decided over.
fn assemble(method: &[u8], https: bool, host: &str, target: &str, mut headers: HeaderMap, source: IpAddr) -> Result<Original, Refusal> {
    let method = Method::from_bytes(method).map_err(|_| Refusal::Malformed("front_method"))?;
    if target.len() > edge::framing::MAX_TARGET {
        return Err(Refusal::Framing(edge::framing::Violation::TargetTooLong));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    // The front sends the path on as it came: what the one normalisation would merge, or others would cut off, is not decided over.
    if path.contains("//") || target.contains('#') {
        return wrong("path_not_normal");
    }
    headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| Refusal::Malformed("host"))?);
    let (path, query) = (path.to_owned(), query.map(str::to_owned));
    Ok(Original { method, https, path, query, source, headers, chain: None, removes: false })
}

/// What Envoy's gRPC tells: the front says everything itself, and takes off what is named to it.
pub(crate) fn of_grpc(
    method: &str,
    scheme: &str,
    host: &str,
    target: &str,
    mut headers: HeaderMap,
    address: IpAddr,
    trusted: impl Fn(IpAddr) -> bool,
) -> Result<Original, Refusal> {
    // Who is at the other end of the front's connection, or whom that one, if trusted, speaks for.
    let source = forwarded::source(address, &headers, trusted).ok_or(Refusal::Malformed("front_source"))?;
    for name in FRONTS {
        headers.remove(name);
    }
    let original = assemble(method.as_bytes(), https(scheme)?, host, target, headers, source)?;
    Ok(Original { removes: true, ..original })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(dialect: Dialect, target: &str, lines: &[(&'static str, &str)]) -> Result<String, &'static str> {
        let mut request = http::Request::get(target).body(()).unwrap();
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let (parts, ()) = request.into_parts();
        read(dialect, parts, "127.0.0.1".parse().unwrap(), |_| false).map_err(Refusal::reason).map(|o| {
            let query = o.query.map(|q| format!("?{q}")).unwrap_or_default();
            let scheme = if o.https { "https" } else { "http" };
            format!("{} {scheme}://{}{}{query} {}", o.method, o.headers["host"].to_str().unwrap(), o.path, o.source)
        })
    }

    const NGINX: [(&str, &str); 3] =
        [("x-original-method", "POST"), ("x-original-url", "https://a.example/p/x?q=/y"), ("x-forwarded-for", "192.0.2.1")];
    const FORWARD: [(&str, &str); 5] = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "a.example:8443"),
        ("x-forwarded-uri", "/p?q"),
        ("x-forwarded-for", "192.0.2.1"),
    ];

    fn with(base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        base.iter()
            .filter(|(n, _)| !more.iter().any(|(m, v)| m == n && *v == "-"))
            .chain(more.iter().filter(|(_, v)| *v != "-"))
            .copied()
            .collect()
    }

    #[test]
    fn each_dialect_is_read() {
        let said = Ok("POST https://a.example/p/x?q=/y 192.0.2.1".to_owned());
        assert_eq!(asked(Dialect::Nginx, "/auth/nginx", &NGINX), said);
        assert_eq!(asked(Dialect::Any, "/auth", &NGINX), said);
        assert_eq!(asked(Dialect::Nginx, "/", &with(&NGINX, &[("x-original-uri", "/p/x?q=/y"), ("x-forwarded-host", "A.example")])), said);
        let uri = with(
            &NGINX,
            &[("x-original-url", "-"), ("x-original-uri", "/p/x?q=/y"), ("x-forwarded-host", "a.example"), ("x-forwarded-proto", "wss")],
        );
        assert_eq!(asked(Dialect::Nginx, "/", &uri), said);
        let said = Ok("GET https://a.example:8443/p?q 192.0.2.1".to_owned());
        assert_eq!(asked(Dialect::Forward, "/auth/forward", &FORWARD), said);
        assert_eq!(asked(Dialect::Any, "/auth", &FORWARD), said);
        let envoy = [("host", "a.example"), ("x-forwarded-proto", "http"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(asked(Dialect::Envoy, "/auth/envoy/p?q", &envoy), Ok("GET http://a.example/p?q 192.0.2.1".to_owned()));
    }

    #[test]
    fn what_is_missing_double_or_contradicted_is_not_decided_over() {
        for name in ["x-original-method", "x-original-url", "x-forwarded-for"] {
            assert_eq!(asked(Dialect::Nginx, "/", &with(&NGINX, &[(name, "-")])), Err("front_missing"), "{name}");
        }
        for (name, _) in FORWARD {
            assert_eq!(asked(Dialect::Forward, "/", &with(&FORWARD, &[(name, "-")])), Err("front_missing"), "{name}");
        }
        for (base, more, why) in [
            (&NGINX[..], &[("x-forwarded-uri", "/public")][..], "front_two_dialects"),
            (&NGINX, &[("x-forwarded-method", "GET")], "front_two_dialects"),
            (&NGINX, &[("x-original-uri", "/public")], "front_disagrees"),
            (&NGINX, &[("x-forwarded-host", "b.example")], "front_disagrees"),
            (&NGINX, &[("x-forwarded-proto", "http")], "front_disagrees"),
            (&NGINX, &[("x-original-url", "https://a.example/public")], "front_twice"),
            (&NGINX, &[("x-original-method", "GET")], "front_twice"),
            (&NGINX, &[("forwarded", "for=198.51.100.1")], "front_source"),
            (&FORWARD, &[("x-original-url", "https://a.example/public")], "front_two_dialects"),
            (&FORWARD, &[("x-original-uri", "/public")], "front_two_dialects"),
            (&FORWARD, &[("x-original-method", "GET")], "front_two_dialects"),
            (&FORWARD, &[("x-forwarded-uri", "/public")], "front_twice"),
            (&FORWARD, &[("x-forwarded-host", "b.example")], "front_twice"),
            (&FORWARD, &[("x-forwarded-proto", "http")], "front_twice"),
            (&FORWARD, &[("forwarded", "for=192.0.2.1;proto=http")], "front_disagrees"),
        ] {
            let dialect = if base.len() == 3 { Dialect::Nginx } else { Dialect::Forward };
            assert_eq!(asked(dialect, "/", &with(base, more)), Err(why), "{more:?}");
            assert!(asked(Dialect::Any, "/", &with(base, more)).is_err(), "{more:?}");
        }
        for (uri, why) in [("//p", "path_not_normal"), ("/p#/x", "path_not_normal"), ("/a//b", "path_not_normal")] {
            let told = with(&with(&FORWARD, &[("x-forwarded-uri", "-")]), &[("x-forwarded-uri", uri)]);
            assert_eq!(asked(Dialect::Forward, "/", &told), Err(why), "{uri}");
        }
        let proto = with(&with(&FORWARD, &[("x-forwarded-proto", "-")]), &[("x-forwarded-proto", "ftp")]);
        assert_eq!(asked(Dialect::Forward, "/", &proto), Err("front_scheme"));
    }

    #[test]
    fn a_chain_is_read_from_the_front_backwards() {
        let told = with(&with(&FORWARD, &[("x-forwarded-for", "-")]), &[("x-forwarded-for", "6.6.6.6, 192.0.2.1")]);
        assert!(asked(Dialect::Forward, "/", &told).unwrap().ends_with(" 192.0.2.1"));
    }
}
