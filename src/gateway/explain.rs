//! Why a request would be allowed or refused: the same admission, without forwarding. And why the last ones were.
use std::{net::IpAddr, rc::Rc, sync::Arc};

use edge::{
    Refusal, RouteTable,
    admission::Access,
    identity::{Identity, Issuer, Kind},
    table::{Entry, Matched},
};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokens::{Confirmation, access::AccessClaims};
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    account::Account,
    admit,
    asked::Asked,
    explained::{Explanation, Sought},
    seen::Believed,
    worker::{Current, Worker},
};

/// A request to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: Method,
    pub host: String,
    /// Path and perhaps query, as it would be sent.
    pub target: String,
    pub headers: HeaderMap,
    pub peer: IpAddr,
    /// A caller that is taken for authenticated, instead of a credential.
    pub caller: Option<Assumed>,
}

/// A caller as a test describes one: what the credential would have said. Times, audience and issuer are what the route demands where they
/// are not given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assumed {
    /// `jwt` (default), `opaque`, `api_key`, `mtls` or `session`.
    pub credential: Option<String>,
    /// `self` (default), a trusted issuer, or an authority of client certificates.
    pub issuer: Option<String>,
    pub sub: String,
    pub client_id: Option<String>,
    /// Space-separated.
    pub scope: String,
    pub audience: Option<String>,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    /// Whether a person stands behind it (default: where roles or groups are given).
    pub person: Option<bool>,
    pub acr: Option<String>,
    pub amr: Vec<String>,
    /// Seconds since the login.
    pub authenticated_ago: Option<i64>,
    /// `{"id", "type", "groups", "tenant"}`.
    pub device: Option<Value>,
    /// `dpop` or `mtls`: the key that the credential is bound to was proved.
    pub binding: Option<String>,
}

impl Assumed {
    /// What it would have been believed to be, for this route.
    fn identity(&self, entry: &Entry, table: &RouteTable, own: &str, now: i64) -> Result<Identity, Refusal> {
        let kind = match self.credential.as_deref() {
            None | Some("jwt") => Kind::Jwt,
            Some("opaque") => Kind::Opaque,
            Some("api_key") => Kind::ApiKey,
            Some("mtls") => Kind::Certificate,
            Some("session") => Kind::Session,
            Some(_) => return Err(Refusal::Malformed("caller_credential")),
        };
        let issuer = match self.issuer.as_deref() {
            None | Some("self") if kind == Kind::Certificate => Issuer::Authority("self".into()),
            None | Some("self") => Issuer::Own,
            Some(name) if kind == Kind::Certificate => Issuer::Authority(name.into()),
            Some(name) if name == own => Issuer::Own,
            // Whom nobody trusts is believed nowhere.
            Some(name) => Issuer::Foreign(Arc::clone(&table.trusted(name).ok_or(Refusal::Invalid("issuer"))?.issuer)),
        };
        let demanded = if let Access::Guarded(guard) = &entry.access { guard.audience.clone() } else { String::new() };
        let iss = if let Issuer::Foreign(name) = &issuer { name.to_string() } else { own.to_owned() };
        let person = self.person.unwrap_or(!self.roles.is_empty() || !self.groups.is_empty());
        let mut raw = Map::new();
        let lists = [("roles", &self.roles), ("groups", &self.groups), ("amr", &self.amr)];
        raw.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), json!(list))));
        raw.extend(self.acr.iter().map(|acr| ("acr".to_owned(), acr.as_str().into())));
        raw.extend(self.authenticated_ago.iter().map(|ago| ("auth_time".to_owned(), now.saturating_sub(*ago).into())));
        raw.extend(self.device.iter().map(|device| ("device".to_owned(), device.clone())));
        for (name, value) in [("sub", &self.sub), ("scope", &self.scope), ("iss", &iss)] {
            raw.insert(name.to_owned(), value.as_str().into());
        }
        let device = edge::identity::Device::read(&raw).filter(|_| !matches!(issuer, Issuer::Foreign(_))).map(Arc::new);
        if self.device.is_some() && device.is_none() {
            return Err(Refusal::Malformed("caller_device"));
        }
        let proved = Some("assumed".to_owned());
        let cnf = match self.binding.as_deref() {
            None => None,
            Some("dpop") => Some(Confirmation { jkt: proved, x5t_s256: None }),
            Some("mtls") => Some(Confirmation { jkt: None, x5t_s256: proved }),
            Some(_) => return Err(Refusal::Malformed("caller_binding")),
        };
        let claims = AccessClaims {
            iss,
            sub: self.sub.clone(),
            aud: vec![self.audience.clone().unwrap_or(demanded)],
            exp: now.saturating_add(60),
            nbf: None,
            iat: Some(now),
            jti: None,
            client_id: self.client_id.clone(),
            scope: self.scope.clone(),
            grant: person.then(|| "assumed".to_owned()),
            sid: None,
            seq: u64::MAX,
            from: None,
            cnf,
            raw: Arc::new(raw),
        };
        let kid = (kind == Kind::ApiKey).then(|| self.sub.clone());
        Ok(Identity { issuer, kind, claims, kid, device })
    }
}

