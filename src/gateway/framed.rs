//! The octets of a connection, checked before the HTTP parser sees them ([`edge::framing`]); time-outs of heads and bodies.
//!
//! A head is passed on whole or not at all. In place of a refused head the parser is given a request of our own, which the
//! service answers with the refusal; nothing after it is read. A refused body ends in an error on both sides.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use edge::{
    Refusal,
    framing::{Place, Scanner},
};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{
    ended::Ended,
    places::Guest,
    unfinished::{Budget, Unfinished},
};

/// How long a head may take.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a body may pause.
const BODY_TIME: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(30) };
/// How long a connection may wait for its next request.
const IDLE_TIME: Duration = if cfg!(test) { Duration::from_millis(800) } else { Duration::from_secs(75) };
/// How long a connection may be idle before its parser is let go: what waits longer waits at the price of its socket.
const PARK_TIME: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(2) };
/// How much longer a parked connection may wait.
pub(crate) const PARKED_TIME: Duration = IDLE_TIME.saturating_sub(PARK_TIME);
/// How long a peer may leave what it is sent unread.
const UNREAD_TIME: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(60) };
/// How long a peer that was refused may go on sending into nothing, so that it can read the answer.
const LINGER: Duration = Duration::from_millis(500);
const SCRATCH: usize = 8 * 1024;
const REFUSED: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// What the octets and the service of one connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    refused: AtomicBool,
    refusal: Mutex<Option<(u64, Refusal)>>,
    served: AtomicU64,
    busy: AtomicUsize,
    /// Something was asked or answered since the timer last looked.
    stirred: AtomicBool,
    /// Which request is the WebSocket handshake after which nothing is read until that is decided; 0: none.
    handshake: AtomicU64,
    /// 0 undecided, 1 switched, 2 not switched.
    upgrade: AtomicU8,
    closing: AtomicBool,
    /// Somebody else needs the place: not even a head that has begun to come is waited for.
    evicted: AtomicBool,
    /// When a request last came, as the places of the listener count.
    used: AtomicU64,
    broken: AtomicBool,
    /// The peer says nothing more: its answer is on the way, or not.
    half: AtomicBool,
    /// A body paused for too long.
    slow: AtomicBool,
    /// Idle for so long that the parser was let go; the stream is as it was.
    parked: AtomicBool,
    waker: AtomicWaker,
    /// What the listener holds of heads that have not come whole.
    unfinished: OnceLock<Arc<Budget>>,
}

/// A request being served, until the last of its answer.
pub(crate) struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.stirred.store(true, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Release);
        if self.0.closing.load(Ordering::Relaxed) {
            self.0.waker.wake();
        }
    }
}

