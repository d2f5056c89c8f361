//! Whether this process is to be sent requests: `/readyz` of the metrics listener, whatever its roles.
use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use gateway::Gateway;
use http::{HeaderValue, StatusCode, header};
use ledger::Store;
use serde_json::json;

use crate::{listen::Leaving, server::Ground};

/// Where it is asked for.
const PATH: &str = "/readyz";
/// Time the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// When the gateway last knew what is revoked, milliseconds since the epoch; 0: never.
type Heard = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What readiness hangs on.
#[derive(Clone)]
pub struct Readiness {
    store: Arc<dyn Store>,
    leaving: Leaving,
    heard_ms: Option<Heard>,
}

impl Readiness {
    /// Of a process.
    #[must_use]
    pub fn of(ground: &Ground, gateway: Option<&Arc<Gateway>>) -> Self {
        let heard_ms = gateway.map(|gateway| Arc::clone(&gateway.parts().own.fresh_at_ms));
        Self { store: ground.foundation.store.clone(), leaving: ground.leaving.clone(), heard_ms }
    }

    /// 200 or 503. A gateway that has heard of revocations once stays ready: what it may decide without news its routes say.
    pub async fn answer(&self) -> Response<Body> {
        if self.leaving.told() {
            return not_ready("leaving");
        }
        if self.heard_ms.as_ref().is_some_and(|heard| heard() == 0) {
            return not_ready("the authorization server was not heard yet");
        }
        match tokio::time::timeout(PATIENCE, self.store.head()).await {
            Ok(Ok(_)) => Response::new(Body::from(r#"{"status":"ready"}"#)),
            _ => not_ready("storage is away"),
        }
    }
}

/// The answer to a question about readiness on a listener of a process that leaves.
#[must_use]
pub fn refused(path: &str, leaving: &Leaving) -> Option<Response<Body>> {
    (path == PATH && leaving.told()).then(|| not_ready("leaving"))
}

fn not_ready(why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(json!({"type": "about:blank", "title": why, "status": 503}).to_string()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
