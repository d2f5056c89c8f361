//! The authorization endpoint (RFC 6749 §4.1, RFC 9207, OpenID Connect Core §3.1.2).
use std::time::Duration;

use crate::kit::http::{Go, claims, client, now};
use crate::kit::seed::{APP, HOME, OLD, PASSWORD, SPA, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Shared, Visitor};

static STAGE: Shared = Shared::new();

/// What the endpoint answers to a visitor who is not logged in.
#[track_caller]
fn asked(ask: &Ask) -> Landing {
    Visitor::new().open(&ask.url(STAGE.get()))
}

#[track_caller]
fn is_error_page(landing: Landing, code: &str) {
    let page = landing.kind("error");
    assert!((400..500).contains(&page.status()), "{}", page.status());
    assert!(page.has("error-page") && page.has("error-description"));
    assert_eq!(page.text_of("error-code"), code);
}

#[test]
fn a_wrong_client_or_redirect_uri_is_an_error_page_and_never_a_redirect() {
    for (ask, code) in [
        (Ask::new(&HOME).with("client_id", "nobody"), "invalid_client"),
        (Ask::new(&HOME).without("client_id"), "invalid_request"),
        (Ask::new(&HOME).without("redirect_uri"), "invalid_request"),
        (Ask::new(&HOME).with("redirect_uri", "https://evil.example.com/cb"), "invalid_request"),
        (Ask::new(&HOME).with("redirect_uri", "https://home.example.com/cb"), "invalid_request"),
        (Ask::new(&HOME).with("redirect_uri", "https://home.example.com/cb?keep=this&more=that"), "invalid_request"),
        (Ask::new(&HOME).with("redirect_uri", "https://home.example.com/cb?keep=this#f"), "invalid_request"),
        (Ask::new(&HOME).with("redirect_uri", "https://HOME.example.com/cb?keep=this"), "invalid_request"),
        (Ask::new(&WEB).with("redirect_uri", "https://rp.example.com/cb/"), "invalid_request"),
        (Ask::new(&WEB).with("redirect_uri", "https://rp.example.com/cb/../cb"), "invalid_request"),
        (Ask::new(&WEB).with("redirect_uri", "https://rp.example.com:443/cb"), "invalid_request"),
        (Ask::new(&WEB).with("redirect_uri", "javascript:alert(1)"), "invalid_request"),
        (Ask::new(&SPA).with("redirect_uri", "http://localhost/cb"), "invalid_request"),
        (Ask::new(&SPA).with("redirect_uri", "http://127.0.0.1/other"), "invalid_request"),
        (Ask::new(&HOME).again("client_id", "home"), "invalid_request"),
        (Ask::new(&HOME).again("redirect_uri", HOME.redirect), "invalid_request"),
    ] {
        let landing = asked(&ask);
        let page = landing.clone().kind("error");
        let said = page.text_of("error-code");
        assert!(
            said == code || (code == "invalid_client" && said == "invalid_request") || said == "unauthorized_client",
            "{said} for {:?}",
            ask.parameters
        );
        is_error_page(landing, &said);
    }
}

#[test]
fn a_loopback_redirect_may_have_any_port() {
    let stage = STAGE.get();
    let ask = Ask::new(&SPA).with("redirect_uri", "http://127.0.0.1:49152/cb");
    let (to, got) = Visitor::new().walk(stage, &ask, "alice").away();
    assert_eq!(to, "http://127.0.0.1:49152/cb");
    ask.redeem(stage, &got["code"]).expect(200);
}

