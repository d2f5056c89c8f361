//! ML-DSA-65 beside the classical algorithms (RFC 9964, FIPS 204), judged by another implementation of it.
use std::sync::OnceLock;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_65_SIGNING, PqdsaKeyPair};
use serde_json::{Value, json};

use crate::kit::forge::{Issuer, good_claims};
use crate::kit::http::{Go, b64, client, jose_header};
use crate::kit::jose::{at_hash, thumbprint, verified};
use crate::kit::seed::{HOME, Id, MACHINE, route, standard};
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream};

const SECRET: &str = "lattice-secret-1029384756abcdef1029384756abcdef";
const LATTICE: Id =
    Id { id: "lattice", secret: SECRET, method: "client_secret_basic", redirect: "https://pq.example.com/cb", scope: "openid email hold" };
const HOLDER: Id = Id { id: "holder", redirect: "", scope: "hold", ..LATTICE };
const FORT: &str = "https://fort.example.com";

struct Stage {
    server: Server,
    house: House,
    issuer: Issuer,
    pair: PqdsaKeyPair,
    _upstream: Upstream,
}

fn registration() -> Value {
    json!({"client_id": LATTICE.id, "client_secret": SECRET, "redirect_uris": [LATTICE.redirect], "response_types": ["code"],
        "grant_types": ["authorization_code"], "scope": LATTICE.scope, "first_party": true, "allowed_resources": [FORT],
        "id_token_signed_response_alg": "ML-DSA-65", "userinfo_signed_response_alg": "ML-DSA-65", "introspection_signed_response_alg": "ML-DSA-65"})
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(fresh_stage)
}

fn fresh_stage() -> Stage {
    let (upstream, issuer) = (Upstream::start(), Issuer::start(&[]));
    let pair = PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).expect("a key");
    issuer.publish_set(json!({"keys": [foreign_jwk(&pair)]}));
    let mut house = House::new();
    house.set("keys.post_quantum", "true").set("outbound.allow", &json!([issuer.address]).to_string());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let mut add = |list: &str, object: Value| match seed[list].as_array_mut() {
        Some(known) => known.push(object),
        None => seed[list] = json!([object]),
    };
    add("clients", registration());
    add(
        "clients",
        json!({"client_id": HOLDER.id, "client_secret": SECRET, "grant_types": ["client_credentials"], "scope": "hold", "allowed_resources": [FORT]}),
    );
    add(
        "resource_servers",
        json!({"identifier": FORT, "scopes": [{"name": "hold"}], "access_token_signing_alg": "ML-DSA-65", "introspection_clients": ["gw", "lattice"]}),
    );
    add("trusted_issuers", json!({"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ML-DSA-65"]}));
    let auth = json!({"accept": ["jwt"], "issuers": ["self"], "audience": FORT, "scopes": ["hold"]});
    add("routes", route("fort", "/fort/", "echo", auth));
    let auth = json!({"accept": ["jwt"], "issuers": [issuer.url], "audience": crate::kit::seed::API, "scopes": ["read"]});
    add("routes", route("far", "/far/", "echo", auth));
    house.seed(&seed);
    Stage { server: house.serve(), house, issuer, pair, _upstream: upstream }
}

fn foreign_jwk(pair: &PqdsaKeyPair) -> Value {
    json!({"kty": "AKP", "alg": "ML-DSA-65", "kid": "far", "use": "sig", "pub": b64(pair.public_key())})
}

fn foreign(stage: &Stage, alg: &str) -> String {
    let header = json!({"alg": alg, "typ": "at+jwt", "kid": "far"});
    let input = format!("{}.{}", b64(header.to_string()), b64(good_claims(&stage.issuer.url).to_string()));
    let mut signature = vec![0; 3309];
    stage.pair.sign(input.as_bytes(), &mut signature).expect("signs");
    format!("{input}.{}", b64(signature))
}

#[test]
fn classical_and_post_quantum_keys_are_published_side_by_side() {
    let server = &stage().server;
    let set = client().get(server.url("/jwks")).go().expect(200).json();
    let keys = set["keys"].as_array().unwrap();
    for alg in ["ES256", "ES384", "RS256", "PS256", "EdDSA", "ML-DSA-65"] {
        assert!(keys.iter().filter(|key| key["alg"] == alg).count() >= 2, "{alg}");
    }
    for key in keys.iter().filter(|key| key["alg"] == "ML-DSA-65") {
        assert_eq!(key["kty"], "AKP");
        assert_eq!(key["kid"], thumbprint(key).as_str());
        assert!(key.get("priv").is_none() && key.get("crv").is_none(), "{key}");
    }
    let metadata = client().get(server.url("/.well-known/openid-configuration")).go().expect(200).json();
    for member in
        ["id_token_signing_alg_values_supported", "userinfo_signing_alg_values_supported", "introspection_signing_alg_values_supported"]
    {
        let told = metadata[member].as_array().unwrap();
        assert!(told.contains(&json!("ML-DSA-65")) && told.contains(&json!("RS256")), "{member}: {told:?}");
    }
    // Nothing changes for those who did not ask for it.
    assert_eq!(jose_header(&server.machine_token(&MACHINE, &[]))["alg"], "ES256");
    assert_eq!(jose_header(&text(&server.person_tokens(&HOME, "alice"), "id_token"))["alg"], "RS256");
}

