//! Asking an authority about one certificate (RFC 6960, the profile of RFC 5019): the question, and when an answer is believed.
use super::{
    Signer,
    der::{self, BIT_STRING, ENUMERATED, GENERALIZED_TIME, INTEGER, NULL, OCTET_STRING, OID, Reader, SEQUENCE, element, tagged},
    sha1,
};

/// The media type of a question.
pub const QUESTION: &str = "application/ocsp-request";
/// The media type of an answer.
pub const ANSWER: &str = "application/ocsp-response";

const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
const NONCE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02];
/// Seconds of clock difference forgiven.
const LEEWAY: i64 = 60;
/// Most certificates of an answer that are looked at for its signer.
const MOST_CERTIFICATES: usize = 8;

/// Which certificate is asked about: its number, and who issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    identifier: Vec<u8>,
    issuer: Signer,
}

/// What an authority says of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Good,
    Revoked,
    /// The responder does not know it.
    Unknown,
}

/// A believed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: Status,
    /// From when it is true, seconds since the epoch.
    pub this_update: i64,
    /// When newer information is due, if the responder says so.
    pub next_update: Option<i64>,
    /// Whether it repeats the nonce of the question: it was made for it.
    pub made_for_it: bool,
}

/// Why an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    #[error("not an OCSP answer in DER")]
    Malformed,
    #[error("the responder refuses to answer")]
    Refused,
    #[error("it is about other certificates")]
    Other,
    #[error("it is signed by nobody who may speak for the authority")]
    Signature,
    #[error("it is from the future, or newer information was due")]
    Stale,
    #[error("it repeats another question's nonce")]
    Nonce,
}

impl About {
    /// A certificate and the authority that issued it.
    #[must_use]
    pub fn new(leaf: &Signer, issuer: &Signer) -> Self {
        let algorithm = element(SEQUENCE, &[&element(OID, &[SHA1]), &element(NULL, &[])]);
        let name = element(OCTET_STRING, &[sha1(issuer.name()).as_ref()]);
        let key = element(OCTET_STRING, &[issuer.key_sha1().as_ref()]);
        let serial = element(INTEGER, &[leaf.serial()]);
        Self { identifier: element(SEQUENCE, &[&algorithm, &name, &key, &serial]), issuer: issuer.clone() }
    }

    /// The question, with a nonce.
    #[must_use]
    pub fn question(&self, nonce: &[u8]) -> Vec<u8> {
        let requests = element(SEQUENCE, &[&element(SEQUENCE, &[&self.identifier])]);
        let value = element(OCTET_STRING, &[&element(OCTET_STRING, &[nonce])]);
        let extension = element(SEQUENCE, &[&element(OID, &[NONCE]), &value]);
        let extensions = element(tagged(2), &[&element(SEQUENCE, &[&extension])]);
        element(SEQUENCE, &[&element(SEQUENCE, &[&requests, &extensions])])
    }

    /// What an answer says, if it is believed: signed by the authority itself or by whom it has delegated to, timely, and about this
    /// certificate. A responder need not repeat the nonce (RFC 5019 §2.2.1); another one is not believed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn believe(&self, octets: &[u8], nonce: &[u8], now: i64) -> Result<Answer, Unbelieved> {
        let basic = basic(octets)?;
        let parts = signed_parts(basic).ok_or(Unbelieved::Malformed)?;
        self.check_signature(&parts, now)?;
        let data = response_data(parts.data).ok_or(Unbelieved::Malformed)?;
        let other = match data.extensions {
            Some(extensions) => repeated(extensions).ok_or(Unbelieved::Malformed)?,
            None => None,
        };
        if other.is_some_and(|other| other != nonce) {
            return Err(Unbelieved::Nonce);
        }
        let mut responses = data.responses;
        while !responses.is_empty() {
            let (identifier, answer) = single(&mut responses).ok_or(Unbelieved::Malformed)?;
            if same_certificate(identifier, &self.identifier) {
                let late = answer.next_update.is_some_and(|next| next + LEEWAY < now);
                return if answer.this_update > now + LEEWAY || late {
                    Err(Unbelieved::Stale)
                } else {
                    Ok(Answer { made_for_it: other.is_some(), ..answer })
                };
            }
        }
        Err(Unbelieved::Other)
    }

    /// The signer names itself; it is the authority, or a certificate of the authority's that is for signing answers (RFC 6960 §4.2.2.2).
    fn check_signature(&self, parts: &Parts<'_>, now: i64) -> Result<(), Unbelieved> {
        let data = response_data(parts.data).ok_or(Unbelieved::Malformed)?;
        let is_named = |signer: &Signer| match data.responder {
            Responder::Name(name) => name == signer.name(),
            Responder::Key(hash) => hash == signer.key_sha1().as_ref(),
        };
        let signed = |signer: &Signer| is_named(signer) && signer.signed(parts.algorithm, parts.data, parts.signature);
        if signed(&self.issuer) {
            return Ok(());
        }
        let mut certificates = parts.certificates;
        for _ in 0..MOST_CERTIFICATES {
            let Some(certificate) = certificates.as_mut().and_then(|list| list.element(SEQUENCE)) else { break };
            if let Some(signer) = Signer::read(certificate.whole)
                && self.delegated(&signer, now)
                && signed(&signer)
            {
                return Ok(());
            }
        }
        Err(Unbelieved::Signature)
    }

    fn delegated(&self, signer: &Signer, now: i64) -> bool {
        let (from, until) = signer.validity();
        let issued = || -> Option<bool> {
            let mut certificate = Reader::new(signer.der()).inside(SEQUENCE)?;
            let signed = certificate.element(SEQUENCE)?.whole;
            let algorithm = certificate.element(SEQUENCE)?.whole;
            let signature = certificate.bits()?;
            Some(self.issuer.signed(algorithm, signed, signature))
        };
        signer.0.signs_answers && signer.issuer() == self.issuer.name() && (from..=until).contains(&now) && issued().unwrap_or(false)
    }
}

