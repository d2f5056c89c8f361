//! Admission: authenticate, authorize, limit. Forwarding needs the [`Permit`] that only the last of them gives.
//!
//! The phases take whatever gives an [`Identity`] ([`Who`]), and hand it on: a reference here, a kept belief in the gateway.
use std::{rc::Rc, sync::Arc};

use http::HeaderValue;
use tokens::{Confirmation, access, confirmation::Scheme};

use crate::{
    certificate,
    identity::{Identity, Issuer, Kind},
    limit::Verdict,
    refusal::Refusal,
    route::Freshness,
    session,
    step_up::StepUp,
};

/// Seconds of clock difference forgiven.
pub const LEEWAY: i64 = 10;

/// Which bindings a route demands of a token; none: a bound token has to be proved all the same, an unbound one is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderConstraint {
    /// A DPoP key will do (RFC 9449).
    pub dpop: bool,
    /// A client certificate will do (RFC 8705 §3).
    pub mtls: bool,
}

impl SenderConstraint {
    /// Whether it demands nothing.
    #[must_use]
    pub const fn is_free(self) -> bool {
        !self.dpop && !self.mtls
    }
    /// Whether a token bound so satisfies it.
    #[must_use]
    pub const fn accepts(self, bound: Option<&Confirmation>) -> bool {
        match bound {
            None => self.is_free(),
            Some(cnf) => self.is_free() || (self.dpop && cnf.jkt.is_some()) || (self.mtls && cnf.x5t_s256.is_some()),
        }
    }
}

/// Whether the sender of a believed token is the one it is bound to, and bound as the route demands.
///
/// # Errors
/// 401, with the challenge of the scheme that would do.
pub fn sender(
    demanded: SenderConstraint,
    scheme: Scheme,
    bound: Option<&Confirmation>,
    jkt: Option<&str>,
    x5t_s256: Option<&str>,
) -> Result<(), Refusal> {
    let refuse = |why| if scheme == Scheme::Dpop || demanded.dpop { Refusal::Unbound(why) } else { Refusal::Invalid(why) };
    if !demanded.accepts(bound) {
        return Err(refuse("unconstrained"));
    }
    if !scheme.lets_in(bound, jkt, x5t_s256) {
        return Err(if bound.is_some_and(|cnf| cnf.jkt.is_some()) { Refusal::Unbound("confirmation") } else { refuse("confirmation") });
    }
    Ok(())
}

/// What a route demands.
#[derive(Debug, Clone, PartialEq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Nobody: the route says neither `public` nor `auth`.
    Closed,
    /// Who satisfies the guard.
    Guarded(Box<Guard>),
}

/// Which kinds of credential a route takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of named kinds")]
pub struct Accepts {
    pub jwt: bool,
    pub opaque: bool,
    pub api_key: bool,
    pub mtls: bool,
    pub session: bool,
    /// No credential is good too; a bad one is not.
    pub none: bool,
}

impl Accepts {
    /// Whether a credential of this kind may be good.
    #[must_use]
    pub const fn kind(self, kind: Kind) -> bool {
        match kind {
            Kind::Jwt => self.jwt,
            Kind::Opaque => self.opaque,
            Kind::ApiKey => self.api_key,
            Kind::Certificate => self.mtls,
            Kind::Session => self.session,
        }
    }
}

/// A route's demands on a credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    pub accepts: Accepts,
    /// Of tokens.
    pub issuers: Vec<Issuer>,
    pub audience: String,
    /// All of them.
    pub scopes: Vec<String>,
    pub freshness: Freshness,
    /// How long an introspection answer may be kept, milliseconds; absent: not at all under `introspect`.
    pub cache_ttl_ms: Option<i64>,
    /// How old the feed may be; absent: the gateway's setting.
    pub max_staleness_ms: Option<i64>,
    /// `WWW-Authenticate` of a missing scope.
    pub insufficient: HeaderValue,
    /// What a token has to be bound to.
    pub sender: SenderConstraint,
    /// How well and how recently the person has to be authenticated.
    pub step_up: StepUp,
    /// Of browser sessions.
    pub session: session::Rules,
    /// Which client certificates count, where some do.
    pub certificate: Option<Arc<certificate::Ready>>,
}

