//! API keys: given and generated ones, what they are held to, rotation, their end here and at a gateway far away.
use std::{
    io::{Read, Write},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::gateway_live::closed_within_a_second;
use crate::kit::http::{Answer, Go, client, client_from, now, random};
use crate::kit::seed::{API, GW, MACHINE, SAFE, route, standard};
use crate::kit::{House, Server, Stage, Upstream, raw, services, wait_until};

/// A key in the administrator's own form.
const GIVEN: &str = "partner/7f3a1c5e.9b2d4860~a1b2c3d4e5f60718=";

/// Routes that take keys, and the key of the contract's shape.
fn keyed(url: &str) -> Value {
    let mut seed = standard(url);
    let routes = seed["routes"].as_array_mut().unwrap();
    routes.push(route("keyed", "/keyed/", "echo", json!({"accept": ["jwt", "api_key"], "audience": API, "scopes": ["read"]})));
    routes.push(route(
        "keyed-writing",
        "/keyed-writing/",
        "echo",
        json!({"accept": ["jwt", "api_key"], "audience": API, "scopes": ["write"]}),
    ));
    routes.push(route("keys-only", "/keys-only/", "echo", json!({"accept": ["api_key"]})));
    routes.push(route("keys-asked", "/keys-asked/", "echo", json!({"accept": ["api_key"], "freshness": "introspect"})));
    routes.push(route("keys-or-none", "/keys-or-none/", "echo", json!({"accept": ["api_key", "none"]})));
    let mut limited = route("keys-limited", "/keys-limited/", "echo", json!({"accept": ["api_key"]}));
    limited["rate_limit"] = json!({"key": "api_key", "rate": 2, "period": "1h", "burst": 2});
    routes.push(limited);
    let mut forwarding = route("keys-forwarded", "/keys-forwarded/", "echo", json!({"accept": ["api_key"]}));
    forwarding["forward_credentials"] = json!(true);
    routes.push(forwarding);
    seed["api_keys"] = json!([{"id": "partner", "name": "Partner", "api_key": GIVEN, "scopes": ["read"], "audience": API, "owner": {"client_id": "machine"},
        "expires_at": "2100-01-01T00:00:00Z"}]);
    seed
}

fn stage(configure: impl FnOnce(&mut House)) -> Stage {
    let upstream = Upstream::start();
    let mut house = House::new();
    configure(&mut house);
    house.bootstrap();
    house.seed(&keyed(&upstream.url()));
    let server = house.serve();
    Stage { house, server, upstream }
}

fn shared() -> &'static Stage {
    static STAGE: std::sync::OnceLock<Stage> = std::sync::OnceLock::new();
    STAGE.get_or_init(|| stage(|_| {}))
}

/// A new key: its id and its text.
fn made(server: &Server, mut key: Value) -> (String, String) {
    if key.get("audience").is_none() {
        key["audience"] = json!(API);
    }
    let told = server.admin("POST", "/api-keys").json(&key).go().expect(201).json();
    (told["id"].as_str().unwrap().to_owned(), told["api_key"].as_str().unwrap_or_default().to_owned())
}

fn call(server: &Server, path: &str, key: &str) -> Answer {
    client().get(server.through(path)).header("x-api-key", key).go()
}

fn rotated(server: &Server, id: &str, body: Value) -> Value {
    server.admin("POST", &format!("/api-keys/{id}/rotate")).json(&body).go().expect(200).json()
}

