//! Login, consent and code.
use http::{StatusCode, header};
use protocol::Client;

use super::browser::{CALLBACK, ISSUER, Visitor, client, filled, site};

#[tokio::test]
async fn a_person_logs_in_consents_and_the_client_gets_a_code() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let answer = visitor.arrive("").await;
    assert!(answer.location().starts_with(&format!("{CALLBACK}?code=dwc_")));
    assert_eq!((answer.told("state").as_deref(), answer.told("iss").as_deref()), (Some("xyz"), Some(ISSUER)));
    assert_eq!(site.events(), ["login.succeeded", "session.started", "consent.granted", "grant.started", "code.issued"], "each event once");
    assert_eq!(site.commits(), 2, "one for the login, one for the code; what waits, the browser carries");
    let silent = visitor.authorize("&prompt=none").await;
    assert!(silent.told("code").is_some());
    assert_eq!(site.commits(), 3);
}

#[tokio::test]
async fn pages_carry_the_ids_the_policy_and_no_script() {
    let site = site(ISSUER, &Client { policy_uri: Some("https://rp.example.com/privacy".into()), ..client() });
    let mut visitor = Visitor::of(&site);
    let location = visitor.authorize("&login_hint=al%22ice").await.location().to_owned();
    let page = visitor.get(&location).await;
    for id in ["login-form", "username", "password", "login-submit", "login-cancel", "client-name", "client-policy"] {
        assert!(page.has(id), "{id}");
    }
    assert!(page.body.contains("Web &#60;b&#62;Shop") && page.body.contains("al&#34;ice") && !page.body.contains("<script"));
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self' https://rp.example.com;"), "{policy}");
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn a_page_of_an_https_issuer_sets_a_host_cookie() {
    let site = site("https://id.example.com", &client());
    let answer = Visitor::of(&site).authorize("").await;
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("__Host-doorward-") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
}

#[tokio::test]
async fn unknown_wrong_and_disabled_look_the_same() {
    let site = site(ISSUER, &client());
    let mut looks = Vec::new();
    for (name, password) in
        [("nobody", "x"), ("alice", "wrong"), ("mallory", super::browser::PASSWORD), ("alice", &"x".repeat(200)), ("", "")]
    {
        let mut visitor = Visitor::of(&site);
        let form = visitor.login_form("", name, password).await;
        let answer = visitor.post("/login", &form).await;
        assert!(answer.has("login-error"));
        looks.push((answer.status, answer.body.len()));
    }
    assert!(looks.windows(2).all(|w| w[0] == w[1]), "{looks:?}");
    assert_eq!(site.events(), ["login.failed"; 5]);
}

#[tokio::test]
async fn a_form_works_after_a_failure_and_not_after_a_success() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", super::browser::PASSWORD).await;
    let wrong = filled(form.clone(), &[("password", "wrong")]);
    assert!(visitor.post("/login", &wrong).await.has("login-form"));
    assert_eq!(visitor.post("/login", &form).await.status, StatusCode::SEE_OTHER);
    let again = visitor.post("/login", &form).await;
    assert_eq!((again.status, again.page()), (StatusCode::BAD_REQUEST, "error"));
}

#[tokio::test]
async fn the_cookie_changes_at_login() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", super::browser::PASSWORD).await;
    let planted = visitor.cookie.clone();
    visitor.post("/login", &form).await;
    assert_ne!(visitor.cookie, planted);
    let mut attacker = Visitor::of(&site);
    attacker.cookie = planted;
    assert_eq!(attacker.authorize("&prompt=none").await.told("error").as_deref(), Some("login_required"));
}

#[tokio::test]
async fn another_site_or_another_browser_cannot_post_a_form() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", super::browser::PASSWORD).await;
    for origin in ["https://evil.example", "null"] {
        assert_eq!(visitor.post_from("/login", &form, Some(origin)).await.status, StatusCode::FORBIDDEN);
    }
    let mut other = Visitor::of(&site);
    other.authorize("").await;
    assert_eq!(other.post("/login", &form).await.status, StatusCode::FORBIDDEN);
    assert_eq!(visitor.post("/login", &filled(form.clone(), &[("csrf", "x")])).await.status, StatusCode::FORBIDDEN);
    assert!(site.world.rows.lock().sessions.is_empty());
    assert_eq!(visitor.post_from("/login", &form, Some(ISSUER)).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn cancel_and_deny_are_access_denied() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "", "").await;
    let cancelled = visitor.post("/login", &filled(form, &[("action", "cancel")])).await;
    assert_eq!((cancelled.told("error").as_deref(), cancelled.told("state").as_deref()), (Some("access_denied"), Some("xyz")));
    let location = visitor.log_in("", "alice").await.location().to_owned();
    let page = visitor.get(&location).await;
    assert!(page.has("consent-form") && page.has("consent-approve") && page.has("consent-deny"));
    assert!(page.has("scope-openid") && page.has("scope-read") && page.body.contains("Read your things"));
    let form = filled(page.fields(), &[("decision", "deny")]);
    assert_eq!(visitor.post("/consent", &form).await.told("error").as_deref(), Some("access_denied"));
    assert_eq!(visitor.post("/consent", &form).await.status, StatusCode::BAD_REQUEST, "the form works once");
    assert!(visitor.authorize("&prompt=none").await.told("error").as_deref() == Some("consent_required"));
}

