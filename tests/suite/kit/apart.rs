//! Clients whose person answers somewhere else, and the pages where they do (RFC 8628, CIBA).
use serde_json::{Value, json};

use super::http::Answer;
use super::page::Page;
use super::seed::{API, Id, PASSWORD};
use super::server::Server;
use super::visitor::{Landing, Visitor};
use super::{House, Stage, Upstream};

pub const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
pub const CIBA: &str = "urn:openid:params:grant-type:ciba";

/// A public client on a television.
pub const TV: Id = Id { id: "tv", secret: "", method: "none", redirect: "", scope: "openid offline_access read" };
/// A confidential client with the same rights.
pub const KIOSK: Id = confidential("kiosk", "kiosk-secret-1f3d5b7988a6c4e20f1e3d5c7b9a8877", "openid read");
/// Asks behind the scenes, and polls.
pub const BANK: Id = confidential("bank", "bank-secret-2e4d6c8b0a193847566574839201a1b2", "openid offline_access read");
/// The same, and is told.
pub const BELL: Id = confidential("bell", "bell-secret-90817263544536271809f0e1d2c3b4a5", "openid read");
/// The same, and signs its requests.
pub const SIGNER: Id = confidential("signer", "signer-secret-77665544332211009988aabbccddeeff", "openid read");

const fn confidential(id: &'static str, secret: &'static str, scope: &'static str) -> Id {
    Id { id, secret, method: "client_secret_basic", redirect: "", scope }
}

/// A client without a redirect URI.
pub fn client(who: &Id, grants: &[&str], more: Value) -> Value {
    let mut object = json!({
        "client_id": who.id, "grant_types": grants, "response_types": [], "token_endpoint_auth_method": who.method,
        "scope": who.scope, "allowed_resources": [API],
    });
    if !who.secret.is_empty() {
        object["client_secret"] = json!(who.secret);
    }
    for (name, value) in more.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

/// The devices.
pub fn devices() -> Value {
    json!({"clients": [
        client(&TV, &[DEVICE_CODE, "refresh_token"], json!({"client_name": "The Television"})),
        client(&KIOSK, &[DEVICE_CODE], json!({})),
    ]})
}

/// The standard stage with more in its seed.
pub fn stage(configure: impl FnOnce(&mut House), more: &Value) -> Stage {
    let upstream = Upstream::start();
    let mut house = House::new();
    configure(&mut house);
    house.bootstrap();
    house.seed(&super::standard(&upstream.url()));
    house.seed(more);
    let server = house.serve();
    Stage { house, server, upstream }
}

/// Logs in on the way to a page of ours.
#[track_caller]
pub fn arrive(visitor: &mut Visitor, url: &str, username: &str) -> Page {
    match visitor.open(url) {
        Landing::Page(page) if page.kind() == "login" => visitor.login(&page, username, PASSWORD).page(),
        landed => landed.page(),
    }
}

/// Begins at the device authorization endpoint.
#[track_caller]
pub fn begin(server: &Server, who: &Id, form: &[(&str, &str)]) -> Value {
    server.post("/device_authorization", who, form).expect(200).json()
}

/// A poll with a device code.
#[track_caller]
pub fn poll(server: &Server, who: &Id, begun: &Value) -> Answer {
    let code = begun["device_code"].as_str().expect("a device code");
    server.token(who, &[("grant_type", DEVICE_CODE), ("device_code", code)])
}

/// The page that asks yes or no about a user code.
#[track_caller]
pub fn asked(visitor: &mut Visitor, server: &Server, begun: &Value, username: &str) -> Page {
    let page = arrive(visitor, begun["verification_uri_complete"].as_str().expect("a URI"), username);
    assert_eq!(page.kind(), "device", "{}", page.answer.text());
    let page = visitor.send(&page.press("device-continue")).kind("device");
    assert!(page.has("device-approve") && page.has("device-deny"), "{} {}", server.issuer, page.answer.text());
    page
}
