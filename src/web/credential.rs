//! This issuer's own access tokens as presented back to it: believed once, then known; revocation and expiry asked every time.
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderMap, header};
use ledger::{Artefact, ArtefactKind, StoreError};
use moka::sync::Cache;
use protocol::{AuthenticatedClient, Code, Evidence, OAuthError, Settings, client_auth::Method, introspect, introspect::Known};
use tokens::{
    access::{self, Expected},
    confirmation::Scheme,
    jws::Parsed,
    made_up::MadeUp,
    secret::{self, Presented, SecretKind},
};

use crate::{App, reply::Failed};

/// A believed token with what is told of it.
pub(crate) struct Seen {
    /// What it is.
    pub known: Known,
    /// The id of its row, if it is opaque.
    pub row: Option<Vec<u8>>,
    /// The introspection answer, ready to send.
    pub answer: Bytes,
}

/// Believed tokens by the hash of their text.
pub(crate) struct Credentials(LazyLock<Cache<[u8; 32], Arc<Seen>, ahash::RandomState>>);

impl Default for Credentials {
    fn default() -> Self {
        Self(LazyLock::new(|| {
            let cache = Cache::builder()
                .max_capacity(32 << 20)
                .weigher(|_, seen: &Arc<Seen>| u32::try_from(600 + seen.answer.len()).unwrap_or(u32::MAX))
                // What is told beside the token (a username) is at most so old.
                .time_to_live(std::time::Duration::from_secs(60));
            cache.build_with_hasher(ahash::RandomState::new())
        }))
    }
}

impl Credentials {
    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        LazyLock::get(&self.0).map_or(0, Cache::entry_count)
    }
}

/// How old this node's knowledge of revocations may be when it answers from memory, milliseconds.
const STALE_MS: i64 = 1_000;

/// Who shows a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Whoever comes by: nothing but the reference itself proves anything.
    Anybody,
    /// A client that proved who it is.
    Client,
}

impl Asker {
    /// As what this caller asks. A public client proves nothing.
    pub(crate) fn of(caller: &AuthenticatedClient) -> Self {
        if caller.method() == Method::None { Self::Anybody } else { Self::Client }
    }
}

/// References that nobody issued: strangers' take nothing from what clients may look for.
#[derive(Debug, Default)]
pub(crate) struct MadeUps {
    anybodys: MadeUp,
    clients: MadeUp,
}

impl MadeUps {
    const fn of(&self, asker: Asker) -> &MadeUp {
        match asker {
            Asker::Anybody => &self.anybodys,
            Asker::Client => &self.clients,
        }
    }
}

/// An active access token of this issuer, or nothing.
///
/// # Errors
/// When the store is away, or this node has not heard from it for too long to vouch for anything.
pub(crate) async fn look(app: &App, asker: Asker, token: &str) -> Result<Option<Arc<Seen>>, StoreError> {
    within(app, asker, token, 0).await
}

/// The same, also of a token that expired so few seconds ago that somebody may accept it still.
///
/// # Errors
/// As [`look`].
pub(crate) async fn within(app: &App, asker: Asker, token: &str, leeway: i64) -> Result<Option<Arc<Seen>>, StoreError> {
    let now_ms = app.clock.now_ms();
    if now_ms.saturating_sub(app.store.fresh_at_ms()) > STALE_MS {
        return Err(StoreError::Unavailable("the ledger has not been heard of for too long".into()));
    }
    let key = tokens::hash::sha256(token.as_bytes());
    let seen = match app.credentials.0.get(&key) {
        Some(seen) => seen,
        None => {
            let Some(seen) = Box::pin(believe(app, asker, token)).await? else { return Ok(None) };
            let seen = Arc::new(seen);
            app.credentials.0.insert(key, Arc::clone(&seen));
            seen
        }
    };
    let alive = seen.known.expires_at + leeway > now_ms.div_euclid(1000) && app.revoked.revoked(&seen.known.facts()).is_none();
    Ok(alive.then_some(seen))
}

async fn believe(app: &App, asker: Asker, token: &str) -> Result<Option<Seen>, StoreError> {
    let (known, row) = if token.starts_with(SecretKind::Access.prefix()) {
        let Some(found) = reference(app, asker, token).await? else { return Ok(None) };
        found
    } else {
        let Some(known) = signed(app, token) else { return Ok(None) };
        (known, None)
    };
    let user = if known.is_persons() {
        let user = app.catalog.user(&known.subject).await?.filter(|u| !u.disabled);
        if user.is_none() {
            return Ok(None);
        }
        user
    } else {
        None
    };
    let answer = Bytes::from(introspect::access(&known, user.as_deref(), &app.settings));
    Ok(Some(Seen { known, row, answer }))
}

