//! The live revocations: what every edge holds in memory and asks on every hit.
//!
//! A token carries the ledger position its issuer knew (`seq`). A revocation at position `r` kills what it
//! names if the token's position is below `r`: no clock is compared, so nothing issued after a
//! revocation is refused for it and nothing issued before survives it.
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;
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

/// The set of live revocations. Cheap to ask, idempotent to fill, order does not matter.
#[derive(Debug, Default)]
pub struct RevocationSet {
    by_kind: [RwLock<AHashMap<String, Entry>>; 7],
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
        {
            let mut map = self.map(revocation.kind).write();
            let entry = Entry { seq: revocation.seq, at_ms: revocation.at_ms, expires_at: revocation.expires_at };
            map.entry(revocation.id.clone())
                .and_modify(|e| {
                    if revocation.seq >= e.seq {
                        e.seq = revocation.seq;
                    }
                    e.at_ms = e.at_ms.max(revocation.at_ms);
                    e.expires_at = e.expires_at.max(revocation.expires_at);
                })
                .or_insert(entry);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Which revocation, if any, kills a credential with these facts.
    #[must_use]
    pub fn revoked(&self, facts: &Facts<'_>) -> Option<RevocationKind> {
        RevocationKind::ALL.into_iter().find(|kind| {
            let map = self.map(*kind).read();
            let for_good = |id: &str| *kind == RevocationKind::Token || (*kind == RevocationKind::Key && !id.starts_with(API_KEY));
            !map.is_empty() && facts.all(*kind).any(|id| map.get(id).is_some_and(|e| facts.seq < e.seq || for_good(id)))
        })
    }

    /// When what is known by this id ended, milliseconds since the epoch: for credentials of others, which carry no position of ours.
    #[must_use]
    pub fn ended_at(&self, kind: RevocationKind, id: &str) -> Option<i64> {
        let map = self.map(kind).read();
        if map.is_empty() { None } else { map.get(id).map(|e| e.at_ms) }
    }

    /// Forgets what cannot match anything alive any more. Returns how many went.
    pub fn purge(&self, now: i64) -> usize {
        self.by_kind
            .iter()
            .map(|map| {
                let mut map = map.write();
                let before = map.len();
                map.retain(|_, e| e.expires_at.saturating_add(KEPT_LONGER_S) > now);
                before - map.len()
            })
            .sum()
    }

    /// Everything live, for a joining gateway.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Revocation> {
        RevocationKind::ALL
            .into_iter()
            .flat_map(|kind| {
                self.map(kind)
                    .read()
                    .iter()
                    .map(|(id, e)| Revocation { kind, id: id.clone(), seq: e.seq, at_ms: e.at_ms, expires_at: e.expires_at })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_kind.iter().map(|m| m.read().len()).sum()
    }

    /// Whether none is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn map(&self, kind: RevocationKind) -> &RwLock<AHashMap<String, Entry>> {
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
}
