//! Telling clients that a backchannel request was answered (CIBA Core §10.2): after the commit, by one node, a few times at most.
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use ledger::{Artefact, ArtefactKind, Change, Committed, EventKind, Listener, Step, StoreError};
use outbound::{Call, OutboundError};
use parking_lot::Mutex;
use protocol::{ciba, grants::decoupled::Requested};
use serde_json::{Value, json};
use tokens::{b64, hash};
use tokio::sync::{Semaphore, mpsc};

use crate::App;

/// Answers that may wait to be told.
const QUEUE: usize = 10_000;
/// Calls at once.
const AT_ONCE: usize = 32;
/// Pauses before the tries.
const PAUSES: [Duration; 4] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// Hears of answers.
pub(crate) struct Pings {
    queue: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
}

impl Default for Pings {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        Self { queue, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Listener for Pings {
    fn committed(&self, batch: &Committed) {
        let told = [EventKind::BackchannelApproved.as_str(), EventKind::BackchannelDenied.as_str()];
        for event in batch.events.iter().filter(|e| told.contains(&e.kind.as_str())) {
            let document: Option<Value> = serde_json::from_str(&event.document).ok();
            let request = document.as_ref().and_then(|d| d.pointer("/data/request")?.as_str()).and_then(b64::decode);
            if request.is_some_and(|id| self.queue.try_send(id).is_err()) {
                metrics::counter!("backchannel_pings_total", "outcome" => "dropped").increment(1);
            }
        }
    }
}

/// Starts telling. Ends with the server.
pub(crate) fn start(app: &Arc<App>) {
    let Some(mut waiting) = app.pings.waiting.lock().take() else { return };
    let (app, closing, permits) = (Arc::downgrade(app), app.closing.clone(), Arc::new(Semaphore::new(AT_ONCE)));
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = closing.cancelled() => return,
                next = waiting.recv() => next,
            };
            let (Some(request), Ok(permit)) = (next, Arc::clone(&permits).acquire_owned().await) else { return };
            let app = Weak::clone(&app);
            tokio::spawn(async move {
                let outcome = match deliver(&app, &request).await {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "a client could not be told of an answer");
                        "failed"
                    }
                };
                metrics::counter!("backchannel_pings_total", "outcome" => outcome).increment(1);
                drop(permit);
            });
        }
    });
}

/// Tells one client; nothing if it does not want to be told, or another node does it.
async fn deliver(app: &Weak<App>, request: &[u8]) -> Result<Option<&'static str>, StoreError> {
    let Some(app) = app.upgrade() else { return Ok(None) };
    let Some(row) = app.store.artefact(ArtefactKind::Backchannel, request).await? else { return Ok(None) };
    let requested: Requested = serde_json::from_str(&row.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let Some(sealed) = ciba::notification(&app.mac, request, &requested) else { return Ok(None) };
    let Some(known) = app.catalog.client(&requested.client_id).await? else { return Ok(None) };
    let Some(endpoint) = known.client.backchannel_client_notification_endpoint.clone().filter(|_| !known.client.disabled) else {
        return Ok(None);
    };
    if !app.store.apply(Change::new().step(claim(&app, request, row.expires_at))).await?.applied() {
        return Ok(None);
    }
    let mut bearer = match HeaderValue::try_from(format!("Bearer {}", sealed.token.expose())) {
        Ok(bearer) => bearer,
        Err(_) => return Ok(Some("failed")),
    };
    bearer.set_sensitive(true);
    let headers =
        HeaderMap::from_iter([(header::AUTHORIZATION, bearer), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let body = Bytes::from(json!({"auth_req_id": sealed.auth_req_id.expose()}).to_string());
    for pause in PAUSES {
        tokio::select! {
            () = app.closing.cancelled() => return Ok(Some("failed")),
            () = tokio::time::sleep(pause) => {}
        }
        let call = Call { method: Method::POST, url: &endpoint, headers: headers.clone(), body: body.clone() };
        match app.outbound.call(call).await {
            Ok(reply) if reply.status.is_success() => return Ok(Some("delivered")),
            // It has heard, and does not want it (CIBA Core §10.2). A redirect is not followed.
            Ok(reply) if !reply.status.is_server_error() => return Ok(Some("refused")),
            Err(OutboundError::Url | OutboundError::Address) => return Ok(Some("forbidden")),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(Some("failed"))
}

/// Of the nodes that hear of an answer, the first to store this tells it.
fn claim(app: &App, request: &[u8], expires_at: i64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: hash::sha256(&[b"ping".as_slice(), request].concat()).to_vec(),
        mac: Vec::new(),
        grant: None,
        document: String::new(),
        created_at: app.clock.now(),
        expires_at,
        consumed_at: None,
        successor: None,
        seq: 0,
    })
}
