//! RP-initiated logout (OpenID Connect RP-Initiated Logout 1.0).
use url::Url;

use crate::kit::seed::{APP, HOME};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

const BYE: &str = "https://home.example.com/bye";

fn url(stage: &Stage, parameters: &[(&str, &str)]) -> String {
    Url::parse_with_params(&stage.url("/logout"), parameters).unwrap().to_string()
}

/// Logged in; the ID token and the rest.
fn logged_in(stage: &Stage) -> (Visitor, serde_json::Value) {
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&HOME), "alice");
    (visitor, tokens)
}

fn is_logged_in(stage: &Stage, visitor: &mut Visitor) -> bool {
    let ask = Ask::new(&HOME).with("prompt", "none");
    let (_, got) = visitor.open(&ask.url(stage)).away();
    got.contains_key("code")
}

/// Confirms when asked to.
fn confirmed(visitor: &mut Visitor, landing: Landing) -> Landing {
    match landing {
        Landing::Page(page) if page.has("logout-confirm") => visitor.send(&page.press("logout-confirm")),
        other => other,
    }
}

#[test]
fn with_a_good_hint_it_ends_the_session_and_goes_back_with_state() {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let state = "s".repeat(128);
    let at =
        visitor.open(&url(stage, &[("id_token_hint", &text(&tokens, "id_token")), ("post_logout_redirect_uri", BYE), ("state", &state)]));
    let (to, got) = confirmed(&mut visitor, at).away();
    assert_eq!(to, BYE);
    assert_eq!(got["state"], state);
    assert!(!is_logged_in(stage, &mut visitor));
}

#[test]
fn without_state_it_goes_back_without_state() {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let at = visitor.open(&url(stage, &[("id_token_hint", &text(&tokens, "id_token")), ("post_logout_redirect_uri", BYE)]));
    let (_, got) = confirmed(&mut visitor, at).away();
    assert!(got.is_empty(), "{got:?}");
}

