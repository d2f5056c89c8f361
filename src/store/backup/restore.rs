//! Restoring: the whole file is checked, then an empty database is filled in one transaction.
use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use ledger::{
    ArtefactKind, Event, EventKind, NewEvent, StoreError,
    chain::{self, Verifier},
};
use serde_json::Value as Json;

use super::{
    BackupError, FORMAT, Header, Progress, Restored, Trailer, file_error, page,
    tables::{STATEMENTS, TABLES, Type, from_json, hex, unhex},
};
use crate::{
    apply::{Columns, insert_many},
    engine::{RESTORE_PENDING, RESTORED_AT},
    exec::{Cell, Exec, Value, Write, args, place},
    migrate, purge, statements as sql,
};

/// A row on its way into a table.
struct Line {
    cells: Vec<Cell>,
    types: &'static [(&'static str, Type)],
}

impl Columns for Line {
    fn columns<'v>(&'v self, out: &mut Vec<Value<'v>>) {
        out.extend(self.cells.iter().zip(self.types).map(|(cell, (_, of))| cell.value(*of)));
    }
}

/// Reads a whole backup, then fills the database with it in one transaction.
pub(crate) async fn restore<W: Write>(w: &mut W, from: &Path, at_ms: i64, progress: &Progress) -> Result<Restored, BackupError> {
    let (header, rows) = check(from)?;
    let done = fill(w, from, &header, rows, at_ms, progress).await;
    if done.is_err() {
        w.rollback().await;
    }
    done
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), BackupError>>, BackupError> {
    let mut input = BufReader::with_capacity(1 << 16, File::open(path).map_err(file_error(path))?);
    let (mut line, path) = (0, path.to_owned());
    Ok(std::iter::from_fn(move || {
        let mut text = Vec::new();
        line += 1;
        match input.read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) => Some(Ok((line, text))),
            Err(e) => Some(Err(file_error(&path)(e))),
        }
    }))
}

/// Checks format, schema, number of rows and hash. Nothing is believed before this is through.
fn check(path: &Path) -> Result<(Header, u64), BackupError> {
    let malformed = |line, why: &str| BackupError::Malformed { line, why: why.to_owned() };
    let mut lines = lines(path)?;
    let (_, first) = lines.next().transpose()?.ok_or_else(|| malformed(1, "is missing"))?;
    let header: Header = serde_json::from_slice(&first).map_err(|_| malformed(1, "is not the header of a backup"))?;
    if header.doorward_backup != FORMAT {
        return Err(malformed(1, "names a format this doorward does not know"));
    }
    if header.schema != migrate::newest() {
        return Err(BackupError::Schema { found: header.schema, ours: migrate::newest() });
    }
    let mut hash = Context::new(&SHA256);
    hash.update(&first);
    let (mut before, mut rows) = (None::<(u64, Vec<u8>)>, 0);
    for line in lines {
        if let Some((_, row)) = before.replace(line?) {
            hash.update(&row);
            rows += 1;
        }
    }
    let (at, last) = before.ok_or_else(|| malformed(2, "is missing"))?;
    let trailer: Trailer = serde_json::from_slice(&last).map_err(|_| malformed(at, "is not the end of a backup: the file was cut off"))?;
    if trailer.rows != rows {
        return Err(malformed(at, "counts another number of rows than there are"));
    }
    if trailer.sha256 != hex(hash.finish().as_ref()) {
        return Err(malformed(at, "does not match: the file was changed or damaged"));
    }
    Ok((header, rows))
}

async fn fill<W: Write>(
    w: &mut W,
    from: &Path,
    header: &Header,
    total: u64,
    at_ms: i64,
    progress: &Progress,
) -> Result<Restored, BackupError> {
    let (head, _) = w.begin().await?;
    if head != 0 || !empty(w).await? {
        return Err(BackupError::NotEmpty);
    }
    let (mut verifier, mut rows) = (Verifier::after(0, chain::GENESIS), 0);
    let mut waiting: (usize, Vec<Line>) = (0, Vec::new());
    for line in lines(from)?.skip(1) {
        let (at, text) = line?;
        if rows == total {
            break;
        }
        let (table, row) = parse(&text).ok_or_else(|| BackupError::Malformed { line: at, why: "is not a row of a table".to_owned() })?;
        believe(&mut verifier, table, &row).map_err(|why| BackupError::Malformed { line: at, why })?;
        if waiting.0 != table || waiting.1.len() == 256 {
            store(w, &waiting).await?;
            waiting = (table, Vec::new());
        }
        if !alive(table, &row) {
            waiting.1.push(row);
        }
        rows += 1;
        if rows % 1024 == 0 {
            // Nothing to give way to: this runs on the writing thread, and what it awaits has to be ready there.
            progress(rows, total);
        }
    }
    store(w, &waiting).await?;
    verifier
        .finish(header.head, &unhex(&header.hash).and_then(|h| h.try_into().ok()).unwrap_or_default())
        .map_err(|e| BackupError::Malformed { line: 1, why: format!("the ledger in the backup does not verify: {e}") })?;
    let head = announce(w, header, rows, at_ms).await?;
    w.run(sql::PUT_META, args![RESTORE_PENDING, head.to_string().as_bytes()]).await?;
    w.run(sql::PUT_META, args![RESTORED_AT, at_ms.to_string().as_bytes()]).await?;
    w.commit(Some(head)).await?;
    progress(rows, total);
    Ok(Restored { rows, head })
}

