//! Browser sessions of gateways that are not alone: a login server elsewhere, a gateway of its own, two nodes, TLS.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateway_live::closed_within_a_second;
use crate::gateway_session::{SCOPE, events, inside, told};
use crate::kit::authority::certified;
use crate::kit::entrance::{self, CLIENT, COOKIE, at_login_server, origin, page, script};
use crate::kit::http::{Go, b64, claims, client, random};
use crate::kit::jose::thumbprint;
use crate::kit::seed::{GW, MACHINE, PASSWORD, standard};
use crate::kit::server::free_port;
use crate::kit::{House, Landing, Stage, Upstream, Visitor, services, wait_until};

/// A login server of its own, whose people come to the gateway of another; where it tells of logouts.
struct Apart {
    login: Stage,
    gateway: Stage,
    heard: Upstream,
}

fn apart() -> Apart {
    apart_with("openid profile", json!({}))
}

fn apart_with(scope: &str, client: serde_json::Value) -> Apart {
    let heard = Upstream::start();
    let upstream = Upstream::start();
    let mut house = House::new();
    let at = entrance::configure(&mut house, scope);
    let login = Stage::start(|house| {
        let outside = [&at, &heard.url().replace("http://", "")].map(|host| format!("\"{host}\"")).join(", ");
        house.set("outbound.allow", &format!("[{outside}]"));
    });
    login.admin("POST", "/clients").json(&entrance::gateway_client(&at, client)).go().expect(201);
    house.text("gateway.session.issuer", &login.issuer);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    house.seed(&json!({"routes": entrance::routes()}));
    let server = house.serve();
    Apart { login, gateway: Stage { house, server, upstream }, heard }
}

/// Logs out at a login server, as a person does.
fn leave(login: &Stage, who: &mut Visitor) {
    let asked = who.open(&login.url("/logout")).kind("logout");
    who.send(&asked.press("logout-confirm"));
}

#[test]
fn a_foreign_login_server_ends_sessions_by_its_back_channel() {
    let Apart { login, gateway, heard } = apart();
    let back_channel = gateway.through("/.doorward/backchannel-logout");
    let post = |token: &str| client().post(&back_channel).form(&[("logout_token", token)]).go();
    let (mut alice, ..) = inside(&gateway, "alice");
    let (mut bob, ..) = inside(&gateway, "bob");
    let stream = events(&gateway, &alice);
    leave(&login, &mut alice);
    wait_until("the gateway heard", Duration::from_secs(10), || script(&mut alice, "GET", &gateway.through("/app/x"), None).status == 401);
    closed_within_a_second(stream, "the event stream", Instant::now());
    assert_eq!(script(&mut bob, "GET", &gateway.through("/app/x"), None).status, 200, "another person's session goes on");
    assert_eq!(told(&gateway, "gateway_session.logout_received").len(), 1);

    // The token itself: whose it is not, what it is not, and a second time.
    let elsewhere = json!({"backchannel_logout_uri": format!("{}/told", heard.url())});
    login.admin("PATCH", &format!("/clients/{CLIENT}")).json(&elsewhere).go().expect(200);
    let (mut carol, ..) = inside(&gateway, "carol");
    leave(&login, &mut carol);
    wait_until("it is told elsewhere", Duration::from_secs(10), || !heard.seen("POST /told").is_empty());
    let body = heard.only("POST /told").body;
    let token = url::form_urlencoded::parse(&body).find(|(n, _)| n == "logout_token").unwrap().1.into_owned();
    assert_eq!(script(&mut carol, "GET", &gateway.through("/app/x"), None).status, 200, "nobody told the gateway yet");
    let parts: Vec<&str> = token.split('.').collect();
    let mut payload = claims(&token);
    payload["sub"] = json!("somebody");
    let forged = format!("{}.{}.{}", parts[0], crate::kit::http::b64(payload.to_string()), parts[2]);
    let own = gateway.machine_token(&MACHINE, &[]);
    for bad in ["", "nonsense", forged.as_str(), own.as_str()] {
        assert_eq!(post(bad).status, 400);
    }
    assert_eq!(client().get(&back_channel).go().status, 405);
    assert_eq!(client().post(&back_channel).form(&[("logout_token", &token), ("logout_token", &token)]).go().status, 400);
    assert_eq!(script(&mut carol, "GET", &gateway.through("/app/x"), None).status, 200);
    let taken = post(&token).expect(200);
    assert_eq!(taken.header("cache-control"), "no-store");
    assert_eq!(script(&mut carol, "GET", &gateway.through("/app/x"), None).status, 401);
    assert_eq!(post(&token).status, 400, "it counts once");
    // It stays ended after a restart.
    let Stage { house, server, upstream: _upstream } = gateway;
    server.kill();
    let server = house.serve();
    assert_eq!(script(&mut carol, "GET", &server.through("/app/x"), None).status, 401);
    assert_eq!(script(&mut bob, "GET", &server.through("/app/x"), None).status, 200, "and the others go on");
}