#[test]
fn a_bad_address_or_hint_is_never_a_redirect() {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let hint = text(&tokens, "id_token");
    let payload = hint.split('.').nth(1).unwrap();
    let unsigned = format!("{}.{payload}.", crate::kit::http::b64(r#"{"alg":"none"}"#));
    let key = crate::kit::forge::Key::new("k");
    let foreign = key.sign(&serde_json::json!({"alg": "ES256", "kid": "k"}), &crate::kit::http::claims(&hint));
    for parameters in [
        vec![("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", "https://evil.example.com/")],
        vec![("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", "https://home.example.com/bye?foo=bar")],
        vec![("id_token_hint", unsigned.as_str()), ("post_logout_redirect_uri", BYE)],
        vec![("id_token_hint", foreign.as_str()), ("post_logout_redirect_uri", BYE)],
        vec![("post_logout_redirect_uri", BYE)],
    ] {
        let page = visitor.open(&url(stage, &parameters)).page();
        assert!(["error", "logout"].contains(&page.kind().as_str()), "{}: {parameters:?}", page.kind());
        if page.has("logout-confirm") {
            let mut copy = visitor.clone();
            let landing = copy.clone().send(&page.press("logout-cancel"));
            assert!(!matches!(landing, Landing::Away(_)), "cancel goes nowhere else");
            assert!(is_logged_in(stage, &mut copy));
        }
    }
    assert!(is_logged_in(stage, &mut visitor), "nothing was ended by looking");
}

#[test]
fn without_parameters_it_asks_first_and_then_says_logged_out() {
    let stage = STAGE.get();
    for parameters in [vec![], vec![("state", "only")]] {
        let (mut visitor, _) = logged_in(stage);
        let page = visitor.open(&url(stage, &parameters)).kind("logout");
        for id in ["logout-form", "logout-confirm", "logout-cancel"] {
            assert!(page.has(id), "#{id}");
        }
        assert!(is_logged_in(stage, &mut visitor), "GET alone ends nothing");
        let done = visitor.send(&page.press("logout-confirm")).page();
        assert!(done.has("logged-out"), "{}", done.answer.text());
        assert!(!is_logged_in(stage, &mut visitor));
    }
}

#[test]
fn a_hint_alone_ends_at_the_logged_out_page() {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let at = visitor.open(&url(stage, &[("id_token_hint", &text(&tokens, "id_token"))]));
    assert!(confirmed(&mut visitor, at).page().has("logged-out"));
}

#[test]
fn a_forged_post_ends_nothing() {
    let stage = STAGE.get();
    let (mut visitor, _) = logged_in(stage);
    let page = visitor.open(&url(stage, &[])).kind("logout");
    let press = page.press("logout-confirm");
    let landing = visitor.clone().send_from(&press, Some("https://evil.example.com"));
    assert!(matches!(&landing, Landing::Page(p) if (400..500).contains(&p.status())), "{landing:?}");
    assert!(is_logged_in(stage, &mut visitor));
}

#[test]
fn the_sessions_tokens_die_with_it() {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let spa = visitor.tokens(stage, &Ask::new(&APP), "alice");
    let (first, second) = (text(&tokens, "access_token"), text(&spa, "access_token"));
    assert_eq!(stage.call("/api/x", &first).status, 200);
    let page = visitor.open(&url(stage, &[])).kind("logout");
    visitor.send(&page.press("logout-confirm"));
    for token in [&first, &second] {
        assert!(!stage.active(token), "introspection after logout");
        assert_eq!(stage.call("/api/x", token).status, 401, "gateway after logout");
    }
}

/// Opens the end-session endpoint as a logged-in person; where it ends, once confirmed.
fn module(parameters: &dyn Fn(&str) -> Vec<(&'static str, String)>) -> (Visitor, Landing, bool) {
    let stage = STAGE.get();
    let (mut visitor, tokens) = logged_in(stage);
    let given = parameters(&text(&tokens, "id_token"));
    let given: Vec<(&str, &str)> = given.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let at = visitor.open(&url(stage, &given));
    let asked = matches!(&at, Landing::Page(page) if page.has("logout-confirm"));
    let at = confirmed(&mut visitor, at);
    (visitor, at, asked)
}

/// A page, and never a redirect.
#[track_caller]
fn stays(parameters: &dyn Fn(&str) -> Vec<(&'static str, String)>) {
    let (_, at, asked) = module(parameters);
    if !asked {
        let page = at.page();
        assert!(page.kind() == "error" && page.has("error-code"), "{}", page.kind());
    }
}

/// The page that says that it is over.
#[track_caller]
fn says_goodbye(parameters: &dyn Fn(&str) -> Vec<(&'static str, String)>) {
    let (mut visitor, at, _) = module(parameters);
    assert!(at.page().has("logged-out"));
    assert!(!is_logged_in(STAGE.get(), &mut visitor));
}

fn bye(uri: &str) -> (&'static str, String) {
    ("post_logout_redirect_uri", uri.to_owned())
}

#[test]
fn oidcc_rp_initiated_logout_discovery_endpoint_verification() {
    use crate::kit::http::{Go, client};
    let stage = STAGE.get();
    let metadata: serde_json::Value = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(metadata["end_session_endpoint"], stage.url("/logout"));
}

#[test]
fn oidcc_rp_initiated_logout() {
    let state = "x".repeat(128);
    let (mut visitor, at, _) = module(&|hint| vec![("id_token_hint", hint.to_owned()), bye(BYE), ("state", state.clone())]);
    let (to, got) = at.away();
    assert_eq!((to.as_str(), &got["state"], got.len()), (BYE, &state, 1));
    assert!(!is_logged_in(STAGE.get(), &mut visitor));
}

#[test]
fn oidcc_rp_initiated_logout_bad_post_logout_redirect_uri() {
    stays(&|hint| vec![("id_token_hint", hint.to_owned()), bye("https://home.example.com/bye/other")]);
}

#[test]
fn oidcc_rp_initiated_logout_query_added_to_post_logout_redirect_uri() {
    stays(&|hint| vec![("id_token_hint", hint.to_owned()), bye(&format!("{BYE}?foo=bar"))]);
}

#[test]
fn oidcc_rp_initiated_logout_modified_id_token_hint() {
    stays(&|hint| {
        let payload = hint.split('.').nth(1).unwrap();
        vec![("id_token_hint", format!("{}.{payload}.", crate::kit::http::b64(r#"{"alg":"none"}"#))), bye(BYE)]
    });
}

#[test]
fn oidcc_rp_initiated_logout_bad_id_token_hint() {
    stays(&|hint| {
        let key = crate::kit::forge::Key::new("k");
        let foreign = key.sign(&serde_json::json!({"alg": "ES256", "kid": "k"}), &crate::kit::http::claims(hint));
        vec![("id_token_hint", foreign), bye(BYE)]
    });
}

#[test]
fn oidcc_rp_initiated_logout_no_id_token_hint() {
    stays(&|_| vec![bye(BYE)]);
}

#[test]
fn oidcc_rp_initiated_logout_no_params() {
    says_goodbye(&|_| Vec::new());
}

#[test]
fn oidcc_rp_initiated_logout_no_post_logout_redirect_uri() {
    says_goodbye(&|hint| vec![("id_token_hint", hint.to_owned()), ("state", "s".to_owned())]);
}

#[test]
fn oidcc_rp_initiated_logout_only_state() {
    says_goodbye(&|_| vec![("state", "s".to_owned())]);
}

#[test]
fn oidcc_rp_initiated_logout_no_state() {
    let (_, at, _) = module(&|hint| vec![("id_token_hint", hint.to_owned()), bye(BYE)]);
    let (to, got) = at.away();
    assert!(to == BYE && got.is_empty(), "{to} {got:?}");
}
