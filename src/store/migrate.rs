//! The schema, step by step: numbered scripts, applied once, never changed afterwards.
use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use ledger::StoreError;

use crate::{
    exec::{Exec, args},
    open::OpenError,
    statements as sql,
};

/// One script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

macro_rules! migrations {
    ($engine:literal: $($version:literal $name:literal),* $(,)?) => {
        &[$($crate::migrate::Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/", $engine, "/", $name, ".sql")),
        }),*]
    };
}
pub(crate) use migrations;

/// The newest schema this binary knows.
pub(crate) fn newest() -> i64 {
    crate::sqlite::MIGRATIONS.last().map_or(0, |m| m.version)
}

fn checksum(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Brings the schema up to date, each script in its own transaction. The caller makes sure it is alone.
pub(crate) async fn migrate<E: Exec>(e: &mut E, known: &'static [Migration]) -> Result<(), OpenError> {
    e.script(sql::CREATE_MIGRATIONS).await?;
    let applied = applied(e).await?;
    check(&applied, known)?;
    for migration in known.iter().filter(|m| !applied.contains_key(&m.version)) {
        let done = one(e, migration).await;
        if let Err(fault) = done {
            let _ = e.script("ROLLBACK").await;
            return Err(fault.into());
        }
        tracing::info!(version = migration.version, name = migration.name, "schema brought up to date");
    }
    Ok(())
}

/// Refuses a schema that is not exactly the one this binary makes. Changes nothing.
pub(crate) async fn current<E: Exec>(e: &mut E, known: &'static [Migration]) -> Result<(), OpenError> {
    let applied = match applied(e).await {
        Ok(applied) => applied,
        // No table of migrations.
        Err(StoreError::Corrupt(why)) => {
            return Err(OpenError::Schema(format!("this is not a database of doorward's, or nothing was ever stored in it ({why})")));
        }
        Err(away) => return Err(away.into()),
    };
    check(&applied, known)?;
    match known.iter().find(|m| !applied.contains_key(&m.version)) {
        Some(missing) => Err(OpenError::Schema(format!(
            "the database lacks migration {} ({}): start this doorward's `serve` on it once, which brings it up to date",
            missing.version, missing.name
        ))),
        None => Ok(()),
    }
}

async fn applied<E: Exec>(e: &mut E) -> Result<BTreeMap<i64, (String, String)>, StoreError> {
    let rows = e.rows(sql::APPLIED, &[]).await?;
    rows.into_iter().map(|mut r| Ok((r.int()?, (r.text()?, r.text()?)))).collect()
}

async fn one<E: Exec>(e: &mut E, migration: &Migration) -> Result<(), StoreError> {
    e.script("BEGIN").await?;
    e.script(migration.sql).await?;
    e.run(sql::RECORD_MIGRATION, args![migration.version, migration.name, &checksum(migration.sql)]).await?;
    e.script("COMMIT").await
}

fn check(applied: &BTreeMap<i64, (String, String)>, known: &[Migration]) -> Result<(), OpenError> {
    for (version, (name, stored)) in applied {
        let Some(ours) = known.iter().find(|m| m.version == *version) else {
            return Err(OpenError::Schema(format!(
                "the database has migration {version} ({name}), which this doorward does not know: start the newer doorward that made it"
            )));
        };
        if &checksum(ours.sql) != stored {
            return Err(OpenError::Schema(format!(
                "migration {version} ({name}) of the database is not the one this doorward knows (its checksum differs): \
                 start the doorward that made the database"
            )));
        }
    }
    let newest = applied.keys().next_back().copied().unwrap_or(0);
    match known.iter().find(|m| m.version < newest && !applied.contains_key(&m.version)) {
        Some(gap) => Err(OpenError::Schema(format!("the database lacks migration {} ({}) but has later ones", gap.version, gap.name))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_pair_by_number_and_name_and_are_all_embedded() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
        for (engine, known) in [("sqlite", crate::sqlite::MIGRATIONS), ("postgres", crate::postgres::MIGRATIONS)] {
            let mut files: Vec<String> = std::fs::read_dir(format!("{root}/{engine}"))
                .expect("migrations")
                .map(|f| f.expect("entry").file_name().into_string().expect("utf-8"))
                .collect();
            files.sort();
            let embedded: Vec<String> = known.iter().map(|m| format!("{}.sql", m.name)).collect();
            assert_eq!(files, embedded, "{engine}");
            for (at, m) in known.iter().enumerate() {
                assert_eq!(m.version, at as i64 + 1);
                assert!(m.name.starts_with(&format!("{:04}_", m.version)), "{}", m.name);
            }
        }
        let names = |known: &[Migration]| known.iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(names(crate::sqlite::MIGRATIONS), names(crate::postgres::MIGRATIONS));
    }

    #[test]
    fn a_newer_or_changed_schema_is_refused() {
        const KNOWN: &[Migration] = &[Migration { version: 1, name: "0001_a", sql: "A" }];
        let row = |version, sum: String| BTreeMap::from([(version, ("x".to_owned(), sum))]);
        assert!(check(&row(1, checksum("A")), KNOWN).is_ok());
        assert!(check(&row(1, checksum("B")), KNOWN).is_err_and(|e| e.to_string().contains("checksum")));
        assert!(check(&row(2, checksum("A")), KNOWN).is_err_and(|e| e.to_string().contains("does not know")));
    }
}
