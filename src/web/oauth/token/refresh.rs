//! A refresh token (RFC 6749 §6).
use ledger::ArtefactKind;
use protocol::{OAuthError, grants, stored::RefreshDocument};
use tokens::secret::SecretKind;

use super::{Asked, Given, Loaded, conclude, found};
use crate::{oauth::context, reply::Failed};

impl Asked<'_> {
    pub(super) async fn refresh(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let text = form.get("refresh_token").ok_or(OAuthError::request("refresh_token is missing"))?;
        let (artefact, document) = found::<RefreshDocument>(app, SecretKind::Refresh, ArtefactKind::Refresh, text).await?;
        let successor = match &artefact.successor {
            Some(id) if app.settings.refresh_grace > 0 => app.store.artefact(ArtefactKind::Refresh, id).await?,
            _ => None,
        };
        let loaded = Loaded::of(app, &artefact, &document.subject, &document.resource).await?;
        let found =
            grants::refresh::Found { artefact: &artefact, document: &document, successor: successor.as_ref(), behind: loaded.behind() };
        let decided = grants::refresh::decide(&context(app, &app.keys.load(), head, evidence), client, form, &found);
        conclude(self, grants::REFRESH_TOKEN, decided).await
    }
}
