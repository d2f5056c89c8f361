//! JSON as this API takes it: no duplicate members, bounded depth (RFC 8259 §4), merge patches (RFC 7396).
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Nesting of arrays and objects accepted.
pub const MAX_DEPTH: usize = 32;
/// Octets of a request body accepted.
pub const MAX_BODY: usize = 256 * 1024;

/// Reads one JSON text.
///
/// # Errors
/// Says in words what is wrong and where (line and column), for the one who sent it.
pub fn read(text: &[u8]) -> Result<Value, String> {
    let mut input = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0 }.deserialize(&mut input).map_err(|e| e.to_string())?;
    input.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Applies a merge patch: `null` removes, objects merge, everything else replaces (RFC 7396 §2).
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.shift_remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// The known name nearest to a wrong one, if it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(d, name)| *d <= name.chars().count().div_ceil(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Levenshtein distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, pair) in b.iter().zip(row.windows(2)) {
            let (diagonal, above) = match pair {
                [d, u] => (*d, *u),
                _ => (left, left),
            };
            left = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut out = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict { depth })? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut out = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if out.contains_key(&name) {
                return Err(A::Error::custom(format_args!("member `{}` comes twice", short(&name))));
            }
            let value = map.next_value_seed(Strict { depth })?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

/// A given name, cut to what fits an error text.
#[must_use]
pub fn short(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_duplicate_member_at_any_level_is_refused() {
        assert!(read(br#"{"a":1,"a":2}"#).unwrap_err().contains("comes twice"));
        assert!(read(br#"{"a":[{"b":1,"b":1}]}"#).unwrap_err().contains("comes twice"));
        assert!(read(br#"{"a":1} x"#).is_err());
    }

    #[test]
    fn nesting_stops_at_the_limit() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(read(deep(MAX_DEPTH).as_bytes()).is_ok());
        assert!(read(deep(MAX_DEPTH + 1).as_bytes()).unwrap_err().contains("deeper"));
        assert!(read(deep(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_merge_patch_does_what_rfc_7396_appendix_a_says() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut got = target;
            merge(&mut got, patch);
            assert_eq!(got, result);
        }
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["users", "clients", "routes", "resource_servers"];
        assert_eq!(nearest("client", known), Some("clients"));
        assert_eq!(nearest("resource_server", known), Some("resource_servers"));
        assert_eq!(nearest("zebra", known), None);
    }
}
