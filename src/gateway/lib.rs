//! The API gateway: one file a phase.
//!
//! Read in this order: [`hop`] (the life of one request, naming every phase), `listen` and `framed` (octets in), `route`,
//! `admit` (the one admission: `authenticate` and a file for each kind of credential, `sender`, `authorize`, `limit`, `replay`), `rewrite`,
//! `forward` (the phases), `answer` and `record` (what comes out), `live`
//! (what is closed when its credential ends), [`source`], [`jwks`] and [`remote`] (where knowledge comes from), `decide` (the same
//! decisions for other people's gateways).
mod account;
mod admit;
mod answer;
mod answered;
mod api_key;
mod arrivals;
mod asked;
mod assertion;
mod assertion_keys;
mod authenticate;
mod authorize;
mod balance;
mod bearer;
mod body;
mod bounds;
pub mod canary;
mod certificate;
pub mod cors;
pub mod credentials;
mod decide;
pub mod devices;
mod discovery;
mod ended;
pub mod exchange;
mod explain;
pub mod explained;
mod foreign;
mod forward;
mod framed;
mod grpc;
mod heads;
mod health;
mod hop;
mod introspector;
pub mod jwks;
mod lease;
mod lent;
mod limit;
mod listen;
mod live;
mod managed;
pub mod observed;
mod open;
mod places;
mod pool;
mod record;
pub mod remote;
mod replay;
mod request_id;
mod resource_metadata;
mod rewrite;
mod route;
mod seen;
mod sender;
mod session;
mod signed_answer;
pub mod source;
mod standing;
mod terms;
pub mod told;
mod traced;
mod trust;
mod tunnel;
mod unfinished;
mod unread;
pub mod usage;
mod validation;
mod websocket;
mod worker;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use edge::{Counters, RouteTable};
use ipnet::IpNet;
use ledger::{Committed, Listener, Revocation, RevocationSet, Store};
use parking_lot::Mutex;
use tokens::{Clock, Entropy, dpop::Nonces};
use tokio::sync::Notify;

pub use arrivals::Arrivals;
pub use decide::Decisions;
pub use ended::Ended;
pub use explain::{Assumed, Question};
pub use explained::Explanation;
use jwks::Jwks;
pub use listen::{Encryption, Judge, Judged, Standing};
use outbound::Outbound;
pub use places::{Guest, Place, Places, TooMany};
pub use session::{Paths, SessionParts, SessionSettings, Sessions};
pub use source::{Introspect, IntrospectError, Introspection, KeySource, Own, OwnRing};
pub use standing::TargetReport;
pub use trust::check as check_upstream_tls;
pub use unfinished::{Budget, Unfinished};

/// The numbers and names a deployment chooses.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How old the revocation feed may be before tokens are introspected, milliseconds.
    pub max_staleness_ms: i64,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How the names of our own cookies begin, after `__Host-`: not forwarded.
    pub session_cookies: Vec<String>,
    /// Most tokens remembered by each thread.
    pub remembered_tokens: usize,
    /// Idle upstream connections kept by each thread for each target.
    pub idle_connections: usize,
    /// Most open connections of clients, all threads together.
    pub max_connections: usize,
    /// Most of them of one address (an IPv6 /64) that is no trusted proxy; 0: three quarters of all.
    pub max_connections_per_source: usize,
    /// What DPoP proofs may be signed with.
    pub proof_algorithms: Vec<tokens::Alg>,
    /// One in how many requests that were let through is remembered beside the refused ones; 0: none.
    pub explain_allowed: u32,
    /// Cancelled when the process says that it will leave: answers end their connections, everything is served.
    pub leaving: tokio_util::sync::CancellationToken,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_staleness_ms: 5_000,
            trusted_proxies: Vec::new(),
            session_cookies: vec!["doorward".into()],
            remembered_tokens: 8192,
            idle_connections: 128,
            max_connections: 16_384,
            max_connections_per_source: 0,
            proof_algorithms: tokens::dpop::ALGS.to_vec(),
            explain_allowed: 0,
            leaving: tokio_util::sync::CancellationToken::new(),
        }
    }
}

/// What a gateway is made of.
pub struct Parts {
    /// The routes; swap in another table at any time.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// The live revocations.
    pub revoked: Arc<RevocationSet>,
    /// The authorization server.
    pub own: Own,
    /// The rules for calls to the outside; also the roots of trust for upstreams.
    pub outbound: Arc<Outbound>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub counters: Arc<dyn Counters>,
    /// Where used DPoP proofs are remembered over nodes and restarts.
    pub store: Option<Arc<dyn Store>>,
    /// The nonces a DPoP proof has to carry one of; `None`: none.
    pub nonces: Option<Nonces>,
    /// Judges the client certificates that trusted proxies pass on (RFC 9440); `None`: none is believed.
    pub passed_on: Option<Judge>,
    /// Whose a client certificate is.
    pub devices: Arc<dyn devices::Devices>,
    /// Browser sessions, where they are configured.
    pub sessions: Option<Arc<Sessions>>,
    /// Who is told of finished requests.
    pub observing: Option<observed::Observing>,
    /// What it tells upstreams with.
    pub means: told::Means,
    pub settings: Settings,
}

