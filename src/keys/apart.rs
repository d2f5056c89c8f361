//! The key-encryption key of a gateway process of its own: it has no keys of the issuer, and secrets of its own to seal all the same.
use ledger::Store;
use tokens::{Entropy, seal::Kek};

use super::{first::Found, kek};

/// Opens it, or makes it where the database is new. Without it the gateway runs, and only what needs it is refused.
pub async fn kek(store: &dyn Store, source: &kek::Source, create: bool, entropy: &dyn Entropy) -> Option<Kek> {
    let found =
        Found::read(store).await.inspect_err(|error| tracing::warn!(%error, "the database could not be asked for its keys")).ok()?;
    let virgin = found.virgin();
    let taken = kek::take(source, virgin, create, entropy);
    let kek = match taken {
        Ok((kek, _)) => kek,
        Err(error) => {
            tracing::info!(%error, "this gateway can sign no assertions and open no secrets of trusted issuers");
            return None;
        }
    };
    if !virgin && let Err(error) = found.open(&kek) {
        tracing::warn!(%error, "this gateway can sign no assertions and open no secrets of trusted issuers");
        return None;
    }
    Some(kek)
}
