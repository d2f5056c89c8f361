//! The server's keys in this process: opened or created at start, rotated by schedule or command, revoked, followed across nodes.
//!
//! Private keys lie in the database, each sealed under a key of its own that is sealed under the key-encryption key
//! ([`kek`]). A new issuer key is made only in a database that has none; whatever cannot be opened stops the start.
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use admin::{Actor, KeyControl, KeyRefused};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use ledger::{Change, Committed, EventKind, KeyRow, KeyState, Listener, NewEvent, RevocationKind, Step, Store, StoreError};
use serde_json::Value;
use tokens::{
    Alg, Clock, Entropy,
    keyring::{self, Action, Cause, Kept, KeyRing, Life, Rotation, State},
    seal::Kek,
    secret::MacKey,
    sign::{KeyError, SigningKey},
};

pub mod apart;
mod first;
pub mod kek;
mod row;
#[cfg(test)]
mod tests;

use first::Found;
pub use kek::Source;
use row::Made;

/// How often the schedule is looked at, at least; more often when keys live shorter, down to each second.
const TICK: u64 = 60;
/// How long to wait before a failed reload is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a plan is made anew when another node was first.
const ATTEMPTS: usize = 5;

/// Why keys could not be opened or changed. The texts are for the operator and name what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Something is wrong with the key-encryption key's file or text.
    #[error(transparent)]
    Kek(#[from] kek::KekError),
    /// The database was written under another key-encryption key.
    #[error("the key-encryption key is not the one this database was written with: put the right one in place (no new keys are made)")]
    WrongKek,
    /// Some of what must be there is not.
    #[error("the database's keys are incomplete ({0}): restore it from a backup (no new keys are made)")]
    Incomplete(&'static str),
    /// A row does not open or does not hold what it says.
    #[error("signing key {kid} cannot be used: it does not open or is not what its row says")]
    Unusable { kid: String },
    /// Nothing was ever set up here.
    #[error("this database has no keys yet: run `doorward bootstrap`")]
    NotInitialised,
    /// No such key.
    #[error("no key has the id {0}")]
    Unknown(String),
    /// Other nodes keep changing keys.
    #[error("other nodes are changing the keys at this moment: try again")]
    Contended,
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Storage is away or corrupt.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which keys there are and how long they live.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Algorithms that always have a current and a next key.
    pub algorithms: Vec<Alg>,
    /// Periods.
    pub rotation: Rotation,
}

impl Default for Plan {
    fn default() -> Self {
        Self { algorithms: Alg::ALL.to_vec(), rotation: Rotation::default() }
    }
}

/// The keys of this process.
pub struct Keys {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    plan: Plan,
    kek: Kek,
    mac: MacKey,
    ring: Arc<ArcSwap<KeyRing>>,
    /// Keys parsed so far, by id: a reload parses only what is new. Held while keys are changed.
    parsed: tokio::sync::Mutex<HashMap<String, SigningKey>>,
    bell: Arc<Bell>,
}

/// Rings when a key changed, here or on another node.
#[derive(Default)]
struct Bell {
    stale: AtomicBool,
    wake: tokio::sync::Notify,
}

impl Bell {
    fn ring(&self) {
        self.stale.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

impl Listener for Bell {
    fn committed(&self, batch: &Committed) {
        if batch.events.iter().any(|event| event.kind.starts_with("key.")) {
            self.ring();
        }
    }
}

impl Keys {
    /// Opens the keys of a database; with `create`, makes the first ones if it never had any (and the key-encryption
    /// key's file if that is absent too). Listens to the store for changes by other nodes; run [`Keys::follow`] to act on them.
    ///
    /// # Errors
    /// [`KeysError`]; nothing is created when anything is there that cannot be opened.
    pub async fn open(
        store: Arc<dyn Store>,
        source: &Source,
        plan: Plan,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        create: bool,
    ) -> Result<Arc<Self>, KeysError> {
        let found = Found::read(&*store).await?;
        let (kek, made) = kek::take(source, found.virgin(), create, &*entropy)?;
        let found = if found.virgin() {
            if !create {
                return Err(KeysError::NotInitialised);
            }
            first::initialise(&*store, &kek, &plan, &*clock, &entropy).await?;
            Found::read(&*store).await?
        } else {
            found
        };
        let mac = match found.open(&kek) {
            Ok(mac) => mac,
            Err(error) => {
                // Another node was first with a key of its own: ours is of no use to anybody.
                if let Some(path) = made {
                    kek::discard(&path);
                }
                return Err(error);
            }
        };
        let keys = Arc::new(Self {
            ring: Arc::new(ArcSwap::from_pointee(KeyRing::new(Vec::new()))),
            parsed: tokio::sync::Mutex::default(),
            bell: Arc::default(),
            store,
            clock,
            entropy,
            plan,
            kek,
            mac,
        });
        keys.install(&mut *keys.parsed.lock().await, &found.rows)?;
        keys.store.listen(Arc::clone(&keys.bell) as Arc<dyn Listener>);
        if create && keys.lacking() {
            // The plan has grown since these keys were made: whoever signs with the new algorithm finds its keys from the first request on.
            keys.tick().await?;
        }
        Ok(keys)
    }

    /// The ring that signs and verifies, always the latest.
    #[must_use]
    pub fn ring(&self) -> Arc<ArcSwap<KeyRing>> {
        Arc::clone(&self.ring)
    }

    /// Whether an algorithm of the plan has no key that signs.
    fn lacking(&self) -> bool {
        let ring = self.ring.load();
        self.plan.algorithms.iter().any(|alg| ring.signing(*alg).is_none())
    }

    /// The key of all MACs of secrets.
    #[must_use]
    pub fn mac(&self) -> MacKey {
        self.mac.clone()
    }

    /// The key-encryption key, for other recoverable secrets.
    #[must_use]
    pub fn kek(&self) -> Kek {
        self.kek.clone()
    }

    /// Every key and its state, newest first within an algorithm; public parts only.
    ///
    /// # Errors
    /// A fault of storage.
    pub async fn list(&self) -> Result<Value, StoreError> {
        Ok(row::listing(&self.store.keys().await?))
    }

    /// Makes the next keys current (all algorithms, or one) and prepares new next ones. Nothing signed by any of them is refused.
    ///
    /// # Errors
    /// [`KeysError`]; then nothing has changed.
    pub async fn rotate(&self, only: Option<Alg>, actor: &Actor) -> Result<Value, KeysError> {
        self.change(Cause::Command { only }, &Author { actor: Some(actor), reason: None }).await?;
        Ok(self.list().await?)
    }

    /// Revokes a key: it is unpublished, everything it signed is dead, and if it was current the next one signs from now on.
    ///
    /// # Errors
    /// [`KeysError::Unknown`] if there is no such key; otherwise as [`Keys::rotate`].
    pub async fn revoke(&self, kid: &str, reason: Option<&str>, actor: &Actor) -> Result<Value, KeysError> {
        if !self.store.keys().await?.iter().any(|row| row.kid == kid) {
            return Err(KeysError::Unknown(kid.to_owned()));
        }
        self.change(Cause::Emergency { kid }, &Author { actor: Some(actor), reason }).await?;
        Ok(self.list().await?)
    }

    /// Does what time demands: promotes, retires, removes, fills gaps. Usually nothing.
    ///
    /// # Errors
    /// [`KeysError`]; then nothing has changed.
    pub async fn tick(&self) -> Result<(), KeysError> {
        self.change(Cause::Schedule, &Author { actor: None, reason: None }).await
    }

    /// Reads the keys again. A key that cannot be opened leaves the ring as it is.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn reload(&self) -> Result<(), KeysError> {
        let mut parsed = self.parsed.lock().await;
        self.bell.stale.store(false, Ordering::Release);
        let rows = self.store.keys().await?;
        self.install(&mut parsed, &rows)
    }

    /// Follows the ledger and the schedule for as long as it is polled.
    pub async fn follow(&self) {
        let each = u64::try_from(self.plan.rotation.period / 4).unwrap_or(1).clamp(1, TICK);
        let mut ticks = tokio::time::interval(Duration::from_secs(each));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.bell.wake.notified() => self.catch_up().await,
                _ = ticks.tick() => if let Err(error) = self.tick().await {
                    tracing::warn!(%error, "the key schedule could not be kept; trying again");
                },
            }
        }
    }

    async fn catch_up(&self) {
        if self.bell.stale.load(Ordering::Acquire)
            && let Err(error) = self.reload().await
        {
            tracing::error!(%error, "signing keys could not be read again");
            self.bell.ring();
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Plans, makes what is needed, applies it in one transaction, and takes the result into use before returning.
    async fn change(&self, cause: Cause<'_>, author: &Author<'_>) -> Result<(), KeysError> {
        let mut parsed = self.parsed.lock().await;
        let mut signed_before = None;
        for _ in 0..ATTEMPTS {
            let rows = self.store.keys().await?;
            // Another node was first. If it made other keys current, that was the same command, and it counts for this one too.
            let signing = row::signing(&rows, cause);
            if matches!(cause, Cause::Command { .. }) && signed_before.get_or_insert_with(|| signing.clone()) != &signing {
                return self.install(&mut parsed, &rows);
            }
            let lives: Vec<Life<'_>> = rows.iter().filter_map(row::life).collect();
            let actions = keyring::plan(&lives, &self.plan.algorithms, self.clock.now(), &self.plan.rotation, cause);
            if actions.is_empty() {
                return self.install(&mut parsed, &rows);
            }
            let first = self.first_of(&rows, &actions).await?;
            let made = row::generate(&actions).await?;
            let change = first.and(self.written(&rows, actions, made, author)?);
            let outcome = self.store.apply(change).await?;
            if outcome.applied() {
                return self.install(&mut parsed, &self.store.keys().await?);
            }
        }
        Err(KeysError::Contended)
    }

    /// Guards for algorithms that get their very first key: of several nodes one makes it, the others find it.
    async fn first_of(&self, rows: &[KeyRow], actions: &[Action]) -> Result<Change, KeysError> {
        let mut guards = Change::new();
        for action in actions {
            let Action::Create { alg, state: State::Current } = action else { continue };
            let name = format!("keys_of:{alg}");
            if rows.iter().all(|row| row.alg != alg.as_str()) && self.store.meta(&name).await?.is_none() {
                guards = guards.step(Step::InitMeta { name, value: b"1".to_vec() });
            }
        }
        Ok(guards)
    }

    /// A plan as a change with its events.
    fn written(&self, rows: &[KeyRow], actions: Vec<Action>, made: Vec<Made>, author: &Author<'_>) -> Result<Change, KeysError> {
        let now_ms = self.clock.now_ms();
        let now = now_ms.div_euclid(1000);
        let mut made = made.into_iter();
        let mut change = Change::new();
        for action in actions {
            let alg = |kid: &str| rows.iter().find(|row| row.kid == kid).map_or("", |row| row.alg.as_str()).to_owned();
            let told = |kind, kid: &str, alg: &str| author.sign(NewEvent::new(kind, now_ms).with("kid", kid).with("alg", alg));
            let moved = |kid: &str, from: &[KeyState], to| Step::MoveKey { kid: kid.to_owned(), from: from.to_vec(), to, now };
            change = match action {
                Action::Create { state, .. } => {
                    let made = made.next().ok_or(KeysError::Contended)?;
                    row::put(change, &self.kek, &made, state, now_ms, &*self.entropy, &|event| author.sign(event))?
                }
                Action::Promote { kid } => {
                    change.step(moved(&kid, &[KeyState::Next], KeyState::Current)).event(told(EventKind::KeyActivated, &kid, &alg(&kid)))
                }
                Action::Retire { kid } => change.step(moved(&kid, &[KeyState::Current, KeyState::Next], KeyState::Retired)).event(told(
                    EventKind::KeyRetired,
                    &kid,
                    &alg(&kid),
                )),
                Action::Revoke { kid } => change
                    .step(moved(&kid, &[KeyState::Next, KeyState::Current, KeyState::Retired], KeyState::Revoked))
                    .revoke(RevocationKind::Key, &kid, now_ms, now.saturating_add(self.plan.rotation.retention))
                    .event(told(EventKind::KeyRevoked, &kid, &alg(&kid)).with("reason", author.reason)),
                Action::Remove { kid } => {
                    let event = told(EventKind::KeyRemoved, &kid, &alg(&kid));
                    change.step(Step::RemoveKey { kid }).event(event)
                }
            };
        }
        Ok(change)
    }

    /// Takes rows into use. Keys that were parsed before are kept.
    fn install(&self, parsed: &mut HashMap<String, SigningKey>, rows: &[KeyRow]) -> Result<(), KeysError> {
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows.iter().filter(|row| row.state != KeyState::Revoked) {
            let key = match parsed.get(&row.kid) {
                Some(key) => key.clone(),
                None => row::unseal(&self.kek, row)?,
            };
            // A key of an algorithm that is not wanted any more proves what it signed, and signs nothing.
            let state = if self.plan.algorithms.contains(&key.alg()) { row::state(row.state) } else { State::Retired };
            kept.push(Kept { state, key, changed_at: row.changed_at });
        }
        if !kept.iter().any(|kept| kept.state == State::Current) {
            return Err(KeysError::Incomplete("no signing key is current"));
        }
        *parsed = kept.iter().map(|kept| (kept.key.kid().to_owned(), kept.key.clone())).collect();
        self.ring.store(Arc::new(KeyRing::new(kept)));
        Ok(())
    }
}

#[async_trait]
impl KeyControl for Keys {
    async fn rotate(&self, alg: Option<&str>, actor: &Actor) -> Result<Value, KeyRefused> {
        let only = match alg {
            None => None,
            Some(name) => match Alg::parse(name).filter(|alg| self.plan.algorithms.contains(alg)) {
                Some(alg) => Some(alg),
                None => return Err(KeyRefused::Conflict(format!("no keys of the algorithm {name} are kept here"))),
            },
        };
        Self::rotate(self, only, actor).await.map_err(refused)
    }

    async fn revoke(&self, kid: &str, reason: Option<&str>, actor: &Actor) -> Result<Value, KeyRefused> {
        Self::revoke(self, kid, reason, actor).await.map_err(refused)
    }
}

fn refused(error: KeysError) -> KeyRefused {
    match error {
        KeysError::Unknown(_) => KeyRefused::Unknown,
        KeysError::Store(fault) => KeyRefused::Store(fault),
        KeysError::Contended => KeyRefused::Store(StoreError::Unavailable(KeysError::Contended.to_string())),
        other => KeyRefused::Conflict(other.to_string()),
    }
}

/// Who changes keys, and why.
struct Author<'a> {
    actor: Option<&'a Actor>,
    reason: Option<&'a str>,
}

impl Author<'_> {
    fn sign(&self, event: NewEvent) -> NewEvent {
        match self.actor {
            Some(actor) => actor.sign(event),
            None => event.with("actor", "schedule"),
        }
    }
}