#[test]
fn every_other_error_goes_back_with_state_and_issuer() {
    let stage = STAGE.get();
    for (ask, code) in [
        (Ask::new(&WEB).with("response_type", "token"), "unsupported_response_type"),
        (Ask::new(&WEB).with("response_type", "code id_token"), "unsupported_response_type"),
        (Ask::new(&WEB).with("scope", "openid nonsense"), "invalid_scope"),
        (Ask::new(&WEB).without("code_challenge").without("code_challenge_method"), "invalid_request"),
        (Ask::new(&WEB).with("code_challenge_method", "plain"), "invalid_request"),
        (Ask::new(&WEB).without("code_challenge_method"), "invalid_request"),
        (Ask::new(&WEB).with("code_challenge", "short"), "invalid_request"),
        (Ask::new(&WEB).with("resource", "https://unknown.example.com"), "invalid_target"),
        (Ask::new(&WEB).with("request", "e30.e30."), "invalid_request_object"),
        (Ask::new(&WEB).with("request_uri", "https://rp.example.com/request"), "request_uri_not_supported"),
        (Ask::new(&WEB).with("prompt", "none"), "login_required"),
        (Ask::new(&WEB).with("prompt", "none login"), "invalid_request"),
        (Ask::new(&WEB).with("max_age", "soon"), "invalid_request"),
        (Ask::new(&WEB).with("max_age", "-1"), "invalid_request"),
        (Ask::new(&WEB).with("response_mode", "fragment-ish"), "invalid_request"),
        (Ask::new(&WEB).again("scope", "openid"), "invalid_request"),
        (Ask::new(&WEB).again("nonce", "two"), "invalid_request"),
        (Ask::new(&WEB).with("claims", "{not json"), "invalid_request"),
    ] {
        let (to, got) = asked(&ask).away();
        assert_eq!(to, WEB.redirect);
        assert_eq!(got.get("error").map(String::as_str), Some(code), "{:?} gave {got:?}", ask.parameters);
        assert_eq!(got.get("state"), Some(&ask.state), "{got:?}");
        assert_eq!(got.get("iss"), Some(&stage.issuer), "{got:?}");
        assert!(!got.contains_key("code"));
        let description = got.get("error_description").cloned().unwrap_or_default();
        assert!(description.chars().all(|c| matches!(c, '\x20'..='\x7e') && c != '"' && c != '\\'), "RFC 6749 characters: {description}");
        for name in got.keys() {
            assert!(["error", "error_description", "state", "iss"].contains(&name.as_str()), "extra parameter {name}");
        }
    }
}

#[test]
fn a_missing_response_type_is_an_error_back() {
    for ask in [Ask::new(&WEB).without("response_type"), Ask::new(&WEB).with("response_type", "")] {
        let code = asked(&ask).error(STAGE.get());
        assert!(["invalid_request", "unsupported_response_type"].contains(&code.as_str()), "{code}");
    }
}

#[test]
fn a_duplicate_state_is_refused_without_an_echo() {
    let (_, got) = asked(&Ask::new(&WEB).again("state", "second")).away();
    assert_eq!(got["error"], "invalid_request");
    assert!(!got.contains_key("state"), "{got:?}");
}

#[test]
fn a_client_may_only_use_its_own_scope_and_grant() {
    let stage = STAGE.get();
    assert_eq!(asked(&Ask::new(&SPA).with("scope", "openid write")).error(stage), "invalid_scope");
    let machine = Ask::new(&crate::kit::seed::MACHINE).with("redirect_uri", "https://rp.example.com/cb");
    asked(&machine).kind("error");
}

#[test]
fn a_long_state_comes_back_untouched_and_unknown_parameters_are_ignored() {
    let stage = STAGE.get();
    let state = "aZ09-._~!$'()*,;:@/?".repeat(7)[..128].to_owned();
    let ask = Ask::new(&HOME).with("state", &state).with("extra", "foobar").with("display", "popup").with("ui_locales", "fr de");
    let ask = Ask { state, ..ask.with("claims_locales", "fr").with("login_hint", "alice").with("acr_values", "1 2") };
    let landing = Visitor::new().walk(stage, &ask, "alice");
    let (to, got) = landing.clone().away();
    assert_eq!(to, "https://home.example.com/cb");
    assert_eq!(got["keep"], "this", "the registered query stays");
    let code = landing.code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
}

#[test]
fn no_state_sent_means_no_state_back_and_no_nonce_is_fine() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).without("state").without("nonce");
    let (_, got) = Visitor::new().walk(stage, &ask, "alice").away();
    assert!(!got.contains_key("state"));
    let tokens = ask.redeem(stage, &got["code"]).expect(200).json();
    assert!(claims(&text(&tokens, "id_token")).get("nonce").is_none());
}

#[test]
fn the_request_may_come_by_post() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let mut visitor = Visitor::new();
    let press = crate::kit::page::Press { method: "post".into(), action: stage.url("/authorize"), fields: ask.parameters.clone() };
    let page = visitor.send_from(&press, Some("https://home.example.com")).kind("login");
    let code = visitor.login(&page, "alice", PASSWORD).code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
}

