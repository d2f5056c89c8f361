//! The accept loop of every listener: plain or TLS, HTTP/1.1 or HTTP/2, bounded in time, size and number, drained on shutdown.
mod framed;
mod head;
mod leaving;
mod quick;
mod rewound;
mod seat;
mod timed;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use edge::host::Host;
use gateway::{Arrivals, Guest as _, Places};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use web::app::PeerCertificate;

pub use self::leaving::Leaving;
pub use self::seat::Bounds;
pub use self::timed::{BODY_IDLE, BodyStoodStill, Timed};
use self::{
    framed::{Answering, Framed, Told},
    rewound::Rewound,
    seat::{Busy, Seat, Unread},
    timed::LeftOver,
};
use crate::tls::{Shown, Tls};

/// How long a TLS handshake or a request head may take.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that was taken in at the last moment may take for its first octets.
const FIRST_WORDS: Duration = Duration::from_millis(300);
/// How long a connection may take to end whose place is needed.
const FAREWELL: Duration = Duration::from_secs(1);
/// The longest request target.
pub const MAX_URI: usize = 8 * 1024;
/// The largest request head: the longest target and 32 KiB of fields.
const MAX_HEAD: usize = 48 * 1024;

/// A bound socket with its place in the process.
pub struct Listener {
    /// What it is called in logs and metrics.
    pub name: &'static str,
    /// Where it really listens.
    pub at: SocketAddr,
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    places: Arc<Places>,
    bounds: Bounds,
}

/// Binds an address. Must be called within a runtime.
///
/// # Errors
/// The address is taken or may not be used.
pub fn bind(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(4096)?.into_std()
}

/// What ends all listeners: first no more connections, then no more requests, then the rest is cut.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Says that the process is about to leave, while it still serves everything.
    pub leaving: Leaving,
    /// Stops accepting and asks open connections to finish what they are answering.
    pub stop: CancellationToken,
    /// Cuts what is still open.
    pub cut: CancellationToken,
    /// Counts the open connections.
    pub open: TaskTracker,
}

impl Shutdown {
    /// Stops, waits for at most `patience`, then cuts the rest.
    pub async fn drain(&self, patience: Duration) {
        self.stop.cancel();
        self.open.close();
        if timeout(patience, self.open.wait()).await.is_err() {
            tracing::warn!(connections = self.open.len(), "cutting connections that did not finish in time");
            self.cut.cancel();
            let _ = timeout(Duration::from_millis(200), self.open.wait()).await;
        }
    }
}

