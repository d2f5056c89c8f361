//! Protocol Buffers, as far as `ext_authz` needs them: fields are read by number, unknown ones are passed over, and nothing is copied.
/// What cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A string, octets or a message.
    Octets(&'a [u8]),
}

/// The fields of a message, one after the other.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u64, Garbled> {
        let mut out = 0;
        for n in 0..10 {
            let (octet, rest) = self.0.split_first().ok_or(Garbled)?;
            self.0 = rest;
            if n == 9 && *octet > 1 {
                return Err(Garbled);
            }
            out |= u64::from(octet & 0x7f) << (7 * n);
            if octet & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(Garbled)
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(n).map_err(|_| Garbled)?).ok_or(Garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Garbled> {
        loop {
            if self.0.is_empty() {
                return Ok(None);
            }
            let tag = self.number()?;
            let field = tag >> 3;
            if field == 0 || field > 0x1fff_ffff {
                return Err(Garbled);
            }
            let value = match tag & 7 {
                0 => Value::Number(self.number()?),
                1 => {
                    self.take(8)?;
                    continue;
                }
                2 => {
                    let length = self.number()?;
                    Value::Octets(self.take(length)?)
                }
                5 => {
                    self.take(4)?;
                    continue;
                }
                _ => return Err(Garbled),
            };
            return Ok(Some((field, value)));
        }
    }

    /// Calls `each` with every field.
    pub(super) fn each(mut self, mut each: impl FnMut(u64, Value<'a>) -> Result<(), Garbled>) -> Result<(), Garbled> {
        while let Some((field, value)) = self.next()? {
            each(field, value)?;
        }
        Ok(())
    }
}

impl<'a> Value<'a> {
    pub(super) const fn octets(self) -> Result<&'a [u8], Garbled> {
        match self {
            Self::Octets(octets) => Ok(octets),
            Self::Number(_) => Err(Garbled),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Garbled> {
        std::str::from_utf8(self.octets()?).map_err(|_| Garbled)
    }
}

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Message(pub Vec<u8>);

impl Message {
    fn raw(&mut self, mut n: u64) {
        loop {
            let low = u8::try_from(n & 0x7f).unwrap_or(0);
            n >>= 7;
            if n == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    pub(super) fn number(&mut self, field: u64, n: u64) -> &mut Self {
        self.raw(field << 3);
        self.raw(n);
        self
    }

    pub(super) fn octets(&mut self, field: u64, octets: &[u8]) -> &mut Self {
        self.raw(field << 3 | 2);
        self.raw(octets.len() as u64);
        self.0.extend_from_slice(octets);
        self
    }

    pub(super) fn message(&mut self, field: u64, message: &Self) -> &mut Self {
        self.octets(field, &message.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_unknown_fields_are_passed_over() {
        let mut message = Message::default();
        message.number(1, 300).octets(2, b"abc");
        message.0.extend_from_slice(&[0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]);
        message.number(1000, u64::MAX);
        let mut fields = Fields(&message.0);
        assert_eq!(fields.next(), Ok(Some((1, Value::Number(300)))));
        assert_eq!(fields.next(), Ok(Some((2, Value::Octets(b"abc")))));
        assert_eq!(fields.next(), Ok(Some((1000, Value::Number(u64::MAX)))));
        assert_eq!(fields.next(), Ok(None));
    }

    #[test]
    fn what_is_cut_short_or_odd_is_garbled() {
        for octets in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x12, 5, b'a'],
            &[0x0b],
            &[0x00, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x09, 0],
            &[0x0d, 0],
        ] {
            assert_eq!(Fields(octets).each(|_, _| Ok(())), Err(Garbled), "{octets:x?}");
        }
    }

    #[test]
    fn no_octets_make_it_panic() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let octets: Vec<u8> = (0..24)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let _ = Fields(&octets).each(|_, value| value.text().map(|_| ()).or(Ok(())));
        }
    }
}
