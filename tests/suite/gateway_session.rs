//! Browser sessions at the gateway: login, callback, belief, renewal, revocation, logout, and whoever tries to get around them.
use std::io::{Read, Write};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::Url;

use crate::gateway_live::closed_within_a_second;
use crate::kit::entrance::{self, CLIENT, COOKIE, at_login_server, enter, origin, page, script};
use crate::kit::http::{Go, claims, client, random};
use crate::kit::seed::{MACHINE, PASSWORD};
use crate::kit::{Stage, Visitor, raw, wait_until};

pub(crate) const SCOPE: &str = "openid profile offline_access read";

fn shared() -> &'static Stage {
    static STAGE: std::sync::OnceLock<Stage> = std::sync::OnceLock::new();
    STAGE.get_or_init(|| entrance::stage(SCOPE, json!({}), |_| {}))
}

/// The gateway's own events of a kind.
pub(crate) fn told(stage: &Stage, kind: &str) -> Vec<Value> {
    // By kind: looking is an event too, and a page of all of them would soon end before the newest.
    let events = stage.admin("GET", &format!("/events?limit=200&kind={kind}")).go().expect(200).json();
    events["items"].as_array().unwrap().clone()
}

#[test]
fn a_browser_is_sent_to_log_in_and_comes_back_to_the_page_it_wanted() {
    let (stage, mark) = (shared(), random());
    let mut alice = Visitor::new();
    let path = format!("/app/things/{mark}?a=%2F&b=c");
    let sent = page(&mut alice, &stage.through(&path)).expect(302);
    assert!(sent.header("location").starts_with(&stage.url("/authorize?")), "{}", sent.header("location"));
    assert!(sent.header("location").contains("request_uri="), "the request was pushed");
    assert!(!sent.header("location").contains("code_challenge"), "nothing of it is in the address");
    assert_eq!(sent.header("cache-control"), "no-store");
    assert!(stage.upstream.seen(&mark).is_empty(), "nothing is forwarded before the login");
    let binding = &alice.set_cookies[&format!("{COOKIE}-login")];
    assert!(binding.contains("HttpOnly") && binding.contains("SameSite=Lax") && binding.contains("Path=/"), "{binding}");

    let back = at_login_server(&mut alice, sent.header("location"), "alice");
    assert!(back.as_str().starts_with(&stage.through("/.doorward/callback?")), "{back}");
    assert!(stage.upstream.seen(&mark).is_empty());
    let led = page(&mut alice, back.as_str()).expect(302);
    assert_eq!(led.header("location"), path);
    let cookie = alice.set_cookies[COOKIE].clone();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && !cookie.contains("Max-Age"), "{cookie}");

    let request = client().get(stage.through(&path)).header("accept", "text/html").header("cookie", "theirs=1");
    alice.once(request).expect(200);
    let seen = stage.upstream.only(&mark);
    assert_eq!(seen.target(), path);
    let sub = seen.all("x-doorward-subject")[0].to_owned();
    assert!(!sub.is_empty());
    assert_eq!(seen.all("x-roles"), ["viewer"], "roles of the access token");
    assert_eq!(seen.all("x-sid").len(), 1);
    assert!(seen.all("x-scope")[0].contains("read"));
    let cookies = seen.all("cookie").join(";");
    assert!(!cookies.contains("doorward"), "the session stays here: {cookies}");
    assert!(seen.all("authorization").is_empty());
}

