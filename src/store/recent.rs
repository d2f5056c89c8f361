//! Rows that this node wrote or read lately, in memory, so that a code, a refresh token or a form that comes back soon costs no read.
//!
//! Only where this node is the only one that writes (SQLite): then whatever a commit touches is changed or dropped here before anybody is
//! told of the commit, and what is found here is what the database would say. A row that was read while a commit went by is not
//! kept: each stripe counts its changes, and a reader says which count it began with. Bounded in rows and in octets a row.
use std::{borrow::Borrow, hash::Hash, sync::Arc};

use ahash::{AHashMap, RandomState};
use ledger::{Artefact, ArtefactKind, Consent, Grant, Session, Step};
use parking_lot::Mutex;
use serde_json::Value;

/// Parts that are locked on their own.
const STRIPES: usize = 16;
/// Rows of one kind in one stripe, and once more as many that are older.
const ROWS: usize = 64;
/// A row with a longer document is not kept, octets.
const LONGEST: usize = 2048;

/// Where in time a read began: what it found is kept only if nothing in its stripe changed since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began {
    stripe: usize,
    count: u64,
}

struct Stripe<K, V> {
    count: u64,
    young: AHashMap<K, Arc<V>>,
    old: AHashMap<K, Arc<V>>,
}

impl<K, V> Default for Stripe<K, V> {
    fn default() -> Self {
        Self { count: 0, young: AHashMap::new(), old: AHashMap::new() }
    }
}

impl<K: Hash + Eq, V> Stripe<K, V> {
    fn keep(&mut self, key: K, row: V) {
        self.old.remove(&key);
        self.young.insert(key, Arc::new(row));
        if self.young.len() >= ROWS {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

/// Rows of one kind.
struct Rows<K, V> {
    hash: RandomState,
    stripes: [Mutex<Stripe<K, V>>; STRIPES],
}

impl<K: Hash + Eq, V> Rows<K, V> {
    fn new() -> Self {
        Self { hash: RandomState::new(), stripes: std::array::from_fn(|_| Mutex::default()) }
    }

    fn at<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hash.hash_one(key) % STRIPES as u64).unwrap_or(0)
    }

    fn with<T>(&self, at: usize, does: impl FnOnce(&mut Stripe<K, V>) -> T) -> T {
        let [first, ..] = &self.stripes;
        does(&mut self.stripes.get(at).unwrap_or(first).lock())
    }

    fn find<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Result<Arc<V>, Began>
    where
        K: Borrow<Q>,
    {
        let stripe = self.at(key);
        self.with(stripe, |s| s.young.get(key).or_else(|| s.old.get(key)).cloned().ok_or(Began { stripe, count: s.count }))
    }

    /// Keeps what a read found, unless something changed meanwhile.
    fn read(&self, began: Began, key: K, row: V) {
        self.with(began.stripe, |s| {
            if s.count == began.count {
                s.keep(key, row);
            }
        });
    }

    /// Keeps what was committed.
    fn wrote(&self, key: K, row: V) {
        self.with(self.at(&key), |s| {
            s.count += 1;
            s.keep(key, row);
        });
    }

    /// Changes what is kept, if it is.
    fn alter<Q: Hash + Eq + ?Sized>(&self, key: &Q, to: impl FnOnce(&V) -> V)
    where
        K: Borrow<Q>,
    {
        self.with(self.at(key), |s| {
            s.count += 1;
            if let Some((key, row)) = s.young.remove_entry(key).or_else(|| s.old.remove_entry(key)) {
                s.keep(key, to(&row));
            }
        });
    }

    fn drop_one<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.with(self.at(key), |s| {
            s.count += 1;
            if s.young.remove(key).is_none() {
                s.old.remove(key);
            }
        });
    }

    fn drop_if(&self, goes: impl Fn(&V) -> bool) {
        for stripe in &self.stripes {
            let mut s = stripe.lock();
            s.count += 1;
            s.young.retain(|_, row| !goes(row));
            s.old.retain(|_, row| !goes(row));
        }
    }
}

/// The rows of one node.
pub(crate) struct Recent {
    codes: Rows<Vec<u8>, Artefact>,
    refreshes: Rows<Vec<u8>, Artefact>,
    waiting: Rows<Vec<u8>, Artefact>,
    browsers: Rows<Vec<u8>, Artefact>,
    grants: Rows<String, Grant>,
    sessions: Rows<String, Session>,
    /// By person and client; also that there is none.
    consents: Rows<String, Option<Consent>>,
}

