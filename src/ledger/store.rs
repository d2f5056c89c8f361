//! The port: what the pure crates ask of storage. Absence is `Option`; errors are faults.
use async_trait::async_trait;

use crate::{
    change::{Change, Outcome},
    event::Event,
    object::{Object, ObjectKind},
    record::{Artefact, ArtefactKind, Consent, Grant, KeyRow, Session},
    revocation::Revocation,
};

/// A fault of storage. Never a refusal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is overloaded: 503, try again.
    #[error("storage is away: {0}")]
    Unavailable(String),
    /// What is stored does not make sense.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
}

/// What one transaction committed; handed to every [`Listener`] before the change is acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// In ledger order. On a node that follows others' commits, theirs too (each at least once).
    pub events: Vec<Event>,
    /// The revocations among them.
    pub revocations: Vec<Revocation>,
    /// Up to here the ledger is known to this node without a gap, and every listener has heard it.
    pub head: u64,
}

/// Hears of every commit: this node's before it is acknowledged, other nodes' within a second. Must be quick,
/// must not block, must tolerate hearing the same thing twice.
///
/// A batch is told in two rounds. First every listener hears its rows, with the head as it was before them; when all
/// have heard, each hears the new head without rows. Whoever believes the head therefore believes nothing that
/// another listener still remembers differently.
pub trait Listener: Send + Sync {
    /// Called with each committed batch.
    fn committed(&self, batch: &Committed);
}

/// One page of a listing.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// At most the asked number.
    pub items: Vec<T>,
    /// Give this back to go on; `None` at the end.
    pub next: Option<String>,
}

/// The database.
#[async_trait]
pub trait Store: Send + Sync {
    /// Applies a change in one durable transaction together with its events.
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError>;

    /// A short-lived thing, consumed ones included until purged; `None` if never there or gone. Expiry is the caller's to check.
    async fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError>;
    /// What waits in the name of an owner (the `grant` of a backchannel request's row): live, unconsumed, oldest first. A store that
    /// keeps no list of them knows none.
    async fn waiting(&self, _owner: &str, _now: i64, _limit: u32) -> Result<Vec<Artefact>, StoreError> {
        Ok(Vec::new())
    }
    /// The clients that were told of a session ([`ArtefactKind::Participant`]), at most `limit`. A store that keeps no list knows none.
    async fn participants(&self, _session: &str, _limit: u32) -> Result<Vec<Artefact>, StoreError> {
        Ok(Vec::new())
    }
    /// The participants of sessions that ended at or after `since`, the longest ended first: whoever still has to be
    /// told; `(skip, limit)`. One whose `created_at` is after `now` is not due.
    async fn left_behind(&self, _since: i64, _now: i64, _page: (u32, u32)) -> Result<Vec<Artefact>, StoreError> {
        Ok(Vec::new())
    }
    /// The short-lived things of a kind whose id begins with `prefix`, ascending, after the id `after`, at most `limit`.
    async fn artefacts(&self, _kind: ArtefactKind, _prefix: &[u8], _after: &[u8], _limit: u32) -> Result<Vec<Artefact>, StoreError> {
        Err(StoreError::Unavailable("this store lists nothing".into()))
    }
    /// A grant, ended ones included.
    async fn grant(&self, id: &str) -> Result<Option<Grant>, StoreError>;
    /// Live grants of a subject and/or client, newest last; of everybody by id.
    async fn grants(
        &self,
        subject: Option<&str>,
        client_id: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<Grant>, StoreError>;
    /// A session, ended ones included.
    async fn session(&self, id: &str) -> Result<Option<Session>, StoreError>;
    /// Live sessions, oldest first, of a subject or of all.
    async fn sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError>;
    /// What a subject allowed a client.
    async fn consent(&self, subject: &str, client_id: &str) -> Result<Option<Consent>, StoreError>;

    /// An object by id.
    async fn object(&self, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError>;
    /// An object by natural key.
    async fn object_by_key(&self, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError>;
    /// Objects of a kind by ascending id.
    async fn objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError>;
    /// A secret of an object.
    async fn secret(&self, kind: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Two secrets of an object; a database reads both at once.
    async fn two_secrets(&self, kind: ObjectKind, id: &str, [one, other]: [&str; 2]) -> Result<[Option<Vec<u8>>; 2], StoreError> {
        Ok([self.secret(kind, id, one).await?, self.secret(kind, id, other).await?])
    }

    /// Every signing key.
    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError>;
    /// A named value.
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Events after a position, ascending, at most `limit`.
    async fn events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError>;
    /// The ledger's head: position and chain value.
    async fn head(&self) -> Result<(u64, [u8; 32]), StoreError>;
    /// Revocations after a position that may still matter ([`KEPT_LONGER_S`](crate::revocation::KEPT_LONGER_S)), by ascending position, at most `limit`.
    async fn revocations(&self, after: u64, now: i64, limit: u32) -> Result<Vec<Revocation>, StoreError>;

    /// Deletes expired rows in small batches (at most `batch` rows a table a call). Returns how many went.
    async fn purge(&self, now: i64, batch: u32) -> Result<u64, StoreError>;
    /// Rows per table, for metrics (may be an estimate).
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError>;
    /// Adds a reader of every commit.
    fn listen(&self, listener: std::sync::Arc<dyn Listener>);
    /// Seconds since the epoch at which this node last knew it had seen every commit (now, for an embedded database).
    fn fresh_at_ms(&self) -> i64;
}
