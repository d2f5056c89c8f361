//! What is particular to SQLite: the lock, full disks, plans.
use std::sync::Arc;

use ledger::{ArtefactKind, Change, Step, StoreError};
use tokens::Clock;

use crate::{
    OpenError, Options, apply,
    contract::kit::{Stopped, World, artefact, event, told},
    exec::{Exec as _, Write as _},
    migrate, open, read,
    sqlite::{
        MIGRATIONS,
        connection::Writer,
        folding::{LONG, SAFE, SLICE},
    },
    statements::{ALL, APPEND_EVENTS, PUT_ARTEFACTS},
};

async fn fresh() -> (tempfile::TempDir, Writer) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::open(&folder.path().join("d.db")).expect("opens");
    migrate::migrate(&mut writer, MIGRATIONS).await.expect("migrates");
    (folder, writer)
}

#[tokio::test]
async fn a_writer_rests_once_nothing_was_changed_since_the_last_look() {
    let (_folder, mut writer) = fresh().await;
    writer.tidy().await.expect("looks");
    assert!(writer.rests());
    writer.script("CREATE TABLE other (x); INSERT INTO other VALUES (1)").await.expect("a change");
    assert!(!writer.rests());
    assert!(writer.rests());
    writer.script("DELETE FROM other").await.expect("another");
    writer.tidy().await.expect("looks, and keeps its pages");
    assert!(writer.rests());
    writer.tidy().await.expect("lets them go");
    let mut kept = writer.rows("SELECT count(*) FROM other", &[]).await.expect("reads as before");
    assert_eq!(kept.remove(0).int().expect("a number"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_opening_is_refused_and_names_the_lock() {
    let world = World::sqlite().await;
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let refused = open(&world.url, &Options::default(), Arc::clone(&clock)).await.err().expect("refused");
    assert!(matches!(refused, OpenError::Locked { .. }));
    assert!(refused.to_string().contains("doorward.db.lock"), "{refused}");
    let path = world.url.strip_prefix("sqlite://").expect("a path").to_owned();
    assert!(std::path::Path::new(&path).exists());
    let url = world.url.clone();
    world.end().await;
    assert!(matches!(open(&url, &Options::default(), clock).await, Err(OpenError::File { .. })), "the folder is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_schema_is_read_and_any_other_is_refused() {
    let clock: Arc<dyn Clock> = Arc::new(Stopped(0.into()));
    let reading = Options { read_only: true, ..Options::default() };
    let (folder, mut writer) = fresh().await;
    let at = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    assert!(open(&at("d.db"), &reading, Arc::clone(&clock)).await.is_ok());
    writer.script("DELETE FROM schema_migrations WHERE version = 2").await.expect("an older one");
    let older = open(&at("d.db"), &reading, Arc::clone(&clock)).await.err().expect("refused");
    assert!(matches!(older, OpenError::Schema(_)) && older.to_string().contains("0002_ends"), "{older}");
    Writer::open(&folder.path().join("empty.db")).expect("opens").script("CREATE TABLE other (x)").await.expect("a stranger's");
    assert!(matches!(open(&at("empty.db"), &reading, Arc::clone(&clock)).await, Err(OpenError::Schema(_))));
    assert!(open(&at("nowhere.db"), &reading, clock).await.is_err());
    assert!(!folder.path().join("nowhere.db").exists(), "reading makes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_known_urls_open() {
    let clock: Arc<dyn Clock> = Arc::new(Stopped(0.into()));
    for url in ["", "sqlite://", "mysql://u:hush@h/d", "sqlite:///tmp/x?mode=memory"] {
        let refused = open(url, &Options::default(), Arc::clone(&clock)).await.err().expect("refused");
        assert!(matches!(refused, OpenError::Url(_)) && !refused.to_string().contains("hush"), "{refused}");
    }
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_leaves_the_last_commit() {
    let (_folder, mut writer) = fresh().await;
    apply::commit(&mut writer, &[told(Step::PutMeta { name: "before".into(), value: vec![1] }).into()]).await.expect("applies");
    writer.script("PRAGMA max_page_count = 60").await.expect("a small disk");
    let big = |n: usize| Step::PutMeta { name: format!("{n}"), value: vec![7; 100_000] };
    let mut failed = None;
    for n in 0..9 {
        if let Err(fault) = apply::commit(&mut writer, &[told(big(n)).into(), Change::new().event(event()).into()]).await {
            failed = Some(fault);
            break;
        }
    }
    assert!(matches!(failed, Some(StoreError::Unavailable(_))), "{failed:?}");
    assert_eq!(read::meta(&mut writer, "before").await.expect("reads"), Some(vec![1]));
    writer.script("PRAGMA max_page_count = 100000").await.expect("room again");
    assert!(apply::commit(&mut writer, &[told(big(100)).into()]).await.expect("applies").answers[0].as_ref().expect("answer").applied());
}

#[tokio::test]
async fn every_statement_prepares_and_none_scans_a_growing_table() {
    let (_folder, writer) = fresh().await;
    // Whole small tables, and the one statement that ends everything.
    let may_scan = ["KEYS", "APPLIED", "END_GRANTS", "FIRST_EVENT"];
    let many = APPEND_EVENTS.iter().chain(PUT_ARTEFACTS.iter()).map(|sql| ("many", *sql));
    for (name, sql) in ALL.iter().copied().chain(many).filter(|(_, sql)| !sql.contains("SAVEPOINT")) {
        let mut statement = writer.connection().prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (mut rows, mut plan) = (statement.raw_query(), Vec::<String>::new());
        while let Some(row) = rows.next().expect("a plan") {
            plan.push(row.get(3).expect("a step"));
        }
        for step in plan {
            let scans = step.starts_with("SCAN") && !step.contains("VALUES CLAUSE") && !step.contains("CONSTANT ROW");
            assert!(!scans || may_scan.contains(&name), "{name}: {step}");
            assert!(!step.contains("TEMP B-TREE") || name == "KEYS", "{name}: {step}");
        }
    }
}

#[tokio::test]
async fn a_read_only_database_is_unavailable() {
    let (_folder, mut writer) = fresh().await;
    writer.script("PRAGMA query_only = ON").await.expect("set");
    assert!(matches!(apply::commit(&mut writer, &[Change::new().event(event()).into()]).await, Err(StoreError::Unavailable(_))));
    writer.rollback().await;
}

/// One database per way of losing it; each file is put back, or another in its place, before the last look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_removed_or_replaced_are_storage_that_is_away_until_a_restart() {
    for (name, replaced) in [("doorward.db", false), ("doorward.db", true), ("doorward.db-wal", false), ("doorward.db.lock", true)] {
        let world = World::sqlite().await;
        let store = world.store();
        let change = || told(Step::PutMeta { name: "n".into(), value: vec![1] });
        assert!(store.apply(change()).await.expect("applies").applied());
        let (at, kept) = (world.folder.path().join(name), world.folder.path().join("kept"));
        std::fs::rename(&at, &kept).expect("moves");
        if replaced {
            std::fs::copy(&kept, &at).expect("copies");
        }
        let fresh = store.fresh_at_ms();
        assert!(matches!(store.apply(change()).await, Err(StoreError::Unavailable(_))), "{name}: a change looks at once");
        assert!(matches!(store.head().await, Err(StoreError::Unavailable(_))), "{name}: what a change saw, a read knows");
        assert!(store.counts().await.is_err(), "{name}");
        world.clock.0.fetch_add(60_000, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(store.fresh_at_ms(), fresh, "{name}: nobody may take it for up to date");
        std::fs::rename(&kept, &at).expect("moves back");
        assert!(store.apply(change()).await.is_err() && store.head().await.is_err(), "{name}: what happened meanwhile is not known");
        drop(store);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_alone_notice_it_too_and_the_successors_files_are_left_alone() {
    let clock: Arc<dyn Clock> = Arc::new(Stopped(0.into()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let store = open(&format!("sqlite://{}", path("d.db").display()), &Options::default(), clock).await.expect("opens");
    assert!(store.head().await.is_ok());
    for name in ["d.db", "d.db-wal", "d.db.lock"] {
        std::fs::rename(path(name), path(&format!("old-{name}"))).expect("moves");
        std::fs::copy(path(&format!("old-{name}")), path(name)).expect("copies");
    }
    let began = std::time::Instant::now();
    while store.head().await.is_ok() {
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let log = std::fs::read(path("d.db-wal")).expect("there");
    assert!(!log.is_empty());
    drop(store);
    assert_eq!(std::fs::read(path("d.db-wal")).expect("still there"), log, "its end removes nothing that is not its own");
}

/// One commit of thirty new tokens with ids from `seed` on, and what the writing thread does after it.
async fn thirty(writer: &mut Writer, seed: u32) {
    let one = |n: u32| {
        let id = (seed * 30 + n).wrapping_mul(2_654_435_761).to_be_bytes();
        told(Step::Put(artefact(ArtefactKind::Access, &id))).into()
    };
    let asks: Vec<_> = (0..30).map(one).collect();
    let done = apply::commit(writer, &asks).await.expect("applies");
    assert!(done.answers.iter().all(|answer| answer.as_ref().is_ok_and(|outcome| outcome.applied())));
    writer.fold().expect("folds");
}

#[test]
fn the_sqlite_that_is_built_in_lets_the_log_be_folded_beside_the_writer() {
    assert!(rusqlite::version_number() >= SAFE, "{}", rusqlite::version());
}

#[tokio::test]
async fn the_log_is_folded_beside_the_commits_and_begins_anew() {
    let (folder, mut writer) = fresh().await;
    let (mut longest, mut anew, mut last) = (0, 0, 0);
    for seed in 0..300 {
        thirty(&mut writer, seed).await;
        let log = writer.settled();
        assert!(log.open() < 2 * SLICE, "{log:?}");
        anew += usize::from(log.pages < last);
        (last, longest) = (log.pages, longest.max(log.pages));
    }
    // Long, the slice above it and the commit that filled that.
    assert!(longest < LONG + 2 * SLICE, "{longest} pages");
    assert!(anew > 1, "it began anew {anew} times");
    let octets = std::fs::metadata(folder.path().join("d.db-wal")).expect("the log").len();
    assert!(octets < (LONG + 2 * SLICE).unsigned_abs() * 4200, "{octets}");
    writer.finish();
    assert!(std::fs::metadata(folder.path().join("d.db-wal")).is_err(), "a tidy end");
}

#[tokio::test]
async fn a_reader_keeps_the_log_only_for_as_long_as_it_stays() {
    let (folder, mut writer) = fresh().await;
    thirty(&mut writer, 0).await;
    let reader = rusqlite::Connection::open(folder.path().join("d.db")).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM artefacts;").expect("a reader");
    let mut seed = 1;
    while writer.settled().pages < 3_000 {
        thirty(&mut writer, seed).await;
        seed += 1;
    }
    assert!(writer.settled().open() > 2_500, "what it reads is in the log alone");
    reader.execute_batch("ROLLBACK").expect("it goes");
    while writer.settled().pages >= SLICE {
        thirty(&mut writer, seed).await;
        seed += 1;
        assert!(writer.settled().pages < 6_500, "what SQLite allows by itself, and a half");
    }
    thirty(&mut writer, seed).await;
    assert!(writer.settled().open() < SLICE);
}
