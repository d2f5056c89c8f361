//! The live revocations: what every edge holds in memory and asks on every hit.
//!
//! A token carries the ledger position its issuer knew (`seq`). A revocation at position `r` kills what it
//! names if the token's position is below `r`: no clock is compared, so nothing issued after a
//! revocation is refused for it and nothing issued before survives it.
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::{AHashMap, RandomState};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokens::access::Origin;

/// What a revocation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationKind {
    /// One token, by `jti`.
    Token,
    /// Everything of one grant.
    Grant,
    /// Everything of one session, by `sid`.
    Session,
    /// Everything of one client.
    Client,
    /// Everything of one subject.
    Subject,
    /// Everything of one device.
    Device,
    /// Everything signed by one key, by `kid`; or what is remembered of an API key, by [`API_KEY`] and its id.
    Key,
}

impl RevocationKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [Self::Token, Self::Grant, Self::Session, Self::Client, Self::Subject, Self::Device, Self::Key];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Grant => "grant",
            Self::Session => "session",
            Self::Client => "client",
            Self::Subject => "subject",
            Self::Device => "device",
            Self::Key => "key",
        }
    }

    /// The kind of that wire name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == name)
    }
}

/// One revocation: what it names, where it stands in the ledger, and until when it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What `id` is the id of.
    pub kind: RevocationKind,
    /// The id.
    pub id: String,
    /// Its place in the ledger; what it names is dead if issued before. The store fills it in.
    pub seq: u64,
    /// When it was decided, milliseconds since the epoch (for the propagation histogram).
    pub at_ms: i64,
    /// Seconds since the epoch: after this nothing it could match is alive anyway.
    pub expires_at: i64,
}

/// What a live credential is known by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// `jti`.
    pub token: Option<&'a str>,
    /// Private claim `grant`.
    pub grant: Option<&'a str>,
    /// `sid`.
    pub session: Option<&'a str>,
    /// `client_id`.
    pub client: Option<&'a str>,
    /// `sub`.
    pub subject: Option<&'a str>,
    /// Device id.
    pub device: Option<&'a str>,
    /// `kid` of the signature.
    pub key: Option<&'a str>,
    /// Private claim `seq`: the ledger position its issuer knew. Absent counts as 0.
    pub seq: u64,
    /// Private claim `from`: the tokens it was exchanged from.
    pub from: Option<&'a Origin>,
}

impl<'a> Facts<'a> {
    const fn get(&self, kind: RevocationKind) -> Option<&'a str> {
        match kind {
            RevocationKind::Token => self.token,
            RevocationKind::Grant => self.grant,
            RevocationKind::Session => self.session,
            RevocationKind::Client => self.client,
            RevocationKind::Subject => self.subject,
            RevocationKind::Device => self.device,
            RevocationKind::Key => self.key,
        }
    }

    /// Every id of this kind it lives and dies with: its own, and those of the tokens it was exchanged from.
    fn all(&self, kind: RevocationKind) -> impl Iterator<Item = &'a str> {
        let before = match (kind, self.from) {
            (RevocationKind::Token, Some(from)) => from.jti.as_slice(),
            (RevocationKind::Client, Some(from)) => from.client_id.as_slice(),
            _ => &[],
        };
        self.get(kind).into_iter().chain(before.iter().map(String::as_str))
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: u64,
    at_ms: i64,
    expires_at: i64,
}

/// How a revocation names an API key: this and its id. No `kid` has a colon in it. An API key lives on: what was known of it before counts no
/// more, and whoever needs it asks again.
pub const API_KEY: &str = "api_key:";

/// Seconds what was used once is remembered beyond the time it could count in: the nodes' clocks are not one.
pub const SPENT_KEPT_S: i64 = 300;

/// Seconds a revocation is kept beyond its expiry: whoever still accepts what it names may have a leeway and a clock that is behind.
pub const KEPT_LONGER_S: i64 = 300;

