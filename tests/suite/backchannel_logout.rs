//! Back-channel logout (OpenID Connect Back-Channel Logout 1.0): clients hear from the server that a session has ended.
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::{Value, json};
use url::Url;

use crate::kit::apart::{self, BANK, CIBA, TV};
use crate::kit::http::{Go, claims, client, jose_header, now, unb64};
use crate::kit::seed::standard;
use crate::kit::seed::{HOME, WEB};
use crate::kit::server::free_port;
use crate::kit::upstream::Seen;
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Stage, Upstream, Visitor, services, wait_until};

/// A server and the place where its clients hear.
struct Heard {
    stage: Stage,
    rp: Upstream,
}

/// The clients' registrations change under these tests: one at a time.
static ONE: Mutex<()> = Mutex::new(());

fn heard() -> &'static Heard {
    static HEARD: OnceLock<Heard> = OnceLock::new();
    HEARD.get_or_init(Heard::start)
}

impl Heard {
    fn start() -> Self {
        let rp = Upstream::start();
        let stage = Stage::start(|house| {
            let at = rp.url().replace("http://", "");
            house.set("outbound.allow", &format!("[\"{at}\"]"));
        });
        Self { stage, rp }
    }

    #[track_caller]
    fn listen(&self, client_id: &str, path: &str) {
        listen(&self.stage, &self.rp, client_id, path);
    }

    #[track_caller]
    fn token(&self, path: &str) -> String {
        token(&self.rp, path)
    }
}

/// Registers where a client hears; the path tells tests apart.
#[track_caller]
fn listen(server: &Server, rp: &Upstream, client_id: &str, path: &str) {
    let uri = format!("{}{path}", rp.url());
    server.admin("PATCH", &format!("/clients/{client_id}")).json(&json!({"backchannel_logout_uri": uri})).go().expect(200);
}

/// The only token that was told at a path, once it is.
#[track_caller]
fn token(rp: &Upstream, path: &str) -> String {
    wait_until("the client is told", Duration::from_secs(15), || !rp.seen(path).is_empty());
    of(&rp.only(path))
}

#[track_caller]
fn of(seen: &Seen) -> String {
    assert!(seen.line.starts_with("POST "), "{}", seen.line);
    assert_eq!(seen.all("content-type"), ["application/x-www-form-urlencoded"]);
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(&seen.body).into_owned().collect();
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_eq!(fields[0].0, "logout_token");
    fields[0].1.clone()
}

/// Believes a token by the published keys.
#[track_caller]
fn believed(stage: &Stage, token: &str) -> Value {
    let keys: Value = client().get(stage.url("/jwks")).go().expect(200).json();
    let kid = jose_header(token)["kid"].clone();
    let key = keys["keys"].as_array().unwrap().iter().find(|k| k["kid"] == kid).expect("a published key").clone();
    assert_eq!(key["kty"], "RSA");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let key = RsaPublicKeyComponents { n: unb64(&text(&key, "n")), e: unb64(&text(&key, "e")) };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &unb64(signature)).expect("our signature");
    claims(token)
}

fn logout(stage: &Server, hint: &str) -> String {
    Url::parse_with_params(&stage.url("/logout"), &[("id_token_hint", hint), ("post_logout_redirect_uri", "https://home.example.com/bye")])
        .unwrap()
        .to_string()
}

#[test]
fn oidcc_backchannel_rp_initiated_logout_discovery_endpoint_verification() {
    let metadata: Value = client().get(heard().stage.url("/.well-known/openid-configuration")).go().expect(200).json();
    for member in ["backchannel_logout_supported", "backchannel_logout_session_supported"] {
        assert_eq!(metadata[member], true, "{member}");
    }
}

