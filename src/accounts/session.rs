//! Single sign-on sessions as decisions: start, renew, end; each a change with its events.
use ledger::{Change, EventKind, Grant, NewEvent, ObjectKind, RevocationKind, Session, Step};
use serde_json::json;
use tokens::{Entropy, id};

/// How and when a person proved who they are.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The account's `sub`.
    pub subject: &'a str,
    /// The version of the account that was proved: what changed or disabled it meanwhile stops the session.
    pub version: i64,
    /// RFC 8176 names: `pwd`, `otp`, …
    pub amr: &'a [String],
    /// The source address, for the record.
    pub address: &'a str,
    /// The browser's name for itself, for the record.
    pub agent: &'a str,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The person logged out.
    Logout,
    /// Somebody else logged in at the same browser.
    Replaced,
    /// An administrator ended it.
    Administrator,
}

impl Ending {
    /// The stable name in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Replaced => "replaced",
            Self::Administrator => "administrator",
        }
    }
}

const MAX_AGENT: usize = 256;
/// With this scope a grant outlives the session it began in (OpenID Connect Core §11).
const OFFLINE: &str = "offline_access";

/// A new session of `ttl` seconds after a successful login. Guarded: the account is as it was when its person was proved.
#[must_use]
pub fn start(proof: &Proof<'_>, ttl: i64, now_ms: i64, entropy: &dyn Entropy) -> (Session, Change) {
    let now = now_ms.div_euclid(1000);
    let session = Session {
        id: id::new_text(now_ms, entropy),
        subject: proof.subject.to_owned(),
        auth_time: now,
        amr: proof.amr.to_vec(),
        created_at: now,
        expires_at: now.saturating_add(ttl),
        ended_at: None,
        document: origin(proof),
    };
    let change = proved(proof).step(Step::StartSession(session.clone())).event(login(proof, &session.id, now_ms)).event(about(
        EventKind::SessionStarted,
        &session,
        now_ms,
    ));
    (session, change)
}

/// The same session after its person proved themselves again: new `auth_time`, methods, and `ttl` seconds from now.
/// `None` if the proof is of another person: that is a new session.
#[must_use]
pub fn renew(session: &Session, proof: &Proof<'_>, ttl: i64, now_ms: i64) -> Option<(Session, Change)> {
    let now = now_ms.div_euclid(1000);
    if session.subject != proof.subject || !live(session, now) {
        return None;
    }
    let renewed = Session {
        auth_time: now,
        amr: proof.amr.to_vec(),
        expires_at: now.saturating_add(ttl),
        document: origin(proof),
        ..session.clone()
    };
    let change = proved(proof).step(Step::UpdateSession(renewed.clone())).event(login(proof, &renewed.id, now_ms));
    Some((renewed, change))
}

/// The same session after its person showed a further factor and no password: its methods are more, but its person's login was when it
/// was (`auth_time`, OpenID Connect Core §2) and lasts no longer. `None` if the proof is of another person.
#[must_use]
pub fn strengthen(session: &Session, proof: &Proof<'_>, now_ms: i64) -> Option<(Session, Change)> {
    if session.subject != proof.subject || !live(session, now_ms.div_euclid(1000)) {
        return None;
    }
    let stronger = Session { amr: proof.amr.to_vec(), ..session.clone() };
    let change = proved(proof).step(Step::UpdateSession(stronger.clone())).event(login(proof, &stronger.id, now_ms));
    Some((stronger, change))
}

/// Ends a session and kills the access tokens issued in it. Of `grants` (its person's live ones) those that began in it end too, but not
/// those that were given for when the person is away (OpenID Connect Back-Channel Logout §2.7). `remember`: seconds after which nothing
/// of it can be alive.
#[must_use]
pub fn end(session: &Session, grants: &[Grant], why: Ending, remember: i64, now_ms: i64) -> Change {
    let now = now_ms.div_euclid(1000);
    let bound =
        |g: &&Grant| g.ended_at.is_none() && g.session.as_ref() == Some(&session.id) && !g.scope.split(' ').any(|scope| scope == OFFLINE);
    let change = Change::new()
        .step(Step::EndSession { id: session.id.clone(), now })
        .revoke(RevocationKind::Session, session.id.clone(), now_ms, now.saturating_add(remember))
        .event(about(EventKind::SessionEnded, session, now_ms).with("reason", why.as_str()));
    grants.iter().filter(bound).fold(change, |change, grant| {
        let event = about(EventKind::GrantEnded, session, now_ms).client(&grant.client_id).grant(&grant.id).with("reason", "session");
        change.step(Step::EndGrant { id: grant.id.clone(), now }).event(event)
    })
}

fn proved(proof: &Proof<'_>) -> Change {
    Change::new().step(Step::ObjectIs { kind: ObjectKind::User, id: proof.subject.to_owned(), version: proof.version })
}

/// Whether it has neither ended nor expired.
#[must_use]
pub const fn live(session: &Session, now: i64) -> bool {
    session.ended_at.is_none() && now < session.expires_at
}

