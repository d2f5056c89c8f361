//! Third phase: the route's policy over an authorized caller.
use edge::{Refusal, identity::Identity, rules::Circumstances, table::Entry};

use crate::account::Account;

/// Asks the route's policy, if it has one. A policy that cannot be evaluated permits nothing.
pub(crate) fn judge(entry: &Entry, who: Option<&Identity>, what: &Circumstances<'_>, account: &mut Account) -> Result<(), Refusal> {
    let Some(rules) = &entry.rules else { return Ok(()) };
    let verdict = rules.ask(who, what);
    for fault in &verdict.faults {
        tracing::warn!(target: "policy", route = &*entry.id, fault, "a policy could not be evaluated");
    }
    tracing::debug!(target: "policy", route = &*entry.id, allowed = verdict.allowed, by = ?verdict.by, "decided");
    let allowed = verdict.allowed;
    account.judged = Some(verdict);
    if allowed { Ok(()) } else { Err(Refusal::Policy) }
}
