//! Pushes to receivers (RFC 8935). Nothing is queued: a stream is a position in the ledger, and the next look finds what is due.
use std::{
    collections::HashSet,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ledger::{Artefact, ArtefactKind, Change, EventKind, ObjectKind, Step, StoreError};
use outbound::Call;
use protocol::signals::{
    PUSH,
    stream::{Special, Status, Stream},
};
use tokio::task::JoinSet;

use super::{AUTHORIZATION, Entitled, Held, LAG, about, due, entitled, kek};
use crate::App;

/// Tokens pushed one after the other before the stream's position is written down.
const BATCH: usize = 20;
/// At the latest so long after the last look comes the next: other nodes' leftovers and tries that are due.
const EVERY: Duration = Duration::from_secs(5);
/// At the earliest.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one node has a stream to itself.
const CLAIM: i64 = 120;
/// Seconds between tries: twice as long each time, up to this.
const SLOWEST: i64 = 300;
/// After so many failures in a row (about a day) the stream is paused.
const PATIENCE: u32 = 300;
/// Streams served at once.
const AT_ONCE: usize = 64;
/// Streams looked at once.
const PAGE: u32 = 200;

/// Pushes until the server is dropped or closes.
pub async fn run(app: Weak<App>) {
    let Some((closing, happened)) = app.upgrade().map(|app| (app.closing.clone(), Arc::clone(&app.happened))) else { return };
    let mut pushing = Pushing::default();
    loop {
        let rung = happened.bell.notified();
        let mut rung = std::pin::pin!(rung);
        rung.as_mut().enable();
        let Some(strong) = app.upgrade() else { return };
        if let Err(error) = pushing.look(&strong).await {
            tracing::warn!(target: "signals", %error, "streams could not be looked at; trying again");
        }
        drop(strong);
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = closing.cancelled() => return,
            () = rung => {}
            () = pushing.one_done() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// The streams that are being served: a slow receiver holds up nobody but itself.
#[derive(Default)]
struct Pushing {
    tasks: JoinSet<(String, bool)>,
    now: HashSet<String>,
}

impl Pushing {
    /// Ends when a stream has been served that had more to be pushed than one turn; never, if there is none.
    async fn one_done(&mut self) {
        while let Some(done) = self.tasks.join_next().await {
            if self.done(done.ok().as_ref()) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    fn done(&mut self, done: Option<&(String, bool)>) -> bool {
        let more = done.is_some_and(|(_, more)| *more);
        self.now.retain(|id| done.is_none_or(|(served, _)| served != id));
        if self.tasks.is_empty() {
            // Those whose task broke off may be served again.
            self.now.clear();
        }
        more
    }

    /// Begins to serve every pushed stream that is not being served. Streams of clients that are gone are closed.
    async fn look(&mut self, app: &Arc<App>) -> Result<(), StoreError> {
        while let Some(done) = self.tasks.try_join_next() {
            self.done(done.ok().as_ref());
        }
        let mut after = None;
        loop {
            let page = app.store.objects(ObjectKind::SignalStream, after.as_deref(), PAGE).await?;
            for object in page.items {
                let id = object.id.clone();
                match Held::of(object) {
                    Ok(held) => self.begin(app, held).await?,
                    Err(error) => tracing::error!(target: "signals", stream = id, %error, "a stream cannot be read"),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn begin(&mut self, app: &Arc<App>, held: Held) -> Result<(), StoreError> {
        let stream = &held.stream;
        match entitled(app, &stream.client_id).await? {
            Entitled::Yes => {}
            Entitled::No => return Ok(()),
            Entitled::Gone => {
                let close = Step::DeleteObject { kind: ObjectKind::SignalStream, id: stream.id.clone(), version: Some(held.version) };
                let told = about(app, EventKind::StreamChanged, stream).with("change", "closed").with("reason", "client");
                app.store.apply(Change::new().step(close).event(told)).await?;
                return Ok(());
            }
        }
        let due = stream.delivery.method == PUSH && stream.status == Status::Enabled && stream.retry_at <= app.clock.now();
        if !due || self.now.len() >= AT_ONCE || !self.now.insert(stream.id.clone()) {
            return Ok(());
        }
        let (app, id) = (Arc::clone(app), stream.id.clone());
        self.tasks.spawn(async move {
            let more = serve(&app, held).await.unwrap_or_else(|error| {
                tracing::warn!(target: "signals", %error, "a stream could not be served; trying again");
                false
            });
            (id, more)
        });
        Ok(())
    }
}

/// Pushes what is due on one stream, in order, until something does not arrive; at most one batch. True if there is more.
async fn serve(app: &App, mut held: Held) -> Result<bool, StoreError> {
    let found = match due(app, &held.stream, BATCH).await {
        Ok(found) => found,
        Err(crate::reply::Failed::Store(error)) => return Err(error),
        Err(_) => return Err(StoreError::Unavailable("no key signs security event tokens".into())),
    };
    if found.tokens.is_empty() {
        // Nothing to say: the position is written down only when it saves much looking.
        if found.seen > held.stream.position.saturating_add(LAG) {
            held.stream.settle(&found.places, found.seen);
            held.keep(app, None).await?;
        }
        return Ok(found.more);
    }
    if !claim(app, &held).await? {
        return Ok(false);
    }
    let mut arrived = true;
    for (jti, token) in &found.tokens {
        arrived = push(app, &held.stream, token).await?;
        if !arrived {
            break;
        }
        held.stream.acknowledge(jti);
    }
    held.stream.settle(&found.places, found.seen);
    let told = if arrived { rested(&mut held.stream) } else { failed(app, &mut held.stream) };
    let kept = held.keep(app, told.then(|| about(app, EventKind::StreamPaused, &held.stream))).await?;
    Ok(arrived && kept && found.more)
}

fn rested(stream: &mut Stream) -> bool {
    (stream.failures, stream.retry_at) = (0, 0);
    false
}

/// Puts off the next try; true if the stream is given up.
fn failed(app: &App, stream: &mut Stream) -> bool {
    stream.failures = stream.failures.saturating_add(1);
    let wait = 1_i64.checked_shl(stream.failures.min(16)).unwrap_or(SLOWEST).min(SLOWEST);
    stream.retry_at = app.clock.now() + wait;
    let given_up = stream.failures >= PATIENCE;
    if given_up {
        stream.status = Status::Paused;
        stream.reason = Some("the receiver does not answer".to_owned());
        // Told when it is enabled again (SSF §8.1.5).
        stream.tell(Special { jti: tokens::id::random_text(app.entropy.as_ref(), 16), state: None, status: true });
    }
    given_up
}

/// Of several nodes one serves this version of a stream.
async fn claim(app: &App, held: &Held) -> Result<bool, StoreError> {
    let now = app.clock.now();
    let id = tokens::hash::sha256(format!("signals|{}|{}|{}|{}", held.stream.id, held.version, held.created_at, now / CLAIM).as_bytes());
    let claim = Artefact {
        kind: ArtefactKind::Jti,
        id: id.to_vec(),
        mac: Vec::new(),
        grant: None,
        document: String::new(),
        created_at: now,
        expires_at: now + 2 * CLAIM,
        consumed_at: None,
        successor: None,
        seq: 0,
    };
    Ok(app.store.apply(Change::new().step(Step::Put(claim))).await?.applied())
}

/// Pushes one token. True if it need not come again: it was accepted, or refused for good (RFC 8935 §2.2, §2.4).
async fn push(app: &App, stream: &Stream, token: &str) -> Result<bool, StoreError> {
    let Some(url) = &stream.delivery.endpoint_url else { return Ok(false) };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/secevent+jwt"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(sealed) = app.store.secret(ObjectKind::SignalStream, &stream.id, AUTHORIZATION).await? {
        let opened = kek(app).open(&format!("signals:{}", stream.id), &sealed).ok();
        let Some(mut value) = opened.and_then(|plain| HeaderValue::from_bytes(&plain).ok()) else {
            return Err(StoreError::Corrupt("the credential of a stream cannot be opened".into()));
        };
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let answered = app.outbound.call(Call { method: Method::POST, url, headers, body: Bytes::from(token.to_owned()) }).await;
    let (outcome, done) = match &answered {
        Ok(reply) if matches!(reply.status, StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT) => ("accepted", true),
        Ok(reply) if reply.status == StatusCode::BAD_REQUEST => {
            tracing::warn!(target: "signals", client = stream.client_id, "a receiver refused a security event token");
            app.store.apply(Change::new().event(about(app, EventKind::SignalRefused, stream))).await?;
            ("refused", true)
        }
        Ok(reply) => {
            tracing::warn!(target: "signals", client = stream.client_id, status = reply.status.as_u16(), "a receiver did not take a token");
            ("failed", false)
        }
        Err(why) => {
            tracing::warn!(target: "signals", client = stream.client_id, %why, "a receiver could not be reached");
            ("failed", false)
        }
    };
    metrics::counter!("signals_delivered_total", "method" => "push", "outcome" => outcome).increment(1);
    Ok(done)
}
