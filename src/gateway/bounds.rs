//! How long a request's body, an answer and a WebSocket may take, and the places they hold until then.
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use edge::{
    bounds::{Bounds, IDLE_BODY_S},
    table::Entry,
};
use tokio::time::{Instant, Sleep};

use crate::open::Held;

/// The pace at which a request's body has to come.
pub(crate) struct Pace {
    until: Option<Instant>,
    idle: Duration,
    /// The route says how long a pause may be; otherwise a conversation may pause once it is answered.
    said: bool,
    /// Set when the body is waited for.
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Pace {
    /// What the route bounds; over HTTP/2 a body may not pause for ever in any case (over HTTP/1.1 its octets are watched). A gRPC call that
    /// is sent on at once may be silent for as long as its upstream may think.
    pub(crate) fn of(entry: &Entry, http2: bool, grpc: bool) -> Option<Box<Self>> {
        let (request_ms, idle_ms) = entry.bounds.as_ref().map_or((None, None), |b| (b.request_ms, b.idle_ms));
        if request_ms.is_none() && idle_ms.is_none() && !http2 {
            return None;
        }
        let usual = Duration::from_secs(IDLE_BODY_S.unsigned_abs());
        let call = Duration::from_millis(if grpc && entry.validation.is_none() { entry.upstream.timeout_ms } else { 0 });
        let idle = idle_ms.map_or(usual.max(call), Duration::from_millis);
        let until = request_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        Some(Box::new(Self { until, idle, said: idle_ms.is_some(), sleep: None, waiting: false }))
    }

    /// Something came.
    pub(crate) const fn moved(&mut self) {
        self.waiting = false;
    }

    /// To be called before returning `Pending`: whether it took too long; wakes this task when it does.
    pub(crate) fn late(&mut self, cx: &mut Context<'_>, answered: bool) -> bool {
        if answered && !self.said && self.until.is_none() {
            return false;
        }
        if !self.waiting {
            self.waiting = true;
            let idle = Instant::now() + self.idle;
            let at = self.until.map_or(idle, |until| until.min(idle));
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

/// What a request holds until the end of its answer, and when that has to be.
pub(crate) struct Stay {
    _held: Vec<Held>,
    over: Option<Pin<Box<Sleep>>>,
}

impl Stay {
    /// `None`: it holds nothing and may stay as long as it likes.
    pub(crate) fn new(held: Vec<Held>, bounds: Option<&Bounds>) -> Option<Self> {
        let time = bounds.and_then(|b| b.stream_ms);
        if held.is_empty() && time.is_none() {
            return None;
        }
        Some(Self { _held: held, over: time.map(|ms| Box::pin(tokio::time::sleep(Duration::from_millis(ms)))) })
    }

    /// Ready when the time is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.over {
            Some(over) => over.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
