//! Forgetting: expired rows in small batches, and old events up to a checkpoint.
use ledger::{StoreError, revocation::KEPT_LONGER_S};

use crate::{
    exec::{Write, args, place, row},
    statements as sql,
};

/// Seconds an ended grant or session stays readable (a late replay still finds out what it belonged to).
const ENDED_KEPT_S: i64 = 86_400;
/// Events removed in one transaction.
const EVENTS_AT_ONCE: u64 = 2_000;
/// The named value that keeps where verification of a truncated ledger starts: 8 octets position, 32 octets chain value.
pub(crate) const CHECKPOINT: &str = "ledger.checkpoint";

/// Deletes at most `batch` expired rows a table. Returns how many went.
pub(crate) async fn purge<W: Write>(w: &mut W, now: i64, batch: u32) -> Result<u64, StoreError> {
    let done = purge_all(w, now, i64::from(batch)).await;
    match &done {
        Err(_) => w.rollback().await,
        // Nothing waits behind: time to give back what was freed.
        Ok(gone) if *gone < u64::from(batch) => w.tidy().await?,
        Ok(_) => {}
    }
    done
}

async fn purge_all<W: Write>(w: &mut W, now: i64, batch: i64) -> Result<u64, StoreError> {
    w.begin().await?;
    let long_ago = now.saturating_sub(ENDED_KEPT_S);
    let mut gone = 0;
    for (sql, before) in [
        (sql::PURGE_ARTEFACTS, now),
        (sql::PURGE_REVOCATIONS, now.saturating_sub(KEPT_LONGER_S)),
        (sql::PURGE_GRANTS_EXPIRED, now),
        (sql::PURGE_GRANTS_ENDED, long_ago),
        (sql::PURGE_SESSIONS_EXPIRED, now),
        (sql::PURGE_SESSIONS_ENDED, long_ago),
    ] {
        gone += w.run(sql, args![before, batch]).await?;
    }
    if gone == 0 {
        w.rollback().await;
    } else {
        w.commit(None).await?;
    }
    Ok(gone)
}

/// Removes the oldest events up to and including `through`, moving the checkpoint with them; at most
/// [`EVENTS_AT_ONCE`] a call. Returns how many went (0: done).
pub(crate) async fn truncate<W: Write>(w: &mut W, through: u64) -> Result<u64, StoreError> {
    let done = truncate_some(w, through).await;
    if done.is_err() {
        w.rollback().await;
    }
    done
}

async fn truncate_some<W: Write>(w: &mut W, through: u64) -> Result<u64, StoreError> {
    let (head, _) = w.begin().await?;
    let first = match row(w, sql::FIRST_EVENT, &[]).await? {
        Some(mut r) => r.place()?,
        None => head + 1,
    };
    // The newest event always stays: the head and its row are compared on verification.
    let through = through.min(head.saturating_sub(1)).min(first.saturating_add(EVENTS_AT_ONCE - 1));
    if first > through {
        w.rollback().await;
        return Ok(0);
    }
    let mut last =
        row(w, sql::EVENT_HASH, args![place(through)?]).await?.ok_or_else(|| StoreError::Corrupt(format!("event {through} is missing")))?;
    let hash = last.hash()?;
    let mut checkpoint = through.to_be_bytes().to_vec();
    checkpoint.extend_from_slice(&hash);
    w.run(sql::PUT_META, args![CHECKPOINT, &checkpoint]).await?;
    let gone = w.run(sql::TRUNCATE_EVENTS, args![place(through)?]).await?;
    w.commit(None).await?;
    Ok(gone)
}

/// Reads a checkpoint.
pub(crate) fn checkpoint(stored: &[u8]) -> Result<(u64, [u8; 32]), StoreError> {
    let read = || {
        let (seq, hash) = stored.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*seq), hash.try_into().ok()?))
    };
    read().ok_or_else(|| StoreError::Corrupt("the ledger's checkpoint is malformed".into()))
}
