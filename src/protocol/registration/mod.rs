//! Dynamic client registration (RFC 7591, RFC 7592, OpenID Connect Registration 1.0): what a client says of itself becomes a record.
//!
//! Read in this order: [`metadata`] (what may be said), [`statement`] (what somebody trusted says), [`manage`] (the changes and
//! answers), [`document`] (clients that do not register but publish what they would say).
pub mod document;
pub mod manage;
pub mod metadata;
pub mod statement;

use ledger::Mistake;
use serde_json::{Map, Value, json};

use crate::{Code, Settings};

/// The scope of an initial access token (RFC 7591 §3).
pub const SCOPE: &str = "doorward.register";

/// A refusal (RFC 7591 §3.2.2). Its description names the member that is wrong; it never repeats a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the client hears.
    pub code: Code,
    /// What it hears in words.
    pub description: String,
}

impl Refused {
    /// A refusal in words, put into the characters of RFC 6749 §5.2.
    #[must_use]
    pub fn new(code: Code, description: &str) -> Self {
        let readable = description.replace('§', "section ");
        let description = readable.chars().map(|c| match c {
            '"' => '\'',
            '\\' => '/',
            ' '..='~' => c,
            _ => '?',
        });
        Self { code, description: description.take(400).collect() }
    }
    /// `invalid_client_metadata` about a member.
    #[must_use]
    pub fn at(member: &str, why: &str) -> Self {
        Self::new(Code::InvalidClientMetadata, &format!("{member}: {why}"))
    }
    /// The first mistake of a record; redirect URIs have a code of their own.
    fn first(mistakes: Vec<Mistake>) -> Option<Self> {
        let Mistake { at, why } = mistakes.into_iter().next()?;
        let code = if at.starts_with("redirect_uris") { Code::InvalidRedirectUri } else { Code::InvalidClientMetadata };
        Some(Self::new(code, &format!("{at}: {why}")))
    }
    /// The JSON document of RFC 7591 §3.2.2.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        json!({"error": self.code.as_str(), "error_description": self.description}).to_string().into_bytes()
    }
}

/// The object in a registration request: one JSON object without duplicate members, at most 32 levels deep.
///
/// # Errors
/// `invalid_client_metadata`.
pub fn read(octets: &[u8]) -> Result<Map<String, Value>, Refused> {
    tokens::strict::object(octets)
        .map_err(|_| Refused::new(Code::InvalidClientMetadata, "the body must be one JSON object without duplicate members"))
}

/// What registration adds to the metadata document (RFC 8414 §2; client ID metadata documents §6).
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    if settings.registration {
        members.insert("registration_endpoint".into(), settings.url("/register").into());
    }
    if settings.client_id_metadata {
        members.insert("client_id_metadata_document_supported".into(), true.into());
    }
}

#[cfg(test)]
mod tests;
