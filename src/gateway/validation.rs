//! Requests looked into before anything of them is sent on: read whole, within bounds, forwarded octet for octet.
use std::{net::IpAddr, sync::Arc, time::Duration};

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use edge::{
    Refusal,
    table::Entry,
    validation::{Checker, Expected, Unfit, body},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use schema::Fault;

use crate::{
    Gateway,
    asked::Asked,
    body::{Broken, Progress, RequestBody},
    limit,
};

/// The most octets of bodies held at once to be looked into, by all requests together.
const ALL: usize = 64 * 1024 * 1024;
/// Once half of that is held, the most of one source: nobody alone can keep the others out.
const ONE: usize = ALL / 4;
/// Within which a body that is read whole has to be there where the route does not say (`request_time`).
const TIME: Duration = Duration::from_secs(60);

/// How much is held, and for whom.
#[derive(Default)]
pub(crate) struct Budget(Mutex<Sums>);

#[derive(Default)]
struct Sums {
    all: usize,
    by: AHashMap<IpAddr, usize>,
}

/// A body that was read, and its share of what may be held.
pub(crate) struct Whole {
    octets: Bytes,
    budget: Arc<Budget>,
    share: usize,
    from: IpAddr,
}

impl Budget {
    fn take(&self, octets: usize, from: IpAddr) -> bool {
        let mut sums = self.0.lock();
        let all = sums.all.saturating_add(octets);
        let own = sums.by.get(&from).map_or(0, |own| *own).saturating_add(octets);
        if all > ALL || (all > ALL / 2 && own > ONE) {
            return false;
        }
        sums.all = all;
        sums.by.insert(from, own);
        true
    }

    fn give_back(&self, octets: usize, from: IpAddr) {
        let mut sums = self.0.lock();
        sums.all = sums.all.saturating_sub(octets);
        let left = sums.by.get(&from).map_or(0, |own| own.saturating_sub(octets));
        if left == 0 {
            sums.by.remove(&from);
        } else {
            sums.by.insert(from, left);
        }
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
        self.budget.give_back(self.share, self.from);
    }
}

/// Looks into an admitted request. What comes back is to be sent on: the body as it was, read or still to come.
pub(crate) async fn look(
    gateway: &Gateway,
    entry: &Entry,
    checker: &Checker,
    asked: &Asked<'_>,
    coming: RequestBody,
    (from, progress): (IpAddr, Option<&Progress>),
) -> Result<RequestBody, Unfit> {
    let has_body = !coming.is_end_stream();
    match checker.head(asked.method.as_str(), asked.path, asked.query, asked.headers, has_body)? {
        Expected::Anything | Expected::Nothing => Ok(coming),
        Expected::Checked(content) => {
            let most = entry.body_limit.map_or(checker.max_body(), |own| own.min(checker.max_body()));
            let whole = read(&gateway.budget, coming, most, (limit::source(from), progress));
            let whole = if entry.bounds.as_ref().is_some_and(|bounds| bounds.request_ms.is_some()) {
                whole.await
            } else {
                tokio::time::timeout(TIME, whole).await.unwrap_or(Err(Refusal::TooSlow))
            };
            let whole = whole.map_err(|refusal| Unfit { refusal, faults: Vec::new() })?;
            body(content, &whole.octets)?;
            Ok(RequestBody::whole(whole))
        }
    }
}

async fn read(
    budget: &Arc<Budget>,
    mut coming: RequestBody,
    most: u64,
    (from, progress): (IpAddr, Option<&Progress>),
) -> Result<Whole, Refusal> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if coming.size_hint().lower() > most as u64 {
        return Err(Refusal::TooLarge);
    }
    let mut whole = Whole { octets: Bytes::new(), budget: Arc::clone(budget), share: 0, from };
    let mut octets = BytesMut::new();
    while let Some(frame) = coming.frame().await {
        let frame = frame.map_err(|broken| refusal(progress.and_then(|p| p.broken.get()).unwrap_or(broken)))?;
        let Ok(data) = frame.into_data() else { continue };
        if octets.len() + data.len() > most {
            return Err(Refusal::TooLarge);
        }
        if !budget.take(data.len(), from) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_alone_keeps_the_others_out() {
        let budget = Budget::default();
        let [one, two, three] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let mib = |n: usize| n * 1024 * 1024;
        let mut taken = 0;
        while budget.take(mib(1), one) {
            taken += 1;
        }
        assert_eq!(taken, 32, "half is left for others");
        assert!(budget.take(mib(16), two) && !budget.take(1, two));
        assert!(budget.take(mib(16), three));
        assert!(!budget.take(1, [192, 0, 2, 4].into()), "all of it is held");
        for (octets, from) in [(mib(32), one), (mib(16), two), (mib(16), three)] {
            budget.give_back(octets, from);
        }
        let sums = budget.0.lock();
        assert_eq!((sums.all, sums.by.len()), (0, 0));
    }
}
