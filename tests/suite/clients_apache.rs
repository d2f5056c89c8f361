//! mod_auth_openidc under Apache: login, session, refresh, both logouts; access tokens judged by introspection and by the published keys.
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

use crate::kit::apache::{Apache, installed};
use crate::kit::authority::{Authority, certified};
use crate::kit::http::{Go, client};
use crate::kit::seed::{API, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{House, Landing, Page, Server, Upstream, Visitor, services, standard, wait_until};

struct World {
    server: Server,
    apache: Apache,
    authority: Authority,
    _upstream: Upstream,
}

/// Both tests use one server and one Apache; the last word of a process that is never dropped has its leash.
fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    static FIRST: Mutex<()> = Mutex::new(());
    let _one = FIRST.lock();
    WORLD
        .get_or_init(|| {
            if !installed() {
                services::skip("Apache with mod_auth_openidc");
                return None;
            }
            let (upstream, mut house) = (Upstream::start(), House::new());
            let authority = certified(&mut house)?;
            let apache = Apache::start(&house.issuer, &authority);
            house.set("outbound.allow", &apache.addresses());
            house.bootstrap();
            let mut seed = standard(&upstream.url());
            seed["clients"].as_array_mut().expect("clients").extend([apache.client(0, API), apache.client(1, API)]);
            house.seed(&seed);
            Some(World { server: house.serve(), apache, authority, _upstream: upstream })
        })
        .as_ref()
}

/// A person: what their browser keeps for the site, and for the issuer.
struct Person<'a> {
    world: &'a World,
    site: usize,
    there: Visitor,
    here: Visitor,
}

impl<'a> Person<'a> {
    fn new(world: &'a World, site: usize) -> Self {
        Self { world, site, there: Visitor::new(), here: Visitor::using(world.authority.client()) }
    }

    fn visit(&mut self, path: &str) -> Landing {
        self.there.open(&self.world.apache.url(self.site, path))
    }

    /// Opens the protected page, through login and consent as far as they are asked for.
    #[track_caller]
    fn arrive(&mut self) -> Page {
        let Landing::Away(to) = self.visit("/protected/") else { panic!("logged in already") };
        assert!(to.as_str().starts_with(&self.world.server.issuer), "{to}");
        let mut at = self.here.open(to.as_str());
        for _ in 0..4 {
            at = match at {
                Landing::Page(page) if page.kind() == "login" => self.here.login(&page, "alice", PASSWORD),
                Landing::Page(page) if page.kind() == "consent" => self.here.send(&page.press("consent-approve")),
                Landing::Page(page) if page.has("form-post-submit") => {
                    self.there.send_from(&page.press("form-post-submit"), Some(&self.world.server.issuer))
                }
                Landing::Away(back) => self.there.open(back.as_str()),
                Landing::Page(page) => return page,
            };
        }
        at.page()
    }

    /// What the site knows.
    #[track_caller]
    fn known(&mut self) -> Value {
        self.visit("/protected/redirect_uri?info=json").page().answer.expect(200).json()
    }

    #[track_caller]
    fn out(&mut self) -> bool {
        matches!(self.visit("/protected/"), Landing::Away(_))
    }
}

/// The user an Apache API names for a token; nobody where it refuses.
fn api(world: &World, site: usize, token: &str) -> Option<String> {
    let answer = client().get(world.apache.url(site, "/api/")).bearer_auth(token).go();
    assert!([200, 401].contains(&answer.status), "{}", answer.text());
    (answer.status == 200).then(|| Page::new(String::new(), answer).text_of("user"))
}

fn goes(site: usize) {
    let Some(world) = world() else { return };
    let mut person = Person::new(world, site);
    let page = person.arrive();
    assert_eq!((page.status(), page.text_of("name")), (200, "Alice A".to_owned()), "{}", page.answer.text());
    let known = person.known();
    let subject = page.text_of("user");
    assert_eq!((text(&known["id_token"], "sub"), text(&known["userinfo"], "email")), (subject.clone(), "alice@example.com".to_owned()));

    // Its session goes on without us; a refresh gives another access token.
    assert_eq!(person.visit("/protected/").page().text_of("user"), subject);
    let token = text(&known, "access_token");
    let back = world.apache.url(site, "/bye/");
    person.visit(&format!("/protected/redirect_uri?refresh={back}&access_token={token}")).page().text_of("bye");
    let newer = text(&person.known(), "access_token");
    assert_ne!(newer, token);

    // Apache judges access tokens by asking us, and by our keys alone.
    for judge in [0, 1] {
        assert_eq!(api(world, judge, &newer), Some(subject.clone()), "site {judge}");
        assert_eq!(api(world, judge, &newer[..newer.len() - 8]), None, "site {judge}");
    }

    // The site logs its person out, here too.
    let Landing::Away(to) = person.visit(&format!("/protected/redirect_uri?logout={back}")) else { panic!("not sent to the issuer") };
    assert!(to.query_pairs().any(|(name, _)| name == "id_token_hint"), "{to}");
    let at = match person.here.open(to.as_str()) {
        Landing::Page(page) => person.here.send(&page.press("logout-confirm")),
        away => away,
    };
    let Landing::Away(gone) = at else { panic!("not sent back: {at:?}") };
    person.there.open(gone.as_str()).page().text_of("bye");
    let Landing::Away(again) = person.visit("/protected/") else { panic!("still logged in at the site") };
    person.here.open(again.as_str()).kind("login");

    // The issuer logs the person out, and the site hears of it.
    person.arrive();
    assert!(!person.out());
    let asked = person.here.open(&world.server.url("/logout")).kind("logout");
    assert!(person.here.send(&asked.press("logout-confirm")).page().has("logged-out"));
    wait_until("the site has ended its session", Duration::from_secs(15), || person.out());
}

#[test]
fn mod_auth_openidc_with_a_secret_goes_all_the_way() {
    goes(0);
}

#[test]
fn mod_auth_openidc_with_a_key_and_signed_requests_goes_all_the_way() {
    goes(1);
}

#[test]
fn a_token_that_was_revoked_is_nothing_to_apache() {
    let Some(world) = world() else { return };
    let mut person = Person::new(world, 0);
    person.arrive();
    let token = text(&person.known(), "access_token");
    assert!(api(world, 0, &token).is_some());
    let form = [("token", token.as_str())];
    let secret = world.apache.client(0, API)["client_secret"].as_str().expect("a secret").to_owned();
    let revoke = world.authority.client().post(world.server.url("/revoke")).basic_auth("apache-secret", Some(secret));
    revoke.form(&form).go().expect(200);
    assert_eq!(api(world, 0, &token), None);
}
