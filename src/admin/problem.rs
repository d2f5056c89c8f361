//! Problem documents: every refusal of this API (RFC 9457, RFC 6750 §3).
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use ledger::{Mistake, StoreError};
use serde_json::{Map, Value, json};

/// What the caller hears. What the log hears is written where it happens.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<Mistake>,
    challenge: Option<&'static str>,
    allow: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, kind, title, detail: detail.into(), errors: Vec::new(), challenge: None, allow: None }))
    }

    fn challenging(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// 400: the request cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
    }
    /// 422: an object or action was read and is wrong; every mistake is listed.
    #[must_use]
    pub fn invalid(errors: Vec<Mistake>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.at.is_empty() => one.why.clone(),
            [one] => format!("{}: {}", one.at, one.why),
            many => format!("{} mistakes", many.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The content is not valid", detail);
        problem.0.errors = errors;
        problem
    }
    /// 401 without a credential: a bare challenge (RFC 6750 §3.1).
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "An access token is needed", "send Authorization: Bearer <access token>")
            .challenging(r#"Bearer realm="doorward-admin""#)
    }
    /// 401 with a credential that is not believed; one text for every reason.
    #[must_use]
    pub fn invalid_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid-token", "The access token is not valid", "get a new one and try again")
            .challenging(r#"Bearer realm="doorward-admin", error="invalid_token""#)
    }
    /// 403: believed, but not allowed this.
    #[must_use]
    pub fn insufficient_scope() -> Self {
        Self::new(StatusCode::FORBIDDEN, "insufficient-scope", "The access token does not allow this", "scope doorward.admin is needed")
            .challenging(r#"Bearer realm="doorward-admin", error="insufficient_scope", scope="doorward.admin""#)
    }
    /// 404.
    #[must_use]
    pub fn unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown", "Not found", "there is nothing of that name here")
    }
    /// 405, naming what is allowed.
    #[must_use]
    pub fn method_not_allowed(allow: String) -> Self {
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", "Method not allowed", format!("allowed here: {allow}"));
        problem.0.allow = Some(allow);
        problem
    }
    /// 409: what is asked contradicts what is stored.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "That contradicts what is stored", detail)
    }
    /// 412: the stored version is another one (RFC 9110 §13.1.1).
    #[must_use]
    pub fn stale() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "stale",
            "The object was changed meanwhile",
            "read it again and send If-Match with its new ETag",
        )
    }
    /// 408.
    #[must_use]
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body took too long", "send it within 30 seconds")
    }
    /// 413.
    #[must_use]
    pub fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", "at most 256 KiB of JSON are taken")
    }
    /// 415.
    #[must_use]
    pub fn media_type() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "Unsupported media type", "send application/json")
    }
    /// 503: storage or hashing is away or full; nothing was changed.
    #[must_use]
    pub fn away() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not now", "nothing was changed; try again shortly")
    }
    /// 500: what is stored does not make sense.
    #[must_use]
    pub fn fault() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", "Something is wrong on our side", "nothing was changed")
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    fn document(&self) -> Value {
        let mut doc = Map::new();
        doc.insert("type".into(), format!("urn:doorward:problem:{}", self.0.kind).into());
        doc.insert("title".into(), self.0.title.into());
        doc.insert("status".into(), self.0.status.as_u16().into());
        doc.insert("detail".into(), self.0.detail.as_str().into());
        if !self.0.errors.is_empty() {
            doc.insert("errors".into(), json!(self.0.errors));
        }
        Value::Object(doc)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(why) => {
                tracing::warn!(why, "administration: storage is away");
                Self::away()
            }
            StoreError::Corrupt(why) => {
                tracing::error!(why, "administration: storage is corrupt");
                Self::fault()
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut out = Response::new(Body::from(self.document().to_string()));
        *out.status_mut() = self.0.status;
        let headers = out.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.0.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.0.allow.as_deref().and_then(|a| HeaderValue::from_str(a).ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.0.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        out
    }
}
