//! What became of a request and why, and the memory of the last ones. Holds no credential and no query.
use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use edge::{
    Refusal,
    admission::{Access, Guard},
    identity::{Identity, Issuer},
    rules::Judgement,
    table::Entry,
};
use http::Method;
use parking_lot::Mutex;
use serde::Serialize;

use crate::account::Account;

/// Requests remembered, all threads together.
const MOST: usize = 4096;
/// Octets of a path that are remembered.
const PATH: usize = 512;
/// Entries of a list that are remembered: scopes, audiences, policies, faults.
const NAMED: usize = 16;
/// Octets of any other text that are remembered: what an issuer writes into its tokens may be long.
const TEXT: usize = 256;
/// Octets of what was found wrong with a request that are remembered.
const FAULTS: usize = 2048;

/// The beginning of a text, cut between characters.
fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// The beginning of a list.
fn first<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    all.take(NAMED).map(|text| cut(text, TEXT)).collect()
}

/// What a route demands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Demanded {
    /// Kinds of credentials.
    pub accept: Vec<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub audience: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    pub issuers: Vec<String>,
    pub freshness: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sender_constraint: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acr_values: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<i64>,
}

/// Whose credential was believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The kind of credential.
    pub credential: &'static str,
    pub issuer: String,
    pub sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The device it is, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The API key it is, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    pub scopes: Vec<String>,
    pub audience: Vec<String>,
    /// How it is tied to its sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// Seconds since the epoch.
    pub expires_at: i64,
}

/// What a policy said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    pub allowed: bool,
    /// The policies that decided.
    pub by: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// What the strictest quota said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub allowed: bool,
    pub remaining: u32,
    pub retry_after_ms: i64,
}

/// What became, or would become, of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What the request is called.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// When, milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Whether it would be forwarded (if within the route's quota).
    pub allowed: bool,
    /// The status it would be answered with otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why, in the words of the metrics.
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The path after normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Who was at the other end of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Whose request a trusted proxy says it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// The life of the version it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where some of the route's requests go instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// What the upstream is told of the caller beside plain headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// What the route demands; absent where it demands nothing or lets nobody through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demanded: Option<Demanded>,
    /// Whose credential was believed, also where that was not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// The scopes that are demanded and that it does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Judged>,
    /// What the policy that is only tried would have said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_shadow: Option<Judged>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Counted>,
    /// What was found wrong with the request when it was looked into: where and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
    /// Step by step, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
}

impl Demanded {
    fn of(guard: &Guard) -> Self {
        let accepts = &guard.accepts;
        let kinds = [
            (accepts.jwt, "jwt"),
            (accepts.opaque, "opaque"),
            (accepts.api_key, "api_key"),
            (accepts.mtls, "mtls"),
            (accepts.session, "session"),
            (accepts.none, "none"),
        ];
        let constraint = [(guard.sender.dpop, "dpop"), (guard.sender.mtls, "mtls")];
        let named = |issuer: &Issuer| match issuer {
            Issuer::Own => "self".to_owned(),
            Issuer::Foreign(name) | Issuer::Authority(name) => name.to_string(),
        };
        Self {
            accept: kinds.into_iter().filter_map(|(is, name)| is.then_some(name)).collect(),
            audience: guard.audience.clone(),
            scopes: guard.scopes.clone(),
            issuers: guard.issuers.iter().map(named).collect(),
            freshness: format!("{:?}", guard.freshness).to_ascii_lowercase(),
            sender_constraint: constraint.into_iter().filter_map(|(is, name)| is.then_some(name)).collect(),
            acr_values: guard.step_up.acr_values.clone(),
            max_age: guard.step_up.max_age,
        }
    }
}

impl Caller {
    fn of(who: &Identity) -> Self {
        let claims = &who.claims;
        let issuer = match &who.issuer {
            Issuer::Authority(name) => name.to_string(),
            Issuer::Own | Issuer::Foreign(_) => claims.iss.clone(),
        };
        let bound = claims.cnf.as_ref();
        Self {
            credential: who.kind.as_str(),
            issuer: cut(&issuer, TEXT),
            sub: cut(&claims.sub, TEXT),
            client_id: claims.client_id.as_deref().map(|client| cut(client, TEXT)),
            device: who.device.as_ref().map(|device| device.id.clone()),
            api_key: who.kid.as_deref().and_then(|kid| kid.strip_prefix(ledger::revocation::API_KEY)).map(str::to_owned),
            scopes: first(claims.scope.split(' ').filter(|scope| !scope.is_empty())),
            audience: first(claims.aud.iter().map(String::as_str)),
            binding: bound.map(|cnf| if cnf.jkt.is_some() { "dpop" } else { "mtls" }),
            acr: claims.raw.get("acr").and_then(serde_json::Value::as_str).map(|acr| cut(acr, TEXT)),
            auth_time: claims.raw.get("auth_time").and_then(serde_json::Value::as_i64),
            expires_at: claims.exp,
        }
    }
}