/// Whether its person proved themselves at most `max_age` seconds ago (OpenID Connect Core §3.1.2.1).
#[must_use]
pub const fn fresh(session: &Session, max_age: i64, now: i64) -> bool {
    now.saturating_sub(session.auth_time) <= max_age
}

fn origin(proof: &Proof<'_>) -> serde_json::Value {
    let agent: String = proof.agent.chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect();
    json!({ "address": proof.address, "agent": agent })
}

fn login(proof: &Proof<'_>, session: &str, now_ms: i64) -> NewEvent {
    NewEvent::new(EventKind::LoginSucceeded, now_ms)
        .subject(proof.subject)
        .session(session)
        .with("amr", proof.amr.to_vec())
        .with("address", proof.address)
}

fn about(kind: EventKind, session: &Session, now_ms: i64) -> NewEvent {
    NewEvent::new(kind, now_ms).subject(session.subject.clone()).session(session.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn proof<'a>(subject: &'a str, amr: &'a [String]) -> Proof<'a> {
        Proof { subject, version: 3, amr, address: "192.0.2.1", agent: "Browser\n1" }
    }

    #[test]
    fn a_session_lives_from_login_to_expiry_and_its_start_is_told() {
        let amr = ["pwd".to_owned()];
        let (session, change) = start(&proof("s", &amr), 60, 1_000_500, &Fixed);
        assert!(live(&session, 1_059) && !live(&session, 1_060));
        assert!(fresh(&session, 0, 1_000) && !fresh(&session, 9, 1_010));
        let guard = Step::ObjectIs { kind: ObjectKind::User, id: "s".into(), version: 3 };
        assert_eq!(change.steps, [guard, Step::StartSession(session.clone())]);
        let kinds: Vec<EventKind> = change.events.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [EventKind::LoginSucceeded, EventKind::SessionStarted]);
        assert_eq!(session.document["agent"], "Browser1");
    }

    #[test]
    fn only_the_same_person_renews_a_live_session() {
        let amr = ["pwd".to_owned()];
        let (session, _) = start(&proof("s", &amr), 60, 1_000_000, &Fixed);
        let (renewed, change) = renew(&session, &proof("s", &amr), 60, 1_050_000).expect("renews");
        assert!(matches!(&change.steps[0], Step::ObjectIs { version: 3, .. }));
        assert_eq!((renewed.id.as_str(), renewed.auth_time, renewed.expires_at), (session.id.as_str(), 1_050, 1_110));
        assert!(renew(&session, &proof("t", &amr), 60, 1_050_000).is_none());
        assert!(renew(&session, &proof("s", &amr), 60, 1_060_000).is_none());
    }

    #[test]
    fn a_further_factor_alone_neither_freshens_nor_prolongs_a_login() {
        let (one, two) = (["pwd".to_owned()], ["pwd".to_owned(), "otp".to_owned()]);
        let (session, _) = start(&proof("s", &one), 60, 1_000_000, &Fixed);
        let (stronger, change) = strengthen(&session, &proof("s", &two), 1_050_000).expect("strengthens");
        assert_eq!((stronger.auth_time, stronger.expires_at, stronger.amr.as_slice()), (1_000, 1_060, two.as_slice()));
        assert_eq!(change.steps, [Step::ObjectIs { kind: ObjectKind::User, id: "s".into(), version: 3 }, Step::UpdateSession(stronger)]);
        assert!(strengthen(&session, &proof("t", &two), 1_050_000).is_none());
        assert!(strengthen(&session, &proof("s", &two), 1_060_000).is_none());
    }

    #[test]
    fn ending_revokes_what_was_issued_in_it() {
        let (session, _) = start(&proof("s", &[]), 60, 1_000_000, &Fixed);
        let change = end(&session, &[], Ending::Logout, 300, 1_010_000);
        assert!(
            matches!(&change.steps[1], Step::Revoke(r) if r.kind == RevocationKind::Session && r.id == session.id && r.expires_at == 1_310)
        );
        assert_eq!(change.events[0].data["reason"], "logout");
    }

    #[test]
    fn what_was_given_for_when_the_person_is_away_outlives_the_session() {
        let (session, _) = start(&proof("s", &[]), 60, 1_000_000, &Fixed);
        let grant = |id: &str, session: &str, scope: &str| Grant {
            id: id.into(),
            subject: "s".into(),
            client_id: "web".into(),
            session: Some(session.into()),
            scope: scope.into(),
            document: serde_json::Value::Null,
            created_at: 0,
            expires_at: 2_000,
            ended_at: None,
        };
        let grants = [
            grant("bound", &session.id, "openid read"),
            grant("offline", &session.id, "offline_access openid"),
            grant("elsewhere", "another", "openid"),
        ];
        let change = end(&session, &grants, Ending::Logout, 300, 1_010_000);
        let ended: Vec<&str> =
            change.steps.iter().filter_map(|s| if let Step::EndGrant { id, .. } = s { Some(id.as_str()) } else { None }).collect();
        assert_eq!(ended, ["bound"]);
        assert_eq!(change.events[1].grant.as_deref(), Some("bound"));
    }
}
