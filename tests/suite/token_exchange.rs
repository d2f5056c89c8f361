//! Token exchange (RFC 8693).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::apart::{arrive, client as registered, stage};
use crate::kit::dpop::Holder;
use crate::kit::forge::{Issuer, Key};
use crate::kit::http::{Answer, claims, now, random};
use crate::kit::seed::{API, HOME, MACHINE, RIVAL, VAULT, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Go, Id, Server, Stage, Visitor};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ORDERS: &str = "https://orders.example.com";

const fn client(id: &'static str, secret: &'static str, scope: &'static str) -> Id {
    Id { id, secret, method: "client_secret_basic", redirect: "", scope }
}

/// Acts for people who came to `home`; never as them.
const BROKER: Id = client("broker", "broker-secret-0f1e2d3c4b5a69788796a5b4c3d2e1f0", "read orders open");
/// Acts as them, and may turn what came into `orders`.
const MASK: Id = client("mask", "mask-secret-13579bdf02468ace13579bdf02468ace", "read orders");
/// Registered for the grant type; of the rest nothing.
const LOOSE: Id = client("loose", "loose-secret-2468ace013579bdf2468ace013579bdf", "read");

/// Its tokens are exchanged by others, until it is disabled.
const FLEET: Id = client("fleet", "fleet-secret-8642eca97531fdb08642eca97531fdb0", "read");

struct World {
    stage: Stage,
    key: Key,
    issuer: Issuer,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let key = Key::new("theirs");
        let issuer = Issuer::start(&[&key]);
        let exchange = |who: &Id, grants: &[&str], resources: &[&str], policy: Value| {
            registered(who, grants, json!({"allowed_resources": resources, "access_token_ttl": "1h", "token_exchange": policy}))
        };
        let both = [EXCHANGE, "client_credentials"];
        let more = json!({
            "resource_servers": [{"identifier": ORDERS, "name": "Orders", "scopes": [{"name": "read"}, {"name": "orders"}], "introspection_clients": ["gw"]}],
            "clients": [
                exchange(&BROKER, &both, &[API, ORDERS, VAULT], json!({"delegation": true, "subject_clients": ["home", "broker", "mask", "machine", "fleet"]})),
                exchange(&MASK, &both, &[ORDERS, API], json!({
                    "impersonation": true, "audiences": [ORDERS], "subject_clients": ["home", "broker"], "issuers": [issuer.url], "scopes": ["orders"],
                })),
                registered(&FLEET, &["client_credentials"], json!({"allowed_resources": [API]})),
                exchange(&LOOSE, &[EXCHANGE], &[API], json!({"delegation": true})),
            ],
            "trusted_issuers": [{"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"], "grant": {"claim": "sub", "clients": ["mask"]}}],
            "routes": [{"id": "orders", "match": {"path_prefix": "/orders/"}, "upstream": "echo", "auth": {"accept": ["jwt"], "issuers": ["self"], "audience": ORDERS, "scopes": ["read"]}}],
        });
        let address = issuer.address.clone();
        let stage = stage(
            |house| {
                house.set("outbound.allow", &json!([address]).to_string());
            },
            &more,
        );
        World { stage, key, issuer }
    })
}

fn server() -> &'static Server {
    &world().stage.server
}

fn exchange(who: &Id, token: &str, more: &[(&str, &str)]) -> Answer {
    let mut form = vec![("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", ACCESS), ("resource", ORDERS)];
    form.retain(|(name, _)| !more.iter().any(|(n, _)| n == name));
    form.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    server().token(who, &form)
}

fn person(username: &str) -> (Visitor, Value) {
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(server(), &Ask::new(&HOME), username);
    (visitor, tokens)
}