impl Judged {
    fn of(said: &Judgement) -> Self {
        let first = |all: &[String]| first(all.iter().map(String::as_str));
        Self { allowed: said.allowed, by: first(&said.by), faults: first(&said.faults) }
    }
}

impl Explanation {
    /// What was learned of a request, and what came of it.
    pub(crate) fn of(entry: Option<&Entry>, account: &Account, outcome: Result<(), Refusal>) -> Self {
        let guard = entry.and_then(|entry| if let Access::Guarded(guard) = &entry.access { Some(&**guard) } else { None });
        Self {
            request_id: account.request_id.as_str().to_owned(),
            allowed: outcome.is_ok(),
            status: outcome.err().map(Refusal::status),
            reason: outcome.err().map_or("ok", Refusal::reason).to_owned(),
            path: Some(cut(&account.path, PATH)).filter(|path| !path.is_empty()),
            source: account.source,
            route: entry.map(|entry| Arc::clone(&entry.id)),
            upstream: entry.map(|entry| Arc::clone(&entry.upstream.id)),
            demanded: guard.map(Demanded::of),
            lacking: guard.zip(account.who.as_ref()).map_or_else(Vec::new, |(guard, who)| {
                first(guard.scopes.iter().map(String::as_str).filter(|scope| !who.identity.claims.has_scope(scope)))
            }),
            caller: account.who.as_ref().map(|believed| Caller::of(&believed.identity)),
            policy: account.judged.as_ref().map(Judged::of),
            policy_shadow: account.tried.as_ref().map(Judged::of),
            version: entry.and_then(|entry| entry.life.as_ref()).map(|life| life.told()),
            canary: entry.and_then(|entry| entry.canary.as_ref()).map(|split| split.told()),
            told: entry.and_then(crate::told::said),
            limit: account.verdict.map(|v| Counted { allowed: v.allowed, remaining: v.remaining, retry_after_ms: v.retry_after_ms }),
            validation: (!account.faults.is_empty()).then(|| cut(&crate::validation::told(&account.faults), FAULTS)),
            ..Self::default()
        }
    }

    /// With its steps told.
    #[must_use]
    pub fn narrated(mut self) -> Self {
        let mut steps = Vec::new();
        if let Some(path) = &self.path {
            steps.push(format!("path is {path}"));
        }
        if let Some(route) = &self.route {
            let upstream = self.upstream.as_deref().unwrap_or_default();
            steps.push(format!("route is {route} to upstream {upstream}, {}", self.demands()));
        }
        steps.extend(self.version.iter().chain(&self.canary).cloned());
        if let Some(caller) = &self.caller {
            steps.push(caller.told());
        }
        if !self.lacking.is_empty() {
            steps.push(format!("scopes lacking: {:?}", self.lacking));
        }
        for (name, said) in [("policy", &self.policy), ("shadow policy", &self.policy_shadow)] {
            if let Some(said) = said {
                steps.push(said.told(name));
            }
        }
        if let Some(limit) = &self.limit {
            steps.push(format!("quota: {} left, {}", limit.remaining, if limit.allowed { "allowed" } else { "used up" }));
        }
        steps.extend(self.told.clone());
        steps.extend(self.validation.iter().map(|wrong| format!("validation: {wrong}")));
        steps.push(match self.status {
            None => "forwarded".to_owned(),
            Some(status) => format!("refused with {status}: {}", self.reason),
        });
        self.steps = steps;
        self
    }

    fn demands(&self) -> String {
        let Some(demanded) = &self.demanded else {
            return if self.reason == Refusal::Closed.reason() {
                "closed: it says neither auth nor public".into()
            } else {
                "public".into()
            };
        };
        let mut out = format!(
            "demands audience {:?} and scopes {:?}, freshness {}, accepts {:?} of {:?}",
            demanded.audience, demanded.scopes, demanded.freshness, demanded.accept, demanded.issuers
        );
        if !demanded.sender_constraint.is_empty() {
            out.push_str(&format!(", bound by {:?}", demanded.sender_constraint));
        }
        if !demanded.acr_values.is_empty() || demanded.max_age.is_some() {
            out.push_str(&format!(", acr one of {:?}, a login at most {:?} seconds ago", demanded.acr_values, demanded.max_age));
        }
        out
    }
}

