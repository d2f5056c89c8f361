//! This issuer's own access tokens as the gateway and the administration API of the same process see them: no HTTP in between.
use std::sync::Arc;

use accounts::User;
use admin::{Actor, AdminAuth, Principal, Refused};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use edge::api_key::{self, Uses};
use ledger::{ArtefactKind, ObjectKind, RevocationSet, Store, StoreError};
use protocol::{Settings, introspect, introspect::Known};
use tokens::{
    Clock,
    access::{self, Expected},
    jws::Parsed,
    keyring::KeyRing,
    made_up::MadeUp,
    secret::{self, MacKey, SecretKind},
};

/// How old the knowledge of the ledger may be to vouch for a token, milliseconds.
const STALE_MS: i64 = 1_000;

/// The types of a signed access token (RFC 9068 §4).
const TYP: [&str; 2] = [access::TYP, "application/at+jwt"];

/// Believes own access tokens, signed and opaque ones.
pub struct OwnTokens {
    /// Names and lifetimes.
    pub settings: Settings,
    /// The database.
    pub store: Arc<dyn Store>,
    /// The keys, always the latest.
    pub ring: Arc<ArcSwap<KeyRing>>,
    /// Key of the MACs of opaque tokens.
    pub mac: MacKey,
    /// The live revocations.
    pub revoked: Arc<RevocationSet>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// When API keys were last used.
    pub key_uses: Arc<Uses>,
    /// References that nobody issued.
    pub made_up: MadeUp,
}

impl OwnTokens {
    /// What an active token is, and whose account stands behind it; `None` for every token that is not active.
    ///
    /// # Errors
    /// Storage is away, or has not been heard of for too long.
    pub async fn active(&self, token: &str) -> Result<Option<(Known, Option<User>)>, StoreError> {
        let now_ms = self.clock.now_ms();
        if now_ms.saturating_sub(self.store.fresh_at_ms()) > STALE_MS {
            return Err(StoreError::Unavailable("the ledger has not been heard of for too long".into()));
        }
        let known = if token.starts_with(SecretKind::Access.prefix()) { self.reference(token).await? } else { self.signed(token) };
        let Some(known) = known else { return Ok(None) };
        if known.expires_at <= now_ms.div_euclid(1000) || self.revoked.revoked(&known.facts()).is_some() {
            return Ok(None);
        }
        if !known.is_persons() {
            return Ok(Some((known, None)));
        }
        let user = self.user(&known.subject).await?.filter(|user| !user.disabled);
        Ok(user.map(|user| (known, Some(user))))
    }

    /// The introspection answer (RFC 7662 §2.2) for whoever may see it.
    ///
    /// # Errors
    /// As [`OwnTokens::active`].
    pub async fn introspect(&self, token: &str) -> Result<Vec<u8>, StoreError> {
        Ok(match self.active(token).await? {
            Some((known, user)) => introspect::access(&known, user.as_ref(), &self.settings),
            None => introspect::INACTIVE.to_vec(),
        })
    }

    /// The introspection answer about an API key, whoever holds it; `None` for every text that is not good now.
    ///
    /// # Errors
    /// Storage is away.
    pub async fn introspect_key(&self, text: &str) -> Result<Option<serde_json::Value>, StoreError> {
        let now = self.clock.now();
        let found = api_key::look(&*self.store, &self.mac, &self.settings.issuer, text, now).await?;
        metrics::counter!("api_key_lookups_total", "outcome" => if found.is_some() { "active" } else { "inactive" }).increment(1);
        Ok(found.map(|found| {
            self.key_uses.note(&found.id, found.version, now);
            found.answer
        }))
    }

    async fn reference(&self, token: &str) -> Result<Option<Known>, StoreError> {
        let Some(presented) = secret::parse(SecretKind::Access, token, &self.mac) else { return Ok(None) };
        let (kind, now) = (SecretKind::Access, self.clock.now());
        let Some(place) = self.made_up.admits(kind, token, &self.mac, now) else {
            return Err(StoreError::Unavailable("too many references that nobody issued are looked for".into()));
        };
        let artefact = self.store.artefact(ArtefactKind::Access, &presented.id).await?.filter(|artefact| presented.matches(&artefact.mac));
        if artefact.is_some() {
            self.made_up.found(place);
        }
        Ok(artefact.and_then(|artefact| Known::of_artefact(&artefact)))
    }

    fn signed(&self, token: &str) -> Option<Known> {
        let parsed = Parsed::parse(token).ok()?;
        let ring = self.ring.load();
        let key = ring.keys().find(Some(parsed.kid.as_deref()?), parsed.alg)?;
        let expected = Expected { issuer: &self.settings.issuer, audience: None, typ: &TYP, now: self.clock.now(), leeway: 0 };
        let claims = access::believe(&parsed, key, &expected).ok()?.into_inner();
        Known::of_claims(claims, key.kid())
    }

    async fn user(&self, id: &str) -> Result<Option<User>, StoreError> {
        let Some(object) = self.store.object(ObjectKind::User, id).await? else { return Ok(None) };
        serde_json::from_value(object.document).map(Some).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

#[async_trait]
impl AdminAuth for OwnTokens {
    fn token_id(&self, jwt: &str) -> Option<String> {
        let parsed = Parsed::parse(jwt).ok().filter(|parsed| TYP.iter().any(|typ| parsed.is_typ(typ)))?;
        let ring = self.ring.load();
        let key = ring.keys().find(Some(parsed.kid.as_deref()?), parsed.alg)?;
        let claims = parsed.verify(key).ok()?.into_inner();
        let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str);
        if text("iss") == Some(self.settings.issuer.as_str()) { text("jti").map(str::to_owned) } else { None }
    }

    async fn authenticate(&self, bearer: &str) -> Result<Principal, Refused> {
        match self.active(bearer).await {
            // The administration takes bearer tokens; one that is bound to a key is none.
            Ok(Some((known, _))) if known.confirmation.is_none() && known.audience.contains(&self.settings.issuer) => {
                let subject = known.is_persons().then(|| known.subject.clone());
                Ok(Principal { actor: Actor { client_id: known.client_id, subject }, scope: known.scope })
            }
            Ok(_) => Err(Refused::Invalid),
            Err(error) => {
                tracing::warn!(%error, "an administrator's token could not be checked");
                Err(Refused::Away)
            }
        }
    }
}
