//! A running process: bind, build, serve, say that it is ready, reload, drain.
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use axum::{Router, body::Body, response::Response, routing::get};
use futures_util::future::Either;
use gateway::Gateway;
use http::Request;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use web::App;

use crate::{
    cli::{Failure, say_json},
    config::{Config, Role, TlsFiles},
    descriptors,
    foundation::{self, Foundation},
    jobs,
    listen::{self, Bounds, Choose, Listener, Shutdown, Timed, serve_http, serve_quick},
    observer, proxied,
    readiness::Readiness,
    routes_file::RoutesFile,
    server::{self, Ground, Wings},
    telemetry,
    tls::{self, Clients, Tls},
};

/// The listeners of a configuration, bound but not accepting.
pub struct Bound {
    public: Option<Listener>,
    gateway: Option<(std::net::TcpListener, Option<Arc<Tls>>)>,
    decision: Option<(std::net::TcpListener, Option<Arc<Tls>>)>,
    mtls: Option<Listener>,
    admin: Option<Listener>,
    metrics: Listener,
    tls: Vec<(Arc<Tls>, Place)>,
}

/// The least time between SIGTERM and the end of idle connections: a client that is about to ask gets its answer, and `Connection: close` with it.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What of `server.drain` is kept for the end itself: cutting, the last spans and lines, the runtime.
const END: Duration = Duration::from_millis(1200);

/// How often it is looked whether revocation lists have changed and authorities are to be asked again.
const RENEWAL: Duration = Duration::from_millis(500);

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Public,
    Mtls,
    Gateway,
    Decision,
    Admin,
}

/// Where a process really listens.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The public listener.
    pub public: Option<SocketAddr>,
    /// The public endpoints for clients with certificates.
    pub mtls: Option<SocketAddr>,
    /// The gateway.
    pub gateway: Option<SocketAddr>,
    /// Where other gateways ask for its decisions.
    pub decision: Option<SocketAddr>,
    /// The administration API.
    pub admin: Option<SocketAddr>,
    /// Prometheus.
    pub metrics: Option<SocketAddr>,
}

impl Bound {
    /// Where clients with certificates are served.
    #[must_use]
    pub fn mtls(&self) -> Option<SocketAddr> {
        self.mtls.as_ref().map(|listener| listener.at)
    }
}

