//! The caller's token becomes the upstream's (RFC 8693): asked for once, kept a while, never the original in its place.
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use edge::{Refusal, exchange::Exchange};
use http::HeaderValue;
use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::Mutex;
use serde_json::Value;
use tokens::{hash, secret::Plain};

use crate::{asked::Asked, seen::Believed, worker::Worker};

/// Most tokens kept.
const KEPT: u64 = 16_384;
/// A token is not used any more so long before it ends, milliseconds.
const SLACK_MS: i64 = 5_000;
/// How long those who waited for one that failed take its failure for theirs, milliseconds.
const FAILED_MS: i64 = 1_000;
/// The longest a token is kept, milliseconds: what its issuer knows of it is asked again now and then.
const LONGEST_MS: i64 = 60_000;

/// What is asked of an authorization server (RFC 8693 §2.1).
#[derive(Debug, Clone)]
pub struct Order {
    pub subject_token: Plain,
    pub exchange: Exchange,
    /// Whether the subject token is another issuer's JWT.
    pub foreign: bool,
}

/// What it gave.
#[derive(Debug, Clone)]
pub struct Exchanged {
    pub token: Plain,
    /// Seconds; `None`: it did not say.
    pub expires_in: Option<i64>,
}

/// Why it gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// It will not exchange this token for that.
    #[error("the authorization server refuses the exchange")]
    Refused,
    /// It is away, or does not know us.
    #[error("the authorization server does not answer")]
    Unavailable,
    /// Its answer makes no sense.
    #[error("the authorization server's answer makes no sense")]
    Nonsense,
}

/// Asks an authorization server.
#[async_trait]
pub trait Exchanges: Send + Sync {
    /// Exchanges one token.
    async fn exchange(&self, order: &Order) -> Result<Exchanged, ExchangeError>;
}

impl Order {
    /// The parameters of the token request.
    #[must_use]
    pub fn form(&self) -> Vec<(&'static str, &str)> {
        let kind = if self.foreign { "urn:ietf:params:oauth:token-type:jwt" } else { ACCESS_TOKEN };
        let mut form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", self.subject_token.expose()),
            ("subject_token_type", kind),
            (self.exchange.target.0, &*self.exchange.target.1),
        ];
        if !self.exchange.scope.is_empty() {
            form.push(("scope", &*self.exchange.scope));
        }
        form
    }
}

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

impl Exchanged {
    /// Reads the answer of a token endpoint.
    ///
    /// # Errors
    /// What its status and body say.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, ExchangeError> {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        match status {
            200 => {}
            400 if !matches!(text("error"), None | Some("invalid_client" | "unauthorized_client" | "unsupported_grant_type")) => {
                return Err(ExchangeError::Refused);
            }
            _ => return Err(ExchangeError::Unavailable),
        }
        let bearer = text("token_type").is_some_and(|typ| typ.eq_ignore_ascii_case("bearer"));
        let usable = text("issued_token_type").is_none_or(|typ| typ == ACCESS_TOKEN || typ.ends_with(":jwt"));
        match text("access_token").filter(|token| bearer && usable && !token.is_empty()) {
            Some(token) => Ok(Self { token: Plain::new(token), expires_in: answer.get("expires_in").and_then(Value::as_i64) }),
            None => Err(ExchangeError::Nonsense),
        }
    }
}

#[derive(Clone)]
struct Kept {
    value: HeaderValue,
    until_ms: i64,
}

/// What was exchanged, for all threads.
pub(crate) struct Exchanging {
    kept: LazyLock<Cache<[u8; 32], Kept, ahash::RandomState>>,
    flights: Mutex<HashMap<[u8; 32], Arc<Gate>>>,
}

impl Exchanging {
    pub(crate) fn new() -> Self {
        let kept = || {
            let kept = Cache::builder()
                .max_capacity(KEPT)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(std::time::Duration::from_millis(LONGEST_MS as u64));
            kept.build_with_hasher(ahash::RandomState::new())
        };
        Self { kept: LazyLock::new(kept), flights: Mutex::default() }
    }

    pub(crate) fn len(&self) -> u64 {
        LazyLock::get(&self.kept).map_or(0, Cache::entry_count)
    }

    fn known(&self, key: &[u8; 32], now_ms: i64) -> Option<HeaderValue> {
        self.kept.get(key).filter(|kept| now_ms < kept.until_ms).map(|kept| kept.value)
    }
}

/// Passed by one request at a time; how it went and when, where it failed: those who waited do not ask again one after the other.
type Gate = tokio::sync::Mutex<Option<(Refusal, i64)>>;

/// One that goes to the authorization server for all who want the same.
struct Flight<'a> {
    exchanging: &'a Exchanging,
    key: [u8; 32],
    gate: Arc<Gate>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.exchanging.flights.lock();
        // The map holds one and this request another.
        if Arc::strong_count(&self.gate) <= 2 {
            flights.remove(&self.key);
        }
    }
}

