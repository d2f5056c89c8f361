//! Another certified authorization server (oidc-provider) trusted beside ours: its JWTs by discovery, its opaque tokens by introspection.
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::Stage;
use crate::kit::apart::stage;
use crate::kit::forge::Key;
use crate::kit::http::{claims, jose_header, random};
use crate::kit::jose::thumbprint;
use crate::kit::other_issuer::OtherIssuer;
use crate::kit::seed::{API, MACHINE, VAULT, route};

const SECRET: &str = "a-secret-of-theirs-0123456789abcdef";

struct World {
    stage: Stage,
    theirs: OtherIssuer,
}

/// A key's PKCS#8 document as PEM.
fn pem(key: &Key) -> String {
    let der = key.pair.to_pkcs8v1().expect("a document");
    let text = crate::kit::http::b64(der.as_ref()).replace('-', "+").replace('_', "/");
    let pad = "=".repeat((4 - text.len() % 4) % 4);
    format!("-----BEGIN PRIVATE KEY-----\n{text}{pad}\n-----END PRIVATE KEY-----\n")
}

fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    WORLD
        .get_or_init(|| {
            let gate = Key::new("");
            let mut jwk = gate.jwk();
            // The gateway names its key by its thumbprint, and the server looks for it by that name.
            jwk["kid"] = json!(thumbprint(&jwk));
            let machine = |id: &str| json!({"client_id": id, "client_secret": SECRET, "grant_types": ["client_credentials"], "redirect_uris": [], "response_types": []});
            let mut basic = machine("gate");
            basic["introspection_signed_response_alg"] = json!("ES256");
            let mut keyed = machine("keyed");
            keyed["token_endpoint_auth_method"] = json!("private_key_jwt");
            keyed["introspection_signed_response_alg"] = json!("ES256");
            keyed["jwks"] = json!({"keys": [jwk]});
            keyed.as_object_mut().unwrap().remove("client_secret");
            let theirs = OtherIssuer::start(&json!([machine("jwt"), machine("rsa"), machine("opaque"), basic, keyed]), API)?;
            let endpoint = format!("{}/token/introspection", theirs.url);
            let introspection = json!({"endpoint": endpoint, "client_id": "keyed", "auth": "private_key_jwt", "secret": pem(&gate), "signed_response": true});
            let auth = |issuers: &[&str], accept: &[&str], more: Value| {
                let mut auth = json!({"accept": accept, "issuers": issuers, "audience": API, "scopes": ["read"]});
                for (name, value) in more.as_object().unwrap() {
                    auth[name] = value.clone();
                }
                auth
            };
            let more = json!({
                "trusted_issuers": [{"issuer": theirs.url, "algorithms": ["ES256", "RS256"], "introspection": introspection}],
                "routes": [
                    route("beside", "/beside/", "echo", auth(&["self", &theirs.url], &["jwt", "opaque"], json!({}))),
                    route("fresh", "/fresh/", "echo", auth(&["self", &theirs.url], &["jwt", "opaque"], json!({"freshness": "introspect"}))),
                    {"id": "inside", "match": {"path_prefix": "/inside/"}, "upstream": "echo", "identity": {"phantom": true},
                     "auth": auth(&[&theirs.url], &["opaque"], json!({}))},
                ],
            });
            let allowed = json!([theirs.address]).to_string();
            let stage = stage(
                |house| {
                    house.set("outbound.allow", &allowed);
                },
                &more,
            );
            Some(World { stage, theirs })
        })
        .as_ref()
}

#[test]
fn its_jwts_are_believed_beside_ours_by_its_metadata_and_keys() {
    let Some(w) = world() else { return };
    for id in ["jwt", "rsa"] {
        let (token, mark) = (w.theirs.token(id, SECRET, API), random());
        assert_eq!(jose_header(&token)["typ"], "at+jwt");
        w.stage.call(&format!("/beside/{mark}"), &token).expect(200);
        assert_eq!(w.stage.upstream.only(&mark).all("x-doorward-client"), [id]);
        assert_eq!(w.stage.call("/api/x", &token).status, 401, "where ours alone is trusted");
    }
    let ours = w.stage.machine_token(&MACHINE, &[]);
    w.stage.call("/beside/x", &ours).expect(200);
    assert_eq!(w.stage.call("/beside/x", &w.theirs.token("jwt", SECRET, VAULT)).status, 401, "for another audience");
}

#[test]
fn its_opaque_tokens_are_asked_about_with_a_signed_assertion_and_a_signed_answer() {
    let Some(w) = world() else { return };
    let (token, mark) = (w.theirs.token("opaque", SECRET, API), random());
    assert!(!token.contains('.'));
    w.stage.call(&format!("/beside/{mark}"), &token).expect(200);
    assert_eq!(w.stage.upstream.only(&mark).all("x-doorward-client"), ["opaque"]);
    assert_eq!(w.stage.call("/beside/x", &w.theirs.token("opaque", SECRET, VAULT)).status, 401, "for another audience");
    assert_eq!(w.stage.call("/beside/x", &format!("{token}x")).status, 401);
    assert_eq!(w.stage.call("/vault/x", &token).status, 401, "where ours alone is trusted");
}

#[test]
fn what_it_revokes_ends_here_with_the_next_question() {
    let Some(w) = world() else { return };
    let token = w.theirs.token("opaque", SECRET, API);
    w.stage.call("/fresh/x", &token).expect(200);
    w.theirs.revoke("opaque", SECRET, &token).expect(200);
    let mark = random();
    assert_eq!(w.stage.call(&format!("/fresh/{mark}"), &token).status, 401);
    assert!(w.stage.upstream.seen(&mark).is_empty());
}

#[test]
fn its_opaque_token_is_a_jwt_of_ours_inside() {
    let Some(w) = world() else { return };
    let (token, mark) = (w.theirs.token("opaque", SECRET, API), random());
    w.stage.call(&format!("/inside/{mark}"), &token).expect(200);
    let seen = w.stage.upstream.only(&mark);
    let inside = claims(&seen.all("authorization")[0][7..]);
    assert_eq!(inside["credential"], json!({"kind": "opaque", "iss": w.theirs.url}));
    assert_eq!((inside["client_id"].as_str(), inside["aud"].as_str()), (Some("opaque"), Some(API)));
}
