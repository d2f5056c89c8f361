//! The route table: what administrators wrote, checked as a whole and made ready to be asked. Immutable.
use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ledger::{Mistake, Record};
use policy::Policy;
use tokens::Alg;

pub use crate::issuer::Trusted;
use crate::{
    admission::{Accepts, Access, Guard, SenderConstraint},
    assertion::{self, Assertion},
    balance::{Balance, balance},
    bounds::{Bounds, Limits},
    canary::Split,
    certificate::{self, ClientCertificate},
    cors::{self, Preflight},
    exchange::Exchange,
    headers::Aliases,
    identity::{Issuer, mark},
    issuer::{TrustedIssuer, trust},
    path,
    rate::{RateLimits, Rates},
    route::{Auth, DEFAULT_IDENTITY, Freshness, Route, UpstreamRef},
    rules::{Rules, Stored},
    session,
    step_up::StepUp,
    upstream::Upstream,
    validation::{Checker, Validation},
    version::{self, Life},
    version_match::{self, Selector},
};

/// A route made ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: Arc<str>,
    hosts: Vec<String>,
    pub prefix: String,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The version of the API it is for, where requests name one.
    pub(crate) selector: Option<Selector>,
    /// The life of that version.
    pub life: Option<Box<Life>>,
    /// Header fields of every answer, refusals included.
    pub told: Vec<(HeaderName, HeaderValue)>,
    /// Where some of its requests go instead.
    pub canary: Option<Box<Split>>,
    pub upstream: Arc<Balance>,
    pub strip: bool,
    pub access: Access,
    pub limit: Option<Rates>,
    /// Sizes, times, how many at once.
    pub bounds: Option<Box<Bounds>>,
    /// Which pages of other origins may call it.
    pub cors: Option<Box<cors::Ready>>,
    /// What its requests have to look like.
    pub validation: Option<Arc<Checker>>,
    /// Header → claim.
    pub identity: Vec<(HeaderName, String)>,
    /// Whether the upstream is told the client certificate.
    pub client_certificate: ClientCertificate,
    /// Equal for routes whose mappings are equal.
    pub identity_id: usize,
    pub body_limit: Option<u64>,
    pub forward_credentials: bool,
    /// What the upstream is told under our signature.
    pub assertion: Option<Assertion>,
    /// What the caller's token becomes.
    pub exchange: Option<Exchange>,
    pub forwarded: bool,
    /// Asked once a caller is authorized.
    pub rules: Option<Rules>,
    /// Asked beside them; decides nothing.
    pub tried: Option<Rules>,
}

/// What a request matched.
#[derive(Debug, Clone, Copy)]
pub enum Matched<'a> {
    /// This route, by its index.
    Route(usize, &'a Entry),
    /// Routes of this path take other methods.
    OtherMethods,
    /// None.
    Nothing,
}

/// The routes, the issuers they trust, and the identity headers any of them sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteTable {
    entries: Vec<Entry>,
    by_segment: AHashMap<String, Vec<usize>>,
    aliases: Aliases,
    issuers: Vec<Arc<Trusted>>,
}

impl RouteTable {
    /// Checks everything together and makes it ready. `own` is this server's issuer identifier: a route may name it or
    /// say `self`.
    ///
    /// # Errors
    /// Every mistake; nothing is taken over in part.
    pub fn build(routes: &[Route], upstreams: &[Upstream], issuers: &[TrustedIssuer], own: &str) -> Result<Self, Vec<Mistake>> {
        Self::with_policies(routes, upstreams, issuers, &[], own)
    }

