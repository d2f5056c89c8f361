//! Where the gateway's knowledge comes from: in-process or from a remote authorization server, behind the same ports.
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value};
use tokens::{
    Alg, Confirmation,
    access::{AccessClaims, Origin},
    confirmation::Scheme,
    jwk::VerifyingKey,
    keyring::KeyRing,
};

/// What an authorization server says of a token (RFC 7662 §2.2).
#[derive(Debug, Clone, PartialEq)]
pub enum Introspection {
    /// Not good, or not ours to know about.
    Inactive,
    /// Good now, with these facts.
    Active(Box<AccessClaims>),
}

/// The question could not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntrospectError {
    /// The server is away, overloaded or does not know us.
    #[error("the authorization server did not answer")]
    Unavailable,
    /// Its answer makes no sense.
    #[error("the authorization server's answer makes no sense")]
    Nonsense,
}

/// Asks an authorization server about a token.
#[async_trait]
pub trait Introspect: Send + Sync {
    /// Asks about one token.
    async fn introspect(&self, token: &str) -> Result<Introspection, IntrospectError>;
    /// Asks about an API key. Who knows none answers that it is not good.
    async fn introspect_key(&self, _key: &str) -> Result<Introspection, IntrospectError> {
        Ok(Introspection::Inactive)
    }
}

impl Introspection {
    /// Reads an answer about an API key. One about anything else is none.
    ///
    /// # Errors
    /// [`IntrospectError::Nonsense`] if it is not an introspection answer.
    pub fn of_key(answer: Value) -> Result<Self, IntrospectError> {
        let Value::Object(members) = answer else { return Err(IntrospectError::Nonsense) };
        match members.get("active") {
            Some(Value::Bool(false)) => Ok(Self::Inactive),
            Some(Value::Bool(true)) if members.get("token_type").and_then(Value::as_str) != Some(edge::api_key::SCHEME) => {
                Ok(Self::Inactive)
            }
            Some(Value::Bool(true)) => Ok(Self::Active(Box::new(claims(members, None).ok_or(IntrospectError::Nonsense)?))),
            _ => Err(IntrospectError::Nonsense),
        }
    }

    /// Reads an introspection answer. One without `exp`, with a `cnf` nobody can prove here, or of another token type is
    /// not good enough.
    ///
    /// # Errors
    /// [`IntrospectError::Nonsense`] if it is not an introspection answer.
    pub fn from_value(answer: Value) -> Result<Self, IntrospectError> {
        let Value::Object(members) = answer else { return Err(IntrospectError::Nonsense) };
        match members.get("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Ok(Self::Inactive),
            _ => return Err(IntrospectError::Nonsense),
        }
        let Some(cnf) = members.get("cnf").map_or(Some(None), |cnf| Confirmation::read(cnf).map(Some)) else {
            return Ok(Self::Inactive);
        };
        let typ = members.get("token_type").map(|t| t.as_str().unwrap_or_default());
        let known = typ.is_none_or(|typ| match Scheme::parse(typ.as_bytes()) {
            Some(Scheme::Bearer) => true,
            Some(Scheme::Dpop) => cnf.as_ref().is_some_and(|cnf| cnf.jkt.is_some()),
            None => false,
        });
        if !known {
            return Ok(Self::Inactive);
        }
        Ok(Self::Active(Box::new(claims(members, cnf).ok_or(IntrospectError::Nonsense)?)))
    }
}

/// The claims of an answer; a member of another type than it has to be makes it none (RFC 7662 §2.2, RFC 7519 §4.1).
fn claims(raw: Map<String, Value>, cnf: Option<Confirmation>) -> Option<AccessClaims> {
    let text = |name: &str| match raw.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    };
    let moment = |name: &str| match raw.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_i64().map(Some),
    };
    let aud = match raw.get("aud") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let sub = text("sub")?;
    if sub.as_ref().is_some_and(String::is_empty) {
        return None;
    }
    Some(AccessClaims {
        iss: text("iss")?.unwrap_or_default(),
        sub: sub.unwrap_or_default(),
        aud,
        exp: raw.get("exp").and_then(Value::as_i64)?,
        nbf: moment("nbf")?,
        iat: moment("iat")?,
        jti: text("jti")?,
        client_id: text("client_id")?,
        scope: text("scope")?.unwrap_or_default(),
        grant: text("grant")?,
        sid: text("sid")?,
        seq: raw.get("seq").and_then(Value::as_u64).unwrap_or(0),
        from: Origin::read(&raw),
        cnf,
        raw: Arc::new(raw),
    })
}

