//! The stored policies, compiled when they are first asked and anew when the ledger says that one changed.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use ledger::{Committed, Listener, ObjectKind, Record as _, Store, StoreError};
use policy::{Compiled, Policy};
use tokio::sync::Semaphore;

/// Policies read at once.
const PAGE: u32 = 500;

/// The policies as of some change.
pub(crate) struct Policies {
    store: Arc<dyn Store>,
    changes: AtomicU64,
    compiled: ArcSwapOption<(u64, Arc<Compiled>)>,
    /// How many batches and searches are worked on at once; the others wait their turn.
    pub(crate) desk: Arc<Semaphore>,
}

/// Batches and searches worked on at once.
const DESKS: usize = 2;

impl Policies {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, changes: AtomicU64::new(0), compiled: ArcSwapOption::empty(), desk: Arc::new(Semaphore::new(DESKS)) }
    }

    /// Every policy, ready to be asked. If what is stored does not fit together, nothing is allowed.
    ///
    /// # Errors
    /// Storage is away.
    pub(crate) async fn current(&self) -> Result<Arc<Compiled>, StoreError> {
        let now = self.changes.load(Ordering::Acquire);
        if let Some(known) = self.compiled.load_full()
            && known.0 == now
        {
            return Ok(Arc::clone(&known.1));
        }
        let mut records: Vec<Policy> = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.objects(Policy::KIND, after.as_deref(), PAGE).await?;
            for object in page.items {
                records.push(serde_json::from_value(object.document).map_err(|e| StoreError::Corrupt(e.to_string()))?);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let compiled = Arc::new(Compiled::new(&records).unwrap_or_else(|why| {
            tracing::error!(target: "policy", why, "the stored policies do not fit together; everything is refused");
            Compiled::default()
        }));
        self.compiled.store(Some(Arc::new((now, Arc::clone(&compiled)))));
        Ok(compiled)
    }
}

impl Listener for Policies {
    fn committed(&self, batch: &Committed) {
        let named = format!("\"object\":\"{}\"", ObjectKind::Policy.as_str());
        let concerns =
            |kind: &str, document: &str| kind.starts_with("storage.") || (kind.starts_with("object.") && document.contains(&named));
        if batch.events.iter().any(|event| concerns(&event.kind, &event.document)) {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }
}
