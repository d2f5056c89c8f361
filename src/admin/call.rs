//! One request read: its query, preconditions and body, within the limits (RFC 9110 §13, RFC 8259).
use axum::body::Body;
use http::{
    HeaderMap, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH},
};
use ledger::ObjectKind;
use serde_json::Value;
use tokens::b64;
use whole::Unread;

use crate::{
    json::{self, MAX_BODY, short},
    objects::Wanted,
    operations::{Does, Takes},
    problem::Problem,
    schema,
    state::Actor,
};

/// Entries of a page when none is asked.
const PAGE: u32 = 50;
/// Entries of a page at most.
pub const MAX_PAGE: u32 = 200;

/// A request that may be carried out.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub actor: Actor,
    /// The path's `{id}`, decoded; empty where there is none.
    pub id: String,
    /// Query parameters.
    query: Vec<(String, String)>,
    /// Which version it is for.
    pub wanted: Wanted,
    /// The body; `Null` where there is none.
    pub body: Value,
}

impl Call {
    /// Reads what an operation takes.
    ///
    /// # Errors
    /// 400, 413, 415 or 422 with every mistake.
    pub async fn read(does: Does, actor: Actor, id: String, request: Request<Body>) -> Result<Self, Problem> {
        let query = query(request.uri().query().unwrap_or(""), &does.parameters())?;
        let wanted = wanted(request.headers())?;
        let body = body(&does.takes(), request).await?;
        Ok(Self { actor, id, query, wanted, body })
    }

    /// A query parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// How many entries are wanted: 1 to [`MAX_PAGE`]; more counts as that.
    ///
    /// # Errors
    /// 400 if it is not a number above zero.
    pub fn limit(&self) -> Result<u32, Problem> {
        match self.parameter("limit") {
            None => Ok(PAGE),
            Some(text) => match text.parse::<u64>() {
                Ok(n) if n > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(u32::try_from(n).unwrap_or(MAX_PAGE).min(MAX_PAGE)),
                _ => Err(Problem::malformed("limit must be a number from 1 to 200")),
            },
        }
    }

    /// Where to go on.
    ///
    /// # Errors
    /// 400 if it is not a cursor of ours.
    pub fn cursor(&self) -> Result<Option<String>, Problem> {
        let Some(text) = self.parameter("cursor") else { return Ok(None) };
        let cursor = b64::decode(text).and_then(|bytes| String::from_utf8(bytes).ok()).filter(|c| !c.is_empty());
        cursor.map(Some).ok_or_else(|| Problem::malformed("cursor must be the `next` of a page"))
    }

    /// A text member of the body.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name).and_then(Value::as_str)
    }

    /// A flag of the body.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.body.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

fn query(text: &str, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(Problem::malformed(format!(
                "query parameter `{}` {}",
                short(&name),
                schema::unknown(&name, known.iter().copied())
            )));
        }
        if out.iter().any(|(n, _)| *n == name) {
            return Err(Problem::malformed(format!("query parameter `{}` comes twice", short(&name))));
        }
        out.push((name.into_owned(), value.into_owned()));
    }
    Ok(out)
}

fn wanted(headers: &HeaderMap) -> Result<Wanted, Problem> {
    let mut tags = Vec::new();
    for line in headers.get_all(IF_MATCH) {
        let line = line.to_str().map_err(|_| Problem::malformed("If-Match cannot be read"))?;
        for tag in line.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            if tag == "*" {
                return Ok(Wanted::Any);
            }
            // A tag that is not one of ours (or weak) matches nothing: RFC 9110 §13.1.1 asks for strong comparison.
            tags.push(tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok()).unwrap_or(-1));
        }
    }
    Ok(if headers.contains_key(IF_MATCH) { Wanted::Versions(tags) } else { Wanted::Any })
}

/// How long a body may take.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(30);

async fn body(takes: &Takes, request: Request<Body>) -> Result<Value, Problem> {
    let (parts, body) = request.into_parts();
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|n| n > MAX_BODY as u64) {
        return Err(Problem::too_large());
    }
    let bytes = match tokio::time::timeout(BODY_TIME, whole::read(body, MAX_BODY)).await {
        Err(_) => return Err(Problem::too_slow()),
        Ok(Ok(octets)) => octets,
        Ok(Err(Unread::TooLarge)) => return Err(Problem::too_large()),
        Ok(Err(Unread::Broken(_))) => return Err(Problem::malformed("the body ended early")),
    };
    let shape = match takes {
        Takes::Nothing if bytes.is_empty() => return Ok(Value::Null),
        Takes::Nothing => return Err(Problem::malformed("this operation takes no body")),
        Takes::Content(_, true) if bytes.is_empty() => return Ok(Value::Null),
        Takes::Content(shape, _) => Some(shape),
        Takes::Document(_) | Takes::MergePatch(_) => None,
    };
    if !json_type(&parts.headers, matches!(takes, Takes::MergePatch(_))) {
        return Err(Problem::media_type());
    }
    let value = json::read(&bytes).map_err(Problem::malformed)?;
    if !value.is_object() {
        return Err(Problem::malformed("a JSON object is expected"));
    }
    match shape.map(|shape| schema::mistakes(shape, &value)) {
        Some(wrong) if !wrong.is_empty() => Err(Problem::invalid(wrong)),
        _ => Ok(value),
    }
}

fn json_type(headers: &HeaderMap, patch: bool) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Ok(line) = line.to_str() else { return false };
    let mut parts = line.split(';').map(str::trim);
    let essence = parts.next().unwrap_or("");
    let utf8 = parts.all(|p| match p.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => value.trim_matches('"').eq_ignore_ascii_case("utf-8"),
        _ => true,
    });
    utf8 && (essence.eq_ignore_ascii_case("application/json") || (patch && essence.eq_ignore_ascii_case("application/merge-patch+json")))
}

/// The id by which a filter names one object, if the query does.
#[must_use]
pub fn filter(call: &Call, kind: ObjectKind) -> Option<(bool, &str)> {
    let key = schema::key_member(kind);
    call.parameter(key).map(|value| (true, value)).or_else(|| call.parameter("id").map(|value| (false, value)))
}