impl Caller {
    fn told(&self) -> String {
        let mut out = format!(
            "credential {} of issuer {}, sub {}, scope {:?}, audience {:?}, good until {}",
            self.credential,
            self.issuer,
            self.sub,
            self.scopes.join(" "),
            self.audience,
            self.expires_at
        );
        for (name, value) in [("client", &self.client_id), ("device", &self.device), ("acr", &self.acr)] {
            if let Some(value) = value {
                out.push_str(&format!(", {name} {value}"));
            }
        }
        if let Some(at) = self.auth_time {
            out.push_str(&format!(", auth_time {at}"));
        }
        if let Some(binding) = self.binding {
            out.push_str(&format!(", bound by {binding}"));
        }
        out
    }
}

impl Judged {
    fn told(&self, name: &str) -> String {
        let faults = if self.faults.is_empty() { String::new() } else { format!(", could not evaluate {:?}", self.faults) };
        let by = if self.by.is_empty() { "no policy permits it".to_owned() } else { format!("{:?}", self.by) };
        format!("{name} says {}: {by}{faults}", if self.allowed { "yes" } else { "no" })
    }
}

/// The last requests that were refused, and those of the others that are remembered.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<VecDeque<Arc<Explanation>>>);

/// What is looked for among the remembered.
#[derive(Debug, Clone, Default)]
pub struct Sought {
    pub route: Option<String>,
    pub reason: Option<String>,
    pub status: Option<u16>,
}

impl Remembered {
    /// Remembers one; the oldest goes.
    pub(crate) fn put(&self, at_ms: i64, peer: IpAddr, method: &Method, explanation: Explanation) {
        let method = method.as_str().chars().take(32).collect();
        let kept = Arc::new(Explanation { at_ms: Some(at_ms), peer: Some(peer), method, ..explanation });
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(kept);
    }

    /// The one of that id.
    pub(crate) fn get(&self, request_id: &str) -> Option<Arc<Explanation>> {
        self.0.lock().iter().rev().find(|kept| kept.request_id == request_id).cloned()
    }

    /// The latest first.
    pub(crate) fn list(&self, sought: &Sought, most: usize) -> Vec<Arc<Explanation>> {
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        let fits = |kept: &&Arc<Explanation>| {
            is(&sought.route, kept.route.as_deref().unwrap_or_default())
                && is(&sought.reason, &kept.reason)
                && sought.status.is_none_or(|status| kept.status == Some(status))
        };
        self.0.lock().iter().rev().filter(fits).take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_the_latest_comes_first() {
        let all = Remembered::default();
        let peer = IpAddr::from([127, 0, 0, 1]);
        for n in 0..MOST + 10 {
            let reason = if n % 2 == 0 { "scope" } else { "policy" };
            let one = Explanation { request_id: n.to_string(), reason: reason.into(), ..Explanation::default() };
            all.put(5, peer, &Method::GET, one);
        }
        assert_eq!(all.0.lock().len(), MOST);
        assert!(all.get("9").is_none() && all.get("10").is_some());
        let found = all.list(&Sought { reason: Some("policy".into()), ..Sought::default() }, 3);
        assert_eq!(found.iter().map(|e| e.request_id.as_str()).collect::<Vec<_>>(), ["4105", "4103", "4101"]);
        assert!(all.list(&Sought { route: Some("r".into()), ..Sought::default() }, 3).is_empty());
    }

    #[test]
    fn what_is_remembered_of_a_token_is_short() {
        let long = "é".repeat(4_000);
        let many: Vec<String> = (0..4_000).map(|n| format!("s{n}")).collect();
        let claims = serde_json::json!({"active": true, "iss": "https://id.example.com", "exp": 9, "sub": long, "client_id": long,
            "scope": many.join(" "), "aud": many, "acr": long});
        let Ok(crate::source::Introspection::Active(claims)) = crate::source::Introspection::from_value(claims) else { panic!("active") };
        let kind = edge::identity::Kind::Opaque;
        let who = Identity { issuer: Issuer::Foreign(long.as_str().into()), kind, claims: *claims, kid: None, device: None };
        let told = Caller::of(&who);
        assert!(serde_json::to_string(&told).unwrap().len() < 10_000, "{told:?}");
        assert_eq!((told.scopes.len(), told.audience.len(), told.sub.len()), (NAMED, NAMED, TEXT));
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let account = Account { path: format!("/{}", "é".repeat(400)), ..Account::default() };
        let told = Explanation::of(None, &account, Err(Refusal::NoRoute));
        assert!(told.path.is_some_and(|path| path.len() <= PATH && path.ends_with('é')));
        assert_eq!((told.status, told.reason.as_str()), (Some(404), "no_route"));
    }
}