/// Runs the configured roles until told to stop.
///
/// # Errors
/// Anything that keeps it from starting; once it is ready it stops without an error.
pub fn run(config: Config) -> Result<(), Failure> {
    telemetry::start_logs(&config.log)?;
    let runtime = runtime(&config)?;
    let outcome = runtime.block_on(async {
        let metrics = telemetry::start_metrics()?;
        let bound = bind(&config)?;
        let config = config.with_mtls_at(bound.mtls());
        let foundation = Foundation::open(&config, true).await?;
        // Heard from before the ready line on: whoever reads it may send one at once.
        let signals = Signals::listen()?;
        let running = Running::start(config, foundation, bound, metrics, Shutdown::default()).await?;
        say_json(&running.ready_line())?;
        running.until_stopped(signals).await;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

/// The runtime of a configuration.
///
/// # Errors
/// No threads.
pub fn runtime(config: &Config) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Ok(threads @ 1..) = usize::try_from(config.server.worker_threads) {
        builder.worker_threads(threads);
    }
    builder.thread_name("doorward").enable_all().build()
}

/// Binds every listener of the configured roles.
///
/// # Errors
/// An address that is taken or may not be used; a certificate that cannot be read.
pub fn bind(config: &Config) -> Result<Bound, Failure> {
    let mut tls = Vec::new();
    descriptors::raise();
    let outbound = server::outbound(config)?;
    let bounds = Bounds {
        most: config.server.max_connections,
        of_source: config.server.max_connections_per_source,
        trusted: config.server.trusted_proxies.clone(),
    };
    let mut open = |name: &'static str, at: SocketAddr, files: Option<&TlsFiles>, place: Option<Place>| -> Result<Listener, Failure> {
        let encryption = match (files, place) {
            (Some(files), Some(place)) => {
                let made = Arc::new(Tls::open(files, &outbound)?);
                tls.push((made.clone(), place));
                Some(made)
            }
            _ => None,
        };
        Listener::bind(name, at, encryption, bounds.clone()).map_err(|error| taken(name, at, &error))
    };
    let server = &config.server;
    let public = if config.plays(Role::Auth) {
        Some(open("public", server.public_listen, config.public_tls.as_ref(), Some(Place::Public))?)
    } else {
        None
    };
    let mtls_tls = config.mtls_tls();
    let mtls = match server.mtls_listen.filter(|_| config.plays(Role::Auth)) {
        Some(at) => Some(open("mtls", at, mtls_tls.as_ref(), Some(Place::Mtls))?),
        None => None,
    };
    let admin = if config.plays(Role::Admin) {
        Some(open("admin", server.admin_listen, config.admin_tls.as_ref(), Some(Place::Admin))?)
    } else {
        None
    };
    let metrics = open("metrics", server.metrics_listen, None, None)?;
    let gateway = if config.plays(Role::Gateway) {
        let socket = listen::bind(server.gateway_listen).map_err(|error| taken("gateway", server.gateway_listen, &error))?;
        let encryption = config.gateway_tls.as_ref().map(|files| Tls::open(files, &outbound)).transpose()?.map(Arc::new);
        tls.extend(encryption.clone().map(|made| (made, Place::Gateway)));
        Some((socket, encryption))
    } else {
        None
    };
    let decision = match server.decision_listen.filter(|_| config.plays(Role::Gateway)) {
        Some(at) => {
            let socket = listen::bind(at).map_err(|error| taken("decision", at, &error))?;
            let encryption = config.decision_tls.as_ref().map(|files| Tls::open(files, &outbound)).transpose()?.map(Arc::new);
            tls.extend(encryption.clone().map(|made| (made, Place::Decision)));
            Some((socket, encryption))
        }
        None => None,
    };
    Ok(Bound { public, mtls, gateway, decision, admin, metrics, tls })
}

fn taken(name: &str, at: SocketAddr, error: &io::Error) -> Failure {
    let key = format!("server.{name}_listen (DOORWARD_SERVER__{}_LISTEN)", name.to_ascii_uppercase());
    Failure::Failed(match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!("{at} is taken by another program: stop it, or choose another address with {key}"),
        _ => anyhow!("{at} cannot be listened on: {error}; choose another address with {key}"),
    })
}

/// A process that accepts connections.
pub struct Running {
    /// Where.
    pub ports: Ports,
    config: ArcSwap<Config>,
    ground: Arc<Ground>,
    wings: Arc<ArcSwap<Wings>>,
    gateway: Option<Arc<Gateway>>,
    tls: Vec<(Arc<Tls>, Place)>,
    shutdown: Shutdown,
}

