//! The wall clock jumps ahead by an hour and back, under a running server (libfaketime): what should end ends, and nothing that was used or
//! revoked counts again.
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::forge::Key;
use crate::kit::http::{Answer, Go, claims, client, now, random};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{API, APP, HOME, MACHINE, SAFE, standard};
use crate::kit::visitor::text;
use crate::kit::wire::Wire;
use crate::kit::{Ask, House, Landing, Server, Upstream, Visitor, services, wait_until};
use crate::remote_gateway::gateway_house;

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const HOUR: i64 = 3600;

/// The library that answers instead of the system's clock.
fn faketime() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib", "/usr/lib64"];
    let found = places.iter().map(|dir| PathBuf::from(dir).join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        services::skip("libfaketime (package faketime)");
    }
    found
}

/// A clock for all processes of some houses.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn of(house: &House) -> Option<Self> {
        let clock = Self { file: house.path("clock"), library: faketime()? };
        clock.set(0);
        Some(clock)
    }

    /// So many seconds ahead of (or behind) the real time.
    fn set(&self, offset: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{offset:+}\n")).expect("a file");
        std::fs::rename(&next, &self.file).expect("a file");
    }

    fn rule(&self, house: &mut House) {
        house.env("LD_PRELOAD", &self.library.display().to_string());
        house.env("FAKETIME_TIMESTAMP_FILE", &self.file.display().to_string());
        house.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

struct World {
    clock: Clock,
    house: House,
    server: Server,
    key: Key,
    _upstream: Upstream,
}

fn world(storage: Option<&OwnPostgres>) -> Option<World> {
    let (upstream, mut house, key) = (Upstream::start(), House::new(), Key::new("one"));
    let clock = Clock::of(&house)?;
    if let Some(database) = storage {
        house.text("storage.url", &database.url());
    }
    house.text("lifetimes.session", "30m");
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["clients"].as_array_mut().expect("clients").push(json!({
        "client_id": "signer", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"], "redirect_uris": [],
        "response_types": [], "scope": "read", "allowed_resources": [API], "jwks": {"keys": [key.jwk()]},
    }));
    let limit = json!({"key": "ip", "rate": 3, "period": "30s", "burst": 3});
    seed["routes"]
        .as_array_mut()
        .expect("routes")
        .push(json!({"id": "counted", "match": {"path_prefix": "/counted/"}, "upstream": "echo", "public": true, "rate_limit": limit}));
    house.seed(&seed);
    clock.rule(&mut house);
    let server = house.serve();
    Some(World { clock, house, server, key, _upstream: upstream })
}

impl World {
    fn assertion(&self, at: i64) -> String {
        let claims = json!({"iss": "signer", "sub": "signer", "aud": self.server.issuer, "jti": random(), "iat": at, "exp": at + 280});
        self.key.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": self.key.kid}), &claims)
    }

    fn prove(&self, assertion: &str) -> Answer {
        let form = [("client_assertion_type", TYPE), ("client_assertion", assertion), ("grant_type", "client_credentials")];
        client().post(self.server.url("/token")).form(&form).go()
    }

    /// Two rounds of the purge begin from now on, so that one has ended.
    fn purged(&self) {
        let runs = || self.server.metric("store_purge_runs_total");
        let before = runs();
        wait_until("what has expired is purged", Duration::from_secs(40), || runs() >= before + 2.0);
    }

    /// Every position once, in order, whatever the times beside them.
    #[track_caller]
    fn in_order(&self) {
        assert!(self.server.metric("panics_total") < 1.0);
        self.house.run(&["audit", "verify"]).ok();
        let (mut after, mut last) = (None::<String>, 0);
        loop {
            let path = after.as_ref().map_or("/events?limit=100".to_owned(), |cursor| format!("/events?limit=100&cursor={cursor}"));
            let page: Value = self.server.admin("GET", &path).go().expect(200).json();
            for event in page["items"].as_array().expect("items") {
                let seq = event["seq"].as_i64().expect("a position");
                assert!(last == 0 || seq == last + 1 || seq == last - 1, "{last} {seq}");
                last = seq;
            }
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => break,
            }
        }
    }
}

