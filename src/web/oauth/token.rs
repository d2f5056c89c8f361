//! The token endpoint (RFC 6749 §3.2).
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use ledger::{Artefact, ArtefactKind, Grant, Outcome};
use protocol::{
    AuthenticatedClient, Code, Form, OAuthError, ResourceServer,
    grants::{self, Behind, Granted, Refused},
    stored::{CodeDocument, RefreshDocument},
};
use tokens::secret::{self, SecretKind};

use super::{client, context, form, octets};
use crate::{
    App, credential,
    reply::{self, Failed},
};

/// How often a decision is made anew when somebody else was first.
const TRIES: usize = 3;

/// `POST /token`
pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(app: &App, request: Request) -> Result<Response, Failed> {
    let (parts, body) = request.into_parts();
    let octets = octets(&parts, body).await?;
    let form = form(&parts, &octets)?;
    let client = client(app, "token", &parts, &form).await?;
    match form.get("grant_type") {
        Some(grants::CLIENT_CREDENTIALS) => client_credentials(app, &client, &form).await,
        Some(grants::AUTHORIZATION_CODE) => code(app, &client, &form).await,
        Some(grants::REFRESH_TOKEN) => refresh(app, &client, &form).await,
        Some(_) => Err(OAuthError::new(Code::UnsupportedGrantType, "the grant_type is not supported").into()),
        None => Err(OAuthError::request("grant_type is missing").into()),
    }
}

async fn client_credentials(app: &App, client: &AuthenticatedClient, form: &Form<'_>) -> Result<Response, Failed> {
    let target = grants::client_credentials::target(&context(app, &app.keys.load()), client, form)?;
    let server = server(app, &target).await?;
    let granted = grants::client_credentials::decide(&context(app, &app.keys.load()), client, form, &target, server.as_deref())?;
    match give(app, grants::CLIENT_CREDENTIALS, granted).await? {
        Some(response) => Ok(response),
        None => Err(OAuthError::fault("a change without guards was refused").into()),
    }
}

async fn code(app: &App, client: &AuthenticatedClient, form: &Form<'_>) -> Result<Response, Failed> {
    let text = form.get("code").ok_or(OAuthError::request("code is missing"))?;
    for _ in 0..TRIES {
        let (artefact, document) = found::<CodeDocument>(app, SecretKind::Code, ArtefactKind::Code, text).await?;
        let loaded = Loaded::of(app, &artefact, &document.subject, &document.resource).await?;
        let found = grants::code::Found { artefact: &artefact, document: &document, behind: loaded.behind() };
        let decided = grants::code::decide(&context(app, &app.keys.load()), client, form, &found);
        if let Some(response) = conclude(app, grants::AUTHORIZATION_CODE, decided).await? {
            return Ok(response);
        }
    }
    Err(OAuthError::grant("a guard of the change keeps refusing").into())
}

async fn refresh(app: &App, client: &AuthenticatedClient, form: &Form<'_>) -> Result<Response, Failed> {
    let text = form.get("refresh_token").ok_or(OAuthError::request("refresh_token is missing"))?;
    for _ in 0..TRIES {
        let (artefact, document) = found::<RefreshDocument>(app, SecretKind::Refresh, ArtefactKind::Refresh, text).await?;
        let successor = match &artefact.successor {
            Some(id) if app.settings.refresh_grace > 0 => app.store.artefact(ArtefactKind::Refresh, id).await?,
            _ => None,
        };
        let loaded = Loaded::of(app, &artefact, &document.subject, &document.resource).await?;
        let found =
            grants::refresh::Found { artefact: &artefact, document: &document, successor: successor.as_ref(), behind: loaded.behind() };
        let decided = grants::refresh::decide(&context(app, &app.keys.load()), client, form, &found);
        if let Some(response) = conclude(app, grants::REFRESH_TOKEN, decided).await? {
            return Ok(response);
        }
    }
    Err(OAuthError::grant("a guard of the change keeps refusing").into())
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
    user: Option<accounts::User>,
    server: Option<Arc<ResourceServer>>,
}

impl Loaded {
    async fn of(app: &App, artefact: &Artefact, subject: &str, resource: &str) -> Result<Self, Failed> {
        let grant = match &artefact.grant {
            Some(id) => app.store.grant(id).await?,
            None => None,
        };
        Ok(Self { grant, user: credential::user(app, subject).await?, server: server(app, resource).await? })
    }
    fn behind(&self) -> Behind<'_> {
        Behind { grant: self.grant.as_ref(), user: self.user.as_ref(), server: self.server.as_deref() }
    }
}

async fn server(app: &App, resource: &str) -> Result<Option<Arc<ResourceServer>>, Failed> {
    if resource == app.settings.issuer {
        return Ok(None);
    }
    Ok(app.catalog.resource_server(resource).await?)
}

/// Makes a decision durable and answers; nothing if a guard refused and it has to be made anew.
async fn conclude(app: &App, grant_type: &'static str, decided: Result<Granted, Refused>) -> Result<Option<Response>, Failed> {
    match decided {
        Ok(granted) => give(app, grant_type, granted).await,
        Err(Refused { error, change }) => {
            if let Some(change) = change {
                app.store.apply(change).await?;
            }
            Err(error.into())
        }
    }
}

async fn give(app: &App, grant_type: &'static str, granted: Granted) -> Result<Option<Response>, Failed> {
    let Granted { change, answer } = granted;
    match app.store.apply(change).await? {
        Outcome::Applied { .. } => {
            metrics::counter!("tokens_issued_total", "grant_type" => grant_type, "format" => answer.format.as_str()).increment(1);
            Ok(Some(reply::json(StatusCode::OK, Bytes::from(answer.json()))))
        }
        Outcome::Refused(_) => Ok(None),
    }
}
