//! Ledger events as security event tokens (RFC 8417; CAEP §3; SSF §4).
use accounts::User;
use ledger::{Event, EventKind};
use serde_json::{Map, Value, json};
use tokens::{Alg, keyring::KeyRing};

use super::{CREDENTIAL_CHANGE, SESSION_REVOKED, STREAM_UPDATED, TOKEN_CLAIMS_CHANGE, VERIFICATION, stream::Stream, subject};
use crate::{OAuthError, Settings};

/// The type of security event tokens (RFC 8417 §2.3).
pub const TYP: &str = "secevent+jwt";

/// A ledger event that receivers may want to hear of.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Its place in the ledger.
    pub position: u64,
    /// What it is, in CAEP's words.
    pub kind: &'static str,
    /// The person it is about, if it is about one.
    pub person: Option<String>,
    sub_id: Value,
    body: Map<String, Value>,
}

impl Signal {
    /// What an event of the ledger says to others; nothing if it is nobody else's business.
    #[must_use]
    pub fn of(event: &Event, issuer: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(&event.document).ok()?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let data = |name: &str| document.pointer(&format!("/data/{name}")).and_then(Value::as_str);
        let person = text("sub").map(str::to_owned);
        let mut body = Map::new();
        let (kind, sub_id) = match EventKind::parse(&event.kind)? {
            EventKind::SessionEnded => (SESSION_REVOKED, subject::session(issuer, text("sub"), text("session")?)),
            EventKind::SubjectRevoked | EventKind::UserDisabled => (SESSION_REVOKED, subject::person(issuer, text("sub")?)),
            // What hangs on a session is told with it.
            EventKind::GrantEnded if data("reason") == Some("session") => return None,
            EventKind::GrantEnded => (SESSION_REVOKED, subject::grant(issuer, text("sub")?, text("client_id")?)),
            EventKind::TokenRevoked => (SESSION_REVOKED, subject::token(issuer, data("jti")?)),
            EventKind::PasswordChanged => {
                body.insert("credential_type".into(), "password".into());
                body.insert("change_type".into(), "update".into());
                (CREDENTIAL_CHANGE, subject::person(issuer, text("sub")?))
            }
            EventKind::SecretRotated if data("object") == Some("user") && data("slot").is_some_and(|s| s == "totp") => {
                let removed = document.pointer("/data/removed").and_then(Value::as_bool) == Some(true);
                body.insert("credential_type".into(), "app".into());
                body.insert("change_type".into(), if removed { "delete" } else { "create" }.into());
                (CREDENTIAL_CHANGE, subject::person(issuer, text("sub").or_else(|| data("id"))?))
            }
            EventKind::ObjectReplaced if data("object") == Some("user") => (TOKEN_CLAIMS_CHANGE, subject::person(issuer, data("id")?)),
            _ => return None,
        };
        let person = person.or_else(|| data("id").filter(|_| data("object") == Some("user")).map(str::to_owned));
        let initiator = match (data("reason"), data("actor")) {
            (Some("logout" | "person"), _) => "user",
            (_, Some(_)) => "admin",
            _ => "system",
        };
        body.insert("event_timestamp".into(), event.at_ms.div_euclid(1000).into());
        body.insert("initiating_entity".into(), initiator.into());
        Some(Self { position: event.seq, kind, person, sub_id, body })
    }

    /// Whether the receiver has to be told the person's claims (as they are by now).
    #[must_use]
    pub fn wants_claims(&self) -> bool {
        self.kind == TOKEN_CLAIMS_CHANGE
    }

    /// Adds the person's claims as they are by now.
    pub fn tell_claims(&mut self, user: Option<&User>) {
        let (roles, groups) = user.map_or((&[][..], &[][..]), |u| (&u.roles[..], &u.groups[..]));
        self.body.insert("claims".into(), json!({"roles": roles, "groups": groups}));
    }

    /// The token for one receiver.
    ///
    /// # Errors
    /// `server_error` without a key.
    pub fn token(&self, stream: &Stream, settings: &Settings, keys: &KeyRing, now: i64) -> Result<(String, String), OAuthError> {
        let jti = stream.jti(self.position);
        let token = sign(
            settings,
            keys,
            &json!({
                "iss": settings.issuer, "aud": stream.aud, "iat": now, "jti": jti,
                "sub_id": self.sub_id, "events": { self.kind: self.body },
            }),
        )?;
        Ok((jti, token))
    }
}

