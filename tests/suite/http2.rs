//! HTTP/2 on both sides: clients that flood, stall or take back, clients and servers that others wrote, WebSockets (RFC 8441).
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::kit::frames::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame};
use crate::kit::http::{Go, RUNTIME, client, random};
use crate::kit::nginx::Nginx;
use crate::kit::seed::MACHINE;
use crate::kit::target::{Mood, Target, route};
use crate::kit::{Shared, Stage, services, wait_until};

static STAGE: Shared = Shared::new();

/// Resident memory, kB.
fn resident(stage: &Stage) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// A stage of its own whose memory nobody else uses.
fn alone() -> Stage {
    let stage = Stage::start(|_| {});
    client().get(stage.through("/public/warm")).go().expect(200);
    stage
}

#[test]
fn a_peer_that_takes_back_all_it_asks_is_left_alone() {
    let stage = alone();
    let target = Target::start("a");
    target.feel(Mood::Hangs);
    stage.admin("POST", "/routes").json(&route("hangs", &[&target], json!({}))).go().expect(201);
    let mut stream = frames::connect(&stage.listener("gateway"), &[]);
    let head = frames::get("/hangs/x");
    let asked = (0..50_000_u32).map(|n| {
        let id = n * 2 + 1;
        [frame(HEADERS, END_HEADERS | END_STREAM, id, &head), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
    });
    let broken = frames::pour(&mut stream, asked);
    assert!(broken || frames::ends(&mut stream, Duration::from_secs(5)), "it may go on for ever");
    assert!(target.asked() < 2_000, "{} of 50000 were sent on", target.asked());
    client().get(stage.through("/public/after")).go().expect(200);
}

#[test]
fn a_head_without_end_is_refused_in_little_memory() {
    let stage = alone();
    let before = resident(&stage);
    let mut stream = frames::connect(&stage.listener("gateway"), &[]);
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &frames::get("/public/x"))).unwrap();
    let more = frames::field("x-more", &"a".repeat(8_000));
    let broken = frames::pour(&mut stream, (0..20_000).map(|_| frame(CONTINUATION, 0, 1, &more)));
    assert!(broken || frames::ends(&mut stream, Duration::from_secs(15)), "160 MB of a head are taken");
    // Empty ones cost nothing but time.
    let mut stream = frames::connect(&stage.listener("gateway"), &[]);
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &frames::get("/public/x"))).unwrap();
    let broken = frames::pour(&mut stream, (0..200_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    assert!(broken || frames::ends(&mut stream, Duration::from_secs(15)));
    assert!(resident(&stage).saturating_sub(before) < 16 * 1024);
    client().get(stage.through("/public/after")).go().expect(200);
}

#[test]
fn a_compressed_head_that_unfolds_is_refused_in_little_memory() {
    let stage = alone();
    let before = resident(&stage);
    let mut stream = frames::connect(&stage.listener("gateway"), &[]);
    // One field of 3 kB in the table, named sixteen thousand times (RFC 7541 §7.3).
    let bomb = [frames::get("/public/bomb"), frames::indexed_field("x-bomb", &"b".repeat(3_000)), vec![0xbe; 12_000]].concat();
    let broken = frames::pour(&mut stream, (0..50_u32).map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &bomb)));
    assert!(!broken || frames::ends(&mut stream, Duration::from_secs(5)));
    std::thread::sleep(Duration::from_millis(500));
    assert!(resident(&stage).saturating_sub(before) < 16 * 1024);
    assert!(stage.upstream.seen("/public/bomb").is_empty(), "a head of 36 MB is nobody's");
    client().get(stage.through("/public/after")).go().expect(200);
}

#[test]
fn frames_that_want_an_answer_are_not_heaped_up() {
    let stage = alone();
    let before = resident(&stage);
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[])] {
        let mut stream = frames::connect(&stage.listener("gateway"), &[]);
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &frames::get("/public/x"))).unwrap();
        let many = frame(kind, 0, 0, payload).repeat(1_000);
        // Nothing of the answers is read.
        frames::pour(&mut stream, (0..2_000).map(|_| many.clone()));
        client().get(stage.through("/public/meanwhile")).go().expect(200);
    }
    assert!(resident(&stage).saturating_sub(before) < 16 * 1024);
}

#[test]
fn a_reader_that_opens_no_window_is_not_buffered_for() {
    let stage = Stage::start(|house| {
        house.set("server.max_connections", "16").set("server.max_connections_per_source", "16");
    });
    client().get(stage.through("/public/warm")).go().expect(200);
    let target = Target::start("a");
    target.feel(Mood::Large(50));
    stage.admin("POST", "/routes").json(&route("large", &[&target], json!({}))).go().expect(201);
    let before = resident(&stage);
    // No octet of any stream may be sent (SETTINGS_INITIAL_WINDOW_SIZE 0).
    let mut stream = frames::connect(&stage.listener("gateway"), &[(4, 0)]);
    // But it is there.
    frames::answer_pings(&stream);
    let head = frames::get("/large/x");
    for n in 0..40_u32 {
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &head)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    let grown = resident(&stage).saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} kB for forty streams of 50 MB");
    client().get(stage.through("/public/meanwhile")).go().expect(200);
    assert_eq!(target.open(), 40);
    // Nor is the upstream held for ever (a minute).
    wait_until("the upstream is let go", Duration::from_secs(90), || target.open() == 0);
    stream.write_all(&frame(PING, 0, 0, &[1; 8])).unwrap();
    // And its place is there for those who need one: it is the longest unused, and not in use any more.
    let others: Vec<_> = (0..16).map(|_| crate::kit::raw::connect(&stage.listener("gateway"))).collect();
    wait_until("it makes room", Duration::from_secs(20), || stream.write_all(&frame(PING, 0, 0, &[2; 8])).is_err());
    drop(others);
}

