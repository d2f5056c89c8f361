//! The device page: a person types the code that a device shows, sees who asks for what, and says yes or no (RFC 8628 §3.3).
use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use edge::limit::Quota;
use http::{HeaderMap, StatusCode};
use ledger::{ArtefactKind, Outcome, Session};
use protocol::{
    authorize::Params,
    backchannel_logout,
    client_auth::KnownClient,
    grants::{
        decoupled::{Answering, DEVICE, Door, Requested},
        device,
    },
};

use super::{Posted, Source, consent::describe, interaction::Purpose, login, name_of};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

/// Codes that are none, from one source: twenty letters to the power of eight are many, but not if anybody may try for ever.
const FROM_SOURCE: Quota = Quota { rate: 30, period_s: 600, burst: 30 };
/// The same of one account.
const OF_ACCOUNT: Quota = Quota { rate: 15, period_s: 600, burst: 15 };
/// Codes that one account looks at, right or wrong: counted before they are, so that many at once are many.
const TRIES_OF_ACCOUNT: Quota = Quota { rate: 120, period_s: 600, burst: 120 };
const FORM: &str = "device";

/// A scope on the page.
struct Line {
    name: String,
    text: String,
}

/// What the page asks for.
enum Stage<'a> {
    /// The code.
    Code { typed: &'a str, wrong: bool },
    /// Yes or no.
    Answer { client: &'a Shown, code: String, scopes: &'a [Line] },
    /// Nothing more.
    Done { approved: bool },
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage<'a> {
    base: &'a str,
    person: &'a str,
    csrf: &'a str,
    stage: Stage<'a>,
}

/// A request behind a user code.
struct Waiting {
    door: Vec<u8>,
    request: Vec<u8>,
    requested: Requested,
    known: Arc<KnownClient>,
}

/// `GET /device`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /device`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    // Only what can be a code is shown again or carried through the login.
    let typed = params.one("user_code")?.and_then(device::typed);
    let Some(session) = browser.sign_on().await? else {
        return login::begin_for(app, &browser, source, Purpose::Device(typed)).await;
    };
    let shown = typed.as_deref().map(device::shown).unwrap_or_default();
    page(app, &browser, &session, StatusCode::OK, Stage::Code { typed: &shown, wrong: false }).await
}

async fn page(app: &App, browser: &Browser, session: &Session, status: StatusCode, stage: Stage<'_>) -> Result<Response, Refused> {
    let binding = browser.binding().await?.ok_or(Refused::foreign())?;
    let about = match &stage {
        Stage::Answer { code, .. } => format!("{}\0{code}", session.id),
        _ => session.id.clone(),
    };
    let picture = match &stage {
        Stage::Answer { client, .. } => Some(*client),
        _ => None,
    };
    let allow = Allow::form(None).picture_of(picture);
    let template = DevicePage {
        base: pages::base(&app.settings.issuer),
        person: &name_of(app, &session.subject).await?,
        csrf: &csrf::token(&app.mac, &binding, FORM, &about),
        stage,
    };
    Ok(pages::page(status, &template, &allow))
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let params = posted.params?;
    let browser = Browser::of(app, headers);
    let (Some(session), Some(binding)) = (browser.sign_on().await?, browser.binding().await?) else { return Err(Refused::foreign()) };
    let given = params.one("user_code")?.unwrap_or_default();
    let code = device::typed(given);
    let action = params.one("action")?.unwrap_or("continue");
    // An answer is to the request that was shown: its form is bound to the code.
    let about = match (action, &code) {
        ("continue", _) => session.id.clone(),
        (_, Some(code)) => format!("{}\0{}", session.id, device::shown(code)),
        (_, None) => return Err(Refused::foreign()),
    };
    if !csrf::matches(&app.mac, &binding, FORM, &about, params.one("csrf")?.unwrap_or_default()) {
        return Err(Refused::foreign());
    }
    admit(app, posted.source, &session.subject).await?;
    if action == "continue" {
        count(app, &session.subject).await?;
    }
    let found = match &code {
        Some(code) => find(app, code).await?,
        None => None,
    };
    let (Some(waiting), Some(code)) = (found, code) else {
        failed(app, posted.source, &session.subject).await;
        let typed: String = given.chars().filter(|c| !c.is_control()).take(16).collect();
        return page(app, &browser, &session, StatusCode::UNPROCESSABLE_ENTITY, Stage::Code { typed: &typed, wrong: true }).await;
    };
    match action {
        "continue" => confirm(app, &browser, &session, &waiting, &code).await,
        "approve" => answer(app, &browser, &session, &waiting, true).await,
        "deny" => answer(app, &browser, &session, &waiting, false).await,
        _ => Err(Refused::request("The form was not filled in.")),
    }
}

