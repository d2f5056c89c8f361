//! Shared signals over HTTP: a transmitter of what happens here (OpenID SSF 1.0, push by RFC 8935, poll by RFC 8936) and a receiver of what
//! happens at trusted issuers.
pub(crate) mod poll;
pub mod push;
pub(crate) mod receive;
pub(crate) mod streams;

use std::collections::HashMap;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use ledger::{Change, Committed, Event, EventKind, Listener, NewEvent, ObjectKind, Outcome, Step, StoreError};
use parking_lot::Mutex;
use protocol::{
    Code, OAuthError,
    signals::{
        self,
        event::{self, Signal},
        stream::{Malformed, Stream},
    },
};
use serde_json::{Map, Value};
use tokens::seal::Kek;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    App, credential,
    oauth::read,
    reply::{self, Failed},
};

/// The slot of the secret that pushes carry.
const AUTHORIZATION: &str = "authorization";
/// Ledger events read at once.
const PAGE: u32 = 500;
/// Ledger events looked at for one answer.
const LOOK: usize = 5_000;
/// How far the position may lag behind what was looked at before that is written down.
const LAG: u64 = 1_000;
/// How often a change of a stream is made anew when somebody else was first.
const TRIES: usize = 5;

/// Rings when something happened that a receiver may want to hear of.
#[derive(Default)]
pub(crate) struct Happened {
    pub(crate) bell: Notify,
    /// The one poll of each stream that waits: a later one sends the earlier home.
    waiting: Mutex<HashMap<String, CancellationToken>>,
}

impl Happened {
    /// Begins to wait in a stream's name; whoever waited before is told to go.
    fn wait(&self, stream: &str) -> CancellationToken {
        let own = CancellationToken::new();
        if let Some(earlier) = self.waiting.lock().insert(stream.to_owned(), own.clone()) {
            earlier.cancel();
        }
        own
    }

    /// Waits no more.
    fn gone(&self, stream: &str, own: &CancellationToken) {
        if !own.is_cancelled() {
            self.waiting.lock().remove(stream);
        }
    }
}

impl Listener for Happened {
    fn committed(&self, batch: &Committed) {
        const KINDS: [EventKind; 9] = [
            EventKind::SessionEnded,
            EventKind::SubjectRevoked,
            EventKind::UserDisabled,
            EventKind::GrantEnded,
            EventKind::TokenRevoked,
            EventKind::PasswordChanged,
            EventKind::SecretRotated,
            EventKind::ObjectReplaced,
            EventKind::StreamChanged,
        ];
        if batch.events.iter().any(|e| KINDS.iter().any(|kind| kind.as_str() == e.kind)) {
            self.bell.notify_waiters();
        }
    }
}

/// Why a request about a stream is not served.
pub(crate) enum Refused {
    Failed(Failed),
    Malformed(Malformed),
    Unknown,
    Taken,
}

impl<T: Into<Failed>> From<T> for Refused {
    fn from(failed: T) -> Self {
        Self::Failed(failed.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Failed(failed) => failed.into_response(),
            Self::Malformed(why) => reply::problem(StatusCode::BAD_REQUEST, why.0),
            Self::Unknown => reply::problem(StatusCode::NOT_FOUND, "there is no such stream of this receiver"),
            Self::Taken => reply::problem(StatusCode::CONFLICT, "this receiver has a stream already"),
        }
    }
}

/// The receiver: whose token it is.
async fn receiver(app: &App, parts: &Parts) -> Result<String, Refused> {
    let seen = credential::demand(app, credential::bearer(&parts.headers)?, signals::SCOPE).await?;
    if entitled(app, &seen.known.client_id).await? != Entitled::Yes {
        return Err(OAuthError::new(Code::InsufficientScope, "this client may not hear of what happens here").into());
    }
    Ok(seen.known.client_id.clone())
}

/// Whether a client may hear of what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entitled {
    Yes,
    /// It is disabled, has lost the scope, or must not know who people are elsewhere (OpenID Connect Core §8.1).
    No,
    /// There is no such client.
    Gone,
}

async fn entitled(app: &App, client_id: &str) -> Result<Entitled, StoreError> {
    let Some(known) = app.catalog.client(client_id).await? else { return Ok(Entitled::Gone) };
    let client = &known.client;
    let may = !client.disabled && known.scope.has(signals::SCOPE) && client.subject_type.as_deref() != Some("pairwise");
    Ok(if may { Entitled::Yes } else { Entitled::No })
}

