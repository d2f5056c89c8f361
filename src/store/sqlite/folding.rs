//! The log is folded into the database file beside the writing thread (decision 0026): copying pages and syncing the file within a commit, as
//! SQLite does by itself, is waited for by all who share that commit.
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use ledger::StoreError;
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::connection::{COMMON, fault, rows};

/// The first SQLite whose log may begin anew while another connection folds it: before it that could lose what was in the log.
pub(crate) const SAFE: i32 = 3_051_003;
/// So many pages are let come together before they are folded.
pub(crate) const SLICE: i64 = 256;
/// From so many pages on the log begins anew as soon as it can. Beyond 4000 SQLite folds within a commit, whatever was done here.
pub(crate) const LONG: i64 = 1500;
/// Attempts to reach the log's end: it is reached, and the database file synced here, when nobody commits meanwhile.
const TRIES: usize = 4;

/// How much of the log is in the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Log {
    /// Pages since the log began anew.
    pub(crate) pages: i64,
    /// So many of them, from the first on, are in the database file.
    pub(crate) folded: i64,
}

impl Log {
    /// The log as it is.
    pub(crate) fn of(c: &Connection) -> Result<Self, StoreError> {
        Self::after(c, "PRAGMA wal_checkpoint(NOOP)")
    }

    /// Folds what no reader needs in the log; nobody waits for that, and that waits for nobody.
    pub(crate) fn fold(c: &Connection) -> Result<Self, StoreError> {
        Self::after(c, "PRAGMA wal_checkpoint(PASSIVE)")
    }

    fn after(c: &Connection, sql: &str) -> Result<Self, StoreError> {
        let answer = rows(c, sql, &[])?.into_iter().next();
        let mut row = answer.ok_or_else(|| StoreError::Corrupt("no answer about the log".to_owned()))?;
        let _busy = row.int()?;
        Ok(Self { pages: row.int()?, folded: row.int()? })
    }

    /// Pages that are only in the log.
    pub(crate) const fn open(self) -> i64 {
        self.pages - self.folded
    }
}

/// The thread that folds. It has a connection of its own and begins when there is something to do for the first time.
pub(crate) struct Folding {
    kick: Option<SyncSender<()>>,
    busy: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Folding {
    pub(crate) fn start(path: &Path) -> Result<Self, StoreError> {
        // The file is there: the writer has it open.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| fault(&e))?;
        connection.execute_batch(COMMON).map_err(|e| fault(&e))?;
        connection
            .execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -64;")
            .map_err(|e| fault(&e))?;
        // Only the writer knows at its end whether the names of the files are still those of its files.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(|e| fault(&e))?;
        let (kick, kicked) = sync_channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let its = Arc::clone(&busy);
        let thread = std::thread::Builder::new()
            .name("sqlite-folder".to_owned())
            .spawn(move || work(&connection, &kicked, &its))
            .map_err(|e| StoreError::Unavailable(format!("no thread to fold the log: {e}")))?;
        Ok(Self { kick: Some(kick), busy, thread: Some(thread) })
    }

    pub(crate) fn busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    pub(crate) fn kick(&self) {
        if let Some(kick) = &self.kick
            && !self.busy.swap(true, Ordering::AcqRel)
            && kick.try_send(()).is_err()
        {
            self.busy.store(false, Ordering::Release);
        }
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        self.kick = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(connection: &Connection, kicked: &Receiver<()>, busy: &AtomicBool) {
    while kicked.recv().is_ok() {
        for _ in 0..TRIES {
            match Log::fold(connection) {
                Ok(log) if log.open() > 0 => {}
                Ok(_) => break,
                Err(fault) => {
                    tracing::warn!(error = %fault, "the log was not folded into the database");
                    break;
                }
            }
        }
        busy.store(false, Ordering::Release);
    }
}
