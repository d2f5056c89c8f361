//! How well a person is authenticated, and stepping up (OpenID Connect Core §3.1.2.1, §5.5.1.1; RFC 9470).
use serde_json::{Value, json};

use crate::kit::http::{Go, claims, client};
use crate::kit::seed::{HOME, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

const ONE: &str = "urn:doorward:acr:1";
const TWO: &str = "urn:doorward:acr:2";

fn essential(values: &[&str]) -> Ask {
    Ask::new(&HOME).with("claims", &json!({"id_token": {"acr": {"essential": true, "values": values}}}).to_string())
}

/// Logged in by password, enrolled since.
fn stepping(stage: &Stage, name: &str) -> (Visitor, crate::kit::totp::Authenticator) {
    stage.person(name);
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    visitor.login(&page, name, PASSWORD).away();
    (visitor, stage.enrol(name))
}

#[test]
fn oidcc_ensure_request_with_acr_values_succeeds() {
    let stage = STAGE.get();
    let metadata: Value = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(metadata["acr_values_supported"], json!([ONE, TWO]));
    for (asked, told) in [(ONE, ONE), (TWO, ONE), ("1 2", ONE), ("urn:mace:incommon:iap:silver", ONE), ("urn:x urn:doorward:acr:1", ONE)] {
        let tokens = Visitor::new().tokens(stage, &Ask::new(&HOME).with("acr_values", asked), "alice");
        let id = claims(&text(&tokens, "id_token"));
        assert_eq!((id["acr"].as_str(), &id["amr"]), (Some(told), &json!(["pwd"])), "{asked}");
        assert_eq!(claims(&text(&tokens, "access_token"))["acr"], told);
    }
}

#[test]
fn a_client_that_wants_more_gets_the_second_factor_alone() {
    let stage = STAGE.get();
    let (mut visitor, own) = stepping(stage, "acr-step");
    let before = visitor.cookies.clone();
    // What is satisfied is not asked for.
    let first = Ask::new(&HOME).with("acr_values", ONE);
    let code = visitor.open(&first.url(stage)).code(stage, &first);
    let logged_in = claims(&text(&first.redeem(stage, &code).expect(200).json(), "id_token"))["auth_time"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let ask = Ask::new(&HOME).with("acr_values", TWO);
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    assert!(!page.has("password"));
    let page = visitor.otp(&page, "123").kind("mfa");
    let code = visitor.otp(&page, &own.code(0)).code(stage, &ask);
    let told = claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"));
    assert_eq!((told["acr"].as_str(), &told["amr"]), (Some(TWO), &json!(["pwd", "otp", "mfa"])));
    assert_eq!(told["auth_time"], logged_in, "a code is no login");
    assert_ne!(visitor.cookies, before, "the cookie changes with what it is worth");
    // From now on the session is worth it.
    visitor.open(&ask.url(stage)).away();
    let silent = essential(&[TWO]).with("prompt", "none");
    visitor.open(&silent.url(stage)).code(stage, &silent);
}

#[test]
fn what_is_essential_is_met_or_refused() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    visitor.tokens(stage, &Ask::new(&HOME), "alice");
    assert_eq!(visitor.open(&essential(&[TWO]).url(stage)).error(stage), "unmet_authentication_requirements");
    assert_eq!(visitor.open(&essential(&["urn:unknown"]).url(stage)).error(stage), "unmet_authentication_requirements");
    let either = essential(&[TWO, ONE]);
    visitor.open(&either.url(stage)).code(stage, &either);
    // Not logged in: the password first, then it is known to be too little.
    let mut visitor = Visitor::new();
    let page = visitor.open(&essential(&[TWO]).url(stage)).kind("login");
    assert_eq!(visitor.login(&page, "alice", PASSWORD).error(stage), "unmet_authentication_requirements");
}

#[test]
fn nobody_is_asked_silently() {
    let stage = STAGE.get();
    let (mut visitor, own) = stepping(stage, "acr-silent");
    assert_eq!(visitor.open(&essential(&[TWO]).with("prompt", "none").url(stage)).error(stage), "interaction_required");
    let wish = Ask::new(&HOME).with("acr_values", TWO).with("prompt", "none");
    visitor.open(&wish.url(stage)).code(stage, &wish);
    let ask = essential(&[TWO]);
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    assert_eq!(visitor.clone().send(&page.press("otp-cancel")).error(stage), "access_denied");
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    visitor.otp(&page, &own.code(0)).code(stage, &ask);
}

#[test]
fn a_clients_defaults_count_where_it_asks_for_nothing() {
    let stage = STAGE.get();
    let (mut visitor, own) = stepping(stage, "acr-default");
    stage
        .admin("PATCH", "/clients/old")
        .json(&json!({"default_acr_values": [TWO], "default_max_age": 3600, "require_auth_time": true}))
        .go()
        .expect(200);
    let ask = Ask::new(&crate::kit::seed::OLD);
    let page = visitor.open(&ask.url(stage)).kind("mfa");
    let code = visitor.otp(&page, &own.code(0)).code(stage, &ask);
    let told = claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"));
    assert_eq!(told["acr"], TWO);
    assert!(told["auth_time"].is_i64());
    let asked = Ask::new(&crate::kit::seed::OLD).with("acr_values", ONE);
    let code = visitor.open(&asked.url(stage)).code(stage, &asked);
    assert_eq!(claims(&text(&asked.redeem(stage, &code).expect(200).json(), "id_token"))["acr"], ONE, "of what was asked for");
}
