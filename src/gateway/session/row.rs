//! A session as it is stored: the MAC of the cookie's secret, everything else sealed, and until when it lives.
use std::sync::Arc;

use edge::identity::{Identity, Issuer, Kind};
use ledger::{Artefact, ArtefactKind, Change, EventKind, NewEvent, RevocationKind, Step};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokens::{
    Entropy,
    access::{AccessClaims, Origin},
    b64, id,
    seal::Kek,
};

/// What is kept of a session.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What it is called in the ledger. The cookie cannot be made from it.
    pub name: String,
    /// As the ID token names the person.
    pub sub: String,
    /// As revocations name the person.
    pub subject: String,
    pub sid: Option<String>,
    pub grant: Option<String>,
    /// The `jti` of the access token.
    pub token: Option<String>,
    /// The key that signed the ID token.
    pub kid: Option<String>,
    /// The ledger's position that the issuer knew.
    pub seq: u64,
    pub scope: String,
    /// What the upstream may be told.
    pub claims: Map<String, Value>,
    pub access: String,
    pub access_until_ms: i64,
    pub refresh: Option<String>,
    pub id_token: String,
    /// Grows with each renewal.
    pub generation: u64,
    /// Seconds since the epoch.
    pub since: i64,
    /// When it ends at the latest, seconds since the epoch.
    pub until: i64,
}

impl Kept {
    /// Who it speaks for.
    pub(super) fn identity(&self, issuer: &Issuer, iss: &str, client_id: &str) -> Identity {
        let mut raw = self.claims.clone();
        for (name, value) in [("iss", json!(iss)), ("sub", json!(self.sub)), ("client_id", json!(client_id)), ("scope", json!(self.scope))]
        {
            raw.insert(name.to_owned(), value);
        }
        if let Some(sid) = &self.sid {
            raw.insert("sid".to_owned(), json!(sid));
        }
        Identity {
            issuer: issuer.clone(),
            kind: Kind::Session,
            kid: self.kid.clone(),
            device: None,
            claims: AccessClaims {
                iss: iss.to_owned(),
                sub: self.subject.clone(),
                aud: vec![client_id.to_owned()],
                exp: self.until,
                nbf: None,
                iat: Some(self.since),
                jti: Some(self.name.clone()),
                client_id: Some(client_id.to_owned()),
                scope: self.scope.clone(),
                grant: self.grant.clone(),
                sid: self.sid.clone(),
                seq: self.seq,
                // It lives and dies with its access token, too.
                from: self.token.clone().map(|jti| Origin { jti: vec![jti], client_id: Vec::new() }),
                cnf: None,
                raw: Arc::new(raw),
            },
        }
    }
}

/// What a session is called when it is revoked: by its own issuer's word, or among those of another.
pub(super) fn revoked_name(issuer: &Issuer, name: &str) -> String {
    match issuer {
        Issuer::Foreign(iss) => format!("{iss}|{name}"),
        Issuer::Own | Issuer::Authority(_) => name.to_owned(),
    }
}

fn place(kind: ArtefactKind, id: &[u8]) -> String {
    format!("{}:{}", kind.as_str(), b64::encode(id))
}

/// Seals what a row holds, for that row alone.
pub(super) fn seal(kek: &Kek, kind: ArtefactKind, id: &[u8], what: &impl Serialize, entropy: &dyn Entropy) -> Option<String> {
    let text = zeroize(serde_json::to_vec(what).ok()?);
    Some(json!({"sealed": b64::encode(&kek.seal(&place(kind, id), text.expose().as_bytes(), entropy))}).to_string())
}

fn zeroize(text: Vec<u8>) -> tokens::secret::Plain {
    tokens::secret::Plain::new(String::from_utf8(text).unwrap_or_default())
}

/// Opens what a row holds.
pub(super) fn open<T: DeserializeOwned>(kek: &Kek, row: &Artefact) -> Option<T> {
    let document: Value = serde_json::from_str(&row.document).ok()?;
    let sealed = b64::decode(document.get("sealed")?.as_str()?)?;
    let text = kek.open(&place(row.kind, &row.id), &sealed).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A row of that kind.
pub(super) fn artefact(kind: ArtefactKind, id: &[u8], mac: &[u8], document: String, created_at: i64, expires_at: i64) -> Artefact {
    Artefact {
        kind,
        id: id.to_vec(),
        mac: mac.to_vec(),
        grant: None,
        document,
        created_at,
        expires_at,
        consumed_at: None,
        successor: None,
        seq: 0,
    }
}

/// Ends a session: its row is gone, and everybody hears. Refused if another request was first.
pub(super) fn ending(row_id: &[u8], kept: &Kept, issuer: &Issuer, client_id: &str, reason: &str, now_ms: i64) -> Change {
    let now = now_ms.div_euclid(1000);
    let (kind, id) = (ArtefactKind::GatewaySession, row_id.to_vec());
    let event = NewEvent::new(EventKind::GatewaySessionEnded, now_ms).subject(&kept.subject).client(client_id);
    let event = match &kept.sid {
        Some(sid) => event.session(sid),
        None => event,
    };
    Change::new()
        .step(Step::Consume { kind, id: id.clone(), now, successor: None })
        .step(Step::Remove { kind, id })
        .revoke(RevocationKind::Token, revoked_name(issuer, &kept.name), now_ms, kept.until.max(now + 1))
        .event(event.with("gateway_session", kept.name.as_str()).with("reason", reason))
}

/// A new name for a session.
pub(super) fn new_name(now_ms: i64, entropy: &dyn Entropy) -> String {
    format!("gs-{}", id::new_text(now_ms, entropy))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Same;
    impl Entropy for Same {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn a_row_opens_in_its_own_place_only() {
        let kek = Kek::new([1; 32]);
        let document = seal(&kek, ArtefactKind::Login, b"one", &json!({"verifier": "hush"}), &Same).unwrap();
        assert!(!document.contains("hush"));
        let row = artefact(ArtefactKind::Login, b"one", b"", document, 0, 1);
        assert_eq!(open::<Value>(&kek, &row), Some(json!({"verifier": "hush"})));
        assert_eq!(open::<Value>(&kek, &Artefact { id: b"two".to_vec(), ..row.clone() }), None);
        assert_eq!(open::<Value>(&kek, &Artefact { kind: ArtefactKind::GatewaySession, ..row.clone() }), None);
        assert_eq!(open::<Value>(&Kek::new([2; 32]), &row), None);
    }
}
