//! The revocation feed that gateways listen to (server-sent events).
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::kit::http::{Go, claims, client};
use crate::kit::seed::{GW, MACHINE};
use crate::kit::{Shared, Stage, raw};

static STAGE: Shared = Shared::new();

/// A subscriber.
struct Feed {
    lines: BufReader<TcpStream>,
}

/// One event: its name, its id, its data.
#[derive(Debug)]
struct Heard {
    event: String,
    id: Option<u64>,
    data: Value,
}

impl Feed {
    fn join(stage: &Stage, query: &str, headers: &str) -> Self {
        let token = stage.machine_token(&GW, &[("scope", "doorward.feed")]);
        let mut stream = raw::connect(&stage.listener("public"));
        let request =
            format!("GET /feed{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{headers}\r\n", stage.listener("public"));
        stream.write_all(request.as_bytes()).unwrap();
        let head = raw::read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("text/event-stream") && head.to_lowercase().contains("no-store"), "{head}");
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// The next event; fails when none comes within three seconds.
    fn next(&mut self) -> Heard {
        let mut heard = Heard { event: String::new(), id: None, data: Value::Null };
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("the feed goes on") > 0, "the feed ended");
            let line = line.trim_end();
            if let Some(event) = line.strip_prefix("event: ") {
                heard.event = event.to_owned();
            } else if let Some(id) = line.strip_prefix("id: ") {
                heard.id = id.parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ") {
                heard.data = serde_json::from_str(data).expect("JSON");
            } else if line.is_empty() && !heard.event.is_empty() {
                return heard;
            }
        }
    }

    fn next_of(&mut self, event: &str) -> Heard {
        loop {
            let heard = self.next();
            if heard.event == event {
                return heard;
            }
        }
    }
}

#[test]
fn it_begins_with_a_snapshot_beats_and_tells_revocations_in_order() {
    let stage = STAGE.get();
    let early = stage.machine_token(&MACHINE, &[]);
    stage.revoke(&MACHINE, &early);
    let mut feed = Feed::join(stage, "", "");
    let snapshot = feed.next();
    assert_eq!(snapshot.event, "snapshot");
    assert!(snapshot.data["head"].is_u64() && snapshot.data["at_ms"].is_i64());
    let known = snapshot.data["revocations"].to_string();
    assert!(known.contains(claims(&early)["jti"].as_str().unwrap()), "{known}");
    feed.next_of("beat");
    let begun = std::time::Instant::now();
    feed.next_of("beat");
    assert!(begun.elapsed() < Duration::from_millis(1500), "a beat each second");
    let mut last = snapshot.data["head"].as_u64().unwrap();
    for _ in 0..3 {
        let token = stage.machine_token(&MACHINE, &[]);
        stage.revoke(&MACHINE, &token);
        let told = loop {
            let heard = feed.next_of("revocation");
            if heard.data.to_string().contains(claims(&token)["jti"].as_str().unwrap()) {
                break heard;
            }
        };
        let id = told.id.expect("an id");
        assert!(id > last, "{id} after {last}");
        last = id;
        assert!(!told.data.to_string().contains(&token), "the token itself is never told");
    }
}

#[test]
fn it_resumes_after_a_position_without_a_gap() {
    let stage = STAGE.get();
    let head = Feed::join(stage, "", "").next().data["head"].as_u64().unwrap();
    let missed: Vec<String> = (0..5)
        .map(|_| {
            let token = stage.machine_token(&MACHINE, &[]);
            stage.revoke(&MACHINE, &token);
            claims(&token)["jti"].as_str().unwrap().to_owned()
        })
        .collect();
    for (query, headers) in [(format!("?after={head}"), String::new()), (String::new(), format!("Last-Event-ID: {head}\r\n"))] {
        let mut feed = Feed::join(stage, &query, &headers);
        for jti in &missed {
            while !feed.next_of("revocation").data.to_string().contains(jti) {}
        }
    }
}

#[test]
fn only_a_gateways_token_hears_it() {
    let stage = STAGE.get();
    client().get(stage.url("/feed")).go().expect(401);
    client().get(stage.url("/feed")).bearer_auth("x.y.z").go().expect(401);
    let introspecting = stage.machine_token(&GW, &[("scope", "doorward.introspect")]);
    client().get(stage.url("/feed")).bearer_auth(introspecting).go().expect(403);
    let status = client().get(stage.url("/feed")).bearer_auth(stage.machine_token(&MACHINE, &[])).go().status;
    assert!([401, 403].contains(&status), "{status}");
    let token = stage.machine_token(&GW, &[("scope", "doorward.feed")]);
    let odd = client().get(stage.url("/feed?after=x")).bearer_auth(&token).go();
    assert_eq!(odd.status, 400);
    let metadata = client().get(stage.url("/.well-known/openid-configuration")).go().text();
    assert!(!metadata.contains("/feed"), "an arrangement between our own processes is not advertised");
}

#[test]
fn it_ends_with_its_own_token() {
    let stage = STAGE.get();
    let token = stage.machine_token(&GW, &[("scope", "doorward.feed")]);
    let mut stream = raw::connect(&stage.listener("public"));
    let request = format!("GET /feed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.replace("Host: x", &format!("Host: {}", stage.listener("public"))).as_bytes()).unwrap();
    assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    stage.revoke(&GW, &token);
    let begun = std::time::Instant::now();
    let mut line = BufReader::new(stream);
    while line.read_line(&mut String::new()).is_ok_and(|n| n > 0) {
        assert!(begun.elapsed() < Duration::from_secs(3), "the feed goes on with a revoked token");
    }
}
