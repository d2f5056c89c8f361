//! Changes: guards, isolation, and who hears of them when.
use std::sync::Arc;

use ledger::{
    Artefact, ArtefactKind, Change, Committed, Consent, Guarded, KeyRow, KeyState, Listener, ObjectKind, Outcome, RevocationKind, Step,
    StoreError,
};
use serde_json::json;

use super::kit::{Ear, NOW, World, artefact, consume, event, grant, object, session, told, verify};

pub(super) async fn a_consume_raced_200_times_wins_once(world: &mut World) {
    let store = world.store();
    store.apply(told(Step::Put(artefact(ArtefactKind::Code, b"code")))).await.expect("put");
    let tasks: Vec<_> = (0..200u32)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let change = told(consume(ArtefactKind::Code, b"code", NOW))
                    .step(Step::Put(artefact(ArtefactKind::Refresh, &n.to_be_bytes())))
                    .step(Step::PutMeta { name: format!("won {n}"), value: vec![1] });
                store.apply(change).await.expect("applies or refuses")
            })
        })
        .collect();
    let mut won = Vec::new();
    for (n, task) in (0u32..).zip(tasks) {
        match task.await.expect("no panic") {
            Outcome::Applied { .. } => won.push(n),
            Outcome::Refused(guard) => assert_eq!(guard, Guarded { step: 0 }),
        }
    }
    assert_eq!(won.len(), 1);
    for n in 0..200u32 {
        let there = won.contains(&n);
        assert_eq!(store.artefact(ArtefactKind::Refresh, &n.to_be_bytes()).await.expect("read").is_some(), there);
        assert_eq!(store.meta(&format!("won {n}")).await.expect("read").is_some(), there);
    }
    assert_eq!(store.head().await.expect("head").0, 2);
}

pub(super) async fn of_many_who_rotate_one_secret_one_goes_on_and_none_once_its_grant_ended(world: &mut World) {
    let store = world.store();
    let mut row = artefact(ArtefactKind::Refresh, b"chain");
    row.grant = Some("g".to_owned());
    assert!(store.apply(told(Step::Put(row))).await.expect("put").applied());
    let rotate = |from: u8, to: u8, now: i64| Step::Rotate {
        kind: ArtefactKind::Refresh,
        id: b"chain".to_vec(),
        now,
        from: vec![from; 32],
        to: vec![to; 32],
        expires_at: NOW + 90,
        born: Some(vec![to]),
        seq: 9,
    };
    let tasks: Vec<_> = (8..108u8)
        .map(|n| (Arc::clone(&store), told(rotate(7, n, NOW + 1))))
        .map(|(store, change)| tokio::spawn(async move { store.apply(change).await.expect("answer").applied() }))
        .collect();
    let mut won = Vec::new();
    for (n, task) in (8u8..).zip(tasks) {
        if task.await.expect("no panic") {
            won.push(n);
        }
    }
    let [won] = won.as_slice() else { panic!("{won:?}") };
    let row = store.artefact(ArtefactKind::Refresh, b"chain").await.expect("read").expect("there");
    assert_eq!((row.mac, row.created_at, row.expires_at, row.seq), (vec![*won; 32], NOW + 1, NOW + 90, 9));
    assert_eq!((row.successor, row.consumed_at), (Some(vec![*won]), None));
    assert!(!store.apply(told(rotate(*won, 1, NOW + 90))).await.expect("answer").applied(), "it has expired");
    store.apply(told(Step::StartGrant(grant("g", "s", "c"))).step(Step::EndGrant { id: "g".into(), now: NOW })).await.expect("ended");
    assert!(!store.apply(told(rotate(*won, 1, NOW + 2))).await.expect("answer").applied());
}