impl Shared {
    /// Counts a request in; the refusal, if this one stands for a refused head.
    pub(crate) fn begin(self: &Arc<Self>) -> (Busy, Option<Refusal>) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let number = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let refusal = if self.refused.load(Ordering::Acquire) {
            self.refusal.lock().filter(|(at, _)| *at == number).map(|(_, refusal)| refusal)
        } else {
            None
        };
        (Busy(Arc::clone(self)), refusal)
    }

    /// Something else that is served on the connection: a stream of HTTP/2, a tunnel.
    pub(crate) fn hold(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// What it holds of a head that has not come whole counts with that of others.
    pub(crate) fn counts_with(&self, unfinished: &Arc<Budget>) {
        let _ = self.unfinished.set(Arc::clone(unfinished));
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, turn: u64) {
        self.used.store(turn, Ordering::Relaxed);
    }

    /// Ready when the connection is asked to end. For whoever has it before its octets are read as requests, and for HTTP/2.
    pub(crate) async fn asked_to_end(&self) {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.closing() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Ready when somebody else needs the connection's place.
    pub(crate) async fn evicted(&self) {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.evicted.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the request being served is a WebSocket handshake: what comes after it waits until that is decided.
    pub(crate) fn is_handshake(&self) -> bool {
        let handshake = self.handshake.load(Ordering::Acquire);
        handshake != 0 && handshake == self.served.load(Ordering::Relaxed)
    }

    /// Decides what comes after the request being served, if it is a WebSocket handshake.
    pub(crate) fn decide(&self, switched: bool) {
        if self.is_handshake() {
            self.handshake.store(0, Ordering::Relaxed);
            self.upgrade.store(if switched { 1 } else { 2 }, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Asks the connection to end when nothing is being served.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the connection is asked to end.
    pub(crate) fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether the connection was left by its parser only because nothing was asked. It begins anew: nothing of what was asked before
    /// counts any more.
    pub(crate) fn unpark(&self) -> bool {
        self.served.store(0, Ordering::Relaxed);
        self.parked.swap(false, Ordering::AcqRel)
    }

    /// Waits with a parked connection for octets; `None`: it is over.
    pub(crate) async fn asleep<T: AsyncRead + Unpin>(&self, io: &mut T) -> Option<Vec<u8>> {
        let octets = std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            let mut scratch = [0; SCRATCH];
            let mut into = ReadBuf::new(&mut scratch);
            // What has come already is served, also where the connection is asked to end.
            match Pin::new(&mut *io).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => Poll::Ready(Some(into.filled().to_vec())),
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending if self.closing() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        tokio::time::timeout(PARKED_TIME, octets).await.ok().flatten()
    }

    /// Whether the request's body came too slowly.
    pub(crate) fn slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// Whether the request's body broke the framing or came too slowly.
    pub(crate) fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl Guest for Shared {
    fn idle_since(&self) -> Option<u64> {
        let idle = self.busy.load(Ordering::Acquire) == 0 || self.half.load(Ordering::Acquire);
        idle.then(|| self.used.load(Ordering::Relaxed))
    }
    fn leave(&self) {
        self.evicted.store(true, Ordering::Release);
        self.close();
    }
}

/// A connection whose octets are checked.
pub(crate) struct Framed<T> {
    io: T,
    shared: Arc<Shared>,
    scanner: Scanner,
    held: Vec<u8>,
    good: usize,
    injected: bool,
    stopped: bool,
    ended: bool,
    sleep: Pin<Box<Sleep>>,
    armed: Option<Place>,
    unread: Option<Pin<Box<Sleep>>>,
    linger: Option<Pin<Box<Sleep>>>,
    half: Ended,
    /// The head that has not come whole.
    partial: Option<Unfinished>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Framed<T> {
    /// Checks a connection of which `first` has been read already.
    pub(crate) fn new(io: T, first: Vec<u8>, shared: Arc<Shared>) -> Self {
        let mut framed = Self {
            io,
            shared,
            scanner: Scanner::new(),
            held: first,
            good: 0,
            injected: false,
            stopped: false,
            ended: false,
            sleep: Box::pin(tokio::time::sleep(PARK_TIME)),
            armed: None,
            unread: None,
            linger: None,
            half: Ended::default(),
            partial: None,
        };
        framed.rescan();
        framed
    }

    /// Looks at what is held; what is good of it may be delivered.
    fn rescan(&mut self) {
        match self.scanner.scan(&self.held) {
            Ok(good) => self.good = good,
            Err((good, violation)) => {
                self.good = good;
                self.refuse(Refusal::Framing(violation));
            }
        }
        self.tell_held();
        self.count();
    }

    /// What is held of a head that has not come whole.
    fn count(&mut self) {
        if self.stopped || self.held.is_empty() || self.scanner.place() != Place::Head {
            self.partial = None;
        } else if let Some(budget) = self.shared.unfinished.get() {
            self.partial.get_or_insert_with(|| Unfinished::new(budget)).holds(self.held.len());
        }
    }

    /// Whether the head that has not come whole is given up; what is held of it is free then, whatever else is waited for.
    fn shed(&mut self, cx: &Context<'_>) -> bool {
        let over = self.partial.as_ref().is_some_and(|partial| partial.is_over(cx));
        if over {
            self.partial = None;
            self.held.truncate(self.good);
            self.held.shrink_to_fit();
            self.refuse(Refusal::TooSlow);
        }
        over
    }

    /// The last head was a WebSocket handshake: whoever serves it has to decide.
    fn tell_held(&self) {
        if self.scanner.place() == Place::Held {
            self.shared.handshake.store(self.scanner.heads(), Ordering::Release);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.stopped = true;
        if self.scanner.place() == Place::Body {
            self.shared.slow.store(refusal == Refusal::TooSlow, Ordering::Release);
            self.shared.broken.store(true, Ordering::Release);
            self.injected = true;
            return;
        }
        *self.shared.refusal.lock() = Some((self.scanner.heads() + 1, refusal));
        self.shared.refused.store(true, Ordering::Release);
    }

    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.good.min(buf.remaining());
        buf.put_slice(self.held.get(..n).unwrap_or_default());
        self.held.drain(..n);
        self.good -= n;
    }

    /// Whether something is being answered, or is in the parser's hands and about to be.
    fn serving(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire) > 0 || self.shared.served.load(Ordering::Acquire) < self.scanner.heads()
    }

    /// The peer is silent: whether for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let place = self.scanner.place();
        let limit = match place {
            Place::Idle => PARK_TIME,
            Place::Head => HEAD_TIME,
            Place::Body => BODY_TIME,
            Place::Held | Place::Tunnel => return Poll::Pending,
        };
        if self.armed != Some(place) {
            self.sleep.as_mut().reset(Instant::now() + limit);
            self.armed = Some(place);
        } else if place == Place::Idle && !self.sleep.is_elapsed() {
            // Set for an earlier wait of this same task, which it will wake: one timer for many requests.
            return Poll::Pending;
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.armed = None;
        match place {
            // The peer may still have to read the end of an answer.
            Place::Idle if self.serving() || self.unread.is_some() || self.shared.stirred.swap(false, Ordering::Relaxed) => {
                self.sleep.as_mut().reset(Instant::now() + limit);
                self.armed = Some(place);
                let _ = self.sleep.as_mut().poll(cx);
                Poll::Pending
            }
            // The parser takes it for the end; whoever lent it the stream knows better.
            Place::Idle => {
                self.ended = true;
                self.shared.parked.store(self.held.is_empty(), Ordering::Release);
                Poll::Ready(Ok(()))
            }
            _ => {
                self.refuse(Refusal::TooSlow);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Passes a write's outcome on; an error if the peer has read nothing for too long.
    fn written<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            if self.unread.take().is_some() {
                self.shared.waker.wake();
            }
            return outcome;
        }
        self.shed(cx);
        let unread = self.unread.get_or_insert_with(|| Box::pin(tokio::time::sleep(UNREAD_TIME)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The peer says nothing more. What it has asked is answered first.
    fn hear_end(&mut self) {
        if self.scanner.place() == Place::Head {
            // It never comes whole.
            self.partial = None;
            self.held.truncate(self.good);
            self.held.shrink_to_fit();
        }
        let whole = matches!(self.scanner.place(), Place::Idle | Place::Head);
        if whole && (self.serving() || self.unread.is_some()) {
            self.half.begin(self.shared.served.load(Ordering::Acquire));
            self.shared.half.store(true, Ordering::Release);
        } else {
            self.ended = true;
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                self.hear_end();
                return Poll::Ready(Ok(()));
            }
            let good = match self.scanner.scan(fresh) {
                Ok(good) => {
                    self.held.extend_from_slice(fresh.get(good..).unwrap_or_default());
                    good
                }
                Err((good, violation)) => {
                    self.refuse(Refusal::Framing(violation));
                    good
                }
            };
            buf.set_filled(before + good);
            self.tell_held();
            self.count();
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; SCRATCH];
        let mut more = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut more))?;
        if more.filled().is_empty() {
            self.hear_end();
            return Poll::Ready(Ok(()));
        }
        self.held.extend_from_slice(more.filled());
        self.rescan();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if this.good > 0 {
                this.deliver(buf);
            }
            if buf.filled().len() > before {
                this.half.asked();
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.half.has() {
                this.shared.waker.register(cx.waker());
                if (this.serving() || this.unread.is_some()) && !this.shared.evicted.load(Ordering::Acquire) {
                    ready!(this.half.poll_over(cx, this.shared.served.load(Ordering::Acquire)));
                }
                this.ended = true;
                return Poll::Ready(Ok(()));
            }
            if this.stopped {
                if this.shared.broken() {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                if this.injected {
                    return Poll::Pending;
                }
                this.injected = true;
                // Through what is held: the reader's buffer may have less room than it takes.
                this.held = REFUSED.to_vec();
                this.good = REFUSED.len();
                continue;
            }
            if this.shed(cx) {
                continue;
            }
            if this.scanner.place() == Place::Held {
                this.shared.waker.register(cx.waker());
                match this.shared.upgrade.swap(0, Ordering::AcqRel) {
                    0 => return Poll::Pending,
                    decision => this.scanner.decide(decision == 1),
                }
                this.rescan();
                continue;
            }
            // Who does not read its answers is not asked for more: they would pile up here.
            if this.unread.is_some() && matches!(this.scanner.place(), Place::Idle | Place::Head) {
                this.shared.waker.register(cx.waker());
                return Poll::Pending;
            }
            match this.poll_more(cx, buf) {
                Poll::Ready(outcome) => {
                    outcome?;
                    if this.scanner.place() == Place::Body {
                        this.armed = None;
                    }
                }
                Poll::Pending => {
                    this.shared.waker.register(cx.waker());
                    let evicted = this.scanner.place() == Place::Head && this.shared.evicted.load(Ordering::Acquire);
                    let idle = (this.scanner.place() == Place::Idle || evicted) && !this.serving();
                    if idle && this.shared.closing.load(Ordering::Acquire) {
                        this.ended = true;
                        return Poll::Ready(Ok(()));
                    }
                    ready!(this.poll_silence(cx))?;
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        let served = self.shared.served.load(Ordering::Relaxed);
        self.half.took(&outcome, served);
        self.written(cx, outcome)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.written(cx, outcome)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let served = self.shared.served.load(Ordering::Relaxed);
        self.half.took(&outcome, served);
        self.written(cx, outcome)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    /// Sends the FIN at once; a peer still sending is read into nothing for a moment, or its answer would be reset away.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.parked.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if this.linger.is_none() {
            let ended = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.written(cx, ended))?;
            let unread = this.stopped || !matches!(this.scanner.place(), Place::Idle | Place::Tunnel);
            if this.ended || !unread {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; SCRATCH];
        loop {
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() && !linger.is_elapsed() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(linger.as_mut().poll(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