#[test]
fn a_login_server_that_is_away_is_no_reason_to_log_anybody_out() {
    let Apart { login, gateway, heard: _heard } = apart();
    let (mut alice, ..) = inside(&gateway, "alice");
    let Stage { house, server, upstream: _upstream } = login;
    server.kill();
    assert_eq!(script(&mut alice, "GET", &gateway.through("/app/x"), None).status, 200);
    let away = page(&mut Visitor::new(), &gateway.through("/app/x"));
    assert_eq!(away.status, 503);
    assert!(!away.header("retry-after").is_empty());
    let _login = house.serve();
    wait_until("logins go on", Duration::from_secs(20), || page(&mut Visitor::new(), &gateway.through("/app/x")).status == 302);
}

#[test]
fn a_renewal_in_vain_is_no_obstacle_to_the_next() {
    let Apart { login, gateway, heard: _heard } = apart_with(SCOPE, json!({"access_token_ttl": "3s"}));
    let (mut alice, ..) = inside(&gateway, "alice");
    let Stage { house, server, upstream: _upstream } = login;
    server.kill();
    let mut ask = || script(&mut alice, "GET", &gateway.through("/app/x"), None).status;
    wait_until("its access token is over", Duration::from_secs(20), || ask() == 503);
    let in_vain = || gateway.server.metric("gateway_sessions_total{event=\"refresh_failed\"}");
    wait_until("it was tried again and again", Duration::from_secs(60), || ask() == 503 && in_vain() >= 4.0);
    let _login = house.serve();
    wait_until("the session goes on", Duration::from_secs(20), || ask() == 200);
}

#[test]
fn a_gateway_of_its_own_has_sessions_of_its_authorization_server() {
    let stage = Stage::start(|_| {});
    let at = format!("127.0.0.1:{}", crate::kit::server::free_port());
    stage.admin("POST", "/clients").json(&entrance::gateway_client(&at, json!({}))).go().expect(201);
    let upstream = Upstream::start();
    let mut house = House::new();
    house.without("server").without("storage");
    house.set("server.roles", r#"["gateway"]"#).text("server.gateway_listen", &at).text("server.metrics_listen", "127.0.0.1:0");
    let (db, kek) = (house.path("gateway.db"), house.path("kek"));
    house.text("storage.url", &format!("sqlite://{}", db.display())).text("storage.key_file", &kek.display().to_string());
    house.text("gateway.authorization_server", &stage.issuer).text("gateway.client_id", GW.id).text("gateway.client_secret", GW.secret);
    house.text("gateway.session.client_id", CLIENT).text("gateway.session.client_secret", entrance::SECRET);
    house.text("gateway.session.scope", SCOPE);
    let mut seed = standard(&upstream.url());
    seed["routes"].as_array_mut().unwrap().extend(entrance::routes().as_array().unwrap().clone());
    seed.as_object_mut().unwrap().retain(|name, _| ["routes", "upstreams"].contains(&name.as_str()));
    house.seed(&seed);
    let gateway = Stage { server: house.serve(), house, upstream };
    let (mut alice, sub, _) = inside(&gateway, "alice");
    let (mut bob, ..) = inside(&gateway, "bob");
    // What its own database says survives; what the authorization server says is heard.
    let cookie = bob.cookies[COOKIE].clone();
    script(&mut bob, "POST", &gateway.through("/.doorward/logout"), Some(&origin(&gateway))).expect(303);
    let Stage { house, server, upstream: _upstream } = gateway;
    server.kill();
    let server = house.serve();
    let old = client().get(server.through("/app/x")).header("cookie", format!("{COOKIE}={cookie}"));
    assert_eq!(old.go().status, 401);
    wait_until("the feed is joined", Duration::from_secs(20), || script(&mut alice, "GET", &server.through("/app/x"), None).status == 200);
    stage.admin("POST", "/revocations").json(&json!({"kind": "subject", "id": sub, "reason": "test"})).go();
    wait_until("the gateway heard", Duration::from_secs(10), || script(&mut alice, "GET", &server.through("/app/x"), None).status == 401);
}

#[test]
fn nodes_share_their_sessions_renew_them_once_and_end_them_together() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    let at = entrance::configure(&mut house, SCOPE);
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    house.seed(&json!({"clients": [entrance::gateway_client(&at, json!({"access_token_ttl": "3s"}))], "routes": entrance::routes()}));
    let a = Stage { server: house.serve(), house: house.clone(), upstream };
    let mut second = house.another("second.toml");
    for key in ["server.public_listen", "server.gateway_listen"] {
        second.text(key, &format!("127.0.0.1:{}", crate::kit::server::free_port()));
    }
    let b = second.serve();
    let (mut alice, ..) = inside(&a, "alice");
    assert_eq!(script(&mut alice, "GET", &b.through("/app/x"), None).status, 200);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(3300));
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (mut alice, start) = (alice.clone(), &start);
                let url = if n % 2 == 0 { a.through("/forward/x") } else { b.through("/forward/x") };
                scope.spawn(move || {
                    start.wait();
                    assert_eq!(script(&mut alice, "GET", &url, None).status, 200);
                });
            }
        });
    }
    assert!(told(&a, "refresh.reused").is_empty(), "no refresh token was shown twice");
    let cookie = alice.cookies[COOKIE].clone();
    script(&mut alice, "POST", &a.through("/.doorward/logout"), Some(&origin(&a))).expect(303);
    wait_until("the other node heard", Duration::from_secs(5), || {
        client().get(b.through("/app/x")).header("cookie", format!("{COOKIE}={cookie}")).go().status == 401
    });
}