pub(super) async fn a_put_of_a_taken_id_is_refused(world: &mut World) {
    let store = world.store();
    let put = |id: &[u8]| told(Step::InitMeta { name: world_name(id), value: vec![] }).step(Step::Put(artefact(ArtefactKind::Jti, id)));
    assert!(store.apply(put(b"j")).await.expect("put").applied());
    assert_eq!(
        store.apply(told(Step::Put(artefact(ArtefactKind::Jti, b"j")))).await.expect("again"),
        Outcome::Refused(Guarded { step: 0 })
    );
    // Many at once, each id twice: exactly one of each pair.
    let tasks: Vec<_> = (0..120u8)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(
                async move { store.apply(told(Step::Put(artefact(ArtefactKind::Jti, &[n / 2])))).await.expect("answer").applied() },
            )
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += u32::from(task.await.expect("no panic"));
    }
    assert_eq!(applied, 60);
    assert_eq!(store.head().await.expect("head").0, 61);
    // Another kind may have the same id; replacing is another step.
    assert!(store.apply(told(Step::Put(artefact(ArtefactKind::Code, b"j")))).await.expect("other kind").applied());
    assert!(store.apply(told(Step::Save(artefact(ArtefactKind::Jti, b"j")))).await.expect("save").applied());
}

fn world_name(id: &[u8]) -> String {
    format!("{id:?}")
}

pub(super) async fn a_refused_change_leaves_nothing_and_disturbs_no_neighbour(world: &mut World) {
    let store = world.store();
    let bad = |n: u8| {
        Change::new()
            .step(Step::PutMeta { name: format!("bad {n}"), value: vec![n] })
            .step(Step::Put(artefact(ArtefactKind::Access, &[1, n])))
            .step(Step::CreateObject(object(ObjectKind::Client, &format!("c{n}"), &format!("k{n}"))))
            .revoke(RevocationKind::Token, format!("t{n}"), NOW * 1000, NOW + 60)
            .step(Step::GrantLive { id: "nobody's".into(), now: NOW })
            .event(event())
    };
    let good =
        |n: u8| told(Step::PutMeta { name: format!("good {n}"), value: vec![n] }).step(Step::Put(artefact(ArtefactKind::Access, &[2, n])));
    let tasks: Vec<_> = (0..60u8)
        .map(|n| {
            let (store, change) = (Arc::clone(&store), if n % 3 == 0 { bad(n) } else { good(n) });
            tokio::spawn(async move { store.apply(change).await.expect("answer") })
        })
        .collect();
    for (n, task) in (0u8..).zip(tasks) {
        match task.await.expect("no panic") {
            Outcome::Refused(guard) => assert_eq!((n % 3, guard.step), (0, 4)),
            Outcome::Applied { .. } => assert_ne!(n % 3, 0),
        }
    }
    for n in 0..60u8 {
        assert_eq!(store.meta(&format!("bad {n}")).await.expect("read"), None);
        assert_eq!(store.artefact(ArtefactKind::Access, &[1, n]).await.expect("read"), None);
        assert_eq!(store.object(ObjectKind::Client, &format!("c{n}")).await.expect("read"), None);
        assert_eq!(store.meta(&format!("good {n}")).await.expect("read").is_some(), n % 3 != 0);
        assert_eq!(store.artefact(ArtefactKind::Access, &[2, n]).await.expect("read").is_some(), n % 3 != 0);
    }
    assert!(store.revocations(0, NOW, 100).await.expect("read").is_empty());
    assert_eq!(verify(&store).await, Ok(40));
}

pub(super) async fn what_may_still_be_consumed_can_be_given_another_expiry_and_nothing_else(world: &mut World) {
    let store = world.store();
    let mut kept = artefact(ArtefactKind::Refresh, b"kept");
    kept.grant = Some("g".into());
    let spent = artefact(ArtefactKind::Refresh, b"spent");
    let end = kept.expires_at;
    let begun = told(Step::StartGrant(grant("g", "s", "c"))).step(Step::Put(kept)).step(Step::Put(spent));
    assert!(store.apply(begun).await.expect("put").applied());
    let extend =
        |id: &[u8], now: i64, expires_at: i64| told(Step::Extend { kind: ArtefactKind::Refresh, id: id.to_vec(), now, expires_at });
    assert!(store.apply(extend(b"kept", NOW, end + 100)).await.expect("extends").applied());
    let there = store.artefact(ArtefactKind::Refresh, b"kept").await.expect("read").expect("there");
    assert_eq!((there.expires_at, there.consumed_at), (end + 100, None));
    let refused = |outcome: Outcome| assert_eq!(outcome, Outcome::Refused(Guarded { step: 0 }));
    refused(store.apply(extend(b"nobody's", NOW, end)).await.expect("answer"));
    refused(store.apply(extend(b"kept", end + 100, end + 200)).await.expect("answer"));
    assert!(store.apply(told(consume(ArtefactKind::Refresh, b"spent", NOW))).await.expect("consumes").applied());
    refused(store.apply(extend(b"spent", NOW, end + 200)).await.expect("answer"));
    assert!(store.apply(told(Step::EndGrant { id: "g".into(), now: NOW })).await.expect("ends").applied());
    refused(store.apply(extend(b"kept", NOW, end + 200)).await.expect("answer"));
}

