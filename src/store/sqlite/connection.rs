//! SQLite connections: statements prepared once and kept, faults sorted.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ledger::StoreError;
use parking_lot::Mutex;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, ToSql,
    config::DbConfig,
    types::{ToSqlOutput, ValueRef},
};

use crate::{
    exec::{Cell, Exec, Row, Value, Write, args},
    open::OpenError,
    read,
    sqlite::{
        file_error,
        folding::{Folding, LONG, Log, SAFE, SLICE},
        lock::private,
        place::Place,
    },
};

/// Idle readers kept.
const IDLE: usize = 16;
/// Prepared statements kept by each connection.
const STATEMENTS: usize = 256;

/// The file is not mapped: after each commit a mapping is given up and made anew by the next read, which costs three times the read.
pub(super) const COMMON: &str = "PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;";
/// Pages can be given back only if a file was begun so.
const WRITING: &str = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384; \
    PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;";
const READING: &str = "PRAGMA query_only = ON; PRAGMA cache_size = -4096;";

/// Up to here rows are counted one by one.
const EXACT: i64 = 50_000;
/// Above, so many stretches of a table's row ids are looked at, each so long.
const STRETCHES: i64 = 64;
const LENGTH: i64 = 64;

/// The tables that are counted; positions in the ledger have no gap and its events need no counting.
const COUNTED: [&str; 9] = ["artefacts", "grants", "sessions", "consents", "objects", "secrets", "keys", "meta", "revocations"];
const EVENTS: &str = "SELECT COALESCE((SELECT MAX(seq) FROM events) - (SELECT MIN(seq) FROM events) + 1, 0)";

/// Pages given back at once.
const GIVEN_BACK: i64 = 1000;
/// Free pages that are kept for what comes next, whatever the size of the file.
const KEPT_FREE: i64 = 1000;

pub(super) fn fault(e: &rusqlite::Error) -> StoreError {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OperationInterrupted, OutOfMemory, PermissionDenied,
        ReadOnly, SystemIoFailure,
    };
    match e.sqlite_error_code() {
        Some(
            DatabaseBusy
            | DatabaseLocked
            | DiskFull
            | ReadOnly
            | SystemIoFailure
            | CannotOpen
            | OutOfMemory
            | PermissionDenied
            | FileLockingProtocolFailed
            | OperationInterrupted,
        ) => StoreError::Unavailable(e.to_string()),
        _ => StoreError::Corrupt(e.to_string()),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Int(Some(v)) => ValueRef::Integer(v),
            Self::Text(Some(v)) => ValueRef::Text(v.as_bytes()),
            Self::Blob(Some(v)) => ValueRef::Blob(v),
            Self::Int(None) | Self::Text(None) | Self::Blob(None) => ValueRef::Null,
        }))
    }
}