#[test]
fn who_acts_is_told_and_nothing_grows() {
    let (_, tokens) = person("alice");
    let subject = text(&tokens, "access_token");
    let answer = exchange(&BROKER, &subject, &[]).expect(200).json();
    assert_eq!((&answer["issued_token_type"], &answer["token_type"]), (&json!(ACCESS), &json!("Bearer")));
    assert!(answer.get("refresh_token").is_none() && answer.get("id_token").is_none());
    let (before, after) = (claims(&subject), claims(&text(&answer, "access_token")));
    assert_eq!((&after["aud"], &after["client_id"], &after["scope"]), (&json!(ORDERS), &json!("broker"), &json!("read")));
    assert_eq!((&after["sub"], &after["grant"], &after["sid"]), (&before["sub"], &before["grant"], &before["sid"]));
    assert_eq!(after["act"], json!({"sub": "broker"}));
    // An hour was registered; what is left of five minutes was given.
    assert!(after["exp"].as_i64() <= before["exp"].as_i64() && answer["expires_in"].as_i64().unwrap() <= 300);
    assert_eq!(server().call("/orders/1", &text(&answer, "access_token")).status, 200);
    exchange(&BROKER, &subject, &[("scope", "orders")]).expect_error(400, "invalid_scope");
    exchange(&BROKER, &subject, &[("scope", "write")]).expect_error(400, "invalid_scope");
    exchange(&BROKER, &subject, &[("resource", API), ("scope", "read")]).expect(200);
    exchange(&BROKER, &subject, &[("resource", ""), ("audience", ORDERS)]).expect(200);
    exchange(&BROKER, &subject, &[("audience", API)]).expect_error(400, "invalid_target");
    exchange(&BROKER, &subject, &[("resource", "https://else.example.com")]).expect_error(400, "invalid_target");
    exchange(&BROKER, &subject, &[("resource", &server().issuer)]).expect_error(400, "invalid_target");
    let events = server().admin("GET", "/events?kind=token.exchanged&limit=200").go().expect(200).json();
    let told = events["items"].as_array().unwrap().iter().find(|e| e["grant"] == after["grant"]).expect("an event");
    assert_eq!((&told["data"]["actor"], &told["data"]["from_client"]), (&json!({"sub": "broker"}), &json!("home")));
}

#[test]
fn impersonation_and_mapped_scopes_need_the_policys_word() {
    let (_, tokens) = person("bob");
    let subject = text(&tokens, "access_token");
    let answer = exchange(&MASK, &subject, &[("scope", "orders read")]).expect(200).json();
    let after = claims(&text(&answer, "access_token"));
    assert!(after.get("act").is_none(), "{after}");
    assert_eq!(after["scope"], "orders read");
    exchange(&MASK, &subject, &[("resource", API)]).expect_error(400, "invalid_target");
    // Who acted before is not forgotten by one who may hide.
    let acted = text(&exchange(&BROKER, &subject, &[]).expect(200).json(), "access_token");
    let masked = text(&exchange(&MASK, &acted, &[]).expect(200).json(), "access_token");
    assert_eq!(claims(&masked)["act"], json!({"sub": "broker"}));
    exchange(&LOOSE, &subject, &[("resource", API)]).expect_error(400, "invalid_request");
    exchange(&WEB, &subject, &[("resource", API)]).expect_error(400, "unauthorized_client");
    exchange(&Id { secret: "wrong", ..MASK }, &subject, &[]).expect_error(401, "invalid_client");
}

