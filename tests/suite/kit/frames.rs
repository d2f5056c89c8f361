//! HTTP/2 frame by frame (RFC 9113 §4): what no well-behaved client would send.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::raw;

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without indexing (RFC 7541 §6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0], &string(name)[..], &string(value)].concat()
}

/// A field that goes into the dynamic table (RFC 7541 §6.2.1).
pub fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40], &string(name)[..], &string(value)].concat()
}

fn string(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).expect("short"));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length % 128).expect("seven bits") | 128);
            length /= 128;
        }
        out.push(u8::try_from(length).expect("seven bits"));
    }
    out.extend_from_slice(text.as_bytes());
    out
}

/// The fields of a GET.
pub fn get(path: &str) -> Vec<u8> {
    [field(":method", "GET"), field(":scheme", "http"), field(":authority", "x"), field(":path", path)].concat()
}

/// A connection that has begun, with these settings.
pub fn connect(address: &str, settings: &[(u16, u32)]) -> TcpStream {
    let mut stream = raw::connect(address);
    let settings: Vec<u8> = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a preface");
    stream.write_all(&frame(SETTINGS, 0, 0, &settings)).expect("settings");
    stream.write_all(&frame(SETTINGS, 1, 0, &[])).expect("an acknowledgement");
    stream
}

/// Sends as much of this as the peer takes; whether the peer broke the connection off.
pub fn pour(stream: &mut TcpStream, octets: impl Iterator<Item = Vec<u8>>) -> bool {
    stream.set_write_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    for octets in octets {
        match stream.write_all(&octets) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// Whether the peer ends the connection within this time; what it says until then is read away.
pub fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    let begun = std::time::Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut block = [0; 16 * 1024];
    while begun.elapsed() < within {
        match stream.read(&mut block) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

/// Answers the peer's pings for as long as it is connected, in a thread of its own.
pub fn answer_pings(stream: &TcpStream) {
    let mut stream = stream.try_clone().expect("a second handle");
    stream.set_read_timeout(None).expect("no timeout");
    std::thread::spawn(move || {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            let read = stream.read_exact(&mut payload);
            if read.is_err() || (head[3] == PING && head[4] & 1 == 0 && stream.write_all(&frame(PING, 1, 0, &payload)).is_err()) {
                return;
            }
        }
    });
}
