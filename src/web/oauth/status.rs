//! Status lists (Token Status List §8.1): made from rows and live revocations when they are asked for, each at most once a second.
use std::sync::{Arc, LazyLock};

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use ledger::{ArtefactKind, StoreError};
use moka::sync::Cache;
use protocol::status_list;
use tokens::{id, status_list::SIZE};
use tokio::sync::{Mutex, Semaphore};

use super::discovery::nowhere;
use crate::{
    App,
    reply::{self, Failed},
};

/// Rows read at a time.
const PAGE: u32 = 4096;
/// However often something is revoked, a list is made at most once in this time; what was revoked shows once it is over.
const PAUSE_MS: i64 = 1_000;
/// Lists made at once: each is tens of thousands of rows in memory.
const AT_ONCE: usize = 2;
const LANES: usize = 64;
/// How old this node's knowledge of revocations may be when it vouches for a list, milliseconds.
const STALE_MS: i64 = 1_000;

/// Lists made so far.
pub(crate) struct Lists {
    made: LazyLock<Cache<[u8; 16], Arc<Made>, ahash::RandomState>>,
    /// Each list is made by one, for all who ask for it.
    lanes: [Mutex<()>; LANES],
    /// Few are made at once: whoever asks for many waits.
    making: Semaphore,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            made: LazyLock::new(|| Cache::builder().max_capacity(256).build_with_hasher(ahash::RandomState::new())),
            lanes: [const { Mutex::const_new(()) }; LANES],
            making: Semaphore::new(AT_ONCE),
        }
    }
}

impl Lists {
    /// How many are kept.
    pub(crate) fn len(&self) -> u64 {
        LazyLock::get(&self.made).map_or(0, Cache::entry_count)
    }

    fn lane(&self, list: &[u8; 16]) -> &Mutex<()> {
        let at = usize::from(tokens::hash::sha256(list).first().copied().unwrap_or_default());
        self.lanes.get(at % LANES).unwrap_or(&self.lanes[0])
    }
}

struct Made {
    /// The revocations it was made with. While none comes in, nothing in it changes: a new token's bit is clear.
    generation: u64,
    at_ms: i64,
    jwt: Bytes,
}

impl Made {
    fn good(&self, app: &App, now_ms: i64) -> bool {
        let age = now_ms - self.at_ms;
        // Half of its life is left to whoever gets it.
        let lives = age < status_list::LIFE * 500;
        lives && (self.generation == app.revoked.generation() || age < PAUSE_MS)
    }
}

/// `GET /status/{list}`
pub(crate) async fn get(State(app): State<Arc<App>>, Path(list): Path<String>, RawQuery(query): RawQuery) -> Response {
    let Some(list) = id::parse(&list) else { return nowhere().await };
    if query.as_deref().is_some_and(|query| query.split('&').any(|pair| pair == "time" || pair.starts_with("time="))) {
        return reply::problem(StatusCode::NOT_IMPLEMENTED, "past statuses are not kept");
    }
    match serve(&app, list).await {
        Ok(Some(made)) => answer(&made),
        Ok(None) => nowhere().await,
        Err(failed) => failed.into_response(),
    }
}

async fn serve(app: &App, list: [u8; 16]) -> Result<Option<Arc<Made>>, Failed> {
    let fresh = |now_ms| {
        let aged = now_ms - app.store.fresh_at_ms();
        if aged > STALE_MS { Err(StoreError::Unavailable("the ledger has not been heard of for too long".into())) } else { Ok(()) }
    };
    let known = |now_ms| app.lists.made.get(&list).filter(|made| made.good(app, now_ms));
    let now_ms = app.clock.now_ms();
    fresh(now_ms)?;
    if let Some(made) = known(now_ms) {
        return Ok(Some(made));
    }
    // Whoever asks for what is not there waits behind nobody and keeps nobody waiting.
    if !app.lists.made.contains_key(&list) && app.store.artefacts(ArtefactKind::Status, &list, &list, 1).await?.is_empty() {
        return Ok(None);
    }
    let _alone = app.lists.lane(&list).lock().await;
    if let Some(made) = known(app.clock.now_ms()) {
        return Ok(Some(made));
    }
    let _permit = app.lists.making.acquire().await.map_err(|_| StoreError::Unavailable("the process is stopping".into()))?;
    let now_ms = app.clock.now_ms();
    fresh(now_ms)?;
    let made = make(app, list, now_ms).await?.map(Arc::new);
    if let Some(made) = &made {
        app.lists.made.insert(list, Arc::clone(made));
    }
    Ok(made)
}

async fn make(app: &App, list: [u8; 16], now_ms: i64) -> Result<Option<Made>, Failed> {
    // Before the rows: what is revoked from here on makes the list again.
    let generation = app.revoked.generation();
    let (mut rows, mut after) = (Vec::new(), list.to_vec());
    loop {
        let page = app.store.artefacts(ArtefactKind::Status, &list, &after, PAGE).await?;
        let whole = page.len() < PAGE as usize;
        rows.extend(page);
        match rows.last() {
            None => return Ok(None),
            Some(last) if !whole && rows.len() < SIZE as usize => after.clone_from(&last.id),
            Some(_) => break,
        }
    }
    // Tens of thousands of documents, and all of it compressed: not where requests are answered.
    let (revoked, settings, keys) = (app.revoked.clone(), app.settings.clone(), app.keys.load_full());
    let making = tokio::task::spawn_blocking(move || {
        let bits = status_list::bits(&rows, &revoked);
        status_list::signed(&settings, &keys, &list, &bits, now_ms.div_euclid(1000))
    });
    let jwt = making.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
    metrics::counter!("status_lists_made_total").increment(1);
    Ok(Some(Made { generation, at_ms: now_ms, jwt: Bytes::from(jwt) }))
}

fn answer(made: &Made) -> Response {
    let mut response = Response::new(Body::from(made.jwt.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/statuslist+jwt"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=1"));
    response
}
