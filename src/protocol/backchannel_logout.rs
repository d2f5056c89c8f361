//! Back-channel logout: a client hears from the server itself that a session has ended (OpenID Connect Back-Channel Logout 1.0).
//!
//! Whoever is given an identity in a session leaves a [`Participant`] behind. It outlives the session; when that has ended, for
//! whatever reason, the participant is told, and only then forgotten.
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, Session, Step};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::{hash, id};

use crate::{Client, OAuthError, Settings, id_token, issue::Context, pairwise};

/// The type of a logout token (§2.4).
pub const TYP: &str = "logout+jwt";
/// The event it tells of (§2.4).
pub const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Seconds a logout token is good for (§2.4 recommends two minutes at most).
pub const TTL: i64 = 120;
/// Seconds to wait after each failed try; after the last there is none.
const WAITS: [i64; 5] = [2, 8, 30, 60, 180];
/// A participant is kept at least this much longer than its session may live: that may be prolonged.
const KEPT_LONGER: i64 = 3600;

/// The document of an [`ArtefactKind::Participant`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// Who was told of the session.
    pub client_id: String,
    /// Whose session it is.
    pub subject: String,
    /// How often it was tried to tell the end.
    #[serde(default)]
    pub tries: u32,
}

/// Whether a client wants to hear of the end of a session at all.
#[must_use]
pub const fn listens(client: &Client) -> bool {
    client.backchannel_logout_uri.is_some() || client.frontchannel_logout_uri.is_some()
}

/// The step that notes that a client takes part in a session, if it wants to hear of its end.
#[must_use]
pub fn takes_part(client: &Client, session: &Session, settings: &Settings, now: i64) -> Option<Step> {
    let participant = Participant { client_id: client.client_id.clone(), subject: session.subject.clone(), tries: 0 };
    listens(client).then(|| {
        let expires_at = session.expires_at.saturating_add(settings.session_ttl.max(KEPT_LONGER));
        Step::Save(row(&participant, &session.id, now, expires_at))
    })
}

fn row(participant: &Participant, session: &str, due: i64, expires_at: i64) -> Artefact {
    Artefact {
        kind: ArtefactKind::Participant,
        id: hash::sha256(format!("{session}\0{}", participant.client_id).as_bytes()).to_vec(),
        mac: Vec::new(),
        grant: Some(session.to_owned()),
        document: json!(participant).to_string(),
        created_at: due,
        expires_at,
        consumed_at: None,
        successor: None,
        seq: 0,
    }
}

/// The guard by which one node of several makes a try: of two that begin the same one, one is refused.
#[must_use]
pub fn claim(row: &Artefact, participant: &Participant, now: i64) -> Change {
    let name = [b"logout\0".as_slice(), &row.id, &participant.tries.to_be_bytes(), &row.created_at.to_be_bytes()].concat();
    Change::new().step(Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: hash::sha256(&name).to_vec(),
        mac: Vec::new(),
        grant: None,
        document: String::from("{}"),
        created_at: now,
        // Should the node die in the middle, another may try again after that.
        expires_at: now + 30,
        consumed_at: None,
        successor: None,
        seq: 0,
    }))
}

/// What becomes of a participant after a try.
#[must_use]
pub fn tried(artefact: &Artefact, participant: &Participant, heard: bool, now_ms: i64) -> Change {
    let now = now_ms.div_euclid(1000);
    let session = artefact.grant.clone().unwrap_or_default();
    let tries = participant.tries + 1;
    let wait = usize::try_from(participant.tries).ok().and_then(|n| WAITS.get(n));
    let event = |kind| {
        NewEvent::new(kind, now_ms).subject(&participant.subject).client(&participant.client_id).session(&session).with("tries", tries)
    };
    let gone = Step::Remove { kind: ArtefactKind::Participant, id: artefact.id.clone() };
    match wait {
        _ if heard => Change::new().step(gone).event(event(EventKind::LogoutDelivered)),
        Some(wait) => {
            let later = Participant { tries, ..participant.clone() };
            Change::new().step(Step::Save(row(&later, &session, now + wait, artefact.expires_at.max(now + 2 * KEPT_LONGER))))
        }
        None => Change::new().step(gone).event(event(EventKind::LogoutFailed)),
    }
}