#[test]
fn a_key_passes_in_either_header_and_stays_here() {
    let stage = shared();
    let ways =
        [("X-API-Key", GIVEN.to_owned()), ("Authorization", format!("ApiKey {GIVEN}")), ("authorization", format!("aPIkEY {GIVEN}"))];
    for (name, value) in ways {
        let mark = random();
        client().get(stage.through(&format!("/keyed/{mark}"))).header(name, &value).go().expect(200);
        let seen = stage.upstream.only(&mark);
        assert_eq!((seen.all("x-doorward-subject"), seen.all("x-doorward-client")), (vec!["machine"], vec!["machine"]));
        assert_eq!(seen.all("x-doorward-scope"), ["read"]);
        assert!(seen.headers.iter().all(|(_, v)| !v.contains(GIVEN)), "the key stays here: {seen:?}");
    }
    let mark = random();
    call(stage, &format!("/keys-forwarded/{mark}"), GIVEN).expect(200);
    assert_eq!(stage.upstream.only(&mark).all("x-api-key"), [GIVEN], "unless the route says so");
    let token = stage.machine_token(&MACHINE, &[]);
    stage.call("/keyed/x", &token).expect(200);
}

#[test]
fn whatever_is_no_good_key_is_401_with_one_body_and_one_challenge() {
    let stage = shared();
    let (mark, body) = (random(), |key: &str| call(stage, "/keyed/x", key).expect(401));
    let (_, generated) = made(stage, json!({"scopes": ["read"]}));
    let bent = format!("{}{}", &generated[..generated.len() - 1], if generated.ends_with('A') { 'B' } else { 'A' });
    let (_, elsewhere) = made(stage, json!({"scopes": ["read"], "audience": "https://other.example.com"}));
    let (_, later) = made(stage, json!({"scopes": ["read"], "not_before": now() + 3600}));
    let (_, over) = made(stage, json!({"scopes": ["read"], "expires_at": now() - 1}));
    let (_, off) = made(stage, json!({"scopes": ["read"], "disabled": true}));
    let first = body("unknown");
    let challenges: Vec<_> = first.headers.get_all("www-authenticate").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
    assert!(challenges.iter().any(|c| c.starts_with("Bearer")) && challenges.iter().any(|c| c == "ApiKey"), "{challenges:?}");
    for (what, key) in [("bent", &bent), ("audience", &elsewhere), ("not yet", &later), ("expired", &over), ("disabled", &off)] {
        let answer = call(stage, &format!("/keyed/{mark}"), key);
        assert_eq!((answer.status, answer.text()), (401, first.text()), "{what}");
    }
    let none = client().get(stage.through("/keys-only/x")).go().expect(401);
    assert_eq!(
        none.headers.get_all("www-authenticate").iter().collect::<Vec<_>>(),
        ["ApiKey"],
        "a route for keys alone asks for keys alone"
    );
    client().get(stage.through("/keys-or-none/x")).go().expect(200);
    call(stage, "/keys-or-none/x", "unknown").expect(401);
    // Neither is the other: a key is no bearer token, a token is no key, and a route that takes no keys takes none.
    for wrong in
        [client().get(stage.through("/keyed/x")).bearer_auth(GIVEN), client().get(stage.through("/api/x")).header("x-api-key", GIVEN)]
    {
        wrong.go().expect(401);
    }
    call(stage, "/keyed/x", &stage.machine_token(&SAFE, &[])).expect(401);
    call(stage, "/keyed/x", &stage.machine_token(&MACHINE, &[])).expect(401);
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn a_good_key_that_may_not_is_403_and_nothing_is_forwarded() {
    let stage = shared();
    let mark = random();
    let (_, scoped) = made(stage, json!({"scopes": ["read"]}));
    call(stage, &format!("/keyed-writing/{mark}"), &scoped).expect(403);
    let (_, placed) = made(stage, json!({"scopes": ["read", "write"], "routes": ["keyed"]}));
    call(stage, "/keyed/x", &placed).expect(200);
    call(stage, &format!("/keyed-writing/{mark}"), &placed).expect(403);
    let (_, sourced) = made(stage, json!({"scopes": ["read"], "allowed_cidrs": ["127.9.0.0/16", "::1"]}));
    let from = |address: &str| client_from(address).get(stage.through(&format!("/keyed/{mark}"))).header("x-api-key", &sourced).go().status;
    assert_eq!((from("127.0.0.1"), from("127.8.0.1")), (403, 403));
    assert!(stage.upstream.seen(&mark).is_empty());
    assert_eq!(from("127.9.3.4"), 200);
    assert_eq!(from("127.0.0.1"), 403, "on every request, not when it was first seen");
    let (_, free) = made(stage, json!({"scopes": ["read"]}));
    call(stage, "/keyed/x", &free).expect(200);
}

#[test]
fn two_credentials_are_400_and_one_in_the_url_is_never_used() {
    let stage = shared();
    let (mark, address) = (random(), stage.listener("gateway"));
    let token = stage.machine_token(&MACHINE, &[]);
    for headers in [
        format!("X-API-Key: {GIVEN}\r\nX-API-Key: {GIVEN}\r\n"),
        format!("X-API-Key: {GIVEN}, {GIVEN}\r\n"),
        format!("X-API-Key: {GIVEN}\r\nAuthorization: Bearer {token}\r\n"),
        format!("X-API-Key: {GIVEN}\r\nAuthorization: ApiKey {GIVEN}\r\n"),
        format!("Authorization: ApiKey {GIVEN}\r\nAuthorization: Bearer {token}\r\n"),
        format!("x-api-KEY: {GIVEN}\r\nAuthorization: Basic eDp5\r\n"),
    ] {
        assert_eq!(raw::get(&address, &format!("/keyed/{mark}"), &headers).status, 400, "{headers}");
    }
    for name in ["api_key", "apikey", "x-api-key", "X-Api-Key", "api%5fkey", "access_token"] {
        let path = format!("/keyed/{mark}?{name}={GIVEN}");
        assert_eq!(client().get(stage.through(&path)).go().status, 401, "{name} alone");
        assert_eq!(call(stage, &path, GIVEN).status, 400, "{name} beside the header");
    }
    // What a variant of the header's name says is never a key.
    assert_eq!(raw::get(&address, &format!("/keyed/{mark}"), &format!("X_API_Key: {GIVEN}\r\n")).status, 400);
    assert_eq!(raw::get(&address, &format!("/keyed/{mark}"), &format!("API-Key: {GIVEN}\r\n")).status, 401);
    assert!(stage.upstream.seen(&mark).is_empty(), "not one octet of a refused request");
    // Where no keys are taken these parameters are the application's own.
    stage.call(&format!("/api/x?api_key={mark}"), &token).expect(200);
}

#[test]
fn a_quota_of_its_own_and_a_limit_by_key_are_429() {
    let stage = shared();
    let (_, key) = made(stage, json!({"quota": {"rate": 3, "period": "1h"}}));
    let (_, other) = made(stage, json!({}));
    for left in [2, 1, 0] {
        let answer = call(stage, if left == 1 { "/keys-or-none/x" } else { "/keys-only/x" }, &key).expect(200);
        assert!(answer.header("ratelimit").contains(&format!("r={left}")), "{}", answer.header("ratelimit"));
        assert!(answer.header("ratelimit-policy").contains("q=3;w=3600"));
    }
    let refused = call(stage, "/keys-only/x", &key).expect(429);
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|s| s > 60) && refused.header("ratelimit").contains("r=0"));
    call(stage, "/keys-only/x", &other).expect(200);
    for (key, status) in [(&other, 200), (&other, 200), (&other, 429)] {
        call(stage, "/keys-limited/x", key).expect(status);
    }
    let (_, third) = made(stage, json!({}));
    call(stage, "/keys-limited/x", &third).expect(200);
}

