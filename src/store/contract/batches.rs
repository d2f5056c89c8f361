//! Changes that share a transaction: each gets the answer it would get alone, those that are refused leave their neighbours whole, and the
//! events stand in the order of the changes.
use std::{path::Path, sync::Arc};

use ledger::{Artefact, ArtefactKind, Change, Event, EventKind, NewEvent, ObjectKind, Outcome, Step, StoreError, chain};

use super::kit::{NOW, World, artefact, consume, grant, object, told, verify};
use crate::{
    apply::{self, Ask},
    exec::{Exec, Row, Value, Write},
    group::{Reads, Takes},
    postgres, read, sqlite,
};

const KIND: ArtefactKind = ArtefactKind::Refresh;

fn live(id: &str) -> Step {
    Step::GrantLive { id: id.into(), now: NOW }
}

fn row(id: &str, grant: &str) -> Artefact {
    Artefact { grant: Some(grant.to_owned()), ..artefact(KIND, id.as_bytes()) }
}

fn change(steps: Vec<Step>, n: i64) -> Change {
    Change { steps, events: vec![NewEvent::new(EventKind::TokenRefreshed, NOW * 1000).with("n", n)] }
}

/// A refresh as it was and is: a live grant, one token spent, another made.
fn spend(grant: &str, token: &str, next: &str) -> Vec<Step> {
    vec![live(grant), consume(KIND, token.as_bytes(), NOW), Step::Put(row(next, grant))]
}

fn rotate(token: &str, from: u8, to: u8) -> Step {
    let (id, from, to) = (token.as_bytes().to_vec(), vec![from; 32], vec![to; 32]);
    Step::Rotate { kind: KIND, id, now: NOW, from, to, expires_at: NOW + 90, born: Some(vec![1]), seq: 4 }
}

/// Ten live grants with a token each; `g3` has ended, `r9` expires now.
fn world() -> Change {
    let mut all = Change::new().event(NewEvent::new(EventKind::GrantStarted, NOW * 1000));
    for n in 0..10 {
        let mut token = row(&format!("r{n}"), &format!("g{n}"));
        if n == 9 {
            token.expires_at = NOW;
        }
        all = all.step(Step::StartGrant(grant(&format!("g{n}"), "s", "c"))).step(Step::Put(token));
    }
    all.step(Step::EndGrant { id: "g3".into(), now: NOW }).step(Step::CreateObject(object(ObjectKind::Client, "c", "c")))
}

/// What is asked, and the guard that refuses it.
fn asked() -> Vec<(Vec<Step>, Option<usize>)> {
    let is = |version| Step::ObjectIs { kind: ObjectKind::Client, id: "c".into(), version };
    vec![
        (spend("g0", "r0", "s0"), None),
        (spend("g3", "r3", "s3"), Some(0)),
        (spend("g1", "r0", "s1"), Some(1)),
        (spend("g1", "r1", "s1"), None),
        (vec![live("g2"), Step::EndGrant { id: "g2".into(), now: NOW }], None),
        (spend("g2", "r2", "s2"), Some(0)),
        (vec![is(1), live("g4"), rotate("r4", 7, 8)], None),
        (vec![is(1), live("g5"), rotate("r5", 6, 8)], Some(2)),
        (vec![is(2), live("g6"), rotate("r6", 7, 8)], Some(0)),
        (vec![rotate("r4", 8, 9)], None),
        (spend("g9", "r9", "s9"), Some(1)),
        (spend("g7", "nowhere", "s7"), Some(1)),
        (vec![Step::SessionLive { id: "nowhere".into(), now: NOW }], Some(0)),
        (vec![], None),
    ]
}

fn asks(changes: &[Vec<Step>]) -> Vec<Ask> {
    (0_i64..).zip(changes).map(|(n, steps)| change(steps.clone(), n).into()).collect()
}

