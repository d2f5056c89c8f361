//! The lane of plain requests (decision 0025): what it answers the library would have answered, to the octet but for the date; what is odd
//! is the library's; nothing of a decision is remembered.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::kit::http::{Go, client, wait_until};
use crate::kit::seed::{API, GW, HOME, MACHINE, SAFE};
use crate::kit::visitor::text;
use crate::kit::{House, Id, Shared, Stage, Upstream, raw, standard};

static STAGE: Shared = Shared::new();

const METADATA: &str = "/.well-known/openid-configuration";

/// A kept connection, asked octet by octet.
struct Line(TcpStream);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    status: u16,
    /// But for the date, in order of their names.
    fields: Vec<String>,
    body: String,
}

impl Told {
    fn field(&self, name: &str) -> &str {
        let start = format!("{name}: ");
        self.fields.iter().find_map(|f| f.strip_prefix(&start)).unwrap_or_default()
    }
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Line {
    /// In the lane, as long as nothing odd is asked.
    fn open(stage: &Stage) -> Self {
        Self(raw::connect(&stage.listener("public")))
    }

    /// The library's from the first request on.
    fn handed_over(stage: &Stage) -> Self {
        let mut line = Self::open(stage);
        assert_eq!(line.ask(&get("/nowhere", "")).status, 404);
        line
    }

    fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).expect("it is read");
    }

    fn read(&mut self, headless: bool) -> Told {
        let head = raw::read_head(&mut self.0);
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap_or(0);
        let (dates, mut fields): (Vec<_>, Vec<_>) = lines.map(str::to_owned).partition(|l| l.starts_with("date: "));
        assert!(status == 0 || dates.len() == 1, "{head}");
        fields.sort();
        let length = fields.iter().find_map(|f| f.strip_prefix("content-length: ")).map_or(0, |n| n.parse().expect("a number"));
        let mut body = vec![0; if headless { 0 } else { length }];
        self.0.read_exact(&mut body).expect("the body");
        Told { status, fields, body: String::from_utf8(body).expect("text") }
    }

    fn ask(&mut self, octets: &[u8]) -> Told {
        self.send(octets);
        self.read(octets.starts_with(b"HEAD"))
    }

    fn post(&mut self, path: &str, who: &Id, form: &[(&str, &str)]) -> Told {
        self.ask(&post(path, &authorization(who.id, who.secret), &encoded(form)))
    }

    fn active(&mut self, token: &str) -> bool {
        let told = self.post("/introspect", &GW, &[("token", token)]);
        assert_eq!(told.status, 200, "{told:?}");
        told.json()["active"] == true
    }

    /// Whether the connection is still in the lane: it leaves it with this question, and that is counted.
    fn was_in_the_lane(mut self, stage: &Stage) -> bool {
        let before = handed_over(stage);
        assert_eq!(self.ask(&get("/nowhere", "")).status, 404);
        handed_over(stage) > before
    }
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n").into_bytes()
}

fn post(path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n{more}\r\n{body}"
    )
    .into_bytes()
}

fn authorization(id: &str, secret: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{id}:{secret}")))
}

fn encoded(form: &[(&str, &str)]) -> String {
    let escape = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    form.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}

fn handed_over(stage: &Stage) -> f64 {
    stage.metric("http_handed_over_total")
}