#[test]
fn form_post_answers_with_a_form_and_nothing_in_the_query() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("response_mode", "form_post");
    let page = Visitor::new().walk(stage, &ask, "alice").page();
    assert!(page.has("form-post"), "{}", page.answer.text());
    let press = page.press("form-post-submit");
    assert_eq!((press.method.as_str(), press.action.as_str()), ("post", HOME.redirect));
    let of = |name: &str| press.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    assert_eq!((of("state"), of("iss")), (ask.state.clone(), stage.issuer.clone()));
    ask.redeem(stage, &of("code")).expect(200);
    let refused = Visitor::new().open(&Ask::new(&HOME).with("response_mode", "form_post").with("prompt", "none").url(stage)).page();
    let press = refused.press("form-post-submit");
    assert!(press.fields.contains(&("error".into(), "login_required".into())), "{:?}", press.fields);
}

#[test]
fn prompt_none_is_silent_for_the_one_who_is_logged_in() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let first = visitor.tokens(stage, &Ask::new(&HOME), "alice");
    let hint = text(&first, "id_token");
    for ask in [Ask::new(&HOME).with("prompt", "none"), Ask::new(&HOME).with("prompt", "none").with("id_token_hint", &hint)] {
        let code = visitor.open(&ask.url(stage)).code(stage, &ask);
        let again = claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"));
        assert_eq!(again["sub"], claims(&hint)["sub"]);
        if !again["auth_time"].is_null() && !claims(&hint)["auth_time"].is_null() {
            assert_eq!(again["auth_time"], claims(&hint)["auth_time"]);
        }
    }
}

#[test]
fn a_hint_of_somebody_else_is_not_answered_silently() {
    let stage = STAGE.get();
    let bob = text(&stage.person_tokens(&HOME, "bob"), "id_token");
    let mut visitor = Visitor::new();
    visitor.tokens(stage, &Ask::new(&HOME), "alice");
    let ask = Ask::new(&HOME).with("prompt", "none").with("id_token_hint", &bob);
    assert_eq!(visitor.open(&ask.url(stage)).error(stage), "login_required");
    let forged = Ask::new(&HOME).with("prompt", "none").with("id_token_hint", "e30.e30.e30");
    let landing = visitor.open(&forged.url(stage));
    let (_, got) = landing.away();
    assert!(got.contains_key("error"), "a hint that is not ours: {got:?}");
}

#[test]
fn prompt_login_and_max_age_ask_again_and_give_a_later_auth_time() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let ask = Ask::new(&HOME).with("max_age", "10000");
    let first = claims(&text(&visitor.tokens(stage, &ask, "alice"), "id_token"));
    let at = first["auth_time"].as_i64().expect("auth_time when max_age was sent");
    assert!((at - now()).abs() < 30);
    std::thread::sleep(Duration::from_millis(2100));
    // Young enough: silent, the same time.
    let ask = Ask::new(&HOME).with("max_age", "10000");
    let code = visitor.open(&ask.url(stage)).code(stage, &ask);
    assert_eq!(claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"))["auth_time"], at);
    for (name, value) in [("prompt", "login"), ("max_age", "1")] {
        std::thread::sleep(Duration::from_millis(2100));
        let ask = Ask::new(&HOME).with("max_age", "10000").with(name, value);
        let page = visitor.open(&ask.url(stage)).kind("login");
        let code = visitor.login(&page, "alice", PASSWORD).code(stage, &ask);
        let later = claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"));
        assert!(later["auth_time"].as_i64().unwrap() > at, "{name}={value}");
    }
}

#[test]
fn prompt_none_with_max_age_passed_is_login_required() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    visitor.tokens(stage, &Ask::new(&HOME), "alice");
    std::thread::sleep(Duration::from_millis(2100));
    let ask = Ask::new(&HOME).with("prompt", "none").with("max_age", "1");
    assert_eq!(visitor.open(&ask.url(stage)).error(stage), "login_required");
}

#[test]
fn pkce_may_be_left_out_only_where_it_was_so_registered() {
    let stage = STAGE.get();
    let ask = Ask::new(&OLD).without("code_challenge").without("code_challenge_method");
    let code = Visitor::new().walk(stage, &ask, "alice").code(stage, &ask);
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", OLD.redirect)];
    stage.token(&OLD, &form).expect(200);
    assert_eq!(asked(&Ask::new(&OLD).with("code_challenge_method", "plain")).error(stage), "invalid_request");
    assert_eq!(asked(&Ask::new(&APP).without("code_challenge").without("code_challenge_method")).error(stage), "invalid_request");
}

