//! Refusals: why a request is not forwarded, and what its client hears: status, challenge, and one body for each status (RFC 9457).
use http::HeaderValue;
use tokens::confirmation::Scheme;

use crate::{
    admission::Access,
    framing::Violation,
    limit::Verdict,
    step_up::{Lack, StepUp},
};

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
    /// Believed, but not one of those who may come here, with the reason for the log.
    Barred(&'static str),
    /// Believed, but no policy of the route permits this.
    Policy,
    /// No page of that origin may call so, with the reason for the log (Fetch §3.2).
    Cors(&'static str),
    /// It is none of the route's operations.
    NoOperation,
    /// The body is of a type or coding that is not taken, with the reason for the log.
    MediaType(&'static str),
    /// The body is larger than the route takes.
    TooLarge,
    /// The request did not come in time.
    TooSlow,
    /// Over the route's quota.
    Limited(Verdict),
    /// As many requests as may be are being served for it.
    Crowded,
    /// It cannot be known whether the credential is good.
    Undecided(&'static str),
    /// This version of the API is no longer served (RFC 8594).
    Gone,
    /// It is not served for a while, so that who still calls notices: whether as if it were gone, and for how many seconds.
    BrownOut { gone: bool, retry_s: u32 },
    /// The upstream has as much to do as it may have, or is left alone after faults.
    Full(&'static str),
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
            Self::Closed | Self::Scope | Self::Barred(_) | Self::Policy | Self::Cors(_) => 403,
            Self::NoRoute | Self::NoOperation => 404,
            Self::Method => 405,
            Self::TooSlow => 408,
            Self::Gone | Self::BrownOut { gone: true, .. } => 410,
            Self::TooLarge => 413,
            Self::MediaType(_) => 415,
            Self::Limited(_) | Self::Crowded => 429,
            Self::BadUpstream(_) => 502,
            Self::Undecided(_) | Self::Full(_) | Self::BrownOut { gone: false, .. } => 503,
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
            | Self::Full(why)
            | Self::Barred(why)
            | Self::Cors(why)
            | Self::MediaType(why)
            | Self::BadUpstream(why) => why,
            Self::Ambiguous => "two_credentials",
            Self::NoRoute => "no_route",
            Self::NoOperation => "no_operation",
            Self::Method => "method",
            Self::Closed => "route_closed",
            Self::Missing => "no_credential",
            Self::Scope => "scope",
            Self::Policy => "policy",
            Self::TooLarge => "body_too_large",
            Self::TooSlow => "request_timeout",
            Self::Gone => "sunset",
            Self::BrownOut { .. } => "brown_out",
            Self::Limited(_) => "rate_limit",
            Self::Crowded => "concurrency",
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
            410 => r#"{"type":"about:blank","title":"Gone","status":410,"detail":"This version of the API is no longer served."}"#,
            413 => r#"{"type":"about:blank","title":"Content Too Large","status":413,"detail":"The body is larger than the route takes."}"#,
            414 => {
                r#"{"type":"about:blank","title":"URI Too Long","status":414,"detail":"The request target is longer than is taken here."}"#
            }
            415 => {
                r#"{"type":"about:blank","title":"Unsupported Media Type","status":415,"detail":"The body is of a type, character set or coding that is not taken here."}"#
            }
            429 => r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The quota is used up; try again later."}"#,
            431 => {
                r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"detail":"More or longer header fields than are taken here."}"#
            }
            502 => r#"{"type":"about:blank","title":"Bad Gateway","status":502,"detail":"The upstream gave no valid answer."}"#,
            504 => r#"{"type":"about:blank","title":"Gateway Timeout","status":504,"detail":"The upstream did not answer in time."}"#,
            505 => r#"{"type":"about:blank","title":"HTTP Version Not Supported","status":505,"detail":"HTTP/1.1 or HTTP/2 is needed."}"#,
            _ => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The request cannot be served right now; try again later."}"#
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
            Self::Policy | Self::Barred(_) => Some(HeaderValue::from_static(r#"Bearer error="insufficient_scope""#)),
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