#[test]
fn behind_tls_the_cookies_are_bound_to_the_host() {
    let upstream = Upstream::start();
    let mut house = House::new();
    let at = entrance::configure(&mut house, SCOPE);
    let Some(authority) = certified(&mut house) else { return };
    house.text("outbound.extra_ca_file", &authority.file().display().to_string());
    let gateway = at.replace("127.0.0.1", "https://localhost");
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let more = json!({"redirect_uris": [format!("{gateway}/.doorward/callback")]});
    house.seed(&json!({"clients": [entrance::gateway_client(&at, more)], "routes": entrance::routes()}));
    let _server = house.serve();
    let mut alice = Visitor::using(authority.client());
    let get = |who: &mut Visitor, url: &str| who.once(authority.client().get(url).header("accept", "text/html"));
    let url = format!("{gateway}/app/x");
    let sent = get(&mut alice, &url).expect(302);
    let back = at_login_server(&mut alice, sent.header("location"), "alice");
    get(&mut alice, back.as_str()).expect(302);
    for name in ["__Host-doorward-gateway", "__Host-doorward-gateway-login"] {
        let line = &alice.set_cookies[name];
        assert!(line.contains("; Secure") && line.contains("Path=/") && line.contains("HttpOnly") && !line.contains("Domain"), "{line}");
    }
    let mark = random();
    get(&mut alice, &format!("{gateway}/app/{mark}")).expect(200);
    assert!(!upstream.only(&mark).all("cookie").join(";").contains("doorward"));
    // A cookie without the prefix is somebody else's.
    let cookie = alice.cookies["__Host-doorward-gateway"].clone();
    let plain = authority.client().get(&url).header("cookie", format!("{COOKIE}={cookie}"));
    assert_eq!(plain.go().status, 401);
}

/// A way to the login server on which the answer of one token request can get lost.
struct Way {
    lose: Arc<AtomicBool>,
}

impl Way {
    fn between(port: u16, to: String) -> Self {
        let lose = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
        let losing = Arc::clone(&lose);
        std::thread::spawn(move || {
            for inward in listener.incoming().flatten() {
                let (to, losing) = (to.clone(), Arc::clone(&losing));
                std::thread::spawn(move || Self::carry(inward, &to, &losing));
            }
        });
        Self { lose }
    }

