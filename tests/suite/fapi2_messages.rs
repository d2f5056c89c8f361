//! FAPI 2.0 Message Signing: one test a module of the certification suite's list of signed requests; signed responses beside them.
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::fapi::{Client, stage};
use crate::kit::http::now;
use crate::kit::jose::verified;
use crate::kit::{Answer, Ask, Stage, Visitor};

struct Scene {
    stage: Stage,
    one: Client,
    two: Client,
}

fn scene() -> &'static Scene {
    static ONE: OnceLock<Scene> = OnceLock::new();
    ONE.get_or_init(|| {
        let one = Client::new("signed-one", "https://one.example.com/cb");
        let two = Client::new("signed-two", "https://two.example.com/cb?dummy1=lorem&dummy2=ipsum");
        let signing = |who: &Client| {
            let mut object = who.object();
            object["require_signed_request_object"] = json!(true);
            object
        };
        let stage = stage(vec![signing(&one), signing(&two)], |house| _ = house.text("server.profile", "fapi2"));
        Scene { stage, one, two }
    })
}

/// Pushes a good request object after a change.
#[track_caller]
fn push(change: impl FnOnce(&mut Value)) -> Answer {
    let Scene { stage, one, .. } = scene();
    let mut claims = one.claims(stage, &Ask::new(&one.id));
    change(&mut claims);
    one.push_object(stage, &one.object_of(&claims), &[])
}

#[track_caller]
fn fails(change: impl FnOnce(&mut Value)) {
    push(change).expect_error(400, "invalid_request_object");
}

fn remove(claims: &mut Value, name: &str) {
    claims.as_object_mut().expect("an object").remove(name);
}

/// Goes on from a pushed object.
#[track_caller]
fn walk(ask: &Ask, answer: Answer) -> crate::kit::Landing {
    let Scene { stage, one, .. } = scene();
    let told = answer.expect(201).json();
    let uri = told["request_uri"].as_str().expect("request_uri").to_owned();
    let by_reference = Ask { parameters: vec![("client_id".into(), one.id.id.into()), ("request_uri".into(), uri)], ..ask.clone() };
    Visitor::new().walk(stage, &by_reference, "alice")
}

#[test]
fn fapi2_happy_flow_signed() {
    let Scene { stage, one, .. } = scene();
    for sign in [|who: &Client, claims: &Value| who.object_of(claims), |who: &Client, claims: &Value| who.rsa.sign("PS256", claims)] {
        let ask = Ask::new(&one.id);
        let object = sign(one, &one.claims(stage, &ask));
        let code = walk(&ask, one.push_object(stage, &object, &[])).code(stage, &ask);
        one.redeem(stage, &ask, &code).expect(200);
    }
}

#[test]
fn fapi2_ensure_request_object_with_multiple_aud_succeeds() {
    let issuer = scene().stage.issuer.clone();
    push(|claims| claims["aud"] = json!([issuer, "https://other.example.com"])).expect(201);
}

#[test]
fn fapi2_ensure_request_object_without_exp_fails() {
    fails(|claims| remove(claims, "exp"));
}

#[test]
fn fapi2_ensure_request_object_without_nbf_fails() {
    fails(|claims| remove(claims, "nbf"));
}

#[test]
fn fapi2_ensure_expired_request_object_fails() {
    fails(|claims| claims["exp"] = json!(now() - 300));
}

#[test]
fn fapi2_ensure_request_object_with_bad_aud_fails() {
    fails(|claims| claims["aud"] = json!("https://other.example.com"));
    fails(|claims| remove(claims, "aud"));
}

#[test]
fn fapi2_ensure_request_object_with_exp_over_60_fails() {
    fails(|claims| claims["exp"] = json!(now() + 70 * 60));
}

#[test]
fn fapi2_ensure_request_object_with_nbf_over_60_fails() {
    fails(|claims| claims["nbf"] = json!(now() - 70 * 60));
    fails(|claims| claims["nbf"] = json!(now() + 70));
}

#[test]
fn fapi2_ensure_request_object_with_nbf_8_seconds_in_the_future_is_accepted() {
    push(|claims| claims["nbf"] = json!(now() + 8)).expect(201);
}

#[test]
fn fapi2_ensure_signed_request_object_with_rs256_fails() {
    let Scene { stage, one, .. } = scene();
    let object = one.rsa.sign("RS256", &one.claims(stage, &Ask::new(&one.id)));
    one.push_object(stage, &object, &[]).expect_error(400, "invalid_request_object");
}

#[test]
fn fapi2_ensure_request_object_signature_algorithm_is_not_none() {
    let Scene { stage, one, .. } = scene();
    let object = one.key.sign_text(r#"{"alg":"none"}"#, &one.claims(stage, &Ask::new(&one.id)).to_string());
    let bare = format!("{}.", object.rsplit_once('.').expect("a signature").0);
    for object in [object, bare] {
        one.push_object(stage, &object, &[]).expect_error(400, "invalid_request_object");
    }
}

#[test]
fn fapi2_ensure_request_object_with_invalid_signature_fails() {
    let Scene { stage, one, .. } = scene();
    let object = one.object_of(&one.claims(stage, &Ask::new(&one.id)));
    let (signed, _) = object.rsplit_once('.').expect("a signature");
    let (_, other) = one.object_of(&json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a signature");
    one.push_object(stage, &format!("{signed}.{other}"), &[]).expect_error(400, "invalid_request_object");
}

#[test]
fn fapi2_ensure_matching_key_in_authorization_request() {
    let Scene { stage, one, two } = scene();
    let object = two.key.sign(&json!({"alg": "ES256", "kid": one.key.kid}), &one.claims(stage, &Ask::new(&one.id)));
    one.push_object(stage, &object, &[]).expect_error(400, "invalid_request_object");
}

#[test]
fn fapi2_ensure_unsigned_request_at_par_endpoint_fails() {
    let Scene { stage, one, .. } = scene();
    one.push(stage, &Ask::new(&one.id)).expect_error(400, "invalid_request");
}

#[test]
fn fapi2_par_authorization_request_containing_request_uri() {
    fails(|claims| claims["request_uri"] = json!("urn:ietf:params:oauth:request_uri:x"));
    let Scene { stage, one, .. } = scene();
    let object = one.object_of(&one.claims(stage, &Ask::new(&one.id)));
    one.push_object(stage, &object, &[("request_uri", "urn:x")]).expect_error(400, "invalid_request");
}

#[test]
fn fapi2_ensure_different_state_inside_and_outside_signed_request_object() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let object = one.object_of(&one.claims(stage, &ask));
    walk(&ask, one.push_object(stage, &object, &[("state", "outside"), ("nonce", "outside")])).code(stage, &ask);
}

#[test]
fn fapi2_state_only_outside_signed_request_object_not_used() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id).without("state");
    let object = one.object_of(&one.claims(stage, &ask));
    let (_, got) = walk(&ask, one.push_object(stage, &object, &[("state", "outside")])).away();
    assert!(got.contains_key("code") && !got.contains_key("state"), "{got:?}");
}

#[test]
fn fapi2_happy_flow_jarm() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id).with("response_mode", "jwt");
    let object = one.object_of(&one.claims(stage, &ask));
    let (_, got) = walk(&ask, one.push_object(stage, &object, &[])).away();
    assert_eq!(got.keys().collect::<Vec<_>>(), ["response"]);
    let told = verified(stage, &got["response"], "ES256", "JWT");
    assert_eq!((&told["iss"], &told["aud"]), (&json!(stage.issuer), &json!(one.id.id)));
    one.redeem(stage, &ask, told["code"].as_str().expect("a code")).expect(200);
}
