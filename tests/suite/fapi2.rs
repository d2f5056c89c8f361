//! FAPI 2.0 Security Profile, the profile switched on: one test a module of the certification suite's always-list and OpenID Connect list.
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;

use crate::kit::fapi::{Client, go_on, login_page, stage};
use crate::kit::http::{Go, claims, client, jose_header, random};
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Visitor};

struct Scene {
    stage: Stage,
    one: Client,
    two: Client,
}

impl Scene {
    fn start(configure: impl FnOnce(&mut crate::kit::House)) -> Self {
        let one = Client::new("fapi-one", "https://one.example.com/cb");
        let two = Client::new("fapi-two", "https://two.example.com/cb?dummy1=lorem&dummy2=ipsum");
        let stage = stage(vec![one.object(), two.object()], |house| {
            house.text("server.profile", "fapi2");
            configure(house);
        });
        Self { stage, one, two }
    }
}

fn scene() -> &'static Scene {
    static ONE: OnceLock<Scene> = OnceLock::new();
    ONE.get_or_init(|| Scene::start(|_| {}))
}

/// A server where everything is soon over.
fn hasty() -> &'static Scene {
    static ONE: OnceLock<Scene> = OnceLock::new();
    ONE.get_or_init(|| {
        Scene::start(|house| {
            house.text("lifetimes.code", "1s");
            house.text("lifetimes.par", "2s");
        })
    })
}

/// A code for a client, and the request it answers.
#[track_caller]
fn code(scene: &Scene, who: &Client) -> (Ask, String) {
    let ask = Ask::new(&who.id);
    let code = Visitor::new().walk(&scene.stage, &who.pushed(&scene.stage, &ask), "alice").code(&scene.stage, &ask);
    (ask, code)
}

/// What a push of this request is refused with.
#[track_caller]
fn refused(ask: &Ask) -> String {
    let Scene { stage, one, .. } = scene();
    let answer = one.push(stage, ask);
    assert_eq!(answer.status, 400, "{}", answer.text());
    text(&answer.json(), "error")
}

#[test]
fn fapi2_discovery_end_point_verification() {
    let stage = &scene().stage;
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let told = client().get(stage.url(path)).go().expect(200).json();
        assert_eq!(told["issuer"], json!(stage.issuer));
        assert_eq!(told["require_pushed_authorization_requests"], true);
        assert_eq!(told["pushed_authorization_request_endpoint"], json!(stage.url("/par")));
        assert_eq!(told["response_types_supported"], json!(["code"]));
        assert_eq!(told["authorization_response_iss_parameter_supported"], true);
        assert_eq!(told["code_challenge_methods_supported"], json!(["S256"]));
        for member in ["request_object", "authorization", "id_token", "userinfo", "introspection"] {
            let member = format!("{member}_signing_alg_values_supported");
            let algs = told[&member].as_array().unwrap_or_else(|| panic!("no {member}"));
            assert!(algs.contains(&json!("ES256")) && !algs.contains(&json!("RS256")), "{member}: {algs:?}");
        }
    }
}

#[test]
fn fapi2_happy_flow() {
    let Scene { stage, one, two } = scene();
    for who in [one, two] {
        let tokens = who.tokens(stage, &Ask::new(&who.id));
        assert_eq!(tokens["token_type"], "DPoP");
        let token = text(&tokens, "access_token");
        who.call(stage, "/api/x", "DPoP", &token).expect(200);
        let url = format!("{}?access_token={token}", stage.through("/api/x"));
        client().get(url).go().expect(401);
        let id_token = text(&tokens, "id_token");
        assert_eq!(jose_header(&id_token)["alg"], "ES256");
        assert!(claims(&id_token)["nonce"].is_string());
    }
}

#[test]
fn fapi2_user_rejects_authentication() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let mut visitor = Visitor::new();
    let page = login_page(&mut visitor, &one.pushed(stage, &ask).url(stage));
    let consent = visitor.login(&page, "bob", crate::kit::seed::PASSWORD).kind("consent");
    assert_eq!(visitor.send(&consent.press("consent-deny")).error(stage), "access_denied");
    let mut visitor = Visitor::new();
    let page = login_page(&mut visitor, &one.pushed(stage, &ask).url(stage));
    assert_eq!(visitor.send(&page.press("login-cancel")).error(stage), "access_denied");
}

