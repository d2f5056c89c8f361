//! Signed request objects (RFC 9101, OpenID Connect Core §6).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::fapi::{Client, stage};
use crate::kit::https::Secure;
use crate::kit::{Ask, Stage, Visitor};

struct Scene {
    stage: Stage,
    /// Plain OpenID Connect.
    plain: Client,
    /// Has to sign.
    strict: Client,
}

fn scene() -> &'static Scene {
    static ONE: OnceLock<Scene> = OnceLock::new();
    ONE.get_or_init(|| {
        let plain = Client::new("signer", "https://signer.example.com/cb");
        let strict = Client::new("strict", "https://strict.example.com/cb");
        let mut must = strict.object();
        must["require_signed_request_object"] = json!(true);
        Scene { stage: stage(vec![plain.object(), must], |_| {}), plain, strict }
    })
}

/// A request whose object is as changed, with these parameters beside it.
fn by_value(who: &Client, ask: &Ask, object: &str, beside: &[&str]) -> Ask {
    let parameters = ask.parameters.iter().filter(|(name, _)| name == "client_id" || beside.contains(&name.as_str())).cloned().collect();
    Ask { parameters, ..ask.clone() }.with("client_id", who.id.id).with("request", object)
}

#[test]
fn a_signed_request_is_served_and_what_is_inside_wins() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id);
    let object = plain.object_of(&plain.claims(stage, &ask));
    let asked = by_value(plain, &ask, &object, &["response_type", "scope"]).with("state", "outside").with("nonce", "outside");
    let code = Visitor::new().walk(stage, &asked, "alice").code(stage, &ask);
    plain.redeem(stage, &ask, &code).expect(200);
}

#[test]
fn openid_connect_lets_what_is_missing_inside_stand_outside() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id);
    let inside = Ask { parameters: vec![("client_id".into(), plain.id.id.into())], ..ask.clone() };
    let object = plain.object_of(&plain.claims(stage, &inside));
    let code = Visitor::new().walk(stage, &ask.clone().with("request", &object), "alice").code(stage, &ask);
    plain.redeem(stage, &ask, &code).expect(200);
}

#[test]
fn where_it_has_to_be_signed_nothing_outside_counts() {
    let Scene { stage, strict, .. } = scene();
    let ask = Ask::new(&strict.id);
    assert_eq!(Visitor::new().open(&ask.url(stage)).error(stage), "invalid_request");
    let object = strict.object_of(&strict.claims(stage, &ask.clone().without("state")));
    let (_, got) = Visitor::new().walk(stage, &ask.with("request", &object), "alice").away();
    assert!(got.contains_key("code") && !got.contains_key("state"), "{got:?}");
}

#[test]
fn a_bad_object_is_told_where_the_answer_would_have_gone_or_on_a_page() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id);
    let mut claims = plain.claims(stage, &ask);
    claims["exp"] = json!(1);
    let object = plain.object_of(&claims);
    let (to, got) = Visitor::new().open(&ask.clone().with("request", &object).url(stage)).away();
    assert_eq!((to.as_str(), got["error"].as_str()), (plain.id.redirect, "invalid_request_object"));
    assert_eq!(got["state"], ask.state);
    let page = Visitor::new().open(&by_value(plain, &ask, &object, &[]).url(stage)).kind("error");
    assert_eq!(page.text_of("error-code"), "invalid_request_object");
    for bad in ["e30.e30.", "x", "eyJhbGciOiJub25lIn0.e30."] {
        assert_eq!(Visitor::new().open(&ask.clone().with("request", bad).url(stage)).error(stage), "invalid_request_object", "{bad}");
    }
}

#[test]
fn oidcc_ensure_request_object_with_redirect_uri() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id);
    let object = plain.object_of(&plain.claims(stage, &ask));
    let asked = by_value(plain, &ask, &object, &["response_type", "scope"]).with("redirect_uri", "https://evil.example.com/cb");
    let (to, got) = Visitor::new().walk(stage, &asked, "alice").away();
    assert_eq!(to, plain.id.redirect);
    assert!(got.contains_key("code"));
}

#[test]
fn oidcc_unsigned_request_object_supported_correctly_or_rejected_as_unsupported() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id);
    let object = plain.key.sign_text(r#"{"alg":"none"}"#, &plain.claims(stage, &ask).to_string());
    let unsigned = format!("{}.", object.rsplit_once('.').expect("a signature").0);
    let code = Visitor::new().open(&ask.with("request", &unsigned).url(stage)).error(stage);
    assert!(["request_not_supported", "invalid_request_object"].contains(&code.as_str()), "{code}");
}

#[test]
fn oidcc_request_uri_unsigned_supported_correctly_or_rejected_as_unsupported() {
    let Scene { stage, plain, .. } = scene();
    let ask = Ask::new(&plain.id).with("request_uri", "https://signer.example.com/object");
    assert_eq!(Visitor::new().open(&ask.url(stage)).error(stage), "request_uri_not_supported");
}

#[test]
fn the_metadata_says_what_is_read() {
    use crate::kit::http::{Go, client};
    let Scene { stage, .. } = scene();
    let told: Value = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!((&told["request_parameter_supported"], &told["request_uri_parameter_supported"]), (&json!(true), &json!(false)));
    let algs = told["request_object_signing_alg_values_supported"].as_array().expect("algorithms");
    assert!(algs.contains(&json!("PS256")) && !algs.contains(&json!("none")), "{algs:?}");
}

struct Old {
    stage: Stage,
    who: Client,
    secure: Secure,
}

fn old() -> &'static Old {
    static ONE: OnceLock<Old> = OnceLock::new();
    ONE.get_or_init(|| {
        let (who, secure) = (Client::new("old-style", "https://old-style.example.com/cb"), Secure::start());
        let mut object = who.object();
        object["request_uris"] = json!([secure.url("/object"), secure.url("/gone")]);
        object["dpop_bound_access_tokens"] = json!(false);
        object["request_object_signing_alg"] = json!("RS256");
        let stage = stage(vec![object], |house| {
            house.text("server.profile", "oidc-dynamic");
            secure.admit(house, &[]);
        });
        Old { stage, who, secure }
    })
}

#[test]
fn oidcc_request_uri_signed_rs256() {
    let Old { stage, who, secure } = old();
    let ask = Ask::new(&who.id);
    let inside =
        json!({"client_id": who.id.id, "redirect_uri": who.id.redirect, "state": ask.state, "nonce": ask.nonce, "response_type": "code"});
    secure.put_raw("/object", 200, "Content-Type: application/oauth-authz-req+jwt\r\n", &who.rsa.sign("RS256", &inside));
    let asked = ask.clone().without("state").without("redirect_uri").with("request_uri", &secure.url("/object"));
    let code = Visitor::new().walk(stage, &asked, "alice").code(stage, &ask);
    assert!(!code.is_empty());
}

#[test]
fn only_registered_addresses_are_asked() {
    let Old { stage, who, secure } = old();
    let ask = Ask::new(&who.id);
    for address in [secure.url("/another"), "https://10.0.0.1/object".into(), "http://127.0.0.1/object".into()] {
        let code = Visitor::new().open(&ask.clone().with("request_uri", &address).url(stage)).error(stage);
        assert_eq!(code, "invalid_request_uri", "{address}");
    }
    let gone = ask.with("request_uri", &secure.url("/gone"));
    assert_eq!(Visitor::new().open(&gone.url(stage)).error(stage), "invalid_request_uri");
}
