//! Admission: authenticate, authorize, limit. Forwarding needs the [`Permit`] that only the last of them gives.
use http::HeaderValue;
use tokens::{Confirmation, access, confirmation::Scheme};

use crate::{
    framing::Violation,
    identity::{Identity, Issuer, Kind},
    limit::Verdict,
    route::Freshness,
    step_up::{Lack, StepUp},
};

/// Seconds of clock difference forgiven.
pub const LEEWAY: i64 = 10;

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The octets of the connection are not well-framed HTTP.
    Framing(Violation),
    /// The request can be read in two ways, or not at all.
    Malformed(&'static str),
    /// Two token-style credentials.
    Ambiguous,
    /// No route is for it.
    NoRoute,
    /// TRACE, TRACK, CONNECT, or a method no route of that path has.
    Method,
    /// The route lets nobody through.
    Closed,
    /// No credential.
    Missing,
    /// A credential that is not believed, with the reason for the log.
    Invalid(&'static str),
    /// A token whose sender is not the one it is bound to, or that has to be bound (RFC 9449 §7.1).
    Unbound(&'static str),
    /// A DPoP proof that is missing, wrong or was used before.
    Unproved(&'static str),
    /// A DPoP proof has to carry a nonce of ours (RFC 9449 §9).
    Nonce,
    /// Believed, but the person was not authenticated well or recently enough (RFC 9470); in which scheme the token came.
    StepUp(Scheme, Lack),
    /// Believed, but a scope is missing.
    Scope,
    /// Believed, but no policy of the route permits this.
    Policy,
    /// The body is larger than the route takes.
    TooLarge,
    /// The request did not come in time.
    TooSlow,
    /// Over the route's quota.
    Limited(Verdict),
    /// It cannot be known whether the credential is good.
    Undecided(&'static str),
    /// The upstream cannot be reached or answers nonsense.
    BadUpstream(&'static str),
    /// The upstream does not answer in time.
    SlowUpstream,
}

impl Refusal {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Framing(violation) => violation.status(),
            Self::Malformed(_) | Self::Ambiguous => 400,
            Self::Missing | Self::Invalid(_) | Self::Unbound(_) | Self::Unproved(_) | Self::Nonce | Self::StepUp(..) => 401,
            Self::Closed | Self::Scope | Self::Policy => 403,
            Self::NoRoute => 404,
            Self::Method => 405,
            Self::TooSlow => 408,
            Self::TooLarge => 413,
            Self::Limited(_) => 429,
            Self::BadUpstream(_) => 502,
            Self::Undecided(_) => 503,
            Self::SlowUpstream => 504,
        }
    }

    /// A short stable name for logs and metrics. The client never hears it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Framing(violation) => violation.reason(),
            Self::Nonce => "dpop_nonce",
            Self::StepUp(..) => "step_up",
            Self::Unbound(why)
            | Self::Unproved(why)
            | Self::Malformed(why)
            | Self::Invalid(why)
            | Self::Undecided(why)
            | Self::BadUpstream(why) => why,
            Self::Ambiguous => "two_credentials",
            Self::NoRoute => "no_route",
            Self::Method => "method",
            Self::Closed => "route_closed",
            Self::Missing => "no_credential",
            Self::Scope => "scope",
            Self::Policy => "policy",
            Self::TooLarge => "body_too_large",
            Self::TooSlow => "request_timeout",
            Self::Limited(_) => "rate_limit",
            Self::SlowUpstream => "upstream_timeout",
        }
    }

    /// The problem document (RFC 9457): one for each status, whatever the reason.
    #[must_use]
    pub const fn body(self) -> &'static str {
        match self.status() {
            400 => r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"The request is malformed or ambiguous."}"#,
            401 => r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"A valid access token is needed."}"#,
            403 => r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The access token does not allow this."}"#,
            404 => r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"No route is for this request."}"#,
            405 => r#"{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"The route does not take this method."}"#,
            408 => r#"{"type":"about:blank","title":"Request Timeout","status":408,"detail":"The request did not come in time."}"#,
            413 => r#"{"type":"about:blank","title":"Content Too Large","status":413,"detail":"The body is larger than the route takes."}"#,
            414 => r#"{"type":"about:blank","title":"URI Too Long","status":414,"detail":"The request target is longer than 8 KiB."}"#,
            429 => r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The quota is used up; try again later."}"#,
            431 => {
                r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"detail":"More than 32 KiB or 100 header fields."}"#
            }
            502 => r#"{"type":"about:blank","title":"Bad Gateway","status":502,"detail":"The upstream gave no valid answer."}"#,
            504 => r#"{"type":"about:blank","title":"Gateway Timeout","status":504,"detail":"The upstream did not answer in time."}"#,
            505 => r#"{"type":"about:blank","title":"HTTP Version Not Supported","status":505,"detail":"HTTP/1.1 or HTTP/2 is needed."}"#,
            _ => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The access token cannot be checked right now."}"#
            }
        }
    }

    /// `WWW-Authenticate` (RFC 6750 §3), where one belongs.
    #[must_use]
    pub fn challenge(self, access: Option<&Access>) -> Option<HeaderValue> {
        match self {
            Self::Missing => Some(HeaderValue::from_static("Bearer")),
            Self::Invalid(_) => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
            Self::Unbound(_) => Some(dpop("error=\"invalid_token\", ")),
            Self::Unproved(_) => Some(dpop("error=\"invalid_dpop_proof\", ")),
            Self::Nonce => Some(dpop("error=\"use_dpop_nonce\", ")),
            Self::Ambiguous => Some(HeaderValue::from_static(r#"Bearer error="invalid_request""#)),
            Self::Policy => Some(HeaderValue::from_static(r#"Bearer error="insufficient_scope""#)),
            Self::StepUp(scheme, lack) => match access {
                Some(Access::Guarded(guard)) => Some(guard.step_up.challenge(scheme, lack)),
                _ => Some(StepUp::default().challenge(scheme, lack)),
            },
            Self::Scope => match access {
                Some(Access::Guarded(guard)) => Some(guard.insufficient.clone()),
                _ => Some(HeaderValue::from_static(r#"Bearer error="insufficient_scope""#)),
            },
            _ => None,
        }
    }

    /// Whether the connection cannot go on after it.
    #[must_use]
    pub const fn closes(self) -> bool {
        matches!(self, Self::Framing(_) | Self::TooSlow | Self::TooLarge)
    }
}

/// The challenge of the scheme `DPoP` (RFC 9449 §7.1) with these parameters before the algorithms.
#[must_use]
pub fn dpop(parameters: &str) -> HeaderValue {
    let text = format!("DPoP {parameters}algs=\"{}\"", tokens::dpop::ALGS.map(tokens::Alg::as_str).join(" "));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("DPoP"))
}

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
    Guarded(Guard),
}

/// A route's demands on a credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    pub jwt: bool,
    pub opaque: bool,
    /// No credential is good too; a bad one is not.
    pub optional: bool,
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
        (match kind {
            Kind::Jwt => self.jwt,
            Kind::Opaque => self.opaque,
        }) && self.issuers.contains(issuer)
    }
}

/// What is known of the request's credential.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// None was presented.
    Nothing,
    /// One that was believed, now or before, and is not revoked.
    Believed(&'a Identity),
    /// One that was not.
    Refused(Refusal),
}

/// Who calls. Only [`authenticate`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a>(Option<&'a Identity>);

/// Who may call. Only [`authorize`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<'a>(Option<&'a Identity>);

/// Leave to forward one request. Only [`limit`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Permit<'a>(Option<&'a Identity>);

impl<'a> Authorized<'a> {
    /// The caller; `None` where nobody needs to be known.
    #[must_use]
    pub const fn identity(&self) -> Option<&'a Identity> {
        self.0
    }
}

