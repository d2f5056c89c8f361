//! Accepting connections: threads that share a listener and nothing else; HTTP/1.1, prior-knowledge HTTP/2, TLS with ALPN.
use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokens::certificate::{Certificate, Doubt};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::Notify,
    task::LocalSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    arrivals::Arrivals,
    body::AnswerBody,
    decide::decide,
    framed::{Framed, HEAD_TIME, Shared},
    heads::Heads,
    hop::{Conn, hop},
    lent::{Home, Lent},
    places::{Guest as _, Place, Places},
    pool::{Here, SEND_BUFFER},
    worker::Worker,
};

/// How long open requests may take to end when the server does.
const DRAIN: Duration = Duration::from_secs(8);
/// How long a connection that was taken in at the last moment may take for its first octets.
const FIRST_WORDS: Duration = Duration::from_millis(300);
/// How long a parked connection's end may take.
const FAREWELL: Duration = Duration::from_secs(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who the client of an open connection is now, by its certificate: asked with every request that needs it, and while something is open.
pub type Standing = Arc<dyn Fn() -> Result<Certificate, Doubt> + Send + Sync>;
/// Takes the chain of certificates of a connection, leaf first, resumed ones included.
pub type Judge = Arc<dyn Fn(Vec<CertificateDer<'static>>) -> Judged + Send + Sync>;

/// A chain that is being judged.
pub struct Judged {
    /// What it counts for, at any time.
    pub standing: Standing,
    /// Ready once somebody was asked about it, where that has to be; until then it may not be known whether it counts.
    pub settled: BoxFuture<'static, ()>,
}

impl Judged {
    /// What it counts for, once that is known.
    pub async fn settle(self) -> Standing {
        self.settled.await;
        self.standing
    }
}

/// TLS of the listener.
#[derive(Clone)]
pub struct Encryption {
    /// How to shake hands.
    pub config: Arc<rustls::ServerConfig>,
    /// What the certificate of a client counts for.
    pub judge: Judge,
}

type Acceptor = (TlsAcceptor, Judge);

impl Gateway {
    /// Serves a listener on `threads` threads until `shutdown`, then drains for at most 8 s. Call it from within a
    /// runtime; it also keeps the keys of trusted issuers fresh.
    ///
    /// # Errors
    /// If the listener cannot be shared or a thread cannot be started.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Option<Encryption>,
        threads: usize,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        if let Some(encryption) = &tls {
            let _ = self.judge.set(Arc::clone(&encryption.judge));
        }
        let tls = tls.map(acceptor);
        let fronts = self.deciding.lock().take().map(|(fronts, tls)| fronts.set_nonblocking(true).map(|()| (fronts, tls.map(acceptor))));
        let fronts = fronts.transpose()?;
        let renewing = tokio::spawn(Arc::clone(self).renew_keys(shutdown.clone()));
        let watching = tokio::spawn(Arc::clone(self).watch_upstreams(shutdown.clone()));
        let mut running = Vec::new();
        for n in 0..threads.max(1) {
            let (gateway, listener, tls, shutdown) = (Arc::clone(self), listener.try_clone()?, tls.clone(), shutdown.clone());
            let fronts = fronts.as_ref().map(|(fronts, tls)| fronts.try_clone().map(|fronts| (fronts, tls.clone()))).transpose()?;
            let (done, ended) = tokio::sync::oneshot::channel();
            std::thread::Builder::new().name(format!("gateway-{n}")).spawn(move || {
                let _ = done.send(run(&gateway, (listener, tls), fronts, shutdown));
            })?;
            running.push(ended);
        }
        drop(listener);
        for ended in running {
            ended.await.map_err(|_| io::Error::other("a gateway thread ended unexpectedly"))??;
        }
        renewing.abort();
        watching.abort();
        Ok(())
    }

    /// Fetches the keys of trusted issuers before anybody asks, and again before they grow old.
    async fn renew_keys(self: Arc<Self>, shutdown: CancellationToken) {
        use crate::source::KeySource;
        loop {
            let table = self.parts().table.load_full();
            for trusted in table.issuers() {
                let keys = self.foreign_keys(trusted);
                if keys.due() {
                    keys.refresh().await;
                }
            }
            let pause = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                () = pause => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// A listener before its thread's runtime knows it.
type Socket = (TcpListener, Option<Acceptor>);

fn acceptor(encryption: Encryption) -> Acceptor {
    let mut config = rustls::ServerConfig::clone(&encryption.config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), encryption.judge)
}

/// Whose requests a listener takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The proxy's clients'.
    Clients,
    /// Other gateways', which ask what to do with theirs.
    Fronts,
}

fn run(gateway: &Arc<Gateway>, (listener, tls): Socket, fronts: Option<Socket>, shutdown: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let worker = Worker::new(gateway, shutdown);
        let wake = Arc::new(Notify::new());
        gateway.wakes.lock().push(Arc::clone(&wake));
        let tending = tokio::task::spawn_local(Rc::clone(&worker).tend(Arc::clone(&wake)));
        let hearing = tokio::task::spawn_local(Rc::clone(&worker).hear_of_leaving());
        let listener = tokio::net::TcpListener::from_std(listener)?;
        if let Some((fronts, tls)) = fronts {
            let (fronts, worker) = (tokio::net::TcpListener::from_std(fronts)?, Rc::clone(&worker));
            tokio::task::spawn_local(async move { accept(&worker, fronts, tls, Door::Fronts).await });
        }
        accept(&worker, listener, tls, Door::Clients).await;
        drain(&worker).await;
        tending.abort();
        hearing.abort();
        gateway.wakes.lock().retain(|other| !Arc::ptr_eq(other, &wake));
        worker.finish();
        Ok(())
    })
}