#[test]
fn what_is_no_browser_is_told_what_is_missing() {
    let (stage, mark) = (shared(), random());
    let url = stage.through(&format!("/app/{mark}"));
    for request in [
        client().get(&url),
        client().get(&url).header("accept", "application/json"),
        client().post(&url).header("accept", "text/html"),
        client().head(&url).header("accept", "text/html"),
        client().get(&url).header("accept", "text/html").header("sec-fetch-mode", "cors"),
        client().get(&url).header("accept", "text/html").header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "iframe"),
        client().get(&url).header("accept", "text/html").header("x-requested-with", "XMLHttpRequest"),
        client().get(&url).header("accept", "text/html").bearer_auth("a.b.c"),
        client().get(&url).header("cookie", format!("{COOKIE}=dwv_nonsense")),
        client().get(&url).header("cookie", format!("{COOKIE}=a; {COOKIE}=b")),
    ] {
        let answer = request.go();
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), "Session realm=\"gateway\"");
        assert!(answer.all_cookies().is_empty());
    }
    assert!(stage.upstream.seen(&mark).is_empty());
}

#[test]
fn a_session_has_the_scope_it_was_given_and_no_more() {
    let stage = shared();
    let mut alice = Visitor::new();
    enter(stage, &mut alice, "/mixed/x", "alice").expect(200);
    assert_eq!(page(&mut alice, &stage.through("/writer/x")).status, 403);
    assert_eq!(page(&mut alice, &stage.through("/asked/x")).status, 200, "the login server is asked every time");
    assert_eq!(page(&mut alice, &stage.through("/recent/x")).status, 200);
    let token = stage.machine_token(&MACHINE, &[]);
    assert_eq!(stage.call("/mixed/x", &token).status, 200, "tokens go on being good there");
    // Both at once: whose would count?
    let both = alice.once(client().get(stage.through("/mixed/x")).bearer_auth(&token));
    assert_eq!(both.status, 400);
    // Where sessions count for nothing, the cookie is none of the credentials.
    assert_eq!(alice.once(client().get(stage.through("/api/x")).bearer_auth(&token)).status, 200);
}

#[test]
fn an_optional_session_is_used_where_there_is_one() {
    let (stage, mark) = (shared(), random());
    let mut alice = Visitor::new();
    page(&mut alice, &stage.through(&format!("/maybe/{mark}"))).expect(200);
    assert!(stage.upstream.only(&mark).all("x-doorward-subject").is_empty());
    enter(stage, &mut alice, "/app/x", "alice").expect(200);
    let mark = random();
    page(&mut alice, &stage.through(&format!("/maybe/{mark}"))).expect(200);
    assert_eq!(stage.upstream.only(&mark).all("x-doorward-subject").len(), 1);
    // Browsers keep the cookie of a session that is over.
    let mark = random();
    let over = client().get(stage.through(&format!("/maybe/{mark}"))).header("cookie", format!("{COOKIE}=over"));
    over.go().expect(200);
    assert!(stage.upstream.only(&mark).all("x-doorward-subject").is_empty());
}

#[test]
fn a_callback_works_once_in_the_browser_that_began_and_for_nobody_else() {
    let stage = shared();
    let mut alice = Visitor::new();
    let sent = page(&mut alice, &stage.through("/app/x")).expect(302);
    let back = at_login_server(&mut alice, sent.header("location"), "alice");
    // Somebody else has the address: it leads nowhere, and spoils nothing.
    let mut mallory = Visitor::new();
    let refused = page(&mut mallory, back.as_str()).expect(400);
    assert!(refused.text().contains("id=\"error-code\">invalid_request<"), "{}", refused.text());
    assert!(refused.text().contains("name=\"page\" content=\"error\""));
    assert!(!mallory.cookies.contains_key(COOKIE));
    page(&mut mallory, &stage.through("/app/x")).expect(302);
    assert_eq!(page(&mut mallory, back.as_str()).status, 400, "with a binding of its own, too");
    page(&mut alice, back.as_str()).expect(302);
    let session = alice.cookies[COOKIE].clone();
    // A second time it is spent, and the session stays as it is.
    let again = page(&mut alice, back.as_str()).expect(400);
    assert!(again.all_cookies().is_empty());
    assert_eq!(alice.cookies[COOKIE], session);
    page(&mut alice, &stage.through("/app/x")).expect(200);
    // A program hears the same as a problem document.
    let problem = client().get(back.as_str()).go().expect(400);
    assert_eq!((problem.header("content-type"), problem.json()["error"].as_str()), ("application/problem+json", Some("invalid_request")));
}

