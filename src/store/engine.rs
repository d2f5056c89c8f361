//! The port over any engine: reads on its readers, changes through its writer.
use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use ledger::{
    Artefact, ArtefactKind, Change, Consent, Event, EventKind, Grant, KeyRow, Listener, Listings, NewEvent, Object, ObjectKind, Outcome,
    Page, Revocation, Session, Store, StoreError, chain, revocation::KEPT_LONGER_S,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    backup::{self, BackupError, Progress, Restored, Saved},
    exec::Exec,
    postgres::ReplicaReport,
    purge, read,
    writer::{Job, Shared},
};

/// The named value that says that a restored database has not been cut off from what was alive in its backup.
pub const RESTORE_PENDING: &str = "restore.pending";

/// The named value that says when a database was restored, milliseconds since the epoch: which assertions were used between its backup
/// and then is not known, so none that was made before counts.
pub const RESTORED_AT: &str = "restore.at";

/// Rows per table.
pub(crate) type Counts = Vec<(&'static str, u64)>;

/// What a folder of connection handling gives.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The engine's name.
    const ENGINE: &'static str;
    /// A connection for reads.
    type Reader: Exec;
    /// A free one.
    fn reader(&self) -> impl Future<Output = Result<Self::Reader, StoreError>> + Send;
    /// One whose reads all see one moment.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Reader, StoreError>> + Send;
    /// Rows per table.
    fn counts(&self) -> impl Future<Output = Result<Counts, StoreError>> + Send;
    /// When this node last knew it had seen every commit.
    fn fresh_at_ms(&self) -> i64;
    /// Whether what is in memory is what a restart would find.
    fn present(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Pages and counts that replicas may give; none where there are no replicas.
    fn listings(&self) -> Option<Arc<dyn Listings>> {
        None
    }
    /// How the replicas stand.
    fn replicas(&self) -> Vec<ReplicaReport> {
        Vec::new()
    }
    /// Looks at the replicas now.
    fn look_at_replicas(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// An open database: the port, and what only its operator asks for.
#[async_trait]
pub trait Database: Store {
    /// `sqlite` or `postgres`.
    fn engine(&self) -> &'static str;
    /// Writes everything, as of one moment, into a new file that either engine can restore. Never overwrites a file.
    async fn backup_to(&self, path: &Path, progress: Progress) -> Result<Saved, BackupError>;
    /// Fills an empty database from a backup and appends a `storage.restored` event. What a bearer or a browser could
    /// use (opaque access tokens, codes, pushed requests, device codes, API keys, forms, browsers) stays behind. The rest is as it was: what
    /// was revoked or consumed after the backup has to be cut off by the caller (end all grants and sessions, revoke the
    /// signing keys). Until that is done the named value [`RESTORE_PENDING`] is there, put by the same transaction that
    /// brought the rows: whoever opens such a database finishes the cut before serving anything, and removes it last.
    async fn restore_from(&self, path: &Path, progress: Progress) -> Result<Restored, BackupError>;
    /// Removes the events before `before_seq` (the newest always stays) and keeps a checkpoint from which the rest verifies.
    /// Appends a `ledger.truncated` event. Returns how many events went.
    async fn truncate_events(&self, before_seq: u64) -> Result<u64, StoreError>;
    /// Where verification of the ledger starts: position and chain value before the oldest kept event.
    async fn checkpoint(&self) -> Result<(u64, [u8; 32]), StoreError>;
    /// Pages and counts, from replicas where there are some that do; none where there are no replicas.
    fn listings(&self) -> Option<Arc<dyn Listings>>;
    /// How the replicas stood when they were last looked at.
    fn replicas(&self) -> Vec<ReplicaReport>;
    /// Looks at the replicas now.
    async fn look_at_replicas(&self);
}

/// A database of any engine.
pub(crate) struct Engine<B> {
    // Dropped first: the writer ends when nobody can send any more. None where nobody writes.
    jobs: Option<mpsc::Sender<Job>>,
    shared: Arc<Shared>,
    backend: B,
}

impl<B: Backend> Engine<B> {
    pub(crate) fn new(jobs: mpsc::Sender<Job>, shared: Arc<Shared>, backend: B) -> Self {
        Self { jobs: Some(jobs), shared, backend }
    }

    /// One that only reads.
    pub(crate) fn reading(shared: Arc<Shared>, backend: B) -> Self {
        Self { jobs: None, shared, backend }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| StoreError::Unavailable("the database was opened for reading only".to_owned()))?;
        let (done, answer) = oneshot::channel();
        jobs.try_send(job(done)).map_err(|refused| {
            StoreError::Unavailable(match refused {
                mpsc::error::TrySendError::Full(_) => "too many changes are waiting".to_owned(),
                mpsc::error::TrySendError::Closed(_) => "the writer has stopped".to_owned(),
            })
        })?;
        answer.await.map_err(|_| StoreError::Unavailable("the writer stopped; whether the change was made is not known".to_owned()))
    }
}

#[async_trait]
impl<B: Backend> Store for Engine<B> {
    async fn apply(&self, change: Change) -> Result<Outcome, StoreError> {
        let ask = change.into();
        self.ask(|done| Job::Apply(ask, done)).await?
    }

    async fn artefact(&self, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError> {
        let Some(recent) = self.shared.recent() else { return read::artefact(&mut self.backend.reader().await?, kind, id).await };
        self.backend.present()?;
        let began = match recent.artefact(kind, id) {
            Ok(found) => return Ok(Some(found)),
            Err(began) => began,
        };
        let found = read::artefact(&mut self.backend.reader().await?, kind, id).await?;
        recent.read_artefact(began, found.as_ref());
        Ok(found)
    }
    async fn waiting(&self, owner: &str, now: i64, limit: u32) -> Result<Vec<Artefact>, StoreError> {
        read::waiting(&mut self.backend.reader().await?, owner, now, limit).await
    }
    async fn participants(&self, session: &str, limit: u32) -> Result<Vec<Artefact>, StoreError> {
        read::participants(&mut self.backend.reader().await?, session, limit).await
    }
    async fn left_behind(&self, since: i64, now: i64, page: (u32, u32)) -> Result<Vec<Artefact>, StoreError> {
        read::left_behind(&mut self.backend.reader().await?, since, now, page).await
    }
    async fn artefacts(&self, kind: ArtefactKind, prefix: &[u8], after: &[u8], limit: u32) -> Result<Vec<Artefact>, StoreError> {
        read::artefacts(&mut self.backend.reader().await?, kind, prefix, after, limit).await
    }
    async fn grant(&self, id: &str) -> Result<Option<Grant>, StoreError> {
        let Some(recent) = self.shared.recent() else { return read::grant(&mut self.backend.reader().await?, id).await };
        self.backend.present()?;
        let began = match recent.grant(id) {
            Ok(found) => return Ok(Some(found)),
            Err(began) => began,
        };
        let found = read::grant(&mut self.backend.reader().await?, id).await?;
        recent.read_grant(began, found.as_ref());
        Ok(found)
    }
    async fn grants(
        &self,
        subject: Option<&str>,
        client_id: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<Grant>, StoreError> {
        read::grants(&mut self.backend.reader().await?, (subject, client_id), self.shared.clock.now(), after, limit).await
    }
    async fn session(&self, id: &str) -> Result<Option<Session>, StoreError> {
        let Some(recent) = self.shared.recent() else { return read::session(&mut self.backend.reader().await?, id).await };
        self.backend.present()?;
        let began = match recent.session(id) {
            Ok(found) => return Ok(Some(found)),
            Err(began) => began,
        };
        let found = read::session(&mut self.backend.reader().await?, id).await?;
        recent.read_session(began, found.as_ref());
        Ok(found)
    }
    async fn sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError> {
        read::sessions(&mut self.backend.reader().await?, subject, self.shared.clock.now(), after, limit).await
    }
    async fn consent(&self, subject: &str, client_id: &str) -> Result<Option<Consent>, StoreError> {
        let Some(recent) = self.shared.recent() else {
            return read::consent(&mut self.backend.reader().await?, subject, client_id).await;
        };
        self.backend.present()?;
        let began = match recent.consent(subject, client_id) {
            Ok(found) => return Ok(found),
            Err(began) => began,
        };
        let found = read::consent(&mut self.backend.reader().await?, subject, client_id).await?;
        recent.read_consent(began, (subject, client_id), found.as_ref());
        Ok(found)
    }

    async fn object(&self, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError> {
        read::object(&mut self.backend.reader().await?, kind, id).await
    }
    async fn object_by_key(&self, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError> {
        read::object_by_key(&mut self.backend.reader().await?, kind, key).await
    }
    async fn objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
        read::objects(&mut self.backend.reader().await?, kind, after, limit).await
    }
    async fn secret(&self, kind: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read::secret(&mut self.backend.reader().await?, kind, id, slot).await
    }
    async fn two_secrets(&self, kind: ObjectKind, id: &str, slots: [&str; 2]) -> Result<[Option<Vec<u8>>; 2], StoreError> {
        read::two_secrets(&mut self.backend.reader().await?, kind, id, slots).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        read::keys(&mut self.backend.reader().await?).await
    }
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read::meta(&mut self.backend.reader().await?, name).await
    }

    async fn events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        read::events(&mut self.backend.reader().await?, after, limit).await
    }
    async fn head(&self) -> Result<(u64, [u8; 32]), StoreError> {
        read::head(&mut self.backend.reader().await?).await
    }
    async fn revocations(&self, after: u64, now: i64, limit: u32) -> Result<Vec<Revocation>, StoreError> {
        read::revocations(&mut self.backend.reader().await?, after, now.saturating_sub(KEPT_LONGER_S), limit).await
    }

    async fn purge(&self, now: i64, batch: u32) -> Result<u64, StoreError> {
        self.ask(|done| Job::Purge { now, batch, done }).await?
    }
    async fn counts(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.backend.counts().await
    }
    fn listen(&self, listener: Arc<dyn Listener>) {
        self.shared.listen(listener);
    }
    fn fresh_at_ms(&self) -> i64 {
        self.backend.fresh_at_ms()
    }
}

#[async_trait]
impl<B: Backend> Database for Engine<B> {
    fn engine(&self) -> &'static str {
        B::ENGINE
    }

    async fn backup_to(&self, path: &Path, progress: Progress) -> Result<Saved, BackupError> {
        let total = self.backend.counts().await?.into_iter().map(|(_, rows)| rows).sum();
        backup::save(&mut self.backend.snapshot().await?, path, self.shared.clock.now_ms(), total, &progress).await
    }

    async fn restore_from(&self, path: &Path, progress: Progress) -> Result<Restored, BackupError> {
        let from = path.to_owned();
        self.ask(|done| Job::Restore { from, progress, done }).await?
    }

    async fn truncate_events(&self, before_seq: u64) -> Result<u64, StoreError> {
        let through = before_seq.saturating_sub(1);
        if through <= self.checkpoint().await?.0 {
            return Ok(0);
        }
        let event = NewEvent::new(EventKind::LedgerTruncated, self.shared.clock.now_ms()).with("before", before_seq);
        self.apply(Change::new().event(event)).await?;
        let mut gone = 0;
        loop {
            match self.ask(|done| Job::Truncate { through, done }).await?? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }

    async fn checkpoint(&self) -> Result<(u64, [u8; 32]), StoreError> {
        self.meta(purge::CHECKPOINT).await?.map_or(Ok((0, chain::GENESIS)), |stored| purge::checkpoint(&stored))
    }

    fn listings(&self) -> Option<Arc<dyn Listings>> {
        self.backend.listings()
    }

    fn replicas(&self) -> Vec<ReplicaReport> {
        self.backend.replicas()
    }

    async fn look_at_replicas(&self) {
        self.backend.look_at_replicas().await;
    }
}
