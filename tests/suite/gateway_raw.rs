//! Paths, framing and limits at the gateway, byte by byte (RFC 9110, RFC 9112).
use std::io::Write;
use std::time::Duration;

use crate::kit::http::random;
use crate::kit::seed::MACHINE;
use crate::kit::{Shared, raw};

static STAGE: Shared = Shared::new();

/// The status of a `GET` of a path as written, with a good token.
fn path(path: &str) -> u16 {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    raw::get(&stage.listener("gateway"), path, &format!("Authorization: Bearer {token}\r\n")).status
}

#[test]
fn ambiguous_paths_are_400() {
    for bad in [
        "/api/../writing/x",
        "/api/./x",
        "/api/%2e%2e/writing/x",
        "/api/%2E./x",
        "/api/a%2fb",
        "/api/a%2Fb",
        "/api/a%5cb",
        "/api/a\\b",
        "/api/a%00b",
        "/api/%01",
        "/api/%0d%0a",
        "/api/%7f",
        "/api/..;/x",
        "/api/%ff",
        "/api/%c0%af",
        "/api/%zz",
        "/api/%4",
        "/public/..%20/x",
    ] {
        assert_eq!(path(bad), 400, "{bad}");
    }
}

#[test]
fn the_path_that_was_matched_is_the_path_that_goes_on() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    for (sent, expected) in
        [("/api/MARK/caf%C3%A9", "/api/MARK/caf%C3%A9"), ("/api/MARK%25x", "/api/MARK%25x"), ("/%61pi/MARK", "/api/MARK")]
    {
        let mark = random().replace(['-', '_'], "m");
        let answer = raw::get(&stage.listener("gateway"), &sent.replace("MARK", &mark), &format!("Authorization: Bearer {token}\r\n"));
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text);
        let target = stage.upstream.only(&mark).target().to_owned();
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(&target).collect();
        let wanted: Vec<u8> = percent_encoding::percent_decode_str(&expected.replace("MARK", &mark)).collect();
        assert_eq!(decoded, wanted, "{sent} went on as {target}");
        if sent.contains("%25") {
            assert!(target.contains("%25"), "%25 stays as it came: {target}");
        }
    }
}

#[test]
fn a_prefix_ends_at_its_slash() {
    assert!([403, 404].contains(&path("/api")));
    assert!([403, 404].contains(&path("/API/x")));
    assert_eq!(path("/api/"), 200);
}

/// Sends a head and body to the gateway; what it answered. The request asks for a public route.
fn framed(head: &str, body: &str) -> raw::RawAnswer {
    let stage = STAGE.get();
    raw::exchange(&stage.listener("gateway"), format!("POST /public/MARK HTTP/1.1\r\nHost: x\r\n{head}\r\n{body}").as_bytes())
}