/// The callback with one parameter changed; nothing takes it away.
fn with(url: &Url, name: &str, value: Option<&str>) -> String {
    let mut changed = url.clone();
    let pairs: Vec<(String, String)> =
        url.query_pairs().filter(|(n, _)| n != name).map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
    changed.query_pairs_mut().clear().extend_pairs(pairs);
    if let Some(value) = value {
        changed.query_pairs_mut().append_pair(name, value);
    }
    changed.to_string()
}

#[test]
fn answers_of_another_issuer_state_or_login_make_no_session() {
    let stage = shared();
    let begin = || {
        let mut alice = Visitor::new();
        let sent = page(&mut alice, &stage.through("/app/x")).expect(302);
        let back = at_login_server(&mut alice, sent.header("location"), "alice");
        (alice, back)
    };
    for (name, value) in [
        ("iss", Some("https://evil.example.com")),
        ("iss", None),
        ("state", Some("nonsense")),
        ("state", None),
        ("code", Some("nonsense")),
        ("code", None),
    ] {
        let (mut alice, back) = begin();
        let answer = page(&mut alice, &with(&back, name, value));
        assert_eq!(answer.status, 400, "{name} {value:?}");
        assert!(!alice.cookies.contains_key(COOKIE), "{name} {value:?}");
    }
    // The code of one login with the state of another: its nonce and challenge are not this one's.
    let (mut alice, first) = begin();
    let sent = page(&mut alice, &stage.through("/app/x")).expect(302);
    let second = at_login_server(&mut alice, sent.header("location"), "alice");
    let code = second.query_pairs().find(|(n, _)| n == "code").unwrap().1.into_owned();
    assert_eq!(page(&mut alice, &with(&first, "code", Some(&code))).status, 400);
    assert!(!alice.cookies.contains_key(COOKIE));
    // Twice the same parameter, another method.
    let (mut alice, back) = begin();
    assert_eq!(page(&mut alice, &format!("{back}&state=x")).status, 400);
    assert_eq!(alice.once(client().post(back.as_str())).status, 405);
    // What the login server refuses is shown by its name, and by nothing that came with it.
    let refused = format!(
        "{}&error_description=%3Cscript%3E",
        with(&Url::parse(&with(&back, "code", None)).unwrap(), "error", Some("access_denied"))
    );
    let shown = page(&mut alice, &refused).expect(403);
    assert!(shown.text().contains("access_denied") && !shown.text().contains("<script"), "{}", shown.text());
    assert!(told(stage, "gateway_session.started").iter().all(|event| event["data"]["gateway_session"].is_string()));
}

#[test]
fn nobody_is_led_to_another_host() {
    let stage = shared();
    let mut alice = Visitor::new();
    enter(stage, &mut alice, "/app/x", "alice").expect(200);
    alice.cookies.remove(COOKIE);
    for path in ["/app//evil.example.com/", "/app/?to=//evil.example.com", "/app/@evil.example.com", "/app/x?https://evil.example.com"] {
        let sent = page(&mut alice, &stage.through(path)).expect(302);
        let back = at_login_server(&mut alice, sent.header("location"), "alice");
        let led = page(&mut alice, back.as_str()).expect(302);
        let to = led.header("location").to_owned();
        assert!(to.starts_with("/app/") && !to.starts_with("//"), "{path}: {to}");
        alice.cookies.remove(COOKIE);
    }
    let long = format!("/app/{}", "x".repeat(3000));
    let sent = page(&mut alice, &stage.through(&long)).expect(302);
    let back = at_login_server(&mut alice, sent.header("location"), "alice");
    assert_eq!(page(&mut alice, back.as_str()).expect(302).header("location"), "/");
    // A forged host is a redirect URI that nobody registered.
    let forged = client().get(stage.through("/app/x")).header("accept", "text/html").header("host", "127.0.0.2");
    assert!([502, 503].contains(&forged.go().status));
    let insecure = client().get(stage.through("/app/x")).header("accept", "text/html").header("host", "evil.example.com");
    assert_eq!(insecure.go().status, 401, "without TLS there are sessions on loopback only");
}