/// A participant that does not hear by itself, or is gone: nothing to tell.
#[must_use]
pub fn forget(artefact: &Artefact) -> Change {
    Change::new().step(Step::Remove { kind: ArtefactKind::Participant, id: artefact.id.clone() })
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    events: Map<String, Value>,
    sid: &'a str,
}

/// Signs a logout token as the client's ID tokens are signed (§2.4): the same subject and session, no `nonce`.
///
/// # Errors
/// `server_error` if no key signs that algorithm.
pub fn token(ctx: &Context<'_>, client: &Client, subject: &str, session: &str) -> Result<String, OAuthError> {
    let key = id_token::key(ctx, client)?;
    let now = ctx.now();
    let claims = Claims {
        iss: &ctx.settings.issuer,
        sub: &pairwise::subject(client, subject, ctx.mac),
        aud: &client.client_id,
        iat: now,
        exp: now + TTL,
        jti: id::text(&id::new_id(ctx.now_ms, ctx.entropy)),
        events: Map::from_iter([(EVENT.to_owned(), json!({}))]),
        sid: session,
    };
    key.sign_jwt(TYP, &claims).map_err(|e| OAuthError::fault(e.to_string()))
}

/// What a deployment says of it (§2.1).
pub(crate) fn feature(_: &Settings, members: &mut Map<String, Value>) {
    members.insert("backchannel_logout_supported".into(), true.into());
    members.insert("backchannel_logout_session_supported".into(), true.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            id: "sid".into(),
            subject: "alice".into(),
            auth_time: 0,
            amr: Vec::new(),
            created_at: 0,
            expires_at: 1_000,
            ended_at: None,
            document: Value::Null,
        }
    }

    fn part(client: &Client) -> Option<Artefact> {
        match takes_part(client, &session(), &Settings::for_issuer("https://id"), 10)? {
            Step::Save(row) => Some(row),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_listens_takes_part_and_outlives_the_session() {
        assert!(part(&Client::default()).is_none());
        let client = Client { client_id: "web".into(), backchannel_logout_uri: Some("https://rp/out".into()), ..Client::default() };
        let row = part(&client).expect("takes part");
        assert!(row.expires_at > session().expires_at && row.grant.as_deref() == Some("sid"));
        assert_eq!(part(&client).map(|r| r.id), Some(row.id), "once a session");
    }

    #[test]
    fn tries_end_with_hearing_or_after_the_last_wait() {
        let client = Client { client_id: "web".into(), backchannel_logout_uri: Some("https://rp/out".into()), ..Client::default() };
        let mut row = part(&client).expect("takes part");
        let read = |row: &Artefact| serde_json::from_str::<Participant>(&row.document).expect("a document");
        let heard = tried(&row, &read(&row), true, 5_000);
        assert_eq!(heard.events[0].kind, EventKind::LogoutDelivered);
        let (mut tries, mut at) = (0, 100);
        let failed = loop {
            tries += 1;
            let change = tried(&row, &read(&row), false, at * 1000);
            match change.steps.first() {
                Some(Step::Save(later)) => {
                    assert!(later.created_at > at);
                    (row, at) = (later.clone(), later.created_at);
                }
                _ => break change,
            }
        };
        assert_eq!((tries, failed.events[0].kind), (6, EventKind::LogoutFailed));
        assert!(at - 100 <= 300, "bounded by five minutes");
    }

    #[test]
    fn a_try_is_claimed_once() {
        let client = Client { client_id: "web".into(), backchannel_logout_uri: Some("https://rp/out".into()), ..Client::default() };
        let row = part(&client).expect("takes part");
        let mut participant: Participant = serde_json::from_str(&row.document).expect("a document");
        let first = claim(&row, &participant, 5);
        assert_eq!(first, claim(&row, &participant, 5));
        participant.tries = 1;
        assert_ne!(first.steps, claim(&row, &participant, 5).steps);
    }
}
