//! Refresh tokens: rotation, reuse, families (RFC 6749 §6, RFC 9700 §2.2.2).
use std::time::Duration;

use crate::kit::http::claims;
use crate::kit::seed::{APP, HOME, RIVAL, WEB};
use crate::kit::visitor::text;
use crate::kit::{Shared, Stage};

static STAGE: Shared = Shared::new();

#[test]
fn a_public_clients_token_rotates_each_use() {
    let stage = STAGE.get();
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let answer = stage.refresh(&APP, &first).expect(200);
    assert!(answer.header("cache-control").contains("no-store"));
    let second = text(&answer.json(), "refresh_token");
    assert_ne!(first, second);
    let third = text(&stage.refresh(&APP, &second).expect(200).json(), "refresh_token");
    assert_ne!(second, third);
}

#[test]
fn reuse_kills_the_family_and_its_access_tokens() {
    let stage = STAGE.get();
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let next = stage.refresh(&APP, &first).expect(200).json();
    let access = text(&next, "access_token");
    assert_eq!(stage.call("/api/x", &access).status, 200);
    stage.refresh(&APP, &first).expect_error(400, "invalid_grant");
    stage.refresh(&APP, &text(&next, "refresh_token")).expect_error(400, "invalid_grant");
    assert!(!stage.active(&access));
    assert_eq!(stage.call("/api/x", &access).status, 401);
}

#[test]
fn one_family_dies_alone() {
    let stage = STAGE.get();
    let doomed = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let other = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    stage.refresh(&APP, &doomed).expect(200);
    stage.refresh(&APP, &doomed).expect_error(400, "invalid_grant");
    stage.refresh(&APP, &other).expect(200);
}

#[test]
fn within_the_grace_a_retry_gets_the_same_successor() {
    let stage = Stage::start(|house| {
        house.text("lifetimes.refresh_grace", "8s");
    });
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let second = text(&stage.refresh(&APP, &first).expect(200).json(), "refresh_token");
    let retry = text(&stage.refresh(&APP, &first).expect(200).json(), "refresh_token");
    assert_eq!(second, retry);
    let third = text(&stage.refresh(&APP, &second).expect(200).json(), "refresh_token");
    // Not the immediate predecessor any more: reuse.
    stage.refresh(&APP, &first).expect_error(400, "invalid_grant");
    stage.refresh(&APP, &third).expect_error(400, "invalid_grant");
    // After the grace, even the immediate predecessor is reuse.
    let first = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let second = text(&stage.refresh(&APP, &first).expect(200).json(), "refresh_token");
    std::thread::sleep(Duration::from_millis(9200));
    stage.refresh(&APP, &first).expect_error(400, "invalid_grant");
    stage.refresh(&APP, &second).expect_error(400, "invalid_grant");
}

#[test]
fn scope_can_be_narrowed_and_not_widened() {
    let stage = STAGE.get();
    let token = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let form = |token: &str, scope: &str| stage.token(&APP, &[("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)]);
    form(&token, "openid read write").expect_error(400, "invalid_scope");
    let narrowed = form(&token, "read").expect(200).json();
    assert_eq!(claims(&text(&narrowed, "access_token"))["scope"], "read");
    // The grant keeps what it had.
    let back = stage.refresh(&APP, &text(&narrowed, "refresh_token")).expect(200).json();
    let scope = text(&back, "scope");
    assert!(scope.split(' ').any(|s| s == "openid"), "{scope}");
}

#[test]
fn a_token_is_bound_to_its_client() {
    let stage = STAGE.get();
    let token = text(&stage.person_tokens(&WEB, "alice"), "refresh_token");
    stage.refresh(&RIVAL, &token).expect_error(400, "invalid_grant");
    stage.refresh(&WEB, &token).expect(200);
}

#[test]
fn a_confidential_client_may_keep_or_rotate_but_reuse_of_a_rotated_one_counts() {
    let stage = STAGE.get();
    let first = text(&stage.person_tokens(&HOME, "alice"), "refresh_token");
    let next = stage.refresh(&HOME, &first).expect(200).json();
    match next["refresh_token"].as_str() {
        Some(second) if second != first => {
            stage.refresh(&HOME, &first).expect_error(400, "invalid_grant");
            stage.refresh(&HOME, second).expect_error(400, "invalid_grant");
        }
        _ => {
            stage.refresh(&HOME, &first).expect(200);
        }
    }
}

#[test]
fn idle_and_absolute_ends_are_kept() {
    let stage = Stage::start(|house| {
        // Wide enough apart that a busy machine does not matter: used every four seconds of eight, for twelve.
        house.text("lifetimes.refresh_idle", "8s").text("lifetimes.refresh_token", "12s");
    });
    let idle = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    let mut busy = text(&stage.person_tokens(&APP, "bob"), "refresh_token");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(4100));
        busy = text(&stage.refresh(&APP, &busy).expect(200).json(), "refresh_token");
    }
    stage.refresh(&APP, &idle).expect_error(400, "invalid_grant");
    std::thread::sleep(Duration::from_millis(5000));
    // Used all the time, and over all the same.
    stage.refresh(&APP, &busy).expect_error(400, "invalid_grant");
}

#[test]
fn a_refreshed_id_token_keeps_subject_and_session() {
    let stage = STAGE.get();
    let tokens = stage.person_tokens(&APP, "alice");
    let first = claims(&text(&tokens, "id_token"));
    let next = stage.refresh(&APP, &text(&tokens, "refresh_token")).expect(200).json();
    if let Some(again) = next["id_token"].as_str().map(claims) {
        for name in ["iss", "sub", "aud"] {
            assert_eq!(first[name], again[name], "{name}");
        }
    }
}
