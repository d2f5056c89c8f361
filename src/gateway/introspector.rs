//! Asking trusted issuers about their tokens (RFC 7662): each as the client it knows us as, few questions at a time.
use std::sync::Arc;

use ahash::AHashMap;
use edge::{introspection, table::Trusted};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ledger::ObjectKind;
use outbound::{Call, Outbound};
use parking_lot::Mutex;
use serde_json::Value;
use tokens::{Alg, secret::Plain};
use tokio::sync::Semaphore;

use crate::{
    Gateway,
    credentials::{self, Credentials, Proves},
    jwks::Jwks,
    signed_answer,
    source::{IntrospectError, Introspection},
};

/// Most questions on their way to one issuer.
const IN_FLIGHT: usize = 64;
/// Most of them about tokens that were never good here.
const STRANGERS: usize = IN_FLIGHT / 4 * 3;
/// How long what could not be prepared (a secret that is not there) is not tried again.
const AGAIN_MS: i64 = 5_000;

/// The issuers that are asked, each prepared once for the table it is in.
#[derive(Default)]
pub(crate) struct Introspectors {
    of: Mutex<AHashMap<Arc<str>, Prepared>>,
}

struct Prepared {
    trusted: Arc<Trusted>,
    /// When it could not be.
    made: Result<Arc<Introspector>, i64>,
}

struct Introspector {
    issuer: Arc<str>,
    endpoint: String,
    credentials: Credentials,
    signed: bool,
    keys: Arc<Jwks>,
    outbound: Arc<Outbound>,
    room: Semaphore,
    strangers: Semaphore,
}

impl Introspectors {
    /// Asks an issuer about a token, which may have been good before.
    pub(crate) async fn introspect(
        &self,
        gateway: &Gateway,
        trusted: &Arc<Trusted>,
        token: &str,
        was_good: bool,
    ) -> Result<Introspection, IntrospectError> {
        let asked = match self.prepared(gateway, trusted).await {
            Some(introspector) => introspector.ask(gateway, token, was_good).await,
            None => Err(IntrospectError::Unavailable),
        };
        let outcome = match &asked {
            Ok(Introspection::Active(_)) => "active",
            Ok(Introspection::Inactive) => "inactive",
            Err(IntrospectError::Unavailable) => "unavailable",
            Err(IntrospectError::Nonsense) => "nonsense",
        };
        metrics::counter!("introspection_total", "issuer" => trusted.issuer.to_string(), "outcome" => outcome).increment(1);
        asked
    }

    async fn prepared(&self, gateway: &Gateway, trusted: &Arc<Trusted>) -> Option<Arc<Introspector>> {
        let now_ms = gateway.parts().clock.now_ms();
        if let Some(known) = self.of.lock().get(&trusted.issuer).filter(|known| Arc::ptr_eq(&known.trusted, trusted)) {
            match &known.made {
                Ok(introspector) => return Some(Arc::clone(introspector)),
                Err(tried) if (0..AGAIN_MS).contains(&(now_ms - tried)) => return None,
                Err(_) => {}
            }
        }
        let made = prepare(gateway, trusted).await.map(Arc::new).map_err(|why| {
            tracing::error!(target: "gateway", issuer = &*trusted.issuer, why, "this issuer cannot be asked about its tokens");
            now_ms
        });
        let introspector = made.as_ref().ok().map(Arc::clone);
        self.of.lock().insert(Arc::clone(&trusted.issuer), Prepared { trusted: Arc::clone(trusted), made });
        introspector
    }
}

