//! Sixth phase: sending the request on and taking the answer in. Needs a [`Permit`].
use std::{future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use edge::{
    Permit, Refusal,
    balance::Target,
    table::Entry,
};
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    body::{Broken, Progress, RequestBody},
    pool::{Kept, Line, Pool, Sender, Taken},
    rewrite,
    seen::Believed,
};

/// A kept connection idle for longer than this may have been closed by the other side without our knowing yet.
const DOUBTFUL: Duration = Duration::from_millis(500);

/// An answer that may be passed on.
pub(crate) struct Answered {
    pub answer: Response<Incoming>,
    /// The first part of the body, if it came with the head.
    pub first: Option<Frame<Bytes>>,
    /// The connection to give back after the body.
    pub kept: Option<Kept>,
}

/// Sends a request to its route's upstream.
pub(crate) async fn forward(
    pool: &Rc<Pool>,
    entry: &Entry,
    request: &mut Option<Request<RequestBody>>,
    progress: &Progress,
    websocket: bool,
    _permit: &Permit<Rc<Believed>>,
) -> Result<Answered, Refusal> {
    let mut unreachable = Refusal::BadUpstream("connect");
    for target in pool.order(&entry.upstream).take(4) {
        let mut retries = 0;
        loop {
            let taken = match if retries > 0 { None } else { pool.take(target, websocket) } {
                Some(taken) => taken,
                None => match Box::pin(pool.open(target, websocket, Duration::from_millis(entry.upstream.connect_timeout_ms))).await {
                    Ok(taken) => taken,
                    Err(error) => {
                        tracing::warn!(target: "gateway", upstream = %entry.upstream.id, %error, "upstream not reached");
                        let slow = error.kind() == std::io::ErrorKind::TimedOut;
                        unreachable = if slow { Refusal::SlowUpstream } else { Refusal::BadUpstream("connect") };
                        break;
                    }
                },
            };
            match send(pool, entry, target, taken, request, progress, websocket).await {
                Ok(answered) => return Ok(answered),
                Err(Failed::Final(refusal)) => return Err(refusal),
                Err(Failed::Unsent) => {
                    retries += 1;
                    if retries > 2 {
                        return Err(Refusal::BadUpstream("broken_off"));
                    }
                }
            }
        }
    }
    Err(unreachable)
}

enum Failed {
    /// It was not sent, or may be sent again: it is back in its place.
    Unsent,
    Final(Refusal),
}

async fn send(
    pool: &Rc<Pool>,
    entry: &Entry,
    target: &Target,
    taken: Taken,
    place: &mut Option<Request<RequestBody>>,
    progress: &Progress,
    websocket: bool,
) -> Result<Answered, Failed> {
    let limit = Duration::from_millis(entry.upstream.timeout_ms);
    let Some(request) = place.as_mut() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
    // A request that was sent may only be sent again if that changes nothing (RFC 9110 §9.2.2).
    let spare = if taken.idle.is_some_and(|idle| idle > DOUBTFUL) { copy(request) } else { None };
    match taken.sender {
        Sender::Http1(mut line) => {
            rewrite::set_host(request.headers_mut(), entry, target);
            request.headers_mut().remove(header::TE);
            *request.version_mut() = Version::HTTP_11;
            let Some(request) = place.take() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
            let Line { sender, expecting, timer } = &mut *line;
            expecting.head();
            let answer = match waited(sender.try_send_request(request), timer.as_mut(), limit, progress).await? {
                Ok(answer) => answer,
                Err(mut error) => {
                    *place = error.take_message().or(spare);
                    return Err(if place.is_some() { Failed::Unsent } else { Failed::Final(fault(progress, error.error())) });
                }
            };
            let kept = Kept::new(Rc::clone(pool), Arc::clone(&target.key), line);
            receive(answer, Some(kept), websocket).map_err(Failed::Final)
        }
        Sender::Http2(mut sender) => {
            rewrite::for_http2(request, target).map_err(Failed::Final)?;
            let Some(request) = place.take() else { return Err(Failed::Final(Refusal::BadUpstream("broken_off"))) };
            let mut timer = Box::pin(tokio::time::sleep(limit));
            match waited(sender.try_send_request(request), timer.as_mut(), limit, progress).await? {
                Ok(answer) => receive(answer, None, websocket).map_err(Failed::Final),
                Err(mut error) => {
                    *place = error.take_message().map(to_origin_form);
                    Err(if place.is_some() { Failed::Unsent } else { Failed::Final(fault(progress, error.error())) })
                }
            }
        }
    }
}

/// Waits for the answer's head. While a long body moves, the upstream is not late.
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
                return Poll::Ready(Err(Failed::Final(Refusal::SlowUpstream)));
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
        None => {}
    }
    tracing::warn!(target: "gateway", %error, "upstream broke off");
    Refusal::BadUpstream(if error.is_parse() { "invalid_answer" } else { "broken_off" })
}

fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
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
fn receive(mut answer: Response<Incoming>, kept: Option<Kept>, websocket: bool) -> Result<Answered, Refusal> {
    let sized = sized(answer.status(), answer.headers(), websocket).map_err(Refusal::BadUpstream)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answered { answer, first: None, kept: None });
    }
    if answer.body().is_end_stream() {
        if let Some(kept) = kept {
            kept.give_back();
        }
        return Ok(Answered { answer, first: None, kept: None });
    }
    if sized {
        return Ok(Answered { answer, first: None, kept });
    }
    // A first chunk that is already bad can still be answered with 502.
    match answer.body_mut().frame().now_or_never() {
        Some(Some(Err(_))) => Err(Refusal::BadUpstream("invalid_body")),
        Some(Some(Ok(frame))) => Ok(Answered { answer, first: Some(frame), kept }),
        Some(None) | None => Ok(Answered { answer, first: None, kept }),
    }
}

/// Whether an answer's head says how long the body is, or what is wrong with the head. Control characters the parser refused.
fn sized(status: StatusCode, headers: &HeaderMap, websocket: bool) -> Result<bool, &'static str> {
    if !(100..=599).contains(&status.as_u16()) {
        return Err("invalid_status");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let switched = websocket && headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return if switched { Ok(false) } else { Err("unasked_switch") };
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
