//! API keys at the gateway: what is asked, what is remembered, and news that overtakes an answer.
use super::*;

/// Answers about keys from a list; the last answer stays.
#[derive(Default)]
struct Told {
    answers: Mutex<Vec<Option<Value>>>,
    times: AtomicUsize,
}

#[async_trait]
impl Introspect for Told {
    async fn introspect(&self, _: &str) -> Result<Introspection, IntrospectError> {
        Err(IntrospectError::Unavailable)
    }
    async fn introspect_key(&self, _: &str) -> Result<Introspection, IntrospectError> {
        self.times.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().flatten() };
        Introspection::of_key(answer.ok_or(IntrospectError::Unavailable)?)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
fn good(seq: u64, key: Value) -> Option<Value> {
    let mut answer = json!({"active": true, "token_type": "ApiKey", "sub": "machine", "client_id": "machine", "aud": AUDIENCE, "scope": "read",
        "exp": NOW + 300, "seq": seq, "api_key": {"id": "k"}});
    for (name, value) in key.as_object().into_iter().flatten() {
        answer[name] = value.clone();
    }
    Some(answer)
}

struct Keys {
    rig: Rig,
    told: Arc<Told>,
    gateway: Arc<Gateway>,
    at: SocketAddr,
}

impl Keys {
    async fn start(answers: Vec<Option<Value>>) -> Self {
        let rig = Rig::start().await;
        let told = Arc::new(Told { answers: Mutex::new(answers), times: AtomicUsize::new(0) });
        let own = Own { introspect: Arc::clone(&told) as _, ..rig.gateway.parts().own.clone() };
        let route = |id: &str, more: Value| {
            let mut auth = json!({"accept": ["api_key"], "audience": AUDIENCE, "scopes": ["read"]});
            auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": rig.inline, "auth": auth})
        };
        let routes = json!([
            route("keyed", json!({})),
            route("asked", json!({"freshness": "introspect"})),
            route("tokens", json!({"accept": ["opaque"]}))
        ]);
        let table = RouteTable::build(&serde_json::from_value::<Vec<Route>>(routes).unwrap(), &[], &[], ISSUER).unwrap();
        let (gateway, at) = rig.with(own, Arc::clone(&rig.gateway.parts().outbound), table);
        Self { rig, told, gateway, at }
    }

    async fn call(&self, path: &str, key: &str) -> u16 {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: gw\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_all(&mut stream, Duration::from_secs(5)).await.0;
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    fn news(&self, seq: u64) {
        let revocation = Revocation { kind: RevocationKind::Key, id: "api_key:k".into(), seq, at_ms: NOW * 1000, expires_at: NOW + 9_999 };
        self.gateway.committed(&Committed { events: Vec::new(), revocations: vec![revocation], head: seq });
    }

    fn times(&self) -> usize {
        self.told.times.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_about_once_and_bounded_on_every_hit() {
    let keys = Keys::start(vec![good(0, json!({}))]).await;
    for _ in 0..5 {
        assert_eq!(keys.call("/keyed/x", "k1").await, 200);
    }
    assert_eq!(keys.times(), 1);
    for _ in 0..3 {
        assert_eq!(keys.call("/asked/x", "k1").await, 200);
    }
    assert_eq!(keys.times(), 4, "a route that asks asks every time");
    keys.rig.clock.0.store((NOW + 300) * 1000, Ordering::SeqCst);
    assert_eq!(keys.call("/keyed/x", "k1").await, 401, "to the second");
    assert_eq!(keys.call("/tokens/x", "k1").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_key_means_asking_again_and_never_a_wrong_refusal() {
    // The answer in the middle is from before the news: it was overtaken on its way.
    let keys = Keys::start(vec![good(3, json!({})), good(4, json!({})), good(5, json!({}))]).await;
    assert_eq!(keys.call("/keyed/x", "k1").await, 200);
    keys.news(5);
    assert_eq!((keys.call("/keyed/x", "k1").await, keys.times()), (200, 3));
    keys.news(9);
    assert_eq!(keys.call("/keyed/x", "k1").await, 503, "whoever answers knows less than is known here: it cannot be decided");
    *keys.told.answers.lock() = vec![Some(json!({"active": false}))];
    assert_eq!(keys.call("/keyed/x", "k1").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_or_asked_is_503_and_never_let_through() {
    for odd in [
        None,
        good(0, json!({"api_key": {"id": "k", "allowed_cidrs": ["?"]}})),
        good(0, json!({"quota": {"rate": 0.5}})),
        good(0, json!({"exp": "soon"})),
    ] {
        let keys = Keys::start(vec![odd.clone()]).await;
        assert_eq!(keys.call("/keyed/x", "k1").await, 503, "{odd:?}");
        assert!(keys.rig.upstream.seen().is_empty());
    }
    let keys = Keys::start(vec![good(0, json!({"token_type": "Bearer"}))]).await;
    assert_eq!(keys.call("/keyed/x", "k1").await, 401, "an answer about a token is none about a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_nobody_knows_is_asked_about_once_until_there_is_news() {
    let keys = Keys::start(vec![Some(json!({"active": false}))]).await;
    for _ in 0..5 {
        assert_eq!(keys.call("/keyed/x", "k1").await, 401);
        assert_eq!(keys.call("/keyed/x", "dwk_made-up").await, 401);
    }
    assert_eq!(keys.times(), 1);
    *keys.told.answers.lock() = vec![good(9, json!({}))];
    keys.news(2);
    assert_eq!(keys.call("/keyed/x", "k1").await, 200);
}
