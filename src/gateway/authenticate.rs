//! Second phase: whether the credential is believed, whatever kind it is of. One file a kind.
use std::rc::Rc;

use edge::{
    Refusal, RouteTable,
    admission::Guard,
    credentials::{Presented, is_own},
    identity::Issuer,
};
use tokens::{confirmation::Scheme, dpop::Proof};

use crate::{api_key, asked::Asked, bearer, certificate, foreign, seen::Believed, sender, session, worker::Worker};

/// What the credential proved.
pub(crate) enum Proved {
    Nothing,
    /// With the proof of its key, if it is bound to one: to be spent before anything is forwarded.
    Believed(Rc<Believed>, Option<Box<Proof>>),
    Refused(Refusal),
}

/// Proves a credential for a guard.
pub(crate) async fn prove(
    worker: &Worker,
    table: &RouteTable,
    guard: &Guard,
    presented: Presented<'_>,
    asked: &Asked<'_>,
    now_ms: i64,
) -> Proved {
    if guard.accepts.session {
        if presented != Presented::Nothing && session::is_besides(worker, asked) {
            return Proved::Refused(Refusal::Ambiguous);
        }
        if presented == Presented::Nothing
            && let Some(proved) = Box::pin(session::prove(worker, guard, asked, now_ms)).await
        {
            return proved.map_or_else(Proved::Refused, |believed| Proved::Believed(believed, None));
        }
    }
    let (proved, scheme, token) = match presented {
        // A token or key that comes beside it is who calls; the certificate is then the connection's alone.
        Presented::Nothing if guard.accepts.mtls && asked.certificate.is_some() => {
            let proved = match asked.certificate {
                Some(standing) => certificate::prove(worker, table, guard, standing, now_ms).await,
                None => Err(Refusal::Missing),
            };
            return proved.map_or_else(Proved::Refused, |believed| Proved::Believed(believed, None));
        }
        Presented::Nothing => return Proved::Nothing,
        Presented::Unusable(why) => return Proved::Refused(Refusal::Invalid(why)),
        Presented::Jwt(token, scheme) if !guard.accepts.jwt && guard.accepts.opaque && foreign::asks(table, guard) => {
            (foreign::opaque(worker, table, guard, token, now_ms).await, scheme, token)
        }
        Presented::Jwt(..) if !guard.accepts.jwt => return Proved::Refused(Refusal::Invalid("credential_kind")),
        Presented::ApiKey(_) if !guard.accepts.api_key => return Proved::Refused(Refusal::Invalid("credential_kind")),
        Presented::ApiKey(key) => {
            let proved = api_key::prove(worker, guard, key, now_ms).await;
            return proved.map_or_else(Proved::Refused, |believed| Proved::Believed(believed, None));
        }
        Presented::Opaque(..) if !guard.accepts.opaque => return Proved::Refused(Refusal::Invalid("credential_kind")),
        Presented::Jwt(token, scheme) => (bearer::jwt(worker, table, guard, token, now_ms).await, scheme, token),
        // What is of our own form is shown to nobody else, unless the route does not take our tokens at all.
        Presented::Opaque(token, scheme) if !is_own(token) || !guard.issuers.contains(&Issuer::Own) => {
            (foreign::opaque(worker, table, guard, token, now_ms).await, scheme, token)
        }
        Presented::Opaque(token, scheme) => (bearer::opaque(worker, guard, token, now_ms).await, scheme, token),
    };
    let bound = |believed: Rc<Believed>| {
        let proof = sender::check(&worker.gateway, guard, (scheme, token), &believed, asked, now_ms)?;
        Ok(Proved::Believed(believed, proof))
    };
    match proved.and_then(bound) {
        Ok(proved) => proved,
        Err(Refusal::Invalid(why)) if scheme == Scheme::Dpop => Proved::Refused(Refusal::Unbound(why)),
        Err(refusal) => Proved::Refused(refusal),
    }
}
