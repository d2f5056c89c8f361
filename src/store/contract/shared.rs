//! What only shared servers can show: several nodes on one PostgreSQL, several on one Redis, and either going away.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use edge::limit::{Ask, Counters, Quota};
use ledger::{ArtefactKind, Change, Committed, Listener, RevocationKind, Step};
use sqlx::{Connection as _, Executor as _, SqlSafeStr as _};
use tokens::Clock;

use super::kit::{Ear, NOW, World, all_events, artefact, consume, event, server, told, verify};
use crate::{Options, open, redis::Redis, statements};

/// Notes a head that came before something below it.
#[derive(Default)]
struct Whole {
    heard: parking_lot::Mutex<std::collections::BTreeSet<u64>>,
    torn: parking_lot::Mutex<Option<u64>>,
}

impl Listener for Whole {
    fn committed(&self, batch: &Committed) {
        let mut heard = self.heard.lock();
        if (1..=batch.head).any(|seq| !heard.contains(&seq)) {
            self.torn.lock().get_or_insert(batch.head);
        }
        heard.extend(batch.events.iter().map(|e| e.seq));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_one_order_one_winner_and_every_revocation() {
    let Some(world) = World::postgres().await else { return };
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let (one, two) = (world.store(), open(&world.url, &Options::default(), clock).await.expect("a second node"));
    let ear = Arc::new(Ear::default());
    two.listen(Arc::clone(&ear) as _);
    let whole = Arc::new(Whole::default());
    two.listen(Arc::clone(&whole) as _);
    one.apply(told(Step::Put(artefact(ArtefactKind::Refresh, b"r")))).await.expect("put");
    let tasks: Vec<_> = (0..200u32)
        .map(|n| {
            let node = Arc::clone(if n % 2 == 0 { &one } else { &two });
            tokio::spawn(async move { node.apply(told(consume(ArtefactKind::Refresh, b"r", NOW))).await.expect("answer").applied() })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += u32::from(task.await.expect("no panic"));
    }
    assert_eq!(won, 1);
    let tasks: Vec<_> = (0..100u32)
        .map(|n| {
            let node = Arc::clone(if n % 2 == 0 { &one } else { &two });
            tokio::spawn(async move { node.apply(Change::new().event(event())).await.expect("answer").applied() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("no panic"));
    }
    assert_eq!(verify(&one).await, Ok(102));
    let began = Instant::now();
    one.apply(Change::new().event(event()).revoke(RevocationKind::Token, "t", 1, NOW + 100)).await.expect("revoke");
    while !ear.0.lock().expect("no panic").revocations.iter().any(|r| r.id == "t" && r.seq == 103) {
        assert!(began.elapsed() < Duration::from_secs(1), "the other node did not hear within a second");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("the other node heard after {:?}", began.elapsed());
    let heard: std::collections::BTreeSet<u64> = ear.0.lock().expect("no panic").events.iter().map(|e| e.seq).collect();
    assert_eq!(heard.len(), all_events(&one).await.len(), "each event at least once");
    assert_eq!(*whole.torn.lock(), None, "a head was told before everything below it");
    drop((one, two));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_connections_were_cut_goes_on() {
    let Some(world) = World::postgres().await else { return };
    let store = world.store();
    store.apply(Change::new().event(event())).await.expect("applies");
    store.head().await.expect("reads");
    let mut other = sqlx::PgConnection::connect(&world.url).await.expect("connects");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    other.execute(cut).await.expect("cuts");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.head().await.expect("reads on a fresh connection").0, 1);
    assert!(store.apply(Change::new().event(event())).await.expect("writes on a fresh connection").applied());
    world.clock.0.fetch_add(5_000, std::sync::atomic::Ordering::Relaxed);
    let began = Instant::now();
    while store.fresh_at_ms() < (NOW + 5) * 1000 {
        assert!(began.elapsed() < Duration::from_secs(3), "the follower did not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(verify(&store).await, Ok(2));
    drop((store, other));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_prepares_on_postgres() {
    let Some(world) = World::postgres().await else { return };
    let mut connection = sqlx::PgConnection::connect(&world.url).await.expect("connects");
    for (name, sql) in statements::ALL.iter().copied().filter(|(_, sql)| !sql.contains("SAVEPOINT")) {
        connection.prepare(sql.into_sql_str()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    drop(connection);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_not_there_is_unavailable() {
    let clock: Arc<dyn Clock> = Arc::new(super::kit::Stopped(0.into()));
    let refused = open("postgres://nobody:hush@127.0.0.1:1/none", &Options::default(), clock).await.err().expect("refused").to_string();
    assert!(refused.contains("away") && !refused.contains("hush"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_counters_that_expire() {
    let Some(url) = server("DOORWARD_TEST_REDIS") else { return };
    let (one, two, quota) =
        (Redis::open(&url, None).expect("a URL"), Redis::open(&url, None).expect("a URL"), Quota { rate: 1, period_s: 1, burst: 5 });
    let key = format!("test {}", std::process::id());
    one.connect().await.expect("the server of DOORWARD_TEST_REDIS");
    two.connect().await.expect("the server of DOORWARD_TEST_REDIS");
    one.clear(&key).await;
    let now = NOW * 1000;
    for left in (0..5).rev() {
        let verdict = if left % 2 == 0 { one.hit(&key, &quota, 1, now).await } else { two.hit(&key, &quota, 1, now).await };
        assert!(verdict.allowed);
        assert_eq!(verdict.remaining, left);
    }
    let refused = one.hit(&key, &quota, 1, now).await;
    assert_eq!((refused.allowed, refused.retry_after_ms, refused.remaining), (false, 1000, 0));
    assert_eq!(two.peek(&key, &quota, now).await, refused, "asking counts nothing");
    assert!(two.hit(&key, &quota, 1, now + 1000).await.allowed);
    one.clear(&key).await;
    assert_eq!(two.peek(&key, &quota, now).await.remaining, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_counters_are_counted_all_or_none() {
    let Some(url) = server("DOORWARD_TEST_REDIS") else { return };
    let redis = Redis::open(&url, None).expect("a URL");
    redis.connect().await.expect("the server of DOORWARD_TEST_REDIS");
    let memory = crate::memory::Memory::new();
    let few = Quota { rate: 3, period_s: 2_592_000, burst: 3 };
    let many = Quota { rate: 1_000_000, period_s: 2_592_000, burst: 1_000_000 };
    for counters in [&redis as &dyn Counters, &memory as &dyn Counters] {
        let key = |name: &str| format!("test {name} {}", std::process::id());
        let (a, b) = (key("few"), key("many"));
        counters.clear(&a).await;
        counters.clear(&b).await;
        let asks = [Ask { key: &b, quota: many, cost: 10 }, Ask { key: &a, quota: few, cost: 1 }];
        let now = NOW * 1000;
        for left in (0..3).rev() {
            let verdicts = counters.hit_all(&asks, now).await;
            assert!(verdicts.iter().all(|v| v.allowed));
            assert_eq!(verdicts[1].remaining, left);
        }
        for _ in 0..5 {
            let verdicts = counters.hit_all(&asks, now).await;
            assert!(verdicts.iter().any(|v| !v.allowed && v.retry_after_ms == 864_000_000), "{verdicts:?}");
        }
        assert_eq!(counters.peek(&b, &many, now).await.remaining, 999_970, "what one refuses is not counted by the other");
        counters.refund(&b, &many, 30).await;
        assert_eq!(counters.peek(&b, &many, now).await.remaining, 1_000_000);
        counters.clear(&a).await;
        counters.clear(&b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_node_counts_for_itself_and_does_not_wait() {
    let (counters, quota) = (Redis::open("redis://127.0.0.1:1", None).expect("a URL"), Quota::per(2, 60));
    assert!(counters.hit("k", &quota, 1, 1000).await.allowed);
    let began = Instant::now();
    assert!(counters.hit("k", &quota, 1, 1000).await.allowed);
    assert!(!counters.hit("k", &quota, 1, 1000).await.allowed);
    assert!(began.elapsed() < Duration::from_millis(50));
    assert!(Redis::open("http://x", None).is_err());
}
