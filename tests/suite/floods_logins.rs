//! Floods of guesses: what they keep others from (nothing), and what of them is written down.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client_from};
use crate::kit::seed::{HOME, PASSWORD};
use crate::kit::{Ask, Shared, Stage, Visitor, wait_until};

static STAGE: Shared = Shared::new();

/// Every event of a kind.
fn events(stage: &Stage, kind: &str) -> Vec<Value> {
    let (mut all, mut path) = (Vec::new(), "/events?limit=100".to_owned());
    loop {
        let page = stage.admin("GET", &path).go().expect(200).json();
        all.extend(page["items"].as_array().unwrap().iter().filter(|e| e["kind"] == kind).cloned());
        match page["next"].as_str() {
            Some(next) => path = format!("/events?limit=100&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn wrong_passwords_of_one_source_keep_no_right_one_of_another_waiting() {
    let stage = Stage::start(|_| {});
    let mut first = Visitor::from("127.0.40.1");
    let page = first.open(&Ask::new(&HOME).url(&stage)).kind("login");
    // More at once than the queue of a machine with a few cores holds.
    let counts = std::thread::scope(|scope| {
        let flood: Vec<_> = (0..120)
            .map(|_| {
                let (mut visitor, page) = (first.clone(), &page);
                scope.spawn(move || visitor.login(page, "alice", "wrong").page().status())
            })
            .collect();
        for n in 0..4 {
            let ask = Ask::new(&HOME);
            let mut visitor = Visitor::from(&format!("127.0.40.{}", n + 2));
            let page = visitor.open(&ask.url(&stage)).kind("login");
            visitor.login(&page, "alice", PASSWORD).code(&stage, &ask);
        }
        let mut counts = BTreeMap::<u16, usize>::new();
        for one in flood {
            *counts.entry(one.join().expect("an answer")).or_default() += 1;
        }
        counts
    });
    assert!(counts.keys().all(|status| [200, 429, 503].contains(status)), "{counts:?}");
    // Twenty may fail; each is counted before the next is looked at, one for each thread that hashes beside it.
    assert!(counts[&200] <= 20 + 16, "{counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 120);
    assert_eq!(stage.metric("panics_total"), 0.0);
}

#[test]
fn what_is_not_told_one_by_one_is_told_by_its_number() {
    let stage = Stage::start(|_| {});
    let stranger = client_from("127.0.42.1");
    for n in 0..90 {
        let form = [("grant_type", "client_credentials")];
        stranger.post(stage.url("/token")).basic_auth(format!("stranger-{n}"), Some("no")).form(&form).go().expect(401);
    }
    let mut told = Vec::new();
    wait_until("all are told", Duration::from_secs(60), || {
        told = events(&stage, "client.auth_failed");
        told.iter().map(|e| e["data"]["count"].as_u64().unwrap_or(1)).sum::<u64>() >= 90
    });
    assert_eq!(told.iter().map(|e| e["data"]["count"].as_u64().unwrap_or(1)).sum::<u64>(), 90, "{told:?}");
    assert!(told.len() < 60, "{} events for 90 failures of one source", told.len());
}

#[test]
fn clients_that_there_are_not_are_not_looked_for_without_end() {
    let stage = STAGE.get();
    let source = client_from("127.0.43.1");
    let ask = |id: &str| {
        let query = format!("client_id={id}&response_type=code&redirect_uri=https%3A%2F%2Fx.example.com%2Fcb");
        source.get(stage.url(&format!("/authorize?{query}"))).go()
    };
    let known = HOME.id;
    assert_ne!(ask(known).status, 429);
    // Until the limit is met: some come back for each second it takes.
    let (looked, limited) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for part in 0..8 {
            let (ask, looked, limited) = (&ask, &looked, &limited);
            scope.spawn(move || {
                for n in (0..2_000).take_while(|_| !limited.load(Ordering::SeqCst)) {
                    match ask(&format!("made-up-{part}-{n}")).status {
                        400 => drop(looked.fetch_add(1, Ordering::SeqCst)),
                        429 => limited.store(true, Ordering::SeqCst),
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert!(limited.load(Ordering::SeqCst), "no limit in 16000");
    assert!(looked.load(Ordering::SeqCst) >= 1200, "{looked:?}");
    let last = (0..50).map(|n| ask(&format!("made-up-again-{n}"))).find(|answer| answer.status == 429).expect("still");
    assert!(last.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1), "{last:?}");
    // Who is known goes on, and so does everybody else.
    assert_ne!(ask(known).status, 429);
    let other = client_from("127.0.43.2").get(stage.url("/authorize?client_id=made-up")).go();
    assert_eq!(other.status, 400);
    assert!(stage.metric("cache_entries{cache=\"clients\"") < 100.0);
}

/// How many rows of a table there are in the file itself.
fn rows(stage: &Stage, table: &str) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = rusqlite::Connection::open_with_flags(stage.house.path("doorward.db"), flags).unwrap();
    let count: i64 = file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

#[test]
fn what_strangers_leave_in_the_database_is_bounded() {
    let stage = Stage::start(|_| {});
    let artefacts = || rows(&stage, "artefacts");
    let source = client_from("127.0.44.1");
    let form = json!({"client_id": "spa", "redirect_uri": "http://127.0.0.1/cb", "response_type": "code", "scope": "openid",
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"});
    let before = artefacts();
    let mut counts = BTreeMap::<u16, usize>::new();
    // 300, and five more for each second it takes.
    while !counts.contains_key(&429) {
        *counts.entry(source.post(stage.url("/par")).form(&form).go().status).or_default() += 1;
        assert!(counts.values().sum::<usize>() < 3_000, "{counts:?}");
    }
    assert!(counts.keys().all(|status| [201, 429].contains(status)) && counts[&201] >= 300, "{counts:?}");
    assert_eq!(artefacts() - before, counts[&201], "a refused one leaves nothing");
    let limited = source.post(stage.url("/par")).form(&form).go();
    assert!(limited.status == 201 || limited.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1));
    client_from("127.0.44.2").post(stage.url("/par")).form(&form).go().expect(201);
}
