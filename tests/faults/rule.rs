//! What an administrator does beside everybody else's work: objects, ends, people, keys; each deed written down.
use serde_json::json;

use super::hand::Hand;
use super::journal::{Deed, Journal};
use super::node::{Heard, Node};
use crate::kit::http::random;

impl Hand {
    /// Makes, changes or deletes a client or a user.
    pub(super) fn administer(&mut self, journal: &Journal, node: &Node) {
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

    pub(super) fn end_grant(&mut self, journal: &Journal, node: &Node) {
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

    pub(super) fn end_session(&mut self, journal: &Journal, node: &Node) {
        let Some(sid) = self.session.clone() else { return };
        let ticket = journal.ask(Deed::new("end session").ends(format!("session:{sid}")).tells(format!("session.ended {sid}")));
        let heard =
            if self.dice.one_in(2) { node.revoke("session", &sid) } else { node.admin("DELETE", &format!("/sessions/{sid}"), None) };
        self.otherwise(journal, ticket, heard, true);
    }

    /// Everything of a client, or of a person, at once.
    pub(super) fn end_many(&mut self, journal: &Journal, node: &Node) {
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
    pub(super) fn victim(&mut self, journal: &Journal, node: &Node) {
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

    pub(super) fn enable(&self, journal: &Journal, node: &Node) {
        let name = &self.person.username;
        let deed = Deed::new("enable").puts(format!("/users/{name}"), Some(name));
        let ticket = journal.ask(deed.may(format!("user.enabled user/{}", self.subject())));
        let heard = node.admin("POST", &format!("/users/{name}/enable"), None);
        self.otherwise(journal, ticket, heard, true);
    }

    /// Rotates the signing key, or revokes the one that signs. One hand does it, so that nobody else's command counts for it.
    pub(super) fn keys(&mut self, journal: &Journal, node: &Node) {
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
