//! Header hygiene: what the caller may not say for itself, and what belongs to one connection only (RFC 9110 §7.6.1).
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, COOKIE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::framing::{MAX_FIELDS, MAX_HEADERS, Violation};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Letters and digits folded to lower case, everything else to `-`.
fn fold(b: u8) -> u8 {
    if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' }
}

/// Names an upstream takes as the gateway's word; a caller's header that reads the same once folded is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    folded: Vec<Box<[u8]>>,
    lengths: u64,
}

impl Aliases {
    /// The set of these names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut folded: Vec<Box<[u8]>> = names.into_iter().map(|n| n.bytes().map(fold).collect()).collect();
        folded.sort();
        folded.dedup();
        let lengths = folded.iter().fold(0, |mask, n| mask | bit(n.len()));
        Self { folded, lengths }
    }

    /// Whether a header name reads like one of them.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.lengths & bit(name.len()) != 0
            && self.folded.iter().any(|own| own.len() == name.len() && own.iter().zip(name.bytes()).all(|(a, b)| *a == fold(b)))
    }
}

const fn bit(len: usize) -> u64 {
    1 << (len & 63)
}

/// Whether a name belongs to the message itself, so that it cannot carry identity.
#[must_use]
pub fn reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    hop_by_hop(&name)
        || matches!(
            name.as_str(),
            "host" | "content-length" | "content-type" | "content-encoding" | "expect" | "date" | "cookie" | "authorization"
        )
}

fn hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "http2-settings")
}

fn credential(name: &str) -> bool {
    matches!(name, "authorization" | "dpop" | "proxy-authorization" | "x-api-key")
}

/// What a client claims about its own address, for proxies only to say.
fn provenance(name: &str) -> bool {
    let Some(first) = name.bytes().next() else { return false };
    if first != b'x' && first != b'f' {
        return false;
    }
    let is = |own: &str| own.len() == name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| a == fold(b));
    let begins = |own: &str| own.len() <= name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| a == fold(b));
    is("forwarded") || begins("x-forwarded-") || is("x-real-ip")
}

/// What is said of a client certificate (RFC 9440): nobody's word but the gateway's own goes on.
fn certificate(name: &str) -> bool {
    let is = |own: &str| own.len() == name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| a == fold(b));
    name.starts_with('c') && (is("client-cert") || is("client-cert-chain"))
}

/// What a route and a peer allow to pass.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The identity headers of every route.
    pub aliases: &'a Aliases,
    /// Whether the peer is a trusted proxy, whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_peer: bool,
    /// Whether the route forwards credentials.
    pub forward_credentials: bool,
    /// Prefixes of our own cookies' names, after `__Host-`.
    pub session_cookies: &'a [String],
}

/// Asks of the fields of an HTTP/2 head what [`crate::framing`] asks of the octets of an HTTP/1 head; before any decision.
/// A name with `_` may be read as `-` by an upstream; what is sent on over HTTP/1.1 must have one length at most.
///
/// # Errors
/// What is wrong with it.
pub fn check(headers: &HeaderMap) -> Result<(), Violation> {
    let (mut size, mut lengths) = (0, 0);
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        size += name.len() + value.len() + 4;
        if memchr::memchr(b'_', name.as_bytes()).is_some() {
            return Err(Violation::FieldName);
        }
        if value.trim_ascii().len() != value.len() {
            return Err(Violation::FieldValue);
        }
        if name == "content-length" {
            lengths += 1;
            if lengths > 1 || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(Violation::ContentLength);
            }
        }
    }
    if size > MAX_HEADERS || headers.len() > MAX_FIELDS { Err(Violation::HeadersTooLarge) } else { Ok(()) }
}

/// Removes from a request what must not reach the upstream.
pub fn clean(headers: &mut HeaderMap, rules: &Rules<'_>) {
    let (mut any, mut cookies) = (false, false);
    for name in headers.keys() {
        any |= unwelcome(name.as_str(), rules);
        cookies |= name == COOKIE;
    }
    if any {
        remove_unwelcome(headers, rules);
    }
    if cookies && !rules.forward_credentials {
        clean_cookies(headers, rules.session_cookies);
    }
}

fn remove_unwelcome(headers: &mut HeaderMap, rules: &Rules<'_>) {
    let mut doomed: [Option<HeaderName>; 12] = Default::default();
    loop {
        let mut more = false;
        for (n, name) in headers.keys().filter(|name| unwelcome(name.as_str(), rules)).enumerate() {
            match doomed.get_mut(n) {
                Some(slot) => *slot = Some(name.clone()),
                None => more = true,
            }
        }
        // Headers named by Connection go while Connection is still there to name them.
        if headers.contains_key(CONNECTION) {
            remove_nominated(headers);
        }
        for name in doomed.iter_mut().filter_map(Option::take) {
            headers.remove(name);
        }
        if !more {
            break;
        }
    }
}

