//! What a route limits: several quotas, costs, leases over nodes, how many at once, sizes and times.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, RUNTIME, client, random, wait_until};
use crate::kit::seed::{API, MACHINE, POSTER};
use crate::kit::server::free_port;
use crate::kit::{Shared, Stage, raw, services};

static STAGE: Shared = Shared::new();

fn add(stage: &Stage, id: &str, members: Value) {
    let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "public": true});
    for (name, value) in members.as_object().unwrap() {
        route[name] = value.clone();
    }
    if route["auth"].is_object() {
        route["public"] = json!(false);
    }
    stage.admin("POST", "/routes").json(&route).go().expect(201);
}

fn guarded() -> Value {
    json!({"accept": ["jwt"], "issuers": ["self"], "audience": API})
}

fn passed(answers: &[Answer]) -> usize {
    answers.iter().filter(|a| a.status == 200).count()
}

/// Many requests, a few at a time, to several addresses in turn.
fn flood(urls: &[String], times: usize) -> usize {
    RUNTIME.block_on(async {
        let mut all = 0;
        for chunk in (0..times).collect::<Vec<_>>().chunks(20) {
            let sent = chunk.iter().map(|n| client().get(&urls[n % urls.len()]).send());
            let answers = futures_util::future::join_all(sent).await;
            all += answers.into_iter().filter(|a| a.as_ref().is_ok_and(|a| a.status() == 200)).count();
        }
        all
    })
}

