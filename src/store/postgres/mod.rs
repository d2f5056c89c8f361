//! PostgreSQL: any number of equal nodes; one writer and one follower in each.
mod connection;
mod doubt;
mod follower;
mod many;
mod pool;
mod replica;
mod writer;

use std::{sync::Arc, time::Duration};

use ledger::{Listings, StoreError};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokens::Clock;
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    engine::{Backend, Counts, Engine},
    exec::Exec,
    migrate,
    migrate::{Migration, migrations},
    open::{OpenError, Options},
    postgres::{
        connection::{Direct, away},
        follower::Freshness,
        pool::{Pool, Reader},
        replica::Replicas,
        writer::Writer,
    },
    read,
    writer::{QUEUE, Shared},
};

pub(crate) const MIGRATIONS: &[Migration] =
    migrations!("postgres": 1 "0001_ledger", 2 "0002_ends", 3 "0003_waiting", 4 "0004_participants", 5 "0005_api_keys", 6 "0006_growth");

pub use replica::{ReplicaReport, Standing};

/// The channel on which nodes wake each other.
const CHANNEL: &str = "doorward";
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// Migrations run under this advisory lock: nodes that start together take turns.
const LOCK: &str = "SELECT pg_advisory_lock(7237112)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(7237112)";
/// A migration waits so long for a table before it lets go.
const LET_GO_SOON: &str = "SET lock_timeout = '300ms'";
/// And so long until it tries again, so often.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
const TRIES: u32 = 900;
/// The planner's estimate is good enough above this many rows.
const ESTIMATES: &str = "SELECT CAST(relname AS TEXT), CAST(reltuples AS BIGINT) FROM pg_class \
    WHERE oid IN ('artefacts'::regclass, 'grants'::regclass, 'sessions'::regclass, 'consents'::regclass, 'objects'::regclass, \
    'secrets'::regclass, 'keys'::regclass, 'meta'::regclass, 'revocations'::regclass, 'events'::regclass)";
const EXACT_BELOW: i64 = 50_000;
/// Never more than that many are counted, however old the estimate is. Positions in the ledger have no gap: nothing is counted there.
const COUNTS: [(&str, &str); 10] = [
    ("artefacts", "SELECT count(*) FROM (SELECT 1 FROM artefacts LIMIT 50000) t"),
    ("grants", "SELECT count(*) FROM (SELECT 1 FROM grants LIMIT 50000) t"),
    ("sessions", "SELECT count(*) FROM (SELECT 1 FROM sessions LIMIT 50000) t"),
    ("consents", "SELECT count(*) FROM (SELECT 1 FROM consents LIMIT 50000) t"),
    ("objects", "SELECT count(*) FROM (SELECT 1 FROM objects LIMIT 50000) t"),
    ("secrets", "SELECT count(*) FROM (SELECT 1 FROM secrets LIMIT 50000) t"),
    ("keys", "SELECT count(*) FROM (SELECT 1 FROM keys LIMIT 50000) t"),
    ("meta", "SELECT count(*) FROM (SELECT 1 FROM meta LIMIT 50000) t"),
    ("revocations", "SELECT count(*) FROM (SELECT 1 FROM revocations LIMIT 50000) t"),
    ("events", "SELECT COALESCE((SELECT MAX(seq) FROM events) - (SELECT MIN(seq) FROM events) + 1, 0)"),
];

/// An open PostgreSQL database.
pub(crate) struct Postgres {
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
    /// None where nobody writes: every read asks the database itself.
    follower: Option<(Arc<Freshness>, AbortHandle)>,
    replicas: Option<Arc<Replicas>>,
    watcher: Option<AbortHandle>,
}

/// The replicas of a database, where it has some.
fn replicas(with: &Options, primary: &Arc<Pool>, clock: &Arc<dyn Clock>) -> Result<Option<Arc<Replicas>>, OpenError> {
    let all = with.replicas.iter().map(|url| options(url)).collect::<Result<Vec<_>, _>>()?;
    Ok((!all.is_empty()).then(|| Arc::new(Replicas::new(Arc::clone(primary), Arc::clone(clock), all, with.max_replica_lag_ms))))
}

fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let connect: PgConnectOptions =
        url.parse().map_err(|e: sqlx::Error| OpenError::Url(crate::open::hide_password(&format!("{url} ({e})"))))?;
    Ok(connect
        .application_name("doorward")
        .statement_cache_capacity(256)
        .options([("lock_timeout", "5s"), ("statement_timeout", "15s"), ("idle_in_transaction_session_timeout", "15s")])
        .disable_statement_logging())
}

