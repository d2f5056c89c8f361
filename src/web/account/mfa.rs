//! The second factor: after the password at each login of a person who has one, or alone where a client wants more than the session
//! offers (RFC 6238, RFC 9470).
use std::net::IpAddr;
use std::sync::Arc;

use accounts::{
    User,
    session::{self, Proof},
    throttle,
    totp::{self, SLOT, Secret},
};
use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use edge::limit::Quota;
use http::{HeaderMap, StatusCode, header::USER_AGENT};
use ledger::{Change, EventKind, NewEvent, Object, ObjectKind, Session, StoreError};
use protocol::{
    Code, acr,
    authorize::{Next, Params, Refusal},
};

use super::{
    Posted, Source,
    flow::Walk,
    interaction::{self, Open, Proved},
    login::{self, Waiting, denied, walk},
    password::{admitted, quota},
};
use crate::{
    App, csrf,
    pages::{self, Allow, Refused, Shown},
    sessions::Browser,
};

const FORM: &str = "mfa";
/// Seconds in which the second factor has to follow the password.
const PATIENCE: i64 = 300;
/// Wrong codes of one account from everywhere. Whoever guesses here knows the password already; more than any one source may make
/// ([`throttle::SECOND`]), so that none of them locks the person out.
const ACCOUNT: Quota = Quota { rate: 150, period_s: 3600, burst: 200 };

#[derive(Template)]
#[template(path = "mfa.html")]
struct MfaPage<'a> {
    base: &'a str,
    client: Option<&'a Shown>,
    failed: bool,
    interaction: &'a str,
    csrf: &'a str,
}

/// Whether a person has a second factor.
///
/// # Errors
/// Storage is away.
pub(super) async fn enrolled(app: &App, subject: &str) -> Result<bool, StoreError> {
    Ok(app.store.secret(ObjectKind::User, subject, SLOT).await?.is_some())
}

/// The password was right: on to the second factor. No session begins before it.
pub(super) async fn ask(app: &App, browser: &Browser, open: &Open, account: &Object) -> Result<Response, Refused> {
    let proved = Proved { subject: account.id.clone(), version: account.version, at: app.clock.now() };
    let (step, text) = open.proved(app, proved);
    let mut change = Change::new().step(open.consume(app));
    change.steps.extend(step);
    let (change, cookie) = browser.seal(change).await?;
    if !app.store.apply(change).await?.applied() {
        return Err(Refused::stale());
    }
    let location = format!("{}/mfa?interaction={}", pages::base(&app.settings.issuer), text.expose());
    Ok(pages::with_cookie(pages::see_other(&location), cookie))
}

/// `GET /mfa`.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap, from: Source, RawQuery(query): RawQuery) -> Response {
    pages::finish(&app, show(&app, &headers, from.0, &Params::parse(&query.unwrap_or_default())).await)
}

/// `POST /mfa`.
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, posted: Posted) -> Response {
    pages::finish(&app, act(&app, &headers, posted).await)
}

/// Whose second factor is asked for, and why.
enum Asked {
    /// The password was just proved.
    AtLogin(Proved),
    /// A client wants more than the session offers.
    StepUp(Session),
}

impl Asked {
    fn subject(&self) -> &str {
        match self {
            Self::AtLogin(proved) => &proved.subject,
            Self::StepUp(session) => &session.subject,
        }
    }
    /// What the form is about.
    fn about(&self) -> String {
        match self {
            Self::AtLogin(proved) => format!("password\0{}", proved.subject),
            Self::StepUp(session) => format!("session\0{}", session.id),
        }
    }
}

/// Whose second factor an interaction waits for; `None` if it waits for something else.
async fn asked(app: &App, open: &Open, walk: Option<&Walk<'_>>) -> Result<Option<Asked>, Refused> {
    if let Some(proved) = &open.interaction.proved {
        let in_time = app.clock.now() - proved.at <= PATIENCE;
        return Ok(in_time.then(|| Asked::AtLogin(proved.clone())));
    }
    let Some((walk, session)) = walk.and_then(|w| Some((w, w.session.clone()?))) else { return Ok(None) };
    let known = walk.remembered().await?;
    Ok((walk.decide(&known) == Next::StepUp).then_some(Asked::StepUp(session)))
}

async fn show(app: &App, headers: &HeaderMap, source: IpAddr, params: &Params) -> Result<Response, Refused> {
    let browser = Browser::of(app, headers);
    let open = interaction::open(app, &browser, params.one("interaction")?.unwrap_or_default()).await?;
    let walk = match Waiting::load(app, &open).await? {
        Waiting::Client(request, client) => Some(walk(app, (&browser, source), &open, (*request, client), browser.sign_on().await?)),
        Waiting::Account => None,
    };
    match (asked(app, &open, walk.as_ref()).await?, walk) {
        (Some(asked), walk) => Ok(page(app, &open, walk.as_ref(), &asked, false)),
        (None, Some(walk)) if open.interaction.proved.is_none() => walk.go().await,
        // Too late, or never proved: from the beginning.
        (None, _) => Ok(pages::see_other(&format!("{}/login?interaction={}", pages::base(&app.settings.issuer), open.text))),
    }
}