#[test]
fn framing_that_can_be_read_two_ways_is_400_and_closed() {
    let stage = STAGE.get();
    for (what, head, body) in [
        ("CL and TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("two CL", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ("two equal CL", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("a CL list", "Content-Length: 5, 5\r\n", "hello"),
        ("a signed CL", "Content-Length: +5\r\n", "hello"),
        ("a negative CL", "Content-Length: -1\r\n", ""),
        ("CL in hex", "Content-Length: 0x5\r\n", "hello"),
        ("TE gzip", "Transfer-Encoding: gzip\r\n", "hello"),
        ("TE gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("two TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("TE xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("TE with tab", "Transfer-Encoding:\tchunked, identity\r\n", "0\r\n\r\n"),
        ("space before colon", "Content-Length : 5\r\n", "hello"),
        ("obs-fold", "X-A: one\r\n two\r\n", ""),
        ("a name that is no token", "X(A): one\r\n", ""),
        ("a name with underscore", "X_A: one\r\n", ""),
        ("an empty name", ": one\r\n", ""),
        ("NUL in a value", "X-A: a\0b\r\n", ""),
        ("CR in a value", "X-A: a\rb\r\n", ""),
        ("bare LF", "X-A: a\nX-B: b\r\n", ""),
    ] {
        let answer = framed(head, body);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.closed && answer.closed_after < Duration::from_millis(1400), "{what}: stays open");
    }
    assert!(stage.upstream.seen("/public/MARK").is_empty(), "something of these was forwarded");
}

#[test]
fn bare_lf_lines_and_odd_request_lines_are_400() {
    let stage = STAGE.get();
    let address = stage.listener("gateway");
    for request in [
        "GET /public/BARE HTTP/1.1\nHost: x\n\n",
        "GET  /public/BARE HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /public/BARE\r\nHost: x\r\n\r\n",
        "GET /public/BARE HTTP/1.1 \r\nHost: x\r\n\r\n",
        "GET /public/BARE HTTP/3.0\r\nHost: x\r\n\r\n",
        "GET public/BARE HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /public/BA RE HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /public/BARE HTTP/1.1\r\n\r\n",
        " GET /public/BARE HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /public/BARE HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = raw::exchange(&address, request.as_bytes());
        let refused = (400..506).contains(&answer.status) || (answer.status == 0 && answer.closed);
        assert!(refused, "{request:?}: {}", answer.text);
    }
    assert!(stage.upstream.seen("/public/BARE").is_empty());
}

#[test]
fn nothing_after_a_bad_request_is_read_as_a_request() {
    let stage = STAGE.get();
    let mark = random();
    let request = format!(
        "POST /public/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /public/{mark} HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let answer = raw::exchange(&stage.listener("gateway"), request.as_bytes());
    assert_eq!(answer.status, 400);
    assert_eq!(answer.text.matches("HTTP/1.1 ").count(), 1, "{}", answer.text);
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn a_broken_chunk_never_lets_the_upstream_see_an_end() {
    let stage = STAGE.get();
    let mark = random();
    let mut stream = raw::connect(&stage.listener("gateway"));
    let head = format!("POST /public/{mark} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    stream.write_all(b"zz\r\nboom\r\n0\r\n\r\n").unwrap();
    let answer = raw::read_rest(&mut stream, Duration::from_millis(1500));
    assert!(answer.closed, "{}", answer.text);
    assert_ne!(answer.status, 200);
    std::thread::sleep(Duration::from_millis(100));
    assert!(stage.upstream.seen(&mark).iter().all(|s| !s.whole), "the upstream saw a proper end");
}

#[test]
fn limits_on_url_headers_and_count_hold() {
    let stage = STAGE.get();
    let address = stage.listener("gateway");
    let long = raw::get(&address, &format!("/public/{}", "a".repeat(9000)), "");
    assert!([400, 414].contains(&long.status), "URL: {}", long.status);
    let wide = raw::get(&address, "/public/x", &format!("X-A: {}\r\n", "a".repeat(40_000)));
    assert!([400, 431].contains(&wide.status), "headers: {}", wide.status);
    let many = raw::get(&address, "/public/x", &(0..120).map(|n| format!("X-{n}: 1\r\n")).collect::<String>());
    assert!([400, 431].contains(&many.status), "fields: {}", many.status);
    let token = raw::get(&address, "/api/x", &format!("Authorization: Bearer {}\r\n", "a".repeat(17_000)));
    assert!([400, 401].contains(&token.status), "token: {}", token.status);
}

#[test]
fn a_request_that_never_ends_its_head_is_ended() {
    let stage = STAGE.get();
    let mut stream = raw::connect(&stage.listener("gateway"));
    stream.write_all(b"GET /public/slow HTTP/1.1\r\nHost: x\r\nX-A: ").unwrap();
    let answer = raw::read_rest(&mut stream, Duration::from_secs(12));
    assert!(answer.closed, "still open after 12 s");
    assert!([0, 400, 408].contains(&answer.status), "{}", answer.text);
}

#[test]
fn keep_alive_serves_requests_in_turn() {
    let stage = STAGE.get();
    let mark = random();
    let one = format!("GET /public/{mark} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = raw::exchange(&stage.listener("gateway"), format!("{one}{one}").as_bytes());
    assert_eq!(answer.text.matches("HTTP/1.1 200").count(), 2, "{}", answer.text);
    assert_eq!(stage.upstream.seen(&mark).len(), 2);
}
