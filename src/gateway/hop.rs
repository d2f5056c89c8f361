//! The life of one request: route → authenticate → authorize → limit → rewrite → forward → answer, and its record.
use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use edge::{Refusal, table::Entry};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use hyper::body::Incoming;

use crate::{
    Standing,
    account::Account,
    admit, answer,
    asked::Asked,
    assertion,
    balance::Way,
    body::{AnswerBody, Progress, RequestBody},
    bounds::{Pace, Stay},
    certificate,
    cors::{self, Page},
    forward,
    framed::{Busy, Shared},
    grpc,
    live::Lease,
    observed::{End, Story, Telling},
    request_id::X_REQUEST_ID,
    resource_metadata, rewrite,
    route::{self, Routed},
    session,
    terms::Terms,
    told, tunnel, validation, websocket,
    worker::{Current, Worker},
};

/// What is known of a connection.
pub(crate) struct Conn {
    pub peer: SocketAddr,
    /// Where it came in.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    pub trusted: bool,
    /// The client certificate its handshake proved.
    pub certificate: Option<Standing>,
    /// HTTP/1 only.
    pub shared: Option<Arc<Shared>>,
    /// What its place is known by.
    pub seat: Arc<Shared>,
}

impl Conn {
    /// What a request on it asks.
    fn asked<'a>(&'a self, parts: &'a Parts, path: &'a str) -> Asked<'a> {
        Asked {
            method: &parts.method,
            headers: &parts.headers,
            path,
            query: parts.uri.query(),
            peer: self.peer.ip(),
            trusted: self.trusted,
            tls: Some(self.tls),
            local: self.local,
            certificate: self.certificate.as_ref(),
            rehearsal: false,
        }
    }
}

