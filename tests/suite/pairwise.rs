//! Pairwise subjects (OpenID Connect Core §8.1).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::http::{Go, claims, client};
use crate::kit::registrant::{id_of, registered};
use crate::kit::seed::{Id, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Stage, Visitor};

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        Stage::start(|house| {
            house.set("registration.open", "true");
        })
    })
}

fn pairwise(host: &str) -> Id {
    let metadata = json!({"redirect_uris": [format!("https://{host}/cb")], "subject_type": "pairwise",
        "grant_types": ["authorization_code", "refresh_token"], "post_logout_redirect_uris": [format!("https://{host}/bye")]});
    id_of(&registered(stage(), &metadata))
}

fn tokens(id: &Id, username: &str) -> Value {
    Visitor::new().tokens(stage(), &Ask::new(id).with("scope", "openid offline_access").with("prompt", "consent"), username)
}

fn sub(tokens: &Value) -> String {
    text(&claims(&text(tokens, "id_token")), "sub")
}

fn real(username: &str) -> String {
    text(&stage().admin("GET", &format!("/users/{username}")).go().expect(200).json(), "id")
}

#[test]
fn a_person_is_another_in_every_sector_and_the_same_within() {
    let (one, again, other) = (pairwise("one.example.com"), pairwise("one.example.com"), pairwise("other.example.com"));
    let (a, b, c) = (tokens(&one, "alice"), tokens(&again, "alice"), tokens(&other, "alice"));
    assert_eq!(sub(&a), sub(&b));
    assert_ne!(sub(&a), sub(&c));
    assert_ne!(sub(&a), real("alice"));
    assert_ne!(sub(&a), sub(&tokens(&one, "bob")));
    assert_eq!(sub(&a), sub(&tokens(&one, "alice")), "and stays so");
}

#[test]
fn userinfo_refresh_and_introspection_use_the_same_name() {
    let id = pairwise("same.example.com");
    let given = tokens(&id, "alice");
    let name = sub(&given);
    let userinfo = client().get(stage().url("/userinfo")).bearer_auth(text(&given, "access_token")).go().expect(200).json();
    assert_eq!(userinfo["sub"], name);
    let refreshed = stage().refresh(&id, &text(&given, "refresh_token")).expect(200).json();
    assert_eq!(sub(&refreshed), name);
    for token in ["access_token", "refresh_token"] {
        let told = stage().post("/introspect", &id, &[("token", &text(&refreshed, token))]).expect(200).json();
        assert_eq!((&told["active"], &told["sub"]), (&json!(true), &json!(name)), "{token}: {told}");
        assert!(!told.to_string().contains(&real("alice")) && told.get("username").is_none(), "{told}");
    }
}

#[test]
fn nothing_the_client_can_read_names_the_person() {
    let given = tokens(&pairwise("blind.example.com"), "alice");
    assert!(text(&given, "access_token").starts_with("dwa_"), "an access token says nothing");
    assert!(!claims(&text(&given, "id_token")).to_string().contains(&real("alice")));
    // A resource server that may introspect is told who it is.
    let told = stage().introspect(&text(&given, "access_token"));
    assert_eq!((&told["active"], &told["sub"]), (&json!(true), &json!(real("alice"))));
}

#[test]
fn a_hint_in_the_clients_own_words_is_understood() {
    let id = pairwise("hint.example.com");
    let mut visitor = Visitor::new();
    let ask = Ask::new(&id).with("scope", "openid");
    let given = visitor.tokens(stage(), &ask, "alice");
    let hint = text(&given, "id_token");
    let silent = Ask::new(&id).with("scope", "openid").with("prompt", "none").with("id_token_hint", &hint);
    let again = visitor.tokens(stage(), &silent, "alice");
    assert_eq!(sub(&again), sub(&given));
    let asked = json!({"id_token": {"sub": {"value": sub(&given)}}}).to_string();
    let by_claim = Ask::new(&id).with("scope", "openid").with("prompt", "none").with("claims", &asked);
    assert_eq!(sub(&visitor.tokens(stage(), &by_claim, "alice")), sub(&given));
    // Bob's browser is not Alice's.
    let mut bob = Visitor::new();
    bob.tokens(stage(), &ask, "bob");
    let (_, answer) = bob.open(&silent.url(stage())).away();
    assert_eq!(answer["error"], "login_required");
    // The real id is not a name this client may use.
    let asked = json!({"id_token": {"sub": {"value": real("alice")}}}).to_string();
    let (_, answer) =
        visitor.open(&Ask::new(&id).with("scope", "openid").with("prompt", "none").with("claims", &asked).url(stage())).away();
    assert_eq!(answer["error"], "login_required");
}

#[test]
fn a_logout_hint_ends_the_session_it_was_given_in() {
    let id = pairwise("bye.example.com");
    let mut visitor = Visitor::new();
    let given = visitor.tokens(stage(), &Ask::new(&id).with("scope", "openid"), "alice");
    let query = [("id_token_hint", text(&given, "id_token")), ("post_logout_redirect_uri", "https://bye.example.com/bye".to_owned())];
    let url = url::Url::parse_with_params(&stage().url("/logout"), &query).unwrap();
    match visitor.open(url.as_str()) {
        Landing::Away(to) => assert_eq!(to.as_str(), "https://bye.example.com/bye"),
        Landing::Page(page) => assert!(page.kind() == "logout" && page.answer.text().contains("bye.example.com"), "{}", page.answer.text()),
    }
    let page = visitor.open(&Ask::new(&id).with("scope", "openid").url(stage())).page();
    assert_eq!(page.kind(), "login", "the session is over");
    let _ = PASSWORD;
}

#[test]
fn an_administrator_makes_one_too() {
    let client = json!({"client_id": "made-pairwise", "client_secret": "made-secret-0a1b2c3d4e5f60718293", "redirect_uris": ["https://made.example.com/cb"],
        "subject_type": "pairwise", "scope": "openid"});
    stage().admin("POST", "/clients").json(&client).go().expect(201);
    let two = json!({"client_id": "made-two", "redirect_uris": ["https://a.example.com/cb", "https://b.example.com/cb"], "subject_type": "pairwise"});
    let refused = stage().admin("POST", "/clients").json(&two).go();
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("sector_identifier_uri"));
}
