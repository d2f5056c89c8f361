//! What was asked and what was acknowledged, line by line in a file as it happens: the only witness the judge believes.
//!
//! A deed is written down before its request is sent, and again when its answer is there. What has only the first line may have happened or
//! not (`Unsure`), until a look says which, and then for good.
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::kit::http::now;

/// What a credential hangs on: `grant:…`, `session:…`, `subject:…`, `client:…`, `key:…`, `token:…`. Its end is the end of all that hang on it.
pub type Tag = String;

/// What is about to be asked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Deed {
    /// In a word or two.
    pub what: &'static str,
    /// Things of one use that it uses.
    pub spends: Vec<String>,
    /// What has ended once it is acknowledged.
    pub ends: Vec<Tag>,
    /// Names and the value each has from then on; `None`: it is gone.
    pub puts: Vec<(String, Option<String>)>,
    /// Events that are told once for it ([`told`]).
    pub tells: Vec<String>,
    /// Events that may be told for it.
    pub may: Vec<String>,
}

impl Deed {
    pub fn new(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }
    pub fn spends(mut self, thing: impl Into<String>) -> Self {
        self.spends.push(thing.into());
        self
    }
    pub fn ends(mut self, tag: impl Into<String>) -> Self {
        self.ends.push(tag.into());
        self
    }
    pub fn puts(mut self, name: impl Into<String>, value: Option<&str>) -> Self {
        self.puts.push((name.into(), value.map(str::to_owned)));
        self
    }
    pub fn tells(mut self, event: impl Into<String>) -> Self {
        self.tells.push(event.into());
        self
    }
    pub fn may(mut self, event: impl Into<String>) -> Self {
        self.may.push(event.into());
        self
    }
}

/// How a deed went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Told that nothing was done.
    Refused,
    /// No answer, or one that leaves it open (503).
    Unsure,
}

/// How a credential can be looked at.
#[derive(Debug, Clone, Serialize)]
pub enum Kind {
    /// An access token: introspection, and a path at the gateway that takes it.
    Access { path: &'static str },
    /// A browser's session: its cookies.
    Session { username: String, cookies: BTreeMap<String, String> },
    /// A grant that the administration knows by its id.
    Grant,
}

/// A credential that was given.
#[derive(Debug, Clone, Serialize)]
pub struct Thing {
    pub kind: Kind,
    /// The credential.
    pub text: String,
    pub tags: Vec<Tag>,
    /// Seconds since the epoch; after it nothing is promised.
    pub until: i64,
}

/// What a thing or a chain has to be now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Standing {
    Alive,
    Dead,
    /// Something that would have ended it was asked beside its issue, or never answered.
    Unsure,
}

#[derive(Debug, Clone)]
struct Entry {
    deed: Deed,
    asked: u64,
    outcome: Outcome,
    /// When the answer was there, or the server that was asked was seen again: from then on it has happened or never will.
    settled: Option<u64>,
}

/// A thing that was given, and when.
#[derive(Debug, Clone)]
pub struct Held {
    pub thing: Thing,
    pub asked: u64,
    pub given: u64,
    /// What a look said last, and when.
    pub seen: Option<(bool, u64)>,
}

#[derive(Default)]
struct Book {
    at: u64,
    /// When each line was written.
    times: Vec<Instant>,
    /// How long another node may not have heard of an end yet: what it gives meanwhile may be dead at birth.
    lag: Duration,
    entries: Vec<Entry>,
    held: Vec<Held>,
    ends: HashMap<Tag, Vec<usize>>,
    puts: HashMap<String, Vec<usize>>,
    spends: HashMap<String, Vec<usize>>,
    /// The value a name was last seen with, and when.
    saw: HashMap<String, (Option<String>, u64)>,
    tells: HashMap<String, (u64, u64)>,
    violations: Vec<String>,
}

/// The list.
pub struct Journal {
    path: PathBuf,
    inner: Mutex<(Book, std::fs::File)>,
}

/// A deed that was asked.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(usize);

/// How many of what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub done: usize,
    pub unsure: usize,
    pub violations: usize,
}