/// The `Authorization` of the upstream, for a caller that was admitted with the token of this request.
pub(crate) async fn authorization(
    worker: &Worker,
    exchange: &Exchange,
    believed: &Believed,
    asked: &Asked<'_>,
) -> Result<HeaderValue, Refusal> {
    let (exchanging, now_ms) = (&worker.gateway.exchanging, worker.now_ms());
    let presented = edge::credentials::presented(asked.headers, asked.query, false).map_err(|_| Refusal::Ambiguous)?;
    let token = presented.token().ok_or(Refusal::Barred("exchange_refused"))?;
    let key = name(token, exchange);
    if let Some(value) = exchanging.known(&key, now_ms) {
        return Ok(value);
    }
    let gate = Arc::clone(exchanging.flights.lock().entry(key).or_default());
    let flight = Flight { exchanging, key, gate };
    let mut failed = flight.gate.lock().await;
    if let Some(value) = exchanging.known(&key, worker.now_ms()) {
        return Ok(value);
    }
    if let Some((refusal, at_ms)) = *failed
        && worker.now_ms() - at_ms < FAILED_MS
    {
        return Err(refusal);
    }
    let Some(exchanges) = &worker.gateway.parts().means.exchanges else { return Err(Refusal::Undecided("exchange_client")) };
    let foreign = matches!(believed.identity.issuer, edge::identity::Issuer::Foreign(_));
    let order = Order { subject_token: Plain::new(token), exchange: exchange.clone(), foreign };
    let given = exchanges.exchange(&order).await;
    let outcome = match &given {
        Ok(_) => "ok",
        Err(ExchangeError::Refused) => "refused",
        Err(ExchangeError::Unavailable) => "unavailable",
        Err(ExchangeError::Nonsense) => "nonsense",
    };
    metrics::counter!("token_exchange_total", "outcome" => outcome).increment(1);
    let given = given.map_err(|why| {
        let refusal = match why {
            ExchangeError::Refused => Refusal::Barred("exchange_refused"),
            ExchangeError::Unavailable => Refusal::Undecided("exchange"),
            ExchangeError::Nonsense => Refusal::BadUpstream("exchange"),
        };
        *failed = Some((refusal, worker.now_ms()));
        refusal
    })?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", given.token.expose())).map_err(|_| Refusal::BadUpstream("exchange"))?;
    value.set_sensitive(true);
    // What does not say how long it counts is not kept.
    let lives_ms = given.expires_in.unwrap_or(0).saturating_mul(1000) - SLACK_MS;
    let until_ms = now_ms.saturating_add(lives_ms.min(LONGEST_MS)).min(believed.identity.claims.exp.saturating_mul(1000));
    if until_ms > now_ms {
        exchanging.kept.insert(key, Kept { value: value.clone(), until_ms });
    }
    Ok(value)
}

/// What an exchange is kept under: the token, and what it became.
fn name(token: &str, exchange: &Exchange) -> [u8; 32] {
    hash::sha256(format!("{} {} {}\n{token}", exchange.target.0, exchange.target.1, exchange.scope).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(target: &str, scope: &str) -> Exchange {
        Exchange { target: ("resource", target.into()), scope: scope.into() }
    }

    #[test]
    fn what_the_token_endpoint_says_decides_what_the_caller_hears() {
        let good = br#"{"access_token":"t","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#;
        let read = Exchanged::read(200, good).unwrap();
        assert_eq!((read.token.expose(), read.expires_in), ("t", Some(60)));
        for (status, body, why) in [
            (400, r#"{"error":"invalid_target"}"#, ExchangeError::Refused),
            (400, r#"{"error":"invalid_scope"}"#, ExchangeError::Refused),
            (400, r#"{"error":"invalid_request"}"#, ExchangeError::Refused),
            (400, r#"{"error":"unauthorized_client"}"#, ExchangeError::Unavailable),
            (401, r#"{"error":"invalid_client"}"#, ExchangeError::Unavailable),
            (400, "nothing", ExchangeError::Unavailable),
            (503, "", ExchangeError::Unavailable),
            (302, "", ExchangeError::Unavailable),
            (200, "{}", ExchangeError::Nonsense),
            (200, r#"{"access_token":"t","token_type":"N_A"}"#, ExchangeError::Nonsense),
            (200, r#"{"access_token":"t","token_type":"DPoP"}"#, ExchangeError::Nonsense),
            (
                200,
                r#"{"access_token":"t","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:id_token"}"#,
                ExchangeError::Nonsense,
            ),
        ] {
            assert_eq!(Exchanged::read(status, body.as_bytes()).map(|_| ()), Err(why), "{status} {body}");
        }
    }

    #[test]
    fn what_is_kept_is_for_one_token_and_one_target() {
        let mut names = vec![
            name("t", &exchange("a", "r")),
            name("u", &exchange("a", "r")),
            name("t", &exchange("b", "r")),
            name("t", &exchange("a", "w")),
            name("t", &Exchange { target: ("audience", "a".into()), scope: "r".into() }),
        ];
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 5);
        let order = Order { subject_token: Plain::new("t"), exchange: exchange("a", ""), foreign: true };
        assert!(order.form().contains(&("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")) && order.form().len() == 4);
    }
}
