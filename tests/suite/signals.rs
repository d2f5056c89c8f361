//! Shared signals (OpenID SSF 1.0, CAEP 1.0): a transmitter by poll and push, a receiver for trusted issuers.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::forge::{Issuer, Key, good_claims};
use crate::kit::http::{Go, claims, client, jose_header, now, random};
use crate::kit::seed::{API, HOME, MACHINE, PASSWORD, route, standard};
use crate::kit::{Answer, Ask, House, Server, Upstream, Visitor, wait_until};

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CREDENTIAL_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const CLAIMS_CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/token-claims-change";
const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
const POLL: &str = "urn:ietf:rfc:8936";
const PUSH: &str = "urn:ietf:rfc:8935";
const SECRET: &str = "receiver-secret-66778899aabbccddeeff00112233";

/// A receiver that takes pushes: every request's head and body, answered with the status set.
struct Ear {
    address: String,
    heard: Arc<Mutex<Vec<(String, String)>>>,
    status: Arc<Mutex<u16>>,
}

impl Ear {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, status): (Arc<Mutex<Vec<_>>>, _) = (Arc::default(), Arc::new(Mutex::new(202)));
        let (ear, answer) = (Arc::clone(&heard), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut text = Vec::new();
                let mut buffer = [0; 4096];
                let (head, body) = loop {
                    let Ok(read) = stream.read(&mut buffer) else { break (String::new(), String::new()) };
                    text.extend_from_slice(&buffer[..read]);
                    let told = String::from_utf8_lossy(&text).into_owned();
                    let Some((head, body)) = told.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .lines()
                        .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()));
                    if read == 0 || body.len() >= length.unwrap_or(0) {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let status = *answer.lock().unwrap();
                let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                ear.lock().unwrap().push((head, body));
            }
        });
        Self { address, heard, status }
    }
    fn sets(&self) -> Vec<Value> {
        self.heard.lock().unwrap().iter().map(|(_, body)| claims(body)).collect()
    }
}

struct House3 {
    server: Server,
    issuer: Issuer,
    key: Key,
    ear: Ear,
}

fn stage() -> &'static House3 {
    static STAGE: OnceLock<House3> = OnceLock::new();
    STAGE.get_or_init(|| {
        let (key, ear) = (Key::new("k1"), Ear::start());
        let (issuer, upstream) = (Issuer::start(&[&key]), Upstream::start());
        let mut house = House::new();
        house.set("outbound.allow", &json!([issuer.address, ear.address]).to_string());
        house.bootstrap();
        let mut seed = standard(&upstream.url());
        for n in 0..9 {
            seed["clients"].as_array_mut().unwrap().push(json!({"client_id": format!("receiver{n}"), "client_secret": SECRET,
                "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.signals"}));
        }
        seed["trusted_issuers"] = json!([{"id": "other", "issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url), "algorithms": ["ES256"],
            "signals_audience": "https://gateway.example.com"}]);
        let auth = json!({"accept": ["jwt"], "issuers": ["self", issuer.url], "audience": API, "scopes": ["read"]});
        seed["routes"].as_array_mut().unwrap().push(route("abroad", "/abroad/", "echo", auth));
        house.seed(&seed);
        std::mem::forget(upstream);
        House3 { server: house.serve(), issuer, key, ear }
    })
}

/// One receiver with a token of its own.
struct Receiver {
    token: String,
}

impl Receiver {
    fn new(n: usize) -> Self {
        let form = [("grant_type", "client_credentials")];
        let answer =
            client().post(stage().server.url("/token")).basic_auth(format!("receiver{n}"), Some(SECRET)).form(&form).go().expect(200);
        Self { token: answer.json()["access_token"].as_str().unwrap().to_owned() }
    }
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { stage().server.url(path) };
        let request = client().request(method.parse().unwrap(), url).bearer_auth(&self.token);
        match body {
            Some(body) => request.json(&body).go(),
            None => request.go(),
        }
    }
    fn open(&self, body: Value) -> Value {
        self.ask("POST", "/ssf/streams", Some(body)).expect(201).json()
    }
    fn poll(&self, stream: &Value, body: Value) -> Value {
        self.ask("POST", stream["delivery"]["endpoint_url"].as_str().unwrap(), Some(body)).expect(200).json()
    }
    /// Everything that is due, acknowledged: the claims of each token.
    fn take(&self, stream: &Value) -> Vec<Value> {
        let got = self.poll(stream, json!({"returnImmediately": true}));
        let sets = got["sets"].as_object().unwrap();
        let jtis: Vec<&String> = sets.keys().collect();
        self.poll(stream, json!({"returnImmediately": true, "maxEvents": 0, "ack": jtis}));
        sets.values().map(|set| claims(set.as_str().unwrap())).collect()
    }
}

