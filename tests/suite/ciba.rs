//! Client-initiated backchannel authentication (CIBA Core 1.0) and its FAPI profile; tests of the certification plan bear its modules' names.
use std::sync::{Barrier, LazyLock, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::apart::{BANK, BELL, CIBA, SIGNER, arrive, client as registered, stage};
use crate::kit::fapi::Rsa;
use crate::kit::forge::Key;
use crate::kit::http::{Answer, b64, claims, client, now, random};
use crate::kit::https::Secure;
use crate::kit::seed::WEB;
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Go, House, Id, Page, Server, Stage, Upstream, Visitor, services, wait_until};

static KEY: LazyLock<Key> = LazyLock::new(|| Key::new("ciba"));
static OTHER: LazyLock<Key> = LazyLock::new(|| Key::new("other"));
static RSA: LazyLock<Rsa> = LazyLock::new(|| Rsa::new("rsa"));

/// A client that proves itself with assertions and signs its requests.
const OATH: Id = Id { id: "oath", secret: "", method: "private_key_jwt", redirect: "", scope: "openid read" };
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct World {
    stage: Stage,
    secure: Secure,
    /// Where clients are told of answers, in the clear: it keeps what it is sent.
    heard: Upstream,
}

fn clients(secure: &Secure, heard: &Upstream) -> Value {
    let ciba = |who: &Id, more: Value| {
        let mut object =
            registered(who, &[CIBA, "refresh_token"], json!({"backchannel_token_delivery_mode": "poll", "client_name": who.id}));
        for (name, value) in more.as_object().unwrap() {
            object[name] = value.clone();
        }
        object
    };
    let keys = json!({"keys": [KEY.jwk(), RSA.jwk()]});
    let signs = json!({"backchannel_authentication_request_signing_alg": "ES256", "jwks": keys});
    let ping = |id: &'static str, endpoint: String| {
        ciba(&Id { id, ..BELL }, json!({"backchannel_token_delivery_mode": "ping", "backchannel_client_notification_endpoint": endpoint}))
    };
    let at = |query: &str| format!("{}/raw?answer={query}", heard.url());
    let coded = |answer: &str| percent_encoding::utf8_percent_encode(answer, percent_encoding::NON_ALPHANUMERIC).to_string();
    json!({"clients": [
        ciba(&BANK, json!({})), ciba(&SIGNER, signs.clone()), ciba(&OATH, signs),
        ciba(&Id { id: "other-signer", ..SIGNER }, json!({"backchannel_authentication_request_signing_alg": "ES256", "jwks": {"keys": [OTHER.jwk()]}})),
        ping("bell", format!("{}/told", heard.url())),
        ping("bell-https", secure.put("/told", &json!({}))),
        ping("bell-401", at(&coded("HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"))),
        ping("bell-403", at(&coded("HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n"))),
        ping("bell-moved", at(&coded(&format!("HTTP/1.1 302 X\r\nLocation: {}/moved\r\nContent-Length: 0\r\n\r\n", heard.url())))),
        ping("bell-away", format!("{}/drop", heard.url())),
    ]})
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (secure, heard) = (Secure::start(), Upstream::start());
        let plain = heard.url().replace("http://", "");
        let stage = stage(|house| secure.admit(house, &[&plain]), &clients(&secure, &heard));
        World { stage, secure, heard }
    })
}

fn server() -> &'static Server {
    &world().stage.server
}

/// A user of each test: at most ten requests wait for one person.
fn asks(who: &Id, more: &[(&str, &str)]) -> Answer {
    let mut form = vec![("scope", "openid read"), ("login_hint", "alice")];
    form.retain(|(name, _)| !more.iter().any(|(n, _)| n == name));
    form.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    server().post("/bc-authorize", who, &form)
}

fn poll(who: &Id, begun: &Value) -> Answer {
    server().token(who, &[("grant_type", CIBA), ("auth_req_id", &text(begun, "auth_req_id"))])
}

fn answered(begun: &Value, verb: &str) -> Answer {
    server().admin("POST", &format!("/backchannel-requests/{}/{verb}", text(begun, "auth_req_id"))).go()
}

