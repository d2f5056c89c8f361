//! A given document read: checked whole, its secret split off, its id settled. Pure.
use ::policy::Policy;
use edge::{issuer::TrustedIssuer, route::Route, upstream::Upstream};
use ledger::{Mistake, Object, ObjectKind, Record};
use protocol::{Client, ResourceServer};
use serde_json::{Map, Value};
use tokens::{b64, hash, secret::Plain};

use crate::{schema, secrets};

/// A document that may be stored.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What it is.
    pub kind: ObjectKind,
    /// Its id.
    pub id: String,
    /// Its natural key.
    pub key: String,
    /// Its members, defaults filled in, without the secret.
    pub document: Value,
    /// The secret that was given with it.
    pub secret: Option<Plain>,
}

/// Reads a document. `stored` is what it replaces; `fresh` makes a new id where none is given.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(kind: ObjectKind, given: Value, stored: Option<&Object>, fresh: impl FnOnce() -> String) -> Result<Draft, Vec<Mistake>> {
    let Some(shape) = schema::of(kind) else { return Err(vec![Mistake::new("", "is not supported by this version")]) };
    let mut mistakes = schema::mistakes(shape, &given);
    let Value::Object(mut members) = given else { return Err(mistakes) };
    let secret = split_secret(kind, &mut members, &mut mistakes);
    if kind == ObjectKind::ApiKey {
        mistakes.extend(crate::api_keys::mistakes(None, &members));
    }
    settle_id(kind, &mut members, stored, fresh, &mut mistakes);
    if let Some(known) = shape.get("properties").and_then(Value::as_object) {
        members.retain(|name, _| known.contains_key(name));
    }
    match typed(kind, members) {
        Ok((id, key, document, wrong)) => {
            mistakes.extend(wrong);
            drop_repeated(&mut mistakes);
            if mistakes.is_empty() { Ok(Draft { kind, id, key, document, secret }) } else { Err(mistakes) }
        }
        Err(wrong) => {
            if mistakes.is_empty() {
                mistakes.push(wrong);
            }
            Err(mistakes)
        }
    }
}

fn split_secret(kind: ObjectKind, members: &mut Map<String, Value>, mistakes: &mut Vec<Mistake>) -> Option<Plain> {
    if kind == ObjectKind::TrustedIssuer {
        let introspection = members.get_mut("introspection")?.as_object_mut()?;
        return introspection.shift_remove("secret")?.as_str().map(Plain::new);
    }
    let name = schema::secret_member(kind)?;
    let given = members.shift_remove(name)?;
    let text = given.as_str()?;
    if kind == ObjectKind::User {
        mistakes.extend(secrets::password_mistakes(text));
    }
    if kind == ObjectKind::Client {
        match members.get("token_endpoint_auth_method").and_then(Value::as_str) {
            Some("none") => mistakes.push(Mistake::new(name, "a public client has no secret")),
            None | Some("client_secret_basic" | "client_secret_post") => {}
            Some(_) => mistakes.push(Mistake::new(name, "a client that proves itself by a key has no secret")),
        }
        // RFC 6749 appendix A.2
        if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            mistakes.push(Mistake::new(name, "must be printable ASCII (RFC 6749 appendix A.2)"));
        }
    }
    if kind == ObjectKind::ApiKey {
        mistakes.extend(crate::api_keys::mistakes(Some(text), &Map::new()));
    }
    Some(Plain::new(text))
}

/// The member that holds the id of a kind.
const fn id_member(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Client => "client_id",
        _ => "id",
    }
}

fn settle_id(
    kind: ObjectKind,
    members: &mut Map<String, Value>,
    stored: Option<&Object>,
    fresh: impl FnOnce() -> String,
    mistakes: &mut Vec<Mistake>,
) {
    let name = id_member(kind);
    let given = members.get(name).and_then(Value::as_str);
    match (given, stored) {
        (Some(given), Some(stored)) if given != stored.id => {
            mistakes.push(Mistake::new(name, "cannot be changed"));
        }
        (Some(given), _) => {
            if matches!(kind, ObjectKind::User | ObjectKind::ResourceServer) && !sound_id(given) {
                mistakes.push(Mistake::new(name, "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -"));
            }
        }
        (None, Some(stored)) => {
            members.insert(name.to_owned(), stored.id.as_str().into());
        }
        (None, None) if !members.contains_key(name) => {
            let derived = match kind {
                ObjectKind::ResourceServer | ObjectKind::TrustedIssuer => {
                    members.get(schema::key_member(kind)).and_then(Value::as_str).map(derived_id)
                }
                _ => None,
            };
            members.insert(name.to_owned(), derived.unwrap_or_else(fresh).into());
        }
        (None, None) => {}
    }
}

fn sound_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)) && !id.bytes().all(|b| b == b'.')
}

/// The id of an object whose natural key is a URI: short, URL-safe and always the same for the same URI.
#[must_use]
pub fn derived_id(uri: &str) -> String {
    let digest = hash::sha256(uri.as_bytes());
    b64::encode(digest.first_chunk::<16>().map_or(&digest[..], |head| &head[..]))
}

type Typed = (String, String, Value, Vec<Mistake>);

fn typed(kind: ObjectKind, members: Map<String, Value>) -> Result<Typed, Mistake> {
    match kind {
        ObjectKind::User => record::<accounts::User>(members),
        ObjectKind::Client => record::<Client>(members),
        ObjectKind::ResourceServer => record::<ResourceServer>(members),
        ObjectKind::Route => record::<Route>(members),
        ObjectKind::Upstream => record::<Upstream>(members),
        ObjectKind::TrustedIssuer => record::<TrustedIssuer>(members),
        ObjectKind::Policy => record::<Policy>(members),
        ObjectKind::Device => record::<accounts::Device>(members),
        ObjectKind::ApiKey => {
            let mut members = members;
            members.retain(|name, _| !crate::api_keys::TOLD.contains(&name.as_str()));
            record::<edge::api_key::ApiKey>(members)
        }
        ObjectKind::Certificate | ObjectKind::SignalStream | ObjectKind::DeviceBinding => {
            Err(Mistake::new("", "is not supported by this version"))
        }
    }
}

fn record<R: Record>(members: Map<String, Value>) -> Result<Typed, Mistake> {
    let record: R = serde_json::from_value(Value::Object(members)).map_err(|e| Mistake::new("", e.to_string()))?;
    let document = serde_json::to_value(&record).map_err(|e| Mistake::new("", e.to_string()))?;
    Ok((record.id().to_owned(), record.key().to_owned(), document, record.mistakes()))
}

/// One mistake a place is enough: the first one found there.
fn drop_repeated(mistakes: &mut Vec<Mistake>) {
    let mut seen = Vec::with_capacity(mistakes.len());
    mistakes.retain(|m| {
        let new = !seen.contains(&m.at) || m.at.is_empty();
        seen.push(m.at.clone());
        new
    });
}
