//! A person in Chromium who comes to a page behind the gateway: login, the page, a page of another origin that tries to act, logout.
use std::time::Duration;

use serde_json::json;

use crate::kit::chrome::{Chrome, installed};
use crate::kit::entrance;
use crate::kit::http::random;
use crate::kit::seed::PASSWORD;
use crate::kit::{Upstream, services, wait_until};

/// A page that posts to an address as its reader, and says when that is done.
fn posting(to: &str) -> String {
    let html = format!(
        "<!DOCTYPE html><title>waiting</title><script>fetch('{to}', {{method: 'POST', credentials: 'include', mode: 'no-cors', body: 'x'}})\
         .finally(() => document.title = 'done')</script>"
    );
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{html}", html.len());
    percent_encoding::utf8_percent_encode(&answer, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn a_person_comes_to_a_page_behind_the_gateway_logs_in_acts_and_logs_out() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let (stage, evil) = (entrance::stage("openid profile offline_access read", json!({}), |_| {}), Upstream::start());
    let chrome = Chrome::start();
    let (mark, wanted) = (random(), stage.through("/app/hello?x=1"));
    chrome.open(&wanted);
    chrome.wait_for_kind("login");
    assert!(stage.upstream.seen("/app/hello").is_empty(), "nothing is forwarded before the login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", PASSWORD);
    chrome.click("login-submit");
    chrome.wait_for_url(&wanted);
    wait_until("the page", Duration::from_secs(10), || !stage.upstream.seen("/app/hello").is_empty());
    assert!(!stage.upstream.only("/app/hello").all("cookie").join(";").contains("doorward"));

    // Its own page acts; a page of another origin of the same site, whose requests carry the cookie too, does not.
    let act = stage.through(&format!("/app/act-{mark}"));
    chrome.open(&format!("{}/raw?answer={}", evil.url(), posting(&act)));
    wait_until("the other page has tried", Duration::from_secs(10), || chrome.title() == "done");
    assert!(stage.upstream.seen(&format!("POST /app/act-{mark}")).is_empty());
    chrome.open(&format!("{}?answer={}", stage.through("/app/raw"), posting(&act)));
    wait_until("the own page has acted", Duration::from_secs(10), || chrome.title() == "done");
    assert_eq!(stage.upstream.seen(&format!("POST /app/act-{mark}")).len(), 1);

    // Another page, another tab: no further login.
    let second = chrome.tab();
    chrome.open(&stage.through("/app/second"));
    chrome.wait_for_url(&stage.through("/app/second"));
    chrome.back_to(second);

    chrome.open(&stage.through("/.doorward/logout"));
    chrome.wait_for_kind("logout");
    chrome.click("logout-confirm");
    wait_until("logged out at the login server, too", Duration::from_secs(10), || {
        chrome.url().starts_with(&stage.issuer) && chrome.has("logged-out")
    });
    chrome.open(&wanted);
    chrome.wait_for_kind("login");
}
