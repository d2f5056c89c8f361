//! WebSocket handshakes and what looks like them: one place says what they are, so that no connection waits for nobody's decision.
use super::*;

const UPGRADE: &str = "Host: gw\r\nConnection: upgrade\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_handshake_that_was_not_accepted() {
    let rig = Rig::start().await;
    for (path, fields, expected) in [
        ("/nowhere", "Upgrade: other\r\nUpgrade: websocket\r\n", 404),
        ("/nowhere", "Upgrade: websocket\r\nContent-Length: 1\r\n", 404),
        ("/public/x", "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 200),
    ] {
        let mut stream = rig.connect().await;
        let body = if fields.contains("Length") { "x" } else { "" };
        stream.write_all(format!("GET {path} HTTP/1.1\r\n{UPGRADE}{fields}\r\n{body}").as_bytes()).await.unwrap();
        assert_eq!(status(&read_all(&mut stream, Duration::from_millis(300)).await.0), expected, "{fields}");
        stream.write_all(b"GET /public/next HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_all(&mut stream, Duration::from_millis(300)).await.0), 200, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_pass_only_after_the_handshake_they_belong_to() {
    let rig = Rig::start().await;
    let mut stream = rig.connect().await;
    let key = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // The first is none, for it has a body; its answer says nothing about the second.
    stream
        .write_all(format!("GET /public/x HTTP/1.1\r\n{UPGRADE}{key}Content-Length: 1\r\n\r\nxGET /public/ws HTTP/1.1\r\n{UPGRADE}{key}\r\n\x01frames\n").as_bytes())
        .await
        .unwrap();
    let (text, closed) = read_all(&mut stream, Duration::from_millis(500)).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("HTTP/1.1 101") && text.ends_with("\x01frames\n") && !closed, "{text}");
}
