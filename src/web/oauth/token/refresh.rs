//! A refresh token (RFC 6749 §6).
use ledger::{ArtefactKind, StoreError};
use protocol::{
    OAuthError,
    grants::{self, refresh::Shown},
    stored::RefreshDocument,
};
use tokens::secret::{self, SecretKind};

use super::{Asked, Given, Loaded, conclude};
use crate::{
    credential::{self, Asker},
    oauth::context,
    reply::Failed,
};

impl Asked<'_> {
    pub(super) async fn refresh(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let text = form.get("refresh_token").ok_or(OAuthError::request("refresh_token is missing"))?;
        let unknown = || OAuthError::grant("unknown or malformed");
        let found = credential::issued(app, Asker::of(client), (SecretKind::Refresh, ArtefactKind::Refresh), text).await?;
        let (presented, artefact) = found.ok_or_else(unknown)?;
        let (current, link) = (presented.matches(&artefact.mac), secret::is_link(SecretKind::Refresh, text, &app.mac));
        let shown = match (current, link) {
            (true, link) => Shown::Current { link },
            (false, true) => Shown::Spent(&presented.mac),
            (false, false) => return Err(unknown().into()),
        };
        let document: RefreshDocument = serde_json::from_str(&artefact.document).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let successor = match &artefact.successor {
            Some(id) if current && artefact.consumed_at.is_some() && app.settings.refresh_grace > 0 => {
                app.store.artefact(ArtefactKind::Refresh, id).await?
            }
            _ => None,
        };
        let loaded = Loaded::of(app, &artefact, &document.subject, &document.resource).await?;
        let (successor, behind) = (successor.as_ref(), loaded.behind());
        let found = grants::refresh::Found { artefact: &artefact, shown, document: &document, successor, behind };
        let decided = grants::refresh::decide(&context(app, &app.keys.load(), head, evidence), client, form, &found);
        conclude(self, grants::REFRESH_TOKEN, decided).await
    }
}
