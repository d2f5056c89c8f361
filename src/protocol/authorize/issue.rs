//! The change that gives a client its code, and the tokens that some response types ask for beside it (RFC 6749 §4.1.2, OpenID Connect
//! Core §3.2.2.5, §3.3.2.5): a grant, the code, what was allowed, and the events that tell of it.
use accounts::User;
use ledger::{Artefact, ArtefactKind, Change, Consent, EventKind, Grant, NewEvent, Session, Step};
use serde_json::{Map, json};
use tokens::{
    id,
    secret::{self, Plain, SecretKind},
};

use super::{Request, answer::Pairs};
use crate::{
    Client, OAuthError, ResourceServer, Scope, acr, backchannel_logout, grants, id_token,
    issue::{self, Access, Context, Order},
    session_state,
    stored::{Authentication, CodeDocument, GrantDocument},
    userinfo,
};

/// Longest life of a code, seconds (CONTRACT §5).
const LONGEST: i64 = 60;

/// Everything an answer is made from.
pub struct Issue<'a> {
    /// The checked request.
    pub request: &'a Request,
    /// Who asks.
    pub client: &'a Client,
    /// The person's live session.
    pub session: &'a Session,
    /// The person's account, where the response type asks for tokens.
    pub user: Option<&'a User>,
    /// The registered API, if the resource is not the issuer.
    pub server: Option<&'a ResourceServer>,
    /// What is given, sorted: the requested scope or less.
    pub scope: &'a [String],
    /// What to remember, if the person was asked.
    pub consent: Option<Consent>,
}

/// What is given, and the change that must be durable before anybody hears it.
pub struct Given {
    /// To be applied first.
    pub change: Change,
    /// The answer's parameters.
    pub pairs: Pairs,
}