async fn decided<W: Write>(w: &mut W) {
    apply::commit(w, &[world().into()]).await.expect("applies");
    let all = asked();
    let done = apply::commit(w, &asks(&all.iter().map(|(steps, _)| steps.clone()).collect::<Vec<_>>())).await.expect("applies");
    for (n, (answer, (_, refused))) in done.answers.iter().zip(&all).enumerate() {
        match (answer.as_ref().expect("an answer"), refused) {
            (Outcome::Applied { .. }, None) => {}
            (Outcome::Refused(guard), Some(step)) if guard.step == *step => {}
            (other, _) => panic!("{n}: {other:?} and not {refused:?}"),
        }
    }
    let numbers: Vec<_> = done.committed.events.iter().map(|e| e.document.clone()).collect();
    assert_eq!(numbers, [0, 3, 4, 6, 9, 13].map(|n| format!("{{\"data\":{{\"n\":{n}}}}}")), "in the order of the changes");
    for (id, there, spent) in
        [("r0", true, true), ("r1", true, true), ("r2", true, false), ("r3", true, false), ("s0", true, false), ("s1", true, false)]
    {
        let found = read::artefact(w, KIND, id.as_bytes()).await.expect("reads");
        assert_eq!((found.is_some(), found.is_some_and(|a| a.consumed_at.is_some())), (there, spent), "{id}");
    }
    for id in ["s2", "s3", "s7", "s9"] {
        assert!(read::artefact(w, KIND, id.as_bytes()).await.expect("reads").is_none(), "{id}: of a refused change");
    }
    let mac = |id: &'static str| (id, id.as_bytes());
    for ((id, key), mac) in [(mac("r4"), 9), (mac("r5"), 7), (mac("r6"), 7)] {
        assert_eq!(read::artefact(w, KIND, key).await.expect("reads").expect("there").mac, vec![mac; 32], "{id}");
    }
    // One of three stores what is there already: it alone is undone.
    let taken = [vec![spend("g5", "r5", "s5")], vec![vec![live("g6"), Step::Put(row("s0", "g6"))]], vec![spend("g6", "r6", "s6")]];
    let done = apply::commit(w, &asks(&taken.concat())).await.expect("applies");
    let applied: Vec<bool> = done.answers.iter().map(|a| a.as_ref().is_ok_and(|a| a.applied())).collect();
    assert_eq!(applied, [true, false, true]);
    assert_eq!(read::artefact(w, KIND, b"s0").await.expect("reads").expect("there").grant.as_deref(), Some("g0"));
    assert!(
        read::artefact(w, KIND, b"s5").await.expect("reads").is_some() && read::artefact(w, KIND, b"s6").await.expect("reads").is_some()
    );
    chained(&read::events(w, 0, 1000).await.expect("reads"), read::head(w).await.expect("reads"));
}

fn chained(events: &[Event], (head, hash): (u64, [u8; 32])) {
    let mut verifier = chain::Verifier::after(0, chain::GENESIS);
    events.iter().for_each(|event| verifier.row(event).expect("chained"));
    assert_eq!(verifier.finish(head, &hash), Ok(head));
}

/// The writer's connection is lost in the middle: nothing of the batch is there, and the next one goes on from the head before it.
async fn broken_off<W: Write>(mut lost: W, w: &mut W) {
    apply::commit(w, &[world().into()]).await.expect("applies");
    let (before, _) = lost.begin().await.expect("begins");
    let event = Event { seq: before + 1, at_ms: 1, kind: "x".into(), document: "{}".into(), hash: [9; 32] };
    assert_eq!(lost.put(&[&row("half", "g0")]).await.expect("stores"), 1);
    lost.append(&[event], before + 1, &[9; 32]).await.expect("appends");
    drop(lost);
    assert!(read::artefact(w, KIND, b"half").await.expect("reads").is_none());
    let done = apply::commit(w, &asks(&[spend("g0", "r0", "half"), spend("g1", "r1", "s1")])).await.expect("applies");
    assert_eq!((done.before, done.committed.head), (before, before + 2));
    chained(&read::events(w, 0, 1000).await.expect("reads"), read::head(w).await.expect("reads"));
}

/// Counts what is undone.
struct Undoing<'w, W>(&'w mut W, u32);

