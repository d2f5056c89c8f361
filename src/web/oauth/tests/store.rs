//! Rows in maps and listeners that hear commits: enough of the database for the endpoints to be tried on.
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use edge::limit::{Counters, Quota, Verdict, gcra};
use ledger::{
    Artefact, ArtefactKind, Change, Committed, Consent, Event, Grant, Guarded, KeyRow, Listener, Object, ObjectKind, Outcome, Page, Record,
    Revocation, RevocationSet, Session, Step, Store, StoreError,
};
use parking_lot::Mutex;
use tokens::{Clock, Entropy};

#[derive(Default, Clone)]
pub(super) struct Rows {
    pub(super) artefacts: BTreeMap<(&'static str, Vec<u8>), Artefact>,
    pub(super) grants: BTreeMap<String, Grant>,
    pub(super) objects: BTreeMap<(&'static str, String), Object>,
    pub(super) secrets: BTreeMap<(String, String), Vec<u8>>,
    pub(super) revocations: Vec<Revocation>,
    pub(super) events: Vec<Event>,
}

/// The maps, a clock that stands until moved, randomness that counts.
#[derive(Default)]
pub(super) struct World {
    pub(super) rows: Mutex<Rows>,
    pub(super) now_ms: AtomicI64,
    pub(super) away: AtomicBool,
    /// So many reads from now, counted from 1.
    pub(super) fail_read_of_revocations: AtomicI64,
    pub(super) revoked: Arc<RevocationSet>,
    seed: AtomicU64,
    counters: Mutex<BTreeMap<String, i64>>,
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
}

impl Clock for World {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}

impl Entropy for World {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let seed = self.seed.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&tokens::hash::sha256(&seed.to_be_bytes())[..chunk.len()]);
        }
    }
}

#[async_trait]
impl Counters for World {
    async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        gcra(self.counters.lock().entry(key.to_owned()).or_default(), quota, now_ms, cost)
    }
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
        gcra(self.counters.lock().entry(key.to_owned()).or_default(), quota, now_ms, 0)
    }
    async fn clear(&self, key: &str) {
        self.counters.lock().remove(key);
    }
}

impl Rows {
    fn step(&mut self, step: Step, seq: u64) -> bool {
        match step {
            Step::Consume { kind, id, now, successor } => match self.artefacts.get_mut(&(kind.as_str(), id)) {
                Some(a) if a.consumed_at.is_none() && a.expires_at > now => (a.consumed_at, a.successor) = (Some(now), successor),
                _ => return false,
            },
            Step::Rotate { kind, id, now, from, to, expires_at, born, seq } => match self.artefacts.get_mut(&(kind.as_str(), id)) {
                Some(a) if a.consumed_at.is_none() && a.expires_at > now && a.mac == from => {
                    (a.mac, a.created_at, a.expires_at, a.successor, a.seq) = (to, now, expires_at, born, seq);
                }
                _ => return false,
            },
            Step::GrantLive { id, now } => return self.grants.get(&id).is_some_and(|g| g.ended_at.is_none() && g.expires_at > now),
            Step::SessionLive { .. } => {}
            Step::ObjectIs { kind, id, version } => return self.objects.get(&(kind.as_str(), id)).is_some_and(|o| o.version == version),
            Step::Put(mut a) => {
                a.seq = seq;
                return self.artefacts.insert((a.kind.as_str(), a.id.clone()), a).is_none();
            }
            Step::Remove { kind, id } => drop(self.artefacts.remove(&(kind.as_str(), id))),
            Step::StartGrant(g) => drop(self.grants.insert(g.id.clone(), g)),
            Step::UpdateGrant { id, expires_at, .. } => {
                self.grants.get_mut(&id).into_iter().for_each(|g| g.expires_at = expires_at);
            }
            Step::EndGrant { id, now } => self.grants.get_mut(&id).into_iter().for_each(|g| g.ended_at = Some(now)),
            Step::Revoke(mut r) => {
                r.seq = seq + 1;
                self.revocations.push(r);
            }
            other => panic!("the endpoints do not need {other:?}"),
        }
        true
    }
}

