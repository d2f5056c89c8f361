//! DPoP at the gateway (RFC 9449 §7): the resource's side of the FAPI 2.0 suite's modules, replays, restarts, routes that demand a binding; and
//! protected resource metadata (RFC 9728).
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::dpop::Holder;
use crate::kit::http::{Answer, Go, client, now, random};
use crate::kit::seed::{API, GW, MACHINE, SAFE, route, standard};
use crate::kit::server::free_port;
use crate::kit::{House, Server, Upstream, raw, services, wait_until};

struct World {
    house: House,
    server: Server,
    upstream: Upstream,
}

fn start() -> World {
    let (upstream, house) = (Upstream::start(), House::new());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let auth = |more: Value| {
        let mut auth = json!({"accept": ["jwt", "opaque"], "issuers": ["self"], "audience": API, "scopes": ["read"]});
        auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        auth
    };
    let routes = seed["routes"].as_array_mut().unwrap();
    routes.push(route("keyed", "/keyed/", "echo", auth(json!({"sender_constraint": ["dpop"]}))));
    routes.push(route("either", "/either/", "echo", auth(json!({"sender_constraint": ["dpop", "mtls"]}))));
    routes.push(route("certified", "/certified/", "echo", auth(json!({"sender_constraint": ["mtls"]}))));
    let there = json!({"accept": ["jwt"], "issuers": ["self"], "audience": "http://things.example.com/v1", "scopes": ["read"]});
    let mut things = route("things", "/v1/things/", "echo", there);
    things["match"]["hosts"] = json!(["things.example.com"]);
    routes.push(things);
    let mut named =
        route("named", "/named/", "echo", json!({"accept": ["jwt"], "issuers": ["self"], "audience": "things", "scopes": ["read"]}));
    named["match"]["hosts"] = json!(["gateway.example.com"]);
    routes.push(named);
    routes.push(json!({"id": "whole", "match": {"path_prefix": "/", "hosts": ["whole.example.com"]}, "upstream": "echo", "public": true}));
    house.seed(&seed);
    let server = house.serve();
    World { house, server, upstream }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(start)
}

/// `GET` with a `DPoP` credential and these proofs.
fn called(url: &str, token: &str, proofs: &[String]) -> Answer {
    let mut request = client().get(url).header("authorization", format!("DPoP {token}"));
    for proof in proofs {
        request = request.header("dpop", proof);
    }
    request.go()
}

#[test]
fn a_bound_token_passes_with_its_proof_and_neither_goes_on() {
    let world = world();
    let (holder, mark) = (Holder::new(), random());
    let url = world.server.through(&format!("/api/{mark}?x=1"));
    let token = holder.machine_token(&world.server, &MACHINE);
    holder.get(&url, &token).go().expect(200);
    let seen = world.upstream.only(&mark);
    assert!(seen.all("authorization").is_empty() && seen.all("dpop").is_empty());
    assert_eq!(seen.all("x-doorward-client"), ["machine"]);
    // An opaque one too.
    let url = world.server.through("/vault/x");
    holder.get(&url, &holder.machine_token(&world.server, &SAFE)).go().expect(200);
}

#[test]
fn access_token_type_header_case_sensitivity() {
    let world = world();
    let (holder, url) = (Holder::new(), world.server.through("/api/x"));
    let token = holder.machine_token(&world.server, &MACHINE);
    for (scheme, name) in [("DPoP", "DPoP"), ("dpop", "dpop"), ("DPOP", "DPOP"), ("dPoP", "dPop")] {
        let request = client().get(&url).header("authorization", format!("{scheme} {token}"));
        request.header(name, holder.proof("GET", &url, Some(&token))).go().expect(200);
    }
    let free = world.server.machine_token(&MACHINE, &[]);
    for scheme in ["Bearer", "bearer", "BEARER"] {
        client().get(&url).header("authorization", format!("{scheme} {free}")).go().expect(200);
    }
}