/// Parts of a kind, each locked on its own: whoever forgets what has expired keeps only those waiting who ask for one part of so many.
const PARTS: usize = 128;

/// Some of the revocations of one kind.
#[derive(Debug)]
struct Part {
    entries: AHashMap<String, Entry>,
    /// No entry expires before this.
    earliest: i64,
}

impl Default for Part {
    fn default() -> Self {
        Self { entries: AHashMap::new(), earliest: i64::MAX }
    }
}

/// The revocations of one kind.
#[derive(Debug)]
struct Kind {
    hash: RandomState,
    parts: Box<[RwLock<Part>; PARTS]>,
    /// How many there are: counted up before one is there and down after it is gone, so that whoever sees none misses none.
    count: AtomicUsize,
}

impl Default for Kind {
    fn default() -> Self {
        let parts = Box::new(std::array::from_fn(|_| RwLock::default()));
        Self { hash: RandomState::new(), parts, count: AtomicUsize::new(0) }
    }
}

impl Kind {
    fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn part(&self, id: &str) -> &RwLock<Part> {
        let [first, ..] = &*self.parts;
        let at = usize::try_from(self.hash.hash_one(id) % PARTS as u64).unwrap_or(0);
        self.parts.get(at).unwrap_or(first)
    }

    fn find(&self, id: &str) -> Option<Entry> {
        if self.len() == 0 { None } else { self.part(id).read().entries.get(id).copied() }
    }

    fn apply(&self, revocation: &Revocation) {
        let mut part = self.part(&revocation.id).write();
        part.earliest = part.earliest.min(revocation.expires_at);
        if let Some(e) = part.entries.get_mut(&revocation.id) {
            if revocation.seq >= e.seq {
                e.seq = revocation.seq;
            }
            e.at_ms = e.at_ms.max(revocation.at_ms);
            e.expires_at = e.expires_at.max(revocation.expires_at);
            return;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        let entry = Entry { seq: revocation.seq, at_ms: revocation.at_ms, expires_at: revocation.expires_at };
        part.entries.insert(revocation.id.clone(), entry);
    }

    /// Forgets what expired before, one part after the other, and reads no part in which nothing did.
    fn purge(&self, now: i64) -> usize {
        let over = |expires_at: i64| expires_at.saturating_add(KEPT_LONGER_S) <= now;
        let mut gone = 0;
        for part in &*self.parts {
            if !over(part.read().earliest) {
                continue;
            }
            let mut part = part.write();
            let (before, mut earliest) = (part.entries.len(), i64::MAX);
            part.entries.retain(|_, e| {
                let stays = !over(e.expires_at);
                if stays {
                    earliest = earliest.min(e.expires_at);
                }
                stays
            });
            part.earliest = earliest;
            let went = before - part.entries.len();
            // After a flood the room goes too.
            if part.entries.len() < part.entries.capacity() / 8 {
                part.entries.shrink_to_fit();
            }
            self.count.fetch_sub(went, Ordering::AcqRel);
            gone += went;
        }
        gone
    }
}

/// The set of live revocations. Cheap to ask, idempotent to fill, order does not matter.
#[derive(Debug, Default)]
pub struct RevocationSet {
    by_kind: [Kind; 7],
    generation: AtomicU64,
    head: AtomicU64,
}

impl RevocationSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts every application: a cached "not revoked" answer is good while this stands still.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The furthest ledger position known here; put into tokens as `seq` when they are issued.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Notes that the ledger is known up to `seq` without a gap, and that whoever remembers anything else of it has heard.
    pub fn advance(&self, seq: u64) {
        self.head.fetch_max(seq, Ordering::AcqRel);
    }

