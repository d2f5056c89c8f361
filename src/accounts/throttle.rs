//! Login limits: what counts against whom. Only failures count, per source and per account at a source, so that nobody can lock another out.
use std::net::{IpAddr, Ipv6Addr};

/// Failures allowed: `rate` in `period_s` seconds, up to `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub rate: u32,
    pub period_s: u32,
    pub burst: u32,
}

/// Failures of one account from one source: thirty at once, then ten a minute.
pub const PAIR: Limit = Limit { rate: 100, period_s: 600, burst: 30 };
/// Wrong second factors of one account from one source, by somebody who knows its password: thirty at once, then two a minute.
pub const SECOND: Limit = Limit { rate: 20, period_s: 600, burst: 30 };
/// Failures from one source over all accounts: sixty at once, then ten a minute.
pub const SOURCE: Limit = Limit { rate: 100, period_s: 600, burst: 60 };

/// Where an attempt comes from: one IPv4 address, or one IPv6 /64 (an end site's smallest network, RFC 6177).
#[must_use]
pub fn source(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The counters of one attempt.
///
/// Before the password is hashed, look at both (without counting): if either is used up, refuse with 429 and the longer
/// wait. After a failure count one on both. A success takes nothing back: who it was that succeeded says nothing of who failed
/// before from the same address, and one good account would buy endless guesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Counted against [`SOURCE`].
    pub source: String,
    /// Counted against `limit`.
    pub pair: String,
    /// [`PAIR`] or [`SECOND`].
    pub limit: Limit,
}

impl Counters {
    /// The counters of an attempt at `username` from `address`. The name goes in as a hash: counters hold no names and have one size.
    #[must_use]
    pub fn of(username: &str, address: IpAddr) -> Self {
        let source = source(address);
        let account = tokens::hash::left_half(username);
        Self { pair: format!("login:pair:{source}:{account}"), source: format!("login:source:{source}"), limit: PAIR }
    }

    /// The counters of an attempt at the second factor of `subject`.
    #[must_use]
    pub fn second(subject: &str, address: IpAddr) -> Self {
        Self { limit: SECOND, ..Self::of(&format!("second\0{subject}"), address) }
    }

    /// Both with their limits, widest first.
    #[must_use]
    pub fn each(&self) -> [(&str, Limit); 2] {
        [(&self.source, SOURCE), (&self.pair, self.limit)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        assert_ne!(source(at("127.0.0.1")), source(at("127.0.0.2")));
        assert_eq!(source(at("::ffff:192.0.2.7")), "192.0.2.7");
        assert_eq!(source(at("2001:db8:1:2:3:4:5:6")), source(at("2001:db8:1:2::")));
        assert_ne!(source(at("2001:db8:1:2::")), source(at("2001:db8:1:3::")));
    }

    #[test]
    fn no_counter_is_shared_between_sources() {
        let (here, there) = (Counters::of("alice", at("192.0.2.1")), Counters::of("alice", at("192.0.2.2")));
        assert!(here.pair != there.pair && here.source != there.source);
        assert!(!here.pair.contains("alice"));
        assert_eq!(here.source, Counters::of("bob", at("192.0.2.1")).source);
    }

    #[test]
    fn the_second_factor_has_counters_and_a_limit_of_its_own() {
        let (first, second) = (Counters::of("alice", at("192.0.2.1")), Counters::second("alice", at("192.0.2.1")));
        assert!(first.pair != second.pair && first.source == second.source);
        assert_eq!((first.each()[1].1, second.each()[1].1), (PAIR, SECOND));
    }

    #[test]
    fn the_numbers_keep_the_policy() {
        // Ten failures are never limited; forty of one account and eighty over many are, even at one a second.
        for (limit, never, surely) in [(PAIR, 10, 40), (SECOND, 10, 40), (SOURCE, 10, 80)] {
            let refilled = surely * limit.rate / limit.period_s + 1;
            assert!(limit.burst > never && limit.burst + refilled < surely);
        }
        // Ten a minute are not, however long they go on.
        for limit in [PAIR, SOURCE] {
            assert!(limit.rate * 60 >= 10 * limit.period_s);
        }
    }
}