#[test]
fn pages_of_other_sites_act_for_nobody() {
    let stage = shared();
    let mut alice = Visitor::new();
    enter(stage, &mut alice, "/app/x", "alice").expect(200);
    let own = origin(stage);
    let mark = random();
    for evil in [None, Some("https://evil.example.com"), Some("null"), Some("http://127.0.0.1:1"), Some("https://friend.example.com")] {
        for method in ["POST", "PUT", "DELETE", "PURGE"] {
            assert_eq!(script(&mut alice, method, &stage.through(&format!("/app/{mark}")), evil).status, 403, "{method} {evil:?}");
        }
    }
    assert!(stage.upstream.seen(&mark).is_empty());
    assert_eq!(script(&mut alice, "POST", &stage.through("/app/x"), Some(&own)).status, 200);
    let said = client().post(stage.through("/app/x")).header("sec-fetch-site", "same-origin");
    assert_eq!(alice.once(said).status, 200);
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), Some("https://evil.example.com")).status, 200);
    assert_eq!(script(&mut alice, "POST", &stage.through("/free/x"), None).status, 200);
    assert_eq!(script(&mut alice, "POST", &stage.through("/friend/x"), Some("https://friend.example.com")).status, 200);
    assert_eq!(script(&mut alice, "POST", &stage.through("/friend/x"), Some("https://evil.example.com")).status, 403);
    let cookie = alice.cookies[COOKIE].clone();
    let handshake = |origin: &str| {
        let address = stage.listener("gateway");
        let request = format!(
            "GET /app/ws HTTP/1.1\r\nHost: {address}\r\nCookie: {COOKIE}={cookie}\r\n{origin}Connection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut stream = raw::connect(&address);
        stream.write_all(request.as_bytes()).unwrap();
        raw::read_head(&mut stream).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(handshake("Origin: https://evil.example.com\r\n"), "403");
    assert_eq!(handshake(""), "403");
    assert_eq!(handshake(&format!("Origin: {own}\r\n")), "101");
}

/// An event stream under a session.
pub(crate) fn events(stage: &Stage, who: &Visitor) -> std::net::TcpStream {
    let address = stage.listener("gateway");
    let mut stream = raw::connect(&address);
    let request = format!("GET /app/sse HTTP/1.1\r\nHost: {address}\r\nCookie: {COOKIE}={}\r\n\r\n", who.cookies[COOKIE]);
    stream.write_all(request.as_bytes()).unwrap();
    assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    stream.read_exact(&mut [0u8; 8]).unwrap();
    stream
}

/// Logged in, with the person's `sub` and `sid`.
pub(crate) fn inside(stage: &Stage, username: &str) -> (Visitor, String, String) {
    let (mut who, mark) = (Visitor::new(), random());
    enter(stage, &mut who, &format!("/app/{mark}"), username).expect(200);
    let seen = stage.upstream.only(&mark);
    let (sub, sid) = (seen.all("x-doorward-subject")[0].to_owned(), seen.all("x-sid")[0].to_owned());
    (who, sub, sid)
}

#[test]
fn what_is_revoked_ends_sessions_and_their_streams_at_once() {
    let stage = entrance::stage(SCOPE, json!({}), |_| {});
    for kind in ["session", "subject", "client", "grant"] {
        let (mut bob, sub, sid) = inside(&stage, "bob");
        let (mut alice, ..) = inside(&stage, "alice");
        let stream = events(&stage, &bob);
        let id = match kind {
            "session" => sid,
            "subject" => sub,
            "client" => CLIENT.to_owned(),
            _ => {
                let grants = stage.admin("GET", &format!("/grants?subject={sub}&client_id={CLIENT}")).go().expect(200).json();
                grants["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
            }
        };
        let since = Instant::now();
        let answer = stage.admin("POST", "/revocations").json(&json!({"kind": kind, "id": id, "reason": "test"})).go();
        assert!(answer.status < 300, "{kind}: {}", answer.text());
        assert_eq!(script(&mut bob, "GET", &stage.through("/app/x"), None).status, 401, "{kind}");
        closed_within_a_second(stream, kind, since);
        assert_eq!(page(&mut bob, &stage.through("/app/x")).status, 302, "{kind}: log in again");
        assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status == 200, kind != "client", "{kind}: another person");
    }
    // What was ended stays ended after a restart.
    let (mut bob, sub, _) = inside(&stage, "bob");
    stage.admin("POST", "/revocations").json(&json!({"kind": "subject", "id": sub, "reason": "test"})).go();
    let Stage { house, server, upstream: _upstream } = stage;
    server.kill();
    let server = house.serve();
    assert_eq!(script(&mut bob, "GET", &server.through("/app/x"), None).status, 401);
}

#[test]
fn a_person_logs_out_and_everything_ends() {
    let stage = entrance::stage(SCOPE, json!({}), |house| {
        let bye = format!("http://{}/public/bye", house_gateway(house));
        house.text("gateway.session.post_logout_redirect_uri", &bye);
    });
    let (mut alice, _, sid) = inside(&stage, "alice");
    let stream = events(&stage, &alice);
    let cookie = alice.cookies[COOKIE].clone();
    let logout = stage.through("/.doorward/logout");
    let asked = page(&mut alice, &logout).expect(200);
    assert!(asked.text().contains("id=\"logout-form\""));
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 200, "a question ends nothing");
    for evil in [None, Some("https://evil.example.com")] {
        assert_eq!(script(&mut alice, "POST", &logout, evil).status, 403);
    }
    let since = Instant::now();
    let sent = script(&mut alice, "POST", &logout, Some(&origin(&stage))).expect(303);
    let to = Url::parse(sent.header("location")).unwrap();
    assert!(to.as_str().starts_with(&stage.url("/logout?")), "{to}");
    let hint = to.query_pairs().find(|(n, _)| n == "id_token_hint").unwrap().1.into_owned();
    assert_eq!(claims(&hint)["sid"], json!(sid));
    assert!(!alice.cookies.contains_key(COOKIE));
    closed_within_a_second(stream, "logout", since);
    let old = client().get(stage.through("/app/x")).header("cookie", format!("{COOKIE}={cookie}"));
    assert_eq!(old.go().status, 401, "whoever kept the cookie has nothing");
    // The login server ends its own session, and leads back.
    let landing = alice.open(to.as_str());
    let (bye, _) = landing.away();
    assert_eq!(bye, stage.through("/public/bye"));
    let sent = page(&mut alice, &stage.through("/app/x")).expect(302);
    alice.open(sent.header("location")).kind("login");
    let ended = told(&stage, "gateway_session.ended");
    assert!(ended.iter().any(|event| event["data"]["reason"] == "logout"), "{ended:?}");
    // Twice is not an error.
    assert_eq!(script(&mut alice, "POST", &logout, Some(&origin(&stage))).status, 200);
}