fn login(username: &str) -> (String, String) {
    let s = &stage().server;
    let tokens = Visitor::new().tokens(s, &Ask::new(&HOME).with("scope", "openid read offline_access"), username);
    (tokens["access_token"].as_str().unwrap().to_owned(), tokens["refresh_token"].as_str().unwrap().to_owned())
}

fn of<'a>(sets: &'a [Value], kind: &str) -> Vec<&'a Value> {
    sets.iter().filter(|set| set["events"].get(kind).is_some()).collect()
}

#[test]
fn ssf_transmitter_metadata_says_where_everything_is() {
    let s = &stage().server;
    let told = client().get(s.url("/.well-known/ssf-configuration")).go().expect(200).json();
    let issuer = s.url("");
    assert_eq!(told["issuer"].as_str().unwrap().trim_end_matches('/'), issuer.trim_end_matches('/'));
    assert_eq!(told["delivery_methods_supported"], json!([PUSH, POLL]));
    for endpoint in [
        "configuration_endpoint",
        "status_endpoint",
        "add_subject_endpoint",
        "remove_subject_endpoint",
        "verification_endpoint",
        "jwks_uri",
    ] {
        assert!(told[endpoint].as_str().is_some_and(|url| url.starts_with("http")), "{endpoint}");
    }
}

#[test]
fn ssf_transmitter_streams_are_made_read_changed_and_closed() {
    let r = Receiver::new(0);
    let made = r.open(json!({"delivery": {"method": POLL}, "events_requested": [SESSION_REVOKED], "description": "first"}));
    let id = made["stream_id"].as_str().unwrap();
    assert_eq!(made["events_delivered"], json!([SESSION_REVOKED]));
    assert_eq!(r.ask("POST", "/ssf/streams", Some(json!({}))).status, 409);
    assert_eq!(r.ask("GET", &format!("/ssf/streams?stream_id={id}"), None).expect(200).json(), made);
    assert_eq!(r.ask("GET", "/ssf/streams", None).expect(200).json().as_array().unwrap().len(), 1);
    assert_eq!(Receiver::new(1).ask("GET", &format!("/ssf/streams?stream_id={id}"), None).status, 404);
    let patched =
        r.ask("PATCH", "/ssf/streams", Some(json!({"stream_id": id, "events_requested": [CREDENTIAL_CHANGE]}))).expect(200).json();
    assert_eq!((&patched["events_delivered"], &patched["description"]), (&json!([CREDENTIAL_CHANGE]), &json!("first")));
    let put = r.ask("PUT", "/ssf/streams", Some(json!({"stream_id": id, "delivery": {"method": POLL}}))).expect(200).json();
    assert!(put.get("description").is_none());
    for bad in [json!({"stream_id": id, "delivery": {"method": "urn:pigeon"}}), json!({"stream_id": id, "events_requested": 5}), json!({})]
    {
        assert_eq!(r.ask("PATCH", "/ssf/streams", Some(bad.clone())).status, 400, "{bad}");
    }
    let paused = r.ask("POST", "/ssf/status", Some(json!({"stream_id": id, "status": "paused", "reason": "night"}))).expect(200).json();
    assert_eq!(paused["status"], "paused");
    assert_eq!(r.ask("GET", &format!("/ssf/status?stream_id={id}"), None).expect(200).json()["reason"], "night");
    assert_eq!(r.ask("POST", "/ssf/status", Some(json!({"stream_id": id, "status": "asleep"}))).status, 400);
    r.ask("DELETE", &format!("/ssf/streams?stream_id={id}"), None).expect(204);
    assert_eq!(r.ask("GET", &format!("/ssf/streams?stream_id={id}"), None).status, 404);
}

