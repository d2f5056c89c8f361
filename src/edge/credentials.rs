//! What credential a request carries (RFC 6750 §2, RFC 9449 §7.1): at most one, never in the URL. A proof of its key is none.
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use percent_encoding::percent_decode_str;
use tokens::confirmation::Scheme;

use crate::api_key;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// None at all.
    Nothing,
    /// A token in compact JWS form.
    Jwt(&'a str, Scheme),
    /// A token of any other form: this server's opaque one, or another issuer's.
    Opaque(&'a str, Scheme),
    /// An API key.
    ApiKey(&'a str),
    /// Something that cannot be believed here: another scheme, an ill-formed token, something in the URL.
    Unusable(&'static str),
}

impl<'a> Presented<'a> {
    /// The text of a token.
    #[must_use]
    pub const fn token(self) -> Option<&'a str> {
        match self {
            Self::Jwt(token, _) | Self::Opaque(token, _) => Some(token),
            _ => None,
        }
    }
}

/// Whether a token is of this server's opaque form.
#[must_use]
pub fn is_own(token: &str) -> bool {
    token.starts_with(OPAQUE_PREFIX) && !token.contains('.')
}

/// More than one credential: whose would count is anybody's guess, so neither does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// Opaque access tokens begin with this.
pub const OPAQUE_PREFIX: &str = "dwa_";

/// The longest token looked at, octets.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Finds the credential. Where API keys are taken (`keys`), parameters of the URL that can only mean one count as one.
///
/// # Errors
/// [`Ambiguous`] for two token-style credentials.
pub fn presented<'a>(headers: &'a HeaderMap, query: Option<&str>, keys: bool) -> Result<Presented<'a>, Ambiguous> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next();
    let mut own = headers.get_all(API_KEY).iter();
    let key = own.next();
    let mut count = usize::from(first.is_some()) + values.count() + usize::from(key.is_some()) + own.count();
    count += query.map_or(0, |query| in_query(query, keys));
    if count > 1 {
        return Err(Ambiguous);
    }
    let value = match (first, key) {
        (Some(value), _) => value,
        (None, Some(key)) => return of_key(key.as_bytes()),
        (None, None) => return Ok(if count == 0 { Presented::Nothing } else { Presented::Unusable("credential_in_url") }),
    };
    let bytes = value.as_bytes();
    let named = |name: &[u8]| bytes.split_at_checked(name.len()).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, rest)| rest);
    let (scheme, rest) = match (named(b"bearer "), named(b"dpop ")) {
        (Some(rest), _) => (Scheme::Bearer, rest),
        (None, Some(rest)) => (Scheme::Dpop, rest),
        (None, None) => match named(b"apikey ") {
            Some(key) => return of_key(key),
            None => return Ok(Presented::Unusable("credential_scheme")),
        },
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
    // No branch an octet: many are looked at at once.
    let of_a_token = |b: &u8| {
        b.is_ascii_alphanumeric() | (*b == b'.') | (*b == b'-') | (*b == b'_') | (*b == b'~') | (*b == b'+') | (*b == b'/') | (*b == b'=')
    };
    if token.iter().fold(false, |other, b| other | !of_a_token(b)) {
        return Presented::Unusable("malformed");
    }
    let dots = memchr::memchr_iter(b'.', token).take(3).count();
    match std::str::from_utf8(token) {
        Ok(text) if dots == 2 => Presented::Jwt(text, scheme),
        Ok(text) => Presented::Opaque(text, scheme),
        Err(_) => Presented::Unusable("malformed"),
    }
}

/// A key as it came in a header of its own, or after its scheme. Two headers that were joined on the way are two keys.
fn of_key(value: &[u8]) -> Result<Presented<'_>, Ambiguous> {
    let key = value.trim_ascii();
    if memchr::memchr(b',', key).is_some() {
        return Err(Ambiguous);
    }
    Ok(match std::str::from_utf8(key) {
        Ok("") => Presented::Unusable("credential_empty"),
        Ok(text) if api_key::plausible(text) => Presented::ApiKey(text),
        _ => Presented::Unusable(if key.len() > api_key::MAX_KEY { "too_long" } else { "malformed" }),
    })
}