impl<W: Write> Exec for Undoing<'_, W> {
    async fn run(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<u64, StoreError> {
        self.0.run(sql, args).await
    }
    async fn rows(&mut self, sql: &'static str, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.0.rows(sql, args).await
    }
    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.0.script(sql).await
    }
}

impl<W: Write> Write for Undoing<'_, W> {
    const ENGINE: &'static str = W::ENGINE;
    const TOGETHER: bool = W::TOGETHER;
    async fn begin(&mut self) -> Result<(u64, [u8; 32]), StoreError> {
        self.0.begin().await
    }
    async fn commit(&mut self, head: Option<u64>) -> Result<(), StoreError> {
        self.0.commit(head).await
    }
    fn undone(&self) -> bool {
        self.0.undone()
    }
    async fn rollback(&mut self) {
        self.1 += 1;
        self.0.rollback().await;
    }
    async fn stand(&mut self, reads: &[Reads<'_>]) -> Result<Vec<bool>, StoreError> {
        self.0.stand(reads).await
    }
    async fn take(&mut self, takes: &[Takes<'_>]) -> Result<Vec<bool>, StoreError> {
        self.0.take(takes).await
    }
    async fn put(&mut self, rows: &[&Artefact]) -> Result<u64, StoreError> {
        self.0.put(rows).await
    }
    async fn append(&mut self, events: &[Event], head: u64, hash: &[u8; 32]) -> Result<(), StoreError> {
        self.0.append(events, head, hash).await
    }
}

/// Marks that are stored once, each the first step of its change.
async fn marked<W: Write>(w: &mut W) {
    apply::commit(w, &[world().into()]).await.expect("applies");
    let mark = |id: &str| Step::Put(artefact(ArtefactKind::Interaction, id.as_bytes()));
    assert!(
        apply::commit(w, &asks(&[vec![mark("used")]])).await.expect("applies").answers.iter().all(|a| matches!(a, Ok(o) if o.applied()))
    );
    let late = vec![mark("kept"), live("g3")];
    let batch = [
        spend("g0", "r0", "s0"),
        vec![mark("used"), live("g1"), Step::Put(row("s1", "g1"))],
        spend("g2", "r2", "s2"),
        vec![mark("fresh"), live("g4"), Step::Put(row("s4", "g4"))],
        late,
        spend("g5", "r5", "s5"),
        vec![mark("used")],
    ];
    let mut counting = Undoing(w, 0);
    let done = apply::commit(&mut counting, &asks(&batch)).await.expect("applies");
    let undone = counting.1;
    let guards: Vec<_> = done.answers.iter().map(|a| if let Ok(Outcome::Refused(guard)) = a { Some(guard.step) } else { None }).collect();
    assert_eq!(guards, [None, Some(0), None, None, Some(1), None, Some(0)]);
    assert_eq!((undone, done.committed.events.len()), (0, 4), "nothing had to be undone for those that were refused");
    for (kind, id, there) in [
        (KIND, "s0", true),
        (KIND, "s1", false),
        (KIND, "s4", true),
        (KIND, "s5", true),
        (ArtefactKind::Interaction, "fresh", true),
        (ArtefactKind::Interaction, "kept", false),
    ] {
        assert_eq!(read::artefact(w, kind, id.as_bytes()).await.expect("reads").is_some(), there, "{id}");
    }
    // The same mark twice in one batch: the first has it.
    let done = apply::commit(w, &asks(&[vec![mark("twice")], vec![mark("twice")], spend("g6", "r6", "s6")])).await.expect("applies");
    assert_eq!(done.answers.iter().map(|a| matches!(a, Ok(o) if o.applied())).collect::<Vec<_>>(), [true, false, true]);
    chained(&read::events(w, 0, 1000).await.expect("reads"), read::head(w).await.expect("reads"));
}

fn file(world: &World) -> Option<&Path> {
    world.url.strip_prefix("sqlite://").map(Path::new)
}

pub(super) async fn each_of_a_batch_is_answered_as_if_alone(world: &mut World) {
    match file(world) {
        Some(path) => decided(&mut sqlite::writer(path)).await,
        None => decided(&mut postgres::writer(&world.url)).await,
    }
}

pub(super) async fn what_was_used_is_refused_first_and_the_others_of_its_batch_go_on(world: &mut World) {
    match file(world) {
        Some(path) => marked(&mut sqlite::writer(path)).await,
        None => marked(&mut postgres::writer(&world.url)).await,
    }
}

pub(super) async fn a_batch_that_is_broken_off_leaves_nothing(world: &mut World) {
    match file(world) {
        Some(path) => broken_off(sqlite::writer(path), &mut sqlite::writer(path)).await,
        None => broken_off(postgres::writer(&world.url), &mut postgres::writer(&world.url)).await,
    }
}

pub(super) async fn callers_that_go_away_while_they_wait_disturb_nobody(world: &mut World) {
    let store = world.store();
    assert!(store.apply(self::world()).await.expect("applies").applied());
    let tasks: Vec<_> = (0..200_i64)
        .map(|n| (Arc::clone(&store), change(vec![live("g0"), Step::Put(row(&format!("n{n}"), "g0"))], n)))
        .map(|(store, change)| tokio::spawn(async move { store.apply(change).await.expect("answer").applied() }))
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        if n % 2 == 0 {
            task.abort();
        } else {
            assert!(task.await.expect("no panic"), "{n}");
            let key = format!("n{n}");
            assert!(store.artefact(KIND, key.as_bytes()).await.expect("reads").is_some(), "{n}: what was acknowledged is there");
        }
    }
    assert!(store.apply(told(live("g0"))).await.expect("answer").applied());
    assert_eq!(verify(&store).await, Ok(store.head().await.expect("head").0));
}

