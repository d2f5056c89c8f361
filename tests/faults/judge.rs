//! The judge: what the journal says was promised, against what the server says now, by its public contract alone.
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::journal::{Held, Journal, Kind, Standing, told};
use super::node::{Heard, Node};
use super::once::Once;
use super::person::Person;
use super::plan::Dice;
use crate::kit::House;
use crate::kit::http::{Go, client, now};

/// A node that has not heard of its database for a moment answers nobody, and that is right; one that stays silent is broken.
const SILENCE: Duration = Duration::from_secs(20);
/// How many looks at once.
const EYES: usize = 3;

/// What is known of the ledger so far.
#[derive(Default)]
pub struct Ledger {
    pub seq: u64,
    counts: HashMap<String, u64>,
    /// The key that the ledger says signs, by algorithm.
    signs: HashMap<String, String>,
}

/// Everything that is looked at.
pub struct Judge<'a> {
    pub house: &'a House,
    pub journal: &'a Journal,
    /// One after another; what is dead has to be dead at each within `patience`.
    pub nodes: &'a [&'a Node],
    pub patience: Duration,
    /// How many of the older things are looked at again; the younger ones all are.
    pub older: usize,
    /// A node had all the time there is and said nothing.
    pub silent: AtomicBool,
}

impl Judge<'_> {
    /// Compares. What was given since `young` (a position of the journal) is looked at whole, what is older by lot.
    pub fn judge(&self, ledger: &mut Ledger, once: &[Once], young: u64, dice: &mut Dice) {
        self.things(young, dice);
        self.names(dice);
        self.once(once, dice);
        self.keys(ledger);
        self.ledger(ledger);
    }

    fn broken(&self, text: &str) {
        self.journal.violation(text);
    }

    /// Tokens, sessions and grants are what they have to be; what is open is settled by looking.
    fn things(&self, young: u64, dice: &mut Dice) {
        let moment = now();
        let mut all: Vec<(usize, Held, Standing)> =
            self.journal.held().into_iter().filter(|(_, held, _)| held.thing.until > moment + 10).collect();
        let mut older: Vec<_> = Vec::new();
        all.retain(|one| {
            let fresh = one.1.given >= young || one.1.seen.is_none_or(|(seen, _)| seen != (one.2 == Standing::Alive));
            if !fresh {
                older.push(one.clone());
            }
            fresh
        });
        dice.shuffle(&mut older);
        all.extend(older.into_iter().take(self.older));
        let next = AtomicUsize::new(0);
        let looks = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..EYES {
                scope.spawn(|| {
                    while let Some((n, held, standing)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(alive) = self.thing(held, *standing) {
                            looks.lock().expect("looks").push((*n, alive));
                        }
                    }
                });
            }
        });
        for (n, alive) in looks.into_inner().expect("looks") {
            self.journal.looked(n, alive);
        }
    }

    /// Whether a node that says nothing may take more time; one that had it once has had it.
    fn waits(&self, asked: Instant) -> bool {
        if asked.elapsed() >= SILENCE {
            self.silent.store(true, Ordering::Relaxed);
        }
        !self.silent.load(Ordering::Relaxed)
    }

    /// Looks at one thing at every node; whether it is alive.
    fn thing(&self, held: &Held, standing: Standing) -> Option<bool> {
        let mut found = None;
        for (place, node) in self.nodes.iter().enumerate() {
            let asked = Instant::now();
            let mut begun = asked;
            loop {
                let said = self.look(node, held);
                let (alive, words) = match said {
                    Ok(said) => said,
                    Err(_) if self.waits(asked) => {
                        std::thread::sleep(Duration::from_millis(50));
                        begun = Instant::now();
                        continue;
                    }
                    Err(why) => {
                        self.broken(&format!("node {place} does not say what {} is: {why}", describe(held)));
                        return None;
                    }
                };
                let right = match (standing, alive) {
                    (Standing::Alive, Some(alive)) => alive,
                    (Standing::Dead, Some(alive)) => !alive,
                    (Standing::Unsure, Some(alive)) => found.is_none_or(|before| before == alive),
                    (_, None) => false,
                };
                if right {
                    found = found.or(alive);
                    break;
                }
                if begun.elapsed() >= self.patience {
                    let earlier = held.seen.map(|(alive, at)| format!(", seen {} at {at}", if alive { "alive" } else { "dead" }));
                    self.broken(&format!(
                        "{} has to be {standing:?} (asked at {}, given at {}{}); node {place} says: {words}",
                        describe(held),
                        held.asked,
                        held.given,
                        earlier.unwrap_or_default()
                    ));
                    return None;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        found
    }

    /// Whether a thing is alive at a node (`None`: the doors do not agree), and what they said.
    fn look(&self, node: &Node, held: &Held) -> Result<(Option<bool>, String), String> {
        match &held.thing.kind {
            Kind::Access { path } => {
                let active = node.introspect(&held.thing.text).ok_or("introspection gave no answer")?["active"] == true;
                let status = node.call(path, &held.thing.text).ok_or("the gateway gave no answer")?;
                let through = match status {
                    200 => Some(true),
                    401 => Some(false),
                    _ => None,
                };
                Ok((through.filter(|t| *t == active), format!("introspection active={active}, gateway {status}")))
            }
            Kind::Session { username, cookies } => {
                let alive = Person::with(username, cookies).logged_in(node).ok_or("the account page gave no answer")?;
                let id = &held.thing.text;
                let listed = node.read(&format!("/sessions/{id}")).ok_or("the administration gave no answer")?;
                let live = listed.is_some_and(|s| s["ended_at"].is_null());
                Ok((Some(alive).filter(|a| *a == live), format!("account page: logged in={alive}, administration: live={live}")))
            }
            Kind::Grant => {
                let listed = node.read(&format!("/grants/{}", held.thing.text)).ok_or("the administration gave no answer")?;
                let live = listed.is_some_and(|g| g["ended_at"].is_null());
                Ok((Some(live), format!("administration: live={live}")))
            }
        }
    }

    /// Objects have the last acknowledged value, or one that may have been written after it. A name is its path in the administration; the
    /// value is what `name`, `client_name` or `disabled` says.
    fn names(&self, dice: &mut Dice) {
        let mut names = self.journal.names();
        names.sort();
        dice.shuffle(&mut names);
        for (name, possible) in names.into_iter().take(60) {
            for (place, node) in self.nodes.iter().enumerate() {
                let asked = Instant::now();
                let found = loop {
                    let found = node.read(&name);
                    if found.is_some() || !self.waits(asked) {
                        break found;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                };
                let Some(found) = found else {
                    self.broken(&format!("node {place} does not say what {name} is"));
                    continue;
                };
                let value = found.as_ref().map(marker);
                if !possible.contains(&value) {
                    self.broken(&format!("{name} has to be one of {possible:?}; node {place} says {value:?}"));
                } else if place == 0 {
                    self.journal.saw(&name, value.as_deref());
                }
            }
        }
    }

    /// Things of one use: what was used is refused, what may have been used wins at most once more.
    fn once(&self, once: &[Once], dice: &mut Dice) {
        for one in once {
            let node = self.nodes[dice.below(self.nodes.len())];
            let mut one = one.clone();
            for _ in 0..2 {
                one.try_again(self.journal, node);
            }
        }
    }

    /// Revoked keys are gone from the set, and the key that signs is the one the ledger says was activated last.
    fn keys(&self, ledger: &mut Ledger) {
        let _ = ledger;
        for (place, node) in self.nodes.iter().enumerate() {
            let published = client().get(node.url("/jwks")).try_go().ok().filter(|a| a.status == 200).map(|a| a.text());
            let listed = node.read("/keys").flatten();
            let (Some(published), Some(listed)) = (published, listed) else {
                self.broken(&format!("node {place} does not name its keys"));
                continue;
            };
            for key in listed["items"].as_array().into_iter().flatten() {
                let (kid, state) = (key["kid"].as_str().unwrap_or_default(), key["state"].as_str().unwrap_or_default());
                let tag = format!("key:{kid}");
                let standing = self.journal.standing(&[tag], 0, 0);
                let public = published.contains(kid);
                let wrong = match state {
                    "revoked" => public || standing == Standing::Alive,
                    _ => standing == Standing::Dead || !public,
                };
                if wrong {
                    self.broken(&format!("key {kid} has to be {standing:?}; node {place} says {state}, published={public}"));
                }
            }
        }
    }

    /// The ledger verifies, has no gap, tells of everything acknowledged once, and names the key that signs.
    fn ledger(&self, ledger: &mut Ledger) {
        let ran = self.house.run(&["audit", "verify"]);
        if ran.code != 0 {
            self.broken(&format!("audit verify: {}", ran.said()));
        }
        let node = self.nodes[0];
        let Some(rows) = node.events(ledger.seq) else {
            self.broken("the ledger cannot be read");
            return;
        };
        for row in &rows {
            let seq = row["seq"].as_u64().unwrap_or_default();
            if seq != ledger.seq + 1 {
                self.broken(&format!("the ledger goes from {} to {seq}", ledger.seq));
            }
            ledger.seq = seq;
            *ledger.counts.entry(told(row)).or_default() += 1;
            if row["kind"] == "key.activated" {
                let text = |name: &str| row["data"][name].as_str().unwrap_or_default().to_owned();
                ledger.signs.insert(text("alg"), text("kid"));
            }
        }
        for (event, least, most) in self.journal.tellings() {
            let times = ledger.counts.get(&event).copied().unwrap_or_default();
            if times < least || times > most {
                self.broken(&format!("{event}: told {times} times, has to be {least} to {most}"));
            }
        }
        if let Some(listed) = node.read("/keys").flatten() {
            for key in listed["items"].as_array().into_iter().flatten().filter(|key| key["state"] == "current") {
                let (alg, kid) = (key["alg"].as_str().unwrap_or_default(), key["kid"].as_str().unwrap_or_default());
                if ledger.signs.get(alg).is_some_and(|last| last != kid) {
                    self.broken(&format!("{alg} is signed with {kid}; the ledger says {:?}", ledger.signs.get(alg)));
                }
            }
        }
    }
}

fn describe(held: &Held) -> String {
    format!("{:?} {} of {:?}", held.thing.kind, held.thing.text, held.thing.tags)
}

/// What of an object the harness changes.
fn marker(object: &Value) -> String {
    match &object["disabled"] {
        Value::Bool(true) => "disabled".to_owned(),
        _ => object["client_name"].as_str().or_else(|| object["name"].as_str()).unwrap_or("enabled").to_owned(),
    }
}

/// What an answer that refuses says.
pub fn words(heard: &Heard) -> String {
    match heard {
        Heard::Yes(answer) | Heard::No(answer) => format!("{} {}", answer.status, answer.text()),
        Heard::Perhaps(why) | Heard::Unsent(why) => why.clone(),
    }
}
