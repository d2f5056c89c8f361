//! Rows: kept over restarts, listed in pages, forgotten in time.
use ledger::{Artefact, ArtefactKind, Change, Consent, KeyRow, KeyState, ObjectKind, RevocationKind, Step};

use super::kit::{NOW, World, all_events, artefact, consume, event, grant, object, session, told, verify};

pub(super) async fn everything_survives_a_restart(world: &mut World) {
    let mut full = artefact(ArtefactKind::Refresh, &[0, 255, 1]);
    full.grant = Some("g".into());
    full.document = "{\"text\":\"ü 'quoted' \\u0000\"}".into();
    let key = KeyRow {
        kid: "kid".into(),
        alg: "RS256".into(),
        state: KeyState::Current,
        public_jwk: "{}".into(),
        sealed: vec![9; 100],
        created_at: NOW,
        changed_at: NOW,
    };
    let consent = Consent { subject: "u".into(), client_id: "c".into(), scopes: vec!["a".into(), "b".into()], granted_at: NOW };
    let change = Change::new()
        .step(Step::Put(full.clone()))
        .step(Step::StartGrant(grant("g", "u", "c")))
        .step(Step::StartSession(session("s", "u")))
        .step(Step::CreateObject(object(ObjectKind::Route, "r", "key")))
        .step(Step::PutSecret { kind: ObjectKind::Route, id: "r".into(), slot: "x".into(), value: vec![0, 1] })
        .step(Step::PutKey(key.clone()))
        .step(Step::PutConsent(Consent { scopes: vec![], ..consent.clone() }))
        .step(Step::PutConsent(consent.clone()))
        .step(Step::PutMeta { name: "m".into(), value: vec![1] })
        .revoke(RevocationKind::Subject, "u", 77, NOW + 5)
        .event(event().subject("ü"));
    assert!(world.store().apply(change).await.expect("applies").applied());
    let rotate = told(Step::Consume { kind: ArtefactKind::Refresh, id: full.id.clone(), now: NOW, successor: Some(vec![5; 16]) });
    assert!(world.store().apply(rotate).await.expect("applies").applied());
    let update = told(Step::UpdateGrant { id: "g".into(), scope: "z".into(), document: serde_json::json!([]), expires_at: NOW + 9 });
    assert!(world.store().apply(update).await.expect("applies").applied());
    let (head, events) = (world.store().head().await.expect("head"), all_events(&world.store()).await);

    world.reopen().await;
    let store = world.store();
    full.consumed_at = Some(NOW);
    (full.successor, full.expires_at) = (Some(vec![5; 16]), NOW + 3600);
    assert_eq!(store.artefact(ArtefactKind::Refresh, &full.id).await.expect("read"), Some(full.clone()));
    let mut updated = grant("g", "u", "c");
    (updated.scope, updated.document, updated.expires_at) = ("z".into(), serde_json::json!([]), NOW + 9);
    assert_eq!(store.grant("g").await.expect("read"), Some(updated));
    assert_eq!(store.session("s").await.expect("read"), Some(session("s", "u")));
    assert_eq!(store.object(ObjectKind::Route, "r").await.expect("read"), Some(object(ObjectKind::Route, "r", "key")));
    assert_eq!(store.secret(ObjectKind::Route, "r", "x").await.expect("read"), Some(vec![0, 1]));
    let two = async |slots| store.two_secrets(ObjectKind::Route, "r", slots).await.expect("read");
    assert_eq!(two(["x", "y"]).await, [Some(vec![0, 1]), None]);
    assert_eq!(two(["y", "x"]).await, [None, Some(vec![0, 1])]);
    assert_eq!(store.keys().await.expect("read"), vec![key]);
    assert_eq!(store.consent("u", "c").await.expect("read"), Some(consent));
    assert_eq!(store.meta("m").await.expect("read"), Some(vec![1]));
    assert_eq!((store.head().await.expect("head"), all_events(&store).await), (head, events));
    assert_eq!(store.revocations(0, NOW, 9).await.expect("read").len(), 1);
    assert!(!store.apply(told(consume(ArtefactKind::Refresh, &full.id, NOW))).await.expect("answer").applied(), "consumed stays consumed");
    assert!(store.apply(told(Step::Remove { kind: ArtefactKind::Refresh, id: full.id.clone() })).await.expect("remove").applied());
    assert_eq!(store.artefact(ArtefactKind::Refresh, &full.id).await.expect("read"), None);
    assert!(store.apply(told(Step::ForgetConsents { subject: "u".into(), client_id: None })).await.expect("forget").applied());
    assert_eq!(store.consent("u", "c").await.expect("read"), None);
    assert_eq!(verify(&store).await, Ok(5));
    let counts = store.counts().await.expect("counts");
    assert_eq!(counts.iter().find(|(table, _)| *table == "events"), Some(&("events", 5)));
}

