//! What a person answers somewhere else: the rows behind a device code (RFC 8628) and a backchannel request (CIBA Core), and how one becomes tokens.
//!
//! Three rows of one kind. The *request* is what the client holds the secret of; it is consumed when it gives tokens. The *door* is what the
//! person answers; consuming it is the one conditional statement by which exactly one answer wins. The *verdict* is that answer.
use ledger::{Artefact, ArtefactKind, Change, EventKind, Grant, NewEvent, Session, Step};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::{
    Entropy, b64, hash, id,
    secret::{Issued, SecretKind},
};

use super::{Behind, CIBA, DEVICE_CODE, Granted, REFRESH_TOKEN, Refused, answer, audience, family, still_allowed, unauthorized};
use crate::{
    AuthenticatedClient, Code, OAuthError, Scope, acr, evidence, id_token,
    issue::{self, Context, Order},
    stored::{Authentication, GrantDocument, RefreshDocument},
    userinfo,
};

/// Seconds a client waits between two polls, at first; and what each hasty one adds (RFC 8628 §3.5, CIBA Core §11).
pub const INTERVAL: u32 = 5;
/// Seconds a request stays readable after its end: whoever polls late hears `expired_token`.
const KEPT: i64 = 600;
/// Seconds a grant nobody fetched outlives its request.
const SPARE: i64 = 60;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Its grant type.
    pub grant_type: &'static str,
    /// Its rows.
    pub kind: ArtefactKind,
    /// What the client holds.
    pub secret: SecretKind,
    approved: EventKind,
    denied: EventKind,
}

/// Device authorization (RFC 8628).
pub const DEVICE: Flow = Flow {
    grant_type: DEVICE_CODE,
    kind: ArtefactKind::DeviceCode,
    secret: SecretKind::Device,
    approved: EventKind::DeviceApproved,
    denied: EventKind::DeviceDenied,
};
/// Client-initiated backchannel authentication (CIBA Core 1.0).
pub const BACKCHANNEL: Flow = Flow {
    grant_type: CIBA,
    kind: ArtefactKind::Backchannel,
    secret: SecretKind::Backchannel,
    approved: EventKind::BackchannelApproved,
    denied: EventKind::BackchannelDenied,
};

/// Document of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    pub client_id: String,
    /// Who has to answer; none: whoever has the user code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Sorted, space-separated.
    pub scope: String,
    pub resource: String,
    /// Seconds since the epoch.
    pub expires_at: i64,
    /// The authentication classes wished for (CIBA Core §7.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
    /// What the person sees at both ends (CIBA Core §7.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_message: Option<String>,
    /// The sealed bearer token of the client's notification endpoint: the client is told of the answer (CIBA Core §10.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification: Option<String>,
}

/// Document of the door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The request's id, base64url.
    pub request: String,
}

impl Door {
    /// The request behind it.
    #[must_use]
    pub fn id(&self) -> Option<Vec<u8>> {
        b64::decode(&self.request)
    }
}

/// Document of the verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Yes or no.
    pub approved: bool,
    /// Whose.
    pub subject: String,
    /// What it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The session it was given in; none where an administrator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub authentication: Authentication,
}

/// The id of a request's verdict.
#[must_use]
pub fn verdict_id(request: &[u8]) -> Vec<u8> {
    hash::sha256(&[b"verdict".as_slice(), request].concat()).to_vec()
}

/// The id of a door that nobody has to type.
#[must_use]
pub fn door_id(request: &[u8]) -> Vec<u8> {
    hash::sha256(&[b"door".as_slice(), request].concat()).to_vec()
}

/// Under what name a person's doors are found.
#[must_use]
pub fn owner(subject: &str) -> String {
    format!("person:{subject}")
}

fn row(flow: &Flow, id: Vec<u8>, document: String, now: i64, expires_at: i64) -> Artefact {
    Artefact {
        kind: flow.kind,
        id,
        mac: Vec::new(),
        grant: None,
        document,
        created_at: now,
        expires_at,
        consumed_at: None,
        successor: None,
        seq: 0,
    }
}

/// The steps that store a request and its door. Both are guards: an id that is taken refuses them.
#[must_use]
pub fn begin(flow: &Flow, issued: &Issued, requested: &Requested, door: Vec<u8>, now: i64) -> [Step; 2] {
    let request = Artefact {
        mac: issued.mac.to_vec(),
        ..row(flow, issued.id.to_vec(), json!(requested).to_string(), now, requested.expires_at.saturating_add(KEPT))
    };
    let document = json!(Door { request: b64::encode(&issued.id) }).to_string();
    let door = Artefact { grant: requested.subject.as_deref().map(owner), ..row(flow, door, document, now, requested.expires_at) };
    [Step::Put(request), Step::Put(door)]
}