#[test]
fn ssf_transmitter_asks_for_a_token_with_the_right_scope() {
    let s = &stage().server;
    let url = s.url("/ssf/streams");
    assert_eq!(client().get(&url).go().status, 401);
    assert_eq!(client().get(&url).bearer_auth("nonsense").go().status, 401);
    assert_eq!(client().get(&url).bearer_auth(s.machine_token(&MACHINE, &[])).go().status, 403);
}

#[test]
fn ssf_transmitter_verification_comes_by_poll_until_it_is_acknowledged() {
    let r = Receiver::new(2);
    let stream = r.open(json!({"delivery": {"method": POLL}}));
    r.ask("POST", "/ssf/verify", Some(json!({"stream_id": stream["stream_id"], "state": "abc"}))).expect(204);
    for _ in 0..2 {
        let got = r.poll(&stream, json!({"returnImmediately": true}));
        let set = got["sets"].as_object().unwrap().values().next().expect("one token").as_str().unwrap().to_owned();
        assert_eq!(jose_header(&set)["typ"], "secevent+jwt");
        let told = claims(&set);
        assert_eq!((&told["events"][VERIFICATION]["state"], &told["aud"]), (&json!("abc"), &json!("receiver2")));
        assert!(told.get("exp").is_none() && told.get("sub").is_none(), "RFC 8417 §2.2");
    }
    assert_eq!(of(&r.take(&stream), VERIFICATION).len(), 1);
    // What else is told meanwhile is of the other tests at this server.
    assert!(of(&r.take(&stream), VERIFICATION).is_empty());
    assert_eq!(r.ask("POST", "/ssf/verify", Some(json!({"stream_id": "other"}))).status, 404);
}

#[test]
fn ssf_transmitter_caep_tells_of_sessions_credentials_claims_and_of_a_revoked_token() {
    let (s, r) = (&stage().server, Receiver::new(3));
    let stream = r.open(json!({"delivery": {"method": POLL}}));
    s.admin("POST", "/users").json(&json!({"username": "signe", "password": PASSWORD})).go().expect(201);
    let id = s.admin("GET", "/users/signe").go().expect(200).json()["id"].as_str().unwrap().to_owned();
    let (access, _) = login("signe");
    s.revoke(&HOME, &access);
    let jti = claims(&access)["jti"].clone();
    let sets = r.take(&stream);
    let token = of(&sets, SESSION_REVOKED).into_iter().find(|set| set["sub_id"]["jti"] == jti).expect("the revoked token is told");
    assert_eq!(token["sub_id"]["format"], "jwt_id");
    s.admin("POST", "/users/signe/password").json(&json!({"password": "another correct horse"})).go().expect(204);
    let sets = r.take(&stream);
    let changed = of(&sets, CREDENTIAL_CHANGE);
    assert_eq!((changed.len(), &changed[0]["sub_id"]["sub"]), (1, &json!(id)));
    assert!(!of(&sets, SESSION_REVOKED).is_empty(), "a new password ends sessions: {sets:?}");
    let mut user = s.admin("GET", "/users/signe").go().expect(200).json();
    user["roles"] = json!(["operator"]);
    s.admin("PUT", "/users/signe").json(&user).go().expect(200);
    let sets = r.take(&stream);
    assert_eq!(of(&sets, CLAIMS_CHANGE)[0]["events"][CLAIMS_CHANGE]["claims"]["roles"], json!(["operator"]));
    let removal =
        json!({"stream_id": stream["stream_id"], "subject": {"format": "iss_sub", "iss": s.url("").trim_end_matches('/'), "sub": id}});
    r.ask("POST", "/ssf/subjects:remove", Some(removal.clone())).expect(204);
    s.admin("POST", "/users/signe/disable").go();
    assert!(r.take(&stream).iter().all(|set| set["sub_id"]["sub"] != json!(id)), "left out");
    r.ask("POST", "/ssf/subjects:add", Some(removal)).expect(200);
    assert_eq!(r.ask("POST", "/ssf/subjects:add", Some(json!({"stream_id": stream["stream_id"], "subject": {"format": "x"}}))).status, 400);
}

#[test]
fn a_waiting_poll_is_answered_when_something_happens() {
    let r = Receiver::new(4);
    let stream = r.open(json!({"delivery": {"method": POLL}}));
    let (url, token) = (stream["delivery"]["endpoint_url"].as_str().unwrap().to_owned(), r.token.clone());
    let waiting = std::thread::spawn(move || client().post(url).bearer_auth(token).json(&json!({})).timeout(Duration::from_secs(40)).go());
    std::thread::sleep(Duration::from_millis(300));
    r.ask("POST", "/ssf/verify", Some(json!({"stream_id": stream["stream_id"]}))).expect(204);
    let answer = waiting.join().unwrap().expect(200).json();
    assert_eq!(answer["sets"].as_object().unwrap().len(), 1, "{answer}");
}

