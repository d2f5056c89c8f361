//! Bodies on their way through: octet for octet, at the reader's pace, ended with their credential.
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    bounds::{Pace, Stay},
    framed::Busy,
    grpc,
    live::Lease,
    managed::Watched,
    observed::Telling,
    pool::Kept,
    validation::Whole,
};

/// Why a body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the sender broke off")]
    Sender,
    #[error("the body is larger than the route takes")]
    TooLarge,
    #[error("the credential has ended")]
    Credential,
    #[error("the upstream takes too long")]
    Late,
    #[error("it took too long")]
    Slow,
}

/// What became of a request's body, for whoever waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Grows while octets move.
    pub moved: Cell<u64>,
    /// It is the sender's turn.
    pub waiting: Cell<bool>,
    pub broken: Cell<Option<Broken>>,
    /// The head of the answer is there.
    pub answered: Cell<bool>,
}

/// A request's body on its way to the upstream. Trailers stay here: they could carry what the head may not.
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    limit: Option<u64>,
    progress: Option<Rc<Progress>>,
    lease: Option<Lease>,
    pace: Option<Box<Pace>>,
    /// Read already.
    whole: Option<Box<Whole>>,
}

impl RequestBody {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self { inner: None, limit: None, progress: None, lease: None, pace: None, whole: None }
    }

    pub(crate) fn new(inner: Incoming, limit: Option<u64>, progress: Rc<Progress>, lease: Option<Lease>) -> Self {
        Self { inner: Some(inner), limit, progress: Some(progress), lease, pace: None, whole: None }
    }

    /// One that was read already.
    pub(crate) fn whole(whole: Whole) -> Self {
        Self { whole: Some(Box::new(whole)), ..Self::empty() }
    }

    /// The same, which has to come at this pace.
    pub(crate) fn paced(mut self, pace: Option<Box<Pace>>) -> Self {
        self.pace = pace;
        self
    }

    /// Whether there is nothing to send.
    pub(crate) const fn is_empty(&self) -> bool {
        self.inner.is_none() && self.whole.is_none()
    }

    fn broke(&self, why: Broken) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(progress) = &self.progress {
            progress.broken.set(Some(why));
        }
        Poll::Ready(Some(Err(why)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if this.lease.as_ref().is_some_and(Lease::over) {
            return this.broke(Broken::Credential);
        }
        if let Some(whole) = &mut this.whole {
            let octets = whole.take();
            return Poll::Ready(if octets.is_empty() { None } else { Some(Ok(Frame::data(octets))) });
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        loop {
            let frame = match Pin::new(&mut *inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    if let Some(progress) = &this.progress {
                        progress.waiting.set(true);
                    }
                    if let Some(lease) = &mut this.lease {
                        lease.watch(cx);
                    }
                    let answered = this.progress.as_ref().is_some_and(|progress| progress.answered.get());
                    if this.pace.as_mut().is_some_and(|pace| pace.late(cx, answered)) {
                        return this.broke(Broken::Slow);
                    }
                    return Poll::Pending;
                }
            };
            if let Some(pace) = &mut this.pace {
                pace.moved();
            }
            if let Some(progress) = &this.progress {
                progress.waiting.set(false);
            }
            match frame {
                None => return Poll::Ready(None),
                Some(Err(_)) => return this.broke(Broken::Sender),
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    if let Some(progress) = &this.progress {
                        progress.moved.set(progress.moved.get() + data.len() as u64);
                        if this.limit.is_some_and(|most| progress.moved.get() > most) {
                            return this.broke(Broken::TooLarge);
                        }
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream) && self.whole.as_ref().is_none_or(|whole| whole.len() == 0)
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(whole) = &self.whole {
            return SizeHint::with_exact(whole.len() as u64);
        }
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// An answer's body on its way to the client.
pub(crate) enum AnswerBody {
    Text(Option<Bytes>),
    Stream(Rc<RefCell<Streamed>>),
    /// With trailers after it.
    Trailed(Box<(Option<Bytes>, Option<http::HeaderMap>)>),
}

/// What the body of an answer holds until its end.
#[derive(Default)]
pub(crate) struct Held {
    /// The connection to give back.
    pub kept: Option<Kept>,
    /// What is counted and timed.
    pub watched: Option<Box<Watched>>,
    /// A gRPC call: when its credential ends, it ends with trailers.
    pub grpc: bool,
}

/// An upstream's body, the connection to give back after it, and the credential it is sent under.
pub(crate) struct Streamed {
    /// `None` once it was given up.
    inner: Option<Incoming>,
    first: Option<Frame<Bytes>>,
    held: Held,
    over: bool,
    /// How often it was asked for more, and whether it is not waiting for the upstream since.
    asked: u32,
    given: bool,
    lease: Option<Lease>,
    /// The client's connection is not idle meanwhile.
    busy: Option<Busy>,
    /// Tells of the request when it has ended.
    telling: Option<Box<Telling>>,
    /// What it holds until then, and when that has to be.
    stay: Option<Box<Stay>>,
}

impl AnswerBody {
    /// Tells of the request when this body has ended; at once, if there is nothing to wait for.
    pub(crate) fn tell_of(&mut self, mut telling: Telling) {
        match self {
            Self::Text(text) => telling.sent(text.as_ref().map_or(0, Bytes::len)),
            Self::Trailed(both) => telling.sent(both.0.as_ref().map_or(0, Bytes::len)),
            Self::Stream(stream) => stream.borrow_mut().telling = Some(Box::new(telling)),
        }
    }

    pub(crate) const fn text(text: Bytes) -> Self {
        Self::Text(Some(text))
    }

    pub(crate) const fn none() -> Self {
        Self::Text(None)
    }

    pub(crate) fn trailed(text: Bytes, trailers: http::HeaderMap) -> Self {
        Self::Trailed(Box::new((Some(text), Some(trailers))))
    }

    pub(crate) fn stream(inner: Incoming, first: Option<Frame<Bytes>>, held: Held, lease: Option<Lease>, busy: Option<Busy>) -> Self {
        Self::Stream(Rc::new(RefCell::new(Streamed {
            inner: Some(inner),
            first,
            held,
            over: false,
            asked: 0,
            given: true,
            lease,
            busy,
            telling: None,
            stay: None,
        })))
    }
}

impl AnswerBody {
    /// The same, for as long as it may stay.
    pub(crate) fn staying(mut self, stay: Option<Stay>) -> Self {
        if let (Self::Stream(stream), Some(stay)) = (&mut self, stay) {
            stream.borrow_mut().stay = Some(Box::new(stay));
        }
        self
    }
}

impl Streamed {
    /// The credential has ended: what is open under it does too.
    fn end(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        let grpc = self.held.grpc;
        self.held = Held { grpc, ..Held::default() };
        match (grpc, std::mem::replace(&mut self.over, true)) {
            (true, true) => None,
            (true, false) => Some(Ok(Frame::trailers(grpc::ended()))),
            (false, _) => Some(Err(Broken::Credential)),
        }
    }

    fn ended(&self) -> bool {
        self.inner.as_ref().is_some_and(Body::is_end_stream)
    }

    /// How often it was asked for more, if it is the reader's turn to ask.
    pub(crate) fn unread(&self) -> Option<u32> {
        self.given.then_some(self.asked)
    }

    /// Lets the upstream go, and the connection's place; who asks for more after all hears that it broke off.
    pub(crate) fn give_up(&mut self) {
        (self.inner, self.held, self.stay, self.busy) = (None, Held::default(), None, None);
    }

    fn settle(&mut self) {
        drop(self.busy.take());
        if self.ended()
            && let Some(kept) = self.held.kept.take()
        {
            kept.give_back();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.lease.as_ref().is_some_and(Lease::over) {
            return Poll::Ready(self.end());
        }
        if self.stay.as_mut().is_some_and(|stay| stay.poll_over(cx).is_ready()) {
            self.held = Held::default();
            return Poll::Ready(Some(Err(Broken::Slow)));
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(Some(Err(Broken::Slow))) };
        let frame = match Pin::new(inner).poll_frame(cx) {
            Poll::Pending => {
                if let Some(lease) = &mut self.lease {
                    lease.watch(cx);
                }
                if let Some(watched) = &mut self.held.watched {
                    ready!(watched.poll_late(cx));
                    self.held = Held::default();
                    return Poll::Ready(Some(Err(Broken::Late)));
                }
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        if let Some(watched) = &mut self.held.watched {
            watched.moved();
        }
        match frame {
            None => {
                self.stay = None;
                self.held.watched = None;
                if let Some(kept) = self.held.kept.take() {
                    kept.give_back();
                }
                Poll::Ready(None)
            }
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(_)) => {
                self.held = Held::default();
                Poll::Ready(Some(Err(Broken::Sender)))
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Self::Trailed(both) => {
                let (text, trailers) = &mut **both;
                Poll::Ready(text.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Stream(stream) => {
                let stream = &mut *stream.borrow_mut();
                (stream.asked, stream.given) = (stream.asked.wrapping_add(1), false);
                let frame = ready!(stream.poll(cx));
                stream.given = true;
                if let Some(telling) = &mut stream.telling
                    && let Some(Ok(frame)) = &frame
                {
                    telling.sent(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Trailed(both) => both.0.is_none() && both.1.is_none(),
            Self::Stream(stream) => {
                let stream = stream.borrow();
                stream.first.is_none() && stream.ended()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            // With a length, the reader would not wait for what comes after.
            Self::Trailed(_) => SizeHint::default(),
            Self::Stream(stream) => {
                let stream = stream.borrow();
                match (&stream.first, &stream.inner) {
                    (None, Some(inner)) => inner.size_hint(),
                    _ => SizeHint::default(),
                }
            }
        }
    }
}
