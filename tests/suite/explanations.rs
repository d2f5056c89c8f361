//! One id for each request, and why it was refused under that id.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kit::http::{Go, alone, client, random};
use crate::kit::seed::{API, HOME, MACHINE, SAFE, route, standard};
use crate::kit::visitor::text;
use crate::kit::{House, Stage, Upstream, raw};

fn stage(configure: impl FnOnce(&mut House)) -> Stage {
    let (upstream, mut house) = (Upstream::start(), House::new());
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let mut judged = route("judged", "/judged/", "echo", json!({"accept": ["jwt"], "audience": API}));
    judged["policy"] = json!(
        r#"permit(principal, action == Action::"GET", resource); @id("never") forbid(principal == Client::"machine", action, resource);"#
    );
    let mut once = route("once", "/once/", "echo", json!({"accept": ["jwt"], "audience": API}));
    once["rate_limit"] = json!({"key": "client", "rate": 1, "period": "1h"});
    let dead =
        json!({"id": "dead", "match": {"path_prefix": "/dead/"}, "upstream": {"targets": [{"url": "http://127.0.0.1:9"}]}, "public": true});
    seed["routes"].as_array_mut().unwrap().extend([judged, once, dead]);
    house.seed(&seed);
    let server = house.serve();
    Stage { house, server, upstream }
}

#[test]
fn an_id_is_on_the_answer_and_upstream_and_a_stranger_cannot_choose_it() {
    let stage = stage(|_| {});
    let (mark, token) = (random(), stage.machine_token(&MACHINE, &[]));
    let answer = client().get(stage.through(&format!("/api/{mark}"))).bearer_auth(&token).header("x-request-id", "chosen").go().expect(200);
    let id = answer.header("x-request-id").to_owned();
    assert!(id.len() >= 16 && id != "chosen", "{id}");
    assert_eq!(stage.upstream.only(&mark).all("x-request-id"), [id.as_str()]);
    let ids: BTreeSet<String> = (0..20).map(|_| stage.call("/api/x", &token).header("x-request-id").to_owned()).collect();
    assert_eq!(ids.len(), 20);
    let refused = raw::exchange(&stage.listener("gateway"), b"GET /api/x HTTP/1.1\r\nHost: x\r\nBad Field: 1\r\n\r\n");
    assert_eq!(refused.status, 400);
    assert!(refused.text.to_ascii_lowercase().contains("x-request-id: "), "a refused head has one too");
}

