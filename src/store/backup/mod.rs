//! Backups: one portable file of JSON lines for either engine, with a hash at its end.
//!
//! Line 1 is the header, then `["table", column, …]` for each row (octets as hexadecimal), last the number of rows and
//! the SHA-256 of everything before. Sealed keys stay sealed and secrets are MACs or password hashes, as in the tables.
mod restore;
mod tables;

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use ledger::{StoreError, chain};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub(crate) use self::restore::restore;
use self::tables::{Int, STATEMENTS, TABLES, hex, to_json};
use crate::{
    exec::{Cell, Exec, Value},
    migrate, read,
};

/// Hears how far a long operation is: rows done, rows in all (an estimate; 0: not known yet).
pub type Progress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Rows written.
    pub rows: u64,
    /// The ledger position it stands at.
    pub head: u64,
}

/// What a restore brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Rows read.
    pub rows: u64,
    /// The ledger position after the `storage.restored` event.
    pub head: u64,
}

/// Why a backup or restore did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be written or read.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// The file is not a whole backup.
    #[error("line {line} of the backup: {why}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The backup is of a schema this binary does not write.
    #[error("the backup has schema {found}, this doorward has {ours}: restore it with the doorward that made it, then upgrade")]
    Schema {
        /// In the backup.
        found: i64,
        /// In this binary.
        ours: i64,
    },
    /// The database holds what this binary does not know.
    #[error(
        "the database has schema {found}, of which this doorward knows {ours}: make the backup with the newer doorward, which knows all of it"
    )]
    Newer {
        /// In the database.
        found: i64,
        /// In this binary.
        ours: i64,
    },
    /// A restore would mix two histories.
    #[error("the database is not empty: restore into a new one")]
    NotEmpty,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const FORMAT: u32 = 1;
const ROWS_AT_ONCE: i64 = 500;

#[derive(Serialize, Deserialize)]
struct Header {
    doorward_backup: u32,
    schema: i64,
    head: u64,
    hash: String,
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    rows: u64,
    sha256: String,
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |e| BackupError::File { path: path.display().to_string(), why: e.to_string() }
}

/// A file that hashes what goes into it.
struct Hashing<W> {
    out: W,
    hash: Context,
}

impl<W: io::Write> Hashing<W> {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}

/// Writes everything a snapshot sees. The file appears under its name only when it is whole and on disk.
pub(crate) async fn save<E: Exec>(e: &mut E, path: &Path, at_ms: i64, total: u64, progress: &Progress) -> Result<Saved, BackupError> {
    let failed = file_error(path);
    if path.exists() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "is there already")));
    }
    let found = migrate::schema(e).await?;
    if found > migrate::newest() {
        return Err(BackupError::Newer { found, ours: migrate::newest() });
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let saved = match create(part) {
        Ok(file) => write_all(e, file, path, at_ms, total, progress).await,
        Err(error) => return Err(file_error(part)(error)),
    };
    match saved {
        Ok(saved) => std::fs::rename(part, path).and_then(|()| named(path)).map(|()| saved).map_err(failed),
        Err(error) => {
            let _ = std::fs::remove_file(part);
            Err(error)
        }
    }
}

/// The name is on disk too.
fn named(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

async fn write_all<E: Exec>(e: &mut E, file: File, path: &Path, at_ms: i64, total: u64, progress: &Progress) -> Result<Saved, BackupError> {
    let mut out = Hashing { out: BufWriter::new(file), hash: Context::new(&SHA256) };
    let (head, hash) = read::head(e).await?;
    let header = Header { doorward_backup: FORMAT, schema: migrate::newest(), head, hash: chain::hex::encode(&hash), at_ms };
    out.line(&header).map_err(file_error(path))?;
    let mut rows = 0;
    for (table, statements) in TABLES.iter().zip(STATEMENTS.iter()) {
        let mut cursor: Vec<Cell> = table.columns.iter().take(table.key).map(|(_, t)| t.least()).collect();
        loop {
            let found = page(e, statements.page, &cursor, table.columns.len()).await?;
            for cells in &found {
                let line: Vec<Json> = std::iter::once(Json::from(table.name)).chain(cells.iter().map(to_json)).collect();
                out.line(&line).map_err(file_error(path))?;
            }
            rows += found.len() as u64;
            progress(rows, total.max(rows));
            match found.into_iter().last() {
                Some(last) => cursor = last.into_iter().take(table.key).collect(),
                None => break,
            }
            tokio::task::yield_now().await;
        }
    }
    let sha256 = hex(out.hash.finish().as_ref());
    let finish = |mut out: BufWriter<File>| {
        writeln!(out, "{}", serde_json::to_string(&Trailer { rows, sha256 })?)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    finish(out.out).map_err(file_error(path))?;
    Ok(Saved { rows, head })
}

async fn page<E: Exec>(e: &mut E, sql: &'static str, after: &[Cell], columns: usize) -> Result<Vec<Vec<Cell>>, StoreError> {
    let mut values: Vec<Value<'_>> = after.iter().map(|c| c.value(Int)).collect();
    values.push(ROWS_AT_ONCE.into());
    let rows = e.rows(sql, &values).await?;
    rows.into_iter().map(|mut row| (0..columns).map(|_| row.cell()).collect()).collect()
}
