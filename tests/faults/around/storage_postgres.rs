//! PostgreSQL drops connections, restarts, crashes, stops, stands still, refuses to write, is far away: 503 with `Retry-After` meanwhile,
//! nothing acknowledged is lost, and the node finds it again by itself.
use std::time::Duration;

use super::load::{Load, expect_away};
use crate::kit::http::{Go, client};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{APP, MACHINE, SAFE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::wire::Wire;
use crate::kit::{House, Server, Upstream, wait_until};

struct World {
    database: OwnPostgres,
    house: House,
    server: Server,
    _upstream: Upstream,
}

/// A node on a database of its own, reached directly or through a wire.
fn world(wired: bool) -> Option<(World, Option<Wire>)> {
    let (database, upstream, mut house) = (OwnPostgres::start()?, Upstream::start(), House::new());
    let wire = wired.then(|| Wire::between(free_port(), format!("127.0.0.1:{}", database.port)));
    let port = wire.as_ref().map_or(database.port, |wire| wire.port);
    house.text("storage.url", &database.url_through(port));
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    Some((World { database, house, server, _upstream: upstream }, wire))
}

fn load(server: &Server) -> Load {
    Load::new(server, &server.issuer, 2)
}

/// Waits until clients are served again, by `more` answers.
#[track_caller]
fn served_again(load: &Load, more: usize) {
    let until = load.acknowledged() + more;
    wait_until("clients are served again", Duration::from_secs(30), || load.acknowledged() >= until);
}

/// Everybody is told to come back, and a gateway whose knowledge is old lets nobody in.
#[track_caller]
fn everything_waits(server: &Server, token: &str, opaque: &str, refresh: &str) {
    for answer in [
        server.token(&MACHINE, &[("grant_type", "client_credentials")]),
        server.refresh(&APP, refresh),
        server.post("/revoke", &SAFE, &[("token", opaque)]),
        server.post("/introspect", &crate::kit::seed::GW, &[("token", opaque)]),
        server.post(
            "/par",
            &crate::kit::seed::HOME,
            &[
                ("response_type", "code"),
                ("redirect_uri", crate::kit::seed::HOME.redirect),
                ("scope", "openid"),
                ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
                ("code_challenge_method", "S256"),
            ],
        ),
    ] {
        expect_away(&answer);
    }
    wait_until("it says that it is not ready", Duration::from_secs(15), || client().get(server.url("/readyz")).go().status == 503);
    client().get(server.url("/healthz")).go().expect(200);
    wait_until("a gateway whose knowledge is old refuses", Duration::from_secs(15), || {
        [401, 503].contains(&server.call("/api/x", token).status)
    });
}

#[track_caller]
fn in_order(world: &World) {
    assert!(world.server.metric("panics_total") < 1.0);
    world.house.run(&["audit", "verify"]).ok();
}

#[test]
fn dropped_connections_restarts_and_crashes_under_load_lose_nothing() {
    let Some((mut world, _)) = world(false) else { return };
    let load = load(&world.server);
    load.during(|| {
        for _ in 0..3 {
            served_again(&load, 5);
            world.database.drop_connections();
        }
        for signal in ["INT", "QUIT"] {
            served_again(&load, 20);
            world.database.down(signal);
            let refused = load.refused();
            wait_until("clients hear that it is away", Duration::from_secs(15), || load.refused() > refused);
            world.database.up();
        }
        served_again(&load, 20);
    });
    let told = load.judge(&world.server);
    assert_eq!(told.broken, 0, "every request has an answer");
    println!("{} acknowledged, {} told to come back", told.good, told.away);
    in_order(&world);
}

#[test]
fn a_database_that_is_away_or_takes_nothing_is_503_and_heals_by_itself() {
    let Some((mut world, _)) = world(false) else { return };
    let server = &world.server;
    let (token, opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
    let refresh = text(&server.person_tokens(&APP, "alice"), "refresh_token");
    assert_eq!(server.call("/api/x", &token).status, 200);
    world.database.down("INT");
    everything_waits(server, &token, &opaque, &refresh);
    world.database.up();
    wait_until("it is ready again", Duration::from_secs(20), || client().get(server.url("/readyz")).go().status == 200);
    let refresh = text(&server.refresh(&APP, &refresh).expect(200).json(), "refresh_token");
    // A standby that took over, or a disk that was taken away: reads go on, writes do not.
    let head = world.database.sql("SELECT seq FROM chain");
    world.database.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    world.database.sql("SELECT pg_reload_conf()");
    wait_until("nothing is written", Duration::from_secs(10), || {
        server.token(&SAFE, &[("grant_type", "client_credentials")]).status == 503
    });
    expect_away(&server.refresh(&APP, &refresh));
    expect_away(&server.post("/revoke", &SAFE, &[("token", &opaque)]));
    assert!(server.active(&opaque), "what was not acknowledged has not happened");
    assert_eq!(world.database.sql("SELECT count(*) FROM artefacts WHERE kind = 'refresh' AND consumed_at IS NULL"), "1");
    let written = world.database.sql("SELECT seq FROM chain");
    world.database.sql("ALTER SYSTEM RESET default_transaction_read_only");
    world.database.sql("SELECT pg_reload_conf()");
    wait_until("it is written again", Duration::from_secs(20), || server.refresh(&APP, &refresh).status == 200);
    assert!(written.parse::<u64>().expect("a position") >= head.parse().expect("a position"));
    wait_until("the gateway trusts again", Duration::from_secs(10), || server.call("/api/x", &token).status == 200);
    in_order(&world);
}

#[test]
fn a_database_that_stands_still_holds_nobody_for_long_and_what_it_did_late_is_heard() {
    let Some((world, _)) = world(false) else { return };
    let server = &world.server;
    let (token, opaque) = (server.machine_token(&MACHINE, &[]), server.machine_token(&SAFE, &[]));
    let refresh = text(&server.person_tokens(&APP, "alice"), "refresh_token");
    let load = load(server);
    load.during(|| {
        served_again(&load, 10);
        world.database.pause();
        let refused = load.refused();
        everything_waits(server, &token, &opaque, &refresh);
        wait_until("clients hear that it is away", Duration::from_secs(30), || load.refused() > refused + 2);
        world.database.resume();
        served_again(&load, 20);
    });
    let told = load.judge(server);
    assert_eq!(told.broken, 0, "every request has an answer");
    wait_until("the gateway trusts again", Duration::from_secs(10), || server.call("/api/x", &token).status == 200);
    in_order(&world);
}

#[test]
fn a_wire_that_is_cut_held_up_or_slow_loses_nothing() {
    let Some((world, Some(wire))) = world(true) else { return };
    let server = &world.server;
    let load = load(server);
    load.during(|| {
        served_again(&load, 10);
        // In the middle of transactions, commits and answers.
        for pause in [0, 3, 7, 11, 17] {
            wire.cut();
            std::thread::sleep(Duration::from_millis(pause));
            wire.mend();
            served_again(&load, 3);
        }
        wire.slow(Duration::from_millis(30));
        served_again(&load, 3);
        wire.slow(Duration::ZERO);
        wire.hold();
        let refused = load.refused();
        wait_until("clients hear that it is away", Duration::from_secs(30), || load.refused() > refused);
        wire.mend();
        served_again(&load, 10);
        wire.cut();
        let refused = load.refused();
        wait_until("clients hear that it is away", Duration::from_secs(30), || load.refused() > refused + 3);
        wire.mend();
        served_again(&load, 10);
    });
    let told = load.judge(server);
    assert_eq!(told.broken, 0, "every request has an answer");
    in_order(&world);
}
