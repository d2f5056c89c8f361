//! A request's body: waited for as long as it comes at some pace; what nobody wanted of it is read away, if it is short and there.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gateway::{Budget, Unfinished};
use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long a request body may stand still.
pub const BODY_IDLE: Duration = Duration::from_secs(30);
/// How long a request body may come as slowly as it likes; then, for each second, so many octets of it must have come.
const BODY_SLOW: Duration = Duration::from_secs(60);
const BODY_PACE: u64 = 1024;
/// How much of a body that nobody wanted is read so that the next request can come, and how long it is waited for.
const MAX_UNWANTED: u64 = 64 * 1024;
const UNWANTED: Duration = Duration::from_millis(200);

/// What of a request's body was not read when the request was answered.
pub(super) struct LeftOver {
    unread: AtomicBool,
    /// It was announced only: asking for it would say `100 Continue`.
    announced: bool,
    body: Mutex<Option<Incoming>>,
}

impl LeftOver {
    pub(super) fn of(request: &Request<Incoming>) -> Self {
        let unread = AtomicBool::new(!request.body().is_end_stream());
        Self { unread, announced: request.headers().contains_key(header::EXPECT), body: Mutex::new(None) }
    }

    /// Whether there is any.
    pub(super) fn is_there(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Reads it into nothing, if it is short and there; whether the next request can come.
    pub(super) async fn clear(&self) -> bool {
        let Some(mut body) = self.body.lock().take().filter(|_| !self.announced) else { return false };
        if body.size_hint().lower() > MAX_UNWANTED {
            return false;
        }
        let mut octets = 0;
        let cleared = async {
            while let Some(frame) = body.frame().await {
                octets += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                if octets > MAX_UNWANTED {
                    return None;
                }
            }
            Some(())
        };
        matches!(timeout(UNWANTED, cleared).await, Ok(Some(())))
    }
}

/// A request body that fails when it stands still for [`BODY_IDLE`], or comes so slowly that its place is all it wants.
pub struct Timed {
    body: Option<Incoming>,
    left: Arc<LeftOver>,
    slow: Option<Slow>,
    octets: usize,
    /// While it is waited for; with what of others it counts.
    unfinished: Option<Unfinished>,
    budget: Arc<Budget>,
}

/// A body that was waited for.
struct Slow {
    since: Instant,
    octets: u64,
    sleep: Pin<Box<Sleep>>,
}

impl Slow {
    fn new(now: Instant) -> Self {
        Self { since: now, octets: 0, sleep: Box::pin(sleep_until(now + BODY_IDLE)) }
    }

    /// Some of it came.
    fn came(&mut self, octets: usize, now: Instant) {
        self.octets += octets as u64;
        let until = self.until(now);
        self.sleep.as_mut().reset(until);
    }

    /// How long the next of it may take.
    fn until(&self, now: Instant) -> Instant {
        (now + BODY_IDLE).min(self.since + BODY_SLOW + Duration::from_secs(self.octets / BODY_PACE))
    }
}

impl Timed {
    pub(super) const fn new(body: Incoming, left: Arc<LeftOver>, budget: Arc<Budget>) -> Self {
        Self { body: Some(body), left, slow: None, octets: 0, unfinished: None, budget }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if self.left.is_there() {
            *self.left.body.lock() = self.body.take();
        }
    }
}

/// A request body stood still for too long.
#[derive(Debug, thiserror::Error)]
#[error("the request body stood still for too long, or came too slowly")]
pub struct BodyStoodStill;

impl Body for Timed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    let octets = frame.data_ref().map_or(0, Bytes::len);
                    this.octets += octets;
                    if let Some(slow) = &mut this.slow {
                        slow.came(octets, Instant::now());
                    }
                    if let Some(unfinished) = &this.unfinished {
                        unfinished.holds(this.octets);
                    }
                }
                if frame.is_none() || body.is_end_stream() {
                    this.left.unread.store(false, Ordering::Release);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let unfinished = this.unfinished.get_or_insert_with(|| {
                    let unfinished = Unfinished::new(&this.budget);
                    unfinished.holds(this.octets);
                    unfinished
                });
                if unfinished.is_over(cx) {
                    return Poll::Ready(Some(Err(Box::new(BodyStoodStill))));
                }
                let slow = this.slow.get_or_insert_with(|| Slow::new(Instant::now()));
                match slow.sleep.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(BodyStoodStill)))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_waited_for_as_long_as_it_comes_at_some_pace() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut steady = Slow::new(begun);
        let mut drop_by_drop = Slow::new(begun);
        assert_eq!(steady.until(begun), at(30));
        for second in (20..=400).step_by(20) {
            steady.came(20 * 1024, at(second));
            assert_eq!(steady.until(at(second)), at(second + 30));
            drop_by_drop.came(1, at(second));
            assert_eq!(drop_by_drop.until(at(second)), at((second + 30).min(60)), "its place is all it wants");
        }
    }
}