/// Ahead by an hour, purging there, and back.
fn ahead_and_back(world: &World) {
    let server = &world.server;
    let mut visitor = Visitor::new();
    let ask = Ask::new(&HOME);
    let code = visitor.walk(server, &ask, "alice").code(server, &ask);
    let kept = ask.redeem(server, &code).expect(200).json();
    let chain = server.person_tokens(&APP, "bob");
    let spent = text(&chain, "refresh_token");
    let held = text(&server.refresh(&APP, &spent).expect(200).json(), "refresh_token");
    let (jwt, opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
    let (revoked, revoked_opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
    server.revoke(&MACHINE, &revoked);
    server.revoke(&SAFE, &revoked_opaque);
    let assertion = world.assertion(now());
    world.prove(&assertion).expect(200);

    world.clock.set(HOUR);
    wait_until("a token has expired", Duration::from_secs(5), || server.call("/api/x", &jwt).status == 401);
    assert!(!server.active(&jwt) && !server.active(&opaque));
    let silent = Ask::new(&HOME).with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(server)).error(server), "login_required", "the session has ended");
    let later = server.machine_token(&MACHINE, &[]);
    wait_until("what is new passes", Duration::from_secs(5), || server.call("/api/x", &later).status == 200);
    let moved = text(&server.refresh(&APP, &held).expect(200).json(), "refresh_token");
    world.prove(&world.assertion(now() + HOUR)).expect(200);
    world.purged();
    server.refresh(&APP, &spent).expect_error(400, "invalid_grant");

    world.clock.set(0);
    world.prove(&assertion).expect_error(401, "invalid_client");
    for token in [&revoked, &revoked_opaque] {
        assert!(!server.active(token), "a revoked token lives again");
    }
    assert_eq!(server.call("/api/x", &revoked).status, 401);
    ask.redeem(server, &code).expect_error(400, "invalid_grant");
    wait_until("the second use of a code ends what it gave", Duration::from_secs(1), || !server.active(&text(&kept, "access_token")));
    server.refresh(&APP, &held).expect_error(400, "invalid_grant");
    server.refresh(&APP, &moved).expect_error(400, "invalid_grant");
    let fresh = server.machine_token(&MACHINE, &[]);
    wait_until("what is new passes", Duration::from_secs(10), || server.call("/api/x", &fresh).status == 200);
    server.revoke(&MACHINE, &fresh);
    wait_until("a revocation is obeyed", Duration::from_secs(1), || server.call("/api/x", &fresh).status == 401);
    assert!(matches!(Visitor::new().walk(server, &Ask::new(&HOME), "alice"), Landing::Away(_)));
    world.in_order();
}

/// An hour back, and limits that were used up.
fn back(world: &World) {
    let server = &world.server;
    let counted = || client().get(server.through("/counted/x")).go().status;
    wait_until("the limit is used up", Duration::from_secs(5), || counted() == 429);
    let chain = server.person_tokens(&APP, "carol");
    let spent = text(&chain, "refresh_token");
    let held = text(&server.refresh(&APP, &spent).expect(200).json(), "refresh_token");
    let (revoked, ask, mut visitor) = (server.machine_token(&MACHINE, &[]), Ask::new(&HOME), Visitor::new());
    server.revoke(&MACHINE, &revoked);
    let code = visitor.walk(server, &ask, "bob").code(server, &ask);
    ask.redeem(server, &code).expect(200);
    let assertion = world.assertion(now());
    world.prove(&assertion).expect(200);

    world.clock.set(-HOUR);
    wait_until("a limit locks nobody out for longer than its window", Duration::from_secs(40), || {
        std::thread::sleep(Duration::from_millis(200));
        counted() == 200
    });
    let fresh = server.machine_token(&MACHINE, &[]);
    assert!(claims(&fresh)["iat"].as_i64().expect("iat") < now() - HOUR + 60);
    wait_until("what is new passes", Duration::from_secs(10), || server.call("/api/x", &fresh).status == 200);
    server.revoke(&MACHINE, &fresh);
    wait_until("a revocation is obeyed", Duration::from_secs(1), || server.call("/api/x", &fresh).status == 401);
    assert!(!server.active(&revoked) && server.call("/api/x", &revoked).status == 401);
    ask.redeem(server, &code).expect_error(400, "invalid_grant");
    // From the future now, and used before.
    world.prove(&assertion).expect_error(401, "invalid_client");
    let proved = world.assertion(now() - HOUR);
    world.prove(&proved).expect(200);
    world.prove(&proved).expect_error(401, "invalid_client");
    let next = text(&server.refresh(&APP, &held).expect(200).json(), "refresh_token");
    server.refresh(&APP, &spent).expect_error(400, "invalid_grant");
    server.refresh(&APP, &next).expect_error(400, "invalid_grant");

    world.clock.set(0);
    world.prove(&assertion).expect_error(401, "invalid_client");
    ask.redeem(server, &code).expect_error(400, "invalid_grant");
    assert!(!server.active(&fresh) && !server.active(&revoked));
    server.machine_token(&MACHINE, &[]);
    world.in_order();
}

