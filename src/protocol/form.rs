//! Parameters as they came: `application/x-www-form-urlencoded`, read strictly (RFC 6749 §3.1, §3.2, appendix B).
use std::{borrow::Cow, fmt};

use crate::OAuthError;

/// Decoded parameters in order. Borrowed from the body where nothing was escaped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl fmt::Debug for Form<'_> {
    /// The names alone: among the values are secrets, codes and tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.pairs.iter().map(|(name, _)| name)).finish()
    }
}

/// Why a body or query is no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Not `application/x-www-form-urlencoded`.
    #[error("the body must be application/x-www-form-urlencoded")]
    MediaType,
    /// A `%` without two hexadecimal digits, an octet outside UTF-8 or a control character.
    #[error("a parameter is not correctly encoded")]
    Encoding,
    /// More parameters than anybody needs.
    #[error("too many parameters")]
    TooMany,
    /// A parameter came twice.
    #[error("a parameter was sent more than once")]
    Duplicate,
}

impl From<FormError> for OAuthError {
    fn from(error: FormError) -> Self {
        Self::request(match error {
            FormError::MediaType => "the body must be application/x-www-form-urlencoded",
            FormError::Encoding => "a parameter is not correctly encoded",
            FormError::TooMany => "too many parameters",
            FormError::Duplicate => "a parameter was sent more than once",
        })
    }
}

impl<'a> Form<'a> {
    /// Largest body, octets (CONTRACT §5).
    pub const LIMIT: usize = 64 * 1024;
    const MAX_PARAMETERS: usize = 100;

    /// Reads octets as a form; duplicates are kept (see [`Form::duplicated`]).
    ///
    /// # Errors
    /// On a bad escape, octets that are not UTF-8, NUL, or too many parameters.
    pub fn read(octets: &'a [u8]) -> Result<Self, FormError> {
        let mut pairs = Vec::with_capacity(8);
        for pair in octets.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            if pairs.len() == Self::MAX_PARAMETERS {
                return Err(FormError::TooMany);
            }
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// Reads a body of the token, introspection or revocation endpoint: media type checked, duplicates refused
    /// (`resource` may repeat, RFC 8707 §2; the decision refuses more than one).
    ///
    /// # Errors
    /// See [`FormError`].
    pub fn body(content_type: Option<&[u8]>, octets: &'a [u8]) -> Result<Self, FormError> {
        if !content_type.is_some_and(is_form) {
            return Err(FormError::MediaType);
        }
        let form = Self::read(octets)?;
        if form.duplicated().is_some_and(|name| name != "resource") {
            return Err(FormError::Duplicate);
        }
        Ok(form)
    }

    /// A parameter's value. One sent without a value counts as omitted (RFC 6749 §3.1).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_ref())
    }

    /// Whether a parameter came at all, even empty.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(n, _)| n == name)
    }

    /// Every value of a parameter that may repeat.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.pairs.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_ref())
    }

    /// A name that came more than once, `resource` last.
    #[must_use]
    pub fn duplicated(&self) -> Option<&str> {
        let twice = |i: usize, name: &str| self.pairs.iter().skip(i + 1).any(|(n, _)| n == name);
        let mut resource = None;
        for (i, (name, _)) in self.pairs.iter().enumerate() {
            if twice(i, name) {
                if name != "resource" {
                    return Some(name);
                }
                resource = Some(name.as_ref());
            }
        }
        resource
    }
}

/// Whether a `Content-Type` says form (parameters such as `charset=utf-8` are tolerated).
fn is_form(content_type: &[u8]) -> bool {
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

/// Undoes form encoding of one name or value.
///
/// # Errors
/// On a bad escape, octets that are not UTF-8, or NUL.
pub fn decode(octets: &[u8]) -> Result<Cow<'_, str>, FormError> {
    let text = if octets.iter().any(|b| matches!(b, b'%' | b'+')) {
        Cow::Owned(String::from_utf8(unescape(octets)?).map_err(|_| FormError::Encoding)?)
    } else {
        Cow::Borrowed(std::str::from_utf8(octets).map_err(|_| FormError::Encoding)?)
    };
    if text.contains('\0') { Err(FormError::Encoding) } else { Ok(text) }
}

fn unescape(octets: &[u8]) -> Result<Vec<u8>, FormError> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets.iter();
    while let Some(b) = rest.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => out.push(hex(rest.next())? << 4 | hex(rest.next())?),
            other => out.push(*other),
        }
    }
    Ok(out)
}

fn hex(digit: Option<&u8>) -> Result<u8, FormError> {
    match digit {
        Some(d @ b'0'..=b'9') => Ok(d - b'0'),
        Some(d @ b'a'..=b'f') => Ok(d - b'a' + 10),
        Some(d @ b'A'..=b'F') => Ok(d - b'A' + 10),
        _ => Err(FormError::Encoding),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: Option<&[u8]> = Some(b"application/x-www-form-urlencoded");

    #[test]
    fn a_parameter_sent_twice_is_refused_even_empty() {
        assert_eq!(Form::body(FORM, b"scope=a&scope="), Err(FormError::Duplicate));
        assert!(Form::body(FORM, b"resource=a&resource=b").is_ok_and(|f| f.all("resource").count() == 2));
    }

    #[test]
    fn bad_escapes_octets_and_media_types_are_refused() {
        for bad in [&b"a=%"[..], b"a=%1", b"a=%zz", b"a=%ff", b"a=\xff", b"a=%00"] {
            assert_eq!(Form::body(FORM, bad), Err(FormError::Encoding), "{bad:?}");
        }
        assert_eq!(Form::body(Some(b"application/json"), b"a=b"), Err(FormError::MediaType));
        assert_eq!(Form::body(None, b"a=b"), Err(FormError::MediaType));
        assert!(Form::body(Some(b"Application/X-WWW-Form-Urlencoded; charset=UTF-8"), b"a=b").is_ok());
    }

    #[test]
    fn an_empty_value_counts_as_omitted() {
        let form = Form::read(b"a=&b=c+d%2B").unwrap();
        assert_eq!((form.get("a"), form.get("b"), form.has("a")), (None, Some("c d+"), true));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Form::body(FORM, &octets);
        }
    }
}
