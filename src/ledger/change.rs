//! A state change as data: what a pure decision asks the store to do in one transaction.
use crate::{
    event::NewEvent,
    object::{Object, ObjectKind},
    record::{Artefact, ArtefactKind, Consent, Grant, KeyRow, KeyState, Session},
    revocation::{Revocation, RevocationKind},
};

/// One step of a change. A *guard* must touch or find exactly one row, or the whole change is refused and leaves nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Guard: consumes a one-time thing. One conditional statement: not consumed, not expired (`expires_at > now`).
    Consume { kind: ArtefactKind, id: Vec<u8>, now: i64, successor: Option<Vec<u8>> },
    /// Guard: the grant exists, has not ended and has not expired.
    GrantLive { id: String, now: i64 },
    /// Guard: the session exists, has not ended and has not expired.
    SessionLive { id: String, now: i64 },
    /// Guard: the object exists with exactly this version. Whoever decides from a copy in memory says with it which copy
    /// that was; whatever was changed, disabled, deleted or given another secret since then refuses the change.
    ObjectIs { kind: ObjectKind, id: String, version: i64 },
    /// Guard: gives a one-time thing that may still be consumed (`expires_at > now`) another expiry.
    Extend { kind: ArtefactKind, id: Vec<u8>, now: i64, expires_at: i64 },
    /// Guard: gives a one-time thing that may still be consumed (`expires_at > now`) and whose MAC is still `from` the MAC `to` and another life:
    /// of two with the same secret one goes on. `born` is kept as its successor.
    Rotate { kind: ArtefactKind, id: Vec<u8>, now: i64, from: Vec<u8>, to: Vec<u8>, expires_at: i64, born: Option<Vec<u8>>, seq: u64 },
    /// Guard: stores a new short-lived thing; refused if one of that kind and id is there (one-time ids).
    Put(Artefact),
    /// Stores or replaces a short-lived thing (browser sessions).
    Save(Artefact),
    /// Removes a short-lived thing if it is there.
    Remove { kind: ArtefactKind, id: Vec<u8> },
    /// Removes every version of every API key of an owner (`client:…`, `subject:…`, `device:…`).
    EndApiKeysOf { owner: String },
    /// Starts a grant.
    StartGrant(Grant),
    /// Replaces scope and document of a grant.
    UpdateGrant { id: String, scope: String, document: serde_json::Value, expires_at: i64 },
    /// Ends a grant if it is live; its artefacts cannot be consumed any more.
    EndGrant { id: String, now: i64 },
    /// Ends every live grant of a subject (and of one client, if named).
    EndGrantsOf { subject: Option<String>, client_id: Option<String>, now: i64 },
    /// Ends every live grant that began in a session.
    EndGrantsOfSession { id: String, now: i64 },
    /// Starts a session.
    StartSession(Session),
    /// Guard: replaces auth_time, amr, document and expiry of a live session.
    UpdateSession(Session),
    /// Ends a session if it is live.
    EndSession { id: String, now: i64 },
    /// Ends every live session of a subject.
    EndSessionsOf { subject: String, now: i64 },
    /// Guard: stores a new object (refused if its id or natural key is taken).
    CreateObject(Object),
    /// Guard: replaces an object's document if its version is still `version`; the stored one becomes `version + 1`.
    ReplaceObject { kind: ObjectKind, id: String, key: String, document: serde_json::Value, version: i64, now: i64 },
    /// Guard: deletes an object (if `version` is given, only that version) and its secrets.
    DeleteObject { kind: ObjectKind, id: String, version: Option<i64> },
    /// Stores or replaces a secret of an object: a MAC, a password hash, a sealed value.
    PutSecret { kind: ObjectKind, id: String, slot: String, value: Vec<u8> },
    /// Removes a secret.
    RemoveSecret { kind: ObjectKind, id: String, slot: String },
    /// Remembers a consent, replacing what was remembered for that subject and client.
    PutConsent(Consent),
    /// Forgets what a subject allowed (one client, or all).
    ForgetConsents { subject: String, client_id: Option<String> },
    /// Forgets what anybody allowed a client.
    ForgetConsentsOfClient { client_id: String },
    /// Stores a signing key.
    PutKey(KeyRow),
    /// Guard: moves a key from one of the `from` states.
    MoveKey { kid: String, from: Vec<KeyState>, to: KeyState, now: i64 },
    /// Removes a retired or revoked key's row.
    RemoveKey { kid: String },
    /// Guard: stores a named value that is not there yet (first writer wins).
    InitMeta { name: String, value: Vec<u8> },
    /// Stores or replaces a named value.
    PutMeta { name: String, value: Vec<u8> },
    /// Removes a named value if it is there.
    RemoveMeta { name: String },
    /// Adds a live revocation; the store gives it the position of this change's last event.
    Revoke(Revocation),
}

/// A state change: steps and the events that tell of it, applied in one transaction or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// In order; guards first where possible.
    pub steps: Vec<Step>,
    /// In order; at least one for every change a reader could care about.
    pub events: Vec<NewEvent>,
}

impl Change {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }
    /// Adds a revocation step; `expires_at` in seconds.
    #[must_use]
    pub fn revoke(self, kind: RevocationKind, id: impl Into<String>, at_ms: i64, expires_at: i64) -> Self {
        self.step(Step::Revoke(Revocation { kind, id: id.into(), seq: 0, at_ms, expires_at }))
    }
    /// Appends another change.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.steps.extend(other.steps);
        self.events.extend(other.events);
        self
    }
}

/// Which guard stopped a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarded {
    /// Index into [`Change::steps`].
    pub step: usize,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable. `seq` is the ledger head right after it.
    Applied { seq: u64 },
    /// A guard refused it; the database is as before.
    Refused(Guarded),
}

impl Outcome {
    /// Whether it was applied.
    #[must_use]
    pub const fn applied(self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}
