//! The decision server: the gateway's admission for fronts that other people run (nginx `auth_request`, Traefik and Caddy `forward-auth`,
//! HAProxy, Envoy `ext_authz`). It decides as the proxy does, on the same threads and with the same memory, and forwards nothing.
mod grpc;
mod original;
mod wire;

use std::{convert::Infallible, net::TcpListener, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use edge::{Refusal, admission::Access, host::Host, path, table::Matched};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use tokens::certificate::{Certificate, Doubt};

use self::original::{Dialect, ENVOY, Original};
use crate::{
    Encryption, Gateway, Standing,
    account::Account,
    admit, answer,
    asked::Asked,
    body::AnswerBody,
    certificate,
    framed::Shared,
    hop::Conn,
    observed::{End, Story, Telling},
    request_id::X_REQUEST_ID,
    resource_metadata, session, told,
    worker::{Current, Worker},
};

/// What nginx tells apart only by name: the status of a refusal it knows no other way to hear.
const STATUS: HeaderName = HeaderName::from_static("x-doorward-status");
/// What Envoy takes off a request it was told to let through.
const ENVOY_REMOVES: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// What is not forwarded unless the route says so.
const CREDENTIALS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, HeaderName::from_static("dpop"), HeaderName::from_static("x-api-key")];
const GRPC_CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Where fronts ask, and who may.
pub struct Decisions {
    pub listener: TcpListener,
    pub tls: Option<Encryption>,
    /// Networks of the fronts. Whoever shows a certificate of the listener's authorities may ask too.
    pub fronts: Vec<IpNet>,
}

/// Who may ask.
#[derive(Debug)]
pub(crate) struct Fronts(Vec<IpNet>);

impl Gateway {
    /// Serves fronts beside the clients of the proxy; to be called before [`Gateway::serve`], once.
    pub fn decide_for(&self, decisions: Decisions) {
        let Decisions { listener, tls, fronts } = decisions;
        let _ = self.fronts.set(Fronts(fronts));
        *self.deciding.lock() = Some((listener, tls));
    }

    /// Whether what a connection says of other people's requests is believed.
    fn may_ask(&self, conn: &Conn) -> bool {
        let Some(fronts) = self.fronts.get() else { return false };
        let proved = || conn.certificate.as_ref().and_then(|standing| standing().ok()).is_some_and(|certificate| certificate.is_trusted());
        fronts.0.iter().any(|net| net.contains(&conn.peer.ip())) || proved()
    }
}

/// A request of a front's client on its way to a decision.
struct Case {
    dialect: Dialect,
    method: Method,
    account: Account,
    /// What a 405 names.
    allow: Option<HeaderValue>,
    /// Where the metadata of the resource is.
    about: Option<String>,
    story: Option<Box<Story>>,
    /// What a browser hears in place of a refusal: the way to the login.
    instead: Option<Response<AnswerBody>>,
}

impl Case {
    fn new(worker: &Worker, conn: &Conn, dialect: Dialect, headers: &HeaderMap) -> Self {
        let account = Account { request_id: worker.ids.of(headers, conn.trusted), ..Account::default() };
        Self { dialect, method: Method::GET, account, allow: None, about: None, story: None, instead: None }
    }
}

/// What a front may let its client do.
struct Granted {
    /// Header fields to set, in place of what the client sent under their names.
    set: HeaderMap,
    /// Names of the client's header fields that must not reach the upstream.
    remove: Vec<HeaderName>,
}

