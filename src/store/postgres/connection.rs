//! PostgreSQL connections: parameters bound, rows read, faults sorted.
use ledger::StoreError;
use sqlx::{
    Column as _, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _, TypeInfo as _,
    postgres::{PgConnectOptions, PgRow},
};

use crate::{
    exec::{Cell, Exec, Row, Value},
    postgres::{CONNECT, timed_out},
};

pub(crate) fn away(why: String) -> StoreError {
    StoreError::Unavailable(why)
}

/// Sorts a fault: away (try again) or nonsense.
pub(crate) fn fault(e: &sqlx::Error) -> StoreError {
    let Some(told) = e.as_database_error() else {
        return match e {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => {
                StoreError::Corrupt(e.to_string())
            }
            _ => away(e.to_string()),
        };
    };
    let code = told.code().unwrap_or_default();
    // Connection, transaction state and rollback, resources, operator, system; read-only; not (or no longer) allowed in.
    let passing = ["08", "25", "28", "40", "53", "55", "57", "58", "3D"];
    if passing.iter().any(|class| code.starts_with(class)) { away(e.to_string()) } else { StoreError::Corrupt(e.to_string()) }
}

pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT, options.connect()).await {
        Ok(connected) => connected.map_err(|e| match fault(&e) {
            StoreError::Corrupt(why) => away(why),
            other => other,
        }),
        Err(_) => Err(timed_out("let us in")),
    }
}

/// PostgreSQL's text cannot hold NUL.
fn has_nul(args: &[Value<'_>]) -> bool {
    args.iter().any(|v| matches!(v, Value::Text(Some(text)) if text.contains('\0')))
}

fn query<'q>(sql: &'static str, args: &[Value<'q>]) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    args.iter().fold(sqlx::query(sql), |query, value| match *value {
        Value::Int(v) => query.bind(v),
        Value::Text(v) => query.bind(v),
        Value::Blob(v) => query.bind(v),
    })
}

pub(crate) async fn run(c: &mut PgConnection, sql: &'static str, args: &[Value<'_>]) -> Result<u64, StoreError> {
    if has_nul(args) {
        return Err(StoreError::Corrupt("a text to be stored holds NUL".to_owned()));
    }
    query(sql, args).execute(c).await.map(|done| done.rows_affected()).map_err(|e| fault(&e))
}

pub(crate) async fn rows(c: &mut PgConnection, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
    if has_nul(args) {
        return Ok(Vec::new());
    }
    let found = query(sql, args).fetch_all(c).await.map_err(|e| fault(&e))?;
    found.iter().map(row).collect()
}

pub(crate) async fn script(c: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
    c.execute(sqlx::raw_sql(sql)).await.map(|_| ()).map_err(|e| fault(&e))
}

pub(crate) fn row(row: &PgRow) -> Result<Row, StoreError> {
    row.columns().iter().enumerate().map(|(at, column)| cell(row, at, column.type_info().name())).collect::<Result<_, _>>().map(Row::new)
}

fn cell(row: &PgRow, at: usize, of: &str) -> Result<Cell, StoreError> {
    let cell = match of {
        "INT8" => row.try_get::<Option<i64>, _>(at).map(|v| v.map(Cell::Int)),
        "INT4" => row.try_get::<Option<i32>, _>(at).map(|v| v.map(|v| Cell::Int(v.into()))),
        "BYTEA" => row.try_get::<Option<Vec<u8>>, _>(at).map(|v| v.map(Cell::Blob)),
        "TEXT" | "VARCHAR" => row.try_get::<Option<String>, _>(at).map(|v| v.map(Cell::Text)),
        "VOID" | "BOOL" => Ok(None),
        other => return Err(StoreError::Corrupt(format!("column {at} is of the unknown type {other}"))),
    };
    cell.map(|v| v.unwrap_or(Cell::Null)).map_err(|e| fault(&e))
}

/// A connection of its own.
pub(crate) struct Direct(PgConnection);

impl Direct {
    pub(crate) async fn connect(options: &PgConnectOptions) -> Result<Self, StoreError> {
        connect(options).await.map(Self)
    }
    pub(crate) async fn close(self) {
        let _ = self.0.close().await;
    }
}

impl Exec for Direct {
    async fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<u64, StoreError> {
        run(&mut self.0, sql, args).await
    }
    async fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        rows(&mut self.0, sql, args).await
    }
    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        script(&mut self.0, sql).await
    }
}
