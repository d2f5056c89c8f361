//! Hearing of other nodes' commits: woken by notifications, and looking five times a second whether or not they come.
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ledger::StoreError;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    follow,
    postgres::{
        CHANNEL, CONNECT,
        connection::{Direct, fault},
        timed_out,
    },
    writer::Shared,
};

/// The longest a commit goes unnoticed when no notification comes.
const LOOK: Duration = Duration::from_millis(200);
/// Between attempts to listen again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Time one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// When this node last knew it had seen every commit.
pub(crate) struct Freshness {
    at_ms: AtomicI64,
    /// When that was, in time that nobody sets.
    at: Mutex<std::time::Instant>,
    wake: Notify,
}

/// A clock that differs by more than this from the passing of time was set, milliseconds.
const JUMPED: i64 = 1_000;

impl Freshness {
    pub(crate) fn new(at_ms: i64) -> Self {
        Self { at_ms: AtomicI64::new(at_ms), at: Mutex::new(std::time::Instant::now()), wake: Notify::new() }
    }
    /// In the time of a clock that says `now_ms`: one that was set back makes nobody look fresh, and one set ahead nobody old.
    pub(crate) fn at_ms(&self, now_ms: i64) -> i64 {
        let at_ms = self.at_ms.load(Ordering::Acquire);
        let passed = i64::try_from(self.at.lock().elapsed().as_millis()).unwrap_or(i64::MAX);
        if (now_ms - at_ms - passed).abs() > JUMPED { now_ms - passed } else { at_ms }
    }
    fn seen(&self, at_ms: i64, at: std::time::Instant) {
        *self.at.lock() = at;
        self.at_ms.store(at_ms, Ordering::Release);
    }
    /// Look now.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Follows for as long as the database is open.
pub(crate) async fn follow(options: PgConnectOptions, shared: Arc<Shared>, fresh: Arc<Freshness>) {
    let (mut connection, mut ears, mut listen_at) = (None, None::<PgListener>, Instant::now());
    let (mut well, mut listening) = (true, None);
    loop {
        if ears.is_none() && listening.is_none() && Instant::now() >= listen_at {
            listening = Some(Box::pin(listen(&options)));
        }
        let looked = match timeout(PATIENCE, look(&options, &mut connection, &shared, &fresh)).await {
            Ok(looked) => looked,
            Err(_) => Err(timed_out("answer")),
        };
        match looked {
            Ok(()) => well = true,
            Err(error) => {
                connection = None;
                if std::mem::replace(&mut well, false) {
                    tracing::warn!(%error, "other nodes' commits cannot be read");
                }
            }
        }
        let heard = async {
            match &mut ears {
                Some(ears) => ears.try_recv().await.is_ok_and(|heard| heard.is_some()),
                None => std::future::pending().await,
            }
        };
        // Beside the looks, not before them: they go on while nobody lets this node listen.
        let listened = async {
            match &mut listening {
                Some(listening) => listening.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            connected = heard => if !connected {
                ears = None;
            },
            new = listened => {
                (ears, listening) = (new.ok(), None);
                listen_at = Instant::now() + LISTEN_AGAIN;
            }
            () = fresh.wake.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn look(options: &PgConnectOptions, kept: &mut Option<Direct>, shared: &Shared, fresh: &Freshness) -> Result<(), StoreError> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Direct::connect(options).await?,
    };
    let (began, at) = (shared.clock.now_ms(), std::time::Instant::now());
    follow::catch_up(&mut connection, shared).await?;
    // Not the furthest of all: a clock that was set back must not make this node look fresh.
    fresh.seen(began, at);
    *kept = Some(connection);
    Ok(())
}

async fn listen(options: &PgConnectOptions) -> Result<PgListener, StoreError> {
    let listening = async {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let mut ears = PgListener::connect_with(&pool).await?;
        ears.listen(CHANNEL).await?;
        Ok(ears)
    };
    timeout(CONNECT, listening).await.map_err(|_| timed_out("listen"))?.map_err(|e: sqlx::Error| fault(&e))
}
