//! The gateway's client at its authorization server; where both are one process, its token requests go there without a socket.
use std::{
    net::{Ipv6Addr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use axum::{Router, body::Body};
use futures_util::FutureExt as _;
use gateway::{
    credentials::{self, Credentials, Proves},
    exchange::{ExchangeError, Exchanged, Exchanges, Order},
    remote::{self, Remote},
};
use http::{HeaderValue, Method, Request, header};
use rustls_pki_types::CertificateDer;
use tokens::{Clock, Entropy, secret::Plain};
use tower::Service as _;
use web::Peer;

use crate::config::{AuthorizationServer, ClientProof, Config, GatewayClient, Role};

/// The longest answer read, octets.
const MOST: usize = 64 * 1024;

/// The public side of this process's own authorization server, always the latest.
pub type Slot = Arc<ArcSwapOption<Router>>;

/// How the configured client proves itself, and with what TLS it calls.
///
/// # Errors
/// Its key or certificate cannot be used.
pub fn credentials(client: &GatewayClient, extra_ca: &[CertificateDer<'static>]) -> anyhow::Result<(Credentials, rustls::ClientConfig)> {
    let mut tls = ::outbound::client_config(extra_ca)?;
    let proves = match &client.proof {
        ClientProof::Secret(secret) => Proves::Basic(Plain::new(secret.expose().to_owned())),
        ClientProof::Key(pem) => Proves::Key(credentials::signing_key(pem.expose(), None).context("gateway.client_key_file")?),
        ClientProof::Certificate { chain, key } => {
            let chain = credentials::certificates(chain).context("gateway.client_certificate_file")?;
            let key = credentials::private_key(key.expose()).context("gateway.client_key_file")?;
            ::outbound::identify(&mut tls, chain, key).context("gateway.client_certificate_file and client_key_file")?;
            Proves::Certificate
        }
    };
    Ok((Credentials { client_id: client.client_id.clone(), proves }, tls))
}

/// Who exchanges tokens for a gateway whose authorization server is this very database: this process, if it plays it, and else another node
/// at the issuer's address. `None` without a client to do it as.
///
/// # Errors
/// The client's key or certificate, or the issuer's address, cannot be used.
pub fn exchanges(
    config: &Config,
    slot: &Slot,
    extra_ca: &[CertificateDer<'static>],
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> anyhow::Result<Option<Arc<dyn Exchanges>>> {
    let (Some(client), AuthorizationServer::Own) = (&config.gateway_client, &config.authorization_server) else { return Ok(None) };
    let (credentials, tls) = credentials(client, extra_ca)?;
    if config.plays(Role::Auth) && !matches!(credentials.proves, Proves::Certificate) {
        return Ok(Some(Arc::new(Inward { slot: slot.clone(), issuer: config.issuer.clone(), credentials, clock, entropy })));
    }
    let issuer = config.issuer.clone();
    let elsewhere = remote::Config { issuer, credentials, signed_introspection: false, tls, clock, entropy };
    Ok(Some(Remote::new(elsewhere).context("server.issuer")?))
}

/// Token requests within the process.
struct Inward {
    slot: Slot,
    issuer: String,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

#[async_trait]
impl Exchanges for Inward {
    async fn exchange(&self, order: &Order) -> Result<Exchanged, ExchangeError> {
        let router = self.slot.load_full().ok_or(ExchangeError::Unavailable)?;
        let proof = self.credentials.prove(&self.issuer, self.clock.now(), &*self.entropy);
        let (headers, proof) = proof.map_err(|_| ExchangeError::Unavailable)?;
        let pairs = order.form().into_iter().chain(proof.iter().map(|(name, value)| (*name, value.as_str())));
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let issuer = url::Url::parse(&self.issuer).map_err(|_| ExchangeError::Unavailable)?;
        let mut request = Request::new(Body::from(form));
        *request.method_mut() = Method::POST;
        let path = format!("{}/token", issuer.path().trim_end_matches('/'));
        *request.uri_mut() = path.parse().map_err(|_| ExchangeError::Unavailable)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let authority = &issuer[url::Position::BeforeHost..url::Position::AfterPort];
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| ExchangeError::Unavailable)?);
        request.extensions_mut().insert(Peer(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))));
        let mut router = Router::clone(&router);
        let answered = AssertUnwindSafe(router.call(request)).catch_unwind().await.map_err(|_| ExchangeError::Unavailable)?;
        let Ok(answer) = answered;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), MOST).await.map_err(|_| ExchangeError::Nonsense)?;
        Exchanged::read(status, &body)
    }
}
