//! A view of the database whose listeners can be let go: what is rebuilt on a reload listens through one of these.
use std::{
    any::Any,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use ledger::{
    Artefact, ArtefactKind, Change, Committed, Consent, Event, Grant, KeyRow, Listener, Object, ObjectKind, Outcome, Page, Revocation,
    Session, Store, StoreError,
};
use parking_lot::{Mutex, RwLock};

/// The same database; what listens through it is kept apart until [`Mount::show`].
pub struct Scoped {
    inner: Arc<dyn Store>,
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
}

/// What listens for the sake of something that may be dropped.
struct Audience {
    of: Weak<dyn Any + Send + Sync>,
    listeners: Vec<Arc<dyn Listener>>,
}

/// Where views of one database are attached: one listener of the database, however often something is rebuilt.
pub struct Mount {
    inner: Arc<dyn Store>,
    audiences: Arc<Audiences>,
}

#[derive(Default)]
struct Audiences(RwLock<Vec<Audience>>);

impl Listener for Audiences {
    fn committed(&self, batch: &Committed) {
        for audience in self.0.read().iter().filter(|audience| audience.of.strong_count() > 0) {
            audience.listeners.iter().for_each(|listener| listener.committed(batch));
        }
    }
}

impl Mount {
    /// Attaches to a database.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let audiences = Arc::<Audiences>::default();
        inner.listen(audiences.clone());
        Self { inner, audiences }
    }

    /// A new view.
    #[must_use]
    pub fn view(&self) -> Arc<Scoped> {
        Arc::new(Scoped { inner: self.inner.clone(), listeners: Mutex::default() })
    }

    /// What listens through this view hears of commits for as long as `of` lives; what listened for the dead is let go.
    pub fn show(&self, view: &Scoped, of: Weak<dyn Any + Send + Sync>) {
        let listeners = std::mem::take(&mut *view.listeners.lock());
        let mut audiences = self.audiences.0.write();
        audiences.retain(|audience| audience.of.strong_count() > 0);
        audiences.push(Audience { of, listeners });
    }
}

#[async_trait]
impl Store for Scoped {
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
        self.inner.apply(change).await
    }
    async fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError> {
        self.inner.artefact(kind, id).await
    }
    async fn waiting(&self, owner: &str, now: i64, limit: u32) -> Result<Vec<Artefact>, StoreError> {
        self.inner.waiting(owner, now, limit).await
    }
    async fn participants(&self, session: &str, limit: u32) -> Result<Vec<Artefact>, StoreError> {
        self.inner.participants(session, limit).await
    }
    async fn left_behind(&self, since: i64, now: i64, page: (u32, u32)) -> Result<Vec<Artefact>, StoreError> {
        self.inner.left_behind(since, now, page).await
    }
    async fn artefacts(&self, kind: ArtefactKind, prefix: &[u8], after: &[u8], limit: u32) -> Result<Vec<Artefact>, StoreError> {
        self.inner.artefacts(kind, prefix, after, limit).await
    }
    async fn grant(&self, id: &str) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(id).await
    }
    async fn grants(
        &self,
        subject: Option<&str>,
        client_id: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<Grant>, StoreError> {
        self.inner.grants(subject, client_id, after, limit).await
    }
    async fn session(&self, id: &str) -> Result<Option<Session>, StoreError> {
        self.inner.session(id).await
    }
    async fn sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError> {
        self.inner.sessions(subject, after, limit).await
    }
    async fn consent(&self, subject: &str, client_id: &str) -> Result<Option<Consent>, StoreError> {
        self.inner.consent(subject, client_id).await
    }
    async fn object(&self, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError> {
        self.inner.object(kind, id).await
    }
    async fn object_by_key(&self, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError> {
        self.inner.object_by_key(kind, key).await
    }
    async fn objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
        self.inner.objects(kind, after, limit).await
    }
    async fn secret(&self, kind: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.secret(kind, id, slot).await
    }
    async fn two_secrets(&self, kind: ObjectKind, id: &str, slots: [&str; 2]) -> Result<[Option<Vec<u8>>; 2], StoreError> {
        self.inner.two_secrets(kind, id, slots).await
    }
    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.inner.keys().await
    }
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.meta(name).await
    }
    async fn events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.inner.events(after, limit).await
    }
    async fn head(&self) -> Result<(u64, [u8; 32]), StoreError> {
        self.inner.head().await
    }
    async fn revocations(&self, after: u64, now: i64, limit: u32) -> Result<Vec<Revocation>, StoreError> {
        self.inner.revocations(after, now, limit).await
    }
    async fn purge(&self, now: i64, batch: u32) -> Result<u64, StoreError> {
        self.inner.purge(now, batch).await
    }
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.inner.counts().await
    }
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.listeners.lock().push(listener);
    }
    fn fresh_at_ms(&self) -> i64 {
        self.inner.fresh_at_ms()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ledger::{EventKind, NewEvent};

    use super::*;
    use crate::clock::SystemClock;

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Listener for Counts {
        fn committed(&self, batch: &Committed) {
            self.0.fetch_add(batch.events.len(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_listens_for_something_dropped_is_let_go() {
        let home = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", home.path().join("doorward.db").display());
        let store = store::open(&url, &store::Options::default(), Arc::new(SystemClock)).await.unwrap();
        let mount = Mount::new(store.clone());
        let event = || Change::new().event(NewEvent::new(EventKind::Restored, 0));

        let (owner, heard, view) = (Arc::new(()), Arc::<Counts>::default(), mount.view());
        view.listen(heard.clone());
        mount.show(&view, Arc::downgrade(&owner) as Weak<dyn Any + Send + Sync>);
        view.apply(event()).await.unwrap();
        assert_eq!(heard.0.load(Ordering::Relaxed), 1);

        drop(owner);
        store.apply(event()).await.unwrap();
        assert_eq!(heard.0.load(Ordering::Relaxed), 1);
        let (next, other) = (Arc::new(()), mount.view());
        mount.show(&other, Arc::downgrade(&next) as Weak<dyn Any + Send + Sync>);
        assert_eq!(Arc::strong_count(&heard), 1, "held by this test only");
    }
}
