//! What one thread of the gateway keeps for itself.
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use ahash::AHashMap;
use edge::RouteTable;
use futures_util::future::{LocalBoxFuture, Shared as Merged};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway, KeySource,
    api_key::Keys,
    foreign::Abroad,
    framed::Shared,
    live::Live,
    observed::Untold,
    pool::Pool,
    record::Meter,
    request_id::Ids,
    seen::Seen,
    source::{IntrospectError, Introspection},
    terms::{self, Behind},
    unread::Unread,
    usage::Counts,
};

/// How often sums are handed over and what has ended is looked for, at the latest.
const TICK: Duration = Duration::from_millis(250);
/// So many of these without news are no accident.
const DEAF: u64 = 12;

/// The route table with this thread's meters beside it.
pub(crate) struct Current {
    pub table: Arc<RouteTable>,
    meters: Vec<Meter>,
    none: Meter,
    /// Who used which of them.
    pub counts: Counts,
}

impl Current {
    pub(crate) fn new(table: Arc<RouteTable>) -> Rc<Self> {
        let meters = table.entries().iter().map(|e| Meter::new(Arc::clone(&e.id))).collect();
        Rc::new(Self { table, meters, none: Meter::new("".into()), counts: Counts::default() })
    }

    /// The meter of a route by its index, or of no route.
    pub(crate) fn meter(&self, route: Option<usize>) -> &Meter {
        route.and_then(|at| self.meters.get(at)).unwrap_or(&self.none)
    }

    fn flush(&self, gateway: &Gateway) {
        self.meters.iter().chain([&self.none]).for_each(Meter::flush);
        let name = |at: usize| self.table.entries().get(at).map(|entry| Arc::clone(&entry.id));
        self.counts.hand_over(&gateway.usage, name, gateway.parts().clock.now());
    }
}

/// A question to the authorization server that several requests wait for.
pub(crate) type Asking = Merged<LocalBoxFuture<'static, Result<Introspection, IntrospectError>>>;

/// One thread's connections, memory and meters.
pub(crate) struct Worker {
    pub gateway: Arc<Gateway>,
    pub pool: Rc<Pool>,
    pub unread: Unread,
    pub live: Rc<Live>,
    pub seen: RefCell<Seen>,
    pub keys: Keys,
    pub abroad: RefCell<Abroad>,
    pub asking: RefCell<AHashMap<Box<str>, Asking>>,
    pub shutdown: CancellationToken,
    /// Whether the process has said that it will leave.
    pub leaving: Cell<bool>,
    /// Names requests.
    pub ids: Ids,
    /// Finished requests nobody was told of yet.
    pub untold: RefCell<Untold>,
    current: RefCell<Rc<Current>>,
    connections: RefCell<Vec<Weak<Shared>>>,
    open: Cell<usize>,
    swept: Cell<u64>,
    /// For how many beats on end too little was heard of revocations.
    deaf: Cell<u64>,
}

impl Worker {
    pub(crate) fn new(gateway: &Arc<Gateway>, shutdown: CancellationToken) -> Rc<Self> {
        let parts = gateway.parts();
        Rc::new(Self {
            pool: Rc::new(Pool::new(parts.settings.idle_connections, parts.outbound.tls(), &gateway.upstreams)),
            unread: Unread::default(),
            live: Rc::default(),
            seen: RefCell::new(Seen::new(parts.settings.remembered_tokens, &*parts.entropy)),
            keys: Keys::new(parts.settings.remembered_tokens, &*parts.entropy),
            abroad: RefCell::new(Abroad::new(parts.settings.remembered_tokens / 2, &*parts.entropy)),
            asking: RefCell::default(),
            shutdown,
            leaving: Cell::new(false),
            ids: Ids::new(&*parts.entropy),
            untold: RefCell::default(),
            current: RefCell::new(Current::new(parts.table.load_full())),
            connections: RefCell::default(),
            open: Cell::new(0),
            swept: Cell::new(0),
            deaf: Cell::new(0),
            gateway: Arc::clone(gateway),
        })
    }

    /// The table in force. When another was swapped in, what was believed under the old one is forgotten.
    pub(crate) fn current(&self) -> Rc<Current> {
        let current = self.current.borrow();
        let table = self.gateway.parts().table.load();
        if Arc::ptr_eq(&current.table, &table) {
            return Rc::clone(&current);
        }
        drop(current);
        let next = Current::new(Arc::clone(&table));
        self.current.replace(Rc::clone(&next)).flush(&self.gateway);
        self.seen.borrow_mut().clear();
        self.keys.clear();
        self.abroad.borrow_mut().clear();
        next
    }

