//! Polling for security event tokens (RFC 8936 §2).
use serde_json::{Map, Value, json};

use super::stream::Malformed;

/// Most tokens of one answer.
pub const MOST: usize = 100;

/// A poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Poll {
    /// At most so many tokens are wanted.
    pub most: usize,
    /// Whether to answer at once even if there is nothing.
    pub at_once: bool,
    /// Tokens that arrived.
    pub acks: Vec<String>,
    /// Tokens that the receiver cannot use, and why; they do not come again.
    pub errors: Vec<(String, String)>,
}

impl Poll {
    /// Reads a poll.
    ///
    /// # Errors
    /// What is of the wrong type.
    pub fn read(body: &Map<String, Value>) -> Result<Self, Malformed> {
        let most = match body.get("maxEvents") {
            None | Some(Value::Null) => MOST,
            Some(most) => {
                most.as_u64().map(|m| usize::try_from(m).unwrap_or(MOST).min(MOST)).ok_or(Malformed("maxEvents must be a number"))?
            }
        };
        let at_once = match body.get("returnImmediately") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(at_once)) => *at_once,
            Some(_) => return Err(Malformed("returnImmediately must be true or false")),
        };
        let acks = match body.get("ack") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(all)) => all
                .iter()
                .map(|jti| jti.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(Malformed("ack must be ids of tokens"))?,
            Some(_) => return Err(Malformed("ack must be an array")),
        };
        let errors = match body.get("setErrs") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(all)) => {
                let why = |error: &Value| error.get("err").and_then(Value::as_str).unwrap_or_default().chars().take(64).collect();
                all.iter().map(|(jti, error)| (jti.clone(), why(error))).collect()
            }
            Some(_) => return Err(Malformed("setErrs must be an object")),
        };
        Ok(Self { most, at_once, acks, errors })
    }
}

/// The answer to a poll.
#[must_use]
pub fn answer(tokens: Vec<(String, String)>, more: bool) -> Value {
    let sets: Map<String, Value> = tokens.into_iter().map(|(jti, token)| (jti, Value::String(token))).collect();
    json!({"sets": sets, "moreAvailable": more})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_read_with_its_limits() {
        let read = |value: Value| Poll::read(value.as_object().unwrap());
        let poll = read(json!({"maxEvents": 5000, "returnImmediately": true, "ack": ["a"], "setErrs": {"b": {"err": "jwtIss"}}})).unwrap();
        assert_eq!(poll, Poll { most: MOST, at_once: true, acks: vec!["a".into()], errors: vec![("b".into(), "jwtIss".into())] });
        assert_eq!(read(json!({"maxEvents": 0})).unwrap().most, 0);
        for bad in
            [json!({"maxEvents": "5"}), json!({"ack": "a"}), json!({"ack": [1]}), json!({"setErrs": []}), json!({"returnImmediately": 1})]
        {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
