//! Token revocation (RFC 7009), seen at introspection and at the gateway.
use std::time::{Duration, Instant};

use crate::kit::Shared;
use crate::kit::http::{Go, client};
use crate::kit::seed::{APP, GW, HOME, MACHINE, RIVAL, SAFE};
use crate::kit::visitor::text;

static STAGE: Shared = Shared::new();

#[test]
fn after_the_200_a_token_is_dead_everywhere_at_once() {
    let stage = STAGE.get();
    for (who, path) in [(&MACHINE, "/api/revoke"), (&SAFE, "/vault/revoke")] {
        let token = stage.machine_token(who, &[]);
        assert_eq!(stage.call(path, &token).status, 200);
        stage.revoke(who, &token);
        let begun = Instant::now();
        assert_eq!(stage.call(path, &token).status, 401);
        assert!(!stage.active(&token));
        assert!(begun.elapsed() < Duration::from_secs(1));
        // Again: still 200 (RFC 7009 §2.2).
        stage.revoke(who, &token);
    }
}

#[test]
fn other_tokens_of_the_same_client_live_on() {
    let stage = STAGE.get();
    let (doomed, other) = (stage.machine_token(&MACHINE, &[]), stage.machine_token(&MACHINE, &[]));
    stage.revoke(&MACHINE, &doomed);
    assert_eq!(stage.call("/api/x", &other).status, 200);
}

#[test]
fn a_refresh_token_takes_its_grant_with_it() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&APP, "alice");
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    stage.revoke(&APP, &refresh);
    stage.refresh(&APP, &refresh).expect_error(400, "invalid_grant");
    assert!(!stage.active(&access));
    assert_eq!(stage.call("/api/x", &access).status, 401);
}

#[test]
fn an_access_token_of_a_person_can_be_revoked_by_its_client() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&HOME, "alice");
    let access = text(&tokens, "access_token");
    stage.post("/revoke", &HOME, &[("token", &access), ("token_type_hint", "access_token")]).expect(200);
    assert_eq!(stage.call("/api/x", &access).status, 401);
}

#[test]
fn a_foreign_client_cannot_revoke() {
    let stage = STAGE.get();
    let (jwt, opaque) = (stage.machine_token(&MACHINE, &[]), stage.machine_token(&SAFE, &[]));
    for token in [&jwt, &opaque] {
        let answer = stage.post("/revoke", &RIVAL, &[("token", token)]);
        assert!([200, 400, 403].contains(&answer.status), "{}", answer.status);
        assert!(stage.active(token));
    }
    let refresh = text(&stage.person_tokens(&HOME, "alice"), "refresh_token");
    stage.post("/revoke", &RIVAL, &[("token", &refresh)]);
    stage.refresh(&HOME, &refresh).expect(200);
}

#[test]
fn what_is_not_a_token_is_fine_and_what_is_not_a_request_is_not() {
    let stage = STAGE.get();
    for nothing in ["x", "a.b.c", &"z".repeat(3000)] {
        stage.post("/revoke", &GW, &[("token", nothing)]).expect(200);
    }
    stage.post("/revoke", &MACHINE, &[]).expect_error(400, "invalid_request");
    client().post(stage.url("/revoke")).form(&[("token", "x")]).go().expect(401);
    let hint = stage.post("/revoke", &MACHINE, &[("token", "x"), ("token_type_hint", "something")]);
    assert!([200, 400].contains(&hint.status));
}

#[test]
fn a_signed_copy_with_a_changed_signature_revokes_nothing() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let mut forged = token.clone();
    let last = if forged.ends_with('A') { 'E' } else { 'A' };
    forged.pop();
    forged.push(last);
    stage.post("/revoke", &MACHINE, &[("token", &forged)]).expect(200);
    assert_eq!(stage.call("/api/x", &token).status, 200);
}