    fn carry(mut inward: TcpStream, to: &str, losing: &AtomicBool) -> Option<()> {
        let mut outward = TcpStream::connect(to).ok()?;
        let (mut there, mut back) = (inward.try_clone().ok()?, outward.try_clone().ok()?);
        let lost = Arc::new(AtomicBool::new(false));
        let marked = Arc::clone(&lost);
        let losing_now = losing.load(Ordering::SeqCst);
        let lose_this = Arc::new(AtomicBool::new(losing_now));
        let wanted = Arc::clone(&lose_this);
        let carrying = std::thread::spawn(move || {
            let mut buffer = [0u8; 8192];
            while let Ok(n @ 1..) = there.read(&mut buffer) {
                if wanted.load(Ordering::SeqCst) && buffer[..n].starts_with(b"POST /token") {
                    marked.store(true, Ordering::SeqCst);
                }
                if outward.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = outward.shutdown(Shutdown::Write);
        });
        let mut buffer = [0u8; 8192];
        while let Ok(n @ 1..) = back.read(&mut buffer) {
            // The server has answered: the one who asked never hears it.
            if lost.load(Ordering::SeqCst) && losing.swap(false, Ordering::SeqCst) {
                let _ = inward.shutdown(Shutdown::Both);
                break;
            }
            if inward.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = inward.shutdown(Shutdown::Both);
        let _ = carrying.join();
        Some(())
    }
}

#[test]
fn an_answer_that_is_lost_on_the_way_logs_nobody_out() {
    let (public, door) = (free_port(), free_port());
    let way = Way::between(door, format!("127.0.0.1:{public}"));
    let stage = entrance::stage(SCOPE, json!({"access_token_ttl": "3s"}), |house| {
        house.issuer = format!("http://127.0.0.1:{door}");
        let issuer = house.issuer.clone();
        house.text("server.issuer", &issuer).text("server.public_listen", &format!("127.0.0.1:{public}"));
        house.text("lifetimes.refresh_grace", "10s");
    });
    let (mut alice, ..) = inside(&stage, "alice");
    let refreshed = || told(&stage, "token.refreshed").len();
    way.lose.store(true, Ordering::SeqCst);
    wait_until("an answer was lost", Duration::from_secs(20), || {
        assert_eq!(script(&mut alice, "GET", &stage.through("/forward/x"), None).status, 200);
        !way.lose.load(Ordering::SeqCst)
    });
    assert!(refreshed() > 0);
    assert!(told(&stage, "refresh.reused").is_empty());
    // And the session goes on from there.
    let before = refreshed();
    wait_until("the next renewal", Duration::from_secs(20), || {
        assert_eq!(script(&mut alice, "GET", &stage.through("/forward/x"), None).status, 200);
        refreshed() > before
    });
    assert!(told(&stage, "gateway_session.ended").is_empty());
}

#[test]
fn a_page_that_wants_a_recent_login_asks_for_one() {
    let stage = entrance::stage(SCOPE, json!({}), |_| {});
    let strict =
        json!({"id": "strict", "match": {"path_prefix": "/strict/"}, "upstream": "echo", "auth": {"accept": ["session"], "max_age": "3s"}});
    stage.admin("POST", "/routes").json(&strict).go().expect(201);
    let (mut alice, ..) = inside(&stage, "alice");
    wait_until("the login is too long ago", Duration::from_secs(20), || {
        script(&mut alice, "GET", &stage.through("/strict/x"), None).status == 401
    });
    let told = script(&mut alice, "GET", &stage.through("/strict/x"), None);
    assert!(told.header("www-authenticate").contains("max_age=\"3\""), "{}", told.header("www-authenticate"));
    assert_eq!(script(&mut alice, "GET", &stage.through("/app/x"), None).status, 200, "elsewhere it is good enough");
    let sent = page(&mut alice, &stage.through("/strict/x")).expect(302);
    let login = alice.open(sent.header("location")).kind("login");
    let back = match alice.login(&login, "alice", PASSWORD) {
        Landing::Away(url) => url,
        Landing::Page(page) => panic!("{}", page.answer.text()),
    };
    page(&mut alice, back.as_str()).expect(302);
    assert_eq!(page(&mut alice, &stage.through("/strict/x")).status, 200);
}

#[test]
fn a_client_with_a_key_or_without_a_secret_and_claims_of_userinfo() {
    let public = entrance::stage(
        "openid profile email",
        json!({"token_endpoint_auth_method": "none", "client_secret": null, "grant_types": ["authorization_code"]}),
        |house| {
            house
                .without("gateway.session")
                .text("gateway.session.client_id", CLIENT)
                .text("gateway.session.scope", "openid profile email");
            house.set("gateway.session.userinfo", "true");
        },
    );
    let (mut alice, mark) = (Visitor::new(), random());
    entrance::enter(&public, &mut alice, &format!("/app/{mark}"), "alice").expect(200);
    assert_eq!(public.upstream.only(&mark).all("x-user"), ["alice"], "a claim of the userinfo endpoint");

    let key = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = aws_lc_rs::signature::KeyPair::public_key(&key).as_ref().to_vec();
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..])});
    let jwk = json!({"kid": thumbprint(&jwk), "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": jwk["x"], "y": jwk["y"]});
    let der = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.to_pkcs8v1().unwrap());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
    let keyed = entrance::stage(
        SCOPE,
        json!({"token_endpoint_auth_method": "private_key_jwt", "client_secret": null, "jwks": {"keys": [jwk]}}),
        |house| {
            let file = house.write("session-key.pem", &pem);
            house.without("gateway.session").text("gateway.session.client_id", CLIENT).text("gateway.session.scope", SCOPE);
            house.text("gateway.session.client_key_file", &file.display().to_string());
        },
    );
    inside(&keyed, "alice");
}
