//! Session management (OpenID Connect Session Management 1.0): a client's page learns whether the login changed.
use serde_json::Value;
use url::Url;

use crate::kit::http::{Go, client};
use crate::kit::seed::{HOME, MACHINE, PASSWORD};
use crate::kit::{Ask, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

const ORIGIN: &str = "https://home.example.com";

/// What the page's script hears from the server.
fn verdict(stage: &Stage, visitor: &mut Visitor, client_id: &str, origin: &str, told: &str) -> String {
    let parameters = [("client_id", client_id), ("origin", origin), ("session_state", told)];
    let url = Url::parse_with_params(&stage.url("/session/state"), parameters).unwrap();
    let answer = visitor.once(client().get(url).header("sec-fetch-site", "same-origin")).expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.text()
}

fn arrive(stage: &Stage, visitor: &mut Visitor, username: &str) -> String {
    let (_, got) = visitor.walk(stage, &Ask::new(&HOME), username).away();
    got["session_state"].clone()
}

#[test]
fn oidcc_session_management_discovery_endpoint_verification() {
    let stage = STAGE.get();
    let metadata: Value = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(metadata["check_session_iframe"], stage.url("/session/check"));
    let page = client().get(stage.url("/session/check")).go().expect(200);
    assert_eq!(page.header("x-frame-options"), "", "others may frame it");
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'; script-src 'self'; connect-src 'self'") && policy.contains("frame-ancestors http: https:")
    );
    assert!(page.text().contains("data-near=\"true\"") && page.text().matches("<script").count() == 1);
    let far = client().get(stage.url("/session/check")).header("sec-fetch-site", "cross-site").go().expect(200);
    assert!(far.text().contains("data-near=\"false\""), "another site is told nothing");
    let script = client().get(stage.url("/static/session.js")).go().expect(200);
    assert!(script.header("content-type").starts_with("text/javascript") && !script.text().contains("cookie"));
    assert_eq!(client().get(stage.url("/login")).go().header("x-frame-options"), "DENY");
}

#[test]
fn oidcc_session_management_rp_initiated_logout() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let told = arrive(stage, &mut visitor, "alice");
    assert!(told.split_once('.').is_some_and(|(hash, salt)| hash.len() == 43 && !salt.is_empty()) && !told.contains(' '), "{told}");
    assert_eq!(verdict(stage, &mut visitor, HOME.id, ORIGIN, &told), "unchanged");
    let again = arrive(stage, &mut visitor, "alice");
    assert_ne!(again, told, "salted");
    for told in [&told, &again] {
        assert_eq!(verdict(stage, &mut visitor, HOME.id, ORIGIN, told), "unchanged");
    }
    let page = visitor.open(&stage.url("/logout")).kind("logout");
    visitor.send(&page.press("logout-confirm"));
    assert_eq!(verdict(stage, &mut visitor, HOME.id, ORIGIN, &told), "changed");
    arrive(stage, &mut visitor, "bob");
    assert_eq!(verdict(stage, &mut visitor, HOME.id, ORIGIN, &told), "changed");
}

#[test]
fn a_state_is_worth_nothing_elsewhere() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let told = arrive(stage, &mut visitor, "alice");
    let mut ask = |client: &str, origin: &str, told: &str| verdict(stage, &mut visitor, client, origin, told);
    assert_eq!(ask(HOME.id, "https://evil.example.com", &told), "changed");
    assert_eq!(ask(MACHINE.id, ORIGIN, &told), "changed");
    for bad in ["", "x", "a.b.c", &"x".repeat(4000)] {
        assert_eq!(ask(HOME.id, ORIGIN, bad), "error", "{bad}");
    }
    assert_eq!(ask("", ORIGIN, &told), "error");
    assert_eq!(verdict(stage, &mut Visitor::new(), HOME.id, ORIGIN, &told), "changed", "another browser");
    // A page of another site cannot ask in the person's name.
    let url = Url::parse_with_params(&stage.url("/session/state"), [("client_id", HOME.id), ("origin", ORIGIN), ("session_state", &told)]);
    let answer = visitor.once(client().get(url.unwrap()).header("sec-fetch-site", "cross-site"));
    assert_eq!((answer.text().as_str(), answer.header("access-control-allow-origin")), ("error", ""));
}

#[test]
fn an_error_and_a_request_without_openid_carry_no_state() {
    let stage = STAGE.get();
    let (_, got) = Visitor::new().open(&Ask::new(&HOME).with("prompt", "none").url(stage)).away();
    assert!(!got.contains_key("session_state"), "{got:?}");
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).with("scope", "read").url(stage)).kind("login");
    let (_, got) = visitor.login(&page, "alice", PASSWORD).away();
    assert!(got.contains_key("code") && !got.contains_key("session_state"), "{got:?}");
}
