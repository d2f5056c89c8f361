//! What a certificate says of its holder, read once: names, purpose, where its authority can be asked (RFC 5280 §4.2).
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    x509::X509Name,
};

use super::{ATTRIBUTES, Certificate};

/// Most names of one kind that are read.
const MOST_NAMES: usize = 64;

/// What a certificate says that its key is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing.
    #[default]
    Unsaid,
    /// Clients (`clientAuth`), perhaps among others.
    Client,
    /// Something else.
    Other,
}

/// What a certificate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Uniform resource identifiers, as written.
    pub uris: Vec<String>,
    /// DNS names, in lower case.
    pub dns: Vec<String>,
    /// Mailboxes, the domain in lower case.
    pub emails: Vec<String>,
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// The subject as RFC 4514 writes it; empty if it has none.
    pub subject: String,
    /// The serial number, hexadecimal.
    pub serial: String,
    pub purpose: Purpose,
    /// Whether its key may sign handshakes: key usage says `digitalSignature`, or there is none.
    pub signs: bool,
    /// Until when it is valid, seconds since the epoch.
    pub not_after: i64,
}

impl Certificate {
    /// What it says, if it can be read.
    #[must_use]
    pub fn said(&self) -> Option<Said> {
        self.read(|certificate| {
            let mut said = Said {
                common_name: certificate.subject().iter_common_name().last().and_then(|cn| cn.as_str().ok()).map(str::to_owned),
                subject: written(certificate.subject()),
                serial: certificate.raw_serial().iter().map(|octet| format!("{octet:02x}")).collect(),
                not_after: certificate.validity().not_after.timestamp(),
                ..Said::default()
            };
            if let Some(names) = certificate.subject_alternative_name().ok()? {
                for name in &names.value.general_names {
                    match name {
                        GeneralName::URI(uri) => put(&mut said.uris, (*uri).to_owned()),
                        GeneralName::DNSName(dns) => put(&mut said.dns, dns.to_ascii_lowercase()),
                        GeneralName::RFC822Name(address) => put(&mut said.emails, mailbox(address)),
                        _ => {}
                    }
                }
            }
            said.signs = certificate.key_usage().ok()?.is_none_or(|usage| usage.value.digital_signature());
            said.purpose = match certificate.extended_key_usage().ok()? {
                None => Purpose::Unsaid,
                Some(usage) if usage.value.client_auth || usage.value.any => Purpose::Client,
                Some(_) => Purpose::Other,
            };
            Some(said)
        })
        .flatten()
    }

    /// Where it says its authority can be asked about it (RFC 5280 §4.2.2.1).
    #[must_use]
    pub fn ocsp_responders(&self) -> Vec<String> {
        self.read(|certificate| {
            let mut out = Vec::new();
            for extension in certificate.extensions() {
                let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { continue };
                for description in &access.accessdescs {
                    if let GeneralName::URI(uri) = description.access_location
                        && description.access_method.to_id_string() == "1.3.6.1.5.5.7.48.1"
                    {
                        put(&mut out, uri.to_owned());
                    }
                }
            }
            out
        })
        .unwrap_or_default()
    }
}

fn put(names: &mut Vec<String>, name: String) {
    if names.len() < MOST_NAMES {
        names.push(name);
    }
}

fn mailbox(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((user, host)) => format!("{user}@{}", host.to_ascii_lowercase()),
        None => address.to_owned(),
    }
}

/// The string form of a name: last relative name first, special characters escaped, what is no text in hexadecimal.
fn written(name: &X509Name<'_>) -> String {
    let one = |rdn: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let attributes = rdn.iter().map(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            let kind = ATTRIBUTES.iter().find(|(_, known)| *known == oid).map_or(oid.as_str(), |(short, _)| short);
            match attribute.as_str() {
                Ok(text) => format!("{kind}={}", escaped(text)),
                Err(_) => format!("{kind}=#{}", attribute.as_slice().iter().map(|octet| format!("{octet:02x}")).collect::<String>()),
            }
        });
        attributes.collect::<Vec<_>>().join("+")
    };
    let mut all: Vec<String> = name.iter_rdn().map(one).collect();
    all.reverse();
    all.join(",")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        let edge = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
            out.push(c);
        } else if c.is_control() {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|octet| out.push_str(&format!("\\{octet:02x}")));
        } else {
            out.push(c);
        }
    }
    out
}
