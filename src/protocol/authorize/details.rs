//! `authorization_details`: what is asked for in detail (RFC 9396).
use serde_json::{Map, Value};

use super::{Code, Desk, Params, Refusal, Request};
use crate::{Client, OAuthError, ResourceServer, visible};

/// Longest accepted text, octets.
pub const LONGEST: usize = 16 * 1024;
/// Most objects in one request.
const MOST: usize = 32;
/// Levels of nesting in an object.
const DEPTH: usize = 8;
/// Longest name of a type.
const TYPE: usize = 128;

/// The refusal where a request cannot ask in detail: left out silently, they would be missed (RFC 9396 §5).
pub(crate) const NOT_HERE: OAuthError = bad("authorization_details are not for this endpoint");

const fn bad(hears: &'static str) -> OAuthError {
    OAuthError::new(Code::InvalidAuthorizationDetails, hears)
}

/// Step: every object is of a type that the client may ask for and the resource knows.
pub(super) fn asked(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let server = desk.server.filter(|s| s.identifier == request.resource);
    request.details = params.one("authorization_details")?.map(|text| read(text, desk.client, server)).transpose()?;
    Ok(())
}

/// Reads and checks a parameter's text for a client and the API its token is for.
///
/// # Errors
/// `invalid_authorization_details`.
pub fn read(text: &str, client: &Client, server: Option<&ResourceServer>) -> Result<Value, OAuthError> {
    let objects = parse(text)?;
    for object in &objects {
        let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
        let known = server.is_some_and(|s| s.authorization_details_types.iter().any(|t| t == kind));
        if !known || !client.authorization_details_types.iter().any(|t| t == kind) {
            return Err(bad("a type of authorization_details is unknown or not this client's"));
        }
        let here = |place: &Value| server.is_some_and(|s| place == s.identifier.as_str());
        if object.get("locations").and_then(Value::as_array).is_some_and(|places| !places.iter().all(here)) {
            return Err(bad("authorization_details name another resource"));
        }
    }
    Ok(Value::Array(objects))
}

/// An array of objects with a type each, their common members of the right shape (RFC 9396 §2).
fn parse(text: &str) -> Result<Vec<Value>, OAuthError> {
    const SHAPE: OAuthError = bad("authorization_details is not an array of objects with a type");
    if text.len() > LONGEST {
        return Err(bad("authorization_details is too long"));
    }
    // Read like everything signed: no member twice, no bottomless nesting.
    let mut wrapped = tokens::strict::object(format!("{{\"details\":{text}}}").as_bytes()).map_err(|_| SHAPE)?;
    let objects = match (wrapped.remove("details"), wrapped.is_empty()) {
        (Some(Value::Array(objects)), true) => objects,
        _ => return Err(SHAPE),
    };
    if objects.is_empty() || objects.len() > MOST || !objects.iter().all(|o| o.as_object().is_some_and(shaped)) {
        return Err(SHAPE);
    }
    Ok(objects)
}

