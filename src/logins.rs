//! Browser sessions from the configuration, and what has to be registered for them.
use std::sync::Arc;

use anyhow::Context as _;
use edge::{Counters, RouteTable, admission::Access};
use gateway::{
    Own, Paths, SessionParts, SessionSettings, Sessions,
    credentials::{Credentials, Proves, signing_key},
};
use outbound::Outbound;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokens::secret::Plain;
use url::Url;

use crate::{
    config::{ClientProof, Config, Role},
    foundation::Foundation,
};

/// The browser sessions of the gateway, where they are configured.
///
/// # Errors
/// There is no key to seal them with, or the client's key cannot be used.
pub fn sessions(
    config: &Config,
    foundation: &Foundation,
    own: &Own,
    counters: &Arc<dyn Counters>,
    extra_ca: &[CertificateDer<'static>],
) -> anyhow::Result<Option<Arc<Sessions>>> {
    let Some(chosen) = &config.sessions else { return Ok(None) };
    let section = &chosen.section;
    let issuer = section.issuer.clone().unwrap_or_else(|| own.issuer.to_string());
    let proves = match &chosen.proof {
        None => None,
        Some(ClientProof::Secret(secret)) => Some(Proves::Basic(Plain::new(secret.expose().to_owned()))),
        Some(ClientProof::Key(pem)) => Some(Proves::Key(signing_key(pem.expose(), None).context("gateway.session.client_key_file")?)),
        Some(ClientProof::Certificate { .. }) => Some(Proves::Certificate),
    };
    // Who logs people in was chosen by the operator: as the authorization server itself it may be on an inner address.
    let mut allow = config.outbound.allow.clone();
    allow.extend(Url::parse(&issuer).ok().and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))));
    let kek = foundation.kek.clone().context("gateway.session: there is no key-encryption key to seal sessions with (storage.key_file)")?;
    Ok(Some(Sessions::new(SessionParts {
        settings: SessionSettings {
            issuer,
            client_id: chosen.client_id.clone(),
            credentials: proves.map(|proves| Credentials { client_id: chosen.client_id.clone(), proves }),
            scope: section.scope.clone(),
            resource: section.resource.clone(),
            cookie: section.cookie.clone(),
            lifetime: section.lifetime.0,
            idle: section.idle.0.min(section.lifetime.0),
            refresh: section.refresh,
            userinfo: section.userinfo,
            logins_per_minute: section.logins_per_minute,
            paths: Paths {
                callback: section.callback_path.clone(),
                logout: section.logout_path.clone(),
                backchannel_logout: section.backchannel_logout_path.clone(),
            },
            post_logout_redirect_uri: section.post_logout_redirect_uri.clone(),
        },
        kek,
        store: foundation.store.clone(),
        outbound: Arc::new(Outbound::new(&allow, extra_ca).context("the rules for outbound calls")?),
        clock: foundation.clock.clone(),
        entropy: foundation.entropy.clone(),
        counters: counters.clone(),
        revoked: foundation.revoked.clone(),
        own: own.clone(),
    })))
}

/// The names of the gateway's own cookies, which upstreams neither see nor set.
#[must_use]
pub fn cookies(config: &Config) -> Vec<String> {
    let mut names = vec!["doorward".to_owned()];
    names.extend(config.sessions.as_ref().map(|chosen| chosen.section.cookie.clone()));
    names
}

/// What is missing where routes accept sessions that nothing was configured for.
#[must_use]
pub fn lacking(config: &Config, table: &RouteTable) -> Option<String> {
    let accepting = table.entries().iter().find(|entry| matches!(&entry.access, Access::Guarded(guard) if guard.accepts.session))?;
    if config.sessions.is_some() || !config.plays(Role::Gateway) {
        return None;
    }
    Some(format!(
        "routes[{}].auth.accept: \"session\" needs [gateway.session] client_id and client_secret_file: a client of the login server. Here the \
         seed is {} with HOST as people know the gateway",
        accepting.id,
        seed(config)
    ))
}

/// The seed that registers the gateway's client.
fn seed(config: &Config) -> Value {
    let origin = if config.gateway_tls.is_some() || !config.server.gateway_listen.ip().is_loopback() {
        "https://HOST".to_owned()
    } else {
        format!("http://{}", config.server.gateway_listen)
    };
    json!({"clients": [{
        "client_id": "gateway-session", "first_party": true, "scope": "openid offline_access",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "redirect_uris": [format!("{origin}/.doorward/callback")],
        "backchannel_logout_uri": format!("{origin}/.doorward/backchannel-logout"),
    }]})
}
