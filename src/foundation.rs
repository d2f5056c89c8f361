//! What every part of a process stands on: clock, randomness, database, keys, and the live revocations.
use std::sync::Arc;

use admin::{Actor, Objects};
use anyhow::Context as _;
use ledger::{Committed, Listener, Listings, Revocation, RevocationKind, RevocationSet, Store, StoreError};
use protocol::Settings;
use store::{Database, OpenError};
use tokens::{Clock, Entropy, keyring::Rotation, seal::Kek, secret::Plain};
use tokio::sync::Semaphore;

use crate::{
    clock::{SystemClock, SystemEntropy},
    config::{AuthorizationServer, Config, Role},
    keys::{Keys, Plan, Source, apart},
    restored,
};

/// An opened database with its keys and revocations.
pub struct Foundation {
    /// The database with its operator's side.
    pub database: Arc<dyn Database>,
    /// The database as everybody else sees it.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The signing keys; none in a gateway process of its own.
    pub keys: Option<Arc<Keys>>,
    /// The live revocations: those of this database, or, in a gateway process of its own, what its authorization server's feed tells.
    pub revoked: Arc<RevocationSet>,
    /// What this process's secrets are sealed under; none in a gateway process of its own that has no such key.
    pub kek: Option<Kek>,
    /// Names and lifetimes.
    pub settings: Settings,
    /// When API keys were last used.
    pub key_uses: Arc<edge::api_key::Uses>,
}

/// Takes every committed revocation into the set in memory; the head moves when every listener has heard ([`Listener`]).
struct Hears(Arc<RevocationSet>);

impl Listener for Hears {
    fn committed(&self, batch: &Committed) {
        for revocation in &batch.revocations {
            self.0.apply(revocation);
        }
        self.0.advance(batch.head);
    }
}

/// What ended browser sessions of a gateway process of its own, in its own database. The rest, and where the ledger is, its authorization
/// server's feed tells.
struct HearsSessions(Arc<RevocationSet>);

impl Listener for HearsSessions {
    fn committed(&self, batch: &Committed) {
        batch.revocations.iter().filter(|revocation| ends_sessions(revocation)).for_each(|revocation| self.0.apply(revocation));
    }
}

/// Whether it is about one session of a gateway, or about what another issuer said.
fn ends_sessions(revocation: &Revocation) -> bool {
    revocation.kind == RevocationKind::Token || revocation.id.contains('|')
}

/// Opens the database alone.
///
/// # Errors
/// It is away, locked by another process, or of another version; the text says what to do.
pub async fn database(config: &Config) -> anyhow::Result<Arc<dyn Database>> {
    opened(config, false).await
}

/// Opens the database alone, for reading only: beside a doorward that runs on it, if there is one.
///
/// # Errors
/// It is away, or of another version; the text says what to do.
pub async fn reading(config: &Config) -> anyhow::Result<Arc<dyn Database>> {
    opened(config, true).await
}

async fn opened(config: &Config, read_only: bool) -> anyhow::Result<Arc<dyn Database>> {
    let options = store::Options {
        connections: usize::try_from(config.connections).unwrap_or(8),
        read_only,
        replicas: config.replicas.urls.iter().map(|url| url.expose().to_owned()).collect(),
        max_replica_lag_ms: config.replicas.max_lag.0.saturating_mul(1000),
    };
    store::open(config.storage_url.expose(), &options, Arc::new(SystemClock)).await.map_err(|error| match error {
        OpenError::Locked { .. } => anyhow::Error::new(error)
            .context("the database is in use: stop the doorward that runs on it, or ask it through its administration API"),
        other => anyhow::Error::new(other).context("the database cannot be opened"),
    })
}

impl Foundation {
    /// Opens everything. With `create`, a new database is given its first keys.
    ///
    /// # Errors
    /// The text says what is wrong and what to do.
    pub async fn open(config: &Config, create: bool) -> anyhow::Result<Self> {
        let database = database(config).await?;
        Self::over(config, database, create).await
    }

    /// As [`Foundation::open`], over an open database.
    ///
    /// # Errors
    /// The keys cannot be opened, or the database failed.
    pub async fn over(config: &Config, database: Arc<dyn Database>, create: bool) -> anyhow::Result<Self> {
        let foundation = Self::lay(config, database, create).await?;
        restored::finish(&foundation).await.context("what the backup of this database lets in could not be ended")?;
        Ok(foundation)
    }

