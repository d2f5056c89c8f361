//! The gateway against a raw upstream over real sockets: what a client sends octet by octet, what the upstream really sees.
mod bodies;
mod issuers;
mod keys;
mod late;
mod open;
mod parked;
mod proxies;
mod remote;
mod upgrades;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use edge::{Quota, Route, RouteTable, Verdict, gcra};
use ledger::{Committed, Listener, Revocation, RevocationKind, RevocationSet};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokens::{Alg, Clock, Entropy, access::AccessTokenClaims, jwk::VerifyingKey, sign::SigningKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use outbound::Outbound;

use crate::{Gateway, Introspect, IntrospectError, Introspection, KeySource, Own, Parts, Settings};

const ISSUER: &str = "http://127.0.0.1:1";
const AUDIENCE: &str = "https://api.example.com";
const NOW: i64 = 1_800_000_000;

struct Wall(AtomicI64);
impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Counting(AtomicU64);
impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.fill_with(|| self.0.fetch_add(0x9e37_79b9, Ordering::Relaxed).to_le_bytes()[1]);
    }
}

#[derive(Default)]
struct Buckets(Mutex<std::collections::HashMap<String, i64>>);
#[async_trait]
impl edge::Counters for Buckets {
    async fn hit(&self, key: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        gcra(self.0.lock().entry(key.to_owned()).or_default(), quota, now_ms, cost)
    }
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
        gcra(self.0.lock().entry(key.to_owned()).or_default(), quota, now_ms, 0)
    }
    async fn clear(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

struct OneKey(SigningKey);
#[async_trait]
impl KeySource for OneKey {
    fn find(&self, kid: Option<&str>, alg: Alg) -> Option<VerifyingKey> {
        (kid == Some(self.0.kid()) && alg == Alg::ES256).then(|| self.0.verifying())
    }
}

#[derive(Default)]
struct Asked {
    answer: Mutex<Option<Value>>,
    times: AtomicUsize,
}
#[async_trait]
impl Introspect for Asked {
    async fn introspect(&self, _: &str) -> Result<Introspection, IntrospectError> {
        self.times.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().clone();
        Introspection::from_value(answer.ok_or(IntrospectError::Unavailable)?)
    }
}

/// A raw server: keeps every octet it was sent, answers by path.
#[derive(Default)]
struct Upstream {
    seen: Mutex<Vec<u8>>,
    requests: AtomicUsize,
    ended: AtomicBool,
}

impl Upstream {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let this = Arc::new(Self::default());
        let own = Arc::clone(&this);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&own).connection(stream));
            }
        });
        (this, at)
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let mut pending: Vec<u8> = Vec::new();
        let mut octets = [0; 4096];
        loop {
            while let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&pending[..end]).to_lowercase();
                pending.drain(..end + 4);
                self.requests.fetch_add(1, Ordering::SeqCst);
                let length = head.split("content-length: ").nth(1).and_then(|l| l.split("\r\n").next()?.parse::<usize>().ok()).unwrap_or(0);
                let chunked = head.contains("transfer-encoding: chunked");
                let whole = |p: &[u8]| if chunked { p.windows(5).any(|w| w == b"0\r\n\r\n") } else { p.len() >= length };
                while !whole(&pending) {
                    let n = stream.read(&mut octets).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    self.seen.lock().extend_from_slice(&octets[..n]);
                    pending.extend_from_slice(&octets[..n]);
                }
                pending.clear();
                if chunked || length > 0 {
                    self.ended.store(true, Ordering::SeqCst);
                }
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                if !self.answer(&mut stream, &path).await {
                    return;
                }
            }
            let n = stream.read(&mut octets).await.unwrap_or(0);
            if n == 0 {
                return;
            }
            self.seen.lock().extend_from_slice(&octets[..n]);
            pending.extend_from_slice(&octets[..n]);
        }
    }

    async fn answer(&self, stream: &mut TcpStream, path: &str) -> bool {
        let fixed: &[u8] = match path.rsplit('/').next().unwrap_or_default() {
            "two-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "status-600" => b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
            "odd-encoding" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
            "bad-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "control" => b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
            "line-feed" => b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: x\r\nContent-Length: 2\r\n\r\nok",
            "switch" => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "large" => {
                let mut octets = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n".to_vec();
                octets.resize(octets.len() + 8_000_000, b'z');
                return stream.write_all(&octets).await.is_ok();
            }
            "drop" => {
                let _ = stream.shutdown().await;
                return false;
            }
            "ws" => {
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return false;
            }
            "stream" => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                    .await;
                let mut rest = [0; 16];
                let _ = stream.read(&mut rest).await;
                return false;
            }
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        };
        stream.write_all(fixed).await.is_ok()
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock()).into_owned()
    }
}