pub(super) async fn what_expired_or_whose_grant_ended_cannot_be_consumed(world: &mut World) {
    let store = world.store();
    let mut of_grant = artefact(ArtefactKind::Refresh, b"r");
    of_grant.grant = Some("g".into());
    let change = told(Step::Put(artefact(ArtefactKind::Code, b"old")))
        .step(Step::StartGrant(grant("g", "u", "c")))
        .step(Step::Put(of_grant))
        .step(Step::StartSession(session("s", "u")));
    assert!(store.apply(change).await.expect("put").applied());
    assert!(!store.apply(told(consume(ArtefactKind::Code, b"old", NOW + 60))).await.expect("answer").applied());
    assert!(store.apply(told(consume(ArtefactKind::Code, b"old", NOW + 59))).await.expect("answer").applied());
    let stored = store.artefact(ArtefactKind::Code, b"old").await.expect("read").expect("there");
    assert_eq!(stored.consumed_at, Some(NOW + 59));
    for (id, now, live) in [("g", NOW, true), ("g", NOW + 3600, false), ("h", NOW, false)] {
        assert_eq!(store.apply(told(Step::GrantLive { id: id.into(), now })).await.expect("answer").applied(), live, "{id} {now}");
    }
    for (id, now, live) in [("s", NOW, true), ("s", NOW + 3600, false), ("t", NOW, false)] {
        assert_eq!(store.apply(told(Step::SessionLive { id: id.into(), now })).await.expect("answer").applied(), live, "{id} {now}");
    }
    assert!(store.apply(told(Step::EndGrant { id: "g".into(), now: NOW })).await.expect("end").applied());
    assert!(!store.apply(told(consume(ArtefactKind::Refresh, b"r", NOW))).await.expect("answer").applied());
    assert!(!store.apply(told(Step::GrantLive { id: "g".into(), now: NOW })).await.expect("answer").applied());
}

pub(super) async fn a_replay_is_noticed_as_long_as_there_is_something_to_take_back(world: &mut World) {
    let store = world.store();
    let put = |id: &[u8], of: Option<&str>| {
        let mut one = artefact(ArtefactKind::Code, id);
        one.grant = of.map(Into::into);
        Step::Put(one)
    };
    let begun = told(Step::StartGrant(grant("g", "u", "c")))
        .step(put(b"used", Some("g")))
        .step(put(b"unused", Some("g")))
        .step(put(b"alone", None));
    assert!(store.apply(begun).await.expect("start").applied());
    for id in [b"used".as_slice(), b"alone"] {
        assert!(store.apply(told(consume(ArtefactKind::Code, id, NOW))).await.expect("consume").applied());
    }
    while store.purge(NOW + 3599, 100).await.expect("purge") > 0 {}
    let kept = store.artefact(ArtefactKind::Code, b"used").await.expect("read").expect("kept");
    assert_eq!((kept.consumed_at, kept.expires_at), (Some(NOW), NOW + 3600));
    for id in [b"unused".as_slice(), b"alone"] {
        assert_eq!(store.artefact(ArtefactKind::Code, id).await.expect("read"), None);
    }
    while store.purge(NOW + 3600, 100).await.expect("purge") > 0 {}
    assert_eq!(store.artefact(ArtefactKind::Code, b"used").await.expect("read"), None);
}

