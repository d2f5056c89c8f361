//! Clients whose `client_id` is an https URL: their documents are fetched, believed for a while and kept as objects
//! (draft-ietf-oauth-client-id-metadata-document).
//!
//! As an object such a client has a version like any other, so that guards, consents, revocations and administrators see no difference.
//! A stranger decides what is fetched: fetches are counted by source and by host, few run at once, and one address is asked by one.
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use edge::limit::Quota;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ledger::{Change, EventKind, NewEvent, Object, ObjectKind, Step, StoreError};
use moka::sync::Cache;
use outbound::Call;
use protocol::{
    Client,
    client_auth::KnownClient,
    registration::document::{self, ORIGIN},
};

use crate::{
    App,
    limits::{self, Policy},
    pages::Refused,
    reply::Failed,
};

/// Fetches that one source may cause.
const OF_SOURCE: Policy = Policy { name: "client-metadata", quota: Quota { rate: 30, period_s: 60, burst: 30 } };
/// Fetches from one host of what is known here.
const KNOWN_OF_HOST: Quota = Quota { rate: 60, period_s: 60, burst: 60 };
/// Fetches from one host of what is not: ten sources at their most, so that a few do not keep others out.
const UNKNOWN_OF_HOST: Quota = Quota { rate: 300, period_s: 60, burst: 300 };
/// Clients that one host may bring into the database.
const NEW_OF_HOST: Quota = Quota { rate: 60, period_s: 3600, burst: 60 };
/// Fetches at once.
const AT_ONCE: usize = 16;
/// Fetches at once that one source may cause.
const AT_ONCE_OF_SOURCE: usize = 4;
/// How often a record is written again while its document stays the same, seconds: by its age other nodes, and this one after a restart,
/// know that the document was good.
const SEEN_S: i64 = 6 * 3600;
/// How long an address that gave nothing good is left alone, milliseconds.
const PAUSE_MS: i64 = 10_000;
/// How long the last good document serves while its address is down, milliseconds.
const LAST_GOOD_MS: i64 = 86_400_000;
/// How often a record is decided again when somebody else was first.
const ATTEMPTS: usize = 3;
const LANES: usize = 64;

/// What was seen at an address, and until when it needs no other look.
#[derive(Debug, Clone, Copy)]
struct Looked {
    until_ms: i64,
    /// When the last good document came, if one ever did.
    good_at_ms: Option<i64>,
}

impl Looked {
    fn usable(self, now_ms: i64) -> bool {
        self.good_at_ms.is_some_and(|at| now_ms < at.saturating_add(LAST_GOOD_MS))
    }
}

/// What this node knows of documents.
pub(crate) struct Documents {
    looked: LazyLock<Cache<String, Looked, ahash::RandomState>>,
    lanes: [tokio::sync::Mutex<()>; LANES],
    fetching: tokio::sync::Semaphore,
    /// Fetches under way, by who caused them.
    causing: Mutex<HashMap<IpAddr, usize>>,
}

/// A fetch under way.
struct Causing<'a>(&'a Documents, IpAddr);

impl Drop for Causing<'_> {
    fn drop(&mut self) {
        let mut all = self.0.causing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            looked: LazyLock::new(|| Cache::builder().max_capacity(10_000).build_with_hasher(ahash::RandomState::new())),
            lanes: [const { tokio::sync::Mutex::const_new(()) }; LANES],
            fetching: tokio::sync::Semaphore::new(AT_ONCE),
            causing: Mutex::default(),
        }
    }
}

impl Documents {
    /// How many addresses there are.
    pub(crate) fn len(&self) -> u64 {
        LazyLock::get(&self.looked).map_or(0, Cache::entry_count)
    }

    fn cause(&self, source: IpAddr) -> Option<Causing<'_>> {
        let mut all = self.causing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(source).or_default();
        if *count >= AT_ONCE_OF_SOURCE {
            return None;
        }
        *count += 1;
        Some(Causing(self, source))
    }

    fn lane(&self, url: &str) -> &tokio::sync::Mutex<()> {
        let at = tokens::hash::sha256(url.as_bytes()).first().copied().unwrap_or_default();
        self.lanes.get(usize::from(at) % LANES).unwrap_or(&self.lanes[0])
    }
}

/// Why it cannot be said who a client is.
#[derive(Debug)]
pub(crate) enum Trouble {
    Store(StoreError),
    /// Too many documents were asked for; seconds.
    Limited(i64),
    /// The source named too many clients that there are not; seconds.
    Unknown(i64),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => Self::Store(error),
            Trouble::Limited(seconds) => Self::Limited(OF_SOURCE.waits(seconds)),
            Trouble::Unknown(seconds) => Self::Limited(limits::UNKNOWN.waits(seconds)),
        }
    }
}
impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Limited(seconds) => Self::crowded(seconds, (OF_SOURCE.name, OF_SOURCE.quota)),
            Trouble::Unknown(seconds) => Self::crowded(seconds, (limits::UNKNOWN.name, limits::UNKNOWN.quota)),
        }
    }
}

