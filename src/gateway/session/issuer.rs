//! The login server as its client sees it: metadata, keys, and the calls an OAuth client makes (RFC 6749 §3.2, RFC 9126, RFC 7009).
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use edge::{
    id_token::{self, Beside, Expected, Logout, Person},
    login::{Failed, Provider, form},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use outbound::{Call, Outbound, Reply};
use serde_json::Value;
use tokens::{Clock, Entropy, jwk::VerifyingKey, jws::Parsed, secret::Plain};
use tokio::sync::Mutex;

use super::settings::SessionSettings;
use crate::{
    credentials::{Credentials, Proves},
    jwks::Jwks,
    source::KeySource,
};

/// How long metadata is used before it is fetched again.
const METADATA_MS: i64 = 600_000;
/// At most one try in this time while the issuer is away.
const PAUSE_MS: i64 = 2_000;
/// Seconds of an access token whose lifetime is not told.
const UNTOLD: i64 = 300;
/// The longest token that is kept, octets.
const MAX_TOKEN: usize = 16 * 1024;

/// What a token endpoint gave.
pub(super) struct Granted {
    pub access: Plain,
    pub access_until_ms: i64,
    pub refresh: Option<Plain>,
    pub id_token: Option<Plain>,
    pub scope: Option<String>,
}

/// Why it gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It cannot be reached, or its answer was lost: it may have done what was asked.
    Away,
    /// It said no to what was shown: code or refresh token are worth nothing.
    Grant,
    /// It said no to something else, or nothing that makes sense.
    Other,
}

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Away => Self::new("temporarily_unavailable", "issuer_away"),
            Denied::Grant => Self::new("invalid_request", "code_refused"),
            Denied::Other => Self::new("server_error", "issuer_answer"),
        }
    }
}

struct Known {
    provider: Arc<Provider>,
    keys: Arc<Jwks>,
    until_ms: i64,
}

/// The login server.
pub(super) struct LoginServer {
    outbound: Arc<Outbound>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    known: ArcSwapOption<Known>,
    /// When it was last tried in vain, milliseconds.
    tried: Mutex<i64>,
}

impl LoginServer {
    pub(super) fn new(outbound: Arc<Outbound>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { outbound, clock, entropy, known: ArcSwapOption::empty(), tried: Mutex::new(i64::MIN / 2) }
    }

    /// Its metadata, fetched now and then; while it is away, what was known last.
    pub(super) async fn provider(&self, settings: &SessionSettings) -> Result<Arc<Provider>, Denied> {
        self.known(settings).await.map(|known| Arc::clone(&known.provider))
    }

    async fn known(&self, settings: &SessionSettings) -> Result<Arc<Known>, Denied> {
        let current = |now: i64| self.known.load_full().filter(|known| known.until_ms > now);
        if let Some(known) = current(self.clock.now_ms()) {
            return Ok(known);
        }
        let mut tried = self.tried.lock().await;
        let now = self.clock.now_ms();
        if let Some(known) = current(now) {
            return Ok(known);
        }
        let last = self.known.load_full();
        if now - *tried < PAUSE_MS {
            return last.ok_or(Denied::Away);
        }
        let url = format!("{}/.well-known/openid-configuration", settings.issuer.trim_end_matches('/'));
        let read = match self.outbound.get(&url).await {
            Ok(document) => Provider::read(&document, &settings.issuer),
            Err(_) => Err("it cannot be fetched"),
        };
        match read {
            Ok(provider) => {
                let keys = match &last {
                    Some(known) if known.keys.uri() == provider.jwks_uri => Arc::clone(&known.keys),
                    _ => {
                        let source = Arc::clone(&self.outbound);
                        Arc::new(Jwks::new(&settings.issuer, &provider.jwks_uri, source, Arc::clone(&self.clock)))
                    }
                };
                let known = Arc::new(Known { provider: Arc::new(provider), keys, until_ms: now + METADATA_MS });
                self.known.store(Some(Arc::clone(&known)));
                Ok(known)
            }
            Err(why) => {
                *tried = self.clock.now_ms();
                tracing::warn!(target: "gateway", issuer = settings.issuer, why, "the login server's metadata is not usable");
                last.ok_or(Denied::Away)
            }
        }
    }

