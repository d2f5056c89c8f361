//! Which target a request goes to, and how much of the gateway one upstream may take.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client, random};
use crate::kit::target::{Mood, Target, route};
use crate::kit::{Shared, Stage, wait_until};

static STAGE: Shared = Shared::new();

fn publish(stage: &Stage, route: &Value) {
    stage.admin("POST", "/routes").json(route).go().expect(201);
}

#[test]
fn requests_go_to_each_target_by_its_weight() {
    let stage = STAGE.get();
    let (a, b) = (Target::start("a"), Target::start("b"));
    let mut route = route("weighted", &[&a, &b], json!({}));
    route["upstream"]["targets"][1]["weight"] = json!(3);
    publish(stage, &route);
    for _ in 0..80 {
        client().get(stage.through("/weighted/x")).go().expect(200);
    }
    assert_eq!(a.asked() + b.asked(), 80);
    // Each thread of the gateway takes turns for itself.
    assert!((16..=24).contains(&a.asked()), "{} and {}", a.asked(), b.asked());
}

#[test]
fn a_value_stays_at_its_target_and_moves_only_when_that_goes() {
    let stage = STAGE.get();
    let all = ["a", "b", "c"].map(Target::start);
    let members = json!({"balance": "consistent_hash", "hash_on": "header:X-Tenant"});
    publish(stage, &route("hashed", &[&all[0], &all[1], &all[2]], members.clone()));
    let ask = |tenant: usize| client().get(stage.through("/hashed/x")).header("x-tenant", tenant.to_string()).go().expect(200).text();
    let before: BTreeMap<usize, String> = (0..30).map(|tenant| (tenant, ask(tenant))).collect();
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 3, "all targets are used: {before:?}");
    for (tenant, target) in &before {
        assert_eq!(ask(*tenant), *target, "the same again");
    }
    let current = stage.admin("GET", "/routes/hashed").go().expect(200);
    let fewer = route("hashed", &[&all[0], &all[1]], members);
    stage.admin("PUT", "/routes/hashed").header("if-match", current.header("etag")).json(&fewer).go().expect(200);
    for (tenant, target) in before.iter().filter(|(_, target)| *target != "c") {
        assert_eq!(ask(*tenant), *target, "those of the targets that stay do not move");
    }
}

#[test]
fn the_target_with_less_to_do_gets_more() {
    let stage = STAGE.get();
    let (quick, slow) = (Target::start("quick"), Target::start("slow"));
    slow.feel(Mood::Slow(Duration::from_millis(400)));
    publish(stage, &route("least", &[&quick, &slow], json!({"balance": "least_requests"})));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| drop(client().get(stage.through("/least/x")).go().expect(200))));
        }
    });
    assert!(quick.asked() > slow.asked() * 2, "{} and {}", quick.asked(), slow.asked());
}

#[test]
fn an_upstream_that_is_full_is_refused_and_the_others_are_served() {
    let stage = STAGE.get();
    let (slow, other) = (Target::start("slow"), Target::start("other"));
    slow.feel(Mood::Hangs);
    publish(stage, &route("full", &[&slow], json!({"max_requests": 2, "max_pending": 0, "timeout": "2s"})));
    publish(stage, &route("apart", &[&other], json!({})));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| client().get(stage.through("/full/x")).go().expect(504));
        }
        wait_until("both are under way", Duration::from_secs(5), || slow.asked() == 2);
        let refused = client().get(stage.through("/full/x")).go().expect(503);
        assert_eq!((refused.header("retry-after"), slow.asked()), ("1", 2));
        client().get(stage.through("/apart/x")).go().expect(200);
    });
    slow.feel(Mood::Well);
    client().get(stage.through("/full/x")).go().expect(200);
    assert!(stage.metric(r#"upstream_refused_total{upstream="full (inline)",reason="upstream_full"}"#) >= 1.0);
}

#[test]
fn no_more_connections_are_opened_than_an_upstream_takes() {
    let stage = STAGE.get();
    let few = Target::start("few");
    few.feel(Mood::Slow(Duration::from_millis(30)));
    publish(stage, &route("few", &[&few], json!({"max_connections": 3, "max_pending": 100, "protocol": "http1"})));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| (0..5).for_each(|_| drop(client().get(stage.through("/few/x")).go().expect(200))));
        }
    });
    assert_eq!(few.asked(), 60);
    assert!((1..=3).contains(&few.most_busy()), "{} at once", few.most_busy());
}

#[test]
fn what_cannot_be_meant_is_refused_with_all_its_mistakes() {
    let stage = STAGE.get();
    let upstream = json!({"id": random(), "targets": [{"url": "http://127.0.0.1:9"}], "hash_on": "weather", "max_pending": 3,
        "retries": {"on": ["always"]}, "tls": {"ca_file": "relative.pem"}});
    let refused = stage.admin("POST", "/upstreams").json(&upstream).go();
    assert!([400, 422].contains(&refused.status), "{}", refused.text());
    let upstream = json!({"id": random(), "targets": [{"url": "http://127.0.0.1:9"}], "hash_on": "weather", "max_pending": 3});
    let told = stage.admin("POST", "/upstreams").json(&upstream).go();
    for member in ["hash_on", "max_pending"] {
        assert!(told.text().contains(member), "{member}: {}", told.text());
    }
}
