//! Consent: asked, remembered, refused.
use crate::kit::seed::{APP, HOME, PASSWORD, RIVAL, SPA, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Page, Server, Shared, Visitor};

static STAGE: Shared = Shared::new();

/// Logged in and looking at the consent page.
#[track_caller]
fn at_consent(stage: &Server, visitor: &mut Visitor, ask: &Ask, username: &str) -> Page {
    match visitor.open(&ask.url(stage)) {
        Landing::Page(page) if page.kind() == "login" => visitor.login(&page, username, PASSWORD).kind("consent"),
        other => other.kind("consent"),
    }
}

#[test]
fn the_page_names_the_client_and_every_scope() {
    let stage = STAGE.get();
    let ask = Ask::new(&WEB).with("scope", "openid email read");
    let page = at_consent(stage, &mut Visitor::new(), &ask, "carol");
    for id in ["consent-form", "consent-approve", "consent-deny", "client-name", "scope-email", "scope-read"] {
        assert!(page.has(id), "#{id}");
    }
    assert!(!page.has("scope-write") && !page.has("scope-profile"));
    assert!(page.answer.header("content-security-policy").contains("frame-ancestors 'none'"));
}

#[test]
fn refusing_sends_access_denied() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let page = at_consent(stage, &mut visitor, &Ask::new(&RIVAL).with("scope", "openid"), "carol");
    assert_eq!(visitor.send(&page.press("consent-deny")).error(stage), "access_denied");
}

#[test]
fn consent_is_remembered_for_its_scope_and_asked_for_more() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let ask = Ask::new(&WEB).with("scope", "openid");
    let page = at_consent(stage, &mut visitor, &ask, "bob");
    visitor.send(&page.press("consent-approve")).code(stage, &ask);
    let again = Ask::new(&WEB).with("scope", "openid");
    visitor.open(&again.url(stage)).code(stage, &again);
    let silent = Ask::new(&WEB).with("scope", "openid profile read").with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(stage)).error(stage), "consent_required");
    let more = Ask::new(&WEB).with("scope", "openid profile read");
    at_consent(stage, &mut visitor, &more, "bob");
    let forced = Ask::new(&WEB).with("scope", "openid").with("prompt", "consent");
    at_consent(stage, &mut visitor, &forced, "bob");
}

#[test]
fn a_public_client_on_loopback_is_always_asked() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let ask = Ask::new(&SPA);
    visitor.walk(stage, &ask, "bob").code(stage, &ask);
    at_consent(stage, &mut visitor, &Ask::new(&SPA), "bob");
    // A public client on an https address is remembered.
    let app = Ask::new(&APP);
    visitor.walk(stage, &app, "bob").code(stage, &app);
    let again = Ask::new(&APP);
    visitor.open(&again.url(stage)).code(stage, &again);
}

#[test]
fn a_first_party_client_is_not_asked() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let ask = Ask::new(&HOME);
    let page = visitor.open(&ask.url(stage)).kind("login");
    visitor.login(&page, "bob", PASSWORD).code(stage, &ask);
}

#[test]
fn a_consent_form_works_once_and_only_in_its_own_browser() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let ask = Ask::new(&SPA);
    let page = at_consent(stage, &mut visitor, &ask, "carol");
    let press = page.press("consent-approve");
    let stolen = Visitor::new().send(&press);
    assert!(matches!(&stolen, Landing::Page(p) if (400..500).contains(&p.status())), "{stolen:?}");
    let forged = visitor.clone().send_from(&press, Some("https://evil.example.com"));
    assert!(matches!(&forged, Landing::Page(p) if (400..500).contains(&p.status())), "{forged:?}");
    let code = visitor.send(&press).code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    match visitor.send(&press) {
        Landing::Page(_) => {}
        Landing::Away(url) => assert!(!url.as_str().contains("code="), "{url}"),
    }
}

#[test]
fn a_token_carries_what_was_allowed_and_no_more() {
    let stage = STAGE.get();
    let ask = Ask::new(&WEB).with("scope", "openid read");
    let tokens = Visitor::new().tokens(stage, &ask, "alice");
    let mut scope: Vec<String> = text(&tokens, "scope").split(' ').map(str::to_owned).collect();
    scope.sort();
    assert_eq!(scope, ["openid", "read"]);
    assert!(tokens.get("refresh_token").is_none(), "a refresh token needs offline_access");
}