    /// The key that signed a token of its, if it is one of its keys now.
    async fn key(&self, settings: &SessionSettings, parsed: &Parsed<'_>) -> Result<VerifyingKey, Failed> {
        let known = self.known(settings).await?;
        if known.keys.due() {
            known.keys.refresh().await;
        }
        let find = || known.keys.find(parsed.kid.as_deref(), parsed.alg);
        if let Some(key) = find() {
            return Ok(key);
        }
        known.keys.refresh().await;
        match find() {
            Some(key) => Ok(key),
            None if known.keys.usable() => Err(Failed::new("server_error", "unknown_key")),
            None => Err(Failed::new("temporarily_unavailable", "keys")),
        }
    }

    /// Believes an ID token; the id of its key comes with it.
    pub(super) async fn person(
        &self,
        settings: &SessionSettings,
        text: &str,
        beside: &Beside<'_>,
    ) -> Result<(Person, Option<String>), Failed> {
        let wrong = |why| Failed::new("server_error", why);
        let parsed = Parsed::parse(text).map_err(|refusal| wrong(refusal.reason()))?;
        let key = self.key(settings, &parsed).await?;
        let provider = self.provider(settings).await?;
        let person = id_token::believe(&parsed, &key, &self.expected(settings, &provider), beside).map_err(wrong)?;
        Ok((person, key.kid().map(str::to_owned)))
    }

    /// Believes a logout token.
    pub(super) async fn logout(&self, settings: &SessionSettings, text: &str) -> Result<Logout, Failed> {
        let wrong = |why| Failed::new("invalid_request", why);
        let parsed = Parsed::parse(text).map_err(|refusal| wrong(refusal.reason()))?;
        let key = self.key(settings, &parsed).await?;
        let provider = self.provider(settings).await?;
        id_token::logout(&parsed, &key, &self.expected(settings, &provider)).map_err(wrong)
    }

    fn expected<'a>(&self, settings: &'a SessionSettings, provider: &'a Provider) -> Expected<'a> {
        Expected { issuer: &settings.issuer, client_id: &settings.client_id, algorithms: &provider.algorithms, now: self.clock.now() }
    }

