//! Every path of the authorization server on one page.
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};
use http::{HeaderValue, StatusCode, header};
use metrics::Histogram;
use protocol::{
    Form,
    discovery::{inserted, issuer_path},
    session_state,
};

use crate::{
    App,
    account::{backchannel, consent, device, login, mfa, page},
    oauth::{
        authorize, authzen, bc_authorize, device_authorization, discovery, feed, health, introspect, jwks, logout, par, register, revoke,
        session, status, token, userinfo,
    },
    pages, reply, signals,
};

const METADATA: [&str; 2] = ["openid-configuration", "oauth-authorization-server"];

/// The public listener's routes, under the issuer's path.
pub fn router(app: Arc<App>) -> Router {
    crate::ping::start(&app);
    let base = issuer_path(&app.settings.issuer);
    let https = app.settings.issuer.starts_with("https:");
    let at = |path: &str| format!("{base}{path}");
    let mut router = Router::new()
        .route(&at("/token"), open("token", "POST", post(token::post)))
        .route(&at("/introspect"), timed("introspect", post(introspect::post)))
        .route(&at("/revoke"), open("revoke", "POST", post(revoke::post)))
        .route(&at("/userinfo"), open("userinfo", "GET, POST", get(userinfo::any).post(userinfo::any)))
        .route(&at("/jwks"), open("jwks", "GET", get(jwks::get)))
        .route(&at("/status/{list}"), open("status", "GET", get(status::get)))
        .route(&at("/feed"), get(feed::get))
        .route(&at("/par"), open("par", "POST", post(par::post)))
        .route(&at("/device_authorization"), open("device_authorization", "POST", post(device_authorization::post)))
        .route(&at("/bc-authorize"), timed("bc_authorize", post(bc_authorize::post)))
        .route(&at("/authorize"), timed("authorize", get(authorize::get).post(authorize::post)))
        .route(&at("/logout"), timed("logout", get(logout::get).post(logout::post)))
        .route(&at("/login"), timed("login", get(login::get).post(login::post)))
        .route(&at("/mfa"), timed("mfa", get(mfa::get).post(mfa::post)))
        .route(&at("/consent"), timed("consent", get(consent::get).post(consent::post)))
        .route(&at("/account"), timed("account", get(page::get).post(page::post)))
        .route(&at("/device"), timed("device", get(device::get).post(device::post)))
        .route(&at("/ciba"), timed("ciba", get(backchannel::get).post(backchannel::post)))
        .route(&at("/static/doorward.css"), get(pages::stylesheet))
        .route(&at("/static/session.js"), get(session::script))
        .route(&at("/access/v1/evaluation"), timed("authzen", post(authzen::evaluation)))
        .route(&at("/access/v1/evaluations"), timed("authzen", post(authzen::evaluations)))
        .route(&at("/access/v1/search/subject"), timed("authzen", post(authzen::subjects)))
        .route(&at("/access/v1/search/resource"), timed("authzen", post(authzen::resources)))
        .route(&at("/access/v1/search/action"), timed("authzen", post(authzen::actions)))
        .route(&at("/.well-known/authzen-configuration"), open("discovery", "GET", get(authzen::metadata)))
        .route(&at("/ssf/streams"), timed("signals", signals::streams::route()))
        .route(&at("/ssf/status"), timed("signals", get(signals::streams::status).post(signals::streams::status)))
        .route(&at("/ssf/subjects:add"), timed("signals", post(signals::streams::add)))
        .route(&at("/ssf/subjects:remove"), timed("signals", post(signals::streams::remove)))
        .route(&at("/ssf/verify"), timed("signals", post(signals::streams::verify)))
        .route(&at("/ssf/poll/{stream}"), post(signals::poll::post))
        .route(&at("/ssf/receive/{issuer}"), timed("signals", post(signals::receive::post)))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready));
    if app.settings.registration {
        let own = get(register::get).put(register::put).delete(register::delete);
        router = router.route(&at("/register"), open("register", "POST", post(register::post)));
        router = router.route(&at("/register/{client_id}"), open("register", "GET, PUT, DELETE", own));
    }
    if session_state::offered(&app.settings) {
        router = router
            .route(&at("/session/check"), timed("session_check", get(session::page)))
            .route(&at("/session/state"), timed("session_state", get(session::state)));
    }
    for path in [Some(at("/.well-known/ssf-configuration")), inserted(&app.settings.issuer, "ssf-configuration")].into_iter().flatten() {
        router = router.route(&path, open("discovery", "GET", get(signals::streams::metadata)));
    }
    for name in METADATA {
        router = router.route(&at(&format!("/.well-known/{name}")), open("discovery", "GET", get(discovery::get)));
        if let Some(path) = inserted(&app.settings.issuer, name) {
            router = router.route(&path, open("discovery", "GET", get(discovery::get)));
        }
    }
    router
        .fallback(discovery::nowhere)
        .method_not_allowed_fallback(discovery::wrong_method)
        .layer(DefaultBodyLimit::max(Form::LIMIT))
        .layer(middleware::map_response(move |response: Response| std::future::ready(reply::secure(https, response))))
        .with_state(app)
}

/// How long an endpoint takes: the histogram of the answer everybody hopes for is looked up once.
pub(crate) struct Meter {
    endpoint: &'static str,
    /// Whether scripts of other origins may read the answers.
    open: bool,
    ok: OnceLock<Histogram>,
}

impl Meter {
    pub(crate) const fn new(endpoint: &'static str, open: bool) -> Self {
        Self { endpoint, open, ok: OnceLock::new() }
    }

    /// Counts an answer, and lets scripts of other origins read it if they may.
    pub(crate) fn finish(&self, mut response: Response, took: Duration) -> Response {
        self.record(response.status(), took);
        if self.open {
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            let exposed = HeaderValue::from_static("DPoP-Nonce, WWW-Authenticate");
            response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        response
    }

    fn record(&self, status: StatusCode, took: Duration) {
        let histogram = |status: String| metrics::histogram!("http_request_seconds", "endpoint" => self.endpoint, "status" => status);
        if status == StatusCode::OK {
            self.ok.get_or_init(|| histogram("200".to_owned())).record(took);
        } else {
            histogram(status.as_u16().to_string()).record(took);
        }
    }
}

/// Measures a route as `http_request_seconds{endpoint,status}`.
pub(crate) fn timed(endpoint: &'static str, route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    measured(Meter::new(endpoint, false), route)
}

/// The same, of an endpoint that clients in a browser call from their own origins (Fetch, CORS protocol). Nothing here
/// looks at a cookie, so every origin may; credentials of the browser's own are never invited.
fn open(endpoint: &'static str, methods: &'static str, route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    let preflight = move || std::future::ready(reply::preflight(methods));
    measured(Meter::new(endpoint, true), route.options(preflight))
}

fn measured(meter: Meter, route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    let meter = Arc::new(meter);
    route.layer(middleware::from_fn(move |request: Request, next: Next| {
        let meter = Arc::clone(&meter);
        async move {
            let begun = tokio::time::Instant::now();
            let response = next.run(request).await;
            meter.finish(response, begun.elapsed())
        }
    }))
}