pub(super) async fn nobody_hears_a_head_before_everybody_heard_what_leads_to_it(world: &mut World) {
    #[derive(Default)]
    struct Board(parking_lot::Mutex<Vec<(usize, u64, usize)>>);
    struct Place(usize, Arc<Board>);
    impl Listener for Place {
        fn committed(&self, batch: &Committed) {
            self.1.0.lock().push((self.0, batch.head, batch.events.len()));
        }
    }
    let (store, board) = (world.store(), Arc::new(Board::default()));
    for place in 0..2 {
        store.listen(Arc::new(Place(place, Arc::clone(&board))));
    }
    assert!(store.apply(Change::new().event(event()).event(event())).await.expect("applies").applied());
    assert_eq!(*board.0.lock(), [(0, 0, 2), (1, 0, 2), (0, 2, 0), (1, 2, 0)]);
}

pub(super) async fn listeners_hear_before_the_acknowledgement(world: &mut World) {
    let store = world.store();
    let ear = Arc::new(Ear::default());
    store.listen(Arc::clone(&ear) as _);
    for n in 0..20u64 {
        let change = Change::new().event(event()).event(event()).revoke(RevocationKind::Grant, format!("g{n}"), 5, NOW + 9);
        let Outcome::Applied { seq } = store.apply(change).await.expect("applies") else { panic!("refused") };
        assert_eq!(seq, 2 * (n + 1));
        let heard = ear.0.lock().expect("no panic").clone();
        assert!(heard.head >= seq);
        assert!(heard.events.iter().any(|e| e.seq == seq));
        assert!(
            heard.revocations.iter().any(|r| r.seq == seq && r.id == format!("g{n}")),
            "the revocation has the place of the last event"
        );
    }
    assert_eq!(store.revocations(0, NOW, 100).await.expect("read").len(), 20);
    assert_eq!(store.events(0, 100).await.expect("read").len(), 40);
}

pub(super) async fn a_revocation_needs_the_event_that_places_it(world: &mut World) {
    let store = world.store();
    let change = Change::new().revoke(RevocationKind::Token, "t", 1, NOW + 5);
    assert!(matches!(store.apply(change).await, Err(StoreError::Corrupt(_))));
    assert!(store.apply(told(Step::PutMeta { name: "n".into(), value: vec![] })).await.expect("goes on").applied());
}

pub(super) async fn an_object_is_replaced_only_at_its_version_and_keeps_its_key_to_itself(world: &mut World) {
    let store = world.store();
    let kind = ObjectKind::User;
    let replace = |id: &str, key: &str, version| {
        told(Step::ReplaceObject { kind, id: id.into(), key: key.into(), document: json!({"v": version + 1}), version, now: NOW + 1 })
    };
    let first = told(Step::CreateObject(object(kind, "1", "ann")))
        .step(Step::PutSecret { kind, id: "1".into(), slot: "password".into(), value: b"old".to_vec() })
        .step(Step::PutSecret { kind, id: "1".into(), slot: "password".into(), value: b"new".to_vec() })
        .step(Step::CreateObject(object(kind, "2", "bob")));
    assert!(store.apply(first).await.expect("create").applied());
    for taken in [object(kind, "1", "new"), object(kind, "3", "ann")] {
        assert!(!store.apply(told(Step::CreateObject(taken))).await.expect("answer").applied());
    }
    assert!(store.apply(told(Step::CreateObject(object(ObjectKind::Client, "1", "ann")))).await.expect("other kind").applied());
    assert!(!store.apply(replace("1", "ann", 2)).await.expect("answer").applied());
    assert!(!store.apply(replace("1", "bob", 1)).await.expect("answer").applied());
    assert!(store.apply(replace("1", "anna", 1)).await.expect("answer").applied());
    let stored = store.object_by_key(kind, "anna").await.expect("read").expect("there");
    assert_eq!((stored.version, stored.updated_at, stored.created_at, stored.document), (2, NOW + 1, NOW, json!({"v": 2})));
    assert_eq!(store.object_by_key(kind, "ann").await.expect("read"), None);
    assert_eq!(store.secret(kind, "1", "password").await.expect("read").as_deref(), Some(b"new".as_slice()));
    let delete = |version| told(Step::DeleteObject { kind, id: "1".into(), version });
    assert!(!store.apply(delete(Some(1))).await.expect("answer").applied());
    assert!(store.apply(delete(Some(2))).await.expect("answer").applied());
    assert!(!store.apply(delete(None)).await.expect("answer").applied());
    assert_eq!(store.secret(kind, "1", "password").await.expect("read"), None);
    assert_eq!(store.object_by_key(kind, "\0").await.expect("nothing has such a key"), None);
}

