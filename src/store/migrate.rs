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

/// What the name of a migration ends in that a doorward which does not know it cannot live with. All others only add: what was there before
/// stays readable and writable as it was, so that nodes of the version before serve on, and start, beside the new one (decision 0022).
pub(crate) const BREAKING: &str = ".breaking";

/// The newest migration of a database.
pub(crate) async fn schema<E: Exec>(e: &mut E) -> Result<i64, StoreError> {
    Ok(applied(e).await?.keys().next_back().copied().unwrap_or(0))
}

fn checksum(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Brings the schema up to date, each script in its own transaction. The caller makes sure it is alone.
pub(crate) async fn migrate<E: Exec>(e: &mut E, known: &'static [Migration]) -> Result<(), OpenError> {
    e.script(sql::CREATE_MIGRATIONS).await?;
    let applied = applied(e).await?;
    check(&applied, known)?;
    let newest = known.last().map_or(0, |m| m.version);
    if let Some((version, (name, _))) = applied.range(newest + 1..).next_back() {
        tracing::warn!(version, name, "the database has been upgraded by a newer doorward, beside which this one can serve");
    }
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

/// Refuses a schema that lacks what this binary needs, or has what it cannot live with. Changes nothing.
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
            if !name.ends_with(BREAKING) {
                continue;
            }
            return Err(OpenError::Schema(format!(
                "the database has migration {version} ({name}), which this doorward does not know and could not live with: start the newer \
                 doorward that made it"
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
        let newer = |name: &str| {
            let mut applied = row(1, checksum("A"));
            applied.insert(2, (name.to_owned(), checksum("later")));
            check(&applied, KNOWN)
        };
        assert!(newer("0002_more").is_ok(), "it only adds");
        assert!(newer("0002_less.breaking").is_err_and(|e| e.to_string().contains("does not know")));
        assert!(check(&row(2, checksum("A")), KNOWN).is_err(), "what came before it is missing");
    }

    /// Why a statement is more than an addition, if it is.
    fn takes_away(statement: &str) -> Option<&'static str> {
        let words: Vec<String> = statement.to_uppercase().split_whitespace().map(str::to_owned).collect();
        let has = |pair: &[&str]| words.windows(pair.len()).any(|w| w == pair);
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["CREATE", "TABLE", ..] | ["CREATE", "INDEX", ..] | ["DROP", "INDEX", ..] => None,
            ["ALTER", "TABLE", _, "ADD", "COLUMN", ..] if has(&["NOT", "NULL"]) && !words.iter().any(|w| w == "DEFAULT") => {
                Some("whoever does not know the column cannot insert a row")
            }
            ["ALTER", "TABLE", _, "ADD", "COLUMN", ..] if has(&["UNIQUE"]) || has(&["CHECK"]) || has(&["REFERENCES"]) => {
                Some("a constraint refuses what was right before")
            }
            ["ALTER", "TABLE", _, "ADD", "COLUMN", ..] => None,
            ["ALTER", "TABLE", _, "SET", rest, ..] if rest.starts_with('(') => None,
            _ => Some("only CREATE TABLE, CREATE INDEX, DROP INDEX and ADD COLUMN add"),
        }
    }

    #[test]
    fn every_migration_after_the_first_only_adds_or_says_that_it_does_not() {
        for (engine, known) in [("sqlite", crate::sqlite::MIGRATIONS), ("postgres", crate::postgres::MIGRATIONS)] {
            for migration in known.iter().skip(1).filter(|m| !m.name.ends_with(BREAKING)) {
                let text: String = migration.sql.lines().map(|l| l.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
                for statement in text.split(';').map(str::trim).filter(|s| !s.is_empty()) {
                    assert_eq!(takes_away(statement), None, "{engine} {}: {statement}", migration.name);
                }
            }
        }
        for statement in [
            "ALTER TABLE grants DROP COLUMN scope",
            "ALTER TABLE grants ADD COLUMN x TEXT NOT NULL",
            "CREATE UNIQUE INDEX a ON b (c)",
            "UPDATE a SET b = 1",
        ] {
            assert!(takes_away(statement).is_some(), "{statement}");
        }
        assert!(takes_away("ALTER TABLE grants ADD COLUMN x BIGINT NOT NULL DEFAULT 0").is_none());
    }
}
