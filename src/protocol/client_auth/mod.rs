//! Client authentication (RFC 6749 §2.3, RFC 7523, RFC 8705): who presents what, and whether it is them.
pub mod assertion;
pub mod basic;
mod keys;
pub mod none;
pub mod post;
pub(crate) mod registered;
mod self_signed;
pub(crate) mod tls;
mod workload;

use std::sync::Arc;

use ledger::{Change, Guarded, ObjectKind, Step};
use tokens::{
    Alg,
    certificate::Certificate,
    secret::{MacKey, Plain},
};

pub use self::keys::Keys;
use crate::{Client, Form, OAuthError, Profile, Scope, Settings, scope};

/// A client as authentication needs it: its registration and the MACs of its live secrets.
pub struct KnownClient {
    /// The registration.
    pub client: Arc<Client>,
    /// What it may ask for, parsed once.
    pub scope: Scope,
    /// The version of its object: whatever is given because of this copy is given only while that stands.
    pub version: i64,
    macs: [Option<Vec<u8>>; 2],
}

impl KnownClient {
    /// Slot of the current secret's MAC.
    pub const SECRET: &'static str = "secret";
    /// Slot of the former secret's MAC while a rotation lets both live.
    pub const PREVIOUS_SECRET: &'static str = "secret_previous";
    /// Domain of those MACs.
    pub const DOMAIN: &'static str = "client_secret";

    /// A client with what the store holds in its two slots.
    #[must_use]
    pub fn new(client: Client, version: i64, macs: [Option<Vec<u8>>; 2]) -> Self {
        let scope = Scope::parse(&client.scope).unwrap_or_default();
        Self { client: Arc::new(client), scope, version, macs }
    }

    /// The guard of every change that gives this client something: it was not disabled, deleted or changed meanwhile.
    #[must_use]
    pub fn unchanged(&self) -> Step {
        Step::ObjectIs { kind: ObjectKind::Client, id: self.client.client_id.clone(), version: self.version }
    }
}

impl std::fmt::Debug for KnownClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownClient").field("client", &self.client).finish_non_exhaustive()
    }
}

/// How a client presented itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `client_secret_basic`
    Basic,
    /// `client_secret_post`
    Post,
    /// `private_key_jwt`: a signed assertion, its own or its platform's.
    PrivateKeyJwt,
    /// `tls_client_auth`: a certificate of a trusted authority.
    TlsClientAuth,
    /// `self_signed_tls_client_auth`: a registered certificate.
    SelfSignedTls,
    /// `none`: a public client names itself.
    None,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 6] = [Self::Basic, Self::Post, Self::PrivateKeyJwt, Self::TlsClientAuth, Self::SelfSignedTls, Self::None];

    /// The methods that work here, as metadata lists them: those with certificates where somebody asks for one; no shared secrets and
    /// no public clients under FAPI 2.0 (§5.3.2.1).
    #[must_use]
    pub fn offered(settings: &Settings) -> Vec<Self> {
        Self::ALL.into_iter().filter(|method| method.works(settings)).collect()
    }

    const fn works(self, settings: &Settings) -> bool {
        match self {
            Self::Basic | Self::Post | Self::None => !matches!(settings.profile, Profile::Fapi2),
            Self::PrivateKeyJwt => true,
            Self::TlsClientAuth => settings.mtls && settings.mtls_authorities,
            Self::SelfSignedTls => settings.mtls,
        }
    }

    /// The registered name (RFC 7591 §2).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
            Self::SelfSignedTls => "self_signed_tls_client_auth",
            Self::None => "none",
        }
    }
    /// The method of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }
}

/// What a request shows of its client, before anybody looked whether it is true.
#[derive(Debug)]
pub struct Presented {
    /// Who it says it is.
    pub client_id: String,
    /// How.
    pub method: Method,
    /// Its secret as it may have been meant: decoded, and as it came if that differs.
    secrets: Vec<Plain>,
    assertion: Option<assertion::Shown>,
}

/// Whose keys an authentication has to be checked with: to be had before [`authenticate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs<'a> {
    /// Nobody's.
    Nothing,
    /// The client's own, that of this id among them.
    Client(Option<&'a str>),
    /// The client's own, that of the certificate it shows among them.
    Certificate,
    /// Those of the trusted issuer that vouches for it.
    Issuer(&'a str, Option<&'a str>),
}

impl Presented {
    /// Whose keys are needed.
    #[must_use]
    pub fn needs<'a>(&'a self, client: &'a Client) -> Needs<'a> {
        if client.token_endpoint_auth_method == Method::SelfSignedTls.as_str() {
            return Needs::Certificate;
        }
        let Some(assertion) = self.assertion.as_ref().filter(|_| client.token_endpoint_auth_method == Method::PrivateKeyJwt.as_str())
        else {
            return Needs::Nothing;
        };
        match &client.workload_identity {
            Some(workload) if assertion.issuer == workload.issuer => Needs::Issuer(&workload.issuer, assertion.kid.as_deref()),
            _ => Needs::Client(assertion.kid.as_deref()),
        }
    }
}

