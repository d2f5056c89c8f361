//! JSON read strictly: no member twice at any depth, at most 32 levels (RFC 7515 §4, RFC 7519 §4).
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::Refusal;

/// Levels of nesting allowed.
pub const MAX_DEPTH: u8 = 32;
const TWICE: &str = "duplicate member";

/// The object in `text`.
///
/// # Errors
/// [`Refusal::DuplicateMember`], or [`Refusal::Malformed`] for anything that is not one JSON object of at most 32 levels.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match value(text)? {
        Value::Object(map) => Ok(map),
        _ => Err(Refusal::Malformed("not a JSON object")),
    }
}

/// The one JSON value in `text`.
///
/// # Errors
/// As [`object`].
pub fn value(text: &[u8]) -> Result<Value, Refusal> {
    let mut input = serde_json::Deserializer::from_slice(text);
    let value = Level(MAX_DEPTH).deserialize(&mut input).map_err(|e| refusal(&e))?;
    input.end().map_err(|_| Refusal::Malformed("JSON"))?;
    Ok(value)
}

fn refusal(error: &serde_json::Error) -> Refusal {
    if error.is_data() && error.to_string().starts_with(TWICE) { Refusal::DuplicateMember } else { Refusal::Malformed("JSON") }
}

/// How many levels are left.
#[derive(Clone, Copy)]
struct Level(u8);

impl Level {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = input.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = input.next_key::<String>()? {
            let value = input.next_value_seed(inner)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":{"a":1,"a":2}}"#, r#"{"x":[{"a":1,"a":2}]}"#, r#"{"a":1,"\u0061":1}"#] {
            assert_eq!(object(text.as_bytes()), Err(Refusal::DuplicateMember), "{text}");
        }
        assert!(object(br#"{"a":1,"A":1,"x":{"a":1}}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded_and_trailing_text_refused() {
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(object(deep(31).as_bytes()).is_ok());
        assert!(object(deep(32).as_bytes()).is_err());
        for text in ["[]", "1", "{} {}", "{", "", "{\"a\":1e999}"] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
    }
}
