//! Documents behind https: what clients publish and the server fetches, under an authority of the test's own.
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::server::House;

/// What stands at a path.
#[derive(Clone)]
struct Document {
    status: u16,
    headers: String,
    body: String,
}

/// An https server on loopback that answers what it was given.
pub struct Secure {
    pub address: String,
    documents: Arc<Mutex<HashMap<String, Document>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    _dir: tempfile::TempDir,
    ca: PathBuf,
}

fn openssl(dir: &Path, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority and a certificate of it for 127.0.0.1.
fn certify(dir: &Path) -> ServerConfig {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        dir,
        &[&["req", "-x509"][..], &key, &["-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"]].concat(),
    );
    openssl(dir, &[&["req"][..], &key, &["-subj", "/CN=127.0.0.1", "-keyout", "leaf.key", "-out", "leaf.csr"]].concat());
    std::fs::write(dir.join("leaf.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=critical,CA:FALSE\n")
        .expect("written");
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            "leaf.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "leaf.ext",
            "-out",
            "leaf.pem",
        ],
    );
    let read = |name: &str| std::fs::read(dir.join(name)).expect("a file");
    let chain = rustls_pemfile::certs(&mut read("leaf.pem").as_slice()).map(|c| c.expect("a certificate")).collect();
    let key = rustls_pemfile::private_key(&mut read("leaf.key").as_slice()).expect("a key").expect("one key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the certificate fits its key")
}

impl Secure {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("doorward-https-").tempdir().expect("a directory");
        let config = Arc::new(certify(dir.path()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (documents, asked) = (Arc::default(), Arc::default());
        let (served, counted) = (Arc::clone(&documents), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, served, counted) = (Arc::clone(&config), Arc::clone(&served), Arc::clone(&counted));
                std::thread::spawn(move || answer(stream, config, &served, &counted));
            }
        });
        let ca = dir.path().join("ca.pem");
        Self { address, documents, asked, _dir: dir, ca }
    }

    /// Lets a server call this one, and these plain addresses besides.
    pub fn admit(&self, house: &mut House, more: &[&str]) {
        let mut allowed = vec![self.address.as_str()];
        allowed.extend(more);
        house.set("outbound.allow", &serde_json::to_string(&allowed).expect("text"));
        house.text("outbound.extra_ca_file", &self.ca.display().to_string());
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// Puts JSON at a path; its URL.
    pub fn put(&self, path: &str, document: &Value) -> String {
        self.put_raw(path, 200, "Content-Type: application/json\r\n", &document.to_string())
    }

    /// Puts any answer at a path; its URL.
    pub fn put_raw(&self, path: &str, status: u16, headers: &str, body: &str) -> String {
        let document = Document { status, headers: headers.to_owned(), body: body.to_owned() };
        self.documents.lock().expect("documents").insert(path.to_owned(), document);
        self.url(path)
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().expect("counts").get(path).copied().unwrap_or(0)
    }
}

fn answer(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    served: &Mutex<HashMap<String, Document>>,
    counted: &Mutex<HashMap<String, usize>>,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut tls = StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    let mut byte = [0u8; 512];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match tls.read(&mut byte) {
            Ok(n) if n > 0 => head.extend_from_slice(&byte[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    *counted.lock().expect("counts").entry(path.clone()).or_default() += 1;
    let document = served.lock().expect("documents").get(&path).cloned();
    let Document { status, headers, body } = document.unwrap_or(Document { status: 404, headers: String::new(), body: String::new() });
    let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = tls.write_all(text.as_bytes());
    tls.conn.send_close_notify();
    let _ = tls.flush();
}
