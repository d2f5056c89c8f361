//! The public keys (RFC 7517 §5).
use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::HeaderMap;

use crate::App;

/// `GET /jwks`
pub(crate) async fn get(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.published.current(&app).keys.send(&headers)
}
