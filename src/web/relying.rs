//! The keys of others that this server relies on: clients' (RFC 7591 §2 `jwks`, `jwks_uri`) and trusted issuers' (RFC 7517 §5).
//!
//! A set at an address is fetched by the outbound rules, once at a time, at most once in five seconds; it is fresh for five
//! minutes and serves for an hour at most while its address is down.
use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use edge::issuer::TrustedIssuer;
use moka::sync::Cache;
use outbound::Outbound;
use protocol::Client;
pub use protocol::client_auth::Keys;
use serde_json::Value;
use tokens::{Clock, certificate::Certificate};

/// At most one fetch of an address in this time, whatever for.
const PAUSE_MS: i64 = 5_000;
/// How long a fetched set needs no second look.
const FRESH_MS: i64 = 300_000;
/// How long a fetched set serves while its address is down.
const LAST_GOOD_MS: i64 = 3_600_000;

/// Where a set comes from.
#[async_trait]
pub(crate) trait Fetch: Send + Sync {
    /// The document, or nothing if it could not be had.
    async fn fetch(&self, uri: &str) -> Option<Bytes>;
}

#[async_trait]
impl Fetch for Outbound {
    async fn fetch(&self, uri: &str) -> Option<Bytes> {
        self.get(uri).await.inspect_err(|why| tracing::warn!(uri, %why, "key set not fetched")).ok()
    }
}

/// The last good set of an address.
struct Fetched {
    keys: Arc<Keys>,
    good_at: i64,
    octets: u32,
}

/// What a set is asked for. One that lacks it may be an old one.
enum Wanted {
    /// Any key at all.
    Any,
    Key(String),
    Certificate(Certificate),
}

impl Wanted {
    fn key(kid: Option<&str>) -> Self {
        kid.map_or(Self::Any, |kid| Self::Key(kid.to_owned()))
    }
    fn is_in(&self, keys: &Keys) -> bool {
        match self {
            Self::Any => keys.knows(None),
            Self::Key(kid) => keys.knows(Some(kid)),
            Self::Certificate(certificate) => keys.hold(certificate),
        }
    }
}

/// Sets in memory, and those on their way.
pub struct Relying {
    shared: Arc<Shared>,
    written: Cache<[u8; 32], Arc<Keys>, ahash::RandomState>,
}

struct Shared {
    source: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    fetched: Cache<String, Arc<Fetched>, ahash::RandomState>,
    /// When an address was last asked.
    tried: Cache<String, i64, ahash::RandomState>,
    /// Addresses that are being asked, each by one.
    flights: parking_lot::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Relying {
    /// Nothing known yet.
    pub(crate) fn new(source: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let fetched = Cache::builder().max_capacity(64 << 20).weigher(|uri: &String, f: &Arc<Fetched>| {
            u32::try_from(uri.len()).unwrap_or(u32::MAX).saturating_add(f.octets.saturating_mul(3)).saturating_add(500)
        });
        let tried = Cache::builder().max_capacity(100_000).time_to_live(std::time::Duration::from_millis(PAUSE_MS as u64 * 2));
        let shared = Shared {
            source,
            clock,
            fetched: fetched.build_with_hasher(ahash::RandomState::new()),
            tried: tried.build_with_hasher(ahash::RandomState::new()),
            flights: parking_lot::Mutex::default(),
        };
        let written = Cache::builder().max_capacity(10_000).build_with_hasher(ahash::RandomState::new());
        Self { shared: Arc::new(shared), written }
    }

    /// A client's keys: those it registered, or those at its `jwks_uri`. An unknown `kid` is looked for there once more.
    /// Empty if there are none or they cannot be had.
    pub async fn keys(&self, client: &Client, kid: Option<&str>) -> Arc<Keys> {
        match (&client.jwks, &client.jwks_uri) {
            (Some(written), _) => self.written(written),
            (None, Some(uri)) => self.at(uri, Wanted::key(kid), "client").await,
            (None, None) => Arc::default(),
        }
    }

    /// The same, looked for once more if this certificate is not among them.
    pub async fn keys_holding(&self, client: &Client, certificate: &Certificate) -> Arc<Keys> {
        match (&client.jwks, &client.jwks_uri) {
            (None, Some(uri)) => self.at(uri, Wanted::Certificate(certificate.clone()), "client").await,
            _ => self.keys(client, None).await,
        }
    }

    /// A trusted issuer's keys. Empty if they cannot be had.
    pub async fn issuer_keys(&self, issuer: &TrustedIssuer, kid: Option<&str>) -> Arc<Keys> {
        self.at(&issuer.jwks_uri, Wanted::key(kid), &issuer.issuer).await
    }

    /// How many sets there are.
    pub(crate) fn len(&self) -> u64 {
        self.written.entry_count() + self.shared.fetched.entry_count()
    }

    fn written(&self, document: &Value) -> Arc<Keys> {
        let text = document.to_string();
        let name = tokens::hash::sha256(text.as_bytes());
        self.written.get_with(name, || Arc::new(Keys::read(text.as_bytes()).unwrap_or_default()))
    }

    async fn at(&self, uri: &str, wanted: Wanted, whose: &str) -> Arc<Keys> {
        if let Some(fresh) = self.shared.fresh(uri, &wanted) {
            return fresh;
        }
        // On a task of its own: a caller that goes away does not take the fetch with it.
        let (shared, uri, whose) = (Arc::clone(&self.shared), uri.to_owned(), whose.to_owned());
        let looking = tokio::spawn(async move { shared.look(&uri, &wanted, &whose).await });
        looking.await.unwrap_or_default()
    }
}

impl Shared {
    fn fresh(&self, uri: &str, wanted: &Wanted) -> Option<Arc<Keys>> {
        let fetched = self.fetched.get(uri)?;
        let age = self.clock.now_ms() - fetched.good_at;
        (age < FRESH_MS && wanted.is_in(&fetched.keys)).then(|| Arc::clone(&fetched.keys))
    }

