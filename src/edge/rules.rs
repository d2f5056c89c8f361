//! A route's policy: the caller, the request and the route as a question to Cedar.
//!
//! The principal is a `User` (a person of this issuer, by `sub`), a `Client` (a machine of this issuer, by `client_id`), a `Device` (by its id:
//! in its `DeviceType`, its `Group`s and its `Tenant`), an `ApiKey` (by its id, in the `User` or `Client` that owns it), a `Certificate` (by
//! `authority|sub`), a `ForeignUser` (by `issuer|sub`, also where this issuer made the token of another one's assertion) or
//! `Anonymous::"anonymous"`; a person's roles and groups are its parents (`Role`, `Group`). The action is the method. The resource is the
//! `Route`, in its `Upstream` and its `Tag`s: who may reach which upstream is one policy. The context has the request (`method`, `path`, `host`,
//! `source`, `now`), the route (`route`, `upstream`) and the credential (`credential`, `binding`, `scopes`, `issuer`, `client_id`, `acr`, `amr`,
//! `auth_time`, `act`, `tenant`, `device`). A `forbid` that cannot be evaluated forbids: ask `context has acr` before `context.acr` where a token
//! may have none.
use std::{net::IpAddr, sync::Arc};

pub use policy::Verdict as Judgement;
use policy::{Being, Compiled, Question};
use serde_json::{Map, Value, json};

use crate::{
    identity::{Device, Identity, Issuer, Kind},
    route::{Route, UpstreamRef},
};

/// The policy of a route, ready to be asked. Equal if its text is.
#[derive(Debug, Clone)]
pub struct Rules {
    text: String,
    compiled: Arc<Compiled>,
    resource: Being,
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        let shared = self.text == SHARED || self.text == SHADOWED;
        self.text == other.text && self.resource == other.resource && (Arc::ptr_eq(&self.compiled, &other.compiled) || !shared)
    }
}

/// What a route says to be judged by the stored policies.
pub const SHARED: &str = "shared";
/// The stored policies with those that are only tried: what no route can say.
const SHADOWED: &str = "";
/// Most tags of a route.
pub const MAX_TAGS: usize = 32;

/// The stored policies: those that decide, and all of them where some are only tried.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    enforced: Arc<Compiled>,
    tried: Option<Arc<Compiled>>,
}

impl Stored {
    /// Of what administrators wrote.
    ///
    /// # Errors
    /// In words.
    pub fn new(policies: &[policy::Policy]) -> Result<Self, String> {
        let tried = if policies.iter().any(|p| p.is_tried()) { Some(Arc::new(Compiled::with_tried(policies)?)) } else { None };
        Ok(Self { enforced: Arc::new(Compiled::new(policies)?), tried })
    }
}

/// What is asked, besides who asks.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub method: &'a str,
    /// The normal path.
    pub path: &'a str,
    pub host: &'a str,
    /// Not known: neither is it in the context, and whoever asks for it without asking whether it is there is refused.
    pub source: Option<IpAddr>,
    /// Seconds since the epoch.
    pub now: i64,
}

/// What decides over a route, and what is tried beside it.
pub type DecidingAndTried = (Option<Rules>, Option<Rules>);

/// A route as a resource.
fn resource(route: &Route) -> Being {
    // An upstream of this route alone has the route's name.
    let upstream = if let UpstreamRef::Named(id) = &route.upstream { id.as_str() } else { route.id.as_str() };
    let being = Being::new("Route", &*route.id).within("Upstream", upstream).with("upstream", upstream).with("tags", json!(route.tags));
    route.tags.iter().fold(being, |being, tag| being.within("Tag", tag))
}

impl Rules {
    /// A text for a route over the stored policies' entities; or the stored policies themselves.
    ///
    /// # Errors
    /// In words.
    pub fn new(route: &Route, text: &str, stored: &Stored) -> Result<Self, String> {
        let compiled = if text == SHARED { Arc::clone(&stored.enforced) } else { Arc::new(stored.enforced.beside(&route.id, text)?) };
        Ok(Self { text: text.to_owned(), compiled, resource: resource(route) })
    }

