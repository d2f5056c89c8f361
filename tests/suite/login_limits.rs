//! Limits on failed logins, per source and per (account, source).
use crate::kit::seed::{HOME, PASSWORD};
use crate::kit::{Ask, Landing, Shared, Visitor};

static STAGE: Shared = Shared::new();

/// The status of one failed login from an address.
fn fail(address: &str, username: &str) -> u16 {
    let stage = STAGE.get();
    let mut visitor = Visitor::from(address);
    match visitor.open(&Ask::new(&HOME).url(stage)) {
        Landing::Page(page) if page.kind() == "login" && page.status() == 200 => visitor.login(&page, username, "wrong").page().status(),
        other => other.page().status(),
    }
}

#[test]
fn forty_failures_meet_the_limit_and_another_source_does_not() {
    let stage = STAGE.get();
    let statuses: Vec<u16> = (0..40).map(|_| fail("127.0.1.1", "alice")).collect();
    assert!(statuses[..10].iter().all(|s| *s != 429), "ten failures are never limited: {statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    let mut visitor = Visitor::from("127.0.1.1");
    let page = visitor.open(&Ask::new(&HOME).url(stage)).page();
    let limited = if page.status() == 429 { page } else { visitor.login(&page, "alice", "wrong").page() };
    assert_eq!(limited.status(), 429);
    assert!(limited.answer.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1), "Retry-After");
    // The same account from elsewhere, with the right password.
    let ask = Ask::new(&HOME);
    let mut elsewhere = Visitor::from("127.0.0.2");
    let page = elsewhere.open(&ask.url(stage)).kind("login");
    elsewhere.login(&page, "alice", PASSWORD).code(stage, &ask);
}

#[test]
fn eighty_failures_over_many_names_meet_the_limit() {
    let statuses: Vec<u16> = (0..80).map(|n| fail("127.0.2.1", &format!("user{n}"))).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses[..10].iter().all(|s| *s != 429), "{statuses:?}");
}

#[test]
fn correct_logins_are_never_limited() {
    let stage = STAGE.get();
    for n in 0..60 {
        let ask = Ask::new(&HOME);
        let mut visitor = Visitor::from("127.0.3.1");
        let landing = visitor.walk(stage, &ask, "bob");
        assert!(matches!(landing, Landing::Away(_)), "login {n}");
    }
}

#[test]
fn a_success_from_the_same_source_buys_nobody_more_guesses() {
    let stage = STAGE.get();
    let right = |name: &str| {
        let ask = Ask::new(&HOME);
        let mut visitor = Visitor::from("127.0.4.1");
        match visitor.open(&ask.url(stage)) {
            Landing::Page(page) if page.kind() == "login" && page.status() == 200 => drop(visitor.login(&page, name, PASSWORD)),
            other => drop(other.page()),
        }
    };
    let mut statuses = Vec::new();
    for n in 0..40 {
        statuses.push(fail("127.0.4.1", "alice"));
        if n % 10 == 9 {
            // The victim, and an account of the guesser's own.
            right("alice");
            right("bob");
        }
    }
    assert!(statuses[..10].iter().all(|s| *s != 429), "ten failures are never limited: {statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
}
