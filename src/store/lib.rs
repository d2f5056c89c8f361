//! The world's side of the ledger: SQLite, PostgreSQL, Redis.
//!
//! Every statement stands once in [`statements`], every read in [`read`], every change in [`apply`]. [`writer`] is the
//! one writer of a node (group commit); [`sqlite`] and [`postgres`] hold the handling of connections and nothing else.
//! [`memory`] and [`redis`] count for rate limits; they may vanish at any time.
mod apply;
mod backup;
#[cfg(test)]
mod contract;
mod engine;
mod exec;
mod follow;
mod group;
pub mod memory;
mod migrate;
mod open;
mod postgres;
mod purge;
mod read;
mod recent;
pub mod redis;
mod sqlite;
mod statements;
mod writer;

pub use backup::{BackupError, Progress, Restored, Saved};
pub use engine::{Database, RESTORE_PENDING, RESTORED_AT};
pub use open::{OpenError, Options, open};
pub use postgres::{ReplicaReport, Standing};
