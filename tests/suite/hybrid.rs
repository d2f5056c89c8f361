//! Tokens from the authorization endpoint: hybrid and implicit flows, under the profile `oidc-dynamic` only (OpenID Connect Core §3.2, §3.3).
use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Value, json};
use url::Url;

use crate::kit::fapi::stage;
use crate::kit::http::{Go, client};
use crate::kit::jose::{at_hash, verified};
use crate::kit::seed::{API, Id};
use crate::kit::{Ask, Landing, Stage, Visitor};

const OLD: Id = Id {
    id: "hybrid",
    secret: "hybrid-secret-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    method: "client_secret_basic",
    redirect: "https://hybrid.example.com/cb",
    scope: "openid profile email read",
};

const KINDS: [&str; 5] = ["id_token", "id_token token", "code id_token", "code token", "code id_token token"];

fn object() -> Value {
    json!({
        "client_id": OLD.id, "client_secret": OLD.secret, "redirect_uris": [OLD.redirect], "scope": OLD.scope, "first_party": true,
        "grant_types": ["authorization_code", "implicit"], "response_types": ([&["code"][..], &KINDS[..]].concat()), "allowed_resources": [API]
    })
}

fn old() -> &'static Stage {
    static ONE: OnceLock<Stage> = OnceLock::new();
    ONE.get_or_init(|| stage(vec![object()], |house| _ = house.text("server.profile", "oidc-dynamic")))
}

fn ask(kind: &str) -> Ask {
    Ask::new(&OLD).with("response_type", kind)
}

/// What came in the fragment; nothing came in the query.
#[track_caller]
fn fragment(landing: Landing) -> BTreeMap<String, String> {
    let Landing::Away(url) = landing else { panic!("a redirect") };
    assert_eq!(url.query(), None, "{url}");
    url::form_urlencoded::parse(url.fragment().expect("a fragment").as_bytes()).into_owned().collect()
}

#[track_caller]
fn id_token(ask: &Ask, got: &BTreeMap<String, String>) -> Value {
    let told = verified(old(), &got["id_token"], "RS256", "JWT");
    assert_eq!((&told["nonce"], &told["aud"]), (&json!(ask.nonce), &json!(OLD.id)));
    assert_eq!(told.get("c_hash"), got.get("code").map(|c| json!(at_hash("RS256", c))).as_ref());
    assert_eq!(told.get("at_hash"), got.get("access_token").map(|t| json!(at_hash("RS256", t))).as_ref());
    told
}

#[test]
fn each_response_type_gives_what_it_names_in_the_fragment() {
    for kind in KINDS {
        let ask = ask(kind);
        let got = fragment(Visitor::new().walk(old(), &ask, "alice"));
        let names = [("code", "code"), ("id_token", "id_token"), ("token", "access_token")];
        for (word, name) in names {
            assert_eq!(got.contains_key(name), kind.split(' ').any(|w| w == word), "{kind}: {got:?}");
        }
        assert_eq!((&got["state"], &got["iss"]), (&ask.state, &old().issuer));
        if got.contains_key("id_token") {
            let told = id_token(&ask, &got);
            assert_eq!(told.get("name").is_some(), kind == "id_token", "scope claims only where userinfo cannot be asked");
        }
        if let Some(token) = got.get("access_token") {
            assert_eq!((got["token_type"].as_str(), got["expires_in"].as_str()), ("Bearer", "300"));
            assert!(old().active(token));
            assert_eq!(client().get(old().url("/userinfo")).bearer_auth(token).go().expect(200).json()["name"], "Alice A");
            old().call("/api/x", token).expect(200);
        }
        if let Some(code) = got.get("code") {
            let tokens = ask.redeem(old(), code).expect(200).json();
            assert!(tokens["access_token"].is_string() && tokens["id_token"].is_string());
        }
    }
}

