//! CRUD on administered objects (RFC 9110, RFC 7396).
use ledger::{Object, ObjectKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use tokens::b64;

use crate::{
    call::{Call, filter},
    objects::{Done, Failure},
    operations::{PREFIX, RESOURCES},
    problem::Problem,
    rest::Answer,
    schema,
    state::AdminState,
};

/// Everything of a path segment but what is unreserved (RFC 3986 §2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(mistakes) => Self::invalid(mistakes),
            Failure::Conflict(why) => Self::conflict(why),
            Failure::Unknown => Self::unknown(),
            Failure::Stale => Self::stale(),
            Failure::Busy => Self::away(),
            Failure::Store(error) => error.into(),
        }
    }
}

/// A page of `items`, and the opaque cursor of the next.
pub fn page(items: Vec<Value>, next: Option<&str>) -> Answer {
    let mut page = Map::new();
    page.insert("items".into(), Value::Array(items));
    page.insert("next".into(), next.map_or(Value::Null, |n| b64::encode(n.as_bytes()).into()));
    Answer::ok(Value::Object(page))
}

/// `GET` of a collection: a page, or the one that a filter names.
pub async fn list(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    if let Some((by_key, value)) = filter(call, kind) {
        let found = if by_key { state.store().object_by_key(kind, value).await? } else { state.store().object(kind, value).await? };
        return Ok(page(told(state, found).await?, None));
    }
    let found = state.listings.list_objects(kind, call.cursor()?.as_deref(), call.limit()?).await?;
    Ok(page(told(state, found.items).await?, found.next.as_deref()))
}

async fn told(state: &AdminState, objects: impl IntoIterator<Item = Object>) -> Result<Vec<Value>, Problem> {
    let mut out = Vec::new();
    for object in objects {
        out.push(state.objects.shown_api_key(object).await?.document);
    }
    Ok(out)
}

/// `POST` to a collection.
pub async fn create(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    let done = state.objects.create(kind, call.body.clone(), &call.actor).await?;
    let location = location(&done.object);
    let version = done.object.version;
    Ok(Answer::created(shown(done), location).version(version))
}

/// `GET` of an object.
pub async fn read(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    let object = state.objects.find(kind, &call.id).await?.ok_or_else(Problem::unknown)?;
    let object = state.objects.shown_api_key(object).await?;
    let version = object.version;
    Ok(Answer::ok(object.document).version(version))
}

/// `PUT` of an object.
pub async fn replace(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    let done = state.objects.replace(kind, &call.id, &call.body, &call.wanted, &call.actor).await?;
    rewritten(state, done).await
}

/// `PATCH` of an object.
pub async fn patch(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    let done = state.objects.patch(kind, &call.id, &call.body, &call.wanted, &call.actor).await?;
    rewritten(state, done).await
}

/// `DELETE` of an object.
pub async fn delete(state: &AdminState, kind: ObjectKind, call: &Call) -> Result<Answer, Problem> {
    state.objects.delete(kind, &call.id, &call.wanted, &call.actor).await?;
    Ok(Answer::empty())
}

async fn rewritten(state: &AdminState, done: Done) -> Result<Answer, Problem> {
    let version = done.object.version;
    let object = state.objects.shown_api_key(done.object).await?;
    Ok(Answer::ok(shown(Done { object, ..done })).version(version))
}

/// The document, with the secret that was made for it: the only time it is shown.
fn shown(done: Done) -> Value {
    let mut document = done.object.document;
    if let (Some(name), Some(plain), Some(members)) = (schema::secret_member(done.object.kind), done.generated, document.as_object_mut()) {
        members.insert(name.to_owned(), plain.expose().into());
    }
    document
}

fn location(object: &Object) -> String {
    let collection = RESOURCES.iter().find(|r| r.kind == object.kind).map_or("", |r| r.path);
    format!("{PREFIX}{collection}/{}", utf8_percent_encode(&object.id, SEGMENT))
}
