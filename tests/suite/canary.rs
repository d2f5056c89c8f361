//! Canaries: who goes where, and when nobody goes any more.
use serde_json::{Value, json};

use crate::kit::http::{Go, client, client_from, random};
use crate::kit::seed::{API, MACHINE, POSTER, SAFE};
use crate::kit::{Shared, Stage, Upstream, wait_until};

static STAGE: Shared = Shared::new();

fn add(stage: &Stage, id: &str, canary: Value) {
    let route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "public": true, "canary": canary});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
}

fn inline(url: &str) -> Value {
    json!({"targets": [{"url": url}]})
}

#[test]
fn callers_stay_on_their_side_and_the_sides_are_of_the_weight() {
    let (stage, other) = (STAGE.get(), Upstream::start());
    add(stage, "split", json!({"upstream": inline(&other.url()), "weight": 30, "sticky": "header:X-Caller"}));
    let canaried = |caller: usize| {
        let mark = random();
        client().get(stage.through(&format!("/split/{mark}"))).header("x-caller", caller.to_string()).go().expect(200);
        let sides = (stage.upstream.seen(&mark).len(), other.seen(&mark).len());
        assert!(sides == (1, 0) || sides == (0, 1), "{sides:?}");
        sides == (0, 1)
    };
    let first: Vec<bool> = (0..100).map(canaried).collect();
    let share = first.iter().filter(|canary| **canary).count();
    assert!((15..=45).contains(&share), "{share} of a hundred");
    let again: Vec<bool> = (0..100).map(canaried).collect();
    assert_eq!(first, again);
}

#[test]
fn a_source_stays_too_and_none_goes_at_weight_zero() {
    let (stage, other) = (STAGE.get(), Upstream::start());
    add(stage, "sources", json!({"upstream": inline(&other.url()), "weight": 50}));
    add(stage, "nobody", json!({"upstream": inline(&other.url()), "weight": 0}));
    add(stage, "everybody", json!({"upstream": inline(&other.url()), "weight": 100}));
    let mut sides = Vec::new();
    for n in 1..=20 {
        let from = client_from(&format!("127.0.0.{n}"));
        let calls: Vec<bool> = (0..3)
            .map(|_| {
                let mark = random();
                from.get(stage.through(&format!("/sources/{mark}"))).go().expect(200);
                !other.seen(&mark).is_empty()
            })
            .collect();
        assert!(calls.iter().all(|side| *side == calls[0]), "127.0.0.{n}: {calls:?}");
        sides.push(calls[0]);
    }
    assert!(sides.contains(&true) && sides.contains(&false), "{sides:?}");
    for (id, seen) in [("nobody", 0), ("everybody", 1)] {
        let mark = random();
        client().get(stage.through(&format!("/{id}/{mark}"))).go().expect(200);
        assert_eq!(other.seen(&mark).len(), seen, "{id}");
    }
}

#[test]
fn a_header_forces_the_side() {
    let (stage, other) = (STAGE.get(), Upstream::start());
    add(stage, "forced", json!({"upstream": inline(&other.url()), "weight": 0, "headers": {"X-Canary": "yes"}}));
    for (value, seen) in [("yes", 1), ("no", 0)] {
        let mark = random();
        client().get(stage.through(&format!("/forced/{mark}"))).header("x-canary", value).go().expect(200);
        assert_eq!(other.seen(&mark).len(), seen, "{value}");
    }
}

