//! Faults of what is around the server: its storage, Redis, the clock, the feed's wire, other nodes, an upgrade, a backup, the end of the process.
mod load;
mod storage_postgres;
mod storage_sqlite;