/// The token that proves a stream (SSF §8.1.4).
///
/// # Errors
/// `server_error` without a key.
pub fn verification(
    stream: &Stream,
    jti: &str,
    state: Option<&str>,
    settings: &Settings,
    keys: &KeyRing,
    now: i64,
) -> Result<String, OAuthError> {
    let mut body = Map::new();
    if let Some(state) = state {
        body.insert("state".into(), state.into());
    }
    sign(
        settings,
        keys,
        &json!({
            "iss": settings.issuer, "aud": stream.aud, "iat": now, "jti": jti,
            "sub_id": {"format": "opaque", "id": stream.id}, "events": { VERIFICATION: body },
        }),
    )
}

/// The token that tells of a stream's new status (SSF §8.1.5).
///
/// # Errors
/// `server_error` without a key.
pub fn updated(stream: &Stream, jti: &str, settings: &Settings, keys: &KeyRing, now: i64) -> Result<String, OAuthError> {
    let mut body = Map::new();
    body.insert("status".into(), json!(stream.status));
    if let Some(reason) = &stream.reason {
        body.insert("reason".into(), reason.as_str().into());
    }
    sign(
        settings,
        keys,
        &json!({
            "iss": settings.issuer, "aud": stream.aud, "iat": now, "jti": jti,
            "sub_id": {"format": "opaque", "id": stream.id}, "events": { STREAM_UPDATED: body },
        }),
    )
}

/// RS256: what the CAEP interoperability profile has every receiver understand.
fn sign(settings: &Settings, keys: &KeyRing, claims: &Value) -> Result<String, OAuthError> {
    let key = keys.signing(Alg::RS256).ok_or_else(|| OAuthError::fault(format!("no key of {} signs RS256", settings.issuer)))?;
    key.sign_jwt(TYP, claims).map_err(|e| OAuthError::fault(e.to_string()))
}

#[cfg(test)]
mod tests {
    use ledger::NewEvent;

    use super::*;

    fn signal(event: &NewEvent) -> Option<Signal> {
        let stored = Event { seq: 7, at_ms: event.at_ms, kind: event.kind.as_str().into(), document: event.document(), hash: [0; 32] };
        Signal::of(&stored, "https://i")
    }

    #[test]
    fn what_ends_is_told_as_revoked_and_what_hangs_on_it_is_not_told_twice() {
        let ended = signal(&NewEvent::new(EventKind::SessionEnded, 5_000).subject("a").session("s").with("reason", "logout")).unwrap();
        assert_eq!((ended.kind, ended.position, ended.person.as_deref()), (SESSION_REVOKED, 7, Some("a")));
        assert_eq!(ended.sub_id["session"]["id"], "s");
        assert_eq!((&ended.body["event_timestamp"], &ended.body["initiating_entity"]), (&json!(5), &json!("user")));
        let told = NewEvent::new(EventKind::GrantEnded, 0).subject("a").client("c").grant("g");
        assert!(signal(&told.clone().with("reason", "session")).is_none());
        assert_eq!(signal(&told).unwrap().sub_id["application"]["id"], "c");
        assert_eq!(signal(&NewEvent::new(EventKind::TokenRevoked, 0).with("jti", "j")).unwrap().sub_id["jti"], "j");
    }

    #[test]
    fn credentials_and_claims_have_words_of_their_own_and_the_rest_is_nobodys_business() {
        let password = signal(&NewEvent::new(EventKind::PasswordChanged, 0).subject("a")).unwrap();
        assert_eq!((password.kind, &password.body["credential_type"]), (CREDENTIAL_CHANGE, &json!("password")));
        let mut claims = signal(&NewEvent::new(EventKind::ObjectReplaced, 0).with("object", "user").with("id", "a")).unwrap();
        assert!(claims.wants_claims());
        claims.tell_claims(Some(&User { roles: vec!["viewer".into()], ..User::default() }));
        assert_eq!(claims.body["claims"]["roles"], json!(["viewer"]));
        for other in [
            NewEvent::new(EventKind::TokenIssued, 0).subject("a"),
            NewEvent::new(EventKind::ObjectReplaced, 0).with("object", "client").with("id", "c"),
        ] {
            assert!(signal(&other).is_none());
        }
    }
}