/// A person (or an administrator in their name) at a door.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// Which flow.
    pub flow: &'a Flow,
    /// The door's id.
    pub door: &'a [u8],
    /// The request's id.
    pub request: &'a [u8],
    /// The request.
    pub requested: &'a Requested,
    /// Who answers.
    pub subject: &'a str,
    /// In which session; none for an administrator.
    pub session: Option<&'a Session>,
    /// How an administrator says the person was authenticated (RFC 8176); a session knows better.
    pub methods: &'a [String],
    /// Milliseconds since the epoch.
    pub now_ms: i64,
}

impl Answering<'_> {
    const fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    fn event(&self, kind: EventKind) -> NewEvent {
        let mut event = NewEvent::new(kind, self.now_ms).subject(self.subject).client(&self.requested.client_id);
        event.session = self.session.map(|s| s.id.clone());
        event
    }

    fn guarded(&self, verdict: &Verdict) -> Change {
        let mut change = Change::new();
        if let Some(session) = self.session {
            change = change.step(Step::SessionLive { id: session.id.clone(), now: self.now() });
        }
        let consume = Step::Consume { kind: self.flow.kind, id: self.door.to_vec(), now: self.now(), successor: None };
        let kept = self.requested.expires_at.saturating_add(KEPT);
        let put = row(self.flow, verdict_id(self.request), json!(verdict).to_string(), self.now(), kept);
        change.step(consume).step(Step::Put(put))
    }

    fn authentication(&self) -> Authentication {
        match self.session {
            Some(session) => Authentication {
                auth_time: session.auth_time,
                acr: Some(acr::reached(&self.requested.acr, &session.amr).to_owned()),
                amr: session.amr.clone(),
            },
            None => Authentication {
                auth_time: self.now(),
                acr: Some(self.methods).filter(|m| !m.is_empty()).map(|m| acr::reached(&self.requested.acr, m).to_owned()),
                amr: self.methods.to_vec(),
            },
        }
    }

    /// Yes: the grant begins. It is an answer to this request alone: no consent is remembered by which the client could get codes without
    /// a page (OpenID Connect Core §3.1.2.4).
    #[must_use]
    pub fn approve(&self, entropy: &dyn Entropy) -> Change {
        let (now, authentication) = (self.now(), self.authentication());
        let grant = id::text(&id::new_id(self.now_ms, entropy));
        let document =
            GrantDocument { resource: self.requested.resource.clone(), authentication: authentication.clone(), ..GrantDocument::default() };
        let started = Grant {
            id: grant.clone(),
            subject: self.subject.to_owned(),
            client_id: self.requested.client_id.clone(),
            session: self.session.map(|s| s.id.clone()),
            scope: self.requested.scope.clone(),
            document: json!(document),
            created_at: now,
            expires_at: self.requested.expires_at.saturating_add(SPARE),
            ended_at: None,
        };
        let verdict = Verdict {
            approved: true,
            subject: self.subject.to_owned(),
            grant: Some(grant.clone()),
            session: self.session.map(|s| s.id.clone()),
            authentication,
        };
        let scope = self.requested.scope.as_str();
        self.guarded(&verdict)
            .step(Step::StartGrant(started))
            .event(self.event(self.flow.approved).grant(&grant).with("scope", scope).with("request", b64::encode(self.request)))
            .event(
                self.event(EventKind::GrantStarted).grant(&grant).with("scope", scope).with("resource", self.requested.resource.as_str()),
            )
    }

    /// No.
    #[must_use]
    pub fn deny(&self) -> Change {
        let verdict = Verdict { approved: false, subject: self.subject.to_owned(), ..Verdict::default() };
        self.guarded(&verdict).event(self.event(self.flow.denied).with("request", b64::encode(self.request)))
    }
}

/// A request that was found under its id and whose secret is right.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its row, consumed or not.
    pub artefact: &'a Artefact,
    /// Its document.
    pub document: &'a Requested,
    /// The answer, if there is one.
    pub verdict: Option<&'a Verdict>,
    /// What stands behind a yes.
    pub behind: Behind<'a>,
}

