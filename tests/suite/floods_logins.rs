//! Floods of guesses: what they keep others from (nothing), and what of them is written down.
use serde_json::{Value, json};

use crate::kit::http::{Go, client_from};
use crate::kit::seed::{HOME, PASSWORD};
use crate::kit::{Ask, Shared, Stage, Visitor, wait_until};
use std::collections::BTreeMap;
use std::time::Duration;

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
    let statuses: Vec<u16> = (0..1300).map(|n| ask(&format!("made-up-{n}")).status).collect();
    let limited = statuses.iter().position(|status| *status == 429).expect("a limit");
    assert!((1200..1300).contains(&limited), "{limited}");
    assert!(statuses[..limited].iter().all(|status| *status == 400), "an error page each");
    let last = ask("made-up-again");
    assert!(last.status == 429 && last.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1), "{last:?}");
    // Who is known goes on, and so does everybody else.
    assert_ne!(ask(known).status, 429);
    let other = client_from("127.0.43.2").get(stage.url("/authorize?client_id=made-up")).go();
    assert_eq!(other.status, 400);
    assert!(stage.metric("cache_entries{cache=\"clients\"") < 100.0);
}

#[test]
fn what_strangers_leave_in_the_database_is_bounded() {
    let stage = Stage::start(|_| {});
    let rows = || stage.admin("GET", "/stats").go().expect(200).json();
    let source = client_from("127.0.44.1");
    let form = json!({"client_id": "spa", "redirect_uri": "http://127.0.0.1/cb", "response_type": "code", "scope": "openid",
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"});
    let before = rows();
    let mut counts = BTreeMap::<u16, usize>::new();
    for _ in 0..340 {
        *counts.entry(source.post(stage.url("/par")).form(&form).go().status).or_default() += 1;
    }
    // 300, and five more for each second it took.
    assert!(counts.keys().all(|status| [201, 429].contains(status)) && counts[&429] > 0, "{counts:?}");
    let after = rows();
    let artefacts = |stats: &Value| stats["rows"]["artefacts"].as_u64().unwrap_or_else(|| panic!("{stats}"));
    assert_eq!(artefacts(&after) - artefacts(&before), counts[&201] as u64, "a refused one leaves nothing");
    let limited = source.post(stage.url("/par")).form(&form).go();
    assert!(limited.status == 201 || limited.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1));
    client_from("127.0.44.2").post(stage.url("/par")).form(&form).go().expect(201);
}
