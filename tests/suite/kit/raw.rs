//! Requests byte by byte: what no well-behaved client would send.
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// An answer to raw bytes.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub text: String,
    /// The server closed (FIN or RST) within the time limit.
    pub closed: bool,
    pub closed_after: Duration,
}

/// Sends bytes and reads until the server closes or falls silent for a second.
pub fn exchange(address: &str, request: &[u8]) -> RawAnswer {
    let mut stream = connect(address);
    let _ = stream.write_all(request);
    read_rest(&mut stream, Duration::from_millis(1500))
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Reads until the peer closes or `silence` passes without a byte.
pub fn read_rest(stream: &mut TcpStream, silence: Duration) -> RawAnswer {
    stream.set_read_timeout(Some(silence)).expect("a timeout");
    let begun = Instant::now();
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    let closed = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
            Err(_) => break true,
        }
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    RawAnswer { status, text, closed, closed_after: begun.elapsed() }
}

/// Reads up to the end of the head, or as much as comes in five seconds.
pub fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A `GET` of a path as written, to a Host, with further header lines.
pub fn get(address: &str, path: &str, headers: &str) -> RawAnswer {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n").as_bytes())
}
