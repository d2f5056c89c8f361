//! What the requests of a route have to look like: an OpenAPI 3.1 document, or one schema for JSON bodies.
use std::sync::{Arc, Weak};

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use ledger::Mistake;
use parking_lot::Mutex;
use schema::{Body, Content, Document, Fault, Found, Operation, Rule, media::MediaType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Refusal;

/// The largest body that is looked into where the route does not say, octets.
pub const BODY: u64 = 256 * 1024;
/// The largest that may be asked for.
const BODY_MAX: u64 = 4 * 1024 * 1024;
/// The largest document, octets of its JSON.
const DOCUMENT_MAX: usize = 1024 * 1024;

/// What becomes of requests that are none of the document's operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// 404, or 405 where the path has other methods.
    #[default]
    Refuse,
    /// They pass unchecked.
    Pass,
}

/// `validation` of a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// An OpenAPI 3.1 document, or as much of one as is needed: `openapi`, `paths`, `components`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openapi: Option<Value>,
    /// Instead of a document: a JSON Schema (2020-12) for the JSON bodies of POST, PUT and PATCH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// What request paths begin with before the document's paths; absent: the path of its first server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    #[serde(skip_serializing_if = "is_refuse")]
    pub unknown: Unknown,
    /// What becomes of parameters of the query that the document does not know.
    #[serde(skip_serializing_if = "is_pass")]
    pub unknown_query: UnknownQuery,
    /// Octets of a body that is looked into, 256 KiB when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
}

/// What becomes of parameters of the query that the document does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownQuery {
    /// 400.
    Refuse,
    /// They pass.
    #[default]
    Pass,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_refuse(unknown: &Unknown) -> bool {
    *unknown == Unknown::Refuse
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_pass(unknown: &UnknownQuery) -> bool {
    *unknown == UnknownQuery::Pass
}

#[derive(Debug)]
enum Asked {
    Document(Document),
    Body(Operation),
}

/// The rules made ready.
#[derive(Debug)]
pub struct Checker {
    given: Validation,
    asked: Asked,
}

impl PartialEq for Checker {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

/// A request that is not as it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    pub refusal: Refusal,
    /// Where and why, for whoever sent it; nothing of what was sent.
    pub faults: Vec<Fault>,
}

impl Unfit {
    fn of(refusal: Refusal, at: &str, why: &str) -> Self {
        Self { refusal, faults: vec![Fault::new(at, why)] }
    }
    fn invalid(faults: Vec<Fault>) -> Self {
        Self { refusal: Refusal::Malformed("validation"), faults }
    }
}

/// What is asked of a request's body.
#[derive(Debug)]
pub enum Expected<'c> {
    /// It is not looked into.
    Anything,
    /// There is none to look into.
    Nothing,
    /// It is read whole and looked into before anything is sent on.
    Checked(&'c Content),
}

/// Compiled rules by what was given: a table that is built again, or checked before it is stored, need not compile them again.
static KNOWN: Mutex<Vec<([u8; 32], Weak<Checker>)>> = Mutex::new(Vec::new());

impl Validation {
    /// Compiles it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn ready(&self) -> Result<Arc<Checker>, Vec<Mistake>> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if text.len() > DOCUMENT_MAX {
            return Err(vec![Mistake::new("validation", format!("is larger than {DOCUMENT_MAX} octets"))]);
        }
        let hash = tokens::hash::sha256(&text);
        let known = KNOWN.lock().iter().find(|(own, _)| *own == hash).and_then(|(_, checker)| checker.upgrade());
        if let Some(checker) = known.filter(|checker| checker.given == *self) {
            return Ok(checker);
        }
        let checker = Arc::new(self.compile()?);
        let mut all = KNOWN.lock();
        all.retain(|(_, checker)| checker.strong_count() > 0);
        all.push((hash, Arc::downgrade(&checker)));
        Ok(checker)
    }

    fn compile(&self) -> Result<Checker, Vec<Mistake>> {
        let mut wrong = Vec::new();
        if self.max_body.is_some_and(|most| most == 0 || most > BODY_MAX) {
            wrong.push(Mistake::new("validation.max_body", format!("must be 1 to {BODY_MAX}")));
        }
        if self.base_path.as_ref().is_some_and(|base| !base.starts_with('/') || crate::path::normalise(base).map_or(true, |n| n != *base)) {
            wrong.push(Mistake::new("validation.base_path", "must start with '/' and be a plain path"));
        }
        let told = |within: &str, faults: Vec<Fault>| {
            faults.into_iter().map(|f| Mistake::new(format!("validation.{within}.{}", f.at), f.why)).collect::<Vec<_>>()
        };
        let asked = match (&self.openapi, &self.schema) {
            (Some(document), None) => {
                Document::compile(document, self.base_path.as_deref()).map(Asked::Document).map_err(|f| told("openapi", f))
            }
            (None, Some(schema)) => {
                if self.base_path.is_some() || self.unknown != Unknown::Refuse || self.unknown_query != UnknownQuery::Pass {
                    wrong.push(Mistake::new("validation.schema", "base_path, unknown and unknown_query belong to an openapi document"));
                }
                let rule = Rule::alone(schema, "#").map_err(|f| told("schema", f));
                rule.map(|rule| Asked::Body(Operation::of_body(rule, true)))
            }
            _ => Err(vec![Mistake::new("validation", "either openapi or schema is needed")]),
        };
        match asked {
            Ok(asked) if wrong.is_empty() => Ok(Checker { given: self.clone(), asked }),
            Ok(_) => Err(wrong),
            Err(more) => {
                wrong.extend(more);
                Err(wrong)
            }
        }
    }
}

