//! The one way to create, replace, patch and delete an administered object: REST, seeds and commands all come here.
use std::sync::Arc;

use edge::api_key::Owner;
use ledger::{Change, EventKind, Mistake, Object, ObjectKind, Outcome, Page, Step, Store, StoreError};
use serde_json::Value;
use tokens::{
    Clock, Entropy, id,
    seal::Kek,
    secret::{MacKey, Plain},
};
use tokio::sync::{Mutex, Semaphore};

use crate::{
    api_keys, devices,
    draft::{self, Draft},
    json,
    lifecycle::user_turned,
    links,
    revocations::Order,
    secrets::{self, Turn},
    state::Actor,
};

/// Why an object was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The content is wrong; every mistake is listed.
    #[error("{} mistakes", .0.len())]
    Invalid(Vec<Mistake>),
    /// Its id or natural key is taken, or something refers to it. The text names the member.
    #[error("{0}")]
    Conflict(String),
    /// There is no such object.
    #[error("there is no such object")]
    Unknown,
    /// It is another version than the caller wants to change.
    #[error("the object was changed meanwhile")]
    Stale,
    /// No hashing permit in time.
    #[error("too many passwords are being hashed")]
    Busy,
    /// A fault of storage.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which stored version the caller wants to change (RFC 9110 §13.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever is stored.
    Any,
    /// One of these.
    Versions(Vec<i64>),
}

impl Wanted {
    fn admits(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Created,
    /// It was replaced.
    Replaced,
    /// It was so already.
    Unchanged,
}

/// An object on its way into a change.
#[derive(Debug)]
pub struct Prepared {
    /// As it will be stored.
    pub object: Object,
    /// What becomes of it.
    pub action: Action,
    /// The secret that was made for it; to be shown once.
    pub generated: Option<Plain>,
    /// What the store is asked; empty if unchanged.
    pub change: Change,
}

/// An object as it is stored now.
#[derive(Debug)]
pub struct Done {
    /// The object.
    pub object: Object,
    /// What became of it.
    pub action: Action,
    /// The secret that was made for it; to be shown once.
    pub generated: Option<Plain>,
}

/// The administered objects.
#[derive(Clone)]
pub struct Objects {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Key of every stored secret's MAC.
    pub mac: MacKey,
    /// Permits to hash a password; shared with whoever else hashes in this process.
    pub hashing: Arc<Semaphore>,
    /// This server's issuer identifier: what `self` means in a route.
    pub issuer: String,
    /// What secrets that have to be shown to others are sealed under; none where none can be kept.
    pub kek: Option<Kek>,
    /// Whether ML-DSA-65 keys sign here, so that a registration may name them.
    pub post_quantum: bool,
    /// One change of the route table at a time in this process: it is checked as a whole.
    linking: Arc<Mutex<()>>,
}

/// How often a change is decided again when somebody else was first.
pub(crate) const ATTEMPTS: usize = 4;

impl Objects {
    /// Over a database.
    #[must_use]
    pub fn new(
        issuer: &str,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        mac: MacKey,
        hashing: Arc<Semaphore>,
    ) -> Self {
        Self {
            store,
            clock,
            entropy,
            mac,
            hashing,
            issuer: issuer.to_owned(),
            post_quantum: false,
            kek: None,
            linking: Arc::new(Mutex::new(())),
        }
    }

    /// Reads a document that was given, under what this deployment can do.
    pub(crate) fn drafted(&self, kind: ObjectKind, given: Value, stored: Option<&Object>) -> Result<Draft, Vec<Mistake>> {
        let draft = draft::read(kind, given, stored, || self.new_id())?;
        let unable = draft.document.as_object().map(|members| protocol::signing::mistakes(members, self.post_quantum)).unwrap_or_default();
        if unable.is_empty() { Ok(draft) } else { Err(unable) }
    }

    /// An object by its id, or by its natural key.
    ///
    /// # Errors
    /// Storage is away.
    pub async fn find(&self, kind: ObjectKind, name: &str) -> Result<Option<Object>, StoreError> {
        match self.store.object(kind, name).await? {
            Some(object) => Ok(Some(object)),
            None => self.store.object_by_key(kind, name).await,
        }
    }

    /// A page of objects by ascending id.
    ///
    /// # Errors
    /// Storage is away.
    pub async fn list(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
        self.store.objects(kind, after, limit).await
    }

