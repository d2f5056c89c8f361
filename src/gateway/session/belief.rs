//! What the session cookie of a request is worth. Known sessions cost a look-up; the database is the truth.
use std::{cell::Cell, rc::Rc, sync::Arc};

use edge::{Refusal, admission::Guard, route::Freshness, session::Sent};
use http::{HeaderValue, header, request::Parts as Head};
use ledger::{Artefact, ArtefactKind, Change, Step};
use tokens::secret::{self, Plain, SecretKind};

use super::{
    Sessions, count, place, renewal,
    row::{self, Kept},
};
use crate::{
    asked::Asked,
    bearer,
    seen::{Believed, recent},
    source::Introspection,
    worker::Worker,
};

/// How long before its end an access token is renewed, at most, milliseconds.
const AHEAD_MS: i64 = 30_000;

/// What a believed session has besides an identity.
pub(crate) struct Held {
    /// The row's id.
    pub(super) id: [u8; 16],
    pub(super) access: Plain,
    pub(super) access_until_ms: i64,
    /// When the access token is to be renewed, milliseconds; never, if it cannot be.
    pub(super) renew_ms: i64,
    pub(super) generation: u64,
    /// When it ends without another request, seconds.
    idle_until: Cell<i64>,
    until: i64,
    /// A request of this thread is renewing it.
    pub(super) renewing: Cell<bool>,
    /// When a renewal was last tried in vain, milliseconds.
    pub(super) failed_ms: Cell<i64>,
}

/// Believes what a row holds.
pub(super) fn believed(sessions: &Sessions, id: [u8; 16], kept: &Kept, expires_at: i64, now_ms: i64) -> Rc<Believed> {
    let settings = sessions.settings();
    let lives = kept.access_until_ms - now_ms;
    let renewable = settings.refresh && kept.refresh.is_some();
    let held = Held {
        id,
        access: Plain::new(kept.access.clone()),
        access_until_ms: kept.access_until_ms,
        renew_ms: if renewable { kept.access_until_ms - (lives / 5).clamp(0, AHEAD_MS) } else { i64::MAX },
        generation: kept.generation,
        idle_until: Cell::new(expires_at),
        until: kept.until,
        renewing: Cell::new(false),
        failed_ms: Cell::new(i64::MIN / 2),
    };
    let identity = kept.identity(&sessions.issuer, &settings.issuer, &settings.client_id);
    let mut believed = Believed::new(identity, u64::MAX, 0, i64::MIN / 2);
    believed.session = Some(Box::new(held));
    Rc::new(believed)
}

/// Proves a session; nothing where the request has none.
pub(crate) async fn prove(worker: &Worker, guard: &Guard, asked: &Asked<'_>, now_ms: i64) -> Option<Result<Rc<Believed>, Refusal>> {
    let sessions = worker.gateway.parts().sessions.as_ref()?;
    let value = match sessions.shown(asked) {
        Sent::Nothing | Sent::One("") => return None,
        Sent::One(value) => value,
        Sent::Several => return Some(Err(Refusal::Invalid("session_twice"))),
    };
    match Box::pin(proved(worker, sessions, guard, value, asked, now_ms)).await {
        // What is over is no bad credential where none is needed: browsers keep the cookie.
        Err(Refusal::Invalid(_)) if guard.accepts.none => None,
        proved => Some(proved),
    }
}

