//! Polls of receivers (RFC 8936).
use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use ledger::EventKind;
use protocol::signals::{
    POLL,
    poll::{self, Poll},
    stream::{Malformed, Status},
};

use super::{Due, Held, LAG, Refused, about, due, object, receiver, revise, told};
use tokio_util::sync::CancellationToken;

use crate::App;

/// How long a poll waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(25);

/// `POST /ssf/poll/{stream}`
pub(crate) async fn post(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    serve(&app, &id, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, id: &str, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let client_id = receiver(app, &parts).await?;
    let poll = Poll::read(&object(&parts, body).await?).map_err(Refused::Malformed)?;
    let held = Held::named(app, &client_id, Some(id)).await?;
    if held.stream.delivery.method != POLL {
        return Err(Refused::Malformed(Malformed("this stream is pushed")));
    }
    if !poll.acks.is_empty() || !poll.errors.is_empty() {
        take(app, &client_id, id, &poll).await?;
    }
    let turn = (!poll.at_once && poll.most > 0).then(|| app.happened.wait(id));
    let answer = wait(app, &parts, &client_id, id, &poll, turn.as_ref()).await;
    if let Some(turn) = &turn {
        app.happened.gone(id, turn);
    }
    let found = answer?;
    let sent = u64::try_from(found.tokens.len()).unwrap_or_default();
    metrics::counter!("signals_delivered_total", "method" => "poll", "outcome" => "sent").increment(sent);
    Ok(told(StatusCode::OK, &poll::answer(found.tokens, found.more)))
}

/// Looks, and unless the receiver is in a hurry looks again whenever something happens, for as long as its token is good.
async fn wait(app: &App, parts: &Parts, client_id: &str, id: &str, poll: &Poll, turn: Option<&CancellationToken>) -> Result<Due, Refused> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let nothing = || Due { tokens: Vec::new(), places: Vec::new(), seen: 0, more: false };
    loop {
        // Before looking: what happens after that rings.
        let (happened, revoked) = (app.happened.bell.notified(), app.committed.notified());
        let (mut happened, mut revoked) = (std::pin::pin!(happened), std::pin::pin!(revoked));
        happened.as_mut().enable();
        revoked.as_mut().enable();
        let found = look(app, client_id, id, poll.most).await?;
        let Some(turn) = turn.filter(|_| found.tokens.is_empty() && !found.more) else { return Ok(found) };
        tokio::select! {
            () = happened => {}
            () = revoked => {}
            () = turn.cancelled() => return Ok(nothing()),
            () = app.closing.cancelled() => return Ok(nothing()),
            () = tokio::time::sleep_until(deadline) => return Ok(nothing()),
        }
        receiver(app, parts).await?;
    }
}

/// Takes note of what arrived and of what the receiver cannot use.
async fn take(app: &App, client_id: &str, id: &str, poll: &Poll) -> Result<(), Refused> {
    for (_, why) in &poll.errors {
        tracing::warn!(target: "signals", client = client_id, why, "a receiver cannot use a security event token");
    }
    let (refused, stream) = revise(app, client_id, Some(id), |stream| {
        poll.acks.iter().for_each(|jti| stream.acknowledge(jti));
        poll.errors.iter().for_each(|(jti, _)| stream.acknowledge(jti));
        Ok((!poll.errors.is_empty(), false))
    })
    .await?;
    if refused {
        let told = about(app, EventKind::SignalRefused, &stream).with("count", u64::try_from(poll.errors.len()).unwrap_or_default());
        app.store.apply(ledger::Change::new().event(told)).await?;
    }
    Ok(())
}

async fn look(app: &App, client_id: &str, id: &str, most: usize) -> Result<Due, Refused> {
    let mut held = Held::named(app, client_id, Some(id)).await?;
    if held.stream.status != Status::Enabled {
        return Ok(Due { tokens: Vec::new(), places: Vec::new(), seen: 0, more: false });
    }
    let found = due(app, &held.stream, most).await?;
    let before = held.stream.position;
    held.stream.settle(&found.places, found.seen);
    if held.stream.position > before.saturating_add(LAG) {
        // Only saves looking again; whoever was first has done it.
        held.keep(app, None).await?;
    }
    Ok(found)
}
