//! The gateway's client at its authorization server: how it proves itself, from the keys of `[gateway]`.
use super::{GatewaySection, Reader, Secret, check::secret};

/// The gateway's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayClient {
    /// Its id.
    pub client_id: String,
    /// How it proves itself.
    pub proof: ClientProof,
}

/// How a client proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    /// `client_secret_basic`.
    Secret(Secret),
    /// `private_key_jwt`: a key as PKCS#8 PEM.
    Key(Secret),
    /// `tls_client_auth`.
    Certificate {
        /// The chain, PEM, leaf first.
        chain: String,
        /// The key, PEM.
        key: Secret,
    },
}

impl GatewayClient {
    /// Reads it; `needed` where the gateway is nothing without it. `None` if something is wrong.
    pub(super) fn check(r: &mut Reader, section: &GatewaySection, needed: bool) -> Option<Option<Self>> {
        let plain = secret(r, "gateway.client_secret", section.client_secret.clone(), section.client_secret_file.as_deref());
        let key = secret(r, "gateway.client_key", None, section.client_key_file.as_deref());
        let chain = match &section.client_certificate_file {
            None => Some(None),
            Some(file) => match std::fs::read_to_string(file) {
                Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Some(Some(text)),
                Ok(_) => {
                    r.wrong("gateway.client_certificate_file", &format!("{} holds no certificate as PEM", file.display()));
                    None
                }
                Err(error) => {
                    r.wrong("gateway.client_certificate_file", &format!("{}: {error}", file.display()));
                    None
                }
            },
        };
        if needed && section.client_id.is_none() {
            r.wrong("gateway.client_id", "a gateway process of its own needs its client at the authorization server");
        }
        let proof = match (plain?, key?, chain?) {
            (Some(secret), None, None) => Some(ClientProof::Secret(secret)),
            (None, Some(key), None) => Some(ClientProof::Key(key)),
            (None, Some(key), Some(chain)) => Some(ClientProof::Certificate { chain, key }),
            (None, None, None) => {
                if needed {
                    r.wrong("gateway.client_secret_file", "a gateway process of its own needs its client's secret, or client_key_file");
                }
                None
            }
            (None, None, Some(_)) => {
                r.wrong("gateway.client_key_file", "the key of client_certificate_file is needed");
                return None;
            }
            (Some(_), ..) => {
                r.wrong("gateway.client_secret", "give either a secret or client_key_file, not both");
                return None;
            }
        };
        match (section.client_id.clone(), proof) {
            (Some(client_id), Some(proof)) => Some(Some(Self { client_id, proof })),
            _ if needed => None,
            _ => Some(None),
        }
    }
}
