//! What schemas point to: within the document, and nowhere else.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::Fault;

/// Where the schemas of a document are.
pub(crate) const COMPONENTS: &str = "/components/schemas/";
const DIALECTS: [&str; 3] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://spec.openapis.org/oas/3.1/dialect/base",
    "https://spec.openapis.org/oas/3.1/dialect/2024-11-10",
];
/// Keywords that move the meaning of references, or belong to another version.
const REFUSED: [(&str, &str); 8] = [
    ("$id", "$id is not supported: schemas are known by their place in the document"),
    ("$anchor", "$anchor is not supported: point by place, #/…"),
    ("$dynamicRef", "$dynamicRef is not supported"),
    ("$dynamicAnchor", "$dynamicAnchor is not supported"),
    ("$recursiveRef", "$recursiveRef is not of JSON Schema 2020-12"),
    ("$recursiveAnchor", "$recursiveAnchor is not of JSON Schema 2020-12"),
    ("nullable", "nullable is of OpenAPI 3.0: say type: [\"…\", \"null\"]"),
    ("definitions", "definitions is of an older JSON Schema: say $defs"),
];
const ONE: [&str; 11] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
const MANY: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "$defs"];
/// Nesting of schemas.
const DEPTH: usize = 64;

/// The schemas directly inside one, with where they are.
fn children(schema: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut out = Vec::new();
    for (name, value) in schema {
        match value {
            Value::Object(_) | Value::Bool(_) if ONE.contains(&name.as_str()) => out.push((name.clone(), value)),
            Value::Array(items) if MANY.contains(&name.as_str()) => {
                out.extend(items.iter().enumerate().map(|(n, item)| (format!("{name}/{n}"), item)));
            }
            Value::Object(named) if NAMED.contains(&name.as_str()) => {
                out.extend(named.iter().map(|(inner, item)| (format!("{name}/{inner}"), item)));
            }
            _ => {}
        }
    }
    out
}

/// The value a reference names in a document.
#[must_use]
pub fn resolve<'a>(reference: &str, document: &'a Value) -> Option<&'a Value> {
    document.pointer(&pointer(reference)?)
}

fn pointer(reference: &str) -> Option<String> {
    let fragment = reference.strip_prefix('#')?;
    let pointer = percent_encoding::percent_decode_str(fragment).decode_utf8().ok()?;
    (pointer.is_empty() || pointer.starts_with('/')).then(|| pointer.into_owned())
}

/// An object of a document, behind references if it is.
///
/// # Errors
/// A reference that leads nowhere, out of the document, or in a circle.
pub fn follow<'a>(mut node: &'a Value, document: &'a Value, at: &str) -> Result<&'a Value, Fault> {
    for _ in 0..16 {
        let Some(reference) = node.get("$ref").and_then(Value::as_str) else { return Ok(node) };
        node = resolve(reference, document).ok_or_else(|| Fault::new(at, "points to nothing in this document"))?;
    }
    Err(Fault::new(at, "points in a circle"))
}

