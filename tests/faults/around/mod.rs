//! Faults of what is around the server: its storage, Redis, the clock, the feed's wire, other nodes, an upgrade, a backup, the end of the process.
mod backup;
mod clock;
mod doubt;
mod drain;
mod durable;
mod feed;
mod load;
mod nodes;
mod redis;
mod storage_postgres;
mod storage_sqlite;
mod upgrade;

/// How often a race is run: `short`, or as often as the long round says.
fn rounds(short: usize) -> usize {
    crate::kit::http::env("DOORWARD_FAULTS_RACES").and_then(|n| n.parse().ok()).unwrap_or(short)
}
