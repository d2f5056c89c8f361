//! The device authorization endpoint (RFC 8628 §3.1).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::limit::Quota;
use http::StatusCode;
use ledger::{Guarded, Outcome, StoreError};
use protocol::{AuthenticatedClient, Evidence, Form, grants::device};

use super::{client, context, form, octets, once, token};
use crate::{
    App, limits,
    reply::{self, Failed},
};

/// What one source may begin: each leaves two rows until it ends.
const BEGUN: Quota = Quota::per(240, 60);
/// How often it is tried again when a user code is taken or the client was changed meanwhile.
const TRIES: usize = 3;

/// `POST /device_authorization`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await?;
    let form = form(&parts, &octets)?;
    for _ in 0..TRIES {
        let client = client(app, "device_authorization", &parts, &form).await?;
        let key = format!("device_begun:{}", limits::source(app, &parts));
        let verdict = app.counters.hit(&key, &BEGUN, 1, app.clock.now_ms()).await;
        if !verdict.allowed {
            return Err(Failed::Limited(limits::Policy { name: "device", quota: BEGUN }.waits(verdict.retry_after_s())));
        }
        let begun = match begin(app, &client, &form).await {
            Ok(begun) => begun,
            Err(why) => return Err(once::refused(app, "device_authorization", &parts, &client, why).await),
        };
        let answer = Bytes::from(begun.json(&app.settings));
        match once::spend(app, "device_authorization", &parts, &client, begun.change).await? {
            Outcome::Applied { .. } => {
                metrics::counter!("device_requests_total", "outcome" => "begun").increment(1);
                return Ok(reply::json(StatusCode::OK, answer));
            }
            Outcome::Refused(Guarded { step: 0 }) => app.catalog.forget_client(client.id()),
            Outcome::Refused(_) => {}
        }
    }
    Err(StoreError::Unavailable("the client keeps changing".into()).into())
}

async fn begin(app: &App, client: &AuthenticatedClient, form: &Form<'_>) -> Result<device::Begun, Failed> {
    let (evidence, head) = (Evidence::default(), app.revoked.head());
    let target = device::target(&context(app, &app.keys.load(), head, &evidence), client, form)?;
    let server = token::server(app, &target).await?;
    Ok(device::begin(&context(app, &app.keys.load(), head, &evidence), client, form, &target, server.as_deref())?)
}
