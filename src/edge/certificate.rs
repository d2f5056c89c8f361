//! Client certificates as callers: which name of a certificate is the caller's, whose certificates a route takes, what each name may
//! (RFC 5280 §4.2.1.6, X.509-SVID).
use std::sync::Arc;

use ledger::Mistake;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokens::{
    access::AccessClaims,
    certificate::{Authority, Certificate, Purpose, Said},
};

use crate::{
    refusal::Refusal,
    route::{Auth, Route},
};

/// The longest SPIFFE ID (SPIFFE-ID §2.3).
const MOST_SPIFFE: usize = 2048;

/// One value or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(&self) -> Vec<&str> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(list) => list.iter().map(String::as_str).collect(),
        }
    }
}

/// A name that may come, and what it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Allow {
    /// The name alone.
    Name(String),
    /// With the scopes it gives.
    With(Allowed),
}

/// A name pattern with scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allowed {
    /// Exact; or a URI that ends in `/*` (everything below), `*.` and a DNS name (everything below), `*` (every name).
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl Allow {
    fn parts(&self) -> (&str, &[String]) {
        match self {
            Self::Name(name) => (name, &[]),
            Self::With(allowed) => (&allowed.name, &allowed.scopes),
        }
    }
}

/// What a route demands of a client certificate (`auth.certificate`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateRules {
    /// Which name is the caller's: the first kind of these that a certificate has, of `san_uri`, `san_dns`, `san_email`, `cn`, `subject_dn`,
    /// `x5t`. Absent: all but the last, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<OneOrMany>,
    /// Trust domains of SPIFFE IDs; where some are named, only certificates with a SPIFFE ID of theirs count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spiffe_trust_domains: Vec<String>,
    /// Authorities of the listener by common name, fingerprint or file name; empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
    /// Who may come; empty: whoever has a certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
    /// Whether a certificate has to say that it is for clients (extended key usage `clientAuth`). One that says it is for something else
    /// never counts.
    pub client_usage: bool,
}

/// What an upstream is told of the client certificate (RFC 9440): `true` (it alone), `"chain"`, or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum ClientCertificate {
    #[default]
    Absent,
    Alone,
    WithChain,
}

impl ClientCertificate {
    /// Whether nothing is told.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl TryFrom<Value> for ClientCertificate {
    type Error = &'static str;
    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Bool(true) => Ok(Self::Alone),
            Value::Bool(false) => Ok(Self::Absent),
            Value::String(text) if text == "chain" => Ok(Self::WithChain),
            _ => Err("client_certificate must be true, false or \"chain\""),
        }
    }
}

impl From<ClientCertificate> for Value {
    fn from(told: ClientCertificate) -> Self {
        match told {
            ClientCertificate::Absent => Self::Bool(false),
            ClientCertificate::Alone => Self::Bool(true),
            ClientCertificate::WithChain => "chain".into(),
        }
    }
}

/// What is wrong with the certificates of a route.
pub(crate) fn mistakes(auth: &Auth, out: &mut Vec<Mistake>) {
    let accepted = auth.accept.iter().any(|kind| kind == "mtls");
    match &auth.certificate {
        Some(rules) if accepted => rules.mistakes(&auth.scopes, out),
        Some(_) => out.push(Mistake::new("auth.certificate", "is for routes that accept \"mtls\"")),
        None if accepted && !auth.scopes.is_empty() => CertificateRules::default().mistakes(&auth.scopes, out),
        None => {}
    }
}

/// The kinds of names, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    Uri,
    Dns,
    Email,
    CommonName,
    Subject,
    Thumbprint,
}

