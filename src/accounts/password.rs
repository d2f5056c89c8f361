//! Passwords: argon2id (RFC 9106) in PHC strings, the same work for people who exist and people who do not.
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokens::Entropy;

/// The most characters a password may have.
pub const MAX_CHARS: usize = 128;
/// The fewest characters a password may be set to.
pub const MIN_CHARS: usize = 8;
/// KiB of memory one hash takes.
pub const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over that memory.
pub const PASSES: u32 = 2;
/// Lanes.
pub const LANES: u32 = 1;

/// A hash that no password has, of the cost of a real one: what an unknown person's password is compared with.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A password that cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Fewer than eight characters.
    #[error("at least 8 characters are needed")]
    TooShort,
    /// More than 128 characters.
    #[error("at most 128 characters are allowed")]
    TooLong,
    /// The memory for hashing is not to be had.
    #[error("hashing failed")]
    Failed,
}

/// Whether a password may be set, without hashing it.
///
/// # Errors
/// [`PasswordError::TooShort`] or [`PasswordError::TooLong`].
pub fn acceptable(password: &str) -> Result<(), PasswordError> {
    match password.chars().take(MAX_CHARS + 1).count() {
        ..MIN_CHARS => Err(PasswordError::TooShort),
        MIN_CHARS..=MAX_CHARS => Ok(()),
        _ => Err(PasswordError::TooLong),
    }
}

/// Hashes a password to be set; slow on purpose (run it off the event loop). The PHC string carries salt and cost.
///
/// # Errors
/// The password's length, or [`PasswordError::Failed`].
pub fn hash(password: &str, entropy: &dyn Entropy) -> Result<String, PasswordError> {
    acceptable(password)?;
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    let hashed = hasher()?.hash_password_with_salt(password.as_bytes(), &salt).map_err(|_| PasswordError::Failed)?;
    Ok(hashed.to_string())
}

/// Whether the password is that of a stored PHC string. With `None` (nobody of that name, or no password set) it takes
/// the same time and says no. A password too long to be anybody's is refused for everybody alike.
#[must_use]
pub fn verify(stored: Option<&str>, password: &str) -> bool {
    if password.chars().take(MAX_CHARS + 1).count() > MAX_CHARS {
        return false;
    }
    let matches = hasher().is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), stored.unwrap_or(NOBODY)).is_ok());
    matches && stored.is_some()
}

/// Whether a stored hash was made with another algorithm or less work than a new one would be.
#[must_use]
pub fn needs_rehash(stored: &str) -> bool {
    let prefix = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$");
    !stored.starts_with(&prefix)
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| PasswordError::Failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn the_right_password_is_accepted_and_any_other_is_not() {
        let stored = hash("correct horse", &Fixed).expect("hashes");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify(Some(&stored), "correct horse"));
        assert!(!verify(Some(&stored), "correct horsf"));
        assert!(!verify(None, "correct horse"));
        assert!(!verify(Some("garbage"), "correct horse"));
        assert!(!needs_rehash(&stored));
        assert!(needs_rehash("$argon2id$v=19$m=4096,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAA"));
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert_eq!(acceptable("seven77"), Err(PasswordError::TooShort));
        assert_eq!(acceptable(&"é".repeat(128)), Ok(()));
        assert_eq!(acceptable(&"é".repeat(129)), Err(PasswordError::TooLong));
        assert!(!verify(None, &"e".repeat(129)));
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        let stored = hash("correct horse", &Fixed).expect("hashes");
        let time = |stored: Option<&str>| {
            (0..5)
                .map(|_| {
                    let start = Instant::now();
                    assert!(!verify(stored, "wrong password"));
                    start.elapsed()
                })
                .min()
                .unwrap_or(Duration::ZERO)
        };
        let (somebody, nobody) = (time(Some(&stored)), time(None));
        assert!(nobody * 2 > somebody && somebody * 2 > nobody, "{somebody:?} {nobody:?}");
    }
}