async fn accept(worker: &Rc<Worker>, listener: tokio::net::TcpListener, tls: Option<Acceptor>, door: Door) {
    // Strangers at the one door take no place from the fronts at the other.
    let room = match door {
        Door::Clients => &worker.gateway.room,
        Door::Fronts => &worker.gateway.fronts_room,
    };
    let mut arrivals = Arrivals::new(listener);
    loop {
        let Some(accepted) = arrivals.next(&worker.shutdown).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                // On a listener of both families an IPv4 client has an IPv6 address made of its own.
                let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
                let (peer, local) = (canonical(peer), stream.local_addr().ok().map(canonical));
                let _ = stream.set_nodelay(true);
                let seat = Arc::new(Shared::default());
                seat.touch(room.turn());
                seat.counts_with(room.unfinished());
                let source = (!worker.gateway.trusted_peer(peer.ip())).then(|| peer.ip());
                // No more are taken in than may be open; those beyond this one wait in the backlog.
                let place = tokio::select! {
                    biased;
                    place = room.enter(source, Arc::clone(&seat) as _) => place,
                    () = worker.shutdown.cancelled() => return,
                };
                let Ok(place) = place else {
                    refuse(&stream, tls.is_some());
                    continue;
                };
                let (worker, tls) = (Rc::clone(worker), tls.clone());
                tokio::task::spawn_local(async move {
                    let room = Arc::new(place);
                    let Some((tls, judge)) = tls else {
                        let opened = Opened { door, peer, local, tls: false, http2: None, certificate: None, room, seat };
                        return connection(&worker, stream, opened).await;
                    };
                    let handshake = async {
                        let stream = tls.accept(stream).await?;
                        let session = stream.get_ref().1;
                        let http2 = Some(session.alpn_protocol() == Some(b"h2"));
                        let certificate = match session.peer_certificates().map(<[_]>::to_vec) {
                            Some(chain) => Some(judge(chain).settle().await),
                            None => None,
                        };
                        Ok::<_, io::Error>((stream, http2, certificate))
                    };
                    // What a handshake takes is not kept for the life of the connection.
                    let shaken = tokio::select! {
                        shaken = Box::pin(tokio::time::timeout(HEAD_TIME, handshake)) => shaken,
                        () = seat.asked_to_end() => return,
                    };
                    if let Ok(Ok((stream, http2, certificate))) = shaken {
                        // Boxed: what serves it is moved from hand to hand.
                        connection(&worker, Box::new(stream), Opened { door, peer, local, tls: true, http2, certificate, room, seat })
                            .await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(target: "gateway", %error, "connection not accepted");
                Places::relieve();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Tells a source that holds too many connections so, if that can be told without waiting.
fn refuse(stream: &tokio::net::TcpStream, tls: bool) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    if !tls {
        let _ = stream.try_write(BUSY);
    }
}

async fn drain(worker: &Rc<Worker>) {
    // Those that were taken in at the last moment come to be counted.
    tokio::time::sleep(Duration::from_millis(20)).await;
    worker.close_idle();
    let until = tokio::time::Instant::now() + DRAIN;
    while worker.open() > 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
        worker.close_idle();
    }
}

/// A connection before its first request.
struct Opened {
    door: Door,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    tls: bool,
    /// What ALPN chose; `None` lets the first octets say.
    http2: Option<bool>,
    certificate: Option<Standing>,
    room: Arc<Place>,
    seat: Arc<Shared>,
}

/// Serves one connection.
async fn connection<T>(worker: &Rc<Worker>, mut io: T, opened: Opened)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Opened { door, peer, local, tls, http2, certificate, room, seat: shared } = opened;
    let _entered = worker.enter(&shared);
    let mut first = Vec::new();
    let http2 = match http2 {
        Some(chosen) => chosen,
        None => {
            let seen = tokio::select! {
                seen = tokio::time::timeout(HEAD_TIME, sniff(&mut io, &mut first, &worker.shutdown)) => seen,
                () = shared.asked_to_end() => return,
            };
            match seen {
                Ok(Ok(http2)) => http2,
                _ => return,
            }
        }
    };
    let trusted = worker.gateway.trusted_peer(peer.ip());
    let conn =
        Rc::new(Conn { peer, local, tls, trusted, certificate, shared: (!http2).then(|| Arc::clone(&shared)), seat: Arc::clone(&shared) });
    let service = || {
        let (worker, conn) = (Rc::clone(worker), Rc::clone(&conn));
        service_fn(move |request: Request<Incoming>| match door {
            Door::Clients => Either::Left(hop(Rc::clone(&worker), Rc::clone(&conn), request)),
            Door::Fronts => Either::Right(Box::pin(decide(Rc::clone(&worker), Rc::clone(&conn), request))),
        })
    };
    if http2 {
        return Box::pin(http2_connection(worker, Rewound { io, first, at: 0 }, service(), &shared)).await;
    }
    let home: Home<T> = Arc::default();
    loop {
        let framed = Framed::new(Lent::new(io, Arc::clone(&home), Arc::clone(&room)), first, Arc::clone(&shared));
        let served = http1::Builder::new().max_buf_size(64 * 1024).serve_connection(TokioIo::new(framed), service()).with_upgrades();
        // What it takes to parse and serve is let go with it when the connection is parked.
        if let Err(error) = Box::pin(served).await {
            // What of an answer was not sent is lost: nothing may come after it.
            return tracing::debug!(target: "gateway", %error, "connection ended");
        }
        let back = home.lock().take();
        let Some(mut parked) = back.filter(|_| shared.unpark()) else { return };
        let Some(octets) = shared.asleep(&mut parked).await else {
            let _ = tokio::time::timeout(FAREWELL, parked.shutdown()).await;
            return;
        };
        (io, first) = (parked, octets);
    }
}

/// Serves one HTTP/2 connection.
async fn http2_connection<T, S>(worker: &Worker, io: Rewound<T>, service: S, seat: &Shared)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible>,
    S::Future: 'static,
{
    let served = http2::Builder::new(Here)
        .timer(TokioTimer::new())
        .max_header_list_size(40 * 1024)
        .max_concurrent_streams(256)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .initial_stream_window_size(1 << 18)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .serve_connection(TokioIo::new(Heads::new(io, HEAD_TIME)), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        () = worker.shutdown.cancelled() => served.as_mut().graceful_shutdown(),
        // Whoever comes after the word was given is served until the end.
        () = worker.gateway.parts().settings.leaving.cancelled(), if !worker.leaving.get() => served.as_mut().graceful_shutdown(),
        () = seat.evicted() => {
            served.as_mut().graceful_shutdown();
            // A peer that does not answer holds no place by that; what came in this very moment is served to its end.
            while tokio::time::timeout(FAREWELL, served.as_mut()).await.is_err() && seat.idle_since().is_none() {}
            return;
        }
    }
    let _ = served.await;
}

/// Reads until it is clear whether this is HTTP/2 by prior knowledge (RFC 9113 §3.3).
async fn sniff(io: &mut (impl AsyncRead + Unpin), first: &mut Vec<u8>, shutdown: &CancellationToken) -> io::Result<bool> {
    loop {
        // The room to read into is the stack's: a task has it for all its life.
        let more = std::future::poll_fn(|cx| {
            let mut octets = [0; 4096];
            let mut into = ReadBuf::new(&mut octets);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut into))?;
            first.extend_from_slice(into.filled());
            Poll::Ready(io::Result::Ok(into.filled().len()))
        });
        let stopped = async {
            shutdown.cancelled().await;
            Box::pin(tokio::time::sleep(FIRST_WORDS)).await;
        };
        let n = tokio::select! {
            biased;
            n = more => n?,
            () = stopped => 0,
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first.starts_with(PREFACE) {
            return Ok(true);
        }
        if !PREFACE.starts_with(first) {
            return Ok(false);
        }
    }
}

/// A connection whose first octets have been read already.
struct Rewound<T> {
    io: T,
    first: Vec<u8>,
    at: usize,
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.first.get(self.at..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(left.get(..n).unwrap_or_default());
        self.at += n;
        if self.at == self.first.len() {
            (self.first, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what an asynchronous function of a connection makes.
    fn size<'a, T, F: Future>(_: impl FnOnce(&'a Rc<Worker>, T, Opened) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_holds_no_buffer_in_its_task() {
        let (plain, tls) =
            (size(connection::<tokio::net::TcpStream>), size(connection::<Box<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>>));
        assert!(plain <= 1536 && tls <= 1536, "plain {plain}, TLS {tls}");
    }
}