impl NameKind {
    const DEFAULT: [Self; 5] = [Self::Uri, Self::Dns, Self::Email, Self::CommonName, Self::Subject];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "san_uri" => Self::Uri,
            "san_dns" => Self::Dns,
            "san_email" => Self::Email,
            "cn" => Self::CommonName,
            "subject_dn" => Self::Subject,
            "x5t" => Self::Thumbprint,
            _ => return None,
        })
    }

    fn names<'a>(self, said: &'a Said, thumbprint: &'a str) -> Vec<&'a str> {
        match self {
            Self::Uri => said.uris.iter().map(String::as_str).collect(),
            Self::Dns => said.dns.iter().map(String::as_str).collect(),
            Self::Email => said.emails.iter().map(String::as_str).collect(),
            Self::CommonName => said.common_name.iter().map(String::as_str).filter(|name| !name.is_empty()).collect(),
            Self::Subject => Some(said.subject.as_str()).into_iter().filter(|name| !name.is_empty()).collect(),
            Self::Thumbprint => vec![thumbprint],
        }
    }

    /// Whether a name has the form of its kind: what reads as one of another kind is nobody's, whatever its authority has put where.
    fn fits(self, name: &str) -> bool {
        match self {
            Self::Dns => is_dns_name(name.strip_prefix("*.").unwrap_or(name)),
            Self::Email => name.contains('@') && !name.contains("://"),
            Self::CommonName => !name.contains("://"),
            Self::Uri => name.contains(':'),
            Self::Subject | Self::Thumbprint => true,
        }
    }
}

/// Labels of letters, digits, hyphens and underscores (RFC 1034 §3.5, RFC 8553), in ASCII.
fn is_dns_name(name: &str) -> bool {
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    name.len() <= 253 && name.split('.').all(label)
}

impl CertificateRules {
    /// What is wrong with it, and with the scopes that the route demands of everybody.
    pub(crate) fn mistakes(&self, demanded: &[String], out: &mut Vec<Mistake>) {
        let at = |member: &str| format!("auth.certificate.{member}");
        let kinds = self.subject.as_ref().map(OneOrMany::list);
        if kinds.as_ref().is_some_and(|kinds| kinds.is_empty() || kinds.iter().any(|kind| NameKind::parse(kind).is_none())) {
            out.push(Mistake::new(at("subject"), "must be of san_uri, san_dns, san_email, cn, subject_dn, x5t"));
        }
        for (n, domain) in self.spiffe_trust_domains.iter().enumerate() {
            if !is_trust_domain(domain) {
                out.push(Mistake::new(
                    at(&format!("spiffe_trust_domains[{n}]")),
                    "not a trust domain: lower-case letters, digits, '.', '-', '_'",
                ));
            }
        }
        if self.authorities.iter().any(String::is_empty) {
            out.push(Mistake::new(at("authorities"), "names no authority"));
        }
        for (n, allow) in self.allow.iter().enumerate() {
            let (name, scopes) = allow.parts();
            if let Err(why) = Pattern::parse(name) {
                out.push(Mistake::new(at(&format!("allow[{n}]")), why));
            }
            let token = |b: u8| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b);
            if scopes.iter().any(|scope| scope.is_empty() || !scope.bytes().all(token)) {
                out.push(Mistake::new(at(&format!("allow[{n}].scopes")), "not scope names (RFC 6749 §3.3)"));
            }
        }
        for scope in demanded {
            if !self.allow.iter().any(|allow| allow.parts().1.contains(scope)) {
                let why = format!("gives nobody the scope {scope:?}, which auth.scopes demands of certificates too");
                out.push(Mistake::new(at("allow"), why));
            }
        }
    }
}

