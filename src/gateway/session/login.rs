//! A browser without a session is sent to log in (OpenID Connect Core §3.1.2.1), by a pushed request where the login server takes those
//! (RFC 9126). Each login belongs to the browser that began it, works once and not for long.
use std::{net::IpAddr, sync::Arc};

use edge::{
    Quota, Refusal,
    admission::{Access, Guard},
    credentials::{self, Presented},
    login::{self, Failed, Request, return_address},
    session::{Sent, sent},
    table::Entry,
};
use http::{HeaderValue, Response, StatusCode, header};
use ledger::{ArtefactKind, Change, Step};
use serde::{Deserialize, Serialize};
use tokens::{
    b64, id,
    secret::{self, SecretKind},
};

use super::{Place, Sessions, count, issuer::Denied, page, place, row};
use crate::{asked::Asked, body::AnswerBody, worker::Worker};

/// Seconds a person has to log in.
pub(super) const PATIENCE_S: i64 = 600;
/// Logins one browser may begin: more of them lead nowhere, and would go on for ever.
const OF_A_BROWSER: Quota = Quota::per(12, 60);
/// Octets of a binding's randomness.
const BINDING: usize = 32;

/// What is kept of a login until the browser comes back.
#[derive(Serialize, Deserialize)]
pub(super) struct Begun {
    pub verifier: String,
    pub nonce: String,
    /// The MAC of the browser's cookie.
    pub binding: String,
    pub redirect_uri: String,
    /// Where the person wanted to go.
    pub back: String,
    pub max_age: Option<i64>,
}

impl Sessions {
    /// The MAC of a browser's binding.
    pub(super) fn bound(&self, binding: &str) -> String {
        b64::encode(&self.mac.mac("login", binding.as_bytes()))
    }
}

/// What a browser is answered instead of a refusal: the way to the login. Nothing where that would not help.
///
/// # Errors
/// 429 for a source that begins too many, 503 where the login server or storage is away.
pub(crate) async fn instead(
    worker: &Worker,
    entry: &Entry,
    asked: &Asked<'_>,
    refusal: Refusal,
) -> Result<Option<Response<AnswerBody>>, Refusal> {
    let Some(sessions) = &worker.gateway.parts().sessions else { return Ok(None) };
    let Access::Guarded(guard) = &entry.access else { return Ok(None) };
    if !guard.accepts.session || !matches!(refusal, Refusal::Missing | Refusal::Invalid(_) | Refusal::StepUp(..)) {
        return Ok(None);
    }
    let other = !matches!(credentials::presented(asked.headers, asked.query, false), Ok(Presented::Nothing));
    if other || !login::navigates(asked.method, asked.headers) {
        return Ok(None);
    }
    let Some(place) = place(asked) else { return Ok(None) };
    let source = edge::forwarded::source(asked.peer, asked.headers, |ip| worker.gateway.trusted_peer(ip)).unwrap_or(asked.peer);
    Box::pin(begin(sessions, guard, asked, &place, source)).await.map(Some)
}

async fn begin(
    sessions: &Arc<Sessions>,
    guard: &Guard,
    asked: &Asked<'_>,
    place: &Place<'_>,
    source: IpAddr,
) -> Result<Response<AnswerBody>, Refusal> {
    let parts = &sessions.parts;
    let now_ms = sessions.now_ms();
    let counted = parts
        .counters
        .hit(&format!("gateway_login:{}", crate::limit::source(source)), &Quota::per(sessions.settings().logins_per_minute, 60), 1, now_ms)
        .await;
    if !counted.allowed {
        return Err(Refusal::Limited(counted));
    }
    let cookie = sessions.binding(place);
    let binding = match sent(asked.headers, cookie.name()) {
        Sent::One(value) if b64::decode(value).is_some_and(|octets| octets.len() == BINDING) => value.to_owned(),
        _ => id::random_text(&*parts.entropy, BINDING),
    };
    let bound = sessions.bound(&binding);
    if !parts.counters.hit(&format!("gateway_browser:{bound}"), &OF_A_BROWSER, 1, now_ms).await.allowed {
        return Ok(page::failed(Failed::new("slow_down", "login_leads_nowhere"), asked.headers));
    }
    let state = secret::generate(SecretKind::Login, now_ms, &*parts.entropy, &sessions.mac);
    let begun = Begun {
        verifier: id::random_text(&*parts.entropy, 32),
        nonce: id::random_text(&*parts.entropy, 32),
        binding: bound,
        redirect_uri: sessions.redirect_uri(place),
        back: return_address(asked.path, asked.query),
        max_age: guard.step_up.max_age,
    };
    let to = match address(sessions, guard, &begun, state.plain.expose()).await {
        Ok(to) => to,
        Err(Denied::Away) => return Err(Refusal::Undecided("login_server")),
        Err(denied) => return Ok(page::failed(denied.into(), asked.headers)),
    };
    let kind = ArtefactKind::Login;
    let document = row::seal(&parts.kek, kind, &state.id, &begun, &*parts.entropy).ok_or(Refusal::Undecided("session_storage"))?;
    let now = now_ms.div_euclid(1000);
    let row = row::artefact(kind, &state.id, &state.mac, document, now, now + PATIENCE_S);
    let stored = parts.store.apply(Change::new().step(Step::Put(row))).await;
    if !stored.is_ok_and(ledger::Outcome::applied) {
        return Err(Refusal::Undecided("session_storage"));
    }
    count("login_begun");
    let to = HeaderValue::try_from(to).map_err(|_| Refusal::Undecided("login_server"))?;
    let mut answer = page::plain(StatusCode::FOUND);
    answer.headers_mut().insert(header::LOCATION, to);
    if let Some(line) = cookie.set(&binding, Some(PATIENCE_S)) {
        answer.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(answer)
}

/// Where the browser is sent.
async fn address(sessions: &Sessions, guard: &Guard, begun: &Begun, state: &str) -> Result<String, Denied> {
    let settings = sessions.settings();
    let provider = sessions.server.provider(settings).await?;
    let request = Request {
        client_id: &settings.client_id,
        redirect_uri: &begun.redirect_uri,
        scope: &settings.scope,
        state,
        nonce: &begun.nonce,
        verifier: &begun.verifier,
        resource: settings.resource.as_deref(),
        acr_values: &guard.step_up.acr_values,
        max_age: begun.max_age,
    };
    let parameters = request.parameters();
    let endpoint = &provider.authorization_endpoint;
    let to = match &provider.par_endpoint {
        Some(par) => {
            let pushed = sessions.server.push(settings, &provider, par, &parameters).await?;
            login::address(endpoint, &[("client_id", &settings.client_id), ("request_uri", &pushed)])
        }
        None => {
            let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
            login::address(endpoint, &parameters)
        }
    };
    to.ok_or(Denied::Other)
}
