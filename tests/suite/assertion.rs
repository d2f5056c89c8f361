//! Signed assertions about the caller: what an upstream can believe by the gateway's own keys, and nobody takes for access.
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::apart::stage;
use crate::kit::http::{claims, client, jose_header, random};
use crate::kit::script::python;
use crate::kit::seed::{API, MACHINE, SAFE, VAULT};
use crate::kit::{Go, Stage};

const KEYS: &str = "/.well-known/doorward-gateway/jwks.json";
const OWN: &str = "x-doorward-assertion";

fn signing(id: &str, identity: Value) -> Value {
    json!({
        "id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "identity": identity,
        "auth": {"accept": ["jwt", "opaque"], "issuers": ["self"], "audience": API, "scopes": ["read"]},
    })
}

fn world() -> &'static Stage {
    static WORLD: OnceLock<Stage> = OnceLock::new();
    WORLD.get_or_init(|| {
        let more = json!({"routes": [
            signing("signed", json!({"signed_assertion": true})),
            signing("eddsa", json!({"signed_assertion": {"header": "Authorization", "alg": "EdDSA", "audience": "https://up.example", "claims": ["aud_", "jti_"], "ttl": "5s"}})),
            signing("named", json!({"signed_assertion": {"header": "X-Who", "request": true, "claims": ["auth_time"]}})),
            signing("phantom", json!({"phantom": true})),
        ]});
        stage(|_| {}, &more)
    })
}

/// What the upstream got in a header.
fn told(path: &str, token: &str, header: &str) -> String {
    let (stage, mark) = (world(), random());
    stage.call(&format!("{path}{mark}"), token).expect(200);
    let seen = stage.upstream.only(&mark);
    let all = seen.all(header);
    assert_eq!(all.len(), 1, "{header}: {:?}", seen.headers);
    all[0].to_owned()
}

#[test]
fn it_says_who_calls_and_is_signed_once_for_many_requests() {
    let (stage, token) = (world(), world().machine_token(&MACHINE, &[("scope", "read")]));
    let first = told("/signed/", &token, OWN);
    let (said, access) = (claims(&first), claims(&token));
    assert_eq!(jose_header(&first)["typ"], "identity+jwt");
    assert_eq!((said["iss"].as_str(), said["aud"].as_str()), (Some(&*format!("{}/gateway", stage.issuer)), Some("echo")));
    assert_eq!((&said["sub"], &said["client_id"], &said["scope"]), (&access["sub"], &access["client_id"], &access["scope"]));
    assert_eq!(said["credential"], json!({"kind": "jwt", "iss": stage.issuer}));
    let life = said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap();
    assert!((1..=60).contains(&life) && said["exp"].as_i64() <= access["exp"].as_i64());
    for absent in ["cnf", "jti", "seq", "grant", "nbf"] {
        assert!(said.get(absent).is_none(), "{absent}");
    }
    // Two threads sign for themselves; no request signs anew.
    let mut all: Vec<String> = (0..40).map(|_| told("/signed/", &token, OWN)).collect();
    all.sort();
    all.dedup();
    assert!(all.len() <= 16, "{} assertions for 40 requests", all.len());
    let other = told("/signed/", &world().machine_token(&MACHINE, &[("scope", "read")]), OWN);
    assert!(!all.contains(&other), "an assertion of one token was sent for another");
}

#[test]
fn it_goes_where_the_route_says_and_as_the_route_says() {
    let token = world().machine_token(&MACHINE, &[]);
    let bearer = told("/eddsa/", &token, "authorization");
    let jwt = bearer.strip_prefix("Bearer ").expect("a bearer token");
    assert_eq!((jose_header(jwt)["alg"].as_str(), claims(jwt)["aud"].as_str()), (Some("EdDSA"), Some("https://up.example")));
    assert!(claims(jwt)["exp"].as_i64().unwrap() - claims(jwt)["iat"].as_i64().unwrap() <= 5);
    let (one, two) = (told("/named/a", &token, "x-who"), told("/named/b", &token, "x-who"));
    assert_ne!(claims(&one)["htu"], claims(&two)["htu"]);
    assert_eq!(claims(&one)["htm"], "GET");
    assert!(claims(&one)["htu"].as_str().is_some_and(|uri| uri.starts_with("http://127.0.0.1") && uri.contains("/named/a")));
}

#[test]
fn joserfc_believes_it_by_the_gateways_keys_and_no_access_token() {
    let (stage, token) = (world(), world().machine_token(&MACHINE, &[]));
    for (path, header, alg, audience) in [("/signed/", OWN, "ES256", "echo"), ("/eddsa/", "authorization", "EdDSA", "https://up.example")] {
        let Some(script) = python("joserfc_assertion.py") else { return };
        let assertion = told(path, &token, header);
        script
            .with("ASSERTION", assertion.trim_start_matches("Bearer "))
            .with("JWKS_URL", &stage.through(KEYS))
            .with("GATEWAY", &format!("{}/gateway", stage.issuer))
            .with("AUDIENCE", audience)
            .with("SUBJECT", claims(&token)["sub"].as_str().unwrap())
            .with("ACCESS_TOKEN", &token)
            .with("ALG", alg)
            .goes(stage, &["keys", "believed", "access token refused"]);
    }
}