#[test]
fn fapi2_access_token_type_header_case_sensitivity() {
    let Scene { stage, one, .. } = scene();
    let token = text(&one.tokens(stage, &Ask::new(&one.id)), "access_token");
    for scheme in ["DPoP", "dpop", "DPOP", "dPoP"] {
        one.call(stage, "/api/x", scheme, &token).expect(200);
    }
}

#[test]
fn fapi2_ensure_other_scope_order_succeeds() {
    let Scene { stage, one, .. } = scene();
    one.tokens(stage, &Ask::new(&one.id).with("scope", "read offline_access openid"));
}

#[test]
fn fapi2_ensure_authorization_request_without_state_success() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id).without("state");
    let (_, got) = Visitor::new().walk(stage, &one.pushed(stage, &ask), "alice").away();
    assert!(!got.contains_key("state"));
    one.redeem(stage, &ask, &got["code"]).expect(200);
}

#[test]
fn fapi2_ensure_authorization_request_with_long_state() {
    let Scene { stage, one, .. } = scene();
    let state = random().repeat(12);
    let ask = Ask { state: state.clone(), ..Ask::new(&one.id).with("state", &state) };
    Visitor::new().walk(stage, &one.pushed(stage, &ask), "alice").code(stage, &ask);
}

#[test]
fn fapi2_state_only_outside_request_object_not_used() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id).without("state");
    let noisy = one.pushed(stage, &ask).with("state", "outside");
    let (_, got) = Visitor::new().walk(stage, &noisy, "alice").away();
    assert!(got.contains_key("code") && !got.contains_key("state"), "{got:?}");
}

#[test]
fn fapi2_ensure_different_state_inside_and_outside_request_object() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let noisy = one.pushed(stage, &ask).with("state", "outside");
    Visitor::new().walk(stage, &noisy, "alice").code(stage, &ask);
}

#[test]
fn fapi2_ensure_request_object_without_redirect_uri_fails() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let object = one.object_of(&one.claims(stage, &ask.without("redirect_uri")));
    let answer = one.push_object(stage, &object, &[("redirect_uri", one.id.redirect)]);
    assert!(answer.status == 400 && ["invalid_request", "invalid_request_object"].contains(&text(&answer.json(), "error").as_str()));
}

#[test]
fn fapi2_plain_fapi_tolerate_unregistered_redirect_uri() {
    assert_eq!(refused(&Ask::new(&scene().one.id).with("redirect_uri", "https://one.example.com/cb/other")), "invalid_request");
}

#[test]
fn fapi2_ensure_unsigned_authorization_request_without_using_par_fails() {
    let Scene { stage, one, .. } = scene();
    assert_eq!(Visitor::new().open(&Ask::new(&one.id).url(stage)).error(stage), "invalid_request");
}

#[test]
fn fapi2_ensure_redirect_uri_in_authorization_request() {
    assert_eq!(refused(&Ask::new(&scene().one.id).without("redirect_uri")), "invalid_request");
}

#[test]
fn fapi2_ensure_response_type_code_idtoken_fails() {
    assert_eq!(refused(&Ask::new(&scene().one.id).with("response_type", "code id_token")), "unsupported_response_type");
}

#[test]
fn fapi2_ensure_response_type_token_fails() {
    assert_eq!(refused(&Ask::new(&scene().one.id).with("response_type", "token")), "unsupported_response_type");
}

#[test]
fn fapi2_ensure_client_id_in_token_endpoint() {
    let Scene { stage, one, two } = scene();
    let (ask, code) = code(scene(), one);
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", one.id.redirect),
        ("code_verifier", &ask.verifier),
        ("client_id", two.id.id),
    ];
    let answer = one.token(stage, &form);
    let error = text(&answer.json(), "error");
    assert!(["invalid_client", "invalid_grant", "invalid_request"].contains(&error.as_str()), "{error}");
}

#[test]
fn fapi2_ensure_holder_of_key_required() {
    let Scene { stage, one, .. } = scene();
    let (ask, code) = code(scene(), one);
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", one.id.redirect), ("code_verifier", &ask.verifier)];
    let form: Vec<(String, String)> = form.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let answer = one.post(stage, "/token", &form, &[]);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(["invalid_request", "invalid_grant", "invalid_dpop_proof"].contains(&text(&answer.json(), "error").as_str()));
    one.redeem(stage, &ask, &code).expect(200);
}