fn published(client: &Client) -> bool {
    client.origin.as_deref() == Some(ORIGIN)
}

/// The client of an id, at a front door: a registered one, or one whose document is fetched if it has not been looked at lately.
pub(crate) async fn client(app: &App, id: &str, source: IpAddr) -> Result<Option<Arc<KnownClient>>, Trouble> {
    if !app.catalog.remembers_client(id)
        && let Some(seconds) = limits::unknown_wait(app, source).await
    {
        return Err(Trouble::Unknown(seconds));
    }
    let known = app.catalog.client(id).await?;
    if known.is_none() && !document::is_url(id) {
        limits::unknown(app, source).await;
    }
    if known.as_ref().is_some_and(|k| !published(&k.client)) || !document::is_url(id) {
        return Ok(known);
    }
    if !app.settings.client_id_metadata {
        return Ok(None);
    }
    if !fresh(app, id) {
        let lane = app.documents.lane(id);
        // Whoever was good lately does not wait in line behind strangers.
        let mine = match lane.try_lock() {
            Ok(mine) => Some(mine),
            Err(_) if usable(app, id) => None,
            Err(_) => Some(lane.lock().await),
        };
        if mine.is_some() && !fresh(app, id) {
            Box::pin(look(app, id, source, known.is_none())).await?;
        }
    }
    if usable(app, id) { Ok(app.catalog.client(id).await?) } else { Ok(None) }
}

fn usable(app: &App, url: &str) -> bool {
    app.documents.looked.get(url).is_some_and(|l| l.usable(app.clock.now_ms()))
}

fn fresh(app: &App, url: &str) -> bool {
    app.documents.looked.get(url).is_some_and(|l| app.clock.now_ms() < l.until_ms)
}

/// Looks at an address and remembers what was there.
async fn look(app: &App, url: &str, source: IpAddr, new: bool) -> Result<(), Trouble> {
    let now_ms = app.clock.now_ms();
    let before = match app.documents.looked.get(url) {
        Some(before) => Some(before),
        // A node that has not looked yet goes by the record.
        None => stored(app, url, now_ms).await?,
    };
    let waits = |seconds| {
        if let Some(before) = before.filter(|l| l.usable(now_ms)) {
            // What was good lately serves on.
            app.documents.looked.entry(url.to_owned()).or_insert(before);
            return Ok(());
        }
        Err(Trouble::Limited(seconds))
    };
    let Some(_causing) = app.documents.cause(source) else { return waits(1) };
    if let Some(seconds) = crowded(app, url, source, new).await {
        return waits(seconds);
    }
    let found = fetch(app, url).await;
    let now_ms = app.clock.now_ms();
    let looked = match found {
        Fetched::Document(octets, seconds) => match settle(app, url, &octets).await? {
            Settled::Client => Looked { until_ms: now_ms + seconds * 1000, good_at_ms: Some(now_ms) },
            // It says something else now: it is nobody's any more.
            Settled::Nobody => Looked { until_ms: now_ms + PAUSE_MS, good_at_ms: None },
            Settled::Crowded(seconds) => return waits(seconds),
        },
        // The same if it says that it is gone.
        Fetched::Gone => Looked { until_ms: now_ms + PAUSE_MS, good_at_ms: None },
        // Nobody asked the address: nothing is known of it.
        Fetched::Busy => return waits(1),
        Fetched::Nothing => Looked { until_ms: now_ms + PAUSE_MS, good_at_ms: before.and_then(|l| l.good_at_ms) },
    };
    let outcome = if looked.good_at_ms == Some(now_ms) { "good" } else { "refused" };
    metrics::counter!("client_metadata_fetch_total", "outcome" => outcome).increment(1);
    app.documents.looked.insert(url.to_owned(), looked);
    Ok(())
}

/// What the record of a published client says of its document.
async fn stored(app: &App, url: &str, now_ms: i64) -> Result<Option<Looked>, StoreError> {
    let object = app.store.object(ObjectKind::Client, url).await?;
    Ok(object.map(|o| Looked { until_ms: now_ms, good_at_ms: Some(o.updated_at.saturating_mul(1000)) }))
}

