//! Logging in: pages, cookies, forged posts, sameness of refusals.
use crate::kit::http::Go;
use crate::kit::seed::{HOME, PASSWORD, WEB};
use crate::kit::{Ask, Landing, Shared, Visitor};

static STAGE: Shared = Shared::new();

#[test]
fn the_page_has_the_ids_of_the_contract_and_a_strict_policy() {
    let stage = STAGE.get();
    let page = Visitor::new().open(&Ask::new(&WEB).url(stage)).kind("login");
    assert_eq!(page.status(), 200);
    for id in ["login-form", "username", "password", "login-submit", "login-cancel", "client-name"] {
        assert!(page.has(id), "#{id}");
    }
    assert_eq!(page.text_of("client-name"), "The Web Shop");
    assert_eq!(page.count("script"), 0, "works with scripts switched off");
    let policy = page.answer.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") || policy.contains("default-src 'self'"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{policy}");
    assert!(page.answer.header("cache-control").contains("no-store"));
    assert_eq!(page.answer.header("x-content-type-options"), "nosniff");
    assert_eq!(page.answer.header("referrer-policy"), "same-origin");
}

#[test]
fn cancel_tells_the_client_access_denied() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&WEB).url(stage)).kind("login");
    assert_eq!(visitor.send(&page.press("login-cancel")).error(stage), "access_denied");
}

#[test]
fn cookies_are_shut_tight() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    visitor.walk(stage, &Ask::new(&HOME), "alice").away();
    assert!(!visitor.cookies.is_empty());
    for (name, line) in &visitor.set_cookies {
        let lower = line.to_lowercase();
        assert!(lower.contains("httponly") && lower.contains("path=/"), "{name}: {line}");
        assert!(lower.contains("samesite=lax") || lower.contains("samesite=strict"), "{line}");
        assert!(!lower.contains("domain="), "{line}");
    }
}

#[test]
fn logging_in_changes_the_session_cookie() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    let before = visitor.cookies.clone();
    visitor.login(&page, "alice", PASSWORD).away();
    let after = &visitor.cookies;
    assert!(after.iter().any(|(k, v)| before.get(k) != Some(v)), "no fixation: {before:?} {after:?}");
}

/// The visible part of a refusal, without what differs by design (one-time hidden fields).
fn refusal(username: &str, password: &str) -> (u16, usize, std::time::Duration, String) {
    let stage = STAGE.get();
    // A source of its own for each name, so that no limit is met.
    let mut visitor = Visitor::from(&format!("127.0.9.{}", 1 + username.len()));
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    let page = visitor.login(&page, username, password).kind("login");
    let hidden: Vec<String> = page.press("login-submit").fields.into_iter().map(|(_, v)| v).filter(|v| v.len() > 15).collect();
    let mut text = page.answer.text();
    for value in hidden {
        text = text.replace(&value, "");
    }
    (page.status(), page.answer.body.len(), page.answer.took, text.replace(username, ""))
}

#[test]
fn unknown_wrong_and_disabled_look_the_same() {
    // Three names of one length: unknown, wrong password, disabled with the right password.
    let unknown = refusal("nope", "not the password at all....");
    let wrong = refusal("dora", "not the password at all....");
    let disabled = refusal("dora", PASSWORD);
    assert_eq!((unknown.0, unknown.1), (wrong.0, wrong.1));
    assert_eq!((disabled.0, disabled.1), (wrong.0, wrong.1));
    assert_eq!(unknown.3, wrong.3);
    assert_eq!(disabled.3, wrong.3);
}

