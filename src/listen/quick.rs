//! The lane of a connection's first requests: while they are plain and for the endpoints of [`web::quick`], they are answered here, one
//! read and one write each (decision 0025). With the first that is anything else the connection belongs to the HTTP library.
use std::{
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, UNIX_EPOCH},
};

use axum::{body::Body, response::Response};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use httpdate::HttpDate;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::{io::poll_read_buf, sync::CancellationToken};
use web::{
    App, Peer,
    quick::{self, Place},
    wire,
};

use super::{
    FAREWELL, HEAD_TIMEOUT, Leaving, Seat, Stream,
    framed::{UNREAD, linger},
    head::Head,
};

/// The authorization server now, if this process plays it.
pub type Choose = Arc<dyn Fn() -> Option<Arc<App>> + Send + Sync>;

/// How long the next request is waited for: longer than proxies and pools keep a connection (mostly 60 s), or they ask as it ends.
const IDLE: Duration = Duration::from_secs(75);
/// How long a body is waited for here; after that the library waits.
const BODY_HERE: Duration = Duration::from_millis(200);
/// Room for a request, and what stays of it between requests.
const ROOM: usize = 4 * 1024;
/// A body up to here is copied behind its head.
const SMALL: usize = 2 * 1024;

/// What came of waiting for octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    More,
    /// The other end is done, or the connection is broken.
    Ended,
    Silence,
    /// The process stops, or somebody else needs the place.
    Called,
}

/// Serves a connection while its requests are plain. What is left is given back with the octets that were read of its next request; nothing
/// if the connection is done.
pub(super) async fn serve<S: Stream>(
    stream: S,
    peer: SocketAddr,
    called: (&CancellationToken, &Leaving, &Arc<Seat>),
    choose: &Choose,
) -> Option<(S, BytesMut)> {
    let left = plain(stream, peer, called, choose).await;
    if left.is_some() {
        metrics::counter!("http_handed_over_total").increment(1);
    }
    left
}

async fn plain<S: Stream>(
    stream: S,
    peer: SocketAddr,
    (stop, leaving, seat): (&CancellationToken, &Leaving, &Arc<Seat>),
    choose: &Choose,
) -> Option<(S, BytesMut)> {
    let mut lane = Lane { stream, held: BytesMut::with_capacity(ROOM), out: Vec::with_capacity(ROOM), date: Date::default() };
    let mut called = pin!(async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = seat.asked() => {}
        }
    });
    let mut sleep = pin!(sleep_until(Instant::now() + HEAD_TIMEOUT));
    let mut patience = HEAD_TIMEOUT;
    loop {
        if lane.held.is_empty() {
            let until = Instant::now() + patience;
            if lane.hear(sleep.as_mut(), until, Some(called.as_mut())).await != Heard::More {
                break;
            }
        }
        let _busy = seat.begin();
        let Some(app) = choose() else { return Some((lane.stream, lane.held)) };
        let found = Head::read(&lane.held, quick::LONGEST);
        let found = found.and_then(|head| quick::place(&app, head.get, head.target(&lane.held)).map(|place| (head, place)));
        let Some((head, place)) = found else { return Some((lane.stream, lane.held)) };
        let whole = head.end + head.length;
        if lane.held.len() < whole {
            lane.held.reserve(whole - lane.held.len());
            let until = Instant::now() + BODY_HERE;
            while lane.held.len() < whole {
                match lane.hear(sleep.as_mut(), until, None::<Pin<&mut std::future::Ready<()>>>).await {
                    Heard::More => {}
                    Heard::Ended => return None,
                    Heard::Silence | Heard::Called => return Some((lane.stream, lane.held)),
                }
            }
        }
        let last = leaving.told();
        let document = if head.conditional { None } else { lane.document(&app, place, last) };
        let sent = match document {
            Some(document) => {
                lane.held.advance(whole);
                lane.write(document).await && !last
            }
            // A document with conditions is answered by its router.
            None if matches!(place, Place::Keys | Place::Metadata) => return Some((lane.stream, lane.held)),
            None => {
                let octets = lane.held.split_to(whole).freeze();
                let headers = head.headers(&octets)?;
                let body = octets.slice(head.end..);
                drop(octets);
                let response = answered(&app, place, headers, body, Peer(peer)).await;
                let last = leaving.told();
                lane.send(&app, response, last).await && !last
            }
        };
        if !sent {
            break;
        }
        patience = IDLE;
        if whole > ROOM {
            // What a long body took is not kept for the life of the connection.
            lane.held = BytesMut::from(lane.held.as_ref());
        }
    }
    // Over TLS the last words wait for a peer that does not read.
    let ended = timeout(FAREWELL, lane.stream.shutdown()).await;
    // More was asked than is answered here: unread, it would reset the answers away.
    if matches!(ended, Ok(Ok(()))) && !lane.held.is_empty() {
        Box::pin(linger(&mut lane.stream)).await;
    }
    None
}