    /// What decides over a route, and what is tried beside it. `default`: what a route without a policy of its own says.
    ///
    /// # Errors
    /// The member and what is wrong, in words.
    pub fn of(route: &Route, stored: &Stored, default: Option<&str>) -> Result<DecidingAndTried, (&'static str, String)> {
        let text = route.policy.as_deref().or(default);
        let deciding = text.map(|text| Self::new(route, text, stored)).transpose().map_err(|why| ("policy", why))?;
        let tried = match (&route.policy_shadow, &stored.tried) {
            (Some(text), _) => Some(Self::new(route, text, stored).map_err(|why| ("policy_shadow", why))?),
            (None, Some(tried)) if text == Some(SHARED) => {
                Some(Self { text: SHADOWED.to_owned(), compiled: Arc::clone(tried), resource: resource(route) })
            }
            _ => None,
        };
        Ok((deciding, tried))
    }

    /// Decides over a request.
    #[must_use]
    pub fn ask(&self, who: Option<&Identity>, what: &Circumstances<'_>) -> Judgement {
        self.compiled.ask(&self.question(who, what))
    }

    /// A request as a question.
    #[must_use]
    pub fn question(&self, who: Option<&Identity>, what: &Circumstances<'_>) -> Question {
        let mut context = Map::new();
        let mut put = |name: &str, value: Value| context.insert(name.to_owned(), value);
        put("method", what.method.into());
        put("path", what.path.into());
        put("host", what.host.into());
        put("route", self.resource.id.as_str().into());
        if let Some(upstream) = self.resource.attributes.get("upstream") {
            put("upstream", upstream.clone());
        }
        if let Some(source) = what.source {
            put("source", source.to_string().into());
        }
        put("now", what.now.into());
        put("credential", who.map_or("none", |who| who.kind.as_str()).into());
        put("binding", who.map_or("none", binding).into());
        if let Some(who) = who {
            put("scopes", who.claims.scope.split(' ').filter(|s| !s.is_empty()).collect());
            put("issuer", who.claims.iss.as_str().into());
            if let Some(client) = &who.claims.client_id {
                put("client_id", client.as_str().into());
            }
            for name in ["acr", "amr", "auth_time", "act"] {
                if let Some(value) = who.claims.raw.get(name) {
                    put(name, value.clone());
                }
            }
            if let Some(device) = &who.device {
                put("device", described(device));
            }
            if let Some(tenant) = tenant(who) {
                put("tenant", tenant.into());
            }
        }
        Question {
            principal: who.map_or_else(|| Being::new("Anonymous", "anonymous"), principal),
            action: what.method.to_owned(),
            resource: self.resource.clone(),
            context,
        }
    }
}

/// What is wrong with a route's members about policies.
pub(crate) fn mistakes(route: &Route, out: &mut Vec<ledger::Mistake>) {
    for (at, text) in [("policy", &route.policy), ("policy_shadow", &route.policy_shadow)] {
        if let Some(text) = text.as_deref().filter(|text| *text != SHARED)
            && let Err(why) = policy::compiled::parse(&route.id, text)
        {
            out.push(ledger::Mistake::new(at, why));
        }
    }
    if route.tags.len() > MAX_TAGS {
        out.push(ledger::Mistake::new("tags", "at most 32"));
    }
    for (n, tag) in route.tags.iter().enumerate() {
        if !(1..=128).contains(&tag.chars().count()) || tag.chars().any(char::is_control) {
            out.push(ledger::Mistake::new(format!("tags[{n}]"), "1 to 128 characters, no control characters"));
        }
    }
}

/// How the credential is tied to its sender.
fn binding(who: &Identity) -> &'static str {
    match &who.claims.cnf {
        _ if who.kind == Kind::Certificate => "mtls",
        Some(cnf) if cnf.jkt.is_some() => "dpop",
        Some(cnf) if cnf.x5t_s256.is_some() => "mtls",
        _ => "none",
    }
}

/// Whose a device or a key of ours is.
fn tenant(who: &Identity) -> Option<&str> {
    let own = || who.claims.raw.get("tenant").and_then(Value::as_str).filter(|_| who.kind == Kind::ApiKey && who.issuer == Issuer::Own);
    own().or_else(|| who.device.as_ref()?.tenant.as_deref())
}

fn described(device: &Device) -> Value {
    let mut out = Map::new();
    out.insert("id".into(), device.id.as_str().into());
    out.insert("type".into(), device.kind.as_str().into());
    out.insert("groups".into(), json!(device.groups));
    if let Some(tenant) = &device.tenant {
        out.insert("tenant".into(), tenant.as_str().into());
    }
    Value::Object(out)
}

