//! Requests looked into before anything of them is sent on: read whole, within bounds, forwarded octet for octet.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use edge::{
    Refusal,
    table::Entry,
    validation::{Checker, Expected, Unfit, body},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use schema::Fault;

use crate::{
    Gateway,
    asked::Asked,
    body::{Broken, Progress, RequestBody},
};

/// The most octets of bodies held at once to be looked into, by all requests together.
const ALL: usize = 64 * 1024 * 1024;

/// How much is held.
#[derive(Default)]
pub(crate) struct Budget(AtomicUsize);

/// A body that was read, and its share of what may be held.
pub(crate) struct Whole {
    octets: Bytes,
    budget: Arc<Budget>,
    share: usize,
}

impl Budget {
    fn take(&self, octets: usize) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_add(octets).filter(|sum| *sum <= ALL));
        taken.is_ok()
    }
}

impl Whole {
    /// What it is, once.
    pub(crate) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.octets)
    }
    /// How much is still to be sent.
    pub(crate) const fn len(&self) -> usize {
        self.octets.len()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.share, Ordering::Relaxed);
    }
}

/// Looks into an admitted request. What comes back is to be sent on: the body as it was, read or still to come.
pub(crate) async fn look(
    gateway: &Gateway,
    entry: &Entry,
    checker: &Checker,
    asked: &Asked<'_>,
    coming: RequestBody,
    progress: Option<&Progress>,
) -> Result<RequestBody, Unfit> {
    let has_body = !coming.is_end_stream();
    match checker.head(asked.method.as_str(), asked.path, asked.query, asked.headers, has_body)? {
        Expected::Anything | Expected::Nothing => Ok(coming),
        Expected::Checked(content) => {
            let most = entry.body_limit.map_or(checker.max_body(), |own| own.min(checker.max_body()));
            let whole = read(gateway, coming, most, progress).await.map_err(|refusal| Unfit { refusal, faults: Vec::new() })?;
            body(content, &whole.octets)?;
            Ok(RequestBody::whole(whole))
        }
    }
}

async fn read(gateway: &Gateway, mut coming: RequestBody, most: u64, progress: Option<&Progress>) -> Result<Whole, Refusal> {
    let (budget, most) = (&gateway.budget, usize::try_from(most).unwrap_or(usize::MAX));
    if coming.size_hint().lower() > most as u64 {
        return Err(Refusal::TooLarge);
    }
    let mut whole = Whole { octets: Bytes::new(), budget: Arc::clone(budget), share: 0 };
    let mut octets = BytesMut::new();
    while let Some(frame) = coming.frame().await {
        let frame = frame.map_err(|broken| refusal(progress.and_then(|p| p.broken.get()).unwrap_or(broken)))?;
        let Ok(data) = frame.into_data() else { continue };
        if octets.len() + data.len() > most {
            return Err(Refusal::TooLarge);
        }
        if !budget.take(data.len()) {
            return Err(Refusal::Full("validation_memory"));
        }
        whole.share += data.len();
        octets.extend_from_slice(&data);
    }
    whole.octets = octets.freeze();
    Ok(whole)
}

const fn refusal(broken: Broken) -> Refusal {
    match broken {
        Broken::TooLarge => Refusal::TooLarge,
        Broken::Slow => Refusal::TooSlow,
        Broken::Credential => Refusal::Invalid("revoked"),
        _ => Refusal::Malformed("body"),
    }
}

/// The problem document of a refusal with what was wrong, where and why (RFC 9457 §3.2).
pub(crate) fn problem(refusal: Refusal, faults: &[Fault]) -> Option<Bytes> {
    let mut problem: serde_json::Value = serde_json::from_str(refusal.body()).ok()?;
    let members = problem.as_object_mut()?;
    members.insert("detail".into(), "The request is not as the API describes it.".into());
    let errors: Vec<serde_json::Value> =
        faults.iter().take(Fault::MOST).map(|fault| serde_json::json!({ "at": fault.at, "why": fault.why })).collect();
    members.insert("errors".into(), errors.into());
    serde_json::to_vec(&problem).ok().map(Bytes::from)
}

/// What was wrong, in one line for explanations.
pub(crate) fn told(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{} {}", fault.at, fault.why)).collect::<Vec<_>>().join("; ")
}
