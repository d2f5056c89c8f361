//! The numbers and names a deployment chooses, as the protocol sees them.

/// Lifetimes and identity of the authorization server. Durations in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Exact issuer identifier (RFC 8414 §2), no trailing slash unless configured so.
    pub issuer: String,
    pub code_ttl: i64,
    pub access_token_ttl: i64,
    /// Absolute lifetime of a refresh family.
    pub refresh_token_ttl: i64,
    /// A refresh token unused for this long is dead.
    pub refresh_idle: i64,
    /// Retry window for the immediate predecessor, 0..=10.
    pub refresh_grace: i64,
    pub session_ttl: i64,
    /// How long a login or consent page may wait.
    pub interaction_ttl: i64,
    /// A pushed authorization request (RFC 9126).
    pub par_ttl: i64,
    /// A device code (RFC 8628), and a backchannel request without `requested_expiry` (CIBA).
    pub device_code_ttl: i64,
    /// The set of rules.
    pub profile: Profile,
    /// Whether a DPoP proof has to carry a nonce of ours (RFC 9449 §8).
    pub dpop_nonce: bool,
    /// Whether anyone may register a client; otherwise an initial access token is needed (RFC 7591 §3).
    pub open_registration: bool,
    /// Whether there is a registration endpoint at all.
    pub registration: bool,
    /// Scopes that registered clients may ask for at most.
    pub registration_scopes: Vec<String>,
    /// Resources that registered clients may ask for (RFC 8707).
    pub registration_resources: Vec<String>,
    /// Grant types that clients may use which registered or published themselves.
    pub registration_grant_types: Vec<String>,
    /// Whether registered confidential clients that speak OpenID Connect need PKCE too (public ones always do).
    pub registration_require_pkce: bool,
    /// Whether a URL may serve as `client_id` (client ID metadata documents).
    pub client_id_metadata: bool,
    /// The origin of the listener that asks for client certificates, if it is another than the issuer's (RFC 8705 §5).
    pub mtls_origin: Option<String>,
    /// Whether a public listener of this server asks for client certificates.
    pub mtls: bool,
    /// Whether it knows authorities of client certificates: without one no chain is trusted, and `tls_client_auth` cannot succeed.
    pub mtls_authorities: bool,
    /// Whether ML-DSA-65 keys sign beside the classical ones (RFC 9964).
    pub post_quantum: bool,
    /// Whether clients of other sites may ask for the state of the login too, by a cookie of its own.
    pub cross_site_session_state: bool,
    /// No assertion made before this counts, seconds since the epoch: the database was restored then, and which were used after its backup
    /// is not known. 0 where it never was.
    pub not_before: i64,
}

/// The set of rules a deployment lives by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// OAuth 2.1 and OpenID Connect, code flow.
    #[default]
    Standard,
    /// Compatibility: what the Dynamic, Implicit and Hybrid certification profiles of OpenID Connect demand besides.
    OidcDynamic,
    /// FAPI 2.0 Security Profile for every client.
    Fapi2,
}

impl Profile {
    /// The configured name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::OidcDynamic => "oidc-dynamic",
            Self::Fapi2 => "fapi2",
        }
    }
    /// The profile of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Standard, Self::OidcDynamic, Self::Fapi2].into_iter().find(|p| p.as_str() == name)
    }
}

impl Settings {
    /// The longest any access token may live (bounds how long a revocation must be remembered).
    pub const MAX_ACCESS_TOKEN_TTL: i64 = 24 * 3600;
    /// Clock leeway accepted, seconds.
    pub const LEEWAY: i64 = 10;

    /// The contract's defaults for an issuer.
    #[must_use]
    pub fn for_issuer(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            code_ttl: 60,
            access_token_ttl: 300,
            refresh_token_ttl: 30 * 86400,
            refresh_idle: 7 * 86400,
            refresh_grace: 0,
            session_ttl: 12 * 3600,
            interaction_ttl: 1800,
            par_ttl: 60,
            device_code_ttl: 600,
            profile: Profile::Standard,
            dpop_nonce: false,
            open_registration: false,
            registration: false,
            registration_scopes: crate::scope::IDENTITY.map(str::to_owned).to_vec(),
            registration_resources: Vec::new(),
            registration_grant_types: crate::grants::OF_STRANGERS.map(str::to_owned).to_vec(),
            registration_require_pkce: false,
            client_id_metadata: false,
            mtls_origin: None,
            mtls: false,
            mtls_authorities: false,
            post_quantum: false,
            cross_site_session_state: false,
            not_before: 0,
        }
    }

    /// Clock difference beyond which a time of somebody else's is refused, seconds (CONTRACT §5).
    pub const SKEW: i64 = 60;

    /// An endpoint where client certificates are asked for, if that is another address (RFC 8705 §5).
    #[must_use]
    pub fn mtls_url(&self, path: &str) -> Option<String> {
        let own = url::Url::parse(&self.issuer).ok()?.path().trim_end_matches('/').to_owned();
        self.mtls_origin.as_ref().map(|origin| format!("{origin}{own}{path}"))
    }

    /// An endpoint of the issuer.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer.trim_end_matches('/'))
    }
}
