//! How an authorization request goes on: wait for the person, issue, or refuse; each in one transaction.
use std::{net::IpAddr, sync::Arc};

use axum::response::Response;
use http::HeaderValue;
use ledger::{Change, Consent, ObjectKind, Outcome, Session, Step};
use protocol::{
    Client, Code, Evidence, acr,
    authorize::{Answer, Next, Pending, Refusal, Request, Return, Seen, Voice, issue::Issue, next, pushed},
    pairwise,
};

use super::{
    consent,
    interaction::{self, Open, Purpose},
    mfa,
};
use crate::{
    App,
    oauth::context,
    pages::{self, Refused},
    sessions::Browser,
};

const CONSENT: &str = "/consent";

/// A request on its way.
pub struct Walk<'a> {
    /// The server.
    pub app: &'a App,
    /// The browser.
    pub browser: &'a Browser,
    /// Where it is.
    pub source: IpAddr,
    /// Who asks.
    pub client: Arc<Client>,
    /// The guard of what is given to it: its registration is as it was read.
    pub registered: Step,
    /// What for.
    pub request: Request,
    /// The person's live session.
    pub session: Option<Session>,
    /// Whether they logged in for this request.
    pub fresh: bool,
    /// Whether they chose to go on as who they are.
    pub chosen: bool,
    /// The interaction it waited in.
    pub open: Option<&'a Open>,
    /// What has to be committed with whatever comes next.
    pub change: Change,
    /// The consent page may be the answer itself: what is asked for once more by loading it again is no form.
    pub at_once: bool,
}

/// What is known of the person besides their session.
#[derive(Default)]
pub struct Known {
    /// What they allowed this client before.
    pub consent: Option<Consent>,
    /// They have a second factor that this request wants.
    pub second: bool,
}

/// What a refused guard means.
enum Stopped {
    /// The form was used already.
    Used,
    /// The session ended meanwhile.
    Ended,
    /// The client was changed, disabled or deleted meanwhile.
    Client,
}

