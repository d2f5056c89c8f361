//! What credential a request carries (RFC 6750 §2, RFC 9449 §7.1): at most one, never in the URL. A proof of its key is none.
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use tokens::confirmation::Scheme;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// None at all.
    Nothing,
    /// A token in compact JWS form.
    Jwt(&'a str, Scheme),
    /// A token of this server's opaque form.
    Opaque(&'a str, Scheme),
    /// Something that cannot be believed here: another scheme, an ill-formed token, an API key.
    Unusable(&'static str),
}

/// More than one credential: whose would count is anybody's guess, so neither does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// Opaque access tokens begin with this.
pub const OPAQUE_PREFIX: &str = "dwa_";

/// The longest token looked at, octets.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Finds the credential.
///
/// # Errors
/// [`Ambiguous`] for two token-style credentials.
pub fn presented<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Result<Presented<'a>, Ambiguous> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next();
    let mut count = usize::from(first.is_some()) + values.count();
    count += headers.get_all(API_KEY).iter().count();
    count += query.map_or(0, in_query);
    if count > 1 {
        return Err(Ambiguous);
    }
    let Some(value) = first else {
        return Ok(if count == 0 { Presented::Nothing } else { Presented::Unusable("credential_kind") });
    };
    let bytes = value.as_bytes();
    let named = |name: &[u8]| bytes.split_at_checked(name.len()).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, rest)| rest);
    let (scheme, rest) = match (named(b"bearer "), named(b"dpop ")) {
        (Some(rest), _) => (Scheme::Bearer, rest),
        (None, Some(rest)) => (Scheme::Dpop, rest),
        (None, None) => return Ok(Presented::Unusable("credential_scheme")),
    };
    let token = rest.trim_ascii();
    if memchr::memchr(b',', token).is_some() {
        return Err(Ambiguous);
    }
    Ok(classify(token, scheme))
}

fn classify(token: &[u8], scheme: Scheme) -> Presented<'_> {
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Presented::Unusable(if token.is_empty() { "credential_empty" } else { "too_long" });
    }
    let mut dots = 0;
    for &b in token {
        match b {
            b'.' => dots += 1,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'+' | b'/' | b'=' => {}
            _ => return Presented::Unusable("malformed"),
        }
    }
    match std::str::from_utf8(token) {
        Ok(text) if text.starts_with(OPAQUE_PREFIX) && dots == 0 => Presented::Opaque(text, scheme),
        Ok(text) if dots == 2 => Presented::Jwt(text, scheme),
        _ => Presented::Unusable("malformed"),
    }
}

/// How many `access_token` parameters a query has. Never used, but a second credential all the same.
fn in_query(query: &str) -> usize {
    query.split('&').filter(|pair| pair.split('=').next() == Some("access_token")).count()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (n, v) in pairs {
            out.append(*n, HeaderValue::from_static(v));
        }
        out
    }

    #[test]
    fn one_credential_is_found() {
        assert_eq!(presented(&headers(&[]), None), Ok(Presented::Nothing));
        assert_eq!(presented(&headers(&[("authorization", "bEaReR a.b.c")]), None), Ok(Presented::Jwt("a.b.c", Scheme::Bearer)));
        for name in ["DPoP a.b.c", "dpop a.b.c", "DPOP a.b.c"] {
            assert_eq!(presented(&headers(&[("authorization", name)]), None), Ok(Presented::Jwt("a.b.c", Scheme::Dpop)), "{name}");
        }
        assert_eq!(presented(&headers(&[("authorization", "Bearer dwa_x")]), Some("a=b")), Ok(Presented::Opaque("dwa_x", Scheme::Bearer)));
        for odd in
            ["Basic eA==", "Bearer", "Bearer x", "Bearer a b", "Bearer a.b.c.d", "Bearer a.b.\u{7f}", "DPoP", "DPoP a.b.c.d", "DPoPa.b.c"]
        {
            let Ok(value) = HeaderValue::from_bytes(odd.as_bytes()) else { continue };
            let mut map = HeaderMap::new();
            map.insert(AUTHORIZATION, value);
            assert!(matches!(presented(&map, None), Ok(Presented::Unusable(_))), "{odd}");
        }
        assert!(matches!(presented(&headers(&[("x-api-key", "k")]), None), Ok(Presented::Unusable(_))));
        assert!(matches!(presented(&headers(&[]), Some("access_token=a.b.c")), Ok(Presented::Unusable(_))));
    }

    #[test]
    fn two_credentials_are_ambiguous() {
        let twice = headers(&[("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")]);
        assert_eq!(presented(&twice, None), Err(Ambiguous));
        let one = headers(&[("authorization", "Bearer a.b.c")]);
        assert_eq!(presented(&one, Some("x=1&access_token=y")), Err(Ambiguous));
        assert_eq!(presented(&headers(&[("authorization", "Bearer a.b.c"), ("x-api-key", "k")]), None), Err(Ambiguous));
        assert_eq!(presented(&headers(&[("authorization", "Bearer a.b.c, Bearer d.e.f")]), None), Err(Ambiguous));
    }
}
