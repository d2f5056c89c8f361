//! Streams of a receiver: configuration, status, subjects, verification (SSF §8.1).
use std::sync::Arc;

use axum::{
    extract::{RawQuery, Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use edge::limit::Quota;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use ledger::{Change, EventKind, Object, ObjectKind, Outcome, Record as _, Step, StoreError};
use protocol::{
    authorize::Params,
    signals::{
        self,
        stream::{self, Malformed, Special, Status, Stream, Wish},
    },
};
use serde_json::{Map, Value};

use super::{AUTHORIZATION, Held, Refused, about, no_content, object, receiver, revise, sealed, told, unnamed};
use crate::{App, reply};

/// Characters of a verification's state.
const LONGEST_STATE: usize = 1024;
/// Verifications of a stream; each is written down and wakes everybody who delivers.
const VERIFICATIONS: Quota = Quota { rate: 12, period_s: 60, burst: 6 };

/// `GET /.well-known/ssf-configuration` (§7.2)
pub(crate) async fn metadata(State(app): State<Arc<App>>) -> Response {
    let mut response = reply::json(StatusCode::OK, Bytes::from(signals::metadata(&app.settings).to_string()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// `/ssf/streams`: `POST`, `GET`, `PATCH`, `PUT`, `DELETE` (§8.1.1)
pub(crate) fn route() -> MethodRouter<Arc<App>> {
    get(any).post(any).patch(any).put(any).delete(any)
}

async fn any(State(app): State<Arc<App>>, RawQuery(query): RawQuery, request: Request) -> Response {
    let served = match *request.method() {
        Method::POST => create(&app, request).await,
        Method::GET | Method::HEAD => read(&app, query.as_deref(), request.into_parts().0).await,
        Method::DELETE => delete(&app, query.as_deref(), request.into_parts().0).await,
        _ => change(&app, request).await,
    };
    served.unwrap_or_else(IntoResponse::into_response)
}

async fn create(app: &App, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let body = object(&parts, body).await?;
    let wish = wish(app, &body)?;
    let authorization = wish.authorization.clone();
    let (head, _) = app.store.head().await?;
    let id = tokens::id::random_text(app.entropy.as_ref(), 16);
    let stream = Stream::new(id, &client_id, wish, head);
    let now = app.clock.now();
    let mut change = Change::new().step(Step::CreateObject(Object {
        kind: ObjectKind::SignalStream,
        id: stream.id.clone(),
        key: stream.key().to_owned(),
        document: serde_json::to_value(&stream).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        version: 1,
        created_at: now,
        updated_at: now,
    }));
    if let Some(header) = &authorization {
        change = change.step(sealed(app, &stream.id, header));
    }
    change = change.event(about(app, EventKind::StreamChanged, &stream).with("change", "opened"));
    match app.store.apply(change).await? {
        Outcome::Applied { .. } => Ok(told(StatusCode::CREATED, &stream.shown(&app.settings))),
        Outcome::Refused(_) => Err(Refused::Taken),
    }
}

/// What a receiver wants; an address that can never be called is a mistake.
fn wish(app: &App, body: &Map<String, Value>) -> Result<Wish, Refused> {
    let wish = Wish::read(body).map_err(Refused::Malformed)?;
    if wish.endpoint().is_some_and(|url| !app.outbound.permits(url)) {
        return Err(Refused::Malformed(stream::UNCALLABLE));
    }
    Ok(wish)
}

async fn read(app: &App, query: Option<&str>, parts: Parts) -> Result<Response, Refused> {
    let client_id = receiver(app, &parts).await?;
    let Some(id) = stream_id(query) else {
        let all: Vec<Value> = Held::by_client(app, &client_id).await?.iter().map(|h| h.stream.shown(&app.settings)).collect();
        return Ok(told(StatusCode::OK, &Value::Array(all)));
    };
    let held = Held::named(app, &client_id, Some(&id)).await?;
    Ok(told(StatusCode::OK, &held.stream.shown(&app.settings)))
}

async fn delete(app: &App, query: Option<&str>, parts: Parts) -> Result<Response, Refused> {
    let client_id = receiver(app, &parts).await?;
    let id = stream_id(query).ok_or_else(unnamed)?;
    let held = Held::named(app, &client_id, Some(&id)).await?;
    let change = Change::new()
        .step(Step::DeleteObject { kind: ObjectKind::SignalStream, id, version: None })
        .event(about(app, EventKind::StreamChanged, &held.stream).with("change", "closed"));
    match app.store.apply(change).await? {
        Outcome::Applied { .. } => Ok(no_content()),
        Outcome::Refused(_) => Err(Refused::Unknown),
    }
}

/// `PATCH` changes what it names, `PUT` replaces everything (§8.1.1.3, §8.1.1.4).
async fn change(app: &App, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let body = object(&parts, body).await?;
    let id = named(&body)?;
    let wish = wish(app, &body)?;
    let whole = parts.method == Method::PUT;
    for _ in 0..super::TRIES {
        let mut held = Held::named(app, &client_id, Some(&id)).await?;
        if whole {
            held.stream.replace(wish.clone());
        } else {
            held.stream.change(wish.clone());
        }
        let mut change = Change::new().step(held.step(app.clock.now())?);
        if let Some(header) = &wish.authorization {
            change = change.step(sealed(app, &id, header));
        } else if body.contains_key("delivery") {
            // A delivery is said as a whole: without a header, pushes carry none.
            change = change.step(Step::RemoveSecret { kind: ObjectKind::SignalStream, id: id.clone(), slot: AUTHORIZATION.to_owned() });
        }
        change = change.event(about(app, EventKind::StreamChanged, &held.stream).with("change", "configured"));
        if app.store.apply(change).await?.applied() {
            return Ok(told(StatusCode::OK, &held.stream.shown(&app.settings)));
        }
    }
    Err(StoreError::Unavailable("the stream keeps changing".into()).into())
}

/// `GET /ssf/status`, `POST` (§8.1.2)
pub(crate) async fn status(State(app): State<Arc<App>>, RawQuery(query): RawQuery, request: Request) -> Response {
    let served = if request.method() == Method::POST {
        set_status(&app, query.as_deref(), request).await
    } else {
        tell_status(&app, query.as_deref(), request.into_parts().0).await
    };
    served.unwrap_or_else(IntoResponse::into_response)
}

async fn tell_status(app: &App, query: Option<&str>, parts: Parts) -> Result<Response, Refused> {
    let client_id = receiver(app, &parts).await?;
    let id = stream_id(query).ok_or_else(unnamed)?;
    let held = Held::named(app, &client_id, Some(&id)).await?;
    Ok(told(StatusCode::OK, &held.stream.told_status()))
}

async fn set_status(app: &App, query: Option<&str>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let body = object(&parts, body).await?;
    let id = match stream_id(query) {
        Some(id) => id,
        None => named(&body)?,
    };
    let wanted: Status = body
        .get("status")
        .and_then(|s| serde_json::from_value(s.clone()).ok())
        .ok_or(Refused::Malformed(Malformed("status must be enabled, paused or disabled")))?;
    let reason = match body.get("reason") {
        None | Some(Value::Null) => None,
        Some(Value::String(reason)) if reason.chars().count() <= 1000 => Some(reason.clone()),
        Some(_) => return Err(Refused::Malformed(Malformed("reason must be text of at most 1000 characters"))),
    };
    let (head, _) = app.store.head().await?;
    let jti = tokens::id::random_text(app.entropy.as_ref(), 16);
    let ((), stream) = revise(app, &client_id, Some(&id), |stream| {
        if stream.status == Status::Disabled && wanted != Status::Disabled {
            // What happened while it was off is not kept.
            stream.settle(&[], head);
        }
        (stream.status, stream.failures, stream.retry_at) = (wanted, 0, 0);
        stream.reason.clone_from(&reason);
        if wanted == Status::Enabled {
            stream.tell(Special { jti: jti.clone(), state: None, status: true });
        }
        Ok(((), true))
    })
    .await?;
    Ok(told(StatusCode::OK, &stream.told_status()))
}

/// `POST /ssf/subjects:add` (§8.1.3.2)
pub(crate) async fn add(State(app): State<Arc<App>>, request: Request) -> Response {
    subject(&app, request, true).await.unwrap_or_else(IntoResponse::into_response)
}

/// `POST /ssf/subjects:remove` (§8.1.3.3)
pub(crate) async fn remove(State(app): State<Arc<App>>, request: Request) -> Response {
    subject(&app, request, false).await.unwrap_or_else(IntoResponse::into_response)
}

async fn subject(app: &App, request: Request, wanted: bool) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let body = object(&parts, body).await?;
    let id = named(&body)?;
    Held::named(app, &client_id, Some(&id)).await?;
    let person = stream::person(&body, &app.settings).map_err(Refused::Malformed)?;
    let known = match &person {
        Some(person) => app.catalog.user(person).await?.is_some(),
        None => false,
    };
    // Whether somebody is known here is nobody's to find out: everybody is heard of by default, so there is nothing to add.
    if let (Some(person), true) = (person, known) {
        revise(app, &client_id, Some(&id), |stream| stream.listen_to(&person, wanted).map(|()| ((), false))).await?;
    }
    Ok(if wanted { told(StatusCode::OK, &Value::Object(Map::new())) } else { no_content() })
}

/// `POST /ssf/verify` (§8.1.4.2)
pub(crate) async fn verify(State(app): State<Arc<App>>, request: Request) -> Response {
    ask(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn ask(app: &App, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let body = object(&parts, body).await?;
    let id = named(&body)?;
    let state = match body.get("state") {
        None | Some(Value::Null) => None,
        Some(Value::String(state)) if state.len() <= LONGEST_STATE => Some(state.clone()),
        Some(_) => return Err(Refused::Malformed(Malformed("state must be text of at most 1024 octets"))),
    };
    let verdict = app.counters.hit(&format!("signals-verify:{id}"), &VERIFICATIONS, 1, app.clock.now_ms()).await;
    if !verdict.allowed {
        let mut response = reply::problem(StatusCode::TOO_MANY_REQUESTS, "verification is asked for too often");
        let seconds = (verdict.retry_after_ms.saturating_add(999) / 1000).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return Ok(response);
    }
    let jti = tokens::id::random_text(app.entropy.as_ref(), 16);
    revise(app, &client_id, Some(&id), |stream| {
        stream.tell(Special { jti: jti.clone(), state: state.clone(), status: false });
        // The ledger's event wakes whoever delivers.
        Ok(((), true))
    })
    .await?;
    Ok(no_content())
}

fn stream_id(query: Option<&str>) -> Option<String> {
    Params::parse(query.unwrap_or_default()).one("stream_id").ok().flatten().map(str::to_owned)
}

fn named(body: &Map<String, Value>) -> Result<String, Refused> {
    let id = body.get("stream_id").and_then(Value::as_str).filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or(Refused::Malformed(Malformed("stream_id is missing")))
}