/// Whether a row is something that whoever holds its text could use: it may have been used, or have ended, after the backup.
fn alive(table: usize, row: &Line) -> bool {
    use ArtefactKind::{
        Access, ApiKey, Backchannel, Browser, Code, DeviceCode, Enrolment, Form, GatewaySession, Interaction, Login, Pushed,
    };
    let kind = match (TABLES.get(table).map(|t| t.name), row.cells.first()) {
        (Some("artefacts"), Some(Cell::Text(kind))) => kind,
        _ => return false,
    };
    [Access, ApiKey, Backchannel, Browser, Code, DeviceCode, Enrolment, Form, GatewaySession, Interaction, Login, Pushed]
        .iter()
        .any(|k| k.as_str() == kind)
}

async fn empty<E: Exec>(e: &mut E) -> Result<bool, StoreError> {
    for (table, statements) in TABLES.iter().zip(STATEMENTS.iter()) {
        let least: Vec<Cell> = table.columns.iter().take(table.key).map(|(_, t)| t.least()).collect();
        if !page(e, statements.page, &least, 0).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(text: &[u8]) -> Option<(usize, Line)> {
    let values: Vec<Json> = serde_json::from_slice(text).ok()?;
    let (name, values) = values.split_first()?;
    let (at, table) = TABLES.iter().enumerate().find(|(_, t)| name.as_str() == Some(t.name))?;
    if values.len() != table.columns.len() {
        return None;
    }
    let cells = values.iter().zip(table.columns).map(|(v, (_, of))| from_json(v, *of)).collect::<Option<_>>()?;
    Some((at, Line { cells, types: table.columns }))
}

/// Checks the chain as events go by, from the checkpoint if there is one.
fn believe(verifier: &mut Verifier, table: usize, row: &Line) -> Result<(), String> {
    match (TABLES.get(table).map(|t| t.name), row.cells.as_slice()) {
        (Some("meta"), [Cell::Text(name), Cell::Blob(value)]) if name == purge::CHECKPOINT => {
            let (seq, hash) = purge::checkpoint(value).map_err(|e| e.to_string())?;
            *verifier = Verifier::after(seq, hash);
        }
        (Some("events"), [Cell::Int(seq), Cell::Int(at_ms), Cell::Text(kind), Cell::Text(document), Cell::Blob(hash)]) => {
            let event = Event {
                seq: u64::try_from(*seq).map_err(|_| "has a negative position".to_owned())?,
                at_ms: *at_ms,
                kind: kind.clone(),
                document: document.clone(),
                hash: hash.as_slice().try_into().map_err(|_| "has a chain value of another length".to_owned())?,
            };
            verifier.row(&event).map_err(|e| format!("the ledger does not verify: {e}"))?;
        }
        (Some("events"), _) => return Err("is not an event".to_owned()),
        _ => {}
    }
    Ok(())
}

async fn store<W: Write>(w: &mut W, (table, rows): &(usize, Vec<Line>)) -> Result<(), StoreError> {
    if let Some(statements) = STATEMENTS.get(*table) {
        insert_many(w, &statements.insert, rows).await?;
    }
    Ok(())
}

/// Appends the event that tells of the restore; gives the new head.
async fn announce<W: Write>(w: &mut W, header: &Header, rows: u64, at_ms: i64) -> Result<u64, BackupError> {
    let event = NewEvent::new(EventKind::Restored, at_ms).with("backup_at_ms", header.at_ms).with("head", header.head).with("rows", rows);
    let previous = unhex(&header.hash).and_then(|h| h.try_into().ok()).unwrap_or_default();
    let (seq, kind, document) = (header.head + 1, event.kind.as_str().to_owned(), event.document());
    let hash = chain::link(&previous, seq, at_ms, &kind, &document);
    insert_many(w, &sql::APPEND_EVENTS, &[Event { seq, at_ms, kind, document, hash }]).await?;
    w.run(sql::SET_HEAD, args![place(seq)?, hash.as_slice()]).await?;
    Ok(seq)
}
