//! A request's head in its plainest form (RFC 9112 §§2, 3, 5): a subset of what [`edge::framing`] takes, read in one pass.
//!
//! What is not plain is not refused here: it is not read, and whoever reads everything gets it from its first octet.
use std::ops::Range;

use bytes::Bytes;
use edge::host::Host;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

/// Most fields of a plain head.
const MAX_FIELDS: usize = 24;
/// The longest plain head.
const MAX_OCTETS: usize = 8 * 1024;
const VERSION: &[u8] = b" HTTP/1.1";

/// Fields that change what a connection is or how a body is read, and those that speak for somebody else.
const ODD: [&[u8]; 11] = [
    b"transfer-encoding",
    b"upgrade",
    b"expect",
    b"te",
    b"trailer",
    b"http2-settings",
    b"keep-alive",
    b"proxy-connection",
    b"content-encoding",
    b"client-cert",
    b"client-cert-chain",
];

/// A plain head: where its parts are in the octets it was read from.
#[derive(Debug)]
pub(super) struct Head {
    /// `GET`; otherwise `POST`.
    pub(super) get: bool,
    target: Range<usize>,
    fields: [Field; MAX_FIELDS],
    count: usize,
    /// Octets of the body.
    pub(super) length: usize,
    /// Octets of the head.
    pub(super) end: usize,
    /// Whether it asks for something only if it changed.
    pub(super) conditional: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Field {
    name: (u16, u16),
    value: (u16, u16),
}

/// 1: in a field name, 2: in a value.
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time, below 256")]
        {
            let o = b as u8;
            table[b] = ((o.is_ascii_alphanumeric() || o == b'-') as u8) | ((o == b'\t' || (o >= 0x20 && o < 0x7f)) as u8) << 1;
        }
        b += 1;
    }
    table
};

fn all(octets: &[u8], class: u8) -> bool {
    octets.iter().fold(class, |so_far, b| so_far & CLASS.get(usize::from(*b)).copied().unwrap_or_default()) == class
}

impl Head {
    /// Reads a head from the beginning of what came. Nothing if it is not whole, not plain, or its body is longer than `longest`.
    pub(super) fn read(octets: &[u8], longest: usize) -> Option<Self> {
        let octets = octets.get(..octets.len().min(MAX_OCTETS))?;
        let (get, from) = match octets {
            [b'G', b'E', b'T', b' ', ..] => (true, 4),
            [b'P', b'O', b'S', b'T', b' ', ..] => (false, 5),
            _ => return None,
        };
        let (line, mut at) = line_at(octets, 0)?;
        let target = from..line.strip_suffix(VERSION)?.len();
        if target.is_empty() || !octets.get(target.clone())?.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
            return None;
        }
        let mut head = Self { get, target, fields: [Field::default(); MAX_FIELDS], count: 0, length: 0, end: 0, conditional: false };
        let (mut hosts, mut lengths) = (0, 0);
        loop {
            let (line, next) = line_at(octets, at)?;
            if line.is_empty() {
                head.end = next;
                break;
            }
            let colon = memchr(b':', line)?;
            let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
            if name.is_empty() || !all(name, 1) || !all(value, 2) {
                return None;
            }
            let value_at = at + colon + 1 + value.len() - value.trim_ascii_start().len();
            let value = value.trim_ascii();
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => {
                    Host::parse(value).ok()?;
                    hosts += 1;
                }
                10 if name.eq_ignore_ascii_case(b"connection") && !value.eq_ignore_ascii_case(b"keep-alive") => return None,
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    lengths += 1;
                    if !(1..=6).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
                        return None;
                    }
                    head.length = value.iter().fold(0, |n, b| n * 10 + usize::from(*b - b'0'));
                }
                13 if name.eq_ignore_ascii_case(b"if-none-match") => head.conditional = true,
                length if ODD.iter().any(|odd| odd.len() == length && odd.eq_ignore_ascii_case(name)) => return None,
                _ => {}
            }
            let short = |n: usize| u16::try_from(n).ok();
            *head.fields.get_mut(head.count)? =
                Field { name: (short(at)?, short(at + colon)?), value: (short(value_at)?, short(value_at + value.len())?) };
            head.count += 1;
            at = next;
        }
        (hosts == 1 && lengths <= 1 && head.length <= longest && !(get && head.length > 0)).then_some(head)
    }

    /// What it asks for, as it came.
    pub(super) fn target<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        octets.get(self.target.clone()).unwrap_or_default()
    }

    /// Its fields, from the octets it was read from.
    pub(super) fn headers(&self, octets: &Bytes) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.count);
        for Field { name, value } in self.fields.iter().take(self.count) {
            let name = HeaderName::from_bytes(octets.get(usize::from(name.0)..usize::from(name.1))?).ok()?;
            let value = HeaderValue::from_maybe_shared(octets.slice(usize::from(value.0)..usize::from(value.1))).ok()?;
            headers.append(name, value);
        }
        Some(headers)
    }
}

