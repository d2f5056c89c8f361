//! What a token answer gave, as things for the journal.
use serde_json::Value;

use super::journal::{Kind, Tag, Thing};
use crate::kit::http::{Answer, claims, jose_header};

/// An answer of the token endpoint, read.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub things: Vec<Thing>,
    /// Events that must tell of it.
    pub tells: Vec<String>,
    pub refresh: Option<String>,
    /// What the refresh token hangs on.
    pub tags: Vec<Tag>,
    pub grant: Option<String>,
    pub session: Option<String>,
}

impl Given {
    /// Reads a 200 of the token endpoint; `path` is where the gateway takes such tokens. Anything else gives nothing.
    pub fn read(answer: &Answer, path: &'static str) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else { return Self::default() };
        let Some(text) = body["access_token"].as_str() else { return Self::default() };
        let mut tags = vec![format!("token:{text}")];
        let mut given = Self { refresh: body["refresh_token"].as_str().map(str::to_owned), ..Self::default() };
        if text.starts_with("eyJ") {
            let (claims, header) = (claims(text), jose_header(text));
            let member = |name: &str| claims[name].as_str().map(str::to_owned);
            let more =
                [("client", member("client_id")), ("subject", member("sub")), ("grant", member("grant")), ("session", member("sid"))];
            given.tags = more.iter().filter_map(|(tag, value)| value.as_ref().map(|v| format!("{tag}:{v}"))).collect();
            (given.grant, given.session) = (member("grant"), member("sid"));
            tags.extend(given.tags.iter().cloned());
            tags.push(format!("key:{}", header["kid"].as_str().unwrap_or_default()));
            given.tells.extend(member("jti").map(|jti| format!("token.issued {jti}")));
        }
        if body["token_type"] == "DPoP" {
            // It needs a proof wherever it is shown; what counts here is that it was given.
            return given;
        }
        let until = super::journal::later(body["expires_in"].as_i64().unwrap_or(0));
        given.things.push(Thing { kind: Kind::Access { path }, text: text.to_owned(), tags, until });
        given
    }

    /// More that the token hangs on.
    pub fn tagged(mut self, tag: &str) -> Self {
        for thing in &mut self.things {
            if !thing.tags.iter().any(|t| t == tag) {
                thing.tags.push(tag.to_owned());
            }
        }
        self
    }
}
