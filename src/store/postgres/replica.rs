//! Replicas: pages and counts from streaming standbys, each believed only as far as its own ledger shows.
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ledger::{Event, Grant, Listings, Object, ObjectKind, Page, Session, StoreError};
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use tokens::Clock;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    exec::{Exec, args, place, row},
    postgres::{connection::Direct, counts, pool::Pool},
    read,
};

/// How often the replicas are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Time a replica may take to say how far it is, and to give its answer.
const BEGIN: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// A replica that is just behind is asked so often, with this pause, before the primary is.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(10);
/// The most questions a replica is asked at once.
const LINES: usize = 8;

/// What a replica knows: whether it still follows, how far it is, and the chain value that it has at a position of ours.
const STATE: &str = "SELECT CAST(CAST(pg_is_in_recovery() AS INT) AS BIGINT), c.seq, e.hash FROM chain c LEFT JOIN events e ON e.seq = $1 \
    WHERE c.one = 1";
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const DONE: &str = "COMMIT";

/// The ledger at a moment.
type Head = (u64, [u8; 32]);

/// How a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// It is asked.
    Following,
    /// It is further behind than it may be.
    Behind,
    /// It does not answer.
    Away,
    /// It follows nobody any more, or what it follows has another ledger.
    Strange,
}

impl Standing {
    /// As it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Following => "following",
            Self::Behind => "behind",
            Self::Away => "away",
            Self::Strange => "strange",
        }
    }
}

/// What is known of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaReport {
    /// Its host and port.
    pub name: String,
    /// Whether it is asked.
    pub standing: Standing,
    /// How far its ledger was when it last said.
    pub position: u64,
    /// For how long it has not been where the primary is, milliseconds.
    pub lag_ms: i64,
}

struct Replica {
    options: PgConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<Direct>>,
    report: Mutex<ReplicaReport>,
}

/// The replicas of a database, and the primary where they do not do.
pub(crate) struct Replicas {
    primary: Arc<Pool>,
    clock: Arc<dyn Clock>,
    all: Vec<Replica>,
    next: AtomicUsize,
    max_lag_ms: i64,
    /// Where the primary's ledger was, oldest first.
    heads: Mutex<VecDeque<(i64, Head)>>,
}

/// A replica's answer to where it is.
enum Reached {
    /// Far enough; a transaction is open.
    Yes(Direct),
    No,
}

impl Replica {
    fn new(options: PgConnectOptions) -> Self {
        let name = format!("{}:{}", options.get_host(), options.get_port());
        let report = ReplicaReport { name, standing: Standing::Unknown, position: 0, lag_ms: 0 };
        Self { options, permits: Semaphore::new(LINES), idle: Mutex::default(), report: Mutex::new(report) }
    }

    fn standing(&self) -> Standing {
        self.report.lock().standing
    }

    /// Opens a transaction and sees how far it is.
    async fn begin(&self) -> Result<Direct, StoreError> {
        let idle = self.idle.lock().pop();
        if let Some(mut line) = idle {
            // One that was closed meanwhile; the others are as old.
            match line.script(SNAPSHOT).await {
                Ok(()) => return Ok(line),
                Err(_) => self.idle.lock().clear(),
            }
        }
        let mut line = Direct::connect(&self.options).await?;
        line.script(SNAPSHOT).await?;
        Ok(line)
    }

    /// How far it is, and whether its ledger is ours up to `from`.
    async fn state(&self, line: &mut Direct, from: &Head) -> Result<(Standing, u64), StoreError> {
        let found = row(line, STATE, args![place(from.0)?]).await?;
        let mut found = found.ok_or_else(|| StoreError::Corrupt("the ledger's head is missing".into()))?;
        let (follows, reached, hash) = (found.int()? == 1, found.place()?, found.maybe_blob()?);
        let same = from.0 == 0 || hash.as_deref() == Some(from.1.as_slice());
        let standing = match (follows, reached >= from.0) {
            (true, true) if same => Standing::Following,
            (true, false) => Standing::Behind,
            _ => Standing::Strange,
        };
        Ok((standing, reached))
    }

