//! The state of the login for clients of another site than the issuer's: a cookie of its own, chosen by the operator, worth nothing else.
use serde_json::json;
use url::Url;

use crate::kit::authority::{Authority, certified};
use crate::kit::http::Go;
use crate::kit::seed::{HOME, MACHINE, PASSWORD};
use crate::kit::{Ask, House, Stage, Visitor, services};

const ORIGIN: &str = "https://home.example.com";
const STATE: &str = "__Host-doorward-state";
const SESSION: &str = "__Host-doorward";

struct World {
    stage: Stage,
    authority: Authority,
}

/// A server with https; `None` where that cannot be had.
fn world(configure: impl FnOnce(&mut House)) -> Option<World> {
    if !services::has("openssl") {
        services::skip("openssl");
        return None;
    }
    let mut authority = None;
    let stage = Stage::start(|house| {
        authority = certified(house);
        configure(house);
    });
    Some(World { stage, authority: authority? })
}

fn chosen(house: &mut House) {
    house.set("server.cross_site_session_state", "true");
}

impl World {
    fn visitor(&self) -> Visitor {
        Visitor::using(self.authority.client())
    }

    /// What a frame in another site's page hears: of the cookies only those a browser sends along from there.
    fn across(&self, visitor: &Visitor, client_id: &str, origin: &str, told: &str) -> String {
        let mut far = self.visitor();
        far.cookies = visitor.cookies.clone();
        far.cookies.retain(|name, _| visitor.set_cookies[name].contains("SameSite=None"));
        self.verdict(&mut far, client_id, origin, told, true)
    }

    fn verdict(&self, visitor: &mut Visitor, client_id: &str, origin: &str, told: &str, elsewhere: bool) -> String {
        let mut url = Url::parse(&self.stage.url("/session/state")).unwrap();
        url.query_pairs_mut().extend_pairs([("client_id", client_id), ("origin", origin), ("session_state", told)]);
        if elsewhere {
            url.query_pairs_mut().append_pair("elsewhere", "1");
        }
        visitor.once(self.authority.client().get(url).header("sec-fetch-site", "same-origin")).expect(200).text()
    }

    fn arrive(&self, visitor: &mut Visitor, username: &str) -> String {
        let (_, got) = visitor.walk(&self.stage, &Ask::new(&HOME), username).away();
        got["session_state"].clone()
    }

    fn page(&self) -> String {
        let request = self.authority.client().get(self.stage.url("/session/check")).header("sec-fetch-site", "cross-site");
        request.go().expect(200).text()
    }
}

#[test]
fn a_client_of_another_site_hears_of_login_and_logout() {
    let Some(world) = world(chosen) else { return };
    assert!(world.page().contains("data-near=\"elsewhere\""));
    let mut visitor = world.visitor();
    let told = world.arrive(&mut visitor, "alice");
    let lines = visitor.set_cookies.clone();
    let line = &lines[STATE];
    for part in ["; Path=/", "; HttpOnly", "; SameSite=None", "; Secure"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("Domain") && !line.contains("Max-Age"), "{line}");
    assert!(lines[SESSION].contains("SameSite=Lax"), "the session's own cookie stays as it is");
    assert_eq!(lines.values().filter(|l| l.contains("SameSite=None")).count(), 1);

    let across = |visitor: &Visitor, told: &str| world.across(visitor, HOME.id, ORIGIN, told);
    assert_eq!(across(&visitor, &told), "unchanged");
    assert_eq!(world.verdict(&mut visitor, HOME.id, ORIGIN, &told, false), "unchanged");
    // A browser that keeps such cookies to itself says nothing, never a false `changed`.
    assert_eq!(across(&world.visitor(), &told), "error");

    let page = visitor.open(&world.stage.url("/logout")).kind("logout");
    visitor.send(&page.press("logout-confirm"));
    assert_eq!(visitor.cookies[STATE], "ended");
    assert_eq!(across(&visitor, &told), "changed");
    let next = world.arrive(&mut visitor, "bob");
    assert_eq!((across(&visitor, &told).as_str(), across(&visitor, &next).as_str()), ("changed", "unchanged"));

    // A session that ends elsewhere has ended here too, although the cookie is still there.
    world.end("bob");
    assert_eq!(across(&visitor, &next), "changed");
    // Who was logged in before it was chosen gets the cookie at the next visit.
    let again = world.arrive(&mut visitor, "carol");
    visitor.cookies.remove(STATE);
    world.arrive(&mut visitor, "carol");
    assert_eq!(across(&visitor, &again), "unchanged");
}

