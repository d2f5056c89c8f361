//! The account page: where a person is signed in, what they have allowed, and their password.
use std::{net::IpAddr, sync::Arc};

use accounts::{
    password::{self as rules, PasswordError},
    session::{self, Ending, Proof},
};
use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode, header::USER_AGENT};
use ledger::{Change, EventKind, NewEvent, Object, ObjectKind, RevocationKind, Session, Step};
use protocol::{Client, authorize::Params, logout};
use time::{OffsetDateTime, macros::format_description};
use tokens::secret::Plain;
use url::Url;

use super::{
    Posted, Source, ending, login, name_of,
    password::{self, Attempt},
};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

/// Rows shown of each kind.
const MOST: u32 = 100;
const FORM: &str = "account";

struct SessionRow {
    id: String,
    agent: String,
    address: Option<String>,
    since: String,
    current: bool,
}

struct GrantRow {
    id: String,
    client: String,
    /// Where it publishes its metadata, if it does.
    host: Option<String>,
    scope: String,
    since: String,
    /// Where a login at the client begins (OpenID Connect Core §4).
    start: Option<String>,
}

struct Notice {
    kind: &'static str,
    text: &'static str,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    base: &'a str,
    person: &'a str,
    csrf: &'a str,
    notice: Option<Notice>,
    sessions: &'a [SessionRow],
    grants: &'a [GrantRow],
}

/// `GET /account`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /account`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let Some(session) = browser.sign_on().await? else { return login::begin(app, &browser, source).await };
    let notice = params.one("done")?.map(|_| Notice { kind: "note", text: "Done." });
    account_page(app, &browser, &session, StatusCode::OK, notice).await
}

async fn account_page(
    app: &App,
    browser: &Browser,
    session: &Session,
    status: StatusCode,
    notice: Option<Notice>,
) -> Result<Response, Refused> {
    let binding = browser.binding().await?.ok_or(Refused::foreign())?;
    let sessions = app.store.sessions(Some(&session.subject), None, MOST).await?;
    let sessions: Vec<SessionRow> = sessions.items.into_iter().map(|s| session_row(s, &session.id)).collect();
    let mut grants = Vec::new();
    for grant in app.store.grants(Some(&session.subject), None, None, MOST).await?.items {
        let client = app.catalog.client(&grant.client_id).await?;
        let start = client.as_ref().and_then(|c| started_at(&c.client, &app.settings.issuer));
        let shown = client.map(|c| Shown::of(&c.client));
        let (client, host) = shown.map_or((grant.client_id, None), |shown| (shown.name, shown.host));
        grants.push(GrantRow { id: grant.id, client, host, scope: grant.scope, since: day(grant.created_at), start });
    }
    let template = AccountPage {
        base: pages::base(&app.settings.issuer),
        person: &name_of(app, &session.subject).await?,
        csrf: &csrf::token(&app.mac, &binding, FORM, &session.id),
        notice,
        sessions: &sessions,
        grants: &grants,
    };
    Ok(pages::page(status, &template, &Allow::form(None)))
}

/// A login that begins here and not at the client (OpenID Connect Core §4): its registered address with our issuer.
fn started_at(client: &Client, issuer: &str) -> Option<String> {
    let mut url = Url::parse(client.initiate_login_uri.as_deref().filter(|_| !client.disabled)?).ok().filter(|u| u.scheme() == "https")?;
    url.query_pairs_mut().append_pair("iss", issuer);
    Some(url.into())
}

fn session_row(session: Session, current: &str) -> SessionRow {
    let text = |name: &str| session.document.get(name).and_then(|v| v.as_str()).filter(|t| !t.is_empty()).map(str::to_owned);
    SessionRow {
        agent: text("agent").map_or_else(|| "A browser".to_owned(), |agent| browser_name(&agent)),
        address: text("address"),
        since: day(session.created_at),
        current: session.id == current,
        id: session.id,
    }
}

