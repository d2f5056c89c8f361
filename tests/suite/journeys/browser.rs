//! A person in Chromium: login, consent, code, token, a call through the gateway, logout.
use std::collections::BTreeMap;

use url::Url;

use crate::kit::chrome::{Chrome, installed};
use crate::kit::seed::{PASSWORD, SPA};
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Upstream, services};

/// The parameters with which the browser came back to the client.
fn came_back(at: &str) -> BTreeMap<String, String> {
    Url::parse(at).unwrap().query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect()
}

#[test]
fn a_person_logs_in_allows_a_client_calls_an_api_and_logs_out() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let stage = Stage::start(|_| {});
    // The client's own page, on any port of the loopback address it registered.
    let client_site = Upstream::start();
    let redirect = format!("{}/cb", client_site.url());
    let chrome = Chrome::start();

    let ask = Ask::new(&SPA).with("redirect_uri", &redirect);
    chrome.open(&ask.url(&stage));
    chrome.wait_for_kind("login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", "not this one");
    chrome.click("login-submit");
    chrome.wait_for_kind("login");
    assert!(chrome.has("username"), "the page again after a wrong password");
    // The name may still be filled in; a fresh page is simplest.
    let ask = Ask::new(&SPA).with("redirect_uri", &redirect);
    chrome.open(&ask.url(&stage));
    chrome.wait_for_kind("login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", PASSWORD);
    chrome.click("login-submit");

    chrome.wait_for_kind("consent");
    assert!(chrome.has("scope-read"));
    chrome.click("consent-approve");
    let got = came_back(&chrome.wait_for_url(&redirect));
    assert_eq!((got.get("state"), got.get("iss")), (Some(&ask.state), Some(&stage.issuer)));
    let tokens = ask.redeem(&stage, &got["code"]).expect(200).json();

    let access = text(&tokens, "access_token");
    assert_eq!(stage.call("/api/hello", &access).status, 200);

    // Logged in: asked for consent only, and refusing works as well.
    let again = Ask::new(&SPA).with("redirect_uri", &redirect);
    chrome.open(&again.url(&stage));
    chrome.wait_for_kind("consent");
    chrome.click("consent-deny");
    assert_eq!(came_back(&chrome.wait_for_url(&redirect))["error"], "access_denied");

    chrome.open(&stage.url("/logout"));
    chrome.wait_for_kind("logout");
    chrome.click("logout-confirm");
    crate::kit::wait_until("logged out", std::time::Duration::from_secs(10), || chrome.has("logged-out"));
    assert_eq!(stage.call("/api/hello", &access).status, 401, "the API is closed with the session");
    let after = Ask::new(&SPA).with("redirect_uri", &redirect);
    chrome.open(&after.url(&stage));
    chrome.wait_for_kind("login");
    assert!(!chrome.title().is_empty());
}

#[test]
fn an_error_page_is_shown_and_nothing_is_redirected() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let stage = Stage::start(|_| {});
    let chrome = Chrome::start();
    chrome.open(&Ask::new(&SPA).with("redirect_uri", "https://evil.example.com/").url(&stage));
    chrome.wait_for_kind("error");
    assert!(chrome.has("error-code"));
    assert!(chrome.url().starts_with(&stage.issuer));
}
