//! Asking authorities about client certificates (RFC 6960): one question at a time for each certificate, answers kept and renewed while a
//! connection shows the certificate, everything bounded.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use outbound::{Call, Outbound};
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use tokens::{
    Entropy,
    certificate::{Certificate, Doubt},
    pki::ocsp::{ANSWER, About, Answer, QUESTION, Status},
};
use tokio::sync::Semaphore;

use crate::config::OcspRules;

/// Most certificates that are watched at a time.
const MOST_WATCHED: usize = 16_384;
/// Most questions of one kind that are open at a time: about certificates that are shown the first time, and those that are asked again.
const MOST_ASKING: usize = 16;
/// Seconds of clock difference forgiven.
const LEEWAY: i64 = 60;
/// How long an answer counts at most, seconds, whatever the responder says.
const LONGEST: i64 = 3600;
/// How long after a question that was not answered the next one is asked, seconds.
const AGAIN: i64 = 3;

/// Asks on behalf of one listener.
pub struct Ocsp {
    rules: OcspRules,
    outbound: Arc<Outbound>,
    entropy: Arc<dyn Entropy>,
    watched: Mutex<std::collections::HashMap<Box<str>, Arc<State>>>,
    first: Semaphore,
    again: Semaphore,
}

impl fmt::Debug for Ocsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ocsp").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// What is known of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// With the time until which it counts.
    Good(i64),
    /// Until an answer says otherwise.
    Revoked,
}

struct State {
    about: About,
    urls: Vec<String>,
    known: ArcSwap<Known>,
    /// From when what is known is true.
    true_from: AtomicI64,
    /// When the next question is due.
    due: AtomicI64,
    one: tokio::sync::Mutex<()>,
}

impl State {
    /// Whether what was answered would still count if it were shown again.
    fn is_known(&self, at: i64) -> bool {
        match **self.known.load() {
            Known::Nothing => false,
            Known::Good(until) => until > at,
            Known::Revoked => self.due.load(Ordering::Acquire).saturating_add(LONGEST) > at,
        }
    }
}

/// Whether an answer that anybody may have kept can still be believed: what has no end is made for the question, or new.
const fn is_recent(answer: &Answer, at: i64, max_age: i64) -> bool {
    let oldest = at.saturating_sub(max_age.saturating_mul(2)).saturating_sub(LEEWAY);
    answer.next_update.is_some() || answer.made_for_it || answer.this_update >= oldest
}

impl State {
    /// Takes in an answer that counts until then.
    fn learn(&self, answer: &Answer, until: i64) {
        let known = match answer.status {
            Status::Good => Known::Good(until),
            Status::Revoked => Known::Revoked,
            // A responder that knows it no more does not take back that it was revoked.
            Status::Unknown if **self.known.load() == Known::Revoked => return,
            Status::Unknown => Known::Nothing,
        };
        self.true_from.fetch_max(answer.this_update, Ordering::AcqRel);
        self.known.store(Arc::new(known));
    }
}

/// One certificate that somebody shows.
#[derive(Clone)]
pub struct Watch {
    ocsp: Arc<Ocsp>,
    state: Arc<State>,
    hard: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("known", &**self.state.known.load()).field("hard", &self.hard).finish_non_exhaustive()
    }
}

fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

impl Ocsp {
    /// Asks by these rules.
    #[must_use]
    pub fn new(rules: OcspRules, outbound: Arc<Outbound>, entropy: Arc<dyn Entropy>) -> Arc<Self> {
        Arc::new(Self {
            rules,
            outbound,
            entropy,
            watched: Mutex::default(),
            first: Semaphore::new(MOST_ASKING),
            again: Semaphore::new(MOST_ASKING),
        })
    }

    /// Watches a certificate from now on.
    pub fn watch(self: &Arc<Self>, leaf: &[u8], about: About) -> Arc<Watch> {
        let certificate = Certificate::new(leaf);
        let mut watched = self.watched.lock();
        let state = match watched.get(certificate.x5t_s256()).filter(|state| state.about == about) {
            Some(state) => Arc::clone(state),
            None => {
                if watched.len() >= MOST_WATCHED {
                    watched.retain(|_, state| Arc::strong_count(state) > 1);
                }
                let urls = self.rules.url.clone().map_or_else(|| certificate.ocsp_responders(), |url| vec![url]);
                let fresh = Arc::new(State {
                    about,
                    urls,
                    known: ArcSwap::from_pointee(Known::Nothing),
                    true_from: AtomicI64::new(i64::MIN),
                    due: AtomicI64::new(i64::MIN),
                    one: tokio::sync::Mutex::new(()),
                });
                if watched.len() < MOST_WATCHED {
                    watched.insert(certificate.x5t_s256().into(), Arc::clone(&fresh));
                }
                fresh
            }
        };
        Arc::new(Watch { ocsp: Arc::clone(self), state, hard: self.rules.hard })
    }

