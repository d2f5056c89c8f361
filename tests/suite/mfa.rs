//! The second factor (RFC 6238): asked for at each login of a person who has one; every code works once.
use serde_json::{Value, json};

use crate::kit::http::{Go, claims};
use crate::kit::seed::{HOME, PASSWORD, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Shared, Visitor};

static STAGE: Shared = Shared::new();

#[test]
fn both_factors_make_a_session_of_two() {
    let stage = STAGE.get();
    stage.person("mfa-both");
    let own = stage.enrol("mfa-both");
    let (mut visitor, ask) = (Visitor::new(), Ask::new(&HOME));
    let page = visitor.open(&ask.url(stage)).kind("login");
    let page = visitor.login(&page, "mfa-both", PASSWORD).kind("mfa");
    for id in ["otp", "otp-submit", "otp-cancel", "client-name"] {
        assert!(page.has(id), "#{id}");
    }
    // The password alone is no session, in this browser or at this page.
    let silent = Ask::new(&HOME).with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
    let again = visitor.otp(&page, "000000").kind("mfa");
    assert!(again.has("otp-error"));
    let code = visitor.otp(&again, &own.code(0)).code(stage, &ask);
    let tokens = ask.redeem(stage, &code).expect(200).json();
    let told = claims(&text(&tokens, "id_token"));
    assert_eq!(told["amr"], json!(["pwd", "otp", "mfa"]));
    assert_eq!(told["acr"], "urn:doorward:acr:2");
    assert_eq!(claims(&text(&tokens, "access_token"))["acr"], "urn:doorward:acr:2");
}

#[test]
fn a_code_works_once_and_only_in_its_time() {
    let stage = STAGE.get();
    stage.person("mfa-once");
    let own = stage.enrol("mfa-once");
    let used = own.code(0);
    Visitor::new().both(stage, &Ask::new(&HOME), "mfa-once", &used).away();
    for bad in [used, own.code(-3), own.code(3), String::new(), "abcdef".to_owned(), "0".repeat(5000)] {
        let page = Visitor::new().both(stage, &Ask::new(&HOME), "mfa-once", &bad).kind("mfa");
        assert!(page.has("otp-error"), "{bad}");
    }
    Visitor::new().both(stage, &Ask::new(&HOME), "mfa-once", &own.code(1)).away();
}

#[test]
fn of_two_who_use_one_code_at_once_one_gets_in() {
    let stage = STAGE.get();
    stage.person("mfa-race");
    let own = stage.enrol("mfa-race");
    let ready: Vec<_> = (0..6)
        .map(|_| {
            let mut visitor = Visitor::new();
            let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
            let page = visitor.login(&page, "mfa-race", PASSWORD).kind("mfa");
            (visitor, page)
        })
        .collect();
    let code = own.code(0);
    let got_in: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = ready
            .into_iter()
            .map(|(mut visitor, page)| {
                let code = code.clone();
                scope.spawn(move || usize::from(matches!(visitor.otp(&page, &code), Landing::Away(_))))
            })
            .collect();
        tries.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(got_in, 1);
}

#[test]
fn guessing_meets_a_limit() {
    let stage = STAGE.get();
    stage.person("mfa-guess");
    let own = stage.enrol("mfa-guess");
    let mut visitor = Visitor::from("127.0.31.1");
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    let mut page = visitor.login(&page, "mfa-guess", PASSWORD).kind("mfa");
    let mut tries = 0;
    let refused = loop {
        tries += 1;
        let next = visitor.otp(&page, "000000").page();
        if next.status() == 429 {
            break next;
        }
        page = next;
        assert!(tries < 40, "never limited");
    };
    assert!(tries > 10 && !refused.answer.header("retry-after").is_empty());
    // The right code does not get through there any more, and does elsewhere.
    assert_eq!(visitor.otp(&page, &own.code(0)).page().status(), 429);
    let mut other = Visitor::from("127.0.31.2");
    other.both(stage, &Ask::new(&HOME), "mfa-guess", &own.code(0)).away();
}

#[test]
fn the_form_of_another_browser_or_site_gets_nowhere() {
    let stage = STAGE.get();
    stage.person("mfa-csrf");
    let own = stage.enrol("mfa-csrf");
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    let page = visitor.login(&page, "mfa-csrf", PASSWORD).kind("mfa");
    let press = page.press("otp-submit").fill("otp", &own.code(0));
    let mut other = Visitor::new();
    other.open(&Ask::new(&HOME).url(stage)).kind("login");
    assert_eq!(other.send(&press).page().status(), 403);
    assert_eq!(visitor.send_from(&press, Some("https://evil.example.com")).page().status(), 403);
    visitor.send(&press).away();
    assert!(visitor.send(&press).page().status() >= 400, "a form works once");
}

#[test]
fn consent_and_cancel_come_after_it_as_before() {
    let stage = STAGE.get();
    stage.person("mfa-consent");
    let own = stage.enrol("mfa-consent");
    let ask = Ask::new(&WEB);
    let mut visitor = Visitor::new();
    let page = visitor.both(stage, &ask, "mfa-consent", &own.code(0)).kind("consent");
    visitor.send(&page.press("consent-approve")).code(stage, &ask);
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    let page = visitor.login(&page, "mfa-consent", PASSWORD).kind("mfa");
    assert_eq!(visitor.send(&page.press("otp-cancel")).error(stage), "access_denied");
    // The account page is reached the same way.
    let mut visitor = Visitor::new();
    let page = visitor.open(&stage.url("/account")).kind("login");
    let page = visitor.login(&page, "mfa-consent", PASSWORD).kind("mfa");
    visitor.otp(&page, &own.code(1)).kind("account");
}

#[test]
fn an_administrator_replaces_and_removes_it() {
    let stage = STAGE.get();
    stage.person("mfa-admin");
    let said: Value = stage.admin("POST", "/users/mfa-admin/totp").go().expect(200).json();
    let (secret, uri) = (text(&said, "secret"), text(&said, "otpauth_uri"));
    assert!(secret.len() == 32 && uri.contains(&format!("secret={secret}")), "{said}");
    assert_eq!(stage.house.holds(&secret), None, "sealed");
    let old = crate::kit::totp::Authenticator::new(&secret);
    let own = stage.enrol("mfa-admin");
    let page = Visitor::new().both(stage, &Ask::new(&HOME), "mfa-admin", &old.code(0)).kind("mfa");
    assert!(page.has("otp-error"), "the old one is dead");
    Visitor::new().both(stage, &Ask::new(&HOME), "mfa-admin", &own.code(0)).away();
    for _ in 0..2 {
        stage.admin("DELETE", "/users/mfa-admin/totp").go().expect(204);
    }
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    visitor.login(&page, "mfa-admin", PASSWORD).away();
    stage.admin("POST", "/users/nobody-at-all/totp").go().expect(404);
    let events = stage.admin("GET", "/events?kind=secret.rotated&limit=200").go().expect(200).text();
    assert!(events.contains("\"slot\":\"totp\"") || events.contains("\\\"slot\\\":\\\"totp\\\""), "{events}");
}
