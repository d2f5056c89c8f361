//! Reading connections: a bounded number, tried again once on a fresh connection when an idle one has gone stale.
use std::{sync::Arc, time::Duration};

use ledger::StoreError;
use parking_lot::Mutex;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    exec::{Exec, Row, Value},
    postgres::{connection, connection::away, timed_out},
};

/// Time to wait for a free connection.
const WAIT: Duration = Duration::from_secs(2);
/// Time a read may take.
const READ: Duration = Duration::from_secs(5);

pub(crate) struct Pool {
    options: PgConnectOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
}

impl Pool {
    pub(crate) fn new(options: PgConnectOptions, connections: usize) -> Self {
        Self { options, permits: Arc::new(Semaphore::new(connections.max(1))), idle: Mutex::default() }
    }

    pub(crate) async fn reader(self: &Arc<Self>) -> Result<Reader, StoreError> {
        let permit = tokio::time::timeout(WAIT, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| away("every connection is in use".to_owned()))?
            .map_err(|_| away("the pool is closed".to_owned()))?;
        let connection = self.idle.lock().pop();
        Ok(Reader { connection, pool: Arc::clone(self), keep: true, _permit: permit })
    }
}

/// A reading connection; goes back to its pool when dropped, unless a read was broken off.
pub(crate) struct Reader {
    connection: Option<PgConnection>,
    pool: Arc<Pool>,
    keep: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Closed after use: its settings or its transaction are not everybody's.
    pub(crate) fn own(mut self) -> Self {
        self.keep = false;
        self.connection = None;
        self
    }

    async fn rows_once(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::connect(&self.pool.options).await?,
        };
        // Broken off here (or failed), the connection is dropped, not kept.
        let found = match self.keep {
            true => tokio::time::timeout(READ, connection::rows(&mut connection, sql, args)).await.map_err(|_| timed_out("answer"))?,
            false => connection::rows(&mut connection, sql, args).await,
        };
        if !matches!(found, Err(StoreError::Unavailable(_))) {
            self.connection = Some(connection);
        }
        found
    }
}

impl Exec for Reader {
    async fn run(&mut self, _sql: &'static str, _args: &[Value<'_>]) -> Result<u64, StoreError> {
        Err(StoreError::Corrupt("a reader was asked to write".to_owned()))
    }

    async fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let used = self.connection.is_some();
        match self.rows_once(sql, args).await {
            // The other idle ones are as old: start afresh.
            Err(StoreError::Unavailable(_)) if used && self.keep => {
                self.pool.idle.lock().clear();
                self.rows_once(sql, args).await
            }
            other => other,
        }
    }

    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::connect(&self.pool.options).await?,
        };
        connection::script(&mut connection, sql).await?;
        self.connection = Some(connection);
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let (true, Some(connection)) = (self.keep, self.connection.take()) {
            self.pool.idle.lock().push(connection);
        }
    }
}
