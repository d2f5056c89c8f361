//! Pages of other origins: preflights answered at the gateway, answers and refusals that a page may read, nothing for others.
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client, random};
use crate::kit::seed::{API, MACHINE};
use crate::kit::{Shared, Stage};

static STAGE: Shared = Shared::new();
const APP: &str = "https://app.example.com";

fn add(stage: &Stage, id: &str, methods: Value, cors: Value, more: Value) {
    let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/"), "methods": &methods}, "upstream": "echo", "cors": cors,
        "auth": {"accept": ["jwt"], "issuers": ["self"], "audience": API}});
    if methods == json!([]) {
        route["match"].as_object_mut().unwrap().remove("methods");
    }
    for (name, value) in more.as_object().unwrap() {
        route[name] = value.clone();
    }
    if route["public"] == json!(true) {
        route.as_object_mut().unwrap().remove("auth");
    }
    stage.admin("POST", "/routes").json(&route).go().expect(201);
}

fn ask(stage: &Stage, path: &str, origin: &str, method: &str, headers: &str) -> Answer {
    client()
        .request(Method::OPTIONS, stage.through(path))
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", headers)
        .go()
}

#[track_caller]
fn says_nothing(answer: &Answer) {
    let said: Vec<_> = answer.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).collect();
    assert!(said.is_empty(), "{said:?}");
    assert!(answer.header("vary").to_lowercase().contains("origin"), "vary: {}", answer.header("vary"));
}

#[test]
fn a_preflight_is_answered_before_authentication_and_never_forwarded() {
    let stage = STAGE.get();
    let rules = json!({"allow_origins": [APP, "https://*.example.org"], "allow_methods": ["GET", "PUT"], "allow_headers": ["Authorization", "X-Mine"], "allow_credentials": true, "max_age": "10m"});
    add(stage, "pages", json!([]), rules, json!({}));
    let mark = random();
    let path = format!("/pages/{mark}");
    let good = ask(stage, &path, APP, "PUT", "authorization,x-mine").expect(204);
    assert_eq!(good.header("access-control-allow-origin"), APP);
    assert_eq!(good.header("access-control-allow-credentials"), "true");
    assert_eq!(good.header("access-control-allow-methods"), "GET, PUT");
    assert_eq!(good.header("access-control-allow-headers"), "Authorization, X-Mine");
    assert_eq!(good.header("access-control-max-age"), "600");
    assert!(good.header("vary").contains("Access-Control-Request-Method"), "{}", good.header("vary"));
    assert_eq!(ask(stage, &path, "https://a.example.org", "GET", "").header("access-control-allow-origin"), "https://a.example.org");
    for (origin, method, headers) in [
        ("https://evil.example.com", "PUT", ""),
        ("https://app.example.com.evil.net", "PUT", ""),
        ("http://app.example.com", "PUT", ""),
        ("https://a.b.example.org", "PUT", ""),
        ("null", "PUT", ""),
        (APP, "DELETE", ""),
        (APP, "PUT", "x-mine, x-other"),
    ] {
        let refused = ask(stage, &path, origin, method, headers);
        assert_eq!(refused.status, 403, "{origin} {method} {headers}");
        says_nothing(&refused);
    }
    assert!(stage.upstream.seen(&mark).is_empty(), "no preflight is forwarded");
    // curl asks the same.
    let told = Command::new("curl")
        .args(["-si", "-X", "OPTIONS", "-H", &format!("Origin: {APP}"), "-H", "Access-Control-Request-Method: PUT", &stage.through(&path)])
        .output()
        .expect("curl runs");
    let told = String::from_utf8_lossy(&told.stdout).to_lowercase();
    assert!(told.starts_with("http/1.1 204") && told.contains("access-control-allow-origin: https://app.example.com"), "{told}");
}