impl Issue<'_> {
    /// Makes what the response type asks for. Guarded: the session is still live.
    ///
    /// # Errors
    /// `server_error` if there is no signing key.
    pub fn given(&self, ctx: &Context<'_>) -> Result<Given, OAuthError> {
        let (now, kind) = (ctx.now(), self.request.response_type);
        let grant_id = id::text(&id::new_id(ctx.now_ms, ctx.entropy));
        let scope = self.scope.join(" ");
        let event = |kind| {
            NewEvent::new(kind, ctx.now_ms)
                .subject(&self.session.subject)
                .client(&self.client.client_id)
                .grant(&grant_id)
                .session(&self.session.id)
        };
        let code = kind.code.then(|| self.code(ctx, &grant_id, &scope));
        let access = kind.token.then(|| self.access(ctx, &grant_id, &scope)).transpose()?;
        let id_token = if kind.id_token { Some(self.id_token(ctx, code.as_ref().map(|(c, _)| c), access.as_ref(), &scope)?) } else { None };
        let until = now + access.as_ref().map_or(0, |a| a.expires_in).max(2 * LONGEST);
        let mut change = Change::new()
            .step(Step::SessionLive { id: self.session.id.clone(), now })
            .step(Step::StartGrant(self.grant(&grant_id, &scope, now, until)));
        let mut pairs = Pairs::new();
        if let Some((code, put)) = code {
            pairs.push(("code", code.expose().to_owned()));
            change = change.step(put);
        }
        if let Some(consent) = &self.consent {
            change = change
                .step(Step::PutConsent(consent.clone()))
                .event(event(EventKind::ConsentGranted).with("scope", consent.scopes.join(" ")));
        }
        change =
            change.event(event(EventKind::GrantStarted).with("scope", scope.as_str()).with("resource", self.request.resource.as_str()));
        if kind.code {
            change = change.event(event(EventKind::CodeIssued));
        }
        if let Some(access) = access {
            pairs.push(("access_token", access.text.expose().to_owned()));
            pairs.push(("token_type", access.token_type.to_owned()));
            pairs.push(("expires_in", access.expires_in.to_string()));
            pairs.push(("scope", scope));
            change = change.and(access.change);
        }
        pairs.extend(id_token.map(|text| ("id_token", text)));
        if self.scope.iter().any(|s| s == "openid") {
            // Whoever is told of the session may ask about it, and hears of its end.
            let at = self.request.back.address.as_str();
            let state = session_state::of(&self.client.client_id, at, &self.session.id, ctx.mac, ctx.entropy);
            pairs.extend(state.filter(|_| session_state::offered(ctx.settings)).map(|text| ("session_state", text)));
            change.steps.extend(backchannel_logout::takes_part(self.client, self.session, ctx.settings, now));
        }
        Ok(Given { change, pairs })
    }

    fn code(&self, ctx: &Context<'_>, grant: &str, scope: &str) -> (Plain, Step) {
        let (now, issued) = (ctx.now(), secret::generate(SecretKind::Code, ctx.now_ms, ctx.entropy, ctx.mac));
        let put = Step::Put(Artefact {
            kind: ArtefactKind::Code,
            id: issued.id.to_vec(),
            mac: issued.mac.to_vec(),
            grant: Some(grant.to_owned()),
            document: json!(self.document(scope)).to_string(),
            created_at: now,
            expires_at: now + ctx.settings.code_ttl.clamp(1, LONGEST),
            consumed_at: None,
            successor: None,
            seq: 0,
        });
        (issued.plain, put)
    }

    fn access(&self, ctx: &Context<'_>, grant: &str, scope: &str) -> Result<Access, OAuthError> {
        let (scope, authentication) = (Scope::parse(scope)?, self.authentication());
        let order = Order {
            client: self.client,
            server: self.server,
            audience: &self.request.resource,
            subject: &self.session.subject,
            grant: Some(grant),
            session: Some(&self.session.id),
            scope: &scope,
            authentication: Some(&authentication),
            user: Some(self.account()?),
            grant_type: grants::IMPLICIT,
            confirmation: None,
            details: self.request.details.as_ref(),
            actor: None,
            from: None,
            device: None,
        };
        issue::access_token(ctx, &order)
    }

    fn id_token(&self, ctx: &Context<'_>, code: Option<&Plain>, access: Option<&Access>, scope: &str) -> Result<String, OAuthError> {
        let user = self.account()?;
        let asked = userinfo::asked_for(user, self.request.claims.as_ref(), userinfo::Place::IdToken);
        let mut told = Map::new();
        if code.is_none() && access.is_none() {
            // Nobody can ask userinfo for them (OpenID Connect Core §5.4).
            told = userinfo::claims(user, scope, None);
            told.remove("sub");
        }
        told.extend(asked);
        let about = id_token::About {
            client: self.client,
            subject: &self.session.subject,
            session: Some(&self.session.id),
            authentication: &self.authentication(),
            nonce: self.request.nonce.as_deref(),
            access_token: access.map_or("", |a| a.text.expose()),
            asked: told,
        };
        let beside = id_token::Beside { code: code.map(Plain::expose), state: self.request.back.state.as_deref() };
        id_token::sign_beside(ctx, &about, &beside)
    }

    fn account(&self) -> Result<&User, OAuthError> {
        self.user.ok_or_else(|| OAuthError::fault("the account behind the session is gone or disabled"))
    }

    fn grant(&self, id: &str, scope: &str, now: i64, expires_at: i64) -> Grant {
        let document = GrantDocument {
            resource: self.request.resource.clone(),
            authentication: self.authentication(),
            claims: self.request.claims.clone(),
            details: self.request.details.clone(),
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
            expires_at,
            ended_at: None,
        }
    }

    fn authentication(&self) -> Authentication {
        Authentication {
            auth_time: self.session.auth_time,
            acr: Some(acr::reached(&self.request.acr_values, &self.session.amr).to_owned()),
            amr: self.session.amr.clone(),
        }
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
            dpop_jkt: self.request.dpop_jkt.clone(),
            details: self.request.details.clone(),
        }
    }
}