fn unwelcome(name: &str, rules: &Rules<'_>) -> bool {
    hop_by_hop(name)
        || name == "expect"
        || (!rules.forward_credentials && credential(name))
        || (!rules.trusted_peer && provenance(name))
        || certificate(name)
        || rules.aliases.covers(name)
}

/// Removes from an answer what belongs to the upstream's connection, and cookies under our own names: an upstream must not
/// give anybody a session here.
pub fn clean_answer(headers: &mut HeaderMap, session_cookies: &[String]) {
    let (mut hops, mut cookies) = (false, false);
    for name in headers.keys() {
        hops |= hop_by_hop(name.as_str());
        cookies |= name == SET_COOKIE;
    }
    if hops {
        remove_nominated(headers);
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, TRAILER, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
            headers.remove(name);
        }
    }
    if cookies {
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|v| !own_cookie(v.as_bytes(), session_cookies)).cloned().collect();
        headers.remove(SET_COOKIE);
        for value in kept {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// Whether a cookie pair has one of our names.
fn own_cookie(pair: &[u8], own: &[String]) -> bool {
    let pair = String::from_utf8_lossy(pair);
    let name = pair.split('=').next().unwrap_or_default().trim();
    let name = name.strip_prefix("__Host-").or_else(|| name.strip_prefix("__Secure-")).unwrap_or(name);
    own.iter().any(|prefix| name.starts_with(prefix.as_str()))
}

fn remove_nominated(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|token| {
            !["close", "keep-alive", "upgrade", "host", "content-length", "content-type"].iter().any(|own| token.eq_ignore_ascii_case(own))
        })
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Takes our own cookies off a request; those of others stay.
pub fn clean_cookies(headers: &mut HeaderMap, own: &[String]) {
    let any = headers.get_all(COOKIE).iter().any(|v| v.as_bytes().split(|b| *b == b';').any(|p| own_cookie(p, own)));
    if !any {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let pairs: Vec<&[u8]> =
                value.as_bytes().split(|b| *b == b';').filter(|p| !own_cookie(p, own)).map(<[u8]>::trim_ascii).collect();
            if pairs.iter().all(|p| p.is_empty()) { None } else { HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok() }
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        out
    }

    fn cleaned(pairs: &[(&str, &str)], trusted_peer: bool, forward_credentials: bool) -> Vec<String> {
        let aliases = Aliases::new(["X-Doorward-Subject", "X-User"]);
        let cookies = ["doorward".to_owned()];
        let mut headers = map(pairs);
        clean(&mut headers, &Rules { aliases: &aliases, trusted_peer, forward_credentials, session_cookies: &cookies });
        headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn identity_headers_go_in_every_spelling() {
        for name in ["X-Doorward-Subject", "x-doorward-SUBJECT", "X.Doorward.Subject", "X-Doorward~Subject", "x!user", "X-User"] {
            assert_eq!(cleaned(&[(name, "mallory"), ("x-keep", "1")], true, true), ["x-keep: 1"], "{name}");
        }
        assert!(check(&map(&[("x_user", "1")])).is_err());
    }

    #[test]
    fn an_http2_head_keeps_the_rules_of_an_http1_head() {
        assert_eq!(check(&map(&[("content-length", "3"), ("x", "a b")])), Ok(()));
        assert_eq!(check(&map(&[("content-length", "3"), ("content-length", "3")])), Err(Violation::ContentLength));
        assert_eq!(check(&map(&[("x", " a")])), Err(Violation::FieldValue));
        assert_eq!(check(&map(&[("x", &"a".repeat(MAX_HEADERS))])), Err(Violation::HeadersTooLarge));
    }

    #[test]
    fn an_upstream_cannot_set_our_session() {
        let mut headers =
            map(&[("set-cookie", "__Host-doorward=evil; Path=/"), ("set-cookie", "a=1"), ("connection", "x-hop"), ("x-hop", "1")]);
        clean_answer(&mut headers, &["doorward".to_owned()]);
        assert_eq!(headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect::<Vec<_>>(), ["set-cookie: a=1"]);
    }

    #[test]
    fn forwarded_headers_are_believed_from_trusted_proxies_only() {
        let sent = [
            ("Forwarded", "for=1.1.1.1"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("X-Forwarded-Prefix", "/x"),
            ("x.forwarded.host", "h"),
            ("x-real-ip", "1"),
        ];
        assert_eq!(cleaned(&sent, false, false), Vec::<String>::new());
        assert_eq!(cleaned(&sent, true, false).len(), 5);
    }

    #[test]
    fn hop_by_hop_headers_and_credentials_stay_here() {
        let sent = [
            ("connection", "close, X-Secret-Hop, Content-Length, Host"),
            ("x-secret-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
            ("dpop", "x"),
            ("proxy-authorization", "x"),
            ("x-api-key", "x"),
            ("cookie", "a=1; __Host-doorward_session=s; b=2"),
        ];
        assert_eq!(cleaned(&sent, false, false), ["host: a", "content-length: 3", "cookie: a=1; b=2"]);
        assert!(cleaned(&sent, false, true).contains(&"authorization: Bearer x".to_owned()));
    }
}
