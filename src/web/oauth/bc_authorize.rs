//! The backchannel authentication endpoint (CIBA Core §7).
use std::sync::Arc;

use accounts::User;
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::limit::Quota;
use http::{StatusCode, request::Parts};
use ledger::{ArtefactKind, Guarded, ObjectKind, Outcome, Step, StoreError};
use protocol::{
    AuthenticatedClient, Evidence, Form, OAuthError,
    authorize::hint,
    ciba::{
        self,
        request::{self, Asked, Hint, Once, Sent},
    },
    grants::decoupled,
    pairwise,
};
use tokens::jws::Parsed;

use super::{client, context, form, octets, once, token};
use crate::{
    App, limits,
    reply::{self, Failed},
};

/// What one client may ask for.
const ASKED: Quota = Quota::per(1200, 60);
/// How often one client may name somebody who is not there.
const UNKNOWN: Quota = Quota::per(60, 60);
/// Requests that wait for one person at a time: more would be pestering.
const WAITING: u32 = 10;
/// The same with a name on the wire.
const PESTERED: limits::Policy = limits::Policy { name: "ciba-person", quota: Quota::per(WAITING, 60) };
/// How often it is tried again when the client was changed meanwhile.
const TRIES: usize = 3;

/// `POST /bc-authorize`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await?;
    let form = form(&parts, &octets)?;
    for _ in 0..TRIES {
        let client = client(app, "bc_authorize", &parts, &form).await?;
        count(app, &client, ("ciba", ASKED)).await?;
        match begin(app, &parts, &form, &client).await {
            Err(why) => return Err(once::refused(app, "bc_authorize", &parts, &client, why).await),
            Ok(Ok(answer)) => {
                metrics::counter!("backchannel_requests_total", "outcome" => "begun").increment(1);
                return Ok(reply::json(StatusCode::OK, answer));
            }
            Ok(Err(Guarded { step: 0 })) => app.catalog.forget_client(client.id()),
            Ok(Err(_)) => {}
        }
    }
    Err(StoreError::Unavailable("the client keeps changing".into()).into())
}

async fn count(app: &App, client: &AuthenticatedClient, (name, quota): (&'static str, Quota)) -> Result<(), Failed> {
    hit(app, &format!("{name}:{}", client.id()), (name, quota)).await
}

async fn hit(app: &App, key: &str, (name, quota): (&'static str, Quota)) -> Result<(), Failed> {
    let verdict = app.counters.hit(key, &quota, 1, app.clock.now_ms()).await;
    if verdict.allowed { Ok(()) } else { Err(Failed::Limited(limits::Policy { name, quota }.waits(verdict.retry_after_s()))) }
}

async fn begin(app: &App, parts: &Parts, form: &Form<'_>, client: &AuthenticatedClient) -> Result<Result<Bytes, Guarded>, Failed> {
    ciba::entitled(client)?;
    let (asked, signed) = read(app, form, client).await?;
    let Some(user) = meant(app, client, &asked.hint).await?.filter(|u| !u.disabled) else {
        count(app, client, ("ciba-unknown", UNKNOWN)).await?;
        if client.client().origin.is_some() {
            // Whoever makes clients at will is one source all the same.
            hit(app, &format!("ciba-unknown:{}", limits::source(app, parts)), ("ciba-unknown", UNKNOWN)).await?;
        }
        return Err(ciba::unknown().into());
    };
    let now = app.clock.now();
    let waiting = app.store.waiting(&decoupled::owner(&user.id), now, WAITING).await?;
    if waiting.len() >= WAITING as usize {
        let first = waiting.iter().map(|w| w.expires_at - now).min().unwrap_or(1);
        return Err(Failed::Limited(PESTERED.waits(first)));
    }
    let target = ciba::target(client, &asked, &app.settings)?;
    let server = token::server(app, &target).await?;
    let (evidence, head) = (Evidence::default(), app.revoked.head());
    let begun = {
        let keys = app.keys.load();
        ciba::begin(&context(app, &keys, head, &evidence), client, &asked, signed, &user, (&target, server.as_deref()))?
    };
    let jti = begun.change.steps.iter().position(|s| matches!(s, Step::Put(put) if put.kind == ArtefactKind::Jti));
    let answer = Bytes::from(begun.json());
    match once::spend(app, "bc_authorize", parts, client, begun.change).await? {
        Outcome::Applied { .. } => Ok(Ok(answer)),
        Outcome::Refused(guard) if Some(guard.step) == jti => {
            Err(OAuthError::request("the signed request is not valid").because("its jti was used before").into())
        }
        Outcome::Refused(guard) => Ok(Err(guard)),
    }
}

async fn read(app: &App, form: &Form<'_>, client: &AuthenticatedClient) -> Result<(Asked, Option<Once>), Failed> {
    match request::sent(client.client(), form, app.settings.profile)? {
        Sent::Plain => Ok((request::of_form(form)?, None)),
        Sent::Signed(text, alg) => {
            let kid = Parsed::parse(text).ok().and_then(|parsed| parsed.kid);
            let keys = app.relying.keys(client.client(), kid.as_deref(), None).await;
            let (asked, once) = request::of_object(text, alg, keys.set(), client.client(), &app.settings.issuer, app.clock.now())?;
            Ok((asked, Some(once)))
        }
    }
}

/// The person a hint means.
async fn meant(app: &App, client: &AuthenticatedClient, hint: &Hint) -> Result<Option<Arc<User>>, Failed> {
    match hint {
        Hint::Login(name) => {
            let Some(object) = app.store.object_by_key(ObjectKind::User, name).await? else { return Ok(None) };
            Ok(app.catalog.user(&object.id).await?)
        }
        Hint::IdToken(text) => {
            let believed = hint::believe(text, &app.settings.issuer, app.keys.load().keys());
            let Some(told) = believed.filter(|h| h.audience.iter().any(|a| a == client.id())) else {
                return Err(OAuthError::request("id_token_hint is not an ID token of this issuer for this client").into());
            };
            if !pairwise::applies(client.client()) {
                return Ok(app.catalog.user(&told.subject).await?);
            }
            // The name is the sector's; the session knows the person.
            let session = match &told.session {
                Some(sid) => app.store.session(sid).await?,
                None => None,
            };
            match session.filter(|s| pairwise::is(client.client(), &told.subject, &s.subject, &app.mac)) {
                Some(session) => Ok(app.catalog.user(&session.subject).await?),
                None => Ok(None),
            }
        }
    }
}
