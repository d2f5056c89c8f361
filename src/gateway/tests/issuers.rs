//! Trusted issuers: their keys over the network, their tokens at a route.
use super::*;

/// Answers every GET with what `document` holds, 500 if that is nothing.
pub(super) async fn serve_document(document: Arc<Mutex<Option<String>>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut octets = [0; 2048];
            let _ = stream.read(&mut octets).await;
            let answer = match &*document.lock() {
                Some(text) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len()),
                None => "HTTP/1.1 500 Away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (at, times)
}

const OTHER: &str = "https://other.example.com";

#[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
fn token(key: &SigningKey, typ: &str, extra: Value) -> String {
    let mut claims = json!({"iss": OTHER, "sub": "bob", "aud": AUDIENCE, "exp": NOW + 300, "iat": NOW, "scope": "read"});
    claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    key.sign_jwt(typ, &claims).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_issuers_tokens_are_believed_by_its_served_keys() {
    let rig = Rig::start().await;
    let [old, new, rsa] = [Alg::ES256, Alg::ES256, Alg::RS256].map(|alg| SigningKey::generate(alg).unwrap().0);
    let document = Arc::new(Mutex::new(Some(json!({"keys": [old.jwk(), rsa.jwk()]}).to_string())));
    let (at, times) = serve_document(Arc::clone(&document)).await;
    let outbound = Arc::new(Outbound::new(&[at.to_string()], &[]).unwrap());
    let gateway = rig.sibling(outbound, |table| {
        let issuer = json!({"issuer": OTHER, "jwks_uri": format!("http://{at}/jwks"), "algorithms": ["ES256"], "token_typ": ["JWT"]});
        let route = json!({"id": "f", "match": {"path_prefix": "/f/"}, "upstream": table, "auth": {"accept": ["jwt"], "issuers": [OTHER], "audience": AUDIENCE, "scopes": ["read"]}});
        RouteTable::build(&[serde_json::from_value(route).unwrap()], &[], &[serde_json::from_value(issuer).unwrap()], ISSUER).unwrap()
    });
    let at = gateway.1;
    let get = async |token: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET /f/x HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        status(&read_all(&mut stream, Duration::from_secs(2)).await.0)
    };
    assert_eq!(get(&token(&old, "at+jwt", json!({}))).await, 200);
    assert_eq!(get(&token(&old, "application/at+jwt", json!({}))).await, 200);
    assert_eq!(get(&token(&old, "JWT", json!({}))).await, 200);
    for (what, bad) in [
        ("an ID token", token(&old, "JWT", json!({"nonce": "n"}))),
        ("a logout token", token(&old, "JWT", json!({"events": {}}))),
        ("another audience", token(&old, "JWT", json!({"aud": "web"}))),
        ("an algorithm not registered", token(&rsa, "at+jwt", json!({}))),
        ("a bound token", token(&old, "at+jwt", json!({"cnf": {"jkt": "x"}}))),
        ("an unknown key", token(&new, "at+jwt", json!({}))),
        ("our own issuer", rig.token(|_| {})),
        ("no expiry", token(&old, "at+jwt", json!({"exp": null}))),
        ("the far future", token(&old, "at+jwt", json!({"exp": NOW + 11 * 366 * 86400}))),
    ] {
        assert_eq!(get(&bad).await, 401, "{what}");
    }
    let mut open = TcpStream::connect(at).await.unwrap();
    let under = token(&old, "at+jwt", json!({}));
    let request = format!(
        "GET /f/ws HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {under}\r\n\r\n"
    );
    open.write_all(request.as_bytes()).await.unwrap();
    let mut octets = [0; 4096];
    let n = open.read(&mut octets).await.unwrap();
    assert!(octets[..n].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&octets[..n]));
    assert_eq!(times.load(Ordering::SeqCst), 1, "unknown kids cost no second fetch within 5 s");
    *document.lock() = Some(json!({"keys": [new.jwk()]}).to_string());
    rig.clock.0.fetch_add(5_000, Ordering::SeqCst);
    assert_eq!(get(&token(&new, "at+jwt", json!({}))).await, 200, "a new key is found");
    assert_eq!(get(&token(&old, "at+jwt", json!({}))).await, 401, "a removed key stops, remembered or not");
    assert_eq!(times.load(Ordering::SeqCst), 2);
    assert!(read_all(&mut open, Duration::from_secs(20)).await.1, "what it opened is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_feed_no_issuer_that_sends_signals_is_believed() {
    let rig = Rig::start().await;
    let key = SigningKey::generate(Alg::ES256).unwrap().0;
    let document = Arc::new(Mutex::new(Some(json!({"keys": [key.jwk()]}).to_string())));
    let (keys_at, _) = serve_document(document).await;
    for (audience, stale) in [(None, 200), (Some("https://gw.example.com"), 503)] {
        let outbound = Arc::new(Outbound::new(&[keys_at.to_string()], &[]).unwrap());
        let (_, at) = rig.sibling(outbound, |table| {
            let issuer = json!({"issuer": OTHER, "jwks_uri": format!("http://{keys_at}/jwks"), "algorithms": ["ES256"], "signals_audience": audience});
            let route = |id: &str, freshness: &str| {
                let auth = json!({"accept": ["jwt"], "issuers": [OTHER], "audience": AUDIENCE, "freshness": freshness});
                serde_json::from_value(json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": table, "auth": auth})).unwrap()
            };
            let routes = [route("push", "push"), route("off", "offline")];
            RouteTable::build(&routes, &[], &[serde_json::from_value(issuer).unwrap()], ISSUER).unwrap()
        });
        let (remembered, new) = (token(&key, "at+jwt", json!({})), token(&key, "at+jwt", json!({"jti": "new"})));
        let get = async |path: &str, token: &str| {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            status(&read_all(&mut stream, Duration::from_secs(2)).await.0)
        };
        rig.fresh_at.store(NOW * 1000 - 4_000, Ordering::SeqCst);
        assert_eq!(get("/push/x", &remembered).await, 200, "{audience:?}");
        rig.fresh_at.store(NOW * 1000 - 6_000, Ordering::SeqCst);
        assert_eq!(get("/push/x", &remembered).await, stale, "{audience:?}");
        assert_eq!(get("/push/x", &new).await, stale, "{audience:?}");
        assert_eq!(get("/off/x", &new).await, 200, "who says offline does not ask");
        rig.fresh_at.store(i64::MAX, Ordering::SeqCst);
        assert_eq!(get("/push/x", &new).await, 200, "{audience:?}");
    }
}
