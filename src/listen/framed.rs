//! The octets of a connection of ours, checked before the HTTP parser sees them (RFC 9112 §§2–7, [`edge::framing`]).
//!
//! A head is passed on whole or not at all. In place of a refused head the parser is given a request of our own, which is
//! answered with the refusal; nothing after it is read. A refused body ends in an error.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use edge::framing::{Place, Scanner, Violation};
use gateway::{Budget, Ended, Unfinished};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Sleep, sleep, timeout},
};

/// How long a peer that was refused may go on sending into nothing, so that it can read the answer.
const LINGER: Duration = Duration::from_millis(500);
/// How long a peer may leave an answer unread; until it reads on, nothing more is read of it.
pub(super) const UNREAD: Duration = Duration::from_secs(60);
const SCRATCH: usize = 8 * 1024;
const REFUSED: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// What the octets of one connection tell the one who answers its requests.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The number of the request that stands for a refused head, and the status in the lower 16 bits; 0: none.
    refused: AtomicU64,
    served: AtomicU64,
    answering: AtomicUsize,
}

/// An answer that is not all there yet.
pub(super) struct Answering(Arc<Told>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Release);
    }
}

impl Told {
    /// Counts an answer in, until its last octet is handed on.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Counts a request in; the status to refuse it with, if it stands for a refused head.
    pub(super) fn begin(&self) -> Option<u16> {
        let number = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let refused = self.refused.load(Ordering::Acquire);
        (refused >> 16 == number).then(|| u16::try_from(refused & 0xffff).unwrap_or(400))
    }
}

/// A connection whose octets are checked.
pub(super) struct Framed<T> {
    io: T,
    told: Arc<Told>,
    scanner: Scanner,
    held: Vec<u8>,
    good: usize,
    stopped: bool,
    injected: bool,
    broken: bool,
    ended: bool,
    linger: Option<Pin<Box<Sleep>>>,
    half: Ended,
    /// The head that has not come whole, and with what of others it counts.
    partial: Option<Unfinished>,
    unfinished: Option<Arc<Budget>>,
    /// While the peer does not take what is written.
    stalled: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
}

impl<T> Framed<T> {
    /// Checks a connection from its first octet.
    pub(super) fn new(io: T, told: Arc<Told>) -> Self {
        Self {
            io,
            told,
            scanner: Scanner::new(),
            held: Vec::new(),
            good: 0,
            stopped: false,
            injected: false,
            broken: false,
            ended: false,
            linger: None,
            half: Ended::default(),
            partial: None,
            unfinished: None,
            stalled: None,
            reader: None,
        }
    }

    /// The same; what it holds of a head that has not come whole counts with that of others.
    pub(super) fn counting_with(mut self, unfinished: &Arc<Budget>) -> Self {
        self.unfinished = Some(Arc::clone(unfinished));
        self
    }

    fn count(&mut self) {
        if self.stopped || self.held.is_empty() || self.scanner.place() != Place::Head {
            self.partial = None;
        } else if let Some(budget) = &self.unfinished {
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
            self.refuse_with(408);
        }
        over
    }

    fn scan(&mut self, octets: &[u8]) -> usize {
        let mut good = 0;
        loop {
            match self.scanner.scan(octets.get(good..).unwrap_or_default()) {
                Ok(more) => {
                    good += more;
                    // Nothing is upgraded here: what follows such a request is a request again.
                    if self.scanner.place() != Place::Held {
                        return good;
                    }
                    self.scanner.decide(false);
                }
                Err((more, violation)) => {
                    self.refuse(violation);
                    return good + more;
                }
            }
        }
    }