fn shaped(object: &Map<String, Value>) -> bool {
    let texts = |value: &Value| value.as_array().is_some_and(|all| all.iter().all(Value::is_string));
    let kind = object.get("type").and_then(Value::as_str).is_some_and(is_type);
    let common = ["locations", "actions", "datatypes", "privileges"].iter().all(|name| object.get(*name).is_none_or(texts));
    kind && common && object.get("identifier").is_none_or(Value::is_string) && object.values().all(|v| depth(v) <= DEPTH)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or_default(),
        Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// Whether a text may name a type.
#[must_use]
pub fn is_type(text: &str) -> bool {
    (1..=TYPE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>'))
}

/// What a token request gets: everything granted, or those of the granted objects that it names (RFC 9396 §6). A type that was taken
/// from the client since does not come back.
///
/// # Errors
/// `invalid_authorization_details` for an object that was not granted.
pub fn narrowed(asked: Option<&str>, granted: Option<&Value>, client: &Client) -> Result<Option<Value>, OAuthError> {
    let still = |object: &Value| {
        let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
        client.authorization_details_types.iter().any(|t| t == kind)
    };
    let had = granted.and_then(Value::as_array).into_iter().flatten();
    let had: Vec<Value> = had.filter(|object| still(object)).cloned().collect();
    let given = match asked {
        None => had,
        Some(text) => {
            let objects = parse(text)?;
            if !objects.iter().all(|o| had.contains(o)) {
                return Err(bad("authorization_details were not granted"));
            }
            objects
        }
    };
    Ok((!given.is_empty()).then_some(Value::Array(given)))
}

/// How a person is shown what is asked: a type, and its members as lines.
#[must_use]
pub fn shown(details: Option<&Value>) -> Vec<(String, Vec<String>)> {
    let objects = details.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    objects
        .iter()
        .filter_map(Value::as_object)
        .map(|object| {
            let lines = object.iter().filter(|(name, _)| *name != "type").map(|(name, value)| format!("{}: {}", plain(name), words(value)));
            (object.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(), lines.collect())
        })
        .collect()
}

fn plain(name: &str) -> String {
    visible::plain(name).replace('_', " ")
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => visible::plain(text),
        Value::Array(all) => all.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(all) => all.iter().map(|(name, value)| format!("{} {}", plain(name), words(value))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client { authorization_details_types: vec!["payment".into(), "other".into()], ..Client::default() }
    }
    fn server() -> ResourceServer {
        ResourceServer {
            identifier: "https://api".into(),
            authorization_details_types: vec!["payment".into()],
            ..ResourceServer::default()
        }
    }

    #[test]
    fn only_known_types_of_the_client_and_the_resource_in_the_right_shape() {
        let ok = |text: &str| read(text, &client(), Some(&server())).is_ok();
        assert!(ok(r#"[{"type":"payment","actions":["pay"],"amount":{"value":"1.00","currency":"EUR"}}]"#));
        assert!(ok(r#"[{"type":"payment","locations":["https://api"]}]"#));
        for wrong in [
            "[]",
            "{}",
            "x",
            "[1]",
            r#"[{"type":"other"}]"#,
            r#"[{"type":"third"}]"#,
            r#"[{"actions":["pay"]}]"#,
            r#"[{"type":5}]"#,
            r#"[{"type":"payment","actions":"pay"}]"#,
            r#"[{"type":"payment","locations":["https://other"]}]"#,
            r#"[{"type":"payment","type":"payment"}]"#,
            r#"[{"type":"payment"}],"x":[1]"#,
            r#"[{"type":"payment"}]}"#,
            r#"[{"type":"payment","x":[[[[[[[[[1]]]]]]]]]}]"#,
        ] {
            assert!(!ok(wrong), "{wrong}");
        }
        assert!(read(r#"[{"type":"payment"}]"#, &client(), None).is_err());
        assert!(!ok(&format!(r#"[{{"type":"payment","x":"{}"}}]"#, "x".repeat(LONGEST))));
    }

    #[test]
    fn a_token_request_may_take_less_and_never_more() {
        let granted = serde_json::json!([{"type": "payment", "amount": 1}, {"type": "payment", "amount": 2}]);
        assert_eq!(narrowed(None, Some(&granted), &client()).unwrap(), Some(granted.clone()));
        let one = narrowed(Some(r#"[{"amount":2,"type":"payment"}]"#), Some(&granted), &client()).unwrap().unwrap();
        assert_eq!(one, serde_json::json!([{"type": "payment", "amount": 2}]));
        for more in [r#"[{"type":"payment","amount":3}]"#, r#"[{"type":"payment"}]"#] {
            assert!(narrowed(Some(more), Some(&granted), &client()).is_err(), "{more}");
        }
        assert!(narrowed(Some(r#"[{"type":"payment"}]"#), None, &client()).is_err());
        assert_eq!(narrowed(None, Some(&granted), &Client::default()).unwrap(), None);
    }

    #[test]
    fn a_person_reads_words() {
        let details = serde_json::json!([{"type": "payment", "actions": ["a", "b"], "instructed_amount": {"value": 5}}]);
        assert_eq!(
            shown(Some(&details)),
            [("payment".to_owned(), vec!["actions: a, b".to_owned(), "instructed amount: value 5".to_owned()])]
        );
        let turned = serde_json::json!([{"type": "payment", "am\u{202e}ount": "\u{202e}00.001"}]);
        assert_eq!(shown(Some(&turned))[0].1, ["am\u{fffd}ount: \u{fffd}00.001"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,120}") {
            let _ = read(&text, &client(), Some(&server()));
        }
    }
}