#[test]
fn fapi2_ensure_authorization_code_is_bound_to_client() {
    let Scene { stage, one, two } = scene();
    let (ask, code) = code(scene(), one);
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", one.id.redirect), ("code_verifier", &ask.verifier)];
    two.token(stage, &form).expect_error(400, "invalid_grant");
    one.redeem(stage, &ask, &code).expect(200);
}

#[test]
fn fapi2_attempt_reuse_authorization_code_after_one_second() {
    let Scene { stage, one, .. } = scene();
    let (ask, code) = code(scene(), one);
    let token = text(&one.redeem(stage, &ask, &code).expect(200).json(), "access_token");
    one.call(stage, "/api/x", "DPoP", &token).expect(200);
    std::thread::sleep(Duration::from_millis(1000));
    one.redeem(stage, &ask, &code).expect_error(400, "invalid_grant");
    one.call(stage, "/api/x", "DPoP", &token).expect(401);
}

#[test]
fn fapi2_ensure_token_endpoint_fails_with_expired_auth_code() {
    let (ask, code) = code(hasty(), &hasty().one);
    std::thread::sleep(Duration::from_millis(2100));
    hasty().one.redeem(&hasty().stage, &ask, &code).expect_error(400, "invalid_grant");
}

#[test]
fn fapi2_refresh_token() {
    let Scene { stage, one, two } = scene();
    let token = text(&one.tokens(stage, &Ask::new(&one.id)), "refresh_token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
    two.token(stage, &form).expect_error(400, "invalid_grant");
    let next = one.token(stage, &form).expect(200).json();
    assert_eq!(next["token_type"], "DPoP");
    one.token(stage, &form).expect(200);
    one.call(stage, "/api/x", "DPoP", &text(&next, "access_token")).expect(200);
}

#[test]
fn fapi2_par_ensure_reused_request_uri_prior_to_auth_completion_succeeds() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let by_reference = one.pushed(stage, &ask);
    let mut visitor = Visitor::new();
    login_page(&mut visitor, &by_reference.url(stage));
    let page = login_page(&mut visitor, &by_reference.url(stage));
    let code = go_on(&mut visitor, &page).code(stage, &ask);
    one.redeem(stage, &ask, &code).expect(200);
}