    /// Begins to ask about what is shown now and due, and forgets what is shown no more and known no more. To be called about once a second.
    pub fn renew(self: &Arc<Self>) {
        let at = now();
        let due: Vec<Arc<State>> = {
            let mut watched = self.watched.lock();
            watched.retain(|_, state| Arc::strong_count(state) > 1 || state.is_known(at));
            #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
            metrics::gauge!("cache_entries", "cache" => "client_ocsp").set(watched.len() as f64);
            let due = |state: &Arc<State>| Arc::strong_count(state) > 1 && state.due.load(Ordering::Acquire) <= at;
            watched.values().filter(|state| due(state) && state.one.try_lock().is_ok()).cloned().collect()
        };
        for state in due {
            let ocsp = Arc::clone(self);
            // A responder that hangs holds up nothing but the questions to it.
            tokio::spawn(async move { ocsp.ask(&state, &ocsp.again).await });
        }
    }

    /// Asks about one certificate, unless somebody else just did.
    async fn ask(&self, state: &State, room: &Semaphore) {
        let _one = state.one.lock().await;
        let Ok(_room) = room.acquire().await else { return };
        let at = now();
        if state.due.load(Ordering::Acquire) > at {
            return;
        }
        let mut outcome = "unanswered";
        for url in state.urls.iter().take(2) {
            match self.ask_at(state, url).await {
                Ok(answer) => {
                    outcome = match answer.status {
                        Status::Good => "good",
                        Status::Revoked => "revoked",
                        Status::Unknown => "unknown",
                    };
                    state.learn(&answer, self.until(&answer, now()));
                    break;
                }
                Err(why) => tracing::warn!(target: "tls", url, why, "an OCSP responder did not help"),
            }
        }
        metrics::counter!("client_ocsp_questions_total", "outcome" => outcome).increment(1);
        let pause = if outcome == "unanswered" { AGAIN } else { self.rules.max_age.max(1) };
        state.due.store(now().saturating_add(pause), Ordering::Release);
    }

    async fn ask_at(&self, state: &State, url: &str) -> Result<Answer, String> {
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(QUESTION));
        headers.insert(header::ACCEPT, HeaderValue::from_static(ANSWER));
        let call = Call { method: Method::POST, url, headers, body: Bytes::from(state.about.question(&nonce)) };
        let reply = self.outbound.call(call).await.map_err(|error| error.to_string())?;
        if reply.status != StatusCode::OK {
            return Err(format!("it answered {}", reply.status));
        }
        let at = now();
        let answer = state.about.believe(&reply.body, &nonce, at).map_err(|why| why.to_string())?;
        if !is_recent(&answer, at, self.rules.max_age) {
            return Err("its answer has no end, was not made for the question and is old".to_owned());
        }
        if answer.this_update < state.true_from.load(Ordering::Acquire) {
            return Err("its answer is older than the one that is known".to_owned());
        }
        Ok(answer)
    }

    /// Until when an answer counts. Without a next update newer information may be had at any time: until it was asked for twice in vain.
    fn until(&self, answer: &Answer, at: i64) -> i64 {
        let twice = self.rules.max_age.saturating_mul(2);
        answer.next_update.unwrap_or_else(|| at.saturating_add(twice).saturating_add(AGAIN)).min(at.saturating_add(LONGEST.max(twice)))
    }
}

impl Watch {
    /// The same, where an answer has to be had whatever the rules say.
    #[must_use]
    pub fn demanded(self: Arc<Self>) -> Arc<Self> {
        Arc::new(Self { hard: true, ..Self::clone(&self) })
    }

    /// Waits for the first answer, or for the outbound rules to give up; asks anew, without waiting, where that is due.
    pub async fn settle(&self) {
        if **self.state.known.load() == Known::Nothing {
            self.ocsp.ask(&self.state, &self.ocsp.first).await;
        } else if self.state.due.load(Ordering::Acquire) <= now() {
            let asking = self.clone();
            tokio::spawn(async move { asking.ocsp.ask(&asking.state, &asking.ocsp.again).await });
        }
    }

    /// Whether the certificate may count.
    ///
    /// # Errors
    /// It is revoked, or has to be known not to be.
    pub fn verdict(&self, now: i64) -> Result<(), Doubt> {
        match **self.state.known.load() {
            Known::Revoked => Err(Doubt::Revoked),
            Known::Good(until) if until > now => Ok(()),
            _ if self.hard => Err(Doubt::Undecided("ocsp")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_end_is_made_for_the_question_or_new() {
        let old = Answer { status: Status::Good, this_update: 1_000, next_update: None, made_for_it: false };
        assert!(is_recent(&old, 1_000 + 2 * 300 + LEEWAY, 300));
        assert!(!is_recent(&old, 1_001 + 2 * 300 + LEEWAY, 300), "it may have been kept by anybody");
        assert!(is_recent(&Answer { made_for_it: true, ..old }, 9_000, 300));
        assert!(is_recent(&Answer { next_update: Some(9_100), ..old }, 9_000, 300));
    }
}