impl Checker {
    /// The largest body that is looked into.
    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.given.max_body.unwrap_or(BODY)
    }

    /// Asks about everything but the body, and says what is asked of that.
    ///
    /// # Errors
    /// 400, 404, 405 or 415.
    pub fn head(&self, method: &str, path: &str, query: Option<&str>, headers: &HeaderMap, has_body: bool) -> Result<Expected<'_>, Unfit> {
        let operation = match &self.asked {
            Asked::Body(operation) if matches!(method, "POST" | "PUT" | "PATCH") || has_body => operation,
            Asked::Body(_) => return Ok(Expected::Nothing),
            Asked::Document(document) => match document.find(method, path) {
                Found::Operation(operation, named) => {
                    let strict = self.given.unknown_query == UnknownQuery::Refuse;
                    operation.check_head(&named, query, headers, strict).map_err(Unfit::invalid)?;
                    operation
                }
                _ if self.given.unknown == Unknown::Pass => return Ok(Expected::Anything),
                Found::Methods(_) => return Err(Unfit { refusal: Refusal::Method, faults: Vec::new() }),
                Found::Nothing => return Err(Unfit { refusal: Refusal::NoOperation, faults: Vec::new() }),
            },
        };
        match operation.body() {
            None if has_body => Err(Unfit::invalid(vec![Fault::new("/body", "is not allowed")])),
            None => Ok(Expected::Nothing),
            Some(body) if !has_body && body.required => Err(Unfit::invalid(vec![Fault::new("/body", "is needed")])),
            Some(_) if !has_body => Ok(Expected::Nothing),
            Some(body) => content(body, headers),
        }
    }

    /// The methods of a path that are operations, for `Allow`.
    #[must_use]
    pub fn methods(&self, path: &str) -> Vec<String> {
        match &self.asked {
            Asked::Document(document) => match document.find("", path) {
                Found::Methods(methods) => methods.into_iter().map(str::to_owned).collect(),
                _ => Vec::new(),
            },
            Asked::Body(_) => Vec::new(),
        }
    }
}

/// What is asked of a body of the type that a request says it has.
fn content<'c>(body: &'c Body, headers: &HeaderMap) -> Result<Expected<'c>, Unfit> {
    let unfit = |why| Unfit::of(Refusal::MediaType(why), "/body", "is of a type that is not taken here");
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unfit("content_encoding"));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return Err(unfit("content_type")) };
    let media = only.to_str().ok().and_then(MediaType::parse).ok_or_else(|| unfit("content_type"))?;
    match body.content(&media).ok_or_else(|| unfit("content_type"))? {
        Content::Any => Ok(Expected::Anything),
        _ if !media.is_utf8() => Err(unfit("charset")),
        content => Ok(Expected::Checked(content)),
    }
}

