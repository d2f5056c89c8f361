//! One id for each request (`X-Request-Id`): on its answer, on what the upstream is sent, in the logs and in explanations. A trusted
//! proxy's is kept if it reads; everybody else's is not.
use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokens::Entropy;

/// The field that carries it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over.
const LONGEST: usize = 128;

/// The id of one request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl Default for RequestId {
    fn default() -> Self {
        Self(HeaderValue::from_static(""))
    }
}

impl RequestId {
    /// As text; empty for a request that has none yet.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As the field's value.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// What a trusted proxy calls it, if it says so once and in letters, digits and `._~:/+=-` only.
    fn told(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let good = |b: &u8| b.is_ascii_alphanumeric() || b"._~:/+=-".contains(b);
        let octets = value.as_bytes();
        ((1..=LONGEST).contains(&octets.len()) && octets.iter().all(good)).then(|| Self(value.clone()))
    }
}

/// Makes the ids of one thread: what no other thread has, and a count.
pub(crate) struct Ids {
    /// Sixteen digits.
    thread: [u8; 16],
    next: Cell<u64>,
}

/// A hexadecimal digit.
const fn digit(n: u8) -> u8 {
    if n < 10 { b'0' + n } else { b'a' + n - 10 }
}

/// The low digits of a number, as many as there are places.
fn digits(mut n: u64, places: &mut [u8]) {
    for place in places.iter_mut().rev() {
        *place = digit((n & 15) as u8);
        n >>= 4;
    }
}

impl Ids {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let (mut octets, mut thread) = ([0; 8], [0; 16]);
        entropy.fill(&mut octets);
        digits(u64::from_be_bytes(octets), &mut thread);
        Self { thread, next: Cell::new(0) }
    }

    /// The id of a request with these headers; `trusted`: of a proxy that may name it.
    pub(crate) fn of(&self, headers: &HeaderMap, trusted: bool) -> RequestId {
        if trusted && let Some(told) = RequestId::told(headers) { told } else { self.make() }
    }

    /// Whether the last request is the one in so many.
    pub(crate) fn is_one_in(&self, many: u32) -> bool {
        many > 0 && self.next.get().is_multiple_of(u64::from(many))
    }

    fn make(&self) -> RequestId {
        let n = self.next.get();
        self.next.set(n.wrapping_add(1));
        let mut text = [0; 26];
        let (thread, count) = text.split_at_mut(self.thread.len());
        thread.copy_from_slice(&self.thread);
        digits(n, count);
        RequestId(HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(0xab);
        }
    }

    #[test]
    fn each_request_has_its_own_id_and_only_a_trusted_proxy_may_choose_it() {
        let ids = Ids::new(&Fixed);
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(X_REQUEST_ID, HeaderValue::from_static(value));
            }
            headers
        };
        let (first, second) = (ids.of(&with(&[]), false), ids.of(&with(&[]), false));
        assert_eq!((first.as_str(), second.as_str()), ("abababababababab0000000000", "abababababababab0000000001"));
        assert_eq!(ids.of(&with(&["front-7/a"]), true).as_str(), "front-7/a");
        assert_ne!(ids.of(&with(&["front-7/a"]), false).as_str(), "front-7/a");
        for strange in [&["a b"][..], &[""], &["a", "b"], &["a\"b"], &["<x>"]] {
            assert!(ids.of(&with(strange), true).as_str().starts_with("abab"), "{strange:?}");
        }
    }
}
