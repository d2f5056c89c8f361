//! Trace context (W3C Trace Context Level 2): whose trace a request belongs to, whether it is recorded, and what the upstream is told.
use http::{HeaderMap, HeaderName, HeaderValue};
use tokens::{Entropy, secret::MacKey};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span of this gateway.
    pub span: [u8; 8],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// The span of the call to the upstream.
    pub onward: [u8; 8],
}

/// What a caller said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

/// Reads `traceparent`: exactly one, of a version that can be read (§3.2.2).
fn told(headers: &HeaderMap) -> Option<Told> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    octets::<1>(version)?;
    let [flags] = octets::<1>(flags)?;
    let (trace, span) = (octets::<16>(trace)?, octets::<8>(span)?);
    (trace != [0; 16] && span != [0; 8]).then_some(Told { trace, span, sampled: flags & 1 == 1 })
}

/// Lower-case hexadecimal of exactly this many octets.
fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (to, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(out)
}

/// Hexadecimal.
pub(crate) fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

impl TraceContext {
    /// The context of a request, if it is to be recorded. A trusted proxy's wish is followed; everybody else's trace goes on, but how many
    /// are recorded is decided here, by the trace's own id under a key of the deployment: every node decides the same, and no caller can choose.
    pub(crate) fn begin(headers: &HeaderMap, trusted: bool, share: (f64, &MacKey), entropy: &dyn Entropy) -> Option<Self> {
        let told = told(headers);
        let mut random = [0; 32];
        entropy.fill(&mut random);
        let [trace @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = random;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, span @ .., _, _, _, _, _, _, _, _] = random;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, onward @ ..] = random;
        let context = Self { trace: told.map_or(trace, |t| t.trace), span, parent: told.map(|t| t.span), onward };
        let wished = trusted && told.is_some_and(|t| t.sampled);
        (wished || context.falls_in(share)).then_some(context)
    }

    /// Whether this trace is of the share that is recorded.
    fn falls_in(&self, (sample, key): (f64, &MacKey)) -> bool {
        if sample <= 0.0 || sample >= 1.0 {
            return sample > 0.0;
        }
        let [a, b, c, d, ..] = key.mac("trace", &self.trace);
        f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX) < sample
    }

    /// Tells the upstream.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let text = format!("00-{}-{}-01", hex(&self.trace), hex(&self.onward));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(TRACEPARENT, value);
        }
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Same(u8);
    impl Entropy for Same {
        fn fill(&self, out: &mut [u8]) {
            out.fill(self.0);
        }
    }

    fn key() -> MacKey {
        MacKey::new([9; 32])
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|v| (TRACEPARENT, HeaderValue::from_static(v))).collect()
    }

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_goes_on_and_a_bad_one_begins_anew() {
        let context = TraceContext::begin(&headers(&[GOOD]), false, (1.0, &key()), &Same(7)).unwrap();
        assert_eq!(hex(&context.trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.parent.map(|p| hex(&p)).unwrap(), "b7ad6b7169203331");
        let mut onward = HeaderMap::new();
        context.tell(&mut onward);
        assert_eq!(onward["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-0707070707070707-01");
        for bad in [
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"][..],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c"],
            &["\u{1}"],
            &[GOOD, GOOD],
            &[],
        ] {
            let Ok(map) = std::panic::catch_unwind(|| headers(bad)) else { continue };
            assert_eq!(TraceContext::begin(&map, false, (1.0, &key()), &Same(7)).unwrap().parent, None, "{bad:?}");
        }
        let newer = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(TraceContext::begin(&headers(&[newer]), false, (1.0, &key()), &Same(7)).unwrap().parent.is_some());
    }

    #[test]
    fn only_a_trusted_proxy_may_wish() {
        assert_eq!(TraceContext::begin(&headers(&[GOOD]), false, (0.0, &key()), &Same(7)), None);
        assert!(TraceContext::begin(&headers(&[GOOD]), true, (0.0, &key()), &Same(7)).is_some());
        assert_eq!(TraceContext::begin(&HeaderMap::new(), true, (0.0, &key()), &Same(7)), None);
        // Of traces spread over all ids, a share.
        let recorded = (0..=255_u8).filter(|n| TraceContext::begin(&HeaderMap::new(), false, (0.25, &key()), &Same(*n)).is_some()).count();
        assert!((40..90).contains(&recorded), "{recorded}");
        // A caller who spells the smallest id is recorded no more often than others, and every node with the key decides the same.
        let low: Vec<String> = (1..=200_u64).map(|n| format!("00-0af7651916cd43dd00{n:014x}-b7ad6b7169203331-01")).collect();
        let chosen = |key: &MacKey| -> Vec<bool> {
            let map = |text: &String| HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).unwrap())]);
            low.iter().map(|text| TraceContext::begin(&map(text), false, (0.1, key), &Same(7)).is_some()).collect()
        };
        assert!(chosen(&key()).iter().filter(|is| **is).count() < 50);
        assert_eq!(chosen(&key()), chosen(&key()));
        assert_ne!(chosen(&key()), chosen(&MacKey::new([8; 32])));
    }
}