impl Running {
    /// Builds the wings and starts accepting.
    ///
    /// # Errors
    /// Keys, routes' storage, or outbound rules cannot be used.
    pub async fn start(
        config: Config,
        foundation: Foundation,
        bound: Bound,
        metrics: PrometheusHandle,
        shutdown: Shutdown,
    ) -> Result<Self, Failure> {
        let mut ground = Ground::new(&config, foundation, shutdown.stop.clone(), metrics.clone())?;
        for (tls, place) in &bound.tls {
            match place {
                Place::Public => ground.clients = tls.clients().clone(),
                Place::Gateway => ground.gateway_clients = tls.clients().clone(),
                Place::Mtls | Place::Decision | Place::Admin => {}
            }
            jobs::spawn(&ground.tasks, &shutdown.stop, renew(tls.clone()));
        }
        ground.told = observer::open(&config, ground.foundation.mac())?;
        ground.leaving = shutdown.leaving.clone();
        let ground = Arc::new(ground);
        server::follow(&config, &ground, &shutdown.stop);
        if let Some(file) = config.routes_file.clone().filter(|_| config.plays(Role::Gateway) || config.plays(Role::Admin)) {
            let objects = ground.foundation.objects();
            let file = RoutesFile::open(file, &objects).await;
            jobs::spawn(&ground.tasks, &shutdown.stop, file.follow(objects));
        }
        ground.reload_routes(&config.issuer).await?;
        let gateway = if config.plays(Role::Gateway) { Some(server::gateway(&config, &ground)?) } else { None };
        let wings = Arc::new(ArcSwap::from_pointee(Wings::build(&config, &ground, gateway.as_ref())?));
        let sized = wings.clone();
        let numbers = jobs::Numbers { caches: Arc::new(move || sized.load().cache_sizes()), metrics: metrics.clone() };
        jobs::start(&ground.foundation, config.audit.keep.0, numbers, &shutdown.stop, &ground.tasks);
        let at = |listener: &Option<Listener>| listener.as_ref().map(|listener| listener.at);
        let forwards = bound.gateway.as_ref().map(|(socket, _)| socket.local_addr()).transpose()?;
        let decides = bound.decision.as_ref().map(|(socket, _)| socket.local_addr()).transpose()?;
        let ports = Ports {
            public: at(&bound.public),
            mtls: at(&bound.mtls),
            gateway: forwards,
            decision: decides,
            admin: at(&bound.admin),
            metrics: Some(bound.metrics.at),
        };
        for listener in [bound.public, bound.mtls].into_iter().flatten() {
            accept(listener, &shutdown, wings.clone(), |wings| wings.public.clone(), Wings::app, Wings::ready);
        }
        if let Some(listener) = bound.admin {
            accept(listener, &shutdown, wings.clone(), |wings| wings.admin.clone(), |_| None, |_, _| None);
        }
        if let (Some((listener, tls)), Some(gateway)) = (bound.decision, &gateway) {
            gateway.decide_for(gateway::Decisions {
                listener,
                tls: tls.as_deref().map(encryption),
                fronts: config.server.decision_clients.clone(),
            });
        }
        if let (Some((socket, encryption)), Some(gateway)) = (bound.gateway, gateway.clone()) {
            forward(gateway, socket, encryption.as_deref(), &config, &shutdown);
        }
        let readiness = Readiness::of(&ground, gateway.as_ref());
        accept_metrics(bound.metrics, &shutdown, metrics, readiness);
        Ok(Self { ports, config: ArcSwap::from_pointee(config), ground, wings, gateway, tls: bound.tls, shutdown })
    }

