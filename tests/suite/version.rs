//! The life of an API's versions at the gateway: RFC 9745, RFC 8594, brown-outs, and which version is asked for.
use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client, now, random};
use crate::kit::seed::{API, MACHINE};
use crate::kit::{Shared, Stage};

static STAGE: Shared = Shared::new();

fn route(id: &str, more: Value) -> Value {
    let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo",
        "auth": {"accept": ["jwt"], "audience": API, "scopes": ["read"]}});
    for (name, value) in more.as_object().expect("members") {
        route[name] = value.clone();
    }
    route
}

#[track_caller]
fn add(stage: &Stage, route: &Value) {
    stage.admin("POST", "/routes").json(route).go().expect(201);
}

#[track_caller]
fn get(stage: &Stage, path: &str, lines: &[(&str, &str)]) -> Answer {
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    lines.iter().fold(client().get(stage.through(path)).bearer_auth(token), |request, (name, value)| request.header(*name, *value)).go()
}

/// A date of RFC 9651 §3.3.7: `@` and a number of seconds.
fn date(field: &str) -> i64 {
    field.strip_prefix('@').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("not a date item: {field:?}"))
}

/// An IMF-fixdate (RFC 9110 §5.6.7).
fn http_date(field: &str) -> i64 {
    let at = httpdate::parse_http_date(field).unwrap_or_else(|_| panic!("not an HTTP-date: {field:?}"));
    i64::try_from(at.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()).expect("fits")
}

#[test]
fn every_answer_of_a_deprecated_version_says_so_refusals_included() {
    let stage = STAGE.get();
    let (deprecated, sunset) = (now() - 86_400, now() + 86_400);
    let life = json!({"version": {"name": "v1", "deprecated_at": deprecated, "sunset_at": sunset, "successor": "https://api.example.com/v2/",
        "link": "https://docs.example.com/v1-ends"}});
    add(stage, &route("v1", life));
    let mark = random();
    let good = get(stage, &format!("/v1/{mark}"), &[]).expect(200);
    let refused = client().get(stage.through("/v1/x")).go().expect(401);
    for answer in [&good, &refused] {
        assert_eq!(date(answer.header("deprecation")), deprecated);
        assert_eq!(http_date(answer.header("sunset")), sunset);
        let links: Vec<&str> = answer.headers.get_all("link").iter().filter_map(|v| v.to_str().ok()).collect();
        assert_eq!(
            links,
            [
                "<https://api.example.com/v2/>; rel=\"successor-version\"",
                "<https://docs.example.com/v1-ends>; rel=\"deprecation\"",
                "<https://docs.example.com/v1-ends>; rel=\"sunset\""
            ]
        );
    }
    assert_eq!(stage.upstream.seen(&mark).len(), 1);
    let plain = get(stage, "/api/x", &[]).expect(200);
    assert_eq!((plain.header("deprecation"), plain.header("sunset"), plain.header("link")), ("", "", ""));
    // Who still calls it.
    let known = || {
        let rows = stage.admin("GET", "/analytics?route=v1").go().expect(200).json();
        rows["items"].as_array().is_some_and(|rows| rows.iter().any(|row| row["consumer"] == "client:machine"))
    };
    crate::kit::wait_until("its consumer is known", std::time::Duration::from_secs(5), known);
}

#[test]
fn what_the_upstream_says_of_its_own_life_gives_way() {
    let stage = STAGE.get();
    add(stage, &route("wayward", json!({"version": {"deprecated_at": 1_700_000_000}})));
    let said = "HTTP/1.1%20200%20OK%0D%0ADeprecation:%20true%0D%0ALink:%20%3C/a%3E;%20rel=next%0D%0AContent-Length:%200%0D%0A%0D%0A";
    let answer = get(stage, &format!("/wayward/raw?answer={said}"), &[]).expect(200);
    assert_eq!(answer.headers.get_all("deprecation").iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>(), ["@1700000000"]);
    assert_eq!(answer.header("link"), "</a>; rel=next");
}

#[test]
fn after_its_sunset_a_version_is_gone_for_everybody() {
    let stage = STAGE.get();
    add(stage, &route("gone", json!({"version": {"deprecated_at": now() - 20, "sunset_at": now() - 10, "successor": "/v2/"}})));
    let mark = random();
    for answer in [get(stage, &format!("/gone/{mark}"), &[]), client().get(stage.through(&format!("/gone/{mark}"))).go()] {
        let answer = answer.expect(410);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!((answer.json()["status"].as_u64(), answer.json()["successor"].as_str()), (Some(410), Some("/v2/")));
        assert!(answer.header("link").contains("</v2/>; rel=\"successor-version\""), "{:?}", answer.headers);
        assert!(http_date(answer.header("sunset")) < now());
    }
    assert!(stage.upstream.seen(&mark).is_empty());
    let id = get(stage, &format!("/gone/{mark}"), &[]).header("x-request-id").to_owned();
    let explained = stage.admin("GET", &format!("/explanations/{id}")).go().expect(200).json();
    assert_eq!((explained["reason"].as_str(), explained["status"].as_u64()), (Some("sunset"), Some(410)), "{explained}");
    assert!(explained["steps"].to_string().contains("gone from"), "{explained}");
}

#[test]
fn a_version_ends_while_it_is_served() {
    let stage = STAGE.get();
    add(stage, &route("ending", json!({"version": {"sunset_at": now() + 2}})));
    get(stage, "/ending/x", &[]).expect(200);
    crate::kit::wait_until("it is gone", std::time::Duration::from_secs(10), || get(stage, "/ending/x", &[]).status == 410);
}

