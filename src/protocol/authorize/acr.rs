//! `acr_values` and the `acr` claim: how well the person should be authenticated (OpenID Connect Core §3.1.2.1, §5.5.1.1).
use serde_json::Value;

use super::{Desk, Params, Refusal, Request};

/// More classes than anybody knows.
const MOST: usize = 16;
/// Longest class, octets.
const LONGEST: usize = 256;

/// Step: voluntary classes are a wish; those of an essential `acr` claim are a condition. Follows the step of `claims`.
pub(super) fn wanted(params: &Params, desk: &Desk<'_>, request: &mut Request) -> Result<(), Refusal> {
    let claim = request.claims.as_ref().and_then(|c| c.get("id_token")?.get("acr"));
    let essential = claim.and_then(|c| c.get("essential")).and_then(Value::as_bool).unwrap_or_default();
    let named: Vec<&str> = match claim.map(|c| (c.get("values"), c.get("value"))) {
        Some((Some(Value::Array(values)), _)) => values.iter().filter_map(Value::as_str).collect(),
        Some((_, Some(Value::String(value)))) => vec![value],
        _ => Vec::new(),
    };
    request.acr_essential = essential && !named.is_empty();
    let asked = params.one("acr_values")?.unwrap_or_default();
    let classes: Vec<&str> = if !named.is_empty() {
        named
    } else if asked.trim().is_empty() {
        desk.client.default_acr_values.iter().map(String::as_str).collect()
    } else {
        asked.split(' ').collect()
    };
    request.acr_values = classes.into_iter().filter(|c| (1..=LONGEST).contains(&c.len())).take(MOST).map(str::to_owned).collect();
    Ok(())
}
