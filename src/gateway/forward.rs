//! Sixth phase: sending the request on and taking the answer in. Needs a [`Permit`].
use std::{error::Error as _, future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use edge::{Permit, Refusal, balance::Target, table::Entry};
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    balance::Way,
    body::{Broken, Held, Progress, RequestBody},
    managed::{self, Sending},
    pool::{Kept, Line, Pool, Sender, Taken, Unopened, Watching},
    rewrite,
    seen::Believed,
    websocket,
};

/// A kept connection idle for longer than this may have been closed by the other side without our knowing yet.
const DOUBTFUL: Duration = Duration::from_millis(500);

/// An answer that may be passed on.
pub(crate) struct Answered {
    pub answer: Response<Incoming>,
    /// The first part of the body, if it came with the head.
    pub first: Option<Frame<Bytes>>,
    /// What the body holds until its end.
    pub held: Held,
}

/// Why one attempt at one target gave no answer.
pub(crate) enum Missed {
    /// As much is going on there as may: nothing was sent.
    Full(Refusal),
    /// There is no connection: nothing was sent.
    Unreached(Refusal),
    Failed(Refusal),
}

impl Missed {
    const fn refusal(self) -> Refusal {
        match self {
            Self::Full(refusal) | Self::Unreached(refusal) | Self::Failed(refusal) => refusal,
        }
    }
}

/// One attempt at one target.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub entry: &'a Entry,
    pub target: &'a Target,
    /// Where it is watched.
    pub watched: Option<Watching<'a>>,
    pub progress: &'a Progress,
    /// What a WebSocket handshake has to be accepted with.
    pub accept: Option<&'a str>,
    /// How long the head of the answer may take.
    pub within: Duration,
}

/// Sends a request to its route's upstream.
pub(crate) async fn forward(
    pool: &Rc<Pool>,
    entry: &Entry,
    request: &mut Option<Request<RequestBody>>,
    progress: &Progress,
    websocket: bool,
    way: &Way<'_>,
    permit: &Permit<Rc<Believed>>,
) -> Result<Answered, Refusal> {
    let accept = match request {
        Some(request) if websocket => Some(websocket::accept(request.headers())?),
        _ => None,
    };
    let accept = accept.as_deref();
    if !entry.upstream.plain {
        let who = permit.caller().map(|believed| &believed.identity);
        return Box::pin(managed::forward(pool, request, &Sending::new(entry, progress, accept, way, who))).await;
    }
    let target = entry.upstream.targets.first().ok_or(Refusal::BadUpstream("connect"))?;
    let within = Duration::from_millis(entry.upstream.timeout_ms);
    attempt(pool, request, &Attempt { entry, target, watched: None, progress, accept, within }).await.map_err(Missed::refusal)
}

/// Sends a request to a target, over a kept connection or a new one.
pub(crate) async fn attempt(pool: &Rc<Pool>, request: &mut Option<Request<RequestBody>>, of: &Attempt<'_>) -> Result<Answered, Missed> {
    let (target, websocket) = (of.target, of.accept.is_some());
    let mut retries = 0;
    loop {
        let taken = match if retries > 0 { None } else { pool.take(target, websocket) } {
            Some(taken) => taken,
            None => {
                let within = Duration::from_millis(of.entry.upstream.connect_timeout_ms);
                match Box::pin(pool.open(target, websocket, within, of.watched)).await {
                    Ok(taken) => taken,
                    Err(Unopened::Full(refusal)) => return Err(Missed::Full(refusal)),
                    Err(Unopened::Fault(error)) => {
                        tracing::warn!(target: "gateway", upstream = %of.entry.upstream.id, %error, "upstream not reached");
                        let slow = error.kind() == std::io::ErrorKind::TimedOut;
                        return Err(Missed::Unreached(if slow { Refusal::SlowUpstream } else { Refusal::BadUpstream("connect") }));
                    }
                }
            }
        };
        match send(pool, of, taken, request).await {
            Ok(answered) => return Ok(answered),
            Err(Failed::Final(refusal)) => return Err(Missed::Failed(refusal)),
            Err(Failed::Unsent) => {
                retries += 1;
                if retries > 2 {
                    return Err(Missed::Failed(Refusal::BadUpstream("broken_off")));
                }
            }
        }
    }
}

enum Failed {
    /// It was not sent, or may be sent again: it is back in its place.
    Unsent,
    Final(Refusal),
}

async fn send(pool: &Rc<Pool>, of: &Attempt<'_>, taken: Taken, place: &mut Option<Request<RequestBody>>) -> Result<Answered, Failed> {
    let &Attempt { entry, target, progress, accept, within, .. } = of;
    let Some(request) = place.as_mut() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
    match taken.sender {
        Sender::Http1(mut line) => {
            // A request that was sent may only be sent again if that changes nothing (RFC 9110 §9.2.2).
            let spare = if taken.idle.is_some_and(|idle| idle > DOUBTFUL) { copy(request) } else { None };
            rewrite::set_host(request.headers_mut(), entry, target);
            request.headers_mut().remove(header::TE);
            if !request.body().is_empty() {
                keep_body(request);
            }
            *request.version_mut() = Version::HTTP_11;
            let Some(request) = place.take() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
            let Line { sender, expecting, timer, .. } = &mut *line;
            expecting.head();
            let answer = match waited(sender.try_send_request(request), timer.as_mut(), within, progress).await? {
                Ok(answer) => answer,
                Err(mut error) => {
                    *place = error.take_message().or(spare);
                    return Err(if place.is_some() { Failed::Unsent } else { Failed::Final(fault(progress, error.error())) });
                }
            };
            let kept = Kept::new(Rc::clone(pool), Arc::clone(&target.key), line);
            receive(answer, Some(kept), accept).map_err(Failed::Final)
        }
        Sender::Http2(mut sender) => {
            // The other side may be about to close the connection and say that it never looked at the request.
            let spare = if taken.idle.is_some() { copy(request) } else { None };
            rewrite::for_http2(request, entry, target).map_err(Failed::Final)?;
            let Some(request) = place.take() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
            let mut timer = Box::pin(tokio::time::sleep(within));
            match waited(sender.try_send_request(request), timer.as_mut(), within, progress).await? {
                Ok(answer) => receive(answer, None, accept).map_err(Failed::Final),
                Err(mut error) => {
                    let unseen = spare.filter(|_| never_processed(error.error()));
                    *place = error.take_message().map(to_origin_form).or(unseen);
                    Err(if place.is_some() { Failed::Unsent } else { Failed::Final(fault(progress, error.error())) })
                }
            }
        }
    }
}

