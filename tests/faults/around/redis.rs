//! Redis is emptied, killed, paused and started again: limits go on by themselves, and what counts once or is revoked never depended on it.
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::http::{Go, client};
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::own_redis::OwnRedis;
use crate::kit::seed::{APP, HOME, MACHINE, standard};
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Upstream, Visitor, wait_until};

struct World {
    redis: OwnRedis,
    a: Server,
    b: Server,
    house: House,
    _database: OwnPostgres,
    _upstream: Upstream,
}

/// Two nodes whose counters are shared; ten requests a minute of a source.
fn world() -> Option<World> {
    let (redis, database) = (OwnRedis::start()?, OwnPostgres::start()?);
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.text("storage.url", &database.url()).text("shared_state.url", &redis.url());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let limit = json!({"key": "header:x-who", "rate": 10, "period": "600s", "burst": 10});
    seed["routes"]
        .as_array_mut()
        .expect("routes")
        .push(json!({"id": "counted", "match": {"path_prefix": "/counted/"}, "upstream": "echo", "public": true, "rate_limit": limit}));
    house.seed(&seed);
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    Some(World { redis, a, b, house, _database: database, _upstream: upstream })
}

impl World {
    /// How many of twenty requests pass: ten at each node.
    fn pass(&self, who: &str) -> usize {
        let nodes = [&self.a, &self.b];
        let status = |n: usize| client().get(nodes[n % 2].through("/counted/x")).header("x-who", who).go().status;
        let all: Vec<u16> = (0..20).map(status).collect();
        assert!(all.iter().all(|s| [200, 429].contains(s)), "{all:?}");
        all.iter().filter(|s| **s == 200).count()
    }

    fn shared(&self, who: &str) {
        let mut n = 0;
        wait_until("counters are shared", Duration::from_secs(20), || {
            n += 1;
            self.pass(&format!("{who} {n}")) == 10
        });
    }

    /// What counts once counts once, what is revoked is refused, people log in.
    #[track_caller]
    fn right(&self) {
        let mut visitor = Visitor::new();
        let ask = Ask::new(&HOME);
        let code = visitor.walk(&self.a, &ask, "alice").code(&self.a, &ask);
        let given = ask.redeem(&self.a, &code).expect(200).json();
        let at = format!("http://{}/token", self.b.listener("public"));
        let form =
            [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", HOME.redirect), ("code_verifier", &ask.verifier)];
        HOME.post(&at, &form).go().expect_error(400, "invalid_grant");
        self.a.refresh(&HOME, &text(&given, "refresh_token")).expect_error(400, "invalid_grant");
        let spent = text(&visitor.tokens(&self.a, &Ask::new(&APP), "alice"), "refresh_token");
        self.a.refresh(&APP, &spent).expect(200);
        APP.post(&at, &[("grant_type", "refresh_token"), ("refresh_token", &spent)]).go().expect_error(400, "invalid_grant");
        let token = self.a.machine_token(&MACHINE, &[]);
        assert_eq!(self.b.call("/api/x", &token).status, 200);
        self.a.revoke(&MACHINE, &token);
        wait_until("the other node refuses", Duration::from_secs(1), || self.b.call("/api/x", &token).status == 401);
    }
}

#[test]
fn limits_survive_what_happens_to_redis_and_nothing_else_notices() {
    let Some(mut world) = world() else { return };
    world.shared("at first");
    // Emptied: whoever was counted starts afresh, and is counted.
    assert_eq!(world.pass("emptied"), 10);
    world.redis.say("FLUSHALL");
    assert_eq!(world.pass("emptied"), 10);
    world.right();
    // Killed: each node counts for itself, so nobody gets more than both allow.
    world.redis.kill();
    let alone = world.pass("killed");
    assert!((10..=20).contains(&alone), "{alone}");
    assert_eq!(world.pass("killed"), 20 - alone.max(10), "what is used up stays used up: {alone}");
    world.right();
    world.redis.up();
    world.shared("started again");
    // Stands still: nobody waits for it.
    world.redis.pause();
    let begun = Instant::now();
    let alone = world.pass("paused");
    assert!((10..=20).contains(&alone), "{alone}");
    println!("twenty requests beside a Redis that stands still: {:?}", begun.elapsed());
    world.right();
    world.redis.resume();
    world.shared("resumed");
    // Login limits too: failures are counted without it, and a correct password from elsewhere goes through.
    world.redis.kill();
    let mut guesser = Visitor::from("127.0.0.91");
    let mut limited = false;
    for _ in 0..80 {
        let page = guesser.open(&Ask::new(&HOME).url(&world.a)).page();
        if page.status() == 429 {
            limited = true;
            break;
        }
        if guesser.login(&page, "bob", "wrong").page().status() == 429 {
            limited = true;
            break;
        }
    }
    assert!(limited, "guesses are limited without Redis");
    Visitor::from("127.0.0.92").tokens(&world.a, &Ask::new(&HOME), "bob");
    for node in [&world.a, &world.b] {
        assert!(node.metric("panics_total") < 1.0);
    }
    world.house.run(&["audit", "verify"]).ok();
}