/// A name that people know for what a browser calls itself.
fn browser_name(agent: &str) -> String {
    const BROWSERS: [(&str, &str); 7] = [
        ("Edg", "Edge"),
        ("OPR", "Opera"),
        ("Firefox", "Firefox"),
        ("HeadlessChrome", "Chrome"),
        ("Chromium", "Chromium"),
        ("Chrome", "Chrome"),
        ("Safari", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 6] =
        [("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS", "macOS"), ("Linux", "Linux")];
    let known = |names: &[(&str, &'static str)]| names.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name);
    match (known(&BROWSERS), known(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        _ => agent.chars().take(40).collect(),
    }
}

fn day(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|at| at.format(format).ok()).unwrap_or_default()
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let params = posted.params?;
    let browser = Browser::of(app, headers);
    let (Some(session), Some(binding)) = (browser.sign_on().await?, browser.binding().await?) else { return Err(Refused::foreign()) };
    let form = params.one("csrf")?.unwrap_or_default();
    if !csrf::matches(&app.mac, &binding, FORM, &session.id, form) {
        return Err(Refused::foreign());
    }
    match params.one("action")? {
        Some("end-session") => end_session(app, &browser, &session, params.one("session")?.unwrap_or_default()).await,
        Some("end-grant") => end_grant(app, &session, params.one("grant")?.unwrap_or_default()).await,
        Some("password") => change_password(app, (&browser, &session), posted.source, headers, &params).await,
        _ => Err(Refused::request("The form was not filled in.")),
    }
}

fn done(app: &App) -> Response {
    pages::see_other(&format!("{}/account?done=1", pages::base(&app.settings.issuer)))
}

/// Ends one of the person's own sessions; the present one is a logout.
async fn end_session(app: &App, browser: &Browser, session: &Session, id: &str) -> Result<Response, Refused> {
    let target = app.store.session(id).await?.filter(|s| s.subject == session.subject).ok_or(Refused::request("No such session."))?;
    if target.ended_at.is_some() {
        return Ok(done(app));
    }
    if target.id == session.id {
        browser.sign_out().await?;
    }
    let change = ending(app, &target, Ending::Logout).await?;
    let (change, cookie) = browser.seal(change).await?;
    app.store.apply(change).await?;
    Ok(pages::with_cookie(done(app), cookie))
}

/// Takes back what the person gave a client: the grant ends, and the client has to ask again.
async fn end_grant(app: &App, session: &Session, id: &str) -> Result<Response, Refused> {
    let grant = app.store.grant(id).await?.filter(|g| g.subject == session.subject).ok_or(Refused::request("No such grant."))?;
    if grant.ended_at.is_none() {
        let forget = Step::ForgetConsents { subject: grant.subject.clone(), client_id: Some(grant.client_id.clone()) };
        app.store.apply(logout::end_grant(&grant, app.clock.now_ms()).step(forget)).await?;
    }
    Ok(done(app))
}

/// Sets a new password after the old one was proved. Every session and grant of the person ends; this browser gets a new session.
async fn change_password(
    app: &App,
    (browser, session): (&Browser, &Session),
    address: IpAddr,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, Refused> {
    let old = Plain::new(params.one("old_password")?.unwrap_or_default());
    let new = Plain::new(params.one("new_password")?.unwrap_or_default());
    let alert = |text| Some(Notice { kind: "alert", text });
    let text = match rules::acceptable(new.expose()) {
        Err(PasswordError::TooShort) => "A new password needs at least 8 characters.",
        Err(_) => "A new password may have at most 128 characters.",
        Ok(()) => "",
    };
    if !text.is_empty() {
        return account_page(app, browser, session, StatusCode::UNPROCESSABLE_ENTITY, alert(text)).await;
    }
    let username = name_of(app, &session.subject).await?;
    let account = match password::attempt(app, &username, old, address).await? {
        Attempt::Right(account) if account.id == session.subject => account,
        _ => return account_page(app, browser, session, StatusCode::FORBIDDEN, alert("The present password is not right.")).await,
    };
    let entropy = Arc::clone(&app.entropy);
    let hashed = app.hashing.run(address, move || rules::hash(new.expose(), entropy.as_ref())).await?;
    let Ok(hashed) = hashed else { return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Try again.")) };
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let address = address.to_string();
    // The change itself makes the account the next version.
    let proof = Proof { subject: &account.id, version: account.version + 1, amr: &session.amr, address: &address, agent };
    let (next, change) = replaced(app, &account, &proof, hashed);
    browser.sign_in(&next).await?;
    let (change, cookie) = browser.seal(change).await?;
    if !app.store.apply(change).await?.applied() {
        return Err(Refused::changed());
    }
    Ok(pages::with_cookie(done(app), cookie))
}

/// The change that sets a password: everything of the person so far ends, then a session begins. The account becomes another version, so
/// that no login goes on that proved the old password.
fn replaced(app: &App, account: &Object, proof: &Proof<'_>, hashed: String) -> (Session, Change) {
    let now_ms = app.clock.now_ms();
    let now = now_ms.div_euclid(1000);
    let subject = proof.subject.to_owned();
    let (next, begun) = session::start(proof, app.settings.session_ttl, now_ms, app.entropy.as_ref());
    let event = |kind| NewEvent::new(kind, now_ms).subject(&subject);
    let change = Change::new()
        .step(Step::ReplaceObject {
            kind: ObjectKind::User,
            id: subject.clone(),
            key: account.key.clone(),
            document: account.document.clone(),
            version: account.version,
            now,
        })
        .step(Step::PutSecret { kind: ObjectKind::User, id: subject.clone(), slot: "password".to_owned(), value: hashed.into_bytes() })
        .step(Step::EndSessionsOf { subject: subject.clone(), now })
        .step(Step::EndGrantsOf { subject: Some(subject.clone()), client_id: None, now })
        .revoke(RevocationKind::Subject, &subject, now_ms, now + logout::REMEMBER)
        .event(
            event(EventKind::PasswordChanged).with("object", ObjectKind::User.as_str()).with("id", subject.as_str()).with("by", "person"),
        )
        .event(event(EventKind::SubjectRevoked).with("reason", "password changed"));
    (next, change.and(begun))
}
