//! The Host of a request (RFC 9110 §7.2): a name or address, perhaps a port, nothing else.
use std::net::Ipv6Addr;

/// A checked `host[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host<'a> {
    /// As sent, without port and one trailing dot; IPv6 in brackets.
    pub name: &'a str,
    /// The port, if there is one.
    pub port: Option<u16>,
}

/// Not a valid host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFault;

impl<'a> Host<'a> {
    /// Reads a Host value or authority.
    ///
    /// # Errors
    /// [`HostFault`] for an empty or malformed one, or one with userinfo.
    pub fn parse(text: &'a [u8]) -> Result<Self, HostFault> {
        let text = std::str::from_utf8(text).map_err(|_| HostFault)?;
        let (name, port) = match text.strip_prefix('[') {
            Some(inner) => {
                let (address, after) = inner.split_once(']').ok_or(HostFault)?;
                address.parse::<Ipv6Addr>().map_err(|_| HostFault)?;
                let name = text.get(..address.len() + 2).ok_or(HostFault)?;
                (name, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(HostFault)?) })
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if !name.starts_with('[') && !good_name(name) {
            return Err(HostFault);
        }
        let port = match port {
            None => None,
            Some(digits) if (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| HostFault)?)
            }
            Some(_) => return Err(HostFault),
        };
        Ok(Self { name, port })
    }
}

fn good_name(name: &str) -> bool {
    let mut before = b'.';
    for b in name.bytes() {
        if b == b'.' && before == b'.' || !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
            return false;
        }
        before = b;
    }
    before != b'.' && name.len() <= 253
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for (text, name, port) in [
            ("a.b", "a.b", None),
            ("A.b.:80", "A.b", Some(80)),
            ("127.0.0.1:9", "127.0.0.1", Some(9)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]", "[::1]", None),
        ] {
            assert_eq!(Host::parse(text.as_bytes()), Ok(Host { name, port }), "{text}");
        }
        for bad in
            ["", ".", "a..b", "u@a", "a:b", "a:", "a:99999", "a/b", "a b", "a,b", "[::1", "[x]", "[::1]x", "a:1:2", "a\u{e9}", "a?b", "a#"]
        {
            assert!(Host::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
