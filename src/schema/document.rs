//! The operations of an OpenAPI 3.1 document: which one a request is, and what it may bring.
use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::{Map, Value};

use crate::{
    Fault, Rule,
    media::{self, MediaType},
    parameter::{self, Given, Parameter, Place, Shape},
    reference,
    template::Template,
};

/// The most operations of one document.
const MOST: usize = 1000;
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// A compiled document.
#[derive(Debug, Default)]
pub struct Document {
    /// What request paths begin with before the document's paths; without a slash at its end.
    base: String,
    paths: Vec<(Template, Vec<(String, Operation)>)>,
}

/// What one method of one path may bring.
#[derive(Debug, Default)]
pub struct Operation {
    parameters: Vec<Parameter>,
    body: Option<Body>,
}

/// A request body.
#[derive(Debug)]
pub struct Body {
    pub required: bool,
    content: Vec<(String, Content)>,
}

/// What is asked of a body of one media type.
#[derive(Debug)]
pub enum Content {
    /// JSON as its schema says.
    Json(Rule),
    /// A form whose fields are as the schema says.
    Form(Rule, Box<FormShape>),
    /// Text as its schema says.
    Text(Rule),
    /// Nothing: it is passed on as it comes.
    Any,
}

/// How the fields of a form are read.
#[derive(Debug)]
pub struct FormShape {
    whole: Shape,
    /// Fields that may come more than once.
    many: BTreeMap<String, Shape>,
}

/// What a request is.
#[derive(Debug)]
pub enum Found<'d, 'p> {
    /// This operation, with what its path names.
    Operation(&'d Operation, Vec<(&'d str, &'p str)>),
    /// None, but its path takes these methods.
    Methods(Vec<&'d str>),
    /// None.
    Nothing,
}

impl Document {
    /// Compiles a document. `base` is what request paths begin with before the document's own; absent, it is the path of the first
    /// server.
    ///
    /// # Errors
    /// Every mistake.
    pub fn compile(document: &Value, base: Option<&str>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        if !document.get("openapi").and_then(Value::as_str).is_some_and(|v| v.starts_with("3.1.")) {
            faults.push(Fault::new("openapi", "an OpenAPI 3.1 document is needed (openapi: \"3.1.x\")"));
        }
        let base = base.map_or_else(|| served_below(document), str::to_owned);
        let base = base.trim_end_matches('/').to_owned();
        let mut paths: Vec<(Template, Vec<(String, Operation)>)> = Vec::new();
        let empty = Map::new();
        let given = document.get("paths").and_then(Value::as_object).unwrap_or(&empty);
        if given.is_empty() {
            faults.push(Fault::new("paths", "at least one path is needed"));
        }
        for (text, item) in given.iter().filter(|(text, _)| !text.starts_with("x-")) {
            let at = format!("paths.{text}");
            match Template::parse(text) {
                Err(why) => faults.push(Fault::new(at, why)),
                Ok(template) if paths.iter().any(|(other, _)| other.rank() == template.rank()) => {
                    faults.push(Fault::new(at, "another path matches the same requests"));
                }
                Ok(template) => match operations(item, &template, document, &at) {
                    Ok(operations) => paths.push((template, operations)),
                    Err(wrong) => faults.extend(wrong),
                },
            }
        }
        if paths.iter().map(|(_, operations)| operations.len()).sum::<usize>() > MOST {
            faults.push(Fault::new("paths", format!("more than {MOST} operations")));
        }
        paths.sort_by_key(|(template, _)| template.rank());
        if faults.is_empty() { Ok(Self { base, paths }) } else { Err(faults) }
    }

    /// Finds the operation of a request by its method and normal path. HEAD is GET where nothing else is said.
    #[must_use]
    pub fn find<'p>(&self, method: &str, path: &'p str) -> Found<'_, 'p> {
        let Some(rest) = path.strip_prefix(self.base.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Found::Nothing;
        };
        let rest = if rest.is_empty() { "/" } else { rest };
        let Some((operations, named)) = self.paths.iter().find_map(|(template, operations)| Some((operations, template.matches(rest)?)))
        else {
            return Found::Nothing;
        };
        let of = |method: &str| operations.iter().find(|(own, _)| own == method).map(|(_, operation)| operation);
        match of(method).or_else(|| if method == "HEAD" { of("GET") } else { None }) {
            Some(operation) => Found::Operation(operation, named),
            None => Found::Methods(operations.iter().map(|(own, _)| own.as_str()).collect()),
        }
    }
}

/// The path of the first server.
fn served_below(document: &Value) -> String {
    let url = document.pointer("/servers/0/url").and_then(Value::as_str).unwrap_or_default();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map(|(_, path)| path),
        None => url.strip_prefix('/'),
    };
    path.map(|path| format!("/{}", path.split(['?', '#']).next().unwrap_or_default())).unwrap_or_default()
}

