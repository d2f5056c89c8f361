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

/// After so many seconds whoever took the lease is thought dead: longer than all its calls can take.
const LEASE_S: i64 = 30;
/// How long a lease's row is there, in leases, if nobody gives it back.
const LEASE_ROWS: i64 = 10;
/// Leases that may be taken after others whose holders died.
const LEASES: u32 = 8;
/// How long it may take to look at what a renewal gave, before that is put off.
const LOOK: Duration = Duration::from_secs(6);
/// How long a request without a usable token waits for another's renewal.
const PATIENCE: Duration = Duration::from_secs(14);
/// How long a session is left alone after a renewal in vain, milliseconds.
const PAUSE_MS: i64 = 3_000;
/// How soon it looks whether that is done, at first and later.
const LOOK_AGAIN: Duration = Duration::from_millis(60);
const LOOK_LATER: Duration = Duration::from_millis(480);
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
    let deadline = now_ms + i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    // One request of a thread asks; the others wait for what it hears.
    while held.renewing.get() && sessions.now_ms() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let renewed = worker.seen.borrow_mut().get(value);
    let is_newer = |new: &Believed| new.session.as_ref().is_some_and(|new| new.id == held.id && new.generation > held.generation);
    if let Some(new) = renewed.filter(|new| is_newer(new)) {
        return Ok(new);
    }
    if held.renewing.get() || sessions.now_ms() - held.failed_ms.get() < PAUSE_MS {
        return Err(Refusal::Undecided("session_renewal"));
    }
    let mut pause = LOOK_AGAIN;
    loop {
        // It goes on when this request's client goes away: a refresh token that was used up has a successor to be kept.
        held.renewing.set(true);
        let (own, id, generation) = (Arc::clone(sessions), held.id, held.generation);
        let renewal = tokio::spawn(async move { own.renew(id, generation).await });
        let _done = Done(&session);
        let outcome = renewal.await.unwrap_or(Renewed::Away);
        if matches!(outcome, Renewed::Away | Renewed::Storage) {
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
            Renewed::Elsewhere if sessions.now_ms() < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_LATER);
            }
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
        let Some(lease) = self.lease(id, generation).await? else { return Ok(Renewed::Elsewhere) };
        let renewed = self.renew_under(&lease, id, generation).await;
        if !matches!(renewed, Ok(Renewed::To(_) | Renewed::Ended)) {
            // Whoever asks next need not wait until this one is thought dead.
            let given_back = Change::new().step(Step::Remove { kind: ArtefactKind::Jti, id: lease });
            if let Err(error) = self.parts.store.apply(given_back).await {
                tracing::warn!(target: "gateway", %error, "a session's renewal could not be left to others");
            }
        }
        renewed
    }

    async fn renew_under(&self, lease: &[u8], id: &[u8; 16], generation: u64) -> Result<Renewed, Refusal> {
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
        self.store_renewed(lease, id, &row, next).await
    }

    async fn opened(&self, id: &[u8; 16]) -> Result<Option<(Artefact, Kept)>, Refusal> {
        let Some(row) = self.row(id).await? else { return Ok(None) };
        Ok(row::open(&self.parts.kek, &row).map(|kept| (row, kept)))
    }

    /// Takes the lease of a generation: one conditional statement, made only where nobody is seen to have it. A lease that was taken long
    /// ago is nobody's any more.
    async fn lease(&self, id: &[u8; 16], generation: u64) -> Result<Option<Vec<u8>>, Refusal> {
        let away = |error: ledger::StoreError| {
            tracing::warn!(target: "gateway", %error, "a session's renewal could not be begun");
            Refusal::Undecided("session_storage")
        };
        let now = self.parts.clock.now();
        for number in 0..LEASES {
            let name = hash::sha256(&[b"renewal\0", id.as_slice(), &generation.to_be_bytes(), &number.to_be_bytes()].concat());
            match self.parts.store.artefact(ArtefactKind::Jti, &name).await.map_err(away)? {
                Some(before) if before.created_at + LEASE_S > now => return Ok(None),
                Some(_) => {}
                None => {
                    let taken = row::artefact(ArtefactKind::Jti, &name, b"", "{}".into(), now, now + LEASE_ROWS * LEASE_S);
                    let outcome = self.parts.store.apply(Change::new().step(Step::Put(taken))).await.map_err(away)?;
                    return Ok(outcome.applied().then(|| name.to_vec()));
                }
            }
        }
        Ok(None)
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
            match tokio::time::timeout(LOOK, self.server.person(settings, id_token.expose(), &beside)).await {
                Ok(Ok((person, kid))) => {
                    if person.sub != kept.sub || (kept.sid.is_some() && person.sid.is_some() && person.sid != kept.sid) {
                        return None;
                    }
                    next.id_token = id_token.expose().to_owned();
                    next.kid = kid;
                    next.sid = next.sid.or(person.sid);
                }
                // Its keys cannot be had just now: what was believed at the login goes on to count, with the tokens that came since.
                Err(_) => {}
                Ok(Err(failed)) if failed.code == "temporarily_unavailable" => {}
                Ok(Err(_)) => return None,
            }
        }
        next.refresh = Some(granted.refresh.as_ref().unwrap_or(refresh).expose().to_owned());
        if let Some(scope) = &granted.scope {
            next.scope.clone_from(scope);
        }
        next.access = granted.access.expose().to_owned();
        next.access_until_ms = granted.access_until_ms;
        next.generation += 1;
        // What cannot be learned now stays as it was.
        let _ = tokio::time::timeout(LOOK, self.learn(&mut next)).await;
        (next.sub == kept.sub && next.subject == kept.subject).then_some(next)
    }

    /// Makes it durable; only then it is used. A session that was ended meanwhile stays ended, and its new tokens with it; whoever comes
    /// after the lease has run out changes nothing.
    async fn store_renewed(&self, lease: &[u8], id: &[u8; 16], row: &Artefact, next: Kept) -> Result<Renewed, Refusal> {
        let Some(document) = row::seal(&self.parts.kek, row.kind, &row.id, &next, &*self.parts.entropy) else { return Ok(Renewed::Away) };
        for again in 0..TRIES {
            let now = self.parts.clock.now();
            let expires_at = now.saturating_add(self.settings().idle).min(next.until);
            let saved = Artefact { document: document.clone(), expires_at, ..row.clone() };
            // The lease's row is there for longer than the lease.
            let until = now + (LEASE_ROWS - 1) * LEASE_S;
            let change = Change::new()
                .step(Step::Consume { kind: ArtefactKind::Jti, id: lease.to_vec(), now: until, successor: None })
                .step(Step::Extend { kind: row.kind, id: row.id.clone(), now, expires_at })
                .step(Step::Save(saved));
            match self.parts.store.apply(change).await {
                Ok(Outcome::Applied { .. }) => {
                    count("refreshed");
                    return Ok(Renewed::To(Box::new((next, expires_at))));
                }
                Ok(Outcome::Refused(_)) => match self.opened(id).await? {
                    None => {
                        self.revoke_tokens(&next).await;
                        return Ok(Renewed::Ended);
                    }
                    // Stored before, by an answer that was lost, or by another who had the lease after this one.
                    Some((row, kept)) if kept.generation >= next.generation => {
                        return Ok(Renewed::To(Box::new((kept, row.expires_at))));
                    }
                    Some(_) => return Ok(Renewed::Away),
                },
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
