//! API keys: what an administrator writes of one ([`record`]), how it is kept and believed ([`issued`]), what a gateway holds it to
//! ([`bounds`]), and when it was last used ([`uses`]).
//!
//! A key is kept as the keyed MAC of its whole text, whatever its form, and looked up by that. A gateway asks about one as about an opaque
//! token (RFC 7662), and says that it asks about a key: no text is ever both.
pub mod bounds;
pub mod issued;
pub mod moment;
pub mod record;
pub mod uses;

pub use bounds::Bounds;
pub use issued::{Found, Version, look, version_id};
pub use record::{ApiKey, Owner};
pub use uses::Uses;

use ledger::revocation;
use tokens::secret::{self, SecretKind};

/// The `token_type` of an answer about a key, the scheme of `Authorization` it may come in, and its challenge.
pub const SCHEME: &str = "ApiKey";

/// What a gateway says it asks about (`token_type_hint`, RFC 7662 §2.1).
pub const HINT: &str = "api_key";

/// The longest key, octets.
pub const MAX_KEY: usize = 512;

/// Names of query parameters that can only mean a key, in lower case: never used, and an invalid credential where keys are taken.
pub const IN_URL: [&str; 4] = ["api_key", "apikey", "api-key", "x-api-key"];

/// How revocations name a key.
#[must_use]
pub fn revocation_id(id: &str) -> String {
    format!("{}{id}", revocation::API_KEY)
}

/// Whether a text may be a key at all: visible ASCII without a comma (two joined headers would look like one), not too long, and whole if it
/// is of our own form. Nobody is asked about anything else.
#[must_use]
pub fn plausible(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        && (!text.starts_with(SecretKind::ApiKey.prefix()) || secret::well_formed(SecretKind::ApiKey, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_key_is_known_without_asking() {
        for good in ["k", "AKIA-something/else=", "a.b.c", &"x".repeat(MAX_KEY)] {
            assert!(plausible(good), "{good}");
        }
        for bad in ["", "a b", "a,b", "a\u{7f}", "ä", "dwk_", "dwk_made-up", &"x".repeat(MAX_KEY + 1)] {
            assert!(!plausible(bad), "{bad}");
        }
    }
}