/// Serves one request.
pub(crate) async fn hop(worker: Rc<Worker>, conn: Rc<Conn>, mut request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let started = Instant::now();
    worker.pool.tell(started);
    conn.seat.touch(worker.gateway.room.turn());
    let (busy, refused) = conn.shared.as_ref().map_or_else(|| (conn.seat.hold(), None), Shared::begin);
    let current = worker.current();
    let (method, websocket) =
        (request.method().clone(), websocket::is(&mut request, conn.shared.as_deref(), &*worker.gateway.parts().entropy));
    let grpc = grpc::is(&request);
    let story = Story::begin(&worker, &conn, request.version(), request.headers(), request.uri());
    let account = Account { request_id: worker.ids.of(request.headers(), conn.trusted), ..Account::default() };
    let mut trace = Trace { method, websocket, grpc, account, allow: None, about: None, busy: Some(busy), story, page: Page::default() };
    let served = match refused {
        Some(refusal) => Err(refusal),
        None => serve(&worker, &current, &conn, request, &mut trace).await,
    };
    let served = served.map_err(|refusal| match &conn.shared {
        // To its reader a body that paused for too long broke off.
        Some(shared) if refusal == Refusal::Malformed("body") && shared.slow() => Refusal::TooSlow,
        _ => refusal,
    });
    let route = trace.account.route;
    let entry = route.and_then(|at| current.table.entries().get(at));
    let reason = served.as_ref().err().map_or("ok", |refusal| refusal.reason());
    let mut answer = served.unwrap_or_else(|refusal| {
        current.meter(route).refuse(refusal.reason());
        let closing = conn.shared.as_ref().is_some_and(|s| s.broken());
        let mut answer = answer::refuse(refusal, entry, trace.allow.take(), trace.about.as_deref());
        answer::quota(answer.headers_mut(), trace.account.quota.as_ref());
        answer::name_algorithms(answer.headers_mut(), &worker.gateway.parts().settings.proof_algorithms);
        if refusal == Refusal::Nonce
            && let Some(nonces) = &worker.gateway.parts().nonces
            && let Ok(nonce) = HeaderValue::from_str(&nonces.current(worker.now_ms().div_euclid(1000)))
        {
            answer.headers_mut().insert("dpop-nonce", nonce);
        }
        if let Some(problem) = (!trace.account.faults.is_empty()).then(|| validation::problem(refusal, &trace.account.faults)).flatten() {
            *answer.body_mut() = AnswerBody::text(problem);
        }
        if closing {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        trace.refused(refusal, &conn, entry);
        worker.gateway.remember(&trace.account, entry, (&trace.method, conn.peer.ip()), Err(refusal));
        if grpc { grpc::refusal(answer) } else { answer }
    });
    if reason == "ok" && worker.ids.is_one_in(worker.gateway.parts().settings.explain_allowed) {
        worker.gateway.remember(&trace.account, entry, (&trace.method, conn.peer.ip()), Ok(()));
    }
    if let Some(shared) = &conn.shared {
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        shared.decide(switched);
        if (shared.closing() || worker.leaving.get()) && !switched {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    } else {
        answer.headers_mut().remove(header::CONNECTION);
    }
    trace.page.tell(entry.and_then(|entry| entry.cors.as_deref()), answer.headers_mut());
    if let Some(entry) = entry
        && !entry.told.is_empty()
    {
        edge::version::tell(answer.headers_mut(), &entry.told);
    }
    answer.headers_mut().insert(X_REQUEST_ID, trace.account.request_id.value());
    let ended = Instant::now();
    worker.pool.tell(ended);
    let elapsed = ended.duration_since(started);
    current.meter(route).answer(answer.status().as_u16(), elapsed);
    if let Some(route) = route {
        current.counts.add(route, trace.account.who.as_ref(), answer.status().as_u16(), elapsed);
    }
    tracing::debug!(
        target: "access",
        peer = %conn.peer.ip(), method = %trace.method, path = trace.account.path, route = entry.map_or("", |e| &*e.id),
        status = answer.status().as_u16(), us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), "served"
    );
    if let Some(story) = trace.story.take() {
        let end = End { method: &trace.method, entry, account: &trace.account, status: answer.status().as_u16(), reason };
        let telling = Telling::new(&worker, &conn, story, &end);
        answer.body_mut().tell_of(telling);
    }
    Ok(answer)
}

async fn serve(
    worker: &Rc<Worker>,
    current: &Current,
    conn: &Conn,
    request: Request<Incoming>,
    trace: &mut Trace,
) -> Result<Response<AnswerBody>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let routed = route::route(&mut parts, &current.table);
    if let Some(answer) = metadata(worker, current, conn, &parts, &routed) {
        return Ok(answer);
    }
    if let Some(sessions) = session::own(worker, &parts)
        && matches!(routed, Ok(_) | Err(Refusal::NoRoute | Refusal::Method))
    {
        return Ok(Box::pin(session::serve(worker, sessions, &conn.asked(&parts, parts.uri.path()), body)).await);
    }
    if parts.uri.path() == assertion::WELL_KNOWN {
        let found = routed.as_ref().ok().map(|routed| routed.entry);
        if let Some(answer) = Box::pin(assertion::keys(worker, &current.table, found, &conn.asked(&parts, assertion::WELL_KNOWN))).await {
            return Ok(answer);
        }
    }
    if parts.method == Method::OPTIONS
        && matches!(routed, Ok(_) | Err(Refusal::NoRoute | Refusal::Method))
        && let Some((at, answered)) = cors::preflight(&current.table, &parts)
    {
        (trace.account.route, trace.page) = (Some(at), Page::Preflight);
        return answered;
    }
    let Routed { at, entry, path } = routed.inspect_err(|refusal| {
        if *refusal == Refusal::Method {
            trace.allow = route::allowed(&parts.uri, &parts.headers, &current.table);
        }
    })?;
    trace.account.route = Some(at);
    trace.page = Page::of(entry.cors.as_deref(), &parts.headers);
    let served = proxied(worker, current, conn, (at, entry, &path), (parts, body), trace).await;
    trace.account.path = path;
    served
}

