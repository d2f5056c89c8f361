//! `login_hint`: who will probably log in (OpenID Connect Core §3.1.2.1). Never an error, never believed.
use super::{Desk, Params, Refusal, Request};

/// Longest hint that is shown, in characters.
const LONGEST: usize = 256;

/// Step: keeps a short, printable hint.
pub(super) fn keep(params: &Params, _: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    request.login_hint =
        params.one("login_hint")?.filter(|h| h.chars().count() <= LONGEST && !h.chars().any(char::is_control)).map(str::to_owned);
    Ok(())
}
