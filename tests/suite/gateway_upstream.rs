//! Upstreams that misbehave, and messages at the edges of HTTP (RFC 9110).
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::kit::http::{Go, client, random};
use crate::kit::seed::MACHINE;
use crate::kit::{Shared, raw};

static STAGE: Shared = Shared::new();

#[test]
fn a_post_is_never_sent_twice() {
    let stage = STAGE.get();
    // Fill the pool with a kept connection first, then have the upstream hang up.
    for n in 0..5 {
        let mark = random();
        client().get(stage.through(&format!("/public/warm{n}"))).go().expect(200);
        let answer = client().post(stage.through(&format!("/public/{mark}/drop"))).body("once").go();
        assert_eq!(answer.status, 502);
        assert_eq!(stage.upstream.seen(&mark).len(), 1, "a non-idempotent request is sent once");
    }
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let stage = STAGE.get();
    let answer = client().get(stage.through("/public/half")).try_go();
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == 502), "half an answer looked like a whole one");
}

#[test]
fn an_upstream_that_is_not_there_is_502_quickly() {
    let stage = STAGE.get();
    let route = serde_json::json!({"id": "gone", "match": {"path_prefix": "/gone/"}, "upstream": {"targets": [{"url": "http://127.0.0.1:9"}]}, "public": true});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    let answer = client().get(stage.through("/gone/x")).go();
    assert!([502, 503].contains(&answer.status), "{}", answer.status);
    assert!(answer.took < Duration::from_secs(5));
}

#[test]
fn head_and_bodiless_answers_pass() {
    let stage = STAGE.get();
    let head = client().head(stage.through("/public/x")).go();
    assert_eq!((head.status, head.body.len()), (200, 0));
    let empty = client().get(stage.through("/public/empty")).go();
    assert_eq!((empty.status, empty.header("x-upstream"), empty.body.len()), (204, "yes", 0));
    assert_eq!(client().get(stage.through("/public/again")).go().status, 200, "the connection is still in step");
}

#[test]
fn expect_continue_is_answered_after_the_decision() {
    let stage = STAGE.get();
    let mark = random();
    let mut stream = raw::connect(&stage.listener("gateway"));
    let token = stage.machine_token(&MACHINE, &[]);
    let head = format!(
        "POST /api/{mark} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 100"));
    stream.write_all(b"hello").unwrap();
    assert_eq!(raw::read_rest(&mut stream, Duration::from_secs(3)).status, 200);
    assert_eq!(stage.upstream.only(&mark).body, b"hello");
    // Refused before the body is asked for.
    let mut stream = raw::connect(&stage.listener("gateway"));
    let head = format!("POST /api/{mark} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let answer = raw::read_head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn nothing_is_forwarded_before_the_decision() {
    let stage = STAGE.get();
    let mark = random();
    let mut stream = raw::connect(&stage.listener("gateway"));
    stream.write_all(format!("POST /api/{mark} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhello").as_bytes()).unwrap();
    let answer = raw::read_head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn an_idle_body_is_ended_within_its_time() {
    let stage = STAGE.get();
    let mut stream = raw::connect(&stage.listener("gateway"));
    stream.write_all(b"POST /public/idle HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello").unwrap();
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut buffer = [0u8; 1024];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
    assert!(begun.elapsed() < Duration::from_secs(33), "{:?}", begun.elapsed());
}

#[test]
fn http2_carries_no_forbidden_fields_through() {
    let stage = STAGE.get();
    if !crate::kit::services::has("curl") {
        return crate::kit::services::skip("curl");
    }
    let ask = |header: &str, path: &str| {
        let done = std::process::Command::new("curl")
            .args(["-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is", "-H", header])
            .arg(stage.through(path))
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let mark = random();
    assert_eq!(ask("X_Doorward_Subject: root", &format!("/public/{mark}")), "400");
    assert_eq!(ask("X-Doorward-Subject: root", &format!("/public/{mark}a")), "200");
    assert!(stage.upstream.only(&format!("{mark}a")).all("x-doorward-subject").is_empty());
    assert_eq!(ask("Accept: */*", "/public/%2e%2e/api/x"), "400");
    assert_eq!(ask("Authorization: Bearer x.y.z", &format!("/api/{mark}")), "401");
    assert_eq!(ask("Host: a@b", &format!("/public/{mark}")), "400");
    assert!(stage.upstream.seen(&format!("/public/{mark} ")).is_empty());
}

#[test]
fn identity_follows_the_routes_own_mapping() {
    let stage = STAGE.get();
    let route = serde_json::json!({"id": "mapped", "match": {"path_prefix": "/mapped/"}, "upstream": "echo",
        "auth": {"accept": ["jwt"], "issuers": ["self"], "audience": crate::kit::seed::API},
        "identity": {"headers": {"X-User": "sub", "X-App": "client_id", "X-Missing": "email"}}});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    let mark = random();
    let request = client().get(stage.through(&format!("/mapped/{mark}"))).bearer_auth(stage.machine_token(&MACHINE, &[]));
    request.header("x-user", "root").header("x-missing", "root").go().expect(200);
    let seen = stage.upstream.only(&mark);
    assert_eq!((seen.all("x-user"), seen.all("x-app")), (vec!["machine"], vec!["machine"]));
    assert!(seen.all("x-missing").is_empty(), "an absent claim gives no header");
    // The names of one route are removed on every route.
    let mark = random();
    client().get(stage.through(&format!("/public/{mark}"))).header("x-user", "root").header("X-App", "root").go().expect(200);
    let seen = stage.upstream.only(&mark);
    assert!(seen.all("x-user").is_empty() && seen.all("x-app").is_empty(), "{:?}", seen.headers);
}

#[test]
fn interim_answers_are_not_the_answer_and_a_304_has_no_body() {
    let stage = STAGE.get();
    let ask = |answer: &str| {
        let path = format!("/public/raw?answer={}", answer.replace(' ', "%20").replace("\r\n", "%0D%0A"));
        client().get(stage.through(&path)).go()
    };
    let early =
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
    let answer = ask(early);
    assert_eq!((answer.status, answer.text().as_str(), answer.header("link")), (200, "body", ""));
    let unchanged = ask("HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 4\r\n\r\n");
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("etag")), (304, 0, "a"));
    assert_eq!(ask("HTTP/1.1 103 Early Hints\r\n\r\n").status, 502, "nothing but an interim answer");
}
