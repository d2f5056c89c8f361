//! Certificate revocation lists (RFC 5280 §5): complete ones of one authority, read whole, believed by its signature.
use std::sync::OnceLock;

use ahash::AHashSet;

use super::{
    Signer,
    der::{BOOLEAN, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, tagged},
};

/// The largest list read, octets.
pub const MAX_SIZE: usize = 16 * 1024 * 1024;

const DELTA: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
/// Those of a list that change nothing of what it says: authority key identifier, number.
const KNOWN: [&[u8]; 2] = [&[0x55, 0x1d, 0x23], &[0x55, 0x1d, 0x14]];
/// Those of an entry: reason, invalidity date.
const KNOWN_OF_ENTRY: [&[u8]; 2] = [&[0x55, 0x1d, 0x15], &[0x55, 0x1d, 0x18]];

/// Why a list is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not a certificate revocation list in DER")]
    Malformed,
    #[error("longer than 16 MiB")]
    TooLarge,
    #[error("a delta list: only complete ones are read")]
    Delta,
    #[error("has an issuing distribution point: only lists of all certificates of one authority are read")]
    Partial,
    #[error("an indirect list: only an authority's own is read")]
    Indirect,
    #[error("a critical extension that is not known")]
    Critical,
    #[error("its signature is not its authority's")]
    Signature,
}

/// A list. Nothing is known of its signature until [`Crl::is_of`] has looked.
#[derive(Debug)]
pub struct Crl {
    issuer: Vec<u8>,
    signed: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
    this_update: i64,
    next_update: Option<i64>,
    serials: AHashSet<Box<[u8]>>,
    /// The key that its signature was found to be of.
    of: OnceLock<Vec<u8>>,
}

impl Crl {
    /// Reads a list in DER.
    ///
    /// # Errors
    /// What is not supported is refused: an entry passed over would be a revocation passed over.
    pub fn read(octets: &[u8]) -> Result<Self, Unusable> {
        if octets.len() > MAX_SIZE {
            return Err(Unusable::TooLarge);
        }
        let mut outer = Reader::new(octets);
        let parsed = outer.inside(SEQUENCE).and_then(|mut list| {
            let signed = list.element(SEQUENCE)?;
            let algorithm = list.element(SEQUENCE)?.whole;
            let signature = list.bits()?;
            list.end()?;
            Some((signed, algorithm, signature))
        });
        let (signed, algorithm, signature) = parsed.filter(|_| outer.is_empty()).ok_or(Unusable::Malformed)?;
        let mut fields = Reader::new(signed.body);
        let mut head = || -> Option<_> {
            let _version = fields.optional(INTEGER)?;
            let inner = fields.element(SEQUENCE)?.whole;
            let issuer = fields.element(SEQUENCE)?.whole;
            let this_update = fields.time()?;
            let mut rest = fields;
            let next_update = match rest.any().map(|element| element.tag) {
                Some(super::der::UTC_TIME | super::der::GENERALIZED_TIME) => Some(fields.time()?),
                _ => None,
            };
            let revoked = fields.optional(SEQUENCE)?;
            let extensions = fields.optional(tagged(0))?;
            fields.end()?;
            (inner == algorithm).then_some((issuer, this_update, next_update, revoked, extensions))
        };
        let (issuer, this_update, next_update, revoked, extensions) = head().ok_or(Unusable::Malformed)?;
        if let Some(mut extensions) = extensions {
            let list = extensions.inside(SEQUENCE).ok_or(Unusable::Malformed)?;
            check(list, &KNOWN)?;
        }
        let mut serials = AHashSet::new();
        let mut entries = revoked.unwrap_or(Reader::new(&[]));
        while !entries.is_empty() {
            let (serial, extensions) = entry(&mut entries).ok_or(Unusable::Malformed)?;
            if let Some(extensions) = extensions {
                check(extensions, &KNOWN_OF_ENTRY)?;
            }
            serials.insert(serial.into());
        }
        Ok(Self {
            issuer: issuer.to_vec(),
            signed: signed.whole.to_vec(),
            algorithm: algorithm.to_vec(),
            signature: signature.to_vec(),
            this_update,
            next_update,
            serials,
            of: OnceLock::new(),
        })
    }

    /// Whether it is that authority's own: its name, its right to sign lists, its signature.
    #[must_use]
    pub fn is_of(&self, authority: &Signer) -> bool {
        if !self.names(authority) {
            return false;
        }
        if let Some(known) = self.of.get() {
            return known == authority.info();
        }
        let signed = authority.0.signs_lists && authority.signed(&self.algorithm, &self.signed, &self.signature);
        if signed {
            let _ = self.of.set(authority.info().to_vec());
        }
        signed
    }
    /// Whether it says that it is of an authority of this name.
    #[must_use]
    pub fn names(&self, authority: &Signer) -> bool {
        self.issuer == authority.name()
    }
    /// Whether it names this serial number, as a certificate encodes it.
    #[must_use]
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }
    /// When it was made, seconds since the epoch.
    #[must_use]
    pub const fn this_update(&self) -> i64 {
        self.this_update
    }
    /// When the next one is due at the latest.
    #[must_use]
    pub const fn next_update(&self) -> Option<i64> {
        self.next_update
    }
    /// How many certificates it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len()
    }
    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }
}

/// A serial number and the extensions of its entry.
fn entry<'a>(entries: &mut Reader<'a>) -> Option<(&'a [u8], Option<Reader<'a>>)> {
    let mut entry = entries.inside(SEQUENCE)?;
    let serial = entry.body(INTEGER)?;
    entry.time()?;
    let extensions = entry.optional(SEQUENCE)?;
    entry.end()?;
    Some((serial, extensions))
}

fn check(mut extensions: Reader<'_>, known: &[&[u8]]) -> Result<(), Unusable> {
    while !extensions.is_empty() {
        let mut read = || -> Option<_> {
            let mut extension = extensions.inside(SEQUENCE)?;
            let oid = extension.body(OID)?;
            let critical = match extension.optional(BOOLEAN)? {
                Some(flag) => !flag.is_empty(),
                None => false,
            };
            extension.body(OCTET_STRING)?;
            extension.end()?;
            Some((oid, critical))
        };
        let (oid, critical) = read().ok_or(Unusable::Malformed)?;
        match oid {
            DELTA => return Err(Unusable::Delta),
            ISSUING_POINT => return Err(Unusable::Partial),
            CERTIFICATE_ISSUER => return Err(Unusable::Indirect),
            _ if critical && !known.contains(&oid) => return Err(Unusable::Critical),
            _ => {}
        }
    }
    Ok(())
}