#[test]
fn a_canary_of_errors_is_given_up_and_told_of() {
    let (stage, other) = (STAGE.get(), Upstream::start());
    let canary = |weight| json!({"upstream": inline(&other.url()), "weight": weight, "rollback": {"errors_over": 20, "window": "60s", "minimum": 5}});
    add(stage, "fragile", canary(100));
    let bad = "HTTP/1.1%20500%20Broken%0D%0AContent-Length:%200%0D%0A%0D%0A";
    let statuses: Vec<u16> = (0..12).map(|_| client().get(stage.through(&format!("/fragile/raw?answer={bad}"))).go().status).collect();
    assert!(statuses.iter().all(|status| *status >= 500), "the stable side answers as badly here: {statuses:?}");
    let mark = random();
    client().get(stage.through(&format!("/fragile/{mark}"))).go().expect(200);
    assert_eq!((stage.upstream.seen(&mark).len(), other.seen(&mark).len()), (1, 0), "nobody goes there any more");
    let told = stage.admin("GET", "/stats").go().expect(200).json();
    let canary_of = |told: &Value| {
        told["canaries"].as_array().and_then(|all| all.iter().find(|c| c["route"] == "fragile").cloned()).expect("it is told of")
    };
    let state = canary_of(&told);
    assert!(state["rolled_back_at"].is_i64() && state["errors"] == 5, "{state}");
    let counted = || stage.metric("gateway_canary_rollbacks_total{route=\"fragile\"}") == 1.0;
    wait_until("the roll-back is counted", std::time::Duration::from_secs(5), counted);
    // Another definition begins anew.
    let mut route = stage.admin("GET", "/routes/fragile").go().expect(200);
    let etag = route.header("etag").to_owned();
    let mut document = route.json();
    document["canary"] = canary(99);
    document["canary"]["headers"] = json!({"X-Canary": "yes"});
    route = stage.admin("PUT", "/routes/fragile").header("if-match", etag).json(&document).go();
    assert!([200, 204].contains(&route.status), "{}", route.text());
    let mark = random();
    client().get(stage.through(&format!("/fragile/{mark}"))).header("x-canary", "yes").go().expect(200);
    assert_eq!(other.seen(&mark).len(), 1);
}

#[test]
fn a_caller_is_known_by_its_subject_or_client_where_there_is_a_credential() {
    let (stage, other) = (STAGE.get(), Upstream::start());
    let route = json!({"id": "whose", "match": {"path_prefix": "/whose/"}, "upstream": "echo",
        "auth": {"accept": ["jwt"], "audience": API}, "canary": {"upstream": inline(&other.url()), "weight": 50, "sticky": "client"}});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    for who in [&MACHINE, &POSTER] {
        let more: &[(&str, &str)] = if who.id == POSTER.id { &[("resource", API), ("scope", "read")] } else { &[] };
        let sides: Vec<bool> = (0..4)
            .map(|n| {
                let (mark, token) = (random(), stage.machine_token(who, more));
                let from = client_from(&format!("127.0.0.{}", n + 1));
                from.get(stage.through(&format!("/whose/{mark}"))).bearer_auth(token).go().expect(200);
                !other.seen(&mark).is_empty()
            })
            .collect();
        assert!(sides.iter().all(|side| *side == sides[0]), "{}: {sides:?}", who.id);
    }
    let mark = random();
    client().get(stage.through(&format!("/whose/{mark}"))).bearer_auth(stage.machine_token(&SAFE, &[])).go().expect(401);
    assert!(other.seen(&mark).is_empty() && stage.upstream.seen(&mark).is_empty(), "no side sees a refused request");
}

#[test]
fn a_canary_that_cannot_be_is_refused_at_registration() {
    let stage = STAGE.get();
    let route =
        |canary: Value| json!({"id": "bad", "match": {"path_prefix": "/bad/"}, "upstream": "echo", "public": true, "canary": canary});
    for (canary, at) in [
        (json!({"upstream": "nowhere", "weight": 5}), "canary.upstream"),
        (json!({"upstream": "echo", "weight": 101}), "canary.weight"),
        (json!({"upstream": "echo", "weight": 5, "sticky": "subject"}), "canary.sticky"),
        (json!({"upstream": "echo", "weight": 5, "rollback": {"errors_over": 5, "window": "1s"}}), "canary.rollback"),
    ] {
        let refused = stage.admin("POST", "/routes").json(&route(canary)).go();
        assert!([400, 409, 422].contains(&refused.status) && refused.text().contains(at), "{at}: {} {}", refused.status, refused.text());
    }
}