#[test]
fn fapi2_par_attempt_reuse_request_uri() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let by_reference = one.pushed(stage, &ask);
    let mut visitor = Visitor::new();
    visitor.walk(stage, &by_reference, "alice").code(stage, &ask);
    assert_eq!(visitor.open(&by_reference.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
}

#[test]
fn fapi2_par_attempt_to_use_expired_request_uri() {
    let Scene { stage, one, .. } = hasty();
    let by_reference = one.pushed(stage, &Ask::new(&one.id));
    std::thread::sleep(Duration::from_millis(3100));
    assert_eq!(Visitor::new().open(&by_reference.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
}

#[test]
fn fapi2_par_attempt_to_use_request_uri_for_different_client() {
    let Scene { stage, one, two } = scene();
    let foreign = one.pushed(stage, &Ask::new(&one.id)).with("client_id", two.id.id);
    assert_eq!(Visitor::new().open(&foreign.url(stage)).kind("error").text_of("error-code"), "invalid_request_uri");
}

#[test]
fn fapi2_par_authorization_request_containing_request_uri_form_param() {
    let Scene { stage, one, .. } = scene();
    let uri = one.push(stage, &Ask::new(&one.id)).expect(201).json();
    assert_eq!(refused(&Ask::new(&one.id).with("request_uri", uri["request_uri"].as_str().expect("text"))), "invalid_request");
}

#[test]
fn fapi2_par_attempt_invalid_http_method() {
    client().get(scene().stage.url("/par")).go().expect(405);
}

#[test]
fn fapi2_par_ensure_pkce_required() {
    let ask = Ask::new(&scene().one.id).without("code_challenge").without("code_challenge_method");
    assert_eq!(refused(&ask), "invalid_request");
}

#[test]
fn fapi2_par_plain_pkce_rejected() {
    let ask = Ask::new(&scene().one.id);
    let verifier = ask.verifier.clone();
    assert_eq!(refused(&ask.with("code_challenge_method", "plain").with("code_challenge", &verifier)), "invalid_request");
}

#[test]
fn fapi2_ensure_pkce_code_verifier_required() {
    let Scene { stage, one, .. } = scene();
    let (_, code) = code(scene(), one);
    let form = [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", one.id.redirect)];
    one.token(stage, &form).expect_error(400, "invalid_grant");
}

#[test]
fn fapi2_incorrect_pkce_code_verifier_rejected() {
    let Scene { stage, one, .. } = scene();
    let (ask, code) = code(scene(), one);
    let wrong = Ask { verifier: format!("{}{}", random(), random()), ..ask };
    one.redeem(stage, &wrong, &code).expect_error(400, "invalid_grant");
}

#[test]
fn fapi2_par_without_duplicate_parameters() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let by_reference = one.pushed(stage, &ask);
    assert_eq!(by_reference.parameters.len(), 2);
    Visitor::new().walk(stage, &by_reference, "alice").code(stage, &ask);
}

#[test]
fn fapi2_ensure_authorization_request_without_nonce_success() {
    let Scene { stage, one, .. } = scene();
    let tokens = one.tokens(stage, &Ask::new(&one.id).without("nonce"));
    assert!(claims(&text(&tokens, "id_token")).get("nonce").is_none());
}

#[test]
fn fapi2_ensure_authorization_request_with_64_char_nonce_success() {
    let Scene { stage, one, .. } = scene();
    let nonce = random().repeat(2);
    assert_eq!(nonce.len(), 64);
    let tokens = one.tokens(stage, &Ask::new(&one.id).with("nonce", &nonce));
    assert_eq!(claims(&text(&tokens, "id_token"))["nonce"], json!(nonce));
}

#[test]
fn fapi2_ensure_authorization_request_with_long_nonce() {
    let Scene { stage, one, .. } = scene();
    let nonce = random().repeat(12);
    assert_eq!(nonce.len(), 384);
    let tokens = one.tokens(stage, &Ask::new(&one.id).with("nonce", &nonce));
    assert_eq!(claims(&text(&tokens, "id_token"))["nonce"], json!(nonce));
}

#[test]
fn fapi2_ensure_different_nonce_inside_and_outside_request_object() {
    let Scene { stage, one, .. } = scene();
    let ask = Ask::new(&one.id);
    let noisy = one.pushed(stage, &ask).with("nonce", "outside");
    let code = Visitor::new().walk(stage, &noisy, "alice").code(stage, &ask);
    let tokens = one.redeem(stage, &ask, &code).expect(200).json();
    assert_eq!(claims(&text(&tokens, "id_token"))["nonce"], json!(ask.nonce));
}

#[test]
fn fapi2_test_claims_parameter_identity_claims() {
    let Scene { stage, one, .. } = scene();
    let told = client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    let identity = ["name", "given_name", "family_name", "birthdate", "email"];
    let supported = told["claims_supported"].as_array().expect("claims_supported");
    assert!(told["claims_parameter_supported"] == true && identity.iter().all(|c| supported.contains(&json!(c))));
    let wishes: serde_json::Map<_, _> = identity.iter().map(|c| ((*c).to_owned(), json!({"essential": true}))).collect();
    let tokens = one.tokens(stage, &Ask::new(&one.id).with("claims", &json!({"id_token": wishes}).to_string()));
    let id_token = claims(&text(&tokens, "id_token"));
    assert!(identity.iter().all(|c| id_token.get(*c).is_some()), "{id_token}");
}

#[test]
fn plain_secrets_public_clients_and_plain_addresses_get_nobody_in() {
    use crate::kit::seed::{APP, HOME};
    let stage = &scene().stage;
    for who in [HOME, APP] {
        let ask = Ask::new(&who);
        let named = |name: &str| who.method == "none" && name == "client_id";
        let form: Vec<(&str, &str)> = ask.parameters.iter().filter(|(k, _)| !named(k)).map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let refused = text(&stage.post("/par", &who, &form).json(), "error");
        assert!(["unauthorized_client", "invalid_client"].contains(&refused.as_str()), "{refused}");
        let code = Visitor::new().open(&ask.url(stage)).error(stage);
        assert!(["unauthorized_client", "invalid_request"].contains(&code.as_str()), "{code}");
    }
}
