//! Signed userinfo (OpenID Connect Core §5.3.2) and signed introspection (RFC 9701).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::http::{Answer, Go, client, now};
use crate::kit::jose::verified;
use crate::kit::seed::{API, GW, HOME, Id, MACHINE, RIVAL, SAFE, standard};
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream};

const fn app(id: &'static str) -> Id {
    Id {
        id,
        secret: "signed-secret-9f8e7d6c5b4a39281706f5e4d3c2b1a0",
        method: "client_secret_basic",
        redirect: "https://signed.example.com/cb",
        scope: "openid email offline_access read",
    }
}

const RS: Id = app("told-rs256");
const ED: Id = app("told-eddsa");
/// Registered for signed introspection answers.
const NOTARY: Id = Id { redirect: "", scope: "", ..app("notary") };

const MEDIA_TYPE: &str = "application/token-introspection+jwt";

fn server() -> &'static Server {
    static STAGE: OnceLock<(Server, Upstream)> = OnceLock::new();
    let start = || {
        let (upstream, house) = (Upstream::start(), House::new());
        house.bootstrap();
        let mut seed = standard(&upstream.url());
        for (id, alg) in [(RS, "RS256"), (ED, "EdDSA")] {
            seed["clients"].as_array_mut().unwrap().push(json!({
                "client_id": id.id, "client_secret": id.secret, "redirect_uris": [id.redirect], "response_types": ["code"],
                "grant_types": ["authorization_code", "refresh_token"], "scope": id.scope, "first_party": true, "allowed_resources": [API],
                "userinfo_signed_response_alg": alg,
            }));
        }
        seed["clients"].as_array_mut().unwrap().push(json!({
            "client_id": NOTARY.id, "client_secret": NOTARY.secret, "grant_types": ["client_credentials"], "introspection_signed_response_alg": "ES384",
        }));
        for server in seed["resource_servers"].as_array_mut().unwrap() {
            server["introspection_clients"] = json!(["gw", "notary"]);
        }
        house.seed(&seed);
        (house.serve(), upstream)
    };
    &STAGE.get_or_init(start).0
}

fn userinfo(who: &Id) -> (Value, Answer) {
    let tokens = server().person_tokens(who, "alice");
    let answer = client().get(server().url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().expect(200);
    (crate::kit::http::claims(&text(&tokens, "id_token")), answer)
}

#[test]
fn oidcc_userinfo_rs256() {
    let (id_token, answer) = userinfo(&RS);
    assert_eq!(answer.header("content-type"), "application/jwt");
    assert!(answer.header("cache-control").contains("no-store"));
    let told = verified(server(), &answer.text(), "RS256", "JWT");
    assert_eq!((&told["iss"], &told["aud"], &told["sub"]), (&json!(server().issuer), &json!(RS.id), &id_token["sub"]));
    assert_eq!(told["email"], "alice@example.com");
    for absent in ["nonce", "at_hash", "events", "scope"] {
        assert!(told.get(absent).is_none(), "{absent}: {told}");
    }
}

#[test]
fn userinfo_comes_in_the_algorithm_that_was_registered_and_plain_to_all_others() {
    let (_, answer) = userinfo(&ED);
    verified(server(), &answer.text(), "EdDSA", "JWT");
    let (_, plain) = userinfo(&HOME);
    assert!(plain.header("content-type").starts_with("application/json"));
    assert!(plain.json().get("aud").is_none());
    // Refusals are what they are for everybody.
    let refused = client().get(server().url("/userinfo")).bearer_auth("nonsense").go().expect(401);
    assert!(refused.header("www-authenticate").contains("invalid_token"));
    let metadata = client().get(server().url("/.well-known/openid-configuration")).go().expect(200).json();
    assert!(metadata["userinfo_signing_alg_values_supported"].as_array().unwrap().contains(&json!("RS256")));
}

#[test]
fn signed_userinfo_is_no_access_token() {
    let (_, answer) = userinfo(&RS);
    let token = answer.text();
    client().get(server().url("/userinfo")).bearer_auth(&token).go().expect(401);
    assert_eq!(server().call("/api/x", &token).status, 401);
    assert!(!server().active(&token));
}

fn signed(who: &Id, token: &str) -> Answer {
    who.post(&server().url("/introspect"), &[("token", token)]).header("accept", MEDIA_TYPE).go().expect(200)
}

#[test]
fn whoever_asks_for_a_signed_introspection_answer_gets_one() {
    let token = server().machine_token(&MACHINE, &[("scope", "read")]);
    let plain = server().introspect(&token);
    let answer = signed(&GW, &token);
    assert_eq!(answer.header("content-type"), MEDIA_TYPE);
    assert!(answer.header("cache-control").contains("no-store"));
    let told = verified(server(), &answer.text(), "RS256", "token-introspection+jwt");
    assert_eq!((&told["iss"], &told["aud"]), (&json!(server().issuer), &json!(GW.id)));
    assert!((told["iat"].as_i64().unwrap() - now()).abs() <= 10, "{told}");
    assert_eq!(told["token_introspection"], plain, "the same is told, signed");
    for absent in ["sub", "exp", "scope", "active", "client_id"] {
        assert!(told.get(absent).is_none(), "RFC 9701 §5: {absent} at the top could make an access token of it");
    }
    // The plain answer is still there for those who ask for it.
    let json = GW.post(&server().url("/introspect"), &[("token", &token)]).header("accept", "application/json").go().expect(200);
    assert!(json.header("content-type").starts_with("application/json") && json.json()["active"] == true);
}

#[test]
fn a_registered_algorithm_signs_every_answer_of_its_client() {
    let token = server().machine_token(&SAFE, &[]);
    let answer = server().post("/introspect", &NOTARY, &[("token", &token)]).expect(200);
    assert_eq!(answer.header("content-type"), MEDIA_TYPE);
    let told = verified(server(), &answer.text(), "ES384", "token-introspection+jwt");
    assert_eq!((&told["aud"], &told["token_introspection"]["active"]), (&json!(NOTARY.id), &json!(true)));
    server().revoke(&SAFE, &token);
    let answer = server().post("/introspect", &NOTARY, &[("token", &token)]).expect(200);
    let told = verified(server(), &answer.text(), "ES384", "token-introspection+jwt");
    assert_eq!(told["token_introspection"], json!({"active": false}));
}

#[test]
fn a_signed_answer_tells_a_stranger_nothing_more_and_a_nobody_nothing_at_all() {
    let token = server().machine_token(&MACHINE, &[]);
    let told = verified(server(), &signed(&RIVAL, &token).text(), "RS256", "token-introspection+jwt");
    assert_eq!(told["token_introspection"], json!({"active": false}));
    let told = verified(server(), &signed(&GW, "nonsense").text(), "RS256", "token-introspection+jwt");
    assert_eq!(told["token_introspection"], json!({"active": false}));
    let nobody = client().post(server().url("/introspect")).header("accept", MEDIA_TYPE).form(&[("token", &token)]).go().expect(401);
    assert!(nobody.header("content-type").starts_with("application/json"));
    let metadata = client().get(server().url("/.well-known/oauth-authorization-server")).go().expect(200).json();
    assert!(metadata["introspection_signing_alg_values_supported"].as_array().unwrap().contains(&json!("RS256")));
}

#[test]
fn a_refresh_tokens_answer_is_signed_too() {
    let refresh = text(&server().person_tokens(&HOME, "alice"), "refresh_token");
    let told = verified(server(), &signed(&HOME, &refresh).text(), "RS256", "token-introspection+jwt");
    assert_eq!(told["token_introspection"]["active"], true, "{told}");
}
