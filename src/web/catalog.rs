//! Clients, resource servers and accounts kept in memory, dropped when the ledger says that they changed.
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use accounts::{
    Device, User,
    device::{Bound, client_mark},
};
use edge::issuer::TrustedIssuer;
use ledger::{Committed, Event, Listener, ObjectKind, Store, StoreError};
use moka::sync::Cache;
use protocol::{Client, ResourceServer, client_auth::KnownClient};
use serde::Deserialize;

/// A cache that is made when it is first used: an empty one has 30 kB of queues.
type Kept<T> = LazyLock<Cache<String, Arc<T>, ahash::RandomState>>;

/// Reads through to the store; never serves what changed before the commit was acknowledged.
pub struct Catalog {
    store: Arc<dyn Store>,
    clients: Kept<KnownClient>,
    servers: Kept<ResourceServer>,
    users: Kept<User>,
    issuers: Kept<TrustedIssuer>,
    /// Whether the post-quantum algorithm is one of this deployment's.
    post_quantum: bool,
    /// The grant types of clients nobody here knows.
    of_strangers: Option<Arc<[String]>>,
    /// Counts what was dropped: a row read before a drop does not enter the cache after it.
    generation: AtomicU64,
}

fn entries<T: Send + Sync + 'static>(cache: &Kept<T>) -> u64 {
    LazyLock::get(cache).map_or(0, Cache::entry_count)
}

/// One that is not made yet has nothing to forget; who makes it right now looks at the generation once the entry is in.
fn forget_all<T: Send + Sync + 'static>(cache: &Kept<T>) {
    if let Some(made) = LazyLock::get(cache) {
        made.invalidate_all();
    }
}

impl Catalog {
    const CAPACITY: u64 = 50_000;
    /// Accounts of the people who are there right now: each for a minute at most.
    const USERS: (u64, Duration) = (10_000, Duration::from_secs(60));