    /// Takes in one revocation. The later of two for the same id wins. Knowing one position is not knowing those before
    /// it: the head stays where it is until [`advance`](Self::advance).
    pub fn apply(&self, revocation: &Revocation) {
        self.kind(revocation.kind).apply(revocation);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Which revocation, if any, kills a credential with these facts.
    #[must_use]
    pub fn revoked(&self, facts: &Facts<'_>) -> Option<RevocationKind> {
        RevocationKind::ALL.into_iter().find(|kind| {
            let known = self.kind(*kind);
            let for_good = |id: &str| *kind == RevocationKind::Token || (*kind == RevocationKind::Key && !id.starts_with(API_KEY));
            known.len() > 0 && facts.all(*kind).any(|id| known.find(id).is_some_and(|e| facts.seq < e.seq || for_good(id)))
        })
    }

    /// When what is known by this id ended, milliseconds since the epoch: for credentials of others, which carry no position of ours.
    #[must_use]
    pub fn ended_at(&self, kind: RevocationKind, id: &str) -> Option<i64> {
        self.kind(kind).find(id).map(|e| e.at_ms)
    }

    /// Forgets what cannot match anything alive any more. Returns how many went. Whoever asks meanwhile waits for a small part at most.
    pub fn purge(&self, now: i64) -> usize {
        self.by_kind.iter().map(|kind| kind.purge(now)).sum()
    }

    /// Everything live, for a joining gateway.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Revocation> {
        let mut all = Vec::with_capacity(self.len());
        for kind in RevocationKind::ALL {
            for part in &*self.kind(kind).parts {
                let told =
                    |(id, e): (&String, &Entry)| Revocation { kind, id: id.clone(), seq: e.seq, at_ms: e.at_ms, expires_at: e.expires_at };
                all.extend(part.read().entries.iter().map(told));
            }
        }
        all
    }