#[test]
fn all_limits_must_allow_the_strictest_is_told_and_a_refusal_uses_up_none() {
    let stage = STAGE.get();
    let limits = json!([{"name": "each", "key": "header:X-Who", "rate": 3, "period": "1d"}, {"name": "source", "key": "ip", "rate": 5, "period": "1d"}]);
    add(stage, "both", json!({"rate_limit": limits}));
    let call = |who: &str| client().get(stage.through("/both/x")).header("x-who", who).go();
    let first = call("a").expect(200);
    assert_eq!(first.header("ratelimit-policy"), r#""each";q=3;w=86400, "source";q=5;w=86400"#);
    assert!(first.header("ratelimit").starts_with(r#""each";r=2;t="#), "{}", first.header("ratelimit"));
    let rest: Vec<Answer> = (0..12).map(|_| call("a")).collect();
    assert_eq!(passed(&rest), 2);
    let refused = rest.last().unwrap();
    assert_eq!(refused.status, 429);
    assert!(refused.header("ratelimit").starts_with(r#""each";r=0;t="#), "{}", refused.header("ratelimit"));
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|s| s > 1000), "{}", refused.header("retry-after"));
    assert_eq!(refused.header("content-type"), "application/problem+json");
    // Ten refusals later the source has two left of its five.
    let other: Vec<Answer> = (0..5).map(|_| call("b")).collect();
    assert_eq!(passed(&other), 2, "what one limit refuses is not counted by another");
    assert!(other.last().unwrap().header("ratelimit").starts_with(r#""source";r=0;"#));
}

#[test]
fn a_request_may_cost_several_units_and_a_consumer_is_whoever_calls() {
    let stage = STAGE.get();
    add(stage, "dear", json!({"auth": guarded(), "rate_limit": {"key": "consumer", "rate": 10, "period": "1d", "cost": 4}}));
    let (machine, poster) = (stage.machine_token(&MACHINE, &[]), stage.machine_token(&POSTER, &[("resource", API)]));
    let statuses: Vec<u16> = (0..4).map(|_| stage.call("/dear/x", &machine).status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(stage.call("/dear/x", &poster).status, 200);
}

#[test]
fn a_month_is_a_period_like_any_other() {
    let stage = STAGE.get();
    add(stage, "monthly", json!({"rate_limit": {"key": "route", "rate": 30, "period": "30d"}}));
    let answers: Vec<Answer> = (0..40).map(|_| client().get(stage.through("/monthly/x")).go()).collect();
    assert_eq!(passed(&answers), 30);
    let retry: i64 = answers.last().unwrap().header("retry-after").parse().unwrap();
    assert!((86_000..=86_400).contains(&retry), "one comes back a day: {retry}");
}

#[test]
fn a_burst_keeps_to_the_limit_within_two_percent_however_it_is_counted() {
    let stage = STAGE.get();
    for (id, shared) in [("exact", json!(true)), ("leased", json!("lease")), ("own", json!(false))] {
        add(stage, id, json!({"rate_limit": {"key": "ip", "rate": 500, "period": "1d", "shared": shared}}));
        let through = flood(&[stage.through(&format!("/{id}/x"))], 700);
        assert!((490..=510).contains(&through), "{id}: {through} of 700 with 500 a day");
    }
}

#[test]
fn two_nodes_keep_to_one_limit_within_two_percent() {
    let (Some(database), Some(redis)) = (services::postgres(), services::redis()) else { return };
    let upstream = crate::kit::Upstream::start();
    let mut house = crate::kit::House::new();
    house.text("storage.url", &database).text("shared_state.url", &redis);
    house.bootstrap();
    let mut seed = crate::kit::standard(&upstream.url());
    let mark = random().to_lowercase().replace(['_', '-'], "0");
    let route = |kind: &str, limit: Value| json!({"id": format!("{kind}-{mark}"), "match": {"path_prefix": format!("/{kind}/")}, "upstream": "echo", "public": true, "rate_limit": limit});
    let limit = |shared: Value| json!({"name": "day", "key": "ip", "rate": 500, "period": "1d", "shared": shared});
    let two =
        json!([{"name": "day", "key": "ip", "rate": 500, "period": "1d"}, {"name": "hour", "key": "route", "rate": 5000, "period": "1h"}]);
    let routes = seed["routes"].as_array_mut().unwrap();
    routes.extend([
        route("exact", limit(json!(true))),
        route("leased", limit(json!("lease"))),
        route("two", two),
        route("own", limit(json!(false))),
    ]);
    house.seed(&seed);
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    for kind in ["exact", "leased", "two"] {
        let through = flood(&[a.through(&format!("/{kind}/x")), b.through(&format!("/{kind}/x"))], 800);
        assert!((490..=510).contains(&through), "{kind}: {through} of 800 with 500 a day over both nodes");
    }
    let own = flood(&[a.through("/own/x"), b.through("/own/x")], 1200);
    assert!((980..=1020).contains(&own), "each node counts for itself: {own}");
}

/// A stream of events through the gateway, open until dropped.
fn events(stage: &Stage, path: &str) -> (std::net::TcpStream, String) {
    let mut stream = raw::connect(&stage.listener("gateway"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let head = raw::read_head(&mut stream);
    (stream, head)
}

fn socket(stage: &Stage, path: &str) -> (std::net::TcpStream, String) {
    let mut stream = raw::connect(&stage.listener("gateway"));
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let head = raw::read_head(&mut stream);
    (stream, head)
}

#[test]
fn places_are_held_until_the_end_of_the_answer_and_given_back() {
    let stage = STAGE.get();
    add(stage, "crowd", json!({"limits": {"concurrent": 2}}));
    let (one, head) = events(stage, "/crowd/sse");
    assert!(head.contains("200"), "{head}");
    let (two, head) = socket(stage, "/crowd/ws");
    assert!(head.contains("101"), "{head}");
    let mark = random();
    let refused = client().get(stage.through(&format!("/crowd/{mark}"))).go().expect(429);
    assert_eq!(refused.header("retry-after"), "1");
    assert!(stage.upstream.seen(&mark).is_empty());
    drop(one);
    wait_until("a stream's place is given back", Duration::from_secs(10), || client().get(stage.through("/crowd/x")).go().status == 200);
    let (three, head) = events(stage, "/crowd/sse");
    assert!(head.contains("200"), "{head}");
    assert_eq!(client().get(stage.through("/crowd/x")).go().status, 429);
    drop(two);
    wait_until("a WebSocket's place is given back", Duration::from_secs(10), || client().get(stage.through("/crowd/x")).go().status == 200);
    drop(three);
    // What ends by itself gives back at once.
    for _ in 0..20 {
        wait_until("served", Duration::from_secs(5), || client().get(stage.through("/crowd/x")).go().status == 200);
    }
}

#[test]
fn places_are_counted_by_consumer() {
    let stage = STAGE.get();
    add(stage, "each", json!({"limits": {"concurrency": {"key": "header:X-Who", "most": 1}}}));
    let mut stream = raw::connect(&stage.listener("gateway"));
    write!(stream, "GET /each/sse HTTP/1.1\r\nHost: x\r\nX-Who: a\r\n\r\n").unwrap();
    assert!(raw::read_head(&mut stream).contains("200"));
    let call = |who: &str| client().get(stage.through("/each/x")).header("x-who", who).go().status;
    assert_eq!((call("a"), call("b")), (429, 200));
    drop(stream);
    wait_until("given back", Duration::from_secs(10), || call("a") == 200);
}

#[test]
fn heads_are_measured_by_the_route() {
    let stage = STAGE.get();
    add(stage, "small", json!({"limits": {"header_bytes": 400, "header_fields": 8, "url": 40, "body": 5}}));
    let mark = random();
    let call = |path: &str, headers: &str| raw::get(&stage.listener("gateway"), path, headers).status;
    assert_eq!(call("/small/x", ""), 200);
    assert_eq!(call(&format!("/small/{}", "x".repeat(60)), &format!("X-Mark: {mark}\r\n")), 414);
    assert_eq!(call("/small/x", &format!("X-Mark: {mark}\r\nX-A: {}\r\n", "x".repeat(400))), 431);
    let many: String = (0..9).map(|n| format!("X-{n}: {mark}\r\n")).collect();
    assert_eq!(call("/small/x", &many), 431);
    let body = |extra: &str| {
        raw::exchange(
            &stage.listener("gateway"),
            format!("POST /small/{mark} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}").as_bytes(),
        )
        .status
    };
    assert_eq!(body("Content-Length: 6\r\n\r\n123456"), 413);
    assert!(stage.upstream.seen(&mark).is_empty(), "the upstream sees nothing of them");
}

#[test]
fn a_body_that_comes_too_slowly_is_408_and_never_whole_at_the_upstream() {
    let stage = STAGE.get();
    add(stage, "paced", json!({"limits": {"idle_body": "1s", "request_time": "2s"}}));
    let address = stage.listener("gateway");
    let mark = random();
    let mut stream = raw::connect(&address);
    write!(stream, "POST /paced/{mark} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc").unwrap();
    let answer = raw::read_rest(&mut stream, Duration::from_secs(10));
    assert_eq!((answer.status, answer.closed), (408, true), "{}", answer.text);
    // One octet at a time, never idle, but not done in time.
    let mut stream = raw::connect(&address);
    write!(stream, "POST /paced/{mark} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..30 {
        if stream.write_all(b"1\r\nx\r\n").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let answer = raw::read_rest(&mut stream, Duration::from_secs(10));
    assert!(answer.closed && (answer.status == 408 || answer.text.is_empty()), "{}", answer.text);
    assert!(stage.upstream.seen(&mark).iter().all(|seen| !seen.whole), "no whole request");
    // Over HTTP/2 as well.
    let url = stage.through("/paced/two");
    let command =
        format!("(printf abc; sleep 8) | curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 --http2-prior-knowledge -T . '{url}'");
    let told = Command::new("sh").args(["-c", &command]).output().expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&told.stdout), "408");
}

#[test]
fn answers_come_and_streams_end_in_time() {
    let stage = STAGE.get();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = format!("http://{}", silent.local_addr().unwrap());
    std::thread::spawn(move || silent.incoming().flatten().collect::<Vec<_>>());
    add(stage, "mute", json!({"upstream": {"targets": [{"url": target}]}, "limits": {"response_time": "1s"}}));
    assert_eq!(client().get(stage.through("/mute/x")).go().status, 504);
    add(stage, "brief", json!({"limits": {"stream_time": "1s"}}));
    let (mut stream, head) = events(stage, "/brief/sse");
    assert!(head.contains("200"), "{head}");
    let rest = raw::read_rest(&mut stream, Duration::from_secs(10));
    assert!(rest.closed && rest.text.contains("data: 1") && !rest.text.ends_with("0\r\n\r\n"), "broken off, not ended: {}", rest.text);
    let (mut socket, head) = socket(stage, "/brief/ws");
    assert!(head.contains("101"), "{head}");
    socket.write_all(b"ping").unwrap();
    let mut echoed = [0; 4];
    socket.read_exact(&mut echoed).unwrap();
    let rest = raw::read_rest(&mut socket, Duration::from_secs(10));
    assert!(rest.closed, "a WebSocket is ended too");
}

#[test]
fn what_cannot_be_meant_is_refused_at_registration() {
    let stage = STAGE.get();
    for (member, value, place) in [
        ("rate_limit", json!([]), "rate_limit"),
        ("rate_limit", json!({"key": "client", "rate": 1, "period": "1s"}), "rate_limit.key"),
        ("rate_limit", json!({"key": "ip", "rate": 1, "period": "1s", "cost": 2}), "rate_limit.cost"),
        ("rate_limit", json!([{"key": "ip", "rate": 1, "period": "1s"}, {"key": "ip", "rate": 1, "period": "1s"}]), "rate_limit[1].name"),
        ("limits", json!({"url": 9000}), "limits.url"),
        ("limits", json!({"concurrent": 0}), "limits.concurrent"),
        ("limits", json!({"idle_body": "60s"}), "limits.idle_body"),
    ] {
        let mut route = json!({"id": "wrong", "match": {"path_prefix": "/wrong/"}, "upstream": "echo", "public": true});
        route[member] = value.clone();
        let answer = stage.admin("POST", "/routes").json(&route).go();
        assert_eq!(answer.status, 400 + u16::from(answer.status == 422) * 22, "{value}: {}", answer.text());
        assert!(answer.text().contains(place), "{place} in {}", answer.text());
    }
}
