//! The feed between a gateway of its own and the server is cut, held, delayed, doubled and put out of order: the gateway asks, then refuses,
//! and obeys at once when it hears again; what was open is closed.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::http::{Go, client};
use crate::kit::seed::{MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::wire::{Events, Wire};
use crate::kit::{House, Server, Upstream, raw, wait_until};
use crate::remote_gateway::gateway_house;

struct World {
    auth: Server,
    gateway: Server,
    wire: Wire,
    _upstream: Upstream,
}

fn world() -> World {
    let (upstream, mut house) = (Upstream::start(), House::new());
    let behind = free_port();
    let in_front: u16 = house.issuer.rsplit(':').next().expect("a port").parse().expect("a port");
    house.text("server.public_listen", &format!("127.0.0.1:{behind}")).set("server.roles", r#"["auth", "admin"]"#);
    let wire = Wire::between(in_front, format!("127.0.0.1:{behind}"));
    house.bootstrap();
    let seed = standard(&upstream.url());
    house.seed(&seed);
    let auth = house.serve();
    let mut gateway = gateway_house(&house);
    gateway.set("outbound.allow", &format!("[\"{}\"]", house.issuer.trim_start_matches("http://")));
    gateway.seed(&json!({"upstreams": seed["upstreams"], "routes": seed["routes"]}));
    let gateway = gateway.serve();
    World { auth, gateway, wire, _upstream: upstream }
}

impl World {
    fn call(&self, path: &str, token: &str) -> u16 {
        client().get(self.gateway.through(path)).bearer_auth(token).go().status
    }

    /// Straight to the server, past the wire.
    #[track_caller]
    fn revoke(&self, who: &crate::kit::Id, token: &str) {
        who.post(&format!("http://{}/revoke", self.auth.listener("public")), &[("token", token)]).go().expect(200);
    }

    fn token(&self, who: &crate::kit::Id) -> String {
        let at = format!("http://{}/token", self.auth.listener("public"));
        let given = who.post(&at, &[("grant_type", "client_credentials")]).go().expect(200).json();
        given["access_token"].as_str().expect("a token").to_owned()
    }

    /// A token that passes, and an open event stream of another.
    #[track_caller]
    fn streaming(&self) -> (String, TcpStream) {
        let token = self.token(&MACHINE);
        wait_until("tokens pass", Duration::from_secs(15), || self.call("/api/x", &token) == 200);
        let mut stream = raw::connect(&self.gateway.listener("gateway"));
        let request = format!("GET /api/sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        assert!(raw::read_head(&mut stream).starts_with("HTTP/1.1 200"));
        (token, stream)
    }
}

/// Reads on until it is closed.
#[track_caller]
fn closed(mut stream: TcpStream, within: Duration) {
    let (since, mut buffer) = (Instant::now(), [0u8; 1024]);
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
        assert!(since.elapsed() < within, "still open {within:?} after the gateway heard");
    }
}

#[test]
fn a_doubled_feed_and_one_out_of_order_are_obeyed_as_ever() {
    let world = world();
    for how in [Events::Doubled, Events::Swapped, Events::AsTheyCome] {
        world.wire.events(how);
        for (who, path) in [(&MACHINE, "/api/x"), (&SAFE, "/vault/x"), (&MACHINE, "/api/x")] {
            let (token, other) = (world.token(who), world.token(who));
            wait_until("tokens pass", Duration::from_secs(15), || world.call(path, &token) == 200 && world.call(path, &other) == 200);
            world.revoke(who, &token);
            // Out of order each event waits for the next, at most a beat.
            wait_until("the gateway refuses", Duration::from_millis(2200), || world.call(path, &token) == 401);
            wait_until("and lets others in", Duration::from_secs(10), || world.call(path, &other) == 200);
        }
        let (token, stream) = world.streaming();
        world.revoke(&MACHINE, &token);
        closed(stream, Duration::from_millis(2200));
    }
    assert!(world.gateway.metric("panics_total") < 1.0);
}

#[test]
fn a_slow_feed_means_asking_and_a_held_one_refusing() {
    let world = world();
    let (streamed, stream) = world.streaming();
    let (token, doomed) = (world.token(&MACHINE), world.token(&MACHINE));
    wait_until("tokens pass", Duration::from_secs(15), || world.call("/api/x", &token) == 200 && world.call("/api/x", &doomed) == 200);
    // Slower than what may be stale (2 s): the gateway asks about every token, and hears the truth.
    world.wire.slow(Duration::from_millis(1500));
    world.revoke(&MACHINE, &doomed);
    wait_until("a revoked token is refused", Duration::from_secs(8), || world.call("/api/x", &doomed) == 401);
    assert_eq!(world.call("/api/x", &doomed), 401, "and stays so");
    wait_until("a good one passes", Duration::from_secs(20), || world.call("/api/x", &token) == 200);
    // Nothing gets through any more, and the connections stay.
    world.wire.slow(Duration::ZERO);
    world.wire.hold();
    world.revoke(&MACHINE, &streamed);
    wait_until("a deaf gateway refuses", Duration::from_secs(20), || [401, 503].contains(&world.call("/api/x", &token)));
    assert_eq!(world.call("/offline/x", &token), 200, "offline asks nobody");
    world.wire.mend();
    closed(stream, Duration::from_secs(6));
    wait_until("it heals", Duration::from_secs(20), || world.call("/api/x", &token) == 200);
    assert_eq!(world.call("/api/x", &streamed), 401);
    // Cut while much is revoked: after the snapshot all of it is known.
    let many: Vec<String> = (0..20).map(|_| world.token(&MACHINE)).collect();
    wait_until("tokens pass", Duration::from_secs(15), || many.iter().all(|token| world.call("/api/x", token) == 200));
    world.wire.cut();
    many.iter().for_each(|token| world.revoke(&MACHINE, token));
    world.wire.mend();
    wait_until("it hears of all", Duration::from_secs(5), || many.iter().all(|token| world.call("/api/x", token) == 401));
    wait_until("it heals", Duration::from_secs(20), || world.call("/api/x", &token) == 200);
    assert!(world.gateway.metric("panics_total") < 1.0);
}
