//! Backups: one portable file of JSON lines for either engine, with a hash at its end.
//!
//! Line 1 is the header, then `["table", column, …]` for each row (octets as hexadecimal), last the number of rows and
//! the SHA-256 of everything before. Sealed keys stay sealed and secrets are MACs or password hashes, as in the tables.
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Write as _},
    path::Path,
    sync::LazyLock,
};

use aws_lc_rs::digest::{Context, SHA256};
use ledger::{
    Event, EventKind, NewEvent, StoreError,
    chain::{self, Verifier},
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    apply::{Columns, insert_many},
    exec::{Cell, Exec, Value, Write, args, place},
    migrate, purge, read,
    statements::{self as sql, Many},
};

/// Hears how far a long operation is: rows done, rows in all (an estimate; 0: not known yet).
pub type Progress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Rows written.
    pub rows: u64,
    /// The ledger position it stands at.
    pub head: u64,
}

/// What a restore brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Rows read.
    pub rows: u64,
    /// The ledger position after the `storage.restored` event.
    pub head: u64,
}

/// Why a backup or restore did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be written or read.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// The file is not a whole backup.
    #[error("line {line} of the backup: {why}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The backup is of a schema this binary does not write.
    #[error("the backup has schema {found}, this doorward has {ours}: restore it with the doorward that made it, then upgrade")]
    Schema {
        /// In the backup.
        found: i64,
        /// In this binary.
        ours: i64,
    },
    /// A restore would mix two histories.
    #[error("the database is not empty: restore into a new one")]
    NotEmpty,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const FORMAT: u32 = 1;
const ROWS_AT_ONCE: i64 = 500;

#[derive(Serialize, Deserialize)]
struct Header {
    doorward_backup: u32,
    schema: i64,
    head: u64,
    hash: String,
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    rows: u64,
    sha256: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Int,
    Text,
    Blob,
}
use Type::{Blob, Int, Text};

/// A table: its columns, the first `key` of which are its key.
struct Table {
    name: &'static str,
    key: usize,
    columns: &'static [(&'static str, Type)],
}

