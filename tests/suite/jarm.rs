//! Authorization responses as signed JWTs (JARM).
use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::fapi::{Client, stage};
use crate::kit::http::{Go, client, now};
use crate::kit::jose::verified;
use crate::kit::seed::{HOME, WEB};
use crate::kit::{Ask, Landing, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

/// The claims of the one parameter `response`, its signature checked.
#[track_caller]
fn opened(stage: &Stage, got: &BTreeMap<String, String>, alg: &str) -> Value {
    let names: Vec<&str> = got.keys().map(String::as_str).filter(|name| *name != "keep").collect();
    assert_eq!(names, ["response"], "nothing beside it");
    verified(stage, &got["response"], alg, "JWT")
}

#[test]
fn a_response_is_one_jwt_for_its_client_for_a_short_time() {
    let stage = STAGE.get();
    for mode in ["jwt", "query.jwt"] {
        let ask = Ask::new(&HOME).with("response_mode", mode);
        let (to, got) = Visitor::new().walk(stage, &ask, "alice").away();
        assert_eq!(to, "https://home.example.com/cb");
        let told = opened(stage, &got, "RS256");
        assert_eq!((&told["iss"], &told["aud"], &told["state"]), (&json!(stage.issuer), &json!(HOME.id), &json!(ask.state)));
        let left = told["exp"].as_i64().expect("exp") - now();
        assert!((1..=600).contains(&left), "{left}");
        ask.redeem(stage, told["code"].as_str().expect("a code")).expect(200);
    }
}

#[test]
fn errors_are_signed_too() {
    let stage = STAGE.get();
    for (ask, code) in [
        (Ask::new(&WEB).with("prompt", "none"), "login_required"),
        (Ask::new(&WEB).with("scope", "openid nonsense"), "invalid_scope"),
        (Ask::new(&WEB).with("response_type", "token"), "unsupported_response_type"),
    ] {
        let ask = ask.with("response_mode", "jwt");
        let (_, got) = Visitor::new().open(&ask.url(stage)).away();
        let told = opened(stage, &got, "RS256");
        assert_eq!((&told["error"], &told["state"]), (&json!(code), &json!(ask.state)));
        assert!(told.get("code").is_none());
    }
}

#[test]
fn a_form_can_carry_it() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("response_mode", "form_post.jwt");
    let Landing::Page(page) = Visitor::new().walk(stage, &ask, "alice") else { panic!("a page") };
    let press = page.press("form-post-submit");
    assert_eq!(press.action, HOME.redirect);
    let got: BTreeMap<String, String> = press.fields.into_iter().collect();
    assert!(opened(stage, &got, "RS256")["code"].is_string());
}

#[test]
fn a_fragment_is_for_tokens_only() {
    let stage = STAGE.get();
    for mode in ["fragment.jwt", "fragment", "web_message"] {
        let ask = Ask::new(&WEB).with("response_mode", mode);
        assert_eq!(Visitor::new().open(&ask.url(stage)).error(stage), "invalid_request", "{mode}");
    }
}

#[test]
fn it_is_signed_as_registered_and_as_fapi_wants_it() {
    static ONE: OnceLock<(Stage, Client, Client)> = OnceLock::new();
    let (stage, registered, strict) = ONE.get_or_init(|| {
        let (a, b) = (Client::new("registered", "https://a.example.com/cb"), Client::new("strict", "https://b.example.com/cb"));
        let (mut one, mut two) = (a.object(), b.object());
        one["authorization_signed_response_alg"] = json!("PS256");
        two["require_signed_request_object"] = json!(true);
        (stage(vec![one, two], |_| {}), a, b)
    });
    let ask = Ask::new(&registered.id).with("response_mode", "jwt").with("prompt", "none");
    let (_, got) = Visitor::new().open(&ask.url(stage)).away();
    opened(stage, &got, "PS256");
    let ask = Ask::new(&strict.id).with("response_mode", "jwt").with("prompt", "none");
    let object = strict.object_of(&strict.claims(stage, &ask));
    let (_, got) = Visitor::new().open(&ask.with("request", &object).url(stage)).away();
    opened(stage, &got, "ES256");
}

#[test]
fn the_metadata_names_modes_and_algorithms() {
    let told = client().get(STAGE.get().url("/.well-known/openid-configuration")).go().expect(200).json();
    let modes = told["response_modes_supported"].as_array().expect("modes");
    assert!(["query", "form_post", "jwt", "query.jwt", "form_post.jwt"].iter().all(|m| modes.contains(&json!(m))), "{modes:?}");
    let algs = told["authorization_signing_alg_values_supported"].as_array().expect("algorithms");
    assert!(["ES256", "PS256", "RS256"].iter().all(|a| algs.contains(&json!(a))), "{algs:?}");
}
