//! JSON Schemas of the administered objects: what OpenAPI shows is what a given document is checked against
//! (JSON Schema 2020-12, the keywords used here).
use std::sync::LazyLock;

use ledger::{Mistake, ObjectKind};
use serde_json::{Map, Value};

use crate::{
    json::{nearest, short},
    shapes,
};

/// The kinds this version administers, in the order a seed is read.
pub const KINDS: [ObjectKind; 9] = [
    ObjectKind::User,
    ObjectKind::ResourceServer,
    ObjectKind::Client,
    ObjectKind::Device,
    ObjectKind::ApiKey,
    ObjectKind::TrustedIssuer,
    ObjectKind::Policy,
    ObjectKind::Upstream,
    ObjectKind::Route,
];

/// The schema of a kind's document as it is given (write-only members included); `None` for kinds not administered here.
#[must_use]
pub fn of(kind: ObjectKind) -> Option<&'static Value> {
    static USER: LazyLock<Value> = LazyLock::new(shapes::user);
    static CLIENT: LazyLock<Value> = LazyLock::new(shapes::client);
    static RESOURCE_SERVER: LazyLock<Value> = LazyLock::new(shapes::resource_server);
    static ROUTE: LazyLock<Value> = LazyLock::new(shapes::route);
    static UPSTREAM: LazyLock<Value> = LazyLock::new(shapes::upstream);
    static POLICY: LazyLock<Value> = LazyLock::new(shapes::policy);
    static API_KEY: LazyLock<Value> = LazyLock::new(shapes::api_key);
    static DEVICE: LazyLock<Value> = LazyLock::new(shapes::device);
    static TRUSTED_ISSUER: LazyLock<Value> = LazyLock::new(shapes::trusted_issuer);
    match kind {
        ObjectKind::User => Some(&USER),
        ObjectKind::Client => Some(&CLIENT),
        ObjectKind::ResourceServer => Some(&RESOURCE_SERVER),
        ObjectKind::Route => Some(&ROUTE),
        ObjectKind::Upstream => Some(&UPSTREAM),
        ObjectKind::TrustedIssuer => Some(&TRUSTED_ISSUER),
        ObjectKind::Policy => Some(&POLICY),
        ObjectKind::Device => Some(&DEVICE),
        ObjectKind::ApiKey => Some(&API_KEY),
        ObjectKind::Certificate | ObjectKind::SignalStream | ObjectKind::DeviceBinding => None,
    }
}

/// The write-only member that holds a kind's secret.
#[must_use]
pub const fn secret_member(kind: ObjectKind) -> Option<&'static str> {
    match kind {
        ObjectKind::User => Some("password"),
        ObjectKind::Client => Some("client_secret"),
        ObjectKind::ApiKey => Some("api_key"),
        _ => None,
    }
}

/// The member that is a kind's natural key.
#[must_use]
pub const fn key_member(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::User => "username",
        ObjectKind::Client => "client_id",
        ObjectKind::ResourceServer => "identifier",
        ObjectKind::TrustedIssuer => "issuer",
        _ => "id",
    }
}

/// Everything in `value` that its schema does not allow, each with its path.
#[must_use]
pub fn mistakes(schema: &Value, value: &Value) -> Vec<Mistake> {
    let mut out = Vec::new();
    check(schema, value, "", &mut out);
    out
}

fn check(schema: &Value, value: &Value, at: &str, out: &mut Vec<Mistake>) {
    if schema.get("not").is_some() {
        out.push(Mistake::new(at, "is not supported by this version"));
        return;
    }
    if let Some(branches) = schema.get("oneOf").and_then(Value::as_array) {
        match branches.iter().find(|b| admits(b.get("type"), value)) {
            Some(branch) => check(branch, value, at, out),
            None => out.push(Mistake::new(at, format!("must be {}", branches.iter().map(types).collect::<Vec<_>>().join(" or ")))),
        }
        return;
    }
    if !admits(schema.get("type"), value) {
        out.push(Mistake::new(at, format!("must be {}", types(schema))));
        return;
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<String> = choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
        out.push(Mistake::new(at, format!("must be one of {}", choices.join(", "))));
    }
    match value {
        Value::String(text) => length(schema, text, at, out),
        Value::Number(n) => range(schema, n.as_f64(), at, out),
        Value::Array(items) => array(schema, items, at, out),
        Value::Object(members) => object(schema, members, at, out),
        _ => {}
    }
}

fn length(schema: &Value, text: &str, at: &str, out: &mut Vec<Mistake>) {
    let count = text.chars().count() as u64;
    if let Some(most) = schema.get("maxLength").and_then(Value::as_u64).filter(|most| count > *most) {
        out.push(Mistake::new(at, format!("must have at most {most} characters")));
    }
    if let Some(least) = schema.get("minLength").and_then(Value::as_u64).filter(|least| count < *least) {
        out.push(Mistake::new(
            at,
            if least == 1 { "must not be empty".to_owned() } else { format!("must have at least {least} characters") },
        ));
    }
}

fn range(schema: &Value, n: Option<f64>, at: &str, out: &mut Vec<Mistake>) {
    let bound = |name| schema.get(name).and_then(Value::as_f64);
    if let (Some(least), Some(n)) = (bound("minimum"), n)
        && n < least
    {
        out.push(Mistake::new(at, format!("must be at least {least}")));
    }
    if let (Some(most), Some(n)) = (bound("maximum"), n)
        && n > most
    {
        out.push(Mistake::new(at, format!("must be at most {most}")));
    }
}

