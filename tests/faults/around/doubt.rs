//! The wire to PostgreSQL breaks between COMMIT and its answer: whoever asked is told what happened, and it happens once.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::load::expect_away;
use crate::kit::own_postgres::OwnPostgres;
use crate::kit::seed::{APP, standard};
use crate::kit::visitor::text;
use crate::kit::{House, Server, Upstream, wait_until};

/// What becomes of the next commit that has something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Never arrives; both ends hear that the connection is gone.
    Swallowed,
    /// Arrives and is done; its answer is lost with the connection.
    Unanswered,
    /// The server goes on holding the transaction, and gets the commit only after it was asked what became of it.
    Late,
    /// The server goes on holding the transaction until it was asked, and then hears that the connection is gone.
    Given,
}

#[derive(Default)]
struct State {
    fate: Mutex<Option<Fate>>,
    /// The server's end of a connection that the client has lost, with what it is still to get.
    kept: Mutex<Option<(Fate, Vec<u8>, TcpStream)>>,
    /// Nobody gets through any more once the trap has sprung.
    then_away: AtomicBool,
    away: AtomicBool,
}

/// A wire to PostgreSQL with a trap in it.
struct Trap {
    port: u16,
    state: Arc<State>,
}

fn holds(octets: &[u8], what: &[u8]) -> bool {
    octets.windows(what.len()).any(|window| window == what)
}

impl Trap {
    fn before(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for inward in listener.incoming().flatten() {
                if shared.away.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(outward) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let _ = (inward.set_nodelay(true), outward.set_nodelay(true));
                let deaf = Arc::new(AtomicBool::new(false));
                let copy = |stream: &TcpStream| stream.try_clone().expect("a handle");
                let (asks, answers) = ((copy(&inward), copy(&outward)), (outward, inward));
                let (state, cut) = (Arc::clone(&shared), Arc::clone(&deaf));
                std::thread::spawn(move || state.ask(asks.0, asks.1, &cut));
                std::thread::spawn(move || answer(answers.0, answers.1, &deaf));
            }
        });
        Self { port, state }
    }

    fn set(&self, fate: Fate) {
        *self.state.fate.lock().expect("fate") = Some(fate);
    }

    fn sprung(&self) -> bool {
        self.state.fate.lock().expect("fate").is_none()
    }
}

impl State {
    /// From the client to the server.
    fn ask(&self, mut client: TcpStream, mut server: TcpStream, deaf: &AtomicBool) {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            let octets = &buffer[..n];
            let fate = if holds(octets, b"NOTIFY doorward") && holds(octets, b"; COMMIT\0") {
                self.fate.lock().expect("fate").take()
            } else {
                None
            };
            if fate.is_some() {
                self.away.store(self.then_away.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            match fate {
                Some(Fate::Swallowed) => break,
                Some(fate @ (Fate::Late | Fate::Given)) => {
                    *self.kept.lock().expect("kept") = Some((fate, octets.to_vec(), server));
                    let _ = client.shutdown(Shutdown::Both);
                    return;
                }
                Some(Fate::Unanswered) => deaf.store(true, Ordering::SeqCst),
                None => {}
            }
            if server.write_all(octets).is_err() {
                break;
            }
            if holds(octets, b"FOR UPDATE")
                && let Some((fate, octets, mut old)) = self.kept.lock().expect("kept").take()
            {
                let _ = if fate == Fate::Late { old.write_all(&octets) } else { old.shutdown(Shutdown::Both) };
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }
}

/// From the server to the client, who of a deaf wire hears nothing any more, not even that it was done.
fn answer(mut server: TcpStream, mut client: TcpStream, deaf: &AtomicBool) {
    let mut buffer = [0; 16384];
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        let octets = &buffer[..n];
        if deaf.load(Ordering::SeqCst) {
            if holds(octets, b"COMMIT\0") {
                break;
            }
        } else if client.write_all(octets).is_err() {
            break;
        }
    }
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

struct World {
    database: OwnPostgres,
    trap: Trap,
    house: House,
    server: Server,
    _upstream: Upstream,
}

fn world() -> Option<World> {
    let (database, upstream, mut house) = (OwnPostgres::start()?, Upstream::start(), House::new());
    let trap = Trap::before(database.port);
    house.text("storage.url", &database.url_through(trap.port));
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    Some(World { database, trap, house, server, _upstream: upstream })
}

impl World {
    fn refreshed(&self) -> String {
        self.database.sql("SELECT count(*) FROM events WHERE kind = 'token.refreshed'")
    }
}

#[test]
fn a_refresh_whose_commit_was_not_answered_is_told_as_it_went_and_counts_once() {
    let Some(world) = world() else { return };
    let server = &world.server;
    for (fate, outcome) in
        [(Fate::Unanswered, "committed"), (Fate::Swallowed, "undone"), (Fate::Late, "committed"), (Fate::Given, "undone")]
    {
        let in_doubt = || server.metric(&format!("store_commits_in_doubt_total{{outcome=\"{outcome}\"}}"));
        let (before, first) = (in_doubt(), text(&server.person_tokens(&APP, "alice"), "refresh_token"));
        let told: usize = world.refreshed().parse().expect("a number");
        world.trap.set(fate);
        let second = text(&server.refresh(&APP, &first).expect(200).json(), "refresh_token");
        assert!(world.trap.sprung(), "{fate:?}");
        assert!(in_doubt() > before, "{fate:?}");
        assert_eq!(world.refreshed(), (told + 1).to_string(), "{fate:?}");
        // The chain lives, and the token that was used is spent.
        let third = text(&server.refresh(&APP, &second).expect(200).json(), "refresh_token");
        server.refresh(&APP, &first).expect_error(400, "invalid_grant");
        server.refresh(&APP, &third).expect_error(400, "invalid_grant");
    }
    world.house.run(&["audit", "verify"]).ok();
}

#[test]
fn a_database_that_does_not_come_back_to_tell_is_503_and_nothing_is_lost() {
    let Some(world) = world() else { return };
    let server = &world.server;
    let first = text(&server.person_tokens(&APP, "alice"), "refresh_token");
    world.trap.state.then_away.store(true, Ordering::SeqCst);
    world.trap.set(Fate::Swallowed);
    expect_away(&server.refresh(&APP, &first));
    assert!(world.trap.sprung());
    assert_eq!(world.refreshed(), "0", "what was not committed has not happened");
    world.trap.state.away.store(false, Ordering::SeqCst);
    let mut second = None;
    wait_until("it is there again", Duration::from_secs(20), || {
        let answer = server.refresh(&APP, &first);
        if answer.status == 200 {
            second = Some(text(&answer.json(), "refresh_token"));
        } else {
            expect_away(&answer);
        }
        second.is_some()
    });
    server.refresh(&APP, &second.expect("a token")).expect(200);
    assert_eq!(world.refreshed(), "2");
    world.house.run(&["audit", "verify"]).ok();
}
