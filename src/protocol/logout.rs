//! Logout started by a relying party, or by the person (OpenID Connect RP-Initiated Logout 1.0).
use ledger::{Change, EventKind, Grant, NewEvent, RevocationKind, Session, Step};

use crate::{
    Client, Code, Settings,
    authorize::{Params, Refusal, ReturnAddress, hint::Hint},
};

/// Seconds after which no access token issued before can be alive anywhere.
pub const REMEMBER: i64 = Settings::MAX_ACCESS_TOKEN_TTL + Settings::LEEWAY;

/// What a logout request says, before anybody is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The raw `id_token_hint`.
    pub hint: Option<String>,
    /// `client_id`.
    pub client_id: Option<String>,
    /// `post_logout_redirect_uri`.
    pub uri: Option<String>,
    /// `state`.
    pub state: Option<String>,
}

impl Asked {
    /// Reads the parameters; one given twice is a refusal (a page).
    pub fn read(params: &Params) -> Result<Self, Refusal> {
        let one = |name| params.one(name).map(|v| v.map(str::to_owned));
        Ok(Self { hint: one("id_token_hint")?, client_id: one("client_id")?, uri: one("post_logout_redirect_uri")?, state: one("state")? })
    }

    /// The client it is about: the named one, or the only audience of the hint.
    #[must_use]
    pub fn client<'a>(&'a self, hint: Option<&'a Hint>) -> Option<&'a str> {
        match (&self.client_id, hint.map(|h| h.audience.as_slice())) {
            (Some(named), _) => Some(named),
            (None, Some([only])) => Some(only),
            _ => None,
        }
    }
}

/// Where the person goes after a logout: exactly a registered URI. Nothing else is redirected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    address: ReturnAddress,
    state: Option<String>,
}

impl Farewell {
    /// The whole location.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.state {
            Some(state) => self.address.with(&[("state", state)]),
            None => self.address.as_str().to_owned(),
        }
    }
    /// How a Content-Security-Policy names it as a form target.
    #[must_use]
    pub fn source(&self) -> String {
        self.address.source()
    }
}

/// What to do with a logout request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask the person at the browser.
    Confirm(Option<Farewell>),
    /// End the session now, then say goodbye.
    End(Option<Farewell>),
    /// Nobody is logged in: say goodbye.
    Done(Option<Farewell>),
}

/// Decides what a request does to the browser's session. `hint` is the believed hint, `client` the record of [`Asked::client`];
/// `confirmed` says that the person has just pressed the button of this server's own page.
///
/// # Errors
/// A refusal is a page, never a redirect: the hint is not ours, belongs to another client, or the address is not registered.
pub fn next(
    asked: &Asked,
    hint: Option<&Hint>,
    client: Option<&Client>,
    session: Option<&Session>,
    confirmed: bool,
) -> Result<Next, Refusal> {
    if asked.hint.is_some() && hint.is_none() {
        return Err(Refusal::new(Code::InvalidRequest, "id_token_hint is not an ID token of this issuer"));
    }
    if let (Some(named), Some(hint)) = (&asked.client_id, hint)
        && !hint.audience.contains(named)
    {
        return Err(Refusal::new(Code::InvalidRequest, "id_token_hint was issued to another client"));
    }
    let farewell = farewell(asked, client)?;
    Ok(match session {
        None => Next::Done(farewell),
        Some(_) if confirmed => Next::End(farewell),
        Some(session) if hint.is_some_and(|h| names(h, session)) => Next::End(farewell),
        Some(_) => Next::Confirm(farewell),
    })
}

fn names(hint: &Hint, session: &Session) -> bool {
    hint.subject == session.subject && hint.session.as_ref() == Some(&session.id)
}

fn farewell(asked: &Asked, client: Option<&Client>) -> Result<Option<Farewell>, Refusal> {
    const STRANGE: Refusal = Refusal::new(Code::InvalidRequest, "post_logout_redirect_uri is not registered for this client");
    let Some(uri) = &asked.uri else { return Ok(None) };
    let client = client.filter(|c| !c.disabled).ok_or(STRANGE)?;
    let address = client
        .post_logout_redirect_uris
        .contains(uri)
        .then(|| ReturnAddress::matched(uri, &client.post_logout_redirect_uris))
        .flatten()
        .ok_or(STRANGE)?;
    Ok(Some(Farewell { address, state: asked.state.clone() }))
}

/// The change by which a person ends what they gave a client: the grant and everything issued from it.
#[must_use]
pub fn end_grant(grant: &Grant, now_ms: i64) -> Change {
    let now = now_ms.div_euclid(1000);
    Change::new().step(Step::EndGrant { id: grant.id.clone(), now }).revoke(RevocationKind::Grant, &grant.id, now_ms, now + REMEMBER).event(
        NewEvent::new(EventKind::GrantEnded, now_ms)
            .subject(&grant.subject)
            .client(&grant.client_id)
            .grant(&grant.id)
            .with("reason", "person"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            id: "sid".into(),
            subject: "sub".into(),
            auth_time: 0,
            amr: Vec::new(),
            created_at: 0,
            expires_at: 100,
            ended_at: None,
            document: serde_json::Value::Null,
        }
    }
    fn client() -> Client {
        Client { client_id: "web".into(), post_logout_redirect_uris: vec!["https://rp/bye".into()], ..Client::default() }
    }
    fn hint(session: &str) -> Hint {
        Hint { subject: "sub".into(), session: Some(session.into()), audience: vec!["web".into()] }
    }
    fn asked(text: &str) -> Asked {
        Asked::read(&Params::parse(text)).expect("read")
    }

    #[test]
    fn a_hint_of_the_present_session_ends_it_at_once_and_returns_with_state() {
        let asked = asked("id_token_hint=x&post_logout_redirect_uri=https://rp/bye&state=a%20b");
        let Ok(Next::End(Some(farewell))) = next(&asked, Some(&hint("sid")), Some(&client()), Some(&session()), false) else {
            panic!("ends")
        };
        assert_eq!(farewell.location(), "https://rp/bye?state=a+b");
    }

    #[test]
    fn without_such_a_hint_the_person_is_asked() {
        for (text, hint) in [
            ("", None),
            ("id_token_hint=x", Some(hint("another"))),
            ("id_token_hint=x", Some(Hint { session: None, ..hint("sid") })),
            ("client_id=web&post_logout_redirect_uri=https://rp/bye", None),
        ] {
            let got = next(&asked(text), hint.as_ref(), Some(&client()), Some(&session()), false);
            assert!(matches!(got, Ok(Next::Confirm(_))), "{text}");
        }
        assert_eq!(next(&asked(""), None, None, None, false), Ok(Next::Done(None)));
    }

    #[test]
    fn a_strange_hint_or_address_is_a_page_and_never_a_redirect() {
        let (client, session) = (client(), session());
        let refused =
            |text: &str, hint: Option<&Hint>, client: Option<&Client>| next(&asked(text), hint, client, Some(&session), true).is_err();
        assert!(refused("id_token_hint=x", None, Some(&client)));
        assert!(refused("post_logout_redirect_uri=https://rp/bye", None, None));
        assert!(refused("client_id=web&post_logout_redirect_uri=https://rp/bye?x=1", None, Some(&client)));
        assert!(refused("client_id=other&id_token_hint=x", Some(&hint("sid")), Some(&client)));
        assert!(Asked::read(&Params::parse("state=a&state=b")).is_err());
    }
}
