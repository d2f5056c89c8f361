//! On what terms a stream stays open, besides its credential's own end: that ends are heard of here, and that an issuer who tells nobody goes
//! on to say that the token is good. What is asked of requests is asked of what they opened, with some patience.
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use edge::{
    RouteTable,
    admission::{Access, Guard},
    credentials::{self, Presented},
    identity::{Issuer, Kind},
    route::Freshness,
    table::{Entry, Trusted},
};
use tokens::secret::Plain;

use crate::{
    asked::Asked,
    foreign,
    seen::{Believed, recent},
    source::{Introspection, KeySource},
    worker::Worker,
};

/// How much longer than a request a stream is let go on unconfirmed, milliseconds: a server that is started anew costs nobody his streams.
pub(crate) const PATIENCE_MS: i64 = 30_000;
/// How often an issuer is asked about what is open, where its route does not say, and at most, milliseconds.
const EVERY_MS: i64 = 10_000;
const OFTEN_MS: i64 = 1_000;
/// Most questions of one thread at a time.
const QUESTIONS: usize = 32;

/// How old what is known of ends is, milliseconds: what the authorization server revoked, and what ended the gateway's own sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    pub revocations_ms: i64,
    pub sessions_ms: i64,
}

/// What one open thing depends on.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// How old the knowledge of revocations may be, milliseconds; nothing where it does not count.
    stale_ms: Option<i64>,
    /// That of the gateway's own sessions, not of the authorization server's revocations.
    sessions: bool,
    question: Option<Rc<Question>>,
}

/// What is asked again and again while something is open.
struct Question {
    trusted: Arc<Trusted>,
    token: Plain,
    every_ms: i64,
    /// When it was last said to be good, milliseconds since the epoch.
    good_ms: Cell<i64>,
    asking: Cell<bool>,
    over: Cell<bool>,
}

impl Terms {
    /// Those of a caller on a route.
    pub(crate) fn of(worker: &Worker, table: &RouteTable, entry: &Entry, believed: &Believed, asked: &Asked<'_>) -> Self {
        let Access::Guarded(guard) = &entry.access else { return Self::default() };
        if guard.freshness == Freshness::Offline {
            return Self::default();
        }
        let most = guard.max_staleness_ms.unwrap_or(worker.gateway.parts().settings.max_staleness_ms);
        match &believed.identity.issuer {
            Issuer::Own => Self { stale_ms: Some(most), ..Self::default() },
            Issuer::Authority(_) => Self { stale_ms: believed.identity.device.as_ref().map(|_| most), ..Self::default() },
            Issuer::Foreign(_) if believed.identity.kind == Kind::Session => Self { stale_ms: Some(most), sessions: true, question: None },
            Issuer::Foreign(name) => {
                let Some(trusted) = table.trusted(name) else { return Self::default() };
                let question = Question::new(worker, guard, trusted, believed, asked);
                Self { stale_ms: trusted.signals.then_some(most), sessions: false, question }
            }
        }
    }

    /// Whether it may not go on with what is known being so old.
    pub(crate) fn over(&self, now_ms: i64, behind: Behind) -> bool {
        let behind_ms = if self.sessions { behind.sessions_ms } else { behind.revocations_ms };
        self.stale_ms.is_some_and(|most| behind_ms > most.saturating_add(PATIENCE_MS))
            || self.question.as_ref().is_some_and(|q| q.over(now_ms))
    }
}

impl Question {
    /// Nobody tells us of the end of these: opaque tokens of others, and JWTs where the route has their issuer asked.
    fn new(worker: &Worker, guard: &Guard, trusted: &Arc<Trusted>, believed: &Believed, asked: &Asked<'_>) -> Option<Rc<Self>> {
        let who = &believed.identity;
        let asks = who.kind == Kind::Opaque || (who.kind == Kind::Jwt && guard.freshness == Freshness::Introspect);
        if !asks || trusted.introspection.is_none() {
            return None;
        }
        let (Presented::Jwt(token, _) | Presented::Opaque(token, _)) = credentials::presented(asked.headers, asked.query, false).ok()?
        else {
            return None;
        };
        Some(Rc::new(Self {
            trusted: Arc::clone(trusted),
            token: Plain::new(token),
            every_ms: guard.cache_ttl_ms.unwrap_or(EVERY_MS).max(OFTEN_MS),
            good_ms: Cell::new(worker.now_ms()),
            asking: Cell::new(false),
            over: Cell::new(false),
        }))
    }

    fn over(&self, now_ms: i64) -> bool {
        self.over.get() || now_ms - self.good_ms.get() > self.every_ms.saturating_add(PATIENCE_MS)
    }

    fn due(&self, now_ms: i64) -> bool {
        !self.asking.get() && !self.over.get() && !recent(now_ms, self.good_ms.get(), self.every_ms)
    }
}

/// Whether another issuer and its keys are still those that a token was believed by.
fn stands(worker: &Worker, table: &RouteTable, believed: &Believed) -> bool {
    let who = &believed.identity;
    // A login server need not be an issuer of tokens.
    let (Issuer::Foreign(name), Kind::Jwt | Kind::Opaque) = (&who.issuer, who.kind) else { return true };
    let Some(trusted) = table.trusted(name) else { return false };
    if who.kind == Kind::Opaque {
        return true;
    }
    let keys = worker.gateway.foreign_keys(trusted);
    // As long as there are none at all, it is not known which have gone.
    let Some(kid) = who.kid.as_deref().filter(|_| keys.generation() != believed.keys && keys.usable()) else { return true };
    trusted.algorithms.iter().any(|alg| keys.find(Some(kid), *alg).is_some())
}

/// Ends what was opened under another issuer that is trusted no more, or a key that is its no more.
pub(crate) fn end_strange(worker: &Worker) -> usize {
    let table = worker.gateway.parts().table.load();
    worker.live.sweep_strange(|believed| stands(worker, &table, believed))
}

/// Asks what is due of what is open.
pub(crate) fn ask(worker: &Rc<Worker>) {
    let now_ms = worker.now_ms();
    let due = RefCell::new(Vec::new());
    let asking = Cell::new(0);
    worker.live.each(|terms| {
        let Some(question) = &terms.question else { return };
        if question.asking.get() {
            asking.set(asking.get() + 1);
        } else if question.due(now_ms) && asking.get() + due.borrow().len() < QUESTIONS {
            question.asking.set(true);
            due.borrow_mut().push(Rc::clone(question));
        }
    });
    for question in due.into_inner() {
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            let said = foreign::ask(&worker, &question.trusted, question.token.expose(), true).await;
            question.asking.set(false);
            match said {
                Ok(Introspection::Active(claims)) if claims.iss.is_empty() || *claims.iss == *question.trusted.issuer => {
                    question.good_ms.set(worker.now_ms());
                }
                Ok(_) => question.over.set(true),
                // Asked again with the next beat, and ended when that has been in vain for too long.
                Err(_) => {}
            }
        });
    }
}