#[test]
fn a_trusted_proxy_names_the_request_if_the_name_reads() {
    let stage = stage(|house| {
        house.set("server.trusted_proxies", r#"["127.0.0.0/8"]"#);
    });
    let token = stage.machine_token(&MACHINE, &[]);
    let named = |id: &str| {
        client()
            .get(stage.through("/api/x"))
            .bearer_auth(&token)
            .header("x-request-id", id)
            .go()
            .expect(200)
            .header("x-request-id")
            .to_owned()
    };
    assert_eq!(named("front-7.a"), "front-7.a");
    for strange in ["a b", "<script>", &"x".repeat(200)] {
        assert_ne!(named(strange), strange);
    }
}

/// Why a request was refused, by the id its answer carries.
#[track_caller]
fn why(stage: &Stage, answer: &crate::kit::Answer) -> Value {
    stage.admin("GET", &format!("/explanations/{}", answer.header("x-request-id"))).go().expect(200).json()
}

#[test]
fn every_kind_of_refusal_is_explained_by_its_id() {
    let stage = stage(|_| {});
    let machine = stage.machine_token(&MACHINE, &[("scope", "read")]);
    let call = |method: &str, path: &str, token: Option<&str>| {
        let request = client().request(method.parse().unwrap(), stage.through(path));
        token.map_or_else(|| request.try_clone().unwrap(), |token| request.try_clone().unwrap().bearer_auth(token)).go()
    };
    stage.call("/once/x", &machine).expect(200);
    let safe = stage.machine_token(&SAFE, &[]);
    for (method, path, token, status, reason, route) in [
        ("GET", "/nowhere", None, 404, "no_route", ""),
        ("DELETE", "/api/x", None, 405, "method", ""),
        ("GET", "/api/x", None, 401, "no_credential", "read"),
        ("GET", "/api/x", Some("a.b.c"), 401, "", "read"),
        ("GET", "/vault/x", Some(machine.as_str()), 401, "credential_kind", "vault"),
        ("GET", "/api/x", Some(safe.as_str()), 401, "audience", "read"),
        ("POST", "/writing/x", Some(machine.as_str()), 403, "scope", "writing"),
        ("GET", "/judged/x?secret=hidden", Some(machine.as_str()), 403, "policy", "judged"),
        ("GET", "/once/x", Some(machine.as_str()), 429, "rate_limit", "once"),
        ("GET", "/dead/x", None, 502, "", "dead"),
    ] {
        let answer = call(method, path, token);
        assert_eq!(answer.status, status, "{method} {path}");
        let told = why(&stage, &answer);
        assert_eq!((&told["status"], &told["allowed"], &told["method"]), (&json!(status), &json!(false), &json!(method)), "{path}: {told}");
        if !reason.is_empty() {
            assert_eq!(told["reason"], reason, "{path}: {told}");
        }
        assert_eq!(told["route"].as_str().unwrap_or_default(), route, "{path}: {told}");
        assert!(told["steps"].as_array().unwrap().last().unwrap().as_str().unwrap().contains(&format!("refused with {status}")));
        let said = told.to_string();
        for secret in [machine.as_str(), safe.as_str(), "hidden"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
    let scope = why(&stage, &call("POST", "/writing/x", Some(&machine)));
    assert_eq!((&scope["demanded"]["scopes"], &scope["caller"]["scopes"]), (&json!(["write"]), &json!(["read"])));
    assert_eq!((&scope["caller"]["sub"], &scope["caller"]["credential"]), (&json!("machine"), &json!("jwt")));
    assert_eq!(scope["lacking"], json!(["write"]));
    let policy = why(&stage, &call("GET", "/judged/x", Some(&machine)));
    assert_eq!((&policy["policy"]["allowed"], &policy["policy"]["by"]), (&json!(false), &json!(["judged#never"])));
    let limit = why(&stage, &call("GET", "/once/x", Some(&machine)));
    assert_eq!((&limit["limit"]["allowed"], &limit["limit"]["remaining"]), (&json!(false), &json!(0)));
    let listed = stage.admin("GET", "/explanations?route=judged&reason=policy").go().expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["items"][0]["request_id"], policy["request_id"], "the latest first");
    let listed = stage.admin("GET", "/explanations?status=429&limit=1").go().expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(stage.admin("GET", "/explanations/unheard-of").go().status, 404);
    assert!(stage.log().contains(policy["request_id"].as_str().unwrap()), "the log has the id as well");
    let token = stage.house.write("admin-token", &stage.admin_token());
    let args = ["explain", "--request-id", policy["request_id"].as_str().unwrap(), "--admin-token-file", token.to_str().unwrap()];
    let ran = stage.house.run(&[&args[..], &["--admin", &stage.listener("admin")]].concat()).ok();
    assert!(ran.out.contains("refused with 403: policy") && ran.out.contains("judged#never"), "{}", ran.out);
}

#[test]
fn only_an_administrator_reads_explanations() {
    let stage = stage(|_| {});
    let answer = alone().get(stage.through("/api/x")).go().expect(401);
    let url = format!("http://{}/admin/v1/explanations/{}", stage.listener("admin"), answer.header("x-request-id"));
    assert_eq!(client().get(&url).go().status, 401);
    assert_eq!(client().get(&url).bearer_auth(stage.machine_token(&MACHINE, &[])).go().status, 401);
}

#[test]
fn the_administration_and_the_command_say_what_the_gateway_does() {
    let stage = stage(|house| {
        house.set("gateway.explain_allowed", "1");
    });
    let (machine, person) =
        (stage.machine_token(&MACHINE, &[("scope", "read")]), text(&stage.person_tokens(&HOME, "alice"), "access_token"));
    for (method, path) in
        [("GET", "/api/x"), ("POST", "/writing/x"), ("GET", "/judged/x"), ("GET", "/public/x"), ("GET", "/vault/x"), ("PUT", "/nowhere")]
    {
        for token in [&machine, &person] {
            let really = client().request(method.parse().unwrap(), stage.through(path)).bearer_auth(token).go();
            let body = json!({"method": method, "path": path, "token": token});
            let told = stage.admin("POST", "/explanations").json(&body).go().expect(200).json();
            let status = told["status"].as_u64().map_or(200, |status| u16::try_from(status).unwrap());
            assert_eq!(status, really.status, "{method} {path}: {told}");
            let ran = stage.house.run(&["explain", "--method", method, "--path", path, "--token", token, "--json"]).ok().json();
            assert_eq!((&ran["reason"], &ran["policy"]), (&told["reason"], &told["policy"]), "{method} {path}");
            // One in one of what is let through is remembered here.
            let kept = why(&stage, &really);
            assert_eq!((&kept["reason"], &kept["policy"]), (&told["reason"], &told["policy"]), "{method} {path}");
        }
    }
    let wrong = stage.admin("POST", "/explanations").json(&json!({"path": "/x", "caller": {"sub": "a", "wings": 2}})).go();
    assert_eq!(wrong.status, 422);
    assert!(stage.upstream.seen("/judged/").len() == 1, "explaining forwards nothing");
}