#[test]
fn nobody_takes_it_for_an_access_token() {
    let (stage, token) = (world(), world().machine_token(&MACHINE, &[]));
    let phantom = told("/phantom/", &token, "authorization");
    for assertion in [told("/signed/", &token, OWN), phantom.trim_start_matches("Bearer ").to_owned()] {
        for path in ["/api/x", "/signed/x", "/asking/x", "/offline/x", "/vault/x"] {
            let mark = random();
            assert_eq!(stage.call(&format!("{path}{mark}"), &assertion).status, 401, "{path}");
            assert!(stage.upstream.seen(&mark).is_empty(), "{path}");
        }
        assert!(!stage.active(&assertion));
        assert_eq!(client().get(stage.url("/userinfo")).bearer_auth(&assertion).go().status, 401);
        let admin = format!("http://{}/admin/v1/users", stage.listener("admin"));
        assert_eq!(client().get(admin).bearer_auth(&assertion).go().status, 401);
    }
    // Nor do the authorization server's keys have anything to do with the gateway's.
    let kids = |url: String| -> Vec<String> {
        let set = client().get(url).go().expect(200).json();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let (theirs, ours) = (kids(stage.url("/jwks")), kids(stage.through(KEYS)));
    assert!(ours.len() >= 4 && ours.iter().all(|kid| !theirs.contains(kid)), "{ours:?}");
}

#[test]
fn callers_cannot_bring_their_own_in_any_spelling() {
    let (stage, token) = (world(), world().machine_token(&MACHINE, &[]));
    for (path, auth) in [("/public/", None), ("/api/", Some(&token)), ("/signed/", Some(&token)), ("/named/", Some(&token))] {
        let mark = random();
        let mut request =
            client().get(stage.through(&format!("{path}{mark}"))).header("X-DOORWARD-Assertion", "forged").header("x-Who", "forged");
        if let Some(token) = auth {
            request = request.bearer_auth(token);
        }
        request.go().expect(200);
        let seen = stage.upstream.only(&mark);
        assert!(seen.headers.iter().all(|(_, value)| value != "forged"), "{path}: {:?}", seen.headers);
    }
}

#[test]
fn the_keys_are_where_no_route_is_and_outlive_the_process() {
    let (house, upstream) = {
        let stage = Stage::start(|_| {});
        let token = stage.machine_token(&MACHINE, &[]);
        assert_eq!(client().get(stage.through(KEYS)).go().status, 404, "no route signs");
        let made = stage.admin("POST", "/routes").json(&signing("signed", json!({"signed_assertion": true}))).go();
        made.expect(201);
        let mark = random();
        stage.call(&format!("/signed/{mark}"), &token).expect(200);
        let assertion = stage.upstream.only(&mark).all(OWN)[0].to_owned();
        let answer = client().get(stage.through(KEYS)).go().expect(200);
        assert_eq!(answer.header("cache-control"), "max-age=300");
        assert_eq!(answer.json()["keys"].as_array().unwrap().len(), 2, "the present one and the next");
        assert!(answer.text().contains(jose_header(&assertion)["kid"].as_str().unwrap()));
        assert_eq!(client().post(stage.through(KEYS)).go().status, 404);
        assert_eq!(client().head(stage.through(KEYS)).go().status, 200);
        let Stage { house, server, upstream } = stage;
        server.stop();
        house.write("keys.json", &answer.text());
        (house, upstream)
    };
    let keys = std::fs::read_to_string(house.path("keys.json")).unwrap();
    let again = house.serve();
    let token = again.machine_token(&MACHINE, &[]);
    let mark = random();
    again.call(&format!("/signed/{mark}"), &token).expect(200);
    let kid = jose_header(upstream.only(&mark).all(OWN)[0])["kid"].as_str().unwrap().to_owned();
    assert!(keys.contains(&kid), "the key of before the restart signs");
    let events = again.admin("GET", "/events?limit=200").go().expect(200).text();
    assert!(events.contains("gateway assertions"), "the making of keys is told of");
    // A route of the administrator's at that path is not shadowed.
    let own = json!({"id": "wk", "match": {"path_prefix": "/.well-known/"}, "upstream": "echo", "public": true});
    again.admin("POST", "/routes").json(&own).go().expect(201);
    assert!(client().get(again.through(KEYS)).go().expect(200).text().contains("headers"));
    again.stop();
}

#[test]
fn an_opaque_token_and_a_persons_are_told_of_too() {
    let stage = world();
    let mut vault = signing("vaulted", json!({"signed_assertion": true}));
    vault["auth"] = json!({"accept": ["opaque"], "issuers": ["self"], "audience": VAULT, "scopes": ["open"]});
    stage.admin("POST", "/routes").json(&vault).go().expect(201);
    let token = stage.machine_token(&SAFE, &[]);
    let said = claims(&told("/vaulted/", &token, OWN));
    assert_eq!((said["sub"].as_str(), said["credential"]["kind"].as_str()), (Some("safe"), Some("opaque")));
    let text = stage.log();
    assert!(!text.contains(&told("/vaulted/", &token, OWN)), "an assertion is in the log");
}

#[test]
fn what_cannot_be_is_refused_where_it_is_registered() {
    let stage = world();
    for (identity, at) in [
        (json!({"signed_assertion": {"ttl": "10m"}}), "identity.signed_assertion.ttl"),
        (json!({"signed_assertion": {"alg": "none"}}), "identity.signed_assertion.alg"),
        (json!({"signed_assertion": {"claims": ["cnf"]}}), "identity.signed_assertion.claims[0]"),
        (json!({"signed_assertion": {"nonsense": 1}}), "identity.signed_assertion.nonsense"),
        (json!({"phantom": true, "signed_assertion": {"header": "X-A"}}), "identity.signed_assertion.header"),
    ] {
        let answer = stage.admin("POST", "/routes").json(&signing("bad", identity.clone())).go().expect(422);
        assert!(answer.text().contains(at), "{identity}: {}", answer.text());
    }
}
