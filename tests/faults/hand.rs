//! One worker: does at random what clients, people and administrators do, writes down each deed, and goes on after a crash.
use serde_json::json;

use super::journal::{Deed, Journal, Kind, Standing, Thing, later};
use super::judge::words;
use super::node::{Heard, Node};
use super::once::{Once, Use};
use super::person::{End, Person};
use super::plan::Dice;
use super::tokens::Given;
use super::world::Cast;
use crate::kit::Ask;
use crate::kit::apart::{DEVICE_CODE, TV};
use crate::kit::dpop::Holder;
use crate::kit::http::{now, random};
use crate::kit::seed::{APP, HOME, Id};

/// What a hand may do, how often, and whether it suits several nodes.
type Turn = fn(&mut Hand, &Journal, &Node);
const TURNS: [(usize, Turn); 16] = [
    (16, Hand::machine),
    (7, Hand::give_back),
    (20, Hand::refresh),
    (8, Hand::enter),
    (2, Hand::keep_code),
    (3, Hand::replay),
    (5, Hand::assert),
    (4, Hand::prove),
    (2, Hand::push),
    (2, Hand::device),
    (8, Hand::administer),
    (3, Hand::end_grant),
    (1, Hand::end_session),
    (1, Hand::end_many),
    (2, Hand::victim),
    (2, Hand::keys),
];

/// A refresh token in use.
struct Chain {
    held: Once,
    spent: Option<Once>,
}

/// A worker.
pub struct Hand {
    pub(super) n: usize,
    pub(super) dice: Dice,
    pub(super) cast: std::sync::Arc<Cast>,
    pub(super) person: Person,
    /// The session it is in, and where in the journal that began and was known.
    pub(super) session: Option<String>,
    pub(super) since: (u64, u64),
    /// It has consented to the public client.
    pub(super) consented: bool,
    chains: Vec<Chain>,
    pub(super) tokens: Vec<(Id, String)>,
    pub(super) grants: Vec<String>,
    pub(super) objects: Vec<(String, String)>,
    pub once: Vec<Once>,
    pub(super) holder: Holder,
    pub(super) made: usize,
    /// Only one node: keys may be revoked too.
    pub alone: bool,
}

impl Hand {
    pub fn new(n: usize, dice: Dice, cast: std::sync::Arc<Cast>) -> Self {
        let person = Person::new(cast.people[n % cast.people.len()]);
        Self {
            n,
            dice,
            cast,
            person,
            session: None,
            since: (0, 0),
            consented: false,
            chains: Vec::new(),
            tokens: Vec::new(),
            grants: Vec::new(),
            objects: Vec::new(),
            once: Vec::new(),
            holder: Holder::new(),
            made: 0,
            alone: true,
        }
    }

    /// The plan of the next round, whatever became of the last.
    pub fn replan(&mut self, dice: Dice) {
        self.dice = dice;
    }

    /// One thing to do.
    pub fn turn(&mut self, journal: &Journal, node: &Node) {
        let weights: Vec<usize> = TURNS.iter().map(|(weight, _)| *weight).collect();
        let (_, turn) = TURNS[self.dice.weighed(&weights)];
        turn(self, journal, node);
    }

    /// Every chain goes on, if it has to; what was done with it before is refused.
    pub fn examine(&mut self, journal: &Journal, node: &Node) {
        for at in (0..self.chains.len()).rev() {
            self.go_on(at, journal, node);
        }
        if self.dice.one_in(2) {
            self.replay(journal, node);
        }
    }

    pub(super) fn machine(&mut self, journal: &Journal, node: &Node) {
        let opaque = self.dice.one_in(3);
        let list = if opaque { &self.cast.opaque } else { &self.cast.machines };
        let who = list[self.dice.below(list.len())];
        let ticket = journal.ask(Deed::new("client credentials"));
        match node.post("/token", &who, &[("grant_type", "client_credentials")]) {
            Heard::Yes(answer) => {
                let given = Given::read(&answer, if opaque { "/vault/x" } else { "/api/x" }).tagged(&format!("client:{}", who.id));
                self.tokens.extend(given.things.iter().map(|thing| (who, thing.text.clone())));
                journal.done(ticket, given.things, given.tells);
            }
            heard => self.otherwise(journal, ticket, heard, true),
        }
    }

