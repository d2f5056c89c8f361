//! Where a person answers what applications ask behind the scenes (CIBA Core §8): a list of requests, each with yes and no.
use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use ledger::{Artefact, ArtefactKind, Outcome, Session};
use protocol::{
    authorize::Params,
    backchannel_logout,
    client_auth::KnownClient,
    grants::decoupled::{self, Answering, BACKCHANNEL, Door, Requested},
};
use tokens::b64;

use super::{Posted, Source, consent::describe, interaction::Purpose, login, name_of};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

/// Requests shown.
const MOST: u32 = 50;
const FORM: &str = "backchannel";

/// A request on the page.
struct Row {
    id: String,
    client: String,
    host: Option<String>,
    message: Option<String>,
    scopes: Vec<String>,
}

#[derive(Template)]
#[template(path = "backchannel.html")]
struct BackchannelPage<'a> {
    base: &'a str,
    person: &'a str,
    csrf: &'a str,
    done: Option<&'static str>,
    requests: &'a [Row],
}

/// A request that waits for its person.
struct Waiting {
    door: Vec<u8>,
    request: Vec<u8>,
    requested: Requested,
    known: Arc<KnownClient>,
}

/// `GET /ciba`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /ciba`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let Some(session) = browser.sign_on().await? else {
        return login::begin_for(app, &browser, source, Purpose::Backchannel).await;
    };
    let binding = browser.binding().await?.ok_or(Refused::foreign())?;
    let mut requests = Vec::new();
    for door in app.store.waiting(&decoupled::owner(&session.subject), app.clock.now(), MOST).await? {
        if let Some(waiting) = open(app, &session, door).await? {
            requests.push(row(app, waiting).await?);
        }
    }
    let template = BackchannelPage {
        base: pages::base(&app.settings.issuer),
        person: &name_of(app, &session.subject).await?,
        csrf: &csrf::token(&app.mac, &binding, FORM, &session.id),
        done: match params.one("done")? {
            Some("approved") => Some("You said yes."),
            Some("denied") => Some("You said no."),
            _ => None,
        },
        requests: &requests,
    };
    Ok(pages::page(StatusCode::OK, &template, &Allow::form(None)))
}

async fn row(app: &App, waiting: Waiting) -> Result<Row, Refused> {
    let server = app.catalog.resource_server(&waiting.requested.resource).await?;
    let shown = Shown::of(&waiting.known.client);
    Ok(Row {
        id: b64::encode(&waiting.request),
        client: shown.name,
        host: shown.host,
        scopes: waiting.requested.scope.split(' ').filter(|s| !s.is_empty()).map(|s| describe(s, server.as_deref())).collect(),
        message: waiting.requested.binding_message,
    })
}

/// A door of this person's with what is behind it.
async fn open(app: &App, session: &Session, door: Artefact) -> Result<Option<Waiting>, Refused> {
    let Some(request) = serde_json::from_str::<Door>(&door.document).ok().and_then(|d| d.id()) else { return Ok(None) };
    let Some(row) = app.store.artefact(ArtefactKind::Backchannel, &request).await? else { return Ok(None) };
    let Ok(requested) = serde_json::from_str::<Requested>(&row.document) else { return Ok(None) };
    if requested.subject.as_deref() != Some(session.subject.as_str()) {
        return Ok(None);
    }
    let known = app.catalog.client(&requested.client_id).await?.filter(|k| !k.client.disabled);
    Ok(known.map(|known| Waiting { door: door.id, request, requested, known }))
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let params = posted.params?;
    let browser = Browser::of(app, headers);
    let (Some(session), Some(binding)) = (browser.sign_on().await?, browser.binding().await?) else { return Err(Refused::foreign()) };
    if !csrf::matches(&app.mac, &binding, FORM, &session.id, params.one("csrf")?.unwrap_or_default()) {
        return Err(Refused::foreign());
    }
    let approved = match params.one("action")? {
        Some("approve") => true,
        Some("deny") => false,
        _ => return Err(Refused::request("The form was not filled in.")),
    };
    let id = params.one("request")?.and_then(b64::decode).ok_or(Refused::stale())?;
    let door = app.store.artefact(ArtefactKind::Backchannel, &decoupled::door_id(&id)).await?;
    let door = door.filter(|d| d.consumed_at.is_none() && d.expires_at > app.clock.now()).ok_or(Refused::stale())?;
    let waiting = open(app, &session, door).await?.ok_or(Refused::stale())?;
    answer(app, &session, &waiting, approved).await
}

/// Says yes or no. Of two answers one counts.
async fn answer(app: &App, session: &Session, waiting: &Waiting, approved: bool) -> Result<Response, Refused> {
    let answering = Answering {
        flow: &BACKCHANNEL,
        door: &waiting.door,
        request: &waiting.request,
        requested: &waiting.requested,
        subject: &session.subject,
        session: Some(session),
        methods: &[],
        now_ms: app.clock.now_ms(),
    };
    let mut change = ledger::Change::new().step(waiting.known.unchanged());
    if approved {
        change = change.and(answering.approve(app.entropy.as_ref()));
        change.steps.extend(backchannel_logout::takes_part(&waiting.known.client, session, &app.settings, app.clock.now()));
    } else {
        change = change.and(answering.deny());
    }
    let outcome = if approved { "approved" } else { "denied" };
    match app.store.apply(change).await? {
        Outcome::Applied { .. } => {
            metrics::counter!("backchannel_requests_total", "outcome" => outcome).increment(1);
            Ok(pages::see_other(&format!("{}/ciba?done={outcome}", pages::base(&app.settings.issuer))))
        }
        Outcome::Refused(guard) => {
            if guard.step == 0 {
                app.catalog.forget_client(&waiting.requested.client_id);
            }
            Err(Refused::stale())
        }
    }
}
