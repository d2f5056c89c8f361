//! A machine's own token (RFC 6749 §4.4).
use protocol::grants;

use super::{Asked, Given, give, server};
use crate::{oauth::context, reply::Failed};

impl Asked<'_> {
    pub(super) async fn client_credentials(&self) -> Result<Given, Failed> {
        let Self { app, client, form, head, evidence } = *self;
        let target = grants::client_credentials::target(&context(app, &app.keys.load(), head, evidence), client, form)?;
        let server = server(app, &target).await?;
        let decided =
            grants::client_credentials::decide(&context(app, &app.keys.load(), head, evidence), client, form, &target, server.as_deref());
        give(self, grants::CLIENT_CREDENTIALS, decided?).await
    }
}