pub(super) async fn a_change_that_believed_another_version_of_an_object_is_refused(world: &mut World) {
    let store = world.store();
    let kind = ObjectKind::Client;
    let is = |version| Step::ObjectIs { kind, id: "c".into(), version };
    let replace = |version| Step::ReplaceObject { kind, id: "c".into(), key: "c".into(), document: json!({}), version, now: NOW };
    assert!(!store.apply(told(is(1))).await.expect("answer").applied(), "it does not exist");
    assert!(store.apply(told(Step::CreateObject(object(kind, "c", "c")))).await.expect("create").applied());
    assert!(store.apply(told(is(1))).await.expect("answer").applied());
    // Within one change and within one transaction: what stands is asked, not what stood.
    assert!(store.apply(told(is(1)).step(replace(1)).step(is(2))).await.expect("answer").applied());
    assert!(!store.apply(told(is(2)).step(replace(2)).step(is(2))).await.expect("answer").applied(), "undone as a whole");
    assert!(store.apply(told(is(2))).await.expect("answer").applied());
    // Tokens in a crowd with the change that ends them: those after it in the ledger are refused.
    let tasks: Vec<_> = (0..90u32)
        .map(|n| {
            let change = match n {
                30 => told(replace(2)),
                _ => told(is(2)).step(Step::PutMeta { name: format!("token {n}"), value: vec![] }),
            };
            let store = Arc::clone(&store);
            tokio::spawn(async move { (n, store.apply(change).await.expect("answer")) })
        })
        .collect();
    let (mut replaced_at, mut issued) = (0, Vec::new());
    for task in tasks {
        match task.await.expect("no panic") {
            (30, Outcome::Applied { seq }) => replaced_at = seq,
            (_, Outcome::Applied { seq }) => issued.push(seq),
            (_, Outcome::Refused(guard)) => assert_eq!(guard, Guarded { step: 0 }),
        }
    }
    assert!(replaced_at > 0 && issued.iter().all(|seq| *seq < replaced_at));
    assert!(store.apply(told(Step::DeleteObject { kind, id: "c".into(), version: None })).await.expect("delete").applied());
    assert!(!store.apply(told(is(3))).await.expect("answer").applied());
}

pub(super) async fn a_key_moves_only_from_the_named_states(world: &mut World) {
    let store = world.store();
    let key = KeyRow {
        kid: "k".into(),
        alg: "ES256".into(),
        state: KeyState::Next,
        public_jwk: "{}".into(),
        sealed: vec![0, 255],
        created_at: NOW,
        changed_at: NOW,
    };
    assert!(store.apply(told(Step::PutKey(key.clone()))).await.expect("put").applied());
    let to = |from: &[KeyState], to| told(Step::MoveKey { kid: "k".into(), from: from.to_vec(), to, now: NOW + 1 });
    assert!(!store.apply(to(&[KeyState::Current, KeyState::Retired], KeyState::Revoked)).await.expect("answer").applied());
    assert!(!store.apply(to(&[], KeyState::Revoked)).await.expect("answer").applied());
    assert!(store.apply(told(Step::RemoveKey { kid: "k".into() })).await.expect("answer").applied());
    assert_eq!(store.keys().await.expect("read"), vec![key.clone()], "a key that is not retired stays");
    assert!(store.apply(to(&[KeyState::Current, KeyState::Next], KeyState::Retired)).await.expect("answer").applied());
    assert_eq!(store.keys().await.expect("read"), vec![KeyRow { state: KeyState::Retired, changed_at: NOW + 1, ..key }]);
    assert!(store.apply(told(Step::RemoveKey { kid: "k".into() })).await.expect("answer").applied());
    assert!(store.keys().await.expect("read").is_empty());
    let init = |value: &[u8]| told(Step::InitMeta { name: "m".into(), value: value.to_vec() });
    assert!(store.apply(init(b"first")).await.expect("answer").applied());
    assert!(!store.apply(init(b"second")).await.expect("answer").applied());
    assert_eq!(store.meta("m").await.expect("read").as_deref(), Some(b"first".as_slice()));
}