/// Answers a front.
pub(crate) async fn decide(worker: Rc<Worker>, conn: Rc<Conn>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let started = Instant::now();
    conn.seat.touch(worker.gateway.fronts_room.turn());
    let (_busy, refused) = conn.shared.as_ref().map_or_else(|| (conn.seat.hold(), None), Shared::begin);
    let current = worker.current();
    let mut answer = match refused {
        Some(refusal) => {
            current.meter(None).refuse(refusal.reason());
            answer::refuse(refusal, None, None, None)
        }
        None => respond(&worker, &current, &conn, request, started).await,
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(shared) = &conn.shared {
        // A front may pass a WebSocket handshake's fields on; this connection goes on with its next question.
        shared.decide(false);
    }
    match &conn.shared {
        Some(shared) if refused.is_some() || shared.closing() || worker.leaving.get() || shared.broken() => {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => drop(answer.headers_mut().remove(header::CONNECTION)),
    }
    Ok(answer)
}

async fn respond(
    worker: &Rc<Worker>,
    current: &Rc<Current>,
    conn: &Conn,
    request: Request<Incoming>,
    started: Instant,
) -> Response<AnswerBody> {
    let gateway = &worker.gateway;
    if !gateway.may_ask(conn) {
        tracing::warn!(target: "access", peer = %conn.peer.ip(), "asked for a decision, but is no front");
        metrics::counter!("gateway_decisions_total", "dialect" => "none", "outcome" => "stranger").increment(1);
        return answer::refuse(Refusal::Closed, None, None, None);
    }
    let dialect = match request.uri().path() {
        GRPC_CHECK => return grpc::check(worker, current, conn, request, started).await,
        "/auth" => Dialect::Any,
        "/auth/nginx" => Dialect::Nginx,
        "/auth/forward" => Dialect::Forward,
        path if path.strip_prefix(ENVOY).is_some_and(|rest| rest.starts_with('/')) => Dialect::Envoy,
        "/healthz" => return Response::new(AnswerBody::text(Bytes::from_static(b"{\"status\":\"ok\"}"))),
        _ => return answer::refuse(Refusal::NoRoute, None, None, None),
    };
    let (parts, _) = request.into_parts();
    let version = parts.version;
    let mut case = Case::new(worker, conn, dialect, &parts.headers);
    // Certificates that proxies pass on are believed of fronts where they are of proxies (RFC 9440).
    let chain = match gateway.parts().passed_on.as_ref().filter(|_| certificate::shown(&parts.headers)) {
        Some(_) => certificate::chain(&parts.headers).ok_or(Refusal::Malformed("front_certificate")).map(Some),
        None => Ok(None),
    };
    let told = original::read(dialect, parts, conn.peer.ip(), |ip| gateway.trusted_peer(ip));
    let told = chain.and_then(|chain| told.map(|told| Original { chain, ..told }));
    let granted = match told {
        Ok(original) => judge(worker, current, conn, (original, version), &mut case).await,
        Err(refusal) => Err(refusal),
    };
    let reason = granted.as_ref().err().map_or("ok", |refusal| refusal.reason());
    let mut answer = match granted {
        Ok(granted) => allowed(current, &case, &granted),
        Err(refusal) => refused(worker, current, conn, refusal, &mut case),
    };
    record(worker, current, conn, &mut case, (&mut answer, reason), started);
    if dialect == Dialect::Nginx || (dialect == Dialect::Any && !answer.status().is_success()) {
        plainly(dialect, &mut answer);
    }
    answer
}

/// Decides over what a front told.
async fn judge(
    worker: &Rc<Worker>,
    current: &Current,
    conn: &Conn,
    (original, version): (Original, Version),
    case: &mut Case,
) -> Result<Granted, Refusal> {
    let Original { method, https, path, query, source, headers, chain, removes } = original;
    case.method = method;
    case.account.source = Some(source);
    case.story = Story::begin(worker, conn, version, &headers, &http::Uri::default());
    if matches!(case.method.as_str(), "TRACE" | "TRACK" | "CONNECT") {
        return Err(Refusal::Method);
    }
    edge::headers::check(&headers).map_err(Refusal::Framing)?;
    let mut remove: Vec<HeaderName> = headers.keys().filter(|name| current.table.aliases().covers(name.as_str())).cloned().collect();
    if !removes && !remove.is_empty() {
        // It would reach the upstream beside ours, or instead.
        return Err(Refusal::Malformed("identity_header"));
    }
    let host = headers.get(header::HOST).and_then(|host| Host::parse(host.as_bytes()).ok()).ok_or(Refusal::Malformed("host"))?;
    let path = path::normalise(&path).map_err(|why| Refusal::Malformed(why.reason()))?;
    let (at, entry) = match current.table.find(host.name, &path, &case.method, &headers) {
        Matched::Route(at, entry) => (at, entry),
        Matched::OtherMethods => {
            let names: Vec<String> = current.table.methods(host.name, &path).iter().map(Method::to_string).collect();
            case.allow = HeaderValue::from_str(&names.join(", ")).ok();
            return Err(Refusal::Method);
        }
        Matched::Nothing => return Err(Refusal::NoRoute),
    };
    case.account.route = Some(at);
    let certificate = match chain {
        Some(chain) => Some(standing(&worker.gateway, chain).await),
        None => None,
    };
    let asked = Asked {
        method: &case.method,
        headers: &headers,
        path: &path,
        query: query.as_deref(),
        peer: source,
        trusted: false,
        tls: Some(https),
        local: None,
        certificate: certificate.as_ref(),
        rehearsal: false,
    };
    path.as_ref().clone_into(&mut case.account.path);
    if let Some(bounds) = &entry.bounds {
        let uri = http::Uri::try_from(target(&path, query.as_deref())).map_err(|_| Refusal::Malformed("path"))?;
        bounds.head(&uri, &headers)?;
    }
    let admitted = admit::admit(worker, current, entry, &asked, &mut case.account).await;
    if let Err(refusal) = &admitted {
        case.instead = Box::pin(session::instead(worker, entry, &asked, *refusal)).await?;
        case.about = if refusal.status() == 401 { resource_metadata::address(entry, &asked) } else { None };
    }
    let admitted = admitted?;
    let believed = admitted.caller();
    let mut set = HeaderMap::new();
    if let Some(believed) = believed {
        set.extend(believed.headers(entry.identity_id, &entry.identity).map_err(|_| Refusal::Invalid("claim_unfit"))?.iter().cloned());
    }
    told::told(worker, entry, believed, &asked).await?.set(&mut set);
    if let (Access::Guarded(guard), Some(believed)) = (&entry.access, believed)
        && believed.session.is_some()
    {
        let (mut head, ()) = Request::new(()).into_parts();
        session::hand_over(&mut head, guard, believed);
        set.extend(head.headers);
    }
    current.meter(Some(at)).allow();
    if !entry.forward_credentials {
        remove.extend(CREDENTIALS.into_iter().filter(|name| headers.contains_key(name)));
        if removes {
            spare_cookies(&headers, &worker.gateway.parts().settings.session_cookies, &mut set, &mut remove);
        }
    }
    // What is set replaces what was there; Envoy would take it off again.
    remove.retain(|name| !set.contains_key(name));
    Ok(Granted { set, remove })
}

/// Has a front that can do so forward the cookies of others alone.
fn spare_cookies(headers: &HeaderMap, own: &[String], set: &mut HeaderMap, remove: &mut Vec<HeaderName>) {
    let mut cookies: HeaderMap = headers.get_all(header::COOKIE).iter().map(|line| (header::COOKIE, line.clone())).collect();
    let before = cookies.clone();
    edge::headers::clean_cookies(&mut cookies, own);
    if cookies == before {
        return;
    }
    let left: Vec<&[u8]> = cookies.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    match HeaderValue::from_bytes(&left.join(&b"; "[..])) {
        Ok(left) if !left.is_empty() => drop(set.insert(header::COOKIE, left)),
        _ => remove.push(header::COOKIE),
    }
}

fn target(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// What certificates count for that a front has seen proved: what they would at the proxy's listener.
async fn standing(gateway: &Gateway, chain: Vec<CertificateDer<'static>>) -> Standing {
    let bare = chain.first().map(|leaf| Certificate::new(leaf));
    let judged = match gateway.parts().passed_on.as_ref().or(gateway.judge.get()) {
        Some(judge) => Some(judge(chain).settle().await),
        None => None,
    };
    Arc::new(move || match judged.as_ref().map(|judged| judged()) {
        Some(Ok(certificate)) => Ok(certificate),
        // What its authority says of it counts, whoever has seen its key proved.
        Some(Err(doubt @ (Doubt::Revoked | Doubt::Undecided(_)))) => Err(doubt),
        // Nobody vouches for it: a token may be bound to it all the same.
        _ => bare.clone().ok_or(Doubt::Untrusted),
    })
}

/// A yes: the identity headers are the front's to set.
fn allowed(current: &Current, case: &Case, granted: &Granted) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::none());
    let headers = answer.headers_mut();
    mention(current, case, headers);
    headers.extend(granted.set.clone());
    if case.dialect == Dialect::Envoy && !granted.remove.is_empty() {
        let names: Vec<&str> = granted.remove.iter().map(HeaderName::as_str).collect();
        headers.extend(HeaderValue::from_str(&names.join(",")).ok().map(|names| (ENVOY_REMOVES, names)));
    }
    answer
}

/// What the client is told besides: quotas, and the life of the version.
fn mention(current: &Current, case: &Case, headers: &mut HeaderMap) {
    headers.insert(X_REQUEST_ID, case.account.request_id.value());
    answer::quota(headers, case.account.quota.as_ref());
    if let Some(entry) = case.account.route.and_then(|at| current.table.entries().get(at)) {
        edge::version::tell(headers, &entry.told);
    }
}

/// A no, as the client of the proxy would hear it.
fn refused(worker: &Worker, current: &Current, conn: &Conn, refusal: Refusal, case: &mut Case) -> Response<AnswerBody> {
    let entry = case.account.route.and_then(|at| current.table.entries().get(at));
    current.meter(case.account.route).refuse(refusal.reason());
    let mut answer = case.instead.take().unwrap_or_else(|| answer::refuse(refusal, entry, case.allow.take(), case.about.as_deref()));
    mention(current, case, answer.headers_mut());
    answer::name_algorithms(answer.headers_mut(), &worker.gateway.parts().settings.proof_algorithms);
    if refusal == Refusal::Nonce
        && let Some(nonces) = &worker.gateway.parts().nonces
        && let Ok(nonce) = HeaderValue::from_str(&nonces.current(worker.now_ms().div_euclid(1000)))
    {
        answer.headers_mut().insert("dpop-nonce", nonce);
    }
    tracing::info!(
        target: "access",
        peer = %conn.peer.ip(), source = ?case.account.source, method = %case.method, path = case.account.path,
        route = entry.map_or("", |e| &*e.id), status = refusal.status(), reason = refusal.reason(), front = case.dialect.as_str(), "refused"
    );
    worker.gateway.remember(&case.account, entry, (&case.method, conn.peer.ip()), Err(refusal));
    answer
}

/// Counts a decision and tells of it, as of a request of the proxy.
fn record(
    worker: &Rc<Worker>,
    current: &Current,
    conn: &Conn,
    case: &mut Case,
    (answer, reason): (&mut Response<AnswerBody>, &'static str),
    started: Instant,
) {
    let (elapsed, status, route) = (started.elapsed(), answer.status().as_u16(), case.account.route);
    let outcome = if answer.status().is_success() { "allowed" } else { "refused" };
    metrics::counter!("gateway_decisions_total", "dialect" => case.dialect.as_str(), "outcome" => outcome).increment(1);
    if reason == "ok" && worker.ids.is_one_in(worker.gateway.parts().settings.explain_allowed) {
        let entry = route.and_then(|at| current.table.entries().get(at));
        worker.gateway.remember(&case.account, entry, (&case.method, conn.peer.ip()), Ok(()));
    }
    current.meter(route).answer(status, elapsed);
    if let Some(route) = route {
        current.counts.add(route, case.account.who.as_ref(), status, elapsed);
    }
    if let Some(story) = case.story.take() {
        let entry = route.and_then(|at| current.table.entries().get(at));
        let end = End { method: &case.method, entry, account: &case.account, status, reason };
        answer.body_mut().tell_of(Telling::new(worker, conn, story, &end));
    }
}

/// nginx knows yes (2xx), 401 and 403; everything else would be its own 500.
fn plainly(dialect: Dialect, answer: &mut Response<AnswerBody>) {
    let status = answer.status();
    answer.headers_mut().insert(STATUS, HeaderValue::from(status.as_u16()));
    if dialect == Dialect::Nginx && !status.is_success() && status != StatusCode::UNAUTHORIZED {
        *answer.status_mut() = if status.is_redirection() { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_that_can_forwards_the_cookies_of_others_alone() {
        let spared = |lines: &[&'static str]| {
            let headers: HeaderMap = lines.iter().map(|line| (header::COOKIE, HeaderValue::from_static(line))).collect();
            let (mut set, mut remove) = (HeaderMap::new(), Vec::new());
            spare_cookies(&headers, &["doorward".into()], &mut set, &mut remove);
            (set.get(header::COOKIE).map(|left| left.to_str().unwrap().to_owned()), !remove.is_empty())
        };
        assert_eq!(spared(&["a=1; b=2"]), (None, false));
        assert_eq!(spared(&["__Host-doorward-gateway=s"]), (None, true));
        assert_eq!(spared(&["a=1; __Host-doorward-gateway=s", "b=2"]), (Some("a=1; b=2".into()), false));
        assert_eq!(spared(&[]), (None, false));
    }
}