    /// Opens everything for reading only. It knows the revocations of this moment and hears of no later ones.
    ///
    /// # Errors
    /// The database or its keys cannot be opened.
    pub async fn reading(config: &Config) -> anyhow::Result<Self> {
        let foundation = Self::lay(config, reading(config).await?, false).await?;
        if restored::pending(&foundation).await? {
            tracing::warn!("this database comes from a backup, and what the backup lets in is not ended yet: the next start does that");
        }
        Ok(foundation)
    }

    async fn lay(config: &Config, database: Arc<dyn Database>, create: bool) -> anyhow::Result<Self> {
        let store: Arc<dyn Store> = database.clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let keys = if needs_keys(config) {
            let source = source(config);
            let opened = Keys::open(store.clone(), &source, plan(config), clock.clone(), entropy.clone(), create).await;
            Some(opened.context("the signing keys")?)
        } else {
            None
        };
        let kek = match &keys {
            Some(keys) => Some(keys.kek()),
            None => apart::kek(&*store, &source(config), create, &*entropy).await,
        };
        let revoked = Arc::new(RevocationSet::new());
        if keys.is_some() {
            store.listen(Arc::new(Hears(revoked.clone())));
            fill(&*store, &revoked, clock.now()).await?;
        } else {
            store.listen(Arc::new(HearsSessions(revoked.clone())));
            fill_sessions(&*store, &revoked, clock.now()).await?;
        }
        let settings = Settings { not_before: restored::at(&*store).await?, ..config.settings() };
        Ok(Self { database, store, clock, entropy, keys, revoked, kek, settings, key_uses: Arc::default() })
    }

    /// Pages and counts, from replicas where there are some that do.
    #[must_use]
    pub fn listings(&self) -> Arc<dyn Listings> {
        self.database.listings().unwrap_or_else(|| Arc::new(ledger::listing::Own(self.store.clone())))
    }

    /// The keys.
    ///
    /// # Errors
    /// This configuration is that of a gateway process of its own, which has none.
    pub fn keys(&self) -> anyhow::Result<&Arc<Keys>> {
        self.keys.as_ref().context("a gateway process of its own has no keys; use the configuration of the authorization server")
    }

    /// The administered objects. Without keys (a gateway of its own) no secret can be kept, and the MAC key is one of the moment.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let mac = self.mac();
        let hashing = Arc::new(Semaphore::new(cores()));
        let mut objects = Objects::new(&self.settings.issuer, self.store.clone(), self.clock.clone(), self.entropy.clone(), mac, hashing);
        objects.post_quantum = self.settings.post_quantum;
        objects.kek.clone_from(&self.kek);
        objects
    }

    /// The MAC key: that of the keys, which equal nodes have; without keys one of the moment.
    #[must_use]
    pub fn mac(&self) -> tokens::secret::MacKey {
        if let Some(keys) = &self.keys {
            return keys.mac();
        }
        let mut key = [0; 32];
        self.entropy.fill(&mut key);
        tokens::secret::MacKey::new(key)
    }

    /// Who a command on this machine is, for the ledger.
    #[must_use]
    pub fn actor(command: &str) -> Actor {
        Actor::command(command)
    }
}

/// How many cores there are: so many threads, and so many password hashes at once.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// A gateway process of its own asks over HTTP and holds no key.
fn needs_keys(config: &Config) -> bool {
    let issues = config.plays(Role::Auth) || config.plays(Role::Admin);
    issues || matches!(config.authorization_server, AuthorizationServer::Own)
}

fn source(config: &Config) -> Source {
    match &config.key {
        Some(text) => Source::Text(Plain::new(text.expose().to_owned())),
        None => Source::File(config.key_file.clone()),
    }
}

fn plan(config: &Config) -> Plan {
    let rotation = Rotation { period: config.keys.rotate_every.0, ahead: config.keys.publish_before.0, ..Rotation::default() };
    let algorithms = protocol::signing::supported(&config.settings()).collect();
    Plan { rotation, algorithms }
}

/// Loads what was revoked before this process listened.
async fn fill(store: &dyn Store, revoked: &RevocationSet, now: i64) -> Result<(), StoreError> {
    let (head, _) = store.head().await?;
    let mut after = 0;
    loop {
        let page = store.revocations(after, now, 1000).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        page.iter().for_each(|revocation| revoked.apply(revocation));
    }
    revoked.advance(head);
    Ok(())
}

/// Loads what ended browser sessions before this process listened.
async fn fill_sessions(store: &dyn Store, revoked: &RevocationSet, now: i64) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = store.revocations(after, now, 1000).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        page.iter().filter(|revocation| ends_sessions(revocation)).for_each(|revocation| revoked.apply(revocation));
    }
}
