//! The tables a backup holds, and their values as JSON.
use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::{
    exec::{Cell, Value},
    statements::{self as sql, Many},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Text,
    Blob,
}
pub(super) use Type::{Blob, Int, Text};

/// A table: its columns, the first `key` of which are its key.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) key: usize,
    pub(super) columns: &'static [(&'static str, Type)],
}

/// In the order of restoring: `meta` (with the checkpoint) before `events`.
pub(super) const TABLES: [Table; 10] = [
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
pub(super) struct Statements {
    pub(super) page: &'static str,
    pub(super) insert: Many,
}

pub(super) static STATEMENTS: LazyLock<[Statements; TABLES.len()]> = LazyLock::new(|| {
    TABLES.map(|table| {
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        Statements { page: sql::page_of(table.name, &columns, table.key), insert: sql::insert_into(table.name, &columns) }
    })
});

impl Type {
    /// Before every value that is stored in a key.
    pub(super) fn least(self) -> Cell {
        match self {
            Int => Cell::Int(i64::MIN),
            Text => Cell::Text(String::new()),
            Blob => Cell::Blob(Vec::new()),
        }
    }
}

impl Cell {
    /// As a parameter; `of` tells the type of an absent value.
    pub(super) fn value(&self, of: Type) -> Value<'_> {
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

pub(super) fn to_json(cell: &Cell) -> Json {
    match cell {
        Cell::Null => Json::Null,
        Cell::Int(v) => Json::from(*v),
        Cell::Text(v) => Json::from(v.as_str()),
        Cell::Blob(v) => Json::from(hex(v)),
    }
}

pub(super) fn from_json(value: &Json, of: Type) -> Option<Cell> {
    match (value, of) {
        (Json::Null, _) => Some(Cell::Null),
        (Json::Number(n), Int) => n.as_i64().map(Cell::Int),
        (Json::String(s), Text) => Some(Cell::Text(s.clone())),
        (Json::String(s), Blob) => unhex(s).map(Cell::Blob),
        _ => None,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
