//! New tokens for a session. One renewal at a time, over threads and nodes: the database decides who makes it, and what it gave is durable
//! before it is used.
use std::{rc::Rc, sync::Arc, time::Duration};

use edge::{Refusal, id_token::Beside};
use ledger::{Artefact, ArtefactKind, Change, Outcome, Step};
use tokens::{hash, secret::Plain};

use super::{
    Sessions, belief, count,
    issuer::{Denied, Granted},
    row::{self, Kept},
};
use crate::{seen::Believed, worker::Worker};

/// After so many seconds whoever took the lease is thought dead: longer than two calls can take.
const LEASE_S: i64 = 12;
/// Further leases after that, before the session is left alone for this time.
const LEASES: u32 = 3;
/// How long a request without a usable token waits for another's renewal.
const PATIENCE: Duration = Duration::from_secs(14);
/// How long a session is left alone after a renewal in vain, milliseconds.
const PAUSE_MS: i64 = 3_000;
const LOOK_AGAIN: Duration = Duration::from_millis(60);
/// Tries to store what a renewal gave.
const TRIES: u32 = 5;

/// What became of a renewal.
enum Renewed {
    /// The row as it is now.
    To(Box<(Kept, i64)>),
    /// Somebody else is at it.
    Elsewhere,
    /// The session is over.
    Ended,
    /// The login server cannot be reached.
    Away,
    /// Storage is away.
    Storage,
}

/// The session with an access token that is good for a while. While the one it has is good, nobody waits for a new one.
pub(super) async fn renewed(
    worker: &Worker,
    sessions: &Arc<Sessions>,
    session: Rc<Believed>,
    value: &str,
    now_ms: i64,
) -> Result<Rc<Believed>, Refusal> {
    let Some(held) = &session.session else { return Ok(session) };
    let good = held.access_until_ms > now_ms;
    let failed = now_ms - held.failed_ms.get() < PAUSE_MS;
    if good && (failed || held.renewing.get()) {
        return Ok(session);
    }
    if failed {
        return Err(Refusal::Undecided("session_renewal"));
    }
    let deadline = now_ms + i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    loop {
        // It goes on when this request's client goes away: a refresh token that was used up has a successor to be kept.
        held.renewing.set(true);
        let (own, id, generation) = (Arc::clone(sessions), held.id, held.generation);
        let renewal = tokio::spawn(async move { own.renew(id, generation).await });
        let _done = Done(&session);
        let outcome = renewal.await.unwrap_or(Renewed::Away);
        if matches!(outcome, Renewed::Away) {
            held.failed_ms.set(sessions.now_ms());
        }
        match outcome {
            Renewed::To(new) => {
                let (kept, expires_at) = *new;
                let new = belief::believed(sessions, held.id, &kept, expires_at, sessions.now_ms());
                worker.seen.borrow_mut().put(value.into(), Rc::clone(&new));
                return Ok(new);
            }
            Renewed::Ended => {
                worker.seen.borrow_mut().forget(value);
                return Err(Refusal::Invalid("session"));
            }
            _ if good => return Ok(Rc::clone(&session)),
            Renewed::Elsewhere if sessions.now_ms() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            Renewed::Storage => return Err(Refusal::Undecided("session_storage")),
            Renewed::Elsewhere | Renewed::Away => return Err(Refusal::Undecided("session_renewal")),
        }
    }
}

/// Takes the mark away that a renewal goes on.
struct Done<'a>(&'a Believed);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(held) = &self.0.session {
            held.renewing.set(false);
        }
    }
}

impl Sessions {
    /// Renews the tokens of a session that has those of a generation, unless somebody did or does.
    async fn renew(self: Arc<Self>, id: [u8; 16], generation: u64) -> Renewed {
        match self.try_renew(&id, generation).await {
            Ok(renewed) => renewed,
            Err(Refusal::Undecided(_)) => Renewed::Storage,
            Err(_) => Renewed::Ended,
        }
    }

    async fn try_renew(&self, id: &[u8; 16], generation: u64) -> Result<Renewed, Refusal> {
        let Some((row, kept)) = self.opened(id).await? else { return Ok(Renewed::Ended) };
        if kept.generation != generation {
            return Ok(Renewed::To(Box::new((kept, row.expires_at))));
        }
        if !self.lease(id, generation).await? {
            return Ok(Renewed::Elsewhere);
        }
        // Whoever had the lease before may have been done just now.
        let Some((row, kept)) = self.opened(id).await? else { return Ok(Renewed::Ended) };
        if kept.generation != generation {
            return Ok(Renewed::To(Box::new((kept, row.expires_at))));
        }
        let Some(refresh) = kept.refresh.clone().map(Plain::new) else { return Ok(Renewed::Ended) };
        let granted = match self.redeemed(&refresh).await {
            Ok(granted) => granted,
            Err(Denied::Grant) => {
                self.end(id, &kept, "refresh_refused").await?;
                return Ok(Renewed::Ended);
            }
            Err(Denied::Away | Denied::Other) => {
                count("refresh_failed");
                return Ok(Renewed::Away);
            }
        };
        let Some(next) = self.next(&kept, granted, &refresh).await else {
            self.end(id, &kept, "refresh_unbelievable").await?;
            return Ok(Renewed::Ended);
        };
        self.store_renewed(&row, next).await
    }

