//! The keys of others that this server relies on: clients' (RFC 7591 §2 `jwks`, `jwks_uri`) and trusted issuers' (RFC 7517 §5).
//!
//! A set at an address is fetched by the outbound rules, once for all who wait, at most once in five seconds, and counted by host
//! and by source where a stranger chose the address; it is fresh for five minutes and serves for an hour at most while its address is down.
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use edge::{
    issuer::TrustedIssuer,
    limit::{Counters, Quota},
};
use moka::sync::Cache;
use outbound::Outbound;
use protocol::Client;
pub use protocol::client_auth::Keys;
use serde_json::Value;
use tokens::{Clock, certificate::Certificate};
use tokio::sync::watch;

/// At most one fetch of an address in this time, whatever for.
const PAUSE_MS: i64 = 5_000;
/// How long a fetched set needs no second look.
const FRESH_MS: i64 = 300_000;
/// How long a fetched set serves while its address is down.
const LAST_GOOD_MS: i64 = 3_600_000;

/// Fetches for clients that nobody here knows (registered or published by themselves), from one host.
const OF_HOST: Quota = Quota::per(60, 60);
/// The same, caused by one source.
const OF_SOURCE: Quota = Quota::per(30, 60);
/// How long anybody waits for a fetch, whenever it began.
const LONGEST: Duration = Duration::from_secs(6);

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
    written: LazyLock<Cache<[u8; 32], Arc<Keys>, ahash::RandomState>>,
}

struct Shared {
    source: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    fetched: LazyLock<Cache<String, Arc<Fetched>, ahash::RandomState>>,
    /// When an address was last asked.
    tried: LazyLock<Cache<String, i64, ahash::RandomState>>,
    /// Addresses that are being asked, each once for all who wait.
    flights: parking_lot::Mutex<HashMap<String, watch::Receiver<()>>>,
    counters: Arc<dyn Counters>,
}

impl Relying {
    /// Nothing known yet.
    pub(crate) fn new(source: Arc<dyn Fetch>, clock: Arc<dyn Clock>, counters: Arc<dyn Counters>) -> Self {
        // Made when they are first used.
        let fetched = || {
            let fetched = Cache::builder().max_capacity(64 << 20).weigher(|uri: &String, f: &Arc<Fetched>| {
                u32::try_from(uri.len()).unwrap_or(u32::MAX).saturating_add(f.octets.saturating_mul(3)).saturating_add(500)
            });
            fetched.build_with_hasher(ahash::RandomState::new())
        };
        let tried = || {
            let tried = Cache::builder().max_capacity(100_000).time_to_live(std::time::Duration::from_millis(PAUSE_MS as u64 * 2));
            tried.build_with_hasher(ahash::RandomState::new())
        };
        let shared = Shared {
            source,
            clock,
            fetched: LazyLock::new(fetched),
            tried: LazyLock::new(tried),
            flights: parking_lot::Mutex::default(),
            counters,
        };
        let written = || Cache::builder().max_capacity(10_000).build_with_hasher(ahash::RandomState::new());
        Self { shared: Arc::new(shared), written: LazyLock::new(written) }
    }

    /// A client's keys: those it registered, or those at its `jwks_uri`. An unknown `kid` is looked for there once more.
    /// Empty if there are none or they cannot be had.
    pub async fn keys(&self, client: &Client, kid: Option<&str>, source: Option<IpAddr>) -> Arc<Keys> {
        match (&client.jwks, &client.jwks_uri) {
            (Some(written), _) => self.written(written),
            (None, Some(uri)) => self.at(uri, Wanted::key(kid), Asks::client(client, source)).await,
            (None, None) => Arc::default(),
        }
    }

    /// The same, looked for once more if this certificate is not among them.
    pub async fn keys_holding(&self, client: &Client, certificate: &Certificate, source: Option<IpAddr>) -> Arc<Keys> {
        match (&client.jwks, &client.jwks_uri) {
            (None, Some(uri)) => self.at(uri, Wanted::Certificate(certificate.clone()), Asks::client(client, source)).await,
            _ => self.keys(client, None, source).await,
        }
    }

    /// A trusted issuer's keys. Empty if they cannot be had.
    pub async fn issuer_keys(&self, issuer: &TrustedIssuer, kid: Option<&str>) -> Arc<Keys> {
        self.at(&issuer.jwks_uri, Wanted::key(kid), Asks::issuer(&issuer.issuer)).await
    }

