//! SIGKILL at any moment: what was acknowledged is kept, what was spent stays spent.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::kit::http::Go;
use crate::kit::seed::{APP, MACHINE};
use crate::kit::visitor::text;
use crate::kit::{House, Stage};

/// One chain of refresh tokens, spent until the server dies under it.
struct Chain {
    /// Every token that was spent and acknowledged, in order.
    spent: Vec<String>,
    /// The last token that was acknowledged as given.
    held: String,
    /// A request was under way when the server died, so `held` may be spent.
    unsure: bool,
}

fn spin(url: &str, mut chain: Chain, stop: &AtomicBool) -> Chain {
    while !stop.load(Ordering::SeqCst) {
        let form = [("grant_type", "refresh_token"), ("refresh_token", chain.held.as_str())];
        let Ok(answer) = APP.post(url, &form).try_go() else {
            chain.unsure = true;
            break;
        };
        if answer.status != 200 {
            assert!(answer.status >= 500, "a live chain was refused: {}", answer.text());
            chain.unsure = true;
            break;
        }
        let next = text(&answer.json(), "refresh_token");
        chain.spent.push(std::mem::replace(&mut chain.held, next));
    }
    chain
}

#[test]
fn kill_nine_in_a_refresh_loop_loses_nothing_and_resurrects_nothing() {
    let stage = Stage::start(|_| {});
    let Stage { house, mut server, upstream: _upstream } = stage;
    for round in 0..4 {
        let chains: Vec<Chain> = (0..4)
            .map(|_| Chain { spent: Vec::new(), held: text(&server.person_tokens(&APP, "alice"), "refresh_token"), unsure: false })
            .collect();
        let (revoked, kept) = (server.machine_token(&MACHINE, &[]), server.machine_token(&MACHINE, &[]));
        let (url, stop) = (server.url("/token"), AtomicBool::new(false));
        let chains: Vec<Chain> = std::thread::scope(|scope| {
            let threads: Vec<_> = chains.into_iter().map(|c| scope.spawn(|| spin(&url, c, &stop))).collect();
            std::thread::sleep(Duration::from_millis(250 + 150 * round));
            server.revoke(&MACHINE, &revoked);
            server.kill();
            stop.store(true, Ordering::SeqCst);
            threads.into_iter().map(|t| t.join().expect("a chain")).collect()
        });
        server = house.serve();
        assert!(chains.iter().map(|c| c.spent.len()).sum::<usize>() > 0, "nothing was under way");
        // The acknowledged revocation is still there, and the other token still good.
        assert!(!server.active(&revoked) && server.active(&kept));
        for chain in &chains {
            let answer = server.refresh(&APP, &chain.held);
            if chain.unsure {
                // Spent without an acknowledgement, or not spent at all: both are honest.
                assert!([200, 400].contains(&answer.status));
            } else {
                answer.expect(200);
            }
            if let Some(spent) = chain.spent.last() {
                server.refresh(&APP, spent).expect_error(400, "invalid_grant");
            }
        }
    }
    server.stop();
    house.run(&["audit", "verify"]).ok();
}

#[test]
fn an_acknowledged_token_survives_the_kill() {
    let stage = Stage::start(|_| {});
    let Stage { house, server, upstream: _upstream } = stage;
    let tokens = server.person_tokens(&APP, "bob");
    let next = server.refresh(&APP, &text(&tokens, "refresh_token")).expect(200).json();
    server.kill();
    let server = house.serve();
    server.refresh(&APP, &text(&next, "refresh_token")).expect(200);
    server.refresh(&APP, &text(&tokens, "refresh_token")).expect_error(400, "invalid_grant");
}

#[test]
fn a_kill_while_it_starts_leaves_a_database_that_starts() {
    let house = House::new();
    house.bootstrap();
    house.seed(&crate::kit::standard("http://127.0.0.1:9"));
    for _ in 0..3 {
        house.serve().kill();
    }
    house.run(&["audit", "verify"]).ok();
    house.serve().machine_token(&MACHINE, &[]);
}