#[test]
fn a_rotated_key_counts_beside_the_new_one_for_a_while() {
    let stage = shared();
    let (id, first) = made(stage, json!({"scopes": ["read"]}));
    call(stage, "/keyed/x", &first).expect(200);
    let told = rotated(stage, &id, json!({"overlap": "3s"}));
    let (second, until) = (told["api_key"].as_str().unwrap().to_owned(), told["previous_expires_at"].as_i64().unwrap());
    assert!((now()..=now() + 3).contains(&until));
    for key in [&first, &second] {
        call(stage, "/keyed/x", key).expect(200);
    }
    wait_until("the one before ends", Duration::from_secs(5), || call(stage, "/keyed/x", &first).status == 401);
    assert!(now() >= until, "not before its time");
    call(stage, "/keyed/x", &second).expect(200);
    // A rotation within the overlap ends the oldest; none at all ends the one before at once.
    let third = rotated(stage, &id, json!({}))["api_key"].as_str().unwrap().to_owned();
    let fourth = rotated(stage, &id, json!({"overlap": "1h"}))["api_key"].as_str().unwrap().to_owned();
    let status = |key: &str| call(stage, "/keyed/x", key).status;
    assert_eq!((status(&second), status(&third), status(&fourth)), (401, 200, 200));
    let given = format!("given-{}", random());
    let told = rotated(stage, &id, json!({"overlap": "0s", "api_key": given}));
    assert_eq!((told.get("api_key"), told.get("previous_expires_at")), (None, None));
    assert_eq!((status(&third), status(&fourth), status(&given)), (401, 401, 200));
    let wrong = [
        json!({"overlap": "soon"}),
        json!({"overlap": "91d"}),
        json!({"api_key": GIVEN}),
        json!({"api_key": given}),
        json!({"api_key": "a b"}),
    ];
    for wrong in wrong {
        stage.admin("POST", &format!("/api-keys/{id}/rotate")).json(&wrong).go().expect(422);
    }
    stage.admin("POST", "/api-keys/nobody/rotate").go().expect(404);
}