/// Decides over a poll (RFC 8628 §3.5, CIBA Core §11). Whether one came too soon is asked by whoever hears `authorization_pending`.
///
/// # Errors
/// `authorization_pending`, `access_denied`, `expired_token`, `invalid_grant` and its fellows.
pub fn redeem(ctx: &Context<'_>, client: &AuthenticatedClient, flow: &Flow, found: &Found<'_>) -> Result<Granted, Refused> {
    let (artefact, document, now) = (found.artefact, found.document, ctx.now());
    if !client.client().may_use(flow.grant_type) {
        return Err(unauthorized().into());
    }
    if document.client_id != client.id() {
        return Err(OAuthError::grant("another client's request").into());
    }
    if artefact.consumed_at.is_some() {
        return Err(OAuthError::grant("the request was redeemed before").into());
    }
    // Asked first: a client that proves no key hears so at its first poll.
    let confirmation = super::bound(ctx, client)?;
    let verdict = match found.verdict {
        Some(verdict) if !verdict.approved => return Err(OAuthError::new(Code::AccessDenied, "the request was denied").into()),
        _ if document.expires_at <= now => return Err(OAuthError::new(Code::ExpiredToken, "the request has expired").into()),
        None => return Err(OAuthError::new(Code::AuthorizationPending, "nobody has answered yet").into()),
        Some(verdict) => verdict,
    };
    let (grant, user) = found.behind.live(now)?;
    audience(&document.resource, ctx.settings, found.behind.server)?;
    still_allowed(client.client(), &document.resource, ctx.settings)?;
    let registered = Scope::parse(&client.client().scope)?;
    let scope = Scope::parse(&document.scope)?.only(|token| registered.has(token));
    let order = Order {
        client: client.client(),
        server: found.behind.server,
        audience: &document.resource,
        subject: &user.id,
        grant: Some(&grant.id),
        session: verdict.session.as_deref(),
        scope: &scope,
        authentication: Some(&verdict.authentication),
        user: Some(user),
        grant_type: flow.grant_type,
        confirmation: confirmation.as_ref(),
        details: None,
        actor: None,
        from: None,
        device: None,
    };
    let access = issue::access_token(ctx, &order)?;
    let lives_until = now + access.expires_in;
    let (issued, mut answer) = answer(access, scope.to_string());
    let offline = scope.has("offline_access");
    let mut steps = vec![client.unchanged(), Step::GrantLive { id: grant.id.clone(), now }];
    // A grant for when the person is away outlives the session it was given in.
    if let Some(session) = verdict.session.as_ref().filter(|_| !offline) {
        steps.push(Step::SessionLive { id: session.clone(), now });
    }
    steps.push(Step::Consume { kind: flow.kind, id: artefact.id.clone(), now, successor: None });
    let mut until = lives_until;
    if offline && client.client().may_use(REFRESH_TOKEN) {
        let first = RefreshDocument {
            client_id: document.client_id.clone(),
            subject: user.id.clone(),
            session: verdict.session.clone(),
            scope: scope.to_string(),
            resource: document.resource.clone(),
            authentication: verdict.authentication.clone(),
            nonce: None,
            family_expires_at: family::end(ctx, client.client()),
            confirmation: evidence::binds_refresh(client.client(), confirmation.as_ref()).cloned(),
            constrained: confirmation.is_some(),
            ..RefreshDocument::default()
        };
        until = until.max(first.family_expires_at);
        let (plain, put) = family::first(ctx, &grant.id, &first)?;
        steps.push(put);
        answer.refresh_token = Some(plain);
    }
    steps.push(Step::UpdateGrant { id: grant.id.clone(), scope: scope.to_string(), document: grant.document.clone(), expires_at: until });
    if userinfo::opens(&scope) {
        answer.id_token = Some(id_token(ctx, client, verdict, &user.id, answer.access_token.expose())?);
    }
    steps.extend(issued.steps);
    Ok(Granted { change: Change { steps, events: issued.events }, answer })
}

fn id_token(
    ctx: &Context<'_>,
    client: &AuthenticatedClient,
    verdict: &Verdict,
    subject: &str,
    access_token: &str,
) -> Result<String, OAuthError> {
    let asked: Map<String, Value> = Map::new();
    let about = id_token::About {
        client: client.client(),
        subject,
        session: verdict.session.as_deref(),
        authentication: &verdict.authentication,
        nonce: None,
        access_token,
        asked,
    };
    id_token::sign(ctx, &about)
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

    #[test]
    fn a_yes_is_to_one_request_and_is_not_remembered() {
        let requested = Requested { client_id: "tv".into(), scope: "openid read".into(), expires_at: 200, ..Requested::default() };
        let answering = Answering {
            flow: &DEVICE,
            door: b"door",
            request: b"request",
            requested: &requested,
            subject: "alice",
            session: None,
            methods: &[],
            now_ms: 100_000,
        };
        let change = answering.approve(&Fixed);
        assert!(change.steps.iter().any(|s| matches!(s, Step::StartGrant(g) if g.scope == "openid read")));
        assert!(!change.steps.iter().any(|s| matches!(s, Step::PutConsent(_))), "prompt=none would give codes by it");
    }
}
