//! The policy decision point of the AuthZEN Authorization API 1.0: the stored policies, asked over HTTP by whoever enforces them elsewhere.
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use ledger::StoreError;
use policy::{
    Being, Compiled, Question, Verdict,
    authzen::{self, Batch, Malformed, Search, Sought},
};
use protocol::{Code, Form, OAuthError, scope};
use serde_json::{Map, Value, json};

use super::{client, octets};
use crate::{
    App, credential,
    reply::{self, Failed},
};

/// What a caller needs: in its token, or in its registration where it authenticates as a client.
const SCOPE: &str = "doorward.decide";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `POST /access/v1/evaluation` (§6)
pub(crate) async fn evaluation(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(&app, request, Asks::One).await
}

/// `POST /access/v1/evaluations` (§7)
pub(crate) async fn evaluations(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(&app, request, Asks::Many).await
}

/// `POST /access/v1/search/subject` (§8.4)
pub(crate) async fn subjects(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(&app, request, Asks::Search(Sought::Subject)).await
}

/// `POST /access/v1/search/resource` (§8.5)
pub(crate) async fn resources(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(&app, request, Asks::Search(Sought::Resource)).await
}

/// `POST /access/v1/search/action` (§8.6)
pub(crate) async fn actions(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(&app, request, Asks::Search(Sought::Action)).await
}

/// `GET /.well-known/authzen-configuration` (§9)
pub(crate) async fn metadata(State(app): State<Arc<App>>) -> Response {
    let document = authzen::metadata(app.settings.issuer.trim_end_matches('/')).to_string();
    let mut response = reply::json(StatusCode::OK, Bytes::from(document));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

#[derive(Clone, Copy)]
enum Asks {
    One,
    Many,
    Search(Sought),
}

/// Answers; the request's id comes back with whatever is said (§10.2).
async fn answered(app: &App, request: Request, asks: Asks) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| id.len() <= 256).cloned();
    let mut response = serve(app, request, asks).await.unwrap_or_else(|refused| match refused {
        Refused::Failed(failed) => failed.into_response(),
        Refused::Malformed(why) => reply::problem(StatusCode::BAD_REQUEST, why.0),
        Refused::MediaType => reply::problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"),
    });
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

enum Refused {
    Failed(Failed),
    Malformed(Malformed),
    MediaType,
}

impl<T: Into<Failed>> From<T> for Refused {
    fn from(failed: T) -> Self {
        Self::Failed(failed.into())
    }
}

async fn serve(app: &App, request: Request, asks: Asks) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    permitted(app, &parts).await?;
    if !is_json(&parts) {
        return Err(Refused::MediaType);
    }
    let octets = octets(&parts, body).await?;
    let body = tokens::strict::object(&octets).map_err(|_| Refused::Malformed(Malformed("the body is not a JSON object")))?;
    let body = Value::Object(body);
    let policy = app.policies.current().await?;
    let answer = match asks {
        Asks::One => authzen::answer(&decide(app, &policy, authzen::evaluation(&body).map_err(Refused::Malformed)?).await?),
        Asks::Many => match authzen::evaluations(&body).map_err(Refused::Malformed)? {
            Batch::Single(question) => authzen::answer(&decide(app, &policy, *question).await?),
            Batch::Many(items, semantic) => {
                let mut answers = Vec::with_capacity(items.len());
                for item in items {
                    let (allowed, answer) = match item {
                        Ok(question) => {
                            let verdict = decide(app, &policy, question).await?;
                            (verdict.allowed, authzen::answer(&verdict))
                        }
                        Err(why) => (false, authzen::unreadable(why)),
                    };
                    answers.push(answer);
                    if semantic.stops_at(allowed) {
                        break;
                    }
                }
                json!({ "evaluations": answers })
            }
        },
        Asks::Search(sought) => {
            let mut search = Search::read(sought, &body).map_err(Refused::Malformed)?;
            for being in search.known() {
                complete(app, being).await?;
            }
            // Up to a thousand decisions: not on a thread that serves others.
            let found = tokio::task::spawn_blocking(move || search.answer(&search.run(&policy))).await;
            found.map_err(|_| StoreError::Unavailable("a search was cut off".into()))?
        }
    };
    Ok(reply::json(StatusCode::OK, Bytes::from(answer.to_string())))
}

/// Whether the caller may ask: a client of ours with the scope, or a token that carries it.
async fn permitted(app: &App, parts: &Parts) -> Result<(), Refused> {
    let bearer = parts.headers.get(header::AUTHORIZATION).is_none_or(|value| {
        let scheme = value.as_bytes().split(|b| *b == b' ').next().unwrap_or_default();
        !scheme.eq_ignore_ascii_case(b"basic")
    });
    if bearer {
        credential::demand(app, credential::bearer(&parts.headers)?, SCOPE).await?;
        return Ok(());
    }
    let client = client(app, "authzen", parts, &Form::default()).await?;
    if !scope::list_has(&client.client().scope, SCOPE) {
        return Err(OAuthError::new(Code::InsufficientScope, "this client may not ask for decisions").into());
    }
    Ok(())
}

fn is_json(parts: &Parts) -> bool {
    let mut all = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return false };
    let essence = one.as_bytes().split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

async fn decide(app: &App, policy: &Compiled, mut question: Question) -> Result<Verdict, StoreError> {
    complete(app, &mut question.principal).await?;
    let verdict = policy.ask(&question);
    for fault in &verdict.faults {
        tracing::warn!(target: "policy", fault, "a policy could not be evaluated");
    }
    let (outcome, reason) = if verdict.allowed { ("allowed", "ok") } else { ("refused", "policy") };
    metrics::counter!("auth_decisions_total", "route" => "authzen", "outcome" => outcome, "reason" => reason).increment(1);
    Ok(verdict)
}

/// Adds what the accounts know of a person: roles and groups, under whatever the caller says of them itself.
async fn complete(app: &App, being: &mut Being) -> Result<(), StoreError> {
    if !being.kind.eq_ignore_ascii_case("user") {
        return Ok(());
    }
    let user = match app.catalog.user(&being.id).await? {
        Some(user) => Some(user),
        None => {
            let named = app.store.object_by_key(ledger::ObjectKind::User, &being.id).await?;
            named.and_then(|object| serde_json::from_value(object.document).ok()).map(Arc::new)
        }
    };
    let Some(user) = user.filter(|user: &Arc<accounts::User>| !user.disabled) else { return Ok(()) };
    let mut known = Map::new();
    known.insert("username".into(), user.username.as_str().into());
    known.insert("roles".into(), json!(user.roles));
    known.insert("groups".into(), json!(user.groups));
    known.append(&mut being.attributes);
    being.attributes = known;
    being.parents.extend(user.roles.iter().map(|role| ("Role".to_owned(), role.clone())));
    being.parents.extend(user.groups.iter().map(|group| ("Group".to_owned(), group.clone())));
    Ok(())
}
