//! Active health checks, once a process: a request to every target at intervals, its results shared by all threads. The same task
//! tells the metrics how targets stand and reads changed TLS files again.
use std::{io, sync::Arc, time::Duration};

use ahash::AHashMap;
use bytes::Bytes;
use edge::{
    RouteTable,
    balance::{Balance, Target},
    resilience::Checks,
    upstream::Protocol,
};
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outbound::connect::{self, Endpoint};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Gateway, standing::TargetReport, trust::Handshakes};

/// How often it is looked what there is to check.
const LOOK: Duration = Duration::from_secs(1);

struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Gateway {
    /// How the targets of watched upstreams stand.
    #[must_use]
    pub fn upstreams(&self) -> Vec<TargetReport> {
        self.upstreams.report()
    }

    /// Keeps checking until the end.
    pub(crate) async fn watch_upstreams(self: Arc<Self>, shutdown: CancellationToken) {
        let mut running: AHashMap<(Arc<str>, usize), (Arc<Balance>, Running)> = AHashMap::new();
        let mut looked: Option<Arc<RouteTable>> = None;
        loop {
            let table = self.parts().table.load_full();
            if !looked.as_ref().is_some_and(|before| Arc::ptr_eq(before, &table)) {
                let balances: Vec<&Arc<Balance>> = table.upstreams().collect();
                let wanted = |id: &str| balances.iter().any(|b| *b.id == *id);
                self.upstreams.retain(wanted);
                self.upstreams.trusts.retain(wanted);
                running.retain(|(id, _), (was, _)| balances.iter().any(|b| b.id == *id && **b == *was));
                for balance in balances.into_iter().filter(|b| b.health.is_some()) {
                    for at in 0..balance.targets.len() {
                        running.entry((Arc::clone(&balance.id), at)).or_insert_with(|| {
                            let task = tokio::spawn(Arc::clone(&self).check(Arc::clone(balance), at));
                            (Arc::clone(balance), Running(task))
                        });
                    }
                }
                looked = Some(table);
            }
            let gateway = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || gateway.upstreams.trusts.reload()).await;
            for target in self.upstreams.report() {
                metrics::gauge!("upstream_up", "upstream" => target.upstream, "target" => target.target).set(if target.up {
                    1.0
                } else {
                    0.0
                });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Checks one target for as long as it is there.
    async fn check(self: Arc<Self>, balance: Arc<Balance>, at: usize) {
        let (Some(checks), Some(target)) = (&balance.health, balance.targets.get(at)) else { return };
        let standing = self.upstreams.of(&balance);
        let (mut good, mut bad) = (0_u32, 0_u32);
        loop {
            let within = Duration::from_millis(checks.timeout_ms);
            let handshakes = target.secured.as_ref().map(|secured| self.upstreams.trusts.of(secured)).transpose();
            let well = match handshakes {
                Ok(handshakes) => {
                    let own;
                    let handshakes = match &handshakes {
                        Some(handshakes) => handshakes,
                        None => {
                            own = Arc::new(Handshakes::new(self.parts().outbound.tls(), None));
                            &own
                        }
                    };
                    tokio::time::timeout(within, probe(target, checks, handshakes)).await.is_ok_and(|probed| probed.unwrap_or(false))
                }
                Err(_) => false,
            };
            (good, bad) = if well { (good.saturating_add(1), 0) } else { (0, bad.saturating_add(1)) };
            if good == checks.healthy_after || bad == checks.unhealthy_after {
                standing.checked(at, well);
            }
            // Not in step with the checks of other targets and other gateways.
            let jitter = self.upstreams.chance() % (checks.interval_ms / 10).max(1);
            tokio::time::sleep(Duration::from_millis(checks.interval_ms - checks.interval_ms / 20 + jitter)).await;
        }
    }
}

/// Whether a target answers as it should.
async fn probe(target: &Target, checks: &Checks, handshakes: &Handshakes) -> io::Result<bool> {
    let tls = match target.protocol {
        _ if !target.tls => None,
        Protocol::Http2 => Some(&handshakes.http2),
        Protocol::Auto => Some(&handshakes.both),
        Protocol::Http1 => Some(&handshakes.http1),
    };
    let endpoint = Endpoint { host: &target.host, address: None, port: checks.port.unwrap_or(target.port), tls };
    let stream = connect::open_as(&endpoint, handshakes.name.as_deref().unwrap_or(&target.host)).await?;
    let Some(path) = &checks.path else { return Ok(true) };
    let http2 = stream.chose_http2() || (!target.tls && target.protocol == Protocol::Http2);
    let request = Request::get(path.as_str()).header(header::USER_AGENT, "doorward").body(Empty::<Bytes>::new());
    let mut request = request.map_err(io::Error::other)?;
    let status = if http2 {
        let uri = Uri::builder().scheme(if target.tls { "https" } else { "http" });
        *request.uri_mut() = uri.authority(target.authority.as_bytes()).path_and_query(path.as_str()).build().map_err(io::Error::other)?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let _driving = Running(tokio::spawn(async move { drop(connection.await) }));
        sender.send_request(request).await.map_err(io::Error::other)?.status()
    } else {
        request.headers_mut().insert(header::HOST, target.authority.clone());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let _driving = Running(tokio::spawn(async move { drop(connection.await) }));
        sender.send_request(request).await.map_err(io::Error::other)?.status()
    };
    Ok(checks.good(status.as_u16()))
}