    /// Hands a line back whose transaction may end.
    async fn keep(&self, mut line: Direct) {
        if line.script(DONE).await.is_ok() {
            self.idle.lock().push(line);
        }
    }

    /// A transaction that sees everything up to `from`.
    async fn reach(&self, from: &Head) -> Result<Reached, StoreError> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let mut line = self.begin().await?;
            match self.state(&mut line, from).await?.0 {
                Standing::Following => return Ok(Reached::Yes(line)),
                Standing::Behind => self.keep(line).await,
                strange => {
                    self.keep(line).await;
                    self.stands(strange);
                    return Ok(Reached::No);
                }
            }
        }
        Ok(Reached::No)
    }

    /// Notes how it stands; what changes is logged.
    fn stands(&self, now: Standing) {
        let mut report = self.report.lock();
        let before = std::mem::replace(&mut report.standing, now);
        let name = report.name.clone();
        drop(report);
        if before == now {
            return;
        }
        if now == Standing::Following {
            tracing::info!(replica = name, "the replica is asked");
        } else {
            tracing::warn!(replica = name, standing = now.as_str(), "the replica is left out");
        }
    }

    fn count(&self, outcome: &'static str) {
        let name = self.report.lock().name.clone();
        metrics::counter!("storage_replica_reads_total", "replica" => name, "outcome" => outcome).increment(1);
    }
}

/// A replica's open transaction.
struct Lent<'a> {
    of: &'a Replica,
    line: Direct,
}

impl Lent<'_> {
    /// The answer, if it is one; a replica that gave none is left out until it is looked at again.
    async fn settle<T>(self, found: Result<Result<T, StoreError>, tokio::time::error::Elapsed>) -> Option<T> {
        if let Ok(Ok(found)) = found {
            self.of.keep(self.line).await;
            self.of.count("answered");
            return Some(found);
        }
        self.of.stands(Standing::Away);
        self.of.count("failed");
        None
    }
}

impl Replicas {
    pub(crate) fn new(primary: Arc<Pool>, clock: Arc<dyn Clock>, all: Vec<PgConnectOptions>, max_lag_ms: i64) -> Self {
        let all = all.into_iter().map(Replica::new).collect();
        Self { primary, clock, all, next: AtomicUsize::new(0), max_lag_ms, heads: Mutex::default() }
    }

    pub(crate) fn reports(&self) -> Vec<ReplicaReport> {
        self.all.iter().map(|replica| replica.report.lock().clone()).collect()
    }

