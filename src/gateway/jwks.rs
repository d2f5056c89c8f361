//! The keys of an issuer elsewhere (RFC 7517 §5): fetched rarely, replaced whole, never older than an hour.
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use bytes::Bytes;
use tokens::{
    Alg, Clock,
    jwk::{KeySet, VerifyingKey},
};
use tokio::sync::Mutex;

use outbound::Outbound;

use crate::{discovery, source::KeySource};

/// How long what an issuer's metadata says is not asked again.
const DISCOVERED_MS: i64 = 3_600_000;
/// At most one fetch in this time, whatever for.
const PAUSE_MS: i64 = 5_000;
/// How long a fetched set serves while its issuer is down.
const LAST_GOOD_MS: i64 = 3_600_000;
/// How old a set gets before the background fetches it again; a removed key stops within this.
pub const RENEW_MS: i64 = 60_000;

/// Where a JWK set comes from.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The document, or `None` if it could not be had.
    async fn fetch(&self, uri: &str) -> Option<Bytes>;
}

#[async_trait]
impl Fetch for Outbound {
    async fn fetch(&self, uri: &str) -> Option<Bytes> {
        self.get(uri).await.inspect_err(|why| tracing::warn!(uri, %why, "key set not fetched")).ok()
    }
}

/// The keys at one URI.
pub struct Jwks {
    issuer: Arc<str>,
    uri: String,
    source: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    set: ArcSwap<(KeySet, Bytes)>,
    generation: AtomicU64,
    good_at: AtomicI64,
    tried_at: AtomicI64,
    fetches: AtomicU64,
    /// Where the metadata said the keys are, and when.
    found: ArcSwapOption<(String, i64)>,
    gate: Mutex<()>,
}

impl Jwks {
    /// Nothing fetched yet. Without a `uri` the issuer's metadata says where the keys are.
    #[must_use]
    pub fn new(issuer: &str, uri: &str, source: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self {
            issuer: issuer.into(),
            uri: uri.to_owned(),
            source,
            clock,
            set: ArcSwap::default(),
            generation: AtomicU64::new(0),
            good_at: AtomicI64::new(i64::MIN / 2),
            tried_at: AtomicI64::new(i64::MIN / 2),
            fetches: AtomicU64::new(0),
            found: ArcSwapOption::empty(),
            gate: Mutex::new(()),
        }
    }

    /// Where the set is; empty: where the issuer's metadata says.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// How often it was fetched, or tried to be.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Whether the background should fetch it again.
    #[must_use]
    pub fn due(&self) -> bool {
        self.clock.now_ms() - self.good_at.load(Ordering::Acquire) >= RENEW_MS
    }

    /// Where the keys are: as registered, or as the issuer's metadata says, which is asked once an hour.
    async fn place(&self, now: i64) -> Option<String> {
        if !self.uri.is_empty() {
            return Some(self.uri.clone());
        }
        let known = self.found.load_full();
        if let Some(found) = known.as_ref().filter(|found| (0..DISCOVERED_MS).contains(&(now - found.1))) {
            return Some(found.0.clone());
        }
        let mut said = None;
        for address in discovery::addresses(&self.issuer) {
            said = self.source.fetch(&address).await.and_then(|document| discovery::keys_at(&document, &self.issuer));
            if said.is_some() {
                break;
            }
        }
        metrics::counter!("discovery_fetch_total", "issuer" => self.issuer.to_string(), "outcome" => if said.is_some() { "ok" } else { "failed" })
            .increment(1);
        if let Some(uri) = &said {
            self.found.store(Some(Arc::new((uri.clone(), now))));
        }
        // What it said last holds while it is down; the keys themselves do not hold for longer than an hour.
        said.or_else(|| known.map(|found| found.0.clone()))
    }