/// Serves a request that found its route.
async fn proxied(
    worker: &Rc<Worker>,
    current: &Current,
    conn: &Conn,
    (at, entry, path): (usize, &Entry, &str),
    (mut parts, body): (Parts, Incoming),
    trace: &mut Trace,
) -> Result<Response<AnswerBody>, Refusal> {
    let gateway = &worker.gateway;
    let certificate = match &gateway.parts().passed_on {
        // The proxy's own certificate is never its client's, who may have none.
        Some(judge) if conn.trusted => Box::pin(certificate::passed_on(judge, &parts.headers)).await,
        _ => conn.certificate.clone(),
    };
    let asked = Asked { certificate: certificate.as_ref(), ..conn.asked(&parts, path) };
    let scheme = asked.scheme().unwrap_or("http");
    if let Some(bounds) = &entry.bounds {
        bounds.head(&parts.uri, &parts.headers)?;
    }
    let mut admitted = match admit::admit(worker, current, entry, &asked, &mut trace.account).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            if let Some(answer) = Box::pin(session::instead(worker, entry, &asked, refusal)).await? {
                current.meter(Some(at)).refuse(refusal.reason());
                return Ok(answer);
            }
            trace.about = if refusal.status() == 401 { resource_metadata::address(entry, &asked) } else { None };
            return Err(refusal);
        }
    };
    let mut stay = Stay::new(std::mem::take(&mut admitted.held), entry.bounds.as_deref());
    let believed = admitted.caller();

    let identity = match believed {
        Some(believed) => Some(believed.headers(entry.identity_id, &entry.identity).map_err(|_| Refusal::Invalid("claim_unfit"))?),
        None => None,
    };
    if let Some(most) = entry.body_limit
        && body.size_hint().lower() > most
    {
        return Err(Refusal::TooLarge);
    }
    let terms = believed.map(|b| Terms::of(worker, &current.table, entry, b, &asked)).unwrap_or_default();
    let lease = || believed.map(|b| Lease::new(&worker.live, b, certificate.as_ref(), &terms));
    let progress = (!body.is_end_stream()).then(|| Rc::new(Progress::default()));
    let mut body = match &progress {
        Some(progress) => {
            RequestBody::new(body, entry.body_limit, Rc::clone(progress), lease()).paced(Pace::of(entry, conn.shared.is_none(), trace.grpc))
        }
        None => RequestBody::empty(),
    };
    if let Some(checker) = &entry.validation {
        let from = trace.account.source.unwrap_or_else(|| conn.peer.ip());
        let looked = Box::pin(validation::look(gateway, entry, checker, &asked, body, (from, progress.as_deref()))).await;
        body = looked.map_err(|unfit| {
            if unfit.refusal == Refusal::Method {
                trace.allow = HeaderValue::from_str(&checker.methods(path).join(", ")).ok();
            }
            trace.account.faults = unfit.faults;
            unfit.refusal
        })?;
    }
    let told = told::told(worker, entry, believed, &asked).await?;
    let websocket = trace.websocket && body.is_end_stream();
    let context = rewrite::Context {
        table: &current.table,
        entry,
        settings: &gateway.parts().settings,
        peer: conn.peer.ip(),
        trusted_peer: conn.trusted,
        source: trace.account.source,
        scheme,
        path,
        identity,
        websocket,
        trailers: parts.headers.get(header::TE).is_some_and(|v| v == "trailers"),
    };
    let client_side = if websocket { parts.extensions.remove::<hyper::upgrade::OnUpgrade>() } else { None };
    parts.extensions.clear();
    let side = entry.canary.as_deref().map(|split| {
        let from = trace.account.source.unwrap_or_else(|| conn.peer.ip());
        gateway.side(split, believed.map(|believed| &believed.identity), from, &parts.headers)
    });
    rewrite::rewrite(&mut parts, &context)?;
    if !entry.client_certificate.is_absent() {
        certificate::tell(&mut parts.headers, entry.client_certificate, certificate.as_ref(), believed);
    }
    told.set(&mut parts.headers);
    if let (edge::admission::Access::Guarded(guard), Some(believed)) = (&entry.access, believed) {
        session::hand_over(&mut parts, guard, believed);
    }
    parts.headers.insert(X_REQUEST_ID, trace.account.request_id.value());
    current.meter(Some(at)).allow();
    if let Some(story) = &mut trace.story {
        story.forwarding(&mut parts.headers, &side.as_ref().map_or(entry, |side| side.entry(entry)).upstream.id);
    }

    let mut request = Some(Request::from_parts(parts, body));
    let unmoved = Progress::default();
    let progress = progress.as_deref().unwrap_or(&unmoved);
    let way = Way { from: trace.account.source.unwrap_or_else(|| conn.peer.ip()), path };
    let served = side.as_ref().map_or(entry, |side| side.entry(entry));
    // Whoever watches targets has to know who was late.
    let answered = match entry.bounds.as_ref().and_then(|bounds| bounds.response_ms).filter(|_| served.upstream.plain) {
        None => forward::forward(&worker.pool, served, &mut request, progress, websocket, &way, admitted.permit()).await,
        Some(ms) => {
            let answered = forward::forward(&worker.pool, served, &mut request, progress, websocket, &way, admitted.permit());
            Box::pin(tokio::time::timeout(Duration::from_millis(ms), answered)).await.unwrap_or(Err(Refusal::SlowUpstream))
        }
    };
    progress.answered.set(true);
    if let Some(side) = &side {
        gateway.answered(side, answered.as_ref().map_or_else(|refusal| refusal.status(), |answered| answered.answer.status().as_u16()));
    }
    let answered = answered?;
    if let Some(story) = &mut trace.story {
        story.answered();
    }
    if websocket && conn.shared.is_none() && answered.answer.status().is_success() {
        // Over HTTP/2 it would be taken for the handshake's success (RFC 8441 §5).
        return Err(Refusal::BadUpstream("not_switched"));
    }
    let mut held = answered.held;
    held.grpc = trace.grpc;
    let (mut head, body) = {
        let mut answer = answered.answer;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upstream_side = hyper::upgrade::on(&mut answer);
            let client_side = client_side.ok_or(Refusal::BadUpstream("unasked_switch"))?;
            let entered = conn.shared.as_ref().map(|shared| worker.enter(shared));
            tunnel::join(
                worker,
                (client_side, upstream_side),
                lease(),
                stay.take(),
                (std::mem::take(&mut held), entered, conn.seat.hold()),
            );
        }
        answer.into_parts()
    };
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    edge::headers::clean_answer(&mut head.headers, &gateway.parts().settings.session_cookies);
    if switched {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if conn.shared.is_none() {
            websocket::accepted_over_http2(&mut head);
        }
    }
    answer::quota(&mut head.headers, trace.account.quota.as_ref());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let body = if switched || (answered.first.is_none() && body.is_end_stream()) {
        AnswerBody::none()
    } else {
        AnswerBody::stream(body, answered.first, held, lease(), trace.busy.take()).staying(stay)
    };
    if conn.shared.is_none() {
        worker.unread.watch(&body);
    }
    Ok(Response::from_parts(head, body))
}

