//! Parameters in path, query, headers and cookies (OpenAPI 3.1 §4.8.12): spelled in a style, read as what their schema says.
use std::borrow::Cow;

use http::{HeaderMap, header::COOKIE};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::{Fault, Rule, reference};

/// Where a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Simple,
    Form,
    Spaces,
    Pipes,
    Deep,
}

/// What a text may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Types {
    text: bool,
    number: bool,
    boolean: bool,
}

/// How a parameter's value is put together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    One(Types),
    Many(Types),
    /// Members by name, and what others may be.
    Named(Vec<(String, Types)>, Types),
    /// JSON in a text.
    Json,
}

/// A parameter of an operation.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    pub place: Place,
    pub required: bool,
    style: Style,
    explode: bool,
    shape: Shape,
    rule: Rule,
}

/// Where a request's parameters are.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// By name, as they are spelled in the path.
    pub path: &'a [(&'a str, &'a str)],
    /// Names decoded, values as they came.
    pub query: &'a [(Cow<'a, str>, &'a str)],
    pub headers: &'a HeaderMap,
}

/// Splits a query; names are decoded, values stay as they came.
///
/// # Errors
/// A name that is no text.
pub fn pairs(query: &str) -> Result<Vec<(Cow<'_, str>, &str)>, Fault> {
    let split = |pair| str::split_once(pair, '=').unwrap_or((pair, ""));
    let named = |(name, value)| Some((form_text(name)?.into(), value));
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| named(split(pair)).ok_or_else(|| Fault::new("/query", "is not well encoded")))
        .collect()
}

/// The text of a form's name or value; `None` if it is not UTF-8, or an escape is none.
pub(crate) fn form_text(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    decoded(&spaced)
}