    fn take(&self, document: Bytes, now: i64) -> bool {
        let Ok(set) = KeySet::from_json(&document) else { return false };
        if self.set.load().1 != document {
            self.set.store(Arc::new((set, document)));
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.good_at.store(now, Ordering::Release);
        true
    }
}

#[async_trait]
impl KeySource for Jwks {
    fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey> {
        if self.usable() { self.set.load().0.find(kid, alg).cloned() } else { None }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn usable(&self) -> bool {
        self.clock.now_ms() - self.good_at.load(Ordering::Acquire) <= LAST_GOOD_MS
    }

    async fn refresh(&self) {
        let _alone = self.gate.lock().await;
        let now = self.clock.now_ms();
        if now - self.tried_at.load(Ordering::Acquire) < PAUSE_MS {
            return;
        }
        self.tried_at.store(now, Ordering::Release);
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let fetched = match self.place(now).await {
            Some(uri) => self.source.fetch(&uri).await,
            None => None,
        };
        // However long it took: the address has its rest, and whoever waited has the result.
        self.tried_at.store(self.clock.now_ms(), Ordering::Release);
        let good = fetched.is_some_and(|document| self.take(document, now));
        if !good {
            // Perhaps they have moved: the metadata is asked next time.
            self.found.rcu(|found| found.as_ref().map(|found| Arc::new((found.0.clone(), i64::MIN / 2))));
        }
        metrics::counter!("jwks_fetch_total", "issuer" => self.issuer.to_string(), "outcome" => if good { "ok" } else { "failed" })
            .increment(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use serde_json::json;
    use tokens::sign::SigningKey;

    use super::*;

    struct At(AtomicI64);
    impl Clock for At {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    struct Served {
        document: parking_lot::Mutex<Option<Bytes>>,
        fetches: AtomicUsize,
    }
    #[async_trait]
    impl Fetch for Served {
        async fn fetch(&self, _: &str) -> Option<Bytes> {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.document.lock().clone()
        }
    }

    fn document(key: &SigningKey) -> Bytes {
        json!({"keys": [key.jwk()]}).to_string().into()
    }

    #[tokio::test]
    async fn one_fetch_in_five_seconds_and_a_last_good_set_for_an_hour() {
        let (old, new) = (SigningKey::generate(Alg::ES256).unwrap().0, SigningKey::generate(Alg::ES256).unwrap().0);
        let served = Arc::new(Served { document: parking_lot::Mutex::new(Some(document(&old))), fetches: AtomicUsize::new(0) });
        let clock = Arc::new(At(AtomicI64::new(1_000_000)));
        let jwks = Jwks::new("i", "u", Arc::clone(&served) as _, Arc::clone(&clock) as _);
        assert!(!jwks.usable());
        futures_util::future::join_all((0..50).map(|_| jwks.refresh())).await;
        assert_eq!(served.fetches.load(Ordering::SeqCst), 1);
        assert!(jwks.find(Some(old.kid()), Alg::ES256).is_some());
        *served.document.lock() = Some(document(&new));
        clock.0.fetch_add(5_000, Ordering::SeqCst);
        jwks.refresh().await;
        assert!(jwks.find(Some(new.kid()), Alg::ES256).is_some() && jwks.find(Some(old.kid()), Alg::ES256).is_none());
        assert_eq!(jwks.generation(), 2);
        *served.document.lock() = None;
        clock.0.fetch_add(LAST_GOOD_MS, Ordering::SeqCst);
        jwks.refresh().await;
        assert!(jwks.find(Some(new.kid()), Alg::ES256).is_some());
        clock.0.fetch_add(1, Ordering::SeqCst);
        assert!(jwks.find(Some(new.kid()), Alg::ES256).is_none() && !jwks.usable());
    }

    /// Answers when the pause between two fetches is long over.
    struct Slow(Arc<At>, AtomicUsize);
    #[async_trait]
    impl Fetch for Slow {
        async fn fetch(&self, _: &str) -> Option<Bytes> {
            self.1.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.0.0.fetch_add(PAUSE_MS * 2, Ordering::SeqCst);
            None
        }
    }

    #[tokio::test]
    async fn whoever_waited_for_a_slow_issuer_does_not_ask_it_again() {
        let clock = Arc::new(At(AtomicI64::new(1_000_000)));
        let slow = Arc::new(Slow(Arc::clone(&clock), AtomicUsize::new(0)));
        let jwks = Jwks::new("i", "u", Arc::clone(&slow) as _, Arc::clone(&clock) as _);
        futures_util::future::join_all((0..50).map(|_| jwks.refresh())).await;
        assert_eq!(slow.1.load(Ordering::SeqCst), 1);
    }
}
