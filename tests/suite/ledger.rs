//! The ledger as an audit log: every security event once, in order, without a secret.
use serde_json::Value;

use crate::kit::http::Go;
use crate::kit::seed::{APP, MACHINE, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Stage, Visitor};

fn events(stage: &Stage, after: i64) -> Vec<Value> {
    let mut all = Vec::new();
    let mut path = "/events?limit=100".to_owned();
    loop {
        let page = stage.admin("GET", &path).go().expect(200).json();
        all.extend(page["items"].as_array().unwrap().iter().filter(|e| e["seq"].as_i64().unwrap() > after).cloned());
        match page["next"].as_str() {
            Some(next) => path = format!("/events?limit=100&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn a_story_is_told_once_and_in_order() {
    let stage = Stage::start(|_| {});
    let head = events(&stage, 0).last().map_or(0, |e| e["seq"].as_i64().unwrap());
    let mut visitor = Visitor::new();
    let ask = Ask::new(&APP);
    let page = visitor.open(&ask.url(&stage)).kind("login");
    let page = visitor.login(&page, "alice", "wrong").kind("login");
    let page = visitor.login(&page, "alice", PASSWORD).kind("consent");
    let code = visitor.send(&page.press("consent-approve")).code(&stage, &ask);
    let tokens = ask.redeem(&stage, &code).expect(200).json();
    let next = stage.refresh(&APP, &text(&tokens, "refresh_token")).expect(200).json();
    stage.revoke(&APP, &text(&next, "refresh_token"));
    stage.token(&MACHINE, &[("grant_type", "nonsense")]);
    let wrong = crate::kit::Id { secret: "wrong", ..MACHINE };
    stage.token(&wrong, &[("grant_type", "client_credentials")]).expect_error(401, "invalid_client");
    let story = events(&stage, head);
    let kinds: Vec<&str> = story.iter().map(|e| e["kind"].as_str().unwrap()).filter(|k| !k.starts_with("object.")).collect();
    let once = |kind: &str| {
        let about: Vec<&Value> = story.iter().filter(|e| e["kind"] == kind && e["client_id"] != "doorward-admin").collect();
        assert_eq!(about.len(), 1, "{kind} is told {} times: {kinds:?}", about.len());
    };
    for kind in [
        "login.failed",
        "login.succeeded",
        "session.started",
        "consent.granted",
        "code.issued",
        "token.refreshed",
        "grant.ended",
        "client.auth_failed",
    ] {
        once(kind);
    }
    let place = |kind: &str| kinds.iter().position(|k| *k == kind).unwrap();
    assert!(place("login.failed") < place("login.succeeded"));
    assert!(place("login.succeeded") <= place("consent.granted"));
    assert!(place("consent.granted") <= place("code.issued") && place("code.issued") < place("token.refreshed"));
    assert!(place("token.refreshed") < place("grant.ended"));
    let seqs: Vec<i64> = story.iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert!(seqs.windows(2).all(|w| w[0] < w[1]), "{seqs:?}");
    let whole = serde_json::to_string(&story).unwrap();
    for secret in
        [PASSWORD, "wrong\"", code.as_str(), &text(&tokens, "access_token"), &text(&tokens, "refresh_token"), "dwr_", "dwc_", "dwf_"]
    {
        assert!(!whole.contains(secret), "{secret} is in the ledger");
    }
}

#[test]
fn a_replay_and_a_reuse_are_told_as_such() {
    let stage = Stage::start(|_| {});
    let ask = Ask::new(&APP);
    let code = Visitor::new().walk(&stage, &ask, "alice").code(&stage, &ask);
    ask.redeem(&stage, &code).expect(200);
    ask.redeem(&stage, &code).expect_error(400, "invalid_grant");
    let token = text(&stage.person_tokens(&APP, "alice"), "refresh_token");
    stage.refresh(&APP, &token).expect(200);
    stage.refresh(&APP, &token).expect_error(400, "invalid_grant");
    let kinds: Vec<String> = events(&stage, 0).iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
    for kind in ["code.replayed", "refresh.reused"] {
        assert_eq!(kinds.iter().filter(|k| *k == kind).count(), 1, "{kind}: {kinds:?}");
    }
}

#[test]
fn a_flood_of_failures_is_told_as_throttled() {
    let stage = Stage::start(|_| {});
    for _ in 0..45 {
        let mut visitor = Visitor::from("127.0.4.4");
        if let Landing::Page(page) = visitor.open(&Ask::new(&APP).url(&stage))
            && page.has("login-submit")
        {
            visitor.login(&page, "alice", "wrong");
        }
    }
    let kinds: Vec<String> = events(&stage, 0).iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
    assert!(kinds.iter().any(|k| k == "login.throttled"), "{kinds:?}");
}

#[test]
fn a_debug_log_holds_no_secret() {
    let stage = Stage::start(|house| {
        house.text("log.filter", "debug");
    });
    let tokens = stage.person_tokens(&APP, "alice");
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    let machine = stage.machine_token(&MACHINE, &[]);
    stage.call("/api/x", &access);
    stage.call("/vault/x", &stage.machine_token(&crate::kit::seed::SAFE, &[]));
    stage.refresh(&APP, &refresh).expect(200);
    stage.revoke(&MACHINE, &machine);
    let log = stage.log();
    assert!(log.len() > 100, "something is logged");
    for secret in [PASSWORD, MACHINE.secret, &access, &refresh, &machine, "dwc_", "dwa_", "dwb_", "dwf_"] {
        assert!(!log.contains(secret), "{} is in the log", &secret[..4.min(secret.len())]);
    }
}
