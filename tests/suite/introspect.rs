//! Token introspection (RFC 7662).
use crate::kit::Shared;
use crate::kit::http::{Go, client, now};
use crate::kit::seed::{API, APP, GW, HOME, MACHINE, RIVAL, SAFE};
use crate::kit::visitor::text;

static STAGE: Shared = Shared::new();

#[test]
fn a_resource_servers_gateway_sees_its_tokens() {
    let stage = STAGE.get();
    for token in [stage.machine_token(&MACHINE, &[("scope", "read")]), stage.machine_token(&SAFE, &[])] {
        let answer = stage.post("/introspect", &GW, &[("token", &token)]).expect(200);
        assert!(answer.header("cache-control").contains("no-store"));
        let facts = answer.json();
        assert_eq!(facts["active"], true);
        assert_eq!(facts["iss"], stage.issuer.as_str());
        assert!(facts["client_id"].is_string() && facts["scope"].is_string() && facts["aud"] != serde_json::Value::Null);
        assert!(facts["exp"].as_i64().unwrap() > now());
        assert_eq!(facts["token_type"].as_str().unwrap_or("Bearer").to_lowercase(), "bearer");
    }
}

#[test]
fn whoever_is_not_entitled_hears_inactive_and_nothing_else() {
    let stage = STAGE.get();
    let token = stage.machine_token(&SAFE, &[]);
    let answer = stage.post("/introspect", &RIVAL, &[("token", &token)]).expect(200).json();
    assert_eq!(answer, serde_json::json!({"active": false}));
    // The client it was issued to may ask.
    assert_eq!(stage.post("/introspect", &SAFE, &[("token", &token)]).expect(200).json()["active"], true);
}

#[test]
fn an_unknown_or_spoilt_token_is_just_inactive() {
    let stage = STAGE.get();
    let good = stage.machine_token(&MACHINE, &[]);
    let opaque = stage.machine_token(&SAFE, &[]);
    for bad in ["x", "a.b.c", &good[..good.len() - 2], &format!("{opaque}x"), &opaque.replace("dwa_", "dwr_"), &"t".repeat(17_000)] {
        let answer = stage.post("/introspect", &GW, &[("token", bad)]).expect(200).json();
        assert_eq!(answer, serde_json::json!({"active": false}), "{}", &bad[..bad.len().min(60)]);
    }
}

#[test]
fn a_caller_must_authenticate() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    client().post(stage.url("/introspect")).form(&[("token", &token)]).go().expect(401);
    client()
        .post(stage.url("/introspect"))
        .basic_auth("gw", Some("wrong"))
        .form(&[("token", &token)])
        .go()
        .expect_error(401, "invalid_client");
    let public = client().post(stage.url("/introspect")).form(&[("token", token.as_str()), ("client_id", APP.id)]).go();
    assert!(public.status == 401 || public.json()["active"] == false, "{}", public.text());
    stage.post("/introspect", &GW, &[]).expect_error(400, "invalid_request");
}

#[test]
fn a_refresh_token_is_for_its_client_only() {
    let stage = STAGE.get();
    let refresh = text(&stage.person_tokens(&HOME, "alice"), "refresh_token");
    assert_eq!(stage.post("/introspect", &RIVAL, &[("token", &refresh)]).expect(200).json()["active"], false);
    let own = stage.post("/introspect", &HOME, &[("token", &refresh), ("token_type_hint", "refresh_token")]).expect(200).json();
    assert_eq!(own["active"], true, "{own}");
}

#[test]
fn a_persons_token_names_subject_and_audience() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&HOME, "alice");
    let facts = stage.introspect(&text(&tokens, "access_token"));
    assert_eq!(facts["sub"], crate::kit::http::claims(&text(&tokens, "id_token"))["sub"]);
    assert!(facts["aud"] == API || facts["aud"] == serde_json::json!([API]));
}
