//! Secrets of objects: generated, compared and kept as a keyed MAC or an argon2id hash. Never shown twice.
use edge::introspection;
use ledger::{Mistake, Object, ObjectKind, Step};
use serde_json::Value;
use tokens::secret::{MacKey, Plain};

use crate::{
    draft::Draft,
    objects::{Failure, Objects},
};

/// Where a client's secret is.
pub const SLOT: &str = "secret";
/// Where a client's secret before the last rotation is, if it was kept.
pub const PREVIOUS: &str = "secret_previous";
/// Where a user's password hash is.
pub const PASSWORD: &str = "password";
/// The slots that are emptied together.
pub const SLOTS: [&str; 3] = [SLOT, PREVIOUS, introspection::SLOT];
/// The MAC domain of client secrets.
const CLIENT_SECRET: &str = "client_secret";
/// How long to wait for a hashing permit.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// What becomes of an object's secret.
#[derive(Debug)]
pub enum Turn {
    /// It stays (or there is none).
    Keep,
    /// It goes.
    Remove,
    /// It is set.
    Put {
        /// Where.
        slot: &'static str,
        /// The MAC or hash.
        value: Vec<u8>,
        /// The plain text, if it was made here.
        generated: Option<Plain>,
    },
    /// The versions of an API key change.
    Versions {
        /// How.
        steps: Vec<Step>,
        /// The plain text, if it was made here.
        generated: Option<Plain>,
        /// Another text takes the place of the one before, at once.
        rotated: bool,
    },
}

/// What becomes of the secret when `draft` takes the place of `stored`.
///
/// # Errors
/// [`Failure::Busy`], or storage is away.
pub async fn turn(objects: &Objects, draft: &Draft, stored: Option<&Object>, at_ms: i64) -> Result<Turn, Failure> {
    match draft.kind {
        ObjectKind::Client => client(objects, draft, stored, at_ms).await,
        ObjectKind::User => user(objects, draft, stored).await,
        ObjectKind::ApiKey => crate::api_keys::turn(objects, draft, stored, at_ms).await,
        ObjectKind::TrustedIssuer => issuer(objects, draft, stored).await,
        _ => Ok(Turn::Keep),
    }
}

async fn client(objects: &Objects, draft: &Draft, stored: Option<&Object>, at_ms: i64) -> Result<Turn, Failure> {
    let kept = match stored {
        Some(object) => objects.store.secret(ObjectKind::Client, &object.id, SLOT).await?,
        None => None,
    };
    if !confidential(&draft.document) {
        return Ok(if kept.is_some() { Turn::Remove } else { Turn::Keep });
    }
    match (&draft.secret, kept) {
        (Some(given), Some(kept)) if objects.mac.verify(CLIENT_SECRET, given.expose().as_bytes(), &kept) => Ok(Turn::Keep),
        (Some(given), _) => Ok(Turn::Put { slot: SLOT, value: mac(&objects.mac, given), generated: None }),
        (None, Some(_)) => Ok(Turn::Keep),
        (None, None) => {
            let plain = objects.new_client_secret(at_ms);
            Ok(Turn::Put { slot: SLOT, value: mac(&objects.mac, &plain), generated: Some(plain) })
        }
    }
}

/// What the gateway proves itself with to a trusted issuer: it has to be shown there, so it is sealed and not hashed.
async fn issuer(objects: &Objects, draft: &Draft, stored: Option<&Object>) -> Result<Turn, Failure> {
    let slot = introspection::SLOT;
    let kept = match stored {
        Some(object) => objects.store.secret(ObjectKind::TrustedIssuer, &object.id, slot).await?,
        None => None,
    };
    if draft.document.get("introspection").is_none() {
        return Ok(if kept.is_some() { Turn::Remove } else { Turn::Keep });
    }
    let wrong = |why: &str| Failure::Invalid(vec![Mistake::new("introspection.secret", why)]);
    let place = introspection::place(&draft.id);
    match (&draft.secret, kept, &objects.kek) {
        (None, Some(_), _) => Ok(Turn::Keep),
        (None, None, _) => Err(wrong("the client's secret, or its private key as PEM, is needed")),
        (Some(_), _, None) => Err(wrong("cannot be kept here: this process has no key-encryption key (storage.key_file)")),
        (Some(given), Some(kept), Some(kek)) if kek.open(&place, &kept).is_ok_and(|kept| *kept == given.expose().as_bytes()) => {
            Ok(Turn::Keep)
        }
        (Some(given), _, Some(kek)) => {
            Ok(Turn::Put { slot, value: kek.seal(&place, given.expose().as_bytes(), &*objects.entropy), generated: None })
        }
    }
}

