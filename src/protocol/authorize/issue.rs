//! The change that gives a client its code: a grant, the code, what was allowed, and the events that tell of it (RFC 6749 §4.1.2).
use ledger::{Artefact, ArtefactKind, Change, Consent, EventKind, Grant, NewEvent, Session, Step};
use serde_json::json;
use tokens::{
    Entropy, id,
    secret::{self, MacKey, Plain, SecretKind},
};

use super::Request;
use crate::{
    Client, Settings,
    stored::{Authentication, CodeDocument, GrantDocument},
};

/// Longest life of a code, seconds (CONTRACT §5).
const LONGEST: i64 = 60;

/// Everything a code is made from.
pub struct Issue<'a> {
    /// The checked request.
    pub request: &'a Request,
    /// Who asks.
    pub client: &'a Client,
    /// The person's live session.
    pub session: &'a Session,
    /// What is given, sorted: the requested scope or less.
    pub scope: &'a [String],
    /// What to remember, if the person was asked.
    pub consent: Option<Consent>,
    /// Names and lifetimes.
    pub settings: &'a Settings,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
}

impl Issue<'_> {
    /// The change and the code. Guarded: the session is still live.
    #[must_use]
    pub fn change(self, entropy: &dyn Entropy, mac: &MacKey) -> (Change, Plain) {
        let now = self.now_ms.div_euclid(1000);
        let grant_id = id::text(&id::new_id(self.now_ms, entropy));
        let code = secret::generate(SecretKind::Code, self.now_ms, entropy, mac);
        let scope = self.scope.join(" ");
        let event = |kind| {
            NewEvent::new(kind, self.now_ms)
                .subject(&self.session.subject)
                .client(&self.client.client_id)
                .grant(&grant_id)
                .session(&self.session.id)
        };
        let mut change = Change::new()
            .step(Step::SessionLive { id: self.session.id.clone(), now })
            .step(Step::StartGrant(self.grant(&grant_id, &scope, now)))
            .step(Step::Put(Artefact {
                kind: ArtefactKind::Code,
                id: code.id.to_vec(),
                mac: code.mac.to_vec(),
                grant: Some(grant_id.clone()),
                document: json!(self.document(&scope)).to_string(),
                created_at: now,
                expires_at: now + self.settings.code_ttl.clamp(1, LONGEST),
                consumed_at: None,
                successor: None,
                seq: 0,
            }));
        if let Some(consent) = &self.consent {
            change = change
                .step(Step::PutConsent(consent.clone()))
                .event(event(EventKind::ConsentGranted).with("scope", consent.scopes.join(" ")));
        }
        let change = change
            .event(event(EventKind::GrantStarted).with("scope", scope.as_str()).with("resource", self.request.resource.as_str()))
            .event(event(EventKind::CodeIssued));
        (change, code.plain)
    }

    fn grant(&self, id: &str, scope: &str, now: i64) -> Grant {
        let document = GrantDocument {
            resource: self.request.resource.clone(),
            authentication: self.authentication(),
            claims: self.request.claims.clone(),
            details: None,
        };
        Grant {
            id: id.to_owned(),
            subject: self.session.subject.clone(),
            client_id: self.client.client_id.clone(),
            session: Some(self.session.id.clone()),
            scope: scope.to_owned(),
            document: json!(document),
            created_at: now,
            // A little longer than the code: redeeming it prolongs the grant, a code nobody wanted leaves nothing behind.
            expires_at: now + 2 * LONGEST,
            ended_at: None,
        }
    }

    fn authentication(&self) -> Authentication {
        Authentication { auth_time: self.session.auth_time, acr: None, amr: self.session.amr.clone() }
    }

    fn document(&self, scope: &str) -> CodeDocument {
        CodeDocument {
            client_id: self.client.client_id.clone(),
            redirect_uri: self.request.back.address.as_str().to_owned(),
            code_challenge: self.request.code_challenge.clone(),
            nonce: self.request.nonce.clone(),
            subject: self.session.subject.clone(),
            session: Some(self.session.id.clone()),
            scope: scope.to_owned(),
            resource: self.request.resource.clone(),
            authentication: self.authentication(),
            claims: self.request.claims.clone(),
            dpop_jkt: None,
            details: None,
        }
    }
}
