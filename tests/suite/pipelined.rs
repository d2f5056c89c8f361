//! Requests behind requests on one connection: what was executed is answered, whatever comes after it (RFC 9112 §§3.2, 9.3, 9.6).
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kit::http::{Go, client};
use crate::kit::seed::HOME;
use crate::kit::visitor::text;
use crate::kit::{Shared, Stage, raw};

static STAGE: Shared = Shared::new();

const NEXT: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// The answers' statuses and all they are made of, read until the server closes or says nothing more.
fn said(stage: &Stage, listener: &str, octets: &[u8]) -> (Vec<u16>, raw::RawAnswer) {
    let answer = raw::exchange(&stage.listener(listener), octets);
    let statuses = answer.text.split("HTTP/1.").skip(1).filter_map(|a| a.get(2..5)?.parse().ok()).collect();
    (statuses, answer)
}

fn form(path: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\n{more}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn an_answer_gets_through_although_more_was_asked_after_the_last_request() {
    let stage = STAGE.get();
    for listener in ["public", "admin", "metrics"] {
        for last in ["GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /healthz HTTP/1.0\r\nHost: a\r\n\r\n"] {
            for crowd in [1, 200, 4000] {
                let (statuses, answer) = said(stage, listener, format!("{last}{}", NEXT.repeat(crowd)).as_bytes());
                assert!(statuses.len() == 1 && answer.closed, "{listener} {last:?} {crowd}: {answer:?}");
                assert!(answer.text.contains("connection: close") || last.contains("1.0"), "{answer:?}");
            }
        }
    }
}

#[test]
fn a_refresh_that_was_executed_is_answered() {
    let stage = STAGE.get();
    let token = text(&stage.person_tokens(&HOME, "alice"), "refresh_token");
    let basic = STANDARD.encode(format!("{}:{}", HOME.id, HOME.secret));
    let body = format!("grant_type=refresh_token&refresh_token={token}");
    let (statuses, answer) =
        said(stage, "public", (form("/token", &format!("Authorization: Basic {basic}\r\nConnection: close\r\n"), &body) + NEXT).as_bytes());
    assert_eq!(statuses, [200], "{answer:?}");
    assert!(answer.closed && answer.text.contains("access_token"), "{answer:?}");
}

#[test]
fn a_body_that_nobody_wanted_is_not_in_the_way_of_the_next_request() {
    let stage = STAGE.get();
    let head = "HEAD /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned();
    let get = head.replace("HEAD", "GET");
    let chunked = "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned();
    for listener in ["public", "admin", "metrics"] {
        for first in [&head, &get, &chunked, &form("/healthz?a=b", "", &"a".repeat(60_000))] {
            let (statuses, answer) = said(stage, listener, (first.to_owned() + NEXT).as_bytes());
            assert!(statuses.len() == 2 && !answer.closed, "{listener} {:?}: {answer:?}", &first[..60]);
        }
    }
    let (statuses, answer) = said(stage, "public", (form("/token?a=b", "", "a=b") + NEXT).as_bytes());
    assert_eq!(statuses, [400, 200], "{answer:?}");
    // One that is long, or does not come, or was to be asked for: the connection ends with the answer.
    for (more, body) in [("Content-Length: 100000\r\n", "a".repeat(100_000)), ("Content-Length: 3\r\n", "a".to_owned())] {
        let (statuses, answer) = said(stage, "public", format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{more}\r\n{body}").as_bytes());
        assert!(statuses == [200] && answer.closed && answer.text.contains("connection: close"), "{more}: {answer:?}");
    }
    let expecting = "GET /healthz HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let (statuses, answer) = said(stage, "public", expecting.as_bytes());
    assert!(statuses == [200] && answer.closed, "{answer:?}");
}

#[test]
fn a_host_that_is_none_is_refused_at_every_listener() {
    let stage = STAGE.get();
    for listener in ["public", "admin", "metrics"] {
        for host in ["a@b", "a b", "a/b", "a:x", "a:99999", "", "[::1"] {
            for path in ["/healthz", "/nowhere"] {
                let (statuses, answer) =
                    said(stage, listener, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
                assert_eq!(statuses.first(), Some(&400), "{listener} {host:?} {path}: {answer:?}");
                assert!(answer.text.contains("x-content-type-options: nosniff"), "{answer:?}");
            }
        }
        for host in ["a", "a.b:1", "[::1]:80", "127.0.0.1"] {
            let (statuses, answer) =
                said(stage, listener, format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
            let status = if listener == "admin" { 404 } else { 200 };
            assert_eq!(statuses, [status], "{host}: {answer:?}");
        }
        let (statuses, answer) = said(stage, listener, b"GET http://a@b/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(statuses, [400], "{answer:?}");
    }
}

#[test]
fn a_refused_head_is_answered_as_what_is_refused_elsewhere() {
    let stage = STAGE.get();
    for listener in ["public", "admin", "metrics"] {
        for head in [
            &b"GET /healthz\xff HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET /healthz HTTP/1.1\r\n\r\n",
            b"GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let mut stream = raw::connect(&stage.listener(listener));
            std::io::Write::write_all(&mut stream, head).expect("sent");
            let answer = raw::read_rest(&mut stream, Duration::from_secs(5));
            assert!(answer.status == 400 && answer.closed, "{listener} {answer:?}");
            for told in ["application/problem+json", "x-content-type-options: nosniff", "content-security-policy: ", "\"status\":400"] {
                assert!(answer.text.contains(told), "{listener} {told}: {answer:?}");
            }
        }
    }
    assert_eq!(client().get(format!("{}/healthz", stage.issuer)).go().status, 200);
}