/// A device as a principal.
fn device(device: &Device) -> Being {
    let mut being = Being::new("Device", &*device.id).with("type", device.kind.as_str()).with("groups", json!(device.groups));
    if !device.kind.is_empty() {
        being = being.within("DeviceType", &*device.kind);
    }
    if let Some(tenant) = &device.tenant {
        being = being.within("Tenant", tenant).with("tenant", tenant.as_str());
    }
    device.groups.iter().fold(being, |being, group| being.within("Group", group))
}

fn principal(who: &Identity) -> Being {
    let claims = &who.claims;
    let client = claims.client_id.as_deref().unwrap_or_default();
    let strange = |issuer: &str| Being::new("ForeignUser", format!("{issuer}|{}", claims.sub));
    // Whatever a person of ours stands behind hangs on a grant of theirs, or is their session.
    let persons = claims.grant.is_some() || who.kind == Kind::Session;
    let mut being = match (&who.issuer, &who.device) {
        (Issuer::Own, _) if persons => Being::new("User", &*claims.sub),
        (Issuer::Own | Issuer::Authority(_), Some(found)) => device(found),
        (Issuer::Own, None) if who.kind == Kind::ApiKey => {
            let owner = if claims.client_id.as_deref() == Some(&claims.sub) { "Client" } else { "User" };
            let named = who.kid.as_deref().unwrap_or(&claims.sub);
            let key = Being::new("ApiKey", named.strip_prefix(ledger::revocation::API_KEY).unwrap_or(named));
            // One that nobody owns is its own subject.
            if claims.sub.is_empty() || claims.sub == named { key } else { key.within(owner, &*claims.sub) }
        }
        // Somebody of another issuer, whose assertion became a token of ours.
        (Issuer::Own, None) if client != claims.sub && claims.sub.contains('|') => return Being::new("ForeignUser", &*claims.sub),
        // A machine's subject is the client itself (RFC 9068 §2.2), also in what another client exchanged of its tokens.
        (Issuer::Own, None) => Being::new("Client", &*claims.sub),
        (Issuer::Authority(authority), None) => {
            Being::new("Certificate", format!("{authority}|{}", claims.sub)).within("CertificateAuthority", &**authority)
        }
        (Issuer::Foreign(issuer), _) => return strange(issuer),
    };
    being = being.with("sub", claims.sub.as_str()).with("client_id", client);
    if let Some(tenant) = tenant(who).filter(|_| being.kind == "ApiKey") {
        being = being.within("Tenant", tenant).with("tenant", tenant);
    }
    // Of anything but a person these claims say nothing.
    if being.kind == "Device" || being.kind == "Certificate" {
        return being;
    }
    let list = |name: &str| -> Vec<String> {
        claims.raw.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (roles, groups) = (list("roles"), list("groups"));
    for role in &roles {
        being = being.within("Role", role);
    }
    for group in &groups {
        being = being.within("Group", group);
    }
    being.with("roles", json!(roles)).with("groups", json!(groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    fn route(id: &str, upstream: &str, tags: &[&str]) -> Route {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Route { id: id.into(), upstream: UpstreamRef::Named(upstream.into()), tags, ..Route::default() }
    }

    fn thing(kind: &str, groups: &[&str]) -> Arc<Device> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Arc::new(Device { id: "s-1".into(), kind: kind.into(), groups, tenant: Some("acme".into()) })
    }

    fn allowed(text: &str, who: Option<&Identity>, method: &str) -> bool {
        let rules = Rules::new(&route("firmware", "vault", &["critical"]), text, &Stored::default()).unwrap();
        let source = Some(IpAddr::from([10, 0, 0, 9]));
        rules.ask(who, &Circumstances { method, path: "/firmware/1", host: "api", source, now: 100 }).allowed
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

    #[test]
    fn a_sensor_is_a_device_whichever_credential_it_shows() {
        let text = r#"permit(principal in DeviceType::"temperature-sensor", action == Action::"POST", resource in Upstream::"vault")
                        when { context.credential != "api_key" && principal in Tenant::"acme" };
                      permit(principal in Group::"technicians", action, resource in Tag::"critical");"#;
        let mut sensor = identity(json!({"sub": "c", "client_id": "c", "aud": "api"}));
        assert!(!allowed(text, Some(&sensor), "POST"), "its client alone is not the device");
        sensor.device = Some(thing("temperature-sensor", &[]));
        assert!(allowed(text, Some(&sensor), "POST") && !allowed(text, Some(&sensor), "PUT"));
        (sensor.issuer, sensor.kind) = (Issuer::Authority("plant".into()), Kind::Certificate);
        assert!(allowed(text, Some(&sensor), "POST") && !allowed(text, Some(&sensor), "PUT"));
        (sensor.issuer, sensor.kind) = (Issuer::Own, Kind::ApiKey);
        assert!(!allowed(text, Some(&sensor), "POST"));
        sensor.device = Some(thing("laptop", &["technicians"]));
        assert!(allowed(text, Some(&sensor), "PUT"));
        // A foreign issuer's token is nobody's device, whatever else is known.
        sensor.issuer = Issuer::Foreign("https://x".into());
        sensor.kind = Kind::Jwt;
        assert!(!allowed(text, Some(&sensor), "PUT"));
    }

    #[test]
    fn a_person_stays_a_person_on_a_device_and_a_token_cannot_choose_a_device_s_groups() {
        let mut person = identity(json!({"sub": "u", "client_id": "tv", "aud": "api", "grant": "g"}));
        person.device = Some(thing("tv", &["lobby"]));
        assert!(allowed(r#"permit(principal == User::"u", action, resource) when { context.device.type == "tv" };"#, Some(&person), "GET"));
        assert!(!allowed(r#"permit(principal in Group::"lobby", action, resource);"#, Some(&person), "GET"));
        let mut sly = identity(json!({"sub": "c", "client_id": "c", "aud": "api", "groups": ["technicians"], "roles": ["admin"]}));
        sly.device = Some(thing("sensor", &[]));
        assert!(!allowed(r#"permit(principal in Group::"technicians", action, resource);"#, Some(&sly), "GET"));
        assert!(!allowed(r#"permit(principal in Role::"admin", action, resource);"#, Some(&sly), "GET"));
    }

    #[test]
    fn keys_and_certificates_are_named_with_whoever_vouches_for_them() {
        let mut key = identity(json!({"sub": "batch", "client_id": "batch", "aud": "api"}));
        (key.kind, key.kid) = (Kind::ApiKey, Some("k-1".into()));
        assert!(allowed(r#"permit(principal == ApiKey::"k-1", action, resource);"#, Some(&key), "GET"));
        assert!(allowed(r#"permit(principal in Client::"batch", action, resource);"#, Some(&key), "GET"));
        assert!(!allowed(r#"permit(principal is Client, action, resource);"#, Some(&key), "GET"));
        let mut certificate = identity(json!({"sub": "spiffe://a/b", "aud": "api"}));
        (certificate.kind, certificate.issuer) = (Kind::Certificate, Issuer::Authority("plant".into()));
        assert!(allowed(r#"permit(principal == Certificate::"plant|spiffe://a/b", action, resource);"#, Some(&certificate), "GET"));
        assert!(allowed(
            r#"permit(principal in CertificateAuthority::"plant", action, resource) when { context.binding == "mtls" };"#,
            Some(&certificate),
            "GET"
        ));
        assert!(!allowed(r#"permit(principal in CertificateAuthority::"other", action, resource);"#, Some(&certificate), "GET"));
    }

    #[test]
    fn what_is_tried_does_not_decide_and_a_route_without_a_policy_takes_the_default() {
        let one = |id: &str, cedar: &str, mode: Option<&str>| policy::Policy {
            id: id.into(),
            cedar: cedar.into(),
            mode: mode.map(str::to_owned),
            ..policy::Policy::default()
        };
        let get = r#"permit(principal, action == Action::"GET", resource);"#;
        let forbid = "forbid(principal, action, resource);";
        let stored = Stored::new(&[one("get", get, None), one("none", forbid, Some("shadow"))]).unwrap();
        let plain = route("r", "u", &[]);
        assert_eq!(Rules::of(&plain, &stored, None).unwrap(), (None, None));
        let (deciding, tried) = Rules::of(&plain, &stored, Some(SHARED)).unwrap();
        let what = Circumstances { method: "GET", path: "/", host: "h", source: None, now: 1 };
        assert!(deciding.unwrap().ask(None, &what).allowed && !tried.unwrap().ask(None, &what).allowed);
        let own = Route { policy_shadow: Some(get.into()), ..plain };
        let (deciding, tried) = Rules::of(&own, &stored, None).unwrap();
        assert!(deciding.is_none() && tried.unwrap().ask(None, &what).allowed);
    }
}