pub(super) async fn pages_go_on_where_they_stopped(world: &mut World) {
    let mut change = Change::new().event(event());
    for n in 0..25 {
        let id = world.unique();
        let mut one = grant(&id, "u", if n % 2 == 0 { "even" } else { "odd" });
        one.created_at = NOW - n / 5;
        let mut other = session(&id, if n % 2 == 0 { "even" } else { "odd" });
        other.created_at = NOW - n / 5;
        change = change.step(Step::StartGrant(one)).step(Step::StartSession(other));
        change = change.step(Step::CreateObject(object(ObjectKind::Client, &id, &id)));
    }
    let mut gone = grant("gone", "u", "even");
    gone.expires_at = NOW;
    assert!(world.store().apply(change.step(Step::StartGrant(gone))).await.expect("start").applied());
    let store = world.store();
    macro_rules! walk {
        ($at:ident => $call:expr) => {{
            let (mut all, mut next) = (Vec::new(), None::<String>);
            loop {
                let $at = next.as_deref();
                let page = $call.await.expect("a page");
                assert!(page.items.len() <= 4);
                all.extend(page.items);
                next = page.next;
                if next.is_none() {
                    break all;
                }
            }
        }};
    }
    let objects = walk!(at => store.objects(ObjectKind::Client, at, 4));
    assert_eq!(objects.len(), 25);
    assert!(objects.is_sorted_by(|a, b| a.id < b.id));
    for (subject, client, count) in
        [(None, None, 25), (Some("u"), None, 25), (None, Some("odd"), 12), (Some("u"), Some("even"), 13), (Some("x"), None, 0)]
    {
        let grants = walk!(at => store.grants(subject, client, at, 4));
        assert_eq!(grants.len(), count);
        let everybody = subject.is_none() && client.is_none();
        assert!(grants.is_sorted_by_key(|g| (if everybody { 0 } else { g.created_at }, g.id.clone())), "newest last; everybody's by id");
    }
    let sessions = walk!(at => store.sessions(Some("even"), at, 4));
    assert_eq!(sessions.len(), 13);
    assert_eq!(walk!(at => store.sessions(None, at, 4)).len(), 25);
    assert!(store.grants(None, None, Some("nonsense"), 4).await.expect("a page").items.is_empty());
}

pub(super) async fn who_took_part_is_found_by_session_and_once_that_has_ended(world: &mut World) {
    let store = world.store();
    let part = |id: &[u8], of: &str, due: i64| {
        let row = artefact(ArtefactKind::Participant, id);
        Step::Save(Artefact { grant: Some(of.to_owned()), created_at: due, ..row })
    };
    let mut change = Change::new().event(event());
    for id in ["ends", "ended-by-subject", "lives"] {
        change = change.step(Step::StartSession(session(id, if id == "ended-by-subject" { "gone" } else { "u" })));
    }
    change = change.step(part(b"1", "ends", NOW)).step(part(b"2", "ends", NOW + 9)).step(part(b"3", "ended-by-subject", NOW));
    change = change.step(part(b"4", "lives", NOW)).step(part(b"5", "never-was", NOW));
    assert!(store.apply(change).await.expect("applies").applied());
    let ids = |rows: Vec<Artefact>| rows.into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(store.participants("ends", 10).await.expect("reads")), [b"1", b"2"]);
    assert_eq!(ids(store.participants("ends", 1).await.expect("reads")), [b"1"]);
    assert!(store.left_behind(0, NOW + 99, (0, 10)).await.expect("reads").is_empty(), "all live");
    let end = Change::new().event(event()).step(Step::EndSession { id: "ends".into(), now: NOW + 2 });
    let end = end.step(Step::EndSessionsOf { subject: "gone".into(), now: NOW + 1 });
    assert!(store.apply(end).await.expect("applies").applied());
    for (since, now, page, found) in [
        (0, NOW + 2, (0, 10), vec![b"3", b"1"]),
        (NOW + 2, NOW + 2, (0, 10), vec![b"1"]),
        (0, NOW + 2, (0, 1), vec![b"3"]),
        (0, NOW + 2, (1, 1), vec![b"1"]),
        (0, NOW + 2, (2, 1), vec![]),
        (NOW + 3, NOW + 99, (0, 10), vec![]),
    ] {
        assert_eq!(ids(store.left_behind(since, now, page).await.expect("reads")), found, "{since} {now} {page:?}");
    }
    assert_eq!(store.left_behind(0, NOW + 9, (0, 10)).await.expect("reads").len(), 3, "the rest is due later");
}

