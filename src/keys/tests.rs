//! The life of keys against a real database.
use std::sync::atomic::AtomicI64;

use super::*;
use crate::clock::SystemEntropy;

struct Set(AtomicI64);

impl Clock for Set {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct House {
    _home: tempfile::TempDir,
    store: Arc<dyn Store>,
    clock: Arc<Set>,
}

impl House {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(Set(AtomicI64::new(1_800_000_000_000)));
        let url = format!("sqlite://{}", home.path().join("doorward.db").display());
        let store = store::open(&url, &store::Options::default(), Arc::clone(&clock) as Arc<dyn Clock>).await.expect("opens");
        Self { _home: home, store, clock }
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    async fn open(&self, octet: &str, create: bool) -> Result<Arc<Keys>, KeysError> {
        self.open_with(octet, create, &[Alg::ES256]).await
    }

    async fn open_with(&self, octet: &str, create: bool, algorithms: &[Alg]) -> Result<Arc<Keys>, KeysError> {
        let plan = Plan { algorithms: algorithms.to_vec(), ..Plan::default() };
        let source = Source::Text(tokens::secret::Plain::new(octet.repeat(32)));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Keys::open(Arc::clone(&self.store), &source, plan, clock, Arc::new(SystemEntropy), create).await
    }
}

fn signs(keys: &Keys) -> String {
    keys.ring.load().signing(Alg::ES256).expect("a signer").kid().to_owned()
}

fn publishes(keys: &Keys, kid: &str) -> bool {
    keys.ring.load().keys().find(Some(kid), Alg::ES256).is_some()
}

async fn events(house: &House) -> Vec<String> {
    house.store.events(0, 100).await.expect("events").into_iter().map(|e| e.kind).collect()
}

#[tokio::test]
async fn first_start_makes_keys_and_later_ones_find_the_same() {
    let house = House::new().await;
    assert!(matches!(house.open("01", false).await, Err(KeysError::NotInitialised)));
    let first = house.open("01", true).await.expect("creates");
    let again = house.open("01", false).await.expect("opens");
    assert_eq!(signs(&first), signs(&again));
    assert_eq!(first.mac().mac("d", b"x"), again.mac().mac("d", b"x"));
    assert_eq!(events(&house).await, ["key.created", "key.activated", "key.created"]);
}

#[tokio::test]
async fn the_wrong_key_encryption_key_stops_the_start_and_makes_nothing() {
    let house = House::new().await;
    house.open("01", true).await.expect("creates");
    let before = house.store.keys().await.expect("rows");
    assert!(matches!(house.open("02", true).await, Err(KeysError::WrongKek)));
    assert_eq!(house.store.keys().await.expect("rows"), before);
}

#[tokio::test]
async fn lost_key_rows_stop_the_start_and_are_not_made_anew() {
    let house = House::new().await;
    house.open("01", true).await.expect("creates");
    let mut loss = Change::new().event(NewEvent::new(EventKind::Restored, 0));
    for row in house.store.keys().await.expect("rows") {
        let from = vec![KeyState::Current, KeyState::Next];
        loss =
            loss.step(Step::MoveKey { kid: row.kid.clone(), from, to: KeyState::Revoked, now: 0 }).step(Step::RemoveKey { kid: row.kid });
    }
    house.store.apply(loss).await.expect("applies");
    assert!(matches!(house.open("01", true).await, Err(KeysError::Incomplete(_))));
    assert!(house.store.keys().await.expect("rows").is_empty());
}

#[tokio::test]
async fn two_nodes_starting_at_once_agree() {
    let house = House::new().await;
    let (a, b) = tokio::join!(house.open("01", true), house.open("01", true));
    let (a, b) = (a.expect("one"), b.expect("two"));
    assert_eq!(signs(&a), signs(&b));
    assert_eq!(house.store.keys().await.expect("rows").len(), 2);
}

#[tokio::test]
async fn a_commanded_rotation_refuses_nothing_that_was_signed() {
    let house = House::new().await;
    let (keys, other) = (house.open("01", true).await.expect("creates"), house.open("01", false).await.expect("opens"));
    let old = signs(&keys);
    for _ in 0..3 {
        let announced: Vec<String> = other.ring.load().keys().iter().filter_map(|k| k.kid().map(str::to_owned)).collect();
        Keys::rotate(&keys, None, &Actor::command("test")).await.expect("rotates");
        assert!(announced.contains(&signs(&keys)), "the new signer was published before");
        assert!(publishes(&keys, &old));
        assert!(other.bell.stale.load(Ordering::Acquire), "the other node heard of it");
        other.reload().await.expect("reloads");
        assert_eq!(signs(&keys), signs(&other));
    }
    assert_ne!(signs(&keys), old);
    house.pass(2 * 86400);
    keys.tick().await.expect("ticks");
    assert!(!publishes(&keys, &old));
}

#[tokio::test]
async fn a_revoked_key_is_unpublished_and_dead_and_the_next_one_signs() {
    let house = House::new().await;
    let keys = house.open("01", true).await.expect("creates");
    let leaked = signs(&keys);
    Keys::revoke(&keys, &leaked, Some("leaked"), &Actor::command("test")).await.expect("revokes");
    assert_ne!(signs(&keys), leaked);
    assert!(!publishes(&keys, &leaked));
    let dead = house.store.revocations(0, keys.clock.now(), 10).await.expect("revocations");
    assert!(dead.iter().any(|r| r.kind == RevocationKind::Key && r.id == leaked));
    assert!(matches!(Keys::revoke(&keys, "nobody", None, &Actor::command("test")).await, Err(KeysError::Unknown(_))));
    assert!(Keys::revoke(&keys, &leaked, None, &Actor::command("test")).await.is_ok(), "twice is once");
    assert_eq!(events(&house).await.iter().filter(|kind| *kind == "key.revoked").count(), 1);
}

#[tokio::test]
async fn the_schedule_rotates_by_itself_once() {
    let house = House::new().await;
    let keys = house.open("01", true).await.expect("creates");
    let old = signs(&keys);
    keys.tick().await.expect("ticks");
    assert_eq!(signs(&keys), old);
    house.pass(30 * 86400);
    keys.tick().await.expect("ticks");
    keys.tick().await.expect("ticks");
    assert_ne!(signs(&keys), old);
    assert_eq!(events(&house).await.iter().filter(|kind| *kind == "key.retired").count(), 1);
}

#[tokio::test]
async fn an_algorithm_that_is_new_to_a_database_gets_its_keys_once_at_the_next_start() {
    let house = House::new().await;
    let old = house.open("01", true).await.expect("creates");
    let more = [Alg::ES256, Alg::EdDSA, Alg::MlDsa65];
    let (a, b) = tokio::join!(house.open_with("01", true, &more), house.open_with("01", true, &more));
    let (a, b) = (a.expect("one"), b.expect("two"));
    b.reload().await.expect("reloads");
    assert_eq!(signs(&a), signs(&old), "what was there signs on");
    for alg in [Alg::EdDSA, Alg::MlDsa65] {
        let kid = |keys: &Keys| keys.ring.load().signing(alg).expect("a signer").kid().to_owned();
        assert_eq!(kid(&a), kid(&b), "{alg}");
    }
    assert_eq!(house.store.keys().await.expect("rows").len(), 6, "a current and a next key each, made once");
}

#[tokio::test]
async fn an_algorithm_that_is_wanted_no_more_signs_nothing_and_proves_what_it_signed() {
    let house = House::new().await;
    let hybrid = house.open_with("01", true, &[Alg::ES256, Alg::MlDsa65]).await.expect("creates");
    let kid = hybrid.ring.load().signing(Alg::MlDsa65).expect("a signer").kid().to_owned();
    let classical = house.open("01", true).await.expect("opens");
    assert!(classical.ring.load().signing(Alg::MlDsa65).is_none());
    assert!(classical.ring.load().keys().find(Some(&kid), Alg::MlDsa65).is_some());
    assert!(classical.ring.load().algorithms().all(|alg| alg == Alg::ES256));
}
