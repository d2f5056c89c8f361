//! Group commit: the one writer of a node takes whatever waits, commits it together, tells the listeners, then answers.
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ledger::{Committed, Event, Listener, Outcome, Revocation, StoreError};
use parking_lot::RwLock;
use tokens::Clock;
use tokio::sync::oneshot;

use crate::{
    apply::{self, Answer, Ask},
    backup::{self, BackupError, Progress, Restored},
    exec::Write,
    purge,
    recent::Recent,
};

/// At most so many changes share a transaction.
pub(crate) const BATCH: usize = 128;
/// At most so many jobs wait; more are turned away at once.
pub(crate) const QUEUE: usize = 8192;

/// What the writer is asked to do.
pub(crate) enum Job {
    Apply(Ask, oneshot::Sender<Answer>),
    Purge { now: i64, batch: u32, done: oneshot::Sender<Result<u64, StoreError>> },
    Truncate { through: u64, done: oneshot::Sender<Result<u64, StoreError>> },
    Restore { from: PathBuf, progress: Progress, done: oneshot::Sender<Result<Restored, BackupError>> },
}

/// What a node's writer, follower and readers share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    listeners: RwLock<Vec<Arc<dyn Listener>>>,
    known: AtomicU64,
    seen: AtomicU64,
    recent: Option<Recent>,
}

impl Shared {
    pub(crate) fn new(clock: Arc<dyn Clock>, head: u64) -> Self {
        Self { clock, listeners: RwLock::default(), known: AtomicU64::new(head), seen: AtomicU64::new(head), recent: None }
    }

    /// Of the only node that writes: what it wrote lately it need not read.
    pub(crate) fn alone(self) -> Self {
        Self { recent: Some(Recent::new()), ..self }
    }

    /// What was written and read lately, where that is kept.
    pub(crate) const fn recent(&self) -> Option<&Recent> {
        self.recent.as_ref()
    }

    /// Rows went in bulk, or whether they did is not known.
    fn forget(&self) {
        if let Some(recent) = &self.recent {
            recent.clear();
        }
    }

    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        self.listeners.write().push(listener);
    }

    /// Tells every listener the rows, and only then the head they lead to.
    pub(crate) fn tell(&self, events: Vec<Event>, revocations: Vec<Revocation>, head: u64) {
        let listeners = self.listeners.read();
        let mut batch = Committed { events, revocations, head: self.known().min(head) };
        for listener in listeners.iter() {
            listener.committed(&batch);
        }
        if head > batch.head {
            batch = Committed { head, ..Committed::default() };
            for listener in listeners.iter() {
                listener.committed(&batch);
            }
        }
    }

    /// Everything up to here was told to the listeners.
    pub(crate) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// Notes that everything up to `seq` was told.
    pub(crate) fn told(&self, seq: u64) {
        self.known.fetch_max(seq, Ordering::AcqRel);
        self.seen.fetch_max(seq, Ordering::AcqRel);
    }

    /// Whether something was committed that the listeners were not told.
    pub(crate) fn behind(&self) -> bool {
        self.known() < self.seen.load(Ordering::Acquire)
    }

    /// Notes an own commit that went from `before` to `head`: if others were in between, a follower has to read them.
    fn committed(&self, before: u64, head: u64) {
        self.seen.fetch_max(head, Ordering::AcqRel);
        let _ = self.known.compare_exchange(before, head, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Does every job, in order; neighbouring changes share a transaction.
pub(crate) async fn serve<W: Write>(w: &mut W, jobs: &mut Vec<Job>, shared: &Shared) {
    let (mut asks, mut callers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for job in jobs.drain(..) {
        let job = match job {
            Job::Apply(ask, caller) => {
                asks.push(ask);
                callers.push(caller);
                continue;
            }
            other => other,
        };
        flush(w, &mut asks, &mut callers, shared).await;
        match job {
            Job::Apply(..) => {}
            Job::Purge { now, batch, done } => {
                let purged = purge::purge(w, now, batch).await;
                if !matches!(purged, Ok(0)) {
                    shared.forget();
                }
                let _ = done.send(purged);
            }
            Job::Truncate { through, done } => drop(done.send(purge::truncate(w, through).await)),
            Job::Restore { from, progress, done } => {
                let restored = backup::restore(w, &from, shared.clock.now_ms(), &progress).await;
                shared.forget();
                if let Ok(restored) = &restored {
                    shared.told(restored.head);
                }
                let _ = done.send(restored);
            }
        }
    }
    flush(w, &mut asks, &mut callers, shared).await;
}

async fn flush<W: Write>(w: &mut W, asks: &mut Vec<Ask>, callers: &mut Vec<oneshot::Sender<Answer>>, shared: &Shared) {
    if asks.is_empty() {
        return;
    }
    let began = Instant::now();
    match apply::commit(w, asks).await {
        Ok(done) => {
            metrics::histogram!("store_commit_seconds", "engine" => W::ENGINE).record(began.elapsed().as_secs_f64());
            metrics::histogram!("store_batch_changes", "engine" => W::ENGINE).record(asks.len() as f64);
            let Committed { events, revocations, head } = done.committed;
            // Before anybody hears of it: whoever hears reads what there is now.
            if let Some(recent) = shared.recent() {
                let applied = asks.drain(..).zip(&done.answers).filter(|(_, answer)| matches!(answer, Ok(Outcome::Applied { .. })));
                applied.for_each(|(ask, _)| recent.committed(ask.into_steps()));
            }
            if !events.is_empty() {
                // Others' commits in between are not known yet: the head waits for the follower, who tells all of it.
                let contiguous = shared.known() == done.before;
                shared.tell(events, revocations, if contiguous { head } else { shared.known() });
            }
            // Only now: nobody may call this node up to date before its listeners have heard.
            shared.committed(done.before, head);
            for (caller, answer) in callers.drain(..).zip(done.answers) {
                let _ = caller.send(answer);
            }
        }
        Err(fault) => {
            tracing::error!(engine = W::ENGINE, changes = asks.len(), error = %fault, "a transaction failed");
            shared.forget();
            for caller in callers.drain(..) {
                let _ = caller.send(Err(fault.clone()));
            }
        }
    }
    asks.clear();
}
