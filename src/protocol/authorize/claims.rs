//! The `claims` parameter (OpenID Connect Core §5.5).
use serde_json::{Map, Value};

use super::{Code, Desk, Params, Refusal, Request};

/// Longest accepted text, in octets.
const LONGEST: usize = 4096;

/// Step: an object of `userinfo` and `id_token` objects; a requested `sub` value binds the request to that person.
pub(super) fn requested(params: &Params, _: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    const BAD: Refusal = Refusal::new(Code::InvalidRequest, "claims is not a claims request object");
    let Some(text) = params.one("claims")? else { return Ok(()) };
    if text.len() > LONGEST {
        return Err(BAD);
    }
    let claims = read(text).ok_or(BAD)?;
    let mut kept = Map::new();
    for member in ["userinfo", "id_token"] {
        match claims.get(member) {
            None | Some(Value::Null) => {}
            Some(Value::Object(names)) if names.values().all(individual) => {
                kept.insert(member.to_owned(), Value::Object(names.clone()));
            }
            Some(_) => return Err(BAD),
        }
    }
    if let Some(sub) = ["id_token", "userinfo"].iter().find_map(|m| kept.get(*m)?.get("sub")?.get("value")?.as_str()) {
        request.subject = Some(sub.to_owned());
    }
    request.claims = (!kept.is_empty()).then_some(Value::Object(kept));
    Ok(())
}

/// One object, no member twice and nothing nested deeper than anything else that is read.
fn read(text: &str) -> Option<Map<String, Value>> {
    tokens::strict::object(text.as_bytes()).ok()
}

/// `null`, or an object whose `essential` is a boolean and whose `values` is an array.
fn individual(claim: &Value) -> bool {
    match claim {
        Value::Null => true,
        Value::Object(wish) => wish.get("essential").is_none_or(Value::is_boolean) && wish.get("values").is_none_or(Value::is_array),
        _ => false,
    }
}

/// The names asked for one by one, sorted, each once; without those every ID token has, and those nobody is ever told.
#[must_use]
pub fn names(claims: Option<&Value>) -> Vec<String> {
    const ALWAYS: [&str; 9] = ["sub", "iss", "aud", "exp", "iat", "auth_time", "acr", "amr", "nonce"];
    let mut names: Vec<String> = ["userinfo", "id_token"]
        .iter()
        .filter_map(|m| claims?.get(*m)?.as_object())
        .flat_map(|o| o.keys().cloned())
        .filter(|n| !ALWAYS.contains(&n.as_str()) && crate::userinfo::is_standard(n))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_read_as_strictly_as_any_other_document() {
        let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels - 1) + "{", "}".repeat(levels));
        assert!(read(&nested(usize::from(tokens::strict::MAX_DEPTH))).is_some());
        assert!(read(&nested(usize::from(tokens::strict::MAX_DEPTH) + 2)).is_none());
        assert!(read(r#"{"userinfo":{"a":null,"a":null}}"#).is_none());
    }
}
