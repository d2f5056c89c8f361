//! Requests against OpenAPI 3.1 documents and JSON Schema (2020-12): compiled once, asked often; nothing is ever fetched.
//!
//! Read in this order: [`rule`] (one schema), [`reference`] (what schemas point to), [`document`] (the operations of an OpenAPI
//! document), [`template`] (their paths), [`parameter`] (what is in path, query, headers and cookies), [`media`] (what a body is).
//!
//! Patterns are matched by an engine whose time is linear in the text; patterns it cannot express (look-around, references back)
//! are refused when the schema is read. What is wrong with a request is told by place and kind, never by its values.
pub mod document;
pub mod media;
pub mod parameter;
pub mod reference;
pub mod rule;
pub mod template;

pub use document::{Body, Content, Document, Found, Operation};
pub use rule::Rule;

/// Something wrong, and where: in a request (a JSON pointer under `/path`, `/query`, `/header`, `/cookie`, `/body`), or in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: String,
    pub why: String,
}

impl Fault {
    /// At most this many are told of one request.
    pub const MOST: usize = 16;
    /// Pointers longer than this are cut.
    const AT_MAX: usize = 256;

    /// What is wrong, and where.
    pub fn new(at: impl Into<String>, why: impl Into<String>) -> Self {
        let mut at: String = at.into();
        if at.len() > Self::AT_MAX {
            let cut = (0..=Self::AT_MAX).rev().find(|n| at.is_char_boundary(*n)).unwrap_or(0);
            at.truncate(cut);
        }
        Self { at, why: why.into() }
    }
}