struct Rig {
    gateway: Arc<Gateway>,
    at: SocketAddr,
    upstream: Arc<Upstream>,
    key: SigningKey,
    revoked: Arc<RevocationSet>,
    clock: Arc<Wall>,
    fresh_at: Arc<AtomicI64>,
    asked: Arc<Asked>,
    shutdown: CancellationToken,
    inline: Value,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Rig {
    async fn start() -> Self {
        let (upstream, to) = Upstream::start().await;
        let inline = json!({"targets": [{"url": format!("http://{to}")}]});
        let auth = |freshness: &str| json!({"accept": ["jwt", "opaque"], "audience": AUDIENCE, "scopes": ["read"], "freshness": freshness});
        let routes: Vec<Route> = serde_json::from_value(json!([
            {"id": "api", "match": {"path_prefix": "/api/"}, "upstream": inline, "auth": auth("push")},
            {"id": "asked", "match": {"path_prefix": "/asked/"}, "upstream": inline, "auth": auth("introspect")},
            {"id": "off", "match": {"path_prefix": "/off/"}, "upstream": inline, "auth": auth("offline")},
            {"id": "maybe", "match": {"path_prefix": "/maybe/"}, "upstream": inline, "auth": {"accept": ["jwt", "none"], "audience": AUDIENCE}},
            {"id": "open", "match": {"path_prefix": "/public/"}, "upstream": inline, "public": true, "limits": {"body": 100}},
            {"id": "strip", "match": {"path_prefix": "/strip/", "methods": ["GET"]}, "upstream": inline, "public": true, "strip_prefix": true},
            {"id": "limited", "match": {"path_prefix": "/limited/"}, "upstream": inline, "public": true, "rate_limit": {"key": "ip", "rate": 2, "period": "60s"}},
            {"id": "closed", "match": {"path_prefix": "/closed/"}, "upstream": inline},
        ]))
        .unwrap();
        let table = RouteTable::build(&routes, &[], &[], ISSUER).unwrap();
        let key = SigningKey::generate(Alg::ES256).unwrap().0;
        let (revoked, clock) = (Arc::new(RevocationSet::new()), Arc::new(Wall(AtomicI64::new(NOW * 1000))));
        let (fresh_at, asked) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(Asked::default()));
        let fresh = Arc::clone(&fresh_at);
        let gateway = Gateway::new(Parts {
            devices: Arc::new(crate::devices::NoDevices),
            table: Arc::new(ArcSwap::from_pointee(table)),
            revoked: Arc::clone(&revoked),
            own: Own {
                issuer: ISSUER.into(),
                keys: Arc::new(OneKey(key.clone())),
                introspect: Arc::clone(&asked) as _,
                fresh_at_ms: Arc::new(move || fresh.load(Ordering::SeqCst)),
            },
            outbound: Arc::new(Outbound::new(&[], &[]).unwrap()),
            clock: Arc::clone(&clock) as _,
            entropy: Arc::new(Counting(AtomicU64::new(1))),
            counters: Arc::new(Buckets::default()),
            store: None,
            nonces: None,
            passed_on: None,
            observing: None,
            sessions: None,
            means: crate::told::Means::default(),
            settings: Settings::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = Arc::clone(&gateway);
        let stop = shutdown.clone();
        tokio::spawn(async move { serving.serve(listener, None, 2, stop).await });
        Self { gateway, at, upstream, key, revoked, clock, fresh_at, asked, shutdown, inline }
    }

    /// Another gateway over the same clock and upstream with another table.
    fn sibling(&self, outbound: Arc<Outbound>, table: impl FnOnce(Value) -> RouteTable) -> (Arc<Gateway>, SocketAddr) {
        let own = self.gateway.parts().own.clone();
        self.with(own, outbound, table(self.inline.clone()))
    }

    /// A gateway whose authorization server is elsewhere.
    fn remote(&self, own: Own, issuer: &str) -> (Arc<Gateway>, SocketAddr) {
        let auth = json!({"accept": ["jwt", "opaque"], "audience": AUDIENCE, "scopes": ["read"]});
        let route = json!({"id": "api", "match": {"path_prefix": "/api/"}, "upstream": self.inline, "auth": auth});
        let table = RouteTable::build(&[serde_json::from_value(route).unwrap()], &[], &[], issuer).unwrap();
        self.with(own, Arc::clone(&self.gateway.parts().outbound), table)
    }

    /// A gateway that holds so many connections.
    fn holding(&self, max_connections: usize) -> (Arc<Gateway>, SocketAddr) {
        let parts = self.gateway.parts();
        let settings = Settings { max_connections, ..Settings::default() };
        self.settled(parts.own.clone(), Arc::clone(&parts.outbound), Arc::clone(&parts.table), settings)
    }

    fn with(&self, own: Own, outbound: Arc<Outbound>, table: RouteTable) -> (Arc<Gateway>, SocketAddr) {
        self.settled(own, outbound, Arc::new(ArcSwap::from_pointee(table)), Settings::default())
    }

    fn settled(
        &self,
        own: Own,
        outbound: Arc<Outbound>,
        table: Arc<ArcSwap<RouteTable>>,
        settings: Settings,
    ) -> (Arc<Gateway>, SocketAddr) {
        let gateway = Gateway::new(Parts {
            devices: Arc::new(crate::devices::NoDevices),
            table,
            revoked: Arc::new(RevocationSet::new()),
            own,
            outbound,
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::new(Counting(AtomicU64::new(1))),
            counters: Arc::new(Buckets::default()),
            store: None,
            nonces: None,
            passed_on: None,
            observing: None,
            sessions: None,
            means: crate::told::Means::default(),
            settings,
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (serving, stop) = (Arc::clone(&gateway), self.shutdown.clone());
        tokio::spawn(async move { serving.serve(listener, None, 1, stop).await });
        (gateway, at)
    }

    fn token(&self, change: impl FnOnce(&mut AccessTokenClaims<'_>)) -> String {
        let mut claims = AccessTokenClaims {
            iss: ISSUER,
            sub: "alice",
            aud: AUDIENCE,
            client_id: "web",
            iat: NOW,
            exp: NOW + 300,
            jti: "t1",
            scope: "read",
            grant: Some("g1"),
            ..AccessTokenClaims::default()
        };
        change(&mut claims);
        self.key.sign_jwt("at+jwt", &claims).unwrap()
    }

    fn revoke(&self, kind: RevocationKind, id: &str) {
        let revocation = Revocation { kind, id: id.into(), seq: self.revoked.head() + 1, at_ms: NOW * 1000, expires_at: NOW + 9_999 };
        self.gateway.committed(&Committed { events: Vec::new(), head: revocation.seq, revocations: vec![revocation] });
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.unwrap()
    }

    /// Sends octets on a new connection and reads until the gateway closes or falls silent.
    async fn raw(&self, octets: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(octets.as_ref()).await.unwrap();
        read_all(&mut stream, Duration::from_millis(400)).await.0
    }

    async fn get(&self, path: &str, fields: &str) -> u16 {
        self.send("GET", path, fields).await.0
    }

    async fn send(&self, method: &str, path: &str, fields: &str) -> (u16, String) {
        let answer = self.raw(format!("{method} {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{fields}\r\n")).await;
        (status(&answer), answer)
    }

    async fn bearer(&self, path: &str, token: &str) -> u16 {
        self.get(path, &format!("Authorization: Bearer {token}\r\n")).await
    }
}

async fn read_all(stream: &mut TcpStream, silence: Duration) -> (String, bool) {
    let mut out = Vec::new();
    let mut octets = [0; 4096];
    loop {
        match timeout(silence, stream.read(&mut octets)).await {
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&out).into_owned(), true),
            Ok(Ok(n)) => out.extend_from_slice(&octets[..n]),
            Err(_) => return (String::from_utf8_lossy(&out).into_owned(), false),
        }
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_refused_request_reaches_the_upstream() {
    let rig = Rig::start().await;
    let good = rig.token(|_| {});
    let bearer = format!("Authorization: Bearer {good}\r\n");
    for (path, fields, expected) in [
        ("/api/x", String::new(), 401),
        ("/api/x", "Authorization: Bearer a.b.c\r\n".into(), 401),
        ("/api/x", format!("{bearer}{bearer}"), 400),
        ("/api/x?access_token=a", bearer.clone(), 400),
        ("/api/x", format!("{bearer}X-API-Key: k\r\n"), 400),
        ("/api/../api/x", bearer.clone(), 400),
        ("/api/%2e%2e/x", bearer.clone(), 400),
        ("/api/..;/x", bearer.clone(), 400),
        ("/api/a%2fb", bearer.clone(), 400),
        ("/api/a%5cb", bearer.clone(), 400),
        ("/api/%00", bearer.clone(), 400),
        ("/api/%ff", bearer.clone(), 400),
        ("/api", bearer.clone(), 404),
        ("/nowhere", bearer.clone(), 404),
        ("/closed/", bearer.clone(), 403),
        ("/public/", "X_Doorward_Subject: admin\r\n".into(), 400),
        ("/public/", "Host: other\r\n".into(), 400),
    ] {
        assert_eq!(rig.get(path, &fields).await, expected, "{path} {fields}");
    }
    for method in ["TRACE", "TRACK", "CONNECT", "POST"] {
        let path = if method == "CONNECT" { "gw:80" } else { "/strip/x" };
        assert_eq!(rig.send(method, path, "").await.0, 405, "{method}");
    }
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(rig.upstream.seen(), "");
    assert_eq!(rig.bearer("/api/x", &good).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_answered_with_400_and_closed_at_once() {
    let rig = Rig::start().await;
    let smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: gw\r\n\r\n";
    for (what, request) in [
        ("CL.TE", "POST /public/ HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("TE.CL", "POST /public/ HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n".into()),
        ("two CL", "POST /public/ HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n".into()),
        ("TE gzip", "POST /public/ HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into()),
        ("bare LF", "GET /public/ HTTP/1.1\nHost: gw\n\n".into()),
        ("obs-fold", "GET /public/ HTTP/1.1\r\nHost: gw\r\nX: a\r\n b\r\n\r\n".into()),
        ("space before colon", "POST /public/ HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding : chunked\r\n\r\n".into()),
        ("HTTP/1.0 TE", "POST /public/ HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("NUL", "GET /public/ HTTP/1.1\r\nHost: gw\r\nX: a\0b\r\n\r\n".into()),
        ("no Host", "GET /public/ HTTP/1.1\r\n\r\n".into()),
    ] {
        let mut stream = rig.connect().await;
        let began = Instant::now();
        stream.write_all(format!("{request}{smuggled}").as_bytes()).await.unwrap();
        let (answer, closed) = read_all(&mut stream, Duration::from_secs(2)).await;
        assert_eq!(status(&answer), 400, "{what}: {answer}");
        assert!(closed && began.elapsed() < Duration::from_secs(1), "{what} closes within 1 s");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer");
        assert!(answer.contains("application/problem+json"), "{what}");
    }
    assert_eq!(rig.upstream.seen(), "");
    // What came before the bad request on the same connection is served.
    let answer = rig.raw(format!("{smuggled}GET /public/ HTTP/1.1\nHost: gw\n\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_that_breaks_the_framing_never_ends_upstream() {
    let rig = Rig::start().await;
    let mut stream = rig.connect().await;
    stream.write_all(b"POST /public/x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(rig.upstream.seen().contains("hello"));
    stream.write_all(b"zz\r\n0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    let (answer, closed) = read_all(&mut stream, Duration::from_secs(1)).await;
    assert!(closed && !answer.contains("200"), "{answer}");
    assert!(!rig.upstream.ended.load(Ordering::SeqCst) && !rig.upstream.seen().contains("smuggled"));
    assert_eq!(
        rig.raw("POST /public/x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await[..12],
        *"HTTP/1.1 200"
    );
    assert!(rig.upstream.ended.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_is_set_by_the_gateway_alone() {
    let rig = Rig::start().await;
    let spoofed = "X-Doorward-Subject: root\r\nx-doorward-CLIENT: root\r\nX.Doorward.Scope: admin\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
    assert_eq!(rig.get("/public/a", spoofed).await, 200);
    let token = rig.token(|_| {});
    assert_eq!(
        rig.get("/api/a%41?q=1", &format!("{spoofed}Authorization: Bearer {token}\r\nCookie: __Host-doorward_session=s; a=1\r\n")).await,
        200
    );
    let seen = rig.upstream.seen().to_lowercase();
    for never in ["root", "admin", "6.6.6.6", "bearer", "authorization", "doorward_session"] {
        assert!(!seen.contains(never), "{never} in {seen}");
    }
    for always in [
        "x-doorward-subject: alice",
        "x-doorward-client: web",
        "x-doorward-scope: read",
        "get /api/aa?q=1 http/1.1",
        "cookie: a=1",
        "host: gw",
    ] {
        assert!(seen.contains(always), "{always} in {seen}");
    }
    assert_eq!(rig.get("http://other.example/public/abs?x", "").await, 200);
    assert!(rig.upstream.seen().contains("GET /public/abs?x HTTP/1.1") && rig.upstream.seen().contains("host: other.example"));
    assert_eq!(rig.get("/strip/a/b", "").await, 200);
    assert!(rig.upstream.seen().contains("GET /a/b HTTP/1.1"));
    let unfit = rig.token(|c| c.sub = "a\r\nx-admin: 1");
    assert_eq!(rig.bearer("/api/x", &unfit).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_credential_is_401_with_one_body_and_a_missing_scope_403() {
    let rig = Rig::start().await;
    let other = SigningKey::generate(Alg::ES256).unwrap().0;
    let forged = {
        let claims = AccessTokenClaims {
            iss: ISSUER,
            sub: "a",
            aud: AUDIENCE,
            exp: NOW + 9,
            iat: NOW,
            scope: "read",
            ..AccessTokenClaims::default()
        };
        other.sign_jwt("at+jwt", &claims).unwrap()
    };
    let id_token = rig.key.sign_jwt("JWT", &json!({"iss": ISSUER, "sub": "a", "aud": AUDIENCE, "exp": NOW + 9})).unwrap();
    let bad = [
        rig.token(|c| c.aud = "https://other.example.com"),
        rig.token(|c| c.iss = "https://evil.example.com"),
        rig.token(|c| c.exp = NOW - 61),
        forged,
        id_token,
        "a.b.c".into(),
    ];
    let mut bodies = Vec::new();
    for token in &bad {
        let (status, answer) = rig.send("GET", "/api/x", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(status, 401);
        assert!(answer.to_lowercase().contains(r#"www-authenticate: bearer error="invalid_token""#), "{answer}");
        bodies.push(answer.split("\r\n\r\n").nth(1).unwrap().to_owned());
    }
    let (_, missing) = rig.send("GET", "/api/x", "").await;
    bodies.push(missing.split("\r\n\r\n").nth(1).unwrap().to_owned());
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let (status, answer) = rig.send("GET", "/api/x", &format!("Authorization: Bearer {}\r\n", rig.token(|c| c.scope = "write"))).await;
    assert_eq!(status, 403);
    assert!(answer.contains(r#"error="insufficient_scope", scope="read""#), "{answer}");
    assert_eq!(rig.get("/maybe/x", "").await, 200);
    assert_eq!(rig.bearer("/maybe/x", &bad[0]).await, 401);
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_token_is_refused_once_revoked_or_expired() {
    let rig = Rig::start().await;
    for (kind, id) in
        [(RevocationKind::Token, "t1"), (RevocationKind::Grant, "g2"), (RevocationKind::Client, "c3"), (RevocationKind::Subject, "s4")]
    {
        let token = rig.token(|c| {
            (c.jti, c.grant, c.client_id, c.sub) = ("t0", Some("g0"), "c0", "s0");
            match kind {
                RevocationKind::Token => c.jti = id,
                RevocationKind::Grant => c.grant = Some(id),
                RevocationKind::Client => c.client_id = id,
                _ => c.sub = id,
            }
            c.seq = rig.revoked.head();
        });
        for _ in 0..4 {
            assert_eq!(rig.bearer("/api/x", &token).await, 200);
        }
        rig.revoke(kind, id);
        for _ in 0..4 {
            assert_eq!(rig.bearer("/api/x", &token).await, 401, "{kind:?}");
        }
        assert_eq!(rig.bearer("/off/x", &token).await, 200, "offline asks signature and expiry only");
    }
    let token = rig.token(|_| {});
    let fresh = rig.token(|c| (c.jti, c.exp) = ("t9", NOW + 100));
    assert_eq!(rig.bearer("/api/x", &token).await, 401);
    assert_eq!(rig.bearer("/api/x", &fresh).await, 200);
    rig.clock.0.store((NOW + 111) * 1000, Ordering::SeqCst);
    assert_eq!(rig.bearer("/api/x", &fresh).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_feed_means_asking_and_no_answer_means_no() {
    let rig = Rig::start().await;
    let token = rig.token(|_| {});
    assert_eq!((rig.bearer("/api/x", &token).await, rig.asked.times.load(Ordering::SeqCst)), (200, 0));
    rig.fresh_at.store(NOW * 1000 - 5_001, Ordering::SeqCst);
    assert_eq!(rig.bearer("/api/x", &token).await, 503);
    assert_eq!(rig.bearer("/off/x", &token).await, 200);
    *rig.asked.answer.lock() = Some(json!({"active": true, "exp": NOW + 300}));
    assert_eq!(rig.bearer("/api/x", &token).await, 200);
    *rig.asked.answer.lock() = Some(json!({"active": false}));
    rig.clock.0.fetch_add(2_000, Ordering::SeqCst);
    assert_eq!(rig.bearer("/api/x", &token).await, 401);
    rig.fresh_at.store(i64::MAX, Ordering::SeqCst);
    let before = rig.asked.times.load(Ordering::SeqCst);
    assert_eq!(rig.bearer("/asked/x", &rig.token(|c| c.jti = "t2")).await, 401);
    assert_eq!(rig.asked.times.load(Ordering::SeqCst), before + 1);
}
