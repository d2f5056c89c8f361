//! Every read, once.
use ledger::{
    Artefact, ArtefactKind, Consent, Event, Grant, KeyRow, KeyState, Object, ObjectKind, Page, Revocation, RevocationKind, Session,
    StoreError,
};

use crate::{
    exec::{Exec, Row, args, place, row},
    statements as sql,
};

/// The most rows one page may ask for.
const PAGE_MAX: u32 = 1000;

pub(crate) async fn artefact<E: Exec>(e: &mut E, kind: ArtefactKind, id: &[u8]) -> Result<Option<Artefact>, StoreError> {
    let Some(r) = row(e, sql::ARTEFACT, args![kind.as_str(), id]).await? else { return Ok(None) };
    to_artefact(kind, id.to_vec(), r).map(Some)
}

/// An artefact from its row after the id.
fn to_artefact(kind: ArtefactKind, id: Vec<u8>, mut r: Row) -> Result<Artefact, StoreError> {
    Ok(Artefact {
        kind,
        id,
        mac: r.blob()?,
        grant: r.maybe_text()?,
        document: r.text()?,
        created_at: r.int()?,
        expires_at: r.int()?,
        consumed_at: r.maybe_int()?,
        successor: r.maybe_blob()?,
        seq: r.place()?,
    })
}

/// Artefacts of one kind from rows that begin with their ids.
fn to_artefacts(kind: ArtefactKind, rows: Vec<Row>) -> Result<Vec<Artefact>, StoreError> {
    let with_id = |mut r: Row| {
        let id = r.blob()?;
        to_artefact(kind, id, r)
    };
    rows.into_iter().map(with_id).collect()
}

pub(crate) async fn artefacts<E: Exec>(
    e: &mut E,
    kind: ArtefactKind,
    prefix: &[u8],
    after: &[u8],
    limit: u32,
) -> Result<Vec<Artefact>, StoreError> {
    let Some(end) = past(prefix) else { return Ok(Vec::new()) };
    let rows = e.rows(sql::ARTEFACTS, args![kind.as_str(), after.max(prefix), end.as_slice(), i64::from(limit)]).await?;
    to_artefacts(kind, rows)
}

