//! Rows in maps: enough of the database for pages to be tried on.
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use edge::limit::{Counters, Quota, Verdict, gcra};
use ledger::{
    Artefact, ArtefactKind, Change, Consent, Event, Grant, Guarded, KeyRow, Listener, NewEvent, Object, ObjectKind, Outcome, Page,
    Revocation, Session, Step, Store, StoreError,
};
use parking_lot::Mutex;
use tokens::{Clock, Entropy};

#[derive(Default, Clone)]
pub(super) struct Rows {
    pub(super) artefacts: BTreeMap<(&'static str, Vec<u8>), Artefact>,
    pub(super) grants: BTreeMap<String, Grant>,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) consents: BTreeMap<(String, String), Consent>,
    pub(super) objects: BTreeMap<(&'static str, String), Object>,
    pub(super) secrets: BTreeMap<String, Vec<u8>>,
    pub(super) events: Vec<NewEvent>,
    pub(super) revocations: Vec<Revocation>,
    pub(super) commits: usize,
}

/// The maps, and time that stands still unless it is moved.
#[derive(Default)]
pub(super) struct World {
    pub(super) rows: Mutex<Rows>,
    pub(super) now_ms: AtomicI64,
    seed: AtomicU64,
    counters: Mutex<BTreeMap<String, i64>>,
    /// What somebody else does right after a person's password was read.
    pub(super) overtaking: Mutex<Option<Overtaking>>,
}

pub(super) type Overtaking = Box<dyn FnOnce(&mut Rows) + Send>;

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
    async fn refund(&self, key: &str, quota: &Quota, cost: u32) {
        edge::limit::refund(self.counters.lock().entry(key.to_owned()).or_default(), quota, cost);
    }
}

pub(super) fn secret(kind: ObjectKind, id: &str, slot: &str) -> String {
    format!("{}/{id}/{slot}", kind.as_str())
}

impl Rows {
    /// Whether the step's guard holds; the step is done.
    fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Consume { kind, id, now, successor } => match self.artefacts.get_mut(&(kind.as_str(), id)) {
                Some(a) if a.consumed_at.is_none() && a.expires_at > now => {
                    (a.consumed_at, a.successor) = (Some(now), successor);
                }
                _ => return false,
            },
            Step::SessionLive { id, now } => return self.sessions.get(&id).is_some_and(|s| s.ended_at.is_none() && s.expires_at > now),
            Step::ObjectIs { kind, id, version } => {
                return self.objects.get(&(kind.as_str(), id)).is_some_and(|o| o.version == version);
            }
            Step::ReplaceObject { kind, id, key, document, version, .. } => match self.objects.get_mut(&(kind.as_str(), id)) {
                Some(o) if o.version == version => (o.key, o.document, o.version) = (key, document, version + 1),
                _ => return false,
            },
            Step::Put(a) => return self.artefacts.insert((a.kind.as_str(), a.id.clone()), a).is_none(),
            Step::Save(a) => drop(self.artefacts.insert((a.kind.as_str(), a.id.clone()), a)),
            Step::Remove { kind, id } => drop(self.artefacts.remove(&(kind.as_str(), id))),
            Step::StartGrant(g) => drop(self.grants.insert(g.id.clone(), g)),
            Step::EndGrant { id, now } => self.grants.get_mut(&id).into_iter().for_each(|g| g.ended_at = Some(now)),
            Step::EndGrantsOf { subject, now, .. } => {
                self.grants.values_mut().filter(|g| Some(&g.subject) == subject.as_ref()).for_each(|g| g.ended_at = Some(now));
            }
            Step::StartSession(s) | Step::UpdateSession(s) => drop(self.sessions.insert(s.id.clone(), s)),
            Step::EndSession { id, now } => self.sessions.get_mut(&id).into_iter().for_each(|s| s.ended_at = Some(now)),
            Step::EndSessionsOf { subject, now } => {
                self.sessions.values_mut().filter(|s| s.subject == subject).for_each(|s| s.ended_at = Some(now));
            }
            Step::PutSecret { kind, id, slot, value } => drop(self.secrets.insert(secret(kind, &id, &slot), value)),
            Step::PutConsent(c) => drop(self.consents.insert((c.subject.clone(), c.client_id.clone()), c)),
            Step::ForgetConsents { subject, client_id } => {
                self.consents.retain(|(s, c), _| *s != subject || client_id.as_ref().is_some_and(|id| id != c));
            }
            Step::ForgetConsentsOfClient { client_id } => self.consents.retain(|(_, c), _| *c != client_id),
            Step::Revoke(r) => self.revocations.push(r),
            other => panic!("pages do not need {other:?}"),
        }
        true
    }
}

