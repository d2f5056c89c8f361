//! Subject identifiers (RFC 9493; SSF §3): whom a security event is about.
use serde_json::{Map, Value, json};

/// Somebody by issuer and subject.
#[must_use]
pub fn person(issuer: &str, subject: &str) -> Value {
    json!({"format": "iss_sub", "iss": issuer, "sub": subject})
}

/// A session of somebody.
#[must_use]
pub fn session(issuer: &str, subject: Option<&str>, session: &str) -> Value {
    let mut complex = Map::new();
    complex.insert("format".into(), "complex".into());
    if let Some(subject) = subject {
        complex.insert("user".into(), person(issuer, subject));
    }
    complex.insert("session".into(), json!({"format": "opaque", "id": session}));
    Value::Object(complex)
}

/// What somebody gave an application.
#[must_use]
pub fn grant(issuer: &str, subject: &str, client_id: &str) -> Value {
    json!({"format": "complex", "user": person(issuer, subject), "application": {"format": "opaque", "id": client_id}})
}

/// One token.
#[must_use]
pub fn token(issuer: &str, jti: &str) -> Value {
    json!({"format": "jwt_id", "iss": issuer, "jti": jti})
}

/// A subject as a receiver names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Somebody by issuer and subject, perhaps inside a complex subject.
    Person {
        /// The issuer.
        issuer: String,
        /// The subject.
        subject: String,
    },
    /// A session by its id, perhaps inside a complex subject without a user.
    Session(String),
    /// One token.
    Token {
        /// The issuer.
        issuer: String,
        /// Its id.
        jti: String,
    },
    /// Well-formed, and not known here.
    Other,
}

/// Reads a subject identifier; `None` if it is none.
#[must_use]
pub fn read(value: &Value) -> Option<Named> {
    let members = value.as_object()?;
    let text = |name: &str| members.get(name).and_then(Value::as_str).filter(|t| !t.is_empty() && t.len() <= 2048).map(str::to_owned);
    Some(match text("format")?.as_str() {
        "iss_sub" => Named::Person { issuer: text("iss")?, subject: text("sub")? },
        "jwt_id" => Named::Token { issuer: text("iss")?, jti: text("jti")? },
        "complex" => match (members.get("session"), members.get("user")) {
            (Some(session), _) => {
                let id = session.get("id").and_then(Value::as_str).filter(|_| session.get("format").is_some_and(|f| f == "opaque"));
                id.map_or(Named::Other, |id| Named::Session(id.to_owned()))
            }
            (None, Some(user)) => read(user)?,
            (None, None) if members.len() > 1 && members.values().skip(1).all(|v| v.is_object() || v.is_string()) => Named::Other,
            (None, None) => return None,
        },
        "opaque" => text("id").map(|_| Named::Other)?,
        "email" => text("email").filter(|e| e.contains('@')).map(|_| Named::Other)?,
        "phone_number" => text("phone_number").map(|_| Named::Other)?,
        "uri" | "did" => text("uri").or_else(|| text("url")).map(|_| Named::Other)?,
        "account" => text("uri").map(|_| Named::Other)?,
        "aliases" => members.get("identifiers").and_then(Value::as_array).filter(|all| !all.is_empty()).map(|_| Named::Other)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_say_we_understand() {
        let alice = Named::Person { issuer: "https://i".into(), subject: "a".into() };
        assert_eq!(read(&person("https://i", "a")), Some(alice.clone()));
        assert_eq!(read(&session("https://i", Some("a"), "s")), Some(Named::Session("s".into())));
        assert_eq!(read(&grant("https://i", "a", "c")), Some(alice));
        assert_eq!(read(&token("https://i", "j")), Some(Named::Token { issuer: "https://i".into(), jti: "j".into() }));
        for bad in [
            json!({}),
            json!("a"),
            json!({"format": "iss_sub", "iss": "x"}),
            json!({"format": "telepathy", "id": "x"}),
            json!({"format": "complex"}),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