#[test]
fn the_id_token_says_what_core_demands() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("nonce", &"n".repeat(64));
    let tokens = Visitor::new().tokens(stage, &ask, "alice");
    let id_token = text(&tokens, "id_token");
    let header = crate::kit::http::jose_header(&id_token);
    assert_eq!(header["alg"], "RS256");
    assert!(header["kid"].is_string());
    let c = claims(&id_token);
    assert_eq!(c["iss"], stage.issuer.as_str());
    assert!(c["aud"] == "home" || c["aud"] == serde_json::json!(["home"]));
    assert_eq!(c["nonce"], "n".repeat(64));
    assert!(c["sid"].is_string(), "{c}");
    assert_ne!(c["sub"], "alice", "the subject is not the name");
    let (iat, exp) = (c["iat"].as_i64().unwrap(), c["exp"].as_i64().unwrap());
    assert!((iat - now()).abs() < 10 && exp > iat);
    for name in ["name", "email", "address", "phone_number"] {
        assert!(c.get(name).is_none(), "{name} belongs to userinfo");
    }
}

#[test]
fn an_independent_library_verifies_the_id_token() {
    use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet};
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let tokens = Visitor::new().tokens(stage, &ask, "alice");
    let keys: CoreJsonWebKeySet = serde_json::from_slice(&client().get(stage.url("/jwks")).go().expect(200).body).unwrap();
    let id_token: CoreIdToken = serde_json::from_value(tokens["id_token"].clone()).unwrap();
    let verifier = CoreIdTokenVerifier::new_confidential_client(
        openidconnect::ClientId::new(HOME.id.into()),
        openidconnect::ClientSecret::new(HOME.secret.into()),
        openidconnect::IssuerUrl::new(stage.issuer.clone()).unwrap(),
        keys,
    );
    let verified = id_token.claims(&verifier, &openidconnect::Nonce::new(ask.nonce)).expect("a verified ID token");
    let access = openidconnect::AccessToken::new(text(&tokens, "access_token"));
    if let Some(expected) = verified.access_token_hash() {
        let hash =
            openidconnect::AccessTokenHash::from_token(&access, id_token.signing_alg().unwrap(), id_token.signing_key(&verifier).unwrap())
                .unwrap();
        assert_eq!(&hash, expected);
    }
}

#[test]
fn oversized_requests_are_refused() {
    let stage = STAGE.get();
    let url = Ask::new(&HOME).with("extra", &"x".repeat(9000)).url(stage);
    let answer = client().get(url).go();
    assert!((400..500).contains(&answer.status), "{}", answer.status);
}

#[test]
fn prompt_select_account_asks_whether_to_go_on_as_who_one_is() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    visitor.tokens(stage, &Ask::new(&HOME), "alice");
    let ask = Ask::new(&HOME).with("prompt", "select_account");
    let page = visitor.open(&ask.url(stage)).page();
    assert!(page.has("account-continue") && page.has("account-switch"), "{}", page.answer.text());
    let code = visitor.clone().send(&page.press("account-continue")).code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
    let ask = Ask::new(&HOME).with("prompt", "select_account");
    let page = visitor.open(&ask.url(stage)).page();
    let page = visitor.send(&page.press("account-switch")).kind("login");
    let code = visitor.login(&page, "bob", PASSWORD).code(stage, &ask);
    let switched = claims(&text(&ask.redeem(stage, &code).expect(200).json(), "id_token"));
    assert_eq!(switched["sub"], claims(&text(&stage.person_tokens(&HOME, "bob"), "id_token"))["sub"]);
}

#[test]
fn a_code_raced_on_one_node_wins_once() {
    let stage = STAGE.get();
    for _ in 0..20 {
        let ask = Ask::new(&HOME);
        let code = Visitor::new().walk(stage, &ask, "bob").code(stage, &ask);
        let wins = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| ask.redeem(stage, &code).status)).collect();
            racers.into_iter().map(|r| r.join().unwrap()).filter(|s| *s == 200).count()
        });
        assert_eq!(wins, 1);
    }
}

#[test]
fn pages_without_their_story_are_refused_kindly() {
    let stage = STAGE.get();
    for path in ["/login", "/consent", "/login?interaction=dwi_x", "/consent?x=1", "/account", "/logout"] {
        let page = Visitor::new().open(&stage.url(path)).page();
        assert!(page.status() < 500, "{path}: {}", page.status());
        assert!(!page.kind().is_empty(), "{path} is a page of ours: {}", page.answer.text());
    }
}