#[test]
fn id_tokens_userinfo_and_introspection_come_in_ml_dsa_65_to_whoever_registered_it() {
    let server = &stage().server;
    let tokens = server.person_tokens(&LATTICE, "alice");
    let access = text(&tokens, "access_token");
    let told = verified(server, &text(&tokens, "id_token"), "ML-DSA-65", "JWT");
    assert_eq!((&told["aud"], &told["at_hash"]), (&json!(LATTICE.id), &json!(at_hash("ML-DSA-65", &access))));
    let info = client().get(server.url("/userinfo")).bearer_auth(&access).go().expect(200);
    assert_eq!(verified(server, &info.text(), "ML-DSA-65", "JWT")["email"], "alice@example.com");
    let answer = server.post("/introspect", &LATTICE, &[("token", &access)]).expect(200);
    assert_eq!(verified(server, &answer.text(), "ML-DSA-65", "token-introspection+jwt")["token_introspection"]["active"], true);
}

#[test]
fn access_tokens_in_ml_dsa_65_pass_the_gateway_until_they_are_revoked() {
    let server = &stage().server;
    let token = server.machine_token(&HOLDER, &[]);
    assert!(token.len() < 16 * 1024, "{}", token.len());
    verified(server, &token, "ML-DSA-65", "at+jwt");
    server.call("/fort/x", &token).expect(200);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let bent = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    server.call("/fort/x", &bent).expect(401);
    assert!(server.active(&token));
    server.revoke(&HOLDER, &token);
    server.call("/fort/x", &token).expect(401);
}

#[test]
fn a_trusted_issuers_ml_dsa_tokens_pass_where_they_are_listed() {
    let stage = stage();
    stage.server.call("/far/x", &foreign(stage, "ML-DSA-65")).expect(200);
    for alg in ["ML-DSA-44", "ES256", "none"] {
        stage.server.call("/far/x", &foreign(stage, alg)).expect(401);
    }
}

#[test]
fn post_quantum_keys_rotate_and_are_revoked_like_the_others() {
    // A server of its own: the other tests' tokens are signed with the keys that are taken away here.
    let stage = fresh_stage();
    let (server, kid) = (&stage.server, |token: &str| jose_header(token)["kid"].as_str().unwrap().to_owned());
    let old = server.machine_token(&HOLDER, &[]);
    let listed = server.admin("GET", "/keys").go().expect(200).json();
    assert!(listed["items"].as_array().unwrap().iter().any(|key| key["kid"] == kid(&old).as_str() && key["alg"] == "ML-DSA-65"));
    assert!(server.admin("POST", "/keys/rotate").json(&json!({"alg": "ML-DSA-65"})).go().status < 300);
    let new = server.machine_token(&HOLDER, &[]);
    assert_ne!(kid(&old), kid(&new));
    server.call("/fort/x", &old).expect(200);
    assert!(server.admin("POST", &format!("/keys/{}/revoke", kid(&old))).go().status < 300);
    server.call("/fort/x", &old).expect(401);
    server.call("/fort/x", &new).expect(200);
    assert!(stage.house.holds("PRIVATE KEY").is_none());
}

#[test]
fn without_the_setting_nobody_can_name_it_and_what_was_signed_is_still_proved() {
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().unwrap().push(registration());
    seed["resource_servers"].as_array_mut().unwrap().push(
        json!({"identifier": FORT, "scopes": [{"name": "hold"}], "access_token_signing_alg": "ML-DSA-65", "introspection_clients": ["gw"]}),
    );
    let refused = house.try_seed(&seed, &[]);
    assert_ne!(refused.code, 0);
    assert!(refused.said().contains("id_token_signed_response_alg") && refused.said().contains("post_quantum"), "{}", refused.said());
    // Switched on at an existing database, the keys are there at once; switched off again, nothing new is signed.
    house.set("keys.post_quantum", "true");
    house.seed(&seed);
    let server = house.serve();
    let tokens = server.person_tokens(&LATTICE, "alice");
    verified(&server, &text(&tokens, "id_token"), "ML-DSA-65", "JWT");
    let access = text(&tokens, "access_token");
    drop(server);
    house.set("keys.post_quantum", "false");
    let server = house.serve();
    assert!(server.active(&access));
    let metadata = client().get(server.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert!(!metadata["id_token_signing_alg_values_supported"].as_array().unwrap().contains(&json!("ML-DSA-65")));
}
