//! What a deployment chooses about browser sessions.
use crate::credentials::Credentials;

/// The endpoints that the gateway has on every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub callback: String,
    pub logout: String,
    pub backchannel_logout: String,
}

/// The numbers and names of browser sessions.
pub struct SessionSettings {
    /// Who logs people in.
    pub issuer: String,
    /// The gateway's client there.
    pub client_id: String,
    /// How it proves itself; a public client does not.
    pub credentials: Option<Credentials>,
    pub scope: String,
    /// The API that its access tokens are for (RFC 8707).
    pub resource: Option<String>,
    /// The plain name of the session's cookie.
    pub cookie: String,
    /// Seconds after the login in which a session ends at the latest.
    pub lifetime: i64,
    /// Seconds without a request after which it ends.
    pub idle: i64,
    /// Whether access tokens are renewed with refresh tokens.
    pub refresh: bool,
    /// Whether the userinfo endpoint is asked at the login.
    pub userinfo: bool,
    /// Logins that one source may begin in a minute.
    pub logins_per_minute: u32,
    pub paths: Paths,
    /// Where the login server leads after a logout.
    pub post_logout_redirect_uri: Option<String>,
}
