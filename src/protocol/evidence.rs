//! What a request proves besides who its client is: keys that its sender holds (RFC 8705, RFC 9449).
use ledger::{Artefact, ArtefactKind, Step, revocation::SPENT_KEPT_S};
use serde_json::{Map, Value};
use tokens::{
    Alg, Confirmation,
    certificate::Certificate,
    dpop::{self, Proof},
};

use crate::{Client, Code, OAuthError, Profile, Settings, stored::RefreshDocument};

/// The keys a request proved. Both were checked before: the proof against this request, the certificate by the handshake.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The DPoP proof of this request.
    pub proof: Option<Proof>,
    /// The client certificate of this connection.
    pub certificate: Option<Certificate>,
}

impl Evidence {
    /// What a token issued on this request to this client is bound to: the proof's key; the certificate, if the client's tokens are
    /// registered to be bound to it (RFC 8705 §3.4).
    #[must_use]
    pub fn binds(&self, client: &Client) -> Option<Confirmation> {
        let certificate = self.certificate.as_ref().filter(|_| client.tls_client_certificate_bound_access_tokens);
        let bound =
            Confirmation { jkt: self.proof.as_ref().map(|p| p.jkt.clone()), x5t_s256: certificate.map(|c| c.x5t_s256().to_owned()) };
        (!bound.is_empty()).then_some(bound)
    }

    /// The thumbprint of the DPoP key.
    #[must_use]
    pub fn jkt(&self) -> Option<&str> {
        self.proof.as_ref().map(|proof| proof.jkt.as_str())
    }

    /// The thumbprint of the certificate.
    #[must_use]
    pub fn x5t_s256(&self) -> Option<&str> {
        self.certificate.as_ref().map(Certificate::x5t_s256)
    }

    /// Whether it proves what a token is bound to; whatever is bound to nothing needs no proof.
    #[must_use]
    pub fn proves(&self, bound: Option<&Confirmation>) -> bool {
        bound.is_none_or(|cnf| cnf.proved(self.jkt(), self.x5t_s256()))
    }

    /// The guard that lets its proof count once: into the change of whatever is given on it (RFC 9449 §11.1).
    #[must_use]
    pub fn once(&self, now: i64, head: u64) -> Option<Step> {
        self.proof.as_ref().map(|proof| once(proof, now, head))
    }
}

/// What is stored of a spent proof.
const SPENT: &str = "{\"dpop\":true}";

/// Whether a step is that guard: a change it refused was asked for with a proof that was used before.
#[must_use]
pub fn is_once(step: &Step) -> bool {
    matches!(step, Step::Put(put) if put.kind == ArtefactKind::Jti && put.document == SPENT)
}

/// The guard that lets a proof count once.
#[must_use]
pub fn once(proof: &Proof, now: i64, head: u64) -> Step {
    Step::Put(Artefact {
        kind: ArtefactKind::Jti,
        id: proof.once().to_vec(),
        mac: Vec::new(),
        grant: None,
        document: SPENT.into(),
        created_at: now,
        expires_at: proof.until().max(now.saturating_add(1)).saturating_add(SPENT_KEPT_S),
        consumed_at: None,
        successor: None,
        seq: head,
    })
}

/// `invalid_dpop_proof` (RFC 9449 §5): always the same words; the log hears which rule it broke.
#[must_use]
pub fn refused(reason: &'static str) -> OAuthError {
    OAuthError::new(Code::InvalidDpopProof, "the DPoP proof is missing, invalid, used before or of another key").because(reason)
}

/// What tokens issued on this request have to be bound to: every grant asks before it issues (RFC 8705 §3.4, RFC 9449 §5.2,
/// FAPI 2.0 Security Profile §5.3.2.1).
///
/// # Errors
/// `invalid_dpop_proof` or `invalid_request` if the client, or the profile, demands a key and the request proves none.
pub fn demand(client: &Client, evidence: &Evidence, settings: &Settings) -> Result<Option<Confirmation>, OAuthError> {
    let bound = registered(client, evidence)?;
    if settings.profile == Profile::Fapi2 && bound.is_none() && evidence.certificate.is_some() {
        return Err(OAuthError::request(
            "tokens are bound to a key here: the client is not registered for tls_client_certificate_bound_access_tokens, so a DPoP proof is required",
        ));
    }
    if settings.profile == Profile::Fapi2 && bound.is_none() {
        return Err(OAuthError::request("tokens are bound to a key here: a DPoP proof or a client certificate is required"));
    }
    Ok(bound)
}

/// The same without the profile's rule.
///
/// # Errors
/// `invalid_dpop_proof` or `invalid_request` if the client demands a key and the request proves none.
pub fn registered(client: &Client, evidence: &Evidence) -> Result<Option<Confirmation>, OAuthError> {
    if client.dpop_bound_access_tokens && evidence.proof.is_none() {
        return Err(refused("the client's tokens are bound to a DPoP key, and there is no proof"));
    }
    if client.tls_client_certificate_bound_access_tokens && evidence.certificate.is_none() {
        return Err(OAuthError::request("a client certificate is required"));
    }
    Ok(evidence.binds(client))
}

/// The algorithms a proof may be signed with (FAPI 2.0 Security Profile §5.4.1 leaves three).
#[must_use]
pub fn algs(profile: Profile) -> Vec<Alg> {
    dpop::ALGS.into_iter().filter(|alg| profile != Profile::Fapi2 || *alg != Alg::ES384).collect()
}