async fn user(objects: &Objects, draft: &Draft, stored: Option<&Object>) -> Result<Turn, Failure> {
    let kept = match stored {
        Some(object) => objects.store.secret(ObjectKind::User, &object.id, PASSWORD).await?,
        None => None,
    };
    match (&draft.secret, kept) {
        (Some(given), Some(kept)) if same(objects, given, kept.clone()).await? => Ok(Turn::Keep),
        (Some(given), _) => Ok(Turn::Put { slot: PASSWORD, value: hash(objects, given).await?, generated: None }),
        (None, _) if stored.is_some() => Ok(Turn::Keep),
        (None, _) => {
            let plain = Plain::new(tokens::id::random_text(&*objects.entropy, 18));
            Ok(Turn::Put { slot: PASSWORD, value: hash(objects, &plain).await?, generated: Some(plain) })
        }
    }
}

/// Whether a client authenticates with a secret.
#[must_use]
pub fn confidential(document: &Value) -> bool {
    matches!(document.get("token_endpoint_auth_method").and_then(Value::as_str), Some("client_secret_basic" | "client_secret_post"))
}

/// The stored form of a client secret.
#[must_use]
pub fn mac(key: &MacKey, plain: &Plain) -> Vec<u8> {
    key.mac(CLIENT_SECRET, plain.expose().as_bytes()).to_vec()
}

/// Stores a secret.
#[must_use]
pub fn put(kind: ObjectKind, id: &str, slot: &str, value: Vec<u8>) -> Step {
    Step::PutSecret { kind, id: id.to_owned(), slot: slot.to_owned(), value }
}

/// Removes a secret.
#[must_use]
pub fn remove(kind: ObjectKind, id: &str, slot: &str) -> Step {
    Step::RemoveSecret { kind, id: id.to_owned(), slot: slot.to_owned() }
}

/// What is wrong with a password that is to be set.
#[must_use]
pub fn password_mistakes(password: &str) -> Vec<Mistake> {
    accounts::password::acceptable(password).err().map(|why| Mistake::new("password", why.to_string())).into_iter().collect()
}

/// Hashes a password off the event loop (argon2id, RFC 9106).
///
/// # Errors
/// [`Failure::Busy`] when no permit came free in time.
pub async fn hash(objects: &Objects, plain: &Plain) -> Result<Vec<u8>, Failure> {
    let (plain, entropy) = (plain.clone(), std::sync::Arc::clone(&objects.entropy));
    off_loop(objects, move || accounts::password::hash(plain.expose(), &*entropy).map(String::into_bytes)).await?.map_err(|_| Failure::Busy)
}

async fn same(objects: &Objects, plain: &Plain, kept: Vec<u8>) -> Result<bool, Failure> {
    let plain = plain.clone();
    off_loop(objects, move || std::str::from_utf8(&kept).is_ok_and(|kept| accounts::password::verify(Some(kept), plain.expose()))).await
}

async fn off_loop<T: Send + 'static>(objects: &Objects, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let permit = tokio::time::timeout(PATIENCE, std::sync::Arc::clone(&objects.hashing).acquire_owned()).await;
    let Ok(Ok(permit)) = permit else { return Err(Failure::Busy) };
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    done.await.map_err(|error| {
        tracing::error!(%error, "password hashing ended early");
        Failure::Busy
    })
}