    /// An empty catalogue over a store. Register it as a [`Listener`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, post_quantum: bool) -> Self {
        Self {
            store,
            of_strangers: None,
            post_quantum,
            clients: LazyLock::new(Self::cache),
            servers: LazyLock::new(Self::cache),
            users: LazyLock::new(|| {
                Cache::builder().max_capacity(Self::USERS.0).time_to_live(Self::USERS.1).build_with_hasher(ahash::RandomState::new())
            }),
            issuers: LazyLock::new(Self::cache),
            generation: AtomicU64::new(0),
        }
    }

    fn cache<T: Send + Sync + 'static>() -> Cache<String, Arc<T>, ahash::RandomState> {
        Cache::builder().max_capacity(Self::CAPACITY).build_with_hasher(ahash::RandomState::new())
    }

    /// Lets clients that registered or published themselves use these grant types only, whatever their records say.
    #[must_use]
    pub fn strangers_use(mut self, grant_types: &[String]) -> Self {
        self.of_strangers = Some(grant_types.into());
        self
    }

    /// A client with the MACs of its secrets, disabled ones included.
    ///
    /// # Errors
    /// When the store is away or its row makes no sense.
    pub async fn client(&self, id: &str) -> Result<Option<Arc<KnownClient>>, StoreError> {
        if let Some(known) = self.clients.get(id) {
            return Ok(Some(known));
        }
        let before = self.generation.load(Ordering::Acquire);
        let Some(object) = self.store.object(ObjectKind::Client, id).await? else { return Ok(None) };
        // The version is older than the secrets read after it, or as old: a rotation in between refuses what is given.
        let (mut client, version): (Client, i64) = (parse(object.document)?, object.version);
        if let Some(allowed) = self.of_strangers.as_ref().filter(|_| client.origin.is_some()) {
            client.grant_types.retain(|g| allowed.contains(g));
        }
        if let Some(device) = self.device_of(id).await? {
            // A device that is disabled has no client that works.
            client.disabled |= device.disabled;
            client.device = Some(Box::new(device.claim()));
        }
        let secrets = self.store.two_secrets(ObjectKind::Client, id, [KnownClient::SECRET, KnownClient::PREVIOUS_SECRET]).await?;
        let known = Arc::new(KnownClient::new(client, version, secrets));
        self.remember(&self.clients, id, &known, before);
        Ok(Some(known))
    }

    /// Whether a client is in memory: asking for it costs no reading.
    #[must_use]
    pub fn remembers_client(&self, id: &str) -> bool {
        self.clients.contains_key(id)
    }

    /// The device that a client is, if it is one's.
    async fn device_of(&self, client_id: &str) -> Result<Option<Device>, StoreError> {
        let Some(row) = self.store.object(ObjectKind::DeviceBinding, &client_mark(client_id)).await? else { return Ok(None) };
        let bound: Bound = parse(row.document)?;
        self.store.object(ObjectKind::Device, &bound.device).await?.map(|object| parse(object.document)).transpose()
    }

    /// A resource server by its identifier (the `aud`).
    ///
    /// # Errors
    /// When the store is away or its row makes no sense.
    pub async fn resource_server(&self, identifier: &str) -> Result<Option<Arc<ResourceServer>>, StoreError> {
        if let Some(server) = self.servers.get(identifier) {
            return Ok(Some(server));
        }
        let before = self.generation.load(Ordering::Acquire);
        let Some(object) = self.store.object_by_key(ObjectKind::ResourceServer, identifier).await? else { return Ok(None) };
        let server: Arc<ResourceServer> = Arc::new(parse(object.document)?);
        self.remember(&self.servers, identifier, &server, before);
        Ok(Some(server))
    }

    /// A trusted issuer by its identifier (the `iss`).
    ///
    /// # Errors
    /// When the store is away or its row makes no sense.
    pub async fn trusted_issuer(&self, issuer: &str) -> Result<Option<Arc<TrustedIssuer>>, StoreError> {
        if let Some(trusted) = self.issuers.get(issuer) {
            return Ok(Some(trusted));
        }
        let before = self.generation.load(Ordering::Acquire);
        let Some(object) = self.store.object_by_key(ObjectKind::TrustedIssuer, issuer).await? else { return Ok(None) };
        let trusted: Arc<TrustedIssuer> = Arc::new(parse::<TrustedIssuer>(object.document)?.known_to(self.post_quantum));
        self.remember(&self.issuers, issuer, &trusted, before);
        Ok(Some(trusted))
    }

    /// A person's account, disabled ones included. What is given to a person is guarded by their grant besides: disabling ends it.
    ///
    /// # Errors
    /// When the store is away or its row makes no sense.
    pub async fn user(&self, id: &str) -> Result<Option<Arc<User>>, StoreError> {
        if let Some(user) = self.users.get(id) {
            return Ok(Some(user));
        }
        let before = self.generation.load(Ordering::Acquire);
        let Some(object) = self.store.object(ObjectKind::User, id).await? else { return Ok(None) };
        let mut user: User = parse(object.document)?;
        // Core §5.1: when it was last changed, unless the account says otherwise itself.
        user.claims.entry("updated_at").or_insert_with(|| object.updated_at.into());
        let user = Arc::new(user);
        self.remember(&self.users, id, &user, before);
        Ok(Some(user))
    }

    /// Forgets a client: a change found another version of it in the database than this one.
    pub fn forget_client(&self, id: &str) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.clients.invalidate(id);
    }

    /// Entries per cache.
    #[must_use]
    pub fn sizes(&self) -> Vec<(&'static str, u64)> {
        vec![("clients", entries(&self.clients)), ("resource_servers", entries(&self.servers)), ("users", entries(&self.users))]
    }

    fn remember<T: Send + Sync + 'static>(&self, cache: &Cache<String, Arc<T>, ahash::RandomState>, id: &str, value: &Arc<T>, before: u64) {
        if self.generation.load(Ordering::Acquire) != before {
            return;
        }
        cache.insert(id.to_owned(), Arc::clone(value));
        // A drop that came between the check and the insertion has not seen the entry.
        if self.generation.load(Ordering::Acquire) != before {
            cache.invalidate(id);
        }
    }

    fn hear(&self, event: &Event) {
        let about = |wing: &str| event.kind.starts_with(wing);
        if !(about("object.") || about("secret.") || about("storage.") || about("user.")) {
            return;
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        if about("user.") {
            forget_all(&self.users);
            return;
        }
        match changed(event) {
            Some((ObjectKind::Client, id)) => self.clients.invalidate(&id),
            Some((ObjectKind::ResourceServer, _)) => forget_all(&self.servers),
            Some((ObjectKind::User, id)) => self.users.invalidate(&id),
            Some((ObjectKind::Device, _)) => clients_of_device(event).iter().for_each(|id| self.clients.invalidate(id)),
            Some((ObjectKind::TrustedIssuer, _)) => forget_all(&self.issuers),
            Some(_) => {}
            None => {
                forget_all(&self.clients);
                forget_all(&self.servers);
                forget_all(&self.users);
                forget_all(&self.issuers);
            }
        }
    }
}

impl Listener for Catalog {
    fn committed(&self, batch: &Committed) {
        for event in &batch.events {
            self.hear(event);
        }
    }
}

/// Which object an event is about: `{"data":{"object":kind,"id":id}}`.
fn changed(event: &Event) -> Option<(ObjectKind, String)> {
    #[derive(Deserialize)]
    struct Document {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        object: String,
        id: String,
    }
    let document: Document = serde_json::from_str(&event.document).ok()?;
    Some((ObjectKind::parse(&document.data.object)?, document.data.id))
}

/// The clients that a device is or was, as an event about it names them.
fn clients_of_device(event: &Event) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(&event.document).unwrap_or_default();
    let named = document.pointer("/data/clients").and_then(serde_json::Value::as_array);
    named.into_iter().flatten().filter_map(serde_json::Value::as_str).map(str::to_owned).collect()
}

fn parse<T: serde::de::DeserializeOwned>(document: serde_json::Value) -> Result<T, StoreError> {
    serde_json::from_value(document).map_err(|e| StoreError::Corrupt(e.to_string()))
}
