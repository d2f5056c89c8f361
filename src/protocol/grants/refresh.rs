//! A refresh token becomes an access token and its own successor (RFC 6749 §6; rotation and reuse: RFC 9700 §4.14.2).
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, Step};
use serde_json::Map;
use tokens::secret::Plain;

use super::{Behind, Granted, REFRESH_TOKEN, Refused, answer, audience, end, family, still_allowed, unauthorized};
use crate::{
    AuthenticatedClient, Form, OAuthError, Scope,
    authorize::details,
    engine::refresh::{Refreshing, refresh},
    evidence, id_token,
    issue::{self, Access, Context, Order},
    resource,
    stored::RefreshDocument,
    userinfo,
};

/// Which of the tokens of a row was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// The current one, and whether it is a link of a chain.
    Current { link: bool },
    /// One that another has taken the place of, by its MAC.
    Spent(&'a [u8]),
}

/// A refresh token that was found under its id and whose secret is right.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its row, consumed or not.
    pub artefact: &'a Artefact,
    /// What was shown.
    pub shown: Shown<'a>,
    /// Its document.
    pub document: &'a RefreshDocument,
    /// What took its place, if it is spent.
    pub successor: Option<&'a Artefact>,
    /// What stands behind it.
    pub behind: Behind<'a>,
}

/// Decides over a refresh.
///
/// # Errors
/// `invalid_grant` and its fellows; a spent token that comes again ends the family.
pub fn decide(ctx: &Context<'_>, client: &AuthenticatedClient, form: &Form<'_>, found: &Found<'_>) -> Result<Granted, Refused> {
    let (artefact, document, now) = (found.artefact, found.document, ctx.now());
    if !client.client().may_use(REFRESH_TOKEN) {
        return Err(unauthorized().into());
    }
    if document.client_id != client.id() {
        return Err(OAuthError::grant("another client's refresh token").into());
    }
    let bound = evidence::demand_refresh(client.client(), document, ctx.evidence, ctx.settings)?;
    let retry = match (found.shown, artefact.consumed_at) {
        (Shown::Spent(mac), _) => Some(family::once_more(ctx, artefact, mac).ok_or_else(|| reused(ctx, found))?),
        (Shown::Current { .. }, Some(_)) => Some(family::again(ctx, artefact, found.successor).ok_or_else(|| reused(ctx, found))?),
        (Shown::Current { .. }, None) => None,
    };
    let retried = retry.is_some();
    if document.family_expires_at <= now || (retry.is_none() && artefact.expires_at <= now) {
        return Err(OAuthError::grant("the refresh token has expired").into());
    }
    let (grant, user) = found.behind.live(now)?;
    resource::agrees(form.all("resource"), &document.resource)?;
    audience(&document.resource, ctx.settings, found.behind.server)?;
    still_allowed(client.client(), &document.resource, ctx.settings)?;
    let token_id = tokens::b64::encode(&artefact.id);
    let refreshing = Refreshing {
        client_id: client.id(),
        token: &token_id,
        scope: form.get("scope"),
        stored_client: &document.client_id,
        subject: &document.subject,
        stored_scope: &document.scope,
    };
    let details = details::narrowed(form.get("authorization_details"), document.details.as_ref(), client.client())?;
    let registered = Scope::parse(&client.client().scope)?;
    let (access, scope) = refresh(&refreshing, |scope| {
        // What the client was taken from it since does not come back.
        let scope = scope.only(|token| registered.has(token));
        let order = Order {
            client: client.client(),
            server: found.behind.server,
            audience: &document.resource,
            subject: &user.id,
            grant: Some(&grant.id),
            session: document.session.as_deref(),
            scope: &scope,
            authentication: Some(&document.authentication),
            user: Some(user),
            grant_type: REFRESH_TOKEN,
            confirmation: bound.as_ref(),
            details: details.as_ref(),
            actor: None,
            from: None,
            device: None,
        };
        issue::access_token(ctx, &order).map(|access| (access, scope.clone()))
    })?;
    let id_token = userinfo::opens(&scope).then(|| id_token(ctx, client, document, &access)).transpose()?;
    let mut change = Change::new().step(client.unchanged());
    let refresh_token = if let Some(same) = retry {
        change = change.step(Step::GrantLive { id: grant.id.clone(), now });
        same
    } else if evidence::keeps_refresh(client.client(), bound.as_ref()) {
        // It holds a key besides: the same token stays, and lives on because it is used.
        let expires_at = document.family_expires_at.min(now.saturating_add(ctx.settings.refresh_idle));
        change = change.step(Step::GrantLive { id: grant.id.clone(), now }).step(Step::Extend {
            kind: ArtefactKind::Refresh,
            id: artefact.id.clone(),
            now,
            expires_at,
        });
        Plain::new(form.get("refresh_token").ok_or(OAuthError::request("refresh_token is missing"))?)
    } else if found.shown == (Shown::Current { link: true }) {
        let (plain, rotate) = family::next(ctx, artefact, document)?;
        change = change.step(Step::GrantLive { id: grant.id.clone(), now }).step(rotate);
        plain
    } else {
        let (plain, successor, put) = family::successor(ctx, artefact, &grant.id, document)?;
        change = change
            .step(Step::GrantLive { id: grant.id.clone(), now })
            .step(Step::Consume { kind: ArtefactKind::Refresh, id: artefact.id.clone(), now, successor: Some(successor) })
            .step(put);
        plain
    };
    let (issued, mut answer) = answer(access, scope.to_string());
    answer.details = details;
    answer.refresh_token = Some(refresh_token);
    answer.id_token = id_token;
    Ok(Granted { change: change.and(issued).event(told(ctx, found, retried)), answer })
}

fn id_token(ctx: &Context<'_>, client: &AuthenticatedClient, document: &RefreshDocument, access: &Access) -> Result<String, OAuthError> {
    let about = id_token::About {
        client: client.client(),
        subject: &document.subject,
        session: document.session.as_deref(),
        authentication: &document.authentication,
        // OpenID Connect Core §12.2: a refreshed ID token should have none.
        nonce: None,
        access_token: access.text.expose(),
        asked: Map::new(),
    };
    id_token::sign(ctx, &about)
}

fn told(ctx: &Context<'_>, found: &Found<'_>, retry: bool) -> NewEvent {
    let mut event = NewEvent::new(EventKind::TokenRefreshed, ctx.now_ms)
        .subject(&found.document.subject)
        .client(&found.document.client_id)
        .with("retry", retry);
    event.grant.clone_from(&found.artefact.grant);
    event
}

/// A spent token comes again: either the client or a thief has its successor, so nobody keeps anything.
fn reused(ctx: &Context<'_>, found: &Found<'_>) -> Refused {
    let error = OAuthError::grant("the refresh token was used before");
    let Some(grant) = found.behind.grant.filter(|g| g.ended_at.is_none()) else { return error.into() };
    let told = [EventKind::RefreshReused, EventKind::GrantEnded];
    Refused { error, change: Some(end(&grant.id, &grant.subject, &grant.client_id, ctx.now_ms, &told)) }
}
