//! HTTP/1 message framing checked octet by octet before any parser acts on it (RFC 9112 §§2–7).
//!
//! Sans-IO: give [`Scanner::scan`] the octets that have not been released yet; it says how many of them are part of
//! well-framed messages. A head is released whole or not at all, so nothing of a refused request is ever seen.
use memchr::memchr;

/// Longest request target, octets.
pub const MAX_TARGET: usize = 8 * 1024;
/// Longest header section, octets.
pub const MAX_HEADERS: usize = 32 * 1024;
/// Most header fields.
pub const MAX_FIELDS: usize = 100;
const MAX_EXTENSIONS: usize = 4 * 1024;
const MAX_TRAILERS: usize = 8 * 1024;
const MAX_METHOD: usize = 64;

/// What is wrong with the octets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Not `method SP target SP HTTP/1.x CRLF`.
    RequestLine,
    /// An HTTP version other than 1.0 and 1.1.
    Version,
    /// The target is longer than 8 KiB.
    TargetTooLong,
    /// More than 32 KiB or 100 fields.
    HeadersTooLarge,
    /// LF without CR, or CR without LF.
    BareLineBreak,
    /// A line starting with white space.
    ObsFold,
    /// A field name that is not a token, has `_`, or white space before its colon.
    FieldName,
    /// A control character in a field value.
    FieldValue,
    /// Not exactly one Host.
    Host,
    /// Content-Length twice, or not a plain number.
    ContentLength,
    /// Both Content-Length and Transfer-Encoding.
    LengthAndEncoding,
    /// Transfer-Encoding other than exactly `chunked`, or with HTTP/1.0.
    TransferEncoding,
    /// A malformed or oversized chunk, extension or trailer.
    Chunk,
}

impl Violation {
    /// A short stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::Version => "http_version",
            Self::TargetTooLong => "url_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BareLineBreak => "bare_line_break",
            Self::ObsFold => "obs_fold",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::TransferEncoding => "transfer_encoding",
            Self::Chunk => "chunk",
        }
    }

    /// The status it is answered with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::HeadersTooLarge => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// Where the scanner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between requests, nothing of the next one seen.
    Idle,
    /// Inside a head.
    Head,
    /// Inside a body.
    Body,
    /// After a WebSocket handshake request: undecided until [`Scanner::decide`].
    Held,
    /// After the protocol was switched.
    Tunnel,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Sized(u64),
    Chunked(Chunk),
    Held,
    Tunnel,
}

#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size { digits: u8, size: u64 },
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
}

/// What a head said so far.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    at: usize,
    blank: u8,
    started: bool,
    fields_at: usize,
    fields: usize,
    old: bool,
    get: bool,
    hosts: u8,
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
    upgrade: bool,
}

/// Follows one connection's request messages.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    head: Head,
    seen: bool,
    extension: usize,
    trailers: usize,
    heads: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Head, head: Head::default(), seen: false, extension: 0, trailers: 0, heads: 0 }
    }
}

