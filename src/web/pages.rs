//! Pages for people: plain HTML forms under a policy that lets nothing else run (CONTRACT §3).
use askama::Template;
use axum::response::{IntoResponse, Response};
use edge::limit::Quota;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ledger::StoreError;
use protocol::{
    Client, OAuthError,
    authorize::{Answer, Params, Refusal},
    registration::document,
};

use crate::{App, account::hashing::Busy, limits::Policy};

const STYLE: &str = include_str!("../../static/doorward.css");

/// Why somebody sees an error page instead of what they asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
    retry_after: Option<i64>,
    quota: Option<(&'static str, Quota)>,
}

impl Refused {
    /// An error page.
    #[must_use]
    pub const fn new(status: StatusCode, code: &'static str, description: &'static str) -> Self {
        Self { status, code, description, retry_after: None, quota: None }
    }
    /// A request that makes no sense.
    #[must_use]
    pub const fn request(description: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }
    /// A form that has been used, has expired, or is of a page that nobody shows any more.
    #[must_use]
    pub const fn stale() -> Self {
        Self::request("This page has expired or was already used. Go back to the application and start again.")
    }
    /// A form of another site or another browser.
    #[must_use]
    pub const fn foreign() -> Self {
        Self::new(StatusCode::FORBIDDEN, "access_denied", "This form was not sent from a page of this server in this browser.")
    }
    /// The account became another while its person was at it: decide again.
    #[must_use]
    pub const fn changed() -> Self {
        Self::new(StatusCode::CONFLICT, "access_denied", "Your account was changed in the meantime. Try again.")
    }
    /// Too many beginnings from one place; come back in so many seconds. The quota goes by a name on the wire.
    #[must_use]
    pub const fn crowded(seconds: i64, quota: (&'static str, Quota)) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "temporarily_unavailable",
            description: "Too many requests come from your network right now. Wait a while and try again.",
            retry_after: Some(seconds),
            quota: Some(quota),
        }
    }
    /// Too many attempts; come back in so many seconds.
    #[must_use]
    pub const fn limited(seconds: i64, quota: (&'static str, Quota)) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "temporarily_unavailable",
            description: "Too many failed attempts. Wait a while and try again.",
            retry_after: Some(seconds),
            quota: Some(quota),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a page could not be served");
        match error {
            StoreError::Unavailable(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "temporarily_unavailable",
                description: "The server is busy or being repaired. Nothing was changed; try again.",
                retry_after: Some(2),
                quota: None,
            },
            StoreError::Corrupt(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "The server could not complete the request.")
            }
        }
    }
}

impl From<Busy> for Refused {
    fn from(_: Busy) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "temporarily_unavailable",
            description: "Too many people are signing in right now. Try again in a moment.",
            retry_after: Some(Busy::RETRY_AFTER),
            quota: None,
        }
    }
}

impl From<OAuthError> for Refused {
    fn from(error: OAuthError) -> Self {
        tracing::error!(reason = %error.reason, "a page could not be served");
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, error.code.as_str(), "The server could not complete the request.")
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::BAD_REQUEST, refusal.code.as_str(), refusal.hears)
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    base: &'a str,
    code: &'a str,
    description: &'a str,
}

#[derive(Template)]
#[template(path = "form_post.html")]
struct FormPostPage<'a> {
    base: &'a str,
    action: &'a str,
    fields: &'a [(&'static str, String)],
}

/// The client, as pages show it.
pub struct Shown {
    pub name: String,
    pub logo: Option<String>,
    pub policy: Option<String>,
    pub tos: Option<String>,
    /// Where it publishes its metadata: the one thing about it that is known for sure.
    pub host: Option<String>,
}

impl Shown {
    /// What a client registered; links and pictures only if they are of the web.
    #[must_use]
    pub fn of(client: &Client) -> Self {
        let web = |uri: &Option<String>| uri.clone().filter(|u| u.starts_with("https://") || u.starts_with("http://"));
        Self {
            host: document::host(&client.client_id).filter(|_| client.origin.as_deref() == Some(document::ORIGIN)),
            name: client.client_name.clone().unwrap_or_else(|| client.client_id.clone()),
            logo: web(&client.logo_uri),
            policy: web(&client.policy_uri),
            tos: web(&client.tos_uri),
        }
    }

    fn picture(&self) -> Option<String> {
        let url = url::Url::parse(self.logo.as_deref()?).ok()?;
        let origin = url.origin().ascii_serialization();
        origin.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'/' | b'.' | b'-')).then_some(origin)
    }
}

/// What a page may do besides showing itself.
#[derive(Debug, Default)]
pub struct Allow {
    form: Option<String>,
    picture: Option<String>,
    own_form: bool,
    frames: Vec<String>,
}