/// The row of a reference, if there is one. Made-up ones are looked for only so often.
///
/// # Errors
/// Storage is away, or too many were looked for in vain.
pub(crate) async fn issued(
    app: &App,
    asker: Asker,
    (kind, row): (SecretKind, ArtefactKind),
    text: &str,
) -> Result<Option<(Presented, Artefact)>, StoreError> {
    let Some(presented) = secret::parse(kind, text, &app.mac) else { return Ok(None) };
    let made_up = app.made_up.of(asker);
    let Some(place) = made_up.admits(kind, text, &app.mac, app.clock.now()) else {
        return Err(StoreError::Unavailable("too many references that nobody issued are looked for".into()));
    };
    let found = app.store.artefact(row, &presented.id).await?;
    if found.as_ref().is_some_and(|found| presented.matches(&found.mac)) {
        made_up.found(place);
    }
    Ok(found.map(|found| (presented, found)))
}

async fn reference(app: &App, asker: Asker, token: &str) -> Result<Option<(Known, Option<Vec<u8>>)>, StoreError> {
    let Some((presented, artefact)) = issued(app, asker, (SecretKind::Access, ArtefactKind::Access), token).await? else { return Ok(None) };
    if !presented.matches(&artefact.mac) {
        return Ok(None);
    }
    Ok(Known::of_artefact(&artefact).map(|known| (known, Some(artefact.id))))
}

fn signed(app: &App, token: &str) -> Option<Known> {
    let parsed = Parsed::parse(token).ok()?;
    // Other nodes' clocks may be a little ahead; expiry is asked again, to the second, by whoever looks.
    let ring = app.keys.load();
    let key = ring.keys().find(Some(parsed.kid.as_deref()?), parsed.alg)?;
    let typ = [access::TYP, "application/at+jwt"];
    let expected = Expected { issuer: &app.settings.issuer, audience: None, typ: &typ, now: app.clock.now(), leeway: Settings::LEEWAY };
    let claims = access::believe(&parsed, key, &expected).ok()?.into_inner();
    Known::of_claims(claims, key.kid())
}

/// The access token of the `Authorization` header and its scheme (RFC 6750 §2.1, RFC 9449 §7.1), if there is one.
///
/// # Errors
/// On two headers, another scheme or an empty token.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<(Scheme, &str)>, Failed> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Failed::Bearer(Some(OAuthError::request("more than one Authorization header"))));
    }
    let pair = first.to_str().ok().and_then(|text| text.split_once(' '));
    let found = pair.and_then(|(scheme, token)| Some((Scheme::parse(scheme.as_bytes())?, token.trim())));
    match found {
        Some((scheme, token)) if !token.is_empty() => Ok(Some((scheme, token))),
        _ => Err(Failed::Bearer(Some(invalid()))),
    }
}

/// The bearer token of the `Authorization` header (RFC 6750 §2.1), if there is one.
///
/// # Errors
/// On two headers, another scheme or an empty token.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Failed> {
    match presented(headers)? {
        None => Ok(None),
        Some((Scheme::Bearer, token)) => Ok(Some(token)),
        Some((Scheme::Dpop, _)) => Err(Failed::Bearer(Some(invalid()))),
    }
}

/// An active own token that allows `scope`, shown by that scheme with what the request proved. Its proof is not spent yet.
///
/// # Errors
/// The challenges of RFC 6750 §3.1 and RFC 9449 §7.1.
pub(crate) async fn demand_proved(app: &App, scheme: Scheme, token: &str, scope: &str, evidence: &Evidence) -> Result<Arc<Seen>, Failed> {
    let refuse = |error| if scheme == Scheme::Dpop { Failed::Bound(error) } else { Failed::Bearer(Some(error)) };
    let seen = look(app, Asker::Anybody, token).await?.ok_or_else(|| refuse(invalid()))?;
    if !scheme.lets_in(seen.known.confirmation.as_ref(), evidence.jkt(), evidence.x5t_s256()) {
        return Err(Failed::Bound(invalid()));
    }
    if !seen.known.has_scope(scope) {
        return Err(refuse(OAuthError::new(Code::InsufficientScope, "the token does not allow this")));
    }
    Ok(seen)
}

/// An active own token that allows `scope`.
///
/// # Errors
/// The challenges of RFC 6750 §3.1.
pub(crate) async fn demand(app: &App, token: Option<&str>, scope: &str) -> Result<Arc<Seen>, Failed> {
    let token = token.ok_or(Failed::Bearer(None))?;
    let seen = look(app, Asker::Anybody, token).await?.ok_or_else(|| Failed::Bearer(Some(invalid())))?;
    if seen.known.confirmation.is_some() {
        return Err(Failed::Bearer(Some(invalid())));
    }
    if !seen.known.has_scope(scope) {
        return Err(Failed::Bearer(Some(OAuthError::new(Code::InsufficientScope, "the token does not allow this"))));
    }
    Ok(seen)
}

/// The one thing told of a token that is not active.
pub(crate) fn invalid() -> OAuthError {
    OAuthError::new(Code::InvalidToken, "the access token is invalid, expired or revoked")
}