/// What authentication is decided with.
pub struct Means<'a> {
    /// Key of the MACs of stored secrets.
    pub mac: &'a MacKey,
    /// This server.
    pub settings: &'a Settings,
    /// The path of the endpoint that is asked.
    pub path: &'a str,
    /// Seconds since the epoch.
    pub now: i64,
    /// The keys of whom [`Presented::needs`] named.
    pub keys: &'a Keys,
    /// The algorithms of the issuer it named.
    pub issuer_algorithms: &'a [Alg],
    /// The client certificate of the connection.
    pub certificate: Option<&'a Certificate>,
}

/// A client that proved who it is (or a public one that named itself). Token, introspection and revocation need one.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    known: Arc<KnownClient>,
    method: Method,
    once: Option<Step>,
}

impl AuthenticatedClient {
    /// Its registration.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.known.client
    }
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.known.client.client_id
    }
    /// The guard of every change that gives it something.
    #[must_use]
    pub fn unchanged(&self) -> Step {
        self.known.unchanged()
    }
    /// A change together with the guard that what proved the client is used once (RFC 7523 §3 `jti`). Every change that gives it something
    /// goes through here; an endpoint that changes nothing applies this to an empty one before it answers.
    #[must_use]
    pub fn spend(&self, mut change: Change) -> Change {
        change.steps.extend(self.once.clone());
        change
    }
    /// Whether the guard that [`AuthenticatedClient::spend`] added to a change of so many steps refused it: the proof was used before.
    #[must_use]
    pub fn spent(&self, steps: usize, refused: Guarded) -> bool {
        self.once.is_some() && refused.step + 1 == steps
    }
    /// Whether its proof can be used once only.
    #[must_use]
    pub const fn is_once(&self) -> bool {
        self.once.is_some()
    }
    /// How it proved itself.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }
}

/// Reads what a request shows: exactly one method (RFC 6749 §2.3). A parameter without a value is none (§3.2).
///
/// # Errors
/// `invalid_request` for two methods at once or another `client_id` in the body; `invalid_client` for none or a broken header.
pub fn present(authorization: &[&[u8]], form: &Form<'_>) -> Result<Presented, OAuthError> {
    if form.get("client_assertion").is_some() || form.get("client_assertion_type").is_some() {
        if !authorization.is_empty() || form.get("client_secret").is_some() {
            return Err(OAuthError::request("more than one client authentication method"));
        }
        return assertion::present(form);
    }
    match authorization {
        [] if form.get("client_secret").is_some() => post::present(form),
        [] => none::present(form),
        [_] if form.get("client_secret").is_some() => Err(OAuthError::request("more than one client authentication method")),
        [header] => basic::present(header, form),
        _ => Err(OAuthError::request("more than one Authorization header")),
    }
}

/// Looks whether it is true. Unknown clients and wrong secrets take the same path, time and words.
///
/// # Errors
/// `invalid_client`.
pub fn authenticate(presented: &Presented, known: Option<Arc<KnownClient>>, means: &Means<'_>) -> Result<AuthenticatedClient, OAuthError> {
    let proved = proves(presented, known.as_deref(), means.mac);
    let Some(known) = known else { return Err(OAuthError::client("unknown client")) };
    let client = &known.client;
    let registered = Method::parse(&client.token_endpoint_auth_method);
    // A client with a certificate says in the request only who it is (RFC 8705 §2); the rest was said in the handshake.
    let method = match (presented.method, registered) {
        (Method::None, Some(method @ (Method::TlsClientAuth | Method::SelfSignedTls))) => method,
        (method, _) => method,
    };
    if registered != Some(method) {
        return Err(OAuthError::client("not the registered authentication method"));
    }
    if !method.works(means.settings) && !is_ours(client) {
        return Err(OAuthError::client("the authentication method is not offered"));
    }
    if client.disabled {
        return Err(OAuthError::client("the client is disabled"));
    }
    let once = match (method, &presented.assertion) {
        (Method::None, _) => None,
        (Method::Basic | Method::Post, _) if proved => None,
        (Method::Basic | Method::Post, _) => return Err(OAuthError::client("wrong secret")),
        (Method::PrivateKeyJwt, Some(shown)) => match &client.workload_identity {
            Some(workload) if shown.issuer == workload.issuer => workload::believe(shown, workload, means).map(|()| None)?,
            _ => Some(assertion::believe(shown, client, means)?),
        },
        (Method::PrivateKeyJwt, None) => return Err(OAuthError::client("no assertion")),
        (Method::TlsClientAuth, _) => tls::believe(means.certificate, client, means.now).map(|()| None)?,
        (Method::SelfSignedTls, _) => self_signed::believe(means.certificate, means.keys, means.now).map(|()| None)?,
    };
    Ok(AuthenticatedClient { known, method, once })
}

/// Whether a client serves the server itself (administration, gateways) and nobody else: a profile's rules are not about those.
fn is_ours(client: &Client) -> bool {
    let mut tokens = client.scope.split_ascii_whitespace().peekable();
    !client.is_public() && tokens.peek().is_some() && tokens.all(|token| token.starts_with(scope::BUILT_IN_PREFIX))
}