async fn prepare(gateway: &Gateway, trusted: &Arc<Trusted>) -> Result<Introspector, &'static str> {
    let written = trusted.introspection.as_ref().ok_or("no introspection is registered")?;
    let parts = gateway.parts();
    let secret = match (&parts.store, &parts.means.kek) {
        (Some(store), Some(kek)) => {
            let sealed = store.secret(ObjectKind::TrustedIssuer, &trusted.id, introspection::SLOT).await.map_err(|_| "storage is away")?;
            let sealed = sealed.ok_or("its secret is not there: give introspection.secret")?;
            let plain = kek
                .open(&introspection::place(&trusted.id), &sealed)
                .map_err(|_| "its secret does not open with this key-encryption key")?;
            Plain::new(String::from_utf8(plain.to_vec()).map_err(|_| "its secret is not text")?)
        }
        _ => return Err("this process has no key-encryption key to open its secret with"),
    };
    let mut outbound = Arc::clone(&parts.outbound);
    let proves = match written.method() {
        "client_secret_post" => Proves::Post(secret),
        "private_key_jwt" => {
            let alg = written.signing_alg.as_deref().and_then(Alg::parse);
            Proves::Key(
                credentials::signing_key(secret.expose(), alg)
                    .map_err(|_| "its secret is no private key (PKCS#8 PEM) of that algorithm")?,
            )
        }
        "tls_client_auth" => {
            let pem = written.certificate.as_deref().unwrap_or_default();
            let chain = credentials::certificates(pem).map_err(|_| "its certificate is not PEM")?;
            let key = credentials::private_key(secret.expose()).map_err(|_| "its secret is no private key as PEM")?;
            outbound = Arc::new(outbound.with_identity(chain, key).map_err(|_| "its certificate and key do not belong together")?);
            Proves::Certificate
        }
        _ => Proves::Basic(secret),
    };
    Ok(Introspector {
        issuer: Arc::clone(&trusted.issuer),
        endpoint: written.endpoint.clone(),
        credentials: Credentials { client_id: written.client_id.clone(), proves },
        signed: written.signed_response,
        keys: gateway.foreign_keys(trusted),
        outbound,
        room: Semaphore::new(IN_FLIGHT),
        strangers: Semaphore::new(STRANGERS),
    })
}

impl Introspector {
    async fn ask(&self, gateway: &Gateway, token: &str, was_good: bool) -> Result<Introspection, IntrospectError> {
        let away = |_| IntrospectError::Unavailable;
        // Beyond so many questions an issuer is down or somebody makes tokens up: nobody waits in line.
        let _room = self.room.try_acquire().map_err(|_| IntrospectError::Unavailable)?;
        let _strangers = match was_good {
            true => None,
            false => Some(self.strangers.try_acquire().map_err(|_| IntrospectError::Unavailable)?),
        };
        let now = || gateway.parts().clock.now();
        let (mut headers, proof) =
            self.credentials.prove(&self.issuer, now(), &*gateway.parts().entropy).map_err(|_| IntrospectError::Unavailable)?;
        let accept = if self.signed { signed_answer::MEDIA_TYPE } else { "application/json" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body =
            form([("token", token), ("token_type_hint", "access_token")].into_iter().chain(proof.iter().map(|(n, v)| (*n, v.as_str()))));
        let call = Call { method: Method::POST, url: &self.endpoint, headers, body: body.into() };
        let reply = self.outbound.call(call).await.map_err(|why| {
            tracing::warn!(target: "gateway", issuer = &*self.issuer, %why, "an issuer did not answer about a token");
            away(why)
        })?;
        if reply.status != StatusCode::OK {
            tracing::warn!(target: "gateway", issuer = &*self.issuer, status = reply.status.as_u16(), "an issuer did not answer about a token");
            return Err(IntrospectError::Unavailable);
        }
        let whose = (&*self.issuer, self.credentials.client_id.as_str());
        Introspection::from_value(read(&reply.headers, &reply.body, self.signed, whose, &*self.keys, now()).await?)
    }
}

/// Reads an answer: signed if it has to be, and not if it was not asked to be.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: &[u8],
    signed: bool,
    whose: (&str, &str),
    keys: &dyn crate::KeySource,
    now: i64,
) -> Result<Value, IntrospectError> {
    if signed != signed_answer::is_signed(headers) {
        return Err(IntrospectError::Nonsense);
    }
    if signed {
        return signed_answer::open(body, whose, keys, now).await;
    }
    // No member twice: which of them counts is anybody's guess.
    tokens::strict::value(body).map_err(|_| IntrospectError::Nonsense)
}

/// A form (WHATWG URL §5.2).
pub(crate) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