fn run(c: &Connection, sql: &str, args: &[Value<'_>]) -> Result<u64, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(|e| fault(&e))?;
    for (at, value) in args.iter().enumerate() {
        statement.raw_bind_parameter(at + 1, value).map_err(|e| fault(&e))?;
    }
    statement.raw_execute().map(|touched| touched as u64).map_err(|e| fault(&e))
}

pub(super) fn rows(c: &Connection, sql: &str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(|e| fault(&e))?;
    let columns = statement.column_count();
    for (at, value) in args.iter().enumerate() {
        statement.raw_bind_parameter(at + 1, value).map_err(|e| fault(&e))?;
    }
    let (mut rows, mut found) = (statement.raw_query(), Vec::new());
    while let Some(row) = rows.next().map_err(|e| fault(&e))? {
        let cells = (0..columns).map(|at| cell(row.get_ref(at).map_err(|e| fault(&e))?)).collect::<Result<_, _>>()?;
        found.push(Row::new(cells));
    }
    Ok(found)
}

/// The number a statement gives.
fn number(c: &Connection, sql: &str, args: &[Value<'_>]) -> Result<u64, StoreError> {
    rows(c, sql, args)?.into_iter().next().map_or(Ok(0), |mut r| Ok(u64::try_from(r.maybe_int()?.unwrap_or(0)).unwrap_or(0)))
}

/// About how many rows a table has.
fn about(c: &Connection, table: &str) -> Result<u64, StoreError> {
    let few = number(c, &format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {EXACT})"), &[])?;
    if few < EXACT.unsigned_abs() {
        return Ok(few);
    }
    let end = |which: &str| rows(c, &format!("SELECT {which}(rowid) FROM {table}"), &[])?.into_iter().next().map_or(Ok(0), |mut r| r.int());
    let (first, last) = (end("min")?, end("max")?);
    let step = (last - first) / STRETCHES;
    if step <= LENGTH {
        return number(c, &format!("SELECT count(*) FROM {table}"), &[]);
    }
    let stretch = format!("SELECT count(*) FROM {table} WHERE rowid >= $1 AND rowid < $2");
    let mut seen = 0;
    for n in 0..STRETCHES {
        // Not always at the same place of a step: what comes in rounds would be seen always or never.
        let from = first + n * step + (n * 7919) % (step - LENGTH);
        seen += number(c, &stretch, args![from, from + LENGTH])?;
    }
    let of = u128::from((last - first).unsigned_abs()) + 1;
    let all = u128::from(seen) * of / u128::from((STRETCHES * LENGTH).unsigned_abs());
    Ok(u64::try_from(all).unwrap_or(u64::MAX).max(few))
}

fn cell(value: ValueRef<'_>) -> Result<Cell, StoreError> {
    match value {
        ValueRef::Null => Ok(Cell::Null),
        ValueRef::Integer(v) => Ok(Cell::Int(v)),
        ValueRef::Blob(v) => Ok(Cell::Blob(v.to_vec())),
        ValueRef::Text(v) => {
            std::str::from_utf8(v).map(|v| Cell::Text(v.to_owned())).map_err(|_| StoreError::Corrupt("stored text is not UTF-8".to_owned()))
        }
        ValueRef::Real(_) => Err(StoreError::Corrupt("a column holds a fraction".to_owned())),
    }
}

fn give_back(c: &Connection) -> Result<(), StoreError> {
    let pragma = |sql| c.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|e| fault(&e));
    let (free, all) = (pragma("PRAGMA freelist_count")?, pragma("PRAGMA page_count")?);
    if free <= KEPT_FREE || free <= all / 4 {
        return Ok(());
    }
    // Each step gives back one page.
    let mut statement = c.prepare(&format!("PRAGMA incremental_vacuum({})", GIVEN_BACK.min(free - KEPT_FREE))).map_err(|e| fault(&e))?;
    let mut steps = statement.raw_query();
    while steps.next().map_err(|e| fault(&e))?.is_some() {}
    Ok(())
}

/// The writing connection.
pub(crate) struct Writer {
    connection: Connection,
    place: Option<Arc<Place>>,
    path: PathBuf,
    folding: Option<Folding>,
    /// At so many open pages of the log they are folded next.
    due: i64,
    /// At so many pages it is tried next to let it begin anew.
    anew: i64,
    /// Rows changed so far, when that was looked at last.
    changes: u64,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        drop(private(path)?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| file_error(path, &e))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch(COMMON).and_then(|()| connection.execute_batch(WRITING)).map_err(|e| file_error(path, &e))?;
        Ok(Self { connection, place: None, path: path.to_owned(), folding: None, due: SLICE, anew: LONG, changes: 0 })
    }

    /// Has the log folded into the database file a little at a time, beside the commits. Its last pages are folded here, or it would never
    /// begin anew while commits go on. Where a reader keeps the log from being folded, that is tried a slice later again, and what SQLite does by
    /// itself is what there was always.
    pub(crate) fn fold(&mut self) -> Result<(), StoreError> {
        if rusqlite::version_number() < SAFE {
            return Ok(());
        }
        let log = Log::of(&self.connection)?;
        let open = log.open();
        if open < SLICE {
            self.due = SLICE;
        }
        if log.pages < LONG {
            self.anew = LONG;
        }
        let busy = self.folding.as_ref().is_some_and(Folding::busy);
        if log.pages >= self.anew && open < 2 * SLICE && !busy {
            // First, so that a fault is not run into with each commit.
            self.anew = log.pages + SLICE;
            self.present()?;
            if Log::fold(&self.connection)?.open() == 0 {
                self.anew = LONG;
            }
        } else if open >= self.due && !busy {
            self.due = 2 * open;
            self.present()?;
            let folding = match self.folding.take() {
                Some(folding) => folding,
                None => {
                    let started = Folding::start(&self.path)?;
                    // It has opened the files by their names: they are the same still.
                    self.present()?;
                    started
                }
            };
            self.folding.insert(folding).kick();
        }
        Ok(())
    }

    /// From now on nothing is committed unless the files are where they were.
    pub(crate) fn watch(&mut self, place: &Arc<Place>) {
        self.place = Some(Arc::clone(place));
    }

    fn present(&self) -> Result<(), StoreError> {
        self.place.as_ref().map_or(Ok(()), |place| place.look())
    }

    /// Leaves a tidy file behind: the log folded into the database.
    pub(crate) fn finish(mut self) {
        self.folding = None;
        if self.present().is_err() {
            // Closing would remove the log by its name, and that may be another database's now.
            if let Err(e) = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
                tracing::error!(error = %e, "the log of a database that is gone could not be left alone");
            }
            return;
        }
        if let Err(e) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);") {
            tracing::warn!(error = %e, "the database was closed without a last checkpoint");
        }
    }

    /// Whether no row was changed since this was asked last.
    pub(crate) fn rests(&mut self) -> bool {
        let changes = self.connection.total_changes();
        std::mem::replace(&mut self.changes, changes) == changes
    }

    /// Waits until nothing is being folded; the log then.
    #[cfg(test)]
    pub(crate) fn settled(&self) -> Log {
        while self.folding.as_ref().is_some_and(Folding::busy) {
            std::thread::yield_now();
        }
        Log::of(&self.connection).expect("asks")
    }

    #[cfg(test)]
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Exec for Writer {
    fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(run(&self.connection, sql, args))
    }
    fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send {
        std::future::ready(rows(&self.connection, sql, args))
    }
    fn script(&mut self, sql: &'static str) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(self.connection.execute_batch(sql).map_err(|e| fault(&e)))
    }
}

