//! Whether the process lives and whether it can serve.
use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use bytes::Bytes;
use http::StatusCode;

use crate::{App, reply};

/// When to ask again whether this node is ready, seconds.
const RETRY_AFTER_S: i64 = 1;

/// `GET /healthz`: the process answers.
pub(crate) async fn live() -> Response {
    reply::json(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}"))
}

/// `GET /readyz`: its store answers and it is not draining.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.closing.is_cancelled() {
        return reply::retry(reply::problem(StatusCode::SERVICE_UNAVAILABLE, "draining"), RETRY_AFTER_S);
    }
    match tokio::time::timeout(Duration::from_secs(2), app.store.head()).await {
        Ok(Ok(_)) => reply::json(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ready\"}")),
        _ => reply::retry(reply::problem(StatusCode::SERVICE_UNAVAILABLE, "storage is away"), RETRY_AFTER_S),
    }
}
