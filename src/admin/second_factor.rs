//! What an administrator does to a person's second factor: enrol it anew, take it away (RFC 6238).
use accounts::totp::{SLOT, Secret};
use ledger::{EventKind, ObjectKind};
use tokens::secret::Plain;

use crate::{
    objects::{ATTEMPTS, Failure, Objects, about},
    secrets,
    state::Actor,
};

impl Objects {
    /// Gives a user a new second factor in place of the old one: the secret, and what an authenticator scans. Neither is shown again.
    /// The account becomes another version, so that no login goes on that was asked before.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn enrol_totp(&self, name: &str, actor: &Actor) -> Result<(Plain, Plain), Failure> {
        let secret = Secret::generate(&*self.entropy);
        for _ in 0..ATTEMPTS {
            let stored = self.find(ObjectKind::User, name).await?.ok_or(Failure::Unknown)?;
            let order = self.order(actor);
            let sealed = secret.seal(&stored.id, &self.mac, &*self.entropy);
            let event = about(order, EventKind::SecretRotated, ObjectKind::User, &stored.id).subject(&stored.id);
            let change = self
                .touch(&stored, &stored.key, &stored.document, order)
                .step(secrets::put(ObjectKind::User, &stored.id, SLOT, sealed))
                .event(event.with("slot", SLOT));
            if self.store.apply(change).await?.applied() {
                return Ok((secret.base32(), secret.uri(&self.issuer, &stored.key)));
            }
        }
        Err(Failure::Stale)
    }

    /// Takes a user's second factor away. Idempotent.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn remove_totp(&self, name: &str, actor: &Actor) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let stored = self.find(ObjectKind::User, name).await?.ok_or(Failure::Unknown)?;
            if self.store.secret(ObjectKind::User, &stored.id, SLOT).await?.is_none() {
                return Ok(());
            }
            let order = self.order(actor);
            let event = about(order, EventKind::SecretRotated, ObjectKind::User, &stored.id).subject(&stored.id);
            let change = self
                .touch(&stored, &stored.key, &stored.document, order)
                .step(secrets::remove(ObjectKind::User, &stored.id, SLOT))
                .event(event.with("slot", SLOT).with("removed", true));
            if self.store.apply(change).await?.applied() {
                return Ok(());
            }
        }
        Err(Failure::Stale)
    }
}
