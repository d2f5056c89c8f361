//! Request objects are not served, and are refused rather than ignored (OpenID Connect Core §6, RFC 9101).
use super::{Code, Desk, Params, Refusal, Request};

/// Step: no `request`, `request_uri` or `registration`.
pub(super) fn refuse(params: &Params, _: &Desk<'_>, _: &mut Request) -> Result<(), Refusal> {
    const REFUSED: [(&str, Refusal); 3] = [
        ("request", Refusal::new(Code::RequestNotSupported, "request objects are not supported")),
        ("request_uri", Refusal::new(Code::RequestUriNotSupported, "request objects by reference are not supported")),
        ("registration", Refusal::new(Code::RegistrationNotSupported, "the registration parameter is not supported")),
    ];
    REFUSED.iter().find(|(name, _)| params.all(name).any(|v| !v.is_empty())).map_or(Ok(()), |(_, refusal)| Err(*refusal))
}
