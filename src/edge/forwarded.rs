//! What trusted proxies tell of a request: whose it is and how it came (`Forwarded`, RFC 7239; `X-Forwarded-For`, `X-Forwarded-Proto`).
//!
//! The chain is read from its near end, since what a proxy has not written itself is hearsay. Where both kinds of header came and disagree,
//! a proxy has passed one of them on from who knows whom: neither is believed, and nobody can say whose request it is.
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const STANDARD: &str = "forwarded";

/// Whose request it is: the peer, or, of a trusted proxy, the nearest address that is not a trusted proxy's. `None`: the proxies do not know
/// (`unknown`, an obfuscated or unreadable name, headers that disagree).
#[must_use]
pub fn source(peer: IpAddr, headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    if !trusted(peer) {
        return Some(peer);
    }
    let nearest = |hops: Vec<Option<IpAddr>>| {
        let mut found = peer;
        for hop in hops.into_iter().rev() {
            found = hop?;
            if !trusted(found) {
                break;
            }
        }
        Some(found)
    };
    let standard = standard(headers, "for").map(|told| told.iter().map(|hop| address(hop.as_deref())).collect());
    agreed(usual(headers).map(nearest), standard.map(nearest)).map_or(Some(peer), Option::flatten)
}

/// The scheme by which the request came to the nearest proxy. Only to be asked of what a trusted one sent.
#[must_use]
pub fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let known = |text: &str| ["https", "http"].into_iter().find(|known| text.trim().eq_ignore_ascii_case(known));
    let usual = headers.get_all(PROTO).iter().next_back().and_then(|value| known(value.to_str().ok()?.rsplit(',').next()?));
    let standard = standard(headers, "proto").and_then(|told| known(told.last()?.as_deref()?));
    agreed(usual, standard).flatten()
}

/// What both say, or the one there is: `None` if neither says anything, `Some(None)` if they disagree.
fn agreed<T: PartialEq>(usual: Option<T>, standard: Option<T>) -> Option<Option<T>> {
    match (usual, standard) {
        (Some(usual), Some(standard)) => Some((usual == standard).then_some(usual)),
        (one, other) => one.or(other).map(Some),
    }
}

/// The hops of `X-Forwarded-For`, the nearest last.
fn usual(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let lines = headers.get_all(FOR).iter().flat_map(|line| line.to_str().unwrap_or("?").split(','));
    let hops: Vec<_> = lines.map(str::trim).filter(|hop| !hop.is_empty()).map(|hop| address(Some(hop))).collect();
    (!hops.is_empty()).then_some(hops)
}

/// A parameter of every hop of `Forwarded`, the nearest last. A hop without it has `None`; if no hop has it, nothing is said.
fn standard(headers: &HeaderMap, parameter: &str) -> Option<Vec<Option<String>>> {
    let mut hops = Vec::new();
    for line in headers.get_all(STANDARD) {
        match line.to_str().ok().and_then(|line| elements(line, parameter)) {
            Some(told) => hops.extend(told),
            // What cannot be read says something nobody knows.
            None => hops.push(Some(String::new())),
        }
    }
    hops.iter().any(Option::is_some).then_some(hops)
}

/// The values of one parameter in a line's elements (RFC 7239 §4); `None` if the line is not one.
fn elements(line: &str, parameter: &str) -> Option<Vec<Option<String>>> {
    let mut out = Vec::new();
    let (mut rest, mut value, mut empty) = (line.trim_start(), None, true);
    loop {
        if let Some((name, after)) = rest.split_once('=').filter(|_| !rest.starts_with([',', ';'])) {
            let (name, (text, after)) = (name.trim(), text(after)?);
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return None;
            }
            if name.eq_ignore_ascii_case(parameter) && value.replace(text).is_some() {
                return None;
            }
            (rest, empty) = (after.trim_start(), false);
        }
        match rest.split_at_checked(1) {
            Some((";", after)) => rest = after.trim_start(),
            Some((",", after)) => {
                if !empty {
                    out.push(value.take());
                }
                (rest, empty) = (after.trim_start(), true);
            }
            Some(_) => return None,
            None => break,
        }
    }
    if !empty {
        out.push(value);
    }
    Some(out)
}

