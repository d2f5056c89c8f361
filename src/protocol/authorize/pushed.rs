//! Pushed authorization requests: checked once, kept under a reference that only its client may use (RFC 9126).
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, Step};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::{
    Entropy, b64,
    secret::{self, MacKey, Presented, SecretKind},
};

use super::{Code, Params, Pending, Refusal, Request};
use crate::{Profile, Settings};

/// What every reference begins with (RFC 9126 §2.2).
pub const PREFIX: &str = "urn:ietf:params:oauth:request_uri:";

const UNKNOWN: Refusal = Refusal::new(Code::InvalidRequestUri, "the request_uri is not known, has expired or was used");

/// The document of an [`ArtefactKind::Pushed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushedDocument {
    /// The checked request.
    pub pending: Pending,
    /// Until when it may be begun with, seconds since the epoch. Its row stays longer: the person may take their time.
    pub until: i64,
}

/// The reference a request names, if it names a pushed one. Who names two is told so on the way back, like everything given twice.
#[must_use]
pub fn named(params: &Params) -> Option<&str> {
    params.one("request_uri").ok().flatten().filter(|uri| uri.starts_with(PREFIX))
}

/// Keeps a checked request; the change and the reference.
#[must_use]
pub fn push(request: &Request, settings: &Settings, now_ms: i64, entropy: &dyn Entropy, mac: &MacKey) -> (Change, String) {
    let now = now_ms.div_euclid(1000);
    let issued = secret::generate(SecretKind::Pushed, now_ms, entropy, mac);
    let until = now + ttl(settings);
    let document = PushedDocument { pending: Pending::of(request), until };
    let change = Change::new()
        .step(Step::Put(Artefact {
            kind: ArtefactKind::Pushed,
            id: issued.id.to_vec(),
            mac: issued.mac.to_vec(),
            grant: None,
            document: json!(document).to_string(),
            created_at: now,
            // Login, second factor and consent may each wait as long as a page may.
            expires_at: until + 4 * settings.interaction_ttl,
            consumed_at: None,
            successor: None,
            seq: 0,
        }))
        .event(NewEvent::new(EventKind::RequestPushed, now_ms).client(&request.client_id).with("scope", request.scope.join(" ")));
    (change, format!("{PREFIX}{}", issued.plain.expose()))
}

/// How long a reference may be begun with, seconds; FAPI 2.0 wants less than ten minutes (Security Profile §5.3.2.2).
#[must_use]
pub fn ttl(settings: &Settings) -> i64 {
    if settings.profile == Profile::Fapi2 { settings.par_ttl.min(599) } else { settings.par_ttl }
}

/// The id and MAC in a reference.
///
/// # Errors
/// It is none of ours.
pub fn presented(uri: &str, mac: &MacKey) -> Result<Presented, Refusal> {
    uri.strip_prefix(PREFIX).and_then(|text| secret::parse(SecretKind::Pushed, text, mac)).ok_or(UNKNOWN)
}

/// The request behind a reference: its secret right, its client the one that asks, in time and not used. It is used up with the answer,
/// not by being looked at: a person may open the login page twice (RFC 9126 §4, FAPI 2.0 Security Profile §5.3.2.2).
///
/// # Errors
/// `invalid_request_uri`, in the same words for every reason.
pub fn take(row: Option<&Artefact>, presented: &Presented, client_id: &str, now: i64) -> Result<Pending, Refusal> {
    let row = row.filter(|r| presented.matches(&r.mac) && r.consumed_at.is_none() && r.expires_at > now).ok_or(UNKNOWN)?;
    let document: PushedDocument = serde_json::from_str(&row.document).map_err(|_| UNKNOWN)?;
    if document.pending.client_id != client_id || document.until <= now {
        return Err(UNKNOWN);
    }
    Ok(document.pending.pushed(b64::encode(&row.id)))
}

/// The step that uses up the pushed request an answer comes from.
#[must_use]
pub fn consume(request: &Request, now: i64) -> Option<Step> {
    let id = request.pushed.as_deref().and_then(b64::decode)?;
    Some(Step::Consume { kind: ArtefactKind::Pushed, id, now, successor: None })
}

/// Metadata (RFC 9126 §5).
pub(crate) fn metadata(settings: &Settings, members: &mut Map<String, Value>) {
    members.insert("pushed_authorization_request_endpoint".into(), Value::from(settings.url("/par")));
    members.insert("require_pushed_authorization_requests".into(), Value::from(settings.profile == Profile::Fapi2));
}
