//! The gateway's decisions: credentials, scopes, routes, identity headers, revocation.
use serde_json::json;

use crate::kit::http::{Go, claims, client, random};
use crate::kit::seed::{HOME, MACHINE, SAFE};
use crate::kit::visitor::text;
use crate::kit::{Shared, raw};

static STAGE: Shared = Shared::new();

#[test]
fn a_good_token_passes_and_names_its_bearer_to_the_upstream() {
    let stage = STAGE.get();
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[("scope", "read")]));
    let answer = stage.call(&format!("/api/things?mark={mark}"), &token).expect(200);
    assert_eq!(answer.header("x-upstream"), "yes");
    let seen = stage.upstream.only(&mark);
    assert_eq!(seen.target(), format!("/api/things?mark={mark}"));
    assert_eq!(seen.all("x-doorward-subject"), ["machine"]);
    assert_eq!(seen.all("x-doorward-client"), ["machine"]);
    assert_eq!(seen.all("x-doorward-scope"), ["read"]);
    assert!(seen.all("authorization").is_empty(), "the credential stays here");
}

#[test]
fn a_person_is_named_by_the_subject_of_the_id_token() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&HOME, "alice");
    let mark = random();
    stage.call(&format!("/api/{mark}"), &text(&tokens, "access_token")).expect(200);
    let sub = claims(&text(&tokens, "id_token"))["sub"].as_str().unwrap().to_owned();
    assert_eq!(stage.upstream.only(&mark).all("x-doorward-subject"), [sub]);
}