    /// Pushes an authorization request (RFC 9126 §2): the `request_uri` that stands for it.
    pub(super) async fn push(
        &self,
        settings: &SessionSettings,
        provider: &Provider,
        endpoint: &str,
        parameters: &[(&'static str, String)],
    ) -> Result<String, Denied> {
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = self.post(settings, provider, endpoint, parameters).await?;
        if reply.status.is_server_error() {
            return Err(Denied::Away);
        }
        let answer: Value = serde_json::from_slice(&reply.body).map_err(|_| Denied::Other)?;
        if reply.status != StatusCode::CREATED && reply.status != StatusCode::OK {
            tracing::warn!(
                target: "gateway", status = reply.status.as_u16(), error = error_of(&answer), "the login server refuses the gateway's requests"
            );
            return Err(Denied::Other);
        }
        answer.get("request_uri").and_then(Value::as_str).map(str::to_owned).ok_or(Denied::Other)
    }

    /// Asks the token endpoint.
    pub(super) async fn tokens(
        &self,
        settings: &SessionSettings,
        provider: &Provider,
        parameters: Vec<(&str, &str)>,
    ) -> Result<Granted, Denied> {
        // Its lifetime began somewhere on the way.
        let asked_ms = self.clock.now_ms();
        let reply = self.post(settings, provider, &provider.token_endpoint, parameters).await?;
        if reply.status.is_server_error() {
            return Err(Denied::Away);
        }
        let answer: Value = serde_json::from_slice(&reply.body).map_err(|_| Denied::Other)?;
        if reply.status != StatusCode::OK {
            let error = error_of(&answer);
            tracing::info!(target: "gateway", status = reply.status.as_u16(), error, "the login server gave no tokens");
            return Err(if error == "invalid_grant" { Denied::Grant } else { Denied::Other });
        }
        read(&answer, asked_ms).ok_or(Denied::Other)
    }

    /// Lets a token die (RFC 7009). Best effort: the session is over anyway.
    pub(super) async fn revoke(&self, settings: &SessionSettings, provider: &Provider, token: &str) {
        let Some(endpoint) = provider.revocation_endpoint.as_deref() else { return };
        if let Err(why) = self.post(settings, provider, endpoint, vec![("token", token)]).await {
            tracing::warn!(target: "gateway", ?why, "a session's token could not be revoked");
        }
    }

    /// What the userinfo endpoint tells (Core §5.3).
    pub(super) async fn userinfo(&self, endpoint: &str, access: &str) -> Option<Value> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {access}")).ok()?);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let call = Call { method: Method::GET, url: endpoint, headers, body: Bytes::new() };
        let reply = self.outbound.call(call).await.ok().filter(|reply| reply.status == StatusCode::OK)?;
        serde_json::from_slice(&reply.body).ok()
    }

    async fn post(
        &self,
        settings: &SessionSettings,
        provider: &Provider,
        endpoint: &str,
        mut parameters: Vec<(&str, &str)>,
    ) -> Result<Reply, Denied> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let proof = match &settings.credentials {
            None => vec![("client_id", settings.client_id.clone())],
            Some(Credentials { proves: Proves::Basic(secret), .. }) if provider.secret_in_form => {
                vec![("client_id", settings.client_id.clone()), ("client_secret", secret.expose().to_owned())]
            }
            Some(credentials) => {
                let (more, form) = credentials.prove(&settings.issuer, self.clock.now(), &*self.entropy).map_err(|_| Denied::Other)?;
                headers.extend(more);
                form
            }
        };
        let here: Vec<&str> = parameters.iter().map(|(name, _)| *name).collect();
        let more: Vec<(&str, &str)> =
            proof.iter().filter(|(name, _)| !here.contains(name)).map(|(name, value)| (*name, value.as_str())).collect();
        parameters.extend(more);
        let body = Bytes::from(form(&parameters));
        self.outbound.call(Call { method: Method::POST, url: endpoint, headers, body }).await.map_err(|why| {
            tracing::warn!(target: "gateway", endpoint, %why, "the login server does not answer");
            Denied::Away
        })
    }
}

/// The OAuth code of an error, if it is one that may stand in a log.
fn error_of(answer: &Value) -> &str {
    let error = answer.get("error").and_then(Value::as_str).unwrap_or("unknown");
    if error.len() <= 64 && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') { error } else { "unknown" }
}

/// Reads the answer of a token endpoint (RFC 6749 §5.1). A token that is bound to a key is of no use here.
fn read(answer: &Value, now_ms: i64) -> Option<Granted> {
    let text = |name: &str| match answer.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TOKEN => Some(Some(Plain::new(text.clone()))),
        Some(_) => None,
    };
    let access = text("access_token")??;
    let printable = |token: &Plain| token.expose().bytes().all(|b| b.is_ascii_graphic());
    let bearer = answer.get("token_type").and_then(Value::as_str).is_some_and(|typ| typ.eq_ignore_ascii_case("bearer"));
    if !bearer || !printable(&access) {
        return None;
    }
    let lives = answer.get("expires_in").and_then(Value::as_i64).unwrap_or(UNTOLD).clamp(1, 366 * 86_400);
    Some(Granted {
        access,
        access_until_ms: now_ms.saturating_add(lives * 1000),
        refresh: text("refresh_token")?,
        id_token: text("id_token")?,
        scope: text("scope")?.map(|scope| scope.expose().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_whole_answer_with_a_bearer_token_counts() {
        let good = json!({"access_token": "a", "token_type": "bearer", "expires_in": 10, "scope": "openid"});
        assert_eq!(read(&good, 1_000).map(|granted| granted.access_until_ms), Some(11_000));
        for (name, value) in [
            ("token_type", json!("DPoP")),
            ("token_type", Value::Null),
            ("access_token", json!("")),
            ("access_token", json!("a\r\nb")),
            ("access_token", json!("x".repeat(20_000))),
            ("refresh_token", json!(5)),
            ("id_token", json!({})),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert!(read(&bad, 0).is_none(), "{name}");
        }
        assert_eq!(error_of(&json!({"error": "invalid_grant"})), "invalid_grant");
        assert_eq!(error_of(&json!({"error": "<b>\u{7}"})), "unknown");
    }
}
