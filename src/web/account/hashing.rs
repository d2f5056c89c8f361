//! The bounded pool that hashes passwords: so many at a time, so many waiting, the rest is told to come back (RFC 9106 for the hash).
//!
//! A password costs about as much as a thousand tokens. The pool keeps a flood of logins from taking the processor and the memory that
//! tokens and introspection need; beyond it the answer is 503 with `Retry-After`.
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hashing {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    threads: usize,
    queue: usize,
}

/// Everything is taken: try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked")]
pub struct Busy;

impl Busy {
    /// `Retry-After`, seconds.
    pub const RETRY_AFTER: i64 = 2;
}

impl Hashing {
    /// How many may wait for each that runs.
    pub const QUEUE_PER_THREAD: usize = 32;

    /// A pool that runs `threads` hashes at a time (at least one).
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let queue = threads * Self::QUEUE_PER_THREAD;
        Self { running: Arc::new(Semaphore::new(threads)), admitted: Arc::new(Semaphore::new(threads + queue)), threads, queue }
    }

    /// Hashes that run at a time; each takes the memory of one password hash.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.threads
    }

    /// Hashes that may wait.
    #[must_use]
    pub const fn queue(&self) -> usize {
        self.queue
    }

    /// Waits for a turn to hash.
    ///
    /// # Errors
    /// [`Busy`] if the queue is full (or the process is going down).
    pub async fn turn(&self) -> Result<Turn, Busy> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| Busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Busy)?;
        Ok(Turn { _permits: [running, admitted] })
    }

    /// Runs one hash off the event loop.
    ///
    /// # Errors
    /// [`Busy`] if the queue is full (or the process is going down).
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        self.turn().await?.run(work).await.map(|(result, _)| result)
    }
}

/// A turn to hash: nobody else has it until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Turn {
    /// Runs one hash off the event loop, and gives the turn back: what follows from the result may be settled before the next one's turn.
    ///
    /// # Errors
    /// [`Busy`] if the process is going down.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<(T, Self), Busy> {
        // The permits go with the work: a visitor who leaves does not make room for more than the pool can do.
        tokio::task::spawn_blocking(move || (work(), self)).await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn beyond_the_queue_the_answer_is_busy() {
        let pool = Hashing::new(1);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = {
            let pool = pool.clone();
            tokio::spawn(async move { pool.run(move || wait.recv().is_err()).await })
        };
        while pool.running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..pool.queue())
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.run(|| true).await })
            })
            .collect();
        while pool.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| true).await, Err(Busy));
        drop(go);
        assert_eq!(first.await.expect("joined"), Ok(true));
        for one in waiting {
            assert_eq!(one.await.expect("joined"), Ok(true));
        }
    }
}