/// The first key after every one that begins with `prefix`.
fn past(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

pub(crate) async fn waiting<E: Exec>(e: &mut E, owner: &str, now: i64, limit: u32) -> Result<Vec<Artefact>, StoreError> {
    let rows = e.rows(sql::WAITING, args![owner, now, i64::from(limit.clamp(1, PAGE_MAX))]).await?;
    to_artefacts(ArtefactKind::Backchannel, rows)
}

pub(crate) async fn participants<E: Exec>(e: &mut E, session: &str, limit: u32) -> Result<Vec<Artefact>, StoreError> {
    let rows = e.rows(sql::PARTICIPANTS, args![session, i64::from(limit.clamp(1, PAGE_MAX))]).await?;
    to_artefacts(ArtefactKind::Participant, rows)
}

pub(crate) async fn left_behind<E: Exec>(e: &mut E, since: i64, now: i64, (skip, limit): (u32, u32)) -> Result<Vec<Artefact>, StoreError> {
    let rows = e.rows(sql::LEFT_BEHIND, args![since, now, i64::from(limit.clamp(1, PAGE_MAX)), i64::from(skip)]).await?;
    to_artefacts(ArtefactKind::Participant, rows)
}

fn to_grant(mut r: Row) -> Result<Grant, StoreError> {
    Ok(Grant {
        id: r.text()?,
        subject: r.text()?,
        client_id: r.text()?,
        session: r.maybe_text()?,
        scope: r.text()?,
        document: r.json()?,
        created_at: r.int()?,
        expires_at: r.int()?,
        ended_at: r.maybe_int()?,
    })
}

pub(crate) async fn grant<E: Exec>(e: &mut E, id: &str) -> Result<Option<Grant>, StoreError> {
    row(e, sql::GRANT, args![id]).await?.map(to_grant).transpose()
}

pub(crate) async fn grants<E: Exec>(
    e: &mut E,
    (subject, client_id): (Option<&str>, Option<&str>),
    now: i64,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<Grant>, StoreError> {
    let Some((at, id)) = position(after) else { return Ok(Page { items: Vec::new(), next: None }) };
    let (limit, more) = limits(limit);
    let rows = match (subject, client_id) {
        (Some(s), Some(c)) => e.rows(sql::GRANTS_OF_BOTH, args![s, c, at, id, now, more]).await?,
        (Some(s), None) => e.rows(sql::GRANTS_OF_SUBJECT, args![s, at, id, now, more]).await?,
        (None, Some(c)) => e.rows(sql::GRANTS_OF_CLIENT, args![c, at, id, now, more]).await?,
        (None, None) => e.rows(sql::GRANTS, args![id, now, more]).await?,
    };
    page(rows, limit, to_grant, |g| format!("{}.{}", g.created_at, g.id))
}

fn to_session(mut r: Row) -> Result<Session, StoreError> {
    Ok(Session {
        id: r.text()?,
        subject: r.text()?,
        auth_time: r.int()?,
        amr: r.json()?,
        created_at: r.int()?,
        expires_at: r.int()?,
        ended_at: r.maybe_int()?,
        document: r.json()?,
    })
}

pub(crate) async fn session<E: Exec>(e: &mut E, id: &str) -> Result<Option<Session>, StoreError> {
    row(e, sql::SESSION, args![id]).await?.map(to_session).transpose()
}

pub(crate) async fn sessions<E: Exec>(
    e: &mut E,
    subject: Option<&str>,
    now: i64,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<Session>, StoreError> {
    let Some((at, id)) = position(after) else { return Ok(Page { items: Vec::new(), next: None }) };
    let (limit, more) = limits(limit);
    let rows = match subject {
        Some(s) => e.rows(sql::SESSIONS_OF_SUBJECT, args![s, at, id, now, more]).await?,
        None => e.rows(sql::SESSIONS, args![at, id, now, more]).await?,
    };
    page(rows, limit, to_session, |s| format!("{}.{}", s.created_at, s.id))
}

pub(crate) async fn consent<E: Exec>(e: &mut E, subject: &str, client_id: &str) -> Result<Option<Consent>, StoreError> {
    let Some(mut r) = row(e, sql::CONSENT, args![subject, client_id]).await? else { return Ok(None) };
    Ok(Some(Consent { subject: subject.to_owned(), client_id: client_id.to_owned(), scopes: r.json()?, granted_at: r.int()? }))
}

fn to_object(kind: ObjectKind) -> impl Fn(Row) -> Result<Object, StoreError> {
    move |mut r| {
        Ok(Object {
            kind,
            id: r.text()?,
            key: r.text()?,
            document: r.json()?,
            version: r.int()?,
            created_at: r.int()?,
            updated_at: r.int()?,
        })
    }
}

pub(crate) async fn object<E: Exec>(e: &mut E, kind: ObjectKind, id: &str) -> Result<Option<Object>, StoreError> {
    row(e, sql::OBJECT, args![kind.as_str(), id]).await?.map(to_object(kind)).transpose()
}

pub(crate) async fn object_by_key<E: Exec>(e: &mut E, kind: ObjectKind, key: &str) -> Result<Option<Object>, StoreError> {
    row(e, sql::OBJECT_BY_KEY, args![kind.as_str(), key]).await?.map(to_object(kind)).transpose()
}

pub(crate) async fn objects<E: Exec>(e: &mut E, kind: ObjectKind, after: Option<&str>, limit: u32) -> Result<Page<Object>, StoreError> {
    let (limit, more) = limits(limit);
    let rows = e.rows(sql::OBJECTS, args![kind.as_str(), after.unwrap_or(""), more]).await?;
    page(rows, limit, to_object(kind), |o| o.id.clone())
}

pub(crate) async fn secret<E: Exec>(e: &mut E, kind: ObjectKind, id: &str, slot: &str) -> Result<Option<Vec<u8>>, StoreError> {
    row(e, sql::SECRET, args![kind.as_str(), id, slot]).await?.map(|mut r| r.blob()).transpose()
}

pub(crate) async fn two_secrets<E: Exec>(
    e: &mut E,
    kind: ObjectKind,
    id: &str,
    [one, other]: [&str; 2],
) -> Result<[Option<Vec<u8>>; 2], StoreError> {
    let mut found = [None, None];
    for mut r in e.rows(sql::SECRETS_OF, args![kind.as_str(), id]).await? {
        let (slot, value) = (r.text()?, r.blob()?);
        let [first, second] = &mut found;
        if slot == one {
            *first = Some(value);
        } else if slot == other {
            *second = Some(value);
        }
    }
    Ok(found)
}

fn to_key(mut r: Row) -> Result<KeyRow, StoreError> {
    let (kid, alg, state) = (r.text()?, r.text()?, r.text()?);
    let state = KeyState::parse(&state).ok_or_else(|| StoreError::Corrupt(format!("key {kid} is in the unknown state {state:?}")))?;
    Ok(KeyRow { kid, alg, state, public_jwk: r.text()?, sealed: r.blob()?, created_at: r.int()?, changed_at: r.int()? })
}

pub(crate) async fn keys<E: Exec>(e: &mut E) -> Result<Vec<KeyRow>, StoreError> {
    e.rows(sql::KEYS, &[]).await?.into_iter().map(to_key).collect()
}

pub(crate) async fn meta<E: Exec>(e: &mut E, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    row(e, sql::META, args![name]).await?.map(|mut r| r.blob()).transpose()
}

fn to_event(mut r: Row) -> Result<Event, StoreError> {
    Ok(Event { seq: r.place()?, at_ms: r.int()?, kind: r.text()?, document: r.text()?, hash: r.hash()? })
}

pub(crate) async fn events<E: Exec>(e: &mut E, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
    e.rows(sql::EVENTS, args![place(after)?, i64::from(limit)]).await?.into_iter().map(to_event).collect()
}

pub(crate) async fn head<E: Exec>(e: &mut E) -> Result<(u64, [u8; 32]), StoreError> {
    let mut r = row(e, sql::HEAD, &[]).await?.ok_or_else(|| StoreError::Corrupt("the ledger's head is missing".into()))?;
    Ok((r.place()?, r.hash()?))
}

fn to_revocation(mut r: Row) -> Result<Revocation, StoreError> {
    let kind = r.text()?;
    let kind = RevocationKind::parse(&kind).ok_or_else(|| StoreError::Corrupt(format!("a revocation is of the unknown kind {kind:?}")))?;
    Ok(Revocation { kind, id: r.text()?, seq: r.place()?, at_ms: r.int()?, expires_at: r.int()? })
}

/// At most `limit`, except that the revocations of one position are never parted: a reader that goes on after the
/// last position misses none.
pub(crate) async fn revocations<E: Exec>(e: &mut E, after: u64, now: i64, limit: u32) -> Result<Vec<Revocation>, StoreError> {
    let limit = limit.max(1) as usize;
    let rows = e.rows(sql::REVOCATIONS, args![place(after)?, now, limit as i64 + 1]).await?;
    let mut found = rows.into_iter().map(to_revocation).collect::<Result<Vec<_>, _>>()?;
    let Some(last) = found.last().filter(|_| found.len() > limit).map(|r| r.seq) else { return Ok(found) };
    found.retain(|r| r.seq < last);
    if found.is_empty() {
        let all = e.rows(sql::REVOCATIONS_AT, args![place(last)?]).await?;
        found = all.into_iter().map(to_revocation).filter(|r| r.as_ref().map_or(true, |r| r.expires_at > now)).collect::<Result<_, _>>()?;
    }
    Ok(found)
}

fn limits(limit: u32) -> (usize, i64) {
    let limit = limit.clamp(1, PAGE_MAX);
    (limit as usize, i64::from(limit) + 1)
}

/// `created_at.id`; nothing means the beginning, nonsense is no position.
fn position(after: Option<&str>) -> Option<(i64, &str)> {
    let Some(after) = after else { return Some((i64::MIN, "")) };
    let (at, id) = after.split_once('.')?;
    Some((at.parse().ok()?, id))
}

fn page<T>(
    mut rows: Vec<Row>,
    limit: usize,
    convert: impl Fn(Row) -> Result<T, StoreError>,
    name: impl Fn(&T) -> String,
) -> Result<Page<T>, StoreError> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let items = rows.into_iter().map(convert).collect::<Result<Vec<_>, _>>()?;
    let next = if more { items.last().map(name) } else { None };
    Ok(Page { items, next })
}
