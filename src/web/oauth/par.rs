//! The pushed authorization request endpoint (RFC 9126): everything is checked here, where no person waits.
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::limit::Quota;
use http::{StatusCode, request::Parts};
use ledger::{Change, Guarded, Outcome, StoreError};
use protocol::{
    AuthenticatedClient, Evidence, Form, OAuthError,
    authorize::{self, Desk, Endpoint, Params, Refusal, pushed, request_object::Came},
};

use super::{authorize::server, client, evidence, form, octets, once, request_object};
use crate::{
    App, limits,
    reply::{self, Failed},
};

/// What one source may push in the name of clients that prove nothing.
const PUSHED: Quota = Quota::per(300, 60);
/// What one client that proves itself may push: each leaves a row and an event.
const PUSHED_OF_CLIENT: Quota = Quota { rate: 30_000, period_s: 60, burst: 10_000 };
/// How often it is tried again when the client was changed meanwhile.
const TRIES: usize = 3;

/// `POST /par`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let response = serve(&app, request).await.unwrap_or_else(IntoResponse::into_response);
    evidence::tell(&app, response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await?;
    let form = form(&parts, &octets)?;
    let params =
        std::str::from_utf8(&octets).map(Params::parse).map_err(|_| OAuthError::request("a parameter is not correctly encoded"))?;
    let evidence = evidence::evidence(app, &parts, "/par", None)?;
    for _ in 0..TRIES {
        let client = client(app, "par", &parts, &form).await?;
        admit(app, &parts, &client).await?;
        match push(app, &parts, &client, &form, (&params, &evidence)).await {
            Err(why) => return Err(once::refused(app, "par", &parts, &client, why).await),
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(_)) => app.catalog.forget_client(client.id()),
        }
    }
    Err(StoreError::Unavailable("the client keeps changing".into()).into())
}

/// Anybody can name a public client: there the source counts.
async fn admit(app: &App, parts: &Parts, client: &AuthenticatedClient) -> Result<(), Failed> {
    let (key, quota) = if client.client().is_public() {
        (format!("pushed:{}", limits::source(app, parts)), PUSHED)
    } else {
        (format!("pushed_by:{}", client.id()), PUSHED_OF_CLIENT)
    };
    let verdict = app.counters.hit(&key, &quota, 1, app.clock.now_ms()).await;
    if verdict.allowed { Ok(()) } else { Err(Failed::Limited(limits::Policy { name: "pushed", quota }.waits(verdict.retry_after_s()))) }
}

async fn push(
    app: &App,
    parts: &Parts,
    client: &AuthenticatedClient,
    form: &Form<'_>,
    (params, evidence): (&Params, &Evidence),
) -> Result<Result<Response, Guarded>, Failed> {
    let told = |refusal: Refusal| OAuthError::new(refusal.code, refusal.hears);
    if form.has("request_uri") {
        return Err(OAuthError::request("request_uri cannot be pushed").into());
    }
    let registered = client.client();
    let unpacked = request_object::unpacked(app, registered, params, Came::Pushed).await.map_err(told)?;
    // The client has said who it is; RFC 9126 §2.1 wants client_id all the same, but its absence misleads nobody.
    let params = unpacked.unwrap_or_else(|| params.clone().naming(client.id()));
    let caller = authorize::recognise(&params, Some(registered), app.settings.profile).map_err(told)?;
    let server = server(app, &params, registered).await?;
    let checked = {
        let ring = app.keys.load();
        let desk = Desk { client: registered, settings: &app.settings, server: server.as_deref(), keys: ring.keys(), evidence };
        authorize::accept(Endpoint::Par, caller, &params, &desk)
    };
    let request = checked.map_err(|wrong| told(wrong.1))?;
    let (change, uri) = pushed::push(&request, &app.settings, app.clock.now_ms(), app.entropy.as_ref(), &app.mac);
    let mut change = Change::new().step(client.unchanged()).and(change);
    change.steps.extend(evidence.once(app.clock.now(), app.revoked.head()));
    let proof = change.steps.iter().position(protocol::evidence::is_once);
    match once::spend(app, "par", parts, client, change).await? {
        Outcome::Applied { .. } => {
            metrics::counter!("pushed_requests_total").increment(1);
            let body = serde_json::json!({"request_uri": uri, "expires_in": pushed::ttl(&app.settings)}).to_string();
            Ok(Ok(reply::json(StatusCode::CREATED, Bytes::from(body))))
        }
        Outcome::Refused(guard) if Some(guard.step) == proof => Err(evidence::replayed().into()),
        Outcome::Refused(guard) => Ok(Err(guard)),
    }
}