/// Where the gateway of a house will listen.
fn house_gateway(house: &crate::kit::House) -> String {
    let text = std::fs::read_to_string(house.config()).unwrap();
    let line = text.lines().find(|line| line.starts_with("gateway_listen")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn many_requests_renew_the_tokens_once_and_the_session_goes_on() {
    let stage = entrance::stage(SCOPE, json!({"access_token_ttl": "3s"}), |_| {});
    let (mut alice, ..) = inside(&stage, "alice");
    let forwarded = |alice: &mut Visitor| {
        let mark = random();
        script(alice, "GET", &stage.through(&format!("/forward/{mark}")), None).expect(200);
        stage.upstream.only(&mark).all("authorization")[0].strip_prefix("Bearer ").unwrap().to_owned()
    };
    let first = forwarded(&mut alice);
    assert!(stage.active(&first));
    let before = told(&stage, "token.refreshed").len();
    for round in 1..=3 {
        let old = forwarded(&mut alice);
        wait_until("the access token is over", Duration::from_secs(10), || !stage.active(&old));
        let start = Barrier::new(12);
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..12)
                .map(|_| {
                    let (mut alice, start, forwarded) = (alice.clone(), &start, &forwarded);
                    scope.spawn(move || {
                        start.wait();
                        forwarded(&mut alice)
                    })
                })
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| *token != old), "nobody is sent what is over");
        let fresh = told(&stage, "token.refreshed").len() - before;
        assert!(fresh >= round && fresh <= round * 2, "renewed once each time it was due, not once a request: {fresh} in {round}");
    }
    assert!(told(&stage, "refresh.reused").is_empty(), "no refresh token was shown twice");
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 200);
}

