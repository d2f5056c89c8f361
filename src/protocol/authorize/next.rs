//! What happens next with a checked request: log in, choose, ask, issue or refuse (OpenID Connect Core §3.1.2.3, §3.1.2.4).
use ledger::{Consent, Session};

use super::{Code, Refusal, Request, max_age};
use crate::{
    Client,
    acr::{self, Need},
    consent,
};

/// What is known about the person at the browser.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Their live session.
    pub session: Option<&'a Session>,
    /// They logged in because of this very request.
    pub fresh: bool,
    /// They chose to go on with the account of the session.
    pub chosen: bool,
    /// What they allowed this client before.
    pub consent: Option<&'a Consent>,
    /// They have a second factor (asked for only where the request wants one).
    pub second: bool,
    /// The `sub` by which this client knows the person of the session, if it is not the person's own id (pairwise, Core §8.1).
    pub known_as: Option<&'a str>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Show the login page.
    LogIn,
    /// Ask whether to go on with the account of the session.
    Choose,
    /// Ask for the second factor: the session is good, but not good enough (RFC 9470).
    StepUp,
    /// Show the consent page.
    Ask,
    /// Issue a code for everything requested.
    Issue,
    /// Tell the client.
    Refuse(Refusal),
}

/// Decides. Without a session nothing else is looked at.
#[must_use]
pub fn next(request: &Request, client: &Client, seen: Seen<'_>, now: i64) -> Next {
    let silent = request.prompt.none;
    let Some(session) = seen.session.filter(|s| acceptable(request, s, seen, now)) else {
        return if seen.fresh || silent { Next::Refuse(refuse_login(seen)) } else { Next::LogIn };
    };
    if request.prompt.select_account && !seen.chosen && !seen.fresh {
        return Next::Choose;
    }
    if let Some(more) = step_up(request, session, seen) {
        return more;
    }
    if !consent::needed(request, client, seen.consent.filter(|c| c.subject == session.subject)) {
        return Next::Issue;
    }
    if silent { Next::Refuse(Refusal::new(Code::ConsentRequired, "the person has to allow this first")) } else { Next::Ask }
}

/// What has to happen before the person is authenticated as well as the client wants.
fn step_up(request: &Request, session: &Session, seen: Seen<'_>) -> Option<Next> {
    let unmet = |code, why| Some(Next::Refuse(Refusal::new(code, why)));
    match (acr::need(&request.acr_values, request.acr_essential, &session.amr), seen.second) {
        (Need::Nothing, _) | (Need::Wished, false) => None,
        (Need::Wished, true) if request.prompt.none => None,
        (Need::Required, true) if request.prompt.none => unmet(Code::InteractionRequired, "the person has to give a second factor first"),
        (Need::Wished | Need::Required, true) => Some(Next::StepUp),
        (Need::Required | Need::Impossible, _) => {
            unmet(Code::UnmetAuthenticationRequirements, "the person cannot be authenticated as well as is asked for")
        }
    }
}

/// Whether a session serves the request: the right person, and recent enough.
fn acceptable(request: &Request, session: &Session, seen: Seen<'_>, now: i64) -> bool {
    let right = request.subject.as_ref().is_none_or(|s| s == seen.known_as.unwrap_or(&session.subject));
    let recent = seen.fresh || !(request.prompt.login || max_age::too_old(request.max_age, session.auth_time, now));
    right && recent
}

fn refuse_login(seen: Seen<'_>) -> Refusal {
    if seen.fresh {
        Refusal::new(Code::LoginRequired, "another person logged in than the client asked for")
    } else {
        Refusal::new(Code::LoginRequired, "nobody suitable is logged in")
    }
}
