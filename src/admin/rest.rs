//! The router, made from the table of operations; one handler authenticates, reads, dispatches and answers.
use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, State, rejection::RawPathParamsRejection},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::Value;

use crate::{
    actions, api_keys, backchannel,
    call::Call,
    collections, devices, dry_run, explanations, openapi,
    operations::{self, Does, Operation, PREFIX},
    problem::Problem,
    reads,
    state::{Access, Actor, AdminState, Principal, Refused},
};

/// The path's one parameter, if it can be read.
type Path = Result<RawPathParams, RawPathParamsRejection>;

/// Octets of a bearer token accepted.
const MAX_TOKEN: usize = 16 * 1024;

/// The administration API under `/admin/v1`.
pub fn router(state: Arc<AdminState>) -> Router {
    let mut paths: BTreeMap<&str, Vec<&'static Operation>> = BTreeMap::new();
    for operation in operations::all() {
        paths.entry(&operation.path).or_default().push(operation);
    }
    let mut router = Router::new();
    for (path, operations) in paths {
        router = router.route(&format!("{PREFIX}{path}"), methods(&operations));
    }
    router.fallback(|| async { sealed(Problem::unknown().into_response()) }).with_state(state)
}

fn methods(operations: &[&'static Operation]) -> MethodRouter<Arc<AdminState>> {
    let mut allow: Vec<&str> = operations.iter().map(|o| o.method.as_str()).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    let allow = allow.join(", ");
    let mut methods = MethodRouter::new();
    for operation in operations.iter().copied() {
        let Ok(filter) = MethodFilter::try_from(operation.method.clone()) else { continue };
        let handler = move |State(state): State<Arc<AdminState>>, path: Path, request: Request<Body>| async move {
            match path {
                Ok(path) => {
                    let id = path.iter().next().map(|(_, value)| value.to_owned()).unwrap_or_default();
                    serve(&state, operation, id, request).await
                }
                Err(_) => sealed(Problem::malformed("the path is not percent-encoded UTF-8").into_response()),
            }
        };
        methods = methods.merge(on(filter, handler));
    }
    methods.fallback(move || {
        let allow = allow.clone();
        async move { sealed(Problem::method_not_allowed(allow).into_response()) }
    })
}

async fn serve(state: &AdminState, operation: &'static Operation, id: String, request: Request<Body>) -> Response {
    let began = Instant::now();
    let answer = match perform(state, operation, id, request).await {
        Ok(answer) => answer.into_response(),
        Err(problem) => problem.into_response(),
    };
    let labels = [("endpoint", format!("admin.{}", operation.id)), ("status", answer.status().as_u16().to_string())];
    metrics::histogram!("http_request_seconds", &labels).record(began.elapsed().as_secs_f64());
    sealed(answer)
}

async fn perform(state: &AdminState, operation: &Operation, id: String, request: Request<Body>) -> Result<Answer, Problem> {
    let actor = match operation.access {
        Some(access) => authenticate(state, request.headers(), access).await?,
        None => Actor { client_id: String::new(), subject: None },
    };
    let call = Call::read(operation.does, actor, id, request).await?;
    match operation.does {
        Does::List(kind) => collections::list(state, kind, &call).await,
        Does::Create(kind) => collections::create(state, kind, &call).await,
        Does::Read(kind) => collections::read(state, kind, &call).await,
        Does::Replace(kind) => collections::replace(state, kind, &call).await,
        Does::Patch(kind) => collections::patch(state, kind, &call).await,
        Does::Delete(kind) => collections::delete(state, kind, &call).await,
        Does::DisableUser => actions::set_disabled(state, &call, true).await,
        Does::EnableUser => actions::set_disabled(state, &call, false).await,
        Does::DisableDevice => devices::set_disabled(state, &call, true).await,
        Does::EnableDevice => devices::set_disabled(state, &call, false).await,
        Does::SetPassword => actions::set_password(state, &call).await,
        Does::EnrolTotp => actions::enrol_totp(state, &call).await,
        Does::RemoveTotp => actions::remove_totp(state, &call).await,
        Does::RotateSecret => actions::rotate_secret(state, &call).await,
        Does::RotateApiKey => api_keys::rotate(state, &call).await,
        Does::EndSession => actions::end_session(state, &call).await,
        Does::EndGrant => actions::end_grant(state, &call).await,
        Does::RotateKeys => actions::rotate_keys(state, &call).await,
        Does::RevokeKey => actions::revoke_key(state, &call).await,
        Does::Revoke => actions::revoke(state, &call).await,
        Does::ApproveBackchannel => backchannel::answer(state, &call, true).await,
        Does::DenyBackchannel => backchannel::answer(state, &call, false).await,
        Does::ListSessions => reads::sessions(state, &call).await,
        Does::ReadSession => reads::session(state, &call).await,
        Does::ListGrants => reads::grants(state, &call).await,
        Does::ReadGrant => reads::grant(state, &call).await,
        Does::ListEvents => reads::events(state, &call).await,
        Does::ListKeys => reads::keys(state).await,
        Does::Stats => reads::stats(state).await,
        Does::Analytics => reads::analytics(state, &call),
        Does::Policy => Ok(Answer::ok(state.policy.clone())),
        Does::DryRun => dry_run::run(state, &call).await,
        Does::ListExplanations => explanations::list(state, &call),
        Does::ReadExplanation => explanations::read(state, &call),
        Does::Explain => explanations::explain(state, &call).await,
        Does::OpenApi => Ok(Answer::ok(openapi::document(&state.settings.issuer))),
    }
}

/// RFC 6750 §2.1: the token in the Authorization header, and nowhere else.
async fn authenticate(state: &AdminState, headers: &HeaderMap, access: Access) -> Result<Actor, Problem> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Err(Problem::unauthenticated()) };
    if lines.next().is_some() {
        return Err(Problem::malformed("more than one Authorization header"));
    }
    let (scheme, token) = line.to_str().ok().and_then(|l| l.split_once(' ')).ok_or_else(Problem::unauthenticated)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(Problem::unauthenticated());
    }
    let token = token.trim_matches(' ');
    let b64token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(b64token) {
        return Err(Problem::invalid_token());
    }
    let principal: Principal = state.auth.authenticate(token).await.map_err(|refused| match refused {
        Refused::Invalid => Problem::invalid_token(),
        Refused::Away => Problem::away(),
    })?;
    if principal.may(access) { Ok(principal.actor) } else { Err(Problem::insufficient_scope()) }
}

/// What nothing of this API may do without: no caching, no guessing of types.
fn sealed(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A good answer.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Option<Value>,
    headers: Vec<(HeaderName, String)>,
}

impl Answer {
    /// 200 with a document.
    #[must_use]
    pub const fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body), headers: Vec::new() }
    }
    /// 204.
    #[must_use]
    pub const fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, headers: Vec::new() }
    }
    /// 201, and where it is.
    #[must_use]
    pub fn created(body: Value, location: String) -> Self {
        Self { status: StatusCode::CREATED, body: Some(body), headers: vec![(LOCATION, location)] }
    }
    /// With the version as strong ETag (RFC 9110 §8.8.3).
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.headers.push((ETAG, format!("\"{version}\"")));
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut out = Response::new(self.body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string())));
        *out.status_mut() = self.status;
        if self.body.is_some() {
            out.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                out.headers_mut().insert(name, value);
            }
        }
        out
    }
}