#[test]
fn a_clock_that_jumps_ahead_and_back_revives_nothing() {
    let Some(world) = world(None) else { return };
    ahead_and_back(&world);
}

#[test]
fn a_clock_that_jumps_back_locks_nobody_out_and_revives_nothing() {
    let Some(world) = world(None) else { return };
    back(&world);
}

#[test]
fn a_clock_that_jumps_ahead_and_back_revives_nothing_on_postgresql() {
    let Some(database) = OwnPostgres::start() else { return };
    let Some(world) = world(Some(&database)) else { return };
    ahead_and_back(&world);
}

#[test]
fn a_gateway_whose_clock_jumps_goes_on_hearing_and_one_set_back_is_not_fresh_for_it() {
    let (upstream, mut house) = (Upstream::start(), House::new());
    let Some(clock) = Clock::of(&house) else { return };
    let behind = crate::kit::server::free_port();
    let in_front: u16 = house.issuer.rsplit(':').next().expect("a port").parse().expect("a port");
    house.text("server.public_listen", &format!("127.0.0.1:{behind}")).set("server.roles", r#"["auth", "admin"]"#);
    let wire = Wire::between(in_front, format!("127.0.0.1:{behind}"));
    house.bootstrap();
    let seed = standard(&upstream.url());
    house.seed(&seed);
    let mut gateway = gateway_house(&house);
    gateway.set("outbound.allow", &format!("[\"{}\"]", house.issuer.trim_start_matches("http://")));
    gateway.seed(&json!({"upstreams": seed["upstreams"], "routes": seed["routes"]}));
    clock.rule(&mut house);
    clock.rule(&mut gateway);
    let (server, gateway) = (house.serve(), gateway.serve());
    let call = |token: &str| client().get(gateway.through("/api/x")).bearer_auth(token).go().status;
    for offset in [0, HOUR, 0, -HOUR] {
        clock.set(offset);
        let token = server.machine_token(&MACHINE, &[]);
        wait_until("what is new passes", Duration::from_secs(15), || call(&token) == 200);
        server.revoke(&MACHINE, &token);
        wait_until("a revocation arrives", Duration::from_secs(1), || call(&token) == 401);
    }
    // Cut off, and the clock goes back: what it knows grows old all the same.
    clock.set(0);
    let (token, doomed) = (server.machine_token(&MACHINE, &[]), server.machine_token(&MACHINE, &[]));
    wait_until("it passes", Duration::from_secs(15), || call(&token) == 200 && call(&doomed) == 200);
    wire.cut();
    let direct = format!("http://{}/revoke", server.listener("public"));
    MACHINE.post(&direct, &[("token", &doomed)]).go().expect(200);
    // Within the leeway for what was issued a moment ago.
    clock.set(-8);
    wait_until("a deaf gateway refuses everything", Duration::from_secs(7), || [401, 503].contains(&call(&token)));
    assert_ne!(call(&doomed), 200);
    clock.set(0);
    wire.mend();
    wait_until("it heals", Duration::from_secs(20), || call(&token) == 200);
    wait_until("and has heard", Duration::from_secs(3), || call(&doomed) == 401);
    assert!(server.metric("panics_total") < 1.0 && gateway.metric("panics_total") < 1.0);
}