/// How many parameters of a query can only mean a credential, whatever they hold. Never used, but a second credential all the same.
fn in_query(query: &str, keys: bool) -> usize {
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    if !keys {
        return names.filter(|name| *name == "access_token").count();
    }
    let is = |name: &str| name == "access_token" || api_key::IN_URL.iter().any(|own| own.eq_ignore_ascii_case(name));
    names.filter(|name| is(name) || (name.contains('%') && is(&percent_decode_str(name).decode_utf8_lossy()))).count()
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
        assert_eq!(presented(&headers(&[]), None, false), Ok(Presented::Nothing));
        assert_eq!(presented(&headers(&[("authorization", "bEaReR a.b.c")]), None, false), Ok(Presented::Jwt("a.b.c", Scheme::Bearer)));
        for name in ["DPoP a.b.c", "dpop a.b.c", "DPOP a.b.c"] {
            assert_eq!(presented(&headers(&[("authorization", name)]), None, false), Ok(Presented::Jwt("a.b.c", Scheme::Dpop)), "{name}");
        }
        assert_eq!(
            presented(&headers(&[("authorization", "Bearer dwa_x")]), Some("a=b"), false),
            Ok(Presented::Opaque("dwa_x", Scheme::Bearer))
        );
        for other in ["x", "a.b.c.d", "a.b", "dwa_x.y"] {
            let text = format!("Bearer {other}");
            let mut map = HeaderMap::new();
            map.insert(AUTHORIZATION, HeaderValue::from_str(&text).unwrap());
            assert_eq!(presented(&map, None, false), Ok(Presented::Opaque(other, Scheme::Bearer)), "{other}");
            assert!(!is_own(other));
        }
        for odd in ["Basic eA==", "Bearer", "Bearer a b", "Bearer a.b.\u{7f}", "DPoP", "DPoPa.b.c"] {
            let Ok(value) = HeaderValue::from_bytes(odd.as_bytes()) else { continue };
            let mut map = HeaderMap::new();
            map.insert(AUTHORIZATION, value);
            assert!(matches!(presented(&map, None, false), Ok(Presented::Unusable(_))), "{odd}");
        }
        assert!(matches!(presented(&headers(&[]), Some("access_token=a.b.c"), false), Ok(Presented::Unusable(_))));
    }

    #[test]
    fn two_credentials_are_ambiguous() {
        let twice = headers(&[("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")]);
        assert_eq!(presented(&twice, None, false), Err(Ambiguous));
        let one = headers(&[("authorization", "Bearer a.b.c")]);
        assert_eq!(presented(&one, Some("x=1&access_token=y"), false), Err(Ambiguous));
        assert_eq!(presented(&headers(&[("authorization", "Bearer a.b.c"), ("x-api-key", "k")]), None, false), Err(Ambiguous));
        assert_eq!(presented(&headers(&[("authorization", "Bearer a.b.c, Bearer d.e.f")]), None, false), Err(Ambiguous));
    }

    #[test]
    fn a_key_comes_in_a_header_and_never_in_the_url() {
        let key = |pairs: &[(&'static str, &'static str)], query| presented(&headers(pairs), query, true).map(|found| format!("{found:?}"));
        for pairs in [&[("x-api-key", " k.1 ")][..], &[("authorization", "ApiKey k.1")], &[("authorization", "APIKEY  k.1")]] {
            assert_eq!(key(pairs, Some("a=api_key&key=1")).unwrap(), "ApiKey(\"k.1\")", "{pairs:?}");
        }
        for query in ["api_key=k", "x=1&apikey", "X-API-Key=", "api%5Fkey=k", "Api-Key=1", "access_token=k"] {
            assert_eq!(key(&[], Some(query)).unwrap(), "Unusable(\"credential_in_url\")", "{query}");
            assert_eq!(key(&[("x-api-key", "k")], Some(query)), Err(Ambiguous), "{query}");
        }
        assert_eq!(presented(&headers(&[]), Some("api_key=k"), false), Ok(Presented::Nothing), "the application's own parameter");
        for pairs in [
            &[("x-api-key", "k"), ("x-api-key", "k")][..],
            &[("x-api-key", "k,l")],
            &[("authorization", "ApiKey k, ApiKey l")],
            &[("x-api-key", "k"), ("authorization", "ApiKey k")],
        ] {
            assert_eq!(key(pairs, None), Err(Ambiguous), "{pairs:?}");
        }
        for value in ["", " ", "a b", "dwk_made-up"] {
            assert!(key(&[("x-api-key", value)], None).unwrap().starts_with("Unusable"), "{value}");
        }
        assert!(key(&[("authorization", "ApiKey")], None).unwrap().starts_with("Unusable"));
    }
}
