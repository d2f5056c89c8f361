//! The configuration: one TOML file, every key documented here and overridable by environment, all mistakes reported at once.
mod check;
mod files;
mod fixed;
pub mod gateway_client;
pub mod manual;
pub mod read;
pub mod setting;
mod settings;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use check::{
    check_authorization_server, check_decision, check_decision_tls, check_issuer, check_lifetimes, check_log, check_mtls, check_outbound,
    check_plain, check_server, check_shared, check_storage, check_telemetry, check_tls,
};
pub use files::{OcspRules, TlsFiles};
pub use gateway_client::{ClientProof, GatewayClient};
use ipnet::IpNet;
pub use nodes::{Replicas, ReplicasSection};
use nodes::{SharedStateSection, StorageSection};
pub use read::{Key, Mistakes, Reader, Section};
pub use setting::{Role, Seconds, Secret};

/// Declares a section: a struct whose fields are keys, with doc comments that become the manual. A default is TOML text; `""`: none.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:literal,)* }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)* }

        impl $name {
            pub(crate) const ABOUT: &'static str = concat!($($about, "\n"),+);
            pub(crate) const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($field),
                doc: concat!($($doc, "\n"),+),
                shape: <$type as setting::Setting>::SHAPE,
                default: $default,
            }),*];

            pub(crate) fn read(reader: &mut Reader, path: &str) -> Option<Self> {
                $(let $field = reader.get::<$type>(path, stringify!($field), $default);)*
                Some(Self { $($field: $field?,)* })
            }
        }

        impl Compared for $name {
            fn differing(&self, other: &Self) -> Vec<&'static str> {
                [$((stringify!($field), self.$field != other.$field)),*].into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
            }
        }
    };
}

/// A section that can be compared with itself read anew.
trait Compared {
    /// The keys whose values differ.
    fn differing(&self, other: &Self) -> Vec<&'static str>;
}

pub mod nodes;
pub mod session;