#[test]
fn h2load_and_nghttp_are_served() {
    let stage = STAGE.get();
    for tool in ["h2load", "nghttp"] {
        if !services::has(tool) {
            return services::skip(tool);
        }
    }
    let url = stage.through("/public/load");
    let done = Command::new("h2load").args(["-n", "2000", "-c", "4", "-m", "50", "-t", "1", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
    let done = Command::new("nghttp").args(["-nv", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains(":status: 200") && said.contains("SETTINGS_ENABLE_CONNECT_PROTOCOL(0x08):1"), "{said}");
}

#[test]
fn an_upstream_that_closes_its_connections_loses_no_request() {
    let stage = STAGE.get();
    let server = "listen 127.0.0.1:PORT http2; keepalive_requests 7; location / { return 200 \"$server_protocol $http_host\"; }";
    let Some(nginx) = Nginx::start(server) else { return };
    let upstream = json!({"targets": [{"url": format!("http://127.0.0.1:{}", nginx.port)}], "protocol": "http2", "preserve_host": false});
    let route = json!({"id": "nginx", "match": {"path_prefix": "/nginx/"}, "upstream": upstream, "public": true});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let said = client().get(stage.through("/nginx/x")).go().expect(200).text();
                    assert_eq!(said, format!("HTTP/2.0 127.0.0.1:{}", nginx.port));
                }
            });
        }
    });
    assert_eq!(nginx.accessed().lines().count(), 320, "each once");
}

/// Opens a WebSocket over HTTP/2 (RFC 8441 §5): its status, and the octets' way if it is open.
async fn websocket(address: &str, path: &str, token: Option<&str>) -> (u16, Option<TokioIo<hyper::upgrade::Upgraded>>) {
    let tcp = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("a handshake");
    tokio::spawn(connection);
    // The server's settings have to be there first.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://x{path}"))
        .version(Version::HTTP_2)
        .header("sec-websocket-version", "13");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Empty::new()).expect("a request");
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = sender.send_request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    if status != 200 {
        return (status, None);
    }
    assert!(answer.headers().get("sec-websocket-accept").is_none() && answer.headers().get("upgrade").is_none());
    let upgraded = hyper::upgrade::on(answer).await.expect("a tunnel");
    (status, Some(TokioIo::new(upgraded)))
}

#[test]
fn a_websocket_over_http2_is_the_one_over_http1_and_ends_with_its_token() {
    let stage = STAGE.get();
    let (address, token) = (stage.listener("gateway"), stage.machine_token(&MACHINE, &[]));
    RUNTIME.block_on(async {
        let mark = random();
        assert_eq!(websocket(&address, &format!("/api/ws?{mark}"), None).await.0, 401);
        assert!(stage.upstream.seen(&mark).is_empty());
        let (status, tunnel) = websocket(&address, &format!("/api/ws?{mark}"), Some(&token)).await;
        assert_eq!(status, 200);
        let mut tunnel = tunnel.unwrap();
        let mut echo = [0; 5];
        tunnel.write_all(b"hello").await.unwrap();
        tunnel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hello");
        let seen = stage.upstream.only(&mark);
        assert!(seen.line.starts_with("GET ") && seen.all("authorization").is_empty(), "{seen:?}");
        let since = Instant::now();
        std::thread::scope(|scope| drop(scope.spawn(|| stage.revoke(&MACHINE, &token)).join()));
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), tunnel.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && since.elapsed() < Duration::from_secs(2), "still open");
        assert!(rest.is_empty() || rest == [0x88, 0x02, 0x03, 0xf0], "{rest:?}");
    });
}

#[test]
fn a_websocket_is_accepted_by_its_key_or_not_at_all() {
    let stage = STAGE.get();
    let ask = |path: &str, key: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{key}\r\n"
        );
        let mut stream = crate::kit::raw::connect(&stage.listener("gateway"));
        stream.write_all(request.as_bytes()).expect("sent");
        // Of a connection that goes on: its head, however busy the machine is.
        let head = crate::kit::raw::read_head(&mut stream);
        head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap_or(0)
    };
    let good = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(ask("/public/ws", good), 101);
    for key in ["", "Sec-WebSocket-Key: short\r\n", &good.repeat(2)] {
        let mark = random();
        assert_eq!(ask(&format!("/public/ws?{mark}"), key), 400, "{key}");
        assert!(stage.upstream.seen(&mark).is_empty());
    }
    let switch = |accept: &str| {
        format!("/public/raw?answer=HTTP%2F1.1%20101%20X%0D%0AUpgrade:%20websocket%0D%0AConnection:%20Upgrade%0D%0A{accept}%0D%0A")
    };
    assert_eq!(ask(&switch("Sec-WebSocket-Accept:%20s3pPLMBiTxaQ9kYGzzhZRbK%2BxOo=%0D%0A"), good), 101);
    assert_eq!(ask(&switch("Sec-WebSocket-Accept:%20AAAALMBiTxaQ9kYGzzhZRbK%2BxOo=%0D%0A"), good), 502);
    assert_eq!(ask(&switch(""), good), 502);
}
