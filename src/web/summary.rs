//! Failures beyond what the ledger takes one by one: their number is told, ten seconds at a time. A flood fills no disk, and none goes unsaid.
use std::{collections::HashMap, sync::Arc, time::Duration};

use edge::limit::Quota;
use ledger::{Change, EventKind, NewEvent, StoreError};
use parking_lot::Mutex;

use crate::App;

/// Of one kind, of all sources together, over all nodes: so many are told one by one.
pub(crate) const TOGETHER: Quota = Quota { rate: 600, period_s: 60, burst: 600 };
/// How long is summed up.
const SPAN: Duration = Duration::from_secs(10);

/// What waits to be told, by kind: how many, and since when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summaries(Arc<Mutex<HashMap<EventKind, (u64, i64)>>>);

impl Summaries {
    /// Tells of a failure: by itself, or as one more of many.
    ///
    /// # Errors
    /// Storage is away. A sum waits for it.
    pub(crate) async fn tell(&self, app: &App, event: NewEvent) -> Result<(), StoreError> {
        let (kind, now_ms) = (event.kind, app.clock.now_ms());
        if app.counters.hit(&format!("told:{}", kind.as_str()), &TOGETHER, 1, now_ms).await.allowed {
            return app.store.apply(Change::new().event(event)).await.map(drop);
        }
        self.add(app, kind);
        Ok(())
    }

    /// One more of a kind that is not told by itself.
    pub(crate) fn add(&self, app: &App, kind: EventKind) {
        let mut held = self.0.lock();
        if let Some((count, _)) = held.get_mut(&kind) {
            *count += 1;
            return;
        }
        held.insert(kind, (1, app.clock.now_ms()));
        drop(held);
        let (all, store, clock, closing) = (self.clone(), Arc::clone(&app.store), Arc::clone(&app.clock), app.closing.clone());
        tokio::spawn(async move {
            loop {
                // A server that ends tells at once.
                let _ = tokio::time::timeout(SPAN, closing.cancelled()).await;
                let Some((count, since)) = all.0.lock().remove(&kind) else { return };
                let event = NewEvent::new(kind, clock.now_ms()).with("reason", "one of many").with("count", count).with("since_ms", since);
                match store.apply(Change::new().event(event)).await {
                    Ok(_) => return,
                    Err(error) if closing.is_cancelled() => return tracing::warn!(%error, count, "failures could not be summed up"),
                    // It waits: with those that came meanwhile, or until somebody else tells of them all.
                    Err(_) => {
                        let mut held = all.0.lock();
                        let (more, _) = held.remove(&kind).unwrap_or_default();
                        held.insert(kind, (count + more, since));
                        if more > 0 {
                            return;
                        }
                    }
                }
            }
        });
    }
}
