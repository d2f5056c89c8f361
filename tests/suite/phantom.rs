//! Phantom tokens: opaque outside, a JWT inside, ended by whatever ends what is outside.
use std::sync::OnceLock;

use serde_json::json;

use crate::kit::apart::stage;
use crate::kit::http::{claims, jose_header, random};
use crate::kit::seed::{API, MACHINE, SAFE, VAULT};
use crate::kit::{Go, Stage};

fn world() -> &'static Stage {
    static WORLD: OnceLock<Stage> = OnceLock::new();
    WORLD.get_or_init(|| {
        let auth = json!({"accept": ["opaque"], "issuers": ["self"], "audience": VAULT, "scopes": ["open"]});
        let both = json!({"accept": ["jwt", "opaque", "none"], "issuers": ["self"], "audience": API});
        let more = json!({"routes": [
            {"id": "phantom", "match": {"path_prefix": "/phantom/"}, "upstream": "echo", "auth": auth, "identity": {"phantom": true}},
            {"id": "either", "match": {"path_prefix": "/either/"}, "upstream": "echo", "auth": both,
             "identity": {"phantom": true, "headers": {}, "signed_assertion": {"ttl": "10s", "alg": "EdDSA"}}},
        ]});
        stage(|_| {}, &more)
    })
}

#[test]
fn the_upstream_gets_a_jwt_and_never_the_opaque_token() {
    let (stage, mark) = (world(), random());
    let token = stage.machine_token(&SAFE, &[]);
    assert!(token.starts_with("dwa_"));
    stage.call(&format!("/phantom/{mark}"), &token).expect(200);
    let seen = stage.upstream.only(&mark);
    let inside = seen.all("authorization")[0].strip_prefix("Bearer ").unwrap();
    assert_eq!(jose_header(inside)["typ"], "identity+jwt");
    let said = claims(inside);
    assert_eq!((said["sub"].as_str(), said["aud"].as_str(), said["scope"].as_str()), (Some("safe"), Some(VAULT), Some("open")));
    assert!(said["exp"].as_i64() <= stage.introspect(&token)["exp"].as_i64());
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(&token)), "{:?}", seen.headers);
}

#[test]
fn whoever_comes_with_nothing_is_told_of_with_nothing() {
    let (stage, mark) = (world(), random());
    crate::kit::http::client().get(stage.through(&format!("/either/{mark}"))).go().expect(200);
    assert_eq!(stage.upstream.only(&mark).all("authorization"), Vec::<&str>::new());
    let (token, mark) = (stage.machine_token(&MACHINE, &[]), random());
    stage.call(&format!("/either/{mark}"), &token).expect(200);
    let seen = stage.upstream.only(&mark);
    assert_eq!(jose_header(&seen.all("authorization")[0][7..])["alg"], "EdDSA");
    assert!(seen.all("x-doorward-subject").is_empty());
}

#[test]
fn revoking_the_token_outside_ends_the_one_inside_at_once() {
    let stage = world();
    let token = stage.machine_token(&SAFE, &[]);
    for _ in 0..3 {
        stage.call("/phantom/x", &token).expect(200);
    }
    stage.revoke(&SAFE, &token);
    let mark = random();
    assert_eq!(stage.call(&format!("/phantom/{mark}"), &token).status, 401);
    assert!(stage.upstream.seen(&mark).is_empty());
}
