//! A commit in doubt: COMMIT was sent and its answer never came. The ledger knows: a batch that happened left its chain value at its place.
//!
//! Whoever holds the head's row decides. The session that sent COMMIT holds it until its transaction has ended, wherever that session is by now,
//! so once the row is ours nothing of it can happen any more. The looking transaction locks the row, which is a write: its own
//! commit waits for disk (and for standbys, where there are any that have to be waited for), and with it everything before it.
use std::time::Duration;

use ledger::StoreError;
use sqlx::{Executor as _, PgConnection};
use tokio::time::{sleep, timeout};

use crate::{
    exec::{args, place},
    postgres::{
        connection::{self, away, fault},
        timed_out,
        writer::{BEGIN, Writer},
    },
    statements as sql,
};

/// A COMMIT that is not answered in this time is looked for on another connection.
pub(super) const ANSWER: Duration = Duration::from_secs(4);
/// Time to find out; after it the callers hear that storage is away.
const TIME: Duration = Duration::from_secs(5);
/// Between attempts to reach the database.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a batch stands in the ledger, if it stands there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    pub(super) head: u64,
    pub(super) hash: [u8; 32],
}

/// Counts one, by what became of it.
pub(super) fn told(outcome: &'static str) {
    metrics::counter!("store_commits_in_doubt_total", "outcome" => outcome).increment(1);
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Committed,
    /// Not, and it never will.
    Undone,
}

impl Writer {
    /// Finds out what became of a commit that `why` left without an answer.
    pub(super) async fn settle(&mut self, proof: Proof, why: String) -> Result<(), StoreError> {
        tracing::warn!(position = proof.head, error = %why, "a commit was not answered; the ledger is asked whether it was made");
        match timeout(TIME, self.ask(&proof)).await {
            Ok(Ok(Became::Committed)) => {
                told("committed");
                Ok(())
            }
            Ok(Ok(Became::Undone)) => {
                told("undone");
                self.undone = true;
                Err(away(why))
            }
            Ok(Err(fault)) => {
                told("unknown");
                self.connection = None;
                Err(fault)
            }
            Err(_) => {
                told("unknown");
                // Broken off in the middle of a question.
                self.connection = None;
                Err(timed_out("say whether it committed"))
            }
        }
    }

    /// Asks until there is an answer.
    async fn ask(&mut self, proof: &Proof) -> Result<Became, StoreError> {
        loop {
            let asked = match self.connect().await {
                Ok(()) => look(self.current()?, proof).await,
                Err(fault) => Err(fault),
            };
            match self.heed(asked) {
                Err(StoreError::Unavailable(_)) => sleep(PAUSE).await,
                other => return other,
            }
        }
    }
}

/// Locks the head and looks.
async fn look(c: &mut PgConnection, proof: &Proof) -> Result<Became, StoreError> {
    let found = c.fetch_all(sqlx::raw_sql(BEGIN)).await.map_err(|e| fault(&e))?;
    let mut head = connection::row(found.last().ok_or_else(|| StoreError::Corrupt("the ledger's head is missing".to_owned()))?)?;
    let (seq, hash) = (head.place()?, head.hash()?);
    let there = if seq > proof.head {
        // Others came after. Each value follows from all before it: the same at its place is the same ledger.
        let rows = connection::rows(c, sql::EVENT_HASH, args![place(proof.head)?]).await?;
        match rows.into_iter().next() {
            Some(mut row) => row.hash()? == proof.hash,
            None => return Err(StoreError::Corrupt("the ledger's rows of a moment ago are gone".to_owned())),
        }
    } else {
        (seq, hash) == (proof.head, proof.hash)
    };
    connection::script(c, "COMMIT").await?;
    Ok(if there { Became::Committed } else { Became::Undone })
}