    /// Stores a new object.
    ///
    /// # Errors
    /// See [`Failure`]; nothing was stored.
    pub async fn create(&self, kind: ObjectKind, given: Value, actor: &Actor) -> Result<Done, Failure> {
        let _one = self.hold(kind).await;
        let order = self.order(actor);
        let mut draft = self.drafted(kind, given, None).map_err(Failure::Invalid)?;
        if self.taken(&draft).await? {
            return Err(taken(kind));
        }
        sound(self.settle(&mut draft, true, &[]).await?)?;
        links::check(self, &[(kind, draft.id.as_str(), Some(&draft.document))]).await?;
        self.unmarked(kind, &draft.id, &draft.document).await?;
        let prepared = self.prepare(draft, None, order).await?;
        match self.store.apply(prepared.change).await? {
            Outcome::Applied { .. } => Ok(Done { object: prepared.object, action: prepared.action, generated: prepared.generated }),
            Outcome::Refused(_) => Err(taken(kind)),
        }
    }

    /// Replaces an object: what is not given takes its default; its secret stays unless one is given.
    ///
    /// # Errors
    /// See [`Failure`]; nothing was changed.
    pub async fn replace(&self, kind: ObjectKind, name: &str, given: &Value, wanted: &Wanted, actor: &Actor) -> Result<Done, Failure> {
        self.rewrite(kind, name, wanted, actor, |_| given.clone()).await
    }

    /// Changes members of an object (RFC 7396).
    ///
    /// # Errors
    /// See [`Failure`]; nothing was changed.
    pub async fn patch(&self, kind: ObjectKind, name: &str, patch: &Value, wanted: &Wanted, actor: &Actor) -> Result<Done, Failure> {
        self.rewrite(kind, name, wanted, actor, |stored| {
            let mut document = stored.document.clone();
            json::merge(&mut document, patch.clone());
            document
        })
        .await
    }

    async fn rewrite(
        &self,
        kind: ObjectKind,
        name: &str,
        wanted: &Wanted,
        actor: &Actor,
        new: impl Fn(&Object) -> Value + Send + Sync,
    ) -> Result<Done, Failure> {
        let _one = self.hold(kind).await;
        for _ in 0..ATTEMPTS {
            let stored = self.find(kind, name).await?.ok_or(Failure::Unknown)?;
            if !wanted.admits(stored.version) {
                return Err(Failure::Stale);
            }
            let mut draft = self.drafted(kind, new(&stored), Some(&stored)).map_err(Failure::Invalid)?;
            sound(self.settle(&mut draft, false, &[]).await?)?;
            if draft.key != stored.key && self.store.object_by_key(kind, &draft.key).await?.is_some() {
                return Err(taken(kind));
            }
            if kind == ObjectKind::ResourceServer && draft.key != stored.key {
                links::unnamed(self, &stored.key).await?;
            }
            links::check(self, &[(kind, draft.id.as_str(), Some(&draft.document))]).await?;
            self.unmarked(kind, &draft.id, &draft.document).await?;
            let prepared = self.prepare(draft, Some(stored), self.order(actor)).await?;
            if prepared.action == Action::Unchanged || self.store.apply(prepared.change).await?.applied() {
                return Ok(Done { object: prepared.object, action: prepared.action, generated: prepared.generated });
            }
        }
        Err(Failure::Stale)
    }