#[test]
fn ssf_transmitter_push_carries_its_credential_repeats_what_failed_and_stays_in_order() {
    let (h, r) = (stage(), Receiver::new(5));
    *h.ear.status.lock().unwrap() = 503;
    let stream = r.open(json!({"delivery": {"method": PUSH, "endpoint_url": format!("http://{}/events", h.ear.address), "authorization_header": "Bearer push-credential"},
        "events_requested": [SESSION_REVOKED]}));
    r.ask("POST", "/ssf/verify", Some(json!({"stream_id": stream["stream_id"], "state": "one"}))).expect(204);
    wait_until("a push was tried", Duration::from_secs(15), || !h.ear.sets().is_empty());
    *h.ear.status.lock().unwrap() = 202;
    wait_until("it came again", Duration::from_secs(30), || h.ear.sets().len() >= 2);
    let sets = h.ear.sets();
    assert_eq!(sets[0]["jti"], sets[1]["jti"], "the same token again");
    let head = h.ear.heard.lock().unwrap()[0].0.to_ascii_lowercase();
    assert!(head.contains("authorization: bearer push-credential") && head.contains("content-type: application/secevent+jwt"), "{head}");
    let (access, _) = login("carol");
    h.server.revoke(&HOME, &access);
    let jti = claims(&access)["jti"].clone();
    wait_until("the revocation is pushed", Duration::from_secs(15), || h.ear.sets().iter().any(|set| set["sub_id"]["jti"] == jti));
    assert!(stage().server.admin("GET", "/events?limit=500").go().text().find("push-credential").is_none());
}

#[test]
fn pushes_go_to_addresses_that_may_be_called() {
    let r = Receiver::new(8);
    for url in
        ["http://127.0.0.1:9/p", "https://169.254.169.254/", "https://user:pw@x.example/", "https://localhost/p", "http://x.example/"]
    {
        let asked = json!({"delivery": {"method": PUSH, "endpoint_url": url}});
        assert_eq!(r.ask("POST", "/ssf/streams", Some(asked)).status, 400, "{url}");
    }
    let stream = r.open(json!({"delivery": {"method": PUSH, "endpoint_url": "https://x.example/p"}}));
    let worse = json!({"stream_id": stream["stream_id"], "delivery": {"method": PUSH, "endpoint_url": "https://10.0.0.1/"}});
    assert_eq!(r.ask("PATCH", "/ssf/streams", Some(worse)).status, 400);
}

fn push(set: &str) -> Answer {
    let url = stage().server.url("/ssf/receive/other");
    client().post(url).header("content-type", "application/secevent+jwt").body(set.to_owned()).go()
}

fn set(claims: Value) -> String {
    let h = stage();
    let mut all = json!({"iss": h.issuer.url, "aud": "https://gateway.example.com", "iat": now(), "jti": random(),
        "sub_id": {"format": "iss_sub", "iss": h.issuer.url, "sub": "someone"}, "events": {SESSION_REVOKED: {"event_timestamp": now()}}});
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    h.key.sign(&json!({"alg": "ES256", "typ": "secevent+jwt", "kid": "k1"}), &all)
}

#[test]
fn what_a_trusted_issuer_says_has_ended_ends_at_the_gateway_within_a_second() {
    let h = stage();
    let mut good = good_claims(&h.issuer.url);
    good["sub"] = json!("ended");
    let token = h.key.sign(&h.key.header(), &good);
    assert_eq!(h.server.call("/abroad/x", &token).status, 200);
    let about = json!({"format": "iss_sub", "iss": h.issuer.url, "sub": "ended"});
    let told = set(json!({"sub_id": about, "events": {SESSION_REVOKED: {"event_timestamp": now() + 1}}}));
    push(&told).expect(202);
    wait_until("the token is refused", Duration::from_secs(1), || h.server.call("/abroad/x", &token).status == 401);
    push(&told).expect(202);
    let mut later = good.clone();
    later["iat"] = json!(now() + 5);
    assert_eq!(h.server.call("/abroad/x", &h.key.sign(&h.key.header(), &later)).status, 200, "issued after it");
    let mut other = good_claims(&h.issuer.url);
    other["sub"] = json!("another");
    assert_eq!(h.server.call("/abroad/x", &h.key.sign(&h.key.header(), &other)).status, 200);
}

