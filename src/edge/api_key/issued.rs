//! How API keys are kept and believed where they are issued: a version of a key is one row, found by the keyed MAC of its whole text.
use ledger::{Artefact, ArtefactKind, Object, ObjectKind, Store, StoreError};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokens::{device::DeviceClaim, secret::MacKey};

use super::{
    SCHEME, moment, plausible,
    record::{ApiKey, Owner},
};

/// The domain of the MACs.
const DOMAIN: &str = "api_key";
/// How long an answer about a key without an end may be believed, seconds; it is asked about again long before.
const YEAR_S: i64 = 365 * 86_400;

/// Where the current version of a key is named, among the secrets of its object.
pub const CURRENT: &str = "key";
/// Where the version before it is, for as long as both count.
pub const PREVIOUS: &str = "key_previous";
/// Where it is written when the key was last used.
pub const LAST_USED: &str = "last_used";

/// The id of the row of a key: the keyed MAC of its whole text.
#[must_use]
pub fn version_id(mac: &MacKey, text: &str) -> [u8; 32] {
    mac.mac(DOMAIN, text.as_bytes())
}

/// A live version of a key, as its object names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The id of its row.
    pub id: Vec<u8>,
    /// Seconds since the epoch; [`moment::LAST`]: not before the key itself.
    pub expires_at: i64,
    /// Seconds since the epoch.
    pub created_at: i64,
}

impl Version {
    /// As it is kept among the secrets of the key's object.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        [&self.created_at.to_be_bytes()[..], &self.expires_at.to_be_bytes(), &self.id].concat()
    }

    /// Reads what [`Version::write`] wrote.
    #[must_use]
    pub fn read(stored: &[u8]) -> Option<Self> {
        let (created_at, rest) = stored.split_first_chunk()?;
        let (expires_at, id) = rest.split_first_chunk()?;
        Some(Self { id: id.to_vec(), expires_at: i64::from_be_bytes(*expires_at), created_at: i64::from_be_bytes(*created_at) })
    }

    /// Its row, for the key of that id.
    #[must_use]
    pub fn row(&self, key: &str, owner: Option<&Owner>) -> Artefact {
        Artefact {
            kind: ArtefactKind::ApiKey,
            id: self.id.clone(),
            mac: Vec::new(),
            grant: owner.map(Owner::name),
            document: json!({ "key": key }).to_string(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            consumed_at: None,
            successor: None,
            seq: 0,
        }
    }
}

/// The id of the key that a row is a version of.
#[must_use]
pub fn key_of(row: &Artefact) -> Option<String> {
    serde_json::from_str::<Value>(&row.document).ok()?.get("key")?.as_str().map(str::to_owned)
}

/// A key that is good now.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// The version of its object.
    pub version: i64,
    /// The introspection answer (RFC 7662 §2.2).
    pub answer: Value,
}

/// Looks a presented key up: one indexed read of its row, one of its object, one of its owner. `None` for every text that is not good now.
///
/// The answer's `seq` is the ledger's head from before the reading: what is revoked later is later than that.
///
/// # Errors
/// Storage is away.
pub async fn look(store: &dyn Store, mac: &MacKey, issuer: &str, text: &str, now: i64) -> Result<Option<Found>, StoreError> {
    if !plausible(text) {
        return Ok(None);
    }
    let (head, _) = store.head().await?;
    let row = store.artefact(ArtefactKind::ApiKey, &version_id(mac, text)).await?.filter(|row| row.expires_at > now);
    let Some((row, id)) = row.and_then(|row| key_of(&row).map(|id| (row, id))) else { return Ok(None) };
    let Some(object) = store.object(ObjectKind::ApiKey, &id).await? else { return Ok(None) };
    let key: ApiKey = serde_json::from_value(object.document).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let ends = key.expires_at.unwrap_or(moment::LAST).min(row.expires_at);
    if key.disabled || key.not_before.is_some_and(|from| from > now) || ends <= now {
        return Ok(None);
    }
    let owner = match &key.owner {
        None => None,
        Some(owner) => {
            let (kind, name) = owner.object();
            let Some(found) = store.object(kind, name).await?.filter(alive) else { return Ok(None) };
            Some(found.document)
        }
    };
    // An answer about something without an end has one all the same: it is asked about again before.
    let exp = ends.min(now.saturating_add(YEAR_S));
    let answer = answer(&key, owner.as_ref(), &Told { issuer, exp, iat: row.created_at.min(now), seq: head });
    Ok(Some(Found { id, version: object.version, answer }))
}

/// Whether an owner can own: it is not disabled, suspended or retired.
fn alive(owner: &Object) -> bool {
    let disabled = owner.document.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    let state = owner.document.get("state").and_then(Value::as_str);
    !disabled && !matches!(state, Some("suspended" | "revoked" | "retired" | "disabled"))
}

