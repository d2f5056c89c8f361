//! A strict reader of HTTP/1.1 messages (RFC 9112), written apart from the gateway's: what it does not take is not a message.

/// A header section and what is said in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The request line or status line, split at its first two spaces.
    pub line: [String; 3],
    /// Names in lower case, values without the white space around them.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// A message with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    /// The body came to its end.
    pub whole: bool,
}

/// What is at the beginning of some octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A message and how many octets it took.
    Message(Message, usize),
    /// So far nothing is wrong.
    Unfinished,
    /// No message begins like this.
    Wrong(&'static str),
}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    /// A request as a client wrote it: octets beyond ASCII in its target may be escaped on the way.
    Offered,
    /// An answer; to a HEAD request.
    Answer(bool),
}

fn token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

impl Head {
    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.line[1].parse().unwrap_or(0)
    }
}

/// Reads a head that ends with an empty line; how many octets it took.
fn head(octets: &[u8], kind: Kind) -> Result<Option<(Head, usize)>, &'static str> {
    let Some(end) = octets.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = Vec::new();
    let mut rest = &octets[..end + 2];
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    let (first, fields) = lines.split_first().ok_or("no line")?;
    if lines.iter().any(|line| line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))) {
        return Err("a stray CR, LF or NUL");
    }
    let first = std::str::from_utf8(first).map_err(|_| "first line is not ASCII")?;
    let mut parts = first.splitn(3, ' ');
    let line = [(); 3].map(|()| parts.next().unwrap_or_default().to_owned());
    match kind {
        Kind::Request | Kind::Offered => {
            if line[0].is_empty() || !line[0].bytes().all(token) {
                return Err("method");
            }
            if line[1].is_empty() || !line[1].bytes().all(|b| b.is_ascii_graphic() || (kind == Kind::Offered && !b.is_ascii())) {
                return Err("target");
            }
            if !matches!(line[2].as_str(), "HTTP/1.1" | "HTTP/1.0") {
                return Err("version");
            }
        }
        Kind::Answer(_) => {
            if !matches!(line[0].as_str(), "HTTP/1.1" | "HTTP/1.0") {
                return Err("version");
            }
            if line[1].len() != 3 || !line[1].bytes().all(|b| b.is_ascii_digit()) || !(100..=599).contains(&line[1].parse().unwrap_or(0)) {
                return Err("status");
            }
        }
    }
    let mut out = Vec::new();
    for field in fields {
        let at = field.iter().position(|b| *b == b':').ok_or("a line without a colon")?;
        let (name, value) = (&field[..at], &field[at + 1..]);
        if name.is_empty() || !name.iter().all(|b| token(*b)) {
            return Err("field name");
        }
        if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err("field value");
        }
        out.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii().to_vec()));
    }
    Ok(Some((Head { line, fields: out }, end + 4)))
}

/// A chunked body: what it carries and how many octets it took; `None` if it is not all there.
fn chunked(octets: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &octets[at..];
        let digits = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else {
            return if rest.len() > digits && digits == 0 { Err("chunk size") } else { Ok(None) };
        };
        if digits == 0 || digits > 15 {
            return Err("chunk size");
        }
        let extension = &rest[digits..end];
        if extension.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err("chunk extension");
        }
        if !extension.is_empty() && !matches!(extension.first(), Some(b';' | b' ' | b'\t')) {
            return Err("chunk size");
        }
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..digits]).unwrap_or("x"), 16).map_err(|_| "chunk size")?;
        at += end + 2;
        if size == 0 {
            // The trailer section.
            loop {
                let rest = &octets[at..];
                let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
                let line = &rest[..end];
                at += end + 2;
                if line.is_empty() {
                    return Ok(Some((body, at)));
                }
                let colon = line.iter().position(|b| *b == b':').ok_or("trailer")?;
                if colon == 0 || !line[..colon].iter().all(|b| token(*b)) || line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
                    return Err("trailer");
                }
            }
        }
        let Some(data) = octets[at..].get(..size) else { return Ok(None) };
        body.extend_from_slice(data);
        at += size;
        match octets[at..].get(..2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err("chunk end"),
            None => return if octets[at..].first().is_some_and(|b| *b != b'\r') { Err("chunk end") } else { Ok(None) },
        }
    }
}

/// Reads the message at the beginning; `ended`: nothing more will come.
pub fn read(octets: &[u8], kind: Kind, ended: bool) -> Read {
    let (head, taken) = match head(octets, kind) {
        Ok(Some(found)) => found,
        Ok(None) => return Read::Unfinished,
        Err(why) => return Read::Wrong(why),
    };
    let lengths: Vec<_> = head.all("content-length").map(<[u8]>::to_vec).collect();
    let encodings: Vec<_> = head.all("transfer-encoding").map(<[u8]>::to_ascii_lowercase).collect();
    let empty = matches!(kind, Kind::Answer(true)) || (matches!(kind, Kind::Answer(_)) && matches!(head.status(), 100..=199 | 204 | 304));
    if lengths.len() > 1 || encodings.len() > 1 || (!lengths.is_empty() && !encodings.is_empty()) {
        return Read::Wrong("two lengths");
    }
    if encodings.first().is_some_and(|e| e != b"chunked") || (!encodings.is_empty() && head.line.iter().any(|part| part == "HTTP/1.0")) {
        return Read::Wrong("transfer encoding");
    }
    if lengths.first().is_some_and(|l| l.is_empty() || l.len() > 15 || !l.iter().all(u8::is_ascii_digit)) {
        return Read::Wrong("content length");
    }
    let rest = &octets[taken..];
    let (body, used, whole) = if empty {
        (Vec::new(), 0, true)
    } else if !encodings.is_empty() {
        match chunked(rest) {
            Ok(Some((body, used))) => (body, used, true),
            Ok(None) => (Vec::new(), rest.len(), false),
            // What came before the fault may have been let through.
            Err(_) => (Vec::new(), rest.len(), false),
        }
    } else if let Some(length) = lengths.first() {
        let length: usize = std::str::from_utf8(length).ok().and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
        let used = length.min(rest.len());
        (rest[..used].to_vec(), used, used == length)
    } else if !matches!(kind, Kind::Answer(_)) {
        (Vec::new(), 0, true)
    } else {
        (rest.to_vec(), rest.len(), ended)
    };
    Read::Message(Message { head, body, whole }, taken + used)
}

/// Every message there is until something is wrong; what was wrong, or how many octets were left over.
pub fn all(mut octets: &[u8], kind: Kind) -> (Vec<Message>, Option<&'static str>, usize) {
    let mut out = Vec::new();
    loop {
        if !matches!(kind, Kind::Answer(_)) {
            while let Some(rest) = octets.strip_prefix(b"\r\n") {
                octets = rest;
            }
        }
        if octets.is_empty() {
            return (out, None, 0);
        }
        match read(octets, kind, true) {
            Read::Message(message, taken) => {
                let whole = message.whole;
                out.push(message);
                octets = &octets[taken..];
                if !whole {
                    return (out, None, octets.len());
                }
            }
            Read::Unfinished => return (out, None, octets.len()),
            Read::Wrong(why) => return (out, Some(why), octets.len()),
        }
    }
}
