//! The keys of assertions: the gateway's own, shared by equal nodes through their database, where each lies sealed.
//!
//! A key is for one period of time and named by it, so that no node has to tell another which one signs. Of several that find none, the first
//! to write wins. The key of the next period is made and published a whole period before it signs; that of the last is published for one more.
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use ledger::{Change, EventKind, NewEvent, Outcome, Step, Store, StoreError};
use serde_json::json;
use tokens::{Alg, Clock, Entropy, seal::Kek, sign::SigningKey};
use tokio::sync::Mutex;

use crate::Parts;

/// The shortest period, seconds: longer than two assertions live.
const SHORTEST_S: i64 = 900;
/// After a failure the database is left alone so long.
const PAUSE_MS: i64 = 2_000;

/// What one key is for.
type Place = (Alg, i64);

/// What is asked of the database.
#[async_trait]
trait Shelf: Send + Sync {
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError>;
}

struct Kept(Arc<dyn Store>);

#[async_trait]
impl Shelf for Kept {
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.meta(name).await
    }
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
        self.0.apply(change).await
    }
}

/// The keys of this process.
pub(crate) struct AssertionKeys {
    shelf: Option<Arc<dyn Shelf>>,
    kek: Option<Kek>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    period: i64,
    ring: ArcSwap<Ring>,
    tried_at: AtomicI64,
    gate: Mutex<()>,
}

#[derive(Default)]
struct Ring {
    keys: Vec<(Place, SigningKey)>,
    json: Bytes,
}

impl Ring {
    fn new(mut keys: Vec<(Place, SigningKey)>) -> Self {
        keys.sort_by_key(|(place, _)| *place);
        let all: Vec<_> = keys.iter().map(|(_, key)| key.jwk()).collect();
        let json = serde_json::to_vec(&json!({ "keys": all })).unwrap_or_default().into();
        Self { keys, json }
    }
    fn get(&self, place: Place) -> Option<&SigningKey> {
        self.keys.iter().find(|(at, _)| *at == place).map(|(_, key)| key)
    }
}

