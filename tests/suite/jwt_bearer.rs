//! Assertions of other issuers as grants (RFC 7523 §2.1).
use std::sync::{Barrier, OnceLock};

use serde_json::{Value, json};

use crate::kit::apart::{client as registered, stage};
use crate::kit::forge::{Issuer, Key};
use crate::kit::http::{Answer, claims, now, random};
use crate::kit::seed::{API, WEB};
use crate::kit::visitor::text;
use crate::kit::{Go, Id, Server, Stage};

const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const BRIDGE: Id = Id {
    id: "bridge",
    secret: "bridge-secret-a1b2c3d4e5f60718293a4b5c6d7e8f90",
    method: "client_secret_basic",
    redirect: "",
    scope: "openid offline_access read",
};

struct World {
    stage: Stage,
    key: Key,
    /// `sub` is a username here; `email` is; nobody of theirs has an account here; trusted for nothing of the kind.
    issuers: [Issuer; 4],
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let key = Key::new("theirs");
        let issuers: [Issuer; 4] = std::array::from_fn(|_| Issuer::start(&[&key]));
        let trusted = |issuer: &Issuer, grant: Value| {
            let mut object = json!({"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"]});
            if !grant.is_null() {
                object["grant"] = grant;
            }
            object
        };
        let grants = [json!({}), json!({"claim": "email"}), json!({"subject": "external", "clients": ["bridge"]}), Value::Null];
        let more = json!({
            "clients": [registered(&BRIDGE, &[BEARER], json!({}))],
            "users": [{"username": "erin@example.com", "email": "erin@example.com", "password": "correct horse battery staple"}],
            "trusted_issuers": issuers.iter().zip(grants).map(|(i, g)| trusted(i, g)).collect::<Vec<_>>(),
        });
        let allowed = json!(issuers.iter().map(|i| i.address.clone()).collect::<Vec<_>>()).to_string();
        let stage = stage(
            |house| {
                house.set("outbound.allow", &allowed);
            },
            &more,
        );
        World { stage, key, issuers }
    })
}

fn server() -> &'static Server {
    &world().stage.server
}

fn assertion(issuer: usize, change: &[(&str, Value)]) -> String {
    let world = world();
    let mut claims = json!({"iss": world.issuers[issuer].url, "sub": "alice", "aud": server().issuer, "exp": now() + 120, "iat": now(), "jti": random()});
    for (name, value) in change {
        claims[*name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    world.key.sign(&json!({"alg": "ES256", "kid": "theirs", "typ": "JWT"}), &claims)
}

fn redeem(who: &Id, assertion: &str, more: &[(&str, &str)]) -> Answer {
    let mut form = vec![("grant_type", BEARER), ("assertion", assertion)];
    form.extend(more);
    server().token(who, &form)
}

#[test]
fn an_assertion_of_a_trusted_issuer_becomes_an_access_token_and_nothing_else() {
    let answer = redeem(&BRIDGE, &assertion(0, &[]), &[("scope", "read offline_access")]).expect(200).json();
    assert!(answer.get("refresh_token").is_none() && answer.get("id_token").is_none());
    assert_eq!(answer["scope"], "read");
    let token = text(&answer, "access_token");
    let told = claims(&token);
    assert_eq!((&told["aud"], &told["client_id"]), (&json!(API), &json!("bridge")));
    assert_eq!(server().introspect(&token)["username"], "alice");
    assert_eq!(server().call("/api/x", &token).status, 200);
    // It hangs on a grant like everything of a person's.
    server().admin("DELETE", &format!("/grants/{}", told["grant"].as_str().unwrap())).go().expect(204);
    assert!(!server().active(&token) && server().call("/api/x", &token).status == 401);
    let events = server().admin("GET", "/events?kind=assertion.redeemed&limit=200").go().expect(200).json();
    assert!(events["items"].as_array().unwrap().iter().any(|e| e["data"]["issuer"] == world().issuers[0].url.as_str()), "{events}");
}

#[test]
fn an_assertion_counts_once_even_in_a_race() {
    let one = assertion(0, &[]);
    let start = Barrier::new(4);
    let won: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    redeem(&BRIDGE, &one, &[])
                })
            })
            .collect();
        tries.into_iter().map(|t| usize::from(t.join().expect("an answer").status == 200)).sum()
    });
    assert_eq!(won, 1);
    redeem(&BRIDGE, &one, &[]).expect_error(400, "invalid_grant");
}