#[test]
fn a_renewal_that_is_refused_ends_the_session() {
    let stage = entrance::stage(SCOPE, json!({"access_token_ttl": "2s"}), |_| {});
    let (mut alice, ..) = inside(&stage, "alice");
    // The client may not refresh any more: its grant type is taken away, and its refresh tokens with it.
    let grants = stage.admin("GET", &format!("/grants?client_id={CLIENT}")).go().expect(200).json();
    for grant in grants["items"].as_array().unwrap() {
        stage.admin("DELETE", &format!("/grants/{}", grant["id"].as_str().unwrap())).go();
    }
    wait_until("the session is over", Duration::from_secs(10), || script(&mut alice, "GET", &stage.through("/app/x"), None).status == 401);
    assert_eq!(page(&mut alice, &stage.through("/app/x")).status, 302);
}

#[test]
fn a_session_outlives_its_access_token_and_ends_when_nobody_uses_it() {
    let stage = entrance::stage("openid read", json!({"access_token_ttl": "2s"}), |house| {
        house.text("gateway.session.idle", "4s").text("gateway.session.lifetime", "1h");
    });
    let (mut alice, ..) = inside(&stage, "alice");
    let begun = Instant::now();
    // Used now and then it lives on, longer than its tokens and than the time it may be idle.
    while begun.elapsed() < Duration::from_secs(7) {
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 200);
    }
    // Without a refresh token nobody is sent a token that is over.
    assert_eq!(script(&mut alice, "GET", &stage.through("/forward/x"), None).status, 401);
    assert_eq!(page(&mut alice, &stage.through("/forward/x")).status, 302);
    std::thread::sleep(Duration::from_millis(5200));
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 401);
}

#[test]
fn a_session_ends_with_its_lifetime_however_it_is_used() {
    let stage = entrance::stage(SCOPE, json!({}), |house| {
        house.text("gateway.session.lifetime", "3s");
    });
    let (mut alice, ..) = inside(&stage, "alice");
    let stream = events(&stage, &alice);
    wait_until("the session is over", Duration::from_secs(20), || script(&mut alice, "GET", &stage.through("/app/x"), None).status == 401);
    closed_within_a_second(stream, "the event stream", Instant::now());
}

#[test]
fn a_new_login_has_a_new_reference_and_the_old_one_is_over() {
    let stage = shared();
    let (mut alice, ..) = inside(stage, "alice");
    let old = alice.cookies[COOKIE].clone();
    // Another login begins in a second tab, before the first one was there.
    let kept = alice.cookies.remove(COOKIE).unwrap();
    let sent = page(&mut alice, &stage.through("/app/x")).expect(302);
    let back = at_login_server(&mut alice, sent.header("location"), "alice");
    alice.cookies.insert(COOKIE.to_owned(), kept);
    page(&mut alice, back.as_str()).expect(302);
    assert_ne!(alice.cookies[COOKIE], old);
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 200);
    let before = client().get(stage.through("/app/x")).header("cookie", format!("{COOKIE}={old}"));
    assert_eq!(before.go().status, 401);
}