    /// The same over stored policies, which routes may name and whose entities they may speak of.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn with_policies(
        routes: &[Route],
        upstreams: &[Upstream],
        issuers: &[TrustedIssuer],
        policies: &[Policy],
        own: &str,
    ) -> Result<Self, Vec<Mistake>> {
        Self::judged_by(routes, upstreams, issuers, (policies, None), own)
    }

    /// The same, where a route without a policy of its own is judged as this default says ([`crate::rules::SHARED`]).
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn judged_by(
        routes: &[Route],
        upstreams: &[Upstream],
        issuers: &[TrustedIssuer],
        (policies, default_policy): (&[Policy], Option<&str>),
        own: &str,
    ) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let stored = Stored::new(policies).unwrap_or_else(|why| {
            mistakes.push(Mistake::new("policies", why));
            Stored::default()
        });
        for upstream in upstreams {
            collect(&mut mistakes, "upstreams", upstream);
        }
        for issuer in issuers {
            collect(&mut mistakes, "trusted_issuers", issuer);
        }
        for route in routes {
            collect(&mut mistakes, "routes", route);
        }
        twice(&mut mistakes, "routes", routes.iter().map(|r| r.id.as_str()));
        twice(&mut mistakes, "upstreams", upstreams.iter().map(|u| u.id.as_str()));
        twice(&mut mistakes, "trusted_issuers", issuers.iter().map(|i| i.issuer.as_str()));
        let named: BTreeMap<&str, Arc<Balance>> = upstreams.iter().map(|u| (u.id.as_str(), Arc::new(balance(&u.id, u)))).collect();
        let trusted: Vec<Arc<Trusted>> = issuers.iter().map(|i| Arc::new(trust(i))).collect();
        let mut entries = Vec::new();
        for route in routes {
            match entry(route, &named, &trusted, own)
                .and_then(|entry| judged(entry, route, &stored, default_policy))
                .and_then(|entry| lived(entry, route, &named))
            {
                Ok(entry) => entries.push(entry),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        entries.sort_by(|a, b| rank(a).cmp(&rank(b)));
        for pair in entries.windows(2) {
            if let [a, b] = pair
                && (&a.prefix, &a.hosts, &a.methods, &a.headers) == (&b.prefix, &b.hosts, &b.methods, &b.headers)
                && a.selector == b.selector
            {
                mistakes.push(Mistake::new(format!("routes[{}].match", b.id), format!("matches exactly what route {:?} matches", a.id)));
            }
        }
        mistakes.extend(version_match::clashes(&entries));
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let mut by_segment: AHashMap<String, Vec<usize>> = AHashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            by_segment.entry(first_segment(&entry.prefix).to_owned()).or_default().push(at);
        }
        let names = entries.iter().flat_map(|e| e.identity.iter().map(|(n, _)| n.as_str()));
        let names = names.chain(entries.iter().filter_map(|e| e.assertion.as_ref()?.alias()));
        let aliases = Aliases::new(names.chain(DEFAULT_IDENTITY.iter().map(|(n, _)| *n)).chain([assertion::default_alias()]));
        Ok(Self { entries, by_segment, aliases, issuers: trusted })
    }

    /// Finds the route: the longest prefix decides, and only routes with that prefix are looked at further, so that leaving
    /// out a header or choosing a method never reaches a weaker route.
    #[must_use]
    pub fn find<'a>(&'a self, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Matched<'a> {
        let mut prefix: Option<&str> = None;
        let mut other_methods = false;
        let segment = first_segment(path);
        let lists = [self.by_segment.get(segment), if segment.is_empty() { None } else { self.by_segment.get("") }];
        for at in lists.into_iter().flatten().flatten() {
            let Some(entry) = self.entries.get(*at) else { continue };
            if prefix.is_some_and(|p| p != entry.prefix) {
                break;
            }
            if !path::under(path, &entry.prefix) || !entry.hosts_match(host) {
                continue;
            }
            prefix = Some(&entry.prefix);
            if !entry.headers.iter().all(|(n, v)| headers.get(n) == Some(v)) {
                continue;
            }
            if entry.selector.as_ref().is_some_and(|selector| !selector.takes(headers)) {
                continue;
            }
            if entry.methods.is_empty() || entry.methods.contains(method) {
                return Matched::Route(*at, entry);
            }
            other_methods = true;
        }
        if other_methods { Matched::OtherMethods } else { Matched::Nothing }
    }

    /// Finds the route whose rules answer a page's question whether it may call: of those with the longest prefix that take the
    /// method, the first that has rules and allows the origin, else the first that has rules. What the page will send in headers is not
    /// known yet.
    #[must_use]
    pub fn preflight<'a>(&'a self, host: &str, path: &str, asked: &Preflight<'_>) -> Option<(usize, &'a Entry, &'a cors::Ready)> {
        let mut prefix: Option<&str> = None;
        let mut first = None;
        for (at, entry) in self.entries.iter().enumerate().filter(|(_, e)| path::under(path, &e.prefix) && e.hosts_match(host)) {
            if prefix.is_some_and(|p| p != entry.prefix) {
                break;
            }
            prefix = Some(&entry.prefix);
            if !entry.methods.is_empty() && !entry.methods.contains(&asked.method) {
                continue;
            }
            let Some(rules) = &entry.cors else { continue };
            if rules.allows(asked.origin) {
                return Some((at, entry, rules));
            }
            first = first.or(Some((at, entry, &**rules)));
        }
        first
    }

    /// The methods routes of this host and path take, for `Allow`.
    #[must_use]
    pub fn methods(&self, host: &str, path: &str) -> Vec<Method> {
        let mut out: Vec<Method> = Vec::new();
        for entry in self.entries.iter().filter(|e| path::under(path, &e.prefix) && e.hosts_match(host)) {
            out.extend(entry.methods.iter().filter(|m| !out.contains(m)).cloned().collect::<Vec<_>>());
        }
        out
    }

    /// The routes, longest prefix first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The upstreams of the routes and of their canaries.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Balance>> {
        self.entries
            .iter()
            .flat_map(|entry| [Some(&entry.upstream), entry.canary.as_deref().map(|split| &split.entry.upstream)].into_iter().flatten())
    }

    /// Names no caller may use for its own headers.
    #[must_use]
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Where the deployment has no post-quantum algorithm, nobody's token is believed by one: also of an issuer registered before.
    #[must_use]
    pub fn known_to(mut self, post_quantum: bool) -> Self {
        if !post_quantum {
            let of = |trusted: &Arc<Trusted>| {
                let algorithms = trusted.algorithms.iter().copied().filter(|alg| *alg != Alg::MlDsa65).collect();
                Arc::new(Trusted { algorithms, ..Trusted::clone(trusted) })
            };
            self.issuers = self.issuers.iter().map(of).collect();
        }
        self
    }

    /// The trusted issuers.
    #[must_use]
    pub fn issuers(&self) -> &[Arc<Trusted>] {
        &self.issuers
    }

    /// A trusted issuer by its `iss`.
    #[must_use]
    pub fn trusted(&self, issuer: &str) -> Option<&Arc<Trusted>> {
        self.issuers.iter().find(|t| *t.issuer == *issuer)
    }
}

