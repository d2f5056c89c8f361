//! A route's policy: the caller, the request and the route as a question to Cedar.
//!
//! The principal is a `User` (a person of this issuer, by `sub`), a `Client` (a machine of this issuer, by `client_id`), a `ForeignUser` (by
//! `issuer|sub`, also where this issuer made the token of another one's assertion) or `Anonymous::"anonymous"`; roles and groups are its
//! parents (`Role`, `Group`). The action is the method, the resource the `Route`. A `forbid` that cannot be evaluated forbids: ask
//! `context has acr` before `context.acr` where a token may have none.
use std::{net::IpAddr, sync::Arc};

pub use policy::Verdict as Judgement;
use policy::{Being, Compiled, Question};
use serde_json::{Map, Value, json};

use crate::identity::{Identity, Issuer};

/// The policy of a route, ready to be asked. Equal if its text is.
#[derive(Debug, Clone)]
pub struct Rules {
    text: String,
    compiled: Arc<Compiled>,
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && (Arc::ptr_eq(&self.compiled, &other.compiled) || self.text != SHARED)
    }
}

/// What a route says to be judged by the stored policies.
pub const SHARED: &str = "shared";

/// What is asked, besides who asks.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub route: &'a str,
    pub method: &'a str,
    /// The normal path.
    pub path: &'a str,
    pub host: &'a str,
    /// Not known: neither is it in the context, and whoever asks for it without asking whether it is there is refused.
    pub source: Option<IpAddr>,
    /// Seconds since the epoch.
    pub now: i64,
}

impl Rules {
    /// A route's text over the stored policies' entities; or the stored policies themselves.
    ///
    /// # Errors
    /// In words.
    pub fn new(route: &str, text: &str, stored: &Arc<Compiled>) -> Result<Self, String> {
        let compiled = if text == SHARED { Arc::clone(stored) } else { Arc::new(stored.beside(route, text)?) };
        Ok(Self { text: text.to_owned(), compiled })
    }

    /// Decides over a request.
    #[must_use]
    pub fn ask(&self, who: Option<&Identity>, what: &Circumstances<'_>) -> Judgement {
        self.compiled.ask(&question(who, what))
    }
}

fn question(who: Option<&Identity>, what: &Circumstances<'_>) -> Question {
    let mut context = Map::new();
    let mut put = |name: &str, value: Value| context.insert(name.to_owned(), value);
    put("method", what.method.into());
    put("path", what.path.into());
    put("host", what.host.into());
    if let Some(source) = what.source {
        put("source", source.to_string().into());
    }
    put("now", what.now.into());
    if let Some(who) = who {
        put("scopes", who.claims.scope.split(' ').filter(|s| !s.is_empty()).collect());
        put("issuer", who.claims.iss.as_str().into());
        for name in ["acr", "amr", "auth_time", "act"] {
            if let Some(value) = who.claims.raw.get(name) {
                put(name, value.clone());
            }
        }
    }
    Question {
        principal: who.map_or_else(|| Being::new("Anonymous", "anonymous"), principal),
        action: what.method.to_owned(),
        resource: Being::new("Route", what.route),
        context,
    }
}

fn principal(who: &Identity) -> Being {
    let claims = &who.claims;
    let list = |name: &str| -> Vec<String> {
        claims.raw.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut being = match &who.issuer {
        // Whatever a person of ours stands behind hangs on a grant of theirs.
        Issuer::Own if claims.grant.is_some() => Being::new("User", &*claims.sub),
        // Somebody of another issuer, whose assertion became a token of ours.
        Issuer::Own if claims.client_id.as_deref() != Some(&claims.sub) && claims.sub.contains('|') => {
            return Being::new("ForeignUser", &*claims.sub);
        }
        // A machine's subject is the client itself (RFC 9068 §2.2), also in what another client exchanged of its tokens.
        Issuer::Own => Being::new("Client", &*claims.sub),
        Issuer::Foreign(issuer) | Issuer::Authority(issuer) => return Being::new("ForeignUser", format!("{issuer}|{}", claims.sub)),
    };
    let (roles, groups) = (list("roles"), list("groups"));
    for role in &roles {
        being = being.within("Role", role);
    }
    for group in &groups {
        being = being.within("Group", group);
    }
    let client = claims.client_id.as_deref().unwrap_or_default();
    being.with("sub", claims.sub.as_str()).with("client_id", client).with("roles", json!(roles)).with("groups", json!(groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    fn allowed(text: &str, who: Option<&Identity>, method: &str) -> bool {
        let rules = Rules::new("firmware", text, &Arc::default()).unwrap();
        let source = Some(IpAddr::from([10, 0, 0, 9]));
        rules.ask(who, &Circumstances { route: "firmware", method, path: "/firmware/1", host: "api", source, now: 100 }).allowed
    }

    #[test]
    fn a_sensor_may_post_readings_and_not_touch_firmware() {
        let text = r#"permit(principal in Role::"operator", action == Action::"PUT", resource == Route::"firmware");
                      permit(principal is User, action == Action::"GET", resource) when { context.scopes.contains("read") };"#;
        let operator = identity(json!({"sub": "o", "aud": "api", "scope": "read", "grant": "g", "roles": ["operator"]}));
        let sensor = identity(json!({"sub": "s", "client_id": "s", "aud": "api", "scope": "read"}));
        assert!(allowed(text, Some(&operator), "PUT") && allowed(text, Some(&operator), "GET"));
        assert!(!allowed(text, Some(&operator), "DELETE") && !allowed(text, Some(&sensor), "PUT") && !allowed(text, Some(&sensor), "GET"));
        assert!(!allowed(text, None, "GET"));
    }

    #[test]
    fn a_foreign_issuers_subject_is_never_one_of_ours() {
        let mut foreign = identity(json!({"sub": "o", "aud": "api", "grant": "g", "roles": ["operator"]}));
        foreign.issuer = Issuer::Foreign("https://x".into());
        assert!(!allowed(r#"permit(principal == User::"o", action, resource);"#, Some(&foreign), "GET"));
        assert!(!allowed(r#"permit(principal in Role::"operator", action, resource);"#, Some(&foreign), "GET"));
        assert!(allowed(r#"permit(principal == ForeignUser::"https://x|o", action, resource);"#, Some(&foreign), "GET"));
    }

    #[test]
    fn whoever_hangs_on_no_grant_is_no_person_of_ours() {
        let external = identity(json!({"sub": "https://x|o", "client_id": "gw", "aud": "api", "roles": ["operator"]}));
        let machine = identity(json!({"sub": "alice", "client_id": "gw", "aud": "api"}));
        for who in [&external, &machine] {
            assert!(!allowed("permit(principal is User, action, resource);", Some(who), "GET"));
            assert!(!allowed(r#"permit(principal in Role::"operator", action, resource);"#, Some(who), "GET"));
        }
        assert!(allowed(r#"permit(principal == ForeignUser::"https://x|o", action, resource);"#, Some(&external), "GET"));
        assert!(allowed(r#"permit(principal == Client::"alice", action, resource);"#, Some(&machine), "GET"));
    }

    #[test]
    fn circumstances_can_be_asked() {
        let text = r#"permit(principal, action, resource) when { ip(context.source).isInRange(ip("10.0.0.0/8")) && context.path like "/firmware/*" };"#;
        assert!(allowed(text, None, "GET"));
    }
}