impl Write for Writer {
    const ENGINE: &'static str = "sqlite";

    async fn begin(&mut self) -> Result<(u64, [u8; 32]), StoreError> {
        self.present()?;
        run(&self.connection, "BEGIN IMMEDIATE", &[])?;
        read::head(self).await
    }
    fn commit(&mut self, _head: Option<u64>) -> impl Future<Output = Result<(), StoreError>> + Send {
        // Looked at again behind it: what was committed to files that are gone is not durable.
        std::future::ready(run(&self.connection, "COMMIT", &[]).and_then(|_| self.present()))
    }
    /// Gives pages back while more than a quarter of the file is free: what will be used again soon is not moved about. While nobody changes
    /// anything the pages kept in memory go too: they were up to 16 MB after a busy time, or after a start that found much to purge.
    fn tidy(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        let tidied = self.present().and_then(|()| give_back(&self.connection)).and_then(|()| match self.rests() {
            true => self.connection.execute_batch("PRAGMA shrink_memory").map_err(|e| fault(&e)),
            false => Ok(()),
        });
        std::future::ready(tidied)
    }
    fn rollback(&mut self) -> impl Future<Output = ()> + Send {
        if !self.connection.is_autocommit()
            && let Err(error) = run(&self.connection, "ROLLBACK", &[])
        {
            tracing::error!(%error, "a transaction could not be undone");
        }
        std::future::ready(())
    }
}

/// Reading connections that wait for use.
pub(crate) struct Pool {
    path: PathBuf,
    place: Option<Arc<Place>>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(crate) fn new(path: &Path, place: Option<Arc<Place>>) -> Self {
        Self { path: path.to_owned(), place, idle: Mutex::default() }
    }

    /// Whether what is read is what a restart would find.
    pub(crate) fn present(&self) -> Result<(), StoreError> {
        self.place.as_ref().map_or(Ok(()), |place| place.glance())
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|e| fault(&e))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch(COMMON).and_then(|()| connection.execute_batch(READING)).map_err(|e| fault(&e))?;
        Ok(connection)
    }
}

/// A reading connection; goes back to its pool when dropped.
pub(crate) struct Reader {
    connection: Option<Connection>,
    pool: Option<Arc<Pool>>,
}

impl Reader {
    /// One from the pool.
    pub(crate) fn from(pool: &Arc<Pool>) -> Result<Self, StoreError> {
        pool.present()?;
        let idle = pool.idle.lock().pop();
        let connection = idle.map_or_else(|| pool.connect(), Ok)?;
        Ok(Self { connection: Some(connection), pool: Some(Arc::clone(pool)) })
    }

    /// One that is closed after use (it may be in a transaction).
    pub(crate) fn own(pool: &Arc<Pool>) -> Result<Self, StoreError> {
        pool.present()?;
        Ok(Self { connection: Some(pool.connect()?), pool: None })
    }

    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or_else(|| StoreError::Unavailable("the connection is closed".to_owned()))
    }

    /// Rows per table: exactly while they are few, else as many as a sample of the row ids lets expect. Never the work of reading a table.
    pub(crate) fn count(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let c = self.connection()?;
        let mut counts = COUNTED.into_iter().map(|table| Ok((table, about(c, table)?))).collect::<Result<Vec<_>, StoreError>>()?;
        counts.push(("events", number(c, EVENTS, &[])?));
        Ok(counts)
    }
}

impl Exec for Reader {
    fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<u64, StoreError>> + Send {
        std::future::ready(self.connection().and_then(|c| run(c, sql, args)))
    }
    fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send {
        std::future::ready(self.connection().and_then(|c| rows(c, sql, args)))
    }
    fn script(&mut self, sql: &'static str) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(self.connection().and_then(|c| c.execute_batch(sql).map_err(|e| fault(&e))))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let (Some(pool), Some(connection)) = (self.pool.take(), self.connection.take()) {
            let mut idle = pool.idle.lock();
            if idle.len() < IDLE {
                idle.push(connection);
            }
        }
    }
}