impl<'a> Permit<'a> {
    /// The caller; `None` where nobody needs to be known.
    #[must_use]
    pub const fn identity(&self) -> Option<&'a Identity> {
        self.0
    }
}

/// First: whether the credential is valid here and now.
///
/// # Errors
/// 401 (with the challenge to step up where only that is lacking), 403 for a closed route, or the refusal the proof brought.
pub fn authenticate<'a>(access: &Access, proof: Proof<'a>, now: i64) -> Result<Caller<'a>, Refusal> {
    let guard = match access {
        Access::Public => return Ok(Caller(None)),
        Access::Closed => return Err(Refusal::Closed),
        Access::Guarded(guard) => guard,
    };
    let who = match proof {
        Proof::Nothing if guard.optional => return Ok(Caller(None)),
        Proof::Nothing => return Err(Refusal::Missing),
        Proof::Refused(refusal) => return Err(refusal),
        Proof::Believed(who) => who,
    };
    if !guard.accepts(who.kind, &who.issuer) {
        return Err(Refusal::Invalid("issuer"));
    }
    if !who.claims.aud.contains(&guard.audience) {
        return Err(Refusal::Invalid("audience"));
    }
    access::timely(&who.claims, now, LEEWAY).map_err(|r| Refusal::Invalid(r.reason()))?;
    // A token bound to a DPoP key came in that scheme, or it would not be believed.
    let bound = who.claims.cnf.as_ref().is_some_and(|cnf| cnf.jkt.is_some());
    let scheme = if bound { Scheme::Dpop } else { Scheme::Bearer };
    guard.step_up.check(&who.claims, now).map_err(|lack| Refusal::StepUp(scheme, lack))?;
    Ok(Caller(Some(who)))
}

/// Second: whether this caller may.
///
/// # Errors
/// [`Refusal::Scope`].
pub fn authorize<'a>(access: &Access, caller: Caller<'a>) -> Result<Authorized<'a>, Refusal> {
    if let (Access::Guarded(guard), Some(who)) = (access, caller.0)
        && !guard.scopes.iter().all(|scope| who.claims.has_scope(scope))
    {
        return Err(Refusal::Scope);
    }
    Ok(Authorized(caller.0))
}

/// Third: whether it is within the quota (`None`: the route has none).
///
/// # Errors
/// [`Refusal::Limited`].
pub fn limit(authorized: Authorized<'_>, verdict: Option<Verdict>) -> Result<Permit<'_>, Refusal> {
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
        Access::Guarded(Guard {
            jwt: true,
            opaque: false,
            optional,
            issuers: vec![Issuer::Own],
            audience: "api".into(),
            scopes: vec!["read".into()],
            freshness: Freshness::Push,
            cache_ttl_ms: None,
            max_staleness_ms: None,
            insufficient: Guard::insufficient(&["read".into()]),
            sender: SenderConstraint::default(),
            step_up: StepUp::default(),
        })
    }

    fn decide(access: &Access, proof: Proof<'_>) -> Result<(), u16> {
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
        let access = Access::Guarded(Guard { step_up: StepUp { acr_values: vec!["gold".into()], max_age: Some(60) }, ..guard });
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