/// Seconds to wait, if too many documents were fetched for this source or from this host. What nobody here knows uses up nothing of
/// what is for known clients.
async fn crowded(app: &App, url: &str, source: IpAddr, new: bool) -> Option<i64> {
    let now_ms = app.clock.now_ms();
    let host = document::host(url).unwrap_or_default();
    let (kind, of_host) = if new { ("unknown", UNKNOWN_OF_HOST) } else { ("known", KNOWN_OF_HOST) };
    let counted = [(format!("client_metadata:{source}"), OF_SOURCE.quota), (format!("client_metadata_{kind}:{host}"), of_host)];
    for (key, quota) in counted {
        let verdict = app.counters.hit(&key, &quota, 1, now_ms).await;
        if !verdict.allowed {
            return Some((verdict.retry_after_ms + 999) / 1000);
        }
    }
    None
}

/// Seconds to wait, if a host has brought too many clients. Counted when one is made: an address where there is none costs nobody else.
async fn populous(app: &App, url: &str) -> Option<i64> {
    let key = format!("client_metadata_new:{}", document::host(url).unwrap_or_default());
    let verdict = app.counters.hit(&key, &NEW_OF_HOST, 1, app.clock.now_ms()).await;
    (!verdict.allowed).then_some((verdict.retry_after_ms + 999) / 1000)
}

enum Fetched {
    /// A document and the seconds it may be believed.
    Document(bytes::Bytes, i64),
    /// The address answers that there is none.
    Gone,
    /// The address does not answer, or not with a document.
    Nothing,
    /// Too many others were being fetched: it was not asked.
    Busy,
}

/// What became of a document.
enum Settled {
    /// It is a client's.
    Client,
    /// It makes no client.
    Nobody,
    /// Its host has brought too many; seconds.
    Crowded(i64),
}

async fn fetch(app: &App, url: &str) -> Fetched {
    let Ok(Ok(_permit)) = tokio::time::timeout(outbound::MAX_TIME, app.documents.fetching.acquire()).await else {
        return Fetched::Busy;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let reply = match app.outbound.call(Call { method: Method::GET, url, headers, body: bytes::Bytes::new() }).await {
        Ok(reply) => reply,
        Err(why) => {
            tracing::warn!(url, %why, "client metadata not fetched");
            return Fetched::Nothing;
        }
    };
    let text = |name| reply.headers.get(name).and_then(|v| v.to_str().ok());
    match reply.status {
        StatusCode::OK if text(header::CONTENT_TYPE).is_some_and(document::is_json) => {
            Fetched::Document(reply.body.clone(), document::lifetime(text(header::CACHE_CONTROL), text(header::AGE)))
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Fetched::Gone,
        status => {
            tracing::warn!(url, %status, "client metadata is no JSON document");
            Fetched::Nothing
        }
    }
}

/// Brings the record to what the document says.
async fn settle(app: &App, url: &str, octets: &[u8]) -> Result<Settled, StoreError> {
    let mut counted = false;
    for _ in 0..ATTEMPTS {
        let stored = app.store.object(ObjectKind::Client, url).await?;
        let before = match &stored {
            Some(object) => {
                Some(serde_json::from_value::<Client>(object.document.clone()).map_err(|e| StoreError::Corrupt(e.to_string()))?)
            }
            None => None,
        };
        if before.as_ref().is_some_and(|c| !published(c)) {
            // An administrator gave the name to a client of theirs meanwhile.
            return Ok(Settled::Client);
        }
        let client = match document::read(url, octets, &app.settings, before.as_ref()) {
            Ok(client) => client,
            Err(refused) => {
                tracing::warn!(url, why = refused.description, "client metadata makes no client");
                return Ok(Settled::Nobody);
            }
        };
        let document = serde_json::to_value(&client).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let seen_lately = |object: &Object| app.clock.now() < object.updated_at.saturating_add(SEEN_S);
        if stored.as_ref().is_some_and(|object| object.document == document && seen_lately(object)) {
            return Ok(Settled::Client);
        }
        if stored.is_none()
            && !std::mem::replace(&mut counted, true)
            && let Some(seconds) = populous(app, url).await
        {
            return Ok(Settled::Crowded(seconds));
        }
        if app.store.apply(change(app, url, document, stored.as_ref())).await?.applied() {
            return Ok(Settled::Client);
        }
    }
    Err(StoreError::Unavailable("the client's record kept changing".into()))
}

fn change(app: &App, url: &str, document: serde_json::Value, stored: Option<&Object>) -> Change {
    let (now_ms, now) = (app.clock.now_ms(), app.clock.now());
    let (kind, id, key) = (ObjectKind::Client, url.to_owned(), url.to_owned());
    let (step, event) = match stored {
        Some(stored) => (Step::ReplaceObject { kind, id, key, document, version: stored.version, now }, EventKind::ObjectReplaced),
        None => {
            let object = Object { kind, id, key, document, version: 1, created_at: now, updated_at: now };
            (Step::CreateObject(object), EventKind::ObjectCreated)
        }
    };
    let event = NewEvent::new(event, now_ms).client(url).with("object", kind.as_str()).with("id", url).with("actor", ORIGIN);
    Change::new().step(step).event(event)
}
