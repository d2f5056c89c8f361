//! Client ID metadata documents: an https URL as `client_id` (draft-ietf-oauth-client-id-metadata-document).
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::forge::Key;
use crate::kit::http::{Go, client};
use crate::kit::https::Secure;
use crate::kit::registrant::assertion;
use crate::kit::seed::{Id, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Stage, Visitor};

static OFF: Shared = Shared::new();

struct Town {
    stage: Stage,
    secure: Secure,
}

fn town() -> &'static Town {
    static TOWN: OnceLock<Town> = OnceLock::new();
    TOWN.get_or_init(|| {
        let secure = Secure::start();
        let stage = Stage::start(|house| {
            house.set("registration.client_id_metadata", "true");
            secure.admit(house, &[]);
        });
        Town { stage, secure }
    })
}

impl std::ops::Deref for Town {
    type Target = Stage;
    fn deref(&self) -> &Stage {
        &self.stage
    }
}

const REDIRECT: &str = "https://app.example.com/cb";

impl Town {
    fn document(&self, path: &str) -> Value {
        json!({"client_id": self.secure.url(path), "client_name": "Published App", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"})
    }
    /// A client published at a path.
    fn publish(&self, path: &str, change: impl FnOnce(&mut Value)) -> Id {
        let mut document = self.document(path);
        change(&mut document);
        self.secure.put(path, &document);
        self.id(path)
    }
    fn id(&self, path: &str) -> Id {
        Id { id: Box::leak(self.secure.url(path).into_boxed_str()), secret: "", method: "none", redirect: REDIRECT, scope: "openid" }
    }
    /// What somebody sees who comes with that client.
    fn seen(&self, id: &Id) -> String {
        Visitor::new().open(&Ask::new(id).url(self)).page().kind()
    }
}

#[test]
fn a_url_is_a_client_without_ever_registering() {
    let town = town();
    let told = client().get(town.url("/.well-known/oauth-authorization-server")).go().expect(200).json();
    assert_eq!(told["client_id_metadata_document_supported"], true);
    assert!(told.get("registration_endpoint").is_none());
    let id = town.publish("/client/one.json", |_| {});
    let ask = Ask::new(&id);
    let mut visitor = Visitor::new();
    let login = visitor.open(&ask.url(town)).kind("login");
    let consent = visitor.login(&login, "alice", PASSWORD).kind("consent");
    assert_eq!(consent.text_of("client-name"), "Published App");
    assert_eq!(consent.text_of("client-host"), "127.0.0.1", "the host is known for sure, the name is not");
    let code = visitor.send(&consent.press("consent-approve")).code(town, &ask);
    let tokens = ask.redeem(town, &code).expect(200).json();
    client().get(town.url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().expect(200);
    assert_eq!(town.secure.asked("/client/one.json"), 1, "fetched once, believed for a while");
    // PKCE is always needed.
    let bare = Ask::new(&id).without("code_challenge").without("code_challenge_method");
    assert_eq!(Visitor::new().open(&bare.url(town)).away().1["error"], "invalid_request");
    // An administrator sees it, and can end it.
    let path = format!("/clients/{}", percent_encoding::utf8_percent_encode(id.id, percent_encoding::NON_ALPHANUMERIC));
    let object = town.admin("GET", &path).go().expect(200).json();
    assert_eq!(object["origin"], "metadata");
    town.admin("PATCH", &path).header("content-type", "application/merge-patch+json").body(r#"{"disabled":true}"#).go().expect(200);
    assert_eq!(town.seen(&id), "error");
    assert_eq!(client().get(town.url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().status, 401);
}

#[test]
fn where_it_is_off_nothing_is_fetched() {
    let (off, town) = (OFF.get(), town());
    let told = client().get(off.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert!(told.get("client_id_metadata_document_supported").is_none());
    let id = town.publish("/client/off.json", |_| {});
    assert_eq!(Visitor::new().open(&Ask::new(&id).url(off)).page().kind(), "error");
    assert_eq!(town.secure.asked("/client/off.json"), 0);
}

#[test]
fn a_document_that_is_none_is_no_client() {
    let town = town();
    assert_eq!(town.seen(&town.publish("/bad/good", |_| {})), "login", "the proof that the others fail for their own reasons");
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let cases: [Case<'_>; 6] = [
        ("/bad/other-id", &|d| d["client_id"] = json!("https://app.example.com/else")),
        ("/bad/secret", &|d| d["client_secret"] = json!("s")),
        ("/bad/method", &|d| d["token_endpoint_auth_method"] = json!("client_secret_basic")),
        ("/bad/redirect", &|d| d["redirect_uris"] = json!(["http://app.example.com/cb"])),
        ("/bad/name", &|d| d["client_name"] = json!(7)),
        ("/bad/large", &|d| d["x"] = json!("a".repeat(11_000))),
    ];
    for (path, change) in cases {
        assert_eq!(town.seen(&town.publish(path, change)), "error", "{path}");
    }
    let html = town.document("/bad/html").to_string();
    town.secure.put_raw("/bad/html", 200, "Content-Type: text/html\r\n", &html);
    assert_eq!(town.seen(&town.id("/bad/html")), "error");
    let elsewhere = town.publish("/bad/moved-to", |d| d["client_id"] = json!(town.secure.url("/bad/moved")));
    town.secure.put_raw("/bad/moved", 302, &format!("Location: {}\r\n", elsewhere.id), "");
    assert_eq!(town.seen(&town.id("/bad/moved")), "error");
    assert_eq!(town.seen(&town.id("/bad/absent")), "error");
}

#[test]
fn only_an_address_in_its_plain_form_is_asked() {
    let town = town();
    for strange in [
        format!("https://{}", town.secure.address),
        format!("https://{}/", town.secure.address),
        format!("https://{}/plain/../c", town.secure.address),
        format!("https://user@{}/c", town.secure.address),
        format!("https://{}/c?x=1", town.secure.address),
        format!("https://{}/%2e%2e/c", town.secure.address),
        format!("https://{}/c#here", town.secure.address),
    ] {
        let id = Id { id: Box::leak(strange.into_boxed_str()), secret: "", method: "none", redirect: REDIRECT, scope: "openid" };
        assert_eq!(town.seen(&id), "error", "{}", id.id);
    }
    for path in ["", "/", "/c", "/plain/../c", "/c?x=1", "/%2e%2e/c"] {
        assert_eq!(town.secure.asked(path), 0, "{path}");
    }
    // Nor are addresses inside.
    let inside = Id { id: "https://169.254.169.254/latest", secret: "", method: "none", redirect: REDIRECT, scope: "openid" };
    assert_eq!(town.seen(&inside), "error");
}

#[test]
fn a_bad_address_is_left_alone_for_a_while() {
    let town = town();
    let id = town.id("/quiet/absent");
    for _ in 0..5 {
        assert_eq!(town.seen(&id), "error");
    }
    assert_eq!(town.secure.asked("/quiet/absent"), 1);
}

#[test]
fn one_source_does_not_make_the_server_fetch_without_end() {
    let town = town();
    let flooder = crate::kit::http::client_from("127.7.7.7");
    let ask = |n: usize| {
        let id = town.id(&format!("/flood/{n}"));
        flooder.get(Ask::new(&id).url(town)).go().status
    };
    let statuses: Vec<u16> = (0..45).map(ask).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    let asked = (0..45).filter(|n| town.secure.asked(&format!("/flood/{n}")) > 0).count();
    assert!(asked <= 40, "{asked}");
}

#[test]
fn addresses_where_nothing_is_keep_no_new_client_of_their_host_out() {
    let town = town();
    for source in ["127.7.8.1", "127.7.8.2", "127.7.8.3"] {
        let flooder = crate::kit::http::client_from(source);
        for n in 0..25 {
            let id = town.id(&format!("/nothing/{source}/{n}"));
            assert_ne!(flooder.get(Ask::new(&id).url(town)).go().status, 200);
        }
    }
    let id = town.publish("/beside/nothing", |_| {});
    assert_eq!(town.seen(&id), "login");
}

#[test]
fn a_published_key_proves_a_confidential_client() {
    let town = town();
    let key = Key::new("app-1");
    let id = town.publish("/client/keys.json", |d| {
        d["token_endpoint_auth_method"] = json!("private_key_jwt");
        d["jwks"] = json!({"keys": [key.jwk()]});
    });
    let ask = Ask::new(&id);
    let code = Visitor::new().walk(town, &ask, "alice").code(town, &ask);
    let redeem = |key: &Key| {
        let shown = assertion(town, id.id, key);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", REDIRECT),
            ("code_verifier", &ask.verifier),
            ("client_id", id.id),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &shown),
        ];
        client().post(town.url("/token")).form(&form).go()
    };
    redeem(&Key::new("app-1")).expect_error(401, "invalid_client");
    redeem(&key).expect(200);
}

/// Slow: the shortest time a document is believed is a minute.
#[test]
fn a_document_that_changes_or_goes_is_followed() {
    let town = town();
    let publish = |path: &str, redirect: &str| {
        let mut document = town.document(path);
        document["redirect_uris"] = json!([redirect]);
        let headers = "Content-Type: application/json\r\nCache-Control: max-age=1\r\n";
        town.secure.put_raw(path, 200, headers, &document.to_string());
        town.id(path)
    };
    let [moves, goes, fails] = ["/after/moves", "/after/goes", "/after/fails"].map(|path| publish(path, REDIRECT));
    for id in [&moves, &goes, &fails] {
        assert_eq!(town.seen(id), "login", "{}", id.id);
    }
    publish("/after/moves", "https://app.example.com/new");
    town.secure.put_raw("/after/goes", 404, "", "");
    town.secure.put_raw("/after/fails", 503, "", "");
    for id in [&moves, &goes, &fails] {
        assert_eq!(town.seen(id), "login", "believed for a minute: {}", id.id);
    }
    std::thread::sleep(Duration::from_secs(61));
    assert_eq!(town.seen(&moves), "error", "its old address is nobody's");
    assert_eq!(town.seen(&Id { redirect: "https://app.example.com/new", ..moves }), "login");
    assert_eq!(town.seen(&goes), "error", "there is no such client any more");
    assert_eq!(town.seen(&fails), "login", "the last good document serves while its host is away");
    assert_eq!(town.secure.asked("/after/fails"), 2);
}
