//! A page in Chromium that calls an API on another origin through the gateway: with rules it reads answers and refusals, without it does not.
use std::time::Duration;

use serde_json::json;

use crate::kit::chrome::{Chrome, installed};
use crate::kit::http::{Go, random, wait_until};
use crate::kit::seed::{API, MACHINE};
use crate::kit::site::Site;
use crate::kit::{Stage, services};

/// Calls with a credential and a header of its own, and writes what came of it into its title.
const PAGE: &str = r#"<!doctype html><title>waiting</title><script>
const told = new URLSearchParams(location.search);
const headers = { "Authorization": "Bearer " + told.get("token"), "X-Mine": "yes", "Content-Type": "application/json" };
fetch(told.get("url"), { method: told.get("method"), headers, body: told.get("method") === "GET" ? undefined : "{}" })
  .then(answer => { document.title = "status " + answer.status + " " + (answer.headers.get("X-Upstream") || "-"); })
  .catch(() => { document.title = "unreadable"; });
</script>"#;

#[test]
fn a_page_of_another_origin_reads_what_the_route_lets_it() {
    if !installed() {
        return services::skip("Chromium with chromedriver");
    }
    let stage = Stage::start(|_| {});
    let app = Site::start(vec![("/page", "text/html", PAGE.to_owned())]);
    let stranger = Site::start(vec![("/page", "text/html", PAGE.to_owned())]);
    let rules = json!({"allow_origins": [app.url], "allow_methods": ["GET", "PUT"], "allow_headers": ["Authorization", "X-Mine", "Content-Type"],
        "expose_headers": ["X-Upstream"], "max_age": "1s"});
    for (id, cors) in [("shared", Some(rules)), ("closed", None)] {
        let mut route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": "echo", "auth": {"accept": ["jwt"], "issuers": ["self"], "audience": API}});
        if let Some(cors) = cors {
            route["cors"] = cors;
        }
        stage.admin("POST", "/routes").json(&route).go().expect(201);
    }
    let token = stage.machine_token(&MACHINE, &[]);
    let chrome = Chrome::start();
    let try_it = |site: &Site, path: &str, method: &str, token: &str| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("url", stage.through(path).as_str()), ("method", method), ("token", token)])
            .finish();
        chrome.open(&format!("{}/page?{query}", site.url));
        wait_until("the page has called", Duration::from_secs(15), || chrome.title() != "waiting" && !chrome.title().is_empty());
        chrome.title()
    };
    assert_eq!(try_it(&app, "/shared/x", "GET", &token), "status 200 yes");
    assert_eq!(try_it(&app, "/shared/x", "PUT", &token), "status 200 yes");
    assert_eq!(try_it(&app, "/shared/x", "GET", "a.b.c"), "status 401 -", "a refusal can be read");
    let mark = random();
    assert_eq!(try_it(&app, &format!("/shared/{mark}"), "DELETE", &token), "unreadable", "a method that is not allowed");
    assert_eq!(try_it(&stranger, &format!("/shared/{mark}"), "GET", &token), "unreadable", "another origin");
    assert_eq!(try_it(&app, &format!("/closed/{mark}"), "GET", &token), "unreadable", "a route without rules");
    assert!(stage.upstream.seen(&mark).is_empty(), "what the browser asked first was refused here");
}
