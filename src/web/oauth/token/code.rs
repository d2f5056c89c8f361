//! An authorization code (RFC 6749 §4.1.3).
use ledger::ArtefactKind;
use protocol::{OAuthError, grants, stored::CodeDocument};
use tokens::secret::SecretKind;

use super::{Asked, Given, Loaded, conclude, found};
use crate::{oauth::context, reply::Failed};

impl Asked<'_> {
    pub(super) async fn code(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let text = form.get("code").ok_or(OAuthError::request("code is missing"))?;
        let (artefact, document) = found::<CodeDocument>(app, SecretKind::Code, ArtefactKind::Code, text).await?;
        let loaded = Loaded::of(app, &artefact, &document.subject, &document.resource).await?;
        let found = grants::code::Found { artefact: &artefact, document: &document, behind: loaded.behind() };
        let decided = grants::code::decide(&context(app, &app.keys.load(), head, evidence), client, form, &found);
        conclude(self, grants::AUTHORIZATION_CODE, decided).await
    }
}