pub(super) async fn things_whose_ids_begin_alike_are_listed_in_order_and_no_others(world: &mut World) {
    let store = world.store();
    let (list, next) = ([0xff, 0x00, 0xff], [0xff, 0x01, 0x00]);
    let mut change = Change::new().event(event());
    for n in (0..10u8).rev() {
        change = change.step(Step::Put(artefact(ArtefactKind::Status, &[&list[..], &[n]].concat())));
    }
    for other in [&list[..], &next[..], &[0xff, 0x00, 0xfe, 0x01], b"", &[0xff]] {
        change = change.step(Step::Put(artefact(ArtefactKind::Status, other)));
    }
    change = change.step(Step::Put(artefact(ArtefactKind::Jti, &[&list[..], &[3]].concat())));
    assert!(store.apply(change).await.expect("applies").applied());
    let (mut found, mut after) = (Vec::new(), list.to_vec());
    loop {
        let page = store.artefacts(ArtefactKind::Status, &list, &after, 4).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 4);
        after.clone_from(&last.id);
        found.extend(page);
    }
    let expected: Vec<_> = (0..10u8).map(|n| artefact(ArtefactKind::Status, &[&list[..], &[n]].concat())).collect();
    assert_eq!(found, expected);
    assert!(store.artefacts(ArtefactKind::Status, &[0xaa; 16], &[0xaa; 16], 4).await.expect("a page").is_empty());
}

pub(super) async fn purge_takes_what_expired_in_batches_and_nothing_else(world: &mut World) {
    let store = world.store();
    let mut change = Change::new().event(event());
    for n in 0..30u8 {
        let mut short = artefact(ArtefactKind::Form, &[n]);
        short.expires_at = NOW + i64::from(n);
        change = change.step(Step::Put(short)).revoke(RevocationKind::Token, format!("{n}"), 1, NOW + i64::from(n));
    }
    let (mut expired, mut ended) = (grant("expired", "u", "c"), grant("ended", "u", "c"));
    expired.expires_at = NOW;
    ended.expires_at = NOW + 1_000_000;
    let mut old = session("old", "u");
    old.expires_at = NOW;
    change = change.step(Step::StartGrant(expired)).step(Step::StartGrant(ended)).step(Step::StartGrant(grant("live", "u", "c")));
    change = change.step(Step::StartSession(old)).step(Step::StartSession(session("s", "u")));
    change = change.step(Step::EndGrant { id: "ended".into(), now: NOW });
    assert!(store.apply(change).await.expect("start").applied());
    let mut gone = Vec::new();
    loop {
        match store.purge(NOW + 10, 4).await.expect("purge") {
            0 => break,
            some => gone.push(some),
        }
    }
    assert_eq!(gone.iter().sum::<u64>(), 11 + 1 + 1);
    assert!(gone.iter().all(|n| *n <= 6 * 4) && gone.len() >= 3);
    assert_eq!(store.artefact(ArtefactKind::Form, &[10]).await.expect("read"), None);
    assert!(store.artefact(ArtefactKind::Form, &[11]).await.expect("read").is_some());
    // Others' clocks may be behind: revocations are kept, and told, for some minutes more.
    assert_eq!(store.revocations(0, NOW + 309, 100).await.expect("read").len(), 20);
    while store.purge(NOW + 310, 4).await.expect("purge") > 0 {}
    assert_eq!(store.revocations(0, 0, 100).await.expect("read").len(), 19);
    assert_eq!(store.grant("expired").await.expect("read"), None);
    assert!(store.grant("ended").await.expect("read").is_some());
    assert!(store.grant("live").await.expect("read").is_some());
    assert_eq!(store.session("old").await.expect("read"), None);
    while store.purge(NOW + 90_000, 100).await.expect("purge") > 0 {}
    assert_eq!(store.grant("ended").await.expect("read"), None);
    assert_eq!(store.session("s").await.expect("read"), None);
    assert_eq!(verify(&store).await, Ok(1), "purging forgets no event");
}