    /// Looks at the primary and at every replica for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut beat = tokio::time::interval(LOOK);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.look().await;
        }
    }

    /// Looks once.
    pub(crate) async fn look(&self) {
        if let Ok(Ok(head)) = timeout(BEGIN, self.head()).await {
            let now_ms = self.clock.now_ms();
            let mut heads = self.heads.lock();
            heads.push_back((now_ms, head));
            // The last one that is old enough is where a replica has to be at least; a clock that was set back begins anew.
            if heads.front().is_some_and(|(at, _)| *at > now_ms) {
                heads.clear();
                heads.push_back((now_ms, head));
            }
            while heads.get(1).is_some_and(|(at, _)| *at <= now_ms - self.max_lag_ms) {
                heads.pop_front();
            }
        }
        let Some(floor) = self.heads.lock().front().map(|(_, head)| *head) else { return };
        futures_util::future::join_all(self.all.iter().map(|replica| self.look_at(replica, floor))).await;
    }

    async fn look_at(&self, replica: &Replica, floor: Head) {
        let state = async {
            let mut line = replica.begin().await?;
            let state = replica.state(&mut line, &floor).await?;
            replica.keep(line).await;
            Ok::<_, StoreError>(state)
        };
        let (standing, position) = match timeout(BEGIN, state).await {
            Ok(Ok((standing, position))) => (standing, Some(position)),
            _ => (Standing::Away, None),
        };
        let mut report = replica.report.lock();
        report.position = position.unwrap_or(report.position);
        report.lag_ms = self.lag_ms(report.position);
        let (name, position, lag_ms) = (report.name.clone(), report.position, report.lag_ms);
        drop(report);
        replica.stands(standing);
        let head = self.heads.lock().back().map_or(0, |(_, head)| head.0);
        metrics::gauge!("storage_replica_in_use", "replica" => name.clone()).set(f64::from(u8::from(standing == Standing::Following)));
        metrics::gauge!("storage_replica_behind_events", "replica" => name.clone()).set(head.saturating_sub(position) as f64);
        metrics::gauge!("storage_replica_lag_seconds", "replica" => name).set(lag_ms as f64 / 1000.0);
    }

    /// For how long the primary has been further than a position.
    fn lag_ms(&self, position: u64) -> i64 {
        let heads = self.heads.lock();
        let since = heads.iter().find(|(_, head)| head.0 > position).map(|(at, _)| *at);
        since.map_or(0, |at| (self.clock.now_ms() - at).max(0))
    }

    async fn head(&self) -> Result<Head, StoreError> {
        read::head(&mut self.primary.reader().await?).await
    }

    /// A transaction at a replica that sees everything that was committed before now, if one can be had at once. The primary is asked
    /// how far that is: where it is away, so are pages.
    async fn whole(&self) -> Result<Option<Lent<'_>>, StoreError> {
        if !self.all.iter().any(usable) {
            return Ok(None);
        }
        let head = self.head().await?;
        Ok(self.reached(head).await)
    }

    /// A transaction at a replica that is not too far behind.
    async fn recent(&self) -> Result<Option<Lent<'_>>, StoreError> {
        let floor = self.heads.lock().front().map(|(_, head)| *head);
        match floor {
            Some(floor) => Ok(self.reached(floor).await),
            None => self.whole().await,
        }
    }

    async fn reached(&self, from: Head) -> Option<Lent<'_>> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let turns = self.all.iter().cycle().skip(first % self.all.len().max(1)).take(self.all.len());
        for replica in turns.filter(|replica| usable(replica)) {
            let Ok(_permit) = replica.permits.try_acquire() else { continue };
            match timeout(BEGIN, replica.reach(&from)).await {
                Ok(Ok(Reached::Yes(line))) => return Some(Lent { of: replica, line }),
                Ok(Ok(Reached::No)) => replica.count("behind"),
                Ok(Err(_)) | Err(_) => {
                    replica.stands(Standing::Away);
                    replica.count("failed");
                }
            }
        }
        None
    }
}

fn usable(replica: &Replica) -> bool {
    matches!(replica.standing(), Standing::Following | Standing::Unknown)
}

/// Reads at a replica if one does, otherwise at the primary.
macro_rules! listed {
    ($replicas:expr, $lent:expr, |$e:ident| $read:expr) => {{
        if let Some(mut lent) = $lent.await? {
            let $e = &mut lent.line;
            let found = timeout(ANSWER, $read).await;
            if let Some(found) = lent.settle(found).await {
                return Ok(found);
            }
        }
        let $e = &mut $replicas.primary.reader().await?;
        $read.await
    }};
}

#[async_trait]
impl Listings for Replicas {
    async fn list_objects(&self, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
        listed!(self, self.whole(), |e| read::objects(e, kind, after, limit))
    }
    async fn list_sessions(&self, subject: Option<&str>, after: Option<&str>, limit: u32) -> Result<Page<Session>, StoreError> {
        let now = self.clock.now();
        listed!(self, self.whole(), |e| read::sessions(e, subject, now, after, limit))
    }
    async fn list_grants(&self, of: (Option<&str>, Option<&str>), after: Option<&str>, limit: u32) -> Result<Page<Grant>, StoreError> {
        let now = self.clock.now();
        listed!(self, self.whole(), |e| read::grants(e, of, now, after, limit))
    }
    async fn list_events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        listed!(self, self.whole(), |e| read::events(e, after, limit))
    }
    async fn count_rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        listed!(self, self.recent(), |e| counts(e))
    }
}
