//! Writes down when API keys were last used: now and then, many at once, without a word in the ledger.
use std::time::Duration;

use edge::api_key::{Uses, issued::LAST_USED};
use futures_util::{StreamExt as _, stream};
use ledger::{Change, ObjectKind, Step, Store};
use tokens::Clock;
use tokio::time::{MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_secs(5);
/// Changes on their way at once: the writer puts them into one transaction.
const AT_ONCE: usize = 64;

/// Writes down what is due, for as long as it is polled. What cannot be written is lost.
pub async fn keep(store: &dyn Store, clock: &dyn Clock, uses: &Uses) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = uses.due(clock.now());
        let lost = stream::iter(due)
            .map(|(id, version, at)| async move {
                // A key that was changed or deleted since is not written to.
                let guard = Step::ObjectIs { kind: ObjectKind::ApiKey, id: id.clone(), version };
                let value = at.to_be_bytes().to_vec();
                let put = Step::PutSecret { kind: ObjectKind::ApiKey, id, slot: LAST_USED.to_owned(), value };
                store.apply(Change::new().step(guard).step(put)).await.is_err()
            })
            .buffer_unordered(AT_ONCE)
            .filter(|lost| std::future::ready(*lost))
            .count()
            .await;
        if lost > 0 {
            tracing::warn!(lost, "when API keys were last used could not be written");
        }
    }
}