    /// The issuer this process speaks for.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.config.load().issuer.clone()
    }

    /// The folder of the configuration file.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.config.load().file.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// What `serve` prints when it accepts connections.
    #[must_use]
    pub fn ready_line(&self) -> Value {
        let mut line = Map::new();
        line.insert("ready".into(), true.into());
        line.insert("pid".into(), std::process::id().into());
        line.insert("issuer".into(), self.issuer().into());
        let Ports { public, mtls, gateway, decision, admin, metrics } = self.ports;
        for (name, at) in
            [("public", public), ("mtls", mtls), ("gateway", gateway), ("decision", decision), ("admin", admin), ("metrics", metrics)]
        {
            if let Some(at) = at {
                line.insert(name.into(), at.to_string().into());
            }
        }
        Value::Object(line)
    }

    /// Serves until SIGTERM or Ctrl-C, reloads on SIGHUP, then drains.
    pub async fn until_stopped(self, mut signals: Signals) {
        loop {
            match signals.next().await {
                Heard::Stop => break,
                Heard::Reload => self.reload().await,
            }
        }
        let told = Instant::now();
        self.leave(&mut signals).await;
        self.stop(told).await;
    }

    /// Says that it will stop, and serves on for as long as balancers need to hear of it, or until told to stop again.
    async fn leave(&self, signals: &mut Signals) {
        // Without a notice too, whoever is busy on a connection hears with its next answer that there are no more.
        let notice = self.config.load().server.drain_notice.duration().max(LAST_WORDS);
        tracing::info!("leaving: not ready any more, and still serving");
        self.shutdown.leaving.tell();
        let again = async { while !matches!(signals.next().await, Heard::Stop) {} };
        let _ = tokio::time::timeout(notice, again).await;
    }

    /// Ends it; all of it within `server.drain` of the signal.
    async fn stop(self, since: Instant) {
        tracing::info!("stopping");
        self.shutdown.leaving.tell();
        let drain = self.config.load().server.drain.duration();
        self.ground.tasks.close();
        self.shutdown.drain(patience(drain, since.elapsed())).await;
        let rest = |most| drain.saturating_sub(END * 2 / 3).saturating_sub(since.elapsed()).min(most).max(LAST_WORDS);
        let _ = tokio::time::timeout(rest(Duration::from_secs(1)), self.ground.tasks.wait()).await;
        if let Some((_, told)) = self.ground.told.clone() {
            let finished = tokio::task::spawn_blocking(move || told.finish());
            let _ = tokio::time::timeout(rest(Duration::from_secs(5)), finished).await;
        }
        tracing::info!("stopped");
    }

    /// Reads the configuration anew; a bad one is refused and the old one stays.
    async fn reload(&self) {
        if let Some((_, told)) = &self.ground.told {
            told.reopen();
        }
        match self.reloaded().await {
            Ok(()) => tracing::info!("the configuration was read anew"),
            Err(failure) => tracing::error!(why = %failure, "the new configuration is refused; the old one stays active"),
        }
    }

    async fn reloaded(&self) -> Result<(), Failure> {
        let old = self.config.load_full();
        let new = Config::load(&old.file)?.with_mtls_at(self.ports.mtls);
        let fixed = old.fixed(&new);
        if !fixed.is_empty() {
            return Err(Failure::Usage(format!("{} can only change with a restart", fixed.join(", "))));
        }
        // Everything that can fail comes before anything that is seen.
        let outbound = server::outbound(&new)?;
        let prepared: Vec<_> = self
            .tls
            .iter()
            .map(|(tls, place)| Ok((tls, Tls::open(&files(&new, *place).context("tls")?, &outbound)?)))
            .collect::<anyhow::Result<_>>()?;
        let wings = Wings::build(&new, &self.ground, self.gateway.as_ref())?;
        for (tls, fresh) in prepared {
            tls.take(&fresh);
        }
        self.wings.store(Arc::new(wings));
        self.config.store(Arc::new(new));
        Ok(())
    }
}

fn files(config: &Config, place: Place) -> Option<TlsFiles> {
    match place {
        Place::Public => config.public_tls.clone(),
        Place::Mtls => config.mtls_tls(),
        Place::Gateway => config.gateway_tls.clone(),
        Place::Decision => config.decision_tls.clone(),
        Place::Admin => config.admin_tls.clone(),
    }
}

/// How long a stop that began so long ago waits for what is being answered.
fn patience(drain: Duration, gone: Duration) -> Duration {
    drain.saturating_sub(END.min(drain / 4)).saturating_sub(gone)
}

enum Heard {
    Stop,
    Reload,
}

/// The signals a process acts on; from the moment they are listened for, none ends it.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Listens for them.
    ///
    /// # Errors
    /// The system says no.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())?, hup: signal(SignalKind::hangup())? })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.term.recv() => Heard::Stop,
            _ = self.int.recv() => Heard::Stop,
            _ = self.hup.recv() => Heard::Reload,
        }
    }
}

/// An answer that needs no router, if there is one.
type Ready = fn(&Wings, &Request<Timed>) -> Option<Response<Body>>;

