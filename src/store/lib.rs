//! The world's side of the ledger: SQLite, PostgreSQL, Redis.