    /// What came of writing. A peer that asks and does not read is asked nothing more, and ends: answers would pile up here.
    fn wrote<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_pending() {
            self.shed(cx);
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
            ready!(stalled.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.stalled.take().is_some()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        written
    }

    /// Whether something is being answered, or is about to be.
    fn serving(&self) -> bool {
        self.stalled.is_some()
            || self.told.answering.load(Ordering::Acquire) > 0
            || self.told.served.load(Ordering::Acquire) < self.scanner.heads()
    }

    /// The peer says nothing more. What it has asked is answered first.
    fn hear_end(&mut self) {
        if self.scanner.place() == Place::Head {
            // It never comes whole.
            self.partial = None;
            self.held.truncate(self.good);
            self.held.shrink_to_fit();
        }
        if matches!(self.scanner.place(), Place::Idle | Place::Head) && self.serving() {
            self.half.begin(self.told.served.load(Ordering::Acquire));
        } else {
            self.ended = true;
        }
    }

    fn refuse(&mut self, violation: Violation) {
        self.refuse_with(violation.status());
    }

    fn refuse_with(&mut self, status: u16) {
        self.stopped = true;
        if self.scanner.place() == Place::Body {
            self.broken = true;
        } else {
            self.told.refused.store((self.scanner.heads() + 1) << 16 | u64::from(status), Ordering::Release);
        }
    }
}

impl<T: AsyncRead + Unpin> Framed<T> {
    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                self.hear_end();
                return Poll::Ready(Ok(()));
            }
            let good = self.scan(fresh);
            self.held.extend_from_slice(fresh.get(good..).unwrap_or_default());
            buf.set_filled(before + good);
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
        let held = std::mem::take(&mut self.held);
        self.good = self.scan(&held);
        self.held = held;
        self.count();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Framed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if this.good > 0 {
                let n = this.good.min(buf.remaining());
                buf.put_slice(this.held.get(..n).unwrap_or_default());
                this.held.drain(..n);
                this.good -= n;
            }
            if buf.filled().len() > before {
                this.half.asked();
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.half.has() {
                if this.serving() {
                    ready!(this.half.poll_over(cx, this.told.served.load(Ordering::Acquire)));
                }
                this.ended = true;
                return Poll::Ready(Ok(()));
            }
            if this.broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if this.stopped {
                if this.injected {
                    return Poll::Pending;
                }
                this.injected = true;
                this.held = REFUSED.to_vec();
                this.good = REFUSED.len();
                continue;
            }
            if this.shed(cx) {
                continue;
            }
            if this.stalled.is_some() {
                this.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            ready!(this.poll_more(cx, buf))?;
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        let served = self.told.served.load(Ordering::Relaxed);
        self.half.took(&written, served);
        self.wrote(cx, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(cx, written)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let served = self.told.served.load(Ordering::Relaxed);
        self.half.took(&written, served);
        self.wrote(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    /// Sends the FIN at once; a peer still sending is read into nothing for a moment, or its answer would be reset away.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let ended = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.wrote(cx, ended))?;
            // Also where more was asked than is answered here, and may still be coming.
            let unread =
                this.stopped || this.scanner.place() != Place::Idle || this.told.served.load(Ordering::Relaxed) < this.scanner.heads();
            if this.ended || !unread && !some_more(&mut this.io, cx) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
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

/// Whether octets are there that nobody has read.
fn some_more<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>) -> bool {
    let mut scratch = [0; 1024];
    let mut into = ReadBuf::new(&mut scratch);
    matches!(Pin::new(io).poll_read(cx, &mut into), Poll::Ready(Ok(()))) && !into.filled().is_empty()
}

/// Reads what still comes into nothing, for as long as a peer that is refused may go on sending.
pub(super) async fn linger<T: AsyncRead + Unpin>(io: &mut T) {
    let gone = async {
        let mut scratch = [0; 1024];
        while matches!(io.read(&mut scratch).await, Ok(1..)) {}
    };
    let _ = timeout(LINGER, gone).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    async fn read(given: &[u8]) -> (Vec<u8>, Arc<Told>) {
        let (mut client, server) = duplex(64 * 1024);
        let told = Arc::new(Told::default());
        let mut framed = Framed::new(server, Arc::clone(&told));
        client.write_all(given).await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        let reading = framed.read_to_end(&mut seen);
        let _ = tokio::time::timeout(Duration::from_millis(50), reading).await;
        (seen, told)
    }

    #[tokio::test]
    async fn good_requests_pass_unchanged_even_when_they_ask_for_an_upgrade() {
        let upgrade = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let given = [upgrade.as_slice(), b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"].concat();
        let (seen, told) = read(&given).await;
        assert_eq!(seen, given);
        assert_eq!((told.begin(), told.begin()), (None, None));
    }

    #[tokio::test]
    async fn an_ambiguous_head_is_replaced_and_nothing_after_it_is_read() {
        let good = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
        let (seen, told) = read(&[good, b"GET /b HTTP/1.1\nHost: x\n\n", good].concat()).await;
        assert_eq!(seen, [good, REFUSED].concat());
        assert_eq!((told.begin(), told.begin(), told.begin()), (None, Some(400), None));
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_read_until_it_does() {
        let ask = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        let (mut client, server) = duplex(64);
        let mut framed = Framed::new(server, Arc::new(Told::default()));
        assert_eq!(framed.write(&[b'a'; 64]).await.unwrap(), 64);
        assert!(futures_util::poll!(Box::pin(framed.write(b"a"))).is_pending());
        client.write_all(ask).await.unwrap();
        let mut seen = [0; 64];
        assert!(futures_util::poll!(Box::pin(framed.read(&mut seen))).is_pending());
        client.read_exact(&mut [0; 64]).await.unwrap();
        framed.write_all(b"a").await.unwrap();
        assert_eq!(framed.read(&mut seen).await.unwrap(), ask.len());
    }

    #[tokio::test]
    async fn a_head_that_is_given_up_is_free_at_once_also_where_answers_are_not_read() {
        for stalled in [false, true] {
            let budget = Budget::new("test", 0);
            let (mut client, server) = duplex(64);
            let mut framed = Framed::new(server, Arc::new(Told::default())).counting_with(&budget);
            client.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n").await.unwrap();
            assert!(futures_util::poll!(Box::pin(framed.read(&mut [0; 64]))).is_pending());
            assert!(!framed.held.is_empty() && framed.partial.is_some());
            if stalled {
                framed.write_all(&[b'a'; 64]).await.unwrap();
                assert!(futures_util::poll!(Box::pin(framed.write(b"a"))).is_pending());
            }
            let _others: Vec<_> = (0..256).map(|_| Unfinished::new(&budget)).inspect(|other| other.holds(4096)).collect();
            if stalled {
                assert!(futures_util::poll!(Box::pin(framed.write(b"a"))).is_pending());
                assert!(framed.held.capacity() == 0 && framed.partial.is_none());
            }
            let mut seen = [0; REFUSED.len()];
            framed.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, REFUSED);
            assert_eq!(framed.told.begin(), Some(408));
        }
    }
}