    async fn opened(&self, id: &[u8; 16]) -> Result<Option<(Artefact, Kept)>, Refusal> {
        let Some(row) = self.row(id).await? else { return Ok(None) };
        Ok(row::open(&self.parts.kek, &row).map(|kept| (row, kept)))
    }

    /// Takes the lease of a generation: one conditional statement. A lease that was taken long ago is nobody's any more.
    async fn lease(&self, id: &[u8; 16], generation: u64) -> Result<bool, Refusal> {
        let away = |error: ledger::StoreError| {
            tracing::warn!(target: "gateway", %error, "a session's renewal could not be begun");
            Refusal::Undecided("session_storage")
        };
        let now = self.parts.clock.now();
        for number in 0..LEASES {
            let name = hash::sha256(&[b"renewal\0", id.as_slice(), &generation.to_be_bytes(), &number.to_be_bytes()].concat());
            let taken = row::artefact(ArtefactKind::Jti, &name, b"", "{}".into(), now, now + 10 * LEASE_S);
            if self.parts.store.apply(Change::new().step(Step::Put(taken))).await.map_err(away)?.applied() {
                return Ok(true);
            }
            let before = self.parts.store.artefact(ArtefactKind::Jti, &name).await.map_err(away)?;
            if before.is_some_and(|lease| lease.created_at + LEASE_S > now) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Redeems a refresh token. An answer that is lost is asked for once more: a server that forgives this gives the same again.
    async fn redeemed(&self, refresh: &Plain) -> Result<Granted, Denied> {
        let settings = self.settings();
        let provider = self.server.provider(settings).await?;
        let form = || vec![("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        match self.server.tokens(settings, &provider, form()).await {
            Err(Denied::Away) => self.server.tokens(settings, &provider, form()).await,
            answered => answered,
        }
    }

    /// What is kept after a renewal; nothing if the tokens are another person's, or cannot be believed.
    async fn next(&self, kept: &Kept, granted: Granted, refresh: &Plain) -> Option<Kept> {
        let settings = self.settings();
        let mut next = kept.clone();
        if let Some(id_token) = &granted.id_token {
            let beside = Beside { nonce: None, access_token: granted.access.expose(), max_age: None };
            let (person, kid) = self.server.person(settings, id_token.expose(), &beside).await.ok()?;
            if person.sub != kept.sub || (person.sid.is_some() && person.sid != kept.sid) {
                return None;
            }
            next.id_token = id_token.expose().to_owned();
            next.kid = kid;
        }
        next.refresh = Some(granted.refresh.as_ref().unwrap_or(refresh).expose().to_owned());
        if let Some(scope) = &granted.scope {
            next.scope.clone_from(scope);
        }
        next.access = granted.access.expose().to_owned();
        next.access_until_ms = granted.access_until_ms;
        next.generation += 1;
        self.learn(&mut next).await;
        (next.sub == kept.sub && next.subject == kept.subject).then_some(next)
    }

    /// Makes it durable; only then it is used. A session that was ended meanwhile stays ended, and its new tokens with it.
    async fn store_renewed(&self, row: &Artefact, next: Kept) -> Result<Renewed, Refusal> {
        let Some(document) = row::seal(&self.parts.kek, row.kind, &row.id, &next, &*self.parts.entropy) else { return Ok(Renewed::Away) };
        for again in 0..TRIES {
            let now = self.parts.clock.now();
            let expires_at = now.saturating_add(self.settings().idle).min(next.until);
            let saved = Artefact { document: document.clone(), expires_at, ..row.clone() };
            let change = Change::new().step(Step::Extend { kind: row.kind, id: row.id.clone(), now, expires_at }).step(Step::Save(saved));
            match self.parts.store.apply(change).await {
                Ok(Outcome::Applied { .. }) => {
                    count("refreshed");
                    return Ok(Renewed::To(Box::new((next, expires_at))));
                }
                Ok(Outcome::Refused(_)) => {
                    self.revoke_tokens(&next).await;
                    return Ok(Renewed::Ended);
                }
                Err(error) => {
                    tracing::warn!(target: "gateway", %error, again, "a session's new tokens could not be stored");
                    tokio::time::sleep(Duration::from_millis(200 << again)).await;
                }
            }
        }
        Err(Refusal::Undecided("session_storage"))
    }

    /// Lets the tokens of a session die at their issuer.
    pub(super) async fn revoke_tokens(&self, kept: &Kept) {
        let settings = self.settings();
        if let Ok(provider) = self.server.provider(settings).await {
            let token = kept.refresh.as_ref().unwrap_or(&kept.access);
            self.server.revoke(settings, &provider, token).await;
        }
    }
}