#[test]
fn a_code_used_twice_ends_the_token_that_came_beside_it() {
    let ask = ask("code id_token token");
    let got = fragment(Visitor::new().walk(old(), &ask, "alice"));
    ask.redeem(old(), &got["code"]).expect(200);
    assert!(old().active(&got["access_token"]));
    ask.redeem(old(), &got["code"]).expect_error(400, "invalid_grant");
    assert!(!old().active(&got["access_token"]));
}

#[test]
fn oidcc_ensure_request_without_nonce_fails() {
    for kind in ["id_token", "id_token token", "code id_token", "code id_token token"] {
        let got = fragment(Visitor::new().open(&ask(kind).without("nonce").url(old())));
        assert_eq!(got["error"], "invalid_request", "{kind}");
    }
    assert!(fragment(Visitor::new().walk(old(), &ask("code token").without("nonce"), "alice")).contains_key("code"));
}

#[test]
fn an_id_token_needs_the_scope_openid() {
    let got = fragment(Visitor::new().open(&ask("id_token").with("scope", "read").url(old())));
    assert_eq!(got["error"], "invalid_scope");
}

#[test]
fn oidcc_response_type_missing() {
    let code = Visitor::new().open(&Ask::new(&OLD).without("response_type").url(old())).error(old());
    assert!(["invalid_request", "unsupported_response_type"].contains(&code.as_str()), "{code}");
}

#[test]
fn oidcc_prompt_none_not_logged_in() {
    let got = fragment(Visitor::new().open(&ask("id_token").with("prompt", "none").url(old())));
    assert_eq!(got["error"], "login_required");
}

#[test]
fn tokens_never_come_in_a_query_and_a_form_may_carry_them() {
    for mode in ["query", "query.jwt"] {
        let got = fragment(Visitor::new().open(&ask("code id_token").with("response_mode", mode).url(old())));
        assert_eq!(got["error"], "invalid_request");
    }
    let ask = ask("code id_token").with("response_mode", "form_post");
    let Landing::Page(page) = Visitor::new().walk(old(), &ask, "alice") else { panic!("a page") };
    let got: BTreeMap<String, String> = page.press("form-post-submit").fields.into_iter().collect();
    id_token(&ask, &got);
}

#[test]
fn a_signed_fragment_stands_alone() {
    let ask = ask("code id_token").with("response_mode", "jwt");
    let got = fragment(Visitor::new().walk(old(), &ask, "alice"));
    assert_eq!(got.keys().collect::<Vec<_>>(), ["response"]);
    let told = verified(old(), &got["response"], "RS256", "JWT");
    assert!(told["code"].is_string() && told["id_token"].is_string());
}

#[test]
fn token_alone_is_never_served() {
    let code = Visitor::new().open(&ask("token").url(old())).error(old());
    assert_eq!(code, "unsupported_response_type");
}

#[test]
fn the_metadata_names_them_here_and_only_here() {
    let told = client().get(old().url("/.well-known/openid-configuration")).go().expect(200).json();
    let types = told["response_types_supported"].as_array().expect("types");
    assert!(KINDS.iter().all(|k| types.contains(&json!(k))) && !types.contains(&json!("token")), "{types:?}");
    assert!(told["grant_types_supported"].as_array().is_some_and(|g| g.contains(&json!("implicit"))));
    assert!(told["response_modes_supported"].as_array().is_some_and(|m| m.contains(&json!("fragment"))));
    assert_eq!(told["request_uri_parameter_supported"], true);
}

#[test]
fn without_the_profile_it_is_unsupported() {
    static ONE: OnceLock<Stage> = OnceLock::new();
    let plain = ONE.get_or_init(|| stage(vec![object()], |_| {}));
    for kind in KINDS {
        let Landing::Away(url) = Visitor::new().open(&ask(kind).url(plain)) else { panic!("a redirect") };
        let all = Url::parse(&url.as_str().replace('#', "?")).expect("a URL");
        let error = all.query_pairs().find(|(name, _)| name == "error").map(|(_, value)| value.into_owned());
        assert_eq!(error.as_deref(), Some("unsupported_response_type"), "{kind}");
    }
}
