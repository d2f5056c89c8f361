//! `max_age`: the oldest acceptable login (OpenID Connect Core §3.1.2.1).
use super::{Code, Desk, Params, Refusal, Request};

/// Step: whole seconds; the client's `default_max_age` if absent.
pub(super) fn seconds(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    const BAD: Refusal = Refusal::new(Code::InvalidRequest, "max_age must be a number of seconds");
    request.max_age = match params.one("max_age")? {
        None => desk.client.default_max_age.filter(|age| *age >= 0),
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => Some(text.parse().map_err(|_| BAD)?),
        Some(_) => return Err(BAD),
    };
    Ok(())
}

/// Whether a login at `auth_time` is too old at `now`. Both are whole seconds: a login that may be too old is.
#[must_use]
pub fn too_old(max_age: Option<i64>, auth_time: i64, now: i64) -> bool {
    max_age.is_some_and(|age| now.saturating_sub(auth_time) >= age)
}
