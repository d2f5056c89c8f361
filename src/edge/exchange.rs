//! Token exchange for a route (RFC 8693): the upstream gets a token made for it, with less in it, in place of the caller's.
use std::sync::Arc;

use ledger::Mistake;
use serde::{Deserialize, Serialize};

use crate::route::Route;

/// What the caller's token becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenExchange {
    /// The resource the new token is for (RFC 8707), a URI; or `audience`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The logical name of whom it is for (RFC 8693 §2.1); or `resource`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What the new token may be used for; absent: what the authorization server leaves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// An exchange made ready.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// `resource` or `audience`, and its value.
    pub target: (&'static str, Arc<str>),
    /// Space-separated; empty: not asked for.
    pub scope: Arc<str>,
}

impl Exchange {
    pub(crate) fn of(route: &Route) -> Option<Self> {
        let written = route.token_exchange.as_ref()?;
        let target = match (&written.resource, &written.audience) {
            (Some(resource), _) => ("resource", resource),
            (None, Some(audience)) => ("audience", audience),
            (None, None) => return None,
        };
        Some(Self { target: (target.0, target.1.as_str().into()), scope: written.scopes.join(" ").into() })
    }
}

/// Everything that is wrong with a route's exchange.
pub(crate) fn mistakes(route: &Route, out: &mut Vec<Mistake>) {
    let Some(written) = &route.token_exchange else { return };
    let mut say = |at: &str, why: &str| out.push(Mistake::new(format!("token_exchange{at}"), why));
    match (&written.resource, &written.audience) {
        (Some(_), Some(_)) => say("", "names a resource and an audience: say one of them"),
        (None, None) => say("", "says neither resource nor audience: whom the new token is for is needed"),
        (Some(name), None) | (None, Some(name)) if name.is_empty() => say("", "names nobody"),
        _ => {}
    }
    for (n, scope) in written.scopes.iter().enumerate() {
        let name = |b: u8| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b);
        if scope.is_empty() || !scope.bytes().all(name) {
            say(&format!(".scopes[{n}]"), "not a scope name (RFC 6749 §3.3)");
        }
    }
    match &route.auth {
        None => say("", "there is no token to exchange where none is asked for: the route needs auth"),
        Some(auth) => {
            if auth.accept.iter().any(|kind| !matches!(kind.as_str(), "jwt" | "opaque" | "none")) {
                say("", "only tokens can be exchanged: accept jwt, opaque and none alone");
            }
            if !auth.sender_constraint.is_empty() {
                say("", "a token that is bound to its holder's key cannot be exchanged by anybody else");
            }
        }
    }
    if route.forward_credentials {
        say("", "stands where the caller's token would: forward_credentials cannot be true");
    }
}

#[cfg(test)]
mod tests {
    use ledger::Record;
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn wrong(exchange: Value, more: Value) -> Vec<String> {
        let mut route = json!({"id": "r", "upstream": "u", "auth": {"accept": ["jwt"], "audience": "a"}, "token_exchange": exchange});
        for (name, value) in more.as_object().unwrap() {
            route[name] = value.clone();
        }
        serde_json::from_value::<Route>(route).unwrap().mistakes().into_iter().map(|m| m.at).collect()
    }

    #[test]
    fn what_a_route_may_ask_for() {
        assert_eq!(wrong(json!({"resource": "https://b", "scopes": ["read"]}), json!({})), Vec::<String>::new());
        assert_eq!(wrong(json!({"audience": "b"}), json!({})), Vec::<String>::new());
        for bad in [json!({}), json!({"resource": "a", "audience": "b"}), json!({"resource": ""})] {
            assert_eq!(wrong(bad.clone(), json!({})), ["token_exchange"], "{bad}");
        }
        assert_eq!(wrong(json!({"resource": "a", "scopes": ["a b"]}), json!({})), ["token_exchange.scopes[0]"]);
        let good = json!({"resource": "a"});
        assert_eq!(wrong(good.clone(), json!({"forward_credentials": true})), ["token_exchange"]);
        let bound = json!({"auth": {"accept": ["jwt"], "audience": "a", "sender_constraint": ["dpop"]}});
        assert_eq!(wrong(good.clone(), bound), ["token_exchange"]);
        assert!(wrong(good, json!({"auth": null, "public": true})).contains(&"token_exchange".to_owned()));
    }
}