    async fn look(&self, uri: &str, wanted: &Wanted, whose: &str) -> Arc<Keys> {
        let gate = Arc::clone(self.flights.lock().entry(uri.to_owned()).or_default());
        let alone = gate.lock().await;
        let found = match self.fresh(uri, wanted) {
            Some(fresh) => fresh,
            None => {
                self.refresh(uri, whose).await;
                self.last_good(uri)
            }
        };
        drop(alone);
        // The map holds one and this call the other: nobody waits.
        let mut flights = self.flights.lock();
        if Arc::strong_count(&gate) <= 2 {
            flights.remove(uri);
        }
        found
    }

    async fn refresh(&self, uri: &str, whose: &str) {
        let now = self.clock.now_ms();
        if self.tried.get(uri).is_some_and(|tried| now - tried < PAUSE_MS) {
            return;
        }
        self.tried.insert(uri.to_owned(), now);
        let document = self.source.fetch(uri).await;
        let good = document.and_then(|document| Some((Keys::read(&document)?, document.len())));
        let outcome = if good.is_some() { "ok" } else { "failed" };
        metrics::counter!("jwks_fetch_total", "issuer" => whose.to_owned(), "outcome" => outcome).increment(1);
        if let Some((keys, octets)) = good {
            let octets = u32::try_from(octets).unwrap_or(u32::MAX);
            self.fetched.insert(uri.to_owned(), Arc::new(Fetched { keys: Arc::new(keys), good_at: now, octets }));
        }
    }

    fn last_good(&self, uri: &str) -> Arc<Keys> {
        let Some(fetched) = self.fetched.get(uri) else { return Arc::default() };
        let age = self.clock.now_ms() - fetched.good_at;
        if age <= LAST_GOOD_MS { Arc::clone(&fetched.keys) } else { Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use serde_json::json;
    use tokens::{Alg, sign::SigningKey};

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

    fn key() -> SigningKey {
        SigningKey::generate(Alg::ES256).unwrap().0
    }
    fn document(key: &SigningKey) -> Bytes {
        json!({"keys": [key.jwk()]}).to_string().into()
    }

    #[tokio::test]
    async fn one_fetch_in_five_seconds_fresh_for_five_minutes_and_good_for_an_hour() {
        let (old, new) = (key(), key());
        let served = Arc::new(Served { document: parking_lot::Mutex::new(Some(document(&old))), fetches: AtomicUsize::new(0) });
        let clock = Arc::new(At(AtomicI64::new(1_000_000)));
        let relying = Relying::new(Arc::clone(&served) as _, Arc::clone(&clock) as _);
        let client = Client { jwks_uri: Some("https://rp.example.com/jwks".into()), ..Client::default() };
        let has = async |key: &SigningKey| relying.keys(&client, Some(key.kid())).await.find(Some(key.kid()), Alg::ES256).is_some();
        let fetched = || served.fetches.load(Ordering::SeqCst);
        futures_util::future::join_all((0..50).map(|_| relying.keys(&client, None))).await;
        assert!(has(&old).await && fetched() == 1);
        *served.document.lock() = Some(document(&new));
        assert!(!has(&new).await && fetched() == 1, "not within five seconds");
        clock.0.fetch_add(PAUSE_MS, Ordering::SeqCst);
        assert!(has(&new).await && fetched() == 2, "an unknown kid is looked for");
        assert!(!has(&old).await && fetched() == 2, "but not at once again");
        *served.document.lock() = None;
        clock.0.fetch_add(FRESH_MS - 1, Ordering::SeqCst);
        assert!(has(&new).await && fetched() == 2, "fresh");
        clock.0.fetch_add(1, Ordering::SeqCst);
        assert!(has(&new).await && fetched() == 3, "looked for and not had: the last good one serves");
        clock.0.fetch_add(LAST_GOOD_MS - FRESH_MS, Ordering::SeqCst);
        assert!(has(&new).await);
        clock.0.fetch_add(1, Ordering::SeqCst);
        assert!(!has(&new).await, "an hour is over");
        assert!(relying.shared.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn registered_keys_need_no_fetch() {
        let (served, own) = (Served { document: parking_lot::Mutex::default(), fetches: AtomicUsize::new(0) }, key());
        let served = Arc::new(served);
        let relying = Relying::new(Arc::clone(&served) as _, Arc::new(At(AtomicI64::new(0))));
        let client = Client { jwks: Some(json!({"keys": [own.jwk()]})), ..Client::default() };
        assert!(relying.keys(&client, Some(own.kid())).await.find(None, Alg::ES256).is_some());
        assert!(relying.keys(&Client::default(), None).await.set().is_empty());
        assert_eq!((served.fetches.load(Ordering::SeqCst), relying.written.iter().count()), (0, 1));
    }
}
