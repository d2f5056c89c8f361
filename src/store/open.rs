//! Opening a database by its URL.
use std::{path::PathBuf, sync::Arc};

use ledger::StoreError;
use tokens::Clock;

use crate::{Database, postgres, sqlite};

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections a node reads PostgreSQL with (one more writes, one more listens).
    pub connections: usize,
    /// Only reads, beside whatever process writes: no lock, no migration, no writer. A change is refused, listeners hear
    /// nothing, and a schema that is not this binary's is refused.
    pub read_only: bool,
    /// The URLs of PostgreSQL's replicas.
    pub replicas: Vec<String>,
    /// How far behind a replica may be.
    pub max_replica_lag_ms: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, read_only: false, replicas: Vec::new(), max_replica_lag_ms: 5_000 }
    }
}

/// Why a database cannot be opened. The texts name what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no database we know.
    #[error("{0:?} is not a database URL: use sqlite:///path/to/file or postgres://user@host/name")]
    Url(String),
    /// Another process has it.
    #[error("another process is using the database {database}: it holds the lock {lock}")]
    Locked {
        /// The database file.
        database: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The file system says no.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The schema is not one this binary may use.
    #[error("{0}")]
    Schema(String),
    /// The database does not answer or answers nonsense.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens (and, unless it is opened for reading only, brings up to date) the database of a URL: `sqlite:///path`, `sqlite://path`, `postgres://…` or `postgresql://…`.
/// Must be called inside a tokio runtime.
///
/// Register listeners before loading revocations with [`ledger::Store::revocations`]: commits after the opening are
/// told to listeners, commits before it are found in the table.
///
/// # Errors
/// [`OpenError`]: a malformed URL, a locked file, an unknown or changed schema, a database that is away.
pub async fn open(url: &str, options: &Options, clock: Arc<dyn Clock>) -> Result<Arc<dyn Database>, OpenError> {
    match url.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && !path.contains('?') => {
            let path = PathBuf::from(path);
            Ok(Arc::new(if options.read_only { sqlite::open_reading(&path, clock).await? } else { sqlite::open(path, clock).await? }))
        }
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(if options.read_only {
            postgres::open_reading(url, options, clock).await?
        } else {
            postgres::open(url, options, clock).await?
        })),
        _ => Err(OpenError::Url(hide_password(url))),
    }
}

/// A URL as it may be shown.
pub(crate) fn hide_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(end)) if start + 3 <= end => {
            let (scheme, rest) = (url.get(..start + 3).unwrap_or_default(), url.get(end..).unwrap_or_default());
            format!("{scheme}…{rest}")
        }
        _ => url.to_owned(),
    }
}