/// What an event is known by: its kind and the first of key, token, object, grant, session, client, subject that it names.
pub fn told(event: &Value) -> String {
    let (kind, data) = (event["kind"].as_str().unwrap_or_default(), &event["data"]);
    let named = |at: &Value, name: &str| at[name].as_str().map(str::to_owned);
    let object = || Some(format!("{}/{}", named(data, "object")?, named(data, "id")?));
    let what = named(data, "kid")
        .or_else(|| named(data, "jti"))
        .or_else(object)
        .or_else(|| named(event, "grant"))
        .or_else(|| named(event, "session"))
        .or_else(|| named(event, "client_id"))
        .or_else(|| named(event, "sub"))
        .unwrap_or_default();
    format!("{kind} {what}")
}

impl Journal {
    pub fn create(path: &Path) -> Self {
        let file = std::fs::File::create(path).expect("a journal");
        Self { path: path.to_owned(), inner: Mutex::new((Book::default(), file)) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Several nodes: an end is known at the others only this much later.
    pub fn lag(&self, lag: Duration) {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.lag = lag;
    }

    fn with<T>(&self, line: &Value, act: impl FnOnce(&mut Book, u64) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (book, file) = &mut *inner;
        book.at += 1;
        let at = book.at;
        book.times.push(Instant::now());
        let mut line = line.clone();
        line["at"] = json!(at);
        let _ = writeln!(file, "{line}");
        act(book, at)
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0)
    }

    /// Writes down what is about to be asked.
    pub fn ask(&self, deed: Deed) -> Ticket {
        self.with(&json!({"asked": &deed}), |book, at| {
            let n = book.entries.len();
            for tag in &deed.ends {
                book.ends.entry(tag.clone()).or_default().push(n);
            }
            for (name, _) in &deed.puts {
                book.puts.entry(name.clone()).or_default().push(n);
            }
            for thing in &deed.spends {
                book.spends.entry(thing.clone()).or_default().push(n);
            }
            for event in deed.tells.iter().chain(&deed.may) {
                book.tells.entry(event.clone()).or_default().1 += 1;
            }
            book.entries.push(Entry { deed, asked: at, outcome: Outcome::Unsure, settled: None });
            Ticket(n)
        })
    }

    /// It was acknowledged, and gave these things; `tells` are the events known only now. A second win of one thing is a violation.
    pub fn done(&self, ticket: Ticket, gives: Vec<Thing>, tells: Vec<String>) {
        self.done_since(ticket, u64::MAX, gives, tells);
    }

    /// The same; what it gives was asked for earlier, at a place of the list.
    pub fn done_since(&self, ticket: Ticket, since: u64, gives: Vec<Thing>, tells: Vec<String>) {
        let twice = self.with(&json!({"done": ticket.0, "gives": &gives, "tells": &tells}), |book, at| {
            let entry = &mut book.entries[ticket.0];
            (entry.outcome, entry.settled) = (Outcome::Done, Some(at));
            let (asked, deed) = (entry.asked.min(since), entry.deed.clone());
            for event in &deed.tells {
                let count = book.tells.entry(event.clone()).or_default();
                *count = (count.0 + 1, count.1.saturating_sub(1));
            }
            for event in tells {
                book.tells.entry(event).or_default().0 += 1;
            }
            book.held.extend(gives.into_iter().map(|thing| Held { thing, asked, given: at, seen: None }));
            let won = |thing: &&String| book.spends[*thing].iter().filter(|n| book.entries[**n].outcome == Outcome::Done).count() > 1;
            deed.spends.iter().find(won).map(|thing| format!("used twice: {thing} ({})", deed.what))
        });
        if let Some(twice) = twice {
            self.violation(&twice);
        }
    }

    /// The server said that nothing was done.
    pub fn refused(&self, ticket: Ticket, why: &str) {
        self.with(&json!({"refused": ticket.0, "why": why}), |book, at| {
            let entry = &mut book.entries[ticket.0];
            (entry.outcome, entry.settled) = (Outcome::Refused, Some(at));
            for event in entry.deed.tells.clone() {
                let count = book.tells.entry(event).or_default();
                count.1 = count.1.saturating_sub(1);
            }
        });
    }

    /// There was no answer, or one that leaves it open.
    pub fn unsure(&self, ticket: Ticket, why: &str) {
        self.with(&json!({"unsure": ticket.0, "why": why}), |_, _| ());
    }

    /// Whoever was asked is gone: what has no answer has happened by now or never will.
    pub fn settle(&self) {
        self.with(&json!({"settled": true}), |book, at| {
            for entry in book.entries.iter_mut().filter(|e| e.settled.is_none()) {
                entry.settled = Some(at);
            }
        });
    }

    /// A remark for whoever reads the file.
    pub fn note(&self, text: &str) {
        self.with(&json!({"note": text}), |_, _| ());
    }

    /// A promise that was broken.
    pub fn violation(&self, text: &str) {
        self.with(&json!({"violation": text}), |book, _| book.violations.push(text.to_owned()));
    }

    pub fn violations(&self) -> Vec<String> {
        self.read(|book| book.violations.clone())
    }

    pub fn counts(&self) -> Counts {
        self.read(|book| {
            let of = |outcome| book.entries.iter().filter(|e| e.outcome == outcome).count();
            Counts { done: of(Outcome::Done), unsure: of(Outcome::Unsure), violations: book.violations.len() }
        })
    }

    /// Where the list is now.
    pub fn position(&self) -> u64 {
        self.read(|book| book.at)
    }

    /// What something with these tags, asked for and given at these places, has to be now.
    pub fn standing(&self, tags: &[Tag], asked: u64, given: u64) -> Standing {
        self.read(|book| standing(book, tags, asked, given))
    }

    /// Everything that was given, with what each has to be now.
    pub fn held(&self) -> Vec<(usize, Held, Standing)> {
        self.read(|book| {
            let judged = book.held.iter().enumerate().map(|(n, held)| {
                let now = match (standing(book, &held.thing.tags, held.asked, held.given), held.seen) {
                    // Dead once is dead for ever.
                    (_, Some((false, _))) => Standing::Dead,
                    (Standing::Unsure, Some((true, at))) if !touched(book, &held.thing.tags, at) => Standing::Alive,
                    (standing, _) => standing,
                };
                (n, held.clone(), now)
            });
            judged.collect()
        })
    }

    /// What a look at a thing said.
    pub fn looked(&self, held: usize, alive: bool) {
        self.with(&json!({"looked": held, "alive": alive}), |book, at| book.held[held].seen = Some((alive, at)));
    }

    /// Every name that was ever put, and the values it may have now.
    pub fn names(&self) -> Vec<(String, Vec<Option<String>>)> {
        self.read(|book| book.puts.keys().map(|name| (name.clone(), possible(book, name))).collect())
    }

    /// A look at a name said this.
    pub fn saw(&self, name: &str, value: Option<&str>) {
        self.with(&json!({"saw": name, "value": value}), |book, at| {
            book.saw.insert(name.to_owned(), (value.map(str::to_owned), at));
        });
    }

    /// Whether a thing of one use was surely used, and whether it may have been.
    pub fn used(&self, thing: &str) -> (bool, bool) {
        self.read(|book| {
            let all = || book.spends.get(thing).into_iter().flatten().map(|n| &book.entries[*n]);
            (all().any(|e| e.outcome == Outcome::Done), all().any(|e| e.outcome != Outcome::Refused))
        })
    }

    /// Events that must be told: how often at least, and how often at most.
    pub fn tellings(&self) -> Vec<(String, u64, u64)> {
        self.read(|book| book.tells.iter().map(|(event, (sure, may))| (event.clone(), *sure, sure + may)).collect())
    }
}

/// Ends by their tags: before, after, or beside what was given.
fn standing(book: &Book, tags: &[Tag], asked: u64, given: u64) -> Standing {
    let mut found = Standing::Alive;
    for entry in tags.iter().filter_map(|tag| book.ends.get(tag)).flatten().map(|n| &book.entries[*n]) {
        match (entry.outcome, entry.settled) {
            (Outcome::Refused, _) => {}
            (Outcome::Done, _) if entry.asked > given => return Standing::Dead,
            (_, Some(settled)) if settled < asked && after(book, settled, asked) => {}
            _ => found = Standing::Unsure,
        }
    }
    found
}

fn after(book: &Book, settled: u64, asked: u64) -> bool {
    let time = |at: u64| usize::try_from(at).ok().and_then(|at| book.times.get(at.saturating_sub(1)));
    time(settled).zip(time(asked)).is_none_or(|(settled, asked)| asked.duration_since(*settled) >= book.lag)
}

/// Whether an end of one of these was asked for, or still open, after a place.
fn touched(book: &Book, tags: &[Tag], at: u64) -> bool {
    let all = tags.iter().filter_map(|tag| book.ends.get(tag)).flatten().map(|n| &book.entries[*n]);
    all.into_iter().any(|e| e.outcome != Outcome::Refused && (e.asked > at || e.settled.is_none_or(|s| s > at)))
}

/// The values of all writes that nothing acknowledged came after.
fn possible(book: &Book, name: &str) -> Vec<Option<String>> {
    let writes: Vec<&Entry> = book.puts[name].iter().map(|n| &book.entries[*n]).filter(|e| e.outcome != Outcome::Refused).collect();
    // The last acknowledged write, or look, that began after everything it covers.
    let seen = book.saw.get(name);
    let floor = writes.iter().filter(|e| e.outcome == Outcome::Done).map(|e| e.asked).chain(seen.map(|(_, at)| *at)).max().unwrap_or(0);
    let covered = |settled: Option<u64>| settled.is_some_and(|s| s < floor);
    let mut values: Vec<Option<String>> = Vec::new();
    let mut certain = false;
    for entry in writes.iter().filter(|e| !covered(e.settled) || e.asked == floor) {
        certain |= entry.outcome == Outcome::Done;
        values.extend(entry.deed.puts.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()));
    }
    // Before any of them.
    match seen {
        Some((value, at)) if *at >= floor || !certain => values.push(value.clone()),
        None if !certain => values.push(None),
        _ => {}
    }
    values.sort();
    values.dedup();
    values
}