#[test]
fn rotation_under_load_refuses_nobody() {
    let stage = shared();
    let (id, key) = made(stage, json!({"scopes": ["read"]}));
    let key = std::sync::Mutex::new(key);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let now = key.lock().unwrap().clone();
                    assert_eq!(call(stage, "/keyed/load", &now).status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..10 {
            let next = rotated(stage, &id, json!({"overlap": "1m"}))["api_key"].as_str().unwrap().to_owned();
            let before = served.load(Ordering::Relaxed);
            // Both are in use before the next one.
            wait_until("requests go on", Duration::from_secs(10), || served.load(Ordering::Relaxed) > before + 20);
            *key.lock().unwrap() = next;
            let before = served.load(Ordering::Relaxed);
            wait_until("requests go on", Duration::from_secs(10), || served.load(Ordering::Relaxed) > before + 20);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_an_administrator_takes_away_is_gone_with_the_next_request() {
    let stage = shared();
    let status = |key: &str| call(stage, "/keyed/x", key).status;
    let patch = |id: &str, patch: Value| stage.admin("PATCH", &format!("/api-keys/{id}")).json(&patch).go().expect(200);
    // Deleted, revoked, disabled and enabled again, narrowed.
    let (id, key) = made(stage, json!({"scopes": ["read"]}));
    assert_eq!(status(&key), 200);
    stage.admin("DELETE", &format!("/api-keys/{id}")).go().expect(204);
    assert_eq!(status(&key), 401);
    let (id, key) = made(stage, json!({"scopes": ["read"]}));
    assert_eq!(status(&key), 200);
    let told = stage.admin("POST", "/revocations").json(&json!({"kind": "key", "id": id, "reason": "leaked"})).go().expect(200).json();
    assert_eq!((&told["known"], status(&key)), (&json!(true), 401));
    assert_eq!(stage.admin("GET", &format!("/api-keys/{id}")).go().expect(200).json()["revoked"], true);
    patch(&id, json!({"name": "again"}));
    assert_eq!(status(&key), 401, "what was revoked stays so");
    let other = rotated(stage, &id, json!({}))["api_key"].as_str().unwrap().to_owned();
    assert_eq!((status(&key), status(&other)), (401, 200));
    patch(&id, json!({"disabled": true}));
    assert_eq!(status(&other), 401);
    patch(&id, json!({"disabled": false}));
    assert_eq!(status(&other), 200);
    for (narrow, then) in [
        (json!({"scopes": []}), 403),
        (json!({"scopes": ["read"], "routes": ["other"]}), 403),
        (json!({"routes": null, "audience": "x"}), 401),
    ] {
        patch(&id, narrow.clone());
        assert_eq!(status(&other), then, "{narrow}");
    }
    patch(&id, json!({"audience": API, "expires_at": now() - 5}));
    assert_eq!(status(&other), 401);
    stage.admin("POST", "/revocations").json(&json!({"kind": "key", "id": "neither-a-key-nor-a-kid"})).go().expect(404);
}

#[test]
fn a_key_ends_with_its_owner() {
    let stage = stage(|_| {});
    let status = |key: &str| call(&stage, "/keyed/x", key).status;
    let owned = |owner: Value| made(&stage, json!({"scopes": ["read"], "owner": owner})).1;
    let (client_key, person_key) = (owned(json!({"client_id": "poster"})), owned(json!({"subject": "bob"})));
    let mark = random();
    call(&stage, &format!("/keyed/{mark}"), &person_key).expect(200);
    let bob = stage.admin("GET", "/users/bob").go().json()["id"].as_str().unwrap().to_owned();
    assert_eq!(stage.upstream.only(&mark).all("x-doorward-subject"), [bob.as_str()], "a person is named by id");
    assert_eq!(status(&client_key), 200);
    // Disabled owners come back, and their keys with them.
    stage.admin("POST", "/users/bob/disable").go();
    assert_eq!(status(&person_key), 401);
    stage.admin("POST", "/users/bob/enable").go();
    wait_until("the person's key is good again", Duration::from_secs(7), || status(&person_key) == 200);
    stage.admin("PATCH", "/clients/poster").json(&json!({"disabled": true})).go().expect(200);
    assert_eq!(status(&client_key), 401);
    stage.admin("PATCH", "/clients/poster").json(&json!({"disabled": false})).go().expect(200);
    wait_until("the client's key is good again", Duration::from_secs(7), || status(&client_key) == 200);
    // Revoked ones lose what they had.
    for (kind, id, key) in [("client", "poster", &client_key), ("subject", "bob", &person_key)] {
        stage.admin("POST", "/revocations").json(&json!({"kind": kind, "id": id})).go().expect(200);
        assert_eq!(status(key), 401, "{kind}");
    }
    // A deleted owner's name is not inherited.
    let key = owned(json!({"client_id": "rival"}));
    assert_eq!(status(&key), 200);
    let rival = stage.admin("GET", "/clients/rival").go().json();
    stage.admin("DELETE", "/clients/rival").go().expect(204);
    assert_eq!(status(&key), 401);
    stage.admin("POST", "/clients").json(&rival).go().expect(201);
    assert_eq!(status(&key), 401);
    stage.admin("POST", "/api-keys").json(&json!({"owner": {"subject": "nobody"}})).go().expect(422);
    stage.admin("POST", "/devices").json(&json!({"id": "sensor-1", "type": "sensor"})).go().expect(201);
    let key = owned(json!({"device": "sensor-1"}));
    assert_eq!(status(&key), 200);
    stage.admin("POST", "/devices/sensor-1/disable").go();
    assert_eq!(status(&key), 401);
}

#[test]
fn open_streams_of_a_key_end_with_it() {
    let stage = shared();
    let (id, key) = made(stage, json!({"scopes": ["read"]}));
    let mut stream = raw::connect(&stage.listener("gateway"));
    let request = format!("GET /keyed/sse HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut first = [0u8; 8];
    stream.read_exact(&mut first).unwrap();
    let since = Instant::now();
    stage.admin("PATCH", &format!("/api-keys/{id}")).json(&json!({"disabled": true})).go().expect(200);
    closed_within_a_second(stream, "the event stream", since);
}

#[test]
fn nothing_of_a_key_is_kept_but_its_mac() {
    let stage = stage(|_| {});
    let (id, key) = made(&stage, json!({"scopes": ["read"]}));
    let second = rotated(&stage, &id, json!({}))["api_key"].as_str().unwrap().to_owned();
    for key in [&key, &second, &GIVEN.to_owned()] {
        call(&stage, "/keyed/x", key).expect(200);
        call(&stage, "/keyed/x", &format!("{}?", &key[..key.len() - 1])).expect(401);
    }
    std::fs::remove_file(stage.house.path("seed.json")).unwrap();
    for secret in [&key, &second, GIVEN, &key[4..40], &key[key.len() - 24..]] {
        assert_eq!(stage.house.holds(secret), None, "the files of the database");
        assert!(!stage.log().contains(secret), "the log");
    }
    let events = stage.admin("GET", "/events?limit=200").go().json().to_string();
    for kind in ["object.created", "api_key.rotated"] {
        assert!(events.contains(kind), "{kind}");
    }
    let shown = stage.admin("GET", &format!("/api-keys/{id}")).go().expect(200).json().to_string();
    let listed = stage.admin("GET", "/api-keys").go().expect(200).json().to_string();
    for secret in [&key, &second, GIVEN] {
        assert!(!events.contains(secret) && !shown.contains(secret) && !listed.contains(secret));
    }
    // A secret scanner finds a leaked one.
    assert!(
        key.starts_with("dwk_") && key[4..].bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) && key.len() == 74,
        "{}",
        key.len()
    );
}

#[test]
fn when_a_key_was_last_used_is_told_without_a_word_in_the_ledger() {
    let stage = stage(|_| {});
    let (id, key) = made(&stage, json!({"scopes": ["read"]}));
    let read = || stage.admin("GET", &format!("/api-keys/{id}")).go().expect(200);
    assert_eq!(read().json().get("last_used_at"), None);
    let tag = read().header("etag").to_owned();
    let begun = now();
    let head = |stage: &Stage| stage.admin("GET", "/events?kind=api_key.&limit=200").go().json()["items"].as_array().unwrap().len();
    let before = head(&stage);
    call(&stage, "/keyed/x", &key).expect(200);
    wait_until("it is written", Duration::from_secs(20), || read().json()["last_used_at"].as_i64().is_some_and(|at| at >= begun));
    assert_eq!((read().header("etag"), head(&stage)), (tag.as_str(), before));
    // What is told may be given back.
    let document = read().json();
    stage.admin("PUT", &format!("/api-keys/{id}")).json(&document).go().expect(200);
    call(&stage, "/keyed/x", &key).expect(200);
}

#[test]
fn keys_in_a_seed_are_declared_once() {
    let upstream = Upstream::start();
    let house = House::new();
    house.bootstrap();
    let mut seed = keyed(&upstream.url());
    seed["api_keys"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": "made", "scopes": ["read"], "audience": API, "owner": {"subject": "alice"}}));
    let told = house.seed(&seed);
    let rows = told["api_keys"].as_array().unwrap();
    let made = rows.iter().find(|row| row["id"] == "made").unwrap()["api_key"].as_str().unwrap().to_owned();
    assert!(rows.iter().all(|row| row["id"] != "partner" || row.get("api_key").is_none()), "what was given is not told again");
    let again = house.seed(&seed);
    assert_eq!((&again["created"], &again["replaced"]), (&json!([]), &json!([])));
    let server = house.serve();
    for key in [GIVEN, &made] {
        call(&server, "/keyed/x", key).expect(200);
    }
    server.stop();
    seed["api_keys"] = json!([{"id": "other", "api_key": GIVEN}]);
    assert!(house.try_seed(&seed, &[]).failed(1).said().contains("another API key"), "one text is one key");
    seed["api_keys"] = json!([{"id": "a", "api_key": "twice-the-same"}, {"id": "b", "api_key": "twice-the-same"}]);
    assert!(house.try_seed(&seed, &[]).failed(1).said().contains("another API key"));
}

#[test]
fn only_gateways_are_told_of_keys_and_only_when_they_ask_for_one() {
    let stage = shared();
    let ask = |who: &crate::kit::Id, form: &[(&str, &str)]| stage.post("/introspect", who, form).expect(200).json();
    let told = ask(&GW, &[("token", GIVEN), ("token_type_hint", "api_key")]);
    assert_eq!(
        (&told["active"], &told["token_type"], &told["client_id"], &told["scope"]),
        (&json!(true), &json!("ApiKey"), &json!("machine"), &json!("read"))
    );
    assert_eq!((&told["aud"], &told["api_key"]["id"]), (&json!(API), &json!("partner")));
    assert!(told["exp"].as_i64().is_some_and(|exp| exp > now()) && told["seq"].is_u64());
    for (who, form) in [
        (&GW, &[("token", GIVEN)][..]),
        (&GW, &[("token", GIVEN), ("token_type_hint", "access_token")]),
        (&MACHINE, &[("token", GIVEN), ("token_type_hint", "api_key")]),
        (&GW, &[("token", "unknown"), ("token_type_hint", "api_key")]),
    ] {
        assert_eq!(ask(who, form), json!({"active": false}), "{form:?}");
    }
    let token = stage.machine_token(&MACHINE, &[]);
    assert_eq!(ask(&GW, &[("token", &token), ("token_type_hint", "api_key")]), json!({"active": false}), "a token is no key");
}

#[test]
fn curl_and_explain_agree() {
    if !services::has("curl") {
        return services::skip("curl");
    }
    let stage = shared();
    let curl = |header: &str| {
        let out = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", header, &stage.through("/keyed/x")])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(curl(&format!("X-API-Key: {GIVEN}")), "200");
    assert_eq!(curl(&format!("Authorization: ApiKey {GIVEN}")), "200");
    assert_eq!(curl("X-API-Key: nothing"), "401");
    let explained = |key: &str| stage.house.run(&["explain", "--path", "/keyed/x", "--api-key", key, "--json"]).ok().json();
    let good = explained(GIVEN);
    assert_eq!((&good["allowed"], good.to_string().contains(GIVEN)), (&json!(true), false), "{good}");
    assert!(good.to_string().contains("partner"), "which key it was: {good}");
    assert_eq!((&explained("nothing")["allowed"], &explained("nothing")["status"]), (&json!(false), &json!(401)));
}

#[test]
fn a_flood_of_made_up_keys_asks_nobody_twice() {
    let stage = stage(|_| {});
    let asked = || stage.metric("api_key_lookups_total");
    call(&stage, "/keyed/x", "unknown-1").expect(401);
    wait_until("it is counted", Duration::from_secs(5), || asked() >= 1.0);
    let before = asked();
    for n in 0..50 {
        call(&stage, "/keyed/x", "unknown-1").expect(401);
        call(&stage, "/keyed/x", &format!("dwk_{}", format!("made-up-{n}-").repeat(10).get(..70).unwrap())).expect(401);
    }
    let threads = std::thread::available_parallelism().map_or(64, usize::from) as f64;
    assert!(asked() - before <= threads * 2.0, "{} questions about keys nobody made", asked() - before);
    // A key that was not known yet is known as soon as it is made.
    call(&stage, "/keyed/x", "soon-to-be-made").expect(401);
    made(&stage, json!({"scopes": ["read"], "api_key": "soon-to-be-made"}));
    call(&stage, "/keyed/x", "soon-to-be-made").expect(200);
}

#[test]
fn a_gateway_far_away_has_no_copy_and_refuses_within_the_second() {
    let upstream = Upstream::start();
    let mut house = House::new();
    house.set("server.roles", r#"["auth", "admin"]"#);
    house.bootstrap();
    let seed = keyed(&upstream.url());
    house.seed(&seed);
    let auth = house.serve();
    let mut far = House::new();
    far.without("server").without("storage");
    far.set("server.roles", r#"["gateway"]"#).text("server.issuer", &house.issuer);
    far.text("server.gateway_listen", "127.0.0.1:0").text("server.metrics_listen", "127.0.0.1:0");
    let (db, kek) = (far.path("gateway.db"), far.path("kek"));
    far.text("storage.url", &format!("sqlite://{}", db.display())).text("storage.key_file", &kek.display().to_string());
    let secret = far.write("secret", GW.secret);
    far.text("gateway.authorization_server", &house.issuer).text("gateway.client_id", GW.id);
    far.text("gateway.client_secret_file", &secret.display().to_string()).text("gateway.max_staleness", "2s");
    far.set("outbound.allow", &format!("[\"{}\"]", house.issuer.trim_start_matches("http://")));
    far.issuer = house.issuer.clone();
    far.seed(&json!({"upstreams": seed["upstreams"], "routes": seed["routes"]}));
    let gateway = far.serve();
    let status = |path: &str, key: &str| call(&gateway, path, key).status;
    let (id, key) = made(&auth, json!({"scopes": ["read"]}));
    wait_until("keys pass", Duration::from_secs(5), || status("/keyed/x", &key) == 200);
    assert_eq!(status("/keyed-writing/x", &key), 403);
    let next = rotated(&auth, &id, json!({"overlap": "1m"}))["api_key"].as_str().unwrap().to_owned();
    for _ in 0..20 {
        assert_eq!((status("/keyed/x", &key), status("/keyed/x", &next)), (200, 200));
    }
    assert_eq!(status("/keyed/x", "made-later"), 401);
    made(&auth, json!({"scopes": ["read"], "api_key": "made-later"}));
    wait_until("a new key is known", Duration::from_secs(1), || status("/keyed/x", "made-later") == 200);
    let changes: [(&str, Value); 3] =
        [("PATCH", json!({"scopes": []})), ("PATCH", json!({"scopes": ["read"], "disabled": true})), ("PATCH", json!({"disabled": false}))];
    for ((method, change), then) in changes.into_iter().zip([403, 401, 200]) {
        auth.admin(method, &format!("/api-keys/{id}")).json(&change).go().expect(200);
        wait_until("it is heard", Duration::from_secs(1), || status("/keyed/x", &next) == then);
    }
    auth.admin("POST", "/revocations").json(&json!({"kind": "key", "id": id})).go().expect(200);
    wait_until("the revoked key is refused", Duration::from_secs(1), || status("/keyed/x", &next) == 401);
    assert_eq!(status("/keyed/x", &key), 401);
    assert_eq!(far.holds(&key), None);
    // Nobody to ask and no news for too long: it cannot be decided.
    let (_, key) = made(&auth, json!({"scopes": ["read"]}));
    wait_until("keys pass", Duration::from_secs(1), || status("/keyed/x", &key) == 200);
    auth.kill();
    wait_until("a gateway left alone refuses", Duration::from_secs(6), || status("/keyed/x", &key) == 503);
    assert_eq!(status("/keyed/x", "never-seen"), 503);
}

#[test]
fn two_nodes_know_the_same_keys() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&keyed(&upstream.url()));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", crate::kit::server::free_port()));
    let b = second.serve();
    let (id, key) = made(&a, json!({"scopes": ["read"]}));
    for node in [&a, &b] {
        assert_eq!(call(node, "/keyed/x", &key).status, 200);
    }
    let next = rotated(&b, &id, json!({"overlap": "1m"}))["api_key"].as_str().unwrap().to_owned();
    for node in [&a, &b] {
        assert_eq!((call(node, "/keyed/x", &key).status, call(node, "/keyed/x", &next).status), (200, 200));
    }
    a.admin("DELETE", &format!("/api-keys/{id}")).go().expect(204);
    assert_eq!(call(&a, "/keyed/x", &next).status, 401);
    wait_until("the other node refuses", Duration::from_secs(1), || call(&b, "/keyed/x", &next).status == 401);
}
