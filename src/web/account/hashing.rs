//! The bounded pool that hashes passwords: so many at a time, so many waiting, the rest is told to come back (RFC 9106 for the hash).
//!
//! A password costs about as much as a thousand tokens. The pool keeps a flood of logins from taking the processor and the memory that
//! tokens and introspection need: its threads are few and of low priority, and beyond its queue the answer is 503 with `Retry-After`.
//! Sources take turns, and a queue that is full gives the place of whoever holds most to whoever holds less: failures from one source never
//! keep the password of another waiting for long.
use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock, mpsc},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The pool. Cheap to clone.
#[derive(Clone)]
pub struct Hashing(Arc<Pool>);

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    threads: usize,
    queue: usize,
    line: Mutex<Line>,
    /// Made with the first password.
    jobs: OnceLock<mpsc::Sender<Job>>,
    /// What each thread does first.
    begin: fn(),
}

/// Who waits.
#[derive(Default)]
struct Line {
    running: usize,
    waiting: usize,
    of: AHashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    /// Sources with somebody waiting, the next one first.
    order: VecDeque<IpAddr>,
}

/// Everything is taken: try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked")]
pub struct Busy;

impl Busy {
    /// `Retry-After`, seconds.
    pub const RETRY_AFTER: i64 = 2;
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashing").field("threads", &self.0.threads).field("queue", &self.0.queue).finish_non_exhaustive()
    }
}

impl Hashing {
    /// How many may wait for each that runs.
    pub const QUEUE_PER_THREAD: usize = 32;

    /// A pool that runs `threads` hashes at a time (at least one).
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::beginning(threads, || {})
    }

    /// The same; each thread begins with `begin`, which may lower its priority.
    #[must_use]
    pub fn beginning(threads: usize, begin: fn()) -> Self {
        let threads = threads.max(1);
        let queue = threads * Self::QUEUE_PER_THREAD;
        Self(Arc::new(Pool { threads, queue, line: Mutex::default(), jobs: OnceLock::new(), begin }))
    }

    /// Hashes that run at a time; each takes the memory of one password hash.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// Hashes that may wait.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.0.queue
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.line.lock().waiting
    }

    /// Waits for a turn to hash.
    ///
    /// # Errors
    /// [`Busy`] if the queue is full and no source holds more of it than this one, or if another took the place.
    pub async fn turn(&self, source: IpAddr) -> Result<Turn, Busy> {
        let waiting = {
            let mut line = self.0.line.lock();
            if line.running < self.0.threads {
                line.running += 1;
                None
            } else {
                Some(line.join(source, self.0.queue)?)
            }
        };
        match waiting {
            None => Ok(Turn { pool: Arc::clone(&self.0) }),
            Some(called) => called.await.map_err(|_| Busy),
        }
    }

    /// Runs one hash off the event loop.
    ///
    /// # Errors
    /// [`Busy`] if the queue is full (or the process is going down).
    pub async fn run<T: Send + 'static>(&self, source: IpAddr, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        self.turn(source).await?.run(work).await.map(|(result, _)| result)
    }
}

impl Line {
    /// Stands in line, in the place of somebody of a larger crowd if there is no other.
    fn join(&mut self, source: IpAddr, queue: usize) -> Result<oneshot::Receiver<Turn>, Busy> {
        if self.waiting >= queue {
            self.forget_the_gone();
        }
        if self.waiting >= queue {
            let mine = self.of.get(&source).map_or(0, VecDeque::len);
            let crowd = self.of.iter().map(|(of, line)| (line.len(), *of)).max_by_key(|(len, _)| *len);
            match crowd {
                // Strictly more than this source would then have.
                Some((most, of)) if most > mine + 1 => self.leave(of),
                _ => {
                    metrics::counter!("password_queue_refused_total", "why" => "full").increment(1);
                    return Err(Busy);
                }
            }
        }
        let (call, called) = oneshot::channel();
        let line = self.of.entry(source).or_default();
        if line.is_empty() {
            self.order.push_back(source);
        }
        line.push_back(call);
        self.waiting += 1;
        Ok(called)
    }

    /// The last of a source's line goes without a turn.
    fn leave(&mut self, source: IpAddr) {
        if let Some(line) = self.of.get_mut(&source)
            && line.pop_back().is_some()
        {
            self.waiting -= 1;
            metrics::counter!("password_queue_refused_total", "why" => "displaced").increment(1);
        }
    }

    /// Visitors who left give their places back.
    fn forget_the_gone(&mut self) {
        self.of.retain(|_, line| {
            line.retain(|call| !call.is_closed());
            !line.is_empty()
        });
        self.order.retain(|source| self.of.contains_key(source));
        self.waiting = self.of.values().map(VecDeque::len).sum();
    }

    /// Whose turn is next: one of each source after the other.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(source) = self.order.pop_front() {
            let Some(line) = self.of.get_mut(&source) else { continue };
            let call = line.pop_front();
            if line.is_empty() {
                self.of.remove(&source);
            } else {
                self.order.push_back(source);
            }
            if let Some(call) = call {
                self.waiting -= 1;
                if !call.is_closed() {
                    return Some(call);
                }
            }
        }
        None
    }
}

