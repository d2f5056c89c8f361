//! Why a request would be allowed or refused: the same phases, without forwarding.
use std::{net::IpAddr, sync::Arc};

use edge::{
    Refusal,
    admission::Access,
    table::{Entry, Matched},
};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{Gateway, account::Account, admit, asked::Asked, worker::Worker};

/// A request to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: Method,
    pub host: String,
    /// Path and perhaps query, as it would be sent.
    pub target: String,
    pub headers: HeaderMap,
    pub peer: IpAddr,
}

/// What would become of it. Holds no credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether it would be forwarded (if within the route's quota).
    pub allowed: bool,
    /// The status it would be answered with otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why, in the words of the metrics.
    pub reason: String,
    /// The path after normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Step by step.
    pub steps: Vec<String>,
}

impl Gateway {
    /// Explains a request, asking the authorization server where the route demands it.
    pub async fn explain(self: &Arc<Self>, question: Question) -> Explanation {
        let (tell, told) = tokio::sync::oneshot::channel();
        let gateway = Arc::clone(self);
        // The phases belong to a thread of their own, as everywhere.
        std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                let _ = tell.send(runtime.block_on(gateway.reason(&question)));
            }
        });
        told.await.unwrap_or_else(|_| Explanation { reason: "no_thread".into(), status: Some(503), ..Explanation::default() })
    }

    async fn reason(self: Arc<Self>, question: &Question) -> Explanation {
        let mut out = Explanation::default();
        match self.decide(question, &mut out).await {
            Ok(()) => {
                (out.allowed, out.reason) = (true, "ok".into());
                out.steps.push("forwarded".into());
            }
            Err(refusal) => {
                (out.status, out.reason) = (Some(refusal.status()), refusal.reason().into());
                out.steps.push(format!("refused with {}: {}", refusal.status(), refusal.reason()));
            }
        }
        out
    }

    async fn decide(self: &Arc<Self>, question: &Question, out: &mut Explanation) -> Result<(), Refusal> {
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
        out.path = Some(path.clone().into_owned());
        out.steps.push(format!("path is {path}"));
        let worker = Worker::new(self, CancellationToken::new());
        let current = worker.current();
        let entry = match current.table.find(host.name, &path, &question.method, &question.headers) {
            Matched::Route(_, entry) => entry,
            Matched::OtherMethods => return Err(Refusal::Method),
            Matched::Nothing => return Err(Refusal::NoRoute),
        };
        out.route = Some(entry.id.to_string());
        out.upstream = Some(entry.upstream.id.to_string());
        out.steps.push(format!("route is {} (prefix {}), {}", entry.id, entry.prefix, demands(entry)));
        let mut headers = question.headers.clone();
        if let Ok(host) = HeaderValue::from_str(&question.host) {
            headers.insert(header::HOST, host);
        }
        let asked = Asked {
            method: &question.method,
            headers: &headers,
            path: &path,
            query,
            peer: question.peer,
            trusted: false,
            tls: None,
            local: None,
            certificate: None,
            rehearsal: true,
        };
        let mut account = Account::default();
        let admitted = admit::admit(&worker, &current, entry, &asked, &mut account).await;
        told(&account, out);
        admitted.map(|_| ())
    }
}

/// What was learned on the way.
fn told(account: &Account, out: &mut Explanation) {
    if let Some(believed) = &account.who {
        let claims = &believed.identity.claims;
        out.steps.push(format!(
            "credential of issuer {}, scope {:?}, audience {:?}, acr {}, auth_time {}, good until {}",
            claims.iss,
            claims.scope,
            claims.aud,
            claims.raw.get("acr").unwrap_or(&serde_json::Value::Null),
            claims.raw.get("auth_time").unwrap_or(&serde_json::Value::Null),
            claims.exp
        ));
    }
    if let Some(verdict) = &account.judged {
        out.steps.push(format!("policy says {}: {:?} {:?}", if verdict.allowed { "yes" } else { "no" }, verdict.by, verdict.faults));
    }
}

fn demands(entry: &Entry) -> String {
    match &entry.access {
        Access::Public => "public".into(),
        Access::Closed => "closed: it says neither auth nor public".into(),
        Access::Guarded(guard) => format!(
            "demands audience {:?} and scopes {:?}, freshness {:?}{}{}",
            guard.audience,
            guard.scopes,
            guard.freshness,
            if guard.step_up.is_free() {
                String::new()
            } else {
                format!(", acr one of {:?}, a login at most {:?} seconds ago", guard.step_up.acr_values, guard.step_up.max_age)
            },
            if guard.accepts.none { ", credential optional" } else { "" }
        ),
    }
}
