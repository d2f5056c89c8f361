//! The revocation feed for gateways: server-sent events (HTML Living Standard §9.2), resumable by ledger position.
//!
//! Not in the metadata. `GET /feed` with a token that allows `doorward.feed`; `?after=N` or `Last-Event-ID: N` resumes.
use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header, request::Parts};
use ledger::{Revocation, StoreError};
use protocol::Form;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    App, credential,
    credential::Seen,
    reply::{self, Failed},
};

/// The longest silence.
const BEAT: Duration = Duration::from_millis(900);
/// How old the store's last word may be for a beat to be honest, milliseconds.
const FRESH_MS: i64 = 1_500;
/// Rows a read.
const PAGE: u32 = 1_000;
/// Revocations in the snapshot itself; where there are more, the older ones come before it, one by one.
const SNAPSHOT: usize = 20_000;
/// How long a subscriber may not read before it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /feed`
pub(crate) async fn get(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    subscribe(&app, &parts).await.unwrap_or_else(IntoResponse::into_response)
}

async fn subscribe(app: &Arc<App>, parts: &Parts) -> Result<Response, Failed> {
    let seen = credential::demand(app, credential::bearer(&parts.headers)?, "doorward.feed").await?;
    let after = after(parts)?;
    let Ok(permit) = Arc::clone(&app.subscribers).try_acquire_owned() else {
        let response = reply::problem(StatusCode::SERVICE_UNAVAILABLE, "too many subscribers");
        return Ok(reply::with(response, header::RETRY_AFTER, HeaderValue::from_static("1")));
    };
    let (begin, cursor) = beginning(app, after).await?;
    let (tx, rx) = mpsc::channel(16);
    tokio::spawn(follow(Arc::clone(app), seen, cursor, begin, tx, permit));
    let frames = stream::unfold(rx, |mut rx| async { rx.recv().await.map(|frame| (Ok::<_, std::convert::Infallible>(frame), rx)) });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The position to resume after.
fn after(parts: &Parts) -> Result<Option<u64>, Failed> {
    let bad = || protocol::OAuthError::request("the position to resume after is not a number");
    let query = Form::read(parts.uri.query().unwrap_or_default().as_bytes())?;
    let text = match parts.headers.get("last-event-id") {
        Some(id) => Some(id.to_str().map_err(|_| bad())?),
        None => query.get("after"),
    };
    Ok(text.map(|t| t.parse().map_err(|_| bad())).transpose()?)
}

/// What a subscriber hears first, and from where it goes on. A position that is not reached yet belongs to another
/// history (a restored database): such a subscriber starts afresh.
async fn beginning(app: &App, after: Option<u64>) -> Result<(Bytes, u64), StoreError> {
    let at_ms = app.store.fresh_at_ms().min(app.clock.now_ms());
    let (head, _) = app.store.head().await?;
    if let Some(after) = after.filter(|a| *a <= head) {
        return Ok((Bytes::from_static(b": resumed\n\n"), after));
    }
    let (mut all, mut before, mut cursor) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = page(app, cursor).await?;
        if page.is_empty() {
            break;
        }
        cursor = next;
        if all.len() >= SNAPSHOT {
            write_rows(&mut before, &all)?;
            all.clear();
        }
        all.extend(page);
    }
    let cursor = cursor.max(head);
    let snapshot = serde_json::json!({"head": cursor, "at_ms": at_ms, "revocations": all});
    let _ = write!(before, "event: snapshot\nid: {cursor}\ndata: {snapshot}\n\n");
    Ok((Bytes::from(before), cursor))
}

/// Revocations after a position, never a part of those that share one.
async fn page(app: &App, after: u64) -> Result<(Vec<Revocation>, u64), StoreError> {
    let mut limit = PAGE;
    loop {
        let mut rows = app.store.revocations(after, app.clock.now(), limit).await?;
        let Some(last) = rows.last().map(|r| r.seq) else { return Ok((rows, after)) };
        if rows.len() < limit as usize {
            return Ok((rows, last));
        }
        // The page may end in the middle of one position: leave that position to the next page.
        rows.retain(|r| r.seq < last);
        if let Some(before) = rows.last().map(|r| r.seq) {
            return Ok((rows, before));
        }
        limit = limit.saturating_mul(4);
    }
}

/// Sends what comes until the subscriber, its token or the process ends.
async fn follow(app: Arc<App>, seen: Arc<Seen>, mut cursor: u64, begin: Bytes, tx: mpsc::Sender<Bytes>, _permit: OwnedSemaphorePermit) {
    metrics::gauge!("feed_subscribers").increment(1.0);
    let mut frame = begin;
    loop {
        // Registered before the read: a commit in between rings the bell for the next round.
        let rung = app.committed.notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        if !frame.is_empty() && tx.send_timeout(frame, PATIENCE).await.is_err() {
            break;
        }
        if ended(&app, &seen) {
            break;
        }
        frame = match news(&app, &mut cursor).await {
            Ok(news) => news,
            Err(error) => {
                tracing::warn!(%error, "the feed cannot read the ledger");
                Bytes::new()
            }
        };
        if !frame.is_empty() && tx.send_timeout(std::mem::take(&mut frame), PATIENCE).await.is_err() {
            break;
        }
        tokio::select! {
            () = &mut rung => {}
            () = tokio::time::sleep(BEAT) => {}
            () = app.closing.cancelled() => break,
            () = tx.closed() => break,
        }
    }
    metrics::gauge!("feed_subscribers").decrement(1.0);
}

fn ended(app: &App, seen: &Seen) -> bool {
    seen.known.expires_at <= app.clock.now() || app.revoked.revoked(&seen.known.facts()).is_some()
}

/// New revocations, then a beat if this node is up to date.
async fn news(app: &App, cursor: &mut u64) -> Result<Bytes, StoreError> {
    let mut out = String::new();
    // Taken before the read: everything up to here is in it.
    let (fresh_ms, now_ms) = (app.store.fresh_at_ms(), app.clock.now_ms());
    let head = app.revoked.head().max(*cursor);
    let mut reached = *cursor;
    loop {
        let (rows, next) = page(app, reached).await?;
        if rows.is_empty() {
            break;
        }
        reached = next;
        write_rows(&mut out, &rows)?;
    }
    if now_ms.saturating_sub(fresh_ms) <= FRESH_MS {
        let at_ms = fresh_ms.min(now_ms);
        let _ = write!(out, "event: beat\ndata: {{\"head\":{head},\"at_ms\":{at_ms}}}\n\n");
    }
    // Only now that nothing can fail any more: what was not sent is read again.
    *cursor = reached;
    Ok(Bytes::from(out))
}

/// Whole positions as events. Only the last of a position names it: who resumes there has all of it.
fn write_rows(out: &mut String, rows: &[Revocation]) -> Result<(), StoreError> {
    for (at, row) in rows.iter().enumerate() {
        let data = serde_json::to_string(row).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        out.push_str("event: revocation\n");
        if rows.get(at + 1).is_none_or(|next| next.seq != row.seq) {
            let _ = writeln!(out, "id: {}", row.seq);
        }
        let _ = write!(out, "data: {data}\n\n");
    }
    Ok(())
}
