//! oidc-client-ts (npm) in Chromium: login, a frame that watches the session, silent renewal, logout here and elsewhere.
use std::time::Duration;

use serde_json::json;

use crate::kit::chrome::{Chrome, installed};
use crate::kit::http::env;
use crate::kit::seed::{API, PASSWORD};
use crate::kit::site::Site;
use crate::kit::{House, Server, Upstream, services, standard, wait_until};

const PAGE: &str = include_str!("../clients/oidc_client_ts.html");

/// A server, and the pages of a client that it knows.
fn start(library: String) -> (Server, Site, Upstream) {
    let (upstream, house) = (Upstream::start(), House::new());
    let (html, page) = ("text/html; charset=utf-8", PAGE.replace("@ISSUER@", &house.issuer));
    let mut files: Vec<_> = ["/", "/cb", "/bye"].map(|path| (path, html, page.clone())).into();
    files.push(("/oidc-client-ts.js", "text/javascript", library));
    let site = Site::start(files);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().expect("clients").push(json!({
        "client_id": "tab", "client_name": "A tab", "redirect_uris": ["http://127.0.0.1/cb"], "response_types": ["code"],
        "post_logout_redirect_uris": [format!("{}/bye", site.url)], "grant_types": ["authorization_code"], "first_party": true,
        "token_endpoint_auth_method": "none", "scope": "openid profile read", "allowed_resources": [API]
    }));
    house.seed(&seed);
    (house.serve(), site, upstream)
}

fn log_in(chrome: &Chrome) {
    chrome.click("begin");
    chrome.wait_for_kind("login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", PASSWORD);
    chrome.click("login-submit");
    titled(chrome, "in ");
}

#[track_caller]
fn titled(chrome: &Chrome, title: &str) {
    let begun = std::time::Instant::now();
    while !chrome.title().starts_with(title) {
        assert!(begun.elapsed() < Duration::from_secs(15), "{title:?} is not the title: {:?} at {}", chrome.title(), chrome.url());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn oidc_client_ts_watches_a_session_renews_it_silently_and_hears_of_its_end() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let Some(modules) = env("DOORWARD_TEST_NODE_MODULES") else {
        return services::skip("oidc-client-ts (DOORWARD_TEST_NODE_MODULES)");
    };
    let library = std::fs::read_to_string(format!("{modules}/oidc-client-ts/dist/browser/oidc-client-ts.min.js")).expect("the library");
    let (server, site, _upstream) = start(library);
    let chrome = Chrome::start();
    chrome.open(&site.url);
    titled(&chrome, "out");
    log_in(&chrome);
    assert!(chrome.title().ends_with(" Alice A"), "{}", chrome.title());

    let soon = Duration::from_secs(15);
    wait_until("the frame has said unchanged", soon, || chrome.has("heard-unchanged"));
    chrome.click("renew");
    wait_until("renewed", soon, || chrome.has("event-renewed") || chrome.title().starts_with("failed"));
    titled(&chrome, "in ");
    for no in ["event-signed-out", "heard-changed", "heard-error"] {
        assert!(!chrome.has(no), "{no}");
    }

    // The person signs out at the issuer, in another tab.
    let first = chrome.tab();
    chrome.open(&server.url("/logout"));
    chrome.wait_for_kind("logout");
    chrome.click("logout-confirm");
    wait_until("logged out", soon, || chrome.has("logged-out"));
    chrome.back_to(first);
    wait_until("the page has heard of it", soon, || chrome.has("event-signed-out"));
    assert!(chrome.has("heard-changed"));

    // And once more, from the page.
    log_in(&chrome);
    wait_until("the frame has said unchanged", soon, || chrome.has("heard-unchanged"));
    chrome.click("leave");
    // The ID token of the page's own session is proof enough: nobody is asked.
    titled(&chrome, "out");
    assert!(chrome.url().starts_with(&format!("{}/bye", site.url)), "{}", chrome.url());
    chrome.click("begin");
    chrome.wait_for_kind("login");
}
