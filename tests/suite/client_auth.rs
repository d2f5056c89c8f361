//! Client authentication (RFC 6749 §2.3): basic, post, none; refusals.
use crate::kit::Shared;
use crate::kit::http::{Answer, Go, client};
use crate::kit::seed::{APP, MACHINE, POSTER, WEB};

static STAGE: Shared = Shared::new();

fn ask(form: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let mut all = vec![("grant_type", "client_credentials"), ("scope", "read")];
    all.extend(form);
    client().post(STAGE.get().url("/token")).form(&all)
}

#[track_caller]
fn refused(answer: Answer) {
    let answer = answer.expect_error(401, "invalid_client");
    assert!(answer.header("www-authenticate").starts_with("Basic"), "a challenge: {}", answer.header("www-authenticate"));
    assert!(answer.header("cache-control").contains("no-store"));
}

#[test]
fn basic_and_post_are_accepted_as_registered() {
    ask(&[]).basic_auth(MACHINE.id, Some(MACHINE.secret)).go().expect(200);
    let post = [("client_id", POSTER.id), ("client_secret", POSTER.secret), ("resource", crate::kit::seed::API)];
    ask(&post).go().expect(200);
}

#[test]
fn wrong_secrets_and_unknown_clients_get_one_answer() {
    let stage = STAGE.get();
    let wrong = ask(&[]).basic_auth(MACHINE.id, Some("wrong")).go();
    let unknown = ask(&[]).basic_auth("nobody", Some("wrong")).go();
    assert_eq!(wrong.body, unknown.body);
    refused(wrong);
    refused(unknown);
    refused(ask(&[]).basic_auth(MACHINE.id, Some("")).go());
    refused(ask(&[]).basic_auth("", Some("")).go());
    for broken in ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Basic \u{20}", "Bearer x", "Digest x"] {
        let answer = ask(&[]).header("authorization", broken).go();
        assert!([400, 401].contains(&answer.status), "{broken}: {}", answer.status);
        assert!(["invalid_client", "invalid_request"].contains(&answer.json()["error"].as_str().unwrap()), "{broken}");
    }
    assert_eq!(stage.metric("panics_total"), 0.0);
}

#[test]
fn two_methods_at_once_are_refused() {
    let answer = ask(&[("client_id", MACHINE.id), ("client_secret", MACHINE.secret)]).basic_auth(MACHINE.id, Some(MACHINE.secret)).go();
    let said = answer.json()["error"].as_str().unwrap().to_owned();
    assert!((answer.status == 400 && said == "invalid_request") || answer.status == 401, "{} {said}", answer.status);
    let other = ask(&[("client_id", "web")]).basic_auth(MACHINE.id, Some(MACHINE.secret)).go();
    assert!([400, 401].contains(&other.status), "a client_id that is not the authenticated one");
}

#[test]
fn only_the_registered_method_counts() {
    refused_any(ask(&[("client_id", MACHINE.id), ("client_secret", MACHINE.secret)]).go());
    refused_any(ask(&[]).basic_auth(POSTER.id, Some(POSTER.secret)).go());
}

#[track_caller]
fn refused_any(answer: Answer) {
    assert_eq!((answer.status, answer.json()["error"].as_str().unwrap()), (401, "invalid_client"), "{}", answer.text());
}

#[test]
fn a_confidential_client_without_secret_is_nobody() {
    refused_any(ask(&[("client_id", MACHINE.id)]).go());
    refused_any(ask(&[]).go());
}

#[test]
fn a_public_client_has_no_client_credentials() {
    let answer = ask(&[("client_id", APP.id)]).go();
    assert!([400, 401].contains(&answer.status));
    assert!(["unauthorized_client", "invalid_client"].contains(&answer.json()["error"].as_str().unwrap()), "{}", answer.text());
}

#[test]
fn basic_credentials_are_form_decoded() {
    // RFC 6749 §2.3.1: both halves are form-encoded before base64; plain ones look the same.
    use base64::Engine as _;
    let text = format!("%77eb:{}", WEB.secret);
    let header = format!("basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let form = [("grant_type", "refresh_token"), ("refresh_token", "nonsense")];
    let answer = client().post(STAGE.get().url("/token")).header("authorization", header).form(&form).go();
    answer.expect_error(400, "invalid_grant");
}

#[test]
fn a_body_that_is_not_a_form_is_refused() {
    let stage = STAGE.get();
    let request = || crate::kit::http::alone().post(stage.url("/token")).basic_auth(MACHINE.id, Some(MACHINE.secret));
    let json = request().header("content-type", "application/json").body(r#"{"grant_type":"client_credentials"}"#).go();
    assert!([400, 415].contains(&json.status), "{}", json.status);
    let form = "application/x-www-form-urlencoded";
    let both = request().header("content-type", form).header("content-type", "application/json");
    both.body("grant_type=client_credentials").go().expect_error(400, "invalid_request");
    let broken = request().header("content-type", "application/x-www-form-urlencoded").body(&b"grant_type=%ff%fe&\xff=1"[..]).go();
    assert_eq!(broken.status, 400);
    let huge = request().form(&[("grant_type", "client_credentials"), ("x", &"y".repeat(70_000))]).go();
    assert!([400, 413].contains(&huge.status), "{}", huge.status);
}
