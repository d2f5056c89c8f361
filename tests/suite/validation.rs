//! Requests looked into by OpenAPI 3.1 and JSON Schema: the upstream sees nothing of what is not as it has to be.
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client, random};
use crate::kit::{Shared, Stage, raw};

static STAGE: Shared = Shared::new();

fn document() -> Value {
    json!({"openapi": "3.1.0", "info": {"title": "Things", "version": "1"}, "servers": [{"url": "https://api.example.com/things-api"}],
        "paths": {
            "/things": {
                "get": {"parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"enum": ["a", "b"]}}},
                    {"name": "X-Trace", "in": "header", "required": true, "schema": {"type": "string", "pattern": "^[0-9a-f]{4}$"}}]},
                "post": {"requestBody": {"required": true, "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}},
                    "application/x-www-form-urlencoded": {"schema": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}, "additionalProperties": false}},
                    "application/octet-stream": {}}}}},
            "/things/{id}": {"parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}], "get": {}, "delete": {}}
        },
        "components": {"schemas": {"Thing": {"type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {"name": {"type": "string", "maxLength": 40}, "size": {"type": "integer"}, "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}}}}})
}

fn add(stage: &Stage, id: &str, validation: Value, more: Value) {
    let mut route =
        json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "public": true, "validation": validation});
    for (name, value) in more.as_object().unwrap() {
        route[name] = value.clone();
    }
    stage.admin("POST", "/routes").json(&route).go().expect(201);
}