fn page<T>(items: Vec<T>) -> Page<T> {
    Page { items, next: None }
}

#[async_trait]
impl Store for World {
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
        let mut rows = self.rows.lock();
        let mut next = rows.clone();
        for (at, step) in change.steps.into_iter().enumerate() {
            if !next.step(step) {
                return Ok(Outcome::Refused(Guarded { step: at }));
            }
        }
        next.events.extend(change.events);
        next.commits += 1;
        *rows = next;
        Ok(Outcome::Applied { seq: rows.events.len() as u64 })
    }
    async fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError> {
        Ok(self.rows.lock().artefacts.get(&(kind.as_str(), id.to_vec())).cloned())
    }
    async fn grant(&self, id: &str) -> Result<Option<Grant>, StoreError> {
        Ok(self.rows.lock().grants.get(id).cloned())
    }
    async fn grants(&self, subject: Option<&str>, _: Option<&str>, _: Option<&str>, _: u32) -> Result<Page<Grant>, StoreError> {
        let mine = |g: &&Grant| g.ended_at.is_none() && subject.is_none_or(|s| s == g.subject);
        Ok(page(self.rows.lock().grants.values().filter(mine).cloned().collect()))
    }
    async fn session(&self, id: &str) -> Result<Option<Session>, StoreError> {
        Ok(self.rows.lock().sessions.get(id).cloned())
    }
    async fn sessions(&self, subject: Option<&str>, _: Option<&str>, _: u32) -> Result<Page<Session>, StoreError> {
        let mine = |s: &&Session| s.ended_at.is_none() && subject.is_none_or(|sub| sub == s.subject);
        Ok(page(self.rows.lock().sessions.values().filter(mine).cloned().collect()))
    }
    async fn consent(&self, subject: &str, client_id: &str) -> Result<Option<Consent>, StoreError> {
        Ok(self.rows.lock().consents.get(&(subject.to_owned(), client_id.to_owned())).cloned())
    }
    async fn object(&self, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError> {
        Ok(self.rows.lock().objects.get(&(kind.as_str(), id.to_owned())).cloned())
    }
    async fn object_by_key(&self, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError> {
        Ok(self.rows.lock().objects.values().find(|o| o.kind == kind && o.key == key).cloned())
    }
    async fn objects(&self, _: ObjectKind, _: Option<&str>, _: u32) -> Result<Page<Object>, StoreError> {
        Ok(page(Vec::new()))
    }
    async fn secret(&self, kind: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.rows.lock().secrets.get(&secret(kind, id, slot)).cloned();
        if let Some(overtaking) = self.overtaking.lock().take_if(|_| kind == ObjectKind::User) {
            overtaking(&mut self.rows.lock());
        }
        Ok(found)
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
        Ok((0, [0; 32]))
    }
    async fn revocations(&self, _: u64, _: i64, _: u32) -> Result<Vec<Revocation>, StoreError> {
        Ok(Vec::new())
    }
    async fn purge(&self, _: i64, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        Ok(Vec::new())
    }
    fn listen(&self, _: Arc<dyn Listener>) {}
    fn fresh_at_ms(&self) -> i64 {
        0
    }
}
