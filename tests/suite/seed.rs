//! The seed: declarative, idempotent, refused whole with every mistake listed.
use serde_json::json;

use crate::kit::http::{Go, client};
use crate::kit::seed::{API, MACHINE, standard};
use crate::kit::{House, Stage};

fn house() -> House {
    let house = House::new();
    house.bootstrap();
    house
}

#[test]
fn a_second_run_changes_nothing_and_prints_no_secret() {
    let house = house();
    let seed = json!({
        "resource_servers": [{"identifier": API, "name": "API", "scopes": [{"name": "read"}]}],
        "clients": [{"client_id": "fresh", "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "read", "allowed_resources": [API]}],
        "users": [{"username": "new"}],
    });
    let first = house.seed(&seed).to_string();
    assert!(first.contains("dws_"), "a generated secret is printed: {first}");
    let second = house.seed(&seed).to_string();
    assert!(!second.contains("dws_"), "and only once: {second}");
    let server = house.serve();
    let secret = first.split("dws_").nth(1).map(|s| format!("dws_{}", s.split('"').next().unwrap())).unwrap();
    let form = [("grant_type", "client_credentials")];
    client().post(server.url("/token")).basic_auth("fresh", Some(secret)).form(&form).go().expect(200);
}

#[test]
fn a_plan_tells_and_does_not_touch() {
    let house = house();
    let plan = house.try_seed(&standard("http://127.0.0.1:9"), &["--plan"]).ok();
    assert!(plan.out.contains("machine"), "{}", plan.out);
    assert!(!plan.out.contains(MACHINE.secret));
    let server = house.serve();
    server.token(&MACHINE, &[("grant_type", "client_credentials")]).expect_error(401, "invalid_client");
    server.stop();
    house.seed(&standard("http://127.0.0.1:9"));
    let again = house.try_seed(&standard("http://127.0.0.1:9"), &["--plan"]).ok();
    assert_ne!(again.out, plan.out, "after applying there is nothing left to plan");
}

#[test]
fn a_changed_seed_changes_what_it_names_and_keeps_the_rest() {
    let house = house();
    let mut seed = standard("http://127.0.0.1:9");
    house.seed(&seed);
    for c in seed["clients"].as_array_mut().unwrap() {
        if c["client_id"] == "machine" {
            c["scope"] = json!("read");
        }
    }
    house.seed(&seed);
    let server = house.serve();
    server.token(&MACHINE, &[("grant_type", "client_credentials"), ("scope", "write")]).expect_error(400, "invalid_scope");
    server.machine_token(&MACHINE, &[("scope", "read")]);
    server.person_tokens(&crate::kit::seed::HOME, "alice");
}

#[test]
fn every_mistake_is_listed_and_nothing_is_applied() {
    let house = house();
    let seed = json!({
        "users": [{"username": "", "password": "x"}, {"username": "fine", "password": "long enough to be one"}],
        "clients": [
            {"client_id": "bad-uri", "redirect_uris": ["javascript:alert(1)"], "grant_types": ["authorization_code"], "response_types": ["code"]},
            {"client_id": "bad-member", "colour": "blue"},
        ],
        "routes": [{"id": "lost", "match": {"path_prefix": "/x/"}, "upstream": "nowhere", "public": true}],
        "nonsense": [],
    });
    let ran = house.try_seed(&seed, &[]);
    assert_ne!(ran.code, 0);
    let said = ran.said();
    for word in ["users[0]", "clients[0].redirect_uris[0]", "colour", "nowhere", "nonsense"] {
        assert!(said.contains(word), "{word} is not named: {said}");
    }
    let export = house.run(&["audit", "export"]).ok().out;
    assert!(!export.contains("fine"), "nothing was applied");
}

#[test]
fn a_file_that_is_no_seed_is_refused() {
    let house = house();
    for content in ["", "[]", "{", "null", r#"{"users": 1}"#, r#"{"users": [], "users": []}"#] {
        let file = house.write("odd.json", content);
        let ran = house.run(&["seed", "--file", file.to_str().unwrap(), "--json"]);
        assert!([1, 2].contains(&ran.code), "{content:?}: {} {}", ran.code, ran.said());
    }
    let missing = house.run(&["seed", "--file", "/nowhere/seed.json", "--json"]);
    assert!([1, 2].contains(&missing.code));
}

#[test]
fn secrets_are_nowhere_in_the_files() {
    let stage = Stage::start(|house| {
        house.text("log.format", "json");
    });
    let token = stage.machine_token(&crate::kit::seed::SAFE, &[]);
    let person = stage.person_tokens(&crate::kit::seed::APP, "alice");
    stage.call("/vault/x", &token);
    stage.revoke(&crate::kit::seed::SAFE, &token);
    let house = stage.house.clone();
    let refresh = person["refresh_token"].as_str().unwrap().to_owned();
    let Stage { server, .. } = stage;
    server.stop();
    std::fs::remove_file(house.path("seed.json")).unwrap();
    let _ = std::fs::remove_file(house.path("admin.json"));
    for secret in [MACHINE.secret, crate::kit::seed::PASSWORD, token.as_str(), refresh.as_str(), person["access_token"].as_str().unwrap()] {
        assert_eq!(house.holds(secret), None, "{}", &secret[..12]);
    }
    // A secret's random part is not there either.
    assert_eq!(house.holds(&token[token.len() - 40..]), None);
}
