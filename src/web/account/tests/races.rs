//! Who comes first: logins that are overtaken, guesses made at once, strangers in numbers.
use http::StatusCode;
use ledger::ObjectKind;

use super::{
    browser::{ISSUER, PASSWORD, Site, Visitor, client, filled, site},
    store::{Overtaking, Rows, secret},
};

/// Somebody changes alice's account, and her password if there is a new one.
fn changes(site: &Site, password: Option<&str>) -> Overtaking {
    let hashed = password.map(|p| accounts::password::hash(p, site.world.as_ref()).expect("hashes").into_bytes());
    Box::new(move |rows: &mut Rows| {
        let alice = rows.objects.get_mut(&(ObjectKind::User.as_str(), "alice-id".to_owned())).expect("alice");
        alice.version += 1;
        if let Some(hashed) = hashed {
            rows.secrets.insert(secret(ObjectKind::User, "alice-id", "password"), hashed);
        }
    })
}

#[tokio::test]
async fn a_login_that_a_new_password_overtakes_is_a_wrong_password() {
    let site = site(ISSUER, &client());
    for start in ["authorize", "account"] {
        let mut visitor = Visitor::of(&site);
        let form = match start {
            "authorize" => visitor.login_form("", "alice", PASSWORD).await,
            _ => {
                let location = visitor.get("/account").await.location().to_owned();
                filled(visitor.get(&location).await.fields(), &[("username", "alice"), ("password", PASSWORD), ("action", "login")])
            }
        };
        *site.world.overtaking.lock() = Some(changes(&site, Some("a new password entirely")));
        let answer = visitor.post("/login", &form).await;
        assert_eq!((answer.status, answer.has("login-error")), (StatusCode::OK, true), "{}", answer.body);
        assert!(site.world.rows.lock().sessions.is_empty());
        *site.world.overtaking.lock() = Some(changes(&site, Some(PASSWORD)));
        let _ = site.world.overtaking.lock().take().map(|back| back(&mut site.world.rows.lock()));
    }
}

#[tokio::test]
async fn a_login_that_another_change_overtakes_goes_on() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", PASSWORD).await;
    *site.world.overtaking.lock() = Some(changes(&site, None));
    assert!(visitor.post("/login", &form).await.location().starts_with("/consent"));
    assert_eq!(site.world.rows.lock().sessions.len(), 1);
    *site.world.overtaking.lock() = Some(changes(&site, Some("a new password entirely")));
    let again = visitor.login_form("&prompt=login", "alice", PASSWORD).await;
    assert!(visitor.post("/login", &again).await.has("login-error"), "a renewed session is guarded too");
}

#[tokio::test]
async fn of_two_password_changes_at_once_one_wins() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.log_in("", "alice").await;
    let csrf = visitor.get("/account").await.fields()["csrf"].clone();
    let fields = [("csrf", csrf.as_str()), ("old_password", PASSWORD), ("new_password", "another long one"), ("action", "password")];
    *site.world.overtaking.lock() = Some(changes(&site, Some("the one that was first")));
    let answer = visitor.post("/account", &filled(Default::default(), &fields)).await;
    assert_eq!((answer.status, answer.page()), (StatusCode::CONFLICT, "error"));
    let stored = site.world.rows.lock().secrets[&secret(ObjectKind::User, "alice-id", "password")].clone();
    assert!(accounts::password::verify(std::str::from_utf8(&stored).ok(), "the one that was first"));
}

#[tokio::test]
async fn guesses_made_at_once_are_counted_one_by_one() {
    let site = site(ISSUER, &client());
    let mut first = Visitor::of(&site);
    let form = first.login_form("", "alice", "wrong").await;
    let guesses = (0..60).map(|_| {
        let mut visitor = Visitor::of(&site);
        visitor.cookie.clone_from(&first.cookie);
        let form = &form;
        async move { visitor.post("/login", form).await.status }
    });
    let answers = futures_util::future::join_all(guesses).await;
    let checked = answers.iter().filter(|s| **s == StatusCode::OK).count();
    assert!((10..=32).contains(&checked), "{checked} guesses were checked");
    assert_eq!(site.events().iter().filter(|e| **e == "login.failed").count(), checked);
}

