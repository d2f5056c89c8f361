//! A client's own pages on loopback: a few files by path.
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Serves files until the test process ends.
pub struct Site {
    pub url: String,
}

/// What stands at a path: media type and content.
pub type File = (&'static str, &'static str, String);

impl Site {
    pub fn start(files: Vec<File>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let files: HashMap<&'static str, (&'static str, String)> =
            files.into_iter().map(|(path, kind, text)| (path, (kind, text))).collect();
        let files = std::sync::Arc::new(files);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let files = std::sync::Arc::clone(&files);
                std::thread::spawn(move || {
                    let mut head = vec![0u8; 16_384];
                    // A browser opens connections ahead of time and says nothing on them.
                    let n = stream.read(&mut head).unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..n]);
                    let path = head.split(' ').nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
                    let (status, kind, text) = files.get(path).map_or((404, "text/plain", ""), |(kind, text)| (200, kind, text));
                    let length = text.len();
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
                    );
                    let _ = stream.write_all(answer.as_bytes());
                });
            }
        });
        Self { url }
    }
}
