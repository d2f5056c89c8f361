//! The one admission: authenticate → authorize → judge → limit → spend. The proxy, the decision server and explanations all ask here, and
//! nothing else decides.
use std::rc::Rc;

use edge::{
    Permit, Refusal,
    admission::{self, Access},
    credentials,
    rules::Circumstances,
    table::Entry,
};
use http::header;

use crate::{
    account::Account,
    api_key,
    asked::Asked,
    authenticate::{self, Proved},
    authorize, limit,
    open::Held,
    seen::Believed,
    worker::{Current, Worker},
};

/// A request that may go on.
pub(crate) struct Admitted {
    permit: Permit<Rc<Believed>>,
    /// Its places among what may be served at once; until the end of the answer.
    pub held: Vec<Held>,
}

impl Admitted {
    /// The caller; `None` where nobody needs to be known.
    pub(crate) const fn caller(&self) -> Option<&Rc<Believed>> {
        self.permit.caller()
    }
    /// Leave to forward it.
    pub(crate) const fn permit(&self) -> &Permit<Rc<Believed>> {
        &self.permit
    }
}

/// Decides over a request that found its route.
pub(crate) async fn admit(
    worker: &Worker,
    current: &Current,
    entry: &Entry,
    asked: &Asked<'_>,
    account: &mut Account,
) -> Result<Admitted, Refusal> {
    let gateway = &worker.gateway;
    if let Some(life) = &entry.life {
        life.served(worker.now_ms().div_euclid(1000))?;
    }
    // What everybody may have does not depend on the time.
    let timeless = entry.access == Access::Public && entry.limit.is_none();
    let now_ms = if timeless { 0 } else { worker.now_ms() };
    let source = edge::forwarded::source(asked.peer, asked.headers, |ip| gateway.trusted_peer(ip));
    account.source = source;
    let keys = matches!(&entry.access, Access::Guarded(guard) if guard.accepts.api_key);
    let presented = credentials::presented(asked.headers, asked.query, keys).map_err(|_| Refusal::Ambiguous)?;
    let proved = match &entry.access {
        Access::Guarded(_) if asked.rehearsal && account.assumed.is_some() => {
            account.assumed.take().map_or(Proved::Nothing, |assumed| Proved::Believed(assumed, None))
        }
        Access::Guarded(guard) => authenticate::prove(worker, &current.table, guard, presented, asked, now_ms).await,
        Access::Public | Access::Closed => Proved::Nothing,
    };
    let (proof, once) = match proved {
        Proved::Nothing => (admission::Proof::Nothing, None),
        Proved::Refused(refusal) => (admission::Proof::Refused(refusal), None),
        Proved::Believed(believed, once) => {
            account.who = Some(Rc::clone(&believed));
            (admission::Proof::Believed(believed), once)
        }
    };
    let caller = admission::authenticate(&entry.access, proof, now_ms.div_euclid(1000))?;
    let authorized = admission::authorize(&entry.access, caller)?;
    if keys {
        api_key::bounded(account.who.as_ref(), &entry.id, source)?;
    }
    if entry.rules.is_some() || entry.tried.is_some() {
        let host = asked.headers.get(header::HOST).and_then(|h| edge::host::Host::parse(h.as_bytes()).ok()).map_or("", |h| h.name);
        let what = Circumstances { method: asked.method.as_str(), path: asked.path, host, source, now: worker.now_ms().div_euclid(1000) };
        authorize::judge(entry, authorized.identity(), &what, account, asked.rehearsal)?;
    }
    // Whom a proxy does not know it answers for.
    let from = source.unwrap_or(asked.peer);
    let held = if entry.bounds.is_some() { limit::enter(gateway, entry, authorized.identity(), from, asked)? } else { Vec::new() };
    let own = authorized.identity().and_then(edge::rate::own_quota);
    if entry.limit.is_some() || own.is_some() {
        let counted = Box::pin(limit::count(gateway, entry, own, authorized.identity(), from, asked, now_ms)).await;
        if let Some(counted) = counted {
            (account.verdict, account.quota) = (Some(counted.verdict), counted.told);
        }
    }
    let permit = admission::limit(authorized, account.verdict)?;
    if let Some(proof) = &once
        && !asked.rehearsal
    {
        Box::pin(gateway.replays.spend(proof, now_ms.div_euclid(1000), gateway.parts().revoked.head())).await?;
    }
    Ok(Admitted { permit, held })
}
