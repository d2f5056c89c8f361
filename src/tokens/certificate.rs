//! A client certificate as the handshake proved it, and what it says of its holder (RFC 8705, RFC 5280, RFC 4514).
mod said;

use std::{net::IpAddr, sync::Arc};

use base64::Engine as _;
use serde_json::Value;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    public_key::PublicKey,
    x509::{AttributeTypeAndValue, X509Name},
};

pub use self::said::{Purpose, Said};
use crate::{
    b64, hash,
    jwk::{Jwk, PRIVATE},
};

/// The end-entity certificate of a connection; its private key was proved in the handshake. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Arc<[u8]>,
    thumbprint: Arc<str>,
    trusted: bool,
    path: Option<Arc<Path>>,
}

/// Who vouches for a certificate.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    authority: Arc<Authority>,
    /// The certificates between it and the authority, in DER, its issuer first.
    between: Vec<Vec<u8>>,
}

/// A certificate authority that a listener trusts, as routes and logs name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authority {
    /// Its common name; its fingerprint where it has none.
    pub name: Arc<str>,
    /// The file it came from, without folder and extension.
    pub file: String,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
}

impl Authority {
    /// Whether a text names it: by common name, fingerprint (any case, with or without colons) or file.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let hex = || text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).eq(self.fingerprint.chars());
        *self.name == *text || self.file == text || hex()
    }
}

/// Why a certificate that was shown counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// No authority of the listener vouches for it.
    Untrusted,
    /// It, or one above it, is not valid now.
    Expired,
    /// It is not for clients.
    Usage,
    /// Its authority has revoked it, or one above it.
    Revoked,
    /// It cannot be known whether it is revoked, with the reason for the log.
    Undecided(&'static str),
}

impl Doubt {
    /// A short stable name for logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Untrusted => "certificate_untrusted",
            Self::Expired => "certificate_expired",
            Self::Usage => "certificate_usage",
            Self::Revoked => "certificate_revoked",
            Self::Undecided(why) => why,
        }
    }
}

