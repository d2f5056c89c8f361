//! A gateway process of its own: the revocation feed, its loss, and introspection instead.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::kit::http::{Go, claims, client};
use crate::kit::seed::{APP, GW, MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream, wait_until};

/// A wire between gateway and authorization server that can be cut.
struct Wire {
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn between(port: u16, to: String) -> Self {
        let wire = Self { cut: Arc::default(), open: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
        let (cut, open) = (Arc::clone(&wire.cut), Arc::clone(&wire.open));
        std::thread::spawn(move || {
            for inward in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(outward) = TcpStream::connect(&to) else { continue };
                let _ = (inward.set_nodelay(true), outward.set_nodelay(true));
                let mut held = open.lock().expect("streams");
                held.push(inward.try_clone().expect("a handle"));
                held.push(outward.try_clone().expect("a handle"));
                for (mut from, mut to) in
                    [(inward.try_clone().expect("a handle"), outward.try_clone().expect("a handle")), (outward, inward)]
                {
                    std::thread::spawn(move || {
                        let mut buffer = [0u8; 8192];
                        while let Ok(n) = from.read(&mut buffer) {
                            if n == 0 || to.write_all(&buffer[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        wire
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().expect("streams").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

struct Pair {
    house: House,
    wire: Wire,
    auth: Server,
    gateway: Server,
    _upstream: Upstream,
}

/// The gateway's configuration: one role, a credential, routes of its own database.
pub(crate) fn gateway_house(of: &House) -> House {
    let mut gateway = House::new();
    let issuer = of.issuer.clone();
    gateway.without("server").without("storage");
    gateway.set("server.roles", r#"["gateway"]"#).text("server.issuer", &issuer);
    gateway.text("server.gateway_listen", "127.0.0.1:0").text("server.metrics_listen", "127.0.0.1:0");
    let (db, kek) = (gateway.path("gateway.db"), gateway.path("kek"));
    gateway.text("storage.url", &format!("sqlite://{}", db.display())).text("storage.key_file", &kek.display().to_string());
    let secret = gateway.write("secret", GW.secret);
    gateway.text("gateway.authorization_server", &issuer).text("gateway.client_id", GW.id);
    gateway.text("gateway.client_secret_file", &secret.display().to_string()).text("gateway.max_staleness", "2s");
    gateway.issuer = issuer;
    gateway
}

/// An authorization server behind a wire, and a gateway that knows it only through the wire.
fn pair() -> Pair {
    let upstream = Upstream::start();
    let mut house = House::new();
    // The issuer is the wire; the server itself listens elsewhere.
    let behind = free_port();
    house.text("server.public_listen", &format!("127.0.0.1:{behind}"));
    let wire_port: u16 = house.issuer.rsplit(':').next().unwrap().parse().unwrap();
    let wire = Wire::between(wire_port, format!("127.0.0.1:{behind}"));
    house.set("server.roles", r#"["auth", "admin"]"#);
    house.bootstrap();
    let seed = standard(&upstream.url());
    house.seed(&seed);
    let auth = house.serve();
    let mut gateway_house = gateway_house(&house);
    let address = house.issuer.trim_start_matches("http://").to_owned();
    gateway_house.set("outbound.allow", &format!("[\"{address}\"]"));
    let own = serde_json::json!({"upstreams": seed["upstreams"], "routes": seed["routes"]});
    gateway_house.seed(&own);
    let gateway = gateway_house.serve();
    Pair { house, wire, auth, gateway, _upstream: upstream }
}

impl Pair {
    fn call(&self, path: &str, token: &str) -> u16 {
        client().get(self.gateway.through(path)).bearer_auth(token).go().status
    }
}

#[test]
fn a_revocation_arrives_within_a_second() {
    let pair = pair();
    wait_until("tokens pass", Duration::from_secs(5), || pair.call("/api/x", &pair.auth.machine_token(&MACHINE, &[])) == 200);
    for (who, path) in [(&MACHINE, "/api/x"), (&SAFE, "/vault/x")] {
        for _ in 0..10 {
            let token = pair.auth.machine_token(who, &[]);
            assert_eq!(pair.call(path, &token), 200);
            pair.auth.revoke(who, &token);
            wait_until("the remote gateway refuses", Duration::from_secs(1), || pair.call(path, &token) == 401);
        }
    }
    // A whole grant, by its refresh token.
    let tokens = pair.auth.person_tokens(&APP, "alice");
    let access = text(&tokens, "access_token");
    assert_eq!(pair.call("/api/x", &access), 200);
    pair.auth.revoke(&APP, &text(&tokens, "refresh_token"));
    wait_until("the grant's token is refused", Duration::from_secs(1), || pair.call("/api/x", &access) == 401);
    assert!(pair.gateway.metric("revocation_propagation_seconds_count") > 0.0);
}

#[test]
fn a_cut_feed_means_asking_and_then_refusing_and_healing() {
    let pair = pair();
    let (token, doomed) = (pair.auth.machine_token(&MACHINE, &[]), pair.auth.machine_token(&MACHINE, &[]));
    assert!(claims(&token)["jti"].is_string());
    wait_until("tokens pass", Duration::from_secs(5), || pair.call("/api/x", &token) == 200);
    assert_eq!(pair.call("/api/x", &doomed), 200);
    pair.wire.cut();
    // Revoked while the gateway hears nothing.
    let direct = format!("http://{}/revoke", pair.auth.listener("public"));
    MACHINE.post(&direct, &[("token", &doomed)]).go().expect(200);
    let begun = Instant::now();
    wait_until("a deaf gateway refuses everything", Duration::from_secs(6), || [401, 503].contains(&pair.call("/api/x", &token)));
    assert!(begun.elapsed() > Duration::from_millis(500), "not before its knowledge is old");
    assert_ne!(pair.call("/api/x", &doomed), 200);
    assert_eq!(pair.call("/offline/x", &token), 200, "offline asks nobody");
    pair.wire.mend();
    wait_until("the gateway heals", Duration::from_secs(15), || pair.call("/api/x", &token) == 200);
    assert_eq!(pair.call("/api/x", &doomed), 401, "what was revoked meanwhile is known after the snapshot");
}

#[test]
fn a_restarted_authorization_server_is_found_again() {
    let pair = pair();
    let token = pair.auth.machine_token(&MACHINE, &[]);
    wait_until("tokens pass", Duration::from_secs(5), || pair.call("/api/x", &token) == 200);
    let Pair { house, auth, gateway, wire, _upstream } = pair;
    auth.kill();
    let auth = house.serve();
    let pair = Pair { house, auth, gateway, wire, _upstream };
    wait_until("the gateway is up to date again", Duration::from_secs(15), || pair.call("/api/x", &token) == 200);
    let other = pair.auth.machine_token(&MACHINE, &[]);
    wait_until("new tokens pass", Duration::from_secs(5), || pair.call("/api/x", &other) == 200);
    pair.auth.revoke(&MACHINE, &other);
    wait_until("revocations arrive", Duration::from_secs(2), || pair.call("/api/x", &other) == 401);
}

#[test]
fn keys_rotate_and_are_revoked_without_a_wrong_answer_here() {
    let pair = pair();
    let token = pair.auth.machine_token(&MACHINE, &[]);
    wait_until("tokens pass", Duration::from_secs(5), || pair.call("/api/x", &token) == 200);
    let done = pair.auth.admin("POST", "/keys/rotate").go();
    assert!((200..300).contains(&done.status), "{}", done.text());
    for _ in 0..20 {
        assert_eq!(pair.call("/api/x", &pair.auth.machine_token(&MACHINE, &[])), 200, "signed with the key that was published as next");
        assert_eq!(pair.call("/api/x", &token), 200, "signed with the one before");
    }
    let kid = crate::kit::http::jose_header(&token)["kid"].as_str().unwrap().to_owned();
    let done = pair.auth.admin("POST", &format!("/keys/{kid}/revoke")).go();
    assert!((200..300).contains(&done.status), "{}", done.text());
    wait_until("the revoked key's token is refused", Duration::from_secs(1), || pair.call("/api/x", &token) == 401);
    assert_eq!(pair.call("/api/x", &pair.auth.machine_token(&MACHINE, &[])), 200);
}

#[test]
fn what_is_open_at_a_remote_gateway_is_closed_too() {
    let pair = pair();
    let token = pair.auth.machine_token(&MACHINE, &[]);
    wait_until("tokens pass", Duration::from_secs(5), || pair.call("/api/x", &token) == 200);
    let mut stream = crate::kit::raw::connect(&pair.gateway.listener("gateway"));
    let request = format!("GET /api/sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(crate::kit::raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
    pair.auth.revoke(&MACHINE, &token);
    let since = Instant::now();
    let mut buffer = [0u8; 1024];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
        assert!(since.elapsed() < Duration::from_secs(1), "still open a second after the revocation");
    }
}
