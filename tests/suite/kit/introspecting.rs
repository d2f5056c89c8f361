//! Another issuer's introspection endpoint (RFC 7662) that answers what it is told to, and keeps what it was asked.
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::forge::Key;

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Question {
    pub path: String,
    pub authorization: Option<String>,
    pub accept: String,
    pub form: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    tokens: HashMap<String, Value>,
    questions: Vec<Question>,
    /// Instead of 200.
    status: Option<u16>,
    slow: Duration,
    /// Signs its answers with this type, for this audience.
    signing: Option<(Arc<Key>, Value, Value)>,
    metadata: Option<Value>,
    fetched: Vec<String>,
}

/// The issuer: metadata, a key set and introspection at one address.
pub struct Introspecting {
    pub url: String,
    pub address: String,
    pub key: Arc<Key>,
    state: Arc<Mutex<State>>,
}

impl Introspecting {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (url, key) = (format!("http://{address}"), Arc::new(Key::new("theirs")));
        let state = Arc::new(Mutex::new(State::default()));
        let metadata = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        state.lock().expect("state").metadata = Some(metadata);
        let (shared, keys) = (Arc::clone(&state), Arc::clone(&key));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, key) = (Arc::clone(&shared), Arc::clone(&keys));
                std::thread::spawn(move || serve(stream, &state, &key));
            }
        });
        Self { url, address, key, state }
    }

    /// As a trusted issuer, asked with a secret.
    pub fn trusted(&self, more: Value) -> Value {
        let mut introspection =
            json!({"endpoint": format!("{}/introspect", self.url), "client_id": "gate", "secret": "s3cret:at the/gate"});
        for (name, value) in more.as_object().expect("an object") {
            introspection[name] = value.clone();
        }
        json!({"issuer": self.url, "algorithms": ["ES256"], "introspection": introspection})
    }

    /// What it says of a token from now on.
    pub fn says(&self, token: &str, answer: Value) {
        self.state.lock().expect("state").tokens.insert(token.to_owned(), answer);
    }

    /// The status it answers with from now on.
    pub fn answers(&self, status: Option<u16>) {
        self.state.lock().expect("state").status = status;
    }

    pub fn slowly(&self, by: Duration) {
        self.state.lock().expect("state").slow = by;
    }

    /// Signs its answers (RFC 9701) with this header and these claims beside the answer.
    pub fn signs(&self, key: &Arc<Key>, header: Value, claims: Value) {
        self.state.lock().expect("state").signing = Some((Arc::clone(key), header, claims));
    }

    pub fn signs_nothing(&self) {
        self.state.lock().expect("state").signing = None;
    }

    /// Its metadata document from now on.
    pub fn describes(&self, metadata: Option<Value>) {
        self.state.lock().expect("state").metadata = metadata;
    }

    /// What it was asked about a token.
    pub fn asked(&self, token: &str) -> Vec<Question> {
        let state = self.state.lock().expect("state");
        state.questions.iter().filter(|q| q.form.get("token").is_some_and(|t| t == token)).cloned().collect()
    }

    /// How often a path was fetched.
    pub fn fetched(&self, path: &str) -> usize {
        self.state.lock().expect("state").fetched.iter().filter(|p| *p == path).count()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, key: &Key) {
    let mut octets = Vec::new();
    let mut buffer = [0u8; 8192];
    let (head, body) = loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else { return };
        octets.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&octets).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if head.starts_with("GET ") {
        let mut state = state.lock().expect("state");
        state.fetched.push(path.clone());
        let document = match path.as_str() {
            "/.well-known/openid-configuration" => state.metadata.clone(),
            "/keys" => Some(json!({"keys": [key.jwk()]})),
            _ => None,
        };
        answer(&mut stream, if document.is_some() { 200 } else { 404 }, "application/json", &document.unwrap_or_default().to_string());
        return;
    }
    let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let token = form.get("token").cloned().unwrap_or_default();
    let question =
        Question { path, authorization: field(&head, "authorization"), accept: field(&head, "accept").unwrap_or_default(), form };
    let (told, status, slow, signing) = {
        let mut state = state.lock().expect("state");
        state.questions.push(question);
        let told = state.tokens.get(&token).cloned().unwrap_or(json!({"active": false}));
        (told, state.status, state.slow, state.signing.clone())
    };
    std::thread::sleep(slow);
    match (status, signing) {
        (Some(status), _) => answer(&mut stream, status, "application/json", "{}"),
        (None, None) => answer(&mut stream, 200, "application/json", &told.to_string()),
        (None, Some((key, header, mut claims))) => {
            claims["token_introspection"] = told;
            answer(&mut stream, 200, "application/token-introspection+jwt", &key.sign(&header, &claims));
        }
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn answer(stream: &mut TcpStream, status: u16, media: &str, text: &str) {
    let _ =
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
}
