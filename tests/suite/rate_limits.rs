//! Rate limits on routes, in one process and over nodes by Redis.
use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client, random};
use crate::kit::seed::{API, MACHINE, POSTER};
use crate::kit::server::free_port;
use crate::kit::{Shared, Stage, services};

static STAGE: Shared = Shared::new();

fn add(stage: &Stage, id: &str, limit: Value, auth: bool) {
    let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "rate_limit": limit});
    if auth {
        route["auth"] = json!({"accept": ["jwt"], "issuers": ["self"], "audience": API});
    } else {
        route["public"] = json!(true);
    }
    stage.admin("POST", "/routes").json(&route).go().expect(201);
}

#[track_caller]
fn limited(answer: &Answer) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1), "Retry-After {:?}", answer.header("retry-after"));
    assert!(!answer.header("ratelimit").is_empty() && !answer.header("ratelimit-policy").is_empty(), "{:?}", answer.headers);
}

#[test]
fn a_source_is_limited_and_another_is_not() {
    let stage = STAGE.get();
    add(stage, "by-ip", json!({"key": "ip", "rate": 5, "period": "60s", "burst": 5}), false);
    let answers: Vec<Answer> = (0..12).map(|_| client().get(stage.through("/by-ip/x")).go()).collect();
    let passed = answers.iter().filter(|a| a.status == 200).count();
    assert!((5..=10).contains(&passed), "{passed} of 12 with rate 5, burst 5");
    limited(answers.last().unwrap());
    let other = crate::kit::http::client_from("127.0.0.77");
    assert_eq!(other.get(stage.through("/by-ip/x")).go().status, 200);
}

#[test]
fn a_client_is_limited_whatever_its_token() {
    let stage = STAGE.get();
    add(stage, "by-client", json!({"key": "client", "rate": 3, "period": "60s", "burst": 3}), true);
    let last = (0..10).map(|_| stage.call("/by-client/x", &stage.machine_token(&MACHINE, &[]))).last().unwrap();
    limited(&last);
    let other = stage.machine_token(&POSTER, &[("resource", API)]);
    assert_eq!(stage.call("/by-client/x", &other).status, 200);
    // A bad credential is 401 before it is counted.
    assert_eq!(stage.call("/by-client/x", "a.b.c").status, 401);
}

#[test]
fn without_a_limit_there_is_no_429() {
    let stage = STAGE.get();
    let mark = random();
    for _ in 0..200 {
        assert_eq!(client().get(stage.through(&format!("/public/{mark}"))).go().status, 200);
    }
}

#[test]
fn two_nodes_count_together_by_redis() {
    let (Some(database), Some(redis)) = (services::postgres(), services::redis()) else { return };
    let upstream = crate::kit::Upstream::start();
    let mut house = crate::kit::House::new();
    house.text("storage.url", &database).text("shared_state.url", &redis);
    house.bootstrap();
    let mut seed = crate::kit::standard(&upstream.url());
    let id = format!("shared-{}", random().to_lowercase().replace(['_', '-'], "0"));
    let route = json!({"id": id, "match": {"path_prefix": "/shared/"}, "upstream": "echo", "public": true,
        "rate_limit": {"key": "ip", "rate": 10, "period": "60s", "burst": 10}});
    seed["routes"].as_array_mut().unwrap().push(route);
    house.seed(&seed);
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let passed = (0..30).filter(|n| client().get(if n % 2 == 0 { &a } else { &b }.through("/shared/x")).go().status == 200).count();
    assert!((10..=16).contains(&passed), "{passed} of 30 passed with 10 a minute over both nodes");
}