#[test]
fn a_security_event_token_that_is_not_for_us_is_refused_with_its_reason() {
    let s = &stage().server;
    for (claims, why) in [
        (json!({"aud": "https://else.example.com"}), "invalid_audience"),
        (json!({"iss": "https://else.example.com"}), "invalid_issuer"),
        (json!({"exp": now() + 60}), "invalid_request"),
        (json!({"jti": ""}), "invalid_request"),
    ] {
        let answer = push(&set(claims)).expect(400).json();
        assert_eq!(answer["err"], why);
    }
    let forged = Key::new("k1").sign(&json!({"alg": "ES256", "typ": "secevent+jwt", "kid": "k1"}), &json!({"iss": stage().issuer.url}));
    assert_eq!(push(&forged).expect(400).json()["err"], "invalid_key");
    let url = s.url("/ssf/receive/nobody");
    assert_eq!(client().post(url).header("content-type", "application/secevent+jwt").body(set(json!({}))).go().status, 404);
}

#[test]
fn a_receiver_that_is_disabled_hears_nothing_more_and_one_that_is_deleted_leaves_no_stream() {
    let (s, r) = (&stage().server, Receiver::new(6));
    let stream = r.open(json!({"delivery": {"method": POLL}, "events_requested": []}));
    let (url, token) = (stream["delivery"]["endpoint_url"].as_str().unwrap().to_owned(), r.token);
    let waiting = std::thread::spawn(move || client().post(url).bearer_auth(token).json(&json!({})).timeout(Duration::from_secs(40)).go());
    std::thread::sleep(Duration::from_millis(300));
    let mut receiver = s.admin("GET", "/clients/receiver6").go().expect(200).json();
    receiver["disabled"] = json!(true);
    let begun = std::time::Instant::now();
    s.admin("PUT", "/clients/receiver6").json(&receiver).go().expect(200);
    assert_eq!(waiting.join().unwrap().status, 401, "a waiting poll ends with its token");
    assert!(begun.elapsed() < Duration::from_secs(10), "long before it would have ended by itself");
    s.admin("DELETE", "/clients/receiver6").go().expect(204);
    let again = json!({"client_id": "receiver6", "client_secret": SECRET, "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.signals"});
    wait_until("its stream is gone", Duration::from_secs(15), || {
        s.admin("GET", "/events?limit=500&kind=signals.stream").go().text().contains("receiver6") && {
            s.admin("POST", "/clients").json(&again).go();
            let heirs = Receiver::new(6).ask("GET", "/ssf/streams", None).expect(200).json();
            heirs == json!([])
        }
    });
}

#[test]
fn a_receiver_that_does_not_answer_holds_up_nobody_else() {
    let (h, r) = (stage(), Receiver::new(7));
    // Nobody has that name: every try fails; the other stream goes on meanwhile.
    r.open(json!({"delivery": {"method": PUSH, "endpoint_url": "https://receiver.invalid/", "authorization_header": "Bearer x"}}));
    let (access, _) = login("bob");
    h.server.revoke(&HOME, &access);
    let watcher = Receiver::new(1);
    let stream = watcher.open(json!({"delivery": {"method": POLL}}));
    let (access, _) = login("bob");
    h.server.revoke(&HOME, &access);
    assert!(!of(&watcher.take(&stream), SESSION_REVOKED).is_empty());
}

#[test]
fn verification_may_be_asked_for_now_and_then() {
    let r = Receiver::new(0);
    let made = r.ask("POST", "/ssf/streams", Some(json!({"delivery": {"method": POLL}})));
    let id = if made.status == 201 {
        made.json()["stream_id"].clone()
    } else {
        r.ask("GET", "/ssf/streams", None).json()[0]["stream_id"].clone()
    };
    let statuses: Vec<u16> = (0..20).map(|_| r.ask("POST", "/ssf/verify", Some(json!({"stream_id": id}))).status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    r.ask("DELETE", &format!("/ssf/streams?stream_id={}", id.as_str().unwrap()), None);
}
