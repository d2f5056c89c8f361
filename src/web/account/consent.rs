//! The consent page: may this client have that?
use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use ledger::Session;
use protocol::{
    Code, ResourceServer,
    authorize::{Next, Params, Refusal, claims, details},
    consent,
};

use super::{
    Posted, Source,
    flow::Walk,
    interaction::{self, Open},
    login::{Waiting, denied, walk},
    name_of,
};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

/// The form of the page.
pub(super) const FORM: &str = "consent";

/// A scope on the page.
struct Line {
    name: String,
    text: String,
    /// It cannot be unchecked.
    fixed: bool,
}

#[derive(Template)]
#[template(path = "consent.html")]
struct ConsentPage<'a> {
    base: &'a str,
    client: &'a Shown,
    person: &'a str,
    interaction: &'a str,
    csrf: &'a str,
    scopes: &'a [Line],
    claims: &'a [String],
    details: &'a [(String, Vec<String>)],
    destination: &'a str,
}

/// `GET /consent`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /consent`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

/// The request behind an interaction; the account page needs nobody's consent.
async fn waiting<'a>(app: &'a App, browser: &'a Browser, source: IpAddr, open: &'a Open) -> Result<Walk<'a>, Refused> {
    match Waiting::load(app, open).await? {
        Waiting::Client(request, client) => Ok(walk(app, (browser, source), open, (*request, client), browser.sign_on().await?)),
        Waiting::Account => Err(Refused::stale()),
    }
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let open = interaction::open(app, &browser, params.one("interaction")?.unwrap_or_default()).await?;
    let walk = waiting(app, &browser, source, &open).await?;
    let known = walk.remembered().await?;
    match (walk.decide(&known), walk.session.clone()) {
        (Next::Ask, Some(session)) => page(app, (&open.text, &open.csrf(app, FORM, &session.id)), &walk, &session).await,
        _ => walk.go().await,
    }
}

/// The page, with its form's hidden fields.
pub(super) async fn page(app: &App, (interaction, csrf): (&str, &str), walk: &Walk<'_>, session: &Session) -> Result<Response, Refused> {
    let server = app.catalog.resource_server(&walk.request.resource).await?;
    let scopes: Vec<Line> = walk
        .request
        .scope
        .iter()
        .map(|name| Line { name: name.clone(), text: describe(name, server.as_deref()), fixed: name == "openid" })
        .collect();
    let (client, person) = (Shown::of(&walk.client), name_of(app, &session.subject).await?);
    let claims: Vec<String> = claims::names(walk.request.claims.as_ref()).iter().map(|c| c.replace('_', " ")).collect();
    let destination = walk.request.back.address.as_str().split('?').next().unwrap_or_default();
    let template = ConsentPage {
        base: pages::base(&app.settings.issuer),
        client: &client,
        person: &person,
        interaction,
        csrf,
        scopes: &scopes,
        claims: &claims,
        details: &details::shown(walk.request.details.as_ref()),
        destination,
    };
    let allow = Allow::form(Some(walk.request.back.address.source())).picture_of(Some(&client));
    Ok(pages::page(StatusCode::OK, &template, &allow))
}

/// What a scope means, in words.
pub(super) fn describe(name: &str, server: Option<&ResourceServer>) -> String {
    let standard = match name {
        "openid" => "Know who you are",
        "profile" => "See your profile: name, picture and the like",
        "email" => "See your e-mail address",
        "address" => "See your postal address",
        "phone" => "See your telephone number",
        "offline_access" => "Keep its access when you are away",
        _ => "",
    };
    if !standard.is_empty() {
        return standard.to_owned();
    }
    let own = server.and_then(|s| s.scopes.iter().find(|e| e.name == name)?.description.clone());
    match (own, server) {
        (Some(text), _) => text,
        (None, Some(server)) if !server.name.is_empty() => format!("{name} ({})", server.name),
        (None, _) => name.to_owned(),
    }
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let params = posted.params?;
    let browser = Browser::of(app, headers);
    // Whatever it leads to uses it up, or shows a page that looks.
    let open = interaction::presented(app, &browser, params.one("interaction")?.unwrap_or_default()).await?;
    let mut walk = waiting(app, &browser, posted.source, &open).await?;
    let Some(session) = walk.session.clone() else { return walk.go().await };
    open.check(app, FORM, &session.id, params.one("csrf")?)?;
    let refusal = Refusal::new(Code::AccessDenied, "the person did not allow it");
    let given = match params.one("decision")? {
        // The first button is what a browser presses when somebody just hits return.
        Some("approve") | None => consent::given(&walk.request, |scope| params.one(&format!("scope-{scope}")).is_ok_and(|v| v.is_some())),
        Some("deny") => None,
        _ => return Err(Refused::request("The form was not filled in.")),
    };
    let Some(given) = given else {
        walk.change = denied(app, &walk);
        return walk.refuse(refusal).await;
    };
    let mut known = walk.remembered().await?;
    // Of a client of our own nothing was read: nobody is asked for it.
    if known.consent.is_none() && walk.client.first_party {
        known.consent = app.store.consent(&session.subject, &walk.client.client_id).await?;
    }
    match walk.decide(&known) {
        Next::Ask | Next::Issue => {
            let remembered = consent::remember(&walk.request, &session.subject, &given, known.consent.as_ref(), app.clock.now());
            walk.issue(&given, Some(remembered)).await
        }
        _ => walk.go().await,
    }
}
