//! An upstream that keeps every octet of every connection, and answers as it was told to.
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::wire::{Kind, Message, Read, read};

/// How an upstream answers.
#[derive(Debug, Clone, Default)]
pub enum Saying {
    /// A good answer that names the target of the request.
    #[default]
    Well,
    /// These octets, once, to a request whose target ends in `/odd`; then the connection is closed or not.
    Odd(Vec<u8>, bool),
}

/// What an upstream heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub requests: Vec<Message>,
    /// What no strict reader takes for a request.
    pub wrong: Vec<String>,
}

/// The upstream.
#[derive(Debug)]
pub struct Upstream {
    pub at: SocketAddr,
    heard: Mutex<Heard>,
    saying: Mutex<Saying>,
}

impl Upstream {
    /// Starts one on a free port of the loopback interface.
    pub fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let this = Arc::new(Self { at, heard: Mutex::default(), saying: Mutex::default() });
        let own = Arc::clone(&this);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = Arc::clone(&own);
                thread::spawn(move || own.connection(stream));
            }
        });
        this
    }

    /// Forgets what it heard and says this from now on.
    pub fn begin(&self, saying: Saying) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Heard::default();
        *self.saying.lock().unwrap_or_else(PoisonError::into_inner) = saying;
    }

    /// What it heard since.
    pub fn heard(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn connection(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (mut pending, mut piece) = (Vec::new(), vec![0; 65_536]);
        loop {
            match read(&pending, Kind::Request, false) {
                Read::Message(message, taken) if message.whole => {
                    pending.drain(..taken);
                    let target = message.head.line[1].clone();
                    self.note(|heard| heard.requests.push(message));
                    if !self.answer(&mut stream, &target) {
                        return;
                    }
                    continue;
                }
                Read::Wrong(why) => {
                    let shown = String::from_utf8_lossy(&pending).into_owned();
                    self.note(|heard| heard.wrong.push(format!("{why}: {shown:?}")));
                    return;
                }
                Read::Message(..) | Read::Unfinished => {}
            }
            match stream.read(&mut piece) {
                Ok(n) if n > 0 => pending.extend_from_slice(&piece[..n]),
                _ => break,
            }
        }
        // A request whose body never came to its end.
        match read(&pending, Kind::Request, true) {
            Read::Message(message, _) => self.note(|heard| heard.requests.push(message)),
            _ if pending.is_empty() => {}
            _ => self.note(|heard| heard.wrong.push(format!("half a head: {:?}", String::from_utf8_lossy(&pending)))),
        }
    }

    fn answer(&self, stream: &mut TcpStream, target: &str) -> bool {
        if target.ends_with("/odd") {
            let saying = self.saying.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Saying::Odd(octets, close) = saying {
                return stream.write_all(&octets).is_ok() && !close;
            }
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()).as_bytes()).is_ok()
    }
}