#[test]
fn dpop_negative_tests() {
    let world = world();
    let (holder, other, mark) = (Holder::new(), Holder::new(), random());
    let url = world.server.through(&format!("/api/{mark}"));
    let token = holder.machine_token(&world.server, &MACHINE);
    let elsewhere = holder.machine_token(&world.server, &MACHINE);
    let changed = |change: &dyn Fn(&mut Value, &mut Value)| holder.changed("GET", &url, Some(&token), |h, c| change(h, c));
    let remove = |v: &mut Value, name: &str| drop(v.as_object_mut().unwrap().remove(name));
    let good = || holder.proof("GET", &url, Some(&token));
    let bad = |why: &'static str, proofs: Vec<String>| (why, proofs);
    let cases = vec![
        bad("no proof", vec![]),
        bad("two headers", vec![good(), good()]),
        bad("two proofs in one", vec![format!("{}, {}", good(), good())]),
        bad("empty", vec![String::new()]),
        bad("no JWS", vec!["not.a.jws".into()]),
        bad("JSON", vec!["{}".into()]),
        bad("two segments", vec![good().rsplit_once('.').unwrap().0.to_owned()]),
        bad("no signature", vec![format!("{}.", good().rsplit_once('.').unwrap().0)]),
        bad(
            "wrong signature",
            vec![{
                let (signed, signature) = good().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
                let first = if signature.starts_with('A') { 'B' } else { 'A' };
                format!("{signed}.{first}{}", &signature[1..])
            }],
        ),
        bad("typ missing", vec![changed(&|h, _| remove(h, "typ"))]),
        bad("typ wrong", vec![changed(&|h, _| h["typ"] = json!("JWT"))]),
        bad("typ of a token", vec![changed(&|h, _| h["typ"] = json!("at+jwt"))]),
        bad("alg missing", vec![changed(&|h, _| remove(h, "alg"))]),
        bad("alg none", vec![changed(&|h, _| h["alg"] = json!("none"))]),
        bad("alg symmetric", vec![changed(&|h, _| h["alg"] = json!("HS256"))]),
        bad("alg of another key", vec![changed(&|h, _| h["alg"] = json!("PS256"))]),
        bad("jwk missing", vec![changed(&|h, _| remove(h, "jwk"))]),
        bad("jwk of another", vec![changed(&|h, _| h["jwk"] = other.jwk())]),
        bad("jwk private", vec![changed(&|h, _| h["jwk"]["d"] = json!("AAAA"))]),
        bad("jwk symmetric", vec![changed(&|h, _| h["jwk"] = json!({"kty": "oct", "k": "AAAA"}))]),
        bad("jti missing", vec![changed(&|_, c| remove(c, "jti"))]),
        bad("jti empty", vec![changed(&|_, c| c["jti"] = json!(""))]),
        bad("htm missing", vec![changed(&|_, c| remove(c, "htm"))]),
        bad("htm wrong", vec![changed(&|_, c| c["htm"] = json!("PUT"))]),
        bad("htu missing", vec![changed(&|_, c| remove(c, "htu"))]),
        bad("htu of another path", vec![changed(&|_, c| c["htu"] = json!(world.server.through("/api/other")))]),
        bad("htu of another host", vec![changed(&|_, c| c["htu"] = json!(format!("http://api.example.com/api/{mark}")))]),
        bad("htu of another scheme", vec![changed(&|_, c| c["htu"] = json!(url.replace("http://", "https://")))]),
        bad("htu of another port", vec![changed(&|_, c| c["htu"] = json!(format!("http://127.0.0.1:9/api/{mark}")))]),
        bad("iat missing", vec![changed(&|_, c| remove(c, "iat"))]),
        bad("iat of text", vec![changed(&|_, c| c["iat"] = json!(now().to_string()))]),
        bad("iat an hour ago", vec![changed(&|_, c| c["iat"] = json!(now() - 3600))]),
        bad("iat in an hour", vec![changed(&|_, c| c["iat"] = json!(now() + 3600))]),
        bad("ath missing", vec![changed(&|_, c| remove(c, "ath"))]),
        bad("ath empty", vec![changed(&|_, c| c["ath"] = json!(""))]),
        bad("ath of another token", vec![holder.proof("GET", &url, Some(&elsewhere))]),
        bad("another key", vec![other.proof("GET", &url, Some(&token))]),
    ];
    for (why, proofs) in cases {
        let answer = called(&url, &token, &proofs);
        assert_eq!(answer.status, 401, "{why}");
        assert!(answer.header("www-authenticate").starts_with("DPoP "), "{why}: {}", answer.header("www-authenticate"));
    }
    // As a bearer token, with the proof and without.
    for request in [client().get(&url).bearer_auth(&token), client().get(&url).bearer_auth(&token).header("dpop", good())] {
        let answer = request.go().expect(401);
        assert!(answer.header("www-authenticate").contains("algs=\"ES256"), "{}", answer.header("www-authenticate"));
    }
    // An unbound token as a bound one.
    let free = world.server.machine_token(&MACHINE, &[]);
    holder.get(&url, &free).go().expect(401);
    // Two credentials are none.
    let twice = client().get(&url).header("authorization", format!("DPoP {token}")).header("authorization", format!("DPoP {token}"));
    twice.header("dpop", good()).go().expect(400);
    assert!(world.upstream.seen(&mark).is_empty(), "nothing went on");
    called(&url, &token, &[good()]).expect(200);
}