/// The gateway: shared by its threads, each of which keeps its own connections and memory of tokens.
pub struct Gateway {
    parts: Parts,
    foreign: Mutex<AHashMap<Arc<str>, Arc<Jwks>>>,
    abroad: introspector::Introspectors,
    exchanging: exchange::Exchanging,
    assertion_keys: assertion_keys::AssertionKeys,
    wakes: Mutex<Vec<Arc<Notify>>>,
    room: Arc<Places>,
    /// The same for those who ask for decisions.
    fronts_room: Arc<Places>,
    replays: replay::Replays,
    upstreams: Arc<standing::Upstreams>,
    tallies: limit::Tallies,
    budget: Arc<validation::Budget>,
    usage: usage::Usage,
    remembered: explained::Remembered,
    canaries: canary::Canaries,
    /// The other listener, until it is served.
    deciding: Mutex<Option<(std::net::TcpListener, Option<Encryption>)>>,
    fronts: std::sync::OnceLock<decide::Fronts>,
    /// What certificates of clients count for at the listener.
    judge: std::sync::OnceLock<Judge>,
}

impl Gateway {
    /// A gateway that is not listening yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let [room, fronts_room] = ["gateway", "decision"]
            .map(|name| Places::new(name, parts.settings.max_connections, parts.settings.max_connections_per_source));
        let replays = replay::Replays::new(parts.store.clone());
        let trusts = trust::Trusts::new(Arc::clone(parts.outbound.roots()));
        let upstreams = Arc::new(standing::Upstreams::new(trusts, Arc::clone(&parts.entropy)));
        let assertion_keys = assertion_keys::AssertionKeys::new(&parts);
        let (abroad, exchanging) = (introspector::Introspectors::default(), exchange::Exchanging::new());
        Arc::new(Self {
            parts,
            foreign: Mutex::default(),
            abroad,
            exchanging,
            assertion_keys,
            wakes: Mutex::default(),
            room,
            fronts_room,
            replays,
            upstreams,
            tallies: limit::Tallies::default(),
            budget: Arc::default(),
            usage: usage::Usage::default(),
            remembered: explained::Remembered::default(),
            canaries: canary::Canaries::default(),
            deciding: Mutex::default(),
            fronts: std::sync::OnceLock::new(),
            judge: std::sync::OnceLock::new(),
        })
    }

    /// Its parts.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// How often key sets of trusted issuers were fetched, or tried to be.
    #[must_use]
    pub fn jwks_fetches(&self) -> u64 {
        self.foreign.lock().values().map(|jwks| jwks.fetches()).sum()
    }

    /// Who used which route.
    #[must_use]
    pub const fn usage(&self) -> &usage::Usage {
        &self.usage
    }

    fn trusted_peer(&self, peer: IpAddr) -> bool {
        self.parts.settings.trusted_proxies.iter().any(|net| net.contains(&peer))
    }

    /// The keys of a trusted issuer.
    fn foreign_keys(&self, trusted: &edge::table::Trusted) -> Arc<Jwks> {
        let mut foreign = self.foreign.lock();
        match foreign.get(&trusted.issuer) {
            Some(jwks) if jwks.uri() == trusted.jwks_uri => Arc::clone(jwks),
            _ => {
                let source = Arc::clone(&self.parts.outbound);
                let jwks = Arc::new(Jwks::new(&trusted.issuer, &trusted.jwks_uri, source, Arc::clone(&self.parts.clock)));
                foreign.insert(Arc::clone(&trusted.issuer), Arc::clone(&jwks));
                jwks
            }
        }
    }
}

impl Gateway {
    /// Takes in what was revoked before this gateway listened, up to a position; how long that took to arrive says nothing.
    pub(crate) fn joined(&self, revocations: &[Revocation], head: u64) {
        for revocation in revocations {
            self.parts.revoked.apply(revocation);
        }
        self.parts.revoked.advance(head);
        if !revocations.is_empty() {
            self.wakes.lock().iter().for_each(|wake| wake.notify_one());
        }
    }
}

impl Listener for Gateway {
    /// The head of a batch is told once every listener has heard its rows ([`Listener`]); until then it is the one before.
    fn committed(&self, batch: &Committed) {
        self.joined(&batch.revocations, batch.head);
        let now = self.parts.clock.now_ms();
        // When something ended at another issuer says nothing of how long it took to get from here to there.
        for revocation in batch.revocations.iter().filter(|r| !r.id.contains('|')) {
            record::propagated(now - revocation.at_ms);
        }
    }
}