    /// Milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.gateway.parts().clock.now_ms()
    }

    /// Counts a connection in; it is counted out when the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>, shared: &Arc<Shared>) -> Entered {
        self.open.set(self.open.get() + 1);
        self.connections.borrow_mut().push(Arc::downgrade(shared));
        Entered(Rc::clone(self))
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Notes when the process says that it will leave.
    pub(crate) async fn hear_of_leaving(self: Rc<Self>) {
        self.gateway.parts().settings.leaving.cancelled().await;
        self.leaving.set(true);
    }

    /// Asks every connection to end when it is idle.
    pub(crate) fn close_idle(&self) {
        self.connections.borrow().iter().filter_map(Weak::upgrade).for_each(|shared| shared.close());
    }

    /// Ends what was revoked, as soon as it is told; hands over sums and tidies up now and then.
    pub(crate) async fn tend(self: Rc<Self>, wake: Arc<Notify>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = wake.notified() => self.sweep(Behind::default()),
                _ = tick.tick() => self.tidy(),
            }
        }
    }

    /// Hands over the last sums.
    pub(crate) fn finish(&self) {
        self.current.borrow().flush(&self.gateway);
        self.tell();
    }

    /// Tells of finished requests.
    fn tell(&self) {
        if let Some(observing) = &self.gateway.parts().observing {
            self.untold.borrow_mut().tell(observing);
        }
    }

    fn sweep(&self, behind: Behind) {
        let parts = self.gateway.parts();
        tell_ended(self.live.sweep(&parts.revoked, parts.clock.now_ms(), behind));
    }

    /// How old what is known of ends is; 0 unless that has been so for a while: after a machine's sleep, what was missed is heard of first.
    fn behind(&self) -> Behind {
        let parts = self.gateway.parts();
        let now_ms = parts.clock.now_ms();
        let since = |at_ms: i64| now_ms.saturating_sub(at_ms);
        let sessions_ms = parts.sessions.as_ref().map_or(0, |sessions| since(sessions.fresh_at_ms()));
        let behind = Behind { revocations_ms: since((parts.own.fresh_at_ms)()), sessions_ms };
        let deaf = behind.revocations_ms.max(behind.sessions_ms) > terms::PATIENCE_MS;
        self.deaf.set(if deaf { self.deaf.get() + 1 } else { 0 });
        if self.deaf.get() > DEAF { behind } else { Behind::default() }
    }

    fn tidy(self: &Rc<Self>) {
        self.sweep(self.behind());
        terms::ask(self);
        self.pool.relieve();
        self.tell();
        self.current.borrow().flush(&self.gateway);
        let beat = self.swept.get();
        self.swept.set(beat + 1);
        if !beat.is_multiple_of(16) {
            return;
        }
        tell_ended(terms::end_strange(self));
        let now = self.gateway.parts().clock.now();
        self.pool.sweep();
        self.unread.sweep();
        self.connections.borrow_mut().retain(|c| c.strong_count() > 0);
        if beat.is_multiple_of(64) {
            self.seen.borrow_mut().retain(|b| b.identity.claims.exp > now);
            self.keys.tidy(now);
            self.abroad.borrow_mut().tidy(now);
        }
        self.gauges();
    }

    fn gauges(&self) {
        let thread = std::thread::current().name().unwrap_or("gateway").to_owned();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let gauge =
            |name: &'static str, n: usize| metrics::gauge!("cache_entries", "cache" => name, "thread" => thread.clone()).set(n as f64);
        gauge("gateway_tokens", self.seen.borrow().len());
        gauge("gateway_api_keys", self.keys.len());
        gauge("gateway_foreign_tokens", self.abroad.borrow().len());
        gauge("gateway_exchanged_tokens", usize::try_from(self.gateway.exchanging.len()).unwrap_or(usize::MAX));
        gauge("gateway_upstream_connections", self.pool.len());
        gauge("gateway_live", self.live.len());
        gauge("gateway_connections", self.open.get());
    }

    /// The keys of an issuer.
    pub(crate) fn keys_of(&self, issuer: &edge::identity::Issuer, table: &RouteTable) -> Option<Arc<dyn KeySource>> {
        match issuer {
            edge::identity::Issuer::Own => Some(Arc::clone(&self.gateway.parts().own.keys)),
            edge::identity::Issuer::Authority(_) => None,
            edge::identity::Issuer::Foreign(name) => table.trusted(name).map(|t| self.gateway.foreign_keys(t) as Arc<dyn KeySource>),
        }
    }
}

fn tell_ended(ended: usize) {
    if ended > 0 {
        tracing::info!(target: "gateway", ended, "open streams ended with their credentials");
    }
}

/// A connection counted in.
pub(crate) struct Entered(Rc<Worker>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}
