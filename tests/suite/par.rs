//! Pushed authorization requests (RFC 9126).
use std::sync::OnceLock;

use serde_json::json;

use crate::kit::fapi::{self, go_on, login_page, stage};
use crate::kit::http::{Go, client};
use crate::kit::seed::{APP, HOME, Id, RIVAL, WEB};
use crate::kit::{Answer, Ask, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

/// Pushes a request of a client that authenticates with a secret.
#[track_caller]
fn push(stage: &Stage, who: &Id, ask: &Ask) -> Answer {
    let named = |name: &str| who.method == "none" && name == "client_id";
    let form: Vec<(&str, &str)> = ask.parameters.iter().filter(|(k, _)| !named(k)).map(|(k, v)| (k.as_str(), v.as_str())).collect();
    stage.post("/par", who, &form)
}

#[track_caller]
fn pushed(stage: &Stage, who: &Id, ask: &Ask) -> Ask {
    let told = push(stage, who, ask).expect(201).json();
    let uri = told["request_uri"].as_str().expect("request_uri").to_owned();
    Ask { parameters: vec![("client_id".into(), who.id.into()), ("request_uri".into(), uri)], ..ask.clone() }
}

#[test]
fn a_pushed_request_is_answered_with_a_reference_nobody_can_guess() {
    let stage = STAGE.get();
    let answer = push(stage, &WEB, &Ask::new(&WEB)).expect(201);
    assert!(answer.header("content-type").starts_with("application/json") && answer.header("cache-control").contains("no-store"));
    let told = answer.json();
    let uri = told["request_uri"].as_str().expect("request_uri");
    let secret = uri.strip_prefix("urn:ietf:params:oauth:request_uri:").expect("a reference");
    assert!(secret.len() >= 40 && told["expires_in"] == 60, "{told}");
    assert!(stage.house.holds(secret).is_none(), "the database keeps a MAC only");
    assert!(!stage.log().contains(secret));
}

#[test]
fn it_is_served_by_its_reference_alone_and_used_up_by_the_answer() {
    let stage = STAGE.get();
    let ask = Ask::new(&WEB);
    let by_reference = pushed(stage, &WEB, &ask);
    let code = Visitor::new().walk(stage, &by_reference, "alice").code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    let again = Visitor::new().open(&by_reference.url(stage)).kind("error");
    assert_eq!(again.text_of("error-code"), "invalid_request_uri");
}

#[test]
fn the_login_page_may_be_opened_twice_and_only_one_login_gets_the_code() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let by_reference = pushed(stage, &HOME, &ask);
    let (mut one, mut other) = (Visitor::new(), Visitor::new());
    let (page, second) = (login_page(&mut one, &by_reference.url(stage)), login_page(&mut other, &by_reference.url(stage)));
    let code = go_on(&mut one, &page).code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    go_on(&mut other, &second).kind("error");
}

#[test]
fn a_refusal_uses_it_up_too() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("prompt", "none");
    let by_reference = pushed(stage, &HOME, &ask);
    assert_eq!(Visitor::new().open(&by_reference.url(stage)).error(stage), "login_required");
    Visitor::new().open(&by_reference.url(stage)).kind("error");
}

#[test]
fn everything_is_checked_at_the_push() {
    let stage = STAGE.get();
    for (ask, code) in [
        (Ask::new(&WEB).without("redirect_uri"), "invalid_request"),
        (Ask::new(&WEB).with("redirect_uri", "https://evil.example.com/cb"), "invalid_request"),
        (Ask::new(&WEB).without("response_type"), "invalid_request"),
        (Ask::new(&WEB).with("response_type", "token"), "unsupported_response_type"),
        (Ask::new(&WEB).without("code_challenge").without("code_challenge_method"), "invalid_request"),
        (Ask::new(&WEB).with("code_challenge_method", "plain"), "invalid_request"),
        (Ask::new(&WEB).with("scope", "openid nonsense"), "invalid_scope"),
        (Ask::new(&WEB).with("resource", "https://unknown.example.com"), "invalid_target"),
        (Ask::new(&WEB).with("claims", "{not json"), "invalid_request"),
        (Ask::new(&WEB).with("prompt", "none login"), "invalid_request"),
        (Ask::new(&WEB).with("request_uri", "urn:ietf:params:oauth:request_uri:x"), "invalid_request"),
        (Ask::new(&WEB).with("request_uri", ""), "invalid_request"),
        (Ask::new(&WEB).with("request", "e30.e30."), "invalid_request_object"),
        (Ask::new(&WEB).with("client_id", "rival"), "invalid_request"),
        (Ask::new(&WEB).with("authorization_details", "[{\"type\":\"payment\"}]"), "invalid_authorization_details"),
        (Ask::new(&WEB).with("dpop_jkt", "short"), "invalid_request"),
        (Ask::new(&WEB).again("scope", "openid"), "invalid_request"),
    ] {
        let answer = push(stage, &WEB, &ask);
        assert_eq!(answer.status, 400, "{:?}: {}", ask.parameters, answer.text());
        assert_eq!(answer.json()["error"], code, "{:?}", ask.parameters);
    }
}