#[test]
fn both_lanes_answer_the_same_to_the_octet() {
    // Nobody else counts what is handed over here, or rotates keys in between.
    let stage = Stage::start(|_| {});
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    let opaque = stage.machine_token(&SAFE, &[]);
    let spent = stage.machine_token(&SAFE, &[]);
    stage.revoke(&SAFE, &spent);
    let (machine, gw) = (authorization(MACHINE.id, MACHINE.secret), authorization(GW.id, GW.secret));
    let tag = Line::open(&stage).ask(&get("/jwks", "")).field("etag").to_owned();
    let form = |pairs: &[(&str, &str)]| encoded(pairs);
    let asked = |text: &str| form(&[("token", text)]);
    let credentials = "grant_type=client_credentials";
    let plain: Vec<Vec<u8>> = vec![
        get("/jwks", ""),
        get("/jwks", "Accept: */*\r\nUser-Agent: x\r\nConnection: Keep-Alive\r\n"),
        get(METADATA, ""),
        get("/healthz", ""),
        post("/token", "", credentials),
        post("/token", &machine, ""),
        post("/token", &machine, "grant_type=magic"),
        post("/token", &machine, "grant_type=client_credentials&grant_type=x"),
        post("/token", &machine, "grant_type=client_credentials&scope=nonsense"),
        post("/token", &machine, "grant_type=client_credentials&resource=urn:nobody"),
        post("/token", &machine, "grant_type=refresh_token&refresh_token=x"),
        post("/token", &machine, "grant_type=%"),
        post("/token", &machine, "\u{fffd}=%00"),
        post("/token", &format!("{machine}{machine}"), credentials),
        post("/token", &authorization(MACHINE.id, "wrong"), credentials),
        post("/token", &authorization("nobody", "wrong"), credentials),
        post("/token", "Authorization: Basic !\r\n", credentials),
        post("/token", &format!("{machine}DPoP: x\r\n"), credentials),
        post("/token", &format!("{machine}Content-Type: text/plain\r\n"), credentials),
        post("/token", &format!("{machine}Accept: text/html\r\nOrigin: https://elsewhere.example\r\nCookie: a=b\r\n"), "grant_type=magic"),
        b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        b"POST /token HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        post("/introspect", "", &asked(&token)),
        post("/introspect", &gw, &asked(&token)),
        post("/introspect", &gw, &asked(&opaque)),
        post("/introspect", &gw, &asked(&spent)),
        post("/introspect", &gw, &asked(&"t".repeat(17_000))),
        post("/introspect", &gw, ""),
        post("/introspect", &machine, &asked(&opaque)),
        post("/revoke", "", &asked(&opaque)),
        post("/revoke", &machine, &asked(&opaque)),
        post("/revoke", &gw, &asked("nothing")),
        post("/revoke", &authorization(SAFE.id, SAFE.secret), &asked(&spent)),
    ];
    let odd: Vec<Vec<u8>> = vec![
        get("/jwks", &format!("If-None-Match: {tag}\r\n")),
        get("/jwks", "If-None-Match: \"x\", *\r\n"),
        get("/jwks", "If-None-Match: \"x\"\r\n"),
        get("/jwks?x=y", ""),
        get("/jwks/", ""),
        get("/token", ""),
        post("/jwks", "", "a=b"),
        post("/token?x=y", &machine, credentials),
        post("/introspect/", &gw, &asked(&token)),
        b"HEAD /jwks HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"OPTIONS /token HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n".to_vec(),
        b"POST /introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n".to_vec(),
        get("/jwks", &"a: b\r\n".repeat(40)),
        get("/jwks", &format!("a: {}\r\n", "b".repeat(20_000))),
    ];
    for (requests, stays) in [(&plain, true), (&odd, false)] {
        for request in requests {
            let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
            let (mut quick, mut ordinary) = (Line::open(&stage), Line::handed_over(&stage));
            let first = quick.ask(request);
            assert_eq!(first, ordinary.ask(request), "{shown}");
            assert!(first.status != 0, "{shown}");
            // Where a body was left unread the connection has ended.
            if first.field("connection").is_empty() {
                assert_eq!(quick.was_in_the_lane(&stage), stays, "{shown}");
            }
        }
    }
    // A token is another each time; the rest of its answer is not.
    let request = post("/token", &machine, credentials);
    let (first, second) = (Line::open(&stage).ask(&request), Line::handed_over(&stage).ask(&request));
    assert_eq!((first.status, &first.fields), (second.status, &second.fields));
    let members = |told: &Told| told.json().as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&first), members(&second));
    assert_ne!(first.json()["access_token"], second.json()["access_token"]);
    assert!(stage.metric("http_request_seconds_count{endpoint=\"introspect\",status=\"200\"}") >= 2.0);
    assert_eq!(stage.metric("panics_total"), 0.0);
}