#[test]
fn what_a_proof_may_say_besides() {
    let world = world();
    let (holder, address) = (Holder::new(), world.server.listener("gateway"));
    let token = holder.machine_token(&world.server, &MACHINE);
    let url = world.server.through("/api/a");
    for (why, htu) in [
        ("query and fragment", format!("{url}?x=y#z")),
        ("capitals", url.replace("http://", "HTTP://")),
        ("escapes", url.replace("/api/a", "/api/%61")),
        ("empty segments", url.replace("/api/a", "//api//a")),
    ] {
        let proof = holder.changed("GET", &url, Some(&token), |_, c| {
            c["htu"] = json!(htu);
            c["extra"] = json!({"a": [1]});
        });
        assert_eq!(called(&format!("{url}?q=1"), &token, &[proof]).status, 200, "{why}");
    }
    // A host name in any case, its default port said or not: as the client sent it.
    for (host, htu) in [("API.example.com", "http://api.example.com:80/api/a"), ("api.example.com:80", "http://API.EXAMPLE.COM/api/a")] {
        let proof = holder.changed("GET", htu, Some(&token), |_, _| {});
        let request =
            format!("GET /api/a HTTP/1.1\r\nHost: {host}\r\nAuthorization: DPoP {token}\r\nDPoP: {proof}\r\nConnection: close\r\n\r\n");
        assert_eq!(raw::exchange(&address, request.as_bytes()).status, 200, "{host}");
    }
}

#[test]
fn ensure_dpopproof_with_iat_10seconds_before_and_after_succeeds() {
    let world = world();
    let (holder, url) = (Holder::new(), world.server.through("/api/x"));
    let token = holder.machine_token(&world.server, &MACHINE);
    let at = |offset: i64| holder.changed("GET", &url, Some(&token), |_, c| c["iat"] = json!(now() + offset));
    for offset in [-10, 10] {
        called(&url, &token, &[at(offset)]).expect(200);
    }
    for offset in [-70, 70] {
        called(&url, &token, &[at(offset)]).expect(401);
    }
}

#[test]
fn a_proof_counts_once_and_a_restart_does_not_forget_it() {
    let (holder, world) = (Holder::new(), start());
    let World { house, server, upstream: _upstream } = world;
    let mut house = house;
    house.text("server.gateway_listen", &server.listener("gateway"));
    let url = server.through("/api/x");
    let token = holder.machine_token(&server, &MACHINE);
    let proof = holder.proof("GET", &url, Some(&token));
    let given: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..6).map(|_| scope.spawn(|| called(&url, &token, std::slice::from_ref(&proof)).status)).collect();
        tries.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(given.iter().filter(|s| **s == 200).count(), 1, "{given:?}");
    let answer = called(&url, &token, std::slice::from_ref(&proof)).expect(401);
    assert!(answer.header("www-authenticate").contains("invalid_dpop_proof"));
    server.kill();
    let server = house.serve();
    assert_eq!(server.through("/api/x"), url);
    called(&url, &token, &[proof]).expect(401);
    holder.get(&url, &token).go().expect(200);
}

#[test]
fn a_proof_of_a_refused_request_is_not_spent() {
    let world = world();
    let (holder, url) = (Holder::new(), world.server.through("/writing/x"));
    let answer = holder.token(&world.server, &MACHINE, &[("grant_type", "client_credentials"), ("scope", "read")]).expect(200).json();
    let token = answer["access_token"].as_str().unwrap();
    let proof = holder.proof("GET", &url, Some(token));
    for _ in 0..2 {
        called(&url, token, std::slice::from_ref(&proof)).expect(403);
    }
}

#[test]
fn a_route_may_demand_a_binding() {
    let world = world();
    let holder = Holder::new();
    let (bound, free) = (holder.machine_token(&world.server, &MACHINE), world.server.machine_token(&MACHINE, &[]));
    for path in ["/keyed/x", "/either/x"] {
        let url = world.server.through(path);
        let answer = client().get(&url).bearer_auth(&free).go().expect(401);
        assert!(answer.header("www-authenticate").starts_with("DPoP "), "{}", answer.header("www-authenticate"));
        holder.get(&url, &bound).go().expect(200);
    }
    let url = world.server.through("/certified/x");
    client().get(&url).bearer_auth(&free).go().expect(401);
    holder.get(&url, &bound).go().expect(401);
}

