//! Security event tokens of trusted issuers, pushed to us (RFC 8935): what they say has ended ends at every gateway.
use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::issuer::TrustedIssuer;
use http::{StatusCode, header};
use ledger::{Artefact, ArtefactKind, ObjectKind, Outcome, Step, StoreError};
use protocol::signals::received::{self, NotTaken};
use serde_json::json;
use tokens::jws::Parsed;

use crate::{
    App,
    oauth::octets,
    reply::{self, Failed},
};

/// `POST /ssf/receive/{trusted issuer}`
pub(crate) async fn post(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    serve(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, id: &str, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let object = app.store.object(ObjectKind::TrustedIssuer, id).await?;
    let issuer = object
        .map(|o| serde_json::from_value::<TrustedIssuer>(o.document).map(|issuer| issuer.known_to(app.settings.post_quantum)))
        .transpose();
    let issuer = issuer.map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let Some((issuer, audience)) = issuer.as_ref().and_then(|i| Some((i, i.signals_audience.as_deref()?))) else {
        return Ok(reply::problem(StatusCode::NOT_FOUND, "nothing is here"));
    };
    let media = parts.headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes().split(|b| *b == b';').next().unwrap_or_default().trim_ascii());
    let octets = octets(&parts, body).await?;
    if !media.is_some_and(|m| m.eq_ignore_ascii_case(b"application/secevent+jwt")) {
        return Ok(refused(NotTaken::Request));
    }
    let taken = match take(app, issuer, audience, &octets).await {
        Ok(taken) => taken,
        Err(why) => {
            metrics::counter!("signals_received_total", "outcome" => why.code()).increment(1);
            return Ok(refused(why));
        }
    };
    let now_ms = app.clock.now_ms();
    let now = now_ms.div_euclid(1000);
    let once = Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: tokens::hash::sha256(format!("set|{}|{}", issuer.issuer, taken.jti).as_bytes()).to_vec(),
        mac: Vec::new(),
        grant: None,
        document: String::new(),
        created_at: now,
        expires_at: now + received::REMEMBER,
        consumed_at: None,
        successor: None,
        seq: 0,
    });
    let mut change = taken.change(now_ms);
    change.steps.insert(0, once);
    // One that came before was acted on then: it is accepted again, and nothing happens (RFC 8935 §2).
    let outcome = match app.store.apply(change).await? {
        Outcome::Applied { .. } => "taken",
        Outcome::Refused(_) => "again",
    };
    metrics::counter!("signals_received_total", "outcome" => outcome).increment(1);
    let mut response = Response::default();
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

async fn take(app: &App, issuer: &TrustedIssuer, audience: &str, octets: &[u8]) -> Result<received::Taken, NotTaken> {
    let text = std::str::from_utf8(octets).map_err(|_| NotTaken::Request)?;
    let parsed = Parsed::parse(text).map_err(|_| NotTaken::Request)?;
    if !issuer.algs().contains(&parsed.alg) {
        return Err(NotTaken::Key);
    }
    let keys = app.relying.issuer_keys(issuer, parsed.kid.as_deref()).await;
    let key = keys.find(parsed.kid.as_deref(), parsed.alg).ok_or(NotTaken::Key)?;
    received::believe(&parsed, key, &issuer.issuer, audience, app.clock.now())
}

fn refused(why: NotTaken) -> Response {
    let body = json!({"err": why.code(), "description": "the security event token was not taken"}).to_string();
    reply::json(StatusCode::BAD_REQUEST, Bytes::from(body))
}