fn operations(item: &Value, template: &Template, document: &Value, at: &str) -> Result<Vec<(String, Operation)>, Vec<Fault>> {
    if item.get("$ref").is_some() {
        return Err(vec![Fault::new(format!("{at}.$ref"), "a path item is written out here")]);
    }
    let (mut out, mut faults) = (Vec::new(), Vec::new());
    for method in METHODS {
        let Some(node) = item.get(method) else { continue };
        match operation(item, node, template, document, &format!("{at}.{method}")) {
            Ok(operation) => out.push((method.to_ascii_uppercase(), operation)),
            Err(wrong) => faults.extend(wrong),
        }
    }
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

fn operation(item: &Value, node: &Value, template: &Template, document: &Value, at: &str) -> Result<Operation, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut parameters: Vec<Parameter> = Vec::new();
    // Those of the operation first: they replace those of the path.
    for list in [node, item] {
        for (n, given) in list.get("parameters").and_then(Value::as_array).into_iter().flatten().enumerate() {
            match Parameter::read(given, document, &format!("{at}.parameters[{n}]")) {
                Ok(Some(new)) if parameters.iter().any(|old| old.place == new.place && old.name == new.name) => {}
                Ok(Some(new)) => parameters.push(new),
                Ok(None) => {}
                Err(wrong) => faults.extend(wrong),
            }
        }
    }
    for name in template.names() {
        if !parameters.iter().any(|p| p.place == Place::Path && p.name == name) && faults.is_empty() {
            faults.push(Fault::new(format!("{at}.parameters"), format!("{{{name}}} of the path is no parameter in the path")));
        }
    }
    let body = match node.get("requestBody").map(|given| body(given, document, &format!("{at}.requestBody"))) {
        Some(Ok(body)) => Some(body),
        Some(Err(wrong)) => {
            faults.extend(wrong);
            None
        }
        None => None,
    };
    if faults.is_empty() { Ok(Operation { parameters, body }) } else { Err(faults) }
}

fn body(node: &Value, document: &Value, at: &str) -> Result<Body, Vec<Fault>> {
    let node = reference::follow(node, document, at).map_err(|f| vec![f])?;
    let (mut content, mut faults) = (Vec::new(), Vec::new());
    for (range, media) in node.get("content").and_then(Value::as_object).into_iter().flatten() {
        let essence = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match self::content(&essence, media.get("schema"), document, &format!("{at}.content.{range}")) {
            Ok(kind) => content.push((essence, kind)),
            Err(wrong) => faults.extend(wrong),
        }
    }
    if content.is_empty() && faults.is_empty() {
        faults.push(Fault::new(format!("{at}.content"), "at least one media type is needed"));
    }
    if faults.is_empty() { Ok(Body { required: node.get("required") == Some(&Value::Bool(true)), content }) } else { Err(faults) }
}

