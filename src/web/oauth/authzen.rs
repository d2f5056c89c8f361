//! The policy decision point of the AuthZEN Authorization API 1.0: the stored policies, asked over HTTP by whoever enforces them elsewhere.
use std::{collections::HashMap, sync::Arc};

use accounts::User;
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use edge::limit::Quota;
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use ledger::StoreError;
use policy::{
    Being, Compiled, Question, Verdict,
    authzen::{self, Batch, Found, Malformed, Search, Sought},
};
use protocol::{Code, Form, OAuthError, scope};
use serde_json::{Map, Value, json};

use super::{client, octets};
use crate::{
    App, credential,
    limits::Policy,
    reply::{self, Failed},
};

/// What a caller needs: in its token, or in its registration where it authenticates as a client.
const SCOPE: &str = "doorward.decide";
/// Decisions of one client: what a batch has items, a search as many as a tenth of the candidates it may look at.
const ASKED: Policy = Policy { name: "decisions", quota: Quota { rate: 120_000, period_s: 60, burst: 20_000 } };
const SEARCH: u32 = 100;
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
    let client_id = permitted(app, &parts).await?;
    if !is_json(&parts) {
        return Err(Refused::MediaType);
    }
    let octets = octets(&parts, body).await?;
    let body = tokens::strict::object(&octets).map_err(|_| Refused::Malformed(Malformed("the body is not a JSON object")))?;
    let body = Value::Object(body);
    let policy = app.policies.current().await?;
    let answer = match asks {
        Asks::One => {
            let question = authzen::evaluation(&body).map_err(Refused::Malformed)?;
            count(app, &client_id, 1).await?;
            one(app, &policy, question).await?
        }
        Asks::Many => match authzen::evaluations(&body).map_err(Refused::Malformed)? {
            Batch::Single(question) => {
                count(app, &client_id, 1).await?;
                one(app, &policy, *question).await?
            }
            Batch::Many(items, semantic) => {
                count(app, &client_id, u32::try_from(items.len()).unwrap_or(u32::MAX)).await?;
                let _desk = app.policies.desk.acquire().await;
                let (mut answers, mut people) = (Vec::with_capacity(items.len()), People::default());
                for item in items.questions() {
                    let (allowed, answer) = match item {
                        Ok(mut question) => {
                            let person = people.find(app, &question.principal).await?;
                            let policy = Arc::clone(&policy);
                            // Each item takes its time: not on a thread that serves others.
                            let deciding = tokio::task::spawn_blocking(move || decide(&policy, &mut question, &person));
                            let verdict = deciding.await.map_err(|_| StoreError::Unavailable("a decision was cut off".into()))?;
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
            let search = Search::read(sought, &body).map_err(Refused::Malformed)?;
            count(app, &client_id, SEARCH).await?;
            let _desk = app.policies.desk.acquire().await;
            seek(app, policy, search).await?
        }
    };
    Ok(reply::json(StatusCode::OK, Bytes::from(answer.to_string())))
}

/// Counts decisions against what a client may ask.
async fn count(app: &App, client_id: &str, cost: u32) -> Result<(), Refused> {
    let verdict = app.counters.hit(&format!("authzen:{client_id}"), &ASKED.quota, cost.max(1), app.clock.now_ms()).await;
    if verdict.allowed { Ok(()) } else { Err(Failed::Limited(ASKED.waits(verdict.retry_after_s())).into()) }
}

async fn one(app: &App, policy: &Compiled, mut question: Question) -> Result<Value, StoreError> {
    let person = find(app, &question.principal).await?;
    Ok(authzen::answer(&decide(policy, &mut question, &person)))
}

/// Up to a thousand decisions.
async fn seek(app: &App, policy: Arc<Compiled>, mut search: Search) -> Result<Value, StoreError> {
    for being in search.known() {
        let person = find(app, being).await?;
        if matches!(&person, Person::Disabled) {
            return Ok(search.answer(&Found::default()));
        }
        complete(being, &person);
    }
    // Not on a thread that serves others.
    let looking = tokio::task::spawn_blocking(move || {
        let found = search.run(&policy);
        (search, found)
    });
    let (search, mut found) = looking.await.map_err(|_| StoreError::Unavailable("a search was cut off".into()))?;
    if let Some(kind) = search.sought_subject() {
        for id in found.ids().to_vec() {
            if matches!(find(app, &Being::new(kind, id.as_str())).await?, Person::Disabled) {
                found.leave_out(&id);
            }
        }
    }
    Ok(search.answer(&found))
}

/// Whether the caller may ask: a client of ours with the scope, or a token that carries it. Gives the client's id.
async fn permitted(app: &App, parts: &Parts) -> Result<String, Refused> {
    let bearer = parts.headers.get(header::AUTHORIZATION).is_none_or(|value| {
        let scheme = value.as_bytes().split(|b| *b == b' ').next().unwrap_or_default();
        !scheme.eq_ignore_ascii_case(b"basic")
    });
    if bearer {
        let seen = credential::demand(app, credential::bearer(&parts.headers)?, SCOPE).await?;
        return Ok(seen.known.client_id.clone());
    }
    let client = client(app, "authzen", parts, &Form::default()).await?;
    if !scope::list_has(&client.client().scope, SCOPE) {
        return Err(OAuthError::new(Code::InsufficientScope, "this client may not ask for decisions").into());
    }
    Ok(client.id().to_owned())
}

fn is_json(parts: &Parts) -> bool {
    let mut all = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return false };
    let essence = one.as_bytes().split(|b| *b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// What the accounts know of a subject.
#[derive(Clone)]
enum Person {
    /// No person, or nobody known.
    Unknown,
    Known(Arc<User>),
    /// May nothing, whatever the policies say.
    Disabled,
}

/// The persons of one batch, each looked for once.
#[derive(Default)]
struct People(HashMap<String, Person>);

impl People {
    async fn find(&mut self, app: &App, being: &Being) -> Result<Person, StoreError> {
        if !is_person(being) {
            return Ok(Person::Unknown);
        }
        if let Some(known) = self.0.get(&being.id) {
            return Ok(known.clone());
        }
        let found = find(app, being).await?;
        self.0.insert(being.id.clone(), found.clone());
        Ok(found)
    }
}

fn is_person(being: &Being) -> bool {
    being.kind.eq_ignore_ascii_case("user")
}

/// Looks for an account by id or name.
async fn find(app: &App, being: &Being) -> Result<Person, StoreError> {
    if !is_person(being) {
        return Ok(Person::Unknown);
    }
    let user = match app.catalog.user(&being.id).await? {
        Some(user) => Some(user),
        None => {
            let named = app.store.object_by_key(ledger::ObjectKind::User, &being.id).await?;
            named.and_then(|object| serde_json::from_value(object.document).ok()).map(Arc::new)
        }
    };
    Ok(match user {
        Some(user) if user.disabled => Person::Disabled,
        Some(user) => Person::Known(user),
        None => Person::Unknown,
    })
}

fn decide(policy: &Compiled, question: &mut Question, person: &Person) -> Verdict {
    let verdict = match person {
        Person::Disabled => Verdict::default(),
        _ => {
            complete(&mut question.principal, person);
            policy.ask(question)
        }
    };
    for fault in &verdict.faults {
        tracing::warn!(target: "policy", fault, "a policy could not be evaluated");
    }
    let (outcome, reason) = if verdict.allowed { ("allowed", "ok") } else { ("refused", "policy") };
    metrics::counter!("auth_decisions_total", "route" => "authzen", "outcome" => outcome, "reason" => reason).increment(1);
    verdict
}

/// Adds what the accounts know of a person: roles and groups, under whatever the caller says of them itself.
fn complete(being: &mut Being, person: &Person) {
    let Person::Known(user) = person else { return };
    let mut known = Map::new();
    known.insert("username".into(), user.username.as_str().into());
    known.insert("roles".into(), json!(user.roles));
    known.insert("groups".into(), json!(user.groups));
    known.append(&mut being.attributes);
    being.attributes = known;
    being.parents.extend(user.roles.iter().map(|role| ("Role".to_owned(), role.clone())));
    being.parents.extend(user.groups.iter().map(|group| ("Group".to_owned(), group.clone())));
}