pub(crate) async fn a_reader_beside_the_writer_sees_what_is_committed_and_changes_nothing(world: &mut World) {
    let store = world.store();
    let reading = crate::Options { read_only: true, ..crate::Options::default() };
    let reader = crate::open(&world.url, &reading, std::sync::Arc::clone(&world.clock) as _).await.expect("opens beside it");
    let put = |name: &str| told(Step::PutMeta { name: name.to_owned(), value: vec![1] });
    assert!(store.apply(put("seen")).await.expect("applies").applied());
    assert_eq!(reader.meta("seen").await.expect("reads"), Some(vec![1]));
    assert_eq!(reader.head().await.expect("reads"), store.head().await.expect("reads"));
    verify(&reader).await.expect("the chain holds");
    for refused in [reader.apply(put("never")).await.map(|_| ()), reader.purge(NOW, 10).await.map(|_| ())] {
        assert!(matches!(&refused, Err(ledger::StoreError::Unavailable(why)) if why.contains("for reading only")), "{refused:?}");
    }
    assert!(reader.truncate_events(2).await.is_err());
    let copy = world.folder.path().join("beside.backup");
    reader.backup_to(&copy, Box::new(|_, _| {})).await.expect("a backup");
    assert!(reader.counts().await.expect("counts").iter().any(|(table, rows)| *table == "events" && *rows > 0));
    assert_eq!(store.meta("never").await.expect("reads"), None);
}

pub(super) async fn what_waits_is_found_by_its_owner_until_it_is_answered_or_over(world: &mut World) {
    let store = world.store();
    let waiting = |id: u8, owner: &str, kind, expires_at| {
        told(Step::Put(Artefact { grant: Some(owner.to_owned()), expires_at, created_at: NOW + i64::from(id), ..artefact(kind, &[id]) }))
    };
    for change in [
        waiting(2, "person:a", ArtefactKind::Backchannel, NOW + 60),
        waiting(1, "person:a", ArtefactKind::Backchannel, NOW + 60),
        waiting(3, "person:a", ArtefactKind::Backchannel, NOW + 5),
        waiting(4, "person:b", ArtefactKind::Backchannel, NOW + 60),
        waiting(5, "person:a", ArtefactKind::Refresh, NOW + 60),
    ] {
        assert!(store.apply(change).await.expect("put").applied());
    }
    let found = async |owner: &str, now, limit| -> Vec<u8> {
        store.waiting(owner, now, limit).await.expect("read").into_iter().map(|a| a.id[0]).collect()
    };
    assert_eq!(found("person:a", NOW, 10).await, [1, 2, 3], "oldest first");
    assert_eq!(found("person:a", NOW, 2).await, [1, 2]);
    assert_eq!(found("person:a", NOW + 5, 10).await, [1, 2], "over");
    assert_eq!(found("person:b", NOW, 10).await, [4]);
    assert!(store.apply(told(consume(ArtefactKind::Backchannel, &[1], NOW))).await.expect("consume").applied());
    assert_eq!(found("person:a", NOW, 10).await, [2, 3], "answered");
    let full = store.waiting("person:b", NOW, 1).await.expect("read").remove(0);
    assert_eq!((full.kind, full.grant.as_deref(), full.mac.len()), (ArtefactKind::Backchannel, Some("person:b"), 32));
}