#[test]
fn requests_come_in_pieces_and_in_crowds() {
    let stage = STAGE.get();
    let request = post("/introspect", &authorization(GW.id, GW.secret), "token=x");
    let expected = Line::open(stage).ask(&request);
    assert_eq!((expected.status, expected.json()), (200, json!({"active": false})));
    let pause = || std::thread::sleep(Duration::from_millis(20));
    for cut in [1, 10, 40, request.len() - 8, request.len() - 7, request.len() - 1] {
        let mut line = Line::open(stage);
        line.send(&request[..cut]);
        pause();
        assert_eq!(line.ask(&request[cut..]), expected, "cut at {cut}");
        assert_eq!(line.ask(&request), expected, "after a cut at {cut}");
    }
    // A body that lets itself be waited for is the library's.
    let mut late = Line::open(stage);
    late.send(&request[..request.len() - 3]);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(late.ask(&request[request.len() - 3..]), expected);
    // Several at once are answered in order, and the last of them may be odd.
    let mut crowd = Line::open(stage);
    crowd.send(&[get("/healthz", ""), request.clone(), get("/jwks", ""), get("/nowhere", ""), request.clone()].concat());
    let statuses: Vec<u16> = (0..5).map(|_| crowd.read(false).status).collect();
    assert_eq!(statuses, [200, 200, 200, 404, 200]);
    // What nothing good can follow ends the connection.
    for (bad, status) in [
        (&b"GET /jwks HTTP/1.1\nHost: x\n\n"[..], 400),
        (b"GET /jwks HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 70000\r\n\r\n", 413),
    ] {
        let mut line = Line::open(stage);
        assert_eq!(line.ask(&get("/healthz", "")).status, 200);
        line.send(bad);
        let told = raw::read_rest(&mut line.0, Duration::from_secs(5));
        assert!(told.status == status && told.closed, "{status} {told:?}");
    }
    // The largest form that is taken, and one octet more.
    let (start, room) = ("token=x&y=", 64 * 1024);
    let filled = |n: usize| post("/introspect", &authorization(GW.id, GW.secret), &format!("{start}{}", "z".repeat(n - start.len())));
    assert_eq!(Line::open(stage).ask(&filled(room)).status, 200);
    let mut over = Line::open(stage);
    let _ = over.0.write_all(&filled(room + 1));
    assert_eq!(raw::read_head(&mut over.0).split(' ').nth(1), Some("413"));
}

