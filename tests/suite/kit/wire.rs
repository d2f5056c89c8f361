//! A wire between two programs that can be cut, held up and made slow; a feed that goes over it can be doubled and put out of order.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the wire does with the events of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Events {
    AsTheyCome,
    /// Each twice.
    Doubled,
    /// Each pair the other way round.
    Swapped,
}

#[derive(Default)]
struct State {
    /// 0: passes, 1: cut, 2: holds whatever comes.
    mode: AtomicU8,
    delay_ms: AtomicU64,
    events: AtomicU8,
    open: Mutex<Vec<TcpStream>>,
}

/// The wire. What is under way when it is made slow is made slow too.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

impl Wire {
    /// A wire from a port of this machine to an address.
    pub fn between(port: u16, to: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for inward in listener.incoming().flatten() {
                if shared.mode.load(Ordering::SeqCst) == 1 {
                    continue;
                }
                let Ok(outward) = TcpStream::connect(&to) else { continue };
                let _ = (inward.set_nodelay(true), outward.set_nodelay(true));
                let copy = |stream: &TcpStream| stream.try_clone().expect("a handle");
                let mut open = shared.open.lock().expect("streams");
                open.extend([copy(&inward), copy(&outward)]);
                drop(open);
                for (from, to, answers) in [(copy(&inward), copy(&outward), false), (outward, inward, true)] {
                    let state = Arc::clone(&shared);
                    std::thread::spawn(move || carry(from, to, answers, &state));
                }
            }
        });
        Self { port, state }
    }

    /// Every connection is gone and no new one gets through.
    pub fn cut(&self) {
        self.state.mode.store(1, Ordering::SeqCst);
        for stream in self.state.open.lock().expect("streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections stay, nothing gets through.
    pub fn hold(&self) {
        self.state.mode.store(2, Ordering::SeqCst);
    }

    /// As it was; what was held gets through now.
    pub fn mend(&self) {
        self.state.mode.store(0, Ordering::SeqCst);
    }

    /// Everything takes so much longer in each direction.
    pub fn slow(&self, by: Duration) {
        self.state.delay_ms.store(u64::try_from(by.as_millis()).expect("fits"), Ordering::SeqCst);
    }

    /// From now on for every event of a feed.
    pub fn events(&self, how: Events) {
        self.state.events.store(how as u8, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, answers: bool, state: &State) {
    let (mut buffer, mut feed) = ([0u8; 16384], Feed::default());
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let late = state.delay_ms.load(Ordering::SeqCst);
        if late > 0 {
            std::thread::sleep(Duration::from_millis(late));
        }
        while state.mode.load(Ordering::SeqCst) == 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let octets = &buffer[..n];
        let sent = if answers && feed.is(octets) {
            feed.take(octets, state.events.load(Ordering::SeqCst)).iter().try_for_each(|part| to.write_all(part))
        } else {
            to.write_all(octets)
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// A chunked answer of server-sent events, taken apart into events and put together again.
#[derive(Default)]
struct Feed {
    begun: bool,
    octets: Vec<u8>,
    text: String,
    kept: Option<String>,
    head: bool,
}

impl Feed {
    fn is(&mut self, octets: &[u8]) -> bool {
        let head = String::from_utf8_lossy(octets).to_ascii_lowercase();
        if !self.begun && head.starts_with("http/1.1 200") && head.contains("text/event-stream") && head.contains("chunked") {
            (self.begun, self.head) = (true, true);
        }
        self.begun
    }

    fn take(&mut self, octets: &[u8], how: u8) -> Vec<Vec<u8>> {
        self.octets.extend_from_slice(octets);
        let mut out = Vec::new();
        if self.head {
            let Some(end) = self.octets.windows(4).position(|w| w == b"\r\n\r\n") else { return out };
            out.push(self.octets.drain(..end + 4).collect());
            self.head = false;
        }
        while let Some(line) = self.octets.windows(2).position(|w| w == b"\r\n") {
            let size = usize::from_str_radix(&String::from_utf8_lossy(&self.octets[..line]), 16).expect("a chunk's size");
            if self.octets.len() < line + 2 + size + 2 {
                break;
            }
            self.text.push_str(&String::from_utf8_lossy(&self.octets[line + 2..line + 2 + size]));
            self.octets.drain(..line + 2 + size + 2);
            if size == 0 {
                // The feed is over; what comes next on the connection is none.
                out.push(b"0\r\n\r\n".to_vec());
                out.push(std::mem::take(&mut self.octets));
                self.begun = false;
            }
        }
        while let Some(end) = self.text.find("\n\n") {
            let event: String = self.text.drain(..end + 2).collect();
            let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
            // The snapshot begins a connection and stays its beginning.
            match how {
                1 if !event.contains("event: snapshot") => out.extend([chunk(&event), chunk(&event)]),
                2 if !event.contains("event: snapshot") => match self.kept.take() {
                    Some(earlier) => out.extend([chunk(&event), chunk(&earlier)]),
                    None => self.kept = Some(event),
                },
                _ => out.extend(self.kept.take().iter().chain([&event]).map(|event| chunk(event))),
            }
        }
        out
    }
}