/// Connects for reading only; the schema has to be this binary's already.
pub(crate) async fn open_reading(url: &str, with: &Options, clock: Arc<dyn Clock>) -> Result<Engine<Postgres>, OpenError> {
    let connect = options(url)?;
    let mut direct = Direct::connect(&connect).await?;
    migrate::current(&mut direct, MIGRATIONS).await?;
    let (head, _) = read::head(&mut direct).await?;
    direct.close().await;
    let shared = Arc::new(Shared::new(Arc::clone(&clock), head));
    let pool = Arc::new(Pool::new(connect, with.connections));
    let replicas = replicas(with, &pool, &clock)?;
    Ok(Engine::reading(shared, Postgres { pool, clock, follower: None, replicas, watcher: None }))
}

/// Migrates beside nodes that serve: whoever waits for a table makes everybody after it wait too (behind a long backup, say), so it lets go
/// soon and tries again. It lets go before PostgreSQL looks for a deadlock, unless that was told to look at once.
async fn patiently(direct: &mut Direct) -> Result<(), OpenError> {
    direct.script(LET_GO_SOON).await?;
    let mut left = TRIES;
    loop {
        match migrate::migrate(direct, MIGRATIONS).await {
            Err(OpenError::Store(StoreError::Unavailable(why)))
                if left > 0 && ["lock timeout", "deadlock detected"].iter().any(|lost| why.contains(lost)) =>
            {
                left -= 1;
                if left.is_multiple_of(30) {
                    tracing::warn!("a migration waits for somebody who reads its table for long");
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            migrated => return migrated,
        }
    }
}

/// Connects, brings the schema up to date, starts the writer and the follower.
pub(crate) async fn open(url: &str, with: &Options, clock: Arc<dyn Clock>) -> Result<Engine<Postgres>, OpenError> {
    let connect = options(url)?;
    let mut direct = Direct::connect(&connect).await?;
    direct.script("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    direct.rows(LOCK, &[]).await?;
    let migrated = patiently(&mut direct).await;
    direct.rows(UNLOCK, &[]).await?;
    migrated?;
    let now_ms = clock.now_ms();
    let (head, _) = read::head(&mut direct).await?;
    direct.close().await;
    let shared = Arc::new(Shared::new(Arc::clone(&clock), head));
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let (pool, fresh) = (Arc::new(Pool::new(connect.clone(), with.connections)), Arc::new(Freshness::new(now_ms)));
    let replicas = replicas(with, &pool, &clock)?;
    let watcher = replicas.clone().map(|replicas| tokio::spawn(replicas.watch()).abort_handle());
    tokio::spawn(writer::write(Writer::new(connect.clone()), waiting, Arc::clone(&shared), Arc::clone(&fresh)));
    let follower = tokio::spawn(follower::follow(connect, Arc::clone(&shared), Arc::clone(&fresh))).abort_handle();
    Ok(Engine::new(jobs, shared, Postgres { pool, clock, follower: Some((fresh, follower)), replicas, watcher }))
}

impl Backend for Postgres {
    const ENGINE: &'static str = "postgres";
    type Reader = Reader;

    async fn reader(&self) -> Result<Reader, StoreError> {
        self.pool.reader().await
    }

    async fn snapshot(&self) -> Result<Reader, StoreError> {
        let mut reader = self.pool.reader().await?.own();
        reader.script("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0").await?;
        reader.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(reader)
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        counts(&mut self.pool.reader().await?).await
    }

    fn listings(&self) -> Option<Arc<dyn Listings>> {
        self.replicas.clone().map(|replicas| replicas as Arc<dyn Listings>)
    }

    fn replicas(&self) -> Vec<ReplicaReport> {
        self.replicas.as_ref().map(|replicas| replicas.reports()).unwrap_or_default()
    }

    async fn look_at_replicas(&self) {
        if let Some(replicas) = &self.replicas {
            replicas.look().await;
        }
    }

    fn fresh_at_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        self.follower.as_ref().map_or(now_ms, |(fresh, _)| fresh.at_ms(now_ms))
    }
}

/// Rows per table, large ones estimated.
async fn counts<E: Exec>(reader: &mut E) -> Result<Counts, StoreError> {
    let mut counts = Vec::with_capacity(COUNTS.len());
    let estimates = reader.rows(ESTIMATES, &[]).await?;
    let estimates = estimates.into_iter().map(|mut r| Ok((r.text()?, r.int()?))).collect::<Result<Vec<_>, StoreError>>()?;
    for (table, exact) in COUNTS {
        let estimate = estimates.iter().find(|(name, _)| name == table).map_or(-1, |(_, rows)| *rows);
        let rows = if estimate >= EXACT_BELOW && table != "events" {
            u64::try_from(estimate).unwrap_or(0)
        } else {
            reader.rows(exact, &[]).await?.into_iter().next().map_or(Ok(0), |mut r| r.place())?
        };
        counts.push((table, rows));
    }
    Ok(counts)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if let Some((_, follower)) = &self.follower {
            follower.abort();
        }
    }
}

/// A writing connection for a test.
#[cfg(test)]
pub(crate) fn writer(url: &str) -> Writer {
    Writer::new(options(url).expect("a URL"))
}

fn timed_out(what: &str) -> StoreError {
    away(format!("PostgreSQL did not {what} in time"))
}