section! {
    /// What this process is, and where it listens.
    ServerSection {
        /// The parts this process plays: any subset of `auth`, `gateway`, `admin`.
        roles: Vec<Role> = r#"["auth", "gateway", "admin"]"#,
        /// The issuer identifier, exactly as clients and tokens name it. `http` only for a loopback host. Required unless this is a
        /// gateway process of its own.
        issuer: Option<String> = "",
        /// The public listener: everything people, clients and resource servers call. Port 0 takes a free one.
        public_listen: SocketAddr = r#""127.0.0.1:8080""#,
        /// The gateway listener.
        gateway_listen: SocketAddr = r#""127.0.0.1:8081""#,
        /// Where other gateways (nginx, Traefik, Caddy, HAProxy, Envoy) ask for this one's decisions; absent: nowhere. Served by the
        /// gateway's threads. Plain HTTP on loopback addresses, or TLS with `[decision.tls]`.
        decision_listen: Option<SocketAddr> = "",
        /// Networks of these gateways. What they tell of a request (method, URL, client address) is believed; whoever else asks is
        /// refused, unless it shows a certificate of `decision.tls.client_ca_files`. Certificates of their clients that they pass on
        /// (RFC 9440) are believed with `client_certificate_header`.
        decision_clients: Vec<IpNet> = r#"["127.0.0.0/8", "::1/128"]"#,
        /// The administration listener.
        admin_listen: SocketAddr = r#""127.0.0.1:8082""#,
        /// The Prometheus listener; also answers `/healthz`. Plain HTTP.
        metrics_listen: SocketAddr = r#""127.0.0.1:8083""#,
        /// Networks of the proxies whose `Forwarded` and `X-Forwarded-*` are believed. Where both came and disagree, neither is, and the
        /// source is unknown: a proxy should write one and remove the other. Plain HTTP on other than loopback addresses needs at least one.
        trusted_proxies: Vec<IpNet> = "",
        /// Whether the client certificates are believed that trusted proxies pass on as `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
        /// Set it only if every trusted proxy removes these headers from what its clients send: whoever gets one through is taken for
        /// the holder of that certificate. A proxy's own certificate is then never its client's. Otherwise they are taken off every
        /// request and mean nothing.
        client_certificate_header: bool = "false",
        /// The set of rules: `standard`; `fapi2` (the FAPI 2.0 Security Profile for every client); `oidc-dynamic` (adds what old OpenID
        /// Connect certification profiles demand: implicit and hybrid responses, request objects by reference).
        profile: String = r#""standard""#,
        /// A second listener of the authorization server, TLS only, that asks for client certificates (RFC 8705 §5): metadata names it in
        /// `mtls_endpoint_aliases`. Not needed where `server.tls.client_certificates` makes the public listener itself ask.
        mtls_listen: Option<SocketAddr> = "",
        /// The origin by which clients reach the endpoints that ask for their certificates, if it is not the issuer's host with the port of
        /// `mtls_listen`: `https://mtls.id.example.com`. Set it also where trusted proxies pass certificates on (`client_certificate_header`).
        mtls_origin: Option<String> = "",
        /// Whether a DPoP proof has to carry a nonce of this server (RFC 9449 §8, §9).
        dpop_nonce: bool = "false",
        /// Whether the page of `check_session_iframe` also answers clients of another site than the issuer's (OpenID Connect Session
        /// Management 1.0). It takes a second cookie, `__Host-doorward-state` with `SameSite=None`, from which nothing but the state of the
        /// login can be told; it authenticates nobody. Without effect where the issuer is not https.
        cross_site_session_state: bool = "false",
        /// Worker threads, and threads of the gateway; 0: one a core.
        worker_threads: u32 = "0",
        /// Connections that each listener holds at most. When all are taken, the longest unused make room, those of a crowd of one source
        /// first; where all are in use, the next one waits.
        max_connections: u32 = "16384",
        /// How many of them one address (an IPv6 /64) may hold that is no trusted proxy; 0: three quarters.
        max_connections_per_source: u32 = "0",
        /// How long a stopping process takes at most, `10s` or less: the notice and then the wait for what it is answering.
        drain: Seconds = r#""10s""#,
        /// How long a stopping process says that it is not ready (`/readyz`) while it still serves everything, so that balancers send no more
        /// to it: shorter than `drain`, and some checks of the balancer long. Answers end their HTTP/1.1 connections meanwhile.
        drain_notice: Seconds = r#""0s""#,
    }
}

section! {
    /// TLS of a listener. `[server.tls]` serves all of them; `[gateway.tls]` and `[admin.tls]` replace it for theirs.
    /// TLS 1.3 and, unless `min_version` says otherwise, 1.2; the hybrid X25519MLKEM768 preferred.
    TlsSection {
        /// The certificate chain, PEM, leaf first.
        cert_file: Option<PathBuf> = "",
        /// The private key, PEM (PKCS#8, PKCS#1 or SEC1).
        key_file: Option<PathBuf> = "",
        /// Authorities of client certificates, PEM. A listener with some asks for a certificate; one that is shown must chain to them
        /// unless `client_certificates` is `any`. What is read anew on SIGHUP counts for open connections too.
        client_ca_files: Vec<PathBuf> = "",
        /// `trusted` (default: only certificates of `client_ca_files`, none asked for without such files) or `any`: every certificate
        /// whose key is proved, self-signed ones included; what a client registered decides (RFC 8705 §2.2, §3).
        client_certificates: String = r#""trusted""#,
        /// The most certificates between a client's and its authority, at most 6.
        client_depth: u32 = "4",
        /// Certificate revocation lists of these authorities and of those below them, PEM or DER, complete ones (RFC 5280 §5; no delta lists,
        /// no issuing distribution points). Read anew within two seconds of a change and on SIGHUP; a bad file is refused and the old lists
        /// stay. They count with every request and for whatever is open: the handshake itself goes through.
        client_crl_files: Vec<PathBuf> = "",
        /// What becomes of a certificate that no list in force covers (none of its authority's, or its next update is past): `hard`, it
        /// counts for nothing until one does (503), unless OCSP says that it is good; `soft`, it counts. Without `client_crl_files`
        /// nothing is demanded.
        client_crl: String = r#""hard""#,
        /// Whether the authority is asked about a client's certificate (OCSP, RFC 6960): `off`; `soft`, it counts while there is no answer;
        /// `hard`, only while the authority says that it is good (503 otherwise). Answers are asked for when a connection is opened and
        /// again while it is open. Calls are made under the rules of `[outbound]`, plain HTTP responders have to be in `outbound.allow`.
        client_ocsp: String = r#""off""#,
        /// The responder that is asked instead of the one that certificates name.
        client_ocsp_url: Option<String> = "",
        /// How old an answer may become before the next one is asked for. It counts until its own next update, at most an hour.
        client_ocsp_max_age: Seconds = r#""60s""#,
        /// The oldest version that is spoken: `1.2` or `1.3`. FAPI-CIBA admits fewer suites of 1.2 than this server has: set `1.3` for it.
        min_version: String = r#""1.2""#,
    }
}