    /// Deletes an object and its secrets; of a user or client, everything it holds ends and is revoked.
    ///
    /// # Errors
    /// See [`Failure`]; nothing was changed.
    pub async fn delete(&self, kind: ObjectKind, name: &str, wanted: &Wanted, actor: &Actor) -> Result<(), Failure> {
        let _one = self.hold(kind).await;
        for _ in 0..ATTEMPTS {
            let stored = self.find(kind, name).await?.ok_or(Failure::Unknown)?;
            if !wanted.admits(stored.version) {
                return Err(Failure::Stale);
            }
            if kind == ObjectKind::ResourceServer {
                links::unnamed(self, &stored.key).await?;
            }
            links::check(self, &[(kind, stored.id.as_str(), None)]).await?;
            self.no_device_is(kind, &stored.id).await?;
            let order = self.order(actor);
            let guard = Change::new().step(Step::DeleteObject { kind, id: stored.id.clone(), version: Some(stored.version) });
            let change = match kind {
                ObjectKind::User => {
                    let guard = guard.step(Step::ForgetConsents { subject: stored.id.clone(), client_id: None });
                    guard.step(order.keys_of(&Owner::Subject(stored.id.clone()))).and(order.subject(&stored.id))
                }
                ObjectKind::Client => {
                    let guard = guard.step(Step::ForgetConsentsOfClient { client_id: stored.id.clone() }).and(order.client(&stored.id));
                    let guard = guard.step(order.keys_of(&Owner::ClientId(stored.id.clone())));
                    self.without_stream(guard, &stored.id).await?
                }
                ObjectKind::Device => {
                    guard.step(order.keys_of(&Owner::Device(stored.id.clone()))).and(devices::unbind(&stored.document, order))
                }
                ObjectKind::ApiKey => guard.and(self.end_api_key(&stored, order).await?),
                _ => guard,
            };
            let event = about(order, EventKind::ObjectDeleted, kind, &stored.id);
            let event = if kind == ObjectKind::Device { devices::naming_clients(event, &[&stored.document]) } else { event };
            if self.store.apply(change.event(event)).await?.applied() {
                return Ok(());
            }
        }
        Err(Failure::Stale)
    }

    /// A client's stream of signals goes with it: whoever is made under the same id later does not inherit it.
    async fn without_stream(&self, change: Change, client_id: &str) -> Result<Change, Failure> {
        let stream = self.store.object_by_key(ObjectKind::SignalStream, client_id).await?;
        Ok(match stream {
            Some(stream) => change.step(Step::DeleteObject { kind: ObjectKind::SignalStream, id: stream.id, version: None }),
            None => change,
        })
    }

    /// What would be stored, and the change that stores it.
    ///
    /// # Errors
    /// [`Failure::Busy`], or storage is away.
    pub async fn prepare(&self, draft: Draft, stored: Option<Object>, order: Order<'_>) -> Result<Prepared, Failure> {
        match stored {
            None => self.prepare_new(draft, order).await,
            Some(stored) => self.prepare_replacement(draft, stored, order).await,
        }
    }

