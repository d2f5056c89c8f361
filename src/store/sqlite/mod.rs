//! SQLite: one file, one process, one writing thread, readers inline on whoever asks.
mod connection;
mod folding;
mod gathering;
mod lock;
mod place;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use ledger::StoreError;
use parking_lot::Mutex;
use tokens::Clock;
use tokio::sync::mpsc;

use crate::{
    engine::{Backend, Counts, Engine},
    exec::Exec,
    follow, migrate,
    migrate::{Migration, migrations},
    open::OpenError,
    read,
    sqlite::{
        connection::{Pool, Reader, Writer},
        gathering::Gathering,
        lock::Lock,
        place::Place,
    },
    writer::{self, BATCH, Job, QUEUE, Shared},
};

pub(crate) const MIGRATIONS: &[Migration] =
    migrations!("sqlite": 1 "0001_ledger", 2 "0002_ends", 3 "0003_waiting", 4 "0004_participants", 5 "0005_api_keys", 6 "0006_growth");

/// Counting rows walks indexes: not more often than this.
const COUNTS_FOR: Duration = Duration::from_secs(5);

/// An open SQLite database.
pub(crate) struct Sqlite {
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
    fresh: AtomicI64,
    counted: Mutex<Option<(Instant, Counts)>>,
    thread: Option<JoinHandle<()>>,
    _lock: Option<Lock>,
}

/// Opens a file; creates it (readable by its owner only) if it is not there.
pub(crate) async fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Engine<Sqlite>, OpenError> {
    let lock = Lock::take(&path)?;
    let mut writer = Writer::open(&path)?;
    migrate::migrate(&mut writer, MIGRATIONS).await?;
    let (head, _) = read::head(&mut writer).await?;
    let place = Arc::new(Place::of(&path, lock.held())?);
    writer.watch(&place);
    let shared = Arc::new(Shared::new(Arc::clone(&clock), head).alone());
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let for_writer = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("sqlite-writer".to_owned())
        .spawn(move || write(writer, waiting, &for_writer))
        .map_err(|e| OpenError::File { path: path.clone(), why: format!("no thread for the writer: {e}") })?;
    let pool = Arc::new(Pool::new(&path, Some(place)));
    let fresh = AtomicI64::new(clock.now_ms());
    Ok(Engine::new(jobs, shared, Sqlite { pool, clock, fresh, counted: Mutex::default(), thread: Some(thread), _lock: Some(lock) }))
}

/// Opens a file for reading only, beside the process that has its lock.
pub(crate) async fn open_reading(path: &Path, clock: Arc<dyn Clock>) -> Result<Engine<Sqlite>, OpenError> {
    let pool = Arc::new(Pool::new(path, None));
    let mut reader = Reader::from(&pool)?;
    migrate::current(&mut reader, MIGRATIONS).await?;
    let (head, _) = read::head(&mut reader).await?;
    drop(reader);
    let shared = Arc::new(Shared::new(Arc::clone(&clock), head));
    let fresh = AtomicI64::new(clock.now_ms());
    Ok(Engine::reading(shared, Sqlite { pool, clock, fresh, counted: Mutex::default(), thread: None, _lock: None }))
}

/// The writing thread. Its futures are ready when polled: nothing in them waits for anything but the disk.
fn write(mut writer: Writer, mut waiting: mpsc::Receiver<Job>, shared: &Shared) {
    let (mut jobs, mut gathering) = (Vec::with_capacity(BATCH), Gathering::new());
    while waiting.blocking_recv_many(&mut jobs, BATCH) > 0 {
        gathering.more(&mut jobs, &mut waiting);
        let work = async {
            writer::serve(&mut writer, &mut jobs, shared).await;
            if shared.behind()
                && let Err(fault) = follow::catch_up(&mut writer, shared).await
            {
                tracing::error!(error = %fault, "commits in doubt could not be read again");
            }
        };
        if work.now_or_never().is_none() {
            tracing::error!("a statement did not finish");
            return;
        }
        // Whoever waited has been answered.
        if let Err(fault) = writer.fold() {
            tracing::warn!(error = %fault, "the log was not folded into the database");
        }
    }
    writer.finish();
}

impl Backend for Sqlite {
    const ENGINE: &'static str = "sqlite";
    type Reader = Reader;

    fn present(&self) -> Result<(), StoreError> {
        self.pool.present()
    }

    async fn reader(&self) -> Result<Reader, StoreError> {
        Reader::from(&self.pool)
    }

    async fn snapshot(&self) -> Result<Reader, StoreError> {
        let mut reader = Reader::own(&self.pool)?;
        reader.script("BEGIN").await?;
        read::head(&mut reader).await?;
        Ok(reader)
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.pool.present()?;
        if let Some((at, counts)) = self.counted.lock().as_ref()
            && at.elapsed() < COUNTS_FOR
        {
            return Ok(counts.clone());
        }
        let pool = Arc::clone(&self.pool);
        let counts = tokio::task::spawn_blocking(move || Reader::from(&pool)?.count())
            .await
            .map_err(|_| StoreError::Unavailable("counting was interrupted".to_owned()))??;
        *self.counted.lock() = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }

    fn fresh_at_ms(&self) -> i64 {
        if self.pool.present().is_ok() {
            self.fresh.store(self.clock.now_ms(), Ordering::Release);
        }
        self.fresh.load(Ordering::Acquire)
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// A writing connection for a test.
#[cfg(test)]
pub(crate) fn writer(path: &Path) -> Writer {
    Writer::open(path).expect("opens")
}

fn file_error(path: &Path, why: &impl ToString) -> OpenError {
    OpenError::File { path: path.to_owned(), why: why.to_string() }
}
