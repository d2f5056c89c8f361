//! `[gateway.session]`: browser sessions, and how the gateway is known to whoever logs people in.
use std::path::PathBuf;

use super::{ClientProof, Compared, Key, Reader, Seconds, Secret, check, setting};

section! {
    /// Browser sessions: the gateway as relying party (OpenID Connect). A route whose `auth.accept` names `session` sends a browser to log in
    /// there; tokens stay in the gateway's database, sealed, and the browser holds a reference. Without `client_id` there are none.
    /// Gateways that share one database share their sessions.
    SessionSection {
        /// Who logs people in: an issuer URL. Default: the gateway's authorization server. Whoever serves it may be on an inner address; of
        /// plain HTTP only on loopback.
        issuer: Option<String> = "",
        /// The gateway's client there. Its redirect URIs are `https://HOST/.doorward/callback` for every host that people come to (or
        /// what `callback_path` says); it needs the grant type `authorization_code`, and `refresh_token` where sessions are to be renewed.
        client_id: Option<String> = "",
        /// Its secret. Without a secret or key the client is public.
        client_secret: Option<Secret> = "",
        /// A file that holds the secret instead.
        client_secret_file: Option<PathBuf> = "",
        /// A private key as PKCS#8 PEM: the client proves itself by assertions signed with it (`private_key_jwt`). They name it by its
        /// RFC 7638 thumbprint, so the `kid` of the registered JWK is that.
        client_key_file: Option<PathBuf> = "",
        /// What is asked for; `openid` must be among it. With `offline_access` the session's access token is renewed for as long as the
        /// session is used, and a login that is over there is over here when the access token is.
        scope: String = r#""openid""#,
        /// The API that the session's access token is for (RFC 8707), where routes forward it.
        resource: Option<String> = "",
        /// The plain name of the session's cookie; behind TLS it is called `__Host-` and that.
        cookie: String = r#""doorward-gateway""#,
        /// When a session ends at the latest, however it is used.
        lifetime: Seconds = r#""12h""#,
        /// When a session ends that is not used; at most `24h`.
        idle: Seconds = r#""1h""#,
        /// Whether access tokens are renewed with refresh tokens while a session is used.
        refresh: bool = "true",
        /// Whether the userinfo endpoint is asked at each login: its claims may then be sent upstream, as those of the ID token may.
        userinfo: bool = "false",
        /// Logins that one source (an address, of IPv6 a /64) may begin in a minute; further ones are answered 429.
        logins_per_minute: u32 = "600",
        /// Where browsers come back from the login; taken on every host, before any route.
        callback_path: String = r#""/.doorward/callback""#,
        /// Where a person logs out: a POST from a page of the same host, or a GET that asks.
        logout_path: String = r#""/.doorward/logout""#,
        /// Where the login server tells that sessions have ended (OpenID Connect Back-Channel Logout): the client's `backchannel_logout_uri`.
        backchannel_logout_path: String = r#""/.doorward/backchannel-logout""#,
        /// Where the login server leads after a logout; registered there as `post_logout_redirect_uris`.
        post_logout_redirect_uri: Option<String> = "",
    }
}

/// Browser sessions, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// The gateway's client.
    pub client_id: String,
    /// How it proves itself; a public client does not.
    pub proof: Option<ClientProof>,
    /// Everything else.
    pub section: SessionSection,
}

impl Sessions {
    /// Checks the section. `None` if something is wrong; `Some(None)` where there are no sessions.
    pub(super) fn check(r: &mut Reader, section: SessionSection) -> Option<Option<Self>> {
        let plain = check::secret(r, "gateway.session.client_secret", section.client_secret.clone(), section.client_secret_file.as_deref());
        let key = check::secret(r, "gateway.session.client_key", None, section.client_key_file.as_deref());
        let at = |name: &str| format!("gateway.session.{name}");
        if let Some(Err(why)) = section.issuer.as_deref().map(check::issuer_is_well_formed) {
            r.wrong(&at("issuer"), &why);
        }
        if !section.scope.split(' ').any(|scope| scope == "openid") || !section.scope.split(' ').all(protocol::scope::is_token) {
            r.wrong(&at("scope"), "must be scopes separated by spaces, and \"openid\" among them");
        }
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if section.cookie.is_empty() || section.cookie.len() > 64 || !section.cookie.bytes().all(token) || section.cookie.starts_with("__")
        {
            r.wrong(&at("cookie"), "must be a plain name of letters, digits, '-', '_' and '.'; its prefix is set by itself");
        }
        if !(1..=366 * 86_400).contains(&section.lifetime.0) {
            r.wrong(&at("lifetime"), "must be between 1 second and 366 days");
        }
        if !(1..=86_400).contains(&section.idle.0) {
            r.wrong(&at("idle"), "must be between 1 second and 24 hours");
        }
        if section.logins_per_minute == 0 {
            r.wrong(&at("logins_per_minute"), "must be at least 1");
        }
        let paths = [
            ("callback_path", &section.callback_path),
            ("logout_path", &section.logout_path),
            ("backchannel_logout_path", &section.backchannel_logout_path),
        ];
        for (n, (name, path)) in paths.iter().enumerate() {
            if !edge::login::is_own_path(path) {
                r.wrong(&at(name), "must be a plain path such as \"/.doorward/callback\"");
            }
            if paths.iter().take(n).any(|(_, other)| other == path) {
                r.wrong(&at(name), "is the path of another endpoint already");
            }
        }
        for (name, uri) in [("resource", &section.resource), ("post_logout_redirect_uri", &section.post_logout_redirect_uri)] {
            if uri.as_ref().is_some_and(|uri| url::Url::parse(uri).is_err()) {
                r.wrong(&at(name), "must be a URI");
            }
        }
        let proof = match (plain?, key?) {
            (Some(_), Some(_)) => {
                r.wrong(&at("client_secret"), "give either a secret or client_key_file, not both");
                return None;
            }
            (Some(secret), None) => Some(ClientProof::Secret(secret)),
            (None, Some(key)) => {
                if gateway::credentials::signing_key(key.expose(), None).is_err() {
                    r.wrong(&at("client_key_file"), "is not a private key as PKCS#8 PEM (\"BEGIN PRIVATE KEY\")");
                }
                Some(ClientProof::Key(key))
            }
            (None, None) => None,
        };
        let Some(client_id) = section.client_id.clone() else {
            let others = SessionSection::KEYS.iter().map(|key| key.name).filter(|name| *name != "client_id");
            if let Some(name) = others.into_iter().find(|name| r.given(&at(name))) {
                r.wrong(&at("client_id"), &format!("is needed where {} is given: the gateway's client at the login server", at(name)));
            }
            return Some(None);
        };
        Some(Some(Self { client_id, proof, section }))
    }
}