/// The line that begins there, without its end, and where the next begins.
fn line_at(octets: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = octets.get(at..)?;
    let end = memchr(b'\n', rest)?;
    Some((rest.get(..end)?.strip_suffix(b"\r")?, at + end + 1))
}

#[cfg(test)]
mod tests {
    use edge::framing::{Place, Scanner};
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str =
        "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b";

    fn read(text: &str) -> Option<Head> {
        Head::read(text.as_bytes(), 64 * 1024)
    }

    #[test]
    fn a_plain_head_is_read_to_the_octet() {
        let head = read(PLAIN).unwrap();
        assert_eq!((head.get, head.length, head.end, head.conditional), (false, 3, PLAIN.len() - 3, false));
        assert_eq!(head.target(PLAIN.as_bytes()), b"/token");
        let headers = head.headers(&Bytes::from_static(PLAIN.as_bytes())).unwrap();
        assert_eq!(headers.get("content-type").unwrap(), "application/x-www-form-urlencoded");
        assert_eq!(headers.len(), 3);
        let spaced = read("GET /jwks HTTP/1.1\r\nhOsT: \t x.y\t \r\nA:\r\nIf-None-Match: *\r\nA: \"z\"\r\n\r\n").unwrap();
        assert!(spaced.get && spaced.conditional);
    }

    #[test]
    fn what_is_not_plain_is_somebody_elses() {
        let odd = [
            "HEAD /jwks HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /jwks HTTP/1.0\r\nHost: x\r\n\r\n",
            "GET  /jwks HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /jwks  HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\nGET /jwks HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /jwks HTTP/1.1\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET /jwks HTTP/1.1\nHost: x\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\n\n",
            "GET /jwks HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nx_y: z\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\ry\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, x\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\nClient-Cert: :AA==:\r\n\r\n",
            "GET /jwks HTTP/1.1\r\nHost: x\r\n",
            "POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\na=b",
            "POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\na=b",
            "POST /token HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\na=b",
            "POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n",
            "POST /token HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        ];
        for text in odd {
            assert!(read(text).is_none(), "{text:?}");
        }
        let many = format!("GET /jwks HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS));
        assert!(read(&many).is_none());
        assert!(read(&format!("GET /jwks HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "b".repeat(MAX_OCTETS))).is_none());
    }

    /// Whatever is read here is well-framed, and ends where the framing check says that it ends.
    fn agrees(octets: &[u8]) {
        let Some(head) = Head::read(octets, 64 * 1024) else { return };
        let mut scanner = Scanner::new();
        assert_eq!(scanner.scan(&octets[..head.end]), Ok(head.end), "{octets:?}");
        assert_eq!(scanner.heads(), 1);
        assert_eq!(scanner.place(), if head.length == 0 { Place::Idle } else { Place::Body });
        if head.length > 0 {
            assert_eq!(scanner.scan(&vec![b'x'; head.length]), Ok(head.length));
            assert_eq!(scanner.place(), Place::Idle);
        }
        assert!(head.headers(&Bytes::copy_from_slice(octets)).is_some(), "{octets:?}");
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b" ".to_vec()),
            Just(b"host: x".to_vec()),
            Just(b"Content-Length: 5".to_vec()),
            Just(b"Content-Length: 0".to_vec()),
            Just(b"Connection: keep-alive".to_vec()),
            Just(b"Transfer-Encoding: chunked".to_vec()),
            Just(b"Upgrade: websocket\r\nConnection: upgrade".to_vec()),
            Just(b"If-None-Match: \"a\"".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
            "[a-zA-Z-]{1,14}: ?[ -~\\t]{0,12}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..10).prop_map(|all| all.join(&b"\r\n"[..]))
    }

    proptest! {
        #[test]
        fn what_is_read_here_the_framing_check_takes(rest in pieces(), get: bool, crlf: bool) {
            let start = if get { "GET /jwks HTTP/1.1" } else { "POST /token HTTP/1.1" };
            let end: &[u8] = if crlf { b"\r\n\r\n" } else { b"" };
            agrees(&[start.as_bytes(), b"\r\nHost: h\r\n", &rest, end].concat());
            agrees(&[start.as_bytes(), b"\r\n", &rest, end].concat());
            agrees(&rest);
        }

        #[test]
        fn a_bent_plain_head_is_read_as_the_framing_check_reads_it(at in 0..PLAIN.len(), octet: u8) {
            let mut bent = PLAIN.as_bytes().to_vec();
            bent[at] = octet;
            agrees(&bent);
        }
    }
}
