//! Ending and revoking by hand: each a single change that every edge hears of before it is acknowledged.
use ledger::{Change, EventKind, Grant, NewEvent, RevocationKind, Session, Step, Store, StoreError};
use protocol::Settings;
use serde_json::Value;
use tokens::{
    b64,
    secret::{self, MacKey, SecretKind, parse},
};

use crate::state::Actor;

/// When and by whom something is ended.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// Who.
    pub actor: &'a Actor,
    /// Why, in the actor's words.
    pub reason: Option<&'a str>,
}

impl Order<'_> {
    const fn now(&self) -> i64 {
        self.at_ms.div_euclid(1000)
    }
    /// Nothing issued before lives longer than this, seconds since the epoch.
    const fn until(&self) -> i64 {
        self.now() + Settings::MAX_ACCESS_TOKEN_TTL + Settings::LEEWAY
    }
    /// An event of this order.
    #[must_use]
    pub fn event(&self, kind: EventKind) -> NewEvent {
        let event = self.actor.sign(NewEvent::new(kind, self.at_ms));
        match self.reason {
            Some(why) => event.with("reason", why),
            None => event,
        }
    }
    fn revoking(&self, change: Change, kind: RevocationKind, id: &str) -> Change {
        change.revoke(kind, id, self.at_ms, self.until())
    }

    /// Everything of one grant.
    #[must_use]
    pub fn grant(&self, id: &str, known: Option<&Grant>) -> Change {
        let change = Change::new().step(Step::EndGrant { id: id.to_owned(), now: self.now() });
        let mut event = self.event(EventKind::GrantEnded).grant(id);
        if let Some(grant) = known {
            event = event.subject(&grant.subject).client(&grant.client_id);
        }
        self.revoking(change, RevocationKind::Grant, id).event(event)
    }

    /// Everything of one session: itself and the grants that began in it.
    #[must_use]
    pub fn session(&self, id: &str, known: Option<&Session>, grants: &[String]) -> Change {
        let mut change = Change::new().step(Step::EndSession { id: id.to_owned(), now: self.now() });
        for grant in grants {
            change = change.step(Step::EndGrant { id: grant.clone(), now: self.now() });
            change = self.revoking(change, RevocationKind::Grant, grant);
        }
        let mut event = self.event(EventKind::SessionEnded).session(id);
        if let Some(session) = known {
            event = event.subject(&session.subject);
        }
        self.revoking(change, RevocationKind::Session, id).event(event)
    }

    /// Everything of one client.
    #[must_use]
    pub fn client(&self, id: &str) -> Change {
        let change = Change::new().step(Step::EndGrantsOf { subject: None, client_id: Some(id.to_owned()), now: self.now() });
        self.revoking(change, RevocationKind::Client, id).event(self.event(EventKind::ClientRevoked).client(id))
    }

    /// Everything of one subject: sessions, grants, tokens.
    #[must_use]
    pub fn subject(&self, id: &str) -> Change {
        let change = Change::new().step(Step::EndSessionsOf { subject: id.to_owned(), now: self.now() }).step(Step::EndGrantsOf {
            subject: Some(id.to_owned()),
            client_id: None,
            now: self.now(),
        });
        self.revoking(change, RevocationKind::Subject, id).event(self.event(EventKind::SubjectRevoked).subject(id))
    }

    /// One token, by its `jti`.
    #[must_use]
    pub fn token(&self, jti: &str) -> Change {
        self.revoking(Change::new(), RevocationKind::Token, jti).event(self.event(EventKind::TokenRevoked).with("jti", jti))
    }

    /// What is remembered of one API key: whoever needs it asks again. The change needs an event of its own.
    #[must_use]
    pub fn api_key(&self, id: &str) -> Change {
        self.revoking(Change::new(), RevocationKind::Key, &edge::api_key::revocation_id(id))
    }

    /// The end of every API key of an owner.
    #[must_use]
    pub fn keys_of(&self, owner: &edge::api_key::Owner) -> Step {
        Step::EndApiKeysOf { owner: owner.name() }
    }

    /// Everything of one device.
    #[must_use]
    pub fn device(&self, id: &str) -> Change {
        self.revoking(Change::new(), RevocationKind::Device, id).event(self.event(EventKind::DeviceRevoked).with("device", id))
    }
}

