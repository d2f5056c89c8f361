//! The clock-driven work: purging what has expired, forgetting old events, keeping the key schedule, refreshing the gauges.
use std::{sync::Arc, time::Duration};

use ledger::{Listings, RevocationSet, Store, StoreError};
use metrics_exporter_prometheus::PrometheusHandle;
use store::Database;
use tokens::Clock;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{foundation::Foundation, key_uses, operations::PURGE_BATCH, settled::Settled, telemetry};

const PURGE_EVERY: Duration = Duration::from_secs(10);
/// What has expired is deleted this much later, seconds: a node whose clock is ahead must not forget for those whose clock is behind
/// that a one-time thing was used.
const CLOCKS_APART_S: i64 = 60;
const TRUNCATE_EVERY: Duration = Duration::from_secs(600);
const GAUGES_EVERY: Duration = Duration::from_secs(10);
/// The least and the most between two batches: as long as the last one took, so that changes that people wait for have the writer half of the time.
const BREATH: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// How many rows a batch of the purge takes. While batches come back full they grow, so that deleting always outruns what expires: a row costs
/// far less to delete than it cost to issue. A round ends only when a batch was not full.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Gear {
    full: u32,
}

impl Gear {
    /// Full batches after which the next are twice as large.
    const STEP: u32 = 16;
    /// So often at most.
    const DOUBLED: u32 = 3;

    fn batch(self) -> u32 {
        PURGE_BATCH << (self.full / Self::STEP).min(Self::DOUBLED)
    }

    /// Whether there may be more, after a batch that removed so many rows.
    fn more(&mut self, gone: u64) -> bool {
        let full = gone >= u64::from(self.batch());
        self.full = if full { self.full.saturating_add(1) } else { 0 };
        full
    }
}

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
    let settled = Arc::new(Settled::new(foundation.clock.clone()));
    let (store, clock, revoked) = (foundation.store.clone(), settled.clone(), foundation.revoked.clone());
    spawn(tasks, stop, async move { purge(&*store, &*clock, &revoked).await });
    let (database, clock) = (foundation.database.clone(), settled);
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
    let runs = metrics::counter!("store_purge_runs_total");
    let mut ticks = interval(PURGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        runs.increment(1);
        revoked.purge(clock.now());
        if let Err(error) = round(store, clock).await {
            tracing::warn!(%error, "expired rows could not be deleted; trying again");
        }
    }
}

/// Deletes whatever has expired, however much it is.
async fn round(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let (purged, mut gear) = (metrics::counter!("store_purged_rows_total"), Gear::default());
    loop {
        let began = Instant::now();
        let gone = store.purge(clock.now().saturating_sub(CLOCKS_APART_S), gear.batch()).await?;
        purged.increment(gone);
        if !gear.more(gone) {
            return Ok(());
        }
        sleep(began.elapsed().clamp(BREATH.0, BREATH.1)).await;
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

    #[test]
    fn batches_grow_while_they_come_back_full_and_a_round_ends_when_one_does_not() {
        let mut gear = Gear::default();
        for _ in 0..200 {
            assert!(gear.more(u64::from(gear.batch())), "however many there are");
        }
        assert_eq!(gear.batch(), PURGE_BATCH * 8);
        assert!(!gear.more(u64::from(gear.batch()) - 1));
        assert_eq!(gear, Gear::default());
    }

    #[tokio::test]
    async fn one_round_outruns_whatever_has_expired() {
        let home = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", home.path().join("a.db").display());
        let clock = Arc::new(At(AtomicI64::new(0)));
        let database = store::open(&url, &Options { connections: 2, ..Options::default() }, clock.clone()).await.unwrap();
        // More than the rounds of before took in two ticks.
        for n in 0..60_u32 {
            let put = |m: u32| {
                let id = (n * 2000 + m).to_be_bytes().to_vec();
                let (kind, document) = (ledger::ArtefactKind::Form, String::new());
                let row = ledger::Artefact {
                    kind,
                    id,
                    mac: Vec::new(),
                    grant: None,
                    document,
                    created_at: 0,
                    expires_at: 1,
                    consumed_at: None,
                    successor: None,
                    seq: 0,
                };
                ledger::Step::Put(row)
            };
            assert!(database.apply((0..2000).map(put).fold(Change::new(), Change::step)).await.unwrap().applied());
        }
        clock.0.store(1_000_000, Ordering::SeqCst);
        round(&*database, &*clock).await.unwrap();
        let left = database.counts().await.unwrap();
        assert_eq!(left.iter().find(|(table, _)| *table == "artefacts"), Some(&("artefacts", 0)));
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