fn decoded(text: &str) -> Option<String> {
    let octets = text.as_bytes();
    let hex = |n: usize| octets.get(n).is_some_and(u8::is_ascii_hexdigit);
    if octets.iter().enumerate().any(|(n, b)| *b == b'%' && !(hex(n + 1) && hex(n + 2))) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

impl Types {
    const ALL: Self = Self { text: true, number: true, boolean: true };

    fn of(schema: &Value, document: &Value, depth: u8) -> Self {
        let none = Self { text: false, number: false, boolean: false };
        let with = |types: Self, name: &str| match name {
            "string" => Self { text: true, ..types },
            "number" | "integer" => Self { number: true, ..types },
            "boolean" => Self { boolean: true, ..types },
            _ => types,
        };
        match names_of(schema, document, depth) {
            Some(names) => names.iter().fold(none, |types, name| with(types, name)),
            None => Self::ALL,
        }
    }

    /// What a text stands for.
    pub(crate) fn read(self, text: &str) -> Value {
        if self.number
            && text.bytes().next().is_some_and(|b| b == b'-' || b.is_ascii_digit())
            && let Ok(number) = serde_json::from_str::<serde_json::Number>(text)
        {
            return Value::Number(number);
        }
        match text {
            "true" if self.boolean => Value::Bool(true),
            "false" if self.boolean => Value::Bool(false),
            _ => Value::String(text.to_owned()),
        }
    }
}

/// The types a schema allows, as far as that can be seen; `None`: any.
fn names_of(schema: &Value, document: &Value, depth: u8) -> Option<Vec<String>> {
    if depth == 0 {
        return None;
    }
    let schema = reference::follow(schema, document, "").ok()?;
    match schema.get("type") {
        Some(Value::String(one)) => return Some(vec![one.clone()]),
        Some(Value::Array(many)) => return Some(many.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => {}
    }
    if let Some(all) = schema.get("allOf").and_then(Value::as_array)
        && let Some(names) = all.iter().find_map(|part| names_of(part, document, depth - 1))
    {
        return Some(names);
    }
    let some = ["anyOf", "oneOf"].iter().find_map(|name| schema.get(*name)).and_then(Value::as_array)?;
    let all: Option<Vec<Vec<String>>> = some.iter().map(|part| names_of(part, document, depth - 1)).collect();
    all.map(|names| names.concat())
}

impl Shape {
    /// How a value of this schema is put together.
    pub(crate) fn of(schema: &Value, document: &Value) -> Self {
        let names = names_of(schema, document, 8).unwrap_or_default();
        let inner = |node: Option<&Value>| node.map_or(Types::ALL, |node| Types::of(node, document, 8));
        let target = reference::follow(schema, document, "").unwrap_or(schema);
        if names.iter().any(|n| n == "array") {
            return Self::Many(inner(target.get("items")));
        }
        if names.iter().any(|n| n == "object") {
            let members = target.get("properties").and_then(Value::as_object);
            let members = members.into_iter().flatten().map(|(name, node)| (name.clone(), Types::of(node, document, 8))).collect();
            return Self::Named(members, inner(target.get("additionalProperties").filter(|a| a.is_object())));
        }
        Self::One(Types::of(schema, document, 8))
    }

    pub(crate) fn member(&self, name: &str) -> Option<Types> {
        match self {
            Self::Named(known, other) => Some(known.iter().find(|(own, _)| own == name).map_or(*other, |(_, types)| *types)),
            _ => None,
        }
    }
}

impl Parameter {
    /// Reads a parameter object; `None` for the headers that OpenAPI leaves to others.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(node: &Value, document: &Value, at: &str) -> Result<Option<Self>, Vec<Fault>> {
        let node = reference::follow(node, document, at).map_err(|f| vec![f])?;
        let wrong = |member: &str, why: &str| vec![Fault::new(format!("{at}/{member}"), why)];
        let text = |name: &str| node.get(name).and_then(Value::as_str);
        let name = text("name").filter(|n| !n.is_empty()).ok_or_else(|| wrong("name", "a name is needed"))?.to_owned();
        let place = match text("in") {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") => Place::Header,
            Some("cookie") => Place::Cookie,
            _ => return Err(wrong("in", "must be path, query, header or cookie")),
        };
        if place == Place::Header && ["accept", "content-type", "authorization"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Ok(None);
        }
        let required = node.get("required") == Some(&Value::Bool(true));
        if place == Place::Path && !required {
            return Err(wrong("required", "a parameter in the path is required"));
        }
        let default = if matches!(place, Place::Query | Place::Cookie) { "form" } else { "simple" };
        let style = match (text("style").unwrap_or(default), place) {
            ("simple", Place::Path | Place::Header) => Style::Simple,
            ("form", Place::Query | Place::Cookie) => Style::Form,
            ("spaceDelimited", Place::Query) => Style::Spaces,
            ("pipeDelimited", Place::Query) => Style::Pipes,
            ("deepObject", Place::Query) => Style::Deep,
            ("label" | "matrix", Place::Path) => return Err(wrong("style", "label and matrix are not supported")),
            _ => return Err(wrong("style", "is not a style of that place")),
        };
        let explode = node.get("explode").map_or(style == Style::Form, |e| *e == Value::Bool(true));
        let (shape, rule) = match (node.get("schema"), node.get("content").and_then(Value::as_object)) {
            (Some(schema), None) => (Shape::of(schema, document), Rule::within(schema, document, &format!("{at}/schema"))?),
            (None, Some(content)) => {
                let json = content.iter().find(|(range, _)| crate::media::is_json(range)).and_then(|(_, media)| media.get("schema"));
                let schema = json.ok_or_else(|| wrong("content", "application/json with a schema is needed"))?;
                (Shape::Json, Rule::within(schema, document, &format!("{at}/content"))?)
            }
            _ => return Err(wrong("schema", "a schema or content is needed, not both")),
        };
        if matches!(shape, Shape::Named(..)) == (style == Style::Deep) || style != Style::Deep {
            return Ok(Some(Self { name, place, required, style, explode, shape, rule }));
        }
        Err(wrong("style", "deepObject is for objects"))
    }

    /// Whether a name in a query is of this parameter.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        if self.place != Place::Query {
            return false;
        }
        match (self.style, &self.shape) {
            (Style::Deep, _) => deep(&self.name, name).is_some(),
            (Style::Form, Shape::Named(known, _)) if self.explode => known.iter().any(|(own, _)| own == name),
            _ => self.name == name,
        }
    }

    /// Asks whether what a request gives for it is as it has to be.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, given: &Given<'_>) -> Result<(), Vec<Fault>> {
        let (place, value) = match self.place {
            Place::Path => ("path", self.in_path(given)),
            Place::Query => ("query", self.in_query(given)),
            Place::Header => ("header", self.in_header(given)),
            Place::Cookie => ("cookie", self.in_cookie(given)),
        };
        let at = format!("/{place}/{}", self.name.replace('~', "~0").replace('/', "~1"));
        let value = value.map_err(|why| vec![Fault::new(at.as_str(), why)])?;
        match value {
            None if self.required => Err(vec![Fault::new(at, "is needed")]),
            None => Ok(()),
            Some(value) => match self.rule.check(&value, 0, &at) {
                // A text that could be a number was taken for one.
                Err(faults) => match (&self.shape, &value) {
                    (Shape::One(Types { text: true, .. }), Value::Number(_) | Value::Bool(_))
                        if self.rule.holds(&Value::String(spelled(&value))) =>
                    {
                        Ok(())
                    }
                    _ => Err(faults),
                },
                Ok(()) => Ok(()),
            },
        }
    }

    fn in_path(&self, given: &Given<'_>) -> Result<Option<Value>, &'static str> {
        match given.path.iter().find(|(name, _)| *name == self.name) {
            Some((_, value)) => self.value(value, ",", decoded).map(Some),
            None => Ok(None),
        }
    }

    fn in_header(&self, given: &Given<'_>) -> Result<Option<Value>, &'static str> {
        let mut values = Vec::new();
        for value in given.headers.get_all(&self.name) {
            values.push(value.to_str().map_err(|_| "is no plain text")?);
        }
        if values.is_empty() {
            return Ok(None);
        }
        if values.len() > 1 && !matches!(self.shape, Shape::Many(_)) {
            return Err("comes more than once");
        }
        self.value(&values.join(","), ",", |text| Some(text.trim_matches([' ', '\t']).to_owned())).map(Some)
    }

    fn in_cookie(&self, given: &Given<'_>) -> Result<Option<Value>, &'static str> {
        let mut found = None;
        for line in given.headers.get_all(COOKIE) {
            for pair in line.to_str().map_err(|_| "is no plain text")?.split(';') {
                let Some((name, value)) = pair.trim_matches([' ', '\t']).split_once('=') else { continue };
                if name == self.name && found.replace(value).is_some() {
                    return Err("comes more than once");
                }
            }
        }
        found.map(|value| self.value(value, ",", decoded)).transpose()
    }

    fn in_query(&self, given: &Given<'_>) -> Result<Option<Value>, &'static str> {
        let own: Vec<(&str, &str)> =
            given.query.iter().filter(|(name, _)| self.takes(name)).map(|(name, value)| (&**name, *value)).collect();
        if own.is_empty() {
            return Ok(None);
        }
        let text = |raw: &str| form_text(raw).ok_or("is not well encoded");
        match (&self.shape, self.style) {
            (Shape::Many(types), Style::Form) if self.explode => {
                let items: Result<Vec<Value>, _> = own.iter().map(|(_, raw)| Ok(types.read(&text(raw)?))).collect();
                return items.map(|items| Some(Value::Array(items)));
            }
            (Shape::Named(..), Style::Deep) => {
                return self.members(own.iter().map(|(name, raw)| (deep(&self.name, name).unwrap_or_default(), *raw)));
            }
            (Shape::Named(..), Style::Form) if self.explode => return self.members(own.into_iter()),
            _ => {}
        }
        let [(_, raw)] = own.as_slice() else { return Err("comes more than once") };
        let delimiter = match self.style {
            Style::Spaces => " ",
            Style::Pipes => "|",
            _ => ",",
        };
        if matches!(self.style, Style::Spaces | Style::Pipes) {
            // Their delimiters come encoded.
            let whole = raw.replace("%20", " ").replace('+', " ").replace("%7C", "|").replace("%7c", "|");
            return self.value(&whole, delimiter, decoded).map(Some);
        }
        self.value(raw, delimiter, form_text).map(Some)
    }

    fn members<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Option<Value>, &'static str> {
        let mut out = Map::new();
        for (name, raw) in pairs {
            let types = self.shape.member(name).unwrap_or(Types::ALL);
            let value = types.read(&form_text(raw).ok_or("is not well encoded")?);
            if out.insert(name.to_owned(), value).is_some() {
                return Err("has a member that comes more than once");
            }
        }
        Ok(Some(Value::Object(out)))
    }

    /// A value that is spelled in one text.
    fn value(&self, raw: &str, delimiter: &str, decode: impl Fn(&str) -> Option<String>) -> Result<Value, &'static str> {
        let text = |raw: &str| decode(raw).ok_or("is not well encoded");
        match &self.shape {
            Shape::Json => json(&text(raw)?),
            Shape::One(types) => Ok(types.read(&text(raw)?)),
            Shape::Many(_) if raw.is_empty() => Ok(Value::Array(Vec::new())),
            Shape::Many(types) => raw.split(delimiter).map(|item| Ok(types.read(&text(item)?))).collect::<Result<_, _>>().map(Value::Array),
            Shape::Named(..) => {
                let mut out = Map::new();
                let mut parts = raw.split(delimiter);
                while let Some(part) = parts.next() {
                    let (name, value) = if self.explode {
                        part.split_once('=').ok_or("is not a list of members")?
                    } else {
                        (part, parts.next().ok_or("is not a list of members")?)
                    };
                    let name = text(name)?;
                    let types = self.shape.member(&name).unwrap_or(Types::ALL);
                    if out.insert(name, types.read(&text(value)?)).is_some() {
                        return Err("has a member that comes more than once");
                    }
                }
                Ok(Value::Object(out))
            }
        }
    }
}

/// JSON as strict as in a body: an upstream must not read another member than the one that was looked at.
fn json(text: &str) -> Result<Value, &'static str> {
    tokens::strict::value(text.as_bytes()).map_err(|refusal| match refusal {
        tokens::Refusal::DuplicateMember => "has a member twice",
        _ => "is not JSON of at most 32 levels",
    })
}

