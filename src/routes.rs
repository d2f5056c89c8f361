//! The gateway's route table, read from the database and rebuilt when the ledger says that something of it changed.
use std::sync::Arc;

use edge::{issuer::TrustedIssuer, route::Route, table::RouteTable, upstream::Upstream};
use ledger::{Committed, Listener, Mistake, ObjectKind, Record, Store, StoreError};
use tokio::sync::Notify;

/// Reads and builds the table. The inner error lists what is wrong with what is stored.
///
/// # Errors
/// A fault of storage.
pub async fn read(store: &dyn Store, own: &str) -> Result<Result<RouteTable, Vec<Mistake>>, StoreError> {
    let (routes, upstreams, issuers) = (all::<Route>(store).await?, all::<Upstream>(store).await?, all::<TrustedIssuer>(store).await?);
    Ok(RouteTable::build(&routes, &upstreams, &issuers, own))
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

/// Rings when a route, an upstream or a trusted issuer changed.
#[derive(Debug, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// What rings.
    #[must_use]
    pub fn rings(&self) -> Arc<Notify> {
        self.0.clone()
    }
}

impl Listener for Bell {
    fn committed(&self, batch: &Committed) {
        let concerns = |document: &str| {
            let event: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
            let kind = event.pointer("/data/object").and_then(serde_json::Value::as_str).and_then(ObjectKind::parse);
            kind.is_none_or(|kind| matches!(kind, ObjectKind::Route | ObjectKind::Upstream | ObjectKind::TrustedIssuer))
        };
        let changes = |kind: &str| kind.starts_with("object.") || kind.starts_with("storage.");
        if batch.events.iter().any(|event| changes(&event.kind) && concerns(&event.document)) {
            self.0.notify_one();
        }
    }
}