#[test]
fn only_its_own_client_pushes_and_uses_it() {
    let stage = STAGE.get();
    let wrong = Id { secret: "not the secret", ..WEB };
    push(stage, &wrong, &Ask::new(&WEB)).expect_error(401, "invalid_client");
    let by_reference = pushed(stage, &WEB, &Ask::new(&WEB));
    let foreign = by_reference.clone().with("client_id", RIVAL.id);
    assert_eq!(Visitor::new().open(&foreign.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
    for uri in ["urn:ietf:params:oauth:request_uri:", "urn:ietf:params:oauth:request_uri:dwp_AAAA"] {
        let unknown = by_reference.clone().with("request_uri", uri);
        assert_eq!(Visitor::new().open(&unknown.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
    }
    // Nothing of that harmed it.
    Visitor::new().open(&by_reference.url(stage)).kind("login");
}

#[test]
fn what_stands_beside_the_reference_does_not_count() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).without("state");
    let by_reference = pushed(stage, &HOME, &ask);
    let noisy = by_reference.with("state", "outside").with("redirect_uri", "https://evil.example.com/").with("scope", "openid write");
    let (to, got) = Visitor::new().walk(stage, &noisy, "alice").away();
    assert_eq!(to, "https://home.example.com/cb");
    assert!(!got.contains_key("state") && got.contains_key("code"), "{got:?}");
}

#[test]
fn a_public_client_may_push_and_other_methods_and_bodies_may_not() {
    let stage = STAGE.get();
    let ask = Ask::new(&APP);
    let code = Visitor::new().walk(stage, &pushed(stage, &APP, &ask), "alice").code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    for method in [reqwest::Method::GET, reqwest::Method::PUT, reqwest::Method::DELETE] {
        let answer = client().request(method, stage.url("/par")).go();
        assert_eq!(answer.status, 405);
    }
    client().post(stage.url("/par")).basic_auth(WEB.id, Some(WEB.secret)).json(&json!({})).go().expect(400);
    let huge = "x".repeat(70_000);
    client().post(stage.url("/par")).basic_auth(WEB.id, Some(WEB.secret)).form(&[("state", huge)]).go().expect(413);
    client().post(stage.url("/par?client_id=web")).basic_auth(WEB.id, Some(WEB.secret)).form(&[("a", "b")]).go().expect(400);
}

fn strict() -> &'static (Stage, fapi::Client) {
    static ONE: OnceLock<(Stage, fapi::Client)> = OnceLock::new();
    ONE.get_or_init(|| {
        let who = fapi::Client::new("pusher", "https://pusher.example.com/cb");
        let mut object = who.object();
        object["require_pushed_authorization_requests"] = json!(true);
        (stage(vec![object], |house| _ = house.text("lifetimes.par", "1s")), who)
    })
}

#[test]
fn a_client_that_has_to_push_cannot_ask_plainly() {
    let (stage, who) = strict();
    let ask = Ask::new(&who.id);
    assert_eq!(Visitor::new().open(&ask.url(stage)).error(stage), "invalid_request");
}

#[test]
fn a_reference_lives_as_long_as_configured() {
    let (stage, who) = strict();
    let ask = Ask::new(&who.id);
    let told = who.push(stage, &ask).expect(201).json();
    assert_eq!(told["expires_in"], 1);
    let by_reference = ask.with("request_uri", told["request_uri"].as_str().expect("request_uri"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(Visitor::new().open(&by_reference.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
}

#[test]
fn it_may_expire_while_a_person_logs_in() {
    let (stage, who) = strict();
    let ask = Ask::new(&who.id);
    let mut visitor = Visitor::new();
    let page = login_page(&mut visitor, &who.pushed(stage, &ask).url(stage));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    go_on(&mut visitor, &page).code(stage, &ask);
}

#[test]
fn a_proof_at_the_push_binds_the_code() {
    let (stage, who) = strict();
    let ask = Ask::new(&who.id);
    let headers = [("dpop", who.proof("POST", &stage.url("/par"), None))];
    let told = who.post(stage, "/par", &ask.parameters, &headers).expect(201).json();
    who.post(stage, "/par", &ask.parameters, &headers).expect_error(400, "invalid_dpop_proof");
    let by_reference = Ask {
        parameters: vec![
            ("client_id".into(), who.id.id.into()),
            ("request_uri".into(), told["request_uri"].as_str().expect("request_uri").into()),
        ],
        ..ask.clone()
    };
    let code = Visitor::new().walk(stage, &by_reference, "alice").code(stage, &ask);
    let thief = fapi::Client::new("pusher", who.id.redirect);
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", who.id.redirect), ("code_verifier", &ask.verifier)];
    let form: fapi::Pairs = form.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let foreign = who.post(stage, "/token", &form, &[("dpop", thief.proof("POST", &stage.url("/token"), None))]);
    assert_eq!(foreign.status, 400, "{}", foreign.text());
    who.redeem(stage, &ask, &code).expect(200);
    let other = ask.with("dpop_jkt", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    let refused = who.post(stage, "/par", &other.parameters, &[("dpop", who.proof("POST", &stage.url("/par"), None))]);
    assert!(["invalid_request", "invalid_dpop_proof"].contains(&refused.json()["error"].as_str().unwrap_or_default()));
}

#[test]
fn pushes_are_told_to_the_audit_log_and_counted() {
    let stage = STAGE.get();
    pushed(stage, &WEB, &Ask::new(&WEB));
    let events = stage.admin("GET", "/events?kind=request.pushed").go().expect(200).json();
    assert!(events["items"].as_array().is_some_and(|all| all.iter().any(|e| e["client_id"] == "web")), "{events}");
    assert!(stage.metric("pushed_requests_total") >= 1.0);
}