section! {
    /// The gateway's own knowledge of its authorization server.
    GatewaySection {
        /// `self`, or the issuer URL of another process's authorization server, for a gateway process of its own.
        authorization_server: String = r#""self""#,
        /// The gateway's client there (scopes `doorward.introspect doorward.feed`). With `self` it is needed only where routes exchange
        /// tokens (`token_exchange`).
        client_id: Option<String> = "",
        /// Its secret.
        client_secret: Option<Secret> = "",
        /// A file that holds the secret instead.
        client_secret_file: Option<PathBuf> = "",
        /// A file with its private key (PKCS#8, PEM) instead of a secret: it proves itself by signed assertions (`private_key_jwt`, with the
        /// key's RFC 7638 thumbprint as `kid`), or with `client_certificate_file` by its certificate (`tls_client_auth`).
        client_key_file: Option<PathBuf> = "",
        /// A file with its certificate, PEM, leaf first.
        client_certificate_file: Option<PathBuf> = "",
        /// Whether introspection answers have to be signed (RFC 9701).
        signed_introspection: bool = "false",
        /// The gateway's own name, a URI: the `iss` of the assertions that it signs for upstreams. Default: the issuer with `/gateway` after it.
        identifier: Option<String> = "",
        /// How old the knowledge of revocations may be before tokens are introspected instead, and refused if that fails.
        max_staleness: Seconds = r#""5s""#,
        /// A file of routes: the JSON of a seed with `upstreams`, `routes`, `trusted_issuers` and `policies`. It is read at the start and within
        /// a second of every change, and taken in as a whole: what it no longer names goes; what others made stays, and may not be named in it.
        /// A bad file is refused and the old routes stay.
        routes_file: Option<PathBuf> = "",
        /// `shared`: every route without a `policy` of its own, public ones too, is judged by the stored policies, and what none of them permits
        /// is refused. Default: such a route has no policy.
        default_policy: Option<String> = "",
        /// One in how many requests that were let through is remembered beside the refused ones (`GET /admin/v1/explanations`). `0`: none.
        explain_allowed: u32 = "0",
    }
}

section! {
    /// Lifetimes. A client's or resource server's own setting takes precedence where there is one.
    LifetimesSection {
        /// An authorization code, at most `60s`.
        code: Seconds = r#""60s""#,
        /// An access token, at most `24h`.
        access_token: Seconds = r#""5m""#,
        /// A refresh token's family, from the first to the last.
        refresh_token: Seconds = r#""30d""#,
        /// A refresh token that is not used for this long is dead.
        refresh_idle: Seconds = r#""7d""#,
        /// A single sign-on session.
        session: Seconds = r#""12h""#,
        /// A pushed authorization request, `5s` to `30m`.
        par: Seconds = r#""60s""#,
        /// A device code, and a backchannel request that asks for no expiry of its own.
        device_code: Seconds = r#""10m""#,
        /// A retry with the immediate predecessor of a refresh token within this time gives the same successor. `0s` to `10s`.
        refresh_grace: Seconds = r#""0s""#,
    }
}

