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
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16 }
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

/// Opens (and brings up to date) the database of a URL: `sqlite:///path`, `sqlite://path`, `postgres://…` or `postgresql://…`.
/// Must be called inside a tokio runtime.
///
/// Register listeners before loading revocations with [`ledger::Store::revocations`]: commits after the opening are
/// told to listeners, commits before it are found in the table.
///
/// # Errors
/// [`OpenError`]: a malformed URL, a locked file, an unknown or changed schema, a database that is away.
pub async fn open(url: &str, options: &Options, clock: Arc<dyn Clock>) -> Result<Arc<dyn Database>, OpenError> {
    match url.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && !path.contains('?') => Ok(Arc::new(sqlite::open(PathBuf::from(path), clock).await?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres::open(url, options, clock).await?)),
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
