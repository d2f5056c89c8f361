//! The device registry of this process's database, for its gateway: looked up by the marks of a certificate, remembered until the ledger
//! tells that a device changed.
use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use accounts::{
    Device,
    device::{Bound, Shown},
};
use async_trait::async_trait;
use gateway::devices::{Certificate, Devices, Found, Unknown};
use ledger::{Committed, Listener, ObjectKind, RevocationSet, Store, StoreError};
use moka::sync::Cache;

/// Certificates remembered.
const REMEMBERED: u64 = 50_000;

/// The registry.
pub struct Registry {
    store: Arc<dyn Store>,
    revoked: Arc<RevocationSet>,
    /// With when it was read.
    known: LazyLock<Cache<String, (Option<Found>, i64), ahash::RandomState>>,
    /// Counts what was dropped: what was read before a drop is not remembered after it.
    generation: AtomicU64,
}

impl Registry {
    /// Over a database. Register it as a [`Listener`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, revoked: Arc<RevocationSet>) -> Self {
        let known = || Cache::builder().max_capacity(REMEMBERED).build_with_hasher(ahash::RandomState::new());
        Self { store, revoked, known: LazyLock::new(known), generation: AtomicU64::new(0) }
    }

    async fn look(&self, shown: &Shown<'_>) -> Result<Option<Found>, StoreError> {
        let seq = self.revoked.head();
        for mark in shown.marks() {
            let Some(row) = self.store.object(ObjectKind::DeviceBinding, &mark).await? else { continue };
            let bound: Bound = serde_json::from_value(row.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            let Some(object) = self.store.object(ObjectKind::Device, &bound.device).await? else { continue };
            let device: Device = serde_json::from_value(object.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            return Ok(Some(Found { disabled: device.disabled, device: Arc::new(device.claim()), seq }));
        }
        Ok(None)
    }
}

#[async_trait]
impl Devices for Registry {
    async fn of_certificate(&self, certificate: &Certificate<'_>, now_ms: i64, since_ms: i64) -> Result<Option<Found>, Unknown> {
        let Certificate { sha256, subject, san_uris, authority } = *certificate;
        // The certificate is the same if its digest is; who vouches for it may not be.
        let key = format!("{sha256}|{authority}");
        if let Some((known, at_ms)) = self.known.get(&key)
            && at_ms > since_ms
        {
            return Ok(known);
        }
        let before = self.generation.load(Ordering::Acquire);
        let found = self.look(&Shown { sha256, subject, san_uris, authority }).await.map_err(|error| {
            tracing::warn!(%error, "a certificate's device could not be looked for");
            Unknown
        })?;
        if self.generation.load(Ordering::Acquire) == before && !sha256.is_empty() {
            self.known.insert(key.clone(), (found.clone(), now_ms));
            // A drop between the check and the insertion has not seen the entry.
            if self.generation.load(Ordering::Acquire) != before {
                self.known.invalidate(&key);
            }
        }
        Ok(found)
    }
}

impl Listener for Registry {
    fn committed(&self, batch: &Committed) {
        let named = format!("\"object\":\"{}\"", ObjectKind::Device.as_str());
        let concerns = |kind: &str, document: &str| {
            kind.starts_with("storage.") || kind.starts_with("device.") || (kind.starts_with("object.") && document.contains(&named))
        };
        if batch.events.iter().any(|event| concerns(&event.kind, &event.document)) {
            self.generation.fetch_add(1, Ordering::AcqRel);
            // One that is not made yet has nothing to forget.
            if let Some(known) = LazyLock::get(&self.known) {
                known.invalidate_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use accounts::device::Certificate as Registered;
    use ledger::{Change, Object, Step};
    use store::Options;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn what_is_remembered_is_read_anew_where_it_is_too_old() {
        let home = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", home.path().join("a.db").display());
        let store = store::open(&url, &Options { connections: 2, ..Options::default() }, Arc::new(SystemClock)).await.unwrap();
        let registry = Registry::new(store.clone(), Arc::default());
        let shown = Certificate { sha256: "ab", ..Certificate::default() };
        assert_eq!(registry.of_certificate(&shown, 1_000, i64::MIN).await, Ok(None));
        let certificates = vec![Registered { sha256: Some("ab".into()), ..Registered::default() }];
        let device = Device { id: "pump".into(), disabled: true, certificates, ..Device::default() };
        let object = |kind, id: &str, document| Object {
            kind,
            id: id.to_owned(),
            key: id.to_owned(),
            document,
            version: 1,
            created_at: 1,
            updated_at: 1,
        };
        let mut change = Change::new().step(Step::CreateObject(object(ObjectKind::Device, "pump", serde_json::to_value(&device).unwrap())));
        for mark in device.marks() {
            let bound = serde_json::to_value(Bound { device: "pump".into() }).unwrap();
            change = change.step(Step::CreateObject(object(ObjectKind::DeviceBinding, &mark, bound)));
        }
        assert!(store.apply(change).await.unwrap().applied());
        // Nobody has told of it: what is remembered counts as long as it may be that old.
        assert_eq!(registry.of_certificate(&shown, 2_000, 999).await, Ok(None));
        let found = registry.of_certificate(&shown, 2_000, 1_000).await.unwrap();
        assert!(found.is_some_and(|found| found.disabled));
        let found = registry.of_certificate(&shown, 3_000, i64::MIN).await.unwrap();
        assert!(found.is_some(), "the new answer is remembered");
    }
}
