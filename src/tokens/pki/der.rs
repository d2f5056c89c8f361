//! As much of DER (X.690) as revocation needs: strict lengths, no indefinite form, no tags of several octets.
//!
//! A reader hands out what it was given; nothing is copied and nothing is allocated by what a length claims.

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[n]`, constructed.
pub(super) const fn tagged(n: u8) -> u8 {
    0xa0 | n
}

/// One element: its tag, what is in it, and all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub tag: u8,
    pub body: &'a [u8],
    pub whole: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = octets.iter().fold(0_usize, |sum, octet| sum << 8 | usize::from(*octet));
                // The shortest form, or it is not DER.
                let shortest = octets.first().is_some_and(|octet| *octet != 0) && length > 0x7f;
                (shortest.then_some(length)?, rest)
            }
            _ => return None,
        };
        let (body, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag, body, whole })
    }
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }
    /// The next element, which has this tag.
    pub(super) fn element(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.peek()? == tag { self.any() } else { None }
    }
    /// What is in the next element, which has this tag.
    pub(super) fn body(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element(tag).map(|element| element.body)
    }
    /// A reader of what is in the next element, which has this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Option<Self> {
        self.body(tag).map(Reader)
    }
    /// The same, if it is there: `Some(None)` where another element or none follows.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Option<Self>> {
        if self.peek() == Some(tag) { self.inside(tag).map(Some) } else { Some(None) }
    }
    /// The octets of a bit string without unused bits.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        let (unused, octets) = self.body(BIT_STRING)?.split_first()?;
        (*unused == 0).then_some(octets)
    }
    /// A time of either kind, seconds since the epoch.
    pub(super) fn time(&mut self) -> Option<i64> {
        let element = self.any()?;
        time(element.tag, element.body)
    }
    /// The end, and nothing behind it.
    pub(super) fn end(self) -> Option<()> {
        self.is_empty().then_some(())
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |octets: &[u8]| octets.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            (if number(year) < 50 { 2000 + number(year) } else { 1900 + number(year) }, rest)
        }
        GENERALIZED_TIME => digits.split_at_checked(4).map(|(year, rest)| (number(year), rest))?,
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let mut parts = rest.chunks_exact(2).map(number);
    let (month, day, hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days of the civil calendar since 1970-01-01, months counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// An element made of parts.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if let Some(short) = u8::try_from(length).ok().filter(|length| *length < 0x80) {
        out.push(short);
    } else {
        let octets: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect();
        out.push(0x80 | u8::try_from(octets.len()).unwrap_or(8));
        out.extend(octets);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_shortest_and_inside() {
        for bad in [
            &[0x30][..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x05, 1, 2, 3, 4, 5],
            &[0x30, 2, 1],
            &[0x1f, 0x81, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 1],
        ] {
            assert!(Reader::new(bad).any().is_none(), "{bad:?}");
        }
        let long = element(OCTET_STRING, &[&[7; 300]]);
        let mut reader = Reader::new(&long);
        assert_eq!(reader.body(OCTET_STRING).map(<[u8]>::len), Some(300));
        assert_eq!(reader.end(), Some(()));
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(GENERALIZED_TIME, b"20261122123456Z"), Some(1_795_350_896));
        assert_eq!(time(UTC_TIME, b"000229000000Z"), Some(951_782_400));
        for bad in [&b"20261122123456"[..], b"20261322123456Z", b"2026112212345Z", b"20261122123456.5Z", b"20261122123460Z"] {
            assert_eq!(time(GENERALIZED_TIME, bad), None);
        }
    }
}