#[test]
fn a_token_that_is_dead_unknown_or_anothers_is_an_invalid_request() {
    let (_, tokens) = person("alice");
    let subject = text(&tokens, "access_token");
    let foreign = text(&Visitor::new().tokens(server(), &Ask::new(&RIVAL), "alice"), "access_token");
    let one = exchange(&BROKER, &foreign, &[]);
    let other = exchange(&BROKER, "nonsense", &[]);
    assert_eq!(one.text(), other.text());
    one.expect_error(400, "invalid_request");
    server().revoke(&HOME, &subject);
    exchange(&BROKER, &subject, &[]).expect_error(400, "invalid_request");
    exchange(&BROKER, &text(&tokens, "id_token"), &[]).expect_error(400, "invalid_request");
    exchange(&BROKER, &text(&tokens, "refresh_token"), &[]).expect_error(400, "invalid_request");
    let (_, tokens) = person("alice");
    let good = text(&tokens, "access_token");
    for wrong in [
        [("subject_token", ""), ("a", "")],
        [("subject_token_type", ""), ("a", "")],
        [("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), ("a", "")],
        [("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), ("a", "")],
        [("actor_token", &*good), ("a", "")],
        [("actor_token", &*good), ("actor_token_type", ID_TOKEN)],
    ] {
        exchange(&BROKER, &good, &wrong).expect_error(400, "invalid_request");
    }
}

#[test]
fn what_ends_the_subjects_grant_session_or_account_ends_the_exchanged_token() {
    // The grant, taken back by the person.
    let (mut visitor, tokens) = person("alice");
    let exchanged = text(&exchange(&BROKER, &text(&tokens, "access_token"), &[]).expect(200).json(), "access_token");
    assert!(server().active(&exchanged) && server().call("/orders/1", &exchanged).status == 200);
    let grant = claims(&exchanged)["grant"].as_str().unwrap().to_owned();
    server().admin("DELETE", &format!("/grants/{grant}")).go().expect(204);
    assert!(!server().active(&exchanged) && server().call("/orders/1", &exchanged).status == 401);
    exchange(&BROKER, &text(&tokens, "access_token"), &[]).expect_error(400, "invalid_request");
    // The session.
    let ask = Ask::new(&HOME).with("scope", "openid read");
    let tokens = visitor.tokens(server(), &ask, "alice");
    let exchanged = text(&exchange(&BROKER, &text(&tokens, "access_token"), &[]).expect(200).json(), "access_token");
    assert_eq!(server().call("/orders/1", &exchanged).status, 200);
    let bye = visitor.open(&server().url("/logout")).kind("logout");
    visitor.send(&bye.press("logout-confirm"));
    assert!(!server().active(&exchanged) && server().call("/orders/1", &exchanged).status == 401);
    // The account.
    let (_, tokens) = person("carol");
    let exchanged = text(&exchange(&MASK, &text(&tokens, "access_token"), &[]).expect(200).json(), "access_token");
    assert_eq!(server().call("/orders/1", &exchanged).status, 200);
    server().admin("POST", "/users/carol/disable").go().expect(204);
    assert!(!server().active(&exchanged) && server().call("/orders/1", &exchanged).status == 401);
}

#[test]
fn what_ends_the_subject_token_or_its_client_ends_what_came_of_it() {
    let passes = |token: &str| (server().active(token), server().call("/orders/1", token).status == 200);
    let made = |token: &str| text(&exchange(&BROKER, token, &[]).expect(200).json(), "access_token");
    let subject = server().machine_token(&FLEET, &[]);
    let exchanged = made(&subject);
    let again = made(&exchanged);
    assert_eq!((passes(&exchanged), passes(&again)), ((true, true), (true, true)));
    // The subject token is given back by its client; what came of what came of it dies too.
    server().revoke(&FLEET, &subject);
    assert_eq!((passes(&exchanged), passes(&again)), ((false, false), (false, false)));
    exchange(&BROKER, &again, &[]).expect_error(400, "invalid_request");
    // Its client.
    let exchanged = made(&server().machine_token(&FLEET, &[]));
    let again = made(&exchanged);
    assert_eq!((passes(&exchanged), passes(&again)), ((true, true), (true, true)));
    let got = server().admin("GET", "/clients/fleet").go().expect(200);
    let mut object = got.json();
    object["disabled"] = json!(true);
    server().admin("PUT", "/clients/fleet").header("if-match", got.header("etag")).json(&object).go().expect(200);
    assert_eq!((passes(&exchanged), passes(&again)), ((false, false), (false, false)));
    exchange(&BROKER, &again, &[]).expect_error(400, "invalid_request");
}

#[test]
fn actors_stand_behind_one_another_five_deep() {
    let (_, tokens) = person("bob");
    let mut token = text(&tokens, "access_token");
    for depth in 1..=5 {
        token = text(&exchange(&BROKER, &token, &[]).expect(200).json(), "access_token");
        let act = claims(&token)["act"].clone();
        assert_eq!(std::iter::successors(Some(&act), |a| a.get("act")).count(), depth);
    }
    exchange(&BROKER, &token, &[]).expect_error(400, "invalid_request");
}

#[test]
fn an_actor_token_is_the_clients_own() {
    let (_, tokens) = person("bob");
    let subject = text(&tokens, "access_token");
    let own = server().machine_token(&BROKER, &[("resource", API)]);
    let answer = exchange(&BROKER, &subject, &[("actor_token", &own), ("actor_token_type", ACCESS)]).expect(200).json();
    assert_eq!(claims(&text(&answer, "access_token"))["act"], json!({"sub": "broker"}));
    let anothers = server().machine_token(&MACHINE, &[]);
    exchange(&BROKER, &subject, &[("actor_token", &anothers), ("actor_token_type", ACCESS)]).expect_error(400, "invalid_request");
    let masks = server().machine_token(&MASK, &[("resource", ORDERS)]);
    exchange(&MASK, &subject, &[("actor_token", &masks), ("actor_token_type", ACCESS)]).expect_error(400, "invalid_request");
    server().revoke(&BROKER, &own);
    exchange(&BROKER, &subject, &[("actor_token", &own), ("actor_token_type", ACCESS)]).expect_error(400, "invalid_request");
    // A machine's token can be a subject too.
    let answer = exchange(&BROKER, &anothers, &[]).expect(200).json();
    let told = claims(&text(&answer, "access_token"));
    assert_eq!((&told["sub"], told.get("grant")), (&json!("machine"), None));
}

#[test]
fn the_new_token_looks_as_its_resource_wants_it() {
    let (_, tokens) = person("bob");
    let subject = text(&tokens, "access_token");
    exchange(&BROKER, &subject, &[("resource", VAULT)]).expect_error(400, "invalid_scope");
    let answer = exchange(&BROKER, &subject, &[("requested_token_type", JWT)]).expect(200).json();
    assert_eq!(answer["issued_token_type"], JWT);
    let opaque = Id { id: "broker", ..BROKER };
    exchange(&opaque, &subject, &[("resource", VAULT), ("requested_token_type", JWT)]).expect_error(400, "invalid_request");
    let told = server().introspect(&text(&answer, "access_token"));
    assert_eq!((&told["act"], &told["client_id"]), (&json!({"sub": "broker"}), &json!("broker")));
}

#[test]
fn an_id_token_is_exchanged_while_its_session_lives() {
    let (mut visitor, tokens) = person("bob");
    let id_token = text(&tokens, "id_token");
    // It has no scope: what it may become is the policy's word alone.
    exchange(&BROKER, &id_token, &[("subject_token_type", ID_TOKEN)]).expect_error(400, "invalid_scope");
    let answer = exchange(&MASK, &id_token, &[("subject_token_type", ID_TOKEN)]).expect(200).json();
    let exchanged = text(&answer, "access_token");
    let told = claims(&exchanged);
    assert_eq!((&told["scope"], &told["sid"]), (&json!("orders"), &claims(&id_token)["sid"]));
    assert!(server().active(&exchanged));
    let account = arrive(&mut visitor, &server().url("/account"), "bob");
    assert!(account.answer.text().contains("mask"), "the grant is the person's to see");
    let bye = visitor.open(&server().url("/logout")).kind("logout");
    visitor.send(&bye.press("logout-confirm"));
    assert!(!server().active(&exchanged));
    exchange(&MASK, &id_token, &[("subject_token_type", ID_TOKEN)]).expect_error(400, "invalid_request");
}

#[test]
fn another_issuers_jwt_is_exchanged_by_whom_it_names() {
    let world = world();
    let made = |change: &[(&str, Value)]| {
        let mut claims = json!({"iss": world.issuer.url, "sub": "bob", "aud": server().issuer, "exp": now() + 120, "jti": random()});
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        world.key.sign(&json!({"alg": "ES256", "kid": "theirs"}), &claims)
    };
    let tried = |who: &Id, change: &[(&str, Value)]| exchange(who, &made(change), &[("subject_token_type", JWT)]);
    let answer = tried(&MASK, &[]).expect(200).json();
    let told = claims(&text(&answer, "access_token"));
    assert!(told["exp"].as_i64().unwrap() <= now() + 121 && told["grant"].is_string());
    assert_eq!((&told["scope"], &server().introspect(&text(&answer, "access_token"))["username"]), (&json!("orders"), &json!("bob")));
    tried(&BROKER, &[]).expect_error(400, "invalid_request");
    for wrong in [
        ("iss", json!("https://else.example.com")),
        ("aud", json!(ORDERS)),
        ("exp", json!(now() - 60)),
        ("sub", json!("nobody")),
        ("sub", json!("dora")),
    ] {
        tried(&MASK, &[wrong]).expect_error(400, "invalid_request");
    }
    tried(&MASK, &[("may_act", json!({"sub": "mask"}))]).expect(200);
    tried(&MASK, &[("may_act", json!({"sub": "broker"}))]).expect_error(400, "invalid_request");
    tried(&MASK, &[("may_act", json!({"sub": "mask", "client_id": "mask"}))]).expect(200);
    tried(&MASK, &[("may_act", json!({"sub": "broker", "client_id": "mask"}))]).expect_error(400, "invalid_request");
    tried(&MASK, &[("may_act", json!({}))]).expect_error(400, "invalid_request");
    // It counts once, here and as a grant.
    let assertion = made(&[]);
    exchange(&MASK, &assertion, &[("subject_token_type", JWT)]).expect(200);
    exchange(&MASK, &assertion, &[("subject_token_type", JWT)]).expect_error(400, "invalid_request");
    tried(&MASK, &[("may_act", json!({"sub": "mask", "iss": "https://else"}))]).expect_error(400, "invalid_request");
}

#[test]
fn a_bound_token_is_exchanged_only_with_its_proof() {
    let holder = Holder::new();
    let form = [("grant_type", "client_credentials"), ("resource", API)];
    let bound = holder.token(server(), &MACHINE, &form).expect(200).json();
    assert_eq!(bound["token_type"], "DPoP");
    let token = text(&bound, "access_token");
    exchange(&BROKER, &token, &[]).expect_error(400, "invalid_request");
    let form = [("grant_type", EXCHANGE), ("subject_token", &*token), ("subject_token_type", ACCESS), ("resource", ORDERS)];
    Holder::new().token(server(), &BROKER, &form).expect_error(400, "invalid_request");
    let answer = holder.token(server(), &BROKER, &form).expect(200).json();
    assert_eq!(answer["token_type"], "DPoP");
    assert_eq!(claims(&text(&answer, "access_token"))["cnf"], claims(&token)["cnf"]);
}
