//! Refresh tokens of one grant: the first, its successors, and when they die (RFC 6749 §6, RFC 9700 §4.14).
use std::sync::atomic::{AtomicU32, Ordering};

use ledger::{Artefact, ArtefactKind, Step};
use tokens::{
    Entropy, id,
    secret::{self, Issued, MacKey, Plain, SecretKind},
};

use crate::{Client, OAuthError, issue::Context, stored::RefreshDocument};

/// Absolute end of a family that begins now.
#[must_use]
pub fn end(ctx: &Context<'_>, client: &Client) -> i64 {
    let own = client.refresh_token_ttl.as_deref().and_then(tokens::duration::parse);
    ctx.now().saturating_add(own.unwrap_or(ctx.settings.refresh_token_ttl))
}

/// A family's first token.
pub(super) fn first(ctx: &Context<'_>, grant: &str, document: &RefreshDocument) -> Result<(Plain, Step), OAuthError> {
    put(ctx, begun(ctx), grant, document)
}

/// The first link of a chain.
fn begun(ctx: &Context<'_>) -> Issued {
    let mut nonce = [0; 16];
    ctx.entropy.fill(&mut nonce);
    secret::link(SecretKind::Refresh, id::new_id(ctx.now_ms, ctx.entropy), nonce, ctx.mac)
}

/// Puts the next link in the place of the one that was shown. With a grace period it can be told again to whoever did not hear it: it is
/// then derived from the shown one and the time, which is kept.
pub(super) fn next(ctx: &Context<'_>, row: &Artefact, document: &RefreshDocument) -> Result<(Plain, Step), OAuthError> {
    let id = row.id.as_slice().try_into().map_err(|_| OAuthError::fault("a refresh token's row has an id of another length"))?;
    let graceful = ctx.settings.refresh_grace > 0;
    let issued = if graceful {
        after(ctx.mac, id, &row.mac, ctx.now_ms)
    } else {
        let mut nonce = [0; 16];
        ctx.entropy.fill(&mut nonce);
        secret::link(SecretKind::Refresh, id, nonce, ctx.mac)
    };
    let step = Step::Rotate {
        kind: ArtefactKind::Refresh,
        id: row.id.clone(),
        now: ctx.now(),
        from: row.mac.clone(),
        to: issued.mac.to_vec(),
        expires_at: lives(ctx, document),
        born: graceful.then(|| ctx.now_ms.to_be_bytes().to_vec()),
        seq: ctx.head,
    };
    Ok((issued.plain, step))
}

/// The current link's text once more, if a retry may have it: what was shown (`mac`) is the one right before, within the grace period, and
/// nobody has used the current one yet.
pub(super) fn once_more(ctx: &Context<'_>, row: &Artefact, mac: &[u8]) -> Option<Plain> {
    let born_ms = i64::from_be_bytes(row.successor.as_deref()?.try_into().ok()?);
    if ctx.settings.refresh_grace <= 0 || ctx.now_ms.saturating_sub(born_ms) > ctx.settings.refresh_grace.saturating_mul(1000) {
        return None;
    }
    let issued = after(ctx.mac, row.id.as_slice().try_into().ok()?, mac, born_ms);
    tokens::hash::eq(&issued.mac, &row.mac).then_some(issued.plain)
}

/// The link after the one with this MAC.
fn after(key: &MacKey, id: [u8; 16], mac: &[u8], born_ms: i64) -> Issued {
    let seed = [id.as_slice(), mac, &born_ms.to_be_bytes()].concat();
    let [nonce @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key.mac("refresh-link", &seed);
    secret::link(SecretKind::Refresh, id, nonce, key)
}

fn lives(ctx: &Context<'_>, document: &RefreshDocument) -> i64 {
    document.family_expires_at.min(ctx.now().saturating_add(ctx.settings.refresh_idle))
}

/// The token after `predecessor`, which is not a link: a row of its own. With a grace period it was derived by the version before, which is
/// how a retry over there is told the same.
pub(super) fn successor(
    ctx: &Context<'_>,
    predecessor: &Artefact,
    grant: &str,
    document: &RefreshDocument,
) -> Result<(Plain, Vec<u8>, Step), OAuthError> {
    let issued = if ctx.settings.refresh_grace > 0 { derived(ctx.mac, predecessor, ctx.now_ms) } else { begun(ctx) };
    let id = issued.id.to_vec();
    let (plain, step) = put(ctx, issued, grant, document)?;
    Ok((plain, id, step))
}

/// The successor's text once more, if a retry may have it: the immediate predecessor, within the grace period, and
/// nobody has used the successor yet.
pub(super) fn again(ctx: &Context<'_>, predecessor: &Artefact, successor: Option<&Artefact>) -> Option<Plain> {
    let successor = successor.filter(|s| s.consumed_at.is_none() && Some(&s.id) == predecessor.successor.as_ref())?;
    let born_ms = time_of(&successor.id)?;
    let waited = ctx.now_ms.saturating_sub(born_ms);
    if ctx.settings.refresh_grace <= 0 || waited > ctx.settings.refresh_grace.saturating_mul(1000) {
        return None;
    }
    let issued = derived(ctx.mac, predecessor, born_ms);
    // A successor made while there was no grace period is random and cannot be told again.
    (issued.id.as_slice() == successor.id && tokens::hash::eq(&issued.mac, &successor.mac)).then_some(issued.plain)
}

fn put(ctx: &Context<'_>, issued: Issued, grant: &str, document: &RefreshDocument) -> Result<(Plain, Step), OAuthError> {
    let now = ctx.now();
    let artefact = Artefact {
        kind: ArtefactKind::Refresh,
        id: issued.id.to_vec(),
        mac: issued.mac.to_vec(),
        grant: Some(grant.to_owned()),
        document: serde_json::to_string(document).map_err(|e| OAuthError::fault(e.to_string()))?,
        created_at: now,
        expires_at: lives(ctx, document),
        consumed_at: None,
        successor: None,
        seq: ctx.head,
    };
    Ok((issued.plain, Step::Put(artefact)))
}

fn derived(mac: &MacKey, predecessor: &Artefact, born_ms: i64) -> Issued {
    let mut seed = predecessor.id.clone();
    seed.extend_from_slice(&predecessor.mac);
    let stream = Stream { mac, seed, block: AtomicU32::new(0) };
    secret::generate(SecretKind::Refresh, born_ms, &stream, mac)
}

/// Octets that only the holder of the MAC key can compute, the same ones every time.
struct Stream<'a> {
    mac: &'a MacKey,
    seed: Vec<u8>,
    block: AtomicU32,
}

impl Entropy for Stream<'_> {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let mut input = self.seed.clone();
            input.extend_from_slice(&self.block.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            let octets = self.mac.mac("refresh-successor", &input);
            chunk.iter_mut().zip(octets).for_each(|(o, b)| *o = b);
        }
    }
}

/// The milliseconds in the first six octets of a time-ordered id.
fn time_of(id: &[u8]) -> Option<i64> {
    let (time, _) = id.split_at_checked(6)?;
    Some(time.iter().fold(0, |ms, b| ms << 8 | i64::from(*b)))
}