impl AssertionKeys {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            shelf: parts.store.clone().map(|store| Arc::new(Kept(store)) as Arc<dyn Shelf>),
            kek: parts.means.kek.clone(),
            clock: Arc::clone(&parts.clock),
            entropy: Arc::clone(&parts.entropy),
            period: parts.means.key_period_s.max(SHORTEST_S),
            ring: ArcSwap::default(),
            tried_at: AtomicI64::new(i64::MIN / 2),
            gate: Mutex::default(),
        }
    }

    /// The key that signs now. Only the first signature of a period waits for the database.
    pub(crate) async fn signing(&self, alg: Alg) -> Option<SigningKey> {
        let period = self.clock.now().div_euclid(self.period);
        if let (Some(key), Some(_)) = (self.ring.load().get((alg, period)), self.ring.load().get((alg, period + 1))) {
            return Some(key.clone());
        }
        let known = self.ring.load().get((alg, period)).cloned();
        // Where a key is at hand, one request looks for the next; the others go on.
        let alone = match &known {
            Some(_) => self.gate.try_lock().ok(),
            None => Some(self.gate.lock().await),
        };
        if alone.is_some() {
            self.fill(&[alg], period).await;
        }
        known.or_else(|| self.ring.load().get((alg, period)).cloned())
    }

    /// The public keys for these algorithms: the last, the present and the next of each.
    pub(crate) async fn document(&self, algs: &[Alg]) -> Option<Bytes> {
        let period = self.clock.now().div_euclid(self.period);
        let whole = |ring: &Ring| algs.iter().all(|alg| [period, period + 1].iter().all(|at| ring.get((*alg, *at)).is_some()));
        if !whole(&self.ring.load()) {
            let _alone = self.gate.lock().await;
            self.fill(algs, period).await;
        }
        let ring = self.ring.load();
        algs.iter().all(|alg| ring.get((*alg, period)).is_some()).then(|| ring.json.clone())
    }

    async fn fill(&self, algs: &[Alg], period: i64) {
        let now_ms = self.clock.now_ms();
        let missing = |ring: &Ring| algs.iter().any(|alg| [period, period + 1].iter().any(|at| ring.get((*alg, *at)).is_none()));
        if !missing(&self.ring.load()) || (0..PAUSE_MS).contains(&(now_ms - self.tried_at.load(Ordering::Acquire))) {
            return;
        }
        let before = self.ring.load_full();
        let mut every: Vec<Alg> = before.keys.iter().map(|((alg, _), _)| *alg).chain(algs.iter().copied()).collect();
        every.sort_unstable();
        every.dedup();
        let mut keys = Vec::new();
        let mut failed = false;
        for place in every.into_iter().flat_map(|alg| [period - 1, period, period + 1].map(|at| (alg, at))) {
            let found = match before.get(place) {
                Some(key) => Ok(Some(key.clone())),
                // What is known stays whatever happens to the rest.
                None if failed => Ok(None),
                None => self.read_or_make(place, place.1 >= period, now_ms).await,
            };
            match found {
                Ok(found) => keys.extend(found.map(|key| (place, key))),
                Err(why) => {
                    tracing::error!(target: "gateway", why, "the keys of assertions cannot be had");
                    self.tried_at.store(now_ms, Ordering::Release);
                    failed = true;
                }
            }
        }
        self.ring.store(Arc::new(Ring::new(keys)));
    }

    async fn read_or_make(&self, place: Place, wanted: bool, now_ms: i64) -> Result<Option<SigningKey>, &'static str> {
        let shelf = self.shelf.as_ref().ok_or("this process has no database to keep them in")?;
        let kek = self.kek.as_ref().ok_or("this process has no key-encryption key to seal them under (storage.key_file)")?;
        let away = |_: StoreError| "storage is away";
        let (name, seal_at) = (self.name(place), format!("meta:{}", self.name(place)));
        let open = |sealed: Vec<u8>| {
            let pkcs8 = kek.open(&seal_at, &sealed).map_err(|_| "one does not open with this key-encryption key")?;
            SigningKey::from_pkcs8(place.0, &pkcs8).map_err(|_| "one is not what its row says").map(Some)
        };
        if let Some(sealed) = shelf.meta(&name).await.map_err(away)? {
            return open(sealed);
        }
        if !wanted {
            return Ok(None);
        }
        let (key, pkcs8) = SigningKey::generate(place.0).map_err(|_| "one could not be made")?;
        let event = NewEvent::new(EventKind::KeyCreated, now_ms)
            .with("kid", key.kid())
            .with("alg", place.0.as_str())
            .with("use", "gateway assertions")
            .with("actor", "gateway");
        let change = Change::new()
            .step(Step::InitMeta { name: name.clone(), value: kek.seal(&seal_at, &pkcs8, &*self.entropy) })
            .step(Step::RemoveMeta { name: self.name((place.0, place.1 - 3)) })
            .event(event);
        if shelf.apply(change).await.map_err(away)?.applied() {
            return Ok(Some(key));
        }
        // Another node was first.
        open(shelf.meta(&name).await.map_err(away)?.ok_or("one went as it was made")?)
    }

    fn name(&self, (alg, at): Place) -> String {
        format!("assertion_key:{alg}:{}:{at}", self.period)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicBool, AtomicU64},
    };

    use ledger::change::Guarded;
    use tokens::jwk::KeySet;

    use super::*;

    #[derive(Default)]
    struct Drawer {
        values: parking_lot::Mutex<HashMap<String, Vec<u8>>>,
        away: AtomicBool,
        asked: AtomicU64,
    }

    #[async_trait]
    impl Shelf for Drawer {
        async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            if self.away.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable("away".into()));
            }
            Ok(self.values.lock().get(name).cloned())
        }
        async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
            assert_eq!(change.events.len(), 1);
            let mut values = self.values.lock();
            for step in change.steps {
                match step {
                    Step::InitMeta { name, .. } if values.contains_key(&name) => return Ok(Outcome::Refused(Guarded { step: 0 })),
                    Step::InitMeta { name, value } => drop(values.insert(name, value)),
                    Step::RemoveMeta { name } => drop(values.remove(&name)),
                    other => panic!("{other:?}"),
                }
            }
            Ok(Outcome::Applied { seq: 1 })
        }
    }

    struct At(AtomicI64);
    impl Clock for At {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    struct Odd(AtomicU64);
    impl Entropy for Odd {
        fn fill(&self, out: &mut [u8]) {
            out.iter_mut().for_each(|octet| *octet = self.0.fetch_add(31, Ordering::SeqCst).to_le_bytes()[0]);
        }
    }

    const PERIOD: i64 = 3_600;

    struct Rig {
        drawer: Arc<Drawer>,
        clock: Arc<At>,
    }

    impl Rig {
        fn new() -> Self {
            Self { drawer: Arc::default(), clock: Arc::new(At(AtomicI64::new(PERIOD * 1000 * 100))) }
        }
        fn node(&self, kek: u8) -> AssertionKeys {
            AssertionKeys {
                shelf: Some(Arc::clone(&self.drawer) as _),
                kek: Some(Kek::new([kek; 32])),
                clock: Arc::clone(&self.clock) as _,
                entropy: Arc::new(Odd(AtomicU64::new(u64::from(kek)))),
                period: PERIOD,
                ring: ArcSwap::default(),
                tried_at: AtomicI64::new(i64::MIN / 2),
                gate: Mutex::default(),
            }
        }
        fn pass(&self, seconds: i64) {
            self.clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
        }
    }

    async fn kid(node: &AssertionKeys) -> String {
        node.signing(Alg::ES256).await.expect("a key").kid().to_owned()
    }

    async fn published(node: &AssertionKeys) -> Vec<String> {
        let document = node.document(&[Alg::ES256]).await.expect("a document");
        let set = KeySet::from_json(&document).expect("a key set");
        set.iter().filter_map(|key| key.kid().map(str::to_owned)).collect()
    }

    #[tokio::test]
    async fn equal_nodes_sign_with_one_key_and_the_next_is_published_before_it_signs() {
        let rig = Rig::new();
        let (one, two) = (rig.node(1), rig.node(1));
        let (first, same) = tokio::join!(kid(&one), kid(&two));
        assert_eq!(first, same);
        let before = published(&two).await;
        assert_eq!((before.len(), before.contains(&first)), (2, true));
        rig.pass(PERIOD);
        let second = kid(&one).await;
        assert!(second != first && before.contains(&second), "verifiers had a period to learn it");
        assert_eq!(kid(&two).await, second);
        let now = published(&two).await;
        assert_eq!((now.len(), now.contains(&first)), (3, true), "what the last one signed still counts");
        rig.pass(PERIOD);
        assert!(!published(&one).await.contains(&first));
        assert!(rig.drawer.values.lock().len() <= 4);
        rig.pass(2 * PERIOD);
        let _ = kid(&one).await;
        assert!(rig.drawer.values.lock().len() <= 5, "old ones go");
    }

    #[tokio::test]
    async fn without_the_database_what_is_known_signs_and_nothing_else_does() {
        let rig = Rig::new();
        let node = rig.node(1);
        let _ = kid(&node).await;
        rig.drawer.away.store(true, Ordering::SeqCst);
        rig.pass(PERIOD);
        let _ = kid(&node).await;
        let asked = rig.drawer.asked.load(Ordering::SeqCst);
        for _ in 0..20 {
            let _ = kid(&node).await;
        }
        assert_eq!(rig.drawer.asked.load(Ordering::SeqCst), asked, "it is left alone for a while");
        rig.pass(PERIOD);
        assert!(node.signing(Alg::ES256).await.is_none());
        rig.drawer.away.store(false, Ordering::SeqCst);
        rig.pass(5);
        let _ = kid(&node).await;
        assert!(rig.node(1).document(&[Alg::ES256, Alg::EdDSA]).await.is_some());
    }

    #[tokio::test]
    async fn another_key_encryption_key_opens_nothing() {
        let rig = Rig::new();
        let _ = kid(&rig.node(1)).await;
        assert!(rig.node(2).signing(Alg::ES256).await.is_none());
        assert!(rig.node(2).document(&[Alg::ES256]).await.is_none());
    }
}
