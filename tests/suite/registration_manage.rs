//! The client configuration endpoint (RFC 7592).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::http::{Go, client};
use crate::kit::registrant::{id_of, own, registered, somewhere};
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Visitor};

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        Stage::start(|house| {
            house.set("registration.open", "true");
        })
    })
}

fn minimal() -> Value {
    json!({"client_name": "First", "redirect_uris": ["https://rp.example.com/cb"]})
}

/// The body of a replacement: what was told, without what is the server's.
fn replacement(told: &Value) -> Value {
    let mut body = told.clone();
    for name in ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"] {
        body.as_object_mut().unwrap().remove(name);
    }
    body
}

#[test]
fn a_client_reads_itself() {
    let stage = stage();
    let told = registered(stage, &minimal());
    let read = own(&told, "GET").go().expect(200);
    assert!(read.header("cache-control").contains("no-store"));
    let read = read.json();
    for name in ["client_id", "client_id_issued_at", "client_name", "redirect_uris", "registration_client_uri", "registration_access_token"]
    {
        assert_eq!(read[name], told[name], "{name}");
    }
    assert!(read.get("client_secret").is_none(), "a secret is shown once");
}

#[test]
fn only_its_own_token_opens_it() {
    let stage = stage();
    let (told, other) = (registered(stage, &minimal()), registered(stage, &minimal()));
    let url = text(&told, "registration_client_uri");
    let with = |token: &str| somewhere().get(&url).bearer_auth(token).go();
    let none = somewhere().get(&url).go().expect(401);
    assert!(none.header("www-authenticate").starts_with("Bearer"));
    let wrong = with("nonsense").expect_error(401, "invalid_token");
    let foreign = with(&text(&other, "registration_access_token")).expect_error(401, "invalid_token");
    let secret = with(&text(&told, "client_secret")).expect_error(401, "invalid_token");
    let absent = somewhere().get(stage.url("/register/nobody")).bearer_auth(text(&told, "registration_access_token")).go();
    let seeded = somewhere().get(stage.url("/register/web")).bearer_auth(text(&told, "registration_access_token")).go();
    for answer in [&foreign, &secret, &absent, &seeded] {
        assert_eq!((answer.status, &answer.body), (401, &wrong.body), "one answer for all");
    }
    for method in ["PUT", "DELETE"] {
        let request = somewhere().request(method.parse().unwrap(), &url).bearer_auth("nonsense").json(&replacement(&told));
        request.go().expect_error(401, "invalid_token");
    }
}

#[test]
fn a_client_replaces_itself() {
    let stage = stage();
    let told = registered(stage, &minimal());
    let id = id_of(&told);
    let mut body = replacement(&told);
    body["client_name"] = json!("Second");
    body["redirect_uris"] = json!(["https://rp.example.com/new"]);
    body["logo_uri"] = Value::Null;
    let after = own(&told, "PUT").json(&body).go().expect(200).json();
    assert_eq!(after["client_name"], "Second");
    assert_eq!(after["client_secret"], told["client_secret"]);
    assert_eq!(after["registration_access_token"], told["registration_access_token"]);
    // The old address is nobody's, at once.
    assert_eq!(Visitor::new().open(&Ask::new(&id).url(stage)).kind("error").status(), 400);
    let ask = Ask::new(&id).with("scope", "openid").with("redirect_uri", "https://rp.example.com/new");
    let code = Visitor::new().walk(stage, &ask, "alice").code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    // What is not said any more is gone.
    let bare = json!({"client_id": id.id, "redirect_uris": ["https://rp.example.com/new"]});
    let after = own(&told, "PUT").json(&bare).go().expect(200).json();
    assert!(after.get("client_name").is_none());
}