const fn token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`' | b'|' | b'~')
}

/// 1: in a field name (tokens without `_`), 2: in a value (tab, visible, space, obs-text), 4: in a target.
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time, below 256")]
        {
            let o = b as u8;
            table[b] = (token(o) as u8)
                | ((o == b'\t' || (o >= 0x20 && o != 0x7f)) as u8) << 1
                | ((o > 0x20 && o != 0x7f && o != b'#') as u8) << 2;
        }
        b += 1;
    }
    table
};

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|b| CLASS.get(usize::from(*b)).is_some_and(|c| c & class != 0))
}

impl Scanner {
    /// Before the first octet of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many heads have been released.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Where it stands.
    #[must_use]
    pub const fn place(&self) -> Place {
        match self.state {
            State::Head if self.seen => Place::Head,
            State::Head => Place::Idle,
            State::Sized(_) | State::Chunked(_) => Place::Body,
            State::Held => Place::Held,
            State::Tunnel => Place::Tunnel,
        }
    }

    /// After a WebSocket handshake: whether the protocol was switched (everything passes from now on) or not (the next
    /// octets are a request again).
    pub fn decide(&mut self, switched: bool) {
        if matches!(self.state, State::Held) {
            self.state = if switched { State::Tunnel } else { State::Head };
        }
    }

    /// How many of these octets are good to release. Those not released must come again, first, in the next call.
    ///
    /// # Errors
    /// How many octets before the violation belong to good messages, and the violation.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let mut done = 0;
        loop {
            let rest = bytes.get(done..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(done);
            }
            match self.state {
                State::Head => match self.head(rest).map_err(|v| (done, v))? {
                    None => return Ok(done),
                    Some(taken) => done += taken,
                },
                State::Sized(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - here as u64;
                    self.state = if left == 0 { State::Head } else { State::Sized(left) };
                    done += here;
                }
                State::Chunked(chunk) => done += self.chunks(chunk, rest).map_err(|v| (done, v))?,
                State::Held => return Ok(done),
                State::Tunnel => return Ok(bytes.len()),
            }
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        self.seen = true;
        loop {
            let rest = bytes.get(self.head.at..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else {
                return self.unfinished(rest).map(|()| None);
            };
            let line = rest.get(..end).and_then(|l| l.strip_suffix(b"\r")).ok_or(Violation::BareLineBreak)?;
            self.head.at += end + 1;
            if !self.head.started {
                if line.is_empty() && self.head.blank < 2 {
                    self.head.blank += 1;
                } else {
                    self.request_line(line)?;
                    self.head.started = true;
                    self.head.fields_at = self.head.at;
                }
                continue;
            }
            if self.head.at - self.head.fields_at > MAX_HEADERS {
                return Err(Violation::HeadersTooLarge);
            }
            if line.is_empty() {
                return self.finish().map(Some);
            }
            self.field(line)?;
        }
    }

    /// A line whose end has not come: bounded, and refused at once if it can no longer become good.
    fn unfinished(&self, rest: &[u8]) -> Result<(), Violation> {
        if self.head.started {
            if self.head.at - self.head.fields_at + rest.len() > MAX_HEADERS {
                return Err(Violation::HeadersTooLarge);
            }
            if matches!(rest.first(), Some(b' ' | b'\t')) {
                return Err(Violation::ObsFold);
            }
        } else if rest.len() > MAX_TARGET + MAX_METHOD + 16 {
            return Err(Violation::TargetTooLong);
        }
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if memchr(b'\r', line).is_some() {
            return Err(Violation::BareLineBreak);
        }
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Violation::RequestLine);
        };
        if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|b| token(*b) || *b == b'_') {
            return Err(Violation::RequestLine);
        }
        if target.len() > MAX_TARGET {
            return Err(Violation::TargetTooLong);
        }
        if target.is_empty() || !all(target, 4) || std::str::from_utf8(target).is_err() {
            return Err(Violation::RequestLine);
        }
        self.head.old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit() => return Err(Violation::Version),
            _ => return Err(Violation::RequestLine),
        };
        self.head.get = method == b"GET";
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Violation::ObsFold);
        }
        self.head.fields += 1;
        if self.head.fields > MAX_FIELDS {
            return Err(Violation::HeadersTooLarge);
        }
        let colon = memchr(b':', line).ok_or(Violation::FieldName)?;
        let (name, value) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        if name.is_empty() || !all(name, 1) {
            return Err(Violation::FieldName);
        }
        if !all(value, 2) {
            return Err(if memchr(b'\r', value).is_some() { Violation::BareLineBreak } else { Violation::FieldValue });
        }
        match name.len() {
            4 | 7 | 10 | 14 | 17 => self.meaning(name, value.trim_ascii()),
            _ => Ok(()),
        }
    }

    fn meaning(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        let head = &mut self.head;
        if name.eq_ignore_ascii_case(b"host") {
            head.hosts += 1;
            if head.hosts > 1 {
                return Err(Violation::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let good = head.length.is_none() && (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().filter(|_| good).and_then(|v| v.parse().ok());
            head.length = Some(number.ok_or(Violation::ContentLength)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if head.chunked || head.old || value != b"chunked" {
                return Err(Violation::TransferEncoding);
            }
            head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            head.websocket |= value.eq_ignore_ascii_case(b"websocket");
        } else if name.eq_ignore_ascii_case(b"connection") {
            head.upgrade |= value.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
        if head.chunked && head.length.is_some() {
            return Err(Violation::LengthAndEncoding);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<usize, Violation> {
        let head = std::mem::take(&mut self.head);
        self.seen = false;
        if head.hosts != 1 {
            return Err(Violation::Host);
        }
        self.heads += 1;
        self.state = if head.chunked {
            (self.extension, self.trailers) = (0, 0);
            State::Chunked(Chunk::Size { digits: 0, size: 0 })
        } else if let Some(length) = head.length.filter(|n| *n > 0) {
            State::Sized(length)
        } else if head.websocket && head.upgrade && head.get && !head.old {
            State::Held
        } else {
            State::Head
        };
        Ok(head.at)
    }

    fn chunks(&mut self, mut chunk: Chunk, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while let Some(&b) = bytes.get(at) {
            if let Chunk::Data(left) = chunk {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += here;
                let left = left - here as u64;
                chunk = if left == 0 { Chunk::DataCr } else { Chunk::Data(left) };
                continue;
            }
            at += 1;
            if matches!((chunk, b), (Chunk::FinalLf, b'\n')) {
                self.state = State::Head;
                return Ok(at);
            }
            chunk = self.octet(chunk, b)?;
        }
        self.state = State::Chunked(chunk);
        Ok(at)
    }

    /// One octet of chunked framing (RFC 9112 §7.1).
    fn octet(&mut self, chunk: Chunk, b: u8) -> Result<Chunk, Violation> {
        let visible = b == b'\t' || (b >= 0x20 && b != 0x7f);
        if matches!(chunk, Chunk::Extension(_)) {
            self.extension += 1;
        }
        if matches!(chunk, Chunk::TrailerStart | Chunk::TrailerName | Chunk::TrailerValue) {
            self.trailers += 1;
        }
        if self.extension > MAX_EXTENSIONS || self.trailers > MAX_TRAILERS {
            return Err(Violation::Chunk);
        }
        Ok(match (chunk, b) {
            (Chunk::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(b).to_digit(16).unwrap_or_default();
                Chunk::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Chunk::Size { digits: 1.., size }, b';') => Chunk::Extension(size),
            (Chunk::Size { digits: 1.., size } | Chunk::Extension(size), b'\r') => Chunk::SizeEnd(size),
            (Chunk::Extension(size), _) if visible => Chunk::Extension(size),
            (Chunk::SizeEnd(0), b'\n') => Chunk::TrailerStart,
            (Chunk::SizeEnd(size), b'\n') => Chunk::Data(size),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { digits: 0, size: 0 },
            (Chunk::TrailerStart, b'\r') => Chunk::FinalLf,
            (Chunk::TrailerStart | Chunk::TrailerName, _) if token(b) => Chunk::TrailerName,
            (Chunk::TrailerName, b':') => Chunk::TrailerValue,
            (Chunk::TrailerValue, b'\r') => Chunk::TrailerLf,
            (Chunk::TrailerValue, _) if visible => Chunk::TrailerValue,
            (Chunk::TrailerLf, b'\n') => Chunk::TrailerStart,
            _ => return Err(Violation::Chunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<usize, Violation> {
        Scanner::new().scan(text.as_bytes()).map_err(|(_, v)| v)
    }

    fn with(fields: &str) -> Result<usize, Violation> {
        whole(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn smuggling_shapes_are_refused() {
        use Violation::*;
        for (fields, why) in [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", LengthAndEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", LengthAndEncoding),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", ContentLength),
            ("Content-Length: 3\r\nContent-Length: 4\r\n", ContentLength),
            ("Content-Length: 3, 3\r\n", ContentLength),
            ("Content-Length: +3\r\n", ContentLength),
            ("Content-Length: 0x3\r\n", ContentLength),
            ("Content-Length:\r\n", ContentLength),
            ("Content-Length: 99999999999999999999\r\n", ContentLength),
            ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
            ("Transfer-Encoding: identity\r\n", TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
            ("Transfer-Encoding: chunked;q=1\r\n", TransferEncoding),
            ("Transfer-Encoding:\u{b}chunked\r\n", FieldValue),
            ("Transfer-Encoding : chunked\r\n", FieldName),
            ("Transfer_Encoding: chunked\r\n", FieldName),
            ("X: a\r\n b\r\n", ObsFold),
            ("X: a\n", BareLineBreak),
            ("X: a\rb\r\n", BareLineBreak),
            ("X: a\0b\r\n", FieldValue),
            ("X\r\n", FieldName),
            (": a\r\n", FieldName),
            ("X_User: a\r\n", FieldName),
            ("Host: b\r\n", Host),
        ] {
            assert_eq!(with(fields), Err(why), "{fields:?}");
        }
        assert_eq!(whole("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(TransferEncoding));
        assert_eq!(whole("GET / HTTP/1.1\r\n\r\n"), Err(Host));
        for line in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "G\u{7f}T / HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET /#f HTTP/1.1",
            "GET / http/1.1",
        ] {
            assert_eq!(whole(&format!("{line}\r\nHost: a\r\n\r\n")), Err(RequestLine), "{line:?}");
        }
        assert_eq!(whole("GET / HTTP/1.1\nHost: a\n\n"), Err(BareLineBreak));
        assert_eq!(whole("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(Version));
    }

    #[test]
    fn limits_hold_before_a_line_ends() {
        assert_eq!(whole(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(MAX_TARGET))), Err(Violation::TargetTooLong));
        assert_eq!(whole(&format!("GET /{}", "a".repeat(MAX_TARGET * 2))), Err(Violation::TargetTooLong));
        assert!(whole(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(MAX_TARGET - 1))).is_ok());
        assert_eq!(with(&format!("X: {}", "a".repeat(MAX_HEADERS))), Err(Violation::HeadersTooLarge));
        assert_eq!(with(&"X: a\r\n".repeat(MAX_FIELDS)), Err(Violation::HeadersTooLarge));
        assert!(with(&"X: a\r\n".repeat(MAX_FIELDS - 1)).is_ok());
    }

    #[test]
    fn chunked_bodies_are_followed_to_their_end() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0;x\r\nT: v\r\n\r\n", "00A\r\n0123456789\r\n0\r\n\r\n"] {
            let text = format!("{head}{body}GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut scanner = Scanner::new();
            assert_eq!(scanner.scan(text.as_bytes()), Ok(text.len()), "{body:?}");
            assert_eq!((scanner.heads(), scanner.place()), (2, Place::Idle));
        }
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "5;a\nb\r\n",
            "0\r\n x: y\r\n",
            "0\r\nX Y: z\r\n",
            "0\r\nX: a\n\r\n",
        ] {
            assert_eq!(whole(&format!("{head}{body}")), Err(Violation::Chunk), "{body:?}");
        }
    }

    #[test]
    fn a_websocket_handshake_holds_what_follows_until_decided() {
        let text = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\nGET /admin HTTP/1.1\n";
        let mut scanner = Scanner::new();
        let taken = scanner.scan(text).unwrap();
        assert!(text[taken..].starts_with(b"GET /admin"));
        assert_eq!(scanner.place(), Place::Held);
        scanner.decide(false);
        assert_eq!(scanner.scan(&text[taken..]), Err((0, Violation::BareLineBreak)));
    }

    proptest::proptest! {
        #[test]
        fn slices_of_any_size_give_the_same_answer(text in "(GET|POST) /[a-z]{0,3} HTTP/1\\.[01]\r\n(Host: a\r\n)?((Content-Length: [0-9]\r\n)|(Transfer-Encoding: chunked\r\n)|(X: [a-z\t ]\r?\n)){0,3}\r\n[0-9a-f;\r\n]{0,12}", step in 1usize..9) {
            let all = Scanner::new().scan(text.as_bytes());
            let mut scanner = Scanner::new();
            let (mut released, mut from, mut to) = (0, 0, 0);
            let parts = loop {
                if to >= text.len() { break Ok(released); }
                to = (to + step).min(text.len());
                match scanner.scan(&text.as_bytes()[from..to]) {
                    Ok(n) => { from += n; released += n; }
                    Err((n, v)) => break Err((released + n, v)),
                }
            };
            match (all, parts) {
                (Ok(a), Ok(b)) => proptest::prop_assert_eq!(a, b),
                (Err(_), Err(_)) => {}
                (a, b) => proptest::prop_assert!(false, "{:?} against {:?}", a, b),
            }
        }

        #[test]
        fn any_octets_end_in_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Scanner::new().scan(&bytes);
        }
    }
}
