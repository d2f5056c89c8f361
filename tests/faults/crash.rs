//! `kill -9` at random moments of random work. `DOORWARD_FAULTS_KILLS` says how many, and one line says how far it is.
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::commands;
use super::plan::Dice;
use super::world::{Engine, World};

/// Kills before a world is given up.
const LIFE: u64 = 25;

#[derive(Default)]
struct Figures {
    kills: u64,
    done: usize,
    unsure: usize,
    violations: usize,
}

/// One line for both engines.
static BOARD: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());

/// What was done so far, told in one line.
pub struct Score {
    engine: Engine,
    goal: u64,
    begun: Instant,
    figures: Mutex<Figures>,
    /// The figures of the world that is under way.
    now: Mutex<(usize, usize, usize)>,
}

impl Score {
    fn new(engine: Engine, goal: u64) -> Self {
        Self { engine, goal, begun: Instant::now(), figures: Mutex::default(), now: Mutex::default() }
    }

    /// One more.
    pub fn kill(&self) {
        self.figures.lock().expect("figures").kills += 1;
        self.tell(false);
    }

    /// Broken promises.
    pub fn add(&self, violations: usize) {
        self.figures.lock().expect("figures").violations += violations;
    }

    fn world(&self, world: &World, over: bool) {
        let counts = world.journal.counts();
        let mut figures = self.figures.lock().expect("figures");
        *self.now.lock().expect("figures") = if over { (0, 0, 0) } else { (counts.done, counts.unsure, counts.violations) };
        if over {
            figures.done += counts.done;
            figures.unsure += counts.unsure;
            figures.violations += counts.violations;
        }
    }

    fn tell(&self, last: bool) {
        let (figures, now) = (self.figures.lock().expect("figures"), *self.now.lock().expect("figures"));
        let line = format!(
            "{}: {} of {} kills, {} acknowledged, {} unsure, {} violations, {} s",
            self.engine.name(),
            figures.kills,
            self.goal,
            figures.done + now.0,
            figures.unsure + now.1,
            figures.violations + now.2,
            self.begun.elapsed().as_secs()
        );
        let mut board = BOARD.lock().expect("the board");
        board.insert(self.engine.name(), line);
        let mut out = std::io::stderr();
        if out.is_terminal() {
            let lines: Vec<&str> = board.values().map(String::as_str).collect();
            let _ = write!(out, "\r{}\x1b[K{}", lines.join(" | "), if last { "\n" } else { "" });
        } else if last || figures.kills % 50 == 0 {
            let _ = writeln!(out, "{}", board[self.engine.name()]);
        }
    }
}

/// The whole plan of an engine.
fn rounds(engine: Engine, short: u64) {
    let (seed, kills) = (super::seed(), super::kills(short));
    println!("{}: DOORWARD_FAULTS_SEED={seed}, {kills} kills", engine.name());
    let (dice, score) = (Dice::new(seed), Score::new(engine, kills));
    // Of ten kills one each in the three commands that make a database; on PostgreSQL two in a node beside another.
    let each = (kills / 10).max(2);
    commands::bootstrap(engine, &dice.part(501), each, &score);
    commands::migrate(engine, &dice.part(502), each, &score);
    commands::restore(engine, &dice.part(503), each, &score);
    if engine == Engine::Postgres {
        beside_another(&dice.part(504), 2 * each, &score);
    }
    let (mut worlds, so_far) = (0, score.figures.lock().expect("figures").kills);
    let mut left = kills.saturating_sub(so_far).max(short.min(4));
    while left > 0 {
        worlds += 1;
        let life = left.min(LIFE);
        if !alone(engine, &dice.part(worlds), &format!("crash-{}-{seed}-{worlds}", engine.name()), life, &score) {
            return;
        }
        left -= life;
    }
    score.tell(true);
}

/// One world with one node: killed under load, or in a command.
fn alone(engine: Engine, plan: &Dice, name: &str, kills: u64, score: &Score) -> bool {
    let Some(mut world) = World::new(engine, plan.clone(), name, 1, |_| {}) else { return false };
    let (mut server, mut node) = world.start();
    let mut when = plan.part(77);
    for n in 0..kills {
        if when.one_in(5) {
            server.stop();
            commands::offline(&world, n, &mut when);
        } else {
            let moment = Duration::from_millis(when.between(20, 450));
            world.load(&[&node], || {
                std::thread::sleep(moment);
                server.kill();
            });
        }
        (server, node) = world.start();
        world.judge(&[&node]);
        score.kill();
        score.world(&world, false);
        world.verdict();
    }
    world.judge_all(&[&node]);
    score.world(&world, true);
    world.verdict();
    server.stop();
    true
}

/// Two nodes on one database; one is killed, and the other goes on.
fn beside_another(plan: &Dice, kills: u64, score: &Score) {
    let (mut when, mut left) = (plan.part(78), kills);
    while left > 0 {
        let life = left.min(LIFE);
        left -= life;
        let Some(mut world) = World::new(Engine::Postgres, plan.part(left), "crash-two-nodes", 2, |_| {}) else { return };
        let (mut a, mut at_a) = world.start();
        let (mut b, mut at_b) = world.start_second();
        for _ in 0..life {
            let (first, moment) = (when.one_in(2), Duration::from_millis(when.between(60, 500)));
            if first {
                world.load(&[&at_a, &at_b], || {
                    std::thread::sleep(moment);
                    a.kill();
                });
                (a, at_a) = world.start();
            } else {
                world.load(&[&at_a, &at_b], || {
                    std::thread::sleep(moment);
                    b.kill();
                });
                (b, at_b) = world.start_second();
            }
            world.judge(&[&at_a, &at_b]);
            score.kill();
            score.world(&world, false);
            world.verdict();
        }
        world.judge_all(&[&at_a, &at_b]);
        score.world(&world, true);
        world.verdict();
        b.stop();
        a.stop();
    }
}

#[test]
fn kill_nine_on_sqlite() {
    rounds(Engine::Sqlite, 14);
}

#[test]
fn kill_nine_on_postgres() {
    rounds(Engine::Postgres, 16);
}