/// Which names an entry of `allow` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Every,
    Exact(String),
    /// Everything below this URI, which ends in `/`.
    BelowUri(String),
    /// Everything below this DNS name, which begins with `.`.
    BelowDns(String),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self::Every);
        }
        if let Some(below) = text.strip_suffix("/*").filter(|below| below.contains("://")) {
            let whole =
                below.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.ends_with('/'));
            return if whole && !below.contains('*') { Ok(Self::BelowUri(format!("{below}/"))) } else { Err(WRONG) };
        }
        if let Some(below) = text.strip_prefix("*.") {
            return if below.is_empty() || below.contains(['*', '/', '@']) {
                Err(WRONG)
            } else {
                Ok(Self::BelowDns(format!(".{}", below.to_ascii_lowercase())))
            };
        }
        if text.is_empty() || text.contains('*') { Err(WRONG) } else { Ok(Self::Exact(text.to_owned())) }
    }

    /// Whether it is for a name of this kind. What looks like a URI is never compared with what is none, nor the other way round.
    fn is_for(&self, kind: NameKind, name: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Exact(exact) => match kind {
                NameKind::Dns => exact.eq_ignore_ascii_case(name),
                NameKind::Uri => exact == name,
                _ => !exact.contains("://") && exact == name,
            },
            Self::BelowUri(below) => kind == NameKind::Uri && name.len() > below.len() && name.starts_with(below.as_str()) && plain(name),
            Self::BelowDns(below) => {
                let name = name.to_ascii_lowercase();
                matches!(kind, NameKind::Dns | NameKind::CommonName)
                    && name.len() > below.len()
                    && name.ends_with(below.as_str())
                    && !name.contains(['*', '/', ' '])
            }
        }
    }
}

const WRONG: &str = "a name, a URI that ends in \"/*\", \"*.\" and a DNS name, or \"*\" is needed";

/// Whether a URI has no segments that another reader may take away: none empty, `.` or `..`, and nothing encoded.
fn plain(uri: &str) -> bool {
    let path = uri.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    !path.contains(['%', '?', '#', '\\']) && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// The trust domain of a SPIFFE ID (SPIFFE-ID §2), if it is one.
fn trust_domain(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= MOST_SPIFFE)?;
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let good = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    (is_trust_domain(domain) && path.is_none_or(|path| path.split('/').all(good))).then_some(domain)
}

/// The rules made ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// The route they are of: what is believed under one is not believed under another.
    pub route: Arc<str>,
    kinds: Vec<NameKind>,
    domains: Vec<String>,
    authorities: Vec<String>,
    allow: Vec<(Pattern, Vec<String>)>,
    client_usage: bool,
}

/// Whom a certificate makes the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    /// Space-separated.
    pub scope: String,
    pub not_after: i64,
    /// What there is to tell of it: names, thumbprint, authority.
    pub claims: Map<String, Value>,
}

impl Holder {
    /// The same from what was believed of it.
    #[must_use]
    pub fn of(claims: &AccessClaims) -> Self {
        Self { name: claims.sub.clone(), scope: claims.scope.clone(), not_after: claims.exp, claims: Map::clone(&claims.raw) }
    }
}

impl Ready {
    /// The rules of a route that accepts certificates.
    #[must_use]
    pub fn of(route: &Route, auth: &Auth) -> Option<Arc<Self>> {
        let accepted = auth.accept.iter().any(|kind| kind == "mtls");
        accepted.then(|| Arc::new(Self::new(&route.id, auth.certificate.as_ref())))
    }

    /// The rules of a route; without any, every certificate of the listener's authorities counts.
    #[must_use]
    pub fn new(route: &str, rules: Option<&CertificateRules>) -> Self {
        let rules = rules.cloned().unwrap_or_default();
        let kinds = rules.subject.as_ref().map(|kinds| kinds.list().into_iter().filter_map(NameKind::parse).collect());
        let ready = |allow: &Allow| {
            let (name, scopes) = allow.parts();
            Some((Pattern::parse(name).ok()?, scopes.to_vec()))
        };
        Self {
            route: route.into(),
            kinds: kinds.unwrap_or_else(|| NameKind::DEFAULT.to_vec()),
            domains: rules.spiffe_trust_domains,
            authorities: rules.authorities,
            allow: rules.allow.iter().filter_map(ready).collect(),
            client_usage: rules.client_usage,
        }
    }