impl World {
    /// Stores an object as an administrator would, event and all.
    pub(super) fn object<T: Record>(&self, record: &T) {
        self.object_elsewhere(record);
        let (kind, id) = (T::KIND, record.id());
        let document = serde_json::json!({"data": {"object": kind.as_str(), "id": id}}).to_string();
        self.tell(vec![Event { seq: 0, at_ms: 0, kind: "object.replaced".into(), document, hash: [0; 32] }], Vec::new());
    }
    /// The same on another node, whose events have not come yet.
    pub(super) fn object_elsewhere<T: Record>(&self, record: &T) {
        let (kind, id) = (T::KIND, record.id().to_owned());
        let document = serde_json::to_value(record).unwrap();
        let mut rows = self.rows.lock();
        let version = rows.objects.get(&(kind.as_str(), id.clone())).map_or(1, |o| o.version + 1);
        let object = Object { kind, id: id.clone(), key: record.key().to_owned(), document, version, created_at: 0, updated_at: 0 };
        rows.objects.insert((kind.as_str(), id), object);
    }
    fn tell(&self, events: Vec<Event>, revocations: Vec<Revocation>) {
        let head = self.rows.lock().events.len() as u64;
        revocations.iter().for_each(|r| self.revoked.apply(r));
        self.revoked.advance(head);
        let batch = Committed { events, revocations, head };
        self.listeners.lock().iter().for_each(|l| l.committed(&batch));
    }
    fn there(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) { Err(StoreError::Unavailable("away".into())) } else { Ok(()) }
    }
    pub(super) fn kinds(&self) -> Vec<String> {
        self.rows.lock().events.iter().map(|e| e.kind.clone()).collect()
    }
}

#[async_trait]
impl Store for World {
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
        self.there()?;
        let (events, revocations) = {
            let mut rows = self.rows.lock();
            let mut next = rows.clone();
            let seq = rows.events.len() as u64;
            for (at, step) in change.steps.into_iter().enumerate() {
                if !next.step(step, seq) {
                    return Ok(Outcome::Refused(Guarded { step: at }));
                }
            }
            let made = |(i, e): (usize, &ledger::NewEvent)| Event {
                seq: seq + i as u64 + 1,
                at_ms: e.at_ms,
                kind: e.kind.as_str().into(),
                document: e.document(),
                hash: [0; 32],
            };
            let events: Vec<Event> = change.events.iter().enumerate().map(made).collect();
            next.events.extend(events.clone());
            let revocations = next.revocations.split_at(rows.revocations.len()).1.to_vec();
            *rows = next;
            (events, revocations)
        };
        self.tell(events, revocations);
        Ok(Outcome::Applied { seq: self.revoked.head() })
    }
    async fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError> {
        self.there()?;
        Ok(self.rows.lock().artefacts.get(&(kind.as_str(), id.to_vec())).cloned())
    }
    async fn grant(&self, id: &str) -> Result<Option<Grant>, StoreError> {
        Ok(self.rows.lock().grants.get(id).cloned())
    }
    async fn grants(&self, _: Option<&str>, _: Option<&str>, _: Option<&str>, _: u32) -> Result<Page<Grant>, StoreError> {
        Ok(Page { items: Vec::new(), next: None })
    }
    async fn session(&self, _: &str) -> Result<Option<Session>, StoreError> {
        Ok(None)
    }
    async fn sessions(&self, _: Option<&str>, _: Option<&str>, _: u32) -> Result<Page<Session>, StoreError> {
        Ok(Page { items: Vec::new(), next: None })
    }
    async fn consent(&self, _: &str, _: &str) -> Result<Option<Consent>, StoreError> {
        Ok(None)
    }
    async fn object(&self, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError> {
        self.there()?;
        Ok(self.rows.lock().objects.get(&(kind.as_str(), id.to_owned())).cloned())
    }
    async fn object_by_key(&self, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError> {
        Ok(self.rows.lock().objects.values().find(|o| o.kind == kind && o.key == key).cloned())
    }
    async fn objects(&self, _: ObjectKind, _: Option<&str>, _: u32) -> Result<Page<Object>, StoreError> {
        Ok(Page { items: Vec::new(), next: None })
    }
    async fn secret(&self, _: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.lock().secrets.get(&(id.to_owned(), slot.to_owned())).cloned())
    }
    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        Ok(Vec::new())
    }
    async fn meta(&self, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
    async fn events(&self, _: u64, _: u32) -> Result<Vec<Event>, StoreError> {
        Ok(Vec::new())
    }
    async fn head(&self) -> Result<(u64, [u8; 32]), StoreError> {
        self.there()?;
        Ok((self.rows.lock().events.len() as u64, [0; 32]))
    }
    async fn revocations(&self, after: u64, now: i64, limit: u32) -> Result<Vec<Revocation>, StoreError> {
        if self.fail_read_of_revocations.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Err(StoreError::Unavailable("for a moment".into()));
        }
        let due = |r: &&Revocation| r.seq > after && r.expires_at > now;
        Ok(self.rows.lock().revocations.iter().filter(due).take(limit as usize).cloned().collect())
    }
    async fn purge(&self, _: i64, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        Ok(Vec::new())
    }
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.listeners.lock().push(listener);
    }
    fn fresh_at_ms(&self) -> i64 {
        self.now_ms()
    }
}
