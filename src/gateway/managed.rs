//! Sending a request on where there is something to choose or to watch: several targets, bulkheads, breakers, retries, deadlines.
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use edge::{Refusal, identity::Identity, table::Entry};
use http::{Request, header};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use crate::{
    balance::{self, Way},
    body::{Progress, RequestBody},
    forward::{Answered, Attempt, Missed, attempt, copy},
    pool::{Pool, Watching},
    standing::{Flight, Standing},
};

/// Most targets tried for one request that could not be sent.
const TARGETS: usize = 4;
/// The first pause before a repetition is up to this, each further one up to twice as much.
const PAUSE: Duration = Duration::from_millis(25);

/// What an answer holds until its last octet, and how long it may take.
pub(crate) struct Watched {
    _room: Option<OwnedSemaphorePermit>,
    _flight: Flight,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    waiting: bool,
    until: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    /// Octets moved.
    pub(crate) const fn moved(&mut self) {
        self.waiting = false;
    }

    /// Ready once nothing came for too long, or all of it takes too long.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        let Some((within, sleep)) = &mut self.idle else { return Poll::Pending };
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + *within);
        }
        sleep.as_mut().poll(cx)
    }
}

/// How a request is sent.
pub(crate) struct Sending<'a> {
    pub entry: &'a Entry,
    pub progress: &'a Progress,
    /// What the upstream has to accept a WebSocket with.
    pub accept: Option<&'a str>,
    pub way: &'a Way<'a>,
    pub who: Option<&'a Identity>,
    /// The target that is to answer now.
    pub asked: Cell<Option<usize>>,
    /// It has not come to that yet, for as many connections are open as may be.
    pub queued: Cell<bool>,
}

impl<'a> Sending<'a> {
    pub(crate) const fn new(
        entry: &'a Entry,
        progress: &'a Progress,
        accept: Option<&'a str>,
        way: &'a Way<'a>,
        who: Option<&'a Identity>,
    ) -> Self {
        Self { entry, progress, accept, way, who, asked: Cell::new(None), queued: Cell::new(false) }
    }
}

/// Sends a request to one of its upstream's targets.
pub(crate) async fn forward(pool: &Rc<Pool>, place: &mut Option<Request<RequestBody>>, sending: &Sending<'_>) -> Result<Answered, Refusal> {
    let balance = &sending.entry.upstream;
    let after = |ms| Instant::now() + Duration::from_millis(ms);
    let until = balance.total_timeout_ms.map(after);
    // What the route gives is for the head of the answer.
    let head_until = sending.entry.bounds.as_ref().and_then(|bounds| bounds.response_ms).map(after).into_iter().chain(until).min();
    let standing = pool.standing(balance);
    let tried = async {
        let room = standing.enter().await.inspect_err(|refusal| refused(balance, *refusal))?;
        tries(pool, place, sending, &standing).await.map(|answered| (answered, room))
    };
    let done = match head_until {
        Some(until) => tokio::time::timeout_at(until, tried).await.unwrap_or_else(|_| {
            // Whose answer was waited for is to blame, unless the caller kept it waiting.
            if let Some(at) = sending.asked.get().filter(|_| !sending.queued.get() && !sending.progress.waiting.get()) {
                standing.hear(at, pool.upstreams.now(), false);
            }
            Err(Refusal::SlowUpstream)
        }),
        None => tried.await,
    };
    let ((mut answered, flight), room) = done?;
    let idle = balance.idle_timeout_ms.map(Duration::from_millis).map(|within| (within, Box::pin(tokio::time::sleep(within))));
    let until = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
    answered.held.watched = Some(Box::new(Watched { _room: room, _flight: flight, idle, waiting: false, until }));
    Ok(answered)
}

fn refused(balance: &edge::balance::Balance, refusal: Refusal) {
    metrics::counter!("upstream_refused_total", "upstream" => balance.id.to_string(), "reason" => refusal.reason()).increment(1);
}

