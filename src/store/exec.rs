//! What both engines can do for a statement: run it, or give its rows.
use std::future::Future;

use ledger::{Artefact, Event, StoreError};

use crate::{
    apply::insert_many,
    group::{Reads, Takes},
    statements as sql,
};

/// A parameter. The type is known even where the value is absent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// BIGINT.
    Int(Option<i64>),
    /// TEXT.
    Text(Option<&'a str>),
    /// BLOB, BYTEA.
    Blob(Option<&'a [u8]>),
}

impl From<i64> for Value<'_> {
    fn from(v: i64) -> Self {
        Self::Int(Some(v))
    }
}
impl From<Option<i64>> for Value<'_> {
    fn from(v: Option<i64>) -> Self {
        Self::Int(v)
    }
}
impl<'a> From<&'a str> for Value<'a> {
    fn from(v: &'a str) -> Self {
        Self::Text(Some(v))
    }
}
impl<'a> From<&'a String> for Value<'a> {
    fn from(v: &'a String) -> Self {
        Self::Text(Some(v))
    }
}
impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(v: &'a Option<String>) -> Self {
        Self::Text(v.as_deref())
    }
}
impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(v: &'a [u8]) -> Self {
        Self::Blob(Some(v))
    }
}
impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(v: &'a Vec<u8>) -> Self {
        Self::Blob(Some(v))
    }
}
impl<'a> From<&'a Option<Vec<u8>>> for Value<'a> {
    fn from(v: &'a Option<Vec<u8>>) -> Self {
        Self::Blob(v.as_deref())
    }
}

/// The arguments of a statement, converted.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::exec::Value::from($value)),*] };
}
pub(crate) use args;

/// One column of one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// One row, read from the left.
#[derive(Debug)]
pub(crate) struct Row(std::vec::IntoIter<Cell>);

impl Row {
    pub(crate) fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }
    pub(crate) fn cell(&mut self) -> Result<Cell, StoreError> {
        self.0.next().ok_or_else(|| StoreError::Corrupt("a row is too short".into()))
    }
    pub(crate) fn int(&mut self) -> Result<i64, StoreError> {
        self.maybe_int()?.ok_or_else(|| unexpected("NULL", "a number"))
    }
    pub(crate) fn maybe_int(&mut self) -> Result<Option<i64>, StoreError> {
        match self.cell()? {
            Cell::Int(v) => Ok(Some(v)),
            Cell::Null => Ok(None),
            Cell::Text(_) | Cell::Blob(_) => Err(unexpected("text or octets", "a number")),
        }
    }
    pub(crate) fn place(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.int()?).map_err(|_| unexpected("a negative number", "a ledger position"))
    }
    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        self.maybe_text()?.ok_or_else(|| unexpected("NULL", "text"))
    }
    pub(crate) fn maybe_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.cell()? {
            Cell::Text(v) => Ok(Some(v)),
            Cell::Null => Ok(None),
            Cell::Int(_) | Cell::Blob(_) => Err(unexpected("a number or octets", "text")),
        }
    }
    pub(crate) fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        self.maybe_blob()?.ok_or_else(|| unexpected("NULL", "octets"))
    }
    pub(crate) fn maybe_blob(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.cell()? {
            Cell::Blob(v) => Ok(Some(v)),
            Cell::Null => Ok(None),
            Cell::Int(_) | Cell::Text(_) => Err(unexpected("a number or text", "octets")),
        }
    }
    pub(crate) fn hash(&mut self) -> Result<[u8; 32], StoreError> {
        self.blob()?.try_into().map_err(|_| unexpected("octets of another length", "a chain value of 32 octets"))
    }
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        serde_json::from_str(&self.text()?).map_err(|e| StoreError::Corrupt(format!("a stored document is not what it should be: {e}")))
    }
}

fn unexpected(found: &str, expected: &str) -> StoreError {
    StoreError::Corrupt(format!("a column holds {found} where {expected} was expected"))
}

/// A ledger position as a column.
pub(crate) fn place(seq: u64) -> Result<i64, StoreError> {
    i64::try_from(seq).map_err(|_| StoreError::Corrupt(format!("ledger position {seq} is out of range")))
}

/// A connection of either engine. SQLite's futures are ready when they are made.
pub(crate) trait Exec: Send {
    /// Runs a statement; returns how many rows it touched.
    fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<u64, StoreError>> + Send;
    /// Runs a statement and gives its rows.
    fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;
    /// Runs a script of statements without parameters (migrations).
    fn script(&mut self, sql: &'static str) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A connection that writes: one transaction at a time, which holds the ledger's head from begin to end.
pub(crate) trait Write: Exec + Sized {
    /// The engine's name in metrics.
    const ENGINE: &'static str;
    /// Whether a run of changes is decided together ([`crate::group`]): where a statement is a way to a server and back.
    const TOGETHER: bool = false;
    /// Begins a transaction and locks the ledger's head; gives its position and chain value.
    fn begin(&mut self) -> impl Future<Output = Result<(u64, [u8; 32]), StoreError>> + Send;
    /// Makes it durable. `head` is the new position if events were appended.
    fn commit(&mut self, head: Option<u64>) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Whether the commit that failed last is known not to have happened: then it may be tried anew.
    fn undone(&self) -> bool {
        false
    }
    /// Outside of a transaction: gives back a little of what is not used any more.
    fn tidy(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Undoes it. A transaction that is already gone is no error.
    fn rollback(&mut self) -> impl Future<Output = ()> + Send;
    /// Which of these guards stand. Asked where changes are decided together.
    fn stand(&mut self, _reads: &[Reads<'_>]) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send {
        std::future::ready(Err(StoreError::Corrupt("this engine is asked one by one".to_owned())))
    }
    /// Consumes and rotates rows, no two the same; says which were there to be. Asked where changes are decided together.
    fn take(&mut self, _takes: &[Takes<'_>]) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send {
        std::future::ready(Err(StoreError::Corrupt("this engine is asked one by one".to_owned())))
    }
    /// Stores new short-lived things; returns how many were not there.
    fn put(&mut self, rows: &[&Artefact]) -> impl Future<Output = Result<u64, StoreError>> + Send {
        insert_many(self, &sql::PUT_ARTEFACTS, rows)
    }
    /// Appends events and moves the ledger's head to the last of them.
    fn append(&mut self, events: &[Event], head: u64, hash: &[u8; 32]) -> impl Future<Output = Result<(), StoreError>> + Send {
        async move {
            insert_many(self, &sql::APPEND_EVENTS, events).await?;
            self.run(sql::SET_HEAD, args![place(head)?, hash.as_slice()]).await.map(|_| ())
        }
    }
}

/// The first row, if any.
pub(crate) async fn row<E: Exec>(e: &mut E, sql: &'static str, args: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
    Ok(e.rows(sql, args).await?.into_iter().next())
}