fn array(schema: &Value, items: &[Value], at: &str, out: &mut Vec<Mistake>) {
    if let Some(most) = schema.get("maxItems").and_then(Value::as_u64).filter(|most| items.len() as u64 > *most) {
        out.push(Mistake::new(at, format!("must have at most {most} entries")));
        return;
    }
    if let Some(least) = schema.get("minItems").and_then(Value::as_u64).filter(|least| (items.len() as u64) < *least) {
        out.push(Mistake::new(at, format!("must have at least {least} entries")));
    }
    if let Some(inner) = schema.get("items") {
        for (i, item) in items.iter().enumerate() {
            check(inner, item, &format!("{at}[{i}]"), out);
        }
    }
}

fn object(schema: &Value, members: &Map<String, Value>, at: &str, out: &mut Vec<Mistake>) {
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let rest = schema.get("additionalProperties");
    for (name, value) in members {
        let path = below(at, name);
        match (known.get(name), rest) {
            (Some(inner), _) => check(inner, value, &path, out),
            (None, Some(Value::Bool(false))) => out.push(Mistake::new(path, unknown(name, known.keys().map(String::as_str)))),
            (None, Some(inner @ Value::Object(_))) => check(inner, value, &path, out),
            (None, _) => {}
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            out.push(Mistake::new(below(at, name), "is missing"));
        }
    }
}

/// Why an unknown member is refused, with the name that was probably meant.
#[must_use]
pub fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("is not known; did you mean `{near}`?"),
        None => "is not known".to_owned(),
    }
}

/// The path of a member.
#[must_use]
pub fn below(at: &str, name: &str) -> String {
    if at.is_empty() { short(name) } else { format!("{at}.{}", short(name)) }
}

fn admits(types: Option<&Value>, value: &Value) -> bool {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    };
    match types {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}

fn types(schema: &Value) -> String {
    let article = |name: &str| match name {
        "array" | "object" | "integer" => format!("an {name}"),
        "null" => "null".to_owned(),
        _ => format!("a {name}"),
    };
    match schema.get("type") {
        Some(Value::String(name)) => article(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(article).collect::<Vec<_>>().join(" or "),
        _ => "something else".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ledger::Record;
    use serde_json::json;

    use super::*;

    fn at(kind: ObjectKind, value: &Value) -> Vec<String> {
        mistakes(of(kind).unwrap(), value).into_iter().map(|m| format!("{}: {}", m.at, m.why)).collect()
    }

    #[test]
    fn every_mistake_is_named_with_its_path_and_the_nearest_name() {
        let given = json!({ "client_idd": "x", "redirect_uris": ["https://a/", 7], "token_endpoint_auth_method": "telepathy", "require_pkce": "yes" });
        assert_eq!(
            at(ObjectKind::Client, &given),
            [
                "client_idd: is not known; did you mean `client_id`?",
                "redirect_uris[1]: must be a string",
                "token_endpoint_auth_method: must be one of client_secret_basic, client_secret_post, private_key_jwt, tls_client_auth, self_signed_tls_client_auth, none",
                "require_pkce: must be a boolean",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let route = json!({ "id": "r", "match": {}, "upstream": { "targets": [], "health": { "every": 1 } }, "cors": [] });
        assert_eq!(at(ObjectKind::Route, &route), ["upstream.health.every: is not known", "cors: must be an object"]);
        assert_eq!(at(ObjectKind::Route, &json!({ "match": {}, "upstream": 7 })), ["upstream: must be a string or an object"]);
    }

    /// A member that a record knows and the schema does not would be refused although it is supported.
    #[test]
    fn the_schemas_know_every_member_a_record_writes() {
        fn covered<R: Record + Default>() {
            let written = serde_json::to_value(R::default()).unwrap();
            let written: BTreeSet<&String> = written.as_object().unwrap().keys().collect();
            let known: BTreeSet<&String> = of(R::KIND).unwrap()["properties"].as_object().unwrap().keys().collect();
            let missing: Vec<_> = written.difference(&known).collect();
            assert!(missing.is_empty(), "{:?}: {missing:?}", R::KIND);
        }
        covered::<accounts::User>();
        covered::<protocol::Client>();
        covered::<protocol::ResourceServer>();
        covered::<edge::route::Route>();
        covered::<edge::upstream::Upstream>();
        covered::<edge::issuer::TrustedIssuer>();
        covered::<policy::Policy>();
        covered::<edge::api_key::ApiKey>();
        covered::<accounts::Device>();
    }

    /// A keyword that is shown and not checked would promise what nobody keeps.
    #[test]
    fn every_keyword_that_is_shown_is_checked() {
        fn walk(schema: &Value) {
            for (keyword, inner) in schema.as_object().unwrap() {
                match keyword.as_str() {
                    "properties" => inner.as_object().unwrap().values().for_each(walk),
                    "items" => walk(inner),
                    "additionalProperties" if inner.is_object() => walk(inner),
                    "oneOf" => inner.as_array().unwrap().iter().for_each(walk),
                    "type" | "required" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "maxItems" | "minItems" | "not" => {}
                    "additionalProperties" | "description" | "default" | "writeOnly" => {}
                    other => panic!("{other}"),
                }
            }
        }
        KINDS.into_iter().for_each(|kind| walk(of(kind).unwrap()));
    }
}
