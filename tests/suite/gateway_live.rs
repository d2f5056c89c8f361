//! Open connections (WebSocket, server-sent events) end with their credential.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::kit::http::random;
use crate::kit::seed::{APP, MACHINE};
use crate::kit::visitor::text;
use crate::kit::{Shared, Stage, raw};

static STAGE: Shared = Shared::new();

/// Opens a WebSocket through the gateway and sees an echo.
fn websocket(stage: &Stage, token: &str) -> TcpStream {
    let mut stream = raw::connect(&stage.listener("gateway"));
    let request = format!(
        "GET /api/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = raw::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    // A masked text frame "hi" (RFC 6455 §5.7); the upstream echoes bytes.
    let frame = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    stream.write_all(&frame).unwrap();
    let mut echo = [0u8; 8];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(echo, frame);
    stream
}

/// Opens an event stream and waits for its first event.
fn events(stage: &Stage, token: &str) -> TcpStream {
    let mut stream = raw::connect(&stage.listener("gateway"));
    let request = format!("GET /api/sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut first = [0u8; 8];
    stream.read_exact(&mut first).unwrap();
    stream
}

/// How long the server took to close; fails when it does not within a second.
pub(crate) fn closed_within_a_second(mut stream: TcpStream, what: &str, since: Instant) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0u8; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => break,
            _ => assert!(since.elapsed() < Duration::from_secs(1), "{what} still open after a second"),
        }
    }
    assert!(since.elapsed() < Duration::from_millis(1100), "{what}: {:?}", since.elapsed());
}

#[test]
fn revocation_of_the_token_closes_what_it_opened() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let (socket, stream) = (websocket(stage, &token), events(stage, &token));
    let other = stage.machine_token(&MACHINE, &[]);
    let mut bystander = websocket(stage, &other);
    let since = Instant::now();
    stage.revoke(&MACHINE, &token);
    closed_within_a_second(socket, "the WebSocket", since);
    closed_within_a_second(stream, "the event stream", since);
    bystander.write_all(b"still here").unwrap();
    let mut echo = [0u8; 10];
    bystander.read_exact(&mut echo).unwrap();
}

#[test]
fn revocation_of_the_grant_closes_what_its_tokens_opened() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&APP, "alice");
    let socket = websocket(stage, &text(&tokens, "access_token"));
    let since = Instant::now();
    stage.revoke(&APP, &text(&tokens, "refresh_token"));
    closed_within_a_second(socket, "the WebSocket", since);
}

#[test]
fn expiry_closes_it_too() {
    let stage = Stage::start(|house| {
        house.text("lifetimes.access_token", "2s");
    });
    // The resource server's own five minutes would win; this route's audience takes the client's.
    let token = {
        let answer = stage.admin("GET", "/clients/machine");
        let got = crate::kit::Go::go(answer).expect(200);
        let mut object = got.json();
        object["access_token_ttl"] = serde_json::json!("2s");
        let put = stage.admin("PUT", "/clients/machine").header("if-match", got.header("etag")).json(&object);
        let put = crate::kit::Go::go(put);
        assert!([200, 204].contains(&put.status), "{}", put.text());
        stage.machine_token(&MACHINE, &[])
    };
    let life = crate::kit::http::claims(&token);
    assert_eq!(life["exp"].as_i64().unwrap() - life["iat"].as_i64().unwrap(), 2);
    let socket = websocket(&stage, &token);
    std::thread::sleep(Duration::from_millis(1000));
    // Expiry plus the accepted leeway of ten seconds.
    let mut stream = socket;
    let answer = raw::read_rest(&mut stream, Duration::from_secs(13));
    assert!(answer.closed, "still open long after expiry");
}

#[test]
fn no_upgrade_other_than_websocket_is_passed_on() {
    let stage = STAGE.get();
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[]));
    let headers = format!("Authorization: Bearer {token}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n");
    let request = format!("GET /api/{mark} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{headers}\r\n");
    let answer = raw::exchange(&stage.listener("gateway"), request.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(stage.upstream.only(&mark).all("upgrade").is_empty());
}

#[test]
fn a_websocket_without_a_good_token_is_refused_before_the_upstream() {
    let stage = STAGE.get();
    let mark = random();
    let request = format!(
        "GET /api/ws?{mark} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    assert_eq!(raw::exchange(&stage.listener("gateway"), request.as_bytes()).status, 401);
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn logout_and_disable_close_what_is_open() {
    let stage = Stage::start(|_| {});
    let mut visitor = crate::kit::Visitor::new();
    let tokens = visitor.tokens(&stage, &crate::kit::Ask::new(&crate::kit::seed::HOME), "alice");
    let socket = websocket(&stage, &text(&tokens, "access_token"));
    let page = visitor.open(&stage.url("/logout")).kind("logout");
    let since = Instant::now();
    visitor.send(&page.press("logout-confirm"));
    closed_within_a_second(socket, "the WebSocket after logout", since);
    let tokens = stage.person_tokens(&APP, "bob");
    let stream = events(&stage, &text(&tokens, "access_token"));
    let since = Instant::now();
    let done = crate::kit::Go::go(stage.admin("POST", "/users/bob/disable"));
    assert!([200, 204].contains(&done.status));
    closed_within_a_second(stream, "the event stream after disable", since);
}