section! {
    /// Signing keys.
    KeysSection {
        /// How long a key signs before the next one takes over.
        rotate_every: Seconds = r#""30d""#,
        /// How long a new key is published before it signs.
        publish_before: Seconds = r#""1d""#,
        /// Whether an ML-DSA-65 key is published and usable beside the classical ones (`ML-DSA-65`).
        post_quantum: bool = "false",
    }
}

section! {
    /// The ledger of security events.
    AuditSection {
        /// How long events are kept, at least `1h`. Older ones are removed now and then behind a checkpoint from which the rest still
        /// verifies; export them before (`doorward audit export`) if they are wanted for longer.
        keep: Seconds = r#""365d""#,
    }
}

section! {
    /// Calls that this process makes: https only, no private addresses, no redirects, at most 64 KiB in 5 s.
    OutboundSection {
        /// Exceptions from the address rules, `host:port`.
        allow: Vec<String> = "",
        /// Authorities trusted besides the built-in ones, PEM.
        extra_ca_file: Option<PathBuf> = "",
    }
}

section! {
    /// Dynamic client registration (RFC 7591, RFC 7592) and client ID metadata documents.
    RegistrationSection {
        /// Whether there is a registration endpoint. It asks for an initial access token: one of this issuer with scope `doorward.register`.
        enabled: bool = "false",
        /// Whether anyone may register a client, without an initial access token (implies `enabled`).
        open: bool = "false",
        /// Whether an https URL may serve as `client_id`: its document is fetched under the outbound rules.
        client_id_metadata: bool = "false",
        /// Scopes that registered clients may ask for at most.
        scopes: Vec<String> = r#"["openid", "profile", "email", "address", "phone", "offline_access"]"#,
        /// Resources (identifiers of resource servers) that registered clients may ask for.
        resources: Vec<String> = "",
        /// Grant types that clients may use which registered or published themselves (`implicit` only under the profile `oidc-dynamic`).
        /// By default those where a person is asked first: whoever may register can use every one of them, and with
        /// `urn:openid:params:grant-type:ciba` ask anybody at any time and learn who has an account. To give one client more, an
        /// administrator takes its record over by removing its `origin`.
        grant_types: Vec<String> = r#"["authorization_code", "refresh_token", "implicit", "urn:ietf:params:oauth:grant-type:device_code"]"#,
        /// Whether registered confidential clients that speak OpenID Connect must use PKCE, as public ones always must.
        require_pkce: bool = "false",
    }
}

section! {
    /// Mail. This version sends none; the keys are checked and kept for later ones.
    MailSection {
        /// A folder that mails are written to instead of being sent.
        sink_dir: Option<PathBuf> = "",
        /// The mail server.
        smtp_url: Option<Secret> = "",
    }
}

section! {
    /// Logs. They never hold a secret, code, token or key.
    LogSection {
        /// `human` or `json` (one object a line).
        format: String = r#""human""#,
        /// A file to append to. Default: standard error.
        file: Option<PathBuf> = "",
        /// What is logged, in the notation of `RUST_LOG`, e.g. `info,gateway=debug`.
        filter: String = r#""info""#,
        /// The gateway's access log: one JSON object a request, appended to this file (opened anew on SIGHUP). Default: none; refusals
        /// are in the log all the same.
        access_file: Option<PathBuf> = "",
    }
}

section! {
    /// Traces of the gateway (OpenTelemetry; W3C Trace Context). They hold no credential, query or body.
    TelemetrySection {
        /// The collector, OTLP over HTTP: `http://127.0.0.1:4318`. `/v1/traces` is added. Default: no traces.
        otlp_endpoint: Option<String> = "",
        /// The share of requests that are recorded, `0` to `1`. What a trusted proxy marks as sampled is recorded besides.
        sample: String = r#""1""#,
    }
}

impl TelemetrySection {
    /// The share, if it is one.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.sample.parse().ok().filter(|share| (0.0..=1.0).contains(share))
    }
}

