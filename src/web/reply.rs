//! How refusals and faults reach the wire: OAuth JSON (RFC 6749 §5.2), bearer challenges (RFC 6750 §3), problem documents (RFC 9457).
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use ledger::StoreError;
use protocol::{Code, OAuthError, form::FormError};

use crate::limits::Wait;

/// Why a request ended without what was asked for.
#[derive(Debug)]
pub enum Failed {
    /// A refusal of the protocol.
    Refused(OAuthError),
    /// A refused client authentication that came in an `Authorization` header: answered with a challenge.
    Challenged(OAuthError),
    /// A refused bearer token (RFC 6750 §3); `None` if none was presented.
    Bearer(Option<OAuthError>),
    /// A refused token that is, or has to be, bound to a key (RFC 9449 §7.1).
    Bound(OAuthError),
    /// Too many, and when another try may succeed.
    Limited(Wait),
    /// A body over the limit.
    TooLarge,
    /// A body that did not arrive in time.
    TooSlow,
    /// Storage failed.
    Store(StoreError),
}

impl From<OAuthError> for Failed {
    fn from(error: OAuthError) -> Self {
        Self::Refused(error)
    }
}
impl From<FormError> for Failed {
    fn from(error: FormError) -> Self {
        Self::Refused(error.into())
    }
}
impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(error) => oauth(&error),
            Self::Challenged(error) => {
                with(oauth(&error), header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"doorward\", charset=\"UTF-8\""))
            }
            Self::Bearer(error) => bearer(error.as_ref()),
            Self::Bound(error) => bound(&error),
            Self::Limited(wait) => {
                let body = "{\"error\":\"temporarily_unavailable\",\"error_description\":\"too many failed attempts\"}";
                let mut response = json(StatusCode::TOO_MANY_REQUESTS, Bytes::from_static(body.as_bytes()));
                wait.tell(response.headers_mut());
                response
            }
            Self::TooLarge => oauth_at(StatusCode::PAYLOAD_TOO_LARGE, &OAuthError::request("the body is too large")),
            Self::TooSlow => oauth_at(StatusCode::REQUEST_TIMEOUT, &OAuthError::request("the body did not arrive in time")),
            Self::Store(error) => away(&error),
        }
    }
}

/// An OAuth refusal with its status.
#[must_use]
pub fn oauth(error: &OAuthError) -> Response {
    if error.code == Code::ServerError {
        tracing::error!(reason = %error.reason, "fault");
    } else {
        tracing::debug!(code = error.code.as_str(), reason = %error.reason, "refused");
    }
    oauth_at(StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_REQUEST), error)
}

fn oauth_at(status: StatusCode, error: &OAuthError) -> Response {
    json(status, Bytes::from(error.json()))
}

/// Storage is away: nothing was issued, try again.
#[must_use]
pub fn away(error: &StoreError) -> Response {
    tracing::error!(%error, "storage failed");
    let unavailable = OAuthError::new(Code::TemporarilyUnavailable, "the server cannot reach its storage; try again");
    retry(oauth(&unavailable), 1)
}

/// A JSON answer that nobody may keep.
#[must_use]
pub fn json(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // With what every answer carries it is made once.
    headers.reserve(12);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// A signed answer that nobody may keep.
#[must_use]
pub fn jwt(media_type: &'static str, text: String) -> Response {
    with(json(StatusCode::OK, Bytes::from(text)), header::CONTENT_TYPE, HeaderValue::from_static(media_type))
}

/// A problem document (RFC 9457) of the general kind.
#[must_use]
pub fn problem(status: StatusCode, detail: &'static str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail}).to_string();
    let response = json(status, Bytes::from(body));
    with(response, header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))
}

fn bearer(error: Option<&OAuthError>) -> Response {
    let Some(error) = error else {
        let missing = OAuthError::new(Code::InvalidToken, "an access token is required");
        let mut response = with(oauth(&missing), header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"doorward\""));
        if let Ok(challenge) = HeaderValue::from_str(&format!("DPoP algs=\"{}\"", dpop_algs())) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
        }
        return response;
    };
    let challenge = format!("Bearer realm=\"doorward\", error=\"{}\", error_description=\"{}\"", error.code.as_str(), error.description);
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => with(oauth(error), header::WWW_AUTHENTICATE, challenge),
        Err(_) => oauth(error),
    }
}

/// 401 with the challenge of RFC 9449 §7.1: a token bound to a key has to come with a proof of it.
fn bound(error: &OAuthError) -> Response {
    let challenge =
        format!("DPoP error=\"{}\", error_description=\"{}\", algs=\"{}\"", error.code.as_str(), error.description, dpop_algs());
    let status =
        StatusCode::from_u16(error.code.status()).ok().filter(|s| *s != StatusCode::BAD_REQUEST).unwrap_or(StatusCode::UNAUTHORIZED);
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => with(oauth_at(status, error), header::WWW_AUTHENTICATE, challenge),
        Err(_) => oauth_at(status, error),
    }
}

fn dpop_algs() -> String {
    tokens::dpop::ALGS.map(tokens::Alg::as_str).join(" ")
}

/// The same answer with one more header.
#[must_use]
pub fn with(mut response: Response, name: HeaderName, value: HeaderValue) -> Response {
    response.headers_mut().insert(name, value);
    response
}

/// What a browser asks before a script of another origin may call (Fetch, CORS-preflight). The origin is allowed by whoever
/// answers the call itself.
#[must_use]
pub fn preflight(methods: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type, DPoP"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    response
}

/// Adds when to come again (RFC 9110 §10.2.3).
pub(crate) fn retry(response: Response, seconds: i64) -> Response {
    with(response, header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

/// What an https issuer says of its host (RFC 6797).
pub(crate) const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// Marks the one answer that other sites may show in a frame; its own policy says which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framed;

/// What every answer carries that is no page.
pub const ALWAYS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Adds what every answer carries unless the handler said something else.
#[must_use]
pub fn secure(https: bool, mut response: Response) -> Response {
    let framed = response.extensions().get::<Framed>().is_some();
    let headers = response.headers_mut();
    for (name, value) in ALWAYS.into_iter().filter(|(name, _)| !framed || *name != header::X_FRAME_OPTIONS) {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if https {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
    }
    response
}
