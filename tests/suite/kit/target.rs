//! A target of an upstream whose mood a test can change; what it was asked is counted.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// How a target answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    /// 200, its name as the body.
    Well,
    /// This status, with further header lines.
    Says(u16, &'static str),
    /// Nothing, ever.
    Hangs,
    /// Closes once it has read the request.
    Drops,
    /// As well as it can, after a while.
    Slow(Duration),
    /// A head that promises more than ever comes.
    Stalls,
    /// So many mebibytes.
    Large(usize),
}

struct Shared {
    name: String,
    mood: Mutex<Mood>,
    health: Mutex<u16>,
    asked: AtomicUsize,
    checked: AtomicUsize,
    open: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

/// A small HTTP/1.1 server. `/healthz` has a mood of its own.
pub struct Target {
    port: u16,
    shared: Arc<Shared>,
}

impl Target {
    pub fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            mood: Mutex::new(Mood::Well),
            health: Mutex::new(200),
            asked: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(stream, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, shared }
    }
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    pub fn feel(&self, mood: Mood) {
        *self.shared.mood.lock().expect("a mood") = mood;
    }
    /// What its health is answered with.
    pub fn health(&self, status: u16) {
        *self.shared.health.lock().expect("a status") = status;
    }
    /// Requests so far, those about its health apart.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
    /// Questions about its health so far.
    pub fn checked(&self) -> usize {
        self.shared.checked.load(Ordering::SeqCst)
    }
    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
    /// Most connections so far on which an answer was waited for at once (of those that are slow).
    pub fn most_busy(&self) -> usize {
        self.shared.most_busy.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut length, mut field) = (0, String::new());
        while reader.read_line(&mut field)? > 2 {
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            field.clear();
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
        if line.starts_with("GET /healthz ") {
            shared.checked.fetch_add(1, Ordering::SeqCst);
            let status = *shared.health.lock().expect("a status");
            stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
            continue;
        }
        shared.asked.fetch_add(1, Ordering::SeqCst);
        let mood = shared.mood.lock().expect("a mood").clone();
        let well = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", shared.name.len(), shared.name);
        match mood {
            Mood::Well => stream.write_all(well.as_bytes())?,
            Mood::Says(status, more) => {
                stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}\r\n").as_bytes())?;
            }
            Mood::Hangs => {
                // Until the other side has enough.
                let _ = reader.read(&mut [0; 1]);
                return Ok(());
            }
            Mood::Drops => return Ok(()),
            Mood::Slow(after) => {
                let busy = shared.busy.fetch_add(1, Ordering::SeqCst) + 1;
                shared.most_busy.fetch_max(busy, Ordering::SeqCst);
                std::thread::sleep(after);
                // Before the answer: whoever reads it may ask the next thing at once.
                shared.busy.fetch_sub(1, Ordering::SeqCst);
                stream.write_all(well.as_bytes())?;
            }
            Mood::Stalls => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")?;
                let _ = reader.read(&mut [0; 1]);
                return Ok(());
            }
            Mood::Large(mebibytes) => {
                stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", mebibytes << 20).as_bytes())?;
                let block = vec![b'x'; 1 << 20];
                (0..mebibytes).try_for_each(|_| stream.write_all(&block))?;
            }
        }
    }
}

/// A public route of this id over an upstream of these targets and members.
pub fn route(id: &str, targets: &[&Target], members: Value) -> Value {
    let targets: Vec<Value> = targets.iter().map(|target| json!({"url": target.url()})).collect();
    let mut upstream = json!({"targets": targets});
    upstream.as_object_mut().expect("an object").extend(members.as_object().expect("members").clone());
    json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": upstream, "public": true})
}