/// Seconds from now.
pub fn later(seconds: i64) -> i64 {
    now() + seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("journal.jsonl"));
        (dir, journal)
    }

    fn token(tag: &str) -> Thing {
        Thing { kind: Kind::Access { path: "/api/x" }, text: tag.into(), tags: vec![tag.into()], until: i64::MAX }
    }

    #[test]
    fn an_end_counts_for_what_was_given_before_it_and_not_for_what_came_after() {
        let (_dir, journal) = journal();
        let give = |journal: &Journal| {
            let asked = journal.ask(Deed::new("issue"));
            journal.done(asked, vec![token("client:a")], vec![]);
        };
        give(&journal);
        let end = journal.ask(Deed::new("revoke").ends("client:a"));
        give(&journal);
        assert_eq!(journal.held()[0].2, Standing::Unsure, "it may have happened");
        journal.done(end, vec![], vec![]);
        give(&journal);
        let now: Vec<Standing> = journal.held().into_iter().map(|(_, _, standing)| standing).collect();
        assert_eq!(now, [Standing::Dead, Standing::Unsure, Standing::Alive]);
        journal.looked(1, false);
        assert_eq!(journal.held()[1].2, Standing::Dead, "dead once is dead for ever");
    }

    #[test]
    fn a_look_settles_what_nobody_answered() {
        let (_dir, journal) = journal();
        let asked = journal.ask(Deed::new("issue"));
        journal.done(asked, vec![token("grant:a")], vec![]);
        let end = journal.ask(Deed::new("end").ends("grant:a"));
        journal.unsure(end, "killed");
        journal.settle();
        assert_eq!(journal.held()[0].2, Standing::Unsure);
        journal.looked(0, true);
        assert_eq!(journal.held()[0].2, Standing::Alive, "it has not happened, so it never does");
    }

    #[test]
    fn the_second_win_is_a_violation() {
        let (_dir, journal) = journal();
        for _ in 0..2 {
            let asked = journal.ask(Deed::new("redeem").spends("code:x"));
            journal.done(asked, vec![], vec![]);
        }
        assert_eq!(journal.violations().len(), 1);
        assert_eq!(std::fs::read_to_string(journal.path()).unwrap().lines().count(), 5);
    }

    #[test]
    fn a_name_has_the_last_acknowledged_value_or_an_unsure_one_after_it() {
        let (_dir, journal) = journal();
        let put = |value: &str| journal.ask(Deed::new("put").puts("client/a", Some(value)));
        let values = |journal: &Journal| journal.names()[0].1.clone();
        let one = put("1");
        assert_eq!(values(&journal), [None, Some("1".to_owned())]);
        journal.done(one, vec![], vec![]);
        let two = put("2");
        journal.unsure(two, "killed");
        journal.settle();
        assert_eq!(values(&journal), [Some("1".to_owned()), Some("2".to_owned())]);
        journal.saw("client/a", Some("1"));
        assert_eq!(values(&journal), [Some("1".to_owned())], "what has not happened by then never does");
        let gone = journal.ask(Deed::new("delete").puts("client/a", None));
        journal.done(gone, vec![], vec![]);
        assert_eq!(values(&journal), [None]);
    }
}
