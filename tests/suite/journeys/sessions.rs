//! The end of a session as Chromium sees it: the frame that tells whether the login changed, and the frames of a logout.
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use url::Url;

use crate::kit::authority::certified;
use crate::kit::chrome::{Chrome, installed};
use crate::kit::http::{Go, claims};
use crate::kit::seed::{PASSWORD, SPA};
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Upstream, services, wait_until};

/// A page of the client's own that asks the frame all the time and shows the answer as its title.
fn asking(site: &Upstream, stage: &Stage, session_state: &str) -> String {
    let frame = stage.url("/session/check");
    let html = format!(
        "<!DOCTYPE html><title>nothing</title><iframe id=op src=\"{frame}\"></iframe><script>\
         addEventListener('message', e => {{ if (e.origin === '{origin}') document.title = e.data }});\
         setInterval(() => op.contentWindow.postMessage('{client} {session_state}', '{origin}'), 100)</script>",
        origin = stage.issuer,
        client = SPA.id,
    );
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{html}", html.len());
    let answer = percent_encoding::utf8_percent_encode(&answer, percent_encoding::NON_ALPHANUMERIC);
    format!("{}/raw?answer={answer}", site.url())
}

#[test]
fn a_page_learns_of_the_logout_and_every_client_is_loaded() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let (stage, site) = (Stage::start(|_| {}), Upstream::start());
    let (redirect, front, bye) = (format!("{}/cb", site.url()), format!("{}/front/heard", site.url()), format!("{}/bye", site.url()));
    let document = json!({"frontchannel_logout_uri": front, "post_logout_redirect_uris": [bye]});
    stage.admin("PATCH", "/clients/spa").json(&document).go().expect(200);
    let chrome = Chrome::start();

    let ask = Ask::new(&SPA).with("redirect_uri", &redirect);
    chrome.open(&ask.url(&stage));
    chrome.wait_for_kind("login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", PASSWORD);
    chrome.click("login-submit");
    chrome.wait_for_kind("consent");
    chrome.click("consent-approve");
    let at = Url::parse(&chrome.wait_for_url(&redirect)).unwrap();
    let got: BTreeMap<String, String> = at.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let id_token = text(&ask.redeem(&stage, &got["code"]).expect(200).json(), "id_token");

    let page = asking(&site, &stage, &got["session_state"]);
    chrome.open(&page);
    wait_until("the login is unchanged", Duration::from_secs(10), || chrome.title() == "unchanged");

    let parameters = [("id_token_hint", id_token.as_str()), ("post_logout_redirect_uri", &bye), ("state", "s")];
    chrome.open(Url::parse_with_params(&stage.url("/logout"), parameters).unwrap().as_str());
    assert_eq!(chrome.wait_for_url(&bye), format!("{bye}?state=s"));
    let heard = site.only("/front/heard");
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(heard.target().split_once('?').unwrap().1.as_bytes()).into_owned().collect();
    assert_eq!((query["iss"].as_str(), query["sid"].as_str()), (stage.issuer.as_str(), claims(&id_token)["sid"].as_str().unwrap()));

    chrome.open(&page);
    wait_until("the login has changed", Duration::from_secs(10), || chrome.title() == "changed");
}

#[test]
fn a_page_of_another_site_learns_of_the_logout_too() {
    if !installed() || !services::has("openssl") {
        return services::skip("Chromium with chromedriver, openssl");
    }
    // The issuer is at https://localhost, the client's page at http://127.0.0.1: another site.
    let site = Upstream::start();
    let stage = Stage::start(|house| {
        certified(house);
        house.set("server.cross_site_session_state", "true");
    });
    let redirect = format!("{}/cb", site.url());
    let chrome = Chrome::trusting();
    chrome.open(&Ask::new(&SPA).with("redirect_uri", &redirect).url(&stage));
    chrome.wait_for_kind("login");
    chrome.type_in("username", "alice");
    chrome.type_in("password", PASSWORD);
    chrome.click("login-submit");
    chrome.wait_for_kind("consent");
    chrome.click("consent-approve");
    let at = Url::parse(&chrome.wait_for_url(&redirect)).unwrap();
    let got: BTreeMap<String, String> = at.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();

    let page = asking(&site, &stage, &got["session_state"]);
    chrome.open(&page);
    wait_until("the login is unchanged", Duration::from_secs(10), || chrome.title() == "unchanged");
    chrome.open(&stage.url("/logout"));
    chrome.wait_for_kind("logout");
    chrome.click("logout-confirm");
    wait_until("logged out", Duration::from_secs(10), || chrome.has("logged-out"));
    chrome.open(&page);
    wait_until("the login has changed", Duration::from_secs(10), || chrome.title() == "changed");
}
