//! What growth must not bring: rows that nobody can use any more, files that never shrink, statements that read whole tables.
use ledger::{Artefact, ArtefactKind, Change, Step};
use sqlx::{Connection as _, Executor as _};

use super::kit::{NOW, World, artefact, told};
use crate::statements;

/// Pages of the file and free ones among them; none where the database is no file.
fn pages(world: &World) -> Option<(i64, i64)> {
    let path = world.url.strip_prefix("sqlite://")?;
    let file = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opens");
    let pragma = |name: &str| file.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).expect("a number");
    Some((pragma("page_count"), pragma("freelist_count")))
}

pub(super) async fn tokens_that_expired_leave_no_row_and_no_page_behind(world: &mut World) {
    let store = world.store();
    let before = pages(world);
    let mut most = Vec::new();
    for round in 0..4_i64 {
        let now = NOW + round * 100;
        for batch in 0..60_u32 {
            let put = |n: u32| {
                let id = [round.to_be_bytes().as_slice(), &batch.to_be_bytes(), &n.to_be_bytes()].concat();
                let document = "x".repeat(300);
                Step::Put(Artefact { created_at: now, expires_at: now + 60, document, ..artefact(ArtefactKind::Access, &id) })
            };
            assert!(store.apply((0..250).map(put).fold(Change::new(), Change::step)).await.expect("applies").applied());
        }
        most.extend(pages(world));
        while store.purge(now + 61, 500).await.expect("purges") > 0 {}
    }
    let counts = store.counts().await.expect("counts");
    assert_eq!(counts.iter().find(|(table, _)| *table == "artefacts"), Some(&("artefacts", 0)));
    if let (Some((begun, _)), [(first, _), .., (last, _)]) = (before, most.as_slice()) {
        assert!(*first > begun + 1000, "there was something to give back");
        assert!(last <= first, "what was freed is used again: {most:?}");
        // What is kept for what comes next is a few thousand pages at most, however large the file was.
        for _ in 0..10 {
            store.purge(NOW, 500).await.expect("purges");
        }
        let (end, free) = pages(world).expect("a file");
        assert!(end - begun <= 1100 && free <= 1100, "{begun} pages before, {end} after, {free} of them free");
    }
}

pub(super) async fn a_chain_is_one_row_however_often_it_was_rotated(world: &mut World) {
    let store = world.store();
    store.apply(told(Step::Put(artefact(ArtefactKind::Refresh, b"chain")))).await.expect("put");
    let mut mac = vec![7; 32];
    for n in 0..300_u64 {
        let to = [n.to_be_bytes(); 4].concat();
        let (kind, id) = (ArtefactKind::Refresh, b"chain".to_vec());
        let rotate = Step::Rotate { kind, id, now: NOW, from: mac, to: to.clone(), expires_at: NOW + 60, born: None, seq: n };
        assert!(store.apply(told(rotate)).await.expect("answer").applied());
        mac = to;
    }
    let counts = store.counts().await.expect("counts");
    assert_eq!(counts.iter().find(|(table, _)| *table == "artefacts"), Some(&("artefacts", 1)));
}

pub(super) async fn many_rows_are_counted_about_right_without_reading_them_all(world: &mut World) {
    let store = world.store();
    for batch in 0..60_u32 {
        let put = |n: u32| Step::Put(artefact(ArtefactKind::Jti, &(batch * 1000 + n).to_be_bytes()));
        assert!(store.apply((0..1000).map(put).fold(Change::new(), Change::step)).await.expect("applies").applied());
    }
    let counts = store.counts().await.expect("counts");
    let (_, rows) = counts.iter().find(|(table, _)| *table == "artefacts").expect("counted");
    // PostgreSQL says at least 50,000 before its planner has looked.
    assert!((50_000..=66_000).contains(rows), "{rows}");
}

/// With whole-table reads made dear, PostgreSQL's plans have none but for whole small tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_reads_a_whole_growing_table_on_postgres() {
    let Some(world) = World::postgres().await else { return };
    let mut connection = sqlx::PgConnection::connect(&world.url).await.expect("connects");
    connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").await.expect("set");
    let may_scan = ["KEYS", "APPLIED", "END_GRANTS", "FIRST_EVENT"];
    let explains = |sql: &str| ["SELECT", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
    for (name, sql) in statements::ALL.iter().copied().filter(|(name, sql)| explains(sql) && !may_scan.contains(name)) {
        let parameters = (1..20).take_while(|n| sql.contains(&format!("${n}"))).count();
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PREPARE plan AS {sql}"))))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let given = if parameters == 0 { String::new() } else { format!("({})", vec!["NULL"; parameters].join(", ")) };
        let explain = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE plan{given}")));
        let plan = connection.fetch_all(explain).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        for row in plan {
            let step: String = sqlx::Row::get(&row, 0);
            assert!(!step.contains("Seq Scan"), "{name}: {step}");
        }
        connection.execute("DEALLOCATE plan").await.expect("let go");
    }
    drop(connection);
    world.end().await;
}
