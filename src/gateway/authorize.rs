//! Third phase: the route's policy over an authorized caller, and the candidate beside it.
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use edge::{Refusal, identity::Identity, rules::Circumstances, table::Entry};

use crate::account::Account;

/// Differences logged in one second, all threads together; the metric counts every one.
const LOGGED: u32 = 10;

/// Asks the route's policy, if it has one. A policy that cannot be evaluated permits nothing.
pub(crate) fn judge(
    entry: &Entry,
    who: Option<&Identity>,
    what: &Circumstances<'_>,
    account: &mut Account,
    rehearsal: bool,
) -> Result<(), Refusal> {
    let mut allowed = true;
    if let Some(rules) = &entry.rules {
        let verdict = rules.ask(who, what);
        for fault in &verdict.faults {
            tracing::warn!(target: "policy", route = &*entry.id, fault, "a policy could not be evaluated");
        }
        tracing::debug!(target: "policy", route = &*entry.id, allowed = verdict.allowed, by = ?verdict.by, "decided");
        allowed = verdict.allowed;
        account.judged = Some(verdict);
    }
    attempt(entry, who, what, allowed, account, rehearsal);
    if allowed { Ok(()) } else { Err(Refusal::Policy) }
}

/// Asks what is tried beside the policy in force: counted, logged where it differs, of no consequence.
fn attempt(entry: &Entry, who: Option<&Identity>, what: &Circumstances<'_>, allowed: bool, account: &mut Account, rehearsal: bool) {
    let Some(tried) = &entry.tried else { return };
    let verdict = tried.ask(who, what);
    if rehearsal {
        account.tried = Some(verdict);
        return;
    }
    let differs = verdict.allowed != allowed;
    let told = if differs { "true" } else { "false" };
    metrics::counter!("policy_shadow_total", "route" => entry.id.to_string(), "differs" => told).increment(1);
    if differs && may_log(what.now) {
        tracing::info!(
            target: "policy",
            request_id = account.request_id.as_str(), route = &*entry.id, method = what.method, path = what.path,
            allowed, would_allow = verdict.allowed, by = ?verdict.by, faults = ?verdict.faults, "the shadow policy would decide otherwise"
        );
    }
    account.tried = Some(verdict);
}

/// Whether this second has room for another line.
fn may_log(now: i64) -> bool {
    static SECOND: AtomicI64 = AtomicI64::new(0);
    static LINES: AtomicU32 = AtomicU32::new(0);
    if SECOND.swap(now, Ordering::Relaxed) != now {
        LINES.store(0, Ordering::Relaxed);
    }
    LINES.fetch_add(1, Ordering::Relaxed) < LOGGED
}