/// The `BasicOCSPResponse` in an answer.
fn basic(octets: &[u8]) -> Result<&[u8], Unbelieved> {
    let mut outer = Reader::new(octets);
    let mut answer = outer.inside(SEQUENCE).filter(|_| outer.is_empty()).ok_or(Unbelieved::Malformed)?;
    match answer.body(ENUMERATED) {
        Some([0]) => {}
        Some(_) => return Err(Unbelieved::Refused),
        None => return Err(Unbelieved::Malformed),
    }
    let mut read = || -> Option<_> {
        let mut inside = answer.inside(tagged(0))?.inside(SEQUENCE)?;
        let kind = inside.body(OID)?;
        let octets = inside.body(OCTET_STRING)?;
        (kind == BASIC).then_some(octets)
    };
    read().ok_or(Unbelieved::Malformed)
}

struct Parts<'a> {
    /// The `ResponseData` as it is encoded: what is signed.
    data: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    certificates: Option<Reader<'a>>,
}

fn signed_parts(octets: &[u8]) -> Option<Parts<'_>> {
    let mut outer = Reader::new(octets);
    let mut inside = outer.inside(SEQUENCE)?;
    outer.end()?;
    let data = inside.element(SEQUENCE)?.whole;
    let algorithm = inside.element(SEQUENCE)?.whole;
    let signature = inside.body(BIT_STRING)?.strip_prefix(&[0])?;
    let certificates = match inside.optional(tagged(0))? {
        Some(mut list) => Some(list.inside(SEQUENCE)?),
        None => None,
    };
    inside.end()?;
    Some(Parts { data, algorithm, signature, certificates })
}

enum Responder<'a> {
    Name(&'a [u8]),
    Key(&'a [u8]),
}

struct Data<'a> {
    responder: Responder<'a>,
    responses: Reader<'a>,
    extensions: Option<Reader<'a>>,
}

fn response_data(octets: &[u8]) -> Option<Data<'_>> {
    let mut inside = Reader::new(octets).inside(SEQUENCE)?;
    let _version = inside.optional(tagged(0))?;
    let mut named = inside.any()?;
    let responder = match named.tag {
        0xa1 => Responder::Name(named.body),
        0xa2 => {
            named = Reader::new(named.body).element(OCTET_STRING)?;
            Responder::Key(named.body)
        }
        _ => return None,
    };
    inside.body(GENERALIZED_TIME)?;
    let responses = inside.inside(SEQUENCE)?;
    let extensions = match inside.optional(tagged(1))? {
        Some(mut list) => Some(list.inside(SEQUENCE)?),
        None => None,
    };
    inside.end()?;
    Some(Data { responder, responses, extensions })
}

/// The nonce among extensions; `None` also where another one is critical, as what it says is not known (RFC 6960 §4.4).
fn repeated(mut extensions: Reader<'_>) -> Option<Option<&[u8]>> {
    let mut nonce = None;
    while !extensions.is_empty() {
        let mut extension = extensions.inside(SEQUENCE)?;
        let oid = extension.body(OID)?;
        let critical = extension.optional(der::BOOLEAN)?.is_some();
        let value = extension.body(OCTET_STRING)?;
        if oid == NONCE {
            // Older responders leave the inner string out.
            nonce = nonce.or(Some(Reader::new(value).body(OCTET_STRING).unwrap_or(value)));
        } else if critical {
            return None;
        }
    }
    Some(nonce)
}

fn single<'a>(responses: &mut Reader<'a>) -> Option<(&'a [u8], Answer)> {
    let mut inside = responses.inside(SEQUENCE)?;
    let identifier = inside.element(SEQUENCE)?.whole;
    let status = match inside.any()?.tag {
        0x80 => Status::Good,
        0xa1 => Status::Revoked,
        0x82 => Status::Unknown,
        _ => return None,
    };
    let this_update = inside.time()?;
    let next_update = match inside.optional(tagged(0))? {
        Some(mut time) => Some(time.time()?),
        None => None,
    };
    if let Some(mut list) = inside.optional(tagged(1))? {
        repeated(list.inside(SEQUENCE)?)?;
    }
    inside.end()?;
    Some((identifier, Answer { status, this_update, next_update, made_for_it: false }))
}

/// Whether two identifiers are equal but for how "no parameters" of the hash is written.
fn same_certificate(one: &[u8], other: &[u8]) -> bool {
    fn read(octets: &[u8]) -> Option<[&[u8]; 4]> {
        let mut inside = Reader::new(octets).inside(SEQUENCE)?;
        let hash = inside.inside(SEQUENCE)?.body(OID)?;
        Some([hash, inside.body(OCTET_STRING)?, inside.body(OCTET_STRING)?, inside.body(INTEGER)?])
    }
    read(one).is_some_and(|one| read(other) == Some(one))
}