impl Walk<'_> {
    /// Decides and does it.
    ///
    /// # Errors
    /// The form was used already, or storage is away.
    pub async fn go(self) -> Result<Response, Refused> {
        let known = self.remembered().await?;
        match self.decide(&known) {
            Next::LogIn | Next::Choose => self.wait("/login").await,
            Next::StepUp => self.wait("/mfa").await,
            Next::Ask => self.wait(CONSENT).await,
            Next::Issue => {
                let scope = self.request.scope.clone();
                self.issue(&scope, None).await
            }
            Next::Refuse(refusal) => self.refuse(refusal).await,
        }
    }

    /// What comes next, as things stand.
    #[must_use]
    pub fn decide(&self, known: &Known) -> Next {
        let known_as = self.session.as_ref().map(|s| pairwise::subject(&self.client, &s.subject, &self.app.mac));
        let known_as = known_as.as_deref();
        let (consent, second) = (known.consent.as_ref(), known.second);
        let seen = Seen { session: self.session.as_ref(), fresh: self.fresh, chosen: self.chosen, consent, second, known_as };
        next(&self.request, &self.client, seen, self.app.clock.now())
    }

    /// What the person allowed this client before, and whether they have the second factor it wants.
    ///
    /// # Errors
    /// Storage is away.
    pub async fn remembered(&self) -> Result<Known, Refused> {
        let Some(session) = &self.session else { return Ok(Known::default()) };
        let consent = match self.client.first_party {
            true => None,
            false => self.app.store.consent(&session.subject, &self.client.client_id).await?,
        };
        let wants = acr::need(&self.request.acr_values, self.request.acr_essential, &session.amr) != acr::Need::Nothing;
        Ok(Known { consent, second: wants && mfa::enrolled(self.app, &session.subject).await? })
    }

    /// Waits for the person on a page of ours. Nothing is written if the interaction can stay as it is.
    async fn wait(mut self, path: &str) -> Result<Response, Refused> {
        if let Some(open) = self.open
            && self.change == Change::new()
            && self.chosen == open.interaction.chosen
        {
            return Ok(self.show(path, &open.text));
        }
        if self.open.is_none() && self.session.is_none() {
            interaction::admit(self.app, self.source).await?;
        }
        let (binding, ticket) = self.browser.tie(self.app.clock.now() + self.app.settings.interaction_ttl).await?;
        let fresh = self.session.as_ref().filter(|_| self.fresh).map(|s| s.id.clone());
        let purpose = Purpose::Authorize(Box::new(Pending::of(&self.request)));
        let (step, text) = interaction::begin(self.app, &binding, purpose, fresh, self.chosen);
        self.change.steps.extend(step);
        let Ok(cookie) = self.commit().await? else { return Err(Refused::stale()) };
        let (text, app) = (text.expose(), self.app);
        let answer = match &self.session {
            Some(session) if self.at_once && path == CONSENT => {
                let csrf = interaction::csrf(app, (&binding, text), consent::FORM, &session.id);
                consent::page(app, (text, &csrf), &self, session).await?
            }
            _ => self.show(path, text),
        };
        Ok(pages::with_cookie(pages::with_cookie(answer, cookie), ticket))
    }

    fn show(&self, path: &str, interaction: &str) -> Response {
        pages::see_other(&format!("{}{path}?interaction={interaction}", pages::base(&self.app.settings.issuer)))
    }

    /// Issues a code for a scope, remembering what was allowed.
    ///
    /// # Errors
    /// The form was used already, or storage is away.
    pub async fn issue(mut self, scope: &[String], consent: Option<Consent>) -> Result<Response, Refused> {
        let Some(session) = self.session.clone() else { return Err(Refused::stale()) };
        let (app, kind, head) = (self.app, self.request.response_type, self.app.revoked.head());
        let user = if kind.is_front() { app.catalog.user(&session.subject).await? } else { None };
        let server = if kind.token { app.catalog.resource_server(&self.request.resource).await? } else { None };
        let given = Issue {
            request: &self.request,
            client: &self.client,
            session: &session,
            user: user.as_deref().filter(|u| !u.disabled),
            server: server.as_deref(),
            scope,
            consent,
        }
        .given(&context(app, &app.keys.load(), head, &Evidence::default()))?;
        self.change = std::mem::take(&mut self.change).step(self.registered.clone()).and(self.spent()).and(given.change);
        match self.commit().await? {
            Ok(cookie) => Ok(pages::with_cookie(self.answer(|back, voice| back.give(voice, given.pairs)), cookie)),
            Err(Stopped::Used | Stopped::Client) => Err(Refused::stale()),
            Err(Stopped::Ended) => {
                let refusal = Refusal::new(Code::LoginRequired, "the session ended meanwhile");
                Ok(self.answer(|back, voice| back.refuse(voice, refusal)))
            }
        }
    }

    /// Tells the client no.
    ///
    /// # Errors
    /// The form was used already, or storage is away.
    pub async fn refuse(mut self, refusal: Refusal) -> Result<Response, Refused> {
        self.change = std::mem::take(&mut self.change).and(self.spent());
        match self.commit().await? {
            Ok(cookie) => Ok(pages::with_cookie(self.answer(|back, voice| back.refuse(voice, refusal)), cookie)),
            Err(_) => Err(Refused::stale()),
        }
    }

    /// The end of the pushed request it came from, if it was pushed.
    fn spent(&self) -> Change {
        Change { steps: pushed::consume(&self.request, self.app.clock.now()).into_iter().collect(), events: Vec::new() }
    }

    /// What the client hears, as HTTP.
    fn answer(&self, say: impl FnOnce(&Return, Voice<'_>) -> Answer) -> Response {
        let (app, keys) = (self.app, self.app.keys.load());
        let voice = Voice { settings: &app.settings, client: &self.client, keys: &keys, now: app.clock.now() };
        pages::answer(app, &say(&self.request.back, voice))
    }

    /// Commits what has gathered, the interaction's end and the browser's session with it. An account that is not as it was proved is
    /// [`Refused::changed`].
    async fn commit(&mut self) -> Result<Result<Vec<HeaderValue>, Stopped>, Refused> {
        let gathered = std::mem::take(&mut self.change);
        let first = self.open.map_or_else(Change::new, |open| Change::new().step(open.consume(self.app)));
        let (change, cookie) = self.browser.seal(first.and(gathered)).await?;
        if change == Change::new() {
            return Ok(Ok(cookie));
        }
        let at = |is: fn(&Step) -> bool| change.steps.iter().position(is);
        // The form (the first step), the pushed request's row, or both.
        let form = self.open.is_some();
        let used = |(at, step): (usize, &Step)| ((form && at == 0) || matches!(step, Step::Consume { .. })).then_some(at);
        let used: Vec<usize> = change.steps.iter().enumerate().filter_map(used).collect();
        let client = at(|s| matches!(s, Step::ObjectIs { kind: ObjectKind::Client, .. }));
        let account = at(|s| matches!(s, Step::ObjectIs { kind: ObjectKind::User, .. }));
        match self.app.store.apply(change).await? {
            Outcome::Applied { .. } => Ok(Ok(cookie)),
            Outcome::Refused(guard) if used.contains(&guard.step) => Ok(Err(Stopped::Used)),
            Outcome::Refused(guard) if Some(guard.step) == client => {
                self.app.catalog.forget_client(&self.client.client_id);
                Ok(Err(Stopped::Client))
            }
            Outcome::Refused(guard) if Some(guard.step) == account => Err(Refused::changed()),
            Outcome::Refused(_) => Ok(Err(Stopped::Ended)),
        }
    }
}
