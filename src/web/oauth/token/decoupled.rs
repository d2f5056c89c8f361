//! A device code (RFC 8628 §3.4) or an `auth_req_id` (CIBA Core §10.1): polled until somebody has answered.
use axum::response::Response;
use bytes::Bytes;
use edge::limit::Quota;
use http::StatusCode;
use protocol::{
    Code, OAuthError,
    grants::{
        Behind, Refused,
        decoupled::{self, Flow, Found, INTERVAL, Requested, Verdict},
    },
};
use tokens::b64;

use super::{Asked, Given, conclude, found, server};
use crate::{
    App,
    oauth::context,
    reply::{self, Failed},
};

/// Hasty polls of one request: each makes the next interval longer. They are forgotten after an hour each.
const HASTY: Quota = Quota { rate: 1, period_s: 3600, burst: 60 };
/// Intervals do not grow for ever.
const LONGEST: u32 = 60;

impl Asked<'_> {
    pub(super) async fn decoupled(&self, flow: &'static Flow, parameter: &'static str, missing: &'static str) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        if !client.client().may_use(flow.grant_type) {
            return Err(OAuthError::new(Code::UnauthorizedClient, "the client may not use this grant type").into());
        }
        let text = form.get(parameter).ok_or(OAuthError::request(missing))?;
        let (artefact, document) = found::<Requested>(app, flow.secret, flow.kind, text).await?;
        let verdict = verdict(app, flow, &artefact.id).await?;
        let (grant, user) = match verdict.as_ref().filter(|v| v.approved) {
            Some(yes) => {
                let grant = match &yes.grant {
                    Some(id) => app.store.grant(id).await?,
                    None => None,
                };
                (grant, app.catalog.user(&yes.subject).await?)
            }
            None => (None, None),
        };
        let server = server(app, &document.resource).await?;
        let behind = Behind { grant: grant.as_ref(), user: user.as_deref(), server: server.as_deref() };
        let found = Found { artefact: &artefact, document: &document, verdict: verdict.as_ref(), behind };
        let decided = decoupled::redeem(&context(app, &app.keys.load(), head, evidence), client, flow, &found);
        match decided {
            Err(Refused { error, .. }) if error.code == Code::AuthorizationPending => {
                let hasty = hasty(app, &b64::encode(&artefact.id)).await;
                let slow = OAuthError::new(Code::SlowDown, "wait five seconds longer between requests");
                Err(if hasty { slow } else { error }.into())
            }
            // At this endpoint every error but that of the client is a 400 (RFC 6749 §5.2).
            Err(Refused { error, .. }) if error.code == Code::AccessDenied => Ok(Given::Told(denied(&error))),
            other => conclude(self, flow.grant_type, other).await,
        }
    }
}

fn denied(error: &OAuthError) -> Response {
    reply::json(StatusCode::BAD_REQUEST, Bytes::from(error.json()))
}

/// The answer to a request, if there is one.
async fn verdict(app: &App, flow: &Flow, request: &[u8]) -> Result<Option<Verdict>, Failed> {
    let Some(row) = app.store.artefact(flow.kind, &decoupled::verdict_id(request)).await? else { return Ok(None) };
    let verdict = serde_json::from_str(&row.document).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    Ok(Some(verdict))
}

/// Whether a poll came before its time. Then the interval is five seconds longer for all that follow (RFC 8628 §3.5).
async fn hasty(app: &App, request: &str) -> bool {
    let (now_ms, hasty) = (app.clock.now_ms(), format!("hasty:{request}"));
    let before = HASTY.burst.saturating_sub(app.counters.peek(&hasty, &HASTY, now_ms).await.remaining);
    let poll = |times: u32| {
        let period_s = INTERVAL.saturating_mul(times.saturating_add(1)).min(LONGEST);
        (format!("poll:{request}:{period_s}"), Quota { rate: 1, period_s, burst: 1 })
    };
    let (key, quota) = poll(before);
    if app.counters.hit(&key, &quota, 1, now_ms).await.allowed {
        return false;
    }
    app.counters.hit(&hasty, &HASTY, 1, now_ms).await;
    let (next, longer) = poll(before.saturating_add(1));
    app.counters.hit(&next, &longer, 1, now_ms).await;
    true
}