fn page(app: &App, open: &Open, walk: Option<&Walk<'_>>, asked: &Asked, failed: bool) -> Response {
    let client = walk.map(|w| Shown::of(&w.client));
    let template = MfaPage {
        base: pages::base(&app.settings.issuer),
        client: client.as_ref(),
        failed,
        interaction: &open.text,
        csrf: &open.csrf(app, FORM, &asked.about()),
    };
    let allow = Allow::form(walk.map(|w| w.request.back.address.source())).picture_of(client.as_ref());
    pages::page(StatusCode::OK, &template, &allow)
}

async fn act(app: &App, headers: &HeaderMap, posted: Posted) -> Result<Response, Refused> {
    if csrf::is_cross_site(headers, &app.settings.issuer) {
        return Err(Refused::foreign());
    }
    let (params, source, browser) = (posted.params?, posted.source, Browser::of(app, headers));
    let open = interaction::open(app, &browser, params.one("interaction")?.unwrap_or_default()).await?;
    let before = browser.sign_on().await?;
    let mut walk = match Waiting::load(app, &open).await? {
        Waiting::Client(request, client) => Some(walk(app, (&browser, source), &open, (*request, client), before.clone())),
        Waiting::Account => None,
    };
    let asked = asked(app, &open, walk.as_ref()).await?.ok_or(Refused::stale())?;
    open.check(app, FORM, &asked.about(), params.one("csrf")?)?;
    if params.one("action")? == Some("cancel") {
        return match walk.take() {
            Some(mut walk) => {
                walk.change = denied(app, &walk);
                walk.refuse(Refusal::new(Code::AccessDenied, "the person cancelled the login")).await
            }
            None => crate::oauth::logout::goodbye(app),
        };
    }
    if !verified(app, asked.subject(), params.one("otp")?.unwrap_or_default(), source).await? {
        return Ok(page(app, &open, walk.as_ref(), &asked, true));
    }
    let (amr, address) = (acr::methods(true), source.to_string());
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let proof = |subject, version| Proof { subject, version, amr: &amr, address: &address, agent };
    match (asked, walk) {
        (Asked::AtLogin(proved), _) => {
            let waiting = Waiting::load(app, &open).await?;
            login::enter(app, (&browser, source), &open, waiting, before, &proof(&proved.subject, proved.version)).await
        }
        (Asked::StepUp(session), Some(walk)) => {
            let account = app.store.object(ObjectKind::User, &session.subject).await?.ok_or(Refused::stale())?;
            if serde_json::from_value::<User>(account.document).map_or(true, |user| user.disabled) {
                return Err(Refused::changed());
            }
            let stronger = session::strengthen(&session, &proof(&session.subject, account.version), app.clock.now_ms());
            let (session, change) = stronger.ok_or(Refused::stale())?;
            browser.sign_in(&session).await?;
            Walk { session: Some(session), change, ..walk }.go().await
        }
        (Asked::StepUp(_), None) => Err(Refused::stale()),
    }
}

/// Checks a code and burns it. A failure is counted and told; wrong, late, used before and never enrolled are one answer.
async fn verified(app: &App, subject: &str, code: &str, address: IpAddr) -> Result<bool, Refused> {
    let (now_ms, counters) = (app.clock.now_ms(), throttle::Counters::second(subject, address));
    admitted(app, &counters, address).await?;
    // Each try is counted before it is looked at: many at once are many.
    let everywhere = format!("login:second:{}", tokens::hash::left_half(subject));
    for (key, quota) in [(&everywhere, ACCOUNT), (&counters.pair, quota(counters.limit))] {
        let verdict = app.counters.hit(key, &quota, 1, now_ms).await;
        if !verdict.allowed {
            metrics::counter!("logins_total", "outcome" => "throttled").increment(1);
            return Err(Refused::limited(verdict.retry_after_s(), ("login", quota)));
        }
    }
    let sealed = app.store.secret(ObjectKind::User, subject, SLOT).await?;
    let secret = sealed.and_then(|s| Secret::open(&s, subject, &app.mac));
    let step = secret.and_then(|s| Some((s.step_of(code, app.clock.now())?, s)));
    let right = match &step {
        Some((step, secret)) => app.store.apply(Change::new().step(totp::burn(subject, secret, *step, app.clock.now()))).await?.applied(),
        None => false,
    };
    if right {
        // This one was no failure; those before it stay.
        app.counters.refund(&counters.pair, &quota(counters.limit), 1).await;
        app.counters.clear(&everywhere).await;
        metrics::counter!("second_factors_total", "outcome" => "succeeded").increment(1);
        return Ok(true);
    }
    app.counters.hit(&counters.source, &quota(throttle::SOURCE), 1, now_ms).await;
    let reason = if step.is_some() { "otp used before" } else { "otp" };
    let event = NewEvent::new(EventKind::LoginFailed, now_ms).subject(subject).with("reason", reason).with("address", address.to_string());
    app.summaries.tell(app, event).await?;
    metrics::counter!("second_factors_total", "outcome" => "failed").increment(1);
    Ok(false)
}
