//! The token endpoint (RFC 6749 §3.2): one file a grant type.
mod client_credentials;
mod code;
mod decoupled;
mod jwt_bearer;
mod refresh;
mod token_exchange;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use ledger::{Artefact, ArtefactKind, Grant, Guarded, Outcome, StoreError};
use protocol::{
    AuthenticatedClient, Code, Evidence, Form, OAuthError, ResourceServer,
    grants::{self, Behind, Granted, Refused},
};
use tokens::secret::{self, SecretKind};

use super::{client, evidence, form, octets, once};
use crate::{
    App,
    reply::{self, Failed},
};

/// How often a decision is made anew when somebody else was first.
const TRIES: usize = 3;

/// `POST /token`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await;
    answer(&app, &parts, octets).await
}

/// The same, with the body read.
pub(crate) async fn answer(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Response {
    let response = serve(app, parts, octets).await.unwrap_or_else(IntoResponse::into_response);
    evidence::tell(app, response)
}

async fn serve(app: &App, parts: &Parts, octets: Result<Bytes, Failed>) -> Result<Response, Failed> {
    let octets = octets?;
    let form = form(parts, &octets)?;
    let evidence = evidence::evidence(app, parts, "/token", None)?;
    for attempt in 1..=TRIES {
        // Before the client is believed: a revocation that is not seen in the catalogue lies above this position.
        let head = app.revoked.head();
        let client = client(app, "token", parts, &form).await?;
        let asked = Asked { app, client: &client, form: &form, head, evidence: &evidence };
        let given = match asked.decided().await {
            Ok(given) => given,
            Err(why) => return Err(Box::pin(once::refused(app, "token", parts, &client, why)).await),
        };
        match given {
            Given::Answer(response) => return Ok(response),
            Given::Told(response) => {
                Box::pin(once::spend_alone(app, "token", parts, &client)).await?;
                return Ok(response);
            }
            Given::Replayed => return Err(Box::pin(once::replayed(app, "token", parts, &client)).await),
            // The client was changed, perhaps on another node: believe it anew, or not at all.
            Given::Refused(Guarded { step: 0 }) => app.catalog.forget_client(client.id()),
            Given::Refused(_) if attempt < TRIES || form.get("grant_type") == Some(grants::CLIENT_CREDENTIALS) => {}
            Given::Refused(_) => {
                let why = OAuthError::grant("a guard of the change keeps refusing").into();
                return Err(Box::pin(once::refused(app, "token", parts, &client, why)).await);
            }
        }
    }
    Err(StoreError::Unavailable("the client keeps changing".into()).into())
}

/// What became of one try.
enum Given {
    Answer(Response),
    /// Nothing was given.
    Told(Response),
    /// What proved the client was used before.
    Replayed,
    /// By this guard; the first is the client's.
    Refused(Guarded),
}

/// One try: who asks for what, and the ledger's head from before they were believed.
struct Asked<'a> {
    app: &'a App,
    client: &'a AuthenticatedClient,
    form: &'a Form<'a>,
    head: u64,
    evidence: &'a Evidence,
}

impl Asked<'_> {
    async fn decided(&self) -> Result<Given, Failed> {
        match self.form.get("grant_type") {
            Some(grants::CLIENT_CREDENTIALS) => self.client_credentials().await,
            Some(grants::AUTHORIZATION_CODE) => self.code().await,
            Some(grants::REFRESH_TOKEN) => self.refresh().await,
            // What is asked seldom has a future of its own: that of all others stays small.
            Some(grants::DEVICE_CODE) => {
                Box::pin(self.decoupled(&grants::decoupled::DEVICE, "device_code", "device_code is missing")).await
            }
            Some(grants::CIBA) => Box::pin(self.decoupled(&grants::decoupled::BACKCHANNEL, "auth_req_id", "auth_req_id is missing")).await,
            Some(grants::TOKEN_EXCHANGE) => Box::pin(self.token_exchange()).await,
            Some(grants::JWT_BEARER) => Box::pin(self.jwt_bearer()).await,
            Some(_) => Err(OAuthError::new(Code::UnsupportedGrantType, "the grant_type is not supported").into()),
            None => Err(OAuthError::request("grant_type is missing").into()),
        }
    }
}

/// A code or refresh token by its text, its secret compared.
async fn found<T: serde::de::DeserializeOwned>(
    app: &App,
    secret: SecretKind,
    kind: ArtefactKind,
    text: &str,
) -> Result<(Artefact, T), Failed> {
    let unknown = || OAuthError::grant("unknown or malformed");
    let presented = secret::parse(secret, text, &app.mac).ok_or_else(unknown)?;
    let artefact = app.store.artefact(kind, &presented.id).await?.ok_or_else(unknown)?;
    if !presented.matches(&artefact.mac) {
        return Err(unknown().into());
    }
    let document = serde_json::from_str(&artefact.document).map_err(|e| ledger::StoreError::Corrupt(e.to_string()))?;
    Ok((artefact, document))
}

/// What stands behind a code or refresh token.
struct Loaded {
    grant: Option<Grant>,
    user: Option<Arc<accounts::User>>,
    server: Option<Arc<ResourceServer>>,
}

impl Loaded {
    async fn of(app: &App, artefact: &Artefact, subject: &str, resource: &str) -> Result<Self, Failed> {
        let grant = match &artefact.grant {
            Some(id) => app.store.grant(id).await?,
            None => None,
        };
        Ok(Self { grant, user: app.catalog.user(subject).await?, server: server(app, resource).await? })
    }
    fn behind(&self) -> Behind<'_> {
        Behind { grant: self.grant.as_ref(), user: self.user.as_deref(), server: self.server.as_deref() }
    }
}

pub(super) async fn server(app: &App, resource: &str) -> Result<Option<Arc<ResourceServer>>, Failed> {
    if resource == app.settings.issuer {
        return Ok(None);
    }
    Ok(app.catalog.resource_server(resource).await?)
}

/// Makes a decision durable and answers, or says which guard refused it: it has to be made anew.
async fn conclude(asked: &Asked<'_>, grant_type: &'static str, decided: Result<Granted, Refused>) -> Result<Given, Failed> {
    match decided {
        Ok(granted) => give(asked, grant_type, granted).await,
        Err(Refused { error, change }) => {
            if let Some(change) = change {
                asked.app.store.apply(change).await?;
            }
            Err(error.into())
        }
    }
}

async fn give(asked: &Asked<'_>, grant_type: &'static str, granted: Granted) -> Result<Given, Failed> {
    let Granted { change, answer } = granted;
    let change = asked.client.spend(change);
    let steps = change.steps.len();
    let proof = change.steps.iter().position(protocol::evidence::is_once);
    match asked.app.store.apply(change).await? {
        Outcome::Applied { .. } => {
            metrics::counter!("tokens_issued_total", "grant_type" => grant_type, "format" => answer.format.as_str()).increment(1);
            Ok(Given::Answer(reply::json(StatusCode::OK, Bytes::from(answer.json()))))
        }
        Outcome::Refused(guard) if Some(guard.step) == proof => Err(evidence::replayed().into()),
        Outcome::Refused(guard) if asked.client.spent(steps, guard) => Ok(Given::Replayed),
        Outcome::Refused(guard) => Ok(Given::Refused(guard)),
    }
}
