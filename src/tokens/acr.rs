//! Authentication context classes: how well the person behind a token was authenticated (OpenID Connect Core §2 `acr`).

/// A password.
pub const ONE: &str = "urn:doorward:acr:1";
/// A password and a second factor.
pub const TWO: &str = "urn:doorward:acr:2";
/// Every class of our own, the weakest first.
pub const ALL: [&str; 2] = [ONE, TWO];

/// The level of a class of our own.
#[must_use]
pub fn level(class: &str) -> Option<usize> {
    ALL.iter().position(|c| *c == class).map(|at| at + 1)
}

/// Whether who reached one class satisfies a demand for another: the same, or a stronger one of our own.
#[must_use]
pub fn satisfies(reached: &str, demanded: &str) -> bool {
    reached == demanded || level(demanded).is_some_and(|least| level(reached).is_some_and(|l| l >= least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stronger_class_satisfies_a_weaker_one_of_our_own_only() {
        for (reached, demanded, satisfied) in [
            (ONE, ONE, true),
            (TWO, ONE, true),
            (ONE, TWO, false),
            ("urn:theirs:gold", "urn:theirs:gold", true),
            ("urn:theirs:gold", "urn:theirs:silver", false),
            (TWO, "urn:theirs:gold", false),
            ("urn:theirs:gold", ONE, false),
            ("", "urn:theirs:gold", false),
        ] {
            assert_eq!(satisfies(reached, demanded), satisfied, "{reached} for {demanded}");
        }
    }
}