#[test]
fn only_a_preflight_for_a_method_of_the_route_is_answered() {
    let stage = STAGE.get();
    add(stage, "reading", json!(["GET"]), json!({"allow_origins": [APP], "allow_methods": ["GET", "DELETE"]}), json!({}));
    assert_eq!(ask(stage, "/reading/x", APP, "GET", "").status, 204);
    assert_eq!(ask(stage, "/reading/x", APP, "DELETE", "").status, 405, "no route is for that method");
    // An OPTIONS that is no preflight is a request like any other.
    let plain = client().request(Method::OPTIONS, stage.through("/reading/x")).header("origin", APP).go();
    assert_eq!(plain.status, 405);
    assert_eq!(ask(stage, "/api/x", APP, "GET", "").header("access-control-allow-origin"), "", "a route without rules says nothing");
}

#[test]
fn refusals_can_be_read_by_the_page_as_answers_can() {
    let stage = STAGE.get();
    let rules = json!({"allow_origins": [APP], "expose_headers": ["X-Upstream", "RateLimit"]});
    add(stage, "told", json!([]), rules, json!({"rate_limit": {"key": "client", "rate": 2, "period": "1h"}}));
    let call = |origin: Option<&str>, token: Option<&str>| {
        let mut request = client().get(stage.through("/told/x"));
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.go()
    };
    let token = stage.machine_token(&MACHINE, &[]);
    for (token, status) in [(None, 401), (Some(token.as_str()), 200), (Some("a.b.c"), 401)] {
        let answer = call(Some(APP), token).expect(status);
        assert_eq!(
            (answer.header("access-control-allow-origin"), answer.header("access-control-expose-headers")),
            (APP, "X-Upstream, RateLimit")
        );
        assert_eq!(answer.header("access-control-allow-credentials"), "");
    }
    says_nothing(&call(Some("https://evil.example.com"), Some(&token)).expect(200));
    let limited = call(Some(APP), Some(&token)).expect(429);
    assert_eq!(limited.header("access-control-allow-origin"), APP);
    says_nothing(&call(None, None).expect(401));
    says_nothing(&call(Some("null"), None).expect(401));
}

#[test]
fn what_the_upstream_says_of_origins_does_not_count() {
    let stage = STAGE.get();
    add(stage, "anyone", json!([]), json!({"allow_origins": ["*"]}), json!({"public": true}));
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: https://evil.example.com\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Private-Network: true\r\nVary: Accept\r\nConnection: close\r\n\r\nok";
    let encoded = percent_encoding::utf8_percent_encode(answer, percent_encoding::NON_ALPHANUMERIC).to_string();
    let got =
        client().get(stage.through(&format!("/anyone/raw?answer={encoded}"))).header("origin", "https://any.example.net").go().expect(200);
    assert_eq!(got.header("access-control-allow-origin"), "*");
    assert_eq!((got.header("access-control-allow-credentials"), got.header("access-control-allow-private-network")), ("", ""));
    let vary: Vec<_> = got.headers.get_all("vary").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(vary, ["Accept", "Origin"]);
}

#[test]
fn rules_that_would_open_everything_are_refused() {
    let stage = STAGE.get();
    for (rules, place) in [
        (json!({"allow_origins": ["*"], "allow_credentials": true}), "cors.allow_credentials"),
        (json!({"allow_origins": ["null"], "allow_credentials": true}), "cors.allow_credentials"),
        (json!({"allow_origins": ["https://*"]}), "cors.allow_origins[0]"),
        (json!({"allow_origins": [APP], "allow_credentials": true, "allow_headers": ["*"]}), "cors.allow_headers"),
        (json!({"allow_origins": []}), "cors.allow_origins"),
        (json!({"allow_origins": [APP], "allow_methods": ["TRACE"]}), "cors.allow_methods[0]"),
        (json!({"origins": [APP]}), "cors.origins"),
    ] {
        let route = json!({"id": "wrong", "match": {"path_prefix": "/wrong/"}, "upstream": "echo", "public": true, "cors": rules});
        let answer = stage.admin("POST", "/routes").json(&route).go();
        assert!([400, 422].contains(&answer.status) && answer.text().contains(place), "{rules}: {} {}", answer.status, answer.text());
    }
}
