//! Client credentials and audiences (RFC 6749 §4.4, RFC 8707, RFC 9068).
use crate::kit::Shared;
use crate::kit::http::{claims, jose_header};
use crate::kit::seed::{API, GW, MACHINE, POSTER, SAFE, VAULT};

static STAGE: Shared = Shared::new();

#[test]
fn a_machine_gets_a_jwt_and_no_refresh_token() {
    let stage = STAGE.get();
    let answer = stage.token(&MACHINE, &[("grant_type", "client_credentials"), ("scope", "read")]).expect(200);
    assert!(answer.header("cache-control").contains("no-store"));
    let tokens = answer.json();
    assert!(tokens.get("refresh_token").is_none() && tokens.get("id_token").is_none());
    assert_eq!(tokens["expires_in"], 300);
    let token = tokens["access_token"].as_str().unwrap();
    assert_eq!(jose_header(token)["typ"], "at+jwt");
    let c = claims(token);
    assert_eq!((&c["sub"], &c["client_id"], &c["scope"]), (&"machine".into(), &"machine".into(), &"read".into()));
    assert!(c["aud"] == API || c["aud"] == serde_json::json!([API]));
}

#[test]
fn no_scope_asked_means_what_the_client_has() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let scope = claims(&token)["scope"].as_str().unwrap().to_owned();
    let mut scope: Vec<&str> = scope.split(' ').collect();
    scope.sort_unstable();
    assert_eq!(scope, ["read", "write"]);
}

#[test]
fn scope_beyond_the_client_is_refused() {
    let stage = STAGE.get();
    for scope in ["read admin", "open", "doorward.admin", "openid\u{7f}"] {
        stage.token(&MACHINE, &[("grant_type", "client_credentials"), ("scope", scope)]).expect_error(400, "invalid_scope");
    }
}

#[test]
fn an_opaque_resource_gets_opaque_tokens() {
    let stage = STAGE.get();
    let token = stage.machine_token(&SAFE, &[]);
    assert!(!token.contains('.') && token.len() >= 43, "{} characters", token.len());
    let facts = stage.introspect(&token);
    assert_eq!(facts["active"], true);
    assert!(facts["aud"] == VAULT || facts["aud"] == serde_json::json!([VAULT]), "{facts}");
}

#[test]
fn several_resources_must_be_chosen_from_and_only_from_them() {
    let stage = STAGE.get();
    let ask = |more: &[(&str, &str)]| {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(more);
        stage.token(&POSTER, &form)
    };
    ask(&[]).expect_error(400, "invalid_target");
    ask(&[("resource", "https://unknown.example.com")]).expect_error(400, "invalid_target");
    ask(&[("resource", "not a uri")]).expect_error(400, "invalid_target");
    let token = ask(&[("resource", API)]).expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["scope"], "read");
    stage.token(&MACHINE, &[("grant_type", "client_credentials"), ("resource", VAULT)]).expect_error(400, "invalid_target");
}

#[test]
fn a_gateways_credential_is_for_this_issuer() {
    let stage = STAGE.get();
    let token = stage.machine_token(&GW, &[("scope", "doorward.introspect")]);
    let facts = stage.introspect(&token);
    assert_eq!(facts["scope"], "doorward.introspect", "{facts}");
}

#[test]
fn tokens_are_never_the_same_twice() {
    let stage = STAGE.get();
    let mut seen: Vec<String> = (0..20).map(|_| claims(&stage.machine_token(&MACHINE, &[]))["jti"].as_str().unwrap().to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}