async fn proved(
    worker: &Worker,
    sessions: &Arc<Sessions>,
    guard: &Guard,
    value: &str,
    asked: &Asked<'_>,
    now_ms: i64,
) -> Result<Rc<Believed>, Refusal> {
    let known = worker.seen.borrow_mut().get(value);
    // What has ended may be the tokens that were remembered, and not those that came since: the row tells.
    let stands = |known: &Rc<Believed>| !sessions.is_stale(guard, worker, known, now_ms) && bearer::unrevoked(worker, known, value).is_ok();
    let mut session = match known {
        Some(known) if stands(&known) => known,
        _ => load(worker, sessions, value, now_ms).await?,
    };
    if let Err(refusal) = bearer::unrevoked(worker, &session, value) {
        if let Some(held) = session.session.as_ref().filter(|_| !asked.rehearsal) {
            sessions.bury(value, held.generation, "revoked");
        }
        return Err(refusal);
    }
    let host = asked.host().unwrap_or_default();
    let acts = |scheme| guard.session.may_act(asked.method, asked.headers, scheme, host);
    if !asked.scheme().map_or_else(|| acts("https") || acts("http"), acts) {
        return Err(Refusal::Barred("cross_site"));
    }
    let due = session.session.as_ref().is_some_and(|held| now_ms >= held.renew_ms);
    if due && !asked.rehearsal {
        session = renewal::renewed(worker, sessions, session, value, now_ms).await?;
        bearer::unrevoked(worker, &session, value)?;
    }
    let Some(held) = &session.session else { return Err(Refusal::Undecided("session")) };
    if guard.session.forward_access_token && held.access_until_ms <= now_ms {
        return Err(Refusal::Invalid("session_token_expired"));
    }
    ask(worker, sessions, guard, &session, held, value, now_ms).await?;
    if !asked.rehearsal {
        sessions.touch(worker, held, value, now_ms).await?;
    }
    Ok(session)
}

/// Reads the session of a cookie.
async fn load(worker: &Worker, sessions: &Sessions, value: &str, now_ms: i64) -> Result<Rc<Believed>, Refusal> {
    worker.seen.borrow_mut().forget(value);
    let (id, kept, expires_at) = sessions.find(value).await?.ok_or(Refusal::Invalid("session"))?;
    let session = believed(sessions, id, &kept, expires_at, now_ms);
    worker.seen.borrow_mut().put(value.into(), Rc::clone(&session));
    Ok(session)
}

/// Where its own revocations may not all be known, the login server is asked about the session's access token.
async fn ask(
    worker: &Worker,
    sessions: &Arc<Sessions>,
    guard: &Guard,
    session: &Believed,
    held: &Held,
    value: &str,
    now_ms: i64,
) -> Result<(), Refusal> {
    let always = guard.freshness == Freshness::Introspect;
    if sessions.issuer != edge::identity::Issuer::Own {
        // Nobody can be asked: what its login server has ended is heard over the ledger alone.
        let heard = guard.freshness == Freshness::Offline || now_ms - sessions.fresh_at_ms() <= most_stale(worker, guard);
        return if heard { Ok(()) } else { Err(Refusal::Undecided("session_feed")) };
    }
    if !always && bearer::fresh(worker, guard, now_ms) {
        return Ok(());
    }
    let kept_ms = if always { guard.cache_ttl_ms.unwrap_or(0) } else { bearer::STALE_TTL_MS };
    if recent(now_ms, session.confirmed_ms.get(), kept_ms) {
        return Ok(());
    }
    match Box::pin(bearer::ask(worker, held.access.expose())).await {
        Ok(Introspection::Active(_)) => {
            session.confirmed_ms.set(now_ms);
            Ok(())
        }
        // Its access token is over, and cannot be renewed: nobody can say more.
        Ok(Introspection::Inactive) if held.access_until_ms <= now_ms => {
            Err(if always { Refusal::Invalid("session_token_expired") } else { Refusal::Undecided("session_feed") })
        }
        Ok(Introspection::Inactive) => {
            worker.seen.borrow_mut().forget(value);
            sessions.bury(value, held.generation, "inactive");
            Err(Refusal::Invalid("inactive"))
        }
        Err(_) => Err(Refusal::Undecided("introspection")),
    }
}

fn most_stale(worker: &Worker, guard: &Guard) -> i64 {
    guard.max_staleness_ms.unwrap_or(worker.gateway.parts().settings.max_staleness_ms)
}

impl Sessions {
    /// Whether what is remembered of a session has to be read again: it may have been idle for too long, or ended elsewhere unheard.
    fn is_stale(&self, guard: &Guard, worker: &Worker, known: &Believed, now_ms: i64) -> bool {
        let Some(held) = &known.session else { return true };
        held.idle_until.get() <= now_ms.div_euclid(1000) || now_ms - self.fresh_at_ms() > most_stale(worker, guard)
    }

    /// Up to when the ends of sessions are known here, milliseconds since the epoch.
    pub(crate) fn fresh_at_ms(&self) -> i64 {
        self.parts.store.fresh_at_ms()
    }