/// Whether a presented secret is one of the live ones; every comparison is made, against nothing too.
fn proves(presented: &Presented, known: Option<&KnownClient>, mac: &MacKey) -> bool {
    const NOTHING: &[u8] = &[0; 32];
    let macs = known.map_or([None, None], |k| [k.macs[0].as_deref(), k.macs[1].as_deref()]);
    let mut proved = false;
    for secret in &presented.secrets {
        let shown = mac.mac(KnownClient::DOMAIN, secret.expose().as_bytes());
        for stored in macs {
            let same = tokens::hash::eq(&shown, stored.unwrap_or(NOTHING));
            proved |= same && stored.is_some();
        }
    }
    proved
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn known(method: &str, secrets: [Option<&str>; 2], mac: &MacKey) -> Arc<KnownClient> {
        let client = Client { client_id: "c".into(), token_endpoint_auth_method: method.into(), ..Client::default() };
        Arc::new(KnownClient::new(client, 1, secrets.map(|s| s.map(|s| mac.mac(KnownClient::DOMAIN, s.as_bytes()).to_vec()))))
    }
    pub(crate) fn authenticated(client: Client) -> AuthenticatedClient {
        let method = Method::parse(&client.token_endpoint_auth_method).unwrap();
        AuthenticatedClient { known: Arc::new(KnownClient::new(client, 7, [None, None])), method, once: None }
    }
    pub(crate) fn means<'a>(mac: &'a MacKey, settings: &'a Settings, keys: &'a Keys) -> Means<'a> {
        Means { mac, settings, path: "/token", now: 1_000_000, keys, issuer_algorithms: &[], certificate: None }
    }
    fn authenticate(shown: &Presented, known: Option<Arc<KnownClient>>, mac: &MacKey) -> Result<AuthenticatedClient, OAuthError> {
        super::authenticate(shown, known, &means(mac, &Settings::for_issuer("https://id.example.com"), &Keys::default()))
    }
    fn shown(header: Option<&str>, body: &str) -> Result<Presented, OAuthError> {
        let header: Vec<&[u8]> = header.iter().map(|h| h.as_bytes()).collect();
        present(&header, &Form::read(body.as_bytes()).unwrap())
    }

    #[test]
    fn both_live_secrets_and_nothing_else_prove_a_client() {
        let mac = MacKey::new([7; 32]);
        let client = known("client_secret_post", [Some("new"), Some("old")], &mac);
        for (secret, good) in [("new", true), ("old", true), ("other", false)] {
            let shown = shown(None, &format!("client_id=c&client_secret={secret}")).unwrap();
            assert_eq!(authenticate(&shown, Some(Arc::clone(&client)), &mac).is_ok(), good, "{secret}");
        }
    }

    #[test]
    fn unknown_and_wrong_sound_the_same() {
        let mac = MacKey::new([7; 32]);
        let shown = shown(None, "client_id=c&client_secret=x").unwrap();
        let unknown = authenticate(&shown, None, &mac).unwrap_err();
        let wrong = authenticate(&shown, Some(known("client_secret_post", [Some("y"), None], &mac)), &mac).unwrap_err();
        assert_eq!((unknown.code, unknown.description), (wrong.code, wrong.description));
    }

    #[test]
    fn the_registered_method_is_the_only_one() {
        let mac = MacKey::new([7; 32]);
        let posted = shown(None, "client_id=c&client_secret=s").unwrap();
        assert!(authenticate(&posted, Some(known("client_secret_basic", [Some("s"), None], &mac)), &mac).is_err());
        let named = shown(None, "client_id=c").unwrap();
        assert!(authenticate(&named, Some(known("client_secret_basic", [Some("s"), None], &mac)), &mac).is_err());
        assert!(authenticate(&named, Some(known("none", [None, None], &mac)), &mac).is_ok());
    }

    #[test]
    fn two_methods_at_once_are_refused() {
        use crate::Code::{InvalidClient, InvalidRequest};
        assert_eq!(shown(Some("Basic Yzpz"), "client_id=c&client_secret=s").unwrap_err().code, InvalidRequest);
        assert_eq!(shown(Some("Basic Yzpz"), "client_id=d").unwrap_err().code, InvalidRequest);
        assert!(shown(Some("Basic Yzpz"), "client_id=c").is_ok());
        assert_eq!(shown(Some("Basic Yzpz"), "client_secret=&client_assertion=").unwrap().method, Method::Basic, "no value, no method");
        assert_eq!(shown(None, "client_id=c&client_secret=").unwrap().method, Method::None);
        assert_eq!(shown(None, "").unwrap_err().code, InvalidClient);
        assert_eq!(shown(Some("Bearer x"), "client_id=c").unwrap_err().code, InvalidClient);
    }

    #[test]
    fn a_disabled_client_is_nobody() {
        let mac = MacKey::new([7; 32]);
        let client = Client { client_id: "c".into(), token_endpoint_auth_method: "none".into(), disabled: true, ..Client::default() };
        let shown = shown(None, "client_id=c").unwrap();
        assert!(authenticate(&shown, Some(Arc::new(KnownClient::new(client, 1, [None, None]))), &mac).is_err());
    }
}