    /// `strict`: nothing that was asked for here may be refused.
    pub(super) fn otherwise(&self, journal: &Journal, ticket: super::journal::Ticket, heard: Heard, strict: bool) {
        match heard {
            Heard::Yes(_) => journal.done(ticket, vec![], vec![]),
            Heard::No(answer) => {
                journal.refused(ticket, &format!("{}", answer.status));
                // 429 is a limit of a source, and all hands are one source.
                if strict && answer.status != 429 {
                    journal.violation(&format!("a good request of hand {} was refused: {}", self.n, words(&Heard::No(answer))));
                }
            }
            Heard::Unsent(why) => {
                journal.refused(ticket, &why);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Heard::Perhaps(why) => {
                journal.unsure(ticket, &why);
                if why.starts_with("500") {
                    journal.violation(&format!("hand {} was answered {why}", self.n));
                }
            }
        }
    }

    /// A client gives a token of its own back, and looks at once whether it is dead.
    fn give_back(&mut self, journal: &Journal, node: &Node) {
        if self.tokens.is_empty() {
            return self.machine(journal, node);
        }
        let (who, token) = self.tokens.swap_remove(self.dice.below(self.tokens.len()));
        let deed = Deed::new("revoke token").ends(format!("token:{token}"));
        let deed = match jti(&token) {
            Some(jti) => deed.may(format!("token.revoked {jti}")),
            None => deed,
        };
        let ticket = journal.ask(deed);
        let heard = node.post("/revoke", &who, &[("token", &token)]);
        let done = matches!(heard, Heard::Yes(_));
        self.otherwise(journal, ticket, heard, true);
        if done
            && let Some(said) = node.introspect(&token)
            && said["active"] == true
        {
            journal.violation(&format!("revoked and answered, and introspection says at once {said}"));
        }
    }

    /// A code for this person, through login and consent as far as they are asked.
    fn code(&mut self, who: &Id, journal: &Journal, node: &Node) -> Option<Once> {
        let ask = Ask::new(who);
        let before = journal.position();
        let ticket = journal.ask(Deed::new("authorize"));
        let (logins, consents) = (self.person.logins, self.person.consents);
        match self.person.walk(node, &ask) {
            End::Away(got) if got.contains_key("code") => {
                journal.done(ticket, vec![], vec![]);
                if self.person.logins > logins {
                    let standing = self.session.as_ref().map(|sid| journal.standing(&self.session_tags(sid), self.since.0, self.since.1));
                    if standing == Some(Standing::Alive) {
                        journal.violation(&format!(
                            "lost: session {:?} of {} was alive, and the login page came",
                            self.session, self.person.username
                        ));
                    }
                    self.session = None;
                }
                if who.id == APP.id {
                    if self.person.consents > consents && self.consented {
                        journal.violation(&format!("lost: {} has consented to {}, and is asked again", self.person.username, who.id));
                    }
                    self.consented = true;
                }
                let mut tags = vec![format!("client:{}", who.id), format!("subject:{}", self.subject())];
                tags.extend(self.session.iter().map(|sid| format!("session:{sid}")));
                let form = [
                    ("grant_type", "authorization_code"),
                    ("code", &got["code"]),
                    ("redirect_uri", who.redirect),
                    ("code_verifier", &ask.verifier),
                ];
                Some(Once {
                    id: format!("code:{}", got["code"]),
                    how: Use::Form { who: Some(*who), form: owned(&form), dpop: None },
                    path: "/api/x",
                    tags,
                    asked: before,
                    given: journal.position(),
                    // Of a session that is not known yet nobody knows the end.
                    until: if self.session.is_some() { later(45) } else { 0 },
                    ends: vec![],
                    tells: vec![],
                })
            }
            End::Away(got) => {
                journal.refused(ticket, &format!("{got:?}"));
                None
            }
            End::Page(page) => {
                journal.refused(ticket, &format!("{} {}", page.status(), page.kind()));
                if page.kind() == "login" {
                    // Perhaps they are disabled still: nobody heard what became of that.
                    self.enable(journal, node);
                }
                None
            }
            End::Broken(why) => {
                journal.unsure(ticket, &why);
                None
            }
        }
    }

    pub(super) fn subject(&self) -> String {
        self.cast.subjects.get(&self.person.username).cloned().unwrap_or_default()
    }

    fn session_tags(&self, sid: &str) -> Vec<String> {
        vec![format!("session:{sid}"), format!("subject:{}", self.subject())]
    }

    /// What a person's redemption gave: a chain, a grant, perhaps a session that was not known.
    fn keep(&mut self, mut code: Once, given: &Given, journal: &Journal, node: &Node) {
        let Some(grant) = given.grant.clone() else { return };
        let ticket = journal.ask(Deed::new("learn"));
        let mut things = vec![Thing { kind: Kind::Grant, text: grant.clone(), tags: given.tags.clone(), until: later(3600) }];
        let mut tells = Vec::new();
        if let Some(sid) = given.session.clone().filter(|sid| self.session.as_ref() != Some(sid)) {
            let cookies = self.person.cookies.clone();
            let tags = self.session_tags(&sid);
            things.push(Thing {
                kind: Kind::Session { username: self.person.username.clone(), cookies },
                text: sid.clone(),
                tags,
                until: later(3600),
            });
            tells.push(format!("session.started {sid}"));
            self.session = Some(sid);
            self.since = (code.asked, journal.position());
        }
        // They are as old as what they hang on: an end beside that leaves them open too.
        journal.done_since(ticket, code.asked, things, tells);
        code.ends = vec![format!("grant:{grant}")];
        if let Some(refresh) = given.refresh.as_ref().filter(|_| given.tags.iter().any(|tag| tag == "client:app")) {
            let held = self.successor(&code, refresh, given, journal);
            self.chains.push(Chain { held, spent: None });
            if self.chains.len() > 4 {
                let gone = self.chains.remove(0);
                self.once.push(gone.held);
            }
        }
        self.grants.push(grant);
        if self.dice.one_in(6) {
            code.try_again(journal, node);
        } else if self.dice.one_in(3) {
            self.once.push(code);
        }
    }

    fn successor(&self, before: &Once, refresh: &str, given: &Given, journal: &Journal) -> Once {
        let who = match &before.how {
            Use::Form { who, .. } => *who,
            Use::Page { .. } => None,
        };
        let grant = given.grant.clone().unwrap_or_default();
        Once {
            id: format!("refresh:{refresh}"),
            how: Use::Form { who, form: owned(&[("grant_type", "refresh_token"), ("refresh_token", refresh)]), dpop: None },
            path: "/api/x",
            tags: given.tags.clone(),
            asked: before.asked,
            given: journal.position(),
            until: later(3600),
            ends: vec![format!("grant:{grant}")],
            tells: vec![format!("token.refreshed {grant}")],
        }
    }

    fn enter(&mut self, journal: &Journal, node: &Node) {
        let who = if self.dice.one_in(3) { HOME } else { APP };
        if let Some(code) = self.code(&who, journal, node) {
            self.redeem(code, journal, node);
        }
    }

    fn redeem(&mut self, mut code: Once, journal: &Journal, node: &Node) {
        match code.try_again(journal, node) {
            Some(given) => self.keep(code, &given, journal, node),
            // Perhaps it was used: the judge tries it again.
            None => self.once.push(code),
        }
    }

    fn keep_code(&mut self, journal: &Journal, node: &Node) {
        let code = self.code(&HOME, journal, node);
        self.once.extend(code);
    }

    fn refresh(&mut self, journal: &Journal, node: &Node) {
        if self.chains.is_empty() {
            return self.enter(journal, node);
        }
        let at = self.dice.below(self.chains.len());
        self.go_on(at, journal, node);
    }

    fn go_on(&mut self, at: usize, journal: &Journal, node: &Node) {
        let given = self.chains[at].held.try_again(journal, node);
        match given.as_ref().and_then(|given| given.refresh.clone().map(|text| (text, given))) {
            Some((text, given)) => {
                let held = self.successor(&self.chains[at].held, &text, given, journal);
                let chain = &mut self.chains[at];
                chain.spent = Some(std::mem::replace(&mut chain.held, held));
            }
            None => {
                let held = &self.chains[at].held;
                if journal.standing(&held.tags, held.asked, held.given) == Standing::Dead {
                    self.chains.remove(at);
                }
            }
        }
    }

    /// A spent refresh token comes again: refused, and the family ends.
    fn replay(&mut self, journal: &Journal, node: &Node) {
        let spent: Vec<usize> = (0..self.chains.len()).filter(|n| self.chains[*n].spent.is_some()).collect();
        if let Some(at) = self.dice.pick(&spent) {
            let mut chain = self.chains.swap_remove(*at);
            chain.spent.iter_mut().for_each(|spent| drop(spent.try_again(journal, node)));
            // And with it what came after.
            self.once.push(chain.held);
        }
    }

    fn one_use(&self, id: String, how: Use, client: &str, until: i64, journal: &Journal) -> Once {
        let (asked, given) = (journal.position(), journal.position());
        Once { id, how, path: "/api/x", tags: vec![format!("client:{client}")], asked, given, until, ends: vec![], tells: vec![] }
    }

    fn try_twice(&mut self, mut once: Once, journal: &Journal, node: &Node) {
        once.try_again(journal, node);
        if self.dice.one_in(2) {
            once.try_again(journal, node);
        }
        self.once.push(once);
    }

    fn assert(&mut self, journal: &Journal, node: &Node) {
        let (at, jti) = (now(), random());
        let id = "signer";
        let claims = json!({"iss": id, "sub": id, "aud": node.issuer, "jti": jti, "iat": at, "nbf": at, "exp": at + 240});
        let assertion = self.cast.signer.sign(&json!({"alg": "ES256", "kid": self.cast.signer.kid}), &claims);
        let form = owned(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ]);
        let once = self.one_use(format!("assertion:{jti}"), Use::Form { who: None, form, dpop: None }, id, later(200), journal);
        self.try_twice(once, journal, node);
    }

