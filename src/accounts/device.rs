//! Devices: what one is, and by which credentials it is known at the edge.
//!
//! A device is known by a *mark* of its credential: its OAuth client's id, or what is in its certificate. A mark belongs to one device;
//! [`marks`](Device::marks) are stored beside the device, each as a row of its own, so that the database decides who was first.
use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use tokens::device::DeviceClaim;

/// Most certificates of one device.
const MAX_CERTIFICATES: usize = 16;
/// Most groups of one device: they travel in every token.
const MAX_GROUPS: usize = 32;
/// Characters of a name, type, group or tenant.
const MAX_NAME: usize = 128;
/// Characters of a subject or URI.
const MAX_TEXT: usize = 1024;

/// A certificate that stands for a device: exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificate {
    /// SHA-256 of the whole certificate, 64 digits of lower-case hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its subject (RFC 4514), compared as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// A URI among its subject's alternative names, e.g. a SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub san_uri: Option<String>,
    /// The authority that must vouch for it, by its name at the listener; absent: any the route believes. Not with `sha256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// A device. Its secrets and certificates are not in here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// URL-safe id, never changed.
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is: the `DeviceType` of policies.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What it belongs to: the `Group`s of policies.
    pub groups: Vec<String>,
    /// Whose it is: the `Tenant` of policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Nothing of it works.
    pub disabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// The OAuth client that is this device: what is issued to it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// The mark of an OAuth client.
#[must_use]
pub fn client_mark(client_id: &str) -> String {
    format!("client|{client_id}")
}

/// What is known of a client certificate that was proved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: &'a str,
    /// Its subject (RFC 4514).
    pub subject: &'a str,
    /// The URIs among its subject's alternative names.
    pub san_uris: &'a [String],
    /// Which authority of the listener vouches for it.
    pub authority: &'a str,
}

impl Shown<'_> {
    /// The marks under which its device may be stored, the most particular first.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        let mut out = Vec::with_capacity(3 + 2 * self.san_uris.len());
        if !self.sha256.is_empty() {
            out.push(format!("sha256|{}", self.sha256));
        }
        let any: &[&str] = if self.authority.is_empty() { &[""] } else { &[self.authority, ""] };
        for authority in any {
            out.extend(self.san_uris.iter().map(|uri| format!("uri|{authority}|{uri}")));
            if !self.subject.is_empty() {
                out.push(format!("subject|{authority}|{}", self.subject));
            }
        }
        out
    }
}

impl Certificate {
    fn mark(&self) -> Option<String> {
        let authority = self.authority.as_deref().unwrap_or_default();
        match (&self.sha256, &self.subject, &self.san_uri) {
            (Some(digest), None, None) => Some(format!("sha256|{digest}")),
            (None, Some(subject), None) => Some(format!("subject|{authority}|{subject}")),
            (None, None, Some(uri)) => Some(format!("uri|{authority}|{uri}")),
            _ => None,
        }
    }

    fn mistakes(&self, at: &str, out: &mut Vec<Mistake>) {
        if self.mark().is_none() {
            out.push(Mistake::new(at, "exactly one of sha256, subject and san_uri"));
        }
        let hex = |digest: &String| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if self.sha256.as_ref().is_some_and(|digest| !hex(digest)) {
            out.push(Mistake::new(format!("{at}.sha256"), "64 digits of lower-case hexadecimal, without colons"));
        }
        if self.sha256.is_some() && self.authority.is_some() {
            out.push(Mistake::new(format!("{at}.authority"), "a digest names one certificate already"));
        }
        for (member, text) in [("subject", &self.subject), ("san_uri", &self.san_uri), ("authority", &self.authority)] {
            if text.as_ref().is_some_and(|text| !sound(text, MAX_TEXT)) {
                out.push(Mistake::new(format!("{at}.{member}"), "1 to 1024 characters, no control characters"));
            }
        }
        if self.authority.as_ref().is_some_and(|name| name.contains('|')) {
            out.push(Mistake::new(format!("{at}.authority"), "no '|'"));
        }
    }
}

impl Device {
    /// The marks of its credentials, each once.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        let mut out: Vec<String> = self.client_id.iter().map(|id| client_mark(id)).collect();
        out.extend(self.certificates.iter().filter_map(Certificate::mark));
        out.sort();
        out.dedup();
        out
    }

    /// What its credentials tell of it.
    #[must_use]
    pub fn claim(&self) -> DeviceClaim {
        DeviceClaim { id: self.id.clone(), kind: self.kind.clone(), groups: self.groups.clone(), tenant: self.tenant.clone() }
    }

    /// Whether what its credentials were believed for is not so any more in `now`.
    #[must_use]
    pub fn ends_with(&self, now: &Self) -> bool {
        let lost = |marks: &[String]| self.marks().iter().any(|mark| !marks.contains(mark));
        self.claim() != now.claim() || (now.disabled && !self.disabled) || lost(&now.marks())
    }
}

