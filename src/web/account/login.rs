//! The login page: who are you? Also the page that asks whether to go on as who you are (`prompt=select_account`).
use std::{net::IpAddr, sync::Arc};

use accounts::session::{self, Ending, Proof};
use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode, header::USER_AGENT};
use ledger::{Change, EventKind, NewEvent, Outcome, Session};
use protocol::{
    Code, acr,
    authorize::{Next, Params, Refusal, Request},
    client_auth::KnownClient,
};
use tokens::secret::Plain;

use super::{
    Posted, Source, ending,
    flow::Walk,
    interaction::{self, Open, Purpose},
    mfa, name_of,
    password::{self, Attempt},
};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    base: &'a str,
    client: Option<&'a Shown>,
    failed: bool,
    interaction: &'a str,
    csrf: &'a str,
    username: &'a str,
}

#[derive(Template)]
#[template(path = "choose.html")]
struct ChoosePage<'a> {
    base: &'a str,
    client: Option<&'a Shown>,
    interaction: &'a str,
    csrf: &'a str,
    person: &'a str,
}

/// The form of the page that asks whether to go on as who one is.
const CHOICE: &str = "choice";
/// How often a password is checked again when its account was changed meanwhile.
const TRIES: usize = 3;

/// `GET /login`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /login`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

/// What an interaction is about, loaded.
pub(super) enum Waiting {
    /// A client's request.
    Client(Box<Request>, Arc<KnownClient>),
    /// The account page.
    Account,
}

impl Waiting {
    pub(super) async fn load(app: &App, open: &Open) -> Result<Self, Refused> {
        match &open.interaction.purpose {
            Purpose::Account | Purpose::Device(_) | Purpose::Backchannel => Ok(Self::Account),
            Purpose::Authorize(pending) => {
                let known = app.catalog.client(&pending.client_id).await?.ok_or(Refused::stale())?;
                let request = pending.as_ref().clone().resume(Some(&known.client), &app.settings.issuer).ok_or(Refused::stale())?;
                Ok(Self::Client(Box::new(request), known))
            }
        }
    }
}

/// The request goes on from an open interaction.
pub(super) fn walk<'a>(
    app: &'a App,
    (browser, source): (&'a Browser, IpAddr),
    open: &'a Open,
    (request, known): (Request, Arc<KnownClient>),
    session: Option<Session>,
) -> Walk<'a> {
    let fresh = session.as_ref().is_some_and(|s| open.interaction.fresh.as_ref() == Some(&s.id));
    Walk {
        app,
        browser,
        source,
        client: Arc::clone(&known.client),
        registered: known.unchanged(),
        request,
        session,
        fresh,
        chosen: open.interaction.chosen,
        open: Some(open),
        change: Change::new(),
        at_once: false,
    }
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let session = browser.sign_on().await?;
    let Some(text) = params.one("interaction")? else {
        return if session.is_some() { Ok(account(app)) } else { begin(app, &browser, source).await };
    };
    let open = interaction::open(app, &browser, text).await?;
    let (request, client) = match Waiting::load(app, &open).await? {
        Waiting::Account if session.is_some() => return Ok(home(app, &open)),
        Waiting::Account => return Ok(login_page(app, &open, None, false)),
        Waiting::Client(request, client) => (*request, client),
    };
    let walk = walk(app, (&browser, source), &open, (request, client), session);
    let known = walk.remembered().await?;
    match walk.decide(&known) {
        Next::LogIn => Ok(login_page(app, &open, Some(&walk), false)),
        Next::Choose if params.one("switch")?.is_some() => Ok(login_page(app, &open, Some(&walk), false)),
        Next::Choose => choose_page(app, &open, &walk).await,
        _ => walk.go().await,
    }
}

/// Somebody came without a request: they want to see their account.
pub(super) async fn begin(app: &App, browser: &Browser, source: IpAddr) -> Result<Response, Refused> {
    begin_for(app, browser, source, Purpose::Account).await
}