/// Asks about a whole body.
///
/// # Errors
/// 400, with where and why.
pub fn body(content: &Content, octets: &[u8]) -> Result<(), Unfit> {
    let invalid = |why: &str| Unfit::of(Refusal::Malformed("validation"), "/body", why);
    let text = || std::str::from_utf8(octets).map_err(|_| invalid("is not UTF-8"));
    let (rule, value) = match content {
        Content::Any => return Ok(()),
        Content::Json(rule) => {
            text()?;
            let value = tokens::strict::value(octets).map_err(|refusal| {
                invalid(if refusal == tokens::Refusal::DuplicateMember { "has a member twice" } else { "is not JSON of at most 32 levels" })
            })?;
            (rule, value)
        }
        Content::Form(rule, shape) => (rule, shape.read(text()?).map_err(|fault| Unfit::invalid(vec![fault]))?),
        Content::Text(rule) => (rule, Value::String(text()?.to_owned())),
    };
    rule.check(&value, octets.len(), "/body").map_err(Unfit::invalid)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn checker(value: Value) -> Arc<Checker> {
        serde_json::from_value::<Validation>(value).unwrap().ready().unwrap()
    }

    fn verdict(checker: &Checker, method: &str, path: &str, media: &str, octets: &[u8]) -> u16 {
        let mut headers = HeaderMap::new();
        for one in media.split('|').filter(|m| !m.is_empty()) {
            headers.append(CONTENT_TYPE, HeaderValue::from_str(one).unwrap());
        }
        match checker.head(method, path, None, &headers, !octets.is_empty()) {
            Err(unfit) => unfit.refusal.status(),
            Ok(Expected::Anything | Expected::Nothing) => 200,
            Ok(Expected::Checked(content)) => body(content, octets).map_or_else(|unfit| unfit.refusal.status(), |()| 200),
        }
    }

    #[test]
    fn a_body_is_what_it_says_and_what_the_schema_says() {
        let c = checker(json!({"schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}}));
        let deep = format!("{{\"a\":1,\"b\":{}{}}}", "[".repeat(40), "]".repeat(40));
        for (media, octets, status) in [
            ("application/json", br#"{"a":1}"#.as_slice(), 200),
            ("application/json; charset=utf-8", br#"{"a":1}"#, 200),
            ("application/json", br#"{"a":"x"}"#, 400),
            ("application/json", br#"{"a":1,"a":2}"#, 400),
            ("application/json", br#"{"a":NaN}"#, 400),
            ("application/json", br#"{"a":1e999}"#, 400),
            ("application/json", br#"{"a":1} x"#, 400),
            ("application/json", b"{\"a\":1,\"b\":\"\xff\"}", 400),
            ("application/json", deep.as_bytes(), 400),
            ("application/json; charset=utf-16", br#"{"a":1}"#, 415),
            ("application/json|text/plain", br#"{"a":1}"#, 415),
            ("text/plain", br#"{"a":1}"#, 415),
            ("application/json, text/plain", br#"{"a":1}"#, 415),
            ("", br#"{"a":1}"#, 415),
            ("application/json", b"", 400),
        ] {
            assert_eq!(verdict(&c, "POST", "/x", media, octets), status, "{media} {}", octets.escape_ascii());
        }
        assert_eq!(verdict(&c, "GET", "/x", "", b""), 200);
        assert_eq!(verdict(&c, "GET", "/x", "application/json", b"[]"), 400, "a body is looked into whatever the method");
    }

    #[test]
    fn what_is_no_operation_is_refused_or_passes_as_the_route_says() {
        let document = json!({"openapi": "3.1.0", "paths": {"/a": {"get": {}, "post": {"requestBody": {"content": {"image/png": {}}}}}}});
        let strict = checker(json!({"openapi": document, "base_path": "/v1"}));
        assert_eq!(verdict(&strict, "GET", "/v1/a", "", b""), 200);
        assert_eq!(verdict(&strict, "GET", "/v1/a", "text/plain", b"x"), 400, "a body that is not expected");
        assert_eq!(verdict(&strict, "POST", "/v1/a", "image/png", b"\xff"), 200);
        assert_eq!((verdict(&strict, "DELETE", "/v1/a", "", b""), verdict(&strict, "GET", "/v1/b", "", b"")), (405, 404));
        assert_eq!(strict.methods("/v1/a"), ["GET", "POST"]);
        let open = checker(json!({"openapi": document, "base_path": "/v1", "unknown": "pass"}));
        assert_eq!((verdict(&open, "DELETE", "/v1/a", "", b""), verdict(&open, "GET", "/b", "text/plain", b"x")), (200, 200));
    }

    #[test]
    fn the_same_rules_are_compiled_once_and_mistakes_are_named() {
        let one = checker(json!({"schema": {"type": "string"}}));
        assert!(Arc::ptr_eq(&one, &checker(json!({"schema": {"type": "string"}}))));
        let wrong = |value: Value| {
            serde_json::from_value::<Validation>(value).unwrap().ready().unwrap_err().into_iter().map(|m| m.at).collect::<Vec<_>>()
        };
        assert_eq!(wrong(json!({})), ["validation"]);
        assert_eq!(wrong(json!({"schema": {}, "openapi": {}})), ["validation"]);
        assert_eq!(
            wrong(json!({"schema": {"type": 1}, "max_body": 0, "base_path": "x"})),
            ["validation.max_body", "validation.base_path", "validation.schema", "validation.schema.#"]
        );
        assert_eq!(wrong(json!({"openapi": {"openapi": "2.0"}})), ["validation.openapi.openapi", "validation.openapi.paths"]);
    }
}