/// The JSON object of a request's body; an empty body is an empty object.
async fn object(parts: &Parts, body: Body) -> Result<Map<String, Value>, Refused> {
    let octets = read(parts, body).await?;
    if octets.is_empty() && parts.method != Method::PUT {
        return Ok(Map::new());
    }
    let essence = |value: &HeaderValue| {
        value.as_bytes().split(|b| *b == b';').next().is_some_and(|t| t.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    };
    if !parts.headers.get(header::CONTENT_TYPE).is_some_and(essence) {
        return Err(Refused::Malformed(Malformed("the body must be application/json")));
    }
    tokens::strict::object(&octets).map_err(|_| Refused::Malformed(Malformed("the body is not a JSON object")))
}

/// A stored stream and the version it was read at.
struct Held {
    stream: Stream,
    version: i64,
    created_at: i64,
}

impl Held {
    fn of(object: ledger::Object) -> Result<Self, StoreError> {
        let stream = serde_json::from_value(object.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        Ok(Self { stream, version: object.version, created_at: object.created_at })
    }

    /// The stream of a receiver.
    async fn by_client(app: &App, client_id: &str) -> Result<Option<Self>, StoreError> {
        app.store.object_by_key(ObjectKind::SignalStream, client_id).await?.map(Self::of).transpose()
    }

    /// The stream of a receiver, if it has that id.
    async fn named(app: &App, client_id: &str, id: Option<&str>) -> Result<Self, Refused> {
        let held = Self::by_client(app, client_id).await?.ok_or(Refused::Unknown)?;
        if id.is_some_and(|id| id != held.stream.id) { Err(Refused::Unknown) } else { Ok(held) }
    }

    /// Writes it back if nobody else did meanwhile.
    fn step(&self, now: i64) -> Result<Step, StoreError> {
        Ok(Step::ReplaceObject {
            kind: ObjectKind::SignalStream,
            id: self.stream.id.clone(),
            key: self.stream.client_id.clone(),
            document: serde_json::to_value(&self.stream).map_err(|e| StoreError::Corrupt(e.to_string()))?,
            version: self.version,
            now,
        })
    }

    async fn keep(&self, app: &App, told: Option<NewEvent>) -> Result<bool, StoreError> {
        let change = Change { steps: vec![self.step(app.clock.now())?], events: told.into_iter().collect() };
        Ok(matches!(app.store.apply(change).await?, Outcome::Applied { .. }))
    }
}

/// Changes a receiver's stream: reads, decides, writes if nobody was first.
async fn revise<T>(
    app: &App,
    client_id: &str,
    id: Option<&str>,
    mut decide: impl FnMut(&mut Stream) -> Result<(T, bool), Malformed>,
) -> Result<(T, Stream), Refused> {
    for _ in 0..TRIES {
        let mut held = Held::named(app, client_id, id).await?;
        let before = held.stream.clone();
        let (result, told) = decide(&mut held.stream).map_err(Refused::Malformed)?;
        let event = told.then(|| about(app, EventKind::StreamChanged, &held.stream));
        if before == held.stream || held.keep(app, event).await? {
            return Ok((result, held.stream));
        }
    }
    Err(StoreError::Unavailable("the stream keeps changing".into()).into())
}

/// An event about a stream.
fn about(app: &App, kind: EventKind, stream: &Stream) -> NewEvent {
    NewEvent::new(kind, app.clock.now_ms()).client(&stream.client_id).with("stream", stream.id.as_str())
}

/// What is to be delivered next, and how far the ledger was looked at.
struct Due {
    /// Ids and tokens, in order.
    tokens: Vec<(String, String)>,
    /// The places of all that is due, in order, as far as was looked.
    places: Vec<u64>,
    /// How far that was.
    seen: u64,
    /// Whether there is more.
    more: bool,
}

/// Looks for what is due, at most `most` tokens.
async fn due(app: &App, stream: &Stream, most: usize) -> Result<Due, Failed> {
    let now = app.clock.now();
    let mut due = Due { tokens: Vec::new(), places: Vec::new(), seen: stream.position, more: false };
    {
        let ring = app.keys.load();
        for special in &stream.waiting {
            if due.tokens.len() == most {
                due.more = true;
                return Ok(due);
            }
            let token = if special.status {
                event::updated(stream, &special.jti, &app.settings, &ring, now)?
            } else {
                event::verification(stream, &special.jti, special.state.as_deref(), &app.settings, &ring, now)?
            };
            due.tokens.push((special.jti.clone(), token));
        }
    }
    let mut looked = 0;
    while looked < LOOK {
        let page = app.store.events(due.seen, PAGE).await?;
        looked += page.len();
        for event in &page {
            if !consider(app, stream, event, most, &mut due).await? {
                return Ok(due);
            }
            due.seen = event.seq;
        }
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(due);
        }
    }
    due.more = true;
    Ok(due)
}

/// Looks at one event; false if there is no more room.
async fn consider(app: &App, stream: &Stream, event: &Event, most: usize, due: &mut Due) -> Result<bool, Failed> {
    let Some(mut signal) = Signal::of(event, &app.settings.issuer).filter(|s| stream.is_due(s)) else { return Ok(true) };
    if due.tokens.len() >= most {
        due.more = true;
        return Ok(false);
    }
    if signal.wants_claims()
        && let Some(person) = signal.person.clone()
    {
        signal.tell_claims(app.catalog.user(&person).await?.as_deref());
    }
    due.places.push(signal.position);
    due.tokens.push(signal.token(stream, &app.settings, &app.keys.load(), app.clock.now())?);
    Ok(true)
}

/// The key that seals what pushes carry.
fn kek(app: &App) -> Kek {
    Kek::new(app.mac.mac("signals-authorization", b""))
}

/// Seals the header of a stream's pushes.
fn sealed(app: &App, stream: &str, header: &str) -> Step {
    let value = kek(app).seal(&format!("signals:{stream}"), header.as_bytes(), app.entropy.as_ref());
    Step::PutSecret { kind: ObjectKind::SignalStream, id: stream.to_owned(), slot: AUTHORIZATION.to_owned(), value }
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn told(status: StatusCode, document: &Value) -> Response {
    reply::json(status, Bytes::from(document.to_string()))
}

/// `invalid_request` for a query that names no stream.
fn unnamed() -> Refused {
    Refused::Failed(OAuthError::request("stream_id is missing").into())
}