#[tokio::test]
async fn an_unchecked_scope_is_not_granted() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let location = visitor.log_in("", "alice").await.location().to_owned();
    let mut form = filled(visitor.get(&location).await.fields(), &[("decision", "approve")]);
    assert_eq!(form.remove("scope-read").as_deref(), Some("on"));
    assert!(visitor.post("/consent", &form).await.told("code").is_some());
    assert_eq!(site.world.rows.lock().grants.values().next().map(|g| g.scope.clone()).as_deref(), Some("openid"));
}

#[tokio::test]
async fn prompt_login_really_asks_and_moves_auth_time() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    site.later(5);
    let answer = visitor.log_in("&prompt=login", "alice").await;
    assert!(answer.told("code").is_some(), "consent is remembered");
    {
        let rows = site.world.rows.lock();
        assert_eq!(rows.sessions.len(), 1, "the same session");
        assert_eq!(rows.sessions.values().next().unwrap().auth_time, site.now());
    }
    site.later(2);
    assert!(visitor.authorize("&max_age=1").await.location().starts_with("/login"));
    assert!(visitor.authorize("&max_age=10000").await.told("code").is_some());
}

#[tokio::test]
async fn select_account_continues_or_switches() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let location = visitor.authorize("&prompt=select_account").await.location().to_owned();
    let page = visitor.get(&location).await;
    assert!(page.page() == "login" && page.has("account-continue") && page.has("account-switch"));
    let form = page.fields();
    let switched = visitor.post("/login", &filled(form.clone(), &[("action", "switch")])).await;
    let location = switched.location().to_owned();
    assert!(visitor.get(&location).await.has("login-form"));
    assert!(visitor.post("/login", &filled(form, &[("action", "continue")])).await.told("code").is_some());
}

#[tokio::test]
async fn another_person_replaces_the_session() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let location = visitor.log_in("&prompt=login", "bob").await.location().to_owned();
    assert!(visitor.get(&location).await.body.contains("bob"));
    let rows = site.world.rows.lock();
    assert_eq!(rows.sessions.values().filter(|s| s.ended_at.is_none()).map(|s| s.subject.as_str()).collect::<Vec<_>>(), ["bob-id"]);
    assert_eq!(rows.revocations.len(), 1);
}

#[tokio::test]
async fn form_post_puts_nothing_into_the_query() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let answer = visitor.arrive("&response_mode=form_post").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.has("form-post") && answer.has("form-post-submit") && answer.body.contains(&format!("action=\"{CALLBACK}\"")));
    let fields = answer.fields();
    assert!(fields["code"].starts_with("dwc_") && fields["state"] == "xyz" && fields["iss"] == ISSUER);
    let error = visitor.authorize("&response_mode=form_post&prompt=none&max_age=0").await;
    assert_eq!(error.fields()["error"], "login_required");
}

#[tokio::test]
async fn a_bad_redirect_uri_is_a_page_and_a_post_works_like_a_get() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let page = visitor.get("/authorize?client_id=web&redirect_uri=https://evil.example&response_type=code").await;
    assert_eq!((page.status, page.page()), (StatusCode::BAD_REQUEST, "error"));
    assert!(page.has("error-page") && page.has("error-code") && page.has("error-description"));
    let query = super::browser::authorize("");
    let fields = url::form_urlencoded::parse(query.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
    assert!(visitor.post("/authorize", &fields).await.location().starts_with("/login"));
    let carried = visitor.post_from("/authorize", &fields, Some("https://rp.example.com")).await.location().to_owned();
    assert!(visitor.get(&carried).await.location().starts_with("/login"));
}

#[tokio::test]
async fn a_source_is_limited_within_forty_failures_and_nobody_else_is() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", "wrong").await;
    let mut failures = 0;
    let limited = loop {
        let answer = visitor.post("/login", &form).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        failures += 1;
    };
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((10..40).contains(&failures) && limited.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(limited.headers["ratelimit-policy"], "\"login\";q=30;w=600");
    assert_eq!(site.events().iter().filter(|e| **e == "login.throttled").count(), 1);
    let bob = filled(form, &[("username", "bob"), ("password", super::browser::PASSWORD)]);
    assert_eq!(visitor.post("/login", &bob).await.status, StatusCode::SEE_OTHER);
}
