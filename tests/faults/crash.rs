//! `kill -9` at random moments of random work.
use std::time::Duration;

use super::plan::Dice;
use super::world::{Engine, World};

/// Kills until the number is reached; a fresh world every so often.
fn rounds(engine: Engine, kills: u64) {
    let seed = super::seed();
    println!("{}: seed {seed}, {kills} kills", engine.name());
    let (dice, mut done, mut worlds) = (Dice::new(seed), 0, 0);
    while done < kills {
        worlds += 1;
        let plan = dice.part(worlds);
        let Some(mut world) = World::new(engine, plan.clone(), &format!("crash-{}-{seed}-{worlds}", engine.name()), 1, |_| {}) else {
            return;
        };
        let (mut server, mut node) = world.start();
        let mut when = plan.part(77);
        for _ in 0..25.min(kills - done) {
            let moment = Duration::from_millis(when.between(20, 450));
            world.load(&[&node], || {
                std::thread::sleep(moment);
                server.kill();
            });
            (server, node) = world.start();
            done += 1;
            world.judge(&[&node]);
            world.verdict();
        }
        world.judge_all(&[&node]);
        world.verdict();
        println!("{} kills: {:?}", done, world.journal.counts());
        server.stop();
    }
}

#[test]
fn kill_nine_under_load_on_sqlite() {
    rounds(Engine::Sqlite, super::kills(8));
}

#[test]
fn kill_nine_under_load_on_postgres() {
    rounds(Engine::Postgres, super::kills(8));
}