impl Gateway {
    /// Explains a request, asking the authorization server where the route demands it.
    pub async fn explain(self: &Arc<Self>, question: Question) -> Explanation {
        self.explain_under(None, question).await
    }

    /// The same under another route table than the one in force.
    pub async fn explain_under(self: &Arc<Self>, table: Option<Arc<RouteTable>>, question: Question) -> Explanation {
        let (tell, told) = tokio::sync::oneshot::channel();
        let gateway = Arc::clone(self);
        // The phases belong to a thread of their own, as everywhere.
        std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                let _ = tell.send(runtime.block_on(gateway.reason(table, &question)));
            }
        });
        told.await.unwrap_or_else(|_| Explanation { reason: "no_thread".into(), status: Some(503), ..Explanation::default() })
    }

    /// Why a request that was refused lately (or is remembered for another reason) was, by its id.
    #[must_use]
    pub fn explained(&self, request_id: &str) -> Option<Explanation> {
        self.remembered.get(request_id).map(|kept| Explanation::clone(&kept).narrated())
    }

    /// The remembered ones that fit, the latest first.
    #[must_use]
    pub fn recently(&self, sought: &Sought, most: usize) -> Vec<Explanation> {
        self.remembered.list(sought, most).iter().map(|kept| Explanation::clone(kept).narrated()).collect()
    }

    /// Remembers what came of a request, by whichever door it came.
    pub(crate) fn remember(
        &self,
        account: &Account,
        entry: Option<&Entry>,
        (method, peer): (&Method, IpAddr),
        outcome: Result<(), Refusal>,
    ) {
        self.remembered.put(self.parts.clock.now_ms(), peer, method, Explanation::of(entry, account, outcome));
    }

    async fn reason(self: Arc<Self>, table: Option<Arc<RouteTable>>, question: &Question) -> Explanation {
        let worker = Worker::new(&self, CancellationToken::new());
        let current = table.map_or_else(|| worker.current(), Current::new);
        let mut account = Account::default();
        let outcome = decide(&worker, &current, question, &mut account).await;
        let entry = account.route.and_then(|at| current.table.entries().get(at));
        let told = Explanation::of(entry, &account, outcome);
        Explanation { method: question.method.to_string(), peer: Some(question.peer), ..told }.narrated()
    }
}

async fn decide(worker: &Rc<Worker>, current: &Current, question: &Question, account: &mut Account) -> Result<(), Refusal> {
    let (path, query) = match question.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (question.target.as_str(), None),
    };
    if matches!(question.method.as_str(), "TRACE" | "TRACK" | "CONNECT") {
        return Err(Refusal::Method);
    }
    edge::headers::check(&question.headers).map_err(|_| Refusal::Malformed("field_name"))?;
    let host = edge::host::Host::parse(question.host.as_bytes()).map_err(|_| Refusal::Malformed("host"))?;
    let path = edge::path::normalise(path).map_err(|why| Refusal::Malformed(why.reason()))?;
    account.path = path.clone().into_owned();
    let (at, entry) = match current.table.find(host.name, &path, &question.method, &question.headers) {
        Matched::Route(at, entry) => (at, entry),
        Matched::OtherMethods => return Err(Refusal::Method),
        Matched::Nothing => return Err(Refusal::NoRoute),
    };
    account.route = Some(at);
    let mut headers = question.headers.clone();
    if let Ok(host) = HeaderValue::from_str(&question.host) {
        headers.insert(header::HOST, host);
    }
    let trusted = worker.gateway.trusted_peer(question.peer);
    if let Some(caller) = &question.caller {
        let own = &worker.gateway.parts().own.issuer;
        let identity = caller.identity(entry, &current.table, own, worker.now_ms().div_euclid(1000))?;
        if let Access::Guarded(guard) = &entry.access
            && !guard.sender.accepts(identity.claims.cnf.as_ref())
        {
            return Err(if guard.sender.dpop { Refusal::Unbound("unconstrained") } else { Refusal::Invalid("unconstrained") });
        }
        account.assumed = Some(Rc::new(Believed::new(identity, u64::MAX, 0, 0)));
    }
    let asked = Asked {
        method: &question.method,
        headers: &headers,
        path: &path,
        query,
        peer: question.peer,
        trusted,
        tls: None,
        local: None,
        certificate: None,
        rehearsal: true,
    };
    admit::admit(worker, current, entry, &asked, account).await?;
    // Its body is not known here.
    if let Some(checker) = &entry.validation
        && let Err(unfit) = checker.head(question.method.as_str(), &path, query, &headers, false)
        && !unfit.faults.iter().all(|fault| fault.at == "/body" && unfit.refusal == Refusal::Malformed("validation"))
    {
        account.faults = unfit.faults;
        return Err(unfit.refusal);
    }
    Ok(())
}