/// The metadata of the resources here, where that is asked for and no route of the administrator's is for it.
fn metadata(
    worker: &Worker,
    current: &Current,
    conn: &Conn,
    parts: &Parts,
    routed: &Result<Routed<'_>, Refusal>,
) -> Option<Response<AnswerBody>> {
    let (path, found) = match routed {
        Ok(routed) => (routed.path.as_str(), Some(routed.entry)),
        Err(Refusal::NoRoute | Refusal::Method) => (parts.uri.path(), None),
        Err(_) => return None,
    };
    if !path.starts_with(resource_metadata::WELL_KNOWN) {
        return None;
    }
    let path = edge::path::normalise(path).ok()?;
    let about = (&*worker.gateway.parts().own.issuer, &worker.gateway.parts().settings);
    resource_metadata::answer(&current.table, about, found, &conn.asked(parts, &path))
}

/// What the record of a request needs once its head has gone on.
struct Trace {
    method: Method,
    websocket: bool,
    grpc: bool,
    account: Account,
    /// What a 405 names.
    allow: Option<HeaderValue>,
    /// Where the metadata of the resource is; set with a refusal of the credential.
    about: Option<String>,
    /// Goes with the answer's body, if that takes time.
    busy: Option<Busy>,
    /// For the access log and traces, where there are any.
    story: Option<Box<Story>>,
    /// What the answer has to say of origins.
    page: Page,
}

impl Trace {
    /// Why a request was refused: for the log, never for the client.
    fn refused(&self, refusal: Refusal, conn: &Conn, entry: Option<&Entry>) {
        let peer: IpAddr = conn.peer.ip();
        let who = self.account.who.as_ref().map(|believed| &believed.identity);
        let judged = self.account.judged.as_ref();
        tracing::info!(
            target: "access",
            request_id = self.account.request_id.as_str(), %peer, method = %self.method, path = self.account.path,
            route = entry.map_or("", |e| &*e.id), status = refusal.status(), reason = refusal.reason(),
            credential = who.map(|who| who.kind.as_str()), sub = who.map(|who| who.claims.sub.as_str()),
            device = who.and_then(|who| who.device.as_ref()).map(|device| device.id.as_str()), scope = who.map(|who| who.claims.scope.as_str()),
            policies = judged.map(|said| tracing::field::debug(&said.by)), "refused"
        );
    }
}