fn stage() -> &'static Stage {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let stage = STAGE.get();
    ONCE.call_once(|| {
        add(stage, "things-api", json!({"openapi": document()}), json!({}));
        add(
            stage,
            "loose",
            json!({"schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}, "max_body": 200}),
            json!({}),
        );
    });
    stage
}

fn post(path: &str, media: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = client().post(stage().through(path)).body(body);
    if media.is_empty() { request.go() } else { request.header("content-type", media).go() }
}

fn at(answer: &Answer) -> Vec<String> {
    answer.json()["errors"].as_array().cloned().unwrap_or_default().iter().map(|e| e["at"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_valid_body_goes_on_octet_for_octet() {
    let stage = stage();
    let mark = random();
    let body = format!("{{ \"size\" : 1.0e0,\r\n \"name\":\"\\u0041{mark}\" }}");
    post("/things-api/things", "application/json", body.clone()).expect(200);
    let seen = stage.upstream.only(&mark);
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
    assert_eq!(seen.all("content-length"), [body.len().to_string()]);
    // However it comes: in chunks, over HTTP/2, as a form, or of a type that is not looked into.
    let mark = random();
    let text = format!("{{\"name\":\"{mark}\"}}");
    let (head, tail) = text.split_at(7);
    let request = format!(
        "POST /things-api/things HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    assert_eq!(raw::exchange(&stage.listener("gateway"), request.as_bytes()).status, 200);
    assert_eq!(String::from_utf8_lossy(&stage.upstream.only(&mark).body), text);
    let mark = random();
    let told = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--http2-prior-knowledge", "-H", "Content-Type: application/json", "-d"])
        .args([format!("{{\"name\":\"{mark}\"}}"), stage.through("/things-api/things")])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&told.stdout), "200");
    assert!(stage.upstream.only(&mark).whole);
    post("/things-api/things", "application/x-www-form-urlencoded", "name=a+b&size=5").expect(200);
    post("/things-api/things", "application/octet-stream", vec![0u8, 255, 1]).expect(200);
}

#[test]
fn what_is_wrong_is_told_by_place_and_nothing_reaches_the_upstream() {
    let stage = stage();
    let mark = random();
    let body = json!({"name": mark, "size": "SECRET", "parts": [{"name": 7}], "SECRET": 1});
    let answer = post("/things-api/things", "application/json", body.to_string()).expect(400);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(at(&answer), ["/body"], "a schema that points at itself only says that it is not so");
    assert!(!answer.text().contains("SECRET") && !answer.text().contains(&mark), "{}", answer.text());
    add(
        stage,
        "flat",
        json!({"schema": {"type": "object", "required": ["name"], "additionalProperties": false, "properties": {"name": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}}}}),
        json!({}),
    );
    let answer = post("/flat/x", "application/json", json!({"sizes": [1, "SECRET"], "SECRET": mark}).to_string()).expect(400);
    let mut places = at(&answer);
    places.sort();
    assert_eq!(places, ["/body", "/body", "/body/sizes/1"]);
    assert!(!answer.text().contains("SECRET"), "{}", answer.text());
    let many: Vec<Value> = (0..5_000).map(|_| json!("x")).collect();
    let answer = post("/flat/x", "application/json", json!({"name": mark, "sizes": many}).to_string()).expect(400);
    assert!(at(&answer).len() <= 16 && answer.body.len() < 4_096, "{} octets", answer.body.len());
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn a_body_that_is_not_what_it_says_is_refused() {
    let stage = stage();
    let mark = random();
    let good = format!("{{\"name\":\"{mark}\"}}");
    let deep = format!("{{\"name\":\"{mark}\",\"parts\":{}{}}}", "[".repeat(60_000), "]".repeat(60_000));
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, media, body, status) in [
        ("another type", "text/plain", good.clone().into_bytes(), 415),
        ("no type", "", good.clone().into_bytes(), 415),
        ("a list of types", "application/json, text/plain", good.clone().into_bytes(), 415),
        ("a charset that is none", "application/json; charset=utf-7", good.clone().into_bytes(), 415),
        ("two charsets", "application/json; charset=utf-8; charset=utf-16", good.clone().into_bytes(), 415),
        ("UTF-16 that says UTF-8", "application/json", utf16, 400),
        ("a member twice", "application/json", format!("{{\"name\":\"{mark}\",\"name\":\"b\"}}").into_bytes(), 400),
        ("a member twice by an escape", "application/json", format!("{{\"name\":\"{mark}\",\"n\\u0061me\":\"b\"}}").into_bytes(), 400),
        ("NaN", "application/json", format!("{{\"name\":\"{mark}\",\"size\":NaN}}").into_bytes(), 400),
        ("a number beyond all", "application/json", format!("{{\"name\":\"{mark}\",\"size\":1e999}}").into_bytes(), 400),
        ("a comment", "application/json", format!("{{\"name\":\"{mark}\"/**/}}").into_bytes(), 400),
        ("a second value", "application/json", format!("{good}{good}").into_bytes(), 400),
        ("a byte order mark", "application/json", format!("\u{feff}{good}").into_bytes(), 400),
        ("nothing", "application/json", Vec::new(), 400),
        ("too deep", "application/json", deep.into_bytes(), 400),
        ("a form that says JSON", "application/json", format!("name={mark}").into_bytes(), 400),
        ("JSON that says form", "application/x-www-form-urlencoded", good.clone().into_bytes(), 400),
        ("a field twice", "application/x-www-form-urlencoded", format!("name={mark}&name=b").into_bytes(), 400),
        ("a field of another type", "application/x-www-form-urlencoded", format!("name={mark}&size=x").into_bytes(), 400),
        ("a bad escape", "application/x-www-form-urlencoded", format!("name={mark}%zz").into_bytes(), 400),
    ] {
        let answer = post("/things-api/things", media, body);
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    let gzip =
        client().post(stage.through("/things-api/things")).header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(gzip.body(good.clone()).go().status, 415);
    let twice = format!(
        "POST /things-api/things HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{good}",
        good.len()
    );
    assert_eq!(raw::exchange(&stage.listener("gateway"), twice.as_bytes()).status, 415);
    assert!(stage.upstream.seen(&mark).is_empty(), "the upstream sees nothing of any of them");
}

#[test]
fn parameters_are_looked_into() {
    let stage = stage();
    let call = |path: &str, trace: &str| {
        let request = client().get(stage.through(&format!("/things-api{path}")));
        if trace.is_empty() { request.go() } else { request.header("x-trace", trace).go() }
    };
    assert_eq!(call("/things?limit=5&tag=a&tag=b&other=1", "0aff").status, 200);
    assert_eq!(call("/things/77", "").status, 200);
    for (path, trace, place) in [
        ("/things", "", "/header/X-Trace"),
        ("/things", "0AFF", "/header/X-Trace"),
        ("/things?limit=0", "0aff", "/query/limit"),
        ("/things?limit=1&limit=2", "0aff", "/query/limit"),
        ("/things?limit=1%00", "0aff", "/query/limit"),
        ("/things?limit=NaN", "0aff", "/query/limit"),
        ("/things?tag=a&tag=c", "0aff", "/query/tag/1"),
        ("/things/x7", "", "/path/id"),
        ("/things/7%2C8", "", "/path/id"),
    ] {
        let answer = call(path, trace);
        assert_eq!((answer.status, at(&answer)), (400, vec![place.to_owned()]), "{path}");
    }
    let body = client().get(stage.through("/things-api/things/7")).body("{}").go();
    assert_eq!((body.status, at(&body)), (400, vec!["/body".to_owned()]), "an operation that takes no body");
}

#[test]
fn what_the_document_does_not_know_is_refused_or_passes() {
    let stage = stage();
    let mark = random();
    for (method, path, status) in [
        (Method::GET, "/things-api/other", 404),
        (Method::GET, "/things-api/things/7/x", 404),
        (Method::GET, "/things-api/things/", 404),
        (Method::GET, "/things-api/Things/7", 404),
        (Method::PATCH, "/things-api/things/7", 405),
    ] {
        let answer = client().request(method, stage.through(&format!("{path}?{mark}"))).go();
        assert_eq!(answer.status, status, "{path}");
        if status == 405 {
            assert_eq!(answer.header("allow"), "GET, DELETE");
        }
    }
    assert!(stage.upstream.seen(&mark).is_empty());
    add(stage, "partly", json!({"openapi": document(), "base_path": "/partly", "unknown": "pass", "unknown_query": "refuse"}), json!({}));
    assert_eq!(client().get(stage.through("/partly/other")).go().status, 200);
    let strict = client().get(stage.through("/partly/things?other=1")).header("x-trace", "0aff").go();
    assert_eq!((strict.status, at(&strict)), (400, vec!["/query".to_owned()]));
}

#[test]
fn bodies_have_a_bound_and_come_in_time() {
    let stage = stage();
    let long = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(400));
    assert_eq!(post("/loose/x", "application/json", long.clone()).status, 413);
    let chunked = format!(
        "POST /loose/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    assert_eq!(raw::exchange(&stage.listener("gateway"), chunked.as_bytes()).status, 413);
    assert_eq!(post("/things-api/things", "application/json", " ".repeat(300_000)).status, 413, "256 KiB where nothing is said");
    add(stage, "timed", json!({"schema": {"type": "object"}}), json!({"limits": {"idle_body": "1s"}}));
    let mark = random();
    let mut stream = raw::connect(&stage.listener("gateway"));
    write!(stream, "POST /timed/{mark} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{").unwrap();
    let answer = raw::read_rest(&mut stream, Duration::from_secs(10));
    assert_eq!((answer.status, answer.closed), (408, true), "{}", answer.text);
    // The next request on a connection whose body was refused is read as one, or the connection ends.
    let two = format!(
        "POST /loose/{mark} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{\"a\":\"x\"}}GET /public/{mark}-second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let answer = raw::exchange(&stage.listener("gateway"), two.as_bytes());
    assert_eq!(answer.status, 400);
    assert!(
        stage.upstream.seen(&mark).iter().all(|seen| seen.target() == format!("/public/{mark}-second")),
        "{:?}",
        stage.upstream.seen(&mark)
    );
}

#[test]
fn limits_come_first_and_documents_that_reach_out_are_refused() {
    let stage = stage();
    add(stage, "counted", json!({"schema": {"type": "object"}}), json!({"rate_limit": {"key": "ip", "rate": 1, "period": "1d"}}));
    assert_eq!(post("/counted/x", "application/json", "[]").status, 400);
    assert_eq!(post("/counted/x", "application/json", "[]").status, 429, "looking into bodies is not free");
    let wrong = |validation: Value, place: &str| {
        let route =
            json!({"id": "wrong", "match": {"path_prefix": "/wrong/"}, "upstream": "echo", "public": true, "validation": validation});
        let answer = stage.admin("POST", "/routes").json(&route).go();
        assert!([400, 422].contains(&answer.status) && answer.text().contains(place), "{place}: {} {}", answer.status, answer.text());
    };
    wrong(json!({"schema": {"$ref": "https://example.com/schema.json"}}), "nothing is fetched");
    wrong(json!({"schema": {"$ref": "file:///etc/passwd"}}), "nothing is fetched");
    wrong(json!({"schema": {"type": "string", "pattern": "(a+)+\\1"}}), "validation.schema");
    wrong(json!({"schema": {"type": "text"}}), "validation.schema");
    wrong(json!({}), "either openapi or schema");
    let mut old = document();
    old["openapi"] = json!("3.0.1");
    old["paths"]["/x"] = json!({"post": {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object"}}}}}});
    wrong(json!({"openapi": old}), "validation.openapi.openapi");
    wrong(json!({"openapi": old}), "leave the schema out");
}