/// Somebody has to log in before a page of ours.
pub(super) async fn begin_for(app: &App, browser: &Browser, source: IpAddr, purpose: Purpose) -> Result<Response, Refused> {
    interaction::admit(app, source).await?;
    let (binding, ticket) = browser.tie(app.clock.now() + app.settings.interaction_ttl).await?;
    let (step, text) = interaction::begin(app, &binding, purpose, None, false);
    let (change, cookie) = browser.seal(Change { steps: step.into_iter().collect(), events: Vec::new() }).await?;
    if change != Change::new() && !app.store.apply(change).await?.applied() {
        return Err(Refused::stale());
    }
    let location = format!("{}/login?interaction={}", pages::base(&app.settings.issuer), text.expose());
    Ok(pages::with_cookie(pages::with_cookie(pages::see_other(&location), cookie), ticket))
}

/// The page of ours that the login was for.
fn home(app: &App, open: &Open) -> Response {
    let base = pages::base(&app.settings.issuer);
    match &open.interaction.purpose {
        Purpose::Device(Some(code)) => pages::see_other(&format!("{base}/device?user_code={code}")),
        Purpose::Device(None) => pages::see_other(&format!("{base}/device")),
        Purpose::Backchannel => pages::see_other(&format!("{base}/ciba")),
        _ => account(app),
    }
}

fn account(app: &App) -> Response {
    pages::see_other(&format!("{}/account", pages::base(&app.settings.issuer)))
}

fn login_page(app: &App, open: &Open, walk: Option<&Walk<'_>>, failed: bool) -> Response {
    let client = walk.map(|w| Shown::of(&w.client));
    let template = LoginPage {
        base: pages::base(&app.settings.issuer),
        client: client.as_ref(),
        failed,
        interaction: &open.text,
        csrf: &open.csrf(app, "login", ""),
        // Not what was typed: a failed page is the same for every name.
        username: walk.and_then(|w| w.request.login_hint.as_deref()).unwrap_or_default(),
    };
    let allow = Allow::form(walk.map(|w| w.request.back.address.source())).picture_of(client.as_ref());
    pages::page(StatusCode::OK, &template, &allow)
}

async fn choose_page(app: &App, open: &Open, walk: &Walk<'_>) -> Result<Response, Refused> {
    let client = Shown::of(&walk.client);
    let Some(session) = &walk.session else { return Err(Refused::stale()) };
    let person = name_of(app, &session.subject).await?;
    let template = ChoosePage {
        base: pages::base(&app.settings.issuer),
        client: Some(&client),
        interaction: &open.text,
        csrf: &open.csrf(app, CHOICE, &session.id),
        person: &person,
    };
    let allow = Allow::form(Some(walk.request.back.address.source())).picture_of(Some(&client));
    Ok(pages::page(StatusCode::OK, &template, &allow))
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let params = posted.params?;
    let browser = Browser::of(app, headers);
    let open = interaction::open(app, &browser, params.one("interaction")?.unwrap_or_default()).await?;
    let waiting = Waiting::load(app, &open).await?;
    let (session, source, form) = (browser.sign_on().await?, posted.source, params.one("csrf")?);
    // The page that names an account is about its session: in another one its buttons do nothing.
    let choice = session.as_ref().is_some_and(|s| open.check(app, CHOICE, &s.id, form).is_ok());
    if !choice {
        open.check(app, "login", "", form)?;
    }
    match (params.one("action")?, waiting) {
        (Some("cancel"), Waiting::Account) if session.is_some() => Ok(home(app, &open)),
        (Some("cancel"), Waiting::Account) => super::super::oauth::logout::goodbye(app),
        (Some("cancel"), Waiting::Client(request, client)) => {
            let mut walk = walk(app, (&browser, source), &open, (*request, client), session);
            walk.change = denied(app, &walk);
            walk.refuse(Refusal::new(Code::AccessDenied, "the person cancelled the login")).await
        }
        (Some("switch"), Waiting::Client(..)) => {
            let location = format!("{}/login?interaction={}&switch=1", pages::base(&app.settings.issuer), open.text);
            Ok(pages::see_other(&location))
        }
        (Some("continue"), Waiting::Client(request, client)) if choice => {
            let mut walk = walk(app, (&browser, source), &open, (*request, client), session);
            walk.chosen = true;
            walk.go().await
        }
        (Some("continue"), _) => Err(Refused::foreign()),
        _ => prove(app, headers, source, &params, &open).await,
    }
}