#[test]
fn a_brown_out_refuses_for_a_while_and_says_for_how_long() {
    let stage = STAGE.get();
    let life = |status: u16, share: u32| {
        json!({"version": {"deprecated_at": now() - 100, "sunset_at": now() + 10_000,
            "brownouts": [{"from": now() - 50, "until": now() + 3_000, "share": share, "status": status}]}})
    };
    for (id, status) in [("dark", 503), ("gone-for-now", 410)] {
        add(stage, &route(id, life(status, 100)));
        let answer = get(stage, &format!("/{id}/x"), &[]).expect(status);
        let retry: i64 = answer.header("retry-after").parse().expect("seconds");
        assert!((2_900..=3_000).contains(&retry), "{retry}");
        assert!(answer.header("deprecation").starts_with('@'));
    }
    let later = json!({"version": {"sunset_at": now() + 10_000, "brownouts": [{"from": now() + 1_000, "until": now() + 2_000}]}});
    add(stage, &route("light", later));
    get(stage, "/light/x", &[]).expect(200);
}

#[test]
fn a_version_is_asked_for_by_a_header_and_never_by_leaving_it_out() {
    let stage = STAGE.get();
    for (id, value, default) in [("head-1", "1", true), ("head-2", "2", false)] {
        let mut one = route(id, json!({}));
        one["match"] = json!({"path_prefix": "/by-header/", "version": {"header": "Api-Version", "value": value, "default": default}});
        one["identity"] = json!({"headers": {"X-Version": if default { "client_id" } else { "sub" }, "X-Doorward-Scope": "scope"}});
        one["strip_prefix"] = json!(default);
        add(stage, &one);
    }
    let target = |lines: &[(&str, &str)]| {
        let mark = random();
        let answer = get(stage, &format!("/by-header/{mark}"), lines);
        let seen = stage.upstream.seen(&mark);
        (answer.status, seen.first().map(|seen| seen.target().starts_with("/by-header/")), answer.header("vary").to_owned())
    };
    assert_eq!(target(&[]), (200, Some(false), "api-version".into()));
    assert_eq!(target(&[("Api-Version", "1")]), (200, Some(false), "api-version".into()));
    assert_eq!(target(&[("Api-Version", "2")]), (200, Some(true), "api-version".into()));
    for lines in
        [&[("Api-Version", "3")][..], &[("Api-Version", "")], &[("Api-Version", "1"), ("Api-Version", "2")], &[("Api-Version", "1, 2")]]
    {
        assert_eq!(target(lines).0, 404, "{lines:?}");
        assert_eq!(target(lines).1, None);
    }
}

#[test]
fn a_version_is_asked_for_by_a_media_type() {
    let stage = STAGE.get();
    for (id, value, default) in [("media-1", "v1", true), ("media-2", "v2", false)] {
        let mut one = route(id, json!({"strip_prefix": default}));
        one["match"] = json!({"path_prefix": "/by-media/", "version": {"media_type": "application/vnd.shop.{version}+json", "value": value, "default": default}});
        add(stage, &one);
    }
    let status = |accept: &str| get(stage, "/by-media/x", &[("accept", accept)]).status;
    let second = |accept: &str| {
        let mark = random();
        get(stage, &format!("/by-media/{mark}"), &[("accept", accept)]).expect(200);
        stage.upstream.only(&mark).target().starts_with("/by-media/")
    };
    assert!(!second("*/*") && !second("application/vnd.shop.v1+json") && second("application/vnd.shop.v2+json"));
    assert!(second("text/html, application/vnd.shop.v2+json;q=0.9, */*;q=0.1"));
    assert_eq!(status("application/vnd.shop.v3+json"), 404);
    assert_eq!(status("application/vnd.shop.v1+json, application/vnd.shop.v2+json"), 404, "whose answer would it be?");
}

#[test]
fn what_cannot_be_is_refused_at_registration_with_every_mistake() {
    let stage = STAGE.get();
    let wrong = json!({"version": {"deprecated_at": "2027-01-01T00:00:00Z", "sunset_at": "2026-01-01T00:00:00Z", "successor": "nowhere",
        "brownouts": [{"from": 5, "until": 4, "share": 101}]}});
    let answer = stage.admin("POST", "/routes").json(&route("bad", wrong)).go().expect(422);
    for at in ["version.sunset_at", "version.successor", "version.brownouts"] {
        assert!(answer.text().contains(at), "{at}: {}", answer.text());
    }
    let mut first = route("only", json!({}));
    first["match"] = json!({"path_prefix": "/only/", "version": {"header": "Api-Version", "value": "1"}});
    add(stage, &first);
    let mut weaker = json!({"id": "weaker", "match": {"path_prefix": "/only/"}, "upstream": "echo", "public": true});
    let refused = stage.admin("POST", "/routes").json(&weaker).go();
    assert!([400, 409, 422].contains(&refused.status), "a route without a version beside one with: {}", refused.text());
    weaker["match"]["version"] = json!({"media_type": "application/x.{version}", "value": "1"});
    let refused = stage.admin("POST", "/routes").json(&weaker).go();
    assert!([400, 409, 422].contains(&refused.status), "two ways to name a version: {}", refused.text());
    assert_eq!(get(stage, "/only/x", &[]).status, 404);
}
