//! The changes and answers of registration: a client appears, changes itself, goes (RFC 7591 §3.2.1, RFC 7592 §2, §3).
use ledger::{Change, EventKind, NewEvent, Object, ObjectKind, RevocationKind, Step};
use serde_json::{Map, Value};
use tokens::{
    Entropy, id,
    secret::{self, MacKey, Plain, SecretKind},
};

use super::{Refused, metadata};
use crate::{Client, OAuthError, Settings, client_auth::KnownClient, logout::REMEMBER};

/// Slot of the registration access token's MAC.
pub const SLOT: &str = "registration";
/// How a record came that registered itself.
pub const ORIGIN: &str = "registration";
/// Who changes it, in the ledger.
const ACTOR: &str = "registration";

/// What the decisions need besides the records.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    pub settings: &'a Settings,
    pub mac: &'a MacKey,
    pub entropy: &'a dyn Entropy,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    /// Where the request comes from, for the ledger.
    pub source: &'a str,
}

/// A client with the secrets it is told, once.
#[derive(Debug)]
pub struct Registered {
    pub client: Client,
    /// Seconds since the epoch.
    pub issued_at: i64,
    pub secret: Option<Plain>,
    pub token: Plain,
    /// To be applied before anybody is told.
    pub change: Change,
}

impl Desk<'_> {
    const fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    fn event(&self, kind: EventKind, id: &str) -> NewEvent {
        NewEvent::new(kind, self.now_ms)
            .client(id)
            .with("object", ObjectKind::Client.as_str())
            .with("id", id)
            .with("actor", ACTOR)
            .with("source", self.source)
    }

    fn new_secret(&self) -> Plain {
        secret::generate(SecretKind::ClientSecret, self.now_ms, self.entropy, self.mac).plain
    }

    fn put_secret(&self, id: &str, plain: &Plain) -> Step {
        let value = self.mac.mac(KnownClient::DOMAIN, plain.expose().as_bytes()).to_vec();
        Step::PutSecret { kind: ObjectKind::Client, id: id.to_owned(), slot: KnownClient::SECRET.to_owned(), value }
    }

    /// A new client. `by`: whose initial access token allowed it.
    ///
    /// # Errors
    /// What is wrong with the record as a whole, or a fault of ours.
    pub fn create(&self, client: Client, by: Option<&str>) -> Result<Registered, Refused> {
        let client = Client { client_id: id::new_text(self.now_ms, self.entropy), origin: Some(ORIGIN.to_owned()), ..client };
        metadata::complete(&client)?;
        let id = client.client_id.as_str();
        let secret = has_secret(&client).then(|| self.new_secret());
        let token = secret::generate(SecretKind::Registration, self.now_ms, self.entropy, self.mac);
        let object = Object {
            kind: ObjectKind::Client,
            id: id.to_owned(),
            key: id.to_owned(),
            document: document(&client)?,
            version: 1,
            created_at: self.now(),
            updated_at: self.now(),
        };
        let mut change = Change::new().step(Step::CreateObject(object)).step(Step::PutSecret {
            kind: ObjectKind::Client,
            id: id.to_owned(),
            slot: SLOT.to_owned(),
            value: token.mac.to_vec(),
        });
        if let Some(secret) = &secret {
            change = change.step(self.put_secret(id, secret));
        }
        let mut event = self.event(EventKind::ObjectCreated, id);
        if let Some(by) = by {
            event = event.with("allowed_by", by);
        }
        let change = change.event(event);
        Ok(Registered { issued_at: self.now(), secret, token: token.plain, change, client })
    }

    /// A record takes the place of another (RFC 7592 §2.2). `kept`: the MAC of the present secret; `shown`: the secret in the request.
    ///
    /// # Errors
    /// What is wrong with the record, or the secret is not the client's.
    pub fn replace(
        &self,
        stored: &Object,
        client: Client,
        kept: Option<&[u8]>,
        shown: Option<&str>,
        token: Plain,
    ) -> Result<Registered, Refused> {
        metadata::complete(&client)?;
        let id = client.client_id.as_str();
        let same = |shown: &str| kept.is_some_and(|mac| self.mac.verify(KnownClient::DOMAIN, shown.as_bytes(), mac));
        if shown.is_some_and(|shown| !same(shown)) {
            return Err(Refused::at("client_secret", "is not the present one (RFC 7592 §2.2)"));
        }
        let mut change = Change::new().step(Step::ReplaceObject {
            kind: ObjectKind::Client,
            id: stored.id.clone(),
            key: stored.key.clone(),
            document: document(&client)?,
            version: stored.version,
            now: self.now(),
        });
        change = change.event(self.event(EventKind::ObjectReplaced, id));
        let mut secret = shown.map(Plain::new);
        match (has_secret(&client), kept.is_some()) {
            (true, false) => {
                let new = self.new_secret();
                change = change.step(self.put_secret(id, &new)).event(self.event(EventKind::SecretRotated, id));
                secret = Some(new);
            }
            (false, true) => {
                for slot in [KnownClient::SECRET, KnownClient::PREVIOUS_SECRET] {
                    change = change.step(Step::RemoveSecret { kind: ObjectKind::Client, id: id.to_owned(), slot: slot.to_owned() });
                }
                change = change.event(self.event(EventKind::SecretRotated, id).with("removed", true));
                secret = None;
            }
            _ => {}
        }
        Ok(Registered { issued_at: stored.created_at, secret, token, change, client })
    }

    /// A client goes (RFC 7592 §2.3): its record and secrets, what people allowed it, its grants and every token.
    #[must_use]
    pub fn remove(&self, stored: &Object) -> Change {
        let id = stored.id.as_str();
        Change::new()
            .step(Step::DeleteObject { kind: ObjectKind::Client, id: id.to_owned(), version: Some(stored.version) })
            .step(Step::ForgetConsentsOfClient { client_id: id.to_owned() })
            .step(Step::EndGrantsOf { subject: None, client_id: Some(id.to_owned()), now: self.now() })
            .revoke(RevocationKind::Client, id, self.now_ms, self.now() + REMEMBER)
            .event(NewEvent::new(EventKind::ClientRevoked, self.now_ms).client(id).with("actor", ACTOR))
            .event(self.event(EventKind::ObjectDeleted, id))
    }
}