/// A token or quoted string, and what comes after it.
fn text(rest: &str) -> Option<(String, &str)> {
    let Some(quoted) = rest.strip_prefix('"') else {
        let (token, after) = rest.split_at_checked(rest.find([',', ';', ' ', '\t']).unwrap_or(rest.len()))?;
        return (!token.contains('"')).then(|| (token.to_owned(), after));
    };
    let (mut out, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                continue;
            }
            '"' => return Some((out, quoted.get(at + 1..)?)),
            _ => {}
        }
        out.push(letter);
    }
    None
}

/// An address, IPv6 perhaps in brackets, perhaps with a port.
fn address(text: Option<&str>) -> Option<IpAddr> {
    let text = text?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()))?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn from(lines: &[(&'static str, &str)]) -> String {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        source("10.0.0.1".parse().unwrap(), &headers(lines), trusted).map_or("-".into(), |ip| ip.to_string())
    }

    #[test]
    fn forwarded_addresses_are_read_in_every_spelling() {
        for (line, told) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:80\";proto=https;by=203.0.113.43", "192.0.2.1"),
            ("proto=https ; for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            ("for=6.6.6.6, for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1, for=10.0.0.2", "192.0.2.1"),
            ("for=10.0.0.2", "10.0.0.2"),
            ("proto=https", "10.0.0.1"),
            ("", "10.0.0.1"),
            // Names that are no addresses, hops that are not told, and lines that cannot be read.
            ("for=unknown", "-"),
            ("for=192.0.2.1, for=_hidden", "-"),
            ("for=\"_SEVKISEK:80\"", "-"),
            ("for=6.6.6.6, proto=https", "-"),
            ("for=unknown, for=10.0.0.2", "-"),
            ("for=192.0.2.1;for=6.6.6.6", "-"),
            ("for=\"192.0.2.1", "-"),
            ("host=\"a\", for=192.0.2.1 x", "-"),
            // What is quoted is no hop.
            ("for=192.0.2.1;host=\"a, for=6.6.6.6\"", "192.0.2.1"),
            ("for=192.0.2.1;host=\"a\\\", for=6.6.6.6\"", "192.0.2.1"),
        ] {
            assert_eq!(from(&[(STANDARD, line)]), told, "{line}");
        }
        assert_eq!(from(&[(STANDARD, "for=\"6.6.6.6"), (STANDARD, "for=192.0.2.1")]), "192.0.2.1", "the nearest line counts");
        for (line, told) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1:80", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1, what", "-"),
        ] {
            assert_eq!(from(&[(FOR, line)]), told, "{line}");
        }
        assert_eq!(from(&[(FOR, "6.6.6.6"), (FOR, "192.0.2.1")]), "192.0.2.1");
    }

    #[test]
    fn headers_that_disagree_are_not_believed() {
        assert_eq!(from(&[(FOR, "6.6.6.6, 192.0.2.1"), (STANDARD, "for=192.0.2.1")]), "192.0.2.1");
        assert_eq!(from(&[(FOR, "192.0.2.1"), (STANDARD, "for=6.6.6.6")]), "-");
        assert_eq!(from(&[(FOR, "192.0.2.1"), (STANDARD, "for=unknown")]), "-");
        assert_eq!(from(&[(FOR, "192.0.2.1"), (STANDARD, "proto=https")]), "192.0.2.1");
        let told = |lines: &[(&'static str, &str)]| scheme(&headers(lines));
        assert_eq!(told(&[(PROTO, "https"), (STANDARD, "proto=http")]), None);
        assert_eq!(told(&[(PROTO, "http, https"), (STANDARD, "for=unknown")]), Some("https"));
    }

    #[test]
    fn the_scheme_is_the_nearest_proxys() {
        let told = |line: &str| scheme(&headers(&[(STANDARD, line)]));
        assert_eq!(told("proto=https, for=1.2.3.4;proto=HTTP"), Some("http"));
        assert_eq!(told("for=1.2.3.4;Proto=\"https\""), Some("https"));
        for nothing in ["proto=https, for=1.2.3.4", "proto=gopher", "proto=\"https", "for=1.2.3.4", ""] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_stranger_says_nothing() {
        let headers = headers(&[(FOR, "10.0.0.2"), (STANDARD, "for=10.0.0.2")]);
        let of = |peer: &str, trusted: bool| source(peer.parse().unwrap(), &headers, |_| trusted).unwrap().to_string();
        assert_eq!((of("192.0.2.1", false), of("::ffff:192.0.2.1", false)), ("192.0.2.1".into(), "192.0.2.1".into()));
    }
}
