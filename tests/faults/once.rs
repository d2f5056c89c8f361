//! Things of one use, kept so that they can be tried again later: at once, after a crash, at another node.
use super::journal::{Deed, Journal, Standing, Tag};
use super::judge::words;
use super::node::{Heard, Node};
use super::person::{End, Person};
use super::tokens::Given;
use crate::kit::Id;
use crate::kit::http::{Go, client, now};

/// How it is used.
#[derive(Debug, Clone)]
pub enum Use {
    /// A form at the token endpoint, as a client or with what the form and its header carry.
    Form { who: Option<Id>, form: Vec<(String, String)>, dpop: Option<String> },
    /// A pushed authorization request, opened by a person who is logged in.
    Page { username: String, cookies: std::collections::BTreeMap<String, String>, query: Vec<(String, String)> },
}

/// A thing of one use.
#[derive(Debug, Clone)]
pub struct Once {
    /// What the journal calls it.
    pub id: String,
    pub how: Use,
    /// The path at the gateway for what it gives.
    pub path: &'static str,
    /// What it hangs on, and since when.
    pub tags: Vec<Tag>,
    pub asked: u64,
    pub given: u64,
    /// Seconds since the epoch; after it, it may be refused for its age.
    pub until: i64,
    /// A second use ends these, and may be told so.
    pub ends: Vec<Tag>,
    /// Events that tell of its use.
    pub tells: Vec<String>,
}

impl Once {
    fn ask(&self, node: &Node) -> Heard {
        match &self.how {
            Use::Form { who, form, dpop } => {
                let pairs: Vec<(&str, &str)> = form.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let url = node.url("/token");
                let request = who.map_or_else(|| client().post(&url).form(&pairs), |who| who.post(&url, &pairs));
                // A proof names the issuer's address, whichever node is asked (RFC 9449 §4.3).
                let host = node.issuer.split("://").nth(1).unwrap_or_default();
                Heard::of(dpop.iter().fold(request, |r, proof| r.header("dpop", proof).header("host", host)).try_go())
            }
            Use::Page { username, cookies, query } => {
                let url = url::Url::parse_with_params(&node.url("/authorize"), query).expect("a URL");
                match Person::with(username, cookies).open(url.as_str()) {
                    End::Away(got) if got.contains_key("code") => Heard::Yes(nothing(302)),
                    End::Away(got) => Heard::No(crate::kit::Answer { body: format!("{got:?}").into_bytes(), ..nothing(302) }),
                    End::Page(page) if page.status() < 500 => Heard::No(page.answer),
                    End::Page(page) => Heard::Perhaps(format!("{}", page.status())),
                    End::Broken(why) => Heard::Perhaps(why),
                }
            }
        }
    }

    /// Uses it (again), writes down what came of it, and says whether it won.
    pub fn try_again(&mut self, journal: &Journal, node: &Node) -> Option<Given> {
        let (surely, maybe) = journal.used(&self.id);
        if surely {
            let deed = self.ends.iter().fold(Deed::new("replay"), |deed, tag| deed.ends(tag.clone()));
            let deed = self.ends.iter().filter_map(|tag| tag.strip_prefix("grant:")).fold(deed, |deed, grant| {
                ["code.replayed", "refresh.reused", "grant.ended"].iter().fold(deed, |deed, kind| deed.may(format!("{kind} {grant}")))
            });
            let ticket = journal.ask(deed);
            match self.ask(node) {
                Heard::Yes(answer) => {
                    journal.violation(&format!("used twice: {} (acknowledged before, and again: {})", self.id, answer.status));
                    journal.done(ticket, vec![], vec![]);
                }
                // Too fast a poll and a second use look alike (RFC 8628 §3.5): whether it ended anything is seen later.
                Heard::No(answer) if self.id.starts_with("device:") => journal.unsure(ticket, &answer.status.to_string()),
                Heard::No(_) => journal.done(ticket, vec![], vec![]),
                Heard::Unsent(why) => journal.refused(ticket, &why),
                Heard::Perhaps(why) => journal.unsure(ticket, &why),
            }
            return None;
        }
        let deed = self.tells.iter().fold(Deed::new("use").spends(self.id.clone()), |deed, event| deed.tells(event.clone()));
        let ticket = journal.ask(deed);
        match self.ask(node) {
            Heard::Yes(answer) => {
                let given = Given::read(&answer, self.path);
                let mut tells = given.tells.clone();
                if let Some(grant) = given.grant.as_ref().filter(|_| self.id.starts_with("code:")) {
                    tells.extend([format!("code.issued {grant}"), format!("grant.started {grant}")]);
                }
                journal.done(ticket, given.things.clone(), tells);
                // What it gave ends when it comes again.
                if self.ends.is_empty() {
                    self.ends.extend(given.grant.as_ref().map(|grant| format!("grant:{grant}")));
                }
                Some(given)
            }
            Heard::No(answer) => {
                journal.refused(ticket, &format!("{}", answer.status));
                let fresh = !maybe && now() < self.until && journal.standing(&self.tags, self.asked, self.given) == Standing::Alive;
                if fresh {
                    journal.violation(&format!(
                        "lost: {} was acknowledged and never used, and is refused: {}",
                        self.id,
                        words(&Heard::No(answer))
                    ));
                } else if maybe && !self.ends.is_empty() {
                    // The use nobody answered has happened, and this was the second.
                    let ended = self.ends.iter().fold(Deed::new("ended by reuse"), |deed, tag| deed.ends(tag.clone()));
                    let told = self.ends.iter().filter_map(|tag| tag.strip_prefix("grant:")).fold(ended, |deed, grant| {
                        ["code.replayed", "refresh.reused", "grant.ended"]
                            .iter()
                            .fold(deed, |deed, kind| deed.may(format!("{kind} {grant}")))
                    });
                    let ticket = journal.ask(told);
                    journal.done(ticket, vec![], vec![]);
                }
                None
            }
            Heard::Unsent(why) => {
                journal.refused(ticket, &why);
                None
            }
            Heard::Perhaps(why) => {
                journal.unsure(ticket, &why);
                None
            }
        }
    }
}

fn nothing(status: u16) -> crate::kit::Answer {
    crate::kit::Answer { status, headers: reqwest::header::HeaderMap::new(), body: Vec::new(), took: std::time::Duration::ZERO }
}
