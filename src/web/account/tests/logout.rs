//! Logout and the account page.
use http::{StatusCode, header};
use serde_json::json;

use super::browser::{ISSUER, PASSWORD, Site, Visitor, client, filled, site};

fn id_token(site: &Site, audience: &str, subject: &str) -> String {
    let session = site.world.rows.lock().sessions.keys().next().cloned();
    let claims = json!({"iss": ISSUER, "sub": subject, "aud": audience, "sid": session, "exp": 1, "iat": 0});
    site.key.sign_jwt("JWT", &claims).expect("signs")
}

#[tokio::test]
async fn a_valid_hint_logs_out_at_once_and_returns_with_state() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let hint = id_token(&site, "web", "alice-id");
    let path = format!("/logout?id_token_hint={hint}&post_logout_redirect_uri=https://rp.example.com/bye&state=s1");
    assert_eq!(visitor.get(&path).await.location(), "https://rp.example.com/bye?state=s1");
    assert_eq!(visitor.cookie, None);
    assert_eq!(visitor.authorize("&prompt=none").await.told("error").as_deref(), Some("login_required"));
    assert_eq!(site.world.rows.lock().revocations.len(), 1);
    assert!(site.events().contains(&"session.ended"));
}

#[tokio::test]
async fn without_a_hint_nothing_ends_until_the_person_confirms() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let page = visitor.get("/logout").await;
    assert!(page.page() == "logout" && page.has("logout-form") && page.has("logout-confirm") && page.has("logout-cancel"));
    assert!(!site.events().contains(&"session.ended"));
    let form = page.fields();
    assert_eq!(visitor.post_from("/logout", &form, Some("https://evil.example")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(visitor.post("/logout", &filled(form.clone(), &[("csrf", "x"), ("action", "confirm")])).await.status, StatusCode::FORBIDDEN);
    assert_eq!(visitor.post("/logout", &filled(form.clone(), &[("action", "cancel")])).await.location(), "/account");
    let gone = visitor.post("/logout", &filled(form, &[("action", "confirm")])).await;
    assert!(gone.status == StatusCode::OK && gone.has("logged-out") && visitor.cookie.is_none());
    assert!(visitor.get("/logout").await.has("logged-out"));
}

#[tokio::test]
async fn strange_hints_and_addresses_never_redirect() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let hint = id_token(&site, "web", "alice-id");
    let bent = format!("{}AAAA", &hint[..hint.len() - 4]);
    for query in [
        format!("id_token_hint={bent}&post_logout_redirect_uri=https://rp.example.com/bye"),
        format!("id_token_hint={hint}&post_logout_redirect_uri=https://rp.example.com/bye?x=1"),
        "post_logout_redirect_uri=https://rp.example.com/bye".to_owned(),
    ] {
        let page = visitor.get(&format!("/logout?{query}")).await;
        assert_eq!((page.status, page.page()), (StatusCode::BAD_REQUEST, "error"), "{query}");
    }
    assert!(!site.events().contains(&"session.ended"));
}

#[tokio::test]
async fn id_token_hint_decides_who_may_be_silent() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let (own, other) = (id_token(&site, "web", "alice-id"), id_token(&site, "web", "bob-id"));
    assert!(visitor.authorize(&format!("&prompt=none&id_token_hint={own}")).await.told("code").is_some());
    let refused = visitor.authorize(&format!("&prompt=none&id_token_hint={other}")).await;
    assert_eq!(refused.told("error").as_deref(), Some("login_required"));
}

#[tokio::test]
async fn the_account_page_lists_and_revokes() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let location = visitor.get("/account").await.location().to_owned();
    let page = visitor.get(&location).await;
    assert_eq!(page.page(), "login");
    let form = filled(page.fields(), &[("username", "alice"), ("password", PASSWORD), ("action", "login")]);
    assert_eq!(visitor.post("/login", &form).await.location(), "/account");
    let form = filled(visitor.authorize("").await.fields(), &[("decision", "approve")]);
    visitor.post("/consent", &form).await;
    let page = visitor.get("/account").await;
    assert!(page.page() == "account" && page.body.contains("this browser") && page.body.contains("openid read"));
    let grant = site.world.rows.lock().grants.keys().next().cloned().unwrap();
    let csrf = page.fields()["csrf"].clone();
    let revoke = |csrf: &str| filled(Default::default(), &[("csrf", csrf), ("grant", &grant), ("action", "end-grant")]);
    assert_eq!(visitor.post("/account", &revoke("x")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(visitor.post("/account", &revoke(&csrf)).await.location(), "/account?done=1");
    let rows = site.world.rows.lock().clone();
    assert!(rows.grants[&grant].ended_at.is_some() && rows.consents.is_empty() && rows.revocations.len() == 1);
}

#[tokio::test]
async fn a_new_password_ends_every_other_session_and_the_old_password() {
    let site = site(ISSUER, &client());
    let mut elsewhere = Visitor::of(&site);
    elsewhere.arrive("").await;
    let mut visitor = Visitor::of(&site);
    visitor.log_in("", "alice").await;
    let csrf = visitor.get("/account").await.fields()["csrf"].clone();
    let form = |old: &str| {
        filled(Default::default(), &[("csrf", &csrf), ("old_password", old), ("new_password", "another long one"), ("action", "password")])
    };
    assert_eq!(visitor.post("/account", &form("wrong")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(visitor.post("/account", &form(PASSWORD)).await.location(), "/account?done=1");
    assert_eq!(elsewhere.authorize("&prompt=none").await.told("error").as_deref(), Some("login_required"));
    assert_eq!(visitor.get("/account").await.status, StatusCode::OK);
    let mut later = Visitor::of(&site);
    let form = later.login_form("", "alice", PASSWORD).await;
    assert!(later.post("/login", &form).await.has("login-error"));
}

#[tokio::test]
async fn the_stylesheet_is_told_apart_by_its_tag() {
    let site = site(ISSUER, &client());
    let sheet = Visitor::of(&site).get("/static/doorward.css").await;
    assert!(sheet.status == StatusCode::OK && sheet.headers.contains_key(header::ETAG));
}