/// About how many octets a document takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => 64 + members.iter().map(|(name, value)| 32 + name.len() + weight(value)).sum::<usize>(),
        _ => 32,
    }
}

fn small(grant: &Grant) -> bool {
    grant.scope.len() + weight(&grant.document) <= LONGEST
}

/// Neither name has a line feed in it where it is kept.
fn both(subject: &str, client_id: &str) -> Option<String> {
    (!subject.contains('\n') && !client_id.contains('\n')).then(|| format!("{subject}\n{client_id}"))
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self {
            codes: Rows::new(),
            refreshes: Rows::new(),
            waiting: Rows::new(),
            browsers: Rows::new(),
            grants: Rows::new(),
            sessions: Rows::new(),
            consents: Rows::new(),
        }
    }

    /// Where artefacts of a kind are kept, if they are: those that come back within minutes, once or a few times.
    const fn of(&self, kind: ArtefactKind) -> Option<&Rows<Vec<u8>, Artefact>> {
        match kind {
            ArtefactKind::Code => Some(&self.codes),
            ArtefactKind::Refresh => Some(&self.refreshes),
            ArtefactKind::Interaction | ArtefactKind::Pushed => Some(&self.waiting),
            ArtefactKind::Browser => Some(&self.browsers),
            _ => None,
        }
    }

    /// An artefact; or where a read of it begins, if such are kept.
    pub(crate) fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Artefact, Option<Began>> {
        let Some(rows) = self.of(kind) else { return Err(None) };
        match rows.find(id) {
            // Two kinds share a place.
            Ok(found) if found.kind == kind => Ok((*found).clone()),
            Ok(_) => Err(None),
            Err(began) => Err(Some(began)),
        }
    }

    /// What a read of an artefact found.
    pub(crate) fn read_artefact(&self, began: Option<Began>, found: Option<&Artefact>) {
        if let (Some(began), Some(found)) = (began, found)
            && let Some(rows) = self.of(found.kind)
            && found.document.len() <= LONGEST
        {
            rows.read(began, found.id.clone(), found.clone());
        }
    }

    pub(crate) fn grant(&self, id: &str) -> Result<Grant, Began> {
        self.grants.find(id).map(|found| (*found).clone())
    }

    /// What a read of a grant found.
    pub(crate) fn read_grant(&self, began: Began, found: Option<&Grant>) {
        if let Some(found) = found.filter(|grant| small(grant)) {
            self.grants.read(began, found.id.clone(), found.clone());
        }
    }

    pub(crate) fn session(&self, id: &str) -> Result<Session, Began> {
        self.sessions.find(id).map(|found| (*found).clone())
    }

    /// What a read of a session found.
    pub(crate) fn read_session(&self, began: Began, found: Option<&Session>) {
        if let Some(found) = found {
            self.sessions.read(began, found.id.clone(), found.clone());
        }
    }

    /// What a person allowed a client, if that is known; or where a read of it begins.
    pub(crate) fn consent(&self, subject: &str, client_id: &str) -> Result<Option<Consent>, Option<Began>> {
        let key = both(subject, client_id).ok_or(None)?;
        self.consents.find(key.as_str()).map(|found| (*found).clone()).map_err(Some)
    }

    /// What a read of it found.
    pub(crate) fn read_consent(&self, began: Option<Began>, (subject, client_id): (&str, &str), found: Option<&Consent>) {
        if let (Some(began), Some(key)) = (began, both(subject, client_id)) {
            self.consents.read(began, key, found.cloned());
        }
    }

    /// Takes in what a commit did, before anybody hears of it.
    pub(crate) fn committed(&self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Put(row) | Step::Save(row) => {
                    if let Some(rows) = self.of(row.kind) {
                        if row.document.len() <= LONGEST { rows.wrote(row.id.clone(), row) } else { rows.drop_one(row.id.as_slice()) }
                    }
                }
                Step::Consume { kind, id, .. } | Step::Extend { kind, id, .. } | Step::Remove { kind, id } => {
                    if let Some(rows) = self.of(kind) {
                        rows.drop_one(id.as_slice());
                    }
                }
                Step::Rotate { kind, id, now, to, expires_at, born, seq, .. } => {
                    if let Some(rows) = self.of(kind) {
                        rows.alter(id.as_slice(), |was| Artefact {
                            mac: to,
                            created_at: now,
                            expires_at,
                            successor: born,
                            seq,
                            ..was.clone()
                        });
                    }
                }
                Step::StartGrant(grant) if small(&grant) => self.grants.wrote(grant.id.clone(), grant),
                Step::StartGrant(grant) => self.grants.drop_one(grant.id.as_str()),
                Step::UpdateGrant { id, .. } | Step::EndGrant { id, .. } => self.grants.drop_one(id.as_str()),
                Step::EndGrantsOf { subject, client_id, .. } => self
                    .grants
                    .drop_if(|g| subject.as_ref().is_none_or(|s| *s == g.subject) && client_id.as_ref().is_none_or(|c| *c == g.client_id)),
                Step::EndGrantsOfSession { id, .. } => self.grants.drop_if(|g| g.session.as_ref() == Some(&id)),
                Step::StartSession(session) => self.sessions.wrote(session.id.clone(), session),
                Step::UpdateSession(session) => self.sessions.drop_one(session.id.as_str()),
                Step::EndSession { id, .. } => self.sessions.drop_one(id.as_str()),
                Step::EndSessionsOf { subject, .. } => self.sessions.drop_if(|s| s.subject == subject),
                Step::PutConsent(consent) => {
                    if let Some(key) = both(&consent.subject, &consent.client_id) {
                        self.consents.wrote(key, Some(consent));
                    }
                }
                Step::ForgetConsents { subject, client_id: Some(client_id) } => {
                    if let Some(key) = both(&subject, &client_id) {
                        self.consents.drop_one(key.as_str());
                    }
                }
                // Known to be absent stays known.
                Step::ForgetConsents { subject, client_id: None } => {
                    self.consents.drop_if(|c| c.as_ref().is_some_and(|c| c.subject == subject));
                }
                Step::ForgetConsentsOfClient { client_id } => {
                    self.consents.drop_if(|c| c.as_ref().is_some_and(|c| c.client_id == client_id));
                }
                // Named one by one, so that a new step is thought of here.
                Step::GrantLive { .. }
                | Step::SessionLive { .. }
                | Step::ObjectIs { .. }
                | Step::EndApiKeysOf { .. }
                | Step::CreateObject(_)
                | Step::ReplaceObject { .. }
                | Step::DeleteObject { .. }
                | Step::PutSecret { .. }
                | Step::RemoveSecret { .. }
                | Step::PutKey(_)
                | Step::MoveKey { .. }
                | Step::RemoveKey { .. }
                | Step::InitMeta { .. }
                | Step::PutMeta { .. }
                | Step::RemoveMeta { .. }
                | Step::Revoke(_) => {}
            }
        }
    }

    /// Forgets everything: rows went in bulk, or whether a commit happened is not known.
    pub(crate) fn clear(&self) {
        for rows in [&self.codes, &self.refreshes, &self.waiting, &self.browsers] {
            rows.drop_if(|_| true);
        }
        self.grants.drop_if(|_| true);
        self.sessions.drop_if(|_| true);
        self.consents.drop_if(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u8, document: &str) -> Artefact {
        Artefact {
            kind: ArtefactKind::Refresh,
            id: vec![id],
            mac: vec![1],
            grant: Some("g".into()),
            document: document.into(),
            created_at: 0,
            expires_at: 9,
            consumed_at: None,
            successor: None,
            seq: 0,
        }
    }

    fn grant(id: &str, subject: &str, session: &str) -> Grant {
        let (subject, client_id, session) = (subject.into(), "c".into(), Some(session.into()));
        let document = serde_json::Value::Null;
        Grant { id: id.into(), subject, client_id, session, scope: String::new(), document, created_at: 0, expires_at: 9, ended_at: None }
    }

    fn began(recent: &Recent, id: u8) -> Option<Began> {
        recent.artefact(ArtefactKind::Refresh, &[id]).expect_err("not kept")
    }

    #[test]
    fn what_was_read_while_something_was_committed_is_not_kept() {
        let recent = Recent::new();
        let (before, old) = (began(&recent, 1), row(1, "{}"));
        let consume = || Step::Consume { kind: ArtefactKind::Refresh, id: vec![1], now: 5, successor: None };
        recent.committed(vec![consume()]);
        recent.read_artefact(before, Some(&old));
        assert!(recent.artefact(ArtefactKind::Refresh, &[1]).is_err(), "the row that was read is the one before the commit");
        recent.read_artefact(began(&recent, 1), Some(&old));
        assert!(recent.artefact(ArtefactKind::Refresh, &[1]).is_ok());
        recent.committed(vec![consume()]);
        assert!(recent.artefact(ArtefactKind::Refresh, &[1]).is_err(), "consumed: read again");
    }

    #[test]
    fn every_step_that_ends_something_is_heard() {
        let recent = Recent::new();
        let fill = || {
            recent.committed(vec![
                Step::StartGrant(grant("a", "alice", "s1")),
                Step::StartGrant(grant("b", "bob", "s2")),
                Step::Put(row(1, "{}")),
            ]);
        };
        let has = |id: &str| recent.grant(id).is_ok();
        fill();
        recent.committed(vec![Step::EndGrantsOfSession { id: "s1".into(), now: 1 }]);
        assert_eq!((has("a"), has("b")), (false, true));
        fill();
        recent.committed(vec![Step::EndGrantsOf { subject: Some("bob".into()), client_id: None, now: 1 }]);
        assert_eq!((has("a"), has("b")), (true, false));
        fill();
        recent.committed(vec![Step::EndGrantsOf { subject: Some("bob".into()), client_id: Some("d".into()), now: 1 }]);
        assert_eq!((has("a"), has("b")), (true, true));
        recent.committed(vec![Step::EndGrantsOf { subject: None, client_id: None, now: 1 }]);
        assert_eq!((has("a"), has("b")), (false, false));
        fill();
        recent.committed(vec![
            Step::EndGrant { id: "a".into(), now: 1 },
            Step::UpdateGrant { id: "b".into(), scope: String::new(), document: serde_json::Value::Null, expires_at: 1 },
            Step::Extend { kind: ArtefactKind::Refresh, id: vec![1], now: 1, expires_at: 2 },
        ]);
        assert_eq!((has("a"), has("b"), recent.artefact(ArtefactKind::Refresh, &[1]).is_ok()), (false, false, false));
        fill();
        recent.clear();
        assert_eq!((has("a"), has("b"), recent.artefact(ArtefactKind::Refresh, &[1]).is_ok()), (false, false, false));
    }

    #[test]
    fn what_was_allowed_is_known_until_it_is_forgotten_and_so_is_that_nothing_was() {
        let recent = Recent::new();
        let allowed = |client: &str| Consent { subject: "s".into(), client_id: client.into(), scopes: vec!["a".into()], granted_at: 1 };
        let nothing = recent.consent("s", "c").expect_err("unknown");
        recent.read_consent(nothing, ("s", "c"), None);
        assert_eq!(recent.consent("s", "c").expect("known"), None);
        recent.committed(vec![Step::PutConsent(allowed("c")), Step::PutConsent(allowed("d"))]);
        assert_eq!(recent.consent("s", "c").expect("known"), Some(allowed("c")));
        recent.committed(vec![Step::ForgetConsents { subject: "s".into(), client_id: Some("c".into()) }]);
        assert!(recent.consent("s", "c").is_err() && recent.consent("s", "d").is_ok());
        recent.committed(vec![Step::ForgetConsentsOfClient { client_id: "d".into() }]);
        assert!(recent.consent("s", "d").is_err());
        recent.committed(vec![Step::PutConsent(allowed("c")), Step::ForgetConsents { subject: "s".into(), client_id: None }]);
        assert!(recent.consent("s", "c").is_err());
        assert!(recent.consent("s\nc", "d").expect_err("not kept").is_none());
    }

    #[test]
    fn rows_and_their_octets_are_bounded() {
        let recent = Recent::new();
        recent.committed(vec![Step::Put(row(1, &"x".repeat(LONGEST + 1)))]);
        assert!(recent.artefact(ArtefactKind::Refresh, &[1]).is_err());
        let large = Grant { document: serde_json::json!({ "details": vec!["x".repeat(100); 30] }), ..grant("large", "s", "s") };
        recent.committed(vec![Step::StartGrant(large.clone())]);
        let began = recent.grant("large").expect_err("too large");
        recent.read_grant(began, Some(&large));
        assert!(recent.grant("large").is_err());
        for n in 0..20_000_u32 {
            recent.committed(vec![Step::Put(Artefact { id: n.to_be_bytes().to_vec(), ..row(0, "{}") })]);
        }
        let kept = (0..20_000_u32).filter(|n| recent.artefact(ArtefactKind::Refresh, &n.to_be_bytes()).is_ok()).count();
        assert!((STRIPES..=2 * ROWS * STRIPES).contains(&kept), "{kept}");
    }
}
