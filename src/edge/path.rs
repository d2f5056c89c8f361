//! One normalisation of a request path (RFC 3986 §6.2.2): what is matched is byte for byte what is forwarded.
use std::borrow::Cow;

/// Why a path is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// It does not start with `/` (an asterisk, an authority).
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    BadEscape,
    /// An encoded slash, or a backslash in any spelling.
    Slash,
    /// NUL or another control character.
    Control,
    /// `.` or `..` as a segment, in any spelling, alone or before `;`, a space or a control character.
    DotSegment,
    /// Octets that are not UTF-8.
    NotUtf8,
}

impl PathFault {
    /// A short stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::BadEscape => "path_escape",
            Self::Slash => "path_slash",
            Self::Control => "path_control",
            Self::DotSegment => "path_dot_segment",
            Self::NotUtf8 => "path_utf8",
        }
    }
}

const fn plain(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time, below 256")]
        {
            table[b] = plain(b as u8);
        }
        b += 1;
    }
    table
};

fn is_plain(b: u8) -> bool {
    PLAIN.get(usize::from(b)).copied().unwrap_or(false)
}

/// The normal form: unreserved characters unescaped, all else escaped in capitals, empty segments merged. Borrowed if
/// the path already is normal.
///
/// # Errors
/// A [`PathFault`]: nothing ambiguous is repaired.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathFault> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathFault::NotAbsolute);
    }
    let mut before = 0;
    for &b in bytes {
        let doubtful = if b == b'/' { before == b'/' } else { !is_plain(b) || (b == b'.' && before == b'/') };
        if doubtful {
            return rebuild(bytes).map(Cow::Owned);
        }
        before = b;
    }
    Ok(Cow::Borrowed(path))
}

fn rebuild(bytes: &[u8]) -> Result<String, PathFault> {
    let mut out = String::with_capacity(bytes.len() + 16);
    let mut segment = Vec::with_capacity(32);
    let mut rest = bytes.iter().copied();
    while let Some(b) = rest.next() {
        match b {
            b'/' => {
                check_segment(&segment)?;
                segment.clear();
                if !out.ends_with('/') {
                    out.push('/');
                }
            }
            b'\\' => return Err(PathFault::Slash),
            b'%' => {
                let decoded = escape(rest.next(), rest.next()).ok_or(PathFault::BadEscape)?;
                match decoded {
                    b'/' | b'\\' => return Err(PathFault::Slash),
                    0..0x20 | 0x7f => return Err(PathFault::Control),
                    _ => {}
                }
                segment.push(decoded);
                if decoded.is_ascii_alphanumeric() || matches!(decoded, b'-' | b'.' | b'_' | b'~') {
                    out.push(char::from(decoded));
                } else {
                    push_escaped(&mut out, decoded);
                }
            }
            0..0x20 | 0x7f => return Err(PathFault::Control),
            _ => {
                segment.push(b);
                if is_plain(b) {
                    out.push(char::from(b));
                } else {
                    push_escaped(&mut out, b);
                }
            }
        }
    }
    check_segment(&segment)?;
    Ok(out)
}

fn escape(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// A text with every octet escaped that is not ASCII (RFC 3986 §2.1); whatever was escaped stays as it is.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for b in text.bytes() {
        if b.is_ascii() {
            out.push(char::from(b));
        } else {
            push_escaped(&mut out, b);
        }
    }
    out
}

fn push_escaped(out: &mut String, b: u8) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.extend([b >> 4, b & 15].iter().filter_map(|n| HEX.get(usize::from(*n))));
}

fn check_segment(decoded: &[u8]) -> Result<(), PathFault> {
    let text = std::str::from_utf8(decoded).map_err(|_| PathFault::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathFault::Control);
    }
    match text.split([';', ' ']).next() {
        Some("." | "..") => Err(PathFault::DotSegment),
        _ => Ok(()),
    }
}

/// Whether a normal path lies under a prefix: `/a` covers `/a` and `/a/…`, `/a/` covers `/a/…` only.
#[must_use]
pub fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// A normal path without its prefix, keeping the leading slash.
#[must_use]
pub fn strip<'a>(path: &'a str, prefix: &str) -> &'a str {
    let kept = prefix.strip_suffix('/').unwrap_or(prefix);
    match path.strip_prefix(kept) {
        Some("") | None => "/",
        Some(rest) => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        use PathFault::*;
        for (path, why) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a/b", NotAbsolute),
            ("/a%2fb", Slash),
            ("/a%2Fb", Slash),
            ("/a%5cb", Slash),
            ("/a\\b", Slash),
            ("/%00", Control),
            ("/a%0d%0a", Control),
            ("/%7f", Control),
            ("/%c2%85", Control),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/..", DotSegment),
            ("/a/%2e%2e/b", DotSegment),
            ("/a/.%2E", DotSegment),
            ("/a/..;x/b", DotSegment),
            ("/a/..%3bx", DotSegment),
            ("/a/..%20/b", DotSegment),
            ("/a/.;/b", DotSegment),
            ("/%ff", NotUtf8),
            ("/%c0%ae", NotUtf8),
            ("/%e2%82", NotUtf8),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("/%+1", BadEscape),
        ] {
            assert_eq!(normalise(path), Err(why), "{path}");
        }
    }

    #[test]
    fn what_is_not_ascii_is_escaped_once() {
        assert_eq!(escaped("a=\u{a0}ä&b=%C3%A4"), "a=%C2%A0%C3%A4&b=%C3%A4");
    }

    #[test]
    fn one_spelling_is_left() {
        for (path, normal) in [
            ("/api/x", "/api/x"),
            ("/%61pi/%7Ex", "/api/~x"),
            ("/a%2a", "/a%2A"),
            ("/a%25", "/a%25"),
            ("/a%252f", "/a%252f"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("//a///b", "/a/b"),
            ("/...", "/..."),
            ("/.well-known", "/.well-known"),
            ("/é", "/%C3%A9"),
            ("/a;v=1", "/a;v=1"),
            ("/a%3Bv", "/a%3Bv"),
            ("/a|b", "/a%7Cb"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        assert!(under("/a/b", "/a/") && under("/a", "/a") && under("/a/b", "/a") && under("/x", "/"));
        assert!(!under("/a", "/a/") && !under("/ab", "/a"));
        assert_eq!(strip("/api/x", "/api/"), "/x");
        assert_eq!(strip("/api/", "/api/"), "/");
        assert_eq!(strip("/api", "/api"), "/");
        assert_eq!(strip("/x", "/"), "/x");
    }

    proptest::proptest! {
        #[test]
        fn normal_paths_stay_as_they_are_and_hold_no_trap(path in "/[ -~é\u{85}]{0,40}") {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal);
                proptest::prop_assert_eq!(again.as_deref(), Ok(normal.as_ref()));
                let lower = normal.to_ascii_lowercase();
                proptest::prop_assert!(!lower.contains("%2f") && !lower.contains("%5c") && !lower.contains("//"));
                proptest::prop_assert!(!normal.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