#[test]
fn oidcc_backchannel_rp_initiated_logout() {
    let (_one, here) = (ONE.lock().unwrap_or_else(|e| e.into_inner()), heard());
    here.listen("home", "/rp/initiated");
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(&here.stage, &Ask::new(&HOME), "alice");
    let id_token = text(&tokens, "id_token");
    let id = claims(&id_token);
    let (to, _) = visitor.open(&logout(&here.stage, &id_token)).away();
    assert_eq!(to, "https://home.example.com/bye");
    let token = here.token("/rp/initiated");
    assert_eq!(jose_header(&token)["typ"], "logout+jwt");
    assert_eq!(jose_header(&token)["alg"], jose_header(&id_token)["alg"]);
    let told = believed(&here.stage, &token);
    for member in ["iss", "sub", "aud", "sid"] {
        assert_eq!(told[member], id[member], "{member}");
    }
    assert!(told["sid"].is_string());
    assert_eq!(told["events"], json!({"http://schemas.openid.net/event/backchannel-logout": {}}));
    assert!(told.get("nonce").is_none() && told["jti"].as_str().is_some_and(|j| j.len() >= 16));
    let (iat, exp) = (told["iat"].as_i64().unwrap(), told["exp"].as_i64().unwrap());
    assert!((now() - iat).abs() < 60 && exp > iat && exp - iat <= 120, "{told}");
    wait_until("the ledger tells", Duration::from_secs(5), || delivered(&here.stage, &told["sid"]) == 1);
    // It is nothing else: neither a hint nor an access token.
    let page = Visitor::new().open(&logout(&here.stage, &token)).page();
    assert_eq!(page.status(), 400);
    assert_eq!(here.stage.call("/api/x", &token).status, 401);
    assert_eq!(here.stage.house.holds(&token), None, "no token in any file");
}

fn delivered(stage: &Stage, sid: &Value) -> usize {
    let events: Value = stage.admin("GET", "/events?kind=logout.delivered&limit=200").go().expect(200).json();
    events["items"].as_array().unwrap().iter().filter(|e| e.to_string().contains(sid.as_str().unwrap())).count()
}

#[test]
fn every_way_a_session_ends_is_told() {
    let (_one, here) = (ONE.lock().unwrap_or_else(|e| e.into_inner()), heard());
    let stage = &here.stage;
    for (n, how) in ["session", "revocation", "disable", "password"].iter().enumerate() {
        let (path, name) = (format!("/rp/way-{how}"), format!("way-{how}"));
        stage.person(&name);
        here.listen("home", &path);
        let tokens = Visitor::new().tokens(stage, &Ask::new(&HOME), &name);
        let id = claims(&text(&tokens, "id_token"));
        let sid = text(&id, "sid");
        match n {
            0 => stage.admin("DELETE", &format!("/sessions/{sid}")).go(),
            1 => stage.admin("POST", "/revocations").json(&json!({"kind": "session", "id": sid})).go(),
            2 => stage.admin("POST", &format!("/users/{name}/disable")).go(),
            _ => stage.admin("POST", &format!("/users/{name}/password")).json(&json!({"password": "another correct horse"})).go(),
        };
        let told = believed(stage, &here.token(&path));
        assert_eq!((&told["sid"], &told["sub"]), (&id["sid"], &id["sub"]), "{how}");
    }
}

#[test]
fn every_client_of_the_session_is_told_once_and_no_other() {
    let (_one, here) = (ONE.lock().unwrap_or_else(|e| e.into_inner()), heard());
    let stage = &here.stage;
    here.listen("home", "/rp/first");
    here.listen("web", "/rp/second");
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&HOME), "bob");
    visitor.tokens(stage, &Ask::new(&HOME), "bob");
    visitor.tokens(stage, &Ask::new(&WEB), "bob");
    let other = Visitor::new().tokens(stage, &Ask::new(&HOME), "carol");
    visitor.open(&logout(stage, &text(&tokens, "id_token"))).away();
    let (first, second) = (claims(&here.token("/rp/first")), claims(&here.token("/rp/second")));
    assert_eq!((&first["aud"], &second["aud"]), (&json!("home"), &json!("web")));
    assert_eq!(first["sid"], second["sid"]);
    assert_ne!(first["sid"], claims(&text(&other, "id_token"))["sid"]);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!((here.rp.seen("/rp/first").len(), here.rp.seen("/rp/second").len()), (1, 1));
}

#[test]
fn a_client_that_is_down_and_a_server_that_dies_lose_nothing() {
    let Heard { stage: Stage { house, server, upstream: _upstream }, rp } = Heard::start();
    listen(&server, &rp, "home", "/rp/drop");
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(&server, &Ask::new(&HOME), "alice");
    visitor.open(&logout(&server, &text(&tokens, "id_token"))).away();
    wait_until("it was tried", Duration::from_secs(10), || !rp.seen("/rp/drop").is_empty());
    server.kill();
    let server = house.serve();
    listen(&server, &rp, "home", "/rp/back-again");
    let told = claims(&token(&rp, "/rp/back-again"));
    assert_eq!(told["sid"], claims(&text(&tokens, "id_token"))["sid"]);
}