    /// Whom a certificate makes the caller; its chain is verified and it is not revoked, or it would not be asked here.
    ///
    /// # Errors
    /// 401 for a certificate that does not count here, 403 for one of somebody who may not come.
    pub fn holder(&self, certificate: &Certificate, authority: &Authority) -> Result<Holder, Refusal> {
        if !self.authorities.is_empty() && !self.authorities.iter().any(|text| authority.is(text)) {
            return Err(Refusal::Invalid("certificate_authority"));
        }
        let said = certificate.said().ok_or(Refusal::Invalid("certificate_malformed"))?;
        let usage = match said.purpose {
            Purpose::Client => true,
            Purpose::Unsaid => !self.client_usage,
            Purpose::Other => false,
        };
        if !usage || !said.signs {
            return Err(Refusal::Invalid("certificate_usage"));
        }
        self.spiffe(&said)?;
        let thumbprint = certificate.x5t_s256();
        let found = self.kinds.iter().map(|kind| (*kind, kind.names(&said, thumbprint))).find(|(_, names)| !names.is_empty());
        let (kind, names) = found.ok_or(Refusal::Invalid("certificate_nameless"))?;
        if !names.iter().all(|name| kind.fits(name)) {
            return Err(Refusal::Invalid("certificate_name"));
        }
        let allows = |name: &str| self.allow.iter().any(|(pattern, _)| pattern.is_for(kind, name));
        let name = names.into_iter().find(|name| self.allow.is_empty() || allows(name)).ok_or(Refusal::Barred("certificate_name"))?;
        let mut scopes: Vec<&str> = Vec::new();
        for (_, given) in self.allow.iter().filter(|(pattern, _)| pattern.is_for(kind, name)) {
            scopes.extend(given.iter().map(String::as_str).filter(|scope| !scopes.contains(scope)).collect::<Vec<_>>());
        }
        let scope = scopes.join(" ");
        let claims = claims(&said, name, &scope, (thumbprint, authority));
        Ok(Holder { name: name.to_owned(), scope, not_after: said.not_after, claims })
    }