#[test]
fn unknown_wrong_and_disabled_take_the_same_time() {
    let median = |username: &str, password: &str| {
        let mut times: Vec<_> = (0..7).map(|_| refusal(username, password).2.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        times[3]
    };
    let (unknown, wrong, disabled) = (median("none", "wrong"), median("dora", "wrong"), median("dora", PASSWORD));
    for (name, time) in [("unknown", unknown), ("disabled", disabled)] {
        assert!(time > wrong * 0.4 && time < wrong * 2.5, "{name} {time:.4} s, wrong password {wrong:.4} s");
    }
}

#[test]
fn a_post_from_another_site_starts_no_session() {
    let stage = STAGE.get();
    for origin in [Some("https://evil.example.com"), Some("null")] {
        let mut visitor = Visitor::new();
        let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
        let press = page.press("login-submit").fill("username", "alice").fill("password", PASSWORD);
        let answer = visitor.send_from(&press, origin).page();
        assert!((400..500).contains(&answer.status()), "{origin:?}: {}", answer.status());
        let silent = Ask::new(&HOME).with("prompt", "none");
        assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
    }
}

#[test]
fn the_form_of_another_browser_starts_no_session() {
    let stage = STAGE.get();
    let (mut mine, mut theirs) = (Visitor::new(), Visitor::new());
    let page = mine.open(&Ask::new(&HOME).url(stage)).kind("login");
    theirs.open(&Ask::new(&HOME).url(stage)).kind("login");
    let press = page.press("login-submit").fill("username", "alice").fill("password", PASSWORD);
    for visitor in [&mut theirs, &mut Visitor::new()] {
        let answer = visitor.send(&press).page();
        assert!((400..500).contains(&answer.status()), "{}", answer.status());
        let silent = Ask::new(&HOME).with("prompt", "none");
        assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
    }
}

#[test]
fn a_form_works_once() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    visitor.login(&page, "alice", PASSWORD).away();
    match visitor.login(&page, "alice", PASSWORD) {
        Landing::Page(page) => assert!(page.status() >= 400 || page.kind() == "login", "{}", page.status()),
        Landing::Away(url) => assert!(!url.as_str().contains("code="), "a second code from one form: {url}"),
    }
}

#[test]
fn wrong_password_shows_the_page_again_and_the_next_try_works() {
    let stage = STAGE.get();
    let ask = Ask::new(&HOME);
    let mut visitor = Visitor::new();
    let page = visitor.open(&ask.url(stage)).kind("login");
    let page = visitor.login(&page, "alice", "wrong").kind("login");
    let code = visitor.login(&page, "alice", PASSWORD).code(stage, &ask);
    ask.redeem(stage, &code).expect(200);
}

#[test]
fn odd_input_is_refused_without_a_fault() {
    let stage = STAGE.get();
    for (username, password) in
        [("", ""), ("alice", ""), ("", PASSWORD), ("alice", &"x".repeat(129)), (&"u".repeat(5000), "x"), ("a\0b", "c\0d")]
    {
        let mut visitor = Visitor::from("127.0.8.1");
        let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
        let page = visitor.login(&page, username, password).page();
        assert!(page.status() < 500, "{}", page.status());
        assert_ne!(page.kind(), "consent");
    }
    let big = "x".repeat(70_000);
    let answer = crate::kit::http::alone().post(stage.url("/login")).form(&[("username", big.as_str())]).go();
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_eq!(stage.metric("panics_total"), 0.0);
}

#[test]
fn text_of_a_stranger_is_shown_as_text() {
    let stage = STAGE.get();
    let mut visitor = Visitor::from("127.0.8.2");
    let page = visitor.open(&Ask::new(&HOME).with("login_hint", "\"><script>alert(1)</script>").url(stage)).kind("login");
    assert!(!page.answer.text().contains("<script>alert"));
    let page = visitor.login(&page, "\"><img src=x onerror=alert(1)>", "x").kind("login");
    assert!(!page.answer.text().contains("<img src=x"));
}

#[test]
fn two_tabs_opened_at_once_both_work() {
    let stage = STAGE.get();
    let (first, second) = (Ask::new(&HOME), Ask::new(&HOME));
    let (mut one, mut two) = (Visitor::new(), Visitor::new());
    let pages = [one.open(&first.url(stage)).kind("login"), two.open(&second.url(stage)).kind("login")];
    // One browser: both answers set their cookies in one jar, whichever comes last.
    one.cookies.extend(two.cookies);
    let mut other = one.clone();
    one.login(&pages[0], "alice", PASSWORD).code(stage, &first);
    one.login(&pages[1], "alice", PASSWORD).code(stage, &second);
    other.login(&pages[1], "alice", PASSWORD).page();
}