impl Entry {
    /// Whether it is for requests to this host.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts_match(host)
    }
    /// Whether a host exists that both are for.
    pub(crate) fn shares_hosts(&self, other: &Self) -> bool {
        self.hosts.is_empty() || other.hosts.is_empty() || self.hosts.iter().any(|host| other.hosts.contains(host))
    }
    /// Whether a request of that host and path can be for both, versions apart.
    pub(crate) fn shares_requests(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty() || other.methods.is_empty() || self.methods.iter().any(|m| other.methods.contains(m));
        methods && self.headers == other.headers
    }
    fn hosts_match(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

fn first_segment(path: &str) -> &str {
    path.get(1..).and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

fn rank(entry: &Entry) -> impl Ord {
    use std::cmp::Reverse;
    (
        Reverse(entry.prefix.len()),
        entry.prefix.clone(),
        entry.hosts.is_empty(),
        entry.hosts.clone(),
        Reverse(entry.headers.len()),
        entry.headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect::<Vec<_>>(),
        entry.selector.as_ref().map(Selector::rank),
        entry.methods.is_empty(),
        entry.methods.iter().map(|m| m.as_str().to_owned()).collect::<Vec<_>>(),
        entry.id.clone(),
    )
}

fn collect<R: Record>(out: &mut Vec<Mistake>, list: &str, record: &R) {
    let name = if record.id().is_empty() { record.key() } else { record.id() };
    out.extend(record.mistakes().into_iter().map(|m| Mistake::new(format!("{list}[{name}].{}", m.at), m.why)));
}

fn twice<'a>(out: &mut Vec<Mistake>, list: &str, ids: impl Iterator<Item = &'a str>) {
    let mut seen = std::collections::BTreeSet::new();
    out.extend(ids.filter(|id| !seen.insert(*id)).map(|id| Mistake::new(format!("{list}[{id}]"), "comes twice")));
}

fn millis(text: Option<&String>) -> Option<i64> {
    text.and_then(|t| tokens::duration::parse(t)).map(|s| s.saturating_mul(1000))
}

/// The id of a route's upstream, if that has one.
const fn named_upstream(route: &Route) -> Option<&str> {
    match &route.upstream {
        UpstreamRef::Named(id) => Some(id.as_str()),
        UpstreamRef::Inline(_) => None,
    }
}

/// Adds the route's policy, and what is tried beside it.
fn judged(mut entry: Entry, route: &Route, stored: &Stored, default: Option<&str>) -> Result<Entry, Mistake> {
    let wrong = |(member, why): (&str, String)| Mistake::new(format!("routes[{}].{member}", route.id), why);
    (entry.rules, entry.tried) = Rules::of(route, stored, default).map_err(wrong)?;
    Ok(entry)
}

/// Adds the life of its version, and its canary.
fn lived(mut entry: Entry, route: &Route, named: &BTreeMap<&str, Arc<Balance>>) -> Result<Entry, Mistake> {
    entry.told = version::told(route.version.as_ref(), entry.selector.as_ref());
    let Some(canary) = &route.canary else { return Ok(entry) };
    let upstream = match &canary.upstream {
        UpstreamRef::Named(id) => named
            .get(id.as_str())
            .cloned()
            .ok_or_else(|| Mistake::new(format!("routes[{}].canary.upstream", route.id), format!("there is no upstream {id:?}")))?,
        UpstreamRef::Inline(inline) => Arc::new(balance(&format!("{} (canary)", route.id), inline)),
    };
    entry.canary = Some(Box::new(Split::new(canary, Entry { upstream, ..entry.clone() })));
    Ok(entry)
}

fn entry(route: &Route, named: &BTreeMap<&str, Arc<Balance>>, trusted: &[Arc<Trusted>], own: &str) -> Result<Entry, Mistake> {
    let at = |member: &str| format!("routes[{}].{member}", route.id);
    let upstream = match &route.upstream {
        UpstreamRef::Named(id) => {
            named.get(id.as_str()).cloned().ok_or_else(|| Mistake::new(at("upstream"), format!("there is no upstream {id:?}")))?
        }
        UpstreamRef::Inline(inline) => Arc::new(balance(&format!("{} (inline)", route.id), inline)),
    };
    let access = match (&route.auth, route.public) {
        (None, true) => Access::Public,
        (None, false) => Access::Closed,
        (Some(auth), _) => Access::Guarded(Box::new(Guard {
            certificate: certificate::Ready::of(route, auth),
            session: route.session.as_ref().map(session::Rules::new).unwrap_or_default(),
            ..guard(auth, trusted, own).map_err(|why| Mistake::new(at("auth.issuers"), why))?
        })),
    };
    let mut identity: Vec<(HeaderName, String)> =
        route.identity_headers().into_iter().filter_map(|(h, c)| Some((HeaderName::from_bytes(h.as_bytes()).ok()?, c))).collect();
    identity.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    let identity_id = mark(&identity);
    Ok(Entry {
        id: route.id.as_str().into(),
        hosts: route.matches.hosts.iter().map(|h| h.trim_end_matches('.').to_ascii_lowercase()).collect(),
        prefix: route.matches.path_prefix.clone(),
        methods: route.matches.methods.iter().filter_map(|m| Method::from_bytes(m.as_bytes()).ok()).collect(),
        headers: route
            .matches
            .headers
            .iter()
            .filter_map(|(n, v)| Some((HeaderName::from_bytes(n.as_bytes()).ok()?, HeaderValue::from_str(v).ok()?)))
            .collect(),
        upstream,
        strip: route.strip_prefix,
        access,
        limit: route.rate_limit.as_ref().and_then(RateLimits::ready),
        bounds: route.limits.as_ref().and_then(Limits::ready),
        cors: route.cors.as_ref().and_then(|cors| {
            let methods: Vec<Method> = route.matches.methods.iter().filter_map(|m| Method::from_bytes(m.as_bytes()).ok()).collect();
            cors.ready(&methods)
        }),
        validation: match route.validation.as_ref().map(Validation::ready) {
            Some(Err(_)) => return Err(Mistake::new(at("validation"), "cannot be used")),
            Some(Ok(checker)) => Some(checker),
            None => None,
        },
        identity,
        identity_id,
        client_certificate: route.identity.as_ref().map(|identity| identity.client_certificate).unwrap_or_default(),
        body_limit: route.limits.as_ref().and_then(|l| l.body),
        forward_credentials: route.forward_credentials,
        assertion: Assertion::of(route, named_upstream(route)),
        exchange: Exchange::of(route),
        forwarded: route.forwarded,
        rules: None,
        tried: None,
        selector: route.matches.version.as_ref().and_then(Selector::new),
        life: route.version.as_ref().map(|version| Box::new(Life::new(version))),
        told: Vec::new(),
        canary: None,
    })
}

/// Most issuers that are asked about one opaque token.
pub const MAX_ASKED: usize = 8;

fn guard(auth: &Auth, trusted: &[Arc<Trusted>], own: &str) -> Result<Guard, String> {
    let mut issuers = Vec::new();
    for name in &auth.issuers {
        if name == "self" || name == own {
            issuers.push(Issuer::Own);
        } else {
            let known = trusted.iter().find(|t| *t.issuer == **name).ok_or_else(|| format!("{name:?} is not a trusted issuer"))?;
            issuers.push(Issuer::Foreign(Arc::clone(&known.issuer)));
        }
    }
    if issuers.is_empty() {
        issuers.push(Issuer::Own);
    }
    let listed = || trusted.iter().filter(|t| issuers.contains(&Issuer::Foreign(Arc::clone(&t.issuer))));
    if auth.freshness == Freshness::Introspect
        && let Some(mute) = listed().find(|t| t.introspection.is_none())
    {
        return Err(format!("freshness \"introspect\" asks every issuer, and {:?} has no introspection", mute.issuer));
    }
    if listed().filter(|t| t.introspection.is_some()).count() > MAX_ASKED {
        return Err(format!("at most {MAX_ASKED} issuers are asked about one token"));
    }
    let accepts = |kind: &str| auth.accept.iter().any(|a| a == kind);
    let demands = |kind: &str| auth.sender_constraint.iter().any(|s| s == kind);
    Ok(Guard {
        accepts: Accepts {
            jwt: accepts("jwt"),
            opaque: accepts("opaque"),
            api_key: accepts("api_key"),
            mtls: accepts("mtls"),
            session: accepts("session"),
            none: accepts("none"),
        },
        issuers,
        audience: auth.audience.clone().unwrap_or_default(),
        insufficient: Guard::insufficient(&auth.scopes),
        scopes: auth.scopes.clone(),
        freshness: auth.freshness,
        cache_ttl_ms: millis(auth.cache_ttl.as_ref()),
        max_staleness_ms: millis(auth.max_staleness.as_ref()),
        sender: SenderConstraint { dpop: demands("dpop"), mtls: demands("mtls") },
        step_up: StepUp { acr_values: auth.acr_values.clone(), max_age: auth.max_age.as_ref().and_then(|t| tokens::duration::parse(t)) },
        session: session::Rules::default(),
        certificate: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn table(routes: Value) -> Result<RouteTable, Vec<Mistake>> {
        let routes: Vec<Route> = serde_json::from_value(routes).unwrap();
        let upstream: Upstream = serde_json::from_value(json!({"id": "u", "targets": [{"url": "http://127.0.0.1:9"}]})).unwrap();
        RouteTable::build(&routes, &[upstream], &[], "https://id.example.com")
    }

    fn found(table: &RouteTable, host: &str, path: &str, method: &str) -> String {
        match table.find(host, path, &Method::from_bytes(method.as_bytes()).unwrap(), &HeaderMap::new()) {
            Matched::Route(_, e) => e.id.to_string(),
            Matched::OtherMethods => "405".into(),
            Matched::Nothing => "404".into(),
        }
    }

    #[test]
    fn the_post_quantum_algorithm_counts_while_the_deployment_has_it() {
        let issuer: TrustedIssuer =
            serde_json::from_value(json!({"issuer": "https://x", "jwks_uri": "https://x/jwks", "algorithms": ["ES256", "ML-DSA-65"]}))
                .unwrap();
        let built = || RouteTable::build(&[], &[], std::slice::from_ref(&issuer), "https://id.example.com").unwrap();
        let taken = |post_quantum| built().known_to(post_quantum).trusted("https://x").unwrap().algorithms.clone();
        assert_eq!((taken(true), taken(false)), (vec![Alg::ES256, Alg::MlDsa65], vec![Alg::ES256]));
        assert_eq!(issuer.clone().known_to(false).algs(), [Alg::ES256]);
    }

    #[test]
    fn the_longest_prefix_wins_and_its_methods_decide() {
        let t = table(json!([
            {"id": "all", "match": {"path_prefix": "/"}, "upstream": "u", "public": true},
            {"id": "read", "match": {"path_prefix": "/api/", "methods": ["GET"]}, "upstream": "u", "auth": {"accept": ["jwt"], "audience": "a"}},
            {"id": "write", "match": {"path_prefix": "/api/", "methods": ["POST"]}, "upstream": "u", "auth": {"accept": ["jwt"], "audience": "a"}},
            {"id": "host", "match": {"path_prefix": "/api/", "hosts": ["b.example"]}, "upstream": "u", "auth": {"accept": ["jwt"], "audience": "a"}},
            {"id": "deep", "match": {"path_prefix": "/api/deep"}, "upstream": "u", "public": true},
        ]))
        .unwrap();
        for (host, path, method, id) in [
            ("x", "/", "GET", "all"),
            ("x", "/api", "GET", "all"),
            ("x", "/api/", "GET", "read"),
            ("x", "/api/1", "POST", "write"),
            ("x", "/api/1", "DELETE", "405"),
            ("B.Example", "/api/1", "DELETE", "host"),
            ("x", "/api/deep", "PUT", "deep"),
            ("x", "/api/deeper", "GET", "read"),
            ("x", "/api/1", "get", "405"),
        ] {
            assert_eq!(found(&t, host, path, method), id, "{host} {path} {method}");
        }
    }

    #[test]
    fn an_unknown_upstream_issuer_or_a_double_is_a_mistake() {
        let wrong = table(json!([
            {"id": "a", "upstream": "nowhere", "public": true},
            {"id": "b", "upstream": "u", "auth": {"accept": ["jwt"], "audience": "x", "issuers": ["https://unknown.example"]}},
            {"id": "c", "match": {"path_prefix": "/c"}, "upstream": "u", "public": true},
            {"id": "d", "match": {"path_prefix": "/c"}, "upstream": "u"},
        ]))
        .unwrap_err();
        let at: Vec<_> = wrong.iter().map(|m| m.at.as_str()).collect();
        assert_eq!(at, ["routes[a].upstream", "routes[b].auth.issuers", "routes[d].match"]);
    }
}