#[test]
fn addresses_are_checked() {
    let here = heard();
    let home = |document: Value| here.stage.admin("PATCH", "/clients/old").json(&document).go().status;
    for bad in ["http://rp.example.com/out", "https://rp.example.com/out#x", "javascript:alert(1)", "/out", "https://u:p@rp.example.com/"] {
        assert_eq!(home(json!({"backchannel_logout_uri": bad})), 422, "{bad}");
    }
    assert_eq!(home(json!({"frontchannel_logout_uri": "https://elsewhere.example.com/out"})), 422);
    assert_eq!(home(json!({"frontchannel_logout_uri": "https://old.example.com/out"})), 200);
}

#[test]
fn of_two_nodes_one_tells() {
    let Some(database) = services::postgres() else { return };
    let (upstream, rp) = (Upstream::start(), Upstream::start());
    let mut house = House::new();
    house.text("storage.url", &database);
    house.set("outbound.allow", &format!("[\"{}\"]", rp.url().replace("http://", "")));
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    listen(&a, &rp, "home", "/rp/two-nodes");
    for _ in 0..12 {
        let tokens = a.person_tokens(&HOME, "alice");
        let sid = text(&claims(&text(&tokens, "id_token")), "sid");
        b.admin("DELETE", &format!("/sessions/{sid}")).go();
    }
    wait_until("every end is told", Duration::from_secs(20), || rp.seen("/rp/two-nodes").len() >= 12);
    std::thread::sleep(Duration::from_secs(6));
    let sids: std::collections::BTreeSet<String> = rp.seen("/rp/two-nodes").iter().map(|s| text(&claims(&of(s)), "sid")).collect();
    assert_eq!((rp.seen("/rp/two-nodes").len(), sids.len()), (12, 12), "each once");
}

#[test]
fn clients_whose_person_answered_elsewhere_are_told_too() {
    let rp = Upstream::start();
    let at = rp.url().replace("http://", "");
    let bank = apart::client(&BANK, &[CIBA], json!({"backchannel_token_delivery_mode": "poll", "client_name": "bank"}));
    let mut more = apart::devices();
    more["clients"].as_array_mut().unwrap().push(bank);
    let allow = |house: &mut House| {
        house.set("outbound.allow", &format!("[\"{at}\"]"));
    };
    let stage = apart::stage(allow, &more);
    listen(&stage, &rp, "tv", "/told/tv");
    listen(&stage, &rp, "bank", "/told/bank");
    let mut person = Visitor::new();

    let begun = apart::begin(&stage, &TV, &[("scope", "openid read")]);
    let page = apart::asked(&mut person, &stage, &begun, "alice");
    person.send(&page.press("device-approve")).kind("device");
    let device = claims(&text(&apart::poll(&stage, &TV, &begun).expect(200).json(), "id_token"));

    let form = [("scope", "openid read"), ("login_hint", "alice")];
    let begun = stage.post("/bc-authorize", &BANK, &form).expect(200).json();
    let page = apart::arrive(&mut person, &stage.url("/ciba"), "alice");
    let html = page.answer.text();
    let button = html.split("id=\"").find(|rest| rest.starts_with("backchannel-approve-")).expect("a button").split('"').next().unwrap();
    person.send(&page.press(button)).kind("backchannel");
    let form = [("grant_type", CIBA), ("auth_req_id", &text(&begun, "auth_req_id"))];
    let bank = claims(&text(&stage.token(&BANK, &form).expect(200).json(), "id_token"));
    assert_eq!(bank["sid"], device["sid"], "one session");

    let page = person.open(&stage.url("/logout")).kind("logout");
    person.send(&page.press("logout-confirm"));
    for (path, id) in [("/told/tv", &device), ("/told/bank", &bank)] {
        let told = claims(&token(&rp, path));
        for member in ["iss", "sub", "aud", "sid"] {
            assert_eq!(told[member], id[member], "{path} {member}");
        }
    }
}
