//! The one writing connection of a node. It holds the ledger's head row from begin to commit, so that positions are
//! gap-free and in commit order over all nodes.
use std::{sync::Arc, time::Duration};

use ledger::{Artefact, Event, StoreError};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    exec::{Exec, Row, Value, Write},
    group::{Reads, Takes},
    postgres::{
        CHANNEL,
        connection::{self, away, fault},
        doubt::{self, Proof},
        follower::Freshness,
        many, timed_out,
    },
    writer::{self, BATCH, Job, Shared},
};

pub(super) const BEGIN: &str = "BEGIN; SELECT seq, hash FROM chain WHERE one = 1 FOR UPDATE";
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A batch that takes longer is given up: its connection is dropped, its callers hear that storage is away. A commit in doubt, what came before
/// it and a second attempt fit.
const BATCH_TIME: Duration = Duration::from_secs(15);
/// A restore may be committed for as long as it takes.
const LONG: Duration = Duration::from_secs(86_400);

pub(crate) struct Writer {
    options: PgConnectOptions,
    pub(super) connection: Option<PgConnection>,
    /// What the ledger holds once the transaction that is under way has happened.
    proof: Option<Proof>,
    /// The last commit is known not to have happened.
    pub(super) undone: bool,
    /// COMMIT was said, and what became of it is not known yet.
    committing: bool,
    retry_at: Option<Instant>,
    wait: Duration,
}

impl Writer {
    pub(crate) fn new(options: PgConnectOptions) -> Self {
        // Every statement of the writer goes by a key. A plan that was made while a table was empty must not read all of it later.
        let options = options.options([("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
        Self { options, connection: None, proof: None, undone: false, committing: false, retry_at: None, wait: FIRST_WAIT }
    }

    /// Connects, but after a failure not again before a pause that doubles.
    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        if self.connection.is_some() {
            return Ok(());
        }
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(away("PostgreSQL is away".to_owned()));
        }
        match connection::connect(&self.options).await {
            Ok(mut connection) => {
                // Nothing is acknowledged before it is on disk, whatever the server's configuration says of everybody else.
                connection::script(&mut connection, DURABLE).await?;
                self.connection = Some(connection);
                (self.retry_at, self.wait) = (None, FIRST_WAIT);
                Ok(())
            }
            Err(fault) => {
                self.retry_at = Some(Instant::now() + self.wait);
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                Err(fault)
            }
        }
    }

    async fn begin_once(&mut self) -> Result<(u64, [u8; 32]), StoreError> {
        self.connect().await?;
        let connection = self.current()?;
        let found = connection.fetch_all(sqlx::raw_sql(BEGIN)).await.map_err(|e| fault(&e))?;
        let row = found.last().ok_or_else(|| StoreError::Corrupt("the ledger's head is missing".to_owned()))?;
        let mut row = connection::row(row)?;
        Ok((row.place()?, row.hash()?))
    }

    pub(super) fn current(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.connection.as_mut().ok_or_else(|| away("the connection to PostgreSQL was lost".to_owned()))
    }

    /// After a fault of the connection nothing more is said on it: its transaction ends with it.
    pub(super) fn heed<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Unavailable(_))) {
            self.connection = None;
        }
        result
    }
}

impl Exec for Writer {
    async fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<u64, StoreError> {
        let result = connection::run(self.current()?, sql, args).await;
        self.heed(result)
    }
    async fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let result = connection::rows(self.current()?, sql, args).await;
        self.heed(result)
    }
    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let result = connection::script(self.current()?, sql).await;
        self.heed(result)
    }
}

impl Write for Writer {
    const ENGINE: &'static str = "postgres";
    const TOGETHER: bool = true;

    async fn begin(&mut self) -> Result<(u64, [u8; 32]), StoreError> {
        (self.proof, self.undone, self.committing) = (None, false, false);
        let used = self.connection.is_some();
        let first = self.begin_once().await;
        match self.heed(first) {
            // An idle connection that was closed meanwhile: nothing has happened yet, so try a fresh one.
            Err(StoreError::Unavailable(_)) if used => {
                let second = self.begin_once().await;
                self.heed(second)
            }
            other => other,
        }
    }

    async fn commit(&mut self, head: Option<u64>) -> Result<(), StoreError> {
        let proof = self.proof.take();
        self.committing = self.connection.is_some();
        let connection = self.current()?;
        let said = async {
            match head {
                Some(head) => {
                    let notify = format!("NOTIFY {CHANNEL}, '{head}'; COMMIT");
                    connection.execute(sqlx::raw_sql(AssertSqlSafe(notify))).await
                }
                None => connection.execute(sqlx::raw_sql("COMMIT")).await,
            }
        };
        let patience = if proof.is_some() { doubt::ANSWER } else { LONG };
        let result = match tokio::time::timeout(patience, said).await {
            Ok(said) => said.map(|_| ()).map_err(|e| fault(&e)),
            Err(_) => Err(timed_out("answer a commit")),
        };
        let settled = match (self.heed(result), proof) {
            (Err(StoreError::Unavailable(why)), Some(proof)) => self.settle(proof, why).await,
            (result, _) => result,
        };
        self.committing = false;
        settled
    }

    fn undone(&self) -> bool {
        self.undone
    }

    async fn stand(&mut self, reads: &[Reads<'_>]) -> Result<Vec<bool>, StoreError> {
        let result = many::stand(self.current()?, reads).await;
        self.heed(result)
    }

    async fn take(&mut self, takes: &[Takes<'_>]) -> Result<Vec<bool>, StoreError> {
        let result = many::take(self.current()?, takes).await;
        self.heed(result)
    }

    async fn put(&mut self, rows: &[&Artefact]) -> Result<u64, StoreError> {
        let result = many::put(self.current()?, rows).await;
        self.heed(result)
    }

    async fn append(&mut self, events: &[Event], head: u64, hash: &[u8; 32]) -> Result<(), StoreError> {
        let result = many::append(self.current()?, events, (head, hash.as_slice())).await;
        self.proof = Some(Proof { head, hash: *hash });
        self.heed(result)
    }

    async fn rollback(&mut self) {
        if let Some(connection) = self.connection.as_mut()
            && let Err(error) = connection::script(connection, "ROLLBACK").await
        {
            tracing::warn!(%error, "a transaction could not be undone; its connection is dropped");
            self.connection = None;
        }
    }
}

/// The writing task: ends when nobody can ask any more.
pub(crate) async fn write(mut writer: Writer, mut waiting: mpsc::Receiver<Job>, shared: Arc<Shared>, fresh: Arc<Freshness>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut jobs, BATCH).await > 0 {
        let patience = if jobs.iter().any(|job| matches!(job, Job::Restore { .. })) { LONG } else { BATCH_TIME };
        if tokio::time::timeout(patience, writer::serve(&mut writer, &mut jobs, &shared)).await.is_err() {
            tracing::error!("a transaction took too long and was given up");
            if std::mem::take(&mut writer.committing) {
                doubt::told("unknown");
            }
            writer.connection = None;
            jobs.clear();
        }
        if shared.behind() {
            fresh.wake();
        }
    }
}