/// In the order of restoring: `meta` (with the checkpoint) before `events`.
const TABLES: [Table; 10] = [
    Table { name: "meta", key: 1, columns: &[("name", Text), ("value", Blob)] },
    Table {
        name: "objects",
        key: 2,
        columns: &[
            ("kind", Text),
            ("id", Text),
            ("natural_key", Text),
            ("document", Text),
            ("version", Int),
            ("created_at", Int),
            ("updated_at", Int),
        ],
    },
    Table { name: "secrets", key: 3, columns: &[("kind", Text), ("id", Text), ("slot", Text), ("value", Blob)] },
    Table {
        name: "keys",
        key: 1,
        columns: &[
            ("kid", Text),
            ("alg", Text),
            ("state", Text),
            ("public_jwk", Text),
            ("sealed", Blob),
            ("created_at", Int),
            ("changed_at", Int),
        ],
    },
    Table {
        name: "sessions",
        key: 1,
        columns: &[
            ("id", Text),
            ("subject", Text),
            ("auth_time", Int),
            ("amr", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("ended_at", Int),
            ("document", Text),
        ],
    },
    Table { name: "consents", key: 2, columns: &[("subject", Text), ("client_id", Text), ("scopes", Text), ("granted_at", Int)] },
    Table {
        name: "grants",
        key: 1,
        columns: &[
            ("id", Text),
            ("subject", Text),
            ("client_id", Text),
            ("session", Text),
            ("scope", Text),
            ("document", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("ended_at", Int),
        ],
    },
    Table {
        name: "artefacts",
        key: 2,
        columns: &[
            ("kind", Text),
            ("id", Blob),
            ("mac", Blob),
            ("grant_id", Text),
            ("document", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("consumed_at", Int),
            ("successor", Blob),
            ("seq", Int),
        ],
    },
    Table { name: "revocations", key: 2, columns: &[("kind", Text), ("id", Text), ("seq", Int), ("at_ms", Int), ("expires_at", Int)] },
    Table { name: "events", key: 1, columns: &[("seq", Int), ("at_ms", Int), ("kind", Text), ("document", Text), ("hash", Blob)] },
];

/// The statements of a table, made once.
struct Statements {
    page: &'static str,
    insert: Many,
}

static STATEMENTS: LazyLock<[Statements; TABLES.len()]> = LazyLock::new(|| {
    TABLES.map(|table| {
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        Statements { page: sql::page_of(table.name, &columns, table.key), insert: sql::insert_into(table.name, &columns) }
    })
});

fn file_error(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |e| BackupError::File { path: path.display().to_string(), why: e.to_string() }
}

/// A file that hashes what goes into it.
struct Hashing<W> {
    out: W,
    hash: Context,
}

impl<W: io::Write> Hashing<W> {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}

/// Writes everything a snapshot sees. The file appears under its name only when it is whole and on disk.
pub(crate) async fn save<E: Exec>(e: &mut E, path: &Path, at_ms: i64, total: u64, progress: &Progress) -> Result<Saved, BackupError> {
    let failed = file_error(path);
    if path.exists() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "is there already")));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let saved = match create(part) {
        Ok(file) => write_all(e, file, path, at_ms, total, progress).await,
        Err(error) => return Err(file_error(part)(error)),
    };
    match saved {
        Ok(saved) => std::fs::rename(part, path).map(|()| saved).map_err(failed),
        Err(error) => {
            let _ = std::fs::remove_file(part);
            Err(error)
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

async fn write_all<E: Exec>(e: &mut E, file: File, path: &Path, at_ms: i64, total: u64, progress: &Progress) -> Result<Saved, BackupError> {
    let mut out = Hashing { out: BufWriter::new(file), hash: Context::new(&SHA256) };
    let (head, hash) = read::head(e).await?;
    let header = Header { doorward_backup: FORMAT, schema: migrate::newest(), head, hash: chain::hex::encode(&hash), at_ms };
    out.line(&header).map_err(file_error(path))?;
    let mut rows = 0;
    for (table, statements) in TABLES.iter().zip(STATEMENTS.iter()) {
        let mut cursor: Vec<Cell> = table.columns.iter().take(table.key).map(|(_, t)| t.least()).collect();
        loop {
            let found = page(e, statements.page, &cursor, table.columns.len()).await?;
            for cells in &found {
                let line: Vec<Json> = std::iter::once(Json::from(table.name)).chain(cells.iter().map(to_json)).collect();
                out.line(&line).map_err(file_error(path))?;
            }
            rows += found.len() as u64;
            progress(rows, total.max(rows));
            match found.into_iter().last() {
                Some(last) => cursor = last.into_iter().take(table.key).collect(),
                None => break,
            }
            tokio::task::yield_now().await;
        }
    }
    let sha256 = hex(out.hash.finish().as_ref());
    let finish = |mut out: BufWriter<File>| {
        writeln!(out, "{}", serde_json::to_string(&Trailer { rows, sha256 })?)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    finish(out.out).map_err(file_error(path))?;
    Ok(Saved { rows, head })
}

async fn page<E: Exec>(e: &mut E, sql: &'static str, after: &[Cell], columns: usize) -> Result<Vec<Vec<Cell>>, StoreError> {
    let mut values: Vec<Value<'_>> = after.iter().map(|c| c.value(Int)).collect();
    values.push(ROWS_AT_ONCE.into());
    let rows = e.rows(sql, &values).await?;
    rows.into_iter().map(|mut row| (0..columns).map(|_| row.cell()).collect()).collect()
}

impl Type {
    /// Before every value that is stored in a key.
    fn least(self) -> Cell {
        match self {
            Int => Cell::Int(i64::MIN),
            Text => Cell::Text(String::new()),
            Blob => Cell::Blob(Vec::new()),
        }
    }
}

impl Cell {
    /// As a parameter; `of` tells the type of an absent value.
    fn value(&self, of: Type) -> Value<'_> {
        match (self, of) {
            (Self::Int(v), _) => Value::Int(Some(*v)),
            (Self::Text(v), _) => Value::Text(Some(v)),
            (Self::Blob(v), _) => Value::Blob(Some(v)),
            (Self::Null, Int) => Value::Int(None),
            (Self::Null, Text) => Value::Text(None),
            (Self::Null, Blob) => Value::Blob(None),
        }
    }
}

fn to_json(cell: &Cell) -> Json {
    match cell {
        Cell::Null => Json::Null,
        Cell::Int(v) => Json::from(*v),
        Cell::Text(v) => Json::from(v.as_str()),
        Cell::Blob(v) => Json::from(hex(v)),
    }
}

fn from_json(value: &Json, of: Type) -> Option<Cell> {
    match (value, of) {
        (Json::Null, _) => Some(Cell::Null),
        (Json::Number(n), Int) => n.as_i64().map(Cell::Int),
        (Json::String(s), Text) => Some(Cell::Text(s.clone())),
        (Json::String(s), Blob) => unhex(s).map(Cell::Blob),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

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
        waiting.1.push(row);
        rows += 1;
        if rows % 1024 == 0 {
            progress(rows, total);
            tokio::task::yield_now().await;
        }
    }
    store(w, &waiting).await?;
    verifier
        .finish(header.head, &unhex(&header.hash).and_then(|h| h.try_into().ok()).unwrap_or_default())
        .map_err(|e| BackupError::Malformed { line: 1, why: format!("the ledger in the backup does not verify: {e}") })?;
    let head = announce(w, header, rows, at_ms).await?;
    w.commit(Some(head)).await?;
    progress(rows, total);
    Ok(Restored { rows, head })
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
