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
    n: usize,
    dice: Dice,
    cast: std::sync::Arc<Cast>,
    person: Person,
    /// The session it is in, and where in the journal that began and was known.
    session: Option<String>,
    since: (u64, u64),
    /// It has consented to the public client.
    consented: bool,
    chains: Vec<Chain>,
    tokens: Vec<(Id, String)>,
    grants: Vec<String>,
    objects: Vec<(String, String)>,
    pub once: Vec<Once>,
    holder: Holder,
    made: usize,
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

    fn machine(&mut self, journal: &Journal, node: &Node) {
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
    fn otherwise(&self, journal: &Journal, ticket: super::journal::Ticket, heard: Heard, strict: bool) {
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

    fn subject(&self) -> String {
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
        once.tags.push(format!("subject:{}", self.subject()));
        once.tags.extend(self.session.iter().map(|sid| format!("session:{sid}")));
        once.asked = before;
        if self.person.logins > logins || self.session.is_none() {
            once.until = 0;
        }
        if self.dice.one_in(2) {
            once.try_again(journal, node);
        }
        self.once.push(once);
    }

    /// Makes, changes or deletes a client or a user.
    fn administer(&mut self, journal: &Journal, node: &Node) {
        self.made += 1;
        let value = format!("v{}", self.made);
        let doing = if self.objects.is_empty() { 0 } else { self.dice.weighed(&[3, 4, 2]) };
        if doing == 0 {
            let name = format!("h{}-{}-{}", self.n, self.made, &random()[..6]);
            let (path, body, client) = if self.dice.one_in(3) {
                ("/users", json!({"username": name, "name": value}), false)
            } else {
                let body = json!({"client_id": name, "client_name": value, "grant_types": ["client_credentials"], "scope": "read",
                    "token_endpoint_auth_method": "client_secret_basic", "allowed_resources": [crate::kit::seed::API]});
                ("/clients", body, true)
            };
            let at = format!("{path}/{name}");
            let deed = Deed::new("create").puts(at.clone(), Some(&value));
            let deed = if client { deed.tells(format!("object.created client/{name}")) } else { deed };
            let ticket = journal.ask(deed);
            match node.admin("POST", path, Some(&body)) {
                Heard::Yes(answer) => {
                    let id = if client { name } else { answer.json()["id"].as_str().unwrap_or_default().to_owned() };
                    let kind = if client { "client" } else { "user" };
                    journal.done(ticket, vec![], if client { vec![] } else { vec![format!("object.created user/{id}")] });
                    self.objects.push((at, format!("{kind}/{id}")));
                }
                heard => self.otherwise(journal, ticket, heard, true),
            }
            return;
        }
        let n = self.dice.below(self.objects.len());
        let (at, event) = self.objects[n].clone();
        if doing == 1 {
            let body = if at.starts_with("/clients") { json!({"client_name": value}) } else { json!({"name": value}) };
            let ticket = journal.ask(Deed::new("change").puts(at.clone(), Some(&value)).tells(format!("object.replaced {event}")));
            let heard = node.admin("PATCH", &at, Some(&body));
            self.otherwise(journal, ticket, heard, true);
        } else {
            self.objects.swap_remove(n);
            let ticket = journal.ask(Deed::new("delete").puts(at.clone(), None).tells(format!("object.deleted {event}")));
            let heard = node.admin("DELETE", &at, None);
            self.otherwise(journal, ticket, heard, true);
        }
    }

    fn end_grant(&mut self, journal: &Journal, node: &Node) {
        if self.grants.is_empty() {
            return;
        }
        let grant = self.grants.swap_remove(self.dice.below(self.grants.len()));
        let deed = Deed::new("end grant").ends(format!("grant:{grant}")).tells(format!("grant.ended {grant}"));
        let ticket = journal.ask(deed);
        let heard =
            if self.dice.one_in(2) { node.revoke("grant", &grant) } else { node.admin("DELETE", &format!("/grants/{grant}"), None) };
        self.otherwise(journal, ticket, heard, true);
    }

    fn end_session(&mut self, journal: &Journal, node: &Node) {
        let Some(sid) = self.session.clone() else { return };
        let ticket = journal.ask(Deed::new("end session").ends(format!("session:{sid}")).tells(format!("session.ended {sid}")));
        let heard =
            if self.dice.one_in(2) { node.revoke("session", &sid) } else { node.admin("DELETE", &format!("/sessions/{sid}"), None) };
        self.otherwise(journal, ticket, heard, true);
    }

    /// Everything of a client, or of a person, at once.
    fn end_many(&mut self, journal: &Journal, node: &Node) {
        let (kind, id) = if self.dice.one_in(3) {
            ("subject", self.subject())
        } else {
            ("client", self.cast.machines[self.dice.below(self.cast.machines.len())].id.to_owned())
        };
        let ticket = journal.ask(Deed::new("end many").ends(format!("{kind}:{id}")).tells(format!("{kind}.revoked {id}")));
        let heard = node.revoke(kind, &id);
        self.otherwise(journal, ticket, heard, true);
    }

    /// Its person is disabled, and enabled again: nothing they had before comes back.
    fn victim(&mut self, journal: &Journal, node: &Node) {
        let (name, subject) = (self.person.username.clone(), self.subject());
        let deed = Deed::new("disable").puts(format!("/users/{name}"), Some("disabled")).ends(format!("subject:{subject}"));
        let ticket = journal.ask(deed.tells(format!("user.disabled user/{subject}")).tells(format!("subject.revoked {subject}")));
        let heard = node.admin("POST", &format!("/users/{name}/disable"), None);
        let done = matches!(heard, Heard::Yes(_));
        self.otherwise(journal, ticket, heard, true);
        if done {
            if self.person.clone().logged_in(node) == Some(true) {
                journal.violation(&format!("{name} was disabled, that was answered, and is logged in"));
            }
            self.enable(journal, node);
        }
    }

    fn enable(&self, journal: &Journal, node: &Node) {
        let name = &self.person.username;
        let deed = Deed::new("enable").puts(format!("/users/{name}"), Some(name));
        let ticket = journal.ask(deed.may(format!("user.enabled user/{}", self.subject())));
        let heard = node.admin("POST", &format!("/users/{name}/enable"), None);
        self.otherwise(journal, ticket, heard, true);
    }

    /// Rotates the signing key, or revokes the one that signs. One hand does it, so that nobody else's command counts for it.
    fn keys(&mut self, journal: &Journal, node: &Node) {
        if self.n != 0 {
            return self.machine(journal, node);
        }
        let current = |keys: &serde_json::Value| {
            let all = keys["items"].as_array().or_else(|| keys["keys"].as_array()).or_else(|| keys.as_array());
            let mut found = all.into_iter().flatten().filter(|key| key["alg"] == "ES256" && key["state"] == "current");
            found.find_map(|key| key["kid"].as_str().map(str::to_owned))
        };
        if self.alone && self.dice.one_in(4) {
            let Some(kid) = node.read("/keys").flatten().as_ref().and_then(current) else { return };
            let ticket = journal.ask(Deed::new("revoke key").ends(format!("key:{kid}")).tells(format!("key.revoked {kid}")));
            let heard = node.admin("POST", &format!("/keys/{kid}/revoke"), Some(&json!({"reason": "rehearsal"})));
            self.otherwise(journal, ticket, heard, true);
            return;
        }
        let ticket = journal.ask(Deed::new("rotate"));
        match node.admin("POST", "/keys/rotate", Some(&json!({"alg": "ES256"}))) {
            Heard::Yes(answer) => {
                let kid = current(&answer.json());
                journal.done(ticket, vec![], kid.iter().map(|kid| format!("key.activated {kid}")).collect());
            }
            heard => self.otherwise(journal, ticket, heard, true),
        }
    }
}

/// The `jti` of a JWT.
fn jti(text: &str) -> Option<String> {
    text.starts_with("eyJ").then(|| crate::kit::http::claims(text)["jti"].as_str().map(str::to_owned)).flatten()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