/// What the metadata says of bound tokens (RFC 9449 §5.1, RFC 8705 §3.3).
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    let names: Vec<&str> = algs(settings.profile).into_iter().map(Alg::as_str).collect();
    members.insert("dpop_signing_alg_values_supported".into(), names.into());
    if settings.mtls {
        members.insert("tls_client_certificate_bound_access_tokens".into(), true.into());
    }
}

/// A code or pushed request that names a key takes a proof of it (RFC 9449 §10).
///
/// # Errors
/// `invalid_dpop_proof`.
pub fn bound_to(jkt: Option<&str>, evidence: &Evidence) -> Result<(), OAuthError> {
    match jkt {
        Some(jkt) if evidence.jkt() != Some(jkt) => Err(refused("bound to another key, or there is no proof")),
        _ => Ok(()),
    }
}

/// What a refresh token given with such an access token is bound to: a public client's to the same keys, a confidential client's to
/// the client alone, so that it may refresh with a new key (RFC 9449 §5, RFC 8705 §7.1).
#[must_use]
pub fn binds_refresh<'a>(client: &Client, bound: Option<&'a Confirmation>) -> Option<&'a Confirmation> {
    bound.filter(|_| client.is_public())
}

/// What the tokens of a refresh are bound to, if the refresh token may be used with what the request proves.
///
/// # Errors
/// `invalid_dpop_proof`, `invalid_request` or `invalid_grant`: the keys it is bound to are not proved, or tokens of the grant were bound
/// and no key is proved now.
pub fn demand_refresh(
    client: &Client,
    document: &RefreshDocument,
    evidence: &Evidence,
    settings: &Settings,
) -> Result<Option<Confirmation>, OAuthError> {
    let bound = demand(client, evidence, settings)?;
    if let Some(cnf) = &document.confirmation {
        bound_to(cnf.jkt.as_deref(), evidence)?;
        if !evidence.proves(Some(cnf)) {
            return Err(OAuthError::grant("bound to a certificate that was not shown"));
        }
    }
    if document.constrained && bound.is_none() {
        return Err(refused("the grant's tokens are bound to a key, and none is proved"));
    }
    Ok(bound)
}

/// Whether a client of this kind keeps one refresh token: it proves who it is and holds a key, so rotation would add nothing
/// (FAPI 2.0 Security Profile §5.3.2.1, CONTRACT §5).
#[must_use]
pub fn keeps_refresh(client: &Client, bound: Option<&Confirmation>) -> bool {
    !client.is_public() && bound.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> Evidence {
        Evidence { proof: Some(Proof { jkt: "k".into(), jti: "j".into(), iat: 100 }), certificate: None }
    }
    fn certificate() -> Evidence {
        Evidence { proof: None, certificate: Some(Certificate::new(b"der")) }
    }
    fn client(dpop: bool, mtls: bool) -> Client {
        Client { dpop_bound_access_tokens: dpop, tls_client_certificate_bound_access_tokens: mtls, ..Client::default() }
    }

    #[test]
    fn what_a_client_is_registered_for_is_demanded() {
        let standard = Settings::for_issuer("https://id");
        let fapi = Settings { profile: Profile::Fapi2, ..standard.clone() };
        let asked = |client: &Client, evidence: &Evidence, settings: &Settings| demand(client, evidence, settings).map_err(|e| e.code);
        let nothing = Evidence::default();
        assert_eq!(asked(&client(false, false), &nothing, &standard), Ok(None));
        assert_eq!(asked(&client(false, false), &nothing, &fapi), Err(Code::InvalidRequest));
        assert_eq!(asked(&client(false, false), &certificate(), &fapi), Err(Code::InvalidRequest), "not registered for it");
        let heard = |evidence: &Evidence| demand(&client(false, false), evidence, &fapi).unwrap_err().description;
        assert!(heard(&certificate()).contains("not registered for tls_client_certificate_bound_access_tokens"));
        assert!(!heard(&nothing).contains("not registered"));
        assert_eq!(asked(&client(true, false), &nothing, &standard), Err(Code::InvalidDpopProof));
        assert_eq!(asked(&client(false, true), &nothing, &standard), Err(Code::InvalidRequest));
        let by_key = Confirmation { jkt: Some("k".into()), x5t_s256: None };
        assert_eq!(asked(&client(false, false), &proof(), &fapi), Ok(Some(by_key.clone())));
        assert_eq!(asked(&client(true, false), &proof(), &standard), Ok(Some(by_key)));
        let by_certificate = asked(&client(false, true), &certificate(), &standard).unwrap().unwrap();
        assert_eq!(by_certificate.x5t_s256.as_deref(), Some(Certificate::new(b"der").x5t_s256()));
    }

    #[test]
    fn a_named_key_has_to_be_shown() {
        assert!(bound_to(None, &Evidence::default()).is_ok() && bound_to(Some("k"), &proof()).is_ok());
        assert!(bound_to(Some("other"), &proof()).is_err() && bound_to(Some("k"), &Evidence::default()).is_err());
    }

    #[test]
    fn the_guard_outlives_its_proof() {
        let evidence = proof();
        let Some(step @ Step::Put(_)) = evidence.once(100, 0) else { panic!("a guard") };
        assert!(is_once(&step) && Evidence::default().once(100, 0).is_none());
        let Step::Put(put) = step else { panic!("a guard") };
        assert!(put.expires_at > 100 + tokens::dpop::MAX_AGE);
    }
}