async fn tries(
    pool: &Rc<Pool>,
    place: &mut Option<Request<RequestBody>>,
    sending: &Sending<'_>,
    standing: &Arc<Standing>,
) -> Result<(Answered, Flight), Refusal> {
    let balance = &sending.entry.upstream;
    let retrying = balance.retries.unwrap_or_default();
    let upstreams = Arc::clone(&pool.upstreams);
    standing.earn();
    let order = {
        let value = |on: &_| place.as_ref().map_or(0, |request| balance::value(on, sending.way, request.headers(), sending.who));
        balance::order(pool, balance, standing, value, upstreams.now()).inspect_err(|refusal| refused(balance, *refusal))?
    };
    let connects = order.len().min(TARGETS).max(if retrying.connect { retrying.attempts as usize + 1 } else { 0 });
    let (mut unreached, mut repeated) = (0, 0);
    let mut last = Refusal::Full("breaker_open");
    // Each once, and again for what may be repeated.
    for at in order.iter().copied().cycle().take(order.len() + connects + retrying.attempts as usize) {
        let Some(target) = balance.targets.get(at) else { continue };
        if !standing.take(at, upstreams.now()) {
            continue;
        }
        let spare = if repeated < retrying.attempts { place.as_ref().and_then(copy) } else { None };
        let flight = Flight::new(standing, at);
        let within = Duration::from_millis(balance.timeout_ms);
        let watched = Some(Watching { standing, queued: &sending.queued });
        let try_of = Attempt { entry: sending.entry, target, watched, progress: sending.progress, accept: sending.accept, within };
        sending.asked.set(Some(at));
        let attempted = attempt(pool, place, &try_of).await;
        sending.asked.set(None);
        let missed = match attempted {
            Ok(answered) => {
                let status = answered.answer.status().as_u16();
                let unavailable = answered.answer.headers().get("grpc-status").is_some_and(|s| s == "14");
                standing.hear(at, upstreams.now(), !matches!(status, 500 | 502 | 503 | 504) && !unavailable);
                // Where there is one target only, it knows best when to ask again.
                let asked_to_wait = order.len() == 1 && answered.answer.headers().contains_key(header::RETRY_AFTER);
                if spare.is_none() || !retrying.on_status(status) || asked_to_wait || !standing.spend() {
                    return Ok((answered, flight));
                }
                Refusal::BadUpstream("unavailable")
            }
            Err(Missed::Full(refusal)) => {
                refused(balance, refusal);
                return Err(refusal);
            }
            Err(Missed::Unreached(refusal)) => {
                standing.hear(at, upstreams.now(), false);
                (last, unreached) = (refusal, unreached + 1);
                if unreached >= connects {
                    return Err(last);
                }
                if unreached >= order.len() {
                    pause(pool, unreached - order.len()).await;
                }
                continue;
            }
            Err(Missed::Failed(refusal)) => {
                let (late, bad) = (refusal == Refusal::SlowUpstream, matches!(refusal, Refusal::BadUpstream(_)));
                if late || bad {
                    standing.hear(at, upstreams.now(), false);
                }
                if spare.is_none() || !(late && retrying.timeout) || !standing.spend() {
                    return Err(refusal);
                }
                refusal
            }
        };
        (last, *place, repeated) = (missed, spare, repeated + 1);
        metrics::counter!("upstream_retries_total", "upstream" => balance.id.to_string(), "reason" => missed.reason()).increment(1);
        pause(pool, repeated as usize - 1).await;
    }
    if last == Refusal::Full("breaker_open") {
        refused(balance, last);
    }
    Err(last)
}

/// Waits a moment by chance, so that those that failed together do not come again together.
async fn pause(pool: &Pool, before: usize) {
    let most = PAUSE.as_micros() << before.min(5);
    let us = pool.chance(usize::try_from(most).unwrap_or(usize::MAX));
    tokio::time::sleep(Duration::from_micros(us as u64)).await;
}
