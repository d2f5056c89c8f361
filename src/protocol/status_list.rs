//! Status lists of access tokens (Token Status List §4 to §6): what is kept for a token that has a status, and what a list says.
//!
//! Nothing is written when something is revoked: a list is made from the rows of its tokens and the live revocations, the same ones
//! every gateway asks. So whatever kills a token (its grant, session, client, person or key) flips its bit.
use ledger::{Artefact, ArtefactKind, Facts, RevocationSet, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokens::{
    Alg,
    access::Origin,
    id,
    keyring::KeyRing,
    status_list::{Bits, List, ListClaims, Slot, TYP, claim},
};

use crate::{
    OAuthError, Profile, Settings,
    issue::{Context, Order},
    signing,
};

/// Seconds a fetched list may be kept before it is asked for again (`ttl`).
pub const TTL: i64 = 5;
/// Seconds a signed list is worth anything.
pub const LIFE: i64 = 300;
/// Seconds a row outlives its token: verifiers' clocks are not ours.
const KEPT_LONGER: i64 = 300;

/// The document of an [`ArtefactKind::Status`]: what revocations of the token are matched against.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    #[serde(rename = "t")]
    token: String,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "c")]
    client: String,
    #[serde(rename = "u")]
    subject: String,
    #[serde(rename = "k")]
    key: String,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    from: Option<Origin>,
}

/// Where a list is served.
#[must_use]
pub fn uri(settings: &Settings, list: &[u8; 16]) -> String {
    settings.url(&format!("/status/{}", id::text(list)))
}

/// Gives a token its place in a list: the `status` claim, and the row that must be durable before the token is seen.
///
/// # Errors
/// `server_error` if this context keeps no lists.
pub(crate) fn place(ctx: &Context<'_>, order: &Order<'_>, jti: &str, kid: &str, exp: i64) -> Result<(Value, Step), OAuthError> {
    let slots = ctx.slots.ok_or_else(|| OAuthError::fault("no status lists are kept here"))?;
    let slot = slots.take(ctx.now_ms, ctx.entropy);
    let row = Row {
        token: jti.to_owned(),
        grant: order.grant.map(str::to_owned),
        session: order.session.map(str::to_owned),
        client: order.client.client_id.clone(),
        subject: order.subject.to_owned(),
        key: kid.to_owned(),
        from: order.from.cloned(),
    };
    let artefact = Artefact {
        kind: ArtefactKind::Status,
        id: slot.key(),
        mac: Vec::new(),
        grant: None,
        document: serde_json::to_string(&row).map_err(|e| OAuthError::fault(e.to_string()))?,
        created_at: ctx.now(),
        expires_at: exp.saturating_add(KEPT_LONGER),
        consumed_at: None,
        successor: None,
        seq: ctx.head,
    };
    Ok((claim(&slot, &uri(ctx.settings, &slot.list)), Step::Put(artefact)))
}

/// The bits of a list, from the rows of its tokens and what is revoked. A row that does not read counts as revoked.
#[must_use]
pub fn bits(rows: &[Artefact], revoked: &RevocationSet) -> Bits {
    let mut bits = Bits::default();
    for artefact in rows {
        let Some(slot) = Slot::of_key(&artefact.id) else { continue };
        let alive = serde_json::from_str::<Row>(&artefact.document).is_ok_and(|row| revoked.revoked(&facts(&row, artefact.seq)).is_none());
        if !alive {
            bits.set(slot.index);
        }
    }
    bits
}

fn facts(row: &Row, seq: u64) -> Facts<'_> {
    Facts {
        token: Some(&row.token),
        grant: row.grant.as_deref(),
        session: row.session.as_deref(),
        client: Some(&row.client),
        subject: Some(&row.subject),
        device: None,
        key: Some(&row.key),
        seq,
        from: row.from.as_ref(),
    }
}

/// A list as a signed JWT (§5.1).
///
/// # Errors
/// `server_error` if it cannot be signed.
pub fn signed(settings: &Settings, keys: &KeyRing, list: &[u8; 16], bits: &Bits, now: i64) -> Result<String, OAuthError> {
    let key = signing::key(keys, Profile::default(), None, Alg::ES256)?;
    let (uri, lst) = (uri(settings, list), bits.lst().map_err(|e| OAuthError::fault(e.to_string()))?);
    let claims =
        ListClaims { sub: &uri, iss: &settings.issuer, iat: now, exp: now + LIFE, ttl: TTL, status_list: List { bits: 1, lst: &lst } };
    key.sign_jwt(TYP, &claims).map_err(|e| OAuthError::fault(e.to_string()))
}

#[cfg(test)]
mod tests {
    use ledger::{Revocation, RevocationKind};

    use super::*;

    fn row(index: u32, row: &Row, seq: u64) -> Artefact {
        Artefact {
            kind: ArtefactKind::Status,
            id: Slot { list: [7; 16], index }.key(),
            mac: Vec::new(),
            grant: None,
            document: serde_json::to_string(row).unwrap(),
            created_at: 0,
            expires_at: 100,
            consumed_at: None,
            successor: None,
            seq,
        }
    }

    #[test]
    fn whatever_kills_a_token_flips_its_bit_and_no_other() {
        let facts = |n: usize| Row {
            token: format!("t{n}"),
            grant: Some(format!("g{n}")),
            session: Some(format!("s{n}")),
            client: format!("c{n}"),
            subject: format!("u{n}"),
            key: format!("k{n}"),
            from: None,
        };
        let rows: Vec<Artefact> = (0..8).map(|n| row(n, &facts(n as usize), 5)).collect();
        let revoked = RevocationSet::new();
        let kinds = [
            (RevocationKind::Token, "t0"),
            (RevocationKind::Grant, "g1"),
            (RevocationKind::Session, "s2"),
            (RevocationKind::Client, "c3"),
            (RevocationKind::Subject, "u4"),
            (RevocationKind::Key, "k5"),
        ];
        let lst = |revoked: &RevocationSet| bits(&rows, revoked).lst().unwrap();
        assert_eq!(lst(&revoked), Bits::default().lst().unwrap());
        let mut expected = Bits::default();
        for (n, (kind, id)) in kinds.into_iter().enumerate() {
            revoked.apply(&Revocation { kind, id: id.into(), seq: 6, at_ms: 0, expires_at: 100 });
            expected.set(n as u32);
            assert_eq!(lst(&revoked), expected.lst().unwrap(), "{id}");
        }
        // What was issued after a revocation stays alive.
        revoked.apply(&Revocation { kind: RevocationKind::Subject, id: "u6".into(), seq: 5, at_ms: 0, expires_at: 100 });
        assert_eq!(lst(&revoked), expected.lst().unwrap());
    }

    #[test]
    fn a_row_that_does_not_read_counts_as_revoked() {
        let mut spoilt = row(3, &Row::default(), 1);
        spoilt.document = "{".into();
        let mut expected = Bits::default();
        expected.set(3);
        assert_eq!(bits(&[spoilt], &RevocationSet::new()).lst().unwrap(), expected.lst().unwrap());
    }
}
