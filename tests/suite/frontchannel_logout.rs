//! Front-channel logout (OpenID Connect Front-Channel Logout 1.0): the person's browser tells the clients.
use serde_json::{Value, json};
use url::Url;

use crate::kit::http::{Go, claims, client};
use crate::kit::seed::{HOME, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Stage, Visitor};

static STAGE: Shared = Shared::new();

const BYE: &str = "https://home.example.com/bye";

/// The clients that want to be told this way are registered so.
fn stage() -> &'static Stage {
    let stage = STAGE.get();
    for (id, uri) in [("home", "https://home.example.com/front?x=1"), ("web", "https://rp.example.com/front")] {
        let document = json!({"frontchannel_logout_uri": uri, "frontchannel_logout_session_required": true});
        stage.admin("PATCH", &format!("/clients/{id}")).json(&document).go().expect(200);
    }
    stage
}

fn logout(stage: &Stage, hint: &str, more: &[(&str, &str)]) -> String {
    let parameters: Vec<(&str, &str)> = [("id_token_hint", hint)].iter().chain(more).copied().collect();
    Url::parse_with_params(&stage.url("/logout"), &parameters).unwrap().to_string()
}

#[test]
fn oidcc_frontchannel_rp_initiated_logout_discovery_endpoint_verification() {
    let metadata: Value = client().get(STAGE.get().url("/.well-known/openid-configuration")).go().expect(200).json();
    for member in ["frontchannel_logout_supported", "frontchannel_logout_session_supported"] {
        assert_eq!(metadata[member], true, "{member}");
    }
}

#[test]
fn oidcc_frontchannel_rp_initiated_logout() {
    let stage = stage();
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&HOME), "alice");
    visitor.tokens(stage, &Ask::new(&WEB), "alice");
    let hint = text(&tokens, "id_token");
    let sid = text(&claims(&hint), "sid");
    let page = visitor.open(&logout(stage, &hint, &[("post_logout_redirect_uri", BYE), ("state", "a&b\"c")])).kind("logout");
    assert!(page.has("logged-out") && page.has("logout-continue"));
    let html = page.answer.text().replace("&#38;", "&").replace("&amp;", "&");
    let issuer: String = url::form_urlencoded::byte_serialize(stage.issuer.as_bytes()).collect();
    for frame in ["https://home.example.com/front?x=1&", "https://rp.example.com/front?"] {
        assert!(html.contains(&format!("<iframe class=\"unseen\" title=\"Signing out\" src=\"{frame}iss={issuer}&sid={sid}\"")), "{html}");
    }
    assert!(html.contains(&format!("<meta http-equiv=\"refresh\" content=\"2;url={BYE}?state=a%26b%22c\">")), "{html}");
    let policy = page.answer.header("content-security-policy");
    assert!(policy.contains("frame-src https://home.example.com https://rp.example.com;"), "{policy}");
    assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
    let (_, got) = visitor.open(&Ask::new(&HOME).with("prompt", "none").url(stage)).away();
    assert_eq!(got["error"], "login_required");
}

#[test]
fn without_an_address_to_return_to_it_ends_there() {
    let stage = stage();
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&HOME), "alice");
    let page = visitor.open(&logout(stage, &text(&tokens, "id_token"), &[])).page();
    assert!(page.has("logged-out") && page.answer.text().contains("<iframe") && !page.answer.text().contains("http-equiv"));
}

#[test]
fn who_did_not_take_part_is_not_loaded() {
    let stage = stage();
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&HOME), "bob");
    let page = visitor.open(&logout(stage, &text(&tokens, "id_token"), &[])).page();
    assert_eq!(page.count("iframe"), 1);
    assert!(!page.answer.header("content-security-policy").contains("rp.example.com"));
}
