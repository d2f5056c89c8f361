//! Clients whose `client_id` is an https URL: their documents are fetched, believed for a while and kept as objects
//! (draft-ietf-oauth-client-id-metadata-document).
//!
//! As an object such a client has a version like any other, so that guards, consents, revocations and administrators see no difference.
//! A stranger decides what is fetched: fetches are counted by source and by host, few run at once, and one address is asked by one.
use std::{net::IpAddr, sync::Arc};

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

use crate::{App, limits::Policy, pages::Refused, reply::Failed};

/// Fetches that one source may cause.
const OF_SOURCE: Policy = Policy { name: "client-metadata", quota: Quota { rate: 30, period_s: 60, burst: 30 } };
/// Fetches from one host.
const OF_HOST: Quota = Quota { rate: 60, period_s: 60, burst: 60 };
/// Clients that one host may bring into the database.
const NEW_OF_HOST: Quota = Quota { rate: 60, period_s: 3600, burst: 60 };
/// Fetches at once.
const AT_ONCE: usize = 16;
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
    looked: Cache<String, Looked, ahash::RandomState>,
    lanes: [tokio::sync::Mutex<()>; LANES],
    fetching: tokio::sync::Semaphore,
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            looked: Cache::builder().max_capacity(10_000).build_with_hasher(ahash::RandomState::new()),
            lanes: [const { tokio::sync::Mutex::const_new(()) }; LANES],
            fetching: tokio::sync::Semaphore::new(AT_ONCE),
        }
    }
}

impl Documents {
    /// How many addresses there are.
    pub(crate) fn len(&self) -> u64 {
        self.looked.entry_count()
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
        }
    }
}
impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Limited(seconds) => Self::crowded(seconds, (OF_SOURCE.name, OF_SOURCE.quota)),
        }
    }
}

fn published(client: &Client) -> bool {
    client.origin.as_deref() == Some(ORIGIN)
}

/// The client of an id, at a front door: a registered one, or one whose document is fetched if it has not been looked at lately.
pub(crate) async fn client(app: &App, id: &str, source: IpAddr) -> Result<Option<Arc<KnownClient>>, Trouble> {
    let known = app.catalog.client(id).await?;
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
            look(app, id, source, known.is_none()).await?;
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
    let before = app.documents.looked.get(url);
    let now_ms = app.clock.now_ms();
    if let Some(seconds) = crowded(app, url, source, new).await {
        // What was good lately serves on.
        return if before.is_some_and(|l| l.usable(now_ms)) { Ok(()) } else { Err(Trouble::Limited(seconds)) };
    }
    let found = fetch(app, url).await;
    let now_ms = app.clock.now_ms();
    let looked = match found {
        Fetched::Document(octets, seconds) if settle(app, url, &octets).await? => {
            Looked { until_ms: now_ms + seconds * 1000, good_at_ms: Some(now_ms) }
        }
        // It says something else now, or says that it is gone: it is nobody's any more.
        Fetched::Document(..) | Fetched::Gone => Looked { until_ms: now_ms + PAUSE_MS, good_at_ms: None },
        Fetched::Nothing => Looked { until_ms: now_ms + PAUSE_MS, good_at_ms: before.and_then(|l| l.good_at_ms) },
    };
    let outcome = if looked.good_at_ms == Some(now_ms) { "good" } else { "refused" };
    metrics::counter!("client_metadata_fetch_total", "outcome" => outcome).increment(1);
    app.documents.looked.insert(url.to_owned(), looked);
    Ok(())
}

/// Seconds to wait, if too many documents were fetched for this source or from this host.
async fn crowded(app: &App, url: &str, source: IpAddr, new: bool) -> Option<i64> {
    let now_ms = app.clock.now_ms();
    let host = document::host(url).unwrap_or_default();
    let mut counted = vec![(format!("client_metadata:{source}"), OF_SOURCE.quota), (format!("client_metadata_host:{host}"), OF_HOST)];
    if new {
        counted.push((format!("client_metadata_new:{host}"), NEW_OF_HOST));
    }
    for (key, quota) in counted {
        let verdict = app.counters.hit(&key, &quota, 1, now_ms).await;
        if !verdict.allowed {
            return Some((verdict.retry_after_ms + 999) / 1000);
        }
    }
    None
}

enum Fetched {
    /// A document and the seconds it may be believed.
    Document(bytes::Bytes, i64),
    /// The address answers that there is none.
    Gone,
    /// The address does not answer, or not with a document.
    Nothing,
}

async fn fetch(app: &App, url: &str) -> Fetched {
    let Ok(Ok(_permit)) = tokio::time::timeout(outbound::MAX_TIME, app.documents.fetching.acquire()).await else {
        return Fetched::Nothing;
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

/// Brings the record to what the document says. `false` if the document makes no client.
async fn settle(app: &App, url: &str, octets: &[u8]) -> Result<bool, StoreError> {
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
            return Ok(true);
        }
        let client = match document::read(url, octets, &app.settings, before.as_ref()) {
            Ok(client) => client,
            Err(refused) => {
                tracing::warn!(url, why = refused.description, "client metadata makes no client");
                return Ok(false);
            }
        };
        let document = serde_json::to_value(&client).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        if stored.as_ref().is_some_and(|object| object.document == document) {
            return Ok(true);
        }
        if app.store.apply(change(app, url, document, stored.as_ref())).await?.applied() {
            return Ok(true);
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