/// The endpoint's answer; a panic is answered 500 and counted.
async fn answered(app: &App, place: Place, headers: http::HeaderMap, body: Bytes, peer: Peer) -> Response {
    match AssertUnwindSafe(quick::answer(app, place, headers, body, peer)).catch_unwind().await {
        Ok(Some(response)) => response,
        Ok(None) | Err(_) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

struct Lane<S> {
    stream: S,
    /// What was read and not answered.
    held: BytesMut,
    out: Vec<u8>,
    date: Date,
}

impl<S: Stream> Lane<S> {
    /// Reads what there is, or waits for it. The timer is armed once and looked at when it rings.
    async fn hear<F: Future<Output = ()>>(&mut self, mut sleep: Pin<&mut Sleep>, until: Instant, mut called: Option<Pin<&mut F>>) -> Heard {
        if self.held.capacity() - self.held.len() < ROOM / 4 {
            self.held.reserve(ROOM);
        }
        std::future::poll_fn(|cx| {
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.held) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(Heard::More),
                Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Heard::Ended),
                Poll::Pending => {}
            }
            if called.as_mut().is_some_and(|called| called.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Heard::Called);
            }
            if sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            while sleep.as_mut().poll(cx).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(Heard::Silence);
                }
                sleep.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }

    /// A document's whole answer, the same octets for everybody.
    fn document(&mut self, app: &App, place: Place, last: bool) -> Option<Bytes> {
        self.out.clear();
        let now = app.clock.now();
        quick::whole(app, place, now, last, || dated(now))
    }

    async fn send(&mut self, app: &App, response: Response, last: bool) -> bool {
        let (parts, mut body) = response.into_parts();
        let mut octets = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => return false,
            None => Bytes::new(),
        };
        if !body.is_end_stream() {
            // None of these endpoints gives its answer in pieces.
            let Ok(rest) = body.collect().await else { return false };
            octets = [octets, rest.to_bytes()].concat().into();
        }
        self.out.clear();
        wire::head(&mut self.out, parts.status, &parts.headers, octets.len());
        self.finish_head(app, last);
        self.write(octets).await
    }

    fn finish_head(&mut self, app: &App, last: bool) {
        if last {
            self.out.extend_from_slice(b"connection: close\r\n");
        }
        self.out.extend_from_slice(b"date: ");
        self.out.extend_from_slice(self.date.at(app.clock.now()));
        self.out.extend_from_slice(b"\r\n\r\n");
    }

    /// One write, if the other end takes it.
    async fn write(&mut self, body: Bytes) -> bool {
        let written = async {
            if self.out.is_empty() {
                self.stream.write_all(&body).await?;
            } else if body.len() <= SMALL {
                self.out.extend_from_slice(&body);
                self.stream.write_all(&self.out).await?;
            } else {
                self.stream.write_all_buf(&mut self.out.as_slice().chain(body)).await?;
            }
            self.stream.flush().await
        };
        // Who asks and does not read holds no place by it.
        matches!(timeout(UNREAD, written).await, Ok(Ok(())))
    }
}

/// `Date` (RFC 9110 §6.6.1), written anew when the second changes.
#[derive(Default)]
struct Date {
    second: i64,
    text: String,
}

impl Date {
    fn at(&mut self, now: i64) -> &[u8] {
        if self.second != now || self.text.is_empty() {
            self.text = dated(now);
            self.second = now;
        }
        self.text.as_bytes()
    }
}

fn dated(now: i64) -> String {
    HttpDate::from(UNIX_EPOCH + Duration::from_secs(u64::try_from(now).unwrap_or_default())).to_string()
}

#[cfg(test)]
mod tests {
    use std::{io, task::Context};

    use gateway::Places;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;

    /// A peer that said all it has to say and reads nothing: last words never get through.
    struct Deaf;
    impl AsyncRead for Deaf {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_cannot_keep_its_connection_from_ending() {
        let (stop, leaving, seat) = (CancellationToken::new(), Leaving::default(), Seat::new(&Places::new("test", 1, 0)));
        let choose: Choose = Arc::new(|| None);
        let served = serve(Deaf, ([192, 0, 2, 1], 9).into(), (&stop, &leaving, &seat), &choose);
        assert!(timeout(FAREWELL * 20, served).await.expect("it ends").is_none());
    }
}
