//! A real gateway on a loopback port, before an [`Upstream`]: one open route, one that nobody has a token for.
use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::gateway::{Gateway, Introspect, IntrospectError, Introspection, KeySource, Own, Parts, Settings, devices::NoDevices, told::Means};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use edge::{Counters, Quota, Route, RouteTable, Verdict};
use ledger::RevocationSet;
use outbound::Outbound;
use serde_json::json;
use tokens::{Alg, Clock, Entropy, jwk::VerifyingKey};
use tokio_util::sync::CancellationToken;

use crate::upstream::Upstream;

/// How long an answer may take.
const LONG: Duration = Duration::from_secs(10);
const ISSUER: &str = "https://id.example.com";

struct Wall;
impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
}

struct Counting(AtomicU64);
impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.fill_with(|| self.0.fetch_add(0x9e37_79b9, Ordering::Relaxed).to_le_bytes()[1]);
    }
}

struct Nobody;
#[async_trait]
impl KeySource for Nobody {
    fn find(&self, _: Option<&str>, _: Alg) -> Option<VerifyingKey> {
        None
    }
}
#[async_trait]
impl Introspect for Nobody {
    async fn introspect(&self, _: &str) -> Result<Introspection, IntrospectError> {
        Introspection::from_value(json!({"active": false}))
    }
}

struct Unlimited;
#[async_trait]
impl Counters for Unlimited {
    async fn hit(&self, _: &str, quota: &Quota, cost: u32, now_ms: i64) -> Verdict {
        edge::gcra(&mut 0, quota, now_ms, cost)
    }
    async fn peek(&self, key: &str, quota: &Quota, now_ms: i64) -> Verdict {
        self.hit(key, quota, 0, now_ms).await
    }
    async fn clear(&self, _: &str) {}
}

/// The gateway and what stands behind it.
pub struct Rig {
    pub at: SocketAddr,
    pub upstream: Arc<Upstream>,
    _runtime: tokio::runtime::Runtime,
}

impl Rig {
    /// Starts both.
    pub fn start() -> Self {
        let upstream = Upstream::start();
        let to = json!({"targets": [{"url": format!("http://{}", upstream.at)}], "timeout": "5s"});
        let routes: Vec<Route> = serde_json::from_value(json!([
            {"id": "open", "match": {"path_prefix": "/public/"}, "upstream": to, "public": true},
            {"id": "closed", "match": {"path_prefix": "/api/"}, "upstream": to,
                "auth": {"accept": ["jwt", "opaque"], "audience": "https://api.example.com", "scopes": ["read"]}},
        ]))
        .expect("routes");
        let table = RouteTable::build(&routes, &[], &[], ISSUER).expect("a table");
        let gateway = Gateway::new(Parts {
            devices: Arc::new(NoDevices),
            table: Arc::new(ArcSwap::from_pointee(table)),
            revoked: Arc::new(RevocationSet::new()),
            own: Own { issuer: ISSUER.into(), keys: Arc::new(Nobody), introspect: Arc::new(Nobody), fresh_at_ms: Arc::new(|| i64::MAX) },
            outbound: Arc::new(Outbound::new(&[], &[]).expect("rules")),
            clock: Arc::new(Wall),
            entropy: Arc::new(Counting(AtomicU64::new(1))),
            counters: Arc::new(Unlimited),
            store: None,
            nonces: None,
            passed_on: None,
            observing: None,
            sessions: None,
            means: Means::default(),
            settings: Settings::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.spawn(async move { gateway.serve(listener, None, 1, CancellationToken::new()).await });
        Self { at, upstream, _runtime: runtime }
    }

    /// Sends octets in two pieces and returns all that comes back until the other side closes. `half`: our side is closed once nothing comes
    /// back for a moment, or else the other side would wait for more.
    ///
    /// # Panics
    /// If the gateway neither answers nor closes within ten seconds, or cannot be reached.
    pub fn exchange(&self, octets: &[u8], cut: usize, half: bool) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.at).expect("the gateway listens");
        let _ = stream.set_nodelay(true);
        let mut waiting = half;
        stream.set_read_timeout(Some(if half { Duration::from_millis(2) } else { LONG })).expect("a time");
        let (first, rest) = octets.split_at(cut.min(octets.len()));
        // It may have refused and closed before it heard all.
        let _ = stream.write_all(first).and_then(|()| stream.write_all(rest));
        let (mut out, mut piece) = (Vec::new(), [0; 16_384]);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => return out,
                Ok(n) => out.extend_from_slice(&piece[..n]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    if waiting {
                        waiting = false;
                        let _ = stream.shutdown(Shutdown::Write);
                        stream.set_read_timeout(Some(LONG)).expect("a time");
                        continue;
                    }
                    panic!("neither an answer nor an end: {:?} after {:?}", String::from_utf8_lossy(&out), String::from_utf8_lossy(octets));
                }
                Err(_) => return out,
            }
        }
    }
}