    fn prove(&mut self, journal: &Journal, node: &Node) {
        let who = self.cast.machines[self.dice.below(self.cast.machines.len())];
        let proof = self.holder.proof("POST", &format!("{}/token", node.issuer), None);
        let form = owned(&[("grant_type", "client_credentials")]);
        let once = self.one_use(
            format!("proof:{}", jti(&proof).unwrap_or_default()),
            Use::Form { who: Some(who), form, dpop: Some(proof) },
            who.id,
            // Its age is part of its truth.
            later(5),
            journal,
        );
        self.try_twice(once, journal, node);
    }

    fn push(&mut self, journal: &Journal, node: &Node) {
        if self.session.is_none() {
            return self.enter(journal, node);
        }
        let ask = Ask::new(&HOME);
        let pairs: Vec<(&str, &str)> = ask.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let ticket = journal.ask(Deed::new("push").tells("request.pushed home"));
        match node.post("/par", &HOME, &pairs) {
            Heard::Yes(answer) => {
                journal.done(ticket, vec![], vec![]);
                let uri = answer.json()["request_uri"].as_str().unwrap_or_default().to_owned();
                let query = owned(&[("client_id", HOME.id), ("request_uri", &uri)]);
                let how = Use::Page { username: self.person.username.clone(), cookies: self.person.cookies.clone(), query };
                let mut once = self.one_use(format!("pushed:{uri}"), how, HOME.id, later(45), journal);
                once.tags.extend(self.session.iter().map(|sid| format!("session:{sid}")));
                once.tags.push(format!("subject:{}", self.subject()));
                // It is worth what the session is worth.
                (once.asked, once.given) = self.since;
                if self.dice.one_in(2) {
                    self.try_twice(once, journal, node);
                } else {
                    self.once.push(once);
                }
            }
            heard => self.otherwise(journal, ticket, heard, true),
        }
    }

