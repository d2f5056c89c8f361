//! Redeeming an authorization code (RFC 6749 §4.1.3, RFC 7636, RFC 9700 §2.1.1).
use std::time::Duration;

use crate::kit::http::{claims, jose_header, now};
use crate::kit::seed::{API, APP, HOME, RIVAL, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

fn code(stage: &Stage, ask: &Ask) -> String {
    Visitor::new().walk(stage, ask, "alice").code(stage, ask)
}

#[test]
fn a_code_gives_tokens_of_the_right_shape() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let answer = ask.redeem(stage, &code(stage, &ask)).expect(200);
    assert!(answer.header("cache-control").contains("no-store"));
    assert!(answer.header("content-type").starts_with("application/json"));
    let tokens = answer.json();
    assert_eq!(text(&tokens, "token_type").to_lowercase(), "bearer");
    assert_eq!(tokens["expires_in"], 300);
    let access = text(&tokens, "access_token");
    assert_eq!(jose_header(&access)["typ"], "at+jwt");
    assert_eq!(jose_header(&access)["alg"], "ES256");
    let c = claims(&access);
    assert_eq!(c["iss"], stage.issuer.as_str());
    assert!(c["aud"] == API || c["aud"] == serde_json::json!([API]), "{c}");
    assert_eq!(c["client_id"], "home");
    assert!(c["jti"].is_string() && c["sub"].is_string());
    assert!((c["iat"].as_i64().unwrap() - now()).abs() < 10);
    assert_eq!(c["exp"].as_i64().unwrap() - c["iat"].as_i64().unwrap(), 300);
    assert!(text(&tokens, "refresh_token").len() >= 43);
}

#[test]
fn a_code_redeemed_twice_revokes_what_it_bought() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let code = code(stage, &ask);
    let tokens = ask.redeem(stage, &code).expect(200).json();
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert_eq!(stage.call("/api/code", &access).status, 200);
    ask.redeem(stage, &code).expect_error(400, "invalid_grant");
    assert!(!stage.active(&access));
    assert_eq!(stage.call("/api/code", &access).status, 401);
    stage.refresh(&HOME, &refresh).expect_error(400, "invalid_grant");
}

#[test]
fn a_code_is_bound_to_its_client_its_address_and_its_verifier() {
    let stage = STAGE.get();
    let ask = Ask::new(&WEB);
    let rival = Ask { who: RIVAL, ..ask.clone() };
    rival.redeem(stage, &code(stage, &ask)).expect_error(400, "invalid_grant");
    let elsewhere = ask.clone().with("redirect_uri", "https://rp.example.com/other");
    elsewhere.redeem(stage, &code(stage, &ask)).expect_error(400, "invalid_grant");
    let guess = Ask { verifier: "a".repeat(43), ..ask.clone() };
    guess.redeem(stage, &code(stage, &ask)).expect_error(400, "invalid_grant");
    let form = [("grant_type", "authorization_code"), ("code", &code(stage, &ask)), ("redirect_uri", WEB.redirect)];
    stage.token(&WEB, &form).expect_error(400, "invalid_grant");
}

#[test]
fn a_public_client_redeems_with_its_verifier_alone() {
    let stage = STAGE.get();
    let ask = Ask::new(&APP);
    ask.redeem(stage, &code(stage, &ask)).expect(200);
}

#[test]
fn a_code_expires() {
    let stage = Stage::start(|house| {
        house.text("lifetimes.code", "1s");
    });
    let ask = Ask::new(&HOME);
    let code = code(&stage, &ask);
    std::thread::sleep(Duration::from_millis(2200));
    ask.redeem(&stage, &code).expect_error(400, "invalid_grant");
    // A code that was never redeemed in time gives nothing later either.
    ask.redeem(&stage, &code).expect_error(400, "invalid_grant");
}

#[test]
fn nonsense_is_refused_with_the_right_code() {
    let stage = STAGE.get();
    let valid = code(stage, &Ask::new(&WEB));
    for bad in ["", "x", "dwc_", &"a".repeat(5000), &valid[..valid.len() - 1], &format!("{valid}A"), &valid.to_uppercase()] {
        let answer = Ask::new(&WEB).redeem(stage, bad);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(["invalid_grant", "invalid_request"].contains(&answer.json()["error"].as_str().unwrap()));
    }
    stage.token(&WEB, &[("grant_type", "authorization_code")]).expect_error(400, "invalid_request");
    stage.token(&WEB, &[]).expect_error(400, "invalid_request");
    stage.token(&WEB, &[("grant_type", "password"), ("username", "alice"), ("password", "x")]).expect_error(400, "unsupported_grant_type");
    stage.token(&WEB, &[("grant_type", "client_credentials")]).expect_error(400, "unauthorized_client");
}

#[test]
fn duplicate_form_fields_and_query_parameters_are_refused() {
    let stage = STAGE.get();
    let form = [("grant_type", "refresh_token"), ("grant_type", "refresh_token"), ("refresh_token", "x")];
    stage.token(&WEB, &form).expect_error(400, "invalid_request");
    for path in ["/token?grant_type=client_credentials", "/introspect?token=x", "/revoke?token=x"] {
        stage
            .post(path, &crate::kit::seed::GW, &[("token", "x"), ("grant_type", "client_credentials")])
            .expect_error(400, "invalid_request");
    }
}

#[test]
fn resource_may_be_named_again_but_not_changed() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("resource", API);
    let code1 = code(stage, &ask);
    let form = |code: &str, resource: &str| {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", HOME.redirect),
            ("code_verifier", &ask.verifier),
            ("resource", resource),
        ];
        stage.token(&HOME, &form)
    };
    form(&code1, API).expect(200);
    let code2 = code(stage, &ask);
    form(&code2, "https://other.example.com").expect_error(400, "invalid_target");
}
