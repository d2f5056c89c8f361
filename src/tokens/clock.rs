//! Time and randomness as arguments: everything that needs either takes one of these.

/// The wall clock. The only implementation that reads the machine's clock is in the root package.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// Seconds since the Unix epoch (a JWT `NumericDate`, RFC 7519 §2).
    fn now(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }
}

/// A source of random octets fit for keys and tokens.
pub trait Entropy: Send + Sync {
    /// Fills `out` with unpredictable octets.
    fn fill(&self, out: &mut [u8]);
}