    async fn prepare_new(&self, draft: Draft, order: Order<'_>) -> Result<Prepared, Failure> {
        let turn = secrets::turn(self, &draft, None, order.at_ms).await?;
        let now = order.at_ms.div_euclid(1000);
        let object = Object {
            kind: draft.kind,
            id: draft.id,
            key: draft.key,
            document: draft.document,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let mut change = Change::new().step(Step::CreateObject(object.clone()));
        let generated = match turn {
            Turn::Put { slot, value, generated } => {
                change = change.step(secrets::put(object.kind, &object.id, slot, value));
                generated
            }
            Turn::Versions { steps, generated, .. } => {
                change.steps.extend(steps);
                // Whoever was told that there is no such key asks again.
                change = change.and(order.api_key(&object.id));
                generated
            }
            Turn::Keep | Turn::Remove => None,
        };
        let mut event = about(order, EventKind::ObjectCreated, object.kind, &object.id);
        if object.kind == ObjectKind::Device {
            change = change.and(devices::bind(&object.document, order));
            event = devices::naming_clients(event, &[&object.document]);
        }
        let change = change.event(event);
        Ok(Prepared { object, action: Action::Created, generated, change })
    }

    async fn prepare_replacement(&self, draft: Draft, stored: Object, order: Order<'_>) -> Result<Prepared, Failure> {
        let turn = secrets::turn(self, &draft, Some(&stored), order.at_ms).await?;
        let rewritten = draft.document != stored.document;
        if !rewritten && matches!(turn, Turn::Keep) {
            return Ok(Prepared { object: stored, action: Action::Unchanged, generated: None, change: Change::new() });
        }
        let (kind, id) = (stored.kind, stored.id.clone());
        let mut change = self.touch(&stored, &draft.key, &draft.document, order);
        if rewritten {
            let mut event = about(order, EventKind::ObjectReplaced, kind, &id);
            if kind == ObjectKind::Device {
                event = devices::naming_clients(event, &[&stored.document, &draft.document]);
            }
            change = change.event(event).and(consequences(&stored, &draft.document, order));
        }
        let generated = match turn {
            Turn::Keep => None,
            Turn::Remove => {
                change = secrets::SLOTS.iter().fold(change, |c, slot| c.step(secrets::remove(kind, &id, slot)));
                change = change.event(about(order, EventKind::SecretRotated, kind, &id).with("removed", true));
                None
            }
            Turn::Versions { steps, generated, rotated } => {
                change.steps.extend(steps);
                if rotated {
                    change = change.event(about(order, EventKind::ApiKeyRotated, kind, &id).with("overlap_s", 0)).and(order.api_key(&id));
                }
                generated
            }
            Turn::Put { slot, value, generated } => {
                change = change.step(secrets::put(kind, &id, slot, value));
                if kind == ObjectKind::Client {
                    change = change.step(secrets::remove(kind, &id, secrets::PREVIOUS));
                }
                change = change.event(about(order, EventKind::SecretRotated, kind, &id));
                if kind == ObjectKind::User {
                    change = change.event(about(order, EventKind::PasswordChanged, kind, &id).subject(&id)).and(order.subject(&id));
                }
                generated
            }
        };
        let object = Object {
            key: draft.key,
            document: draft.document,
            version: stored.version + 1,
            updated_at: order.at_ms.div_euclid(1000),
            ..stored
        };
        Ok(Prepared { object, action: Action::Replaced, generated, change })
    }

    /// The guard of every change of a stored object: it is still the version that was read.
    pub(crate) fn touch(&self, stored: &Object, key: &str, document: &Value, order: Order<'_>) -> Change {
        Change::new().step(Step::ReplaceObject {
            kind: stored.kind,
            id: stored.id.clone(),
            key: key.to_owned(),
            document: document.clone(),
            version: stored.version,
            now: order.at_ms.div_euclid(1000),
        })
    }

    /// Whether the id or natural key of a new object is in use.
    async fn taken(&self, draft: &Draft) -> Result<bool, StoreError> {
        Ok(self.store.object(draft.kind, &draft.id).await?.is_some() || self.store.object_by_key(draft.kind, &draft.key).await?.is_some())
    }

    /// An order of now.
    #[must_use]
    pub fn order<'a>(&self, actor: &'a Actor) -> Order<'a> {
        Order { at_ms: self.clock.now_ms(), actor, reason: None }
    }

    /// A new time-ordered id.
    #[must_use]
    pub fn new_id(&self) -> String {
        id::new_text(self.clock.now_ms(), &*self.entropy)
    }

    /// A new client secret.
    pub(crate) fn new_client_secret(&self, at_ms: i64) -> Plain {
        tokens::secret::generate(tokens::secret::SecretKind::ClientSecret, at_ms, &*self.entropy, &self.mac).plain
    }

    /// Holds off other changes of the route table in this process while one is checked and applied.
    pub(crate) async fn hold(&self, kind: ObjectKind) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if links::linked(kind) { Some(self.linking.lock().await) } else { None }
    }
}

/// An event about an object: caches are invalidated by `object` and `id`.
pub(crate) fn about(order: Order<'_>, event: EventKind, kind: ObjectKind, id: &str) -> ledger::NewEvent {
    order.event(event).with("object", kind.as_str()).with("id", id)
}

fn sound(mistakes: Vec<Mistake>) -> Result<(), Failure> {
    if mistakes.is_empty() { Ok(()) } else { Err(Failure::Invalid(mistakes)) }
}

fn taken(kind: ObjectKind) -> Failure {
    let (name, key) = (kind.as_str().replace('_', " "), crate::schema::key_member(kind));
    let names = if key == "id" { key.to_owned() } else { format!("id or {key}") };
    Failure::Conflict(format!("another {name} with that {names} exists already"))
}

/// What follows from a replacement: a user or client that becomes disabled loses everything it holds.
fn consequences(stored: &Object, document: &Value, order: Order<'_>) -> Change {
    let disabled = |doc: &Value| doc.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    match (stored.kind, disabled(&stored.document), disabled(document)) {
        (ObjectKind::User, before, after) if before != after => user_turned(&stored.id, after, order),
        (ObjectKind::Client, false, true) => order.client(&stored.id),
        (ObjectKind::ApiKey, ..) => api_keys::consequences(stored, document, order),
        (ObjectKind::Device, ..) => devices::rebind(&stored.document, document, order),
        _ => Change::new(),
    }
}
