//! The keys of assertions: the gateway's own, shared by equal nodes through their database, where each lies sealed.
//!
//! A key is for one period of time and named by it, so that no node has to tell another which one signs. Of several that find none, the first
//! to write wins. The key of the next period is made and published a whole period before it signs; that of the last is published for one more.
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ledger::{Change, EventKind, NewEvent, Step, Store, StoreError};
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

/// The keys of this process.
pub(crate) struct AssertionKeys {
    store: Option<Arc<dyn Store>>,
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
            store: parts.store.clone(),
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
        for place in every.into_iter().flat_map(|alg| [period - 1, period, period + 1].map(|at| (alg, at))) {
            let found = match before.get(place) {
                Some(key) => Ok(Some(key.clone())),
                None => self.read_or_make(place, place.1 >= period, now_ms).await,
            };
            match found {
                Ok(found) => keys.extend(found.map(|key| (place, key))),
                Err(why) => {
                    tracing::error!(target: "gateway", why, "the keys of assertions cannot be had");
                    self.tried_at.store(now_ms, Ordering::Release);
                    break;
                }
            }
        }
        self.ring.store(Arc::new(Ring::new(keys)));
    }

    async fn read_or_make(&self, place: Place, wanted: bool, now_ms: i64) -> Result<Option<SigningKey>, &'static str> {
        let store = self.store.as_ref().ok_or("this process has no database to keep them in")?;
        let kek = self.kek.as_ref().ok_or("this process has no key-encryption key to seal them under (storage.key_file)")?;
        let away = |_: StoreError| "storage is away";
        let (name, seal_at) = (self.name(place), format!("meta:{}", self.name(place)));
        let open = |sealed: Vec<u8>| {
            let pkcs8 = kek.open(&seal_at, &sealed).map_err(|_| "one does not open with this key-encryption key")?;
            SigningKey::from_pkcs8(place.0, &pkcs8).map_err(|_| "one is not what its row says").map(Some)
        };
        if let Some(sealed) = store.meta(&name).await.map_err(away)? {
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
        if store.apply(change).await.map_err(away)?.applied() {
            return Ok(Some(key));
        }
        // Another node was first.
        open(store.meta(&name).await.map_err(away)?.ok_or("one went as it was made")?)
    }

    fn name(&self, (alg, at): Place) -> String {
        format!("assertion_key:{alg}:{}:{at}", self.period)
    }
}