/// The public keys of one issuer.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The key of that id and algorithm, if it may be trusted now.
    fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey>;
    /// Changes when the keys do: what was believed before is checked again.
    fn generation(&self) -> u64 {
        0
    }
    /// Whether there are keys to judge by at all.
    fn usable(&self) -> bool {
        true
    }
    /// Looks for new keys, if it is time to; many callers at once cost one fetch.
    async fn refresh(&self) {}
}

/// The key ring of this very process. Its removed and revoked keys are told of by revocations.
pub struct OwnRing(pub Arc<ArcSwap<KeyRing>>);

#[async_trait]
impl KeySource for OwnRing {
    fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey> {
        self.0.load().keys().find(kid, alg).cloned()
    }
}

/// The authorization server whose revocations the gateway knows.
#[derive(Clone)]
pub struct Own {
    /// Its issuer identifier.
    pub issuer: Arc<str>,
    /// Its keys.
    pub keys: Arc<dyn KeySource>,
    /// How to ask it.
    pub introspect: Arc<dyn Introspect>,
    /// When the revocations known here were last known to be complete, milliseconds since the epoch.
    pub fresh_at_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_of_another_type_than_they_have_to_be_are_nonsense() {
        let good = json!({"active": true, "exp": 100, "nbf": 1, "sub": "s", "aud": ["a"], "scope": "read", "client_id": "c"});
        assert!(matches!(Introspection::from_value(good.clone()), Ok(Introspection::Active(_))));
        for (name, value) in [
            ("nbf", json!("x")),
            ("iat", json!("1")),
            ("exp", json!("100")),
            ("sub", json!(5)),
            ("sub", json!("")),
            ("aud", json!(["a", 1])),
            ("aud", json!({})),
            ("scope", json!(["read"])),
            ("client_id", json!(7)),
            ("iss", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[name] = value.clone();
            assert_eq!(Introspection::from_value(bad), Err(IntrospectError::Nonsense), "{name} {value}");
        }
    }

    #[test]
    fn an_answer_counts_only_if_it_is_whole() {
        assert_eq!(Introspection::from_value(json!({"active": false})), Ok(Introspection::Inactive));
        assert_eq!(Introspection::from_value(json!({"active": "true"})), Err(IntrospectError::Nonsense));
        assert_eq!(Introspection::from_value(json!({"active": true, "sub": "a"})), Err(IntrospectError::Nonsense));
        for unfit in [
            json!({"active": true, "exp": 5, "cnf": {"jwk": {}}}),
            json!({"active": true, "exp": 5, "cnf": null}),
            json!({"active": true, "exp": 5, "token_type": "DPoP"}),
            json!({"active": true, "exp": 5, "token_type": "mac"}),
            json!({"active": true, "exp": 5, "token_type": 1}),
        ] {
            assert_eq!(Introspection::from_value(unfit.clone()), Ok(Introspection::Inactive), "{unfit}");
        }
        let key = json!({"active": true, "exp": 5, "token_type": "ApiKey", "api_key": {"id": "k"}});
        assert_eq!(Introspection::from_value(key.clone()), Ok(Introspection::Inactive), "a key is no token");
        assert!(matches!(Introspection::of_key(key), Ok(Introspection::Active(_))));
        assert_eq!(Introspection::of_key(json!({"active": true, "exp": 5, "token_type": "Bearer"})), Ok(Introspection::Inactive));
        assert_eq!(Introspection::of_key(json!({"active": true, "token_type": "ApiKey"})), Err(IntrospectError::Nonsense));
        let bound = Introspection::from_value(json!({"active": true, "exp": 5, "token_type": "DPoP", "cnf": {"jkt": "x"}}));
        assert!(matches!(bound, Ok(Introspection::Active(claims)) if claims.cnf.as_ref().is_some_and(|c| c.jkt.as_deref() == Some("x"))));
        let Ok(Introspection::Active(claims)) =
            Introspection::from_value(json!({"active": true, "exp": 5, "aud": ["a", "b"], "scope": "r", "seq": 3}))
        else {
            panic!("active")
        };
        assert_eq!((claims.aud.len(), claims.exp, claims.seq), (2, 5, 3));
    }
}
