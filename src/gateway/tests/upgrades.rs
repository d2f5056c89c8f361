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

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_an_answer_that_is_no_switch_is_not_told_as_one() {
    let rig = Rig::start().await;
    let stream = hyper_util::rt::TokioIo::new(rig.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(hyper_util::rt::TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut ask = async |path: &str| {
        let mut request = http::Request::connect(format!("http://gw{path}")).body(http_body_util::Empty::new()).unwrap();
        *request.version_mut() = http::Version::HTTP_2;
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(ask("/public/x").await, 502, "the upstream answers with a page");
    assert_eq!(ask("/nowhere").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_keeps_its_place_among_the_connections() {
    let rig = Rig::start().await;
    let (_gateway, at) = rig.holding(1);
    let mut open = TcpStream::connect(at).await.unwrap();
    let key = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    open.write_all(format!("GET /public/ws HTTP/1.1\r\n{UPGRADE}{key}\r\n").as_bytes()).await.unwrap();
    assert_eq!(status(&read_all(&mut open, Duration::from_millis(300)).await.0), 101);
    let mut next = TcpStream::connect(at).await.unwrap();
    next.write_all(b"GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    assert_eq!(read_all(&mut next, Duration::from_millis(500)).await, (String::new(), false), "there is no room");
    drop(open);
    assert_eq!(status(&read_all(&mut next, Duration::from_secs(2)).await.0), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_says_that_it_goes_away() {
    let rig = Rig::start().await;
    let mut open = rig.connect().await;
    let key = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    open.write_all(format!("GET /public/ws HTTP/1.1\r\n{UPGRADE}{key}\r\n").as_bytes()).await.unwrap();
    assert_eq!(status(&read_all(&mut open, Duration::from_millis(300)).await.0), 101);
    rig.shutdown.cancel();
    let mut said = Vec::new();
    timeout(Duration::from_secs(2), open.read_to_end(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, [0x88, 0x02, 0x03, 0xe9]);
}
