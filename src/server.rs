//! The only place where the wings meet: from a checked configuration and an open foundation to what the listeners serve.
use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
};

use admin::{AdminState, Stats, StatsSource};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    middleware::{self, Next},
};
use edge::{limit::Counters, table::RouteTable};
use futures_util::FutureExt as _;
use gateway::{
    Gateway, Introspect, IntrospectError, Introspection, Own, OwnRing,
    exchange::Exchanges,
    remote::{self, Remote},
};
use http::{Request, Response, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use outbound::Outbound;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;
use web::{App, Parts, Peer, account::hashing::Hashing};

use crate::{
    config::{AuthorizationServer, Config, Role},
    devices::Registry,
    explain,
    foundation::{Foundation, cores},
    inward, jobs,
    listen::{Leaving, Timed},
    logins,
    observer::Told,
    own_tokens::OwnTokens,
    priority,
    proxied::Proxied,
    readiness, routes,
    scoped::Mount,
    telemetry, tls,
};

/// The authorization server and its administration; rebuilt as a whole when the configuration is read anew.
pub struct Wings {
    /// The authorization server, if this process plays it.
    pub public: Option<Router>,
    /// The administration API, if this process plays it.
    pub admin: Option<Router>,
    /// Certificates that proxies pass on.
    pub proxied: Proxied,
    app: Option<Arc<App>>,
    leaving: Leaving,
}

/// What outlives a rebuilding.
pub struct Ground {
    /// Database, keys, revocations.
    pub foundation: Foundation,
    /// Where what is rebuilt listens to the ledger.
    pub mount: Mount,
    /// Rate counters.
    pub counters: Arc<dyn Counters>,
    /// The bounded pool that hashes passwords.
    pub hashing: Hashing,
    /// The gateway's routes.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// What a route without a policy of its own says (`gateway.default_policy`).
    pub default_policy: Option<String>,
    /// Rings when they have to be read anew.
    pub bell: Arc<routes::Bell>,
    /// Cancelled when the process drains.
    pub closing: CancellationToken,
    /// Whether the process has said that it will leave.
    pub leaving: Leaving,
    /// The background tasks.
    pub tasks: TaskTracker,
    /// What the metrics have counted so far.
    pub metrics: PrometheusHandle,
    /// The authorization server as the gateway of this process reaches it.
    pub inward: inward::Slot,
    /// Who judges client certificates that proxies pass on to the public listener.
    pub clients: Arc<tls::Clients>,
    /// Who judges those that proxies pass on to the gateway.
    pub gateway_clients: Arc<tls::Clients>,
    /// Access log and traces, where they are kept.
    pub told: Option<(gateway::observed::Observing, Arc<Told>)>,
}

impl Ground {
    /// Prepares what every rebuilding shares.
    ///
    /// # Errors
    /// A shared-state URL that cannot be used.
    pub fn new(config: &Config, foundation: Foundation, closing: CancellationToken, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let counters: Arc<dyn Counters> = match &config.shared_state {
            Some(url) => {
                let authorities = config.shared_ca.as_ref().map(std::fs::read).transpose().context("shared_state.ca_file")?;
                Arc::new(store::redis::Redis::open(url.expose(), authorities).context("shared_state.url")?)
            }
            None => Arc::new(store::memory::Memory::new()),
        };
        let table = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let mount = Mount::new(foundation.store.clone());
        Ok(Self {
            foundation,
            mount,
            counters,
            hashing: Hashing::beginning(cores() / 2, priority::lower),
            table,
            default_policy: config.default_policy.clone(),
            bell: Arc::default(),
            closing,
            leaving: Leaving::default(),
            tasks: TaskTracker::new(),
            metrics,
            inward: inward::Slot::default(),
            clients: Arc::default(),
            gateway_clients: Arc::default(),
            told: None,
        })
    }

    fn own_tokens(&self) -> anyhow::Result<OwnTokens> {
        let keys = self.foundation.keys()?;
        Ok(OwnTokens {
            settings: self.foundation.settings.clone(),
            store: self.foundation.store.clone(),
            ring: keys.ring(),
            mac: keys.mac(),
            revoked: self.foundation.revoked.clone(),
            clock: self.foundation.clock.clone(),
            key_uses: self.foundation.key_uses.clone(),
            made_up: tokens::made_up::MadeUp::default(),
        })
    }

    /// Reads the routes; what is wrong with them is logged and the old ones stay.
    ///
    /// # Errors
    /// A fault of storage.
    pub async fn reload_routes(&self, issuer: &str) -> Result<(), ledger::StoreError> {
        match routes::read(&*self.foundation.store, issuer, self.default_policy.as_deref()).await? {
            Ok(table) => self.table.store(Arc::new(table.known_to(self.foundation.settings.post_quantum))),
            Err(mistakes) => {
                for mistake in mistakes {
                    tracing::error!(at = mistake.at, why = mistake.why, "the stored routes cannot be used; the old ones stay");
                }
            }
        }
        Ok(())
    }

    /// Follows changes of routes for as long as it is polled.
    pub async fn follow_routes(&self, issuer: &str) {
        loop {
            let ring = self.bell.ring().await;
            while let Err(error) = self.reload_routes(issuer).await {
                tracing::warn!(%error, "the routes could not be read; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            self.bell.answer(ring);
        }
    }
}

impl Wings {
    /// Builds the wings of the configured roles.
    ///
    /// # Errors
    /// This process has no keys.
    pub fn build(config: &Config, ground: &Ground, gateway: Option<&Arc<Gateway>>) -> anyhow::Result<Self> {
        let app = if config.plays(Role::Auth) { Some(app(config, ground)?) } else { None };
        let admin = if config.plays(Role::Admin) { Some(admin_router(config, ground, app.as_ref(), gateway)?) } else { None };
        let proxied = Proxied::new(
            if config.server.client_certificate_header { &config.server.trusted_proxies } else { &[] },
            ground.clients.clone(),
        );
        let public = app.clone().map(web::router);
        ground.inward.store(public.clone().map(Arc::new));
        Ok(Self { public, admin, proxied, app, leaving: ground.leaving.clone() })
    }

    /// The answer of the public listener to a request that needs no routing.
    #[must_use]
    pub fn ready(&self, request: &Request<Timed>) -> Option<Response<Body>> {
        if let Some(refused) = readiness::refused(request.uri().path(), &self.leaving) {
            return Some(refused);
        }
        web::ready(self.app.as_deref()?, request)
    }

    /// The authorization server, for requests that need no routing.
    #[must_use]
    pub fn app(&self) -> Option<Arc<App>> {
        self.app.clone()
    }

    /// Entries by cache.
    #[must_use]
    pub fn cache_sizes(&self) -> Vec<(String, u64)> {
        self.app.as_ref().map(|app| app.cache_sizes()).into_iter().flatten().map(|(name, size)| (name.to_owned(), size)).collect()
    }
}

fn app(config: &Config, ground: &Ground) -> anyhow::Result<Arc<App>> {
    let foundation = &ground.foundation;
    let keys = foundation.keys()?;
    let view = ground.mount.view();
    let app = App::new(Parts {
        settings: protocol::Settings { not_before: foundation.settings.not_before, ..config.settings() },
        store: view.clone(),
        keys: keys.ring(),
        revoked: foundation.revoked.clone(),
        clock: foundation.clock.clone(),
        entropy: foundation.entropy.clone(),
        mac: keys.mac(),
        counters: ground.counters.clone(),
        hashing: ground.hashing.clone(),
        outbound: Arc::new(Outbound::new(&config.outbound.allow, &authorities(config)?).context("the rules for outbound calls")?),
        key_uses: foundation.key_uses.clone(),
        trusted_proxies: config.server.trusted_proxies.clone(),
        closing: ground.closing.clone(),
    });
    let weak: Weak<App> = Arc::downgrade(&app);
    ground.mount.show(&view, weak);
    // Ends with the server that it tells for.
    ground.tasks.spawn(web::logout_delivery::run(Arc::downgrade(&app)));
    ground.tasks.spawn(web::signals::push::run(Arc::downgrade(&app)));
    Ok(app)
}

fn admin_router(config: &Config, ground: &Ground, app: Option<&Arc<App>>, gateway: Option<&Arc<Gateway>>) -> anyhow::Result<Router> {
    let settings = config.settings();
    let explains = gateway.map(|gateway| explain::Explainer::new(Arc::clone(gateway), config) as Arc<dyn admin::Explains>);
    let state = AdminState {
        explains,
        objects: ground.foundation.objects(),
        listings: ground.foundation.listings(),
        policy: protocol::policy::policy_json(&settings),
        settings,
        auth: Arc::new(ground.own_tokens()?),
        keys: ground.foundation.keys()?.clone(),
        stats: Arc::new(Numbers {
            app: app.cloned(),
            gateway: gateway.cloned(),
            database: ground.foundation.database.clone(),
            clock: ground.foundation.clock.clone(),
            metrics: ground.metrics.clone(),
        }),
    };
    let bell = ground.bell.clone();
    let settle = move |request: axum::extract::Request, next: Next| {
        let bell = bell.clone();
        async move {
            let changes = !request.method().is_safe();
            let response = next.run(request).await;
            // A changed route counts from the answer on.
            if changes {
                bell.settled().await;
            }
            response
        }
    };
    Ok(admin::router(Arc::new(state)).layer(middleware::from_fn(settle)))
}

/// The gateway over this process's own keys, or over a remote authorization server. It lives as long as the process.
///
/// # Errors
/// Keys, outbound rules or the authorization server's address cannot be used.
pub fn gateway(config: &Config, ground: &Ground) -> anyhow::Result<Arc<Gateway>> {
    let foundation = &ground.foundation;
    let (mut remote, mut own_store) = (None, None);
    let own = match &config.authorization_server {
        AuthorizationServer::Own => {
            let store = foundation.store.clone();
            own_store = Some(store.clone());
            Own {
                issuer: config.issuer.as_str().into(),
                keys: Arc::new(OwnRing(foundation.keys()?.ring())),
                introspect: Arc::new(InProcess(ground.own_tokens()?)),
                fresh_at_ms: Arc::new(move || store.fresh_at_ms()),
            }
        }
        AuthorizationServer::Remote { issuer } => {
            let client = config.gateway_client.as_ref().context("gateway.client_id")?;
            let (credentials, tls) = inward::credentials(client, &authorities(config)?)?;
            let prepared = Remote::new(remote::Config {
                issuer: issuer.clone(),
                credentials,
                signed_introspection: config.signed_introspection,
                tls,
                clock: foundation.clock.clone(),
                entropy: foundation.entropy.clone(),
            })
            .context("gateway.authorization_server")?;
            remote.insert(prepared).own()
        }
    };
    let devices = Arc::new(Registry::new(foundation.store.clone(), foundation.revoked.clone()));
    foundation.store.listen(devices.clone());
    let exchanges: Option<Arc<dyn Exchanges>> = match &remote {
        Some(remote) => Some(remote.clone()),
        None => inward::exchanges(config, &ground.inward, &authorities(config)?, foundation.clock.clone(), foundation.entropy.clone())?,
    };
    let means = gateway::told::Means {
        identifier: config.gateway_identifier.clone().unwrap_or_else(|| format!("{}/gateway", config.issuer.trim_end_matches('/'))),
        key_period_s: config.keys.rotate_every.0,
        kek: foundation.kek.clone(),
        exchanges,
    };
    let sessions = logins::sessions(config, foundation, &own, &ground.counters, &authorities(config)?)?;
    let gateway = Gateway::new(gateway::Parts {
        devices,
        table: ground.table.clone(),
        revoked: foundation.revoked.clone(),
        own,
        outbound: Arc::new(Outbound::new(&config.outbound.allow, &authorities(config)?).context("the rules for outbound calls")?),
        clock: foundation.clock.clone(),
        entropy: foundation.entropy.clone(),
        counters: ground.counters.clone(),
        store: Some(foundation.store.clone()),
        passed_on: config.server.client_certificate_header.then(|| tls::judge(ground.gateway_clients.clone(), tls::Clients::passed_on)),
        nonces: config.settings().dpop_nonce.then(|| dpop_nonces(foundation)),
        sessions,
        observing: ground.told.as_ref().map(|(observing, _)| observing.clone()),
        means,
        settings: gateway::Settings {
            max_staleness_ms: config.max_staleness.0.saturating_mul(1000),
            trusted_proxies: config.server.trusted_proxies.clone(),
            max_connections: usize::try_from(config.server.max_connections).unwrap_or(usize::MAX),
            max_connections_per_source: usize::try_from(config.server.max_connections_per_source).unwrap_or(usize::MAX),
            explain_allowed: config.explain_allowed,
            session_cookies: logins::cookies(config),
            leaving: ground.leaving.token(),
            proof_algorithms: protocol::evidence::algs(config.settings().profile),
            ..gateway::Settings::default()
        },
    });
    if let Some(store) = own_store {
        store.listen(gateway.clone());
    }
    if let Some(remote) = remote {
        ground.tasks.spawn(remote.follow(gateway.clone(), ground.closing.clone()));
    }
    Ok(gateway)
}

/// The gateway's nonces: equal nodes have the same; a gateway without keys of this server has its own until it restarts.
fn dpop_nonces(foundation: &Foundation) -> tokens::dpop::Nonces {
    tokens::dpop::Nonces::new(foundation.mac(), "dpop-nonce-gateway")
}

/// The rules for calls to the outside.
///
/// # Errors
/// A file of authorities that cannot be used.
pub fn outbound(config: &Config) -> anyhow::Result<Arc<Outbound>> {
    Ok(Arc::new(Outbound::new(&config.outbound.allow, &authorities(config)?).context("the rules for outbound calls")?))
}

/// The authorities trusted besides the built-in ones.
fn authorities(config: &Config) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    match &config.outbound.extra_ca_file {
        Some(file) => tls::certificates(file).context("outbound.extra_ca_file"),
        None => Ok(Vec::new()),
    }
}

/// Introspection without HTTP, for the gateway of the same process.
struct InProcess(OwnTokens);

#[async_trait]
impl Introspect for InProcess {
    async fn introspect(&self, token: &str) -> Result<Introspection, IntrospectError> {
        let answer = self.0.introspect(token).await.map_err(|_| IntrospectError::Unavailable)?;
        Introspection::from_value(serde_json::from_slice(&answer).map_err(|_| IntrospectError::Nonsense)?)
    }

    async fn introspect_key(&self, key: &str) -> Result<Introspection, IntrospectError> {
        match self.0.introspect_key(key).await {
            Ok(Some(answer)) => Introspection::of_key(answer),
            Ok(None) => Ok(Introspection::Inactive),
            Err(_) => Err(IntrospectError::Unavailable),
        }
    }
}

/// This process's numbers, for the administration API.
struct Numbers {
    app: Option<Arc<App>>,
    gateway: Option<Arc<Gateway>>,
    database: Arc<dyn store::Database>,
    clock: Arc<dyn tokens::Clock>,
    metrics: PrometheusHandle,
}

impl Numbers {
    /// How the targets of watched upstreams stand.
    fn upstreams(&self) -> serde_json::Map<String, serde_json::Value> {
        let report = self.gateway.as_ref().map(|gateway| gateway.upstreams()).unwrap_or_default();
        let mut more = serde_json::Map::new();
        more.insert("upstreams".into(), serde_json::to_value(report).unwrap_or_default());
        let canaries = self.gateway.as_ref().map(|gateway| gateway.canaries()).unwrap_or_default();
        more.insert("canaries".into(), serde_json::to_value(canaries).unwrap_or_default());
        let told = |of: store::ReplicaReport| json!({"replica": of.name, "standing": of.standing.as_str(), "position": of.position, "lag_ms": of.lag_ms});
        let replicas: Vec<serde_json::Value> = self.database.replicas().into_iter().map(told).collect();
        more.insert("replicas".into(), replicas.into());
        more
    }
}

impl StatsSource for Numbers {
    fn stats(&self) -> Stats {
        let caches = self.app.as_ref().map(|app| app.cache_sizes()).unwrap_or_default();
        let lag = |gateway: &Arc<Gateway>| (self.clock.now_ms() - (gateway.parts().own.fresh_at_ms)()).max(0);
        Stats {
            caches: caches.into_iter().map(|(name, size)| (name.to_owned(), size)).collect(),
            panics: telemetry::panics(),
            jwks_fetches: telemetry::counted(&self.metrics, "jwks_fetch_total"),
            feed_lag_ms: self.gateway.as_ref().map(lag),
            build_id: telemetry::build_id(),
            more: self.upstreams(),
        }
    }

    fn usage(&self) -> Vec<serde_json::Value> {
        let rows = self.gateway.iter().flat_map(|gateway| gateway.usage().all());
        rows.filter_map(|row| serde_json::to_value(row).ok()).collect()
    }
}

/// Answers one request of ours; a panic is answered 500 and counted.
pub async fn answer(mut router: Router, request: Request<Timed>, peer: SocketAddr) -> Response<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Peer(peer));
    match AssertUnwindSafe(router.call(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Starts the tasks that keep the ground's knowledge fresh.
pub fn follow(config: &Config, ground: &Arc<Ground>, stop: &CancellationToken) {
    ground.foundation.store.listen(ground.bell.clone());
    let (followed, issuer) = (ground.clone(), config.issuer.clone());
    jobs::spawn(&ground.tasks, stop, async move { followed.follow_routes(&issuer).await });
}