impl Guard {
    /// The challenge that names these scopes.
    #[must_use]
    pub fn insufficient(scopes: &[String]) -> HeaderValue {
        let text = format!(r#"Bearer error="insufficient_scope", scope="{}""#, scopes.join(" "));
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(r#"Bearer error="insufficient_scope""#))
    }

    /// Whether a credential of this kind and issuer can be good here at all.
    #[must_use]
    pub fn accepts(&self, kind: Kind, issuer: &Issuer) -> bool {
        self.accepts.kind(kind)
            && match kind {
                Kind::Jwt | Kind::Opaque => self.issuers.contains(issuer),
                Kind::ApiKey => *issuer == Issuer::Own,
                Kind::Certificate => matches!(issuer, Issuer::Authority(_)),
                Kind::Session => !matches!(issuer, Issuer::Authority(_)),
            }
    }

    /// Whether what was issued for these audiences is meant for this route. Tokens say it; a key that says none is for every
    /// audience that its scopes and routes allow; certificates and sessions are for whom their route names.
    #[must_use]
    fn is_audience(&self, kind: Kind, aud: &[String]) -> bool {
        match kind {
            Kind::Jwt | Kind::Opaque => aud.contains(&self.audience),
            Kind::ApiKey => aud.is_empty() || self.audience.is_empty() || aud.contains(&self.audience),
            Kind::Certificate | Kind::Session => true,
        }
    }
}

/// Whatever stands for a caller.
pub trait Who {
    /// Who it is.
    fn identity(&self) -> &Identity;
}

impl Who for &Identity {
    fn identity(&self) -> &Identity {
        self
    }
}

impl<T: AsRef<Identity>> Who for Rc<T> {
    fn identity(&self) -> &Identity {
        (**self).as_ref()
    }
}

/// What is known of the request's credential.
#[derive(Debug, Clone, Copy)]
pub enum Proof<W> {
    /// None was presented.
    Nothing,
    /// One that was believed, now or before, and is not revoked.
    Believed(W),
    /// One that was not.
    Refused(Refusal),
}

/// Who calls. Only [`authenticate`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Caller<W>(Option<W>);

/// Who may call. Only [`authorize`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<W>(Option<W>);

/// Leave to forward one request. Only [`limit`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Permit<W>(Option<W>);

impl<W: Who> Authorized<W> {
    /// The caller; `None` where nobody needs to be known.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.0.as_ref().map(Who::identity)
    }
}

impl<W> Permit<W> {
    /// The caller; `None` where nobody needs to be known.
    #[must_use]
    pub const fn caller(&self) -> Option<&W> {
        self.0.as_ref()
    }
}

/// First: whether the credential is valid here and now.
///
/// # Errors
/// 401 (with the challenge to step up where only that is lacking), 403 for a closed route, or the refusal the proof brought.
pub fn authenticate<W: Who>(access: &Access, proof: Proof<W>, now: i64) -> Result<Caller<W>, Refusal> {
    let guard = match access {
        Access::Public => return Ok(Caller(None)),
        Access::Closed => return Err(Refusal::Closed),
        Access::Guarded(guard) => guard,
    };
    let believed = match proof {
        Proof::Nothing if guard.accepts.none => return Ok(Caller(None)),
        Proof::Nothing => return Err(Refusal::Missing),
        Proof::Refused(refusal) => return Err(refusal),
        Proof::Believed(believed) => believed,
    };
    let who = believed.identity();
    if !guard.accepts(who.kind, &who.issuer) {
        return Err(Refusal::Invalid("issuer"));
    }
    if !guard.is_audience(who.kind, &who.claims.aud) {
        return Err(Refusal::Invalid("audience"));
    }
    access::timely(&who.claims, now, LEEWAY).map_err(|r| Refusal::Invalid(r.reason()))?;
    // A token bound to a DPoP key came in that scheme, or it would not be believed.
    let bound = who.claims.cnf.as_ref().is_some_and(|cnf| cnf.jkt.is_some());
    let scheme = if bound { Scheme::Dpop } else { Scheme::Bearer };
    guard.step_up.check(&who.claims, now).map_err(|lack| Refusal::StepUp(scheme, lack))?;
    Ok(Caller(Some(believed)))
}

/// Second: whether this caller may.
///
/// # Errors
/// [`Refusal::Scope`].
pub fn authorize<W: Who>(access: &Access, caller: Caller<W>) -> Result<Authorized<W>, Refusal> {
    if let (Access::Guarded(guard), Some(who)) = (access, &caller.0)
        && !guard.scopes.iter().all(|scope| who.identity().claims.has_scope(scope))
    {
        return Err(Refusal::Scope);
    }
    Ok(Authorized(caller.0))
}

/// Third: whether it is within the quota (`None`: the route has none).
///
/// # Errors
/// [`Refusal::Limited`].
pub fn limit<W>(authorized: Authorized<W>, verdict: Option<Verdict>) -> Result<Permit<W>, Refusal> {
    match verdict {
        Some(verdict) if !verdict.allowed => Err(Refusal::Limited(verdict)),
        _ => Ok(Permit(authorized.0)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::tests::identity;

    fn guarded(optional: bool) -> Access {
        Access::Guarded(Box::new(Guard {
            accepts: Accepts { jwt: true, none: optional, ..Accepts::default() },
            issuers: vec![Issuer::Own],
            audience: "api".into(),
            scopes: vec!["read".into()],
            freshness: Freshness::Push,
            cache_ttl_ms: None,
            max_staleness_ms: None,
            insufficient: Guard::insufficient(&["read".into()]),
            sender: SenderConstraint::default(),
            step_up: StepUp::default(),
            session: session::Rules::default(),
            certificate: None,
        }))
    }

    fn decide(access: &Access, proof: Proof<&Identity>) -> Result<(), u16> {
        let caller = authenticate(access, proof, 500).map_err(Refusal::status)?;
        let authorized = authorize(access, caller).map_err(Refusal::status)?;
        limit(authorized, None).map(|_| ()).map_err(Refusal::status)
    }

    #[test]
    fn what_is_wrong_with_the_credential_is_401_and_what_it_lacks_is_403() {
        let good = json!({"sub": "a", "aud": "api", "scope": "read x"});
        assert_eq!(decide(&guarded(false), Proof::Believed(&identity(good.clone()))), Ok(()));
        for (name, value, status) in [("aud", json!("other"), 401), ("exp", json!(489), 401), ("scope", json!("readx"), 403)] {
            let mut bad = good.clone();
            bad[name] = value;
            assert_eq!(decide(&guarded(false), Proof::Believed(&identity(bad))), Err(status), "{name}");
        }
        let mut foreign = identity(good.clone());
        foreign.issuer = Issuer::Foreign("x".into());
        assert_eq!(decide(&guarded(false), Proof::Believed(&foreign)), Err(401));
        let mut opaque = identity(good);
        opaque.kind = Kind::Opaque;
        assert_eq!(decide(&guarded(false), Proof::Believed(&opaque)), Err(401));
    }

    #[test]
    fn a_bound_token_has_to_be_proved_and_a_route_may_demand_a_binding() {
        let key = Confirmation { jkt: Some("k".into()), x5t_s256: None };
        let certificate = Confirmation { jkt: None, x5t_s256: Some("c".into()) };
        let (free, dpop) = (SenderConstraint::default(), SenderConstraint { dpop: true, mtls: false });
        let mtls = SenderConstraint { dpop: false, mtls: true };
        assert_eq!(sender(free, Scheme::Bearer, None, None, None), Ok(()));
        assert_eq!(sender(free, Scheme::Dpop, Some(&key), Some("k"), None), Ok(()));
        assert_eq!(sender(dpop, Scheme::Dpop, Some(&key), Some("k"), None), Ok(()));
        assert_eq!(sender(mtls, Scheme::Bearer, Some(&certificate), None, Some("c")), Ok(()));
        for (demanded, scheme, bound, jkt, x5t) in [
            (free, Scheme::Bearer, Some(&key), Some("k"), None),
            (free, Scheme::Dpop, Some(&key), Some("other"), None),
            (free, Scheme::Dpop, Some(&key), None, None),
            (free, Scheme::Dpop, None, Some("k"), None),
            (free, Scheme::Bearer, Some(&certificate), None, None),
            (free, Scheme::Bearer, Some(&certificate), None, Some("other")),
            (dpop, Scheme::Bearer, None, None, None),
            (dpop, Scheme::Bearer, Some(&certificate), None, Some("c")),
            (mtls, Scheme::Dpop, Some(&key), Some("k"), None),
            (mtls, Scheme::Bearer, None, None, Some("c")),
        ] {
            let got = sender(demanded, scheme, bound, jkt, x5t);
            assert_eq!(got.map_err(Refusal::status), Err(401), "{demanded:?} {scheme:?} {bound:?}");
        }
    }

    #[test]
    fn who_has_to_step_up_hears_how_in_the_scheme_of_the_token() {
        let Access::Guarded(guard) = guarded(false) else { panic!("guarded") };
        let access = Access::Guarded(Box::new(Guard { step_up: StepUp { acr_values: vec!["gold".into()], max_age: Some(60) }, ..*guard }));
        let good = json!({"sub": "a", "aud": "api", "scope": "read", "acr": "gold", "auth_time": 450});
        assert_eq!(decide(&access, Proof::Believed(&identity(good.clone()))), Ok(()));
        for (name, value) in [("acr", json!("silver")), ("auth_time", json!(400))] {
            let mut lacking = good.clone();
            lacking[name] = value;
            let mut who = identity(lacking);
            for (cnf, scheme) in [(None, "Bearer "), (Some(Confirmation { jkt: Some("k".into()), x5t_s256: None }), "DPoP ")] {
                who.claims.cnf = cnf;
                let refusal = authenticate(&access, Proof::Believed(&who), 500).map(|_| ()).unwrap_err();
                assert_eq!((refusal.status(), refusal.reason()), (401, "step_up"), "{name}");
                let challenge = refusal.challenge(Some(&access)).unwrap();
                let text = challenge.to_str().unwrap();
                assert!(text.starts_with(scheme) && text.contains("acr_values=\"gold\", max_age=\"60\""), "{text}");
            }
        }
        // What is wrong with the token itself comes first.
        let bad = identity(json!({"sub": "a", "aud": "other"}));
        assert_eq!(authenticate(&access, Proof::Believed(&bad), 500).map(|_| ()), Err(Refusal::Invalid("audience")));
    }

    #[test]
    fn an_optional_credential_may_be_absent_but_not_bad() {
        assert_eq!(decide(&guarded(true), Proof::Nothing), Ok(()));
        assert_eq!(decide(&guarded(true), Proof::Refused(Refusal::Invalid("signature"))), Err(401));
        assert_eq!(decide(&guarded(false), Proof::Nothing), Err(401));
    }

    #[test]
    fn a_route_that_says_nothing_lets_nobody_through() {
        assert_eq!(decide(&Access::Closed, Proof::Nothing), Err(403));
        assert_eq!(decide(&Access::Public, Proof::Refused(Refusal::Invalid("x"))), Ok(()));
    }
}