    /// How many sets there are.
    pub(crate) fn len(&self) -> u64 {
        LazyLock::get(&self.written).map_or(0, Cache::entry_count) + LazyLock::get(&self.shared.fetched).map_or(0, Cache::entry_count)
    }

    fn written(&self, document: &Value) -> Arc<Keys> {
        let text = document.to_string();
        let name = tokens::hash::sha256(text.as_bytes());
        self.written.get_with(name, || Arc::new(Keys::read(text.as_bytes()).unwrap_or_default()))
    }

    async fn at(&self, uri: &str, wanted: Wanted, asks: Asks<'_>) -> Arc<Keys> {
        if let Some(fresh) = self.shared.fresh(uri, &wanted) {
            return fresh;
        }
        let flight = self.shared.flight(uri, asks).await;
        if let Some(mut landed) = flight {
            // Nobody ever sends: it ends when the flight does. Whoever waited takes what it brought and looks no further.
            let _ = tokio::time::timeout(LONGEST, landed.changed()).await;
        }
        self.shared.last_good(uri)
    }
}

/// On whose account a set is fetched.
#[derive(Debug, Clone, Copy)]
struct Asks<'a> {
    /// By name, for the metric.
    whose: &'a str,
    /// A stranger chose the address: fetches are counted. By whom this one was caused, where that is known.
    stranger: Option<Option<IpAddr>>,
}

impl<'a> Asks<'a> {
    const fn issuer(whose: &'a str) -> Self {
        Self { whose, stranger: None }
    }
    fn client(client: &Client, source: Option<IpAddr>) -> Self {
        Self { whose: "client", stranger: client.origin.is_some().then_some(source) }
    }
}

impl Shared {
    fn fresh(&self, uri: &str, wanted: &Wanted) -> Option<Arc<Keys>> {
        let fetched = self.fetched.get(uri)?;
        let age = self.clock.now_ms() - fetched.good_at;
        (age < FRESH_MS && wanted.is_in(&fetched.keys)).then(|| Arc::clone(&fetched.keys))
    }

    fn paused(&self, uri: &str) -> bool {
        self.tried.get(uri).is_some_and(|tried| self.clock.now_ms() - tried < PAUSE_MS)
    }

    /// The fetch of an address that is under way, or a new one if it is time for one.
    async fn flight(self: &Arc<Self>, uri: &str, asks: Asks<'_>) -> Option<watch::Receiver<()>> {
        if let Some(flight) = self.flights.lock().get(uri) {
            return Some(flight.clone());
        }
        if self.paused(uri) || self.crowded(uri, asks).await {
            return None;
        }
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(uri) {
            return Some(flight.clone());
        }
        if self.paused(uri) {
            return None;
        }
        let (landing, flight) = watch::channel(());
        flights.insert(uri.to_owned(), flight.clone());
        drop(flights);
        // On a task of its own: a caller that goes away does not take the fetch with it.
        let (landing, whose) = (Landing { shared: Arc::clone(self), uri: uri.to_owned(), _waiting: landing }, asks.whose.to_owned());
        tokio::spawn(async move { landing.shared.refresh(&landing.uri, &whose).await });
        Some(flight)
    }

    /// Whether strangers had too much fetched from this host, or this source did.
    async fn crowded(&self, uri: &str, asks: Asks<'_>) -> bool {
        let Some(source) = asks.stranger else { return false };
        let host = url::Url::parse(uri).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let mut counted = vec![(format!("keys_host:{host}"), OF_HOST)];
        counted.extend(source.map(|source| (format!("keys:{source}"), OF_SOURCE)));
        for (key, quota) in counted {
            if !self.counters.hit(&key, &quota, 1, self.clock.now_ms()).await.allowed {
                metrics::counter!("jwks_fetch_total", "issuer" => asks.whose.to_owned(), "outcome" => "limited").increment(1);
                return true;
            }
        }
        false
    }

