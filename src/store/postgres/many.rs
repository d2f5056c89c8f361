//! What a batch asks and writes, each in one statement: a way to the server and back costs more than the work at its end.
use ahash::AHashSet;
use ledger::{Artefact, Event, StoreError};
use sqlx::{PgConnection, Row as _};

use crate::{
    exec::place,
    group::{Reads, Takes},
    postgres::connection::fault,
};

/// What stands behind guards that read, by their places: versions, and the ends of what has not ended.
const STAND: &str = "SELECT w.at, o.version FROM unnest($1::bigint[], $2::text[], $3::text[]) AS w(at, kind, id) \
    JOIN objects o ON o.kind = w.kind AND o.id = w.id \
    UNION ALL SELECT w.at, g.expires_at FROM unnest($4::bigint[], $5::text[]) AS w(at, id) JOIN grants g ON g.id = w.id WHERE g.ended_at IS NULL \
    UNION ALL SELECT w.at, s.expires_at FROM unnest($6::bigint[], $7::text[]) AS w(at, id) JOIN sessions s ON s.id = w.id WHERE s.ended_at IS NULL";
/// As `CONSUME` in the statements of both engines.
const CONSUME: &str = "UPDATE artefacts SET consumed_at = w.now, successor = w.successor, expires_at = GREATEST(artefacts.expires_at, \
    (SELECT g.expires_at FROM grants g WHERE g.id = artefacts.grant_id)) \
    FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[], $5::bytea[]) AS w(at, kind, id, now, successor) \
    WHERE artefacts.kind = w.kind AND artefacts.id = w.id AND artefacts.consumed_at IS NULL AND artefacts.expires_at > w.now \
    AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = artefacts.grant_id AND grants.ended_at IS NOT NULL) RETURNING w.at";
/// As `ROTATE` there.
const ROTATE: &str = "UPDATE artefacts SET mac = w.mac, created_at = w.now, expires_at = w.until, successor = w.born, seq = w.seq \
    FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bigint[], $8::bytea[], $9::bigint[]) \
    AS w(at, kind, id, now, was, mac, until, born, seq) \
    WHERE artefacts.kind = w.kind AND artefacts.id = w.id AND artefacts.mac = w.was AND artefacts.consumed_at IS NULL AND artefacts.expires_at > w.now \
    AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = artefacts.grant_id AND grants.ended_at IS NOT NULL) RETURNING w.at";
const PUT: &str = "INSERT INTO artefacts (kind, id, mac, grant_id, document, created_at, expires_at, consumed_at, successor, seq) \
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[], $10::bigint[]) \
    ON CONFLICT DO NOTHING";
const APPEND: &str = "WITH told AS (INSERT INTO events (seq, at_ms, kind, document, hash) \
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[])) UPDATE chain SET seq = $6, hash = $7 WHERE one = 1";

