//! Everything an OAuth or OpenID Connect client can be refused with: one table of code, status and specification.
use std::borrow::Cow;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal;)*) => {
        /// An error code of the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }
        impl Code {
            /// The wire name.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// The HTTP status where the code is not sent by redirect.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }
        }
    };
}

codes! {
    /// RFC 6749 §5.2, §4.1.2.1
    InvalidRequest = "invalid_request", 400;
    /// RFC 6749 §5.2
    InvalidClient = "invalid_client", 401;
    /// RFC 6749 §5.2
    InvalidGrant = "invalid_grant", 400;
    /// RFC 6749 §5.2, §4.1.2.1
    UnauthorizedClient = "unauthorized_client", 400;
    /// RFC 6749 §5.2
    UnsupportedGrantType = "unsupported_grant_type", 400;
    /// RFC 6749 §5.2, §4.1.2.1
    InvalidScope = "invalid_scope", 400;
    /// RFC 8707 §2
    InvalidTarget = "invalid_target", 400;
    /// RFC 6749 §4.1.2.1
    AccessDenied = "access_denied", 403;
    /// RFC 6749 §4.1.2.1
    UnsupportedResponseType = "unsupported_response_type", 400;
    /// RFC 6749 §4.1.2.1
    ServerError = "server_error", 500;
    /// RFC 6749 §4.1.2.1
    TemporarilyUnavailable = "temporarily_unavailable", 503;
    /// RFC 7009 §2.2.1
    UnsupportedTokenType = "unsupported_token_type", 400;
    /// OpenID Connect Core §3.1.2.6
    LoginRequired = "login_required", 400;
    /// OpenID Connect Core §3.1.2.6
    InteractionRequired = "interaction_required", 400;
    /// OpenID Connect Core §3.1.2.6
    ConsentRequired = "consent_required", 400;
    /// OpenID Connect Core §3.1.2.6
    AccountSelectionRequired = "account_selection_required", 400;
    /// OpenID Connect Core §3.1.2.6
    RequestNotSupported = "request_not_supported", 400;
    /// OpenID Connect Core §3.1.2.6
    RequestUriNotSupported = "request_uri_not_supported", 400;
    /// OpenID Connect Core §3.1.2.6
    RegistrationNotSupported = "registration_not_supported", 400;
    /// OpenID Connect Core §3.1.2.6, RFC 9101 §6.2
    InvalidRequestObject = "invalid_request_object", 400;
    /// OpenID Connect Core §3.1.2.6, RFC 9101 §5.2, RFC 9126 §2.2
    InvalidRequestUri = "invalid_request_uri", 400;
    /// RFC 9396 §5
    InvalidAuthorizationDetails = "invalid_authorization_details", 400;
    /// RFC 9470 §3, OpenID Connect Unmet Authentication Requirements
    UnmetAuthenticationRequirements = "unmet_authentication_requirements", 400;
    /// RFC 9470 §3
    InsufficientUserAuthentication = "insufficient_user_authentication", 401;
    /// RFC 9449 §5
    InvalidDpopProof = "invalid_dpop_proof", 400;
    /// RFC 9449 §8
    UseDpopNonce = "use_dpop_nonce", 400;
    /// RFC 8628 §3.5, CIBA §11
    AuthorizationPending = "authorization_pending", 400;
    /// RFC 8628 §3.5, CIBA §11
    SlowDown = "slow_down", 400;
    /// RFC 8628 §3.5, CIBA §11
    ExpiredToken = "expired_token", 400;
    /// CIBA §13
    ExpiredLoginHintToken = "expired_login_hint_token", 400;
    /// CIBA §13
    UnknownUserId = "unknown_user_id", 400;
    /// CIBA §13
    MissingUserCode = "missing_user_code", 400;
    /// CIBA §13
    InvalidUserCode = "invalid_user_code", 400;
    /// CIBA §13
    InvalidBindingMessage = "invalid_binding_message", 400;
    /// RFC 7591 §3.2.2
    InvalidRedirectUri = "invalid_redirect_uri", 400;
    /// RFC 7591 §3.2.2
    InvalidClientMetadata = "invalid_client_metadata", 400;
    /// RFC 7591 §3.2.2
    InvalidSoftwareStatement = "invalid_software_statement", 400;
    /// RFC 7591 §3.2.2
    UnapprovedSoftwareStatement = "unapproved_software_statement", 400;
    /// RFC 6750 §3.1
    InvalidToken = "invalid_token", 401;
    /// RFC 6750 §3.1
    InsufficientScope = "insufficient_scope", 403;
}

/// A refusal. The client hears `code` and `description`; the log hears `reason` as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.as_str())]
pub struct OAuthError {
    /// What the client hears.
    pub code: Code,
    /// What the client hears in words: constant text without anything of the request's (RFC 6749 §5.2 characters).
    pub description: &'static str,
    /// What the log hears. Never a secret, code or token.
    pub reason: Cow<'static, str>,
}

impl OAuthError {
    /// A refusal whose log text is its description.
    #[must_use]
    pub const fn new(code: Code, description: &'static str) -> Self {
        Self { code, description, reason: Cow::Borrowed(description) }
    }
    /// Tells the log more than the client.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }
    /// `invalid_request`.
    #[must_use]
    pub const fn request(description: &'static str) -> Self {
        Self::new(Code::InvalidRequest, description)
    }
    /// `invalid_grant`: always the same words, so that a guess learns nothing.
    #[must_use]
    pub fn grant(reason: &'static str) -> Self {
        Self::new(Code::InvalidGrant, "the grant is invalid, expired, revoked or was issued to another client").because(reason)
    }
    /// `invalid_client`: always the same words.
    #[must_use]
    pub fn client(reason: &'static str) -> Self {
        Self::new(Code::InvalidClient, "client authentication failed").because(reason)
    }
    /// `server_error`: a fault of ours.
    #[must_use]
    pub fn fault(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::ServerError, "the server could not complete the request").because(reason)
    }
    /// The JSON document of RFC 6749 §5.2.
    #[must_use]
    pub fn json(&self) -> String {
        // Both are constant text without quotes or backslashes.
        format!("{{\"error\":\"{}\",\"error_description\":\"{}\"}}", self.code.as_str(), self.description)
    }
}