#[test]
fn what_is_stored_shows_nothing_to_whoever_reads_it() {
    let stage = entrance::stage(SCOPE, json!({}), |_| {});
    let (mut alice, ..) = inside(&stage, "alice");
    let mark = random();
    script(&mut alice, "GET", &stage.through(&format!("/forward/{mark}")), None).expect(200);
    let token = stage.upstream.only(&mark).all("authorization")[0].strip_prefix("Bearer ").unwrap().to_owned();
    let cookie = alice.cookies[COOKIE].clone();
    for secret in [&cookie[4..], &token, token.split('.').nth(1).unwrap(), "dwr_", PASSWORD] {
        assert_eq!(stage.house.holds(secret), None, "{secret}");
    }
}

#[test]
fn logins_without_end_are_limited() {
    let stage = entrance::stage(SCOPE, json!({}), |house| {
        house.set("gateway.session.logins_per_minute", "30");
    });
    // A browser that is sent in circles.
    let mut alice = Visitor::new();
    let answers: Vec<u16> = (0..14).map(|_| page(&mut alice, &stage.through("/app/x")).status).collect();
    assert_eq!(answers[..12], [302; 12]);
    assert_eq!(answers[12..], [429; 2]);
    // A source that begins one after the other.
    let answers: Vec<_> = (0..20).map(|_| page(&mut Visitor::new(), &stage.through("/app/x"))).collect();
    assert_eq!(answers.iter().filter(|answer| answer.status == 302).count(), 16);
    let limited = answers.last().unwrap();
    assert_eq!(limited.status, 429);
    assert!(!limited.header("retry-after").is_empty());
    // Another one is not.
    let elsewhere = crate::kit::http::client_from("127.0.0.7").get(stage.through("/app/x")).header("accept", "text/html");
    assert_eq!(Visitor::from("127.0.0.7").once(elsewhere).status, 302);
}

#[test]
fn what_is_missing_is_said_with_what_to_register() {
    let mut house = crate::kit::House::new();
    house.bootstrap();
    house.seed(&json!({"upstreams": [{"id": "echo", "targets": [{"url": "http://127.0.0.1:9"}]}], "routes": [
        {"id": "app", "match": {"path_prefix": "/app/"}, "upstream": "echo", "auth": {"accept": ["session"]}}]}));
    let said = house.run(&["check"]).failed(1).said();
    assert!(said.contains("[gateway.session] client_id") && said.contains("backchannel_logout_uri"), "{said}");
    let server = house.serve();
    let answer = client().get(server.through("/app/x")).header("accept", "text/html").go();
    assert_eq!(answer.status, 401, "nobody to log in at");
    drop(server);
    house
        .text("gateway.session.scope", "profile")
        .text("gateway.session.cookie", "__Host-x")
        .text("gateway.session.callback_path", "/a/../b");
    house.text("gateway.session.idle", "48h");
    let said = house.run(&["check"]).failed(2).said();
    for key in ["session.client_id", "session.scope", "session.cookie", "session.callback_path", "session.idle"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    let wrong = json!({"routes": [{"id": "r", "upstream": "echo", "auth": {"accept": ["jwt"], "audience": "a"},
        "session": {"csrf": "maybe", "trusted_origins": ["https://a.example/"]}},
        {"id": "s", "match": {"path_prefix": "/s"}, "upstream": "echo", "auth": {"accept": ["session"], "sender_constraint": ["dpop"]}}]});
    let house = crate::kit::House::new();
    house.bootstrap();
    let said = house.try_seed(&wrong, &[]).said();
    for at in ["session.csrf", "session.trusted_origins[0]", "auth.sender_constraint"] {
        assert!(said.contains(at), "{at}: {said}");
    }
}