#[test]
fn a_revoked_bound_token_is_refused_at_once() {
    let world = world();
    let (holder, url) = (Holder::new(), world.server.through("/api/x"));
    let token = holder.machine_token(&world.server, &MACHINE);
    holder.get(&url, &token).go().expect(200);
    world.server.revoke(&MACHINE, &token);
    let answer = holder.get(&url, &token).go().expect(401);
    assert!(answer.header("www-authenticate").starts_with("DPoP error=\"invalid_token\""), "{}", answer.header("www-authenticate"));
}

#[test]
fn a_gateway_of_its_own_enforces_bindings_of_signed_and_opaque_tokens() {
    let world = world();
    let upstream = Upstream::start();
    let mut house = House::new();
    let seed = standard(&upstream.url());
    let gateway_port = free_port();
    house.set("server.roles", r#"["gateway"]"#).text("server.gateway_listen", &format!("127.0.0.1:{gateway_port}"));
    let issuer = world.server.issuer.clone();
    house.text("gateway.authorization_server", &issuer).text("gateway.client_id", GW.id);
    house.text("gateway.client_secret", GW.secret);
    house.set("outbound.allow", &json!([issuer.replace("http://", "")]).to_string());
    house.seed(&json!({"upstreams": seed["upstreams"], "routes": seed["routes"]}));
    let gateway = house.serve();
    let holder = Holder::new();
    for (who, path) in [(&MACHINE, "/api/x"), (&SAFE, "/vault/x"), (&MACHINE, "/asking/x")] {
        let (url, token) = (gateway.through(path), holder.machine_token(&world.server, who));
        wait_until("the gateway knows enough", Duration::from_secs(20), || holder.get(&url, &token).go().status == 200);
        client().get(&url).bearer_auth(&token).go().expect(401);
        Holder::new().get(&url, &token).go().expect(401);
        let proof = holder.proof("GET", &url, Some(&token));
        called(&url, &token, std::slice::from_ref(&proof)).expect(200);
        called(&url, &token, &[proof]).expect(401);
    }
}

#[test]
fn metadata_of_a_protected_resource() {
    let server = &world().server;
    let at = |path: &str| client().get(server.through(path)).go();
    let origin = server.through("");
    let told = at("/.well-known/oauth-protected-resource/api").expect(200);
    assert!(told.header("content-type").starts_with("application/json"));
    let told = told.json();
    assert_eq!(told["resource"], json!(format!("{origin}/api")));
    assert_eq!(told["authorization_servers"], json!([server.issuer]));
    assert_eq!(told["scopes_supported"], json!(["read"]));
    assert_eq!(told["bearer_methods_supported"], json!(["header"]));
    assert_eq!(told["dpop_signing_alg_values_supported"][0], "ES256");
    assert!(told.get("dpop_bound_access_tokens_required").is_none());
    let keyed = at("/.well-known/oauth-protected-resource/keyed/").expect(200).json();
    assert_eq!((&keyed["dpop_bound_access_tokens_required"], &keyed["resource"]), (&json!(true), &json!(format!("{origin}/keyed/"))));
    assert_eq!(at("/.well-known/oauth-protected-resource/certified").json()["tls_client_certificate_bound_access_tokens"], true);
    let all = at("/.well-known/oauth-protected-resource").expect(200).json();
    assert_eq!((&all["resource"], &all["scopes_supported"]), (&json!(origin), &json!(["open", "read", "write"])));
    for nothing in [
        "/.well-known/oauth-protected-resource/nowhere",
        "/.well-known/oauth-protected-resource/public",
        "/.well-known/oauth-protected-resourcex",
    ] {
        assert_eq!(at(nothing).status, 404, "{nothing}");
    }
    let posted = client().post(server.through("/.well-known/oauth-protected-resource")).go();
    assert_eq!(posted.status, 404);
}

#[test]
fn metadata_of_an_audience_on_this_host_and_of_no_route_of_the_administrators() {
    let server = &world().server;
    let get = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        raw::exchange(&server.listener("gateway"), request.as_bytes())
    };
    let told = get("things.example.com", "/.well-known/oauth-protected-resource/v1");
    assert!(told.status == 200 && told.text.contains(r#""resource":"http://things.example.com/v1""#), "{}", told.text);
    let challenged = get("things.example.com", "/v1/things/x");
    let about = r#"resource_metadata="http://things.example.com/.well-known/oauth-protected-resource/v1""#;
    assert!(challenged.status == 401 && challenged.text.contains(about), "{}", challenged.text);
    assert_eq!(get("elsewhere.example.com", "/.well-known/oauth-protected-resource/v1").status, 404);
    // The API's own name counts, whatever name the request has for the host.
    for (host, path) in [("api.example.com", ""), ("api.example.com:443", "/"), ("evil.example.com", "/api")] {
        let told = get(host, &format!("/.well-known/oauth-protected-resource{path}"));
        assert!(told.status == 200 && told.text.contains(r#""resource":"https://api.example.com","#), "{host} {}", told.text);
    }
    let challenged = get("evil.example.com", "/api/x");
    let about = r#"resource_metadata="https://api.example.com/.well-known/oauth-protected-resource""#;
    assert!(challenged.status == 401 && challenged.text.contains(about) && !challenged.text.contains("evil"), "{}", challenged.text);
    assert_eq!(get("evil.example.com", "/.well-known/oauth-protected-resource").status, 404, "several resources, none of them here");
    // Whose audience is only a name has the host's: there is none other.
    let named = get("gateway.example.com", "/.well-known/oauth-protected-resource/named");
    assert!(named.status == 200 && named.text.contains(r#""resource":"http://gateway.example.com/named","#), "{}", named.text);
    let all = get("gateway.example.com", "/.well-known/oauth-protected-resource");
    assert!(all.text.contains(r#""resource":"http://gateway.example.com","#) && !all.text.contains("write"), "{}", all.text);
    let shadowed = get("whole.example.com", "/.well-known/oauth-protected-resource");
    assert!(shadowed.status == 200 && shadowed.text.contains("X-Upstream") || shadowed.text.contains("x-upstream"), "{}", shadowed.text);
}

#[test]
fn a_challenge_says_where_the_metadata_is() {
    let server = &world().server;
    let answer = client().get(server.through("/api/x")).go().expect(401);
    let challenges: Vec<&str> = answer.headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok()).collect();
    let about = server.through("/.well-known/oauth-protected-resource/api");
    assert_eq!(challenges.len(), 2, "{challenges:?}");
    assert!(challenges[0].starts_with("Bearer") && challenges[1].starts_with("DPoP algs=\"ES256"), "{challenges:?}");
    for challenge in challenges {
        assert!(challenge.ends_with(&format!("resource_metadata=\"{about}\"")), "{challenge}");
    }
    assert_eq!(client().get(&about).go().expect(200).json()["resource"], json!(server.through("/api")));
}

#[test]
fn behind_a_trusted_proxy_the_scheme_is_the_one_the_proxy_says() {
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.set("server.trusted_proxies", r#"["127.0.0.1/32"]"#);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    let (holder, url) = (Holder::new(), server.through("/api/x"));
    let token = holder.machine_token(&server, &MACHINE);
    let outside = url.replace("http://", "https://");
    let by = |name: &str, htu: &str, told: &str| {
        let request = client().get(&url).header("authorization", format!("DPoP {token}")).header(name, told);
        request.header("dpop", holder.proof("GET", htu, Some(&token))).go().status
    };
    let call = |htu: &str, proto: &str| by("x-forwarded-proto", htu, proto);
    let standard = |htu: &str, proto: &str| by("forwarded", htu, &format!("for=192.0.2.1;proto={proto}"));
    assert_eq!((standard(&outside, "https"), standard(&url, "https"), standard(&url, "http")), (200, 401, 200));
    assert_eq!((call(&outside, "https"), call(&url, "https")), (200, 401));
    assert_eq!((call(&outside, "http"), call(&url, "http")), (401, 200));
    // A stranger says nothing about it.
    let strange = &world().server;
    let (holder, url) = (Holder::new(), strange.through("/api/x"));
    let token = holder.machine_token(strange, &MACHINE);
    let proof = holder.proof("GET", &url.replace("http://", "https://"), Some(&token));
    let request = client().get(&url).header("authorization", format!("DPoP {token}")).header("x-forwarded-proto", "https");
    request.header("dpop", proof).go().expect(401);
}

#[test]
fn a_proof_used_at_one_node_is_refused_at_the_other() {
    let Some(database) = services::postgres() else { return };
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let holder = Holder::new();
    let token = holder.machine_token(&a, &MACHINE);
    // The same host and path by another connection: what a proof is about is what the client sent.
    let call = |node: &Server, proof: &str| {
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: DPoP {token}\r\nDPoP: {proof}\r\nConnection: close\r\n\r\n"
        );
        raw::exchange(&node.listener("gateway"), request.as_bytes()).status
    };
    let fresh = || holder.proof("GET", "http://api.example.com/api/x", Some(&token));
    let proof = fresh();
    assert_eq!((call(&a, &proof), call(&b, &proof)), (200, 401));
    let proof = fresh();
    assert_eq!((call(&b, &proof), call(&a, &proof)), (200, 401));
}