    /// How many are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_kind.iter().map(Kind::len).sum()
    }

    /// Whether none is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kind(&self, kind: RevocationKind) -> &Kind {
        let [token, grant, session, client, subject, device, key] = &self.by_kind;
        match kind {
            RevocationKind::Token => token,
            RevocationKind::Grant => grant,
            RevocationKind::Session => session,
            RevocationKind::Client => client,
            RevocationKind::Subject => subject,
            RevocationKind::Device => device,
            RevocationKind::Key => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoke(kind: RevocationKind, id: &str, seq: u64) -> Revocation {
        Revocation { kind, id: id.into(), seq, at_ms: 0, expires_at: 100 }
    }

    #[test]
    fn what_was_issued_before_dies_and_what_is_issued_after_lives() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Client, "c", 7));
        assert_eq!(set.revoked(&Facts { client: Some("c"), seq: 6, ..Facts::default() }), Some(RevocationKind::Client));
        assert_eq!(set.revoked(&Facts { client: Some("c"), seq: 7, ..Facts::default() }), None);
        assert_eq!(set.revoked(&Facts { client: Some("d"), seq: 6, ..Facts::default() }), None);
    }

    #[test]
    fn a_revoked_token_or_key_stays_dead_whatever_its_position() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Token, "t", 7));
        set.apply(&revoke(RevocationKind::Key, "k", 7));
        assert!(set.revoked(&Facts { token: Some("t"), seq: 99, ..Facts::default() }).is_some());
        assert!(set.revoked(&Facts { key: Some("k"), seq: 99, ..Facts::default() }).is_some());
    }

    #[test]
    fn what_was_known_of_an_api_key_before_is_dead_and_what_is_known_since_lives() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Key, "api_key:k", 7));
        let told = |seq| set.revoked(&Facts { key: Some("api_key:k"), seq, ..Facts::default() });
        assert_eq!((told(6), told(7)), (Some(RevocationKind::Key), None));
    }

    #[test]
    fn what_was_exchanged_dies_with_any_token_it_came_from_and_with_their_clients() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Token, "t", 7));
        set.apply(&revoke(RevocationKind::Client, "c", 7));
        let told = |jti: &str, client: &str, seq| {
            let from = Origin { jti: vec!["x".into(), jti.into()], client_id: vec!["x".into(), client.into()] };
            set.revoked(&Facts { token: Some("new"), client: Some("gw"), seq, from: Some(&from), ..Facts::default() })
        };
        assert_eq!(told("t", "x", 99), Some(RevocationKind::Token));
        assert_eq!(told("x", "c", 6), Some(RevocationKind::Client));
        assert_eq!((told("x", "c", 7), told("x", "x", 0), told("c", "t", 0)), (None, None, None));
    }

    #[test]
    fn applying_in_any_order_and_twice_gives_the_same_set() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Subject, "s", 9));
        set.apply(&revoke(RevocationKind::Subject, "s", 4));
        assert!(set.revoked(&Facts { subject: Some("s"), seq: 8, ..Facts::default() }).is_some());
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn hearing_of_one_position_is_not_knowing_those_before_it() {
        let set = RevocationSet::new();
        set.advance(3);
        set.apply(&revoke(RevocationKind::Subject, "s", 9));
        assert_eq!(set.head(), 3);
        set.advance(9);
        set.advance(5);
        assert_eq!(set.head(), 9);
    }

    #[test]
    fn expired_revocations_are_forgotten() {
        let set = RevocationSet::new();
        set.apply(&revoke(RevocationKind::Grant, "g", 1));
        assert_eq!(set.purge(99 + KEPT_LONGER_S), 0);
        assert_eq!(set.purge(100 + KEPT_LONGER_S), 1);
        assert!(set.is_empty());
    }

    #[test]
    fn what_was_revoked_again_for_longer_outlives_the_first() {
        let set = RevocationSet::new();
        for n in 0..1000 {
            set.apply(&revoke(RevocationKind::Token, &format!("t{n}"), 1));
        }
        for n in 0..500 {
            set.apply(&Revocation { expires_at: 900, ..revoke(RevocationKind::Token, &format!("t{n}"), 2) });
        }
        assert_eq!((set.len(), set.snapshot().len()), (1000, 1000));
        assert_eq!(set.purge(100 + KEPT_LONGER_S), 500);
        assert_eq!((set.len(), set.snapshot().len()), (500, 500));
        assert!(set.revoked(&Facts { token: Some("t7"), ..Facts::default() }).is_some());
        assert!(set.revoked(&Facts { token: Some("t700"), ..Facts::default() }).is_none());
        assert_eq!((set.purge(899 + KEPT_LONGER_S), set.purge(900 + KEPT_LONGER_S), set.len()), (0, 500, 0));
    }

    /// Somebody reads one part for as long as they like: forgetting waits for that part, and nobody waits for forgetting.
    #[test]
    fn forgetting_keeps_nobody_waiting_who_asks_for_something_else() {
        let (set, wall) = (RevocationSet::new(), std::time::Instant::now());
        for n in 0..20_000 {
            set.apply(&revoke(RevocationKind::Token, &format!("t{n}"), 1));
        }
        let [.., last] = &*set.kind(RevocationKind::Token).parts;
        let mut elsewhere = (0..).map(|n| format!("new{n}")).filter(|id| !std::ptr::eq(set.kind(RevocationKind::Token).part(id), last));
        let held = last.read();
        let there = held.entries.len();
        assert!(there < 20_000 / 16, "one part is a small part");
        std::thread::scope(|threads| {
            let purge = threads.spawn(|| set.purge(100 + KEPT_LONGER_S));
            while set.len() > there {
                assert!(wall.elapsed().as_secs() < 60, "one part in use stops the forgetting of all");
                std::thread::yield_now();
            }
            // It now waits for the part that is held; every other one can be asked and filled.
            let id = elsewhere.next().unwrap();
            set.apply(&Revocation { expires_at: 900, ..revoke(RevocationKind::Token, &id, 2) });
            assert!(set.revoked(&Facts { token: Some(&id), ..Facts::default() }).is_some());
            drop(held);
            assert_eq!(purge.join().unwrap(), 20_000);
        });
        assert_eq!(set.len(), 1);
    }
}