    async fn refresh(&self, uri: &str, whose: &str) {
        let now = self.clock.now_ms();
        self.tried.insert(uri.to_owned(), now);
        let document = self.source.fetch(uri).await;
        // However long it took: the address has its rest.
        self.tried.insert(uri.to_owned(), self.clock.now_ms());
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

/// A fetch under way. However it ends, the next one may begin, and whoever waits goes on.
struct Landing {
    shared: Arc<Shared>,
    uri: String,
    _waiting: watch::Sender<()>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.flights.lock().remove(&self.uri);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use edge::limit::Verdict;
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

    /// A burst of each quota, and no more.
    #[derive(Default)]
    struct Few(parking_lot::Mutex<HashMap<String, u32>>);
    #[async_trait]
    impl Counters for Few {
        async fn hit(&self, key: &str, quota: &Quota, cost: u32, _: i64) -> Verdict {
            let mut counted = self.0.lock();
            let times = counted.entry(key.to_owned()).or_default();
            *times += cost;
            Verdict { allowed: *times <= quota.burst, remaining: 0, retry_after_ms: 1, reset_ms: 1 }
        }
        async fn peek(&self, _: &str, _: &Quota, _: i64) -> Verdict {
            Verdict { allowed: true, remaining: 0, retry_after_ms: 0, reset_ms: 0 }
        }
        async fn clear(&self, _: &str) {}
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
        let relying = Relying::new(Arc::clone(&served) as _, Arc::clone(&clock) as _, Arc::new(Few::default()));
        let client = Client { jwks_uri: Some("https://rp.example.com/jwks".into()), ..Client::default() };
        let has = async |key: &SigningKey| relying.keys(&client, Some(key.kid()), None).await.find(Some(key.kid()), Alg::ES256).is_some();
        let fetched = || served.fetches.load(Ordering::SeqCst);
        futures_util::future::join_all((0..50).map(|_| relying.keys(&client, None, None))).await;
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
        let relying = Relying::new(Arc::clone(&served) as _, Arc::new(At(AtomicI64::new(0))), Arc::new(Few::default()));
        let client = Client { jwks: Some(json!({"keys": [own.jwk()]})), ..Client::default() };
        assert!(relying.keys(&client, Some(own.kid()), None).await.find(None, Alg::ES256).is_some());
        assert!(relying.keys(&Client::default(), None, None).await.set().is_empty());
        assert_eq!((served.fetches.load(Ordering::SeqCst), relying.written.iter().count()), (0, 1));
    }

    #[tokio::test]
    async fn whoever_waited_for_a_slow_address_does_not_ask_it_again() {
        let clock = Arc::new(At(AtomicI64::new(1_000_000)));
        let slow = Arc::new(Slow(Arc::clone(&clock), AtomicUsize::new(0)));
        let relying = Relying::new(Arc::clone(&slow) as _, Arc::clone(&clock) as _, Arc::new(Few::default()));
        let client = Client { jwks_uri: Some("https://rp.example.com/jwks".into()), ..Client::default() };
        futures_util::future::join_all((0..50).map(|_| relying.keys(&client, Some("k"), None))).await;
        relying.keys(&client, Some("other"), None).await;
        assert_eq!(slow.1.load(Ordering::SeqCst), 1);
        clock.0.fetch_add(PAUSE_MS, Ordering::SeqCst);
        relying.keys(&client, Some("other"), None).await;
        assert_eq!(slow.1.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn strangers_have_few_sets_fetched_from_one_host_and_by_one_source() {
        let served = Arc::new(Served { document: parking_lot::Mutex::default(), fetches: AtomicUsize::new(0) });
        let relying = Relying::new(Arc::clone(&served) as _, Arc::new(At(AtomicI64::new(1_000_000))), Arc::new(Few::default()));
        let ask = async |host: &str, origin: Option<&str>, source: Option<IpAddr>| {
            served.fetches.store(0, Ordering::SeqCst);
            for n in 0..100 {
                let uri = Some(format!("https://{}/{n}", host.replace('*', &n.to_string())));
                let client = Client { jwks_uri: uri, origin: origin.map(str::to_owned), ..Client::default() };
                relying.keys(&client, None, source).await;
            }
            served.fetches.load(Ordering::SeqCst)
        };
        let source = |n| Some(IpAddr::from([192, 0, 2, n]));
        assert_eq!(ask("victim.example.com", Some("registration"), None).await, 60);
        assert_eq!(ask("*.example.com", Some("metadata"), source(1)).await, 30);
        assert_eq!(ask("*.example.net", Some("metadata"), source(2)).await, 30);
        assert_eq!(ask("known.example.com", None, source(3)).await, 100, "an administrator's word");
    }
}
