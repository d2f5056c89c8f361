//! The gateway's route table, read from the database and rebuilt when the ledger says that something of it changed.
use std::time::Duration;

use edge::{issuer::TrustedIssuer, route::Route, table::RouteTable, upstream::Upstream};
use ledger::{Committed, Listener, Mistake, ObjectKind, Record, Store, StoreError};
use policy::Policy;
use tokio::{sync::watch, time::timeout};

/// How long an administrator's answer waits for the table of this node.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads and builds the table. The inner error lists what is wrong with what is stored.
///
/// # Errors
/// A fault of storage.
pub async fn read(store: &dyn Store, own: &str, default_policy: Option<&str>) -> Result<Result<RouteTable, Vec<Mistake>>, StoreError> {
    let (routes, upstreams, issuers) = (all::<Route>(store).await?, all::<Upstream>(store).await?, all::<TrustedIssuer>(store).await?);
    let policies = all::<Policy>(store).await?;
    Ok(RouteTable::judged_by(&routes, &upstreams, &issuers, (&policies, default_policy), own))
}

async fn all<R: Record>(store: &dyn Store) -> Result<Vec<R>, StoreError> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.objects(R::KIND, after.as_deref(), 500).await?;
        for object in page.items {
            let record = serde_json::from_value(object.document)
                .map_err(|error| StoreError::Corrupt(format!("{} {}: {error}", R::KIND.as_str(), object.id)))?;
            found.push(record);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Rings when a route, an upstream, a trusted issuer or a policy changed.
#[derive(Debug, Default)]
pub struct Bell {
    rung: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Bell {
    /// Waits until it has rung since it was answered last; what it then says is to be given to [`Bell::answer`].
    pub async fn ring(&self) -> u64 {
        let done = *self.answered.borrow();
        let mut rung = self.rung.subscribe();
        rung.wait_for(|rung| *rung > done).await.map_or(done, |rung| *rung)
    }

    /// The table is as of this ring.
    pub fn answer(&self, ring: u64) {
        self.answered.send_replace(ring);
    }

    /// Waits a moment until the table has what was committed before.
    pub async fn settled(&self) {
        let rung = *self.rung.borrow();
        let mut answered = self.answered.subscribe();
        if timeout(PATIENCE, answered.wait_for(|answered| *answered >= rung)).await.is_err() {
            tracing::warn!("the routes are not read anew yet");
        }
    }
}

impl Listener for Bell {
    fn committed(&self, batch: &Committed) {
        let concerns = |document: &str| {
            let event: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
            let kind = event.pointer("/data/object").and_then(serde_json::Value::as_str).and_then(ObjectKind::parse);
            kind.is_none_or(|kind| {
                matches!(kind, ObjectKind::Route | ObjectKind::Upstream | ObjectKind::TrustedIssuer | ObjectKind::Policy)
            })
        };
        let changes = |kind: &str| ["object.", "secret.", "storage."].iter().any(|start| kind.starts_with(start));
        if batch.events.iter().any(|event| changes(&event.kind) && concerns(&event.document)) {
            self.rung.send_modify(|rung| *rung += 1);
        }
    }
}