/// A good request object with some claims changed; `null` takes one away.
fn object(who: &Id, change: &[(&str, Value)]) -> Value {
    let at = now();
    let mut claims = json!({
        "iss": who.id, "aud": server().issuer, "exp": at + 300, "iat": at, "nbf": at, "jti": random(), "scope": "openid read", "login_hint": "alice",
    });
    for (name, value) in change {
        claims[*name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn signed(change: &[(&str, Value)]) -> Answer {
    let request = KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &object(&SIGNER, change));
    server().post("/bc-authorize", &SIGNER, &[("request", &request)])
}

/// Ends what waits, so that the person is not crowded.
fn settle(answer: Answer) -> Value {
    let begun = answer.expect(200).json();
    answered(&begun, "deny").expect(204);
    begun
}

/// Request objects that have to be refused, each by the module's name.
macro_rules! refused {
    ($($(#[$doc:meta])* $name:ident: $($member:literal = $value:expr),+;)*) => {
        $($(#[$doc])* #[test] fn $name() { signed(&[$(($member, $value)),+]).expect_error(400, "invalid_request"); })*
    };
}

refused! {
    fapi_ciba_id1_ensure_request_object_missing_aud_fails: "aud" = Value::Null;
    fapi_ciba_id1_ensure_request_object_bad_aud_fails: "aud" = json!("https://else.example.com");
    fapi_ciba_id1_ensure_request_object_missing_iss_fails: "iss" = Value::Null;
    fapi_ciba_id1_ensure_request_object_bad_iss_fails: "iss" = json!("bank");
    fapi_ciba_id1_ensure_request_object_missing_exp_fails: "exp" = Value::Null;
    fapi_ciba_id1_ensure_request_object_expired_exp_fails: "exp" = json!(now() - 300);
    fapi_ciba_id1_ensure_request_object_exp_is_70_minutes_in_future_fails: "exp" = json!(now() + 4200);
    fapi_ciba_id1_ensure_request_object_missing_iat_fails: "iat" = Value::Null;
    fapi_ciba_id1_ensure_request_object_missing_nbf_fails: "nbf" = Value::Null;
    fapi_ciba_id1_ensure_request_object_nbf_is_10_minutes_in_future_fails: "nbf" = json!(now() + 600);
    fapi_ciba_id1_ensure_request_object_nbf_is_70_minutes_in_past_fails: "nbf" = json!(now() - 4200);
    fapi_ciba_id1_ensure_request_object_missing_jti_fails: "jti" = Value::Null;
    fapi_ciba_id1_ensure_authorization_request_with_multiple_hints_fails: "id_token_hint" = json!("x.y.z");
}

#[test]
fn fapi_ciba_id1_ensure_request_object_signature_algorithm_is_none_fails() {
    let request = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(object(&SIGNER, &[]).to_string()));
    server().post("/bc-authorize", &SIGNER, &[("request", &request)]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_ensure_request_object_signature_algorithm_is_bad_fails() {
    let good = KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &object(&SIGNER, &[]));
    let bent = format!("{}.{}", good.rsplit_once('.').unwrap().0, b64([7u8; 64]));
    server().post("/bc-authorize", &SIGNER, &[("request", &bent)]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_ensure_request_object_signature_algorithm_is_rs256_fails() {
    let request = RSA.sign("RS256", &object(&SIGNER, &[]));
    server().post("/bc-authorize", &SIGNER, &[("request", &request)]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_ensure_request_object_signed_by_other_client_fails() {
    let request = OTHER.sign(&json!({"alg": "ES256", "kid": "other"}), &object(&SIGNER, &[]));
    server().post("/bc-authorize", &SIGNER, &[("request", &request)]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_ensure_unsigned_backchannel_authorization_request_fails() {
    asks(&SIGNER, &[]).expect_error(400, "invalid_request");
    // Nor may anything stand beside the signed request, and who did not register to sign does not.
    let request = KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &object(&SIGNER, &[]));
    server().post("/bc-authorize", &SIGNER, &[("request", &request), ("scope", "openid")]).expect_error(400, "invalid_request");
    server().post("/bc-authorize", &BANK, &[("request", &request)]).expect_error(400, "invalid_request");
}

#[test]
fn a_signed_request_counts_once() {
    let request = KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &object(&SIGNER, &[("login_hint", json!("bob"))]));
    settle(server().post("/bc-authorize", &SIGNER, &[("request", &request)]));
    server().post("/bc-authorize", &SIGNER, &[("request", &request)]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_discovery_end_point_verification() {
    let metadata = client().get(server().url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(metadata["backchannel_authentication_endpoint"], server().url("/bc-authorize"));
    assert_eq!(metadata["backchannel_token_delivery_modes_supported"], json!(["poll", "ping"]));
    assert_eq!(metadata["backchannel_user_code_parameter_supported"], false);
    let algs = metadata["backchannel_authentication_request_signing_alg_values_supported"].as_array().unwrap();
    assert!(algs.contains(&json!("PS256")) && algs.contains(&json!("ES256")) && !algs.contains(&json!("RS256")));
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!(CIBA)));
}

/// The happy flow, with a page; a second client's happy flow does not disturb the first.
#[test]
fn fapi_ciba_id1() {
    let first =
        signed(&[("login_hint", json!("carol")), ("binding_message", json!("1234")), ("requested_expiry", json!(300))]).expect(200).json();
    let second = asks(&BANK, &[("login_hint", "carol"), ("scope", "openid offline_access read")]).expect(200).json();
    assert_eq!((first["expires_in"].as_i64(), second["expires_in"].as_i64(), second["interval"].as_i64()), (Some(300), Some(600), Some(5)));
    assert!(text(&first, "auth_req_id").len() >= 32);
    poll(&SIGNER, &first).expect_error(400, "authorization_pending");
    let mut person = Visitor::new();
    let page = arrive(&mut person, &server().url("/ciba"), "carol");
    assert_eq!(page.kind(), "backchannel");
    assert!(page.answer.text().contains("1234") && page.answer.text().contains("signer"));
    let done = person.send(&page.press(&button(&page, "approve", "signer"))).kind("backchannel");
    assert!(done.has("backchannel-notice"));
    let tokens = poll(&SIGNER, &first).expect(200).json();
    let told = claims(&text(&tokens, "id_token"));
    assert_eq!((&told["aud"], &told["iss"]), (&json!("signer"), &json!(server().issuer)));
    assert!(told["at_hash"].is_string() && told["sid"].is_string() && told["auth_time"].is_i64() && told["acr"].is_string());
    assert_eq!(server().call("/api/x", &text(&tokens, "access_token")).status, 200);
    poll(&SIGNER, &first).expect_error(400, "invalid_grant");
    poll(&BANK, &second).expect_error(400, "authorization_pending");
    let page = arrive(&mut person, &server().url("/ciba"), "carol");
    person.send(&page.press(&button(&page, "approve", "bank"))).kind("backchannel");
    let tokens = poll(&BANK, &second).expect(200).json();
    assert!(tokens["refresh_token"].is_string());
}

/// The id of a button of the row that names a client.
fn button(page: &Page, verb: &str, client: &str) -> String {
    let html = page.answer.text();
    let row =
        html.split("<li class=\"request\">").find(|row| row.contains(&format!("<strong>{client}</strong>"))).expect("the client's row");
    let at = row.split(&format!("id=\"backchannel-{verb}-")).nth(1).expect("a button");
    format!("backchannel-{verb}-{}", at.split('"').next().unwrap())
}

#[test]
fn what_is_asked_in_detail_is_refused_and_not_left_out() {
    let detail = r#"[{"type":"payment"}]"#;
    asks(&BANK, &[("login_hint", "bob"), ("authorization_details", detail)]).expect_error(400, "invalid_authorization_details");
}

#[test]
fn fapi_ciba_id1_refresh_token() {
    let begun = asks(&BANK, &[("login_hint", "bob"), ("scope", "openid offline_access read")]).expect(200).json();
    answered(&begun, "approve").expect(204);
    let tokens = poll(&BANK, &begun).expect(200).json();
    let refresh = text(&tokens, "refresh_token");
    server().refresh(&WEB, &refresh).expect_error(400, "invalid_grant");
    let again = server().refresh(&BANK, &refresh).expect(200).json();
    assert!(server().active(&text(&again, "access_token")));
}

/// The second client of the module asks for an authentication class: the deployment's own device says how it authenticated the person.
#[test]
fn fapi_ciba_id1_acr_values() {
    let told = |classes: &str, body: Option<Value>| {
        let begun = asks(&BANK, &[("login_hint", "bob"), ("acr_values", classes)]).expect(200).json();
        let path = format!("/backchannel-requests/{}/approve", text(&begun, "auth_req_id"));
        let request = server().admin("POST", &path);
        let request = if let Some(body) = &body { request.json(body) } else { request };
        request.go().expect(204);
        let told = claims(&text(&poll(&BANK, &begun).expect(200).json(), "id_token"));
        (told["acr"].clone(), told["amr"].clone())
    };
    let (one, two) = ("urn:doorward:acr:1", "urn:doorward:acr:2");
    assert_eq!(told(one, Some(json!({"amr": ["pwd"]}))), (json!(one), json!(["pwd"])));
    assert_eq!(told(&format!("{two} {one}"), Some(json!({"amr": ["hwk", "mfa"]}))), (json!(two), json!(["hwk", "mfa"])));
    assert_eq!(told(two, Some(json!({"amr": ["pwd"]}))), (json!(one), json!(["pwd"])), "never more than it was");
    assert_eq!(told(one, None), (Value::Null, Value::Null), "nobody says how");
    let begun = asks(&BANK, &[("login_hint", "bob")]).expect(200).json();
    let bad = server().admin("POST", &format!("/backchannel-requests/{}/approve", text(&begun, "auth_req_id")));
    assert_eq!(bad.json(&json!({"amr": [5]})).go().status, 422);
    answered(&begun, "deny").expect(204);
}

#[test]
fn fapi_ciba_id1_user_rejects_authentication() {
    let begun = asks(&BANK, &[]).expect(200).json();
    answered(&begun, "deny").expect(204);
    poll(&BANK, &begun).expect_error(400, "access_denied");
    assert_eq!(answered(&begun, "approve").status, 409, "nobody answers twice");
    poll(&BANK, &begun).expect_error(400, "access_denied");
}

#[test]
fn fapi_ciba_id1_multiple_call_to_token_endpoint() {
    let begun = asks(&BANK, &[("login_hint", "bob")]).expect(200).json();
    poll(&BANK, &begun).expect_error(400, "authorization_pending");
    for _ in 0..3 {
        poll(&BANK, &begun).expect_error(400, "slow_down");
    }
    answered(&begun, "approve").expect(204);
    poll(&BANK, &begun).expect(200);
}

#[test]
fn fapi_ciba_id1_auth_req_id_expired() {
    let begun = signed(&[("requested_expiry", json!(1)), ("login_hint", json!("bob"))]).expect(200).json();
    assert_eq!(begun["expires_in"], 1);
    std::thread::sleep(Duration::from_millis(2100));
    poll(&SIGNER, &begun).expect_error(400, "expired_token");
    assert_eq!(answered(&begun, "approve").status, 409);
}

#[test]
fn fapi_ciba_id1_ensure_authorization_request_with_binding_message_succeeds() {
    settle(signed(&[("binding_message", json!("Transfer 12")), ("login_hint", json!("bob"))]));
}

#[test]
fn fapi_ciba_id1_ensure_authorization_request_with_potentially_bad_binding_message() {
    settle(signed(&[("binding_message", json!("1234 👍🏿")), ("login_hint", json!("bob"))]));
    for bad in ["a\u{202e}b", "a\u{0007}", "a\nb", " ", &"x".repeat(65)] {
        signed(&[("binding_message", json!(bad))]).expect_error(400, "invalid_binding_message");
    }
    signed(&[("binding_message", json!(5))]).expect_error(400, "invalid_request");
}

#[test]
fn fapi_ciba_id1_ensure_other_scope_order_succeeds() {
    settle(signed(&[("scope", json!("read openid")), ("login_hint", json!("bob"))]));
}

#[test]
fn fapi_ciba_id1_ensure_requested_expiry_as_string_succeeds() {
    let begun = settle(signed(&[("requested_expiry", json!("30")), ("login_hint", json!("bob"))]));
    assert_eq!(begun["expires_in"], 30);
    for bad in [json!(0), json!(-5), json!("soon"), json!([1]), json!(1.5)] {
        signed(&[("requested_expiry", bad)]).expect_error(400, "invalid_request");
    }
}

#[test]
fn fapi_ciba_id1_ensure_wrong_auth_req_id_in_token_endpoint_request() {
    for id in ["nonsense", "dwq_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        server().token(&BANK, &[("grant_type", CIBA), ("auth_req_id", id)]).expect_error(400, "invalid_grant");
    }
    server().token(&BANK, &[("grant_type", CIBA)]).expect_error(400, "invalid_request");
}

/// An `auth_req_id` of another client.
#[test]
fn fapi_ciba_id1_ensure_wrong_client_id_in_token_endpoint_request() {
    let begun = asks(&BANK, &[("login_hint", "bob")]).expect(200).json();
    poll(&SIGNER, &begun).expect_error(400, "invalid_grant");
    poll(&WEB, &begun).expect_error(400, "unauthorized_client");
    answered(&begun, "approve").expect(204);
    poll(&SIGNER, &begun).expect_error(400, "invalid_grant");
    poll(&BANK, &begun).expect(200);
}

#[test]
fn fapi_ciba_id1_ensure_wrong_client_id_in_backchannel_authorization_request() {
    asks(&Id { id: "other-signer", ..BANK }, &[]).expect_error(401, "invalid_client");
    asks(&WEB, &[]).expect_error(400, "unauthorized_client");
    asks(&Id { secret: "wrong", ..BANK }, &[]).expect_error(401, "invalid_client");
}

fn assertion(alg: &str) -> String {
    let at = now();
    let claims = json!({"iss": OATH.id, "sub": OATH.id, "aud": server().issuer, "iat": at, "exp": at + 60, "jti": random()});
    if alg == "RS256" { RSA.sign("RS256", &claims) } else { KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &claims) }
}

/// A form of the client that proves itself by assertions; `None`: without one.
fn oath(path: &str, alg: Option<&str>, form: &[(&str, &str)]) -> Answer {
    let (mut form, assertion) = (form.to_vec(), alg.map(assertion));
    form.push(("client_id", OATH.id));
    if let Some(assertion) = &assertion {
        form.extend([("client_assertion_type", ASSERTION), ("client_assertion", assertion)]);
    }
    client().post(server().url(path)).form(&form).go()
}

fn sworn() -> String {
    KEY.sign(&json!({"alg": "ES256", "kid": "ciba"}), &object(&OATH, &[("login_hint", json!("bob"))]))
}

#[test]
fn fapi_ciba_id1_ensure_without_client_assertion_in_backchannel_authorization_fails() {
    oath("/bc-authorize", None, &[("request", &sworn())]).expect_error(401, "invalid_client");
}

#[test]
fn fapi_ciba_id1_ensure_client_assertion_signature_algorithm_in_backchannel_authorization_request_is_rs256_fails() {
    oath("/bc-authorize", Some("RS256"), &[("request", &sworn())]).expect_error(401, "invalid_client");
}

#[test]
fn fapi_ciba_id1_ensure_client_assertion_in_token_endpoint() {
    let begun = oath("/bc-authorize", Some("ES256"), &[("request", &sworn())]).expect(200).json();
    let form = [("grant_type", CIBA), ("auth_req_id", begun["auth_req_id"].as_str().unwrap())];
    answered(&begun, "approve").expect(204);
    oath("/token", None, &form).expect_error(401, "invalid_client");
    oath("/token", Some("RS256"), &form).expect_error(401, "invalid_client");
    oath("/token", Some("ES256"), &form).expect(200);
}

#[test]
fn exactly_one_known_person_has_to_be_meant() {
    asks(&BANK, &[("login_hint", "")]).expect_error(400, "invalid_request");
    asks(&BANK, &[("login_hint_token", "x")]).expect_error(400, "invalid_request");
    asks(&BANK, &[("login_hint", ""), ("login_hint_token", "x")]).expect_error(400, "invalid_request");
    asks(&BANK, &[("login_hint", ""), ("id_token_hint", "x.y.z")]).expect_error(400, "invalid_request");
    let (nobody, disabled) = (asks(&BANK, &[("login_hint", "nobody")]), asks(&BANK, &[("login_hint", "dora")]));
    assert_eq!(nobody.text(), disabled.text());
    nobody.expect_error(400, "unknown_user_id");
    asks(&BANK, &[("scope", "")]).expect_error(400, "invalid_request");
    asks(&BANK, &[("scope", "read")]).expect_error(400, "invalid_scope");
    asks(&BANK, &[("scope", "openid write")]).expect_error(400, "invalid_scope");
    // An ID token says who is meant, if it is the client's own.
    let begun = asks(&BANK, &[("login_hint", "bob")]).expect(200).json();
    answered(&begun, "approve").expect(204);
    let hint = text(&poll(&BANK, &begun).expect(200).json(), "id_token");
    let begun = settle(asks(&BANK, &[("login_hint", ""), ("id_token_hint", &hint)]));
    assert!(begun["auth_req_id"].is_string());
    asks(&BELL, &[("login_hint", ""), ("id_token_hint", &hint), ("client_notification_token", &random())])
        .expect_error(400, "invalid_request");
}

#[test]
fn nobody_is_pestered_and_nobody_answers_for_another() {
    let stage = stage(|_| {}, &clients(&world().secure, &world().heard));
    let ask = || stage.post("/bc-authorize", &BANK, &[("scope", "openid"), ("login_hint", "alice")]);
    for _ in 0..10 {
        ask().expect(200);
    }
    assert_eq!(ask().status, 429);
    let mut alice = Visitor::new();
    let page = arrive(&mut alice, &stage.url("/ciba"), "alice");
    assert_eq!(page.count("form"), 10);
    let press = page.press(&button(&page, "approve", "bank"));
    let mut bob = Visitor::new();
    let his = arrive(&mut bob, &stage.url("/ciba"), "bob");
    assert!(his.has("backchannel-none"));
    assert_eq!(bob.send(&press).page().status(), 403);
    assert_eq!(alice.send_from(&press, Some("https://evil.example")).page().status(), 403);
    alice.send(&press).kind("backchannel");
    assert_eq!(alice.send(&press).page().status(), 400, "a form works once");
    ask().expect(200);
}

fn told(id: &'static str, token: &str) -> Value {
    asks(&Id { id, ..BELL }, &[("login_hint", "bob"), ("client_notification_token", token)]).expect(200).json()
}

/// The endpoint is told once of the answer, with the client's own token and nothing else; its answer's body does not matter.
#[test]
fn fapi_ciba_id1_ping_backchannel_notification_endpoint_response_has_body() {
    let world = world();
    asks(&BELL, &[("login_hint", "bob")]).expect_error(400, "invalid_request");
    asks(&BELL, &[("login_hint", "bob"), ("client_notification_token", "short")]).expect_error(400, "invalid_request");
    let token = random();
    let begun = told("bell", &token);
    assert!(world.heard.seen(&token).is_empty());
    answered(&begun, "approve").expect(204);
    wait_until("the client is told", Duration::from_secs(10), || !world.heard.seen(&token).is_empty());
    let seen = world.heard.only(&token);
    assert_eq!(seen.line, "POST /told HTTP/1.1");
    assert_eq!(seen.all("authorization"), [format!("Bearer {token}")]);
    assert_eq!(seen.all("content-type"), ["application/json"]);
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body, json!({"auth_req_id": begun["auth_req_id"]}));
    poll(&BELL, &begun).expect(200);
    // What has to be told again is not kept in the clear.
    assert_eq!(world.stage.house.holds(&token), None);
    assert_eq!(world.stage.house.holds(&text(&begun, "auth_req_id")), None);
}

#[test]
fn a_client_is_told_over_https_of_a_no_too() {
    let world = world();
    let before = world.secure.asked("/told");
    answered(&told("bell-https", &random()), "deny").expect(204);
    wait_until("the client is told", Duration::from_secs(10), || world.secure.asked("/told") == before + 1);
}

/// Told once, and not again.
fn once(id: &'static str) -> String {
    let token = random();
    let begun = told(id, &token);
    answered(&begun, "approve").expect(204);
    let world = world();
    wait_until("the client is told", Duration::from_secs(10), || !world.heard.seen(&token).is_empty());
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(world.heard.seen(&token).len(), 1);
    poll(&Id { id, ..BELL }, &begun).expect(200);
    token
}

#[test]
fn fapi_ciba_id1_ping_backchannel_notification_endpoint_response_401_and_require_server_does_not_retry() {
    once("bell-401");
}

#[test]
fn fapi_ciba_id1_ping_backchannel_notification_endpoint_response_403_and_require_server_does_not_retry() {
    once("bell-403");
}

#[test]
fn fapi_ciba_id1_ping_backchannel_notification_endpoint_return_redirect_request() {
    once("bell-moved");
    assert!(world().heard.seen("/moved").iter().all(|seen| !seen.line.contains(" /moved")), "followed");
}

#[test]
fn a_client_that_hangs_up_is_told_again() {
    let token = random();
    answered(&told("bell-away", &token), "deny").expect(204);
    wait_until("a second try", Duration::from_secs(10), || world().heard.seen(&token).len() >= 2);
}

#[test]
fn an_administrator_answers_only_what_waits() {
    let begun = asks(&BANK, &[("login_hint", "bob")]).expect(200).json();
    let path = format!("/backchannel-requests/{}/approve", text(&begun, "auth_req_id"));
    let url = format!("http://{}/admin/v1{path}", server().listener("admin"));
    assert_eq!(client().post(&url).go().status, 401);
    assert_eq!(server().admin("POST", "/backchannel-requests/nonsense/approve").go().status, 404);
    server().admin("POST", &path).go().expect(204);
    assert_eq!(server().admin("POST", &path).go().status, 409);
    let events = server().admin("GET", "/events?kind=backchannel.approved&limit=200").go().expect(200).json();
    assert!(events["items"].as_array().unwrap().iter().any(|e| e["client_id"] == "bank" && e["data"]["actor"].is_string()), "{events}");
    // What was approved ends with the person's grant.
    let tokens = poll(&BANK, &begun).expect(200).json();
    let (access, grant) = (text(&tokens, "access_token"), claims(&text(&tokens, "access_token"))["grant"].clone());
    server().admin("DELETE", &format!("/grants/{}", grant.as_str().unwrap())).go().expect(204);
    assert!(!server().active(&access));
}

/// Yes at one node's administration and no at the other's in the same moment, then polled at both.
#[test]
fn backchannel_answers_raced_at_two_nodes_have_one_winner() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&crate::kit::standard(&upstream.url()));
    house.seed(&clients(&world().secure, &world().heard));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let admin = a.admin_token();
    for round in 0..12 {
        let begun = a.post("/bc-authorize", &BANK, &[("scope", "openid read"), ("login_hint", "alice")]).expect(200).json();
        let id = text(&begun, "auth_req_id");
        let answer = |node: &Server, verb: &str| {
            let url = format!("http://{}/admin/v1/backchannel-requests/{id}/{verb}", node.listener("admin"));
            client().post(url).bearer_auth(&admin).go().status
        };
        let start = Barrier::new(2);
        let (yes, no) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                start.wait();
                answer(&b, "deny")
            });
            start.wait();
            (answer(&a, "approve"), other.join().expect("an answer"))
        });
        assert_eq!([yes, no].iter().filter(|s| **s == 204).count(), 1, "round {round}: {yes} {no}");
        let form = [("grant_type", CIBA), ("auth_req_id", id.as_str())];
        let start = Barrier::new(2);
        let (first, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                start.wait();
                BANK.post(&format!("http://{}/token", b.listener("public")), &form).go()
            });
            start.wait();
            (BANK.post(&a.url("/token"), &form).go(), other.join().expect("an answer"))
        });
        let good = [first.status, other.status].iter().filter(|s| **s == 200).count();
        assert_eq!(good, usize::from(yes == 204), "round {round}: {} {}", first.text(), other.text());
    }
}