/// Which of these guards stand.
pub(super) async fn stand(c: &mut PgConnection, reads: &[Reads<'_>]) -> Result<Vec<bool>, StoreError> {
    let (mut objects, mut grants, mut sessions) = ((vec![], vec![], vec![]), (vec![], vec![]), (vec![], vec![]));
    for (at, read) in (0_i64..).zip(reads) {
        match *read {
            Reads::Object { kind, id, .. } => {
                objects.0.push(at);
                objects.1.push(kind.as_str());
                objects.2.push(id);
            }
            Reads::Grant { id, .. } => {
                grants.0.push(at);
                grants.1.push(id);
            }
            Reads::Session { id, .. } => {
                sessions.0.push(at);
                sessions.1.push(id);
            }
        }
    }
    let asked = sqlx::query(STAND).bind(objects.0).bind(objects.1).bind(objects.2).bind(grants.0).bind(grants.1);
    let rows = asked.bind(sessions.0).bind(sessions.1).fetch_all(c).await.map_err(|e| fault(&e))?;
    let mut stands = vec![false; reads.len()];
    for row in &rows {
        let (at, found): (i64, i64) = (row.try_get(0).map_err(|e| fault(&e))?, row.try_get(1).map_err(|e| fault(&e))?);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if let (Some(read), Some(stands)) = (reads.get(at), stands.get_mut(at)) {
            *stands = match *read {
                Reads::Object { version, .. } => found == version,
                Reads::Grant { now, .. } | Reads::Session { now, .. } => found > now,
            };
        }
    }
    Ok(stands)
}

/// Consumes and rotates; says which were there to be. No two are of one row.
pub(super) async fn take(c: &mut PgConnection, takes: &[Takes<'_>]) -> Result<Vec<bool>, StoreError> {
    let mut taken = AHashSet::new();
    let (mut at, mut kinds, mut ids, mut nows, mut successors) = (vec![], vec![], vec![], vec![], vec![]);
    for (n, one) in (0_i64..).zip(takes) {
        if let Takes::Consume { kind, id, now, successor } = *one {
            at.push(n);
            kinds.push(kind.as_str());
            ids.push(id);
            nows.push(now);
            successors.push(successor);
        }
    }
    if !at.is_empty() {
        let asked = sqlx::query(CONSUME).bind(at).bind(kinds).bind(ids).bind(nows).bind(successors);
        for row in asked.fetch_all(&mut *c).await.map_err(|e| fault(&e))? {
            taken.insert(row.try_get::<i64, _>(0).map_err(|e| fault(&e))?);
        }
    }
    let (mut at, mut kinds, mut ids, mut nows) = (vec![], vec![], vec![], vec![]);
    let (mut from, mut to, mut until, mut born, mut seqs) = (vec![], vec![], vec![], vec![], vec![]);
    for (n, one) in (0_i64..).zip(takes) {
        if let Takes::Rotate { kind, id, now, from: was, to: mac, expires_at, born: successor, seq } = *one {
            at.push(n);
            kinds.push(kind.as_str());
            ids.push(id);
            nows.push(now);
            from.push(was);
            to.push(mac);
            until.push(expires_at);
            born.push(successor);
            seqs.push(place(seq)?);
        }
    }
    if !at.is_empty() {
        let asked = sqlx::query(ROTATE).bind(at).bind(kinds).bind(ids).bind(nows).bind(from).bind(to).bind(until).bind(born).bind(seqs);
        for row in asked.fetch_all(&mut *c).await.map_err(|e| fault(&e))? {
            taken.insert(row.try_get::<i64, _>(0).map_err(|e| fault(&e))?);
        }
    }
    Ok((0_i64..).zip(takes).map(|(n, _)| taken.contains(&n)).collect())
}

/// Stores new short-lived things; returns how many were not there.
pub(super) async fn put(c: &mut PgConnection, rows: &[&Artefact]) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    if rows.iter().any(|a| a.document.contains('\0') || a.grant.as_ref().is_some_and(|g| g.contains('\0'))) {
        return Err(StoreError::Corrupt("a text to be stored holds NUL".to_owned()));
    }
    let of = |read: fn(&Artefact) -> i64| rows.iter().map(|a| read(a)).collect::<Vec<_>>();
    let octets = |read: for<'a> fn(&'a Artefact) -> &'a [u8]| rows.iter().map(|a| read(a)).collect::<Vec<_>>();
    let seqs = rows.iter().map(|a| place(a.seq)).collect::<Result<Vec<_>, _>>()?;
    sqlx::query(PUT)
        .bind(rows.iter().map(|a| a.kind.as_str()).collect::<Vec<_>>())
        .bind(octets(|a| &a.id))
        .bind(octets(|a| &a.mac))
        .bind(rows.iter().map(|a| a.grant.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|a| a.document.as_str()).collect::<Vec<_>>())
        .bind(of(|a| a.created_at))
        .bind(of(|a| a.expires_at))
        .bind(rows.iter().map(|a| a.consumed_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|a| a.successor.as_deref()).collect::<Vec<_>>())
        .bind(seqs)
        .execute(c)
        .await
        .map(|done| done.rows_affected())
        .map_err(|e| fault(&e))
}

/// Appends events and moves the ledger's head.
pub(super) async fn append(c: &mut PgConnection, events: &[Event], (head, hash): (u64, &[u8])) -> Result<(), StoreError> {
    if events.iter().any(|e| e.document.contains('\0') || e.kind.contains('\0')) {
        return Err(StoreError::Corrupt("a text to be stored holds NUL".to_owned()));
    }
    let places = events.iter().map(|e| place(e.seq)).collect::<Result<Vec<_>, _>>()?;
    sqlx::query(APPEND)
        .bind(places)
        .bind(events.iter().map(|e| e.at_ms).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.document.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.hash.as_slice()).collect::<Vec<_>>())
        .bind(place(head)?)
        .bind(hash)
        .execute(c)
        .await
        .map(|_| ())
        .map_err(|e| fault(&e))
}
