//! Believed tokens and what is open under them: opaque tokens, sockets and streams that end, HTTP/2, drains.
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn opaque_tokens_are_asked_about_and_checked_again_on_every_hit() {
    let rig = Rig::start().await;
    let active = |scope: &str| json!({"active": true, "sub": "alice", "client_id": "web", "aud": AUDIENCE, "scope": scope, "exp": NOW + 300, "jti": "o1", "grant": "go"});
    *rig.asked.answer.lock() = Some(active("write"));
    assert_eq!(rig.bearer("/api/x", "dwa_one").await, 403);
    *rig.asked.answer.lock() = Some(active("read"));
    for _ in 0..6 {
        assert_eq!(rig.bearer("/api/x", "dwa_two").await, 200);
    }
    assert!(rig.asked.times.load(Ordering::SeqCst) <= 3, "one question a thread");
    assert_eq!(rig.bearer("/maybe/x", "dwa_two").await, 401, "the route takes JWTs only");
    rig.revoke(RevocationKind::Grant, "go");
    *rig.asked.answer.lock() = Some(json!({"active": false}));
    assert_eq!(rig.bearer("/api/x", "dwa_two").await, 401);
    *rig.asked.answer.lock() = None;
    assert_eq!(rig.bearer("/api/x", "dwa_three").await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_here_stays_so_whatever_a_node_that_lags_says() {
    let rig = Rig::start().await;
    let answer = |seq: u64| json!({"active": true, "sub": "alice", "client_id": "web", "aud": AUDIENCE, "scope": "read", "exp": NOW + 300, "seq": seq});
    let before = rig.revoked.head();
    rig.revoke(RevocationKind::Subject, "alice");
    *rig.asked.answer.lock() = Some(answer(before));
    assert_eq!(rig.bearer("/api/x", "dwa_old").await, 401);
    *rig.asked.answer.lock() = Some(answer(rig.revoked.head()));
    assert_eq!(rig.bearer("/api/x", "dwa_new").await, 200);
}

/// Never answers; knows how many wait for it.
#[derive(Default)]
struct Silent(Arc<AtomicUsize>);
struct Asks(Arc<AtomicUsize>);
impl Drop for Asks {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
#[async_trait]
impl Introspect for Silent {
    async fn introspect(&self, _: &str) -> Result<Introspection, IntrospectError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let _asks = Asks(Arc::clone(&self.0));
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_with_the_last_request_that_waits_for_it() {
    let rig = Rig::start().await;
    let silent = Arc::new(Silent::default());
    let (_gateway, at) = rig.remote(Own { introspect: Arc::clone(&silent) as _, ..rig.gateway.parts().own.clone() }, ISSUER);
    let ask = async |token: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("GET /api/x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes()).await.unwrap();
        stream
    };
    let until = async |count: usize| {
        let came = timeout(Duration::from_secs(3), async {
            while silent.0.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(came.await.is_ok(), "{} instead of {count}", silent.0.load(Ordering::SeqCst));
    };
    let mut waiting = Vec::new();
    for n in 0..8 {
        waiting.push(ask(&format!("dwa_{n}")).await);
    }
    until(8).await;
    let second = ask("dwa_0").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.clear();
    until(1).await;
    drop(second);
    until(0).await;
}

const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_echoes_until_its_credential_is_revoked() {
    let rig = Rig::start().await;
    let token = rig.token(|_| {});
    let mut stream = rig.connect().await;
    stream
        .write_all(format!("GET /api/ws HTTP/1.1\r\nHost: gw\r\n{UPGRADE}Authorization: Bearer {token}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut octets = [0; 4096];
    let n = stream.read(&mut octets).await.unwrap();
    assert!(octets[..n].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&octets[..n]));
    stream.write_all(b"\x81\x02hi").await.unwrap();
    let n = timeout(Duration::from_secs(1), stream.read(&mut octets)).await.unwrap().unwrap();
    assert_eq!(&octets[..n], b"\x81\x02hi");
    let began = Instant::now();
    rig.revoke(RevocationKind::Subject, "alice");
    let (_, closed) = read_all(&mut stream, Duration::from_secs(1)).await;
    assert!(closed && began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_when_nothing_is_heard_of_revocations_for_too_long() {
    let rig = Rig::start().await;
    let token = rig.token(|_| {});
    let open = async |path: &str| {
        let mut stream = rig.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\n{UPGRADE}Authorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut octets = [0; 4096];
        let n = stream.read(&mut octets).await.unwrap();
        assert!(octets[..n].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&octets[..n]));
        stream
    };
    let (mut stream, mut offline) = (open("/api/ws").await, open("/off/ws").await);
    rig.fresh_at.store(NOW * 1000 - 34_000, Ordering::SeqCst);
    let (_, closed) = read_all(&mut stream, Duration::from_secs(4)).await;
    assert!(!closed, "with some patience");
    rig.fresh_at.store(NOW * 1000 - 36_000, Ordering::SeqCst);
    let (_, closed) = read_all(&mut stream, Duration::from_secs(10)).await;
    assert!(closed, "it is still open");
    let (_, closed) = read_all(&mut offline, Duration::from_millis(500)).await;
    assert!(!closed, "who says offline does not ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_websocket_is_switched_to() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/public/switch", "").await, 502);
    assert_eq!(rig.get("/public/x", "Connection: Upgrade\r\nUpgrade: h2c\r\n").await, 200);
    assert!(!rig.upstream.seen().to_lowercase().contains("upgrade"));
    // An upstream that declines: the connection goes on, and what was sent after the handshake is a request again.
    let answer = rig.raw(format!("GET /public/x HTTP/1.1\r\nHost: gw\r\n{UPGRADE}\r\nGET /api/x HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 401"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_cut_when_its_credential_is_revoked_or_expires() {
    let rig = Rig::start().await;
    for (jti, by_time) in [("s0", false), ("s1", true)] {
        let token = rig.token(|c| c.jti = jti);
        let mut stream = rig.connect().await;
        stream
            .write_all(format!("GET /api/stream HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let (answer, closed) = read_all(&mut stream, Duration::from_millis(300)).await;
        assert!(answer.contains("hello") && !closed, "{answer}");
        let began = Instant::now();
        if by_time {
            rig.clock.0.store((NOW + 300) * 1000, Ordering::SeqCst);
        } else {
            rig.revoke(RevocationKind::Token, jti);
        }
        let (rest, closed) = read_all(&mut stream, Duration::from_secs(1)).await;
        assert!(closed && !rest.contains("0\r\n\r\n") && began.elapsed() < Duration::from_millis(800), "{rest:?} {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_from_the_upstream_is_502_and_nothing_is_sent_twice() {
    let rig = Rig::start().await;
    for path in ["two-lengths", "status-600", "odd-encoding", "bad-chunk", "control", "line-feed"] {
        assert_eq!(rig.get(&format!("/public/{path}"), "").await, 502, "{path}");
    }
    let before = rig.upstream.requests.load(Ordering::SeqCst);
    assert_eq!(rig.send("POST", "/public/drop", "Content-Length: 0\r\n").await.0, 502);
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_sizes_are_kept() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/limited/x", "").await, 200);
    assert_eq!(rig.get("/limited/x", "").await, 200);
    let (status, answer) = rig.send("GET", "/limited/x", "").await;
    assert_eq!(status, 429);
    for field in ["retry-after: 30", "ratelimit: \"ip\";r=0;t=60", "ratelimit-policy: \"ip\";q=2;w=60"] {
        assert!(answer.contains(field), "{field} in {answer}");
    }
    assert_eq!(rig.send("POST", "/public/x", "Content-Length: 101\r\n").await.0, 413);
    let big = format!("POST /public/x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n", "a".repeat(101));
    assert!(rig.raw(big).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test(flavor = "multi_thread")]
async fn prior_knowledge_http2_is_spoken_on_the_same_port() {
    let rig = Rig::start().await;
    let stream = rig.connect().await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str, token: Option<&str>| {
        let mut builder = http::Request::get(format!("http://gw{path}"));
        if let Some(token) = token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        builder.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
    };
    let token = rig.token(|_| {});
    for (path, token, expected) in [
        ("/public/x", None, 200),
        ("/api/x", None, 401),
        ("/api/x", Some(token.as_str()), 200),
        ("/api/%2e%2e/x", Some(token.as_str()), 400),
    ] {
        let answer = sender.send_request(request(path, token)).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path}");
    }
    assert!(rig.upstream.seen().contains("host: gw"));
    let asked = rig.upstream.requests.load(Ordering::SeqCst);
    let large = "a".repeat(4_000);
    let many: Vec<(&str, &str)> = ["x-1", "x-2", "x-3", "x-4", "x-5", "x-6", "x-7", "x-8", "x-9"].map(|name| (name, large.as_str())).into();
    for (fields, expected) in [
        (vec![("content-length", "0"), ("content-length", "0")], 400),
        (vec![("host", "gw"), ("host", "gw")], 400),
        (vec![("host", "a@b")], 400),
        (vec![("x-odd", " a ")], 400),
        (vec![("x_odd", "a")], 400),
        (many, 431),
    ] {
        let mut odd = request("/public/x", None);
        for (name, value) in &fields {
            odd.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), http::HeaderValue::from_str(value).unwrap());
        }
        let answer = sender.send_request(odd).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{:?}", fields.first());
    }
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), asked, "none of it went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_was_begun_and_ends_what_is_idle() {
    let rig = Rig::start().await;
    let mut idle = rig.connect().await;
    idle.write_all(b"GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    let (answer, closed) = read_all(&mut idle, Duration::from_millis(200)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !closed);
    rig.shutdown.cancel();
    let (_, closed) = read_all(&mut idle, Duration::from_secs(2)).await;
    assert!(closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_pipelines_and_large_bodies_pass_unharmed() {
    let rig = Rig::start().await;
    let token = rig.token(|_| {});
    let one = format!("GET /api/x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n");
    let clients = (0..8).map(|_| async {
        let mut stream = rig.connect().await;
        for _ in 0..20 {
            stream.write_all(one.repeat(5).as_bytes()).await.unwrap();
            let mut got = String::new();
            let mut octets = [0; 4096];
            while got.matches("\r\n\r\nok").count() < 5 {
                let n = timeout(Duration::from_secs(5), stream.read(&mut octets)).await.unwrap().unwrap();
                assert!(n > 0);
                got.push_str(std::str::from_utf8(&octets[..n]).unwrap());
            }
            assert_eq!(got.matches("HTTP/1.1 200").count(), 5, "{got}");
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(rig.upstream.requests.load(Ordering::SeqCst), 800);

    let mut stream = rig.connect().await;
    stream.write_all(format!("POST /api/x HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nContent-Length: 3000000\r\n\r\n").as_bytes()).await.unwrap();
    let mut octets = [0; 64];
    let n = stream.read(&mut octets).await.unwrap();
    assert!(octets[..n].starts_with(b"HTTP/1.1 100"));
    stream.write_all(&vec![b'y'; 3_000_000]).await.unwrap();
    assert!(read_all(&mut stream, Duration::from_millis(800)).await.0.contains("HTTP/1.1 200"));

    // A slow reader slows the upstream down; everything arrives.
    stream.write_all(b"GET /public/large HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(read_all(&mut stream, Duration::from_millis(800)).await.0.matches('z').count(), 8_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_upstream_is_502_and_another_target_is_tried() {
    let rig = Rig::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = json!({"targets": [{"url": format!("http://{free}")}]});
    let mut both = rig.inline.clone();
    both["targets"].as_array_mut().unwrap().insert(0, json!({"url": format!("http://{free}"), "weight": 3}));
    let (_gateway, at) = rig.sibling(Arc::clone(&rig.gateway.parts().outbound), |_| {
        let route = |id: &str, upstream: &Value| {
            serde_json::from_value(json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": upstream, "public": true}))
                .unwrap()
        };
        RouteTable::build(&[route("none", &nobody), route("both", &both)], &[], &[], ISSUER).unwrap()
    });
    let send = async |method: &str, path: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream
            .write_all(format!("{method} {path} HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        status(&read_all(&mut stream, Duration::from_secs(3)).await.0)
    };
    assert_eq!(send("GET", "/none/x").await, 502);
    for _ in 0..8 {
        assert_eq!(send("POST", "/both/x").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_form_does_not_excuse_an_invalid_host() {
    let rig = Rig::start().await;
    for (host, expected) in [("gw", 200), ("other:80", 200), ("a@b", 400), ("a b", 400), ("", 400)] {
        let answer = rig.raw(format!("GET http://gw/public/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), expected, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_served_than_may_be_open() {
    let rig = Rig::start().await;
    let parts = rig.gateway.parts();
    let gateway = Gateway::new(Parts {
        devices: Arc::new(crate::devices::NoDevices),
        table: Arc::clone(&parts.table),
        revoked: Arc::clone(&parts.revoked),
        own: parts.own.clone(),
        outbound: Arc::clone(&parts.outbound),
        clock: Arc::clone(&parts.clock),
        entropy: Arc::clone(&parts.entropy),
        counters: Arc::clone(&parts.counters),
        store: None,
        nonces: None,
        passed_on: None,
        observing: None,
        sessions: None,
        means: crate::told::Means::default(),
        settings: Settings { max_connections: 2, ..Settings::default() },
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let stop = rig.shutdown.clone();
    tokio::spawn(async move { gateway.serve(listener, None, 2, stop).await });
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
        status(&read_all(stream, Duration::from_millis(100)).await.0)
    };
    let mut open = [TcpStream::connect(at).await.unwrap(), TcpStream::connect(at).await.unwrap()];
    for stream in &mut open {
        assert_eq!(ask(stream).await, 200);
    }
    // The first is the longest unused: it makes room. The second is in use and stays.
    let stream = format!("GET /api/stream HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {}\r\n\r\n", rig.token(|_| {}));
    let mut octets = [0; 64];
    open[1].write_all(stream.as_bytes()).await.unwrap();
    assert!(open[1].read(&mut octets).await.unwrap() > 0);
    let mut third = TcpStream::connect(at).await.unwrap();
    third.write_all(stream.as_bytes()).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(2), open[0].read(&mut octets)).await.unwrap().unwrap(), 0, "closed");
    assert!(timeout(Duration::from_secs(2), third.read(&mut octets)).await.unwrap().unwrap() > 0);
    // Now both are in use: the next one waits until there is a place.
    let mut fourth = TcpStream::connect(at).await.unwrap();
    fourth.write_all(b"GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(200), fourth.read(&mut octets)).await.is_err(), "it waits");
    drop(third);
    assert!(timeout(Duration::from_secs(2), fourth.read(&mut octets)).await.unwrap().unwrap() > 0, "until another may go");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_pauses_for_longer_than_a_connection_may_idle_goes_on() {
    let rig = Rig::start().await;
    let token = rig.token(|_| {});
    let mut stream = rig.connect().await;
    let request = format!("GET /api/stream HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (answer, closed) = read_all(&mut stream, Duration::from_millis(2500)).await;
    assert!(answer.contains("hello") && !closed, "{closed} {answer}");
}
