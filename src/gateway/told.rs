//! What the upstream is told of the caller besides plain headers: a signed assertion, and a token of its own in place of the caller's.
use std::{rc::Rc, sync::Arc};

use edge::{Refusal, table::Entry};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use tokens::seal::Kek;

use crate::{
    asked::Asked,
    assertion,
    exchange::{self, Exchanges},
    seen::Believed,
    worker::Worker,
};

/// What the gateway needs to tell of callers in its own name.
#[derive(Clone, Default)]
pub struct Means {
    /// Its own name: the `iss` of assertions.
    pub identifier: String,
    /// How long a key signs assertions, seconds.
    pub key_period_s: i64,
    /// What its keys, and the secrets of its clients at trusted issuers, are sealed under.
    pub kek: Option<Kek>,
    /// Who exchanges tokens.
    pub exchanges: Option<Arc<dyn Exchanges>>,
}

/// Fields to set once the caller's own are gone.
#[derive(Default)]
pub(crate) struct Told([Option<(HeaderName, HeaderValue)>; 2]);

impl Told {
    /// Sets them.
    pub(crate) fn set(self, headers: &mut HeaderMap) {
        for (name, value) in self.0.into_iter().flatten() {
            headers.insert(name, value);
        }
    }
}

/// The same in words, for explanations.
pub(crate) fn said(entry: &Entry) -> Option<String> {
    let signed = entry.assertion.as_ref().map(|a| format!("an assertion signed with {} for {} in {}", a.alg, a.audience, a.header));
    let exchanged = entry.exchange.as_ref().map(|e| format!("a token exchanged for {} in authorization", e.target.1));
    let all: Vec<String> = signed.into_iter().chain(exchanged).collect();
    (!all.is_empty()).then(|| format!("upstream gets {}", all.join(" and ")))
}

/// What is told of an admitted caller. Where it cannot be made, nothing is forwarded.
pub(crate) async fn told(worker: &Worker, entry: &Entry, caller: Option<&Rc<Believed>>, asked: &Asked<'_>) -> Result<Told, Refusal> {
    let mut told = Told::default();
    let Some(believed) = caller else { return Ok(told) };
    let [signed, exchanged] = &mut told.0;
    if let Some(assertion) = &entry.assertion {
        *signed = Some((assertion.header.clone(), assertion::value(worker, assertion, believed, asked).await?));
    }
    if let Some(exchange) = &entry.exchange {
        *exchanged = Some((AUTHORIZATION, exchange::authorization(worker, exchange, believed, asked).await?));
    }
    Ok(told)
}