/// Checks the password and lets the person in. Whoever changed, disabled or deleted the account while its password was checked decides:
/// it is checked again.
async fn prove(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params, open: &Open) -> Result<Response, Refused> {
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (username, address, amr) = (params.one("username")?.unwrap_or_default(), source.to_string(), acr::methods(false));
    let given = Plain::new(params.one("password")?.unwrap_or_default());
    for _ in 0..TRIES {
        let browser = Browser::of(app, headers);
        let (waiting, session) = (Waiting::load(app, open).await?, browser.sign_on().await?);
        let found = match password::attempt(app, username, given.clone(), source).await? {
            Attempt::Wrong => return Ok(again(app, (&browser, source), open, waiting, session)),
            Attempt::Right(found) => found,
        };
        if mfa::enrolled(app, &found.id).await? {
            return mfa::ask(app, &browser, open, &found).await;
        }
        let proof = Proof { subject: &found.id, version: found.version, amr: &amr, address: &address, agent };
        match enter(app, (&browser, source), open, waiting, session, &proof).await {
            Err(why) if why == Refused::changed() => {}
            entered => return entered,
        }
    }
    Err(Refused::changed())
}

/// The same page again, saying that it was wrong.
fn again(app: &App, at: (&Browser, IpAddr), open: &Open, waiting: Waiting, session: Option<Session>) -> Response {
    match waiting {
        Waiting::Account => login_page(app, open, None, true),
        Waiting::Client(request, client) => login_page(app, open, Some(&walk(app, at, open, (*request, client), session)), true),
    }
}

/// The person is who they say: the session begins or is renewed, the browser's cookie changes, and what waited goes on,
/// all in one transaction.
pub(super) async fn enter(
    app: &App,
    (browser, source): (&Browser, IpAddr),
    open: &Open,
    waiting: Waiting,
    before: Option<Session>,
    proof: &Proof<'_>,
) -> Result<Response, Refused> {
    let (now_ms, ttl) = (app.clock.now_ms(), app.settings.session_ttl);
    let (session, change) = match before.as_ref().and_then(|s| session::renew(s, proof, ttl, now_ms)) {
        Some(renewed) => renewed,
        None => {
            let (session, change) = session::start(proof, ttl, now_ms, app.entropy.as_ref());
            match &before {
                Some(before) => (session, change.and(ending(app, before, Ending::Replaced).await?)),
                None => (session, change),
            }
        }
    };
    browser.sign_in(&session).await?;
    match waiting {
        Waiting::Client(request, known) => {
            let waited = walk(app, (browser, source), open, (*request, known), Some(session));
            Walk { fresh: true, change, ..waited }.go().await
        }
        Waiting::Account => {
            let (change, cookie) = browser.seal(Change::new().step(open.consume(app)).and(change)).await?;
            match app.store.apply(change).await? {
                Outcome::Applied { .. } => Ok(pages::with_cookie(home(app, open), cookie)),
                // The first step is the form's: it was used.
                Outcome::Refused(guard) if guard.step == 0 => Err(Refused::stale()),
                Outcome::Refused(_) => Err(Refused::changed()),
            }
        }
    }
}

/// The event of a person who said no. A stranger who leaves the login page is no event.
pub(super) fn denied(app: &App, walk: &Walk<'_>) -> Change {
    let Some(session) = &walk.session else { return Change::new() };
    let event = NewEvent::new(EventKind::ConsentDenied, app.clock.now_ms());
    Change::new().event(event.client(&walk.client.client_id).subject(&session.subject).session(&session.id))
}
