//! Logins that begin elsewhere than at the client (OpenID Connect Core §4).
use serde_json::json;

use crate::kit::http::Go;
use crate::kit::seed::HOME;
use crate::kit::{Ask, Shared, Visitor};

static STAGE: Shared = Shared::new();

#[test]
fn oidcc_3rd_party_init_login() {
    let stage = STAGE.get();
    let uri = "https://home.example.com/start?from=there";
    let told = stage.admin("PATCH", "/clients/home").json(&json!({"initiate_login_uri": uri})).go().expect(200).json();
    assert_eq!(told["initiate_login_uri"], uri);
    let mut visitor = Visitor::new();
    visitor.tokens(stage, &Ask::new(&HOME), "alice");
    let page = visitor.open(&stage.url("/account")).kind("account");
    let issuer: String = url::form_urlencoded::byte_serialize(stage.issuer.as_bytes()).collect();
    let html = page.answer.text().replace("&#38;", "&").replace("&amp;", "&");
    assert!(html.contains(&format!("href=\"{uri}&iss={issuer}\"")), "{html}");
}

#[test]
fn oidcc_3rd_party_init_login_nohttps() {
    let stage = STAGE.get();
    for bad in ["http://home.example.com/start", "http://127.0.0.1/start", "javascript:alert(1)", "start"] {
        stage.admin("PATCH", "/clients/web").json(&json!({"initiate_login_uri": bad})).go().expect(422);
    }
}