/// A turn to hash: nobody else has it until it is dropped.
pub struct Turn {
    pool: Arc<Pool>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut line = self.pool.line.lock();
            let next = line.next();
            if next.is_none() {
                line.running -= 1;
            }
            next
        };
        if let Some(call) = next {
            // Whoever left in this very moment gives it on as it is dropped.
            let _ = call.send(Self { pool: Arc::clone(&self.pool) });
        }
    }
}

impl Turn {
    /// Runs one hash off the event loop, and gives the turn back: what follows from the result may be settled before the next one's turn.
    ///
    /// # Errors
    /// [`Busy`] if the process is going down.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<(T, Self), Busy> {
        let (done, result) = oneshot::channel();
        let jobs = self.pool.jobs.get_or_init(|| start(self.pool.threads, self.pool.begin)).clone();
        // The turn goes with the work: a visitor who leaves does not make room for more than the pool can do.
        let job: Job = Box::new(move || drop(done.send((work(), self))));
        jobs.send(job).map_err(|_| Busy)?;
        result.await.map_err(|_| Busy)
    }
}

/// Starts the threads. They end with the pool.
fn start(threads: usize, begin: fn()) -> mpsc::Sender<Job> {
    let (jobs, work) = mpsc::channel::<Job>();
    let work = Arc::new(Mutex::new(work));
    for n in 0..threads {
        let work = Arc::clone(&work);
        let thread = move || {
            begin();
            loop {
                let next = work.lock().recv();
                let Ok(job) = next else { return };
                // Counted and told of by the hook; the turn it had is given on.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(job));
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("hashing-{n}")).spawn(thread) {
            tracing::error!(%error, "a thread that hashes passwords could not be started");
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// A pool of one thread whose turn is taken; dropping what is returned gives it on.
    async fn held() -> (Hashing, Turn) {
        let pool = Hashing::new(1);
        let turn = pool.turn(at(0)).await.expect("the first");
        (pool, turn)
    }

    /// Somebody who waits.
    fn waits(pool: &Hashing, n: u8) -> tokio::task::JoinHandle<Result<u8, Busy>> {
        let pool = pool.clone();
        tokio::spawn(async move { pool.run(at(n), move || n).await })
    }

    async fn until(pool: &Hashing, waiting: usize) {
        while pool.waiting() != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn beyond_the_queue_the_answer_is_busy() {
        let (pool, turn) = held().await;
        let waiting: Vec<_> = (0..pool.queue()).map(|_| waits(&pool, 1)).collect();
        until(&pool, pool.queue()).await;
        assert_eq!(pool.run(at(1), || 1).await, Err(Busy));
        drop(turn);
        for one in waiting {
            assert_eq!(one.await.expect("joined"), Ok(1));
        }
        assert_eq!(pool.waiting(), 0);
        assert_eq!(pool.0.line.lock().running, 0);
        assert!(pool.0.line.lock().of.is_empty());
    }

    #[tokio::test]
    async fn a_queue_filled_by_one_source_has_room_for_another_and_they_take_turns() {
        let (pool, turn) = held().await;
        let mut crowd: Vec<_> = (0..pool.queue()).map(|_| waits(&pool, 1)).collect();
        until(&pool, pool.queue()).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let (others, told, line) = (pool.clone(), order.clone(), pool.clone());
        let other = tokio::spawn(async move {
            others
                .run(at(2), move || {
                    let waiting = line.waiting();
                    told.lock().push(waiting);
                })
                .await
        });
        // The last of the crowd had to go for it.
        assert_eq!(crowd.pop().expect("one").await.expect("joined"), Err(Busy));
        drop(turn);
        assert_eq!(other.await.expect("joined"), Ok(()));
        for one in crowd {
            assert_eq!(one.await.expect("joined"), Ok(1));
        }
        // It came second, not last.
        assert!(order.lock().iter().all(|left| *left >= pool.queue() - 3), "{order:?}");
    }

    #[tokio::test]
    async fn no_source_takes_more_than_the_largest_crowd_leaves_it() {
        let (pool, turn) = held().await;
        let half = pool.queue() / 2;
        let one: Vec<_> = (0..half).map(|_| waits(&pool, 1)).collect();
        until(&pool, half).await;
        let two: Vec<_> = (0..half).map(|_| waits(&pool, 2)).collect();
        until(&pool, 2 * half).await;
        assert_eq!(pool.run(at(2), || ()).await, Err(Busy), "as many as the other");
        drop(turn);
        for waiting in one.into_iter().chain(two) {
            assert!(waiting.await.expect("joined").is_ok());
        }
    }

    #[tokio::test]
    async fn who_left_holds_no_place() {
        let (pool, turn) = held().await;
        let gone: Vec<_> = (0..pool.queue()).map(|_| waits(&pool, 1)).collect();
        until(&pool, pool.queue()).await;
        for one in gone {
            one.abort();
            assert!(one.await.is_err());
        }
        let mine = waits(&pool, 1);
        until(&pool, 1).await;
        drop(turn);
        assert_eq!(mine.await.expect("joined"), Ok(1));
    }

    #[tokio::test]
    async fn a_panic_costs_no_thread_and_no_turn() {
        let pool = Hashing::new(1);
        for _ in 0..3 {
            assert_eq!(pool.run(at(1), || panic!("on purpose")).await, Err::<(), _>(Busy));
        }
        assert_eq!(pool.run(at(1), || 7).await, Ok(7));
    }
}