/// Checks a schema and all it points to, and names the components among them. References go below `below` (empty: anywhere inside).
///
/// # Errors
/// Every keyword and reference that is not taken.
pub(crate) fn targets(schema: &Value, document: &Value, below: &str, at: &str) -> Result<BTreeSet<String>, Vec<Fault>> {
    let (mut faults, mut named, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut todo = vec![(schema, at.to_owned(), 0)];
    while let Some((schema, at, depth)) = todo.pop() {
        let Value::Object(members) = schema else { continue };
        if depth > DEPTH {
            faults.push(Fault::new(at, format!("schemas are nested deeper than {DEPTH} levels")));
            continue;
        }
        for (name, why) in REFUSED {
            if members.contains_key(name) {
                faults.push(Fault::new(format!("{at}/{name}"), why));
            }
        }
        if members.get("$schema").is_some_and(|dialect| !DIALECTS.iter().any(|known| dialect == known)) {
            faults.push(Fault::new(format!("{at}/$schema"), "only JSON Schema 2020-12 is supported"));
        }
        if let Some(reference) = members.get("$ref") {
            let pointed = reference.as_str().and_then(pointer).filter(|p| p.starts_with(below));
            match pointed.and_then(|p| Some((document.pointer(&p)?, p))) {
                None => faults.push(Fault::new(
                    format!("{at}/$ref"),
                    if below.is_empty() {
                        "a reference goes to a schema inside this one (#/$defs/…); nothing is fetched".to_owned()
                    } else {
                        format!("a reference within a schema goes to #{below}… of this document; nothing is fetched")
                    },
                )),
                Some((target, p)) => {
                    if let Some(name) = p.strip_prefix(below).and_then(|rest| rest.split('/').next()) {
                        named.insert(name.to_owned());
                    }
                    if seen.insert(p.clone()) {
                        todo.push((target, format!("#{p}"), 0));
                    }
                }
            }
        }
        todo.extend(children(members).into_iter().map(|(name, child)| (child, format!("{at}/{name}"), depth + 1)));
    }
    if faults.is_empty() { Ok(named) } else { Err(faults) }
}

/// How many schemas one is, once every reference is replaced by what it names; `None`: it has no end.
pub(crate) fn size(schema: &Value, document: &Value) -> Option<u64> {
    measure(schema, document, &mut BTreeMap::new(), 0)
}

fn measure(schema: &Value, document: &Value, known: &mut BTreeMap<String, Option<u64>>, depth: usize) -> Option<u64> {
    let Value::Object(members) = schema else { return Some(1) };
    if depth > DEPTH * 4 {
        return None;
    }
    let mut sum = 1_u64;
    if let Some(pointed) = members.get("$ref").and_then(Value::as_str).and_then(pointer) {
        let size = match known.get(&pointed) {
            Some(size) => *size,
            None => {
                // Met again before it is known, it is part of itself.
                known.insert(pointed.clone(), None);
                let size = document.pointer(&pointed).and_then(|target| measure(target, document, known, depth + 1));
                known.insert(pointed, size);
                size
            }
        };
        sum = sum.saturating_add(size?);
    }
    for (_, child) in children(members) {
        sum = sum.saturating_add(measure(child, document, known, depth + 1)?);
    }
    Some(sum)
}

/// How often one value (and those it stands in) is asked about, at most, by a schema: what is named from two places is asked twice. Schemas
/// that are part of themselves count once: what was asked of them is remembered.
pub(crate) fn work(schema: &Value, document: &Value) -> u64 {
    asked(schema, document, &mut BTreeMap::new(), 0)
}

fn asked(schema: &Value, document: &Value, known: &mut BTreeMap<String, u64>, depth: usize) -> u64 {
    let Value::Object(members) = schema else { return 1 };
    if depth > DEPTH * 4 {
        return u64::MAX;
    }
    let mut sum = 1_u64;
    if let Some(pointed) = members.get("$ref").and_then(Value::as_str).and_then(pointer) {
        let times = match known.get(&pointed) {
            Some(times) => *times,
            None => {
                known.insert(pointed.clone(), 1);
                let times = document.pointer(&pointed).map_or(1, |target| asked(target, document, known, depth + 1));
                known.insert(pointed, times);
                times
            }
        };
        sum = sum.saturating_add(times);
    }
    // Of the members or items of a value, any one is asked about by one of `properties`, one of `prefixItems`.
    let (mut member, mut item) = (0_u64, 0_u64);
    for (name, child) in children(members) {
        let keyword = name.split('/').next().unwrap_or_default();
        if keyword == "$defs" {
            continue;
        }
        let times = asked(child, document, known, depth + 1);
        match keyword {
            "properties" => member = member.max(times),
            "prefixItems" => item = item.max(times),
            _ => sum = sum.saturating_add(times),
        }
    }
    sum.saturating_add(member.max(item))
}