    /// The live session of a cookie: its row's id, what it holds, and until when it lives.
    ///
    /// # Errors
    /// [`Refusal::Undecided`]: storage is away.
    pub(super) async fn find(&self, value: &str) -> Result<Option<([u8; 16], Kept, i64)>, Refusal> {
        let Some(shown) = secret::parse(SecretKind::Session, value, &self.mac) else { return Ok(None) };
        let Some(row) = self.row(&shown.id).await? else { return Ok(None) };
        if !shown.matches(&row.mac) {
            return Ok(None);
        }
        Ok(row::open(&self.parts.kek, &row).map(|kept| (shown.id, kept, row.expires_at)))
    }

    /// A live row.
    pub(super) async fn row(&self, id: &[u8; 16]) -> Result<Option<Artefact>, Refusal> {
        let row = self.parts.store.artefact(ArtefactKind::GatewaySession, id).await.map_err(|error| {
            tracing::warn!(target: "gateway", %error, "a session could not be read");
            Refusal::Undecided("session_storage")
        })?;
        let now = self.parts.clock.now();
        Ok(row.filter(|row| row.consumed_at.is_none() && row.expires_at > now))
    }

    /// Notes that a session is used, now and then.
    async fn touch(&self, worker: &Worker, held: &Held, value: &str, now_ms: i64) -> Result<(), Refusal> {
        let now = now_ms.div_euclid(1000);
        let (idle, known) = (self.settings().idle, held.idle_until.get());
        let wanted = now.saturating_add(idle).min(held.until);
        if wanted - known < (idle / 4).max(1) && !(wanted == held.until && wanted > known) {
            return Ok(());
        }
        let step = Step::Extend { kind: ArtefactKind::GatewaySession, id: held.id.to_vec(), now, expires_at: wanted };
        match self.parts.store.apply(Change::new().step(step)).await {
            Ok(outcome) if outcome.applied() => {
                held.idle_until.set(wanted);
                Ok(())
            }
            Ok(_) => {
                worker.seen.borrow_mut().forget(value);
                Err(Refusal::Invalid("session"))
            }
            // It is alive for as long as is known; whether it stays so is decided later.
            Err(error) => {
                tracing::warn!(target: "gateway", %error, "a session's use could not be noted");
                Ok(())
            }
        }
    }

    /// Takes the row of a session away that was found to be over, if it still holds what was judged: tokens that came since are judged by
    /// themselves.
    fn bury(self: &Arc<Self>, value: &str, generation: u64, reason: &'static str) {
        let (sessions, value) = (Arc::clone(self), Plain::new(value));
        tokio::spawn(async move {
            if let Ok(Some((id, kept, _))) = sessions.find(value.expose()).await
                && kept.generation == generation
            {
                let _ = sessions.end(&id, &kept, reason).await;
            }
        });
    }

    /// Ends a session, if nobody did before.
    ///
    /// # Errors
    /// [`Refusal::Undecided`]: storage is away, and the session is as it was.
    pub(super) async fn end(&self, id: &[u8; 16], kept: &Kept, reason: &'static str) -> Result<(), Refusal> {
        let change = row::ending(id, kept, &self.issuer, &self.settings().client_id, reason, self.now_ms());
        let outcome = self.parts.store.apply(change).await.map_err(|error| {
            tracing::warn!(target: "gateway", %error, "a session could not be ended");
            Refusal::Undecided("session_storage")
        })?;
        if outcome.applied() {
            count(reason);
        }
        Ok(())
    }
}

/// Gives the upstream the session's access token, where its route says so.
pub(crate) fn hand_over(head: &mut Head, guard: &Guard, believed: &Believed) {
    let Some(held) = believed.session.as_ref().filter(|_| guard.session.forward_access_token) else { return };
    let text = Plain::new(format!("Bearer {}", held.access.expose()));
    if let Ok(mut value) = HeaderValue::try_from(text.expose()) {
        value.set_sensitive(true);
        head.headers.insert(header::AUTHORIZATION, value);
    }
}

/// Whether a request that brings another credential brings a session besides.
pub(crate) fn is_besides(worker: &Worker, asked: &Asked<'_>) -> bool {
    let sessions = worker.gateway.parts().sessions.as_ref();
    sessions.is_some_and(|sessions| place(asked).is_some() && sessions.shown(asked) != Sent::Nothing)
}
