//! What every handler of the authorization server shares.
use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use edge::{api_key::Uses, limit::Counters};
use ipnet::IpNet;
use ledger::{Committed, Listener, RevocationSet, Store};
use outbound::Outbound;
use protocol::Settings;
use tokens::{Clock, Entropy, keyring::KeyRing, secret::MacKey, status_list::Slots};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    account::hashing::Hashing,
    catalog::Catalog,
    credential::Credentials,
    limits::Failures,
    logout_delivery::Ended,
    oauth::{discovery::Published, status::Lists},
    ping::Pings,
    policies::Policies,
    quick::Quick,
    relying::Relying,
    signals::Happened,
};

/// The address of the other end of the connection; the accept loop puts it into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The client certificate of the connection, proved in its handshake; the accept loop puts it into the request's extensions.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub tokens::certificate::Certificate);

/// What the server that joins the crates has to give.
pub struct Parts {
    /// Names and lifetimes.
    pub settings: Settings,
    /// The database.
    pub store: Arc<dyn Store>,
    /// The signing keys; whoever rotates them stores a new ring here.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// The live revocations; already listening to the store.
    pub revoked: Arc<RevocationSet>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Key of every stored secret's MAC.
    pub mac: MacKey,
    /// Rate counters, shared over nodes where there are several.
    pub counters: Arc<dyn Counters>,
    /// The bounded pool that hashes passwords.
    pub hashing: Hashing,
    /// The rules for calls to addresses that others chose, and the hand that makes them.
    pub outbound: Arc<Outbound>,
    /// When API keys were last used; whoever keeps that writes it down.
    pub key_uses: Arc<Uses>,
    /// Networks whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Cancelled when the process drains: streams end, readiness fails.
    pub closing: CancellationToken,
}

/// The authorization server's state, shared by every handler.
pub struct App {
    /// Names and lifetimes.
    pub settings: Settings,
    /// The database.
    pub store: Arc<dyn Store>,
    /// Clients and resource servers, kept in memory.
    pub catalog: Arc<Catalog>,
    /// The signing keys.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// The live revocations.
    pub revoked: Arc<RevocationSet>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Key of every stored secret's MAC.
    pub mac: MacKey,
    /// Rate counters.
    pub counters: Arc<dyn Counters>,
    /// The bounded pool that hashes passwords.
    pub hashing: Hashing,
    /// The rules for calls to addresses that others chose, and the hand that makes them.
    pub outbound: Arc<Outbound>,
    /// The keys of clients and trusted issuers.
    pub relying: Relying,
    /// The documents of clients that publish their metadata.
    pub(crate) documents: crate::documents::Documents,
    /// When API keys were last used.
    pub(crate) key_uses: Arc<Uses>,
    /// Networks whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Cancelled when the process drains.
    pub closing: CancellationToken,
    /// Failures that are told by their number.
    pub(crate) summaries: crate::summary::Summaries,
    /// Clients' failed authentications, by source.
    pub(crate) failures: Failures,
    /// Rings when something happened that a receiver of signals may want to hear of.
    pub(crate) happened: Arc<Happened>,
    /// The stored policies, for whoever asks for decisions.
    pub(crate) policies: Arc<Policies>,
    /// References that nobody issued.
    pub(crate) made_up: crate::credential::MadeUps,
    /// Own tokens already believed.
    pub(crate) credentials: Credentials,
    /// Discovery documents and key set, ready to send.
    pub(crate) published: Published,
    /// The endpoints that are answered without a router.
    pub(crate) quick: Quick,
    /// Gives tokens their places in status lists.
    pub(crate) slots: Slots,
    /// Status lists made so far.
    pub(crate) lists: Lists,
    /// Rings when something was revoked; the feed's subscribers wait on it.
    pub(crate) committed: Arc<Notify>,
    /// Rings when a session may have ended; whoever tells clients of it waits on it.
    pub(crate) ended: Arc<Ended>,
    /// Answers to backchannel requests that clients want to be told of.
    pub(crate) pings: Arc<Pings>,
    /// How many feed subscribers there are.
    pub(crate) subscribers: Arc<tokio::sync::Semaphore>,
}

impl App {
    /// Subscribers of the revocation feed this node serves at once.
    pub const MAX_SUBSCRIBERS: usize = 256;

    /// Puts the parts together and starts listening to the ledger.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let catalog = Catalog::new(Arc::clone(&parts.store), parts.settings.post_quantum);
        let catalog = Arc::new(catalog.strangers_use(&parts.settings.registration_grant_types));
        let committed = Arc::new(Notify::new());
        parts.store.listen(Arc::clone(&catalog) as Arc<dyn Listener>);
        let happened = Arc::new(Happened::default());
        parts.store.listen(Arc::clone(&happened) as Arc<dyn Listener>);
        let policies = Arc::new(Policies::new(Arc::clone(&parts.store)));
        parts.store.listen(Arc::clone(&policies) as Arc<dyn Listener>);
        parts.store.listen(Arc::new(Bell(Arc::clone(&committed))));
        let ended = Arc::<Ended>::default();
        parts.store.listen(Arc::clone(&ended) as Arc<dyn Listener>);
        let pings = Arc::<Pings>::default();
        parts.store.listen(Arc::clone(&pings) as Arc<dyn Listener>);
        let relying = Relying::new(Arc::clone(&parts.outbound) as _, Arc::clone(&parts.clock), Arc::clone(&parts.counters));
        let published = Published::new(&parts.settings, parts.keys.load_full());
        let quick = Quick::new(&parts.settings);
        Arc::new(Self {
            settings: parts.settings,
            store: parts.store,
            catalog,
            keys: parts.keys,
            revoked: parts.revoked,
            clock: parts.clock,
            entropy: parts.entropy,
            mac: parts.mac,
            counters: parts.counters,
            hashing: parts.hashing,
            documents: crate::documents::Documents::default(),
            relying,
            outbound: parts.outbound,
            key_uses: parts.key_uses,
            trusted_proxies: parts.trusted_proxies,
            closing: parts.closing,
            summaries: crate::summary::Summaries::default(),
            failures: Failures::default(),
            happened,
            policies,
            made_up: crate::credential::MadeUps::default(),
            credentials: Credentials::default(),
            published,
            quick,
            slots: Slots::default(),
            lists: Lists::default(),
            committed,
            ended,
            pings,
            subscribers: Arc::new(tokio::sync::Semaphore::new(Self::MAX_SUBSCRIBERS)),
        })
    }

    /// Entries per cache, for metrics.
    #[must_use]
    pub fn cache_sizes(&self) -> Vec<(&'static str, u64)> {
        let mut sizes = self.catalog.sizes();
        sizes.push(("own_tokens", self.credentials.len()));
        sizes.push(("status_lists", self.lists.len()));
        sizes.push(("key_sets", self.relying.len()));
        sizes.push(("client_documents", self.documents.len()));
        sizes
    }
}

/// Wakes the feed's subscribers when something was revoked.
struct Bell(Arc<Notify>);

impl Listener for Bell {
    fn committed(&self, batch: &Committed) {
        if !batch.revocations.is_empty() {
            self.0.notify_waiters();
        }
    }
}