#[test]
fn a_replacement_is_checked_like_a_registration() {
    let stage = stage();
    let told = registered(stage, &minimal());
    let put = |change: &dyn Fn(&mut Value)| {
        let mut body = replacement(&told);
        change(&mut body);
        own(&told, "PUT").json(&body).go()
    };
    put(&|b| b["client_id"] = json!("another")).expect_error(400, "invalid_client_metadata");
    put(&|b| drop(b.as_object_mut().unwrap().remove("client_id"))).expect_error(400, "invalid_client_metadata");
    put(&|b| b["client_secret"] = json!("a secret of my own")).expect_error(400, "invalid_client_metadata");
    put(&|b| b["client_id_issued_at"] = json!(1)).expect_error(400, "invalid_client_metadata");
    put(&|b| b["registration_access_token"] = json!("x")).expect_error(400, "invalid_client_metadata");
    put(&|b| b["redirect_uris"] = json!(["https://rp.example.com/cb#f"])).expect_error(400, "invalid_redirect_uri");
    put(&|b| b["first_party"] = json!(true)).expect(200);
    assert_eq!(stage.admin("GET", &format!("/clients/{}", text(&told, "client_id"))).go().expect(200).json()["first_party"], false);
    own(&told, "POST").json(&minimal()).go().expect(405);
}

#[test]
fn what_an_administrator_said_stays() {
    let stage = stage();
    let told = registered(stage, &minimal());
    let path = format!("/clients/{}", text(&told, "client_id"));
    let patch = r#"{"allowed_resources":["https://api.example.com"],"first_party":true}"#;
    stage.admin("PATCH", &path).header("content-type", "application/merge-patch+json").body(patch).go().expect(200);
    own(&told, "PUT").json(&replacement(&told)).go().expect(200);
    let kept = stage.admin("GET", &path).go().expect(200).json();
    assert_eq!((&kept["first_party"], &kept["allowed_resources"]), (&json!(true), &json!(["https://api.example.com"])));
    // Disabled is disabled for its own door too.
    stage.admin("PATCH", &path).header("content-type", "application/merge-patch+json").body(r#"{"disabled":true}"#).go().expect(200);
    own(&told, "GET").go().expect_error(401, "invalid_token");
}

#[test]
fn a_secret_comes_and_goes_with_the_method() {
    let stage = stage();
    let told = registered(stage, &json!({"redirect_uris": ["https://rp.example.com/cb"], "token_endpoint_auth_method": "none"}));
    assert!(told.get("client_secret").is_none() && told.get("client_secret_expires_at").is_none());
    let mut body = replacement(&told);
    body["token_endpoint_auth_method"] = json!("client_secret_post");
    let after = own(&told, "PUT").json(&body).go().expect(200).json();
    assert_eq!(after["client_secret_expires_at"], 0);
    let id = id_of(&after);
    let ask = Ask::new(&id).with("scope", "openid");
    let code = Visitor::new().walk(stage, &ask, "alice").code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    let after = own(&told, "PUT").json(&replacement(&told)).go().expect(200).json();
    assert!(after.get("client_secret").is_none());
    stage.token(&id, &[("grant_type", "refresh_token"), ("refresh_token", "x")]).expect_error(401, "invalid_client");
}

#[test]
fn a_client_that_deletes_itself_takes_everything_along() {
    let stage = stage();
    let metadata = json!({"redirect_uris": ["https://rp.example.com/cb"], "grant_types": ["authorization_code", "refresh_token"]});
    let told = registered(stage, &metadata);
    let id = id_of(&told);
    let ask = Ask::new(&id).with("scope", "openid offline_access").with("prompt", "consent");
    let tokens = Visitor::new().tokens(stage, &ask, "alice");
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert_eq!(client().get(stage.url("/userinfo")).bearer_auth(&access).go().status, 200);
    let gone = own(&told, "DELETE").go().expect(204);
    assert!(gone.body.is_empty() && gone.header("cache-control").contains("no-store"));
    own(&told, "GET").go().expect_error(401, "invalid_token");
    own(&told, "DELETE").go().expect_error(401, "invalid_token");
    assert_eq!(client().get(stage.url("/userinfo")).bearer_auth(&access).go().status, 401);
    stage.refresh(&id, &refresh).expect_error(401, "invalid_client");
    assert_eq!(Visitor::new().open(&Ask::new(&id).url(stage)).kind("error").status(), 400);
    assert_eq!(stage.admin("GET", &format!("/clients/{}", id.id)).go().status, 404);
    for kind in ["object.deleted", "client.revoked"] {
        let events = stage.admin("GET", &format!("/events?limit=500&kind={kind}")).go().expect(200).json();
        assert_eq!(events["items"].as_array().unwrap().iter().filter(|e| e.to_string().contains(id.id)).count(), 1, "{kind}: {events}");
    }
}
