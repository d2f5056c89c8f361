//! Browser sessions: the gateway as relying party (OpenID Connect Core §3.1). The browser holds a reference; tokens stay here.
//!
//! Read in this order: [`belief`] (what a request's cookie is worth), [`login`] and [`callback`] (how one comes to be), [`renewal`]
//! (its tokens), [`logout`] (its end), [`row`] (how it is stored), [`issuer`] (the login server).
mod belief;
mod callback;
mod issuer;
mod login;
mod logout;
mod page;
mod renewal;
mod row;
mod settings;

use std::{rc::Rc, sync::Arc};

use edge::{
    Counters, Refusal,
    admission::Guard,
    identity::Issuer,
    login::is_loopback,
    session::{Cookie, Sent, sent},
};
use http::{HeaderMap, HeaderValue, Method, Response, header::WWW_AUTHENTICATE, request::Parts as Head};
use hyper::body::Incoming;
use ledger::{RevocationSet, Store};
use outbound::Outbound;
use tokens::{Clock, Entropy, seal::Kek, secret::MacKey};

pub(crate) use belief::{Held, hand_over, is_besides, prove};
pub(crate) use login::instead;
pub use settings::{Paths, SessionSettings};

use crate::{asked::Asked, body::AnswerBody, source::Own, worker::Worker};

/// The challenge of routes that take sessions; no scheme is registered for them.
const SCHEME: &str = "Session realm=\"gateway\"";

/// What browser sessions are made of.
pub struct SessionParts {
    pub settings: SessionSettings,
    /// Seals what is stored.
    pub kek: Kek,
    pub store: Arc<dyn Store>,
    /// The rules for calls to the login server.
    pub outbound: Arc<Outbound>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub counters: Arc<dyn Counters>,
    pub revoked: Arc<RevocationSet>,
    /// The gateway's authorization server; it may be the login server, too.
    pub own: Own,
}

/// The browser sessions of a gateway: shared by its threads, kept in its database.
pub struct Sessions {
    parts: SessionParts,
    mac: MacKey,
    server: issuer::LoginServer,
    issuer: Issuer,
}

/// The scheme and host by which a browser reached the gateway.
pub(crate) struct Place<'a> {
    scheme: &'static str,
    host: &'a str,
}

impl Sessions {
    /// Ready to log people in; nothing is fetched yet.
    #[must_use]
    pub fn new(parts: SessionParts) -> Arc<Self> {
        let mac = parts.kek.mac_key("gateway.session");
        let server = issuer::LoginServer::new(Arc::clone(&parts.outbound), Arc::clone(&parts.clock), Arc::clone(&parts.entropy));
        let foreign = || Issuer::Foreign(parts.settings.issuer.as_str().into());
        let issuer = if *parts.settings.issuer == *parts.own.issuer { Issuer::Own } else { foreign() };
        Arc::new(Self { parts, mac, server, issuer })
    }

    const fn settings(&self) -> &SessionSettings {
        &self.parts.settings
    }

    fn now_ms(&self) -> i64 {
        self.parts.clock.now_ms()
    }

    /// The cookie of sessions.
    fn cookie(&self, place: &Place<'_>) -> Cookie {
        Cookie::new(&self.settings().cookie, place.scheme == "https")
    }

    /// The cookie that binds logins to a browser.
    fn binding(&self, place: &Place<'_>) -> Cookie {
        Cookie::new(&format!("{}-login", self.settings().cookie), place.scheme == "https")
    }

    fn redirect_uri(&self, place: &Place<'_>) -> String {
        format!("{}://{}{}", place.scheme, place.host, self.settings().paths.callback)
    }

    /// Whether a path is an endpoint of ours.
    pub(crate) fn is_own(&self, path: &str) -> bool {
        let Paths { callback, logout, backchannel_logout } = &self.settings().paths;
        path == callback || path == logout || path == backchannel_logout
    }

    /// The session cookie of a request, of whatever value.
    fn shown<'a>(&self, asked: &Asked<'a>) -> Sent<'a> {
        let named = |secure| sent(asked.headers, Cookie::new(&self.settings().cookie, secure).name());
        match asked.scheme() {
            // An explanation does not know how the request would come.
            None => match named(true) {
                Sent::Nothing => named(false),
                found => found,
            },
            Some(_) => place(asked).map_or(Sent::Nothing, |place| named(place.scheme == "https")),
        }
    }
}

/// Where the browser is. Without TLS there are sessions on loopback only.
fn place<'a>(asked: &Asked<'a>) -> Option<Place<'a>> {
    let (scheme, host) = (asked.scheme()?, asked.headers.get(http::header::HOST)?.to_str().ok()?);
    (scheme == "https" || is_loopback(&format!("http://{host}/"))).then_some(Place { scheme, host })
}

/// Serves an endpoint of ours.
pub(crate) async fn serve(worker: &Rc<Worker>, sessions: &Arc<Sessions>, asked: &Asked<'_>, body: Incoming) -> Response<AnswerBody> {
    let Paths { callback, logout, .. } = &sessions.settings().paths;
    if asked.path == callback {
        return callback::serve(worker, sessions, asked).await;
    }
    if asked.path == logout {
        return logout::serve(worker, sessions, asked, body).await;
    }
    logout::backchannel(sessions, asked, body).await
}

/// Whether a request is for an endpoint of ours.
pub(crate) fn own<'w>(worker: &'w Worker, head: &Head) -> Option<&'w Arc<Sessions>> {
    worker.gateway.parts().sessions.as_ref().filter(|sessions| head.method != Method::CONNECT && sessions.is_own(head.uri.path()))
}

/// Tells a program that a login in a browser is wanted, beside the challenges of tokens, or in their place where no tokens are taken.
pub(crate) fn challenge(headers: &mut HeaderMap, guard: &Guard, refusal: Refusal) {
    if !guard.accepts.session || matches!(refusal, Refusal::StepUp(..)) {
        return;
    }
    if !guard.accepts.jwt && !guard.accepts.opaque {
        let tokens = |value: &HeaderValue| value.as_bytes().starts_with(b"Bearer") || value.as_bytes().starts_with(b"DPoP");
        let others: Vec<HeaderValue> = headers.get_all(WWW_AUTHENTICATE).iter().filter(|value| !tokens(value)).cloned().collect();
        headers.remove(WWW_AUTHENTICATE);
        headers.extend(others.into_iter().map(|value| (WWW_AUTHENTICATE, value)));
    }
    if refusal.status() == 401 {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(SCHEME));
    }
}

/// Counts what became of sessions.
fn count(event: &'static str) {
    metrics::counter!("gateway_sessions_total", "event" => event).increment(1);
}
