//! Trusted issuers: other authorization servers whose access tokens routes may accept (RFC 9068).
use std::sync::Arc;

use ledger::{Mistake, ObjectKind, Record};
use serde::{Deserialize, Serialize};
use tokens::Alg;
use url::Url;

use crate::{introspection::Introspection, upstream::good_id};

/// Another issuer, where its keys are, and what its tokens look like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustedIssuer {
    /// URL-safe id; derived from the issuer when absent.
    pub id: String,
    /// The `iss` of its tokens, compared exactly.
    pub issuer: String,
    /// Where its JWK set is served; absent: where its metadata says (RFC 8414, OpenID Connect Discovery).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks_uri: String,
    /// The signature algorithms it uses; nothing else is accepted.
    pub algorithms: Vec<String>,
    /// What else than `at+jwt` and `application/at+jwt` the `typ` of its tokens may be: `["JWT"]` for older servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_typ: Vec<String>,
    /// The `aud` of security event tokens it may push to `/ssf/receive/{id}`; absent: none are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals_audience: Option<String>,
    /// Whether its software statements are believed where clients register (RFC 7591 §2.3).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub software_statements: bool,
    /// What its assertions may become here (RFC 7523 §2.1, RFC 8693); absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<AssertionGrant>,
    /// How it is asked about its opaque tokens (RFC 7662); absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Introspection>,
}

/// Whom an issuer's assertions mean here, and who may bring them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AssertionGrant {
    /// The claim that names the subject: `sub` (default), `email` (verified ones only) or `preferred_username`.
    pub claim: String,
    /// `user` (default): the name is a username here. `external`: it stays the issuer's, as `iss|name`.
    pub subject: String,
    /// The clients that may bring them; none: every client with the grant type.
    pub clients: Vec<String>,
}

impl Default for AssertionGrant {
    fn default() -> Self {
        Self { claim: "sub".into(), subject: "user".into(), clients: Vec::new() }
    }
}

impl TrustedIssuer {
    /// The accepted `typ` values.
    #[must_use]
    pub fn types(&self) -> Vec<String> {
        ["at+jwt", "application/at+jwt"].into_iter().map(str::to_owned).chain(self.token_typ.iter().cloned()).collect()
    }

    /// The accepted algorithms.
    #[must_use]
    pub fn algs(&self) -> Vec<Alg> {
        self.algorithms.iter().filter_map(|a| Alg::parse(a)).collect()
    }

    /// The same with those alone that the deployment knows now: the post-quantum one may have been registered before it was taken back.
    #[must_use]
    pub fn known_to(mut self, post_quantum: bool) -> Self {
        self.algorithms.retain(|alg| post_quantum || Alg::parse(alg) != Some(Alg::MlDsa65));
        self
    }
}

/// A trusted issuer made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    pub id: Arc<str>,
    pub issuer: Arc<str>,
    /// Empty: its metadata says.
    pub jwks_uri: String,
    /// How it is asked about its tokens, if it is.
    pub introspection: Option<Arc<Introspection>>,
    pub algorithms: Vec<Alg>,
    /// Without `application/`.
    pub types: Vec<String>,
    /// Whether it tells what ends (shared signals): what is known of its tokens is then only as good as what is known of that.
    pub signals: bool,
}

pub(crate) fn trust(given: &TrustedIssuer) -> Trusted {
    let bare = |typ: &String| typ.to_ascii_lowercase().trim_start_matches("application/").to_owned();
    let mut types: Vec<String> = given.types().iter().map(bare).collect();
    types.sort();
    types.dedup();
    let signals = given.signals_audience.is_some();
    Trusted {
        id: given.id.as_str().into(),
        issuer: given.issuer.as_str().into(),
        jwks_uri: given.jwks_uri.clone(),
        introspection: given.introspection.clone().map(Arc::new),
        algorithms: given.algs(),
        types,
        signals,
    }
}

pub(crate) fn url_fault(text: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(text) else { return Some("an absolute URL is needed") };
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Some("an https URL is needed (http only for hosts the outbound policy allows)");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Some("userinfo and fragments do not belong here");
    }
    None
}

impl Record for TrustedIssuer {
    const KIND: ObjectKind = ObjectKind::TrustedIssuer;
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.issuer
    }
    fn mistakes(&self) -> Vec<Mistake> {
        let mut out = Vec::new();
        if !self.id.is_empty() && !good_id(&self.id) {
            out.push(Mistake::new("id", "1 to 128 letters, digits, '.', '_', '-' or ':'"));
        }
        for (at, text) in [("issuer", &self.issuer), ("jwks_uri", &self.jwks_uri)] {
            if (at == "issuer" || !text.is_empty())
                && let Some(why) = url_fault(text)
            {
                out.push(Mistake::new(at, why));
            }
        }
        if self.jwks_uri.is_empty() && (self.grant.is_some() || self.software_statements || self.signals_audience.is_some()) {
            out.push(Mistake::new(
                "jwks_uri",
                "is needed where more than its access tokens is believed (grant, software_statements, signals_audience)",
            ));
        }
        if let Some(introspection) = &self.introspection {
            introspection.mistakes(&mut out);
        }
        if self.algorithms.is_empty() {
            out.push(Mistake::new("algorithms", "name the algorithms this issuer signs with, e.g. [\"ES256\"]"));
        }
        for (n, alg) in self.algorithms.iter().enumerate() {
            if Alg::parse(alg).is_none() {
                out.push(Mistake::new(format!("algorithms[{n}]"), "must be one of ES256, ES384, RS256, PS256, EdDSA, ML-DSA-65"));
            }
        }
        if let Some(grant) = &self.grant {
            if !["sub", "email", "preferred_username"].contains(&grant.claim.as_str()) {
                out.push(Mistake::new("grant.claim", "must be \"sub\", \"email\" or \"preferred_username\""));
            }
            if !["user", "external"].contains(&grant.subject.as_str()) {
                out.push(Mistake::new("grant.subject", "must be \"user\" or \"external\""));
            }
        }
        for (n, typ) in self.token_typ.iter().enumerate() {
            if !["at+jwt", "application/at+jwt", "jwt"].contains(&typ.to_ascii_lowercase().as_str()) {
                out.push(Mistake::new(format!("token_typ[{n}]"), "must be \"at+jwt\", \"application/at+jwt\" or \"JWT\""));
            }
        }
        out
    }
}