/// An accepted connection whose bytes can be read.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// The address is taken or may not be used.
    pub fn bind(name: &'static str, at: SocketAddr, tls: Option<Arc<Tls>>, bounds: Bounds) -> io::Result<Self> {
        let socket = TcpListener::from_std(bind(at)?)?;
        let at = socket.local_addr()?;
        Ok(Self { name, at, socket, tls, places: bounds.places(name), bounds })
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub const fn encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts until told to stop; each connection runs `serve` on a task of its own.
    pub async fn accept<F, Fut>(self, shutdown: Shutdown, serve: F)
    where
        F: Fn(Accepted) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let open = metrics::gauge!("connections_open", "listener" => self.name);
        // A stop waits for this, too: whoever is taken in last is not forgotten.
        let _taking = shutdown.open.token();
        let mut arrivals = Arrivals::new(self.socket);
        loop {
            let Some(accepted) = arrivals.next(&shutdown.stop).await else { return };
            let (socket, peer) = match accepted {
                // On a listener of both families an IPv4 client has an IPv6 address made of its own.
                Ok((socket, peer)) => (socket, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
                Err(error) => {
                    // Out of descriptors or a connection that is gone already: neither is a reason to stop listening.
                    tracing::warn!(listener = self.name, %error, "a connection could not be accepted");
                    Places::relieve();
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let _ = socket.set_nodelay(true);
            let seat = Seat::new(&self.places);
            // Those beyond this one wait in the backlog.
            let place = tokio::select! {
                biased;
                place = seat.sit(self.bounds.source(peer)) => place,
                () = shutdown.stop.cancelled() => return,
            };
            let Some(place) = place else {
                seat::refuse(&socket, self.tls.is_some());
                continue;
            };
            let (tls, serve, cut, open, name) = (self.tls.clone(), serve.clone(), shutdown.cut.clone(), open.clone(), self.name);
            let (stop, leaving) = (shutdown.stop.clone(), shutdown.leaving.clone());
            shutdown.open.spawn(async move {
                open.increment(1.0);
                let connection = async {
                    if let Some(accepted) = Accepted::open(socket, peer, tls.as_ref(), (stop, leaving, seat), name).await {
                        serve(accepted).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = cut.cancelled() => {}
                    () = connection => {}
                }
                open.decrement(1.0);
                drop(place);
            });
        }
    }
}

/// The bytes of an accepted connection.
pub enum Wire {
    /// Plain TCP.
    Plain(Rewound<TcpStream>),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// A connection after its TLS handshake, before its first request.
pub struct Accepted {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Its bytes.
    pub wire: Wire,
    /// The client certificate its handshake proved. What it counts for is asked with every request.
    pub certificate: Option<Shown>,
    /// Whether it speaks HTTP/2 (by ALPN, or by prior knowledge).
    pub http2: bool,
    /// Cancelled when the connection shall finish what it is answering and close.
    pub stop: CancellationToken,
    /// Whether the process has said that it will leave.
    pub leaving: Leaving,
    seat: Arc<Seat>,
}

impl Accepted {
    async fn open(
        socket: TcpStream,
        peer: SocketAddr,
        tls: Option<&Arc<Tls>>,
        (stop, leaving, seat): (CancellationToken, Leaving, Arc<Seat>),
        name: &'static str,
    ) -> Option<Self> {
        let Some(tls) = tls else {
            let stopped = async {
                stop.cancelled().await;
                Box::pin(sleep(FIRST_WORDS)).await;
            };
            let (stream, http2) = tokio::select! {
                () = stopped => return None,
                () = seat.asked() => return None,
                seen = timeout(HEAD_TIMEOUT, Rewound::sniff(socket)) => seen.ok()?.ok()?,
            };
            return Some(Self { peer, wire: Wire::Plain(stream), certificate: None, http2, stop, leaving, seat });
        };
        let shaken = tokio::select! {
            () = seat.asked() => return None,
            shaken = timeout(HEAD_TIMEOUT, tls.acceptor().accept(socket)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let http2 = session.alpn_protocol() == Some(b"h2");
                let certificate = session.peer_certificates().map(|chain| tls.shown(chain.to_vec()));
                if let Some(shown) = &certificate {
                    shown.settle().await;
                }
                Some(Self { peer, wire: Wire::Tls(Box::new(stream)), certificate, http2, stop, leaving, seat })
            }
            Ok(Err(error)) => {
                tracing::debug!(listener = name, %peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }
}

pub use self::quick::Choose;

/// Serves the authorization server on a connection: plain requests for what is asked most in a lane of their own, everything else as
/// [`serve_http`] does.
pub async fn serve_quick<F, Fut, B>(accepted: Accepted, choose: Choose, answer: F)
where
    F: Fn(Request<Timed>, SocketAddr) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if accepted.http2 || accepted.certificate.is_some() {
        return serve_http(accepted, answer).await;
    }
    let Accepted { peer, wire, stop, leaving, seat, .. } = accepted;
    match wire {
        Wire::Plain(stream) => {
            if let Some((stream, held)) = quick::serve(stream, peer, (&stop, &leaving, &seat), &choose).await {
                serve_stream(Rewound::again(stream, held.into()), peer, false, (stop, leaving, seat), answer).await;
            }
        }
        Wire::Tls(stream) => {
            if let Some((stream, held)) = quick::serve(*stream, peer, (&stop, &leaving, &seat), &choose).await {
                serve_stream(Rewound::again(stream, held.into()), peer, false, (stop, leaving, seat), answer).await;
            }
        }
    }
}

/// Serves one of our own HTTP surfaces on a connection.
pub async fn serve_http<F, Fut, B>(accepted: Accepted, answer: F)
where
    F: Fn(Request<Timed>, SocketAddr) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { peer, wire, certificate, http2, stop, leaving, seat } = accepted;
    let certificate = certificate.map(Arc::new);
    let answer = move |mut request: Request<Timed>, peer| {
        if let Some(certificate) = certificate.as_ref().and_then(|shown| shown.certificate().ok()) {
            request.extensions_mut().insert(PeerCertificate(certificate));
        }
        answer(request, peer)
    };
    match wire {
        Wire::Plain(stream) => serve_stream(stream, peer, http2, (stop, leaving, seat), answer).await,
        Wire::Tls(stream) => serve_stream(*stream, peer, http2, (stop, leaving, seat), answer).await,
    }
}

async fn serve_stream<S, F, Fut, B>(
    stream: S,
    peer: SocketAddr,
    is_http2: bool,
    (stop, leaving, seat): (CancellationToken, Leaving, Arc<Seat>),
    answer: F,
) where
    S: Stream,
    F: Fn(Request<Timed>, SocketAddr) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let told = Arc::new(Told::default());
    let heard = (!is_http2).then(|| told.clone());
    let (sitting, left) = (Arc::clone(&seat), leaving.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = sitting.begin();
        let (answer, left) = (answer.clone(), left.clone());
        let refused = heard.as_ref().and_then(|told| told.begin()).and_then(|status| StatusCode::from_u16(status).ok());
        let left_over = Arc::new(LeftOver::of(&request));
        let answering = heard.as_ref().map(Told::answering);
        let budget = Arc::clone(sitting.unfinished());
        async move {
            let response = if let Some(status) = refused {
                Err(status)
            } else if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_URI) {
                Err(StatusCode::URI_TOO_LONG)
            } else if !names_a_host(&request) {
                Err(StatusCode::BAD_REQUEST)
            } else {
                Ok(answer(request.map(|body| Timed::new(body, left_over.clone(), budget)), peer).await)
            };
            let mut response = match response {
                Ok(response) => response.map(|body| {
                    // A peer that opens no window for its answers (RFC 9113 §5.2) holds no place by them.
                    let unread = is_http2.then(|| busy.answered());
                    Reply::Body(body, unread, (busy, answering))
                }),
                Err(status) => refusal(status),
            };
            // What was not read is in the way of the next request, or this process leaves: the client is told that none can come here.
            let unread = !is_http2 && left_over.is_there();
            if !is_http2 && (left.told() || unread && !Box::pin(left_over.clear()).await) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(40 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            () = leaving.said_from_now_on() => connection.as_mut().graceful_shutdown(),
            () = seat.asked() => {
                connection.as_mut().graceful_shutdown();
                // What came in this very moment is served to its end.
                while timeout(FAREWELL, connection.as_mut()).await.is_err() && seat.idle_since().is_none() {}
                return;
            }
        }
        let _ = connection.await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Framed::new(stream, told).counting_with(seat.unfinished())), service);
        tokio::pin!(connection);
        tokio::select! {
            // First of all what has come already: a request that is here is answered.
            biased;
            _ = connection.as_mut() => return,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            () = seat.asked() => {
                connection.as_mut().graceful_shutdown();
                // What came in this very moment is served to its end.
                while timeout(FAREWELL, connection.as_mut()).await.is_err() && seat.idle_since().is_none() {}
                return;
            }
        }
        let _ = connection.await;
    }
}

/// Whether the host that a request names is one, as its field and as its target (RFC 9112 §3.2); in HTTP/2 one of them is enough.
fn names_a_host<B>(request: &Request<B>) -> bool {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let authority = request.uri().authority().map(|named| named.as_str().as_bytes());
    fields.all(|named| Host::parse(named.as_bytes()).is_ok()) && authority.is_none_or(|named| Host::parse(named).is_ok())
}

/// A problem document (RFC 9457) for what never reaches a handler.
fn refusal<B>(status: StatusCode) -> Response<Reply<B>> {
    let title = status.canonical_reason().unwrap_or("Refused");
    let text = format!(r#"{{"type":"about:blank","title":"{title}","status":{}}}"#, status.as_u16());
    let mut response = Response::new(Reply::Refusal(Some(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in web::reply::ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// An answer's body, or that of a refusal.
enum Reply<B> {
    /// With what keeps its connection in use.
    Body(B, Option<Unread>, #[expect(dead_code, reason = "count by being there")] (Busy, Option<Answering>)),
    Refusal(Option<Bytes>),
}

impl<B: Body<Data = Bytes> + Unpin> Body for Reply<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.get_mut() {
            Self::Body(body, unread, _) => {
                drop(unread.take());
                Pin::new(body).poll_frame(cx)
            }
            Self::Refusal(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Body(body, ..) => body.is_end_stream(),
            Self::Refusal(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Body(body, ..) => body.size_hint(),
            Self::Refusal(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}