#[test]
fn documents_follow_the_keys_on_a_connection_that_stays() {
    let stage = Stage::start(|_| {});
    let mut line = Line::open(&stage);
    let before = line.ask(&get("/jwks", ""));
    assert_eq!(line.ask(&get("/jwks", "")), before);
    let tag = before.field("etag").to_owned();
    assert!(tag.len() > 10 && before.field("cache-control").contains("max-age"), "{before:?}");
    let held = |tag: &str| Line::open(&stage).ask(&get("/jwks", &format!("If-None-Match: {tag}\r\n")));
    let unchanged = held(&tag);
    assert_eq!((unchanged.status, unchanged.body.as_str(), unchanged.field("etag")), (304, "", tag.as_str()));
    assert_eq!(unchanged.field("content-length"), "");
    assert!(stage.admin("POST", "/keys/rotate").go().status < 300);
    let after = line.ask(&get("/jwks", ""));
    assert_ne!((after.field("etag"), &after.body), (tag.as_str(), &before.body));
    assert_eq!(held(&tag).status, 200);
    assert_eq!(held(after.field("etag")).status, 304);
    let head = Line::open(&stage).ask(b"HEAD /jwks HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, head.field("etag")), (200, after.field("etag")));
    assert_eq!(line.ask(&get(METADATA, "")).json()["issuer"], stage.issuer.as_str());
    assert!(line.was_in_the_lane(&stage));
}

#[test]
fn a_token_that_was_active_a_moment_ago_is_asked_about_anew() {
    let stage = Stage::start(|_| {});
    let mut line = Line::open(&stage);
    let revoke = |kind: &str, id: &str| {
        let asked = json!({"kind": kind, "id": id, "reason": "a test"});
        assert!(stage.admin("POST", "/revocations").json(&asked).go().status < 300);
    };
    let mut known = |token: &str| {
        for _ in 0..3 {
            assert!(line.active(token));
        }
        crate::kit::http::claims(token)
    };
    // The token itself, signed and not.
    let (signed, opaque) = (stage.machine_token(&MACHINE, &[("scope", "read")]), stage.machine_token(&SAFE, &[]));
    let facts = known(&signed);
    let mut line = Line::open(&stage);
    assert!(line.active(&opaque) && line.active(&opaque));
    stage.revoke(&SAFE, &opaque);
    assert!(!line.active(&opaque));
    revoke("token", facts["jti"].as_str().expect("jti"));
    assert!(!line.active(&signed));
    // Its client, grant, session, subject and key.
    let fresh = || {
        let tokens = stage.person_tokens(&HOME, "alice");
        let token = text(&tokens, "access_token");
        let told = stage.introspect(&token);
        assert_eq!(told["active"], true, "{told}");
        (token, told)
    };
    for (kind, member) in [("grant", "grant"), ("session", "sid"), ("subject", "sub"), ("client", "client_id")] {
        let (token, told) = fresh();
        assert!(line.active(&token) && line.active(&token), "{kind}");
        revoke(kind, told[member].as_str().unwrap_or_else(|| panic!("{member} in {told}")));
        assert!(!line.active(&token), "{kind}");
        assert!(!line.active(&token), "{kind}");
    }
    let signed = stage.machine_token(&MACHINE, &[("scope", "read")]);
    assert!(line.active(&signed) && line.active(&signed));
    let kid = crate::kit::http::jose_header(&signed)["kid"].as_str().expect("kid").to_owned();
    assert!(stage.admin("POST", "/keys/rotate").go().status < 300);
    assert!(line.active(&signed), "a retired key's token is good still");
    assert!(stage.admin("POST", &format!("/keys/{kid}/revoke")).go().status < 300);
    assert!(!line.active(&signed));
    assert!(line.was_in_the_lane(&stage));
}

#[test]
fn who_may_ask_and_what_proves_them_is_asked_anew_too() {
    let stage = Stage::start(|_| {});
    let mut line = Line::open(&stage);
    let token = stage.machine_token(&MACHINE, &[("scope", "read")]);
    assert!(line.active(&token) && line.active(&token));
    // A wrong secret is refused however often the right one was believed before, and the other way round.
    for _ in 0..3 {
        assert_eq!(line.ask(&post("/introspect", &authorization(GW.id, "wrong"), &encoded(&[("token", &token)]))).status, 401);
        assert!(line.active(&token));
    }
    // The resource server names its callers.
    let servers = stage.admin("GET", "/resource-servers").go().expect(200).json();
    let server = servers["items"].as_array().expect("items").iter().find(|s| s["identifier"] == API).expect("the server").clone();
    let change = |callers: Value| {
        let at = format!("/resource-servers/{}", server["id"].as_str().expect("id"));
        let found = stage.admin("GET", &at).go().expect(200);
        let (tag, mut object) = (found.header("etag").to_owned(), found.json());
        object["introspection_clients"] = callers;
        let done = stage.admin("PUT", &at).header("If-Match", tag).json(&object).go();
        assert!(done.status < 300, "{} {}", done.status, done.text());
    };
    change(json!([]));
    assert!(!line.active(&token));
    change(json!(["gw"]));
    assert!(line.active(&token));
    // The caller's secret, and the caller.
    let rotated = stage.admin("POST", "/clients/gw/rotate-secret").go();
    assert!(rotated.status < 300, "{}", rotated.text());
    let secret = rotated.json()["client_secret"].as_str().expect("a secret").to_owned();
    let ask = |line: &mut Line, secret: &str| line.ask(&post("/introspect", &authorization("gw", secret), &encoded(&[("token", &token)])));
    assert_eq!(ask(&mut line, &secret).json()["active"], true);
    let found = stage.admin("GET", "/clients/gw").go().expect(200);
    let (tag, mut object) = (found.header("etag").to_owned(), found.json());
    object["disabled"] = json!(true);
    assert!(stage.admin("PUT", "/clients/gw").header("If-Match", tag).json(&object).go().status < 300);
    assert_eq!(ask(&mut line, &secret).status, 401);
    assert!(line.was_in_the_lane(&stage));
}

#[test]
fn a_token_ends_with_its_second_on_a_connection_that_stays() {
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("lifetimes.access_token", "2s").bootstrap();
    let mut seed = standard(&upstream.url());
    seed["resource_servers"][0]["access_token_ttl"] = json!("2s");
    house.seed(&seed);
    let server = house.serve();
    let stage = Stage { house, server, upstream };
    let mut line = Line::open(&stage);
    for who in [&MACHINE, &SAFE] {
        let token = stage.machine_token(who, &[]);
        assert!(line.active(&token));
        wait_until("the token ends", Duration::from_secs(10), || !line.active(&token));
        assert!(!line.active(&token));
    }
    assert!(line.was_in_the_lane(&stage));
}

#[test]
fn a_process_that_stops_closes_connections_that_wait_and_says_so_in_answers() {
    let stage = Stage::start(|_| {});
    let mut idle = Line::open(&stage);
    assert_eq!(idle.ask(&get("/healthz", "")).status, 200);
    assert_eq!(client().get(stage.url("/healthz")).go().status, 200);
    stage.signal("TERM");
    let rest = raw::read_rest(&mut idle.0, Duration::from_secs(5));
    assert!(rest.closed && rest.text.is_empty(), "{rest:?}");
}

#[test]
fn a_kept_connection_waits_longer_for_its_next_request_than_a_head_may_take() {
    let stage = STAGE.get();
    let mut line = Line::open(stage);
    assert_eq!(line.ask(&get("/healthz", "")).status, 200);
    let mut silent = Line::open(stage);
    // A connection that asked nothing ends with the time of a head: by then as much has passed for the other.
    let rest = raw::read_rest(&mut silent.0, Duration::from_secs(40));
    assert!(rest.closed && rest.text.is_empty(), "{rest:?}");
    assert_eq!(line.ask(&get("/healthz", "")).status, 200);
}
