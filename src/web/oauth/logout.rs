//! The end-session endpoint (OpenID Connect RP-Initiated Logout 1.0).
use std::sync::Arc;

use accounts::session::Ending;
use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use ledger::Session;
use protocol::{
    authorize::{
        Params,
        hint::{self, Hint},
    },
    backchannel_logout::Participant,
    frontchannel_logout::{self, Frame},
    logout::{self, Asked, Farewell, Next},
    pairwise,
};

use crate::{
    App,
    account::{Posted, ending, name_of},
    csrf,
    pages::{self, Allow, Refused},
    sessions::Browser,
};

const FORM: &str = "logout";

#[derive(Template)]
#[template(path = "logout.html")]
struct LogoutPage<'a> {
    base: &'a str,
    person: &'a str,
    csrf: &'a str,
    fields: &'a [(&'static str, &'a str)],
}

#[derive(Template)]
#[template(path = "logged_out.html")]
struct LoggedOutPage<'a> {
    base: &'a str,
}

#[derive(Template)]
#[template(path = "parting.html")]
struct PartingPage<'a> {
    base: &'a str,
    next: Option<&'a str>,
    seconds: u8,
    frames: &'a [Frame],
}

/// Frames on one page.
const MOST_FRAMES: u32 = 50;
/// Seconds they have before the person is sent on.
const FRAMES_TIME: u8 = 2;

/// `GET /logout`: asks, unless an ID token of the present session says who wants it.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let params = Params::parse(&query.unwrap_or_default());
    let browser = Browser::of(&app, &headers);
    pages::finish(&app, leave(&app, &browser, &params, false).await)
}

/// `POST /logout`: our own page's answer, or a client that posts its request.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    let params = posted.params?;
    let ours = params.one("csrf")?.is_some();
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        // A client's own form: the request is carried over to a GET, which asks the person.
        let theirs = !ours && params.one("id_token_hint")?.is_some();
        return if theirs { Ok(pages::carry_over(app, "/logout", &params)) } else { Err(Refused::foreign()) };
    }
    let browser = Browser::of(app, headers);
    if !ours {
        return if params.one("action")?.is_some() { Err(Refused::foreign()) } else { leave(app, &browser, &params, false).await };
    }
    let (session, binding) = (browser.sign_on().await?, browser.binding().await?);
    let Some(session) = session else { return leave(app, &browser, &params, false).await };
    let form = params.one("csrf")?.unwrap_or_default();
    if !binding.is_some_and(|b| csrf::matches(&app.mac, &b, FORM, &session.id, form)) {
        return Err(Refused::foreign());
    }
    match params.one("action")? {
        Some("cancel") => Ok(pages::see_other(&format!("{}/account", pages::base(&app.settings.issuer)))),
        _ => leave(app, &browser, &params, true).await,
    }
}

async fn leave(app: &App, browser: &Browser, params: &Params, confirmed: bool) -> Result<Response, Refused> {
    let asked = Asked::read(params)?;
    let hint = {
        let ring = app.keys.load();
        asked.hint.as_deref().and_then(|text| hint::believe(text, &app.settings.issuer, ring.keys()))
    };
    let known = match asked.client(hint.as_ref()) {
        Some(id) => app.catalog.client(id).await?,
        None => None,
    };
    let session = browser.sign_on().await?;
    let client = known.as_ref().map(|k| k.client.as_ref());
    // The client's own name of the person becomes the person (Core §8.1).
    let hint = hint.map(|h| match (client, &session) {
        (Some(c), Some(s)) if pairwise::is(c, &h.subject, &s.subject, &app.mac) => Hint { subject: s.subject.clone(), ..h },
        _ => h,
    });
    match (logout::next(&asked, hint.as_ref(), client, session.as_ref(), confirmed)?, session) {
        (Next::Confirm(farewell), Some(session)) => confirm_page(app, browser, &session, &asked, farewell.as_ref()).await,
        (Next::End(farewell), Some(session)) => {
            let frames = frames(app, &session).await?;
            let change = ending(app, &session, Ending::Logout).await?;
            browser.sign_out().await?;
            let (change, cookie) = browser.seal(change).await?;
            app.store.apply(change).await?;
            let gone = if frames.is_empty() { part(app, farewell.as_ref())? } else { parting(app, farewell.as_ref(), &frames) };
            Ok(pages::with_cookie(gone, cookie))
        }
        (Next::Confirm(farewell) | Next::End(farewell) | Next::Done(farewell), _) => part(app, farewell.as_ref()),
    }
}

async fn confirm_page(
    app: &App,
    browser: &Browser,
    session: &Session,
    asked: &Asked,
    farewell: Option<&Farewell>,
) -> Result<Response, Refused> {
    let binding = browser.binding().await?.ok_or(Refused::foreign())?;
    let given = [
        ("id_token_hint", &asked.hint),
        ("client_id", &asked.client_id),
        ("post_logout_redirect_uri", &asked.uri),
        ("state", &asked.state),
    ];
    let fields: Vec<(&'static str, &str)> = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let template = LogoutPage {
        base: pages::base(&app.settings.issuer),
        person: &name_of(app, &session.subject).await?,
        csrf: &csrf::token(&app.mac, &binding, FORM, &session.id),
        fields: &fields,
    };
    Ok(pages::page(StatusCode::OK, &template, &Allow::form(farewell.map(Farewell::source))))
}

/// The pages of the clients of a session that want to be told through the browser (OpenID Connect Front-Channel Logout 1.0).
async fn frames(app: &App, session: &Session) -> Result<Vec<Frame>, Refused> {
    let mut frames = Vec::new();
    for row in app.store.participants(&session.id, MOST_FRAMES).await? {
        let Ok(participant) = serde_json::from_str::<Participant>(&row.document) else { continue };
        let known = app.catalog.client(&participant.client_id).await?;
        frames.extend(known.and_then(|k| frontchannel_logout::frame(&k.client, &app.settings.issuer, &session.id)));
    }
    Ok(frames)
}

/// The page that loads them, and then goes on to where the client wants the person.
fn parting(app: &App, farewell: Option<&Farewell>, frames: &[Frame]) -> Response {
    let next = farewell.map(Farewell::location);
    let template = PartingPage { base: pages::base(&app.settings.issuer), next: next.as_deref(), seconds: FRAMES_TIME, frames };
    let mut origins: Vec<String> = frames.iter().map(|f| f.origin.clone()).collect();
    origins.sort_unstable();
    origins.dedup();
    pages::page(StatusCode::OK, &template, &Allow::frames(origins))
}

/// Back to the client, or the page that says that it is over.
fn part(app: &App, farewell: Option<&Farewell>) -> Result<Response, Refused> {
    match farewell {
        Some(farewell) => Ok(pages::see_other(&farewell.location())),
        None => goodbye(app),
    }
}

/// The page that says that nobody is signed in on this browser.
///
/// # Errors
/// Never.
pub fn goodbye(app: &App) -> Result<Response, Refused> {
    Ok(pages::page(StatusCode::OK, &LoggedOutPage { base: pages::base(&app.settings.issuer) }, &Allow::nothing()))
}