impl World {
    /// Ends all sessions of a person as an administrator.
    fn end(&self, username: &str) {
        let admin = format!("https://{}/admin/v1", self.stage.listener("admin").replace("127.0.0.1", "localhost"));
        let client = self.authority.client();
        let said: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(self.stage.house.path("admin.json")).unwrap()).unwrap();
        let form = [("grant_type", "client_credentials"), ("scope", "doorward.admin")];
        let (id, secret) = (said["admin_client_id"].as_str().unwrap(), said["admin_client_secret"].as_str());
        let token = client.post(self.stage.url("/token")).basic_auth(id, secret).form(&form).go().expect(200).json();
        let body = json!({"password": PASSWORD});
        let url = format!("{admin}/users/{username}/password");
        let answer = client.post(url).bearer_auth(token["access_token"].as_str().unwrap()).json(&body).go();
        assert!((200..300).contains(&answer.status), "{}", answer.text());
    }
}

#[test]
fn the_second_cookie_opens_nothing_and_cannot_be_made() {
    let Some(world) = world(chosen) else { return };
    let mut visitor = world.visitor();
    let told = world.arrive(&mut visitor, "alice");
    let value = visitor.cookies[STATE].clone();
    // It is no login: not as itself, nor under the name of the session's cookie.
    for name in [STATE, SESSION] {
        let mut thief = world.visitor();
        thief.cookies.insert(name.into(), value.clone());
        let silent = Ask::new(&HOME).with("prompt", "none");
        assert_eq!(thief.open(&silent.url(&world.stage)).error(&world.stage), "login_required", "{name}");
        assert_eq!(thief.open(&world.stage.url("/account")).page().kind(), "login", "{name}");
    }
    // Whoever was never told a state hears one and the same, whether or not somebody is logged in.
    let (_, salt) = told.split_once('.').unwrap();
    let forged = format!("{}.{}", "A".repeat(43), "A".repeat(salt.len()));
    let mut gone = visitor.clone();
    gone.cookies.insert(STATE.into(), "ended".into());
    for visitor in [&visitor, &gone, &world.visitor()] {
        assert_eq!(world.across(visitor, HOME.id, ORIGIN, &forged), "error");
        assert_eq!(world.across(visitor, HOME.id, "https://evil.example.com", &told), "error");
        assert_eq!(world.across(visitor, MACHINE.id, ORIGIN, &told), "error");
    }
    // A reference that is not ours refers to nothing.
    let (sid, mac) = value.rsplit_once('.').unwrap();
    for forged in [sid.to_owned(), format!("{sid}."), format!("{sid}.{}", mac.chars().rev().collect::<String>()), "x".repeat(4000)] {
        let mut other = visitor.clone();
        other.cookies.insert(STATE.into(), forged.clone());
        assert_eq!(world.across(&other, HOME.id, ORIGIN, &told), "error", "{forged}");
    }
    assert!(!told.contains(mac) && !told.contains(sid));
}

#[test]
fn unless_chosen_there_is_no_second_cookie() {
    let Some(world) = world(|_| {}) else { return };
    let mut visitor = world.visitor();
    let told = world.arrive(&mut visitor, "alice");
    assert!(!visitor.set_cookies.contains_key(STATE), "{:?}", visitor.set_cookies);
    assert!(visitor.set_cookies.values().all(|line| line.contains("SameSite=Lax")), "{:?}", visitor.set_cookies);
    assert!(world.page().contains("data-near=\"false\""));
    assert_eq!(world.across(&visitor, HOME.id, ORIGIN, &told), "error");
    // Without https the choice has no effect: no browser would send such a cookie.
    let plain = Stage::start(chosen);
    let mut visitor = Visitor::new();
    visitor.walk(&plain, &Ask::new(&HOME), "alice").away();
    assert!(visitor.set_cookies.values().all(|line| line.contains("SameSite=Lax")), "{:?}", visitor.set_cookies);
}
