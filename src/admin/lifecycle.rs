//! What an administrator does to a live account or client: disable, enable, set a password, rotate a secret.
use ledger::{Change, EventKind, Object, ObjectKind};
use tokens::secret::Plain;

use crate::{
    json,
    objects::{ATTEMPTS, Failure, Objects, about},
    revocations::Order,
    secrets,
    state::Actor,
};

impl Objects {
    /// Gives a client a new generated secret. `keep_previous`: the old one stays valid beside it until the next rotation.
    ///
    /// # Errors
    /// [`Failure::Conflict`] for a public client.
    pub async fn rotate_secret(&self, name: &str, keep_previous: bool, actor: &Actor) -> Result<(Object, Plain), Failure> {
        for _ in 0..ATTEMPTS {
            let stored = self.find(ObjectKind::Client, name).await?.ok_or(Failure::Unknown)?;
            if !secrets::confidential(&stored.document) {
                return Err(Failure::Conflict("a public client has no secret".to_owned()));
            }
            let order = self.order(actor);
            let plain = self.new_client_secret(order.at_ms);
            let previous = if keep_previous { self.store.secret(ObjectKind::Client, &stored.id, secrets::SLOT).await? } else { None };
            let mut change = self.touch(&stored, &stored.key, &stored.document, order);
            change = change.step(secrets::put(ObjectKind::Client, &stored.id, secrets::SLOT, secrets::mac(&self.mac, &plain)));
            change = change.step(match previous {
                Some(old) => secrets::put(ObjectKind::Client, &stored.id, secrets::PREVIOUS, old),
                None => secrets::remove(ObjectKind::Client, &stored.id, secrets::PREVIOUS),
            });
            let event = about(order, EventKind::SecretRotated, ObjectKind::Client, &stored.id).client(&stored.id);
            if self.store.apply(change.event(event.with("previous_kept", keep_previous))).await?.applied() {
                let stored = Object { version: stored.version + 1, updated_at: order.at_ms.div_euclid(1000), ..stored };
                return Ok((stored, plain));
            }
        }
        Err(Failure::Stale)
    }

    /// Sets a user's password; ends their sessions and grants.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn set_password(&self, name: &str, password: &Plain, actor: &Actor) -> Result<Object, Failure> {
        let wrong = secrets::password_mistakes(password.expose());
        if !wrong.is_empty() {
            return Err(Failure::Invalid(wrong));
        }
        let hash = secrets::hash(self, password).await?;
        for _ in 0..ATTEMPTS {
            let stored = self.find(ObjectKind::User, name).await?.ok_or(Failure::Unknown)?;
            let order = self.order(actor);
            let change = self
                .touch(&stored, &stored.key, &stored.document, order)
                .step(secrets::put(ObjectKind::User, &stored.id, secrets::PASSWORD, hash.clone()))
                .event(about(order, EventKind::PasswordChanged, ObjectKind::User, &stored.id).subject(&stored.id))
                .event(about(order, EventKind::SecretRotated, ObjectKind::User, &stored.id).subject(&stored.id))
                .and(order.subject(&stored.id));
            if self.store.apply(change).await?.applied() {
                return Ok(stored);
            }
        }
        Err(Failure::Stale)
    }

    /// Disables (ends sessions and grants, revokes tokens) or enables a user. Idempotent.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn set_disabled(&self, name: &str, disabled: bool, actor: &Actor) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let stored = self.find(ObjectKind::User, name).await?.ok_or(Failure::Unknown)?;
            let order = self.order(actor);
            let mut document = stored.document.clone();
            json::merge(&mut document, serde_json::json!({ "disabled": disabled }));
            if !disabled && document == stored.document {
                return Ok(());
            }
            let change = self.touch(&stored, &stored.key, &document, order).event(about(
                order,
                EventKind::ObjectReplaced,
                ObjectKind::User,
                &stored.id,
            ));
            if self.store.apply(change.and(user_turned(&stored.id, disabled, order))).await?.applied() {
                return Ok(());
            }
        }
        Err(Failure::Stale)
    }
}

/// What follows when a user becomes disabled or enabled.
pub(crate) fn user_turned(id: &str, disabled: bool, order: Order<'_>) -> Change {
    let event = |kind| about(order, kind, ObjectKind::User, id).subject(id);
    if disabled {
        Change::new().event(event(EventKind::UserDisabled)).and(order.subject(id))
    } else {
        Change::new().event(event(EventKind::UserEnabled))
    }
}
