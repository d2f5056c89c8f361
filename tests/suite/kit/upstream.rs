//! An API behind the gateway that records every byte it is sent.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

/// A recording HTTP/1.1 server. `/…/ws` upgrades and echoes, `/…/sse` streams, `/…/raw?…` answers what the query says,
/// `/…/drop` hangs up, `/…/half` breaks off in the middle of its answer.
pub struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body came to its proper end.
    pub whole: bool,
}

impl Seen {
    /// The path and query of the request line.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }
    /// All values of a header, exactly as named.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                std::thread::spawn(move || serve(stream, &record));
            }
        });
        Self { port, seen }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Every request whose request line or a header contains the mark.
    pub fn seen(&self, mark: &str) -> Vec<Seen> {
        let seen = self.seen.lock().expect("the record");
        let has = |s: &&Seen| s.line.contains(mark) || s.headers.iter().any(|(_, v)| v.contains(mark)) || contains(&s.body, mark);
        seen.iter().filter(has).cloned().collect()
    }

    /// The only request with the mark.
    #[track_caller]
    pub fn only(&self, mark: &str) -> Seen {
        let mut all = self.seen(mark);
        assert_eq!(all.len(), 1, "requests with {mark}: {all:?}");
        all.remove(0)
    }
}

fn contains(body: &[u8], mark: &str) -> bool {
    body.windows(mark.len()).any(|w| w == mark.as_bytes())
}

fn serve(mut stream: TcpStream, record: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(seen) = read_request(&mut reader) {
        let target = seen.target().to_owned();
        let key = seen.all("sec-websocket-key").first().map(|k| (*k).to_owned());
        let whole = seen.whole;
        let echo = json!({"line": seen.line, "headers": seen.headers, "body": String::from_utf8_lossy(&seen.body)}).to_string();
        record.lock().expect("the record").push(seen);
        if !whole {
            return;
        }
        let path = target.split('?').next().unwrap_or("");
        let done = match path.rsplit('/').next().unwrap_or("") {
            "ws" => return websocket(stream, reader, key),
            "sse" => return events(stream),
            "drop" => return,
            "half" => stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                .and_then(|()| stream.shutdown(std::net::Shutdown::Both)),
            "empty" => stream.write_all(b"HTTP/1.1 204 No Content\r\nX-Upstream: yes\r\n\r\n"),
            "raw" => stream.write_all(&answer_of(&target)).and_then(|()| stream.shutdown(std::net::Shutdown::Both)),
            _ => stream.write_all(
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Upstream: yes\r\nContent-Length: {}\r\n\r\n{echo}",
                    echo.len()
                )
                .as_bytes(),
            ),
        };
        if done.is_err() {
            return;
        }
    }
}

/// The raw answer asked for in `?answer=`, percent-decoded.
fn answer_of(target: &str) -> Vec<u8> {
    let query = target.split_once("answer=").map_or("", |(_, q)| q);
    percent_encoding::percent_decode_str(query).collect()
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let line = read_line(reader)?;
    let mut headers = Vec::new();
    loop {
        let header = read_line(reader)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let of = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
    let mut body = Vec::new();
    let whole = if of("transfer-encoding").is_some() {
        read_chunks(reader, &mut body).is_some()
    } else {
        let length = of("content-length").and_then(|l| l.parse().ok()).unwrap_or(0u64);
        reader.by_ref().take(length).read_to_end(&mut body).is_ok() && body.len() as u64 == length
    };
    Some(Seen { line, headers, body, whole })
}

fn read_chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let size = usize::from_str_radix(read_line(reader)?.split(';').next()?.trim(), 16).ok()?;
        let mut chunk = vec![0; size];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk);
        let end = read_line(reader)?;
        if size == 0 {
            return Some(());
        }
        if !end.is_empty() {
            return None;
        }
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    let n = reader.read_until(b'\n', &mut line).ok()?;
    if n == 0 || !line.ends_with(b"\n") {
        return None;
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// Accepts the upgrade (RFC 6455 §4.2.2), then sends back whatever bytes come.
fn websocket(mut stream: TcpStream, mut reader: BufReader<TcpStream>, key: Option<String>) {
    let Some(key) = key else {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nnot upgrade");
        return;
    };
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    let accept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0u8; 1024];
    while let Ok(n) = reader.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// Server-sent events without end.
fn events(mut stream: TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for n in 0..600 {
        let event = format!("data: {n}\n\n");
        if stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