fn sound(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

impl Record for Device {
    const KIND: ObjectKind = ObjectKind::Device;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut out = Vec::new();
        let named = (1..=128).contains(&self.id.len()) && self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
        if !named {
            out.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        for (member, text) in [("name", &self.name), ("type", &self.kind)] {
            if !text.is_empty() && !sound(text, MAX_NAME) {
                out.push(Mistake::new(member, "at most 128 characters, no control characters"));
            }
        }
        for (member, text) in [("tenant", &self.tenant), ("client_id", &self.client_id)] {
            if text.as_ref().is_some_and(|text| !sound(text, MAX_NAME)) {
                out.push(Mistake::new(member, "1 to 128 characters, no control characters"));
            }
        }
        if self.groups.len() > MAX_GROUPS {
            out.push(Mistake::new("groups", "at most 32"));
        }
        for (n, _) in self.groups.iter().enumerate().filter(|(_, group)| !sound(group, MAX_NAME)) {
            out.push(Mistake::new(format!("groups[{n}]"), "1 to 128 characters, no control characters"));
        }
        if self.certificates.len() > MAX_CERTIFICATES {
            out.push(Mistake::new("certificates", "at most 16"));
        }
        for (n, certificate) in self.certificates.iter().enumerate() {
            certificate.mistakes(&format!("certificates[{n}]"), &mut out);
        }
        out
    }
}

/// What a row of a mark says: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub device: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(value: serde_json::Value) -> Device {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_certificate_is_known_by_what_is_in_it_and_who_vouches_for_it() {
        let digest = "ab".repeat(32);
        let sensor = device(json!({"id": "s", "client_id": "c", "certificates": [{"sha256": digest},
            {"subject": "CN=s", "authority": "plant"}, {"san_uri": "spiffe://a/s"}]}));
        assert!(sensor.mistakes().is_empty());
        let uris = ["spiffe://a/s".to_owned()];
        let found = |shown: Shown<'_>| shown.marks().into_iter().any(|mark| sensor.marks().contains(&mark));
        assert!(found(Shown { sha256: &digest, ..Shown::default() }));
        assert!(found(Shown { subject: "CN=s", authority: "plant", ..Shown::default() }));
        assert!(!found(Shown { subject: "CN=s", authority: "other", ..Shown::default() }), "another authority's CN=s is somebody else");
        assert!(found(Shown { san_uris: &uris, authority: "other", ..Shown::default() }));
        assert!(!found(Shown { subject: "CN=t", sha256: "00", ..Shown::default() }));
        assert!(sensor.marks().contains(&client_mark("c")));
    }

    #[test]
    fn every_mistake_is_named() {
        let wrong = device(json!({"id": "a b", "type": "x\n", "groups": [""], "tenant": "", "certificates": [{}, {"sha256": "AB"},
            {"subject": "a", "san_uri": "b"}, {"subject": "a", "authority": "a|b"}]}));
        let at: Vec<String> = wrong.mistakes().into_iter().map(|m| m.at).collect();
        let expected = [
            "id",
            "type",
            "tenant",
            "groups[0]",
            "certificates[0]",
            "certificates[1].sha256",
            "certificates[2]",
            "certificates[3].authority",
        ];
        assert_eq!(at, expected);
        assert!(serde_json::from_value::<Device>(json!({"id": "s", "psk": "x"})).is_err(), "what is not built is refused by name");
    }

    #[test]
    fn what_a_credential_told_ends_it_when_it_changes() {
        let before = device(json!({"id": "s", "type": "sensor", "groups": ["a"], "client_id": "c"}));
        let ends = |change: fn(&mut Device)| {
            let mut now = before.clone();
            change(&mut now);
            before.ends_with(&now)
        };
        assert!(ends(|d| d.kind = "x".into()) && ends(|d| d.groups.clear()) && ends(|d| d.tenant = Some("t".into())));
        assert!(ends(|d| d.disabled = true) && ends(|d| d.client_id = None));
        assert!(
            !ends(|d| d.name = "x".into())
                && !ends(|d| d.certificates = vec![Certificate { subject: Some("CN=s".into()), ..Certificate::default() }])
        );
    }
}
