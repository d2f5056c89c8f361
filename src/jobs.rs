//! The clock-driven work: purging what has expired, forgetting old events, keeping the key schedule, refreshing the gauges.
use std::{sync::Arc, time::Duration};

use ledger::{Listings, RevocationSet, Store, StoreError};
use metrics_exporter_prometheus::PrometheusHandle;
use store::Database;
use tokens::Clock;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{foundation::Foundation, key_uses, operations::PURGE_BATCH, telemetry};

const PURGE_EVERY: Duration = Duration::from_secs(10);
/// What has expired is deleted this much later, seconds: a node whose clock is ahead must not forget for those whose clock is behind
/// that a one-time thing was used.
const CLOCKS_APART_S: i64 = 60;
const TRUNCATE_EVERY: Duration = Duration::from_secs(600);
const GAUGES_EVERY: Duration = Duration::from_secs(10);
/// Between two batches, so that they never hold up the changes that people wait for.
const BREATH: Duration = Duration::from_millis(20);
/// At most so many batches in one go.
const BATCHES: u32 = 200;

/// Tells the sizes of a process's caches.
pub type CacheSizes = Arc<dyn Fn() -> Vec<(String, u64)> + Send + Sync>;

/// What is told about this process.
pub struct Numbers {
    /// The sizes of its caches.
    pub caches: CacheSizes,
    /// Where metrics are gathered.
    pub metrics: PrometheusHandle,
}

/// Starts every job; they end when `stop` is cancelled. Events are kept for `keep` seconds.
pub fn start(foundation: &Foundation, keep: i64, numbers: Numbers, stop: &CancellationToken, tasks: &TaskTracker) {
    if let Some(keys) = foundation.keys.clone() {
        spawn(tasks, stop, async move { keys.follow().await });
    }
    let (store, clock, revoked) = (foundation.store.clone(), foundation.clock.clone(), foundation.revoked.clone());
    spawn(tasks, stop, async move { purge(&*store, &*clock, &revoked).await });
    let (database, clock) = (foundation.database.clone(), foundation.clock.clone());
    spawn(tasks, stop, async move { truncate(&*database, &*clock, keep).await });
    let (store, clock, uses) = (foundation.store.clone(), foundation.clock.clone(), foundation.key_uses.clone());
    spawn(tasks, stop, async move { key_uses::keep(&*store, &*clock, &uses).await });
    let (listings, revoked) = (foundation.listings(), foundation.revoked.clone());
    spawn(tasks, stop, async move { gauges(&*listings, &revoked, numbers).await });
}

/// Runs a job until it ends or is told to.
pub fn spawn(tasks: &TaskTracker, stop: &CancellationToken, job: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled_owned(job).await;
    });
}

async fn purge(store: &dyn Store, clock: &dyn Clock, revoked: &RevocationSet) {
    let purged = metrics::counter!("store_purged_rows_total");
    let mut ticks = interval(PURGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        revoked.purge(clock.now());
        for _ in 0..BATCHES {
            match store.purge(clock.now().saturating_sub(CLOCKS_APART_S), PURGE_BATCH).await {
                Ok(0) => break,
                Ok(gone) => purged.increment(gone),
                Err(error) => {
                    tracing::warn!(%error, "expired rows could not be deleted; trying again");
                    break;
                }
            }
            sleep(BREATH).await;
        }
    }
}

async fn truncate(database: &dyn Database, clock: &dyn Clock, keep: i64) {
    let mut ticks = interval(TRUNCATE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let before_ms = clock.now_ms().saturating_sub(keep.saturating_mul(1000));
        let gone = match first_since(database, before_ms).await {
            Ok(Some(first)) => database.truncate_events(first).await,
            Ok(None) => Ok(0),
            Err(error) => Err(error),
        };
        match gone {
            Ok(0) => {}
            Ok(gone) => tracing::info!(gone, "events older than audit.keep were removed; the rest verifies from the checkpoint"),
            Err(error) => tracing::warn!(%error, "old events could not be removed; trying again"),
        }
    }
}

/// The position of the first event at or after a time, if there are earlier ones.
async fn first_since(database: &dyn Database, at_ms: i64) -> Result<Option<u64>, StoreError> {
    let (checkpoint, _) = database.checkpoint().await?;
    let (head, _) = database.head().await?;
    // Every event up to `old` is earlier; every one from `new` on is not.
    let (mut old, mut new) = (checkpoint, head.saturating_add(1));
    while new - old > 1 {
        let middle = old + (new - old) / 2;
        match database.events(middle - 1, 1).await?.first() {
            Some(event) if event.at_ms < at_ms => old = middle,
            _ => new = middle,
        }
    }
    Ok((old > checkpoint).then_some(new))
}

async fn gauges(listings: &dyn Listings, revoked: &RevocationSet, Numbers { caches, metrics }: Numbers) {
    let mut ticks = interval(GAUGES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        telemetry::refresh_process_gauges();
        if let Ok(rows) = listings.count_rows().await {
            for (table, count) in rows {
                metrics::gauge!("db_rows", "table" => table).set(count as f64);
            }
        }
        metrics::gauge!("cache_entries", "cache" => "revocations").set(revoked.len() as f64);
        for (cache, entries) in caches() {
            metrics::gauge!("cache_entries", "cache" => cache).set(entries as f64);
        }
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use ledger::{Change, EventKind, NewEvent, chain::Verifier};
    use store::Options;

    use super::*;

    struct At(AtomicI64);
    impl Clock for At {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn events_older_than_what_is_kept_go_and_the_rest_verifies() {
        let home = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", home.path().join("a.db").display());
        let clock = Arc::new(At(AtomicI64::new(0)));
        let database = store::open(&url, &Options { connections: 2, ..Options::default() }, clock.clone()).await.unwrap();
        for at in (1..=40).map(|n| n * 100) {
            database.apply(Change::new().event(NewEvent::new(EventKind::GrantEnded, at))).await.unwrap();
        }
        let (start, _) = database.head().await.unwrap();
        assert_eq!(first_since(&*database, 100).await.unwrap(), None);
        assert_eq!(first_since(&*database, 1_000_000).await.unwrap(), Some(start + 1));
        let first = first_since(&*database, 1_050).await.unwrap().unwrap();
        assert_eq!(database.events(first - 1, 1).await.unwrap()[0].at_ms, 1_100);
        assert_eq!(database.truncate_events(first).await.unwrap(), 10);
        assert_eq!(first_since(&*database, 1_050).await.unwrap(), None);
        let (from, hash) = database.checkpoint().await.unwrap();
        let mut verifier = Verifier::after(from, hash);
        for event in database.events(from, 1000).await.unwrap() {
            verifier.row(&event).unwrap();
        }
        let (head, hash) = database.head().await.unwrap();
        verifier.finish(head, &hash).unwrap();
    }
}