fn counters(source: IpAddr, subject: &str) -> [(String, Quota); 2] {
    [(format!("user_code:{source}"), FROM_SOURCE), (format!("user_code_of:{subject}"), OF_ACCOUNT)]
}

/// Looks whether there were too many wrong codes.
async fn admit(app: &App, source: IpAddr, subject: &str) -> Result<(), Refused> {
    for (key, quota) in counters(source, subject) {
        let verdict = app.counters.peek(&key, &quota, app.clock.now_ms()).await;
        if !verdict.allowed {
            metrics::counter!("device_requests_total", "outcome" => "throttled").increment(1);
            return Err(Refused::limited(verdict.retry_after_s(), ("user-code", quota)));
        }
    }
    Ok(())
}

/// Counts a look at a code.
async fn count(app: &App, subject: &str) -> Result<(), Refused> {
    let verdict = app.counters.hit(&format!("user_code_tries:{subject}"), &TRIES_OF_ACCOUNT, 1, app.clock.now_ms()).await;
    if verdict.allowed {
        return Ok(());
    }
    metrics::counter!("device_requests_total", "outcome" => "throttled").increment(1);
    Err(Refused::limited(verdict.retry_after_s(), ("user-code", TRIES_OF_ACCOUNT)))
}

async fn failed(app: &App, source: IpAddr, subject: &str) {
    for (key, quota) in counters(source, subject) {
        app.counters.hit(&key, &quota, 1, app.clock.now_ms()).await;
    }
    metrics::counter!("device_requests_total", "outcome" => "unknown").increment(1);
}

/// The request behind a code, if it waits still.
async fn find(app: &App, code: &str) -> Result<Option<Waiting>, Refused> {
    let (id, now) = (device::door(&app.mac, code), app.clock.now());
    let door = app.store.artefact(ArtefactKind::DeviceCode, &id).await?;
    let Some(door) = door.filter(|d| d.consumed_at.is_none() && d.expires_at > now) else { return Ok(None) };
    let Some(request) = serde_json::from_str::<Door>(&door.document).ok().and_then(|d| d.id()) else { return Ok(None) };
    let Some(row) = app.store.artefact(ArtefactKind::DeviceCode, &request).await? else { return Ok(None) };
    let Ok(requested) = serde_json::from_str::<Requested>(&row.document) else { return Ok(None) };
    let known = app.catalog.client(&requested.client_id).await?.filter(|k| !k.client.disabled);
    Ok(known.map(|known| Waiting { door: id, request, requested, known }))
}

async fn confirm(app: &App, browser: &Browser, session: &Session, waiting: &Waiting, code: &str) -> Result<Response, Refused> {
    let server = app.catalog.resource_server(&waiting.requested.resource).await?;
    let line = |name: &str| Line { name: name.to_owned(), text: describe(name, server.as_deref()) };
    let scopes: Vec<Line> = waiting.requested.scope.split(' ').filter(|s| !s.is_empty()).map(line).collect();
    let client = Shown::of(&waiting.known.client);
    let stage = Stage::Answer { client: &client, code: device::shown(code), scopes: &scopes };
    page(app, browser, session, StatusCode::OK, stage).await
}

/// Says yes or no. Of two answers one counts.
async fn answer(app: &App, browser: &Browser, session: &Session, waiting: &Waiting, approved: bool) -> Result<Response, Refused> {
    let answering = Answering {
        flow: &DEVICE,
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
    match app.store.apply(change).await? {
        Outcome::Applied { .. } => {
            let outcome = if approved { "approved" } else { "denied" };
            metrics::counter!("device_requests_total", "outcome" => outcome).increment(1);
            page(app, browser, session, StatusCode::OK, Stage::Done { approved }).await
        }
        Outcome::Refused(guard) => {
            if guard.step == 0 {
                app.catalog.forget_client(&waiting.requested.client_id);
            }
            Err(Refused::stale())
        }
    }
}
