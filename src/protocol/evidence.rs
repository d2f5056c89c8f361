//! What a request proves besides who its client is: keys that its sender holds (RFC 8705, RFC 9449).
use tokens::{Confirmation, certificate::Certificate, dpop::Proof};

use crate::Client;

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
}
