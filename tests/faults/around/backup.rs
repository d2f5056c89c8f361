//! A backup while clients work is one moment of the ledger; restored, nothing that was revoked or used, before or after it, counts again.
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Load;
use crate::kit::apart::{KIOSK, asked, begin, devices, poll};
use crate::kit::forge::Key;
use crate::kit::http::{Answer, Go, client, now, random};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{API, APP, HOME, MACHINE, SAFE, standard};
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Landing, Server, Upstream, Visitor, wait_until};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn prove(server: &Server, assertion: &str) -> Answer {
    let form = [("client_assertion_type", TYPE), ("client_assertion", assertion), ("grant_type", "client_credentials")];
    client().post(server.url("/token")).form(&form).go()
}

fn with_key(server: &Server, key: &str) -> u16 {
    client().get(server.through("/keyed/x")).header("x-api-key", key).go().status
}

fn round(from: Option<&OwnPostgres>, to: Option<&OwnPostgres>) {
    let (upstream, mut house, key) = (Upstream::start(), House::new(), Key::new("one"));
    if let Some(database) = from {
        house.text("storage.url", &database.url());
    }
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().expect("clients");
    clients.extend(devices()["clients"].as_array().expect("devices").clone());
    clients.push(json!({
        "client_id": "signer", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"], "redirect_uris": [],
        "response_types": [], "scope": "read", "allowed_resources": [API], "jwks": {"keys": [key.jwk()]},
    }));
    seed["api_keys"] = json!([{"id": "kept", "name": "Kept", "scopes": ["read"], "audience": API},
        {"id": "ended", "name": "Ended", "scopes": ["read"], "audience": API}]);
    seed["routes"].as_array_mut().expect("routes").push(json!({"id": "keyed", "match": {"path_prefix": "/keyed/"}, "upstream": "echo",
        "auth": {"accept": ["api_key"], "audience": API, "scopes": ["read"]}}));
    let printed = house.seed(&seed).to_string();
    let keys: Vec<String> = printed.split('"').filter(|word| word.starts_with("dwk_")).map(str::to_owned).collect();
    let [kept_key, ended_key] = keys.as_slice() else { panic!("{printed}") };
    let server = house.serve();
    assert_eq!((with_key(&server, kept_key), with_key(&server, ended_key)), (200, 200));
    let load = Load::new(&server, &server.issuer, 2);
    let copy = house.path("copy");
    // Alive in the backup, used or revoked after it.
    let mut visitor = Visitor::new();
    let mut before: Option<(String, String, String, Ask, String, Value, Ask)> = None;
    load.during(|| {
        let until = load.acknowledged() + 20;
        wait_until("work is under way", Duration::from_secs(30), || load.acknowledged() >= until);
        let refresh = text(&visitor.tokens(&server, &Ask::new(&APP), "alice"), "refresh_token");
        let (jwt, opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
        let ask = Ask::new(&HOME);
        let code = visitor.walk(&server, &ask, "alice").code(&server, &ask);
        let begun = begin(&server, &KIOSK, &[]);
        let page = asked(&mut visitor, &server, &begun, "alice");
        visitor.send(&page.press("device-approve")).kind("device");
        let pushed = Ask::new(&HOME);
        let form: Vec<(&str, &str)> = pushed.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let uri = text(&server.post("/par", &HOME, &form).expect(201).json(), "request_uri");
        let by_reference = Ask { parameters: vec![("client_id".into(), HOME.id.into()), ("request_uri".into(), uri)], ..pushed };
        house.run(&["backup", "--to", copy.to_str().expect("UTF-8")]).ok();
        let until = load.acknowledged() + 20;
        wait_until("work goes on", Duration::from_secs(30), || load.acknowledged() >= until);
        before = Some((refresh, jwt, opaque, ask, code, begun, by_reference));
    });
    let (refresh, jwt, opaque, ask, code, begun, by_reference) = before.expect("made");
    let old_cookies = visitor.clone();
    ask.redeem(&server, &code).expect(200);
    poll(&server, &KIOSK, &begun).expect(200);
    visitor.open(&by_reference.url(&server)).code(&server, &by_reference);
    let next = text(&server.refresh(&APP, &refresh).expect(200).json(), "refresh_token");
    server.revoke(&MACHINE, &jwt);
    server.revoke(&SAFE, &opaque);
    let at = now();
    let claims = json!({"iss": "signer", "sub": "signer", "aud": server.issuer, "jti": random(), "iat": at, "exp": at + 280});
    let assertion = key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": key.kid}), &claims);
    prove(&server, &assertion).expect(200);
    server.admin("POST", "/revocations").json(&json!({"kind": "key", "id": "ended", "reason": "leaked"})).go().expect(200);
    wait_until("the key is refused", Duration::from_secs(1), || with_key(&server, ended_key) == 401);
    server.stop();

    let mut restored = house.another("restored.toml");
    match to {
        Some(database) => restored.text("storage.url", &database.url()),
        None => restored.text("storage.url", &format!("sqlite://{}", house.path("restored.db").display())),
    };
    restored.run(&["restore", "--from", copy.to_str().expect("UTF-8")]).ok();
    restored.run(&["audit", "verify"]).ok();
    let server = restored.serve();
    // Nothing that lived in the backup lives, so nothing that was ended since does.
    prove(&server, &assertion).expect_error(401, "invalid_client");
    ask.redeem(&server, &code).expect_error(400, "invalid_grant");
    for token in [&refresh, &next] {
        server.refresh(&APP, token).expect_error(400, "invalid_grant");
    }
    assert!(!server.active(&jwt) && !server.active(&opaque));
    assert_eq!(server.call("/api/x", &jwt).status, 401);
    let polled = poll(&server, &KIOSK, &begun);
    assert_eq!(polled.status, 400, "{}", polled.text());
    assert!(!matches!(Visitor::new().open(&by_reference.url(&server)), Landing::Away(_)), "a pushed request that was used");
    let mut old = old_cookies;
    assert_eq!(old.open(&Ask::new(&HOME).with("prompt", "none").url(&server)).error(&server), "login_required");
    assert_eq!((with_key(&server, kept_key), with_key(&server, ended_key)), (401, 401), "API keys end too");
    // A new version of a key is one request away, and everybody can log in.
    let rotated = server.admin("POST", "/api-keys/kept/rotate").json(&json!({})).go();
    assert!((200..300).contains(&rotated.status), "{}", rotated.text());
    let new_key = rotated.text().split('"').find(|word| word.starts_with("dwk_")).expect("a key").to_owned();
    wait_until("the new key passes", Duration::from_secs(5), || with_key(&server, &new_key) == 200);
    assert_eq!(with_key(&server, kept_key), 401);
    let fresh = server.machine_token(&MACHINE, &[]);
    wait_until("new tokens pass", Duration::from_secs(5), || server.call("/api/x", &fresh).status == 200);
    Visitor::new().tokens(&server, &Ask::new(&APP), "alice");
    wait_until("assertions made since count", Duration::from_secs(5), || {
        let at = now();
        let claims = json!({"iss": "signer", "sub": "signer", "aud": server.issuer, "jti": random(), "iat": at, "exp": at + 60});
        prove(&server, &key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": key.kid}), &claims)).status == 200
    });
    restored.run(&["audit", "verify"]).ok();
}

#[test]
fn a_backup_under_load_restores_into_sqlite_and_revives_nothing() {
    round(None, None);
}

#[test]
fn a_backup_of_postgresql_under_load_restores_into_postgresql_and_revives_nothing() {
    let (Some(from), Some(to)) = (OwnPostgres::start(), OwnPostgres::start()) else { return };
    round(Some(&from), Some(&to));
}