/// Every section with its keys: what is known, and what the manual prints.
pub const SECTIONS: &[Section] = &[
    Section { path: "server", about: ServerSection::ABOUT, keys: ServerSection::KEYS },
    Section { path: "server.tls", about: TlsSection::ABOUT, keys: TlsSection::KEYS },
    Section { path: "storage", about: StorageSection::ABOUT, keys: StorageSection::KEYS },
    Section { path: "storage.replicas", about: ReplicasSection::ABOUT, keys: ReplicasSection::KEYS },
    Section { path: "shared_state", about: SharedStateSection::ABOUT, keys: SharedStateSection::KEYS },
    Section { path: "gateway", about: GatewaySection::ABOUT, keys: GatewaySection::KEYS },
    Section { path: "gateway.session", about: session::SessionSection::ABOUT, keys: session::SessionSection::KEYS },
    Section { path: "gateway.tls", about: "TLS of the gateway listener alone.", keys: TlsSection::KEYS },
    Section { path: "decision.tls", about: "TLS of `server.decision_listen`; `[server.tls]` does not serve it.", keys: TlsSection::KEYS },
    Section { path: "admin.tls", about: "TLS of the administration listener alone.", keys: TlsSection::KEYS },
    Section { path: "lifetimes", about: LifetimesSection::ABOUT, keys: LifetimesSection::KEYS },
    Section { path: "keys", about: KeysSection::ABOUT, keys: KeysSection::KEYS },
    Section { path: "audit", about: AuditSection::ABOUT, keys: AuditSection::KEYS },
    Section { path: "outbound", about: OutboundSection::ABOUT, keys: OutboundSection::KEYS },
    Section { path: "registration", about: RegistrationSection::ABOUT, keys: RegistrationSection::KEYS },
    Section { path: "mail", about: MailSection::ABOUT, keys: MailSection::KEYS },
    Section { path: "log", about: LogSection::ABOUT, keys: LogSection::KEYS },
    Section { path: "telemetry", about: TelemetrySection::ABOUT, keys: TelemetrySection::KEYS },
];

/// Where the gateway's authorization server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizationServer {
    /// In this process or on this database.
    Own,
    /// Another process, asked over HTTP.
    Remote {
        /// Its issuer identifier.
        issuer: String,
    },
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// `[server]`.
    pub server: ServerSection,
    /// The issuer: our own, or that of the gateway's authorization server.
    pub issuer: String,
    /// TLS of the public listener.
    pub public_tls: Option<TlsFiles>,
    /// Where `mtls_listen` really listens.
    mtls_at: Option<SocketAddr>,
    /// TLS of the gateway listener.
    pub gateway_tls: Option<TlsFiles>,
    /// TLS of the listener for other gateways.
    pub decision_tls: Option<TlsFiles>,
    /// TLS of the administration listener.
    pub admin_tls: Option<TlsFiles>,
    /// Database URL; a SQLite path in it is absolute or relative to the working directory.
    pub storage_url: Secret,
    /// Where the key-encryption key is kept.
    pub key_file: PathBuf,
    /// The key-encryption key itself, if handed over directly.
    pub key: Option<Secret>,
    /// Database connections.
    pub connections: u32,
    /// `[storage.replicas]`.
    pub replicas: Replicas,
    /// Redis URL.
    pub shared_state: Option<Secret>,
    /// Authorities of its certificates, PEM.
    pub shared_ca: Option<PathBuf>,
    /// `[gateway]` `authorization_server` and its credential.
    pub authorization_server: AuthorizationServer,
    /// The gateway's client there; always there for a remote one.
    pub gateway_client: Option<GatewayClient>,
    /// `[gateway.session]`, where there are sessions.
    pub sessions: Option<session::Sessions>,
    /// Whether introspection answers have to be signed.
    pub signed_introspection: bool,
    /// `[gateway]` `identifier`.
    pub gateway_identifier: Option<String>,
    /// `[gateway]` `max_staleness`.
    pub max_staleness: Seconds,
    /// `[gateway]` `routes_file`.
    pub routes_file: Option<PathBuf>,
    /// `[gateway]` `default_policy`.
    pub default_policy: Option<String>,
    /// `[gateway]` `explain_allowed`.
    pub explain_allowed: u32,
    /// `[lifetimes]`.
    pub lifetimes: LifetimesSection,
    /// `[keys]`.
    pub keys: KeysSection,
    /// `[audit]`.
    pub audit: AuditSection,
    /// `[outbound]`.
    pub outbound: OutboundSection,
    /// `[registration]`.
    pub registration: RegistrationSection,
    /// `[mail]`.
    pub mail: MailSection,
    /// `[log]`.
    pub log: LogSection,
    /// `[telemetry]`.
    pub telemetry: TelemetrySection,
}

