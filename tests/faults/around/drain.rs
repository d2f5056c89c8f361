//! SIGTERM under load: every request that was taken gets its answer, nothing acknowledged is lost, the process ends in time with 0.
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;

use super::load::Load;
use super::rounds;
use crate::kit::seed::{MACHINE, SAFE};
use crate::kit::{Stage, wait_until};

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Answered {
        close: bool,
    },
    /// Nobody listens any more.
    Refused,
    /// The other side had closed before it read a single octet of it.
    Closed,
    /// Cut off.
    Reset(String),
}

/// One keep-alive connection.
struct Line {
    address: String,
    stream: Option<TcpStream>,
}

impl Line {
    fn send(&mut self, request: &str) -> Ended {
        let fresh = self.stream.is_none();
        if fresh {
            match TcpStream::connect(&self.address) {
                Ok(stream) => {
                    let _ = (stream.set_nodelay(true), stream.set_read_timeout(Some(Duration::from_secs(20))));
                    self.stream = Some(stream);
                }
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ended::Refused,
                Err(e) => return Ended::Reset(format!("connect: {e}")),
            }
        }
        let stream = self.stream.as_mut().expect("a connection");
        if let Err(e) = stream.write_all(request.as_bytes()) {
            self.stream = None;
            return if fresh { Ended::Reset(format!("write: {e}")) } else { Ended::Closed };
        }
        let (mut octets, mut buffer) = (Vec::new(), [0u8; 8192]);
        let ended = loop {
            match stream.read(&mut buffer) {
                Ok(0) if octets.is_empty() && !fresh => break Ended::Closed,
                Ok(0) => break Ended::Reset(format!("closed after {}", octets.len())),
                Ok(n) => octets.extend_from_slice(&buffer[..n]),
                Err(e) => {
                    break Ended::Reset(format!("read: {e} after {} on a {} connection", octets.len(), if fresh { "new" } else { "used" }));
                }
            }
            let text = String::from_utf8_lossy(&octets).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length: usize =
                head.lines().find_map(|l| l.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().expect("a length"));
            if body.len() >= length {
                let close = head.lines().any(|l| l.starts_with("connection:") && l.contains("close"));
                break Ended::Answered { close };
            }
        };
        if ended != (Ended::Answered { close: false }) {
            self.stream = None;
        }
        ended
    }
}

fn token_request(address: &str) -> String {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", SAFE.id, SAFE.secret));
    let body = "grant_type=client_credentials";
    format!(
        "POST /token HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {basic}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn every_request_that_was_taken_is_answered_and_the_process_ends_in_time() {
    let stage = Stage::start(|_| {});
    let Stage { house, mut server, upstream: _upstream } = stage;
    for round in 0..rounds(3) {
        let load = Load::new(&server, &server.issuer.clone(), 2);
        let (public, gateway) = (server.listener("public"), server.listener("gateway"));
        let through =
            format!("GET /api/x HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {}\r\n\r\n", server.machine_token(&MACHINE, &[]));
        let token = token_request(&public);
        let (answered, told_to_close, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let spin = |address: &str, request: &str, keep: bool| {
            let mut line = Line { address: address.to_owned(), stream: None };
            while !stop.load(Ordering::SeqCst) {
                match line.send(request) {
                    Ended::Answered { close } => {
                        answered.fetch_add(1, Ordering::SeqCst);
                        told_to_close.fetch_add(usize::from(close), Ordering::SeqCst);
                    }
                    Ended::Refused => break,
                    // An idle connection that was closed: the client may send it again (RFC 9112 §9.3.1), and nothing was done.
                    Ended::Closed => panic!("a busy connection was closed without a word"),
                    Ended::Reset(why) => panic!("a request was cut off: {why}"),
                }
                if !keep {
                    line.stream = None;
                }
            }
        };
        let mut status = None;
        std::thread::scope(|scope| {
            let (public, gateway, token, through, spin) = (&public, &gateway, &token, &through, &spin);
            let spinning: Vec<_> = [
                (public, token, true),
                (public, token, true),
                (gateway, through, true),
                (gateway, through, true),
                (public, token, false),
                (gateway, through, false),
            ]
            .into_iter()
            .map(|(address, request, keep)| scope.spawn(move || spin(address, request, keep)))
            .collect();
            load.during(|| {
                wait_until("work is under way", Duration::from_secs(30), || answered.load(Ordering::SeqCst) > 60 + round * 7);
                status = Some(server_stop(&mut server, &house));
            });
            stop.store(true, Ordering::SeqCst);
            for thread in spinning {
                thread.join().expect("no request was cut off");
            }
        });
        let (code, took) = status.expect("it ended");
        assert_eq!(code, 0);
        assert!(took <= Duration::from_secs(11), "{took:?}");
        assert!(told_to_close.load(Ordering::SeqCst) > 0, "whoever is busy is told that the connection ends");
        // What was acknowledged up to the last moment is there.
        load.judge(&server);
    }
    drop(server);
    house.run(&["audit", "verify"]).ok();
}

/// SIGTERM to the server, a new one in its place; the exit code of the old one and how long it took.
fn server_stop(server: &mut crate::kit::Server, house: &crate::kit::House) -> (i32, Duration) {
    let begun = std::time::Instant::now();
    server.signal("TERM");
    let code = server.ended_within(Duration::from_secs(20)).expect("it ends");
    let took = begun.elapsed();
    *server = house.serve();
    (code, took)
}
