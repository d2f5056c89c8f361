//! The fault harness (decision 0021): a server under load is killed, starved, cut off and lied to; whatever it acknowledged before is held
//! against it afterwards. `DOORWARD_FAULTS_SEED` repeats a plan, `DOORWARD_FAULTS_KILLS` makes it long; `scripts/faults` sets both.
pub mod hand;
pub mod journal;
pub mod judge;
pub mod node;
pub mod once;
pub mod person;
pub mod plan;
mod rule;
pub mod tokens;
pub mod world;

mod commands;
mod crash;
mod proof;

use crate::kit::http::env;

/// The seed of this run: given, or made and printed.
pub fn seed() -> u64 {
    let seed = env("DOORWARD_FAULTS_SEED").and_then(|s| s.parse().ok());
    seed.unwrap_or_else(|| u64::try_from(crate::kit::http::now()).unwrap_or(1) ^ u64::from(std::process::id()) << 32)
}

/// How many kills a run has, if somebody said so.
pub fn kills(short: u64) -> u64 {
    env("DOORWARD_FAULTS_KILLS").and_then(|s| s.parse().ok()).unwrap_or(short)
}