struct Told<'a> {
    issuer: &'a str,
    exp: i64,
    iat: i64,
    seq: u64,
}

/// What is told of a key. Whoever enforces finds in it everything that a route, a policy or a limit may ask of the caller.
fn answer(key: &ApiKey, owner: Option<&Value>, told: &Told<'_>) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    put("active", true.into());
    put("iss", told.issuer.into());
    put("token_type", SCHEME.into());
    put("exp", told.exp.into());
    put("iat", told.iat.into());
    put("seq", told.seq.into());
    put("scope", key.scopes.join(" ").into());
    if let Some(from) = key.not_before {
        put("nbf", from.into());
    }
    match key.audience.as_slice() {
        [] => {}
        [one] => drop(put("aud", one.as_str().into())),
        many => drop(put("aud", many.into())),
    }
    if let Some(tenant) = &key.tenant {
        put("tenant", tenant.as_str().into());
    }
    let mut own = Map::new();
    own.insert("id".into(), key.id.as_str().into());
    let member = |name: &str| owner.and_then(|document| document.get(name)).cloned();
    match &key.owner {
        None => drop(put("sub", super::revocation_id(&key.id).into())),
        Some(Owner::ClientId(id)) => {
            put("sub", id.as_str().into());
            put("client_id", id.as_str().into());
        }
        Some(Owner::Subject(id)) => {
            put("sub", id.as_str().into());
            // What a token of the same person would say.
            for name in ["username", "roles", "groups"] {
                if let Some(value) = member(name) {
                    put(name, value);
                }
            }
        }
        Some(Owner::Device(id)) => {
            put("sub", id.as_str().into());
            let claim: Map<String, Value> =
                ["type", "groups", "tenant"].into_iter().filter_map(|n| Some((n.to_owned(), member(n)?))).collect();
            if let (None, Some(tenant)) = (&key.tenant, claim.get("tenant")) {
                put("tenant", tenant.clone());
            }
            put("device", json!(DeviceClaim { id: id.clone(), ..DeviceClaim::deserialize(Value::Object(claim)).unwrap_or_default() }));
        }
    }
    for (name, list) in [("allowed_cidrs", &key.allowed_cidrs), ("routes", &key.routes)] {
        if !list.is_empty() {
            own.insert(name.into(), list.as_slice().into());
        }
    }
    if let Some(quota) = &key.quota {
        put("quota", json!(quota));
    }
    put("api_key", Value::Object(own));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api_key::Bounds, identity::Device};

    const TOLD: Told<'static> = Told { issuer: "https://id", exp: 9, iat: 1, seq: 7 };

    #[test]
    fn a_version_reads_back() {
        let version = Version { id: vec![3; 32], expires_at: 5, created_at: -1 };
        assert_eq!(Version::read(&version.write()), Some(version));
        assert_eq!(Version::read(&[0; 15]), None);
    }

    #[test]
    fn what_a_gateway_is_told_it_understands() {
        let key: ApiKey = serde_json::from_value(
            json!({"id": "k", "scopes": ["a", "b"], "audience": "api", "routes": ["r"], "allowed_cidrs": ["10.0.0.0/8"],
            "quota": {"rate": 2, "period": "1m"}, "tenant": "acme", "owner": {"device": "d1"}}),
        )
        .unwrap();
        let told = answer(&key, Some(&json!({"id": "d1", "type": "sensor", "groups": ["hall"]})), &TOLD);
        let expected = json!({"active": true, "iss": "https://id", "token_type": "ApiKey", "exp": 9, "iat": 1, "seq": 7, "scope": "a b", "aud": "api", "tenant": "acme",
            "sub": "d1", "device": {"id": "d1", "type": "sensor", "groups": ["hall"]}, "quota": {"rate": 2, "period": "1m"},
            "api_key": {"id": "k", "allowed_cidrs": ["10.0.0.0/8"], "routes": ["r"]}});
        assert_eq!(told, expected);
        let read = Bounds::read(told.as_object().unwrap()).unwrap();
        assert_eq!((read.id.as_str(), read.check("r", "10.1.1.1".parse().ok())), ("k", Ok(())));
        assert_eq!(Device::read(told.as_object().unwrap()).unwrap().kind, "sensor");
    }

    #[test]
    fn a_key_without_an_owner_is_nobody_elses_subject() {
        let key = ApiKey { id: "k".into(), ..ApiKey::default() };
        let told = answer(&key, None, &TOLD);
        assert_eq!((&told["sub"], told.get("client_id")), (&json!("api_key:k"), None));
    }
}