fn content(essence: &str, schema: Option<&Value>, document: &Value, at: &str) -> Result<Content, Vec<Fault>> {
    let Some(schema) = schema.filter(|s| **s != Value::Bool(true) && s.as_object().is_none_or(|o| !o.is_empty())) else {
        // Without a schema JSON still has to be JSON.
        let any = || Rule::alone(&Value::Bool(true), at);
        return if media::is_json(essence) { any().map(Content::Json) } else { Ok(Content::Any) };
    };
    let rule = || Rule::within(schema, document, at);
    if media::is_json(essence) {
        return rule().map(Content::Json);
    }
    if essence == "application/x-www-form-urlencoded" {
        let target = reference::follow(schema, document, at).map_err(|f| vec![f])?;
        let members = target.get("properties").and_then(Value::as_object);
        let many = members.into_iter().flatten().map(|(name, node)| (name.clone(), Shape::of(node, document)));
        let many = many.filter(|(_, shape)| matches!(shape, Shape::Many(_))).collect();
        return Ok(Content::Form(rule()?, Box::new(FormShape { whole: Shape::of(schema, document), many })));
    }
    let target = reference::follow(schema, document, at).map_err(|f| vec![f])?;
    let raw = target.get("format").is_some_and(|f| f == "binary") || target.get("contentMediaType").is_some();
    if raw && target.get("type").is_none_or(|t| t == "string") {
        return Ok(Content::Any);
    }
    if essence.starts_with("text/") && target.get("type").is_some_and(|t| t == "string") {
        return rule().map(Content::Text);
    }
    Err(vec![Fault::new(at, "bodies of this type are not looked into: leave the schema out and they pass as they are")])
}

impl Operation {
    /// One that takes JSON bodies as a schema says, and asks nothing else.
    #[must_use]
    pub fn of_body(rule: Rule, required: bool) -> Self {
        Self { parameters: Vec::new(), body: Some(Body { required, content: vec![("application/json".into(), Content::Json(rule))] }) }
    }

