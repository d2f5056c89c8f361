//! The clock-driven work: purging what has expired, keeping the key schedule, refreshing the gauges.
use std::{sync::Arc, time::Duration};

use ledger::{RevocationSet, Store};
use metrics_exporter_prometheus::PrometheusHandle;
use tokens::Clock;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{foundation::Foundation, operations::PURGE_BATCH, telemetry};

const PURGE_EVERY: Duration = Duration::from_secs(10);
const GAUGES_EVERY: Duration = Duration::from_secs(10);
/// Between two batches, so that they never hold up the changes that people wait for.
const BREATH: Duration = Duration::from_millis(20);
/// At most so many batches in one go.
const BATCHES: u32 = 200;

/// Tells the sizes of a process's caches.
pub type CacheSizes = Arc<dyn Fn() -> Vec<(String, u64)> + Send + Sync>;

/// Starts every job; they end when `stop` is cancelled.
pub fn start(foundation: &Foundation, caches: CacheSizes, metrics: PrometheusHandle, stop: &CancellationToken, tasks: &TaskTracker) {
    if let Some(keys) = foundation.keys.clone() {
        spawn(tasks, stop, async move { keys.follow().await });
    }
    let (store, clock, revoked) = (foundation.store.clone(), foundation.clock.clone(), foundation.revoked.clone());
    spawn(tasks, stop, async move { purge(&*store, &*clock, &revoked).await });
    let (store, revoked) = (foundation.store.clone(), foundation.revoked.clone());
    spawn(tasks, stop, async move { gauges(&*store, &revoked, caches, metrics).await });
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
            match store.purge(clock.now(), PURGE_BATCH).await {
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

async fn gauges(store: &dyn Store, revoked: &RevocationSet, caches: CacheSizes, metrics: PrometheusHandle) {
    let mut ticks = interval(GAUGES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        telemetry::refresh_process_gauges();
        if let Ok(rows) = store.counts().await {
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