/// Members that a request to replace a record must not carry (RFC 7592 §2.2).
const NOT_THEIRS: [&str; 4] = ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];

/// Checks what only a request to replace a record carries: its `client_id`, and nothing of the server's. The secret it shows comes back.
///
/// # Errors
/// `invalid_client_metadata`.
pub fn replacing<'a>(given: &'a Map<String, Value>, client_id: &str) -> Result<Option<&'a str>, Refused> {
    if let Some(name) = NOT_THEIRS.iter().find(|name| given.contains_key(**name)) {
        return Err(Refused::at(name, "does not belong into this request (RFC 7592 §2.2)"));
    }
    if given.get("client_id").and_then(Value::as_str) != Some(client_id) {
        return Err(Refused::at("client_id", "must be the client's own (RFC 7592 §2.2)"));
    }
    match given.get("client_secret") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(secret)) => Ok(Some(secret)),
        Some(_) => Err(Refused::at("client_secret", "must be text")),
    }
}

/// Whether a presented registration access token is the one whose MAC is stored; compared in constant time, against nothing too.
#[must_use]
pub fn proves(token: &str, stored: Option<&[u8]>, mac: &MacKey) -> bool {
    let Some(presented) = secret::parse(SecretKind::Registration, token, mac) else { return false };
    let same = presented.matches(stored.unwrap_or(&[0; 32]));
    same && stored.is_some()
}

impl Registered {
    /// The client information response (RFC 7591 §3.2.1, RFC 7592 §3).
    #[must_use]
    pub fn json(&self, settings: &Settings, statement: Option<&Value>) -> Vec<u8> {
        let mut members = answer(&self.client, self.issued_at, &self.token, settings);
        if let Some(secret) = &self.secret {
            members.insert("client_secret".into(), secret.expose().into());
            members.insert("client_secret_expires_at".into(), 0.into());
        }
        if let Some(statement) = statement {
            members.insert(super::statement::MEMBER.into(), statement.clone());
        }
        Value::Object(members).to_string().into_bytes()
    }
}

/// What a client is told of its record; the secret is never shown twice.
#[must_use]
pub fn answer(client: &Client, issued_at: i64, token: &Plain, settings: &Settings) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("client_id".into(), client.client_id.as_str().into());
    members.insert("client_id_issued_at".into(), issued_at.into());
    members.insert("registration_client_uri".into(), settings.url(&format!("/register/{}", client.client_id)).into());
    members.insert("registration_access_token".into(), token.expose().into());
    members.extend(metadata::told(client));
    members
}

fn has_secret(client: &Client) -> bool {
    client.token_endpoint_auth_method.starts_with("client_secret_")
}

fn document(client: &Client) -> Result<Value, Refused> {
    serde_json::to_value(client).map_err(|e| {
        let fault = OAuthError::fault(e.to_string());
        Refused::new(fault.code, fault.description)
    })
}
