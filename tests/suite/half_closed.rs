//! Clients that close their sending side behind the request (RFC 9112 §9.6), as `nc -N` does: what was executed is answered.
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kit::seed::{HOME, MACHINE};
use crate::kit::visitor::text;
use crate::kit::{Shared, Stage, raw, wait_until};

static STAGE: Shared = Shared::new();

/// What is answered to octets behind which nothing more can come: statuses and text.
fn asked(stage: &Stage, listener: &str, octets: &str) -> (Vec<u16>, raw::RawAnswer) {
    let mut stream = raw::connect(&stage.listener(listener));
    stream.write_all(octets.as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let answer = raw::read_rest(&mut stream, Duration::from_secs(20));
    let statuses = answer.text.split("HTTP/1.").skip(1).filter_map(|a| a.get(2..5)?.parse().ok()).collect();
    (statuses, answer)
}

fn form(fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /token HTTP/1.1\r\nHost: a\r\n{fields}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn a_token_request_is_answered_by_whichever_lane() {
    let stage = STAGE.get();
    let mut token = text(&stage.person_tokens(&HOME, "alice"), "refresh_token");
    let basic = STANDARD.encode(format!("{}:{}", HOME.id, HOME.secret));
    // What is not plain, or comes behind another request, the HTTP library answers.
    for more in ["", "Connection: close\r\n", "X_odd: y\r\n", "Expect: 100-continue\r\n"] {
        let fields = format!("Authorization: Basic {basic}\r\n{more}");
        let (statuses, answer) = asked(stage, "public", &form(&fields, &format!("grant_type=refresh_token&refresh_token={token}")));
        if more.starts_with("X_") {
            assert_eq!(statuses, [400], "{answer:?}");
            continue;
        }
        assert_eq!(statuses.last(), Some(&200), "{more:?} {answer:?}");
        assert!(answer.closed, "{answer:?}");
        let body = answer.text.rsplit("\r\n\r\n").next().expect("a body");
        let given: serde_json::Value = serde_json::from_str(body).expect("JSON");
        token = given["refresh_token"].as_str().map_or(token, str::to_owned);
    }
}

#[test]
fn everything_that_was_asked_before_the_end_is_answered() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let one = format!("GET /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    wait_until("the gateway knows the token", Duration::from_secs(5), || stage.call("/api/x", &token).status == 200);
    for listener in ["public", "admin", "metrics", "gateway"] {
        let fine = if listener == "admin" { 404 } else { 200 };
        let ask = if listener == "gateway" { one.as_str() } else { "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" };
        for times in [1, 3] {
            let (statuses, answer) = asked(stage, listener, &ask.repeat(times));
            assert_eq!(statuses, vec![fine; times], "{listener}: {answer:?}");
            assert!(answer.closed, "{listener}: {answer:?}");
        }
        // Half a request behind a whole one is nothing that could be answered.
        let (statuses, answer) = asked(stage, listener, &format!("{ask}GET /healthz HTTP/1.1\r\nHo"));
        assert!(answer.closed && statuses.first() == Some(&fine) && statuses.get(1).is_none_or(|s| *s == 400), "{listener}: {answer:?}");
        let (statuses, answer) = asked(stage, listener, "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
        assert!(listener == "admin" || answer.closed && !statuses.contains(&fine), "{listener}: {answer:?}");
    }
}