    fn device(&mut self, journal: &Journal, node: &Node) {
        let ticket = journal.ask(Deed::new("begin a device"));
        let begun = match node.post("/device_authorization", &TV, &[]) {
            Heard::Yes(answer) => answer.json(),
            heard => return self.otherwise(journal, ticket, heard, true),
        };
        journal.done(ticket, vec![], vec![]);
        let (before, logins) = (journal.position(), self.person.logins);
        let ticket = journal.ask(Deed::new("approve a device"));
        let url = begun["verification_uri_complete"].as_str().unwrap_or_default().replace(&node.issuer, &node.url(""));
        let mut at = self.person.on(&url);
        for button in ["device-continue", "device-approve"] {
            at = match at {
                End::Page(page) if page.has(button) => self.person.press(&page, button, &[]),
                other => other,
            };
        }
        match at {
            End::Page(page)
                if page.status() == 200 && !page.has("device-approve") && !page.has("device-continue") && page.kind() == "device" =>
            {
                journal.done(ticket, vec![], vec![]);
            }
            End::Page(page) => return journal.refused(ticket, &format!("{} {}", page.status(), page.kind())),
            End::Away(_) => return journal.refused(ticket, "away"),
            End::Broken(why) => return journal.unsure(ticket, &why),
        }
        let code = begun["device_code"].as_str().unwrap_or_default();
        let form = owned(&[("grant_type", DEVICE_CODE), ("device_code", code)]);
        let mut once = self.one_use(format!("device:{code}"), Use::Form { who: Some(TV), form, dpop: None }, TV.id, later(300), journal);
        if self.person.logins > logins {
            // What comes after this hangs on a session that nobody knows by name yet.
            self.session = None;
        }
        once.tags.push(format!("subject:{}", self.subject()));
        once.tags.extend(self.session.iter().map(|sid| format!("session:{sid}")));
        once.asked = before;
        if self.session.is_none() {
            once.until = 0;
        }
        if self.dice.one_in(2) {
            once.try_again(journal, node);
        }
        self.once.push(once);
    }
}

/// The `jti` of a JWT.
fn jti(text: &str) -> Option<String> {
    text.starts_with("eyJ").then(|| crate::kit::http::claims(text)["jti"].as_str().map(str::to_owned)).flatten()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
