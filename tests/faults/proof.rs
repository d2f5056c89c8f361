//! The judge can see: databases that forget, forgive or repeat what was acknowledged are found out.
use std::path::PathBuf;
use std::time::Duration;

use super::plan::Dice;
use super::world::{Engine, World};

/// A server that dies after work, a database that somebody changed since, and what the judge says.
fn after(what: &str, change: impl FnOnce(&World, &[(PathBuf, Vec<u8>)])) -> Vec<String> {
    let mut world = World::new(Engine::Sqlite, Dice::new(7), what, 1, |_| {}).expect("SQLite is always there");
    let (server, node) = world.start();
    world.load(&[&node], || std::thread::sleep(Duration::from_millis(600)));
    world.judge(&[&node]);
    world.verdict();
    server.kill();
    let before: Vec<(PathBuf, Vec<u8>)> = ["doorward.db", "doorward.db-wal"]
        .iter()
        .filter_map(|name| std::fs::read(world.house.path(name)).ok().map(|bytes| (world.house.path(name), bytes)))
        .collect();
    let (server, node) = world.start();
    let enough = |world: &World| world.journal.counts().done;
    let begun = enough(&world);
    // As much as a busy machine can do in a while, and never nothing.
    for _ in 0..20 {
        world.load(&[&node], || std::thread::sleep(Duration::from_millis(400)));
        if enough(&world) > begun + 150 {
            break;
        }
    }
    server.kill();
    change(&world, &before);
    let (_server, node) = world.start();
    world.judge_all(&[&node]);
    world.journal.violations()
}

fn sql(world: &World, text: &str) {
    let db = rusqlite::Connection::open(world.house.path("doorward.db")).expect("a database");
    db.execute_batch(text).expect("changed");
}

#[track_caller]
fn seen(broken: &[String], what: &str) {
    assert!(broken.iter().any(|text| text.contains(what)), "nothing about {what:?} in {broken:#?}");
}

/// What a server would leave that answers before its commit is on disk.
#[test]
fn a_database_that_forgets_what_was_acknowledged_is_seen() {
    let broken = after("forgets", |world, before| {
        let _ = std::fs::remove_file(world.house.path("doorward.db-wal"));
        let _ = std::fs::remove_file(world.house.path("doorward.db-shm"));
        before.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("put back"));
    });
    seen(&broken, "told 0 times, has to be 1");
    seen(&broken, "has to be Dead");
    seen(&broken, "used twice");
    seen(&broken, "has to be one of");
}

#[test]
fn a_revocation_that_is_gone_is_seen() {
    seen(&after("forgives", |world, _| sql(world, "DELETE FROM revocations")), "has to be Dead");
}

#[test]
fn a_thing_of_one_use_that_can_be_used_again_is_seen() {
    let again = "UPDATE artefacts SET consumed_at = NULL, successor = NULL; DELETE FROM artefacts WHERE kind IN ('once', 'jti', 'proof')";
    seen(&after("repeats", |world, _| sql(world, again)), "used twice");
}

#[test]
fn an_object_and_a_session_that_are_gone_are_seen() {
    let broken = after("loses", |world, _| {
        sql(world, "DELETE FROM objects WHERE id LIKE 'h%-%'; UPDATE sessions SET ended_at = 1 WHERE ended_at IS NULL");
    });
    seen(&broken, "has to be one of");
    seen(&broken, "Session");
}