pub(super) async fn the_api_keys_of_an_owner_end_together_and_no_others(world: &mut World) {
    let store = world.store();
    let key = |id: u8, owner: Option<&str>| Artefact {
        kind: ArtefactKind::ApiKey,
        grant: owner.map(Into::into),
        ..artefact(ArtefactKind::ApiKey, &[id; 32])
    };
    let rows = [key(1, Some("client:a")), key(2, Some("client:a")), key(3, Some("client:b")), key(4, None)];
    assert!(
        store
            .apply(rows.iter().fold(Change::new().event(event()), |change, row| change.step(Step::Put(row.clone()))))
            .await
            .expect("put")
            .applied()
    );
    // The same owner of another kind of thing.
    let other = Artefact { grant: Some("client:a".into()), ..artefact(ArtefactKind::Participant, &[5; 32]) };
    assert!(store.apply(told(Step::Put(other))).await.expect("put").applied());
    assert!(store.apply(told(Step::EndApiKeysOf { owner: "client:a".into() })).await.expect("end").applied());
    let mut left = Vec::new();
    for (kind, id) in [
        (ArtefactKind::ApiKey, 1),
        (ArtefactKind::ApiKey, 2),
        (ArtefactKind::ApiKey, 3),
        (ArtefactKind::ApiKey, 4),
        (ArtefactKind::Participant, 5),
    ] {
        if store.artefact(kind, &[id; 32]).await.expect("read").is_some() {
            left.push(id);
        }
    }
    assert_eq!(left, [3, 4, 5]);
}

pub(super) async fn ending_reaches_exactly_what_is_named(world: &mut World) {
    let store = world.store();
    let mut change = Change::new().event(event());
    for (id, subject, client) in [("1", "u", "c"), ("2", "u", "d"), ("3", "v", "c"), ("4", "v", "d")] {
        change = change.step(Step::StartGrant(grant(id, subject, client))).step(Step::StartSession(session(id, subject)));
    }
    assert!(store.apply(change).await.expect("start").applied());
    let live = async || {
        let page = store.grants(None, None, None, 10).await.expect("read");
        page.items.into_iter().map(|g| g.id).collect::<String>()
    };
    assert_eq!(live().await, "1234");
    let end = |subject: Option<&str>, client: Option<&str>| {
        told(Step::EndGrantsOf { subject: subject.map(Into::into), client_id: client.map(Into::into), now: NOW })
    };
    for (subject, client, left) in [(Some("u"), Some("d"), "134"), (None, Some("d"), "13"), (Some("v"), None, "1"), (None, None, "")] {
        assert!(store.apply(end(subject, client)).await.expect("end").applied());
        assert_eq!(live().await, left);
    }
    assert_eq!(store.grant("1").await.expect("read").expect("kept").ended_at, Some(NOW));
    assert!(store.apply(told(Step::EndSessionsOf { subject: "u".into(), now: NOW })).await.expect("end").applied());
    let mut begun = grant("5", "v", "c");
    begun.session = Some("4".into());
    let consent = |client: &str| Consent { subject: "u".into(), client_id: client.into(), scopes: vec![], granted_at: NOW };
    let more = told(Step::StartGrant(begun)).step(Step::PutConsent(consent("c"))).step(Step::PutConsent(consent("d")));
    assert!(store.apply(more).await.expect("start").applied());
    assert_eq!(live().await, "5");
    let gone = told(Step::EndGrantsOfSession { id: "4".into(), now: NOW }).step(Step::ForgetConsentsOfClient { client_id: "c".into() });
    assert!(store.apply(gone).await.expect("end").applied());
    assert_eq!(live().await, "");
    assert_eq!(store.consent("u", "c").await.expect("read"), None);
    assert!(store.consent("u", "d").await.expect("read").is_some());
    let page = store.sessions(None, None, 10).await.expect("read");
    assert_eq!(page.items.into_iter().map(|s| s.id).collect::<String>(), "34");
    let mut later = session("3", "v");
    later.auth_time = NOW + 5;
    assert!(store.apply(told(Step::UpdateSession(later.clone()))).await.expect("update").applied());
    assert_eq!(store.session("3").await.expect("read"), Some(later));
    assert!(!store.apply(told(Step::UpdateSession(session("1", "u")))).await.expect("ended").applied());
}