#[test]
fn no_credential_is_401_and_nothing_is_forwarded() {
    let stage = STAGE.get();
    let mark = random();
    let answer = client().get(stage.through(&format!("/api/{mark}"))).go().expect(401);
    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{}", answer.header("www-authenticate"));
    for bad in ["Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Bearer x y", "Basic bWFjaGluZTp4", "Nonsense"] {
        let answer = client().get(stage.through(&format!("/api/{mark}"))).header("authorization", bad).go();
        assert_eq!(answer.status, 401, "{bad}");
    }
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn spoilt_tokens_are_401_with_one_body_for_all() {
    let stage = STAGE.get();
    let good = stage.machine_token(&MACHINE, &[]);
    let parts: Vec<&str> = good.split('.').collect();
    let none = format!("{}.{}.", crate::kit::http::b64(r#"{"alg":"none","typ":"at+jwt"}"#), parts[1]);
    let mut payload = claims(&good);
    payload["scope"] = json!("read write admin");
    let changed = format!("{}.{}.{}", parts[0], crate::kit::http::b64(payload.to_string()), parts[2]);
    let opaque = stage.machine_token(&SAFE, &[]);
    let id_token = text(&stage.person_tokens(&HOME, "alice"), "id_token");
    let mut bodies = Vec::new();
    for bad in [&none, &changed, &good[..good.len() - 3], &format!("{good}.x"), &format!("{good}="), &id_token, &opaque, "dwa_nonsense"] {
        let answer = stage.call("/api/x", bad);
        assert_eq!(answer.status, 401, "{bad}");
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{}", answer.header("www-authenticate"));
        bodies.push(answer.text());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[test]
fn a_missing_scope_is_403_and_nothing_is_forwarded() {
    let stage = STAGE.get();
    let mark = random();
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    let answer = stage.call(&format!("/writing/{mark}"), &token).expect(403);
    assert!(answer.header("www-authenticate").contains("insufficient_scope"));
    assert!(stage.upstream.seen(&mark).is_empty());
    let token = stage.machine_token(&MACHINE, &[("scope", "write")]);
    stage.call(&format!("/writing/{mark}"), &token).expect(200);
}

#[test]
fn an_opaque_token_is_asked_about_and_goes_through() {
    let stage = STAGE.get();
    let (mark, token) = (random(), stage.machine_token(&SAFE, &[]));
    stage.call(&format!("/vault/{mark}"), &token).expect(200);
    assert_eq!(stage.upstream.only(&mark).all("x-doorward-client"), ["safe"]);
    assert_eq!(stage.call("/vault/x", &stage.machine_token(&MACHINE, &[])).status, 401, "the route takes opaque tokens only");
}

#[test]
fn every_freshness_mode_refuses_what_is_revoked_except_offline() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    for path in ["/api/f", "/asking/f", "/offline/f"] {
        assert_eq!(stage.call(path, &token).status, 200, "{path}");
    }
    stage.revoke(&MACHINE, &token);
    for path in ["/api/f", "/asking/f"] {
        assert_eq!(stage.call(path, &token).status, 401, "{path}");
    }
    assert_eq!(stage.call("/offline/f", &token).status, 200, "offline is signature and expiry only");
}

#[test]
fn what_no_route_allows_is_refused() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    for path in ["/", "/nothing", "/api", "/apiary/x", "/hosted/x"] {
        let answer = stage.call(path, &token);
        assert!([403, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    assert!([401, 403].contains(&stage.call("/silent/x", &token).status), "a route that says nothing about credentials");
    let method = client().delete(stage.through("/api/x")).bearer_auth(&token).go();
    assert!([403, 404, 405].contains(&method.status), "{}", method.status);
    for method in ["TRACE", "TRACK", "CONNECT"] {
        let request = format!("{method} /api/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(raw::exchange(&stage.listener("gateway"), request.as_bytes()).status, 405, "{method}");
    }
    let lower = "get /api/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let status = raw::exchange(&stage.listener("gateway"), lower.as_bytes()).status;
    assert!((400..500).contains(&status), "methods are case-sensitive: {status}");
}

#[test]
fn a_public_route_needs_no_credential_and_strips_identity_all_the_same() {
    let stage = STAGE.get();
    let mark = random();
    let answer = client().get(stage.through(&format!("/public/{mark}"))).header("x-doorward-subject", "root").go().expect(200);
    assert_eq!(answer.header("x-upstream"), "yes");
    assert!(stage.upstream.only(&mark).all("x-doorward-subject").is_empty());
}

#[test]
fn an_optional_credential_may_be_absent_but_not_bad() {
    let stage = STAGE.get();
    let mark = random();
    client().get(stage.through(&format!("/optional/{mark}"))).go().expect(200);
    // strip_prefix takes the prefix and keeps the slash.
    assert_eq!(stage.upstream.only(&mark).target(), format!("/{mark}"));
    assert_eq!(stage.call("/optional/x", "a.b.c").status, 401);
    let mark = random();
    stage.call(&format!("/optional/{mark}"), &stage.machine_token(&MACHINE, &[])).expect(200);
    assert_eq!(stage.upstream.only(&mark).all("x-doorward-client"), ["machine"]);
}

#[test]
fn identity_headers_in_any_spelling_are_removed() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let address = stage.listener("gateway");
    for spelling in
        ["X-Doorward-Subject", "x-doorward-subject", "X-DOORWARD-SUBJECT", "X.Doorward.Subject", "X-Doorward.Subject", "x~doorward~subject"]
    {
        let mark = random();
        let answer = raw::get(&address, &format!("/api/{mark}"), &format!("Authorization: Bearer {token}\r\n{spelling}: root\r\n"));
        if answer.status == 200 {
            let seen = stage.upstream.only(&mark);
            assert!(seen.headers.iter().all(|(_, v)| v != "root"), "{spelling}: {:?}", seen.headers);
            assert_eq!(seen.all("x-doorward-subject"), ["machine"]);
        } else {
            assert_eq!(answer.status, 400, "{spelling}");
        }
    }
    let mark = random();
    let answer = raw::get(&address, &format!("/api/{mark}"), &format!("Authorization: Bearer {token}\r\nX_Doorward_Subject: root\r\n"));
    assert_eq!(answer.status, 400, "names with _ are refused");
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn two_credentials_are_ambiguous() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let address = stage.listener("gateway");
    for headers in [
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"),
        format!("Authorization: Bearer {token}\r\nX-API-Key: dwk_x\r\n"),
    ] {
        let mark = random();
        assert_eq!(raw::get(&address, &format!("/api/{mark}"), &headers).status, 400, "{headers}");
        assert!(stage.upstream.seen(&mark).is_empty());
    }
    let query = client().get(stage.through(&format!("/api/x?access_token={token}"))).go();
    assert!([400, 401].contains(&query.status), "a token in the query is no credential: {}", query.status);
}

#[test]
fn credentials_go_on_only_where_the_route_says_so() {
    let stage = STAGE.get();
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[]));
    stage.call(&format!("/forwarding/{mark}"), &token).expect(200);
    assert_eq!(stage.upstream.only(&mark).all("authorization"), [format!("Bearer {token}")]);
}

#[test]
fn forwarded_headers_of_strangers_are_dropped() {
    let stage = STAGE.get();
    let mark = random();
    let request = client().get(stage.through(&format!("/public/{mark}")));
    request
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-forwarded-host", "evil.example.com")
        .go()
        .expect(200);
    let seen = stage.upstream.only(&mark);
    assert!(seen.headers.iter().all(|(_, v)| !v.contains("6.6.6.6") && !v.contains("evil.example.com")), "{:?}", seen.headers);
}

#[test]
fn hop_by_hop_headers_stop_here() {
    let stage = STAGE.get();
    let mark = random();
    let headers = "Connection: X-Secret-Hop\r\nX-Secret-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\n";
    let request = format!("GET /public/{mark} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    assert_eq!(raw::exchange(&stage.listener("gateway"), request.as_bytes()).status, 200);
    let seen = stage.upstream.only(&mark);
    for name in ["x-secret-hop", "keep-alive", "te", "proxy-connection"] {
        assert!(seen.all(name).is_empty(), "{name}: {:?}", seen.headers);
    }
}

#[test]
fn hosts_of_a_route_are_compared_without_case_port_and_final_dot() {
    let stage = STAGE.get();
    let address = stage.listener("gateway");
    for host in ["one.example.com", "ONE.example.com", "one.example.com:8443", "one.example.com."] {
        let request = format!("GET /hosted/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(raw::exchange(&address, request.as_bytes()).status, 200, "{host}");
    }
    let absolute = "GET http://one.example.com/hosted/x HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(raw::exchange(&address, absolute.as_bytes()).status, 200, "absolute-form replaces Host");
    for headers in ["Host: a\r\nHost: b\r\n", "", "Host: user@one.example.com\r\n", "Host: one.example.com/x\r\n", "Host: \r\n"] {
        let request = format!("GET /hosted/x HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        assert_eq!(raw::exchange(&address, request.as_bytes()).status, 400, "{headers}");
    }
}

#[test]
fn a_body_streams_through_with_length_or_chunks() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let mark = random();
    let body = "b".repeat(300_000);
    client().post(stage.through(&format!("/api/{mark}"))).bearer_auth(&token).body(body.clone()).go().expect(200);
    assert_eq!(stage.upstream.only(&mark).body, body.as_bytes());
    let mark = random();
    let request = format!(
        "POST /api/{mark} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    );
    assert_eq!(raw::exchange(&stage.listener("gateway"), request.as_bytes()).status, 200);
    assert_eq!(stage.upstream.only(&mark).body, b"hello world");
}

#[test]
fn prior_knowledge_http2_is_spoken() {
    let stage = STAGE.get();
    if !crate::kit::services::has("curl") {
        return crate::kit::services::skip("curl");
    }
    let token = stage.machine_token(&MACHINE, &[]);
    let done = std::process::Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "-H"])
        .arg(format!("Authorization: Bearer {token}"))
        .arg(stage.through("/api/h2"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "2 200");
}

#[test]
fn an_upstream_that_is_away_or_broken_is_502_or_504() {
    let stage = STAGE.get();
    for answer in [
        "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip-ish\r\n\r\nx",
        "not http at all\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\u{1}b\r\nContent-Length: 0\r\n\r\n",
    ] {
        let encoded = percent_encoding::utf8_percent_encode(answer, percent_encoding::NON_ALPHANUMERIC);
        let got = client().get(stage.through(&format!("/public/raw?answer={encoded}"))).go();
        assert_eq!(got.status, 502, "{answer:?}");
        assert!(!got.text().contains("127.0.0.1"), "no inside address: {}", got.text());
    }
}

#[test]
fn decisions_are_counted() {
    let stage = STAGE.get();
    assert_eq!(stage.call("/api/x", "a.b.c").status, 401);
    stage.revoke(&MACHINE, &stage.machine_token(&MACHINE, &[]));
    let metrics = || client().get(format!("http://{}/metrics", stage.listener("metrics"))).go().expect(200).text();
    let counted = |l: &str| l.starts_with("auth_decisions_total{") && l.contains("route=\"read\"");
    crate::kit::wait_until("the decision is counted", std::time::Duration::from_secs(2), || metrics().lines().any(counted));
    let page = metrics();
    assert_eq!(stage.metric("panics_total"), 0.0);
    for name in ["jwks_fetch_total", "db_rows", "cache_entries", "revocation_propagation_seconds"] {
        assert!(page.contains(name), "{name} is missing");
    }
}
