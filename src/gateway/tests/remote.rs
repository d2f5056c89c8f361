//! A gateway process of its own: metadata, keys, feed and introspection over HTTP.
use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokens::secret::Plain;

use super::*;
use crate::{
    credentials::{Credentials, Proves},
    remote::{Config, Remote},
};

/// An authorization server in a few lines: its feed is what is sent into `feed`.
struct Server {
    at: SocketAddr,
    keys: String,
    feed: tokio::sync::broadcast::Sender<String>,
    after: Mutex<Vec<Option<String>>>,
    active: AtomicBool,
    asked: AtomicUsize,
    up: AtomicBool,
}

impl Server {
    async fn start(key: &SigningKey) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Arc::new(Self {
            at: listener.local_addr().unwrap(),
            keys: json!({"keys": [key.jwk()]}).to_string(),
            feed: tokio::sync::broadcast::channel(64).0,
            after: Mutex::default(),
            active: AtomicBool::new(true),
            asked: AtomicUsize::new(0),
            up: AtomicBool::new(true),
        });
        let own = Arc::clone(&this);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = Arc::clone(&own);
                let service = service_fn(move |request| Arc::clone(&own).answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        this
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.at)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let whole = |text: String| Response::new(Full::new(Bytes::from(text)).boxed());
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let issuer = self.issuer();
        if !self.up.load(Ordering::SeqCst) {
            return Ok(Response::builder().status(503).body(Full::default().boxed()).unwrap());
        }
        Ok(match request.uri().path() {
            "/.well-known/openid-configuration" => whole(
                json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "token_endpoint": format!("{issuer}/token"), "introspection_endpoint": format!("{issuer}/introspect")})
                    .to_string(),
            ),
            "/jwks" => whole(self.keys.clone()),
            "/token" => {
                assert_eq!(authorization, "Basic Z3c6c2UlM0FjcmV0");
                whole(json!({"access_token": "own", "token_type": "Bearer", "expires_in": 300}).to_string())
            }
            "/introspect" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                assert!(authorization.starts_with("Basic "));
                whole(json!({"active": self.active.load(Ordering::SeqCst), "exp": NOW + 300, "aud": AUDIENCE, "scope": "read", "client_id": "web"}).to_string())
            }
            "/feed" => {
                assert_eq!(authorization, "Bearer own");
                self.after.lock().push(request.uri().query().map(str::to_owned));
                let heard = self.feed.subscribe();
                let frames = futures_util::stream::unfold(heard, |mut heard| async {
                    let text = heard.recv().await.ok().filter(|t| t != "end")?;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), heard))
                });
                Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(frames.boxed())))))
            }
            other => panic!("{other}"),
        })
    }

    fn tell(&self, name: &str, data: &Value) {
        let _ = self.feed.send(format!("event: {name}\ndata: {data}\n\n"));
    }
}

/// A stream that may be shared between threads.
struct SyncStream<S>(Mutex<S>);

impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().poll_next_unpin(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_its_own_follows_the_feed_and_asks_when_it_is_stale() {
    let rig = Rig::start().await;
    let server = Server::start(&rig.key).await;
    let remote = Remote::new(Config {
        issuer: server.issuer(),
        credentials: Credentials { client_id: "gw".into(), proves: Proves::Basic(Plain::new("se:cret")) },
        signed_introspection: false,
        entropy: Arc::new(Counting(AtomicU64::new(1))),
        tls: outbound::client_config(&[]).unwrap(),
        clock: Arc::clone(&rig.clock) as _,
    })
    .unwrap();
    let (gateway, at) = rig.remote(remote.own(), &server.issuer());
    tokio::spawn(Arc::clone(&remote).follow(gateway, rig.shutdown.clone()));
    let issuer = server.issuer();
    let token = |jti: &'static str| {
        let claims = AccessTokenClaims {
            iss: &issuer,
            sub: "alice",
            aud: AUDIENCE,
            client_id: "web",
            iat: NOW,
            exp: NOW + 300,
            jti,
            scope: "read",
            ..AccessTokenClaims::default()
        };
        rig.key.sign_jwt("at+jwt", &claims).unwrap()
    };
    let get = async |token: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET /api/x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        status(&read_all(&mut stream, Duration::from_secs(3)).await.0)
    };
    let until = async |n: usize| {
        while server.after.lock().len() < n || server.feed.receiver_count() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), until(1)).await.unwrap();
    let (one, two) = (token("r1"), token("r2"));
    assert_eq!((get(&one).await, server.asked.load(Ordering::SeqCst)), (200, 1), "nothing heard yet: asked");
    server.tell("snapshot", &json!({"head": 7, "at_ms": NOW * 1000, "revocations": []}));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((get(&two).await, server.asked.load(Ordering::SeqCst)), (200, 1), "fresh: not asked");
    server.tell("revocation", &json!({"kind": "token", "id": "r2", "seq": 9, "at_ms": NOW * 1000, "expires_at": NOW + 300}));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(&two).await, 401, "revoked by the feed");
    // Broken off, maybe in the middle of a position: joined anew from the beginning.
    let _ = server.feed.send("end".into());
    timeout(Duration::from_secs(5), until(2)).await.unwrap();
    assert_eq!(*server.after.lock(), [None, None]);
    rig.clock.0.fetch_add(5_001, Ordering::SeqCst);
    assert_eq!((get(&one).await, server.asked.load(Ordering::SeqCst)), (200, 2), "stale: asked");
    server.active.store(false, Ordering::SeqCst);
    rig.clock.0.fetch_add(1_001, Ordering::SeqCst);
    assert_eq!(get(&one).await, 401);
    server.up.store(false, Ordering::SeqCst);
    assert_eq!(get(&token("r3")).await, 503, "stale and nobody answers");
}
