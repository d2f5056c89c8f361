//! The end of sessions: the person's own (RP-Initiated Logout 1.0), and what the login server tells (Back-Channel Logout 1.0).
use std::{rc::Rc, sync::Arc, time::Duration};

use edge::{
    Refusal,
    login::{self, Failed, field},
    session::{Rules, Sent, sent},
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use ledger::{ArtefactKind, Change, EventKind, NewEvent, Outcome, RevocationKind, Step, revocation::SPENT_KEPT_S};
use tokens::hash;

use super::{Sessions, count, page, place, row, row::Kept};
use crate::{asked::Asked, body::AnswerBody, worker::Worker};

/// The largest form, octets.
const MAX_FORM: usize = 64 * 1024;
/// How long a form may take.
const TIME: Duration = Duration::from_secs(10);

/// Serves the logout: a question, and what was answered.
pub(super) async fn serve(worker: &Rc<Worker>, sessions: &Arc<Sessions>, asked: &Asked<'_>, body: Incoming) -> Response<AnswerBody> {
    let failed = |code, why| page::failed(Failed::new(code, why), asked.headers);
    let Some(place) = place(asked) else { return failed("invalid_request", "no_tls") };
    match *asked.method {
        Method::GET => return page::confirm_logout(&sessions.settings().paths.logout),
        Method::POST => {}
        _ => return page::method("GET, POST"),
    }
    if !Rules::default().may_act(asked.method, asked.headers, place.scheme, place.host) {
        return failed("access_denied", "cross_site");
    }
    if form(body).await.is_none() {
        return failed("invalid_request", "form");
    }
    let cookie = sessions.cookie(&place);
    let mut answer = match sent(asked.headers, cookie.name()) {
        Sent::One(value) => match ended(sessions, value).await {
            Ok(Some(kept)) => {
                worker.seen.borrow_mut().forget(value);
                farewell(sessions, kept).await
            }
            Ok(None) => page::logged_out(),
            Err(_) => return failed("temporarily_unavailable", "session_storage"),
        },
        _ => page::logged_out(),
    };
    if let Some(line) = cookie.remove() {
        answer.headers_mut().append(header::SET_COOKIE, line);
    }
    answer
}

/// Ends the session of a cookie.
async fn ended(sessions: &Sessions, value: &str) -> Result<Option<Kept>, Refusal> {
    let Some((id, kept, _)) = sessions.find(value).await? else { return Ok(None) };
    sessions.end(&id, &kept, "logout").await?;
    Ok(Some(kept))
}

/// Where the person is led: the login server ends its own session, too.
async fn farewell(sessions: &Arc<Sessions>, kept: Kept) -> Response<AnswerBody> {
    let settings = sessions.settings();
    let known = sessions.server.provider(settings).await;
    let endpoint = known.ok().and_then(|provider| provider.end_session_endpoint.clone());
    let to = match (&endpoint, &settings.post_logout_redirect_uri) {
        (Some(endpoint), after) => {
            let mut parameters = vec![("id_token_hint", kept.id_token.as_str()), ("client_id", settings.client_id.as_str())];
            parameters.extend(after.as_deref().map(|uri| ("post_logout_redirect_uri", uri)));
            login::address(endpoint, &parameters)
        }
        (None, after) => after.clone(),
    };
    let own = Arc::clone(sessions);
    tokio::spawn(async move { own.revoke_tokens(&kept).await });
    match to.and_then(|to| HeaderValue::try_from(to).ok()) {
        Some(to) => {
            let mut answer = page::plain(StatusCode::SEE_OTHER);
            answer.headers_mut().insert(header::LOCATION, to);
            answer
        }
        None => page::logged_out(),
    }
}

/// Serves the back channel: the login server tells that sessions have ended.
pub(super) async fn backchannel(sessions: &Arc<Sessions>, asked: &Asked<'_>, body: Incoming) -> Response<AnswerBody> {
    if *asked.method != Method::POST {
        return page::method("POST");
    }
    match told(sessions, body).await {
        Ok(()) => {
            count("backchannel_logout");
            page::plain(StatusCode::OK)
        }
        Err(failed) => {
            tracing::warn!(target: "gateway", why = failed.why, peer = %asked.peer, "a logout was told that does not count");
            let status = if failed.code == "temporarily_unavailable" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
            page::not_logged_out(status)
        }
    }
}

async fn told(sessions: &Sessions, body: Incoming) -> Result<(), Failed> {
    let wrong = |why| Failed::new("invalid_request", why);
    let form = form(body).await.ok_or(wrong("form"))?;
    let token = field(&form, "logout_token").ok_or(wrong("no_logout_token"))?;
    let settings = sessions.settings();
    let logout = sessions.server.logout(settings, &token).await?;
    let now_ms = sessions.now_ms();
    let now = now_ms.div_euclid(1000);
    let once = hash::sha256(format!("logout\0{}\0{}", settings.issuer, logout.jti).as_bytes());
    let mut change = Change::new().step(Step::Put(row::artefact(
        ArtefactKind::Jti,
        &once,
        b"",
        "{}".into(),
        now,
        logout.until.max(now + 1).saturating_add(SPENT_KEPT_S),
    )));
    let mut event = NewEvent::new(EventKind::GatewayLogoutReceived, now_ms).client(&settings.client_id);
    // A session that is named is what ends; else all of the person's.
    let (kind, id) = match (&logout.sid, &logout.sub) {
        (Some(sid), _) => {
            event = event.session(sid);
            (RevocationKind::Session, sid)
        }
        (None, Some(sub)) => (RevocationKind::Subject, sub),
        (None, None) => return Err(wrong("logout_token_about_nobody")),
    };
    if let Some(sub) = &logout.sub {
        event = event.subject(sub);
    }
    change = change.revoke(kind, format!("{}|{id}", settings.issuer), now_ms, now.saturating_add(settings.lifetime));
    match sessions.parts.store.apply(change.event(event)).await {
        Ok(Outcome::Applied { .. }) => Ok(()),
        Ok(Outcome::Refused(_)) => Err(wrong("logout_token_replayed")),
        Err(error) => {
            tracing::warn!(target: "gateway", %error, "a logout could not be stored");
            Err(Failed::new("temporarily_unavailable", "session_storage"))
        }
    }
}

async fn form(body: Incoming) -> Option<Vec<u8>> {
    let whole = tokio::time::timeout(TIME, whole::read(body, MAX_FORM)).await.ok()?.ok()?;
    Some(whole.to_vec())
}