impl Config {
    /// Loads and checks a file together with the process environment.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn load(file: &Path) -> Result<Self, Mistakes> {
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        match std::fs::read_to_string(file) {
            Ok(content) => Self::parse(file, &content, environment),
            Err(error) => Err(Mistakes(vec![format!("{}: cannot be read: {error}", file.display())])),
        }
    }

    /// Checks a file's text together with an environment.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn parse(file: &Path, content: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(file, content, environment, SECTIONS);
        let config = Self::read(&mut reader, file);
        match (config, reader.finish()) {
            (Some(config), mistakes) if mistakes.0.is_empty() => Ok(config),
            (_, mistakes) => Err(mistakes),
        }
    }

    fn read(r: &mut Reader, file: &Path) -> Option<Self> {
        let server = ServerSection::read(r, "server");
        let tls = TlsSection::read(r, "server.tls").map(|tls| check_tls(r, "server.tls", tls));
        let gateway_tls = TlsSection::read(r, "gateway.tls").map(|tls| check_tls(r, "gateway.tls", tls));
        let decision_tls = TlsSection::read(r, "decision.tls").map(|tls| check_tls(r, "decision.tls", tls));
        let decision_tls = decision_tls.map(|tls| check_decision_tls(r, tls));
        let admin_tls = TlsSection::read(r, "admin.tls").map(|tls| check_tls(r, "admin.tls", tls));
        let storage = StorageSection::read(r, "storage");
        let replicas = ReplicasSection::read(r, "storage.replicas");
        let shared = SharedStateSection::read(r, "shared_state");
        let gateway = GatewaySection::read(r, "gateway");
        let lifetimes = LifetimesSection::read(r, "lifetimes");
        let keys = KeysSection::read(r, "keys");
        let audit = AuditSection::read(r, "audit");
        let outbound = OutboundSection::read(r, "outbound");
        let registration = RegistrationSection::read(r, "registration");
        let mail = MailSection::read(r, "mail");
        let log = LogSection::read(r, "log");
        let telemetry = TelemetrySection::read(r, "telemetry");

        let lifetimes = lifetimes.inspect(|section| check_lifetimes(r, section));
        let keys = keys.inspect(|section| {
            if section.rotate_every <= section.publish_before {
                r.wrong("keys.publish_before", "must be shorter than keys.rotate_every");
            }
        });
        if audit.as_ref().is_some_and(|section| section.keep.0 < 3600) {
            r.wrong("audit.keep", "must be at least 1h");
        }
        let outbound = outbound.inspect(|section| check_outbound(r, section));
        let registration = registration.inspect(|section| {
            if section.scopes.iter().any(|s| s.starts_with(protocol::scope::BUILT_IN_PREFIX) || !protocol::scope::is_token(s)) {
                r.wrong("registration.scopes", "must be scope tokens, and none of the server's own (doorward.…)");
            }
            let known = |g: &String| *g == protocol::grants::IMPLICIT || protocol::grants::ALL.contains(&g.as_str());
            if !section.grant_types.iter().all(known) {
                r.wrong("registration.grant_types", "must be grant types of this server");
            }
        });
        let log = log.inspect(|section| check_log(r, section));
        let telemetry = telemetry.inspect(|section| check_telemetry(r, section));
        let storage = storage.and_then(|section| check_storage(r, section));
        let replicas = replicas.zip(storage.as_ref()).and_then(|(section, storage)| Replicas::check(r, section, storage.url.expose()));
        let shared_ca = shared.as_ref().and_then(|section| section.ca_file.clone());
        let shared = shared.and_then(|section| check_shared(r, section));
        let authorization_server = gateway.as_ref().and_then(|section| check_authorization_server(r, section));
        let remote = matches!(authorization_server, Some(AuthorizationServer::Remote { .. }));
        let gateway_client = gateway.as_ref().and_then(|section| GatewayClient::check(r, section, remote));
        let sessions = session::SessionSection::read(r, "gateway.session").and_then(|section| session::Sessions::check(r, section));
        let signed_introspection = gateway.as_ref().is_some_and(|section| section.signed_introspection);
        let gateway_identifier = gateway.as_ref().and_then(|section| section.identifier.clone());
        if gateway_identifier.as_ref().is_some_and(|name| url::Url::parse(name).is_err()) {
            r.wrong("gateway.identifier", "must be a URI");
        }
        let default_policy = gateway.as_ref().and_then(|section| section.default_policy.clone());
        if default_policy.as_deref().is_some_and(|policy| policy != edge::rules::SHARED) {
            r.wrong("gateway.default_policy", "must be \"shared\", or be left out");
        }
        let routes_file = gateway.as_ref().and_then(|section| section.routes_file.clone());
        let explain_allowed = gateway.as_ref().map_or(0, |section| section.explain_allowed);
        let max_staleness = gateway.map(|section| section.max_staleness);
        if max_staleness.is_some_and(|s| s.0 < 1) {
            r.wrong("gateway.max_staleness", "must be at least 1s");
        }
        let server = server.inspect(|section| check_server(r, section));
        let issuer = server.as_ref().zip(authorization_server.as_ref()).and_then(|(section, at)| check_issuer(r, section, at));

        let (server, tls, gateway_tls, admin_tls) = (server?, tls?, gateway_tls?.0, admin_tls?.0);
        let gateway_tls = gateway_tls.or_else(|| tls.0.clone());
        let admin_tls = admin_tls.or_else(|| tls.0.clone());
        let public_tls = tls.0;
        check_mtls(r, &server, public_tls.is_some());
        let decision_tls = decision_tls?.0;
        check_decision(r, &server, decision_tls.is_some());
        check_plain(r, &server, [public_tls.is_some(), gateway_tls.is_some(), admin_tls.is_some()]);
        let storage = storage?;
        Some(Self {
            file: file.to_owned(),
            server,
            issuer: issuer?,
            public_tls,
            mtls_at: None,
            gateway_tls,
            decision_tls,
            admin_tls,
            storage_url: storage.url,
            key_file: storage.key_file,
            key: storage.key,
            connections: storage.connections,
            replicas: replicas?,
            shared_state: shared?,
            shared_ca,
            authorization_server: authorization_server?,
            gateway_client: gateway_client?,
            sessions: sessions?,
            signed_introspection,
            gateway_identifier,
            max_staleness: max_staleness?,
            routes_file,
            default_policy,
            explain_allowed,
            lifetimes: lifetimes?,
            keys: keys?,
            audit: audit?,
            outbound: outbound?,
            registration: registration?,
            mail: mail?,
            log: log?,
            telemetry: telemetry?,
        })
    }

    /// Whether this process plays a role.
    #[must_use]
    pub fn plays(&self, role: Role) -> bool {
        self.server.roles.contains(&role)
    }

    /// TLS of the listener for clients with certificates: as the public one's, and any certificate whose key is proved.
    #[must_use]
    pub fn mtls_tls(&self) -> Option<TlsFiles> {
        self.public_tls.clone().map(|files| TlsFiles { any_client: true, ..files })
    }

    /// The same with the address where `mtls_listen` really listens.
    #[must_use]
    pub fn with_mtls_at(self, mtls_at: Option<SocketAddr>) -> Self {
        Self { mtls_at, ..self }
    }

    /// Where clients with certificates are served, if it is another origin than the issuer's.
    fn mtls_origin(&self) -> Option<String> {
        if let Some(origin) = &self.server.mtls_origin {
            return Some(origin.trim_end_matches('/').to_owned());
        }
        let port = self.mtls_at.or(self.server.mtls_listen)?.port();
        let issuer = url::Url::parse(&self.issuer).ok()?;
        Some(if port == 443 { format!("https://{}", issuer.host_str()?) } else { format!("https://{}:{port}", issuer.host_str()?) })
    }
}

#[cfg(test)]
mod tests;