    /// What its body may be; `None`: it takes none.
    #[must_use]
    pub const fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// Asks about everything but the body. `strict` refuses parameters of the query that are not known.
    ///
    /// # Errors
    /// What is wrong, at most [`Fault::MOST`] things.
    pub fn check_head(&self, path: &[(&str, &str)], query: Option<&str>, headers: &HeaderMap, strict: bool) -> Result<(), Vec<Fault>> {
        if self.parameters.is_empty() && !strict {
            return Ok(());
        }
        let query = parameter::pairs(query.unwrap_or_default()).map_err(|fault| vec![fault])?;
        let given = Given { path, query: &query, headers };
        let mut faults: Vec<Fault> = self.parameters.iter().filter_map(|p| p.check(&given).err()).flatten().take(Fault::MOST).collect();
        if strict && faults.len() < Fault::MOST && query.iter().any(|(name, _)| !self.parameters.iter().any(|p| p.takes(name))) {
            faults.push(Fault::new("/query", "has a parameter that is not known"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl Body {
    /// What is asked of a body of this type; the closest range decides. A type that JSON's stands for (`+json`) is asked as JSON is only
    /// where it is named.
    #[must_use]
    pub fn content(&self, given: &MediaType) -> Option<&Content> {
        let near = self.content.iter().filter_map(|(range, content)| Some((media::closeness(range, &given.essence)?, content)));
        near.max_by_key(|(near, _)| *near).map(|(_, content)| content)
    }
}

impl FormShape {
    /// A form as the value its schema speaks of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, text: &str) -> Result<Value, Fault> {
        let wrong = |why: &str| Fault::new("/body", why);
        let mut out = Map::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (parameter::form_text(name), parameter::form_text(value)) else {
                return Err(wrong("is not well encoded"));
            };
            if let Some(Shape::Many(types)) = self.many.get(&name) {
                let item = types.read(&value);
                match out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(items) => items.push(item),
                    _ => return Err(wrong("has a field that comes more than once")),
                }
            } else {
                let value = self.whole.member(&name).map_or_else(|| Value::String(value.clone()), |types| types.read(&value));
                if out.insert(name, value).is_some() {
                    return Err(wrong("has a field that comes more than once"));
                }
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "servers": [{"url": "https://api.example.com/v1/"}],
        "paths": {
            "/things": {"get": {"parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}}]},
                "post": {"requestBody": {"required": true, "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}},
                    "application/x-www-form-urlencoded": {"schema": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "t": {"type": "array", "items": {"type": "string"}}}}},
                    "image/*": {}}}}},
            "/things/{id}": {"parameters": [{"$ref": "#/components/parameters/Id"}], "delete": {}, "put": {"requestBody": {"$ref": "#/components/requestBodies/Thing"}}},
            "/things/mine": {"get": {}}
        },
        "components": {
            "parameters": {"Id": {"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}},
            "requestBodies": {"Thing": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
            "schemas": {"Thing": {"type": "object", "required": ["name"], "additionalProperties": false, "properties": {"name": {"type": "string"}, "part": {"$ref": "#/components/schemas/Thing"}}}}
        }})
    }

    fn is(document: &Document, method: &str, path: &str) -> String {
        match document.find(method, path) {
            Found::Operation(_, named) => format!("{named:?}"),
            Found::Methods(methods) => methods.join(","),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn a_request_is_its_closest_operation() {
        let d = Document::compile(&document(), None).unwrap();
        assert_eq!(is(&d, "GET", "/v1/things/mine"), "[]");
        assert_eq!(is(&d, "DELETE", "/v1/things/7"), r#"[("id", "7")]"#);
        assert_eq!(is(&d, "HEAD", "/v1/things"), "[]");
        assert_eq!(is(&d, "PATCH", "/v1/things"), "POST,GET".replace("POST,GET", "GET,POST"));
        for path in ["/v1", "/v1things", "/v1/thing", "/things", "/v1/things/7/x", "/v1/things/"] {
            assert_eq!(is(&d, "GET", path), "nothing", "{path}");
        }
        assert_eq!(is(&Document::compile(&document(), Some("/api")).unwrap(), "GET", "/api/things"), "[]");
    }

    #[test]
    fn parameters_and_bodies_are_asked_about() {
        let d = Document::compile(&document(), None).unwrap();
        let Found::Operation(list, named) = d.find("GET", "/v1/things") else { panic!("found") };
        let none = HeaderMap::new();
        assert!(list.check_head(&named, Some("limit=5&x=1"), &none, false).is_ok());
        assert!(list.check_head(&named, Some("limit=5&x=1"), &none, true).is_err());
        assert!(list.check_head(&named, Some("limit=101"), &none, false).is_err());
        assert!(list.body().is_none());
        let Found::Operation(post, _) = d.find("POST", "/v1/things") else { panic!("found") };
        let body = post.body().unwrap();
        let content = |text: &str| body.content(&MediaType::parse(text).unwrap());
        let Some(Content::Json(rule)) = content("application/json; charset=utf-8") else { panic!("JSON") };
        assert!(rule.check(&json!({"name": "a", "part": {"name": "b"}}), 1, "/body").is_ok());
        assert!(rule.check(&json!({"name": "a", "part": {"name": 1}}), 1, "/body").is_err());
        assert!(matches!(content("image/png"), Some(Content::Any)));
        assert!(content("text/plain").is_none() && content("application/vnd.x+json").is_none());
        let Some(Content::Form(rule, shape)) = content("application/x-www-form-urlencoded") else { panic!("a form") };
        assert!(rule.holds(&shape.read("n=1&t=a&t=b+c").unwrap()));
        assert!(!rule.holds(&shape.read("n=x").unwrap()));
        assert!(shape.read("n=1&n=2").is_err() && shape.read("n=%ff").is_err());
    }

    #[test]
    fn every_mistake_of_a_document_is_named_at_once() {
        let mut bad = document();
        bad["openapi"] = json!("3.0.3");
        bad["paths"]["/things/{other}"] = json!({"get": {}});
        bad["paths"]["/open/{x}"] = json!({"get": {}});
        bad["paths"]["/remote"] =
            json!({"post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "https://example.com/x.json"}}}}}});
        bad["paths"]["/xml"] = json!({"post": {"requestBody": {"content": {"application/xml": {"schema": {"type": "object"}}}}}});
        bad["paths"]["/old"] =
            json!({"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "string", "nullable": true}}}}}});
        let at: Vec<String> = Document::compile(&bad, None).unwrap_err().into_iter().map(|f| f.at).collect();
        for place in [
            "openapi",
            "paths./things/{other}",
            "paths./open/{x}.get.parameters",
            "paths./remote.post.requestBody.content.application/json/$ref",
            "paths./xml.post.requestBody.content.application/xml",
            "paths./old.post.requestBody.content.application/json/nullable",
        ] {
            assert!(at.iter().any(|a| a == place), "{place} in {at:?}");
        }
    }
}
