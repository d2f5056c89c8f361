//! Third phase: the pure decisions of [`edge::admission`] over what was proved.
use edge::{
    Refusal,
    admission::{self, Access, Authorized, Proof},
    rules::Circumstances,
    table::Entry,
};

use crate::authenticate::Proved;

/// Authenticates and authorizes.
pub(crate) fn authorize<'a>(access: &Access, proved: &'a Proved, now_ms: i64) -> Result<Authorized<'a>, Refusal> {
    let proof = match proved {
        Proved::Nothing => Proof::Nothing,
        Proved::Believed(believed, _) => Proof::Believed(&believed.identity),
        Proved::Refused(refusal) => Proof::Refused(*refusal),
    };
    let caller = admission::authenticate(access, proof, now_ms.div_euclid(1000))?;
    admission::authorize(access, caller)
}

/// Asks the route's policy, if it has one. A policy that cannot be evaluated permits nothing.
pub(crate) fn judge(entry: &Entry, authorized: &Authorized<'_>, what: &Circumstances<'_>) -> Result<(), Refusal> {
    let Some(rules) = &entry.rules else { return Ok(()) };
    let verdict = rules.ask(authorized.identity(), what);
    for fault in &verdict.faults {
        tracing::warn!(target: "policy", route = &*entry.id, fault, "a policy could not be evaluated");
    }
    tracing::debug!(target: "policy", route = &*entry.id, allowed = verdict.allowed, by = ?verdict.by, "decided");
    if verdict.allowed { Ok(()) } else { Err(Refusal::Policy) }
}