/// What a `token` revocation names: a token, or the family a refresh token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A `jti`.
    Token(String),
    /// A grant.
    Grant(String),
    /// It has the form of our own token and is none.
    Nothing,
    /// A JWT that is no access token of this server's.
    Foreign,
}

/// Finds what a given text names: a `jti` as it is, a JWT that `own` knows by its `jti`, an opaque or refresh token by its row.
///
/// # Errors
/// Storage is away.
pub async fn named(text: &str, store: &dyn Store, mac: &MacKey, own: impl Fn(&str) -> Option<String>) -> Result<Named, StoreError> {
    for (prefix, kind, row) in
        [("dwa_", SecretKind::Access, ledger::ArtefactKind::Access), ("dwr_", SecretKind::Refresh, ledger::ArtefactKind::Refresh)]
    {
        if !text.starts_with(prefix) {
            continue;
        }
        let Some(presented) = parse(kind, text, mac) else { return Ok(Named::Nothing) };
        let Some(artefact) = store.artefact(row, &presented.id).await?.filter(|a| presented.matches(&a.mac)) else {
            return Ok(Named::Nothing);
        };
        if kind == SecretKind::Refresh {
            return Ok(artefact.grant.map_or(Named::Nothing, Named::Grant));
        }
        let jti = serde_json::from_str::<Value>(&artefact.document).ok().and_then(|d| d.get("jti")?.as_str().map(str::to_owned));
        return Ok(jti.map_or(Named::Nothing, Named::Token));
    }
    // What is given goes into the ledger: never a code, a secret, a key or a whole token.
    if secret::is_ours(text) {
        return Ok(Named::Nothing);
    }
    // Nor is the id of somebody else's token one of ours: what could not be refused afterwards is not called revoked.
    Ok(match is_jwt(text) {
        true => own(text).map_or(Named::Foreign, Named::Token),
        false => Named::Token(text.to_owned()),
    })
}

/// Whether a text has the form of a JWT: a JSON object in base64url and at least two dots (RFC 7515 §7.1, RFC 7516 §7.1).
fn is_jwt(text: &str) -> bool {
    let header = || b64::decode(text.split('.').next()?).filter(|octets| octets.starts_with(b"{"));
    text.matches('.').count() >= 2 && (text.starts_with("eyJ") || header().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_known_by_its_form() {
        for (text, is) in [("e30.e30.sig", true), ("eyJhbGciOiJub25lIn0.x.", true), ("e30.a.b.c.d", true), ("abc", false), ("a.b.c", false)]
        {
            assert_eq!(is_jwt(text), is, "{text}");
        }
    }

    #[test]
    fn a_session_ends_with_the_grants_that_began_in_it() {
        let actor = Actor::command("test");
        let change = Order { at_ms: 5_000, actor: &actor, reason: Some("lost laptop") }.session("s", None, &["g".to_owned()]);
        assert!(change.steps.contains(&Step::EndSession { id: "s".into(), now: 5 }));
        assert!(change.steps.contains(&Step::EndGrant { id: "g".into(), now: 5 }));
        let revoked: Vec<_> =
            change.steps.iter().filter_map(|s| if let Step::Revoke(r) = s { Some((r.kind, r.id.as_str())) } else { None }).collect();
        assert_eq!(revoked, [(RevocationKind::Grant, "g"), (RevocationKind::Session, "s")]);
        assert_eq!(change.events[0].data["actor"], "test");
        assert_eq!(change.events[0].data["reason"], "lost laptop");
    }
}