pub(super) async fn what_is_read_is_what_was_committed_last_whoever_asks(world: &mut World) {
    let store = world.store();
    assert!(store.apply(self::world()).await.expect("applies").applied());
    let spent =
        async |id: &str| store.artefact(KIND, id.as_bytes()).await.expect("reads").map(|a| (a.mac.clone(), a.consumed_at.is_some()));
    assert_eq!(spent("r0").await, Some((vec![7; 32], false)));
    assert!(store.apply(told(rotate("r0", 7, 8))).await.expect("answer").applied());
    assert_eq!(spent("r0").await, Some((vec![8; 32], false)));
    assert!(store.apply(told(consume(KIND, b"r0", NOW))).await.expect("answer").applied());
    assert_eq!(spent("r0").await, Some((vec![8; 32], true)));
    let row = store.artefact(KIND, b"r0").await.expect("reads").expect("there");
    assert_eq!((row.expires_at, row.successor, row.grant.as_deref()), (NOW + 3600, None, Some("g0")), "kept as long as its grant");
    assert!(store.grant("g1").await.expect("reads").expect("there").ended_at.is_none());
    let ends = Step::EndGrantsOf { subject: Some("s".into()), client_id: None, now: NOW };
    assert!(store.apply(told(ends)).await.expect("answer").applied());
    assert_eq!(store.grant("g1").await.expect("reads").expect("there").ended_at, Some(NOW));
    assert!(store.apply(told(Step::Remove { kind: KIND, id: b"r1".to_vec() })).await.expect("answer").applied());
    assert!(store.artefact(KIND, b"r1").await.expect("reads").is_none());
    // Asked while it is changed, again and again: never what was before an acknowledged change.
    assert!(store.apply(told(Step::Put(self::row("round", "g1")))).await.expect("answer").applied());
    let readers: Vec<_> = (0..4)
        .map(|_| Arc::clone(&store))
        .map(|store| {
            tokio::spawn(async move {
                let mut last = 0;
                while last < 57 {
                    let mac = store.artefact(KIND, b"round").await.expect("reads").expect("there").mac[0];
                    assert!(mac >= last, "{mac} after {last}");
                    last = mac;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for mac in 7..57 {
        let saved = Artefact { mac: vec![mac + 1; 32], ..self::row("round", "g1") };
        assert!(store.apply(told(Step::Save(saved))).await.expect("answer").applied());
        assert_eq!(store.artefact(KIND, b"round").await.expect("reads").expect("there").mac[0], mac + 1);
    }
    for reader in readers {
        reader.await.expect("nobody read backwards");
    }
}