#[test]
fn every_wrong_assertion_gets_the_same_answer() {
    let (at, world) = (now(), world());
    let mut wrong = vec![
        assertion(0, &[("iss", json!("https://else.example.com"))]),
        assertion(3, &[]),
        assertion(0, &[("aud", json!("https://else.example.com"))]),
        assertion(0, &[("aud", Value::Null)]),
        assertion(0, &[("exp", json!(at - 61))]),
        assertion(0, &[("exp", json!(at + 3700))]),
        assertion(0, &[("exp", Value::Null)]),
        assertion(0, &[("nbf", json!(at + 61))]),
        assertion(0, &[("iat", json!(at + 61))]),
        assertion(0, &[("jti", Value::Null)]),
        assertion(0, &[("sub", json!("nobody"))]),
        assertion(0, &[("sub", json!("dora"))]),
        assertion(0, &[("sub", Value::Null)]),
        "nonsense".to_owned(),
        Key::new("theirs").sign(
            &json!({"alg": "ES256", "kid": "theirs"}),
            &json!({"iss": world.issuers[0].url, "sub": "alice", "aud": server().issuer, "exp": at + 60, "jti": "x"}),
        ),
    ];
    let typed = json!({"iss": world.issuers[0].url, "sub": "alice", "aud": server().issuer, "exp": at + 60, "jti": random()});
    wrong.push(world.key.sign(&json!({"alg": "ES256", "kid": "theirs", "typ": "at+jwt"}), &typed));
    let same = redeem(&BRIDGE, "x.y.z", &[]).text();
    for (n, assertion) in wrong.iter().enumerate() {
        let answer = redeem(&BRIDGE, assertion, &[]);
        assert_eq!(answer.text(), same, "{n}");
        answer.expect_error(400, "invalid_grant");
    }
    redeem(&BRIDGE, "", &[]).expect_error(400, "invalid_request");
    redeem(&WEB, &assertion(0, &[]), &[]).expect_error(400, "unauthorized_client");
    redeem(&BRIDGE, &assertion(0, &[]), &[("scope", "write")]).expect_error(400, "invalid_scope");
    redeem(&BRIDGE, &assertion(0, &[]), &[("resource", "https://else.example.com")]).expect_error(400, "invalid_target");
}

#[test]
fn an_address_names_a_person_only_when_it_is_verified() {
    let email = ("email", json!("erin@example.com"));
    redeem(&BRIDGE, &assertion(1, std::slice::from_ref(&email)), &[]).expect_error(400, "invalid_grant");
    let verified = assertion(1, &[email, ("email_verified", json!(true))]);
    let token = text(&redeem(&BRIDGE, &verified, &[]).expect(200).json(), "access_token");
    assert_eq!(server().introspect(&token)["username"], "erin@example.com");
}

#[test]
fn somebody_without_an_account_keeps_the_issuers_name() {
    let token = text(&redeem(&BRIDGE, &assertion(2, &[]), &[]).expect(200).json(), "access_token");
    let told = claims(&token);
    assert_eq!(told["sub"], format!("{}|alice", world().issuers[2].url));
    assert!(told.get("grant").is_none() && server().introspect(&token).get("username").is_none());
    server().revoke(&BRIDGE, &token);
    assert!(!server().active(&token));
}

#[test]
fn a_disabled_person_ends_what_an_assertion_gave() {
    let token = text(&redeem(&BRIDGE, &assertion(0, &[("sub", json!("carol"))]), &[]).expect(200).json(), "access_token");
    assert!(server().active(&token));
    server().admin("POST", "/users/carol/disable").go().expect(204);
    assert!(!server().active(&token));
    redeem(&BRIDGE, &assertion(0, &[("sub", json!("carol"))]), &[]).expect_error(400, "invalid_grant");
    server().admin("POST", "/users/carol/enable").go().expect(204);
}
