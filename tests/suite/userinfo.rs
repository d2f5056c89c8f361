//! UserInfo (OpenID Connect Core §5.3, §5.4).
use crate::kit::http::{Go, claims, client};
use crate::kit::seed::{HOME, MACHINE, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Visitor};

static STAGE: Shared = Shared::new();

fn userinfo(scope: &str) -> serde_json::Value {
    let stage = STAGE.get();
    let tokens = Visitor::new().tokens(stage, &Ask::new(&HOME).with("scope", scope), "alice");
    let answer = client().get(stage.url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().expect(200);
    assert!(answer.header("content-type").starts_with("application/json"));
    assert_eq!(answer.json()["sub"], claims(&text(&tokens, "id_token"))["sub"]);
    answer.json()
}

#[test]
fn each_scope_gives_its_claims_and_only_them() {
    let whole = userinfo("openid profile email address phone");
    for name in [
        "name",
        "given_name",
        "family_name",
        "middle_name",
        "nickname",
        "preferred_username",
        "profile",
        "picture",
        "website",
        "gender",
        "birthdate",
        "zoneinfo",
        "locale",
        "email",
        "phone_number",
    ] {
        assert!(whole[name].is_string(), "{name}: {whole}");
    }
    assert!(whole["email_verified"] == true && whole["phone_number_verified"] == true && whole["address"].is_object());
    assert!(whole["updated_at"].is_number(), "{whole}");
    for secret in ["password", "id", "username", "roles", "disabled"] {
        assert!(whole.get(secret).is_none(), "{secret}: {whole}");
    }
    let email = userinfo("openid email");
    assert!(email["email"].is_string() && email.get("name").is_none());
    let bare = userinfo("openid");
    assert_eq!(bare.as_object().unwrap().len(), 1, "{bare}");
}

#[test]
fn claims_asked_for_by_name_come() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME).with("scope", "openid").with("claims", r#"{"userinfo":{"name":{"essential":true}}}"#);
    let tokens = Visitor::new().tokens(stage, &ask, "alice");
    let info = client().get(stage.url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().expect(200).json();
    assert_eq!(info["name"], "Alice A", "{info}");
}

#[test]
fn post_with_the_header_works_too() {
    let stage = STAGE.get();
    let token = text(&stage.person_tokens(&HOME, "alice"), "access_token");
    client().post(stage.url("/userinfo")).bearer_auth(&token).go().expect(200);
    client().get(stage.url("/userinfo")).header("authorization", format!("bearer {token}")).go().expect(200);
}

#[test]
fn bad_missing_and_revoked_tokens_are_challenged() {
    let stage = STAGE.get();
    let none = client().get(stage.url("/userinfo")).go().expect(401);
    assert!(none.header("www-authenticate").starts_with("Bearer"));
    assert!(!none.header("www-authenticate").contains("error="), "no error when nothing was sent (RFC 6750 §3.1)");
    let bad = client().get(stage.url("/userinfo")).bearer_auth("nonsense").go().expect(401);
    assert!(bad.header("www-authenticate").contains("invalid_token"), "{}", bad.header("www-authenticate"));
    let token = text(&stage.person_tokens(&WEB, "alice"), "access_token");
    stage.revoke(&WEB, &token);
    client().get(stage.url("/userinfo")).bearer_auth(&token).go().expect(401);
    client().get(stage.url(&format!("/userinfo?access_token={token}"))).go().expect(401);
}

#[test]
fn two_tokens_at_once_are_refused_with_a_challenge() {
    let stage = STAGE.get();
    let token = text(&stage.person_tokens(&HOME, "alice"), "access_token");
    let posted = client().post(stage.url("/userinfo")).form(&[("access_token", &token)]);
    posted.try_clone().unwrap().go().expect(200);
    let twice = posted.bearer_auth(&token).go().expect_error(400, "invalid_request");
    assert!(twice.header("www-authenticate").starts_with("Bearer") && twice.header("www-authenticate").contains("invalid_request"));
}

#[test]
fn a_token_without_openid_is_not_enough() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let answer = client().get(stage.url("/userinfo")).bearer_auth(&token).go().expect(403);
    assert!(answer.header("www-authenticate").contains("insufficient_scope"), "{}", answer.header("www-authenticate"));
}