#[tokio::test]
async fn strangers_are_bounded_and_leave_no_trace_in_the_ledger() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "", "").await;
    let cancelled = visitor.post("/login", &filled(form, &[("action", "cancel")])).await;
    assert_eq!(cancelled.told("error").as_deref(), Some("access_denied"));
    assert!(site.events().is_empty());
    let form = visitor.login_form("", "alice", PASSWORD).await;
    let mut begun = 0;
    let limited = loop {
        let answer = Visitor::of(&site).get(if begun % 2 == 0 { "/account" } else { "/login" }).await;
        if answer.status != StatusCode::SEE_OTHER {
            break answer;
        }
        begun += 1;
    };
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((600..3000).contains(&begun) && limited.headers.contains_key(http::header::RETRY_AFTER), "{begun}");
    assert_eq!(visitor.authorize("").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(visitor.post("/login", &form).await.status, StatusCode::SEE_OTHER, "who has a form may use it");
    assert_eq!(Visitor::of(&site).authorize("").await.status, StatusCode::SEE_OTHER, "a correct login is no flood");
}

#[tokio::test]
async fn long_values_that_would_wait_are_refused() {
    let site = site(ISSUER, &client());
    let (fits, long) = ("x".repeat(4096), "x".repeat(4097));
    let refused = Visitor::of(&site).authorize(&format!("&nonce={long}")).await;
    assert_eq!((refused.told("error").as_deref(), refused.told("state").as_deref()), (Some("invalid_request"), Some("xyz")));
    assert!(Visitor::of(&site).authorize(&format!("&nonce={fits}")).await.location().starts_with("/login"));
    let with_state = |state: &str| super::browser::authorize("").replace("state=xyz", &format!("state={state}"));
    assert_eq!(Visitor::of(&site).get(&with_state(&long)).await.told("error").as_deref(), Some("invalid_request"));
    assert!(Visitor::of(&site).get(&with_state(&fits)).await.location().starts_with("/login"));
}

#[tokio::test]
async fn a_choice_is_about_the_account_that_was_shown() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.log_in("", "alice").await;
    let location = visitor.authorize("&prompt=select_account").await.location().to_owned();
    let shown = visitor.get(&location).await;
    assert!(shown.has("account-continue") && shown.body.contains("alice"));
    let form = visitor.login_form("&prompt=login", "bob", PASSWORD).await;
    visitor.post("/login", &form).await;
    let answer = visitor.post("/login", &filled(shown.fields(), &[("action", "continue")])).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_logout_ends_what_began_in_the_session_but_not_what_was_given_for_later() {
    let mut client = client();
    client.scope.push_str(" offline_access");
    client.grant_types.push("refresh_token".to_owned());
    let site = site(ISSUER, &client);
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let page = visitor.get(&super::browser::authorize("").replace("openid+read", "openid+read+offline_access")).await;
    let form = filled(page.fields(), &[("decision", "approve")]);
    visitor.post("/consent", &form).await;
    let form = filled(visitor.get("/logout").await.fields(), &[("action", "confirm")]);
    assert!(visitor.post("/logout", &form).await.has("logged-out"));
    let rows = site.world.rows.lock().clone();
    assert_eq!(rows.grants.len(), 2);
    for grant in rows.grants.values() {
        assert_eq!(grant.ended_at.is_none(), grant.scope.contains("offline_access"), "{}", grant.scope);
    }
    assert!(rows.sessions.values().all(|s| s.ended_at.is_some()));
}

#[tokio::test]
async fn no_code_for_a_client_that_was_changed_elsewhere() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    // Another node's change: this one's catalogue has not heard of it yet.
    site.world.rows.lock().objects.get_mut(&(ObjectKind::Client.as_str(), "web".to_owned())).expect("the client").version += 1;
    let answer = visitor.authorize("").await;
    assert_eq!((answer.status, answer.page()), (StatusCode::BAD_REQUEST, "error"));
    assert_eq!(site.world.rows.lock().grants.len(), 1);
    assert!(visitor.authorize("").await.told("code").is_some(), "read again, it is served");
}