    /// A SPIFFE ID is the only URI of its certificate (X.509-SVID §2), well-formed, and of a trust domain that is named, if some are.
    fn spiffe(&self, said: &Said) -> Result<(), Refusal> {
        let mut named = said.uris.iter().filter(|uri| uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://")));
        let Some(id) = named.next() else {
            return if self.domains.is_empty() { Ok(()) } else { Err(Refusal::Invalid("certificate_trust_domain")) };
        };
        let domain = trust_domain(id).filter(|_| said.uris.len() == 1).ok_or(Refusal::Invalid("certificate_spiffe"))?;
        let trusted = self.domains.is_empty() || self.domains.iter().any(|known| known == domain);
        if trusted { Ok(()) } else { Err(Refusal::Invalid("certificate_trust_domain")) }
    }
}

fn claims(said: &Said, name: &str, scope: &str, (thumbprint, authority): (&str, &Authority)) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |claim: &str, value: Value| {
        let empty = value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty) || value.is_null();
        if !empty {
            out.insert(claim.to_owned(), value);
        }
    };
    put("iss", json!(&*authority.name));
    put("sub", json!(name));
    put("scope", json!(scope));
    put("exp", json!(said.not_after));
    put("x5t#S256", json!(thumbprint));
    put("serial", json!(said.serial));
    put("cn", json!(said.common_name));
    put("subject_dn", json!(said.subject));
    put("san_uri", json!(said.uris));
    put("san_dns", json!(said.dns));
    put("san_email", json!(said.emails));
    put("authority_fingerprint", json!(authority.fingerprint));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_for(pattern: &str, kind: NameKind, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().is_for(kind, name)
    }

    #[test]
    fn a_pattern_covers_whole_segments_and_labels_of_its_own_kind() {
        use NameKind::{CommonName, Dns, Email, Uri};
        for (pattern, kind, name) in [
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod/web"),
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod/web/1"),
            ("spiffe://a.example/*", Uri, "spiffe://a.example/x"),
            ("spiffe://a.example/x", Uri, "spiffe://a.example/x"),
            ("*.Devices.example", Dns, "a.b.devices.example"),
            ("web.example", Dns, "WEB.example"),
            ("ops@example.com", Email, "ops@example.com"),
            ("pump 7", CommonName, "pump 7"),
            ("*", Uri, "spiffe://b/x"),
        ] {
            assert!(is_for(pattern, kind, name), "{pattern} {name}");
        }
        for (pattern, kind, name) in [
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod"),
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod/"),
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/production/web"),
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod/../dev/web"),
            ("spiffe://a.example/ns/prod/*", Uri, "spiffe://a.example/ns/prod/%2e%2e/dev"),
            ("spiffe://a.example/*", Uri, "spiffe://a.example.evil/x"),
            ("spiffe://a.example/x", CommonName, "spiffe://a.example/x"),
            ("spiffe://a.example/*", CommonName, "spiffe://a.example/x"),
            ("*.devices.example", Dns, "devices.example"),
            ("*.devices.example", Dns, "evildevices.example"),
            ("*.devices.example", Dns, "*.devices.example"),
            ("*.devices.example", Email, "a@b.devices.example"),
            ("pump 7", CommonName, "Pump 7"),
        ] {
            assert!(!is_for(pattern, kind, name), "{pattern} {name}");
        }
        for bad in ["", "a*", "spiffe://*/x", "spiffe:///*", "spiffe://a//*", "*.", "*.*.a", "https://a/*/b"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_has_the_form_of_its_kind() {
        use NameKind::{CommonName, Dns, Email, Uri};
        for (kind, name) in [
            (Dns, "a.b-c.example"),
            (Dns, "*.example"),
            (Dns, "_x.example"),
            (Email, "a@b"),
            (CommonName, "pump 7"),
            (CommonName, "a/b"),
            (Uri, "urn:x:y"),
        ] {
            assert!(kind.fits(name), "{name}");
        }
        for (kind, name) in [
            (Dns, "spiffe://acme/svc/good"),
            (Dns, "a..b"),
            (Dns, "a b"),
            (Dns, ""),
            (Dns, "a.*.b"),
            (Dns, "user@example"),
            (CommonName, "spiffe://acme/svc/good"),
            (Email, "spiffe://a@b"),
            (Email, "nobody"),
            (Uri, "web.example"),
        ] {
            assert!(!kind.fits(name), "{name}");
        }
    }

    #[test]
    fn a_spiffe_id_is_read_strictly() {
        assert_eq!(trust_domain("spiffe://example.org/ns/a"), Some("example.org"));
        assert_eq!(trust_domain("spiffe://example.org"), Some("example.org"));
        for bad in [
            "spiffe://Example.org/a",
            "spiffe://example.org/",
            "spiffe://example.org//a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org:8080/a",
            "spiffe://u@example.org/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a%20",
            "SPIFFE://example.org/a",
            "https://example.org/a",
            "spiffe:///a",
        ] {
            assert_eq!(trust_domain(bad), None, "{bad}");
        }
        assert_eq!(trust_domain(&format!("spiffe://example.org/{}", "a".repeat(2048))), None);
    }

    #[test]
    fn every_mistake_is_named() {
        let rules: CertificateRules =
            serde_json::from_value(json!({"subject": ["san_uri", "shoe_size"], "spiffe_trust_domains": ["Example.org"],
            "authorities": [""], "allow": ["a*b", {"name": "x", "scopes": ["bad scope"]}]}))
            .unwrap();
        let mut out = Vec::new();
        rules.mistakes(&["read".into()], &mut out);
        let at: Vec<&str> = out.iter().map(|m| m.at.trim_start_matches("auth.certificate.")).collect();
        assert_eq!(at, ["subject", "spiffe_trust_domains[0]", "authorities", "allow[0]", "allow[1].scopes", "allow"]);
        assert!(serde_json::from_value::<CertificateRules>(json!({"allow": [{"name": "x", "scope": "y"}]})).is_err());
    }
}
