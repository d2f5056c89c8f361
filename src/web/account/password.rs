//! Checking a password: limits first, then the same work for everybody (RFC 9106; CONTRACT §6 login limits).
use std::net::IpAddr;

use accounts::{User, password, throttle};
use edge::limit::Quota;
use ledger::{EventKind, NewEvent, Object, ObjectKind};
use tokens::secret::Plain;

use super::interaction;
use crate::{App, pages::Refused};

/// Longest username looked up, octets.
const LONGEST_NAME: usize = 320;
/// An id that nobody has: unknown people cost the same look-ups.
const NOBODY: &str = "-";
/// How often a throttled source is told of in the ledger.
const TOLD: Quota = Quota { rate: 1, period_s: 60, burst: 1 };

/// What an attempt came to.
pub enum Attempt {
    /// It is them: the account as it was before its password was read.
    Right(Box<Object>),
    /// It is not; never says why.
    Wrong,
}

pub(super) fn quota(limit: throttle::Limit) -> Quota {
    Quota { rate: limit.rate, period_s: limit.period_s, burst: limit.burst }
}

/// Looks whether the source, or the account at that source, has used up its failures.
pub(super) async fn admitted(app: &App, counters: &throttle::Counters, address: IpAddr) -> Result<(), Refused> {
    let now_ms = app.clock.now_ms();
    let mut refused: Option<(i64, Quota)> = None;
    for (key, limit) in counters.each() {
        let (quota, longest) = (quota(limit), refused.map_or(0, |(wait, _)| wait));
        let verdict = app.counters.peek(key, &quota, now_ms).await;
        if !verdict.allowed && verdict.retry_after_s() > longest {
            refused = Some((verdict.retry_after_s(), quota));
        }
    }
    let Some((wait, quota)) = refused else { return Ok(()) };
    if app.counters.hit(&format!("{}:told", counters.source), &TOLD, 1, now_ms).await.allowed {
        let event = NewEvent::new(EventKind::LoginThrottled, now_ms).with("address", address.to_string());
        app.summaries.tell(app, event).await?;
    }
    metrics::counter!("logins_total", "outcome" => "throttled").increment(1);
    Err(Refused::limited(wait, ("login", quota)))
}

/// Checks a username and a password from an address. A failure is counted and told; a success takes none back.
///
/// # Errors
/// 429 beyond the limits, 503 if the pool is full or storage is away.
pub async fn attempt(app: &App, username: &str, given: Plain, address: IpAddr) -> Result<Attempt, Refused> {
    let counters = throttle::Counters::of(username, address);
    admitted(app, &counters, address).await?;
    let object = match username {
        "" => None,
        name if name.len() > LONGEST_NAME => None,
        name => app.store.object_by_key(ObjectKind::User, name).await?,
    };
    let id = object.as_ref().map_or(NOBODY, |o| o.id.as_str());
    let stored = app.store.secret(ObjectKind::User, id, "password").await?.and_then(|v| String::from_utf8(v).ok());
    let known = object.is_some();
    let turn = app.hashing.turn(address).await?;
    // Those who stood before in the queue may have used up what was left: each guess is counted before the turn goes on.
    admitted(app, &counters, address).await?;
    let (right, turn) = turn.run(move || password::verify(stored.as_deref().filter(|_| known), given.expose())).await?;
    let user: Option<User> = object.as_ref().and_then(|o| serde_json::from_value(o.document.clone()).ok());
    let reason = match &user {
        None => "unknown",
        Some(_) if !right => "password",
        Some(user) if user.disabled => "disabled",
        Some(_) => "",
    };
    match object {
        Some(object) if reason.is_empty() => {
            drop(turn);
            interaction::welcome(app, address).await;
            metrics::counter!("logins_total", "outcome" => "succeeded").increment(1);
            Ok(Attempt::Right(Box::new(object)))
        }
        _ => {
            let now_ms = app.clock.now_ms();
            for (key, limit) in counters.each() {
                app.counters.hit(key, &quota(limit), 1, now_ms).await;
            }
            drop(turn);
            let event = NewEvent::new(EventKind::LoginFailed, now_ms).with("reason", reason).with("address", address.to_string());
            let event = user.into_iter().fold(event, |event, user| event.subject(user.id));
            app.summaries.tell(app, event).await?;
            metrics::counter!("logins_total", "outcome" => "failed").increment(1);
            Ok(Attempt::Wrong)
        }
    }
}
