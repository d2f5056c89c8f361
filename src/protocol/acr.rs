//! Authentication context classes and stepping up between them (OpenID Connect Core §2 `acr`, RFC 9470, RFC 8176 for `amr`).
use serde_json::{Map, Value, json};

use tokens::acr::level as level_of;
pub use tokens::acr::{ALL, ONE, TWO};

use crate::Settings;

/// The methods of a login (RFC 8176 §2): a password, and a code of the person's own device if they have one.
#[must_use]
pub fn methods(second: bool) -> Vec<String> {
    let names: &[&str] = if second { &["pwd", "otp", "mfa"] } else { &["pwd"] };
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// How many factors these methods are.
fn level(amr: &[String]) -> usize {
    if amr.iter().any(|m| m == "mfa") { 2 } else { 1 }
}

/// What a request asks of how the person is authenticated, given how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing more.
    Nothing,
    /// The second factor, if the person has one; without it the request goes on.
    Wished,
    /// The second factor; without it the request fails.
    Required,
    /// Something nobody here can do.
    Impossible,
}

/// Compares the classes asked for (`essential`: one of them has to be met) and the methods of the session. The first class known here is
/// the one most wanted.
#[must_use]
pub fn need(classes: &[String], essential: bool, amr: &[String]) -> Need {
    let asked = || classes.iter().filter_map(|c| level_of(c));
    let Some(most_wanted) = asked().next() else {
        return if essential { Need::Impossible } else { Need::Nothing };
    };
    let met = if essential { asked().any(|l| l <= level(amr)) } else { most_wanted <= level(amr) };
    match (met, essential) {
        (true, _) => Need::Nothing,
        (false, true) => Need::Required,
        (false, false) => Need::Wished,
    }
}

/// What the ID token says: the most wanted class that the login meets, else the one it is.
#[must_use]
pub fn reached(classes: &[String], amr: &[String]) -> &'static str {
    let met = |class: &&str| level_of(class).is_some_and(|l| l <= level(amr));
    let wanted = classes.iter().find_map(|asked| ALL.into_iter().find(|c| c == asked).filter(met));
    wanted.unwrap_or(if level(amr) == 2 { TWO } else { ONE })
}

/// What a deployment says of it (OpenID Connect Discovery §3).
pub(crate) fn feature(_: &Settings, members: &mut Map<String, Value>) {
    members.insert("acr_values_supported".into(), json!(ALL));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn a_wish_steps_up_and_a_condition_must_be_met() {
        let (one, two) = (methods(false), methods(true));
        for (values, essential, amr, expected) in [
            (&[][..], false, &one, Need::Nothing),
            (&[TWO][..], false, &one, Need::Wished),
            (&[TWO][..], false, &two, Need::Nothing),
            (&[ONE, TWO][..], false, &one, Need::Nothing),
            (&[TWO, ONE][..], false, &one, Need::Wished),
            (&["urn:other", TWO][..], false, &one, Need::Wished),
            (&["urn:other"][..], false, &one, Need::Nothing),
            (&["urn:other"][..], true, &two, Need::Impossible),
            (&[TWO][..], true, &one, Need::Required),
            (&[TWO, ONE][..], true, &one, Need::Nothing),
        ] {
            assert_eq!(need(&classes(values), essential, amr), expected, "{values:?} {essential} {amr:?}");
        }
    }

    #[test]
    fn what_is_told_was_reached_and_was_asked_for_where_possible() {
        let (one, two) = (methods(false), methods(true));
        assert_eq!(reached(&classes(&[]), &one), ONE);
        assert_eq!(reached(&classes(&[]), &two), TWO);
        assert_eq!(reached(&classes(&[ONE]), &two), ONE);
        assert_eq!(reached(&classes(&[TWO, ONE]), &one), ONE);
        assert_eq!(reached(&classes(&["urn:other"]), &two), TWO);
    }
}
