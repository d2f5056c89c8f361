//! The protocol's numbers, as configured.
use super::Config;

impl Config {
    /// The protocol's numbers.
    #[must_use]
    pub fn settings(&self) -> protocol::Settings {
        protocol::Settings {
            code_ttl: self.lifetimes.code.0,
            access_token_ttl: self.lifetimes.access_token.0,
            refresh_token_ttl: self.lifetimes.refresh_token.0,
            refresh_idle: self.lifetimes.refresh_idle.0,
            refresh_grace: self.lifetimes.refresh_grace.0,
            session_ttl: self.lifetimes.session.0,
            par_ttl: self.lifetimes.par.0,
            device_code_ttl: self.lifetimes.device_code.0,
            profile: protocol::Profile::parse(&self.server.profile).unwrap_or_default(),
            dpop_nonce: self.server.dpop_nonce,
            cross_site_session_state: self.server.cross_site_session_state,
            not_before: 0,
            mtls_origin: self.mtls_origin(),
            mtls: self.mtls_origin().is_some()
                || self.public_tls.as_ref().is_some_and(|tls| tls.any_client || !tls.client_ca_files.is_empty()),
            mtls_authorities: self.public_tls.as_ref().is_some_and(|tls| !tls.client_ca_files.is_empty()),
            post_quantum: self.keys.post_quantum,
            open_registration: self.registration.open,
            registration: self.registration.open || self.registration.enabled,
            client_id_metadata: self.registration.client_id_metadata,
            registration_scopes: self.registration.scopes.clone(),
            registration_resources: self.registration.resources.clone(),
            registration_grant_types: self.registration.grant_types.clone(),
            registration_require_pkce: self.registration.require_pkce,
            ..protocol::Settings::for_issuer(&self.issuer)
        }
    }
}
