//! Token exchange (RFC 8693): which tokens are believed. What may become of them is decided in `protocol`.
use std::sync::Arc;

use accounts::User;
use ledger::{ArtefactKind, Object, ObjectKind};
use protocol::{
    Scope,
    grants::{
        self,
        assertion::Named,
        token_exchange::{self, ACCESS_TOKEN, Actor, Hangs, ID_TOKEN, Subject, unusable},
    },
    pairwise,
};
use tokens::{access::Origin, jws::Parsed};

use super::{Asked, Given, give, jwt_bearer, server};
use crate::{
    App,
    credential::{self, Asker},
    oauth::context,
    reply::Failed,
};

/// A believed subject token, owning what it names.
struct Believed {
    subject: Subject<'static>,
    user: Option<Arc<User>>,
}

impl Asked<'_> {
    pub(super) async fn token_exchange(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let asked = token_exchange::asked(&context(app, &app.keys.load(), head, evidence), client, form)?;
        let (text, kind) = asked.subject;
        let believed = match kind {
            ID_TOKEN => id_token(app, text).await?,
            ACCESS_TOKEN => own(app, Asker::of(client), text).await?,
            _ => match own(app, Asker::of(client), text).await {
                Err(Failed::Refused(_)) => foreign(app, client.id(), text).await?,
                found => found?,
            },
        };
        let actor = match asked.actor {
            Some(text) => Some(acting(app, Asker::of(client), text).await?),
            None => None,
        };
        let server = server(app, &asked.target).await?;
        let subject = Subject { user: believed.user.as_deref(), ..believed.subject };
        let decided = token_exchange::decide(
            &context(app, &app.keys.load(), head, evidence),
            client,
            form,
            &asked,
            &subject,
            actor.as_ref(),
            server.as_deref(),
        );
        give(self, grants::TOKEN_EXCHANGE, decided?).await
    }
}

/// An access token of ours that is active now.
async fn own(app: &App, asker: Asker, text: &str) -> Result<Believed, Failed> {
    let seen = credential::look(app, asker, text).await?.ok_or_else(|| unusable("not an active access token of this server"))?;
    let known = &seen.known;
    let user = if known.is_persons() { app.catalog.user(&known.subject).await? } else { None };
    let hangs = match &known.grant {
        Some(id) => Hangs::Grant { id: id.clone(), session: known.session.clone() },
        None => Hangs::Nothing,
    };
    let subject = Subject {
        subject: known.subject.clone(),
        client_id: Some(known.client_id.clone()),
        issuer: None,
        scope: Scope::parse(&known.scope)?,
        audience: known.audience.clone(),
        expires_at: known.expires_at,
        hangs,
        from: Some(known.origin()),
        device: known.device.clone(),
        confirmation: known.confirmation.clone(),
        once: None,
        act: known.actor.clone(),
        may_act: None,
        user: None,
    };
    Ok(Believed { subject, user })
}

async fn acting(app: &App, asker: Asker, text: &str) -> Result<Actor, Failed> {
    let seen = credential::look(app, asker, text).await?.ok_or_else(|| unusable("the actor token is not active"))?;
    let known = &seen.known;
    if known.actor.is_some() {
        return Err(unusable("an actor token that acts for somebody itself").into());
    }
    Ok(Actor { subject: known.subject.clone(), client_id: known.client_id.clone(), confirmation: known.confirmation.clone() })
}

/// An ID token of ours whose session lives.
async fn id_token(app: &App, text: &str) -> Result<Believed, Failed> {
    let told = told(app, text).ok_or_else(|| unusable("not a valid ID token of this server"))?;
    let session = app.store.session(&told.session).await?.filter(|s| s.ended_at.is_none() && s.expires_at > app.clock.now());
    let session = session.ok_or_else(|| unusable("the session has ended"))?;
    let known = app.catalog.client(&told.client_id).await?.ok_or_else(|| unusable("its client is gone"))?;
    if !pairwise::is(&known.client, &told.subject, &session.subject, &app.mac) {
        return Err(unusable("the session is another's").into());
    }
    let (user, object) = account(app, &session.subject).await?;
    let hangs = Hangs::Person { version: object.version, session: Some(session.id) };
    let subject = subject(&object.id, told.expires_at, hangs);
    let from = Origin { jti: Vec::new(), client_id: vec![told.client_id.clone()] };
    Ok(Believed { subject: Subject { client_id: Some(told.client_id), from: Some(from), ..subject }, user: Some(Arc::new(user)) })
}

/// What an ID token says that is good still.
struct Told {
    subject: String,
    session: String,
    client_id: String,
    expires_at: i64,
}

fn told(app: &App, text: &str) -> Option<Told> {
    let believed = protocol::authorize::hint::believe(text, &app.settings.issuer, app.keys.load().keys())?;
    // Its signature is right by now; a hint may be old, this may not.
    let parsed = Parsed::parse(text).ok()?;
    let ring = app.keys.load();
    let verified = parsed.verify(ring.keys().find(parsed.kid.as_deref(), parsed.alg)?).ok()?;
    let expires_at = verified.get("exp")?.as_i64().filter(|exp| *exp > app.clock.now())?;
    // Logout and event tokens are signed by the same keys.
    if verified.contains_key("events") {
        return None;
    }
    let [client_id] = believed.audience.as_slice() else { return None };
    Some(Told { subject: believed.subject, session: believed.session?, client_id: client_id.clone(), expires_at })
}

/// A JWT of a trusted issuer.
async fn foreign(app: &App, client_id: &str, text: &str) -> Result<Believed, Failed> {
    let assertion = jwt_bearer::believed(app, client_id, text).await?.map_err(unusable)?;
    let (id, hangs, user) = match &assertion.subject {
        Named::Other(name) => (name.clone(), Hangs::Nothing, None),
        Named::Person(_) => {
            let found = jwt_bearer::person(app, &assertion.subject).await?.filter(|(user, _)| !user.disabled);
            let (user, object) = found.ok_or_else(|| unusable("nobody of that name, or disabled"))?;
            (object.id, Hangs::Person { version: object.version, session: None }, Some(Arc::new(user)))
        }
    };
    let subject = subject(&id, assertion.expires_at, hangs);
    let once = assertion.once();
    if let Some(id) = &once
        && app.store.artefact(ArtefactKind::Jti, id).await?.is_some()
    {
        return Err(unusable("used before").into());
    }
    let subject = Subject { issuer: Some(assertion.issuer), once, act: assertion.act, may_act: assertion.may_act, ..subject };
    Ok(Believed { subject, user })
}

fn subject(id: &str, expires_at: i64, hangs: Hangs) -> Subject<'static> {
    Subject {
        subject: id.to_owned(),
        client_id: None,
        issuer: None,
        scope: Scope::default(),
        audience: Vec::new(),
        expires_at,
        hangs,
        from: None,
        device: None,
        confirmation: None,
        once: None,
        act: None,
        may_act: None,
        user: None,
    }
}

async fn account(app: &App, id: &str) -> Result<(User, Object), Failed> {
    let object = app.store.object(ObjectKind::User, id).await?.ok_or_else(|| unusable("the account is gone"))?;
    let user: User = serde_json::from_value(object.document.clone()).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    if user.disabled {
        return Err(unusable("the account is disabled").into());
    }
    Ok((user, object))
}
