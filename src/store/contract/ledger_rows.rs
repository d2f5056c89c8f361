//! The ledger itself: its chain, its revocations, its backups.
use std::sync::Arc;

use ledger::{ArtefactKind, Change, EventKind, ObjectKind, RevocationKind, Step};

use super::kit::{NOW, World, all_events, artefact, consume, event, grant, object, told, verify};
use crate::{BackupError, RESTORE_PENDING};

pub(super) async fn the_chain_verifies_after_concurrent_changes(world: &mut World) {
    let store = world.store();
    let tasks: Vec<_> = (0..300u32)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut change = told(Step::Put(artefact(ArtefactKind::Access, &(n / 2).to_be_bytes())));
                for _ in 0..n % 3 {
                    change = change.event(event());
                }
                store.apply(change).await.expect("answer")
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let events = all_events(&store).await;
    assert_eq!(verify(&store).await, Ok(events.len() as u64));
    assert!((150..=450).contains(&events.len()));
    drop(store);
    world.reopen().await;
    assert!(world.store().apply(Change::new().event(event())).await.expect("goes on").applied());
    assert_eq!(verify(&world.store()).await, Ok(events.len() as u64 + 1));
}

pub(super) async fn the_later_revocation_wins_and_one_position_is_never_parted(world: &mut World) {
    let store = world.store();
    let mut many = Change::new().event(event());
    for n in 0..7 {
        many = many.revoke(RevocationKind::Token, format!("t{n}"), 1, NOW + 100);
    }
    assert!(store.apply(many).await.expect("applies").applied());
    for at in [200, 50] {
        assert!(
            store.apply(Change::new().event(event()).revoke(RevocationKind::Client, "c", at, NOW + at)).await.expect("applies").applied()
        );
    }
    let first = store.revocations(0, NOW, 3).await.expect("read");
    assert_eq!((first.len(), first[0].seq), (7, 1));
    let rest = store.revocations(1, NOW, 3).await.expect("read");
    assert_eq!(rest.iter().map(|r| (r.id.as_str(), r.seq, r.at_ms, r.expires_at)).collect::<Vec<_>>(), [("c", 3, 50, NOW + 200)]);
    assert!(store.revocations(3, NOW, 3).await.expect("read").is_empty());
    assert_eq!(store.revocations(0, NOW + 450, 100).await.expect("read").len(), 1);
}

pub(super) async fn a_truncated_ledger_verifies_from_its_checkpoint(world: &mut World) {
    let store = world.store();
    for _ in 0..10 {
        store.apply(Change::new().event(event())).await.expect("applies");
    }
    assert_eq!(store.truncate_events(6).await.expect("truncates"), 5);
    assert_eq!(store.truncate_events(6).await.expect("truncates"), 0);
    let events = all_events(&store).await;
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [6, 7, 8, 9, 10, 11]);
    assert_eq!(events.last().map(|e| e.kind.as_str()), Some(EventKind::LedgerTruncated.as_str()));
    assert_eq!(verify(&store).await, Ok(11));
    assert_eq!(store.truncate_events(u64::MAX).await.expect("truncates"), 6);
    assert_eq!(verify(&store).await, Ok(12));
}

pub(super) async fn a_backup_restores_into_an_empty_database_only_and_whole_only(world: &mut World) {
    let store = world.store();
    let live = [ArtefactKind::Access, ArtefactKind::Browser, ArtefactKind::Code, ArtefactKind::Form, ArtefactKind::Interaction];
    let change = live.iter().fold(Change::new(), |change, kind| change.step(Step::Put(artefact(*kind, b"live"))));
    let change = change
        .step(Step::CreateObject(object(ObjectKind::User, "u", "ann")))
        .step(Step::PutSecret { kind: ObjectKind::User, id: "u".into(), slot: "password".into(), value: vec![1, 2] })
        .step(Step::StartGrant(grant("g", "u", "c")))
        .step(Step::PutMeta { name: "m".into(), value: vec![0] })
        .revoke(RevocationKind::Grant, "x", 1, NOW + 100)
        .event(event());
    assert!(store.apply(change).await.expect("applies").applied());
    // More rows than progress is told of at once.
    for n in 0..1_100u32 {
        let put = told(Step::Put(artefact(ArtefactKind::Jti, &n.to_be_bytes())));
        assert!(store.apply(if n % 100 == 0 { put } else { Change { events: vec![], ..put } }).await.expect("applies").applied());
    }
    assert!(store.apply(told(consume(ArtefactKind::Jti, &5u32.to_be_bytes(), NOW))).await.expect("applies").applied());
    store.truncate_events(3).await.expect("truncates");
    let path = world.folder.path().join("backup.jsonl");
    let saved = store.backup_to(&path, Box::new(|done, total| assert!(done <= total))).await.expect("saves");
    assert!(matches!(store.backup_to(&path, Box::new(|_, _| {})).await, Err(BackupError::File { .. })), "never overwrites");
    assert!(matches!(store.restore_from(&path, Box::new(|_, _| {})).await, Err(BackupError::NotEmpty)));

    let other = world.another().await;
    let text = std::fs::read_to_string(&path).expect("text");
    let damaged = world.folder.path().join("damaged.jsonl");
    for (from, to) in [("ann", "eve"), ("\"rows\":", "\"rows\":1")] {
        std::fs::write(&damaged, text.replacen(from, to, 1)).expect("written");
        assert!(matches!(other.store().restore_from(&damaged, Box::new(|_, _| {})).await, Err(BackupError::Malformed { .. })), "{from}");
    }
    std::fs::write(&damaged, text.get(..text.len() / 2).expect("half")).expect("written");
    assert!(matches!(other.store().restore_from(&damaged, Box::new(|_, _| {})).await, Err(BackupError::Malformed { .. })));

    let restored = other.store().restore_from(&path, Box::new(|_, _| {})).await.expect("restores");
    assert_eq!((restored.rows, restored.head), (saved.rows, saved.head + 1));
    let there = other.store();
    assert_eq!(verify(&there).await, Ok(saved.head + 1));
    assert_eq!(all_events(&there).await.last().map(|e| e.kind.clone()), Some("storage.restored".to_owned()));
    assert_eq!(there.artefact(ArtefactKind::Jti, &5u32.to_be_bytes()).await.expect("read").and_then(|a| a.consumed_at), Some(NOW));
    assert_eq!(
        there.artefact(ArtefactKind::Jti, &1_099u32.to_be_bytes()).await.expect("read"),
        Some(artefact(ArtefactKind::Jti, &1_099u32.to_be_bytes()))
    );
    for kind in live {
        assert_eq!(there.artefact(kind, b"live").await.expect("read"), None, "{kind:?}: nothing live revives");
    }
    let pending = there.meta(RESTORE_PENDING).await.expect("read");
    assert_eq!(pending, Some(restored.head.to_string().into_bytes()), "it came with the rows");
    let cut = told(Step::RemoveMeta { name: RESTORE_PENDING.into() });
    assert!(there.apply(cut).await.expect("removes").applied());
    assert_eq!(there.meta(RESTORE_PENDING).await.expect("read"), None);
    assert_eq!(there.secret(ObjectKind::User, "u", "password").await.expect("read"), Some(vec![1, 2]));
    assert_eq!(there.object_by_key(ObjectKind::User, "ann").await.expect("read"), store.object(ObjectKind::User, "u").await.expect("read"));
    assert!(there.apply(told(Step::GrantLive { id: "g".into(), now: NOW })).await.expect("goes on").applied());
    drop(there);
    other.end().await;
}