/// A GET or HEAD whose body has no length keeps it: without a word its sender would take it for empty (RFC 9112 §6).
fn keep_body(request: &mut Request<RequestBody>) {
    if matches!(*request.method(), Method::GET | Method::HEAD) && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(header::TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
    }
}

/// Whether the other side said that it has not looked at the request (RFC 9113 §8.7).
fn never_processed(error: &hyper::Error) -> bool {
    let http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    http2.is_some_and(|e| {
        let refused = e.is_reset() && e.reason() == Some(h2::Reason::REFUSED_STREAM);
        let going = e.is_go_away() && e.is_remote() && e.reason() == Some(h2::Reason::NO_ERROR);
        refused || going
    })
}

/// Waits for the answer's head. While a long body moves, the upstream is not late; nor is it where the body is what is waited for.
async fn waited<T>(answer: impl Future<Output = T>, mut timer: Pin<&mut Sleep>, limit: Duration, progress: &Progress) -> Result<T, Failed> {
    let mut answer = std::pin::pin!(answer);
    let mut before = progress.moved.get();
    timer.as_mut().reset(Instant::now() + limit);
    poll_fn(|cx| {
        if let Poll::Ready(done) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        while timer.as_mut().poll(cx).is_ready() {
            if progress.moved.get() == before {
                let late = if progress.waiting.get() { Refusal::TooSlow } else { Refusal::SlowUpstream };
                return Poll::Ready(Err(Failed::Final(late)));
            }
            before = progress.moved.get();
            timer.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    })
    .await
}

fn fault(progress: &Progress, error: &hyper::Error) -> Refusal {
    match progress.broken.get() {
        Some(Broken::TooLarge) => return Refusal::TooLarge,
        Some(Broken::Slow) => return Refusal::TooSlow,
        Some(Broken::Sender) => return Refusal::Malformed("body"),
        Some(Broken::Credential) => return Refusal::Invalid("revoked"),
        Some(Broken::Late) => return Refusal::SlowUpstream,
        None => {}
    }
    tracing::warn!(target: "gateway", %error, "upstream broke off");
    Refusal::BadUpstream(if error.is_parse() { "invalid_answer" } else { "broken_off" })
}

pub(crate) fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    if !safe || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    Some(copy)
}

fn to_origin_form(mut request: Request<RequestBody>) -> Request<RequestBody> {
    if let Some(host) = request.uri().authority().and_then(|a| http::HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(target);
    }
    request
}

/// Checks the head and what came of the body with it.
fn receive(mut answer: Response<Incoming>, kept: Option<Kept>, accept: Option<&str>) -> Result<Answered, Refusal> {
    let sized = sized(answer.status(), answer.headers(), accept).map_err(Refusal::BadUpstream)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answered { answer, first: None, held: Held::default() });
    }
    if answer.body().is_end_stream() {
        if let Some(kept) = kept {
            kept.give_back();
        }
        return Ok(Answered { answer, first: None, held: Held::default() });
    }
    let held = Held { kept, ..Held::default() };
    if sized {
        return Ok(Answered { answer, first: None, held });
    }
    // A first chunk that is already bad can still be answered with 502.
    match answer.body_mut().frame().now_or_never() {
        Some(Some(Err(_))) => Err(Refusal::BadUpstream("invalid_body")),
        Some(Some(Ok(frame))) => Ok(Answered { answer, first: Some(frame), held }),
        Some(None) | None => Ok(Answered { answer, first: None, held }),
    }
}

/// Whether an answer's head says how long the body is, or what is wrong with the head. Control characters the parser refused.
fn sized(status: StatusCode, headers: &HeaderMap, accept: Option<&str>) -> Result<bool, &'static str> {
    if !(100..=599).contains(&status.as_u16()) {
        return Err("invalid_status");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(accept) = accept else { return Err("unasked_switch") };
        if !headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Err("unasked_switch");
        }
        let mut accepted = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        let right = accepted.next().is_some_and(|value| value == accept) && accepted.next().is_none();
        return if right { Ok(false) } else { Err("websocket_accept") };
    }
    let (mut length, mut encoding) = (false, false);
    for (name, value) in headers {
        let value = value.as_bytes();
        if name == header::CONTENT_LENGTH {
            if length || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err("invalid_content_length");
            }
            length = true;
        } else if name == header::TRANSFER_ENCODING {
            if encoding || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err("invalid_transfer_encoding");
            }
            encoding = true;
        }
    }
    if length && encoding { Err("invalid_content_length") } else { Ok(length) }
}