/// Serves one of our routers, whichever the latest wings hold.
fn accept(
    listener: Listener,
    shutdown: &Shutdown,
    wings: Arc<ArcSwap<Wings>>,
    choose: fn(&Wings) -> Option<Router>,
    app: fn(&Wings) -> Option<Arc<App>>,
    ready: Ready,
) {
    let app: Choose = {
        let wings = wings.clone();
        Arc::new(move || app(&wings.load()))
    };
    let serving = listener.accept(shutdown.clone(), move |accepted| {
        let wings = wings.clone();
        serve_quick(accepted, app.clone(), move |mut request, peer| {
            let wings = wings.load();
            if let Some(shown) = wings.proxied.take(&mut request, peer) {
                let router = choose(&wings).unwrap_or_default();
                return Either::Right(Either::Right(Box::pin(async move {
                    proxied::settle(&shown, &mut request).await;
                    server::answer(router, request, peer).await
                })));
            }
            match ready(&wings, &request) {
                Some(response) => Either::Left(std::future::ready(response)),
                None => Either::Right(Either::Left(server::answer(choose(&wings).unwrap_or_default(), request, peer))),
            }
        })
    });
    tokio::spawn(serving);
}

/// TLS of a listener of the gateway's threads.
fn encryption(tls: &Tls) -> gateway::Encryption {
    gateway::Encryption { config: tls.config(), judge: tls::judge(tls.clients().clone(), Clients::shown) }
}

/// Runs the gateway's threads; the process counts them as one open connection, so that a drain waits for them.
fn forward(gateway: Arc<Gateway>, socket: std::net::TcpListener, tls: Option<&Tls>, config: &Config, shutdown: &Shutdown) {
    let tls = tls.map(encryption);
    let (stop, cut) = (shutdown.stop.clone(), shutdown.cut.clone());
    let threads = match usize::try_from(config.server.worker_threads) {
        Ok(threads @ 1..) => threads,
        _ => foundation::cores(),
    };
    shutdown.open.spawn(async move {
        let served = gateway.serve(socket, tls, threads, stop.clone());
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "the gateway stopped");
            },
            () = cut.cancelled() => {}
        }
    });
}

/// Keeps what is known of revoked client certificates fresh.
async fn renew(tls: Arc<Tls>) {
    let mut beat = tokio::time::interval(RENEWAL);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let lists = tls.clone();
        // Reading and checking a long list takes its time.
        let _ = tokio::task::spawn_blocking(move || lists.renew_lists()).await;
        tls.renew_answers();
    }
}

fn accept_metrics(listener: Listener, shutdown: &Shutdown, metrics: PrometheusHandle, readiness: Readiness) {
    let page = move || {
        let metrics = metrics.clone();
        async move {
            telemetry::refresh_process_gauges();
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
        }
    };
    let health = || async { axum::Json(json!({ "status": "ok" })) };
    let ready = move || {
        let readiness = readiness.clone();
        async move { readiness.answer().await }
    };
    let router = Router::new().route("/metrics", get(page)).route("/healthz", get(health)).route("/readyz", get(ready));
    let serving = listener.accept(shutdown.clone(), move |accepted| {
        let router = router.clone();
        serve_http(accepted, move |request, peer| server::answer(router.clone(), request, peer))
    });
    tokio::spawn(serving);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_itself_is_within_the_time_a_stop_may_take() {
        let s = Duration::from_secs;
        for (drain, gone) in [(10, 0), (10, 2), (10, 8), (3, 1)] {
            let left = patience(s(drain), s(gone));
            // Cutting, what is still told, and the runtime come after it.
            let end = if drain == 10 { END } else { s(drain) / 4 };
            assert_eq!(s(gone) + left, s(drain) - end);
        }
        assert_eq!(patience(s(10), s(11)), Duration::ZERO);
        assert!(END >= Duration::from_millis(200 + 500) + LAST_WORDS * 2);
    }
}
