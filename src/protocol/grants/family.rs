//! Refresh tokens of one grant: the first, its successors, and when they die (RFC 6749 §6, RFC 9700 §4.14).
use std::sync::atomic::{AtomicU32, Ordering};

use ledger::{Artefact, ArtefactKind, Step};
use tokens::{
    Entropy,
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
    let issued = secret::generate(SecretKind::Refresh, ctx.now_ms, ctx.entropy, ctx.mac);
    put(ctx, issued, grant, document)
}

/// The token after `predecessor`. With a grace period it can be told again to whoever did not hear it: its secret is then
/// derived, so that no plaintext is kept for that.
pub(super) fn successor(
    ctx: &Context<'_>,
    predecessor: &Artefact,
    grant: &str,
    document: &RefreshDocument,
) -> Result<(Plain, Vec<u8>, Step), OAuthError> {
    let issued = if ctx.settings.refresh_grace > 0 {
        derived(ctx.mac, predecessor, ctx.now_ms)
    } else {
        secret::generate(SecretKind::Refresh, ctx.now_ms, ctx.entropy, ctx.mac)
    };
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
        expires_at: document.family_expires_at.min(now.saturating_add(ctx.settings.refresh_idle)),
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