fn spelled(value: &Value) -> String {
    value.to_string()
}

/// `member` of `name[member]`.
fn deep<'a>(name: &str, given: &'a str) -> Option<&'a str> {
    given.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn faults(node: Value, path: &[(&str, &str)], query: &str, header: &str) -> Vec<String> {
        let parameter = Parameter::read(&node, &json!({}), "p").unwrap().unwrap();
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert("x-p", HeaderValue::from_str(header).unwrap());
            headers.insert("cookie", HeaderValue::from_str(header).unwrap());
        }
        let Ok(query) = pairs(query) else { return vec!["/query".into()] };
        parameter.check(&Given { path, query: &query, headers: &headers }).err().unwrap_or_default().into_iter().map(|f| f.at).collect()
    }

    #[test]
    fn a_query_is_read_in_its_style() {
        let good = Vec::<String>::new();
        let of = |schema: Value, style: &str, explode: bool| json!({"name": "p", "in": "query", "required": true, "style": style, "explode": explode, "schema": schema});
        let number = of(json!({"type": "integer", "minimum": 1}), "form", true);
        assert_eq!(faults(number.clone(), &[], "p=5", ""), good);
        for bad in ["", "p=0", "p=x", "p=", "p=1&p=2", "p=%zz", "p=1e999", "p=+1", "p=0x1", "P=1", "p=%31%00"] {
            assert_eq!(faults(number.clone(), &[], bad, "").len(), 1, "{bad}");
        }
        let items = json!({"type": "array", "items": {"type": "integer"}, "maxItems": 2});
        for (style, explode, query) in
            [("form", true, "p=1&p=2"), ("form", false, "p=1,2"), ("spaceDelimited", false, "p=1%202"), ("pipeDelimited", false, "p=1%7C2")]
        {
            assert_eq!(faults(of(items.clone(), style, explode), &[], query, ""), good, "{style}");
        }
        assert_eq!(faults(of(items.clone(), "form", true), &[], "p=1&p=x", ""), ["/query/p/1"]);
        assert_eq!(faults(of(items, "form", false), &[], "p=1,2,3", ""), ["/query/p"]);
        let object =
            json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "additionalProperties": false});
        assert_eq!(faults(of(object.clone(), "deepObject", true), &[], "p[a]=1&p%5Bb%5D=2", ""), good);
        assert_eq!(faults(of(object.clone(), "deepObject", true), &[], "p[a]=1&p[a]=2", ""), ["/query/p"]);
        assert_eq!(faults(of(object.clone(), "form", false), &[], "p=a,1,b,x", ""), good);
        assert_eq!(faults(of(object, "form", true), &[], "a=x&b=y", ""), ["/query/p/a"]);
        assert_eq!(faults(of(json!({"enum": ["1", "x"]}), "form", true), &[], "p=1", ""), good, "a text that could be a number");
    }

    #[test]
    fn paths_headers_and_cookies_are_read_in_theirs() {
        let good = Vec::<String>::new();
        let path = json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"}});
        assert_eq!(faults(path.clone(), &[("id", "67e55044-10b1-426f-9247-bb680e5fe0c8")], "", ""), good);
        assert_eq!(faults(path, &[("id", "x")], "", ""), ["/path/id"]);
        let header = json!({"name": "X-P", "in": "header", "schema": {"type": "array", "items": {"type": "integer"}}});
        assert_eq!(faults(header.clone(), &[], "", "1, 2,3"), good);
        assert_eq!(faults(header, &[], "", "1, x"), ["/header/X-P/1"]);
        let cookie = json!({"name": "c", "in": "cookie", "required": true, "schema": {"type": "boolean"}});
        assert_eq!(faults(cookie.clone(), &[], "", "a=b; c=true"), good);
        assert_eq!(faults(cookie.clone(), &[], "", "c=true; c=false"), ["/cookie/c"]);
        assert_eq!(faults(cookie, &[], "", ""), ["/cookie/c"]);
        let json_in =
            json!({"name": "p", "in": "query", "content": {"application/json": {"schema": {"type": "object", "required": ["a"]}}}});
        assert_eq!(faults(json_in.clone(), &[], "p=%7B%22a%22:1%7D", ""), good);
        let deep = format!("p=%7B%22a%22:{}{}%7D", "[".repeat(40), "]".repeat(40));
        for bad in ["p=%7B", "p=%7B%22a%22:1,%22a%22:2%7D", "p=%7B%22a%22:%7B%22b%22:1,%22b%22:2%7D%7D", "p=%7B%22a%22:1e999%7D", &deep] {
            assert_eq!(faults(json_in.clone(), &[], bad, ""), ["/query/p"], "{bad}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let schema = json!({"type": "string"});
        for bad in [
            json!({"in": "query", "schema": schema}),
            json!({"name": "a", "in": "body", "schema": schema}),
            json!({"name": "a", "in": "path", "schema": schema}),
            json!({"name": "a", "in": "path", "required": true, "style": "matrix", "schema": schema}),
            json!({"name": "a", "in": "query", "style": "simple", "schema": schema}),
            json!({"name": "a", "in": "query", "style": "deepObject", "schema": schema}),
            json!({"name": "a", "in": "query"}),
            json!({"name": "a", "in": "query", "content": {"text/plain": {}}}),
            json!({"name": "a", "in": "query", "schema": {"$ref": "https://example.com/x"}}),
        ] {
            assert!(Parameter::read(&bad, &json!({}), "p").is_err(), "{bad}");
        }
        assert!(Parameter::read(&json!({"name": "Authorization", "in": "header", "schema": schema}), &json!({}), "p").unwrap().is_none());
    }
}