impl Certificate {
    /// A certificate in DER whose issuer nobody has looked at.
    #[must_use]
    pub fn new(der: &[u8]) -> Self {
        Self { thumbprint: b64::encode(&hash::sha256(der)).into(), der: der.into(), trusted: false, path: None }
    }
    /// The same, its chain verified up to this authority by these certificates (its issuer first, the authority left out).
    #[must_use]
    pub fn vouched(der: &[u8], authority: Arc<Authority>, between: Vec<Vec<u8>>) -> Self {
        Self { path: Some(Arc::new(Path { authority, between })), ..Self::verified(der) }
    }
    /// The authority that vouches for it.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.path.as_ref().map(|path| &path.authority)
    }
    /// The certificates between it and its authority, in DER.
    #[must_use]
    pub fn between(&self) -> &[Vec<u8>] {
        self.path.as_ref().map(|path| path.between.as_slice()).unwrap_or_default()
    }
    /// The same, its chain verified up to an authority for client certificates.
    #[must_use]
    pub fn verified(der: &[u8]) -> Self {
        Self { trusted: true, ..Self::new(der) }
    }
    /// Whether its chain was verified. What it says of its holder counts only then (RFC 8705 §2.1).
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }
    /// Its SHA-256 thumbprint, base64url (RFC 8705 §3.1).
    #[must_use]
    pub fn x5t_s256(&self) -> &str {
        &self.thumbprint
    }
    /// The same, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        b64::decode(&self.thumbprint).unwrap_or_default().iter().map(|octet| format!("{octet:02x}")).collect()
    }
    /// Its octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether its subject is this distinguished name: the same attributes with the same values in the same order (RFC 4514).
    #[must_use]
    pub fn subject_is(&self, name: &str) -> bool {
        let Some(wanted) = Name::parse(name) else { return false };
        self.read(|certificate| wanted.is(certificate.subject())).unwrap_or(false)
    }
    /// Whether it has this DNS name, as it is written: a wildcard names nobody.
    #[must_use]
    pub fn has_dns(&self, name: &str) -> bool {
        self.names(|general| matches!(general, GeneralName::DNSName(dns) if dns.eq_ignore_ascii_case(name)))
    }
    /// Whether it has exactly this URI.
    #[must_use]
    pub fn has_uri(&self, uri: &str) -> bool {
        self.names(|general| matches!(general, GeneralName::URI(other) if *other == uri))
    }
    /// Whether this is its one URI (X.509-SVID §2).
    #[must_use]
    pub fn only_uri_is(&self, uri: &str) -> bool {
        self.has_uri(uri) && !self.names(|general| matches!(general, GeneralName::URI(other) if *other != uri))
    }
    /// Whether it has this IP address, however the address is written.
    #[must_use]
    pub fn has_ip(&self, ip: &str) -> bool {
        let octets = match ip.parse() {
            Ok(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Ok(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Err(_) => return false,
        };
        self.names(|general| matches!(general, GeneralName::IPAddress(other) if *other == octets))
    }
    /// Whether it has this mailbox: the part before `@` exactly, the domain in any case (RFC 5280 §7.5).
    #[must_use]
    pub fn has_email(&self, address: &str) -> bool {
        let same = |other: &str| match (address.rsplit_once('@'), other.rsplit_once('@')) {
            (Some((user, host)), Some((other_user, other_host))) => user == other_user && host.eq_ignore_ascii_case(other_host),
            _ => false,
        };
        self.names(|general| matches!(general, GeneralName::RFC822Name(other) if same(other)))
    }
    /// Its public key, if it is of a kind that a JWK can say here.
    #[must_use]
    pub fn key(&self) -> Option<Jwk> {
        self.read(|certificate| {
            let info = certificate.public_key();
            let unpadded = |octets: &[u8]| octets.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
            match info.parsed().ok()? {
                PublicKey::RSA(rsa) => Some(Jwk::rsa(&unpadded(rsa.modulus), &unpadded(rsa.exponent))),
                PublicKey::EC(point) => {
                    let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
                    let (name, size) = match curve.as_str() {
                        "1.2.840.10045.3.1.7" => ("P-256", 32),
                        "1.3.132.0.34" => ("P-384", 48),
                        _ => return None,
                    };
                    let (x, y) = point.data().strip_prefix(&[4])?.split_at_checked(size)?;
                    (y.len() == size).then(|| Jwk::ec(name, x, y))
                }
                _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => Some(Jwk::ed25519(&info.subject_public_key.data)),
                _ => None,
            }
        })
        .flatten()
    }
    /// From when until when it is valid, seconds since the epoch.
    #[must_use]
    pub fn validity(&self) -> Option<(i64, i64)> {
        self.read(|certificate| (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
    }

    fn read<T>(&self, see: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
        match X509Certificate::from_der(&self.der) {
            Ok(([], certificate)) => Some(see(&certificate)),
            _ => None,
        }
    }
    fn names(&self, wanted: impl Fn(&GeneralName<'_>) -> bool) -> bool {
        let any = |certificate: &X509Certificate<'_>| match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().any(wanted),
            _ => false,
        };
        self.read(any).unwrap_or(false)
    }
}

/// Whether a key proves anybody: it is public, and not said to be for something else.
fn is_for_signatures(key: &Value) -> bool {
    let purpose = key.get("use").is_none_or(|purpose| purpose == "sig");
    let operations = key.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")));
    purpose && operations && !PRIVATE.iter().any(|member| key.get(member).is_some())
}

/// The thumbprints of the certificates in a JWK set: the first of each signature key's `x5c` (RFC 7517 §4.7, RFC 8705 §2.2.2).
#[must_use]
pub fn of_set(document: &Value) -> Vec<String> {
    let keys = document.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let leaf = |key: &Value| {
        let text = key.get("x5c")?.as_array()?.first()?.as_str()?;
        let der = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        Some(b64::encode(&hash::sha256(&der)))
    };
    keys.iter().filter(|key| is_for_signatures(key)).filter_map(leaf).collect()
}

/// Whether a text is a distinguished name that a certificate can be compared with.
#[must_use]
pub fn is_name(text: &str) -> bool {
    Name::parse(text).is_some()
}

/// What an attribute is worth: text, or the octets of its encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Text(String),
    Encoded(Vec<u8>),
}

/// A distinguished name: relative names in the order of a certificate, each a set of attributes.
#[derive(Debug, PartialEq, Eq)]
struct Name(Vec<Vec<(String, Worth)>>);

/// The short names of RFC 4514 §3 and the ones that tools print besides.
const ATTRIBUTES: [(&str, &str); 22] = [
    ("CN", "2.5.4.3"),
    ("SN", "2.5.4.4"),
    ("surname", "2.5.4.4"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("S", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("T", "2.5.4.12"),
    ("title", "2.5.4.12"),
    ("businessCategory", "2.5.4.15"),
    ("GN", "2.5.4.42"),
    ("givenName", "2.5.4.42"),
    ("dnQualifier", "2.5.4.46"),
    ("organizationIdentifier", "2.5.4.97"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("E", "1.2.840.113549.1.9.1"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
];

impl Name {
    /// Reads the string form: last relative name first, `+` within one, `,` between them, backslash escapes.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > 1024 {
            return None;
        }
        let mut names = vec![Vec::new()];
        let mut rest = text;
        loop {
            let (kind, after) = rest.split_once('=')?;
            let oid = oid(kind.trim())?;
            let (worth, after) = value(after.trim_start_matches(' '))?;
            names.last_mut()?.push((oid, worth));
            let mut left = after.chars();
            match left.next() {
                None => break,
                Some('+') => {}
                Some(',' | ';') => names.push(Vec::new()),
                Some(_) => return None,
            }
            rest = left.as_str();
        }
        names.iter_mut().for_each(|name| name.sort());
        names.reverse();
        Some(Self(names))
    }

    fn is(&self, subject: &X509Name<'_>) -> bool {
        let mut of_subject = subject.iter_rdn();
        let all = self.0.iter().all(|wanted| {
            let Some(name) = of_subject.next() else { return false };
            let found: Vec<&AttributeTypeAndValue<'_>> = name.iter().collect();
            found.len() == wanted.len() && wanted.iter().all(|(oid, worth)| found.iter().any(|a| is(a, oid, worth)))
        });
        all && of_subject.next().is_none()
    }
}

fn is(attribute: &AttributeTypeAndValue<'_>, oid: &str, worth: &Worth) -> bool {
    attribute.attr_type().to_id_string() == oid
        && match worth {
            Worth::Text(text) => attribute.as_str().is_ok_and(|other| other == text),
            // Tag, length (short form: nothing longer can be written here), octets.
            Worth::Encoded(octets) => octets.get(2..) == Some(attribute.as_slice()),
        }
}

fn oid(kind: &str) -> Option<String> {
    let kind = kind.strip_prefix("OID.").or_else(|| kind.strip_prefix("oid.")).unwrap_or(kind);
    if let Some((_, oid)) = ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
        return Some((*oid).to_owned());
    }
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (kind.contains('.') && kind.split('.').all(number)).then(|| kind.to_owned())
}

/// One value and what follows it.
fn value(text: &str) -> Option<(Worth, &str)> {
    if let Some(digits) = text.strip_prefix('#') {
        let end = digits.find([',', ';', '+']).unwrap_or(digits.len());
        let (hex, rest) = digits.split_at_checked(end)?;
        let octets = hex_octets(hex.trim_end())?;
        let short = octets.len() >= 2 && octets.get(1).is_some_and(|len| usize::from(*len) + 2 == octets.len());
        return short.then_some((Worth::Encoded(octets), rest));
    }
    let (mut octets, mut kept, mut chars) = (Vec::new(), 0, text.char_indices());
    let mut rest = "";
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | ';' | '+' => {
                rest = text.get(at..)?;
                break;
            }
            '\\' => {
                let (_, escaped) = chars.next()?;
                if escaped.is_ascii_hexdigit() {
                    let (_, low) = chars.next()?;
                    octets.push(u8::try_from(escaped.to_digit(16)? * 16 + low.to_digit(16)?).ok()?);
                } else {
                    octets.extend(escaped.encode_utf8(&mut [0; 4]).bytes());
                }
                kept = octets.len();
            }
            '"' | '<' | '>' | '\0' => return None,
            _ => {
                octets.extend(c.encode_utf8(&mut [0; 4]).bytes());
                if c != ' ' {
                    kept = octets.len();
                }
            }
        }
    }
    octets.truncate(kept);
    Some((Worth::Text(String::from_utf8(octets).ok()?), rest))
}

fn hex_octets(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0 && !digits.is_empty())?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |octet, digit| octet << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Made with openssl: C=DE, O=Example\, Inc., OU=Ops+CN=app \"one\", and a name of each kind.
    const ON_P256: &str = "MIICQjCCAeigAwIBAgIUaqlP1hBtK9c2hw9jen/Qqng4PU0wCgYIKoZIzj0EAwIwRTELMAkGA1UEBhMCREUxFjAUBgNVBAoMDUV4YW1wbGUsIEluYy4xHjAKBgNVBAsMA09wczAQBgNVBAMMCWFwcCAib25lIjAgFw0yNjExMjIwOTI1MzRaGA8yMTI2MTAyOTA5MjUzNFowRTELMAkGA1UEBhMCREUxFjAUBgNVBAoMDUV4YW1wbGUsIEluYy4xHjAKBgNVBAsMA09wczAQBgNVBAMMCWFwcCAib25lIjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCil9nVI4KzKoDcK3qde9ozvfDzK3NxVRJh3LCwFwIKGThwFY+nM/vjsXaOdLcamJ5RolHYe5kvOfYI80nN57UWjgbMwgbAwHQYDVR0OBBYEFKr+jABDwEln50JJPEN8DjvajEGHMB8GA1UdIwQYMBaAFKr+jABDwEln50JJPEN8DjvajEGHMA8GA1UdEwEB/wQFMAMBAf8wXQYDVR0RBFYwVIIPYXBwLmV4YW1wbGUuY29thhhzcGlmZmU6Ly9leGFtcGxlLmNvbS9hcHCHBMAAAgeHECABDbgAAAAAAAAAAAAAAAeBD09wc0BFeGFtcGxlLmNvbTAKBggqhkjOPQQDAgNIADBFAiAFVY/60FLwosRaJSPJ6a/9IwPsbhDX1PLIQdl/N5WWLQIhALVmN9EMhlAC1kuvPkQ8u+D2F9eHafiY4i71Zdrp/EYz";
    const ON_ED25519: &str = "MIICAjCCAbSgAwIBAgIUNw7OiebGMvLlNY+iDHmevjdvgtMwBQYDK2VwMEUxCzAJBgNVBAYTAkRFMRYwFAYDVQQKDA1FeGFtcGxlLCBJbmMuMR4wCgYDVQQLDANPcHMwEAYDVQQDDAlhcHAgIm9uZSIwIBcNMjYxMTIyMDkyNTM0WhgPMjEyNjEwMjkwOTI1MzRaMEUxCzAJBgNVBAYTAkRFMRYwFAYDVQQKDA1FeGFtcGxlLCBJbmMuMR4wCgYDVQQLDANPcHMwEAYDVQQDDAlhcHAgIm9uZSIwKjAFBgMrZXADIQAjRyu9tt0WcW1gXpR9LJApzA4yQelFMRgmlBEO54ZzraOBszCBsDAdBgNVHQ4EFgQU2bWeIy/dGcv4MENyd/fJnKFQEg8wHwYDVR0jBBgwFoAU2bWeIy/dGcv4MENyd/fJnKFQEg8wDwYDVR0TAQH/BAUwAwEB/zBdBgNVHREEVjBUgg9hcHAuZXhhbXBsZS5jb22GGHNwaWZmZTovL2V4YW1wbGUuY29tL2FwcIcEwAACB4cQIAENuAAAAAAAAAAAAAAAB4EPT3BzQEV4YW1wbGUuY29tMAUGAytlcANBABZwHYQdTeE9K4HeNMy2qaqZ3VEtQRTkctml7rtRfGzFSwZ+zI73y1CNxql7jOlvVTsGi+h3zzDykYQD5xTsSAU=";

    fn certificate(text: &str) -> Certificate {
        Certificate::new(&base64::engine::general_purpose::STANDARD.decode(text).expect("base64"))
    }

    #[test]
    fn a_subject_is_compared_name_by_name() {
        let shown = certificate(ON_P256);
        for same in [
            r#"CN=app \"one\"+OU=Ops,O=Example\, Inc.,C=DE"#,
            r#"ou=Ops+cn=app \22one\22, o=Example\2C Inc., c=DE"#,
            r#"2.5.4.3=app \"one\"+OID.2.5.4.11=Ops,O=Example\, Inc.,C=#13024445"#,
        ] {
            assert!(shown.subject_is(same), "{same}");
        }
        for other in [
            r#"C=DE,O=Example\, Inc.,OU=Ops+CN=app \"one\""#,
            r#"CN=app \"one\",OU=Ops,O=Example\, Inc.,C=DE"#,
            r#"CN=app \"one\"+OU=Ops,O=Example\, Inc."#,
            r#"CN=app \"one\"+OU=Ops,O=Example\, Inc.,C=DE,DC=x"#,
            r#"CN=App \"one\"+OU=Ops,O=Example\, Inc.,C=DE"#,
            r#"CN=app "one"+OU=Ops,O=Example\, Inc.,C=DE"#,
            "CN=app,,C=DE",
            "CN",
            "",
        ] {
            assert!(!shown.subject_is(other), "{other}");
        }
    }

    #[test]
    fn alternative_names_are_compared_by_their_kind() {
        let shown = certificate(ON_P256);
        assert!(shown.has_dns("APP.example.com") && !shown.has_dns("example.com") && !shown.has_dns("*.example.com"));
        assert!(shown.has_uri("spiffe://example.com/app") && !shown.has_uri("spiffe://example.com/App"));
        assert!(
            shown.has_ip("192.0.2.7") && shown.has_ip("2001:DB8:0::7") && !shown.has_ip("192.0.2.8") && !shown.has_ip("::ffff:192.0.2.7")
        );
        assert!(shown.has_email("Ops@example.COM") && !shown.has_email("ops@example.com") && !shown.has_email("example.com"));
        let nothing = Certificate::new(b"no certificate");
        assert!(!nothing.has_dns("app.example.com") && nothing.key().is_none() && nothing.validity().is_none());
    }

    #[test]
    fn its_key_is_the_one_openssl_prints() {
        let shown = certificate(ON_ED25519);
        let x = "I0crvbbdFnFtYF6UfSyQKcwOMkHpRTEYJpQRDueGc60";
        assert_eq!(shown.key().and_then(|key| key.x), Some(x.to_owned()));
        let key = certificate(ON_P256).key().expect("a key");
        let both = [key.x.as_deref(), key.y.as_deref()].map(|part| b64::decode(part.unwrap_or_default()).unwrap_or_default()).concat();
        assert_eq!(
            base64::engine::general_purpose::STANDARD.encode(both),
            "KKX2dUjgrMqgNwrep172jO98PMrc3FVEmHcsLAXAgoZOHAVj6cz++Oxdo50txqYnlGiUdh7mS859gjzSc3ntRQ=="
        );
        assert_eq!(of_set(&json!({"keys": [{"kty": "EC", "x5c": [ON_P256]}, {"kty": "EC"}]})), [certificate(ON_P256).x5t_s256()]);
        for (member, value, counts) in
            [("use", json!("sig"), true), ("use", json!("enc"), false), ("d", json!("AA"), false), ("key_ops", json!(["encrypt"]), false)]
        {
            let mut key = json!({"kty": "EC", "x5c": [ON_P256]});
            key[member] = value;
            assert_eq!(of_set(&json!({"keys": [key]})).len(), usize::from(counts), "{member}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_and_no_octets_make_it_panic(name in "\\PC{0,60}", octets in proptest::collection::vec(0_u8..=255, 0..200)) {
            let shown = Certificate::new(&octets);
            let _ = (certificate(ON_P256).subject_is(&name), is_name(&name), shown.subject_is("CN=a"), shown.key(), shown.has_dns(&name));
        }
    }
}