impl Allow {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }
    /// Post its form to this server; the answer may lead to `target`. Browsers apply the policy along the redirects after a post.
    #[must_use]
    pub fn form(target: Option<String>) -> Self {
        Self { form: target, own_form: true, ..Self::default() }
    }
    /// Load pages of these origins in frames.
    #[must_use]
    pub fn frames(origins: Vec<String>) -> Self {
        Self { frames: origins, ..Self::default() }
    }
    /// Show a client's picture.
    #[must_use]
    pub fn picture_of(mut self, client: Option<&Shown>) -> Self {
        self.picture = client.and_then(Shown::picture);
        self
    }

    fn policy(&self) -> String {
        let own = if self.own_form { "'self'" } else { "" };
        let form = match (&self.form, own) {
            (Some(target), own) => format!("{own} {target}"),
            (None, "") => "'none'".to_owned(),
            (None, own) => own.to_owned(),
        };
        let picture = self.picture.as_deref().unwrap_or_default();
        let frames = if self.frames.is_empty() { String::new() } else { format!("frame-src {}; ", self.frames.join(" ")) };
        format!(
            "default-src 'none'; style-src 'self'; img-src 'self' {}; {frames}form-action {}; frame-ancestors 'none'; base-uri 'none'",
            picture,
            form.trim()
        )
    }
}

/// The issuer's path, the prefix of every link: empty for an issuer without one.
#[must_use]
pub fn base(issuer: &str) -> &str {
    let after = issuer.find("://").map_or(0, |at| at + 3);
    let path = issuer.get(after..).and_then(|rest| rest.find('/')).map_or("", |at| issuer.get(after + at..).unwrap_or_default());
    path.trim_end_matches('/')
}

fn guard(headers: &mut HeaderMap) {
    const FIXED: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A page.
#[must_use]
pub fn page(status: StatusCode, template: &impl Template, allow: &Allow) -> Response {
    let Ok(html) = template.render() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    guard(headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    match HeaderValue::try_from(allow.policy()) {
        Ok(policy) => headers.insert(header::CONTENT_SECURITY_POLICY, policy),
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    response
}

/// 303 to a place of this server, or to one that [`Answer`] or a farewell allows.
#[must_use]
pub fn see_other(location: &str) -> Response {
    let Ok(value) = HeaderValue::try_from(location) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut response = StatusCode::SEE_OTHER.into_response();
    guard(response.headers_mut());
    response.headers_mut().insert(header::LOCATION, value);
    response
}

/// 303 to the same endpoint by GET. A client's own form brings no `SameSite` cookie along; the GET that follows does.
#[must_use]
pub fn carry_over(app: &App, path: &str, params: &Params) -> Response {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params.iter()).finish();
    see_other(&format!("{}{path}?{query}", base(&app.settings.issuer)))
}

/// An authorization response as HTTP.
#[must_use]
pub fn answer(app: &App, answer: &Answer) -> Response {
    match answer {
        Answer::Redirect { location } => see_other(location),
        Answer::FormPost { action, fields } => {
            let template = FormPostPage { base: base(&app.settings.issuer), action: action.as_str(), fields };
            let allow = Allow { form: Some(action.source()), ..Allow::default() };
            page(StatusCode::OK, &template, &allow)
        }
    }
}

/// An error page.
#[must_use]
pub fn refused(app: &App, why: &Refused) -> Response {
    let template = ErrorPage { base: base(&app.settings.issuer), code: why.code, description: why.description };
    let mut response = page(why.status, &template, &Allow::nothing());
    if let Some(seconds) = why.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        if let Some((name, quota)) = why.quota {
            Policy { name, quota }.waits(seconds).tell(response.headers_mut());
        }
    }
    response
}

/// What a handler came to, as HTTP.
#[must_use]
pub fn finish(app: &App, result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(|why| refused(app, &why))
}

/// Adds the cookie that belongs to an answer.
#[must_use]
pub fn with_cookie(mut response: Response, cookies: impl IntoIterator<Item = HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// `GET /static/doorward.css`.
pub async fn stylesheet(headers: HeaderMap) -> Response {
    stored(&headers, STYLE, "text/css; charset=utf-8")
}

/// A file that is part of this program.
#[must_use]
pub(crate) fn stored(headers: &HeaderMap, content: &'static str, media: &'static str) -> Response {
    let tag = format!("\"{}\"", tokens::hash::left_half(content));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_start_at_the_issuers_path() {
        assert_eq!(base("https://id.example.com"), "");
        assert_eq!(base("https://id.example.com/"), "");
        assert_eq!(base("https://id.example.com/tenant/a"), "/tenant/a");
    }

    #[test]
    fn a_page_may_post_to_this_server_and_to_the_clients_origin_only() {
        let policy = Allow::form(Some("https://rp.example.com".into())).policy();
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("form-action 'self' https://rp.example.com;"));
        assert!(Allow::nothing().policy().contains("form-action 'none'; frame-ancestors 'none'"));
        assert!(!policy.contains("script-src") && !policy.contains("unsafe"));
    }

    #[test]
    fn a_client_cannot_put_a_script_behind_a_link() {
        let client = Client { policy_uri: Some("javascript:alert(1)".into()), logo_uri: Some("data:x".into()), ..Client::default() };
        let shown = Shown::of(&client);
        assert!(shown.policy.is_none() && shown.logo.is_none());
    }
}
