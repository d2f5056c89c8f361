//! Targets that fail: ejected, checked, tried again where that is safe, left alone when too much fails, never waited for too long.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client};
use crate::kit::target::{Mood, Target, route};
use crate::kit::{Shared, Stage, raw, wait_until};

static STAGE: Shared = Shared::new();

fn publish(stage: &Stage, route: &Value) {
    stage.admin("POST", "/routes").json(route).go().expect(201);
}

/// How the statistics describe a target.
fn report(stage: &Stage, target: &Target) -> Value {
    let stats = stage.admin("GET", "/stats").go().expect(200).json();
    let all = stats["upstreams"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|row| row["target"] == target.url()).unwrap_or_default()
}

#[test]
fn a_target_that_fails_in_a_row_is_passed_over() {
    let stage = STAGE.get();
    let (good, bad) = (Target::start("good"), Target::start("bad"));
    bad.feel(Mood::Says(503, ""));
    publish(stage, &route("ejected", &[&good, &bad], json!({"ejection": {"failures": 3, "time": "1h"}})));
    wait_until("it is ejected", Duration::from_secs(20), || {
        client().get(stage.through("/ejected/x")).go();
        report(stage, &bad)["ejected"] == true
    });
    let before = bad.asked();
    for _ in 0..20 {
        client().get(stage.through("/ejected/x")).go().expect(200);
    }
    assert_eq!(bad.asked(), before, "nothing more is sent to it");
    assert!(stage.metric(&format!(r#"upstream_ejections_total{{upstream="ejected (inline)",target="{}"}}"#, bad.url())) >= 1.0);
    // The last one is never taken away.
    good.feel(Mood::Says(503, ""));
    for _ in 0..20 {
        client().get(stage.through("/ejected/x")).go().expect(503);
    }
    good.feel(Mood::Well);
    client().get(stage.through("/ejected/x")).go().expect(200);
}

#[test]
fn a_target_whose_check_fails_gets_nothing_until_it_is_well() {
    let stage = STAGE.get();
    let (a, b) = (Target::start("a"), Target::start("b"));
    b.health(500);
    let health = json!({"health": {"path": "/healthz", "interval": "1s", "timeout": "1s", "healthy_after": 1, "unhealthy_after": 1}});
    publish(stage, &route("checked", &[&a, &b], health));
    wait_until("it is down", Duration::from_secs(10), || report(stage, &b)["healthy"] == false);
    let before = b.asked();
    for _ in 0..10 {
        assert_eq!(client().get(stage.through("/checked/x")).go().expect(200).text(), "a");
    }
    assert_eq!(b.asked(), before);
    let up = |target: &Target| stage.metric(&format!(r#"upstream_up{{upstream="checked (inline)",target="{}"}}"#, target.url()));
    wait_until("the metric says so", Duration::from_secs(5), || up(&b) == 0.0 && up(&a) == 1.0);
    b.health(204);
    wait_until("it is up again", Duration::from_secs(10), || report(stage, &b)["up"] == true);
    wait_until("it gets requests", Duration::from_secs(5), || client().get(stage.through("/checked/x")).go().text() == "b");
    // Once a process, whatever the number of threads; and not after the route is gone.
    stage.admin("DELETE", "/routes/checked").header("if-match", "*").go();
    std::thread::sleep(Duration::from_millis(2500));
    let after = b.checked();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(b.checked(), after, "nobody checks a target of no route");
}

#[test]
fn what_is_safe_is_tried_again_elsewhere_and_a_post_is_not() {
    let stage = STAGE.get();
    let (good, bad) = (Target::start("good"), Target::start("bad"));
    bad.feel(Mood::Says(503, ""));
    let members = json!({"retries": {"attempts": 1, "on": ["connect", "502", "503", "504", "timeout"]}, "ejection": {"failures": 10000}});
    publish(stage, &route("again", &[&good, &bad], members));
    for _ in 0..6 {
        client().get(stage.through("/again/x")).go().expect(200);
    }
    assert!(bad.asked() >= 2 && good.asked() >= 6, "{} {}", good.asked(), bad.asked());
    // Threads take turns for themselves: how many meet the bad one is not said.
    for (mood, status) in [(Mood::Says(503, ""), 503), (Mood::Drops, 502)] {
        bad.feel(mood);
        let (well, ill) = (good.asked(), bad.asked());
        let refused = (0..10).filter(|_| client().post(stage.through("/again/x")).body("once").go().status == status).count();
        let (well, ill) = (good.asked() - well, bad.asked() - ill);
        assert!(ill > 0 && well + ill == 10 && refused == ill, "each once, whatever came of it: {well} {ill} {refused}");
    }
}

#[test]
fn repetitions_are_few_however_much_fails() {
    let stage = STAGE.get();
    let bad = Target::start("bad");
    bad.feel(Mood::Says(503, ""));
    publish(stage, &route("storm", &[&bad], json!({"retries": {"attempts": 5, "on": ["503"]}})));
    for _ in 0..100 {
        client().get(stage.through("/storm/x")).go().expect(503);
    }
    // What was saved at the start (ten), and a fifth.
    assert!((101..=132).contains(&bad.asked()), "{}", bad.asked());
}

#[test]
fn a_target_that_asks_for_patience_is_not_asked_again_at_once() {
    let stage = STAGE.get();
    let bad = Target::start("bad");
    bad.feel(Mood::Says(503, "Retry-After: 7\r\n"));
    publish(stage, &route("patience", &[&bad], json!({"retries": {"attempts": 3, "on": ["503"]}})));
    assert_eq!(client().get(stage.through("/patience/x")).go().expect(503).header("retry-after"), "7");
    assert_eq!(bad.asked(), 1);
}

#[test]
fn a_target_that_cannot_be_reached_costs_no_request() {
    let stage = STAGE.get();
    let (good, gone) = (Target::start("good"), Target::start("gone"));
    let mut route = route("gone", &[&good, &gone], json!({}));
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    route["upstream"]["targets"][1]["url"] = json!(format!("http://{unused}"));
    publish(stage, &route);
    for _ in 0..10 {
        client().post(stage.through("/gone/x")).body("a").go().expect(200);
    }
    assert_eq!(good.asked(), 10, "nothing was sent before, so that even a POST may go to the next");
}

#[test]
fn a_breaker_opens_tells_so_and_closes_when_one_request_succeeds() {
    let stage = STAGE.get();
    let target = Target::start("a");
    target.feel(Mood::Says(500, ""));
    publish(stage, &route("breaker", &[&target], json!({"breaker": {"min_requests": 5, "error_percent": 60, "open_for": "2s"}})));
    for _ in 0..5 {
        client().get(stage.through("/breaker/x")).go().expect(500);
    }
    let refused = client().get(stage.through("/breaker/x")).go().expect(503);
    assert_eq!((target.asked(), refused.header("retry-after")), (5, "1"), "nothing is sent");
    assert_eq!(report(stage, &target)["breaker"], "open");
    target.feel(Mood::Well);
    wait_until("a probe succeeds", Duration::from_secs(10), || client().get(stage.through("/breaker/x")).go().status == 200);
    assert_eq!(report(stage, &target)["breaker"], "closed");
}

#[test]
fn nothing_is_waited_for_longer_than_the_upstream_may_take() {
    let stage = STAGE.get();
    let target = Target::start("a");
    target.feel(Mood::Hangs);
    publish(stage, &route("late", &[&target], json!({"timeout": "1s"})));
    publish(stage, &route("total", &[&target], json!({"timeout": "30s", "total_timeout": "1s"})));
    client().get(stage.through("/late/x")).go().expect(504);
    client().get(stage.through("/total/x")).go().expect(504);
    target.feel(Mood::Stalls);
    publish(stage, &route("stalls", &[&target], json!({"idle_timeout": "1s"})));
    publish(stage, &route("stops", &[&target], json!({"total_timeout": "1s"})));
    for path in ["/stalls/x", "/stops/x"] {
        let mut stream = raw::connect(&stage.listener("gateway"));
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let answer = raw::read_rest(&mut stream, Duration::from_secs(10));
        assert!(answer.closed && answer.text.ends_with("part"), "half an answer does not look whole: {}", answer.text);
    }
}

#[test]
fn a_slow_reader_is_not_buffered_for() {
    let stage = Stage::start(|_| {});
    let target = Target::start("large");
    target.feel(Mood::Large(200));
    publish(&stage, &route("large", &[&target], json!({})));
    publish(&stage, &route("watched", &[&target], json!({"idle_timeout": "60s"})));
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", stage.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0)
    };
    client().get(stage.through("/public/warm")).go().expect(200);
    let before = resident();
    let readers: Vec<_> = ["/large/x", "/watched/x", "/large/y", "/watched/y"]
        .into_iter()
        .map(|path| {
            let mut stream = raw::connect(&stage.listener("gateway"));
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
            let mut few = [0; 4096];
            stream.read_exact(&mut few).unwrap();
            stream
        })
        .collect();
    // The upstream is ready to send eight hundred mebibytes; as much as sockets hold may come.
    std::thread::sleep(Duration::from_secs(2));
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} kB for four readers");
    let mut first = readers.into_iter().next().unwrap();
    let mut read = 0;
    let mut block = vec![0; 1 << 20];
    while let Ok(n @ 1..) = first.read(&mut block) {
        read += n;
    }
    assert!((200 << 20..(200 << 20) + 4096).contains(&(read + 4096)), "all of it comes in the end: {read}");
    assert!(resident().saturating_sub(before) < 24 * 1024);
}
