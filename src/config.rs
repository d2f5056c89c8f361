//! The configuration: one TOML file, every key documented here and overridable by environment, all mistakes reported at once.
pub mod manual;
pub mod read;
pub mod setting;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
pub use read::{Key, Mistakes, Reader, Section};
pub use setting::{Role, Seconds, Secret};
use url::Url;

/// Declares a section: a struct whose fields are keys, with doc comments that become the manual. A default is TOML text; `""`: none.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:literal,)* }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)* }

        impl $name {
            const ABOUT: &'static str = concat!($($about, "\n"),+);
            const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($field),
                doc: concat!($($doc, "\n"),+),
                shape: <$type as setting::Setting>::SHAPE,
                default: $default,
            }),*];

            fn read(reader: &mut Reader, path: &str) -> Option<Self> {
                $(let $field = reader.get::<$type>(path, stringify!($field), $default);)*
                Some(Self { $($field: $field?,)* })
            }
        }
    };
}

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
        /// The administration listener.
        admin_listen: SocketAddr = r#""127.0.0.1:8082""#,
        /// The Prometheus listener; also answers `/healthz`. Plain HTTP.
        metrics_listen: SocketAddr = r#""127.0.0.1:8083""#,
        /// Networks of the proxies whose `Forwarded` and `X-Forwarded-*` are believed. Plain HTTP on other than loopback addresses
        /// needs at least one.
        trusted_proxies: Vec<IpNet> = "",
        /// The set of rules. Only `standard` is supported by this version (`oidc-dynamic` and `fapi2` are refused).
        profile: String = r#""standard""#,
        /// Worker threads, and threads of the gateway; 0: one a core.
        worker_threads: u32 = "0",
        /// Connections that the public, administration and metrics listeners hold at most; further ones wait to be accepted.
        max_connections: u32 = "16384",
        /// How long a stopping process waits for what it is answering, at most `10s`.
        drain: Seconds = r#""10s""#,
    }
}

section! {
    /// TLS of a listener. `[server.tls]` serves all of them; `[gateway.tls]` and `[admin.tls]` replace it for theirs.
    /// TLS 1.3 and 1.2, the hybrid X25519MLKEM768 preferred.
    TlsSection {
        /// The certificate chain, PEM, leaf first.
        cert_file: Option<PathBuf> = "",
        /// The private key, PEM (PKCS#8, PKCS#1 or SEC1).
        key_file: Option<PathBuf> = "",
        /// Authorities of client certificates. Client certificates are not supported by this version: leave it empty.
        client_ca_files: Vec<PathBuf> = "",
    }
}

section! {
    /// The database, and the key that seals what is secret in it.
    StorageSection {
        /// `sqlite://PATH` (a relative path starts at this file's folder) or `postgres://user:password@host/database`.
        url: Option<Secret> = "",
        /// A file that holds the URL instead, for a URL with a password.
        url_file: Option<PathBuf> = "",
        /// The file of the key-encryption key: 32 octets in base64url or hexadecimal, mode 0600. Default: `kek` beside this file. Made by
        /// `bootstrap` or the first start when it is absent and the database is new.
        key_file: Option<PathBuf> = "",
        /// The key-encryption key itself, for environments that hand secrets over as variables
        /// (`DOORWARD_STORAGE__KEY`).
        key: Option<Secret> = "",
        /// Connections to PostgreSQL, or reading connections to SQLite.
        connections: u32 = "8",
    }
}

section! {
    /// What several nodes share besides the database: rate counters and wake-ups. It may vanish without harm to correctness.
    SharedStateSection {
        /// `redis://host:port` (or `rediss://`, `valkey://`, `valkeys://`). A cluster: several such URLs separated by commas, or one
        /// with `?cluster=true`. Absent: counted in this process.
        url: Option<Secret> = "",
        /// A file that holds the URL instead.
        url_file: Option<PathBuf> = "",
    }
}

section! {
    /// The gateway's own knowledge of its authorization server.
    GatewaySection {
        /// `self`, or the issuer URL of another process's authorization server, for a gateway process of its own.
        authorization_server: String = r#""self""#,
        /// The gateway's client there (scopes `doorward.introspect doorward.feed`). Not needed with `self`.
        client_id: Option<String> = "",
        /// Its secret.
        client_secret: Option<Secret> = "",
        /// A file that holds the secret instead.
        client_secret_file: Option<PathBuf> = "",
        /// How old the knowledge of revocations may be before tokens are introspected instead, and refused if that fails.
        max_staleness: Seconds = r#""5s""#,
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
        /// A pushed authorization request. Kept for later versions; `/par` is not part of this one.
        par: Seconds = r#""60s""#,
        /// A device code. Kept for later versions; the device grant is not part of this one.
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
    /// Dynamic client registration (RFC 7591); not part of this version.
    RegistrationSection {
        /// Whether anyone may register a client. Must stay `false` in this version.
        open: bool = "false",
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
    }
}

/// Every section with its keys: what is known, and what the manual prints.
pub const SECTIONS: &[Section] = &[
    Section { path: "server", about: ServerSection::ABOUT, keys: ServerSection::KEYS },
    Section { path: "server.tls", about: TlsSection::ABOUT, keys: TlsSection::KEYS },
    Section { path: "storage", about: StorageSection::ABOUT, keys: StorageSection::KEYS },
    Section { path: "shared_state", about: SharedStateSection::ABOUT, keys: SharedStateSection::KEYS },
    Section { path: "gateway", about: GatewaySection::ABOUT, keys: GatewaySection::KEYS },
    Section { path: "gateway.tls", about: "TLS of the gateway listener alone.", keys: TlsSection::KEYS },
    Section { path: "admin.tls", about: "TLS of the administration listener alone.", keys: TlsSection::KEYS },
    Section { path: "lifetimes", about: LifetimesSection::ABOUT, keys: LifetimesSection::KEYS },
    Section { path: "keys", about: KeysSection::ABOUT, keys: KeysSection::KEYS },
    Section { path: "outbound", about: OutboundSection::ABOUT, keys: OutboundSection::KEYS },
    Section { path: "registration", about: RegistrationSection::ABOUT, keys: RegistrationSection::KEYS },
    Section { path: "mail", about: MailSection::ABOUT, keys: MailSection::KEYS },
    Section { path: "log", about: LogSection::ABOUT, keys: LogSection::KEYS },
];

/// A certificate and its key, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub cert_file: PathBuf,
    /// The key, PEM.
    pub key_file: PathBuf,
}

/// Where the gateway's authorization server is.
#[derive(Debug, Clone)]
pub enum AuthorizationServer {
    /// In this process or on this database.
    Own,
    /// Another process, asked over HTTP.
    Remote {
        /// Its issuer identifier.
        issuer: String,
        /// The gateway's client there.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
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
    /// TLS of the gateway listener.
    pub gateway_tls: Option<TlsFiles>,
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
    /// Redis URL.
    pub shared_state: Option<Secret>,
    /// `[gateway]` `authorization_server` and its credential.
    pub authorization_server: AuthorizationServer,
    /// `[gateway]` `max_staleness`.
    pub max_staleness: Seconds,
    /// `[lifetimes]`.
    pub lifetimes: LifetimesSection,
    /// `[keys]`.
    pub keys: KeysSection,
    /// `[outbound]`.
    pub outbound: OutboundSection,
    /// `[log]`.
    pub log: LogSection,
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
        let admin_tls = TlsSection::read(r, "admin.tls").map(|tls| check_tls(r, "admin.tls", tls));
        let storage = StorageSection::read(r, "storage");
        let shared = SharedStateSection::read(r, "shared_state");
        let gateway = GatewaySection::read(r, "gateway");
        let lifetimes = LifetimesSection::read(r, "lifetimes");
        let keys = KeysSection::read(r, "keys");
        let outbound = OutboundSection::read(r, "outbound");
        let registration = RegistrationSection::read(r, "registration");
        let mail = MailSection::read(r, "mail");
        let log = LogSection::read(r, "log");

        if registration.is_some_and(|section| section.open) {
            r.wrong("registration.open", "dynamic client registration is not supported by this version");
        }
        let lifetimes = lifetimes.inspect(|section| check_lifetimes(r, section));
        let keys = keys.inspect(|section| {
            if section.rotate_every <= section.publish_before {
                r.wrong("keys.publish_before", "must be shorter than keys.rotate_every");
            }
        });
        let outbound = outbound.inspect(|section| check_outbound(r, section));
        let log = log.inspect(|section| check_log(r, section));
        let storage = storage.and_then(|section| check_storage(r, section));
        let shared = shared.and_then(|section| check_shared(r, section));
        let authorization_server = gateway.as_ref().and_then(|section| check_authorization_server(r, section));
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
        check_plain(r, &server, [public_tls.is_some(), gateway_tls.is_some(), admin_tls.is_some()]);
        mail?;
        let storage = storage?;
        Some(Self {
            file: file.to_owned(),
            server,
            issuer: issuer?,
            public_tls,
            gateway_tls,
            admin_tls,
            storage_url: storage.url,
            key_file: storage.key_file,
            key: storage.key,
            connections: storage.connections,
            shared_state: shared?,
            authorization_server: authorization_server?,
            max_staleness: max_staleness?,
            lifetimes: lifetimes?,
            keys: keys?,
            outbound: outbound?,
            log: log?,
        })
    }

    /// Whether this process plays a role.
    #[must_use]
    pub fn plays(&self, role: Role) -> bool {
        self.server.roles.contains(&role)
    }

    /// The protocol's numbers.
    #[must_use]
    pub fn settings(&self) -> protocol::Settings {
        protocol::Settings {
            code_ttl: self.lifetimes.code.0,
            access_token_ttl: self.lifetimes.access_token.0,
            refresh_token_ttl: self.lifetimes.refresh_token.0,
            refresh_idle: self.lifetimes.refresh_idle.0,
            refresh_grace: self.lifetimes.refresh_grace.0,
            session_ttl: self.lifetimes.session.0,
            ..protocol::Settings::for_issuer(&self.issuer)
        }
    }
}

struct Storage {
    url: Secret,
    key_file: PathBuf,
    key: Option<Secret>,
    connections: u32,
}

/// A secret given directly or in a file; both is a mistake.
fn secret(r: &mut Reader, path: &str, given: Option<Secret>, file: Option<&Path>) -> Option<Option<Secret>> {
    match (given, file) {
        (Some(_), Some(_)) => {
            r.wrong(path, &format!("give either this or {path}_file, not both"));
            None
        }
        (Some(secret), None) => Some(Some(secret)),
        (None, None) => Some(None),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => Some(Some(Secret::from(text.trim().to_owned()))),
            Ok(_) => {
                r.wrong(&format!("{path}_file"), &format!("{} is empty", file.display()));
                None
            }
            Err(error) => {
                r.wrong(&format!("{path}_file"), &format!("{}: {error}", file.display()));
                None
            }
        },
    }
}

/// The files of a TLS section, in a wrapper that tells "none" from "wrong".
struct TlsChoice(Option<TlsFiles>);

fn check_tls(r: &mut Reader, path: &str, section: TlsSection) -> TlsChoice {
    if !section.client_ca_files.is_empty() {
        r.wrong(&format!("{path}.client_ca_files"), "client certificates are not supported by this version");
    }
    TlsChoice(match (section.cert_file, section.key_file) {
        (Some(cert_file), Some(key_file)) => Some(TlsFiles { cert_file, key_file }),
        (None, None) => None,
        (Some(_), None) => {
            r.wrong(&format!("{path}.key_file"), "cert_file needs a key_file");
            None
        }
        (None, Some(_)) => {
            r.wrong(&format!("{path}.cert_file"), "key_file needs a cert_file");
            None
        }
    })
}

fn check_storage(r: &mut Reader, section: StorageSection) -> Option<Storage> {
    let given = secret(r, "storage.url", section.url, section.url_file.as_deref())?;
    let url = given.unwrap_or_else(|| Secret::from("sqlite://doorward.db".to_owned()));
    let url = match url.expose().split_once("://") {
        Some(("sqlite", "")) => {
            r.wrong("storage.url", "sqlite:// needs a path");
            return None;
        }
        Some(("sqlite", path)) => Secret::from(format!("sqlite://{}", r.base().join(path).display())),
        Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => url,
        _ => {
            r.wrong("storage.url", "must be sqlite://PATH or postgres://…");
            return None;
        }
    };
    if section.connections == 0 {
        r.wrong("storage.connections", "must be at least 1");
    }
    let key_file = section.key_file.unwrap_or_else(|| r.base().join("kek"));
    Some(Storage { url, key_file, key: section.key, connections: section.connections })
}

fn check_shared(r: &mut Reader, section: SharedStateSection) -> Option<Option<Secret>> {
    let url = secret(r, "shared_state.url", section.url, section.url_file.as_deref())?;
    let known = |url: &str| ["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| url.trim().starts_with(scheme));
    if url.as_ref().is_some_and(|url| !url.expose().split(',').all(known)) {
        r.wrong(
            "shared_state.url",
            "must begin with redis://, rediss://, valkey:// or valkeys://; nodes of a cluster are separated by commas",
        );
        return None;
    }
    Some(url)
}

fn check_authorization_server(r: &mut Reader, section: &GatewaySection) -> Option<AuthorizationServer> {
    let client_secret = secret(r, "gateway.client_secret", section.client_secret.clone(), section.client_secret_file.as_deref())?;
    if section.authorization_server == "self" {
        return Some(AuthorizationServer::Own);
    }
    if let Err(why) = issuer_is_well_formed(&section.authorization_server) {
        r.wrong("gateway.authorization_server", &why);
    }
    if section.client_id.is_none() {
        r.wrong("gateway.client_id", "a gateway process of its own needs its client at the authorization server");
    }
    if client_secret.is_none() {
        r.wrong("gateway.client_secret_file", "a gateway process of its own needs its client's secret");
    }
    Some(AuthorizationServer::Remote {
        issuer: section.authorization_server.clone(),
        client_id: section.client_id.clone()?,
        client_secret: client_secret?,
    })
}

fn check_server(r: &mut Reader, section: &ServerSection) {
    match section.profile.as_str() {
        "standard" => {}
        "oidc-dynamic" | "fapi2" => {
            r.wrong("server.profile", &format!("the profile \"{}\" is not supported by this version; use \"standard\"", section.profile));
        }
        other => r.wrong("server.profile", &format!("\"{other}\" is not a profile; use \"standard\"")),
    }
    if section.roles.is_empty() {
        r.wrong("server.roles", "at least one role is needed");
    }
    if !(0..=10).contains(&section.drain.0) {
        r.wrong("server.drain", "must be at most 10s");
    }
    if section.max_connections == 0 {
        r.wrong("server.max_connections", "must be at least 1");
    }
    let used: Vec<(&str, SocketAddr)> = listeners(section).into_iter().filter(|(_, at)| at.port() != 0).collect();
    for (index, (name, at)) in used.iter().enumerate() {
        if let Some((first, _)) = used.iter().take(index).find(|(_, other)| other == at) {
            r.wrong(&format!("server.{name}"), &format!("{at} is already taken by server.{first}"));
        }
    }
}

/// The listeners that the roles of a section open.
fn listeners(section: &ServerSection) -> Vec<(&'static str, SocketAddr)> {
    let mut open = Vec::new();
    if section.roles.contains(&Role::Auth) {
        open.push(("public_listen", section.public_listen));
    }
    if section.roles.contains(&Role::Gateway) {
        open.push(("gateway_listen", section.gateway_listen));
    }
    if section.roles.contains(&Role::Admin) {
        open.push(("admin_listen", section.admin_listen));
    }
    open.push(("metrics_listen", section.metrics_listen));
    open
}

fn check_plain(r: &mut Reader, section: &ServerSection, tls: [bool; 3]) {
    let [public, gateway, admin] = tls;
    for (name, at) in listeners(section) {
        let encrypted = match name {
            "public_listen" => public,
            "gateway_listen" => gateway,
            "admin_listen" => admin,
            _ => false,
        };
        if !encrypted && !at.ip().is_loopback() && section.trusted_proxies.is_empty() {
            let why = "plain HTTP is served on loopback addresses only, unless trusted_proxies names the proxy in front";
            r.wrong(&format!("server.{name}"), why);
        }
    }
}

fn check_issuer(r: &mut Reader, section: &ServerSection, at: &AuthorizationServer) -> Option<String> {
    let issues = section.roles.contains(&Role::Auth) || section.roles.contains(&Role::Admin);
    match (&section.issuer, at) {
        (Some(issuer), AuthorizationServer::Remote { issuer: other, .. }) if issuer != other && issues => {
            r.wrong("gateway.authorization_server", "must be \"self\" when this process plays auth or admin for another issuer");
            None
        }
        (Some(issuer), _) => match issuer_is_well_formed(issuer) {
            Ok(()) => Some(issuer.clone()),
            Err(why) => {
                r.wrong("server.issuer", &why);
                None
            }
        },
        (None, AuthorizationServer::Remote { issuer, .. }) if !issues => Some(issuer.clone()),
        (None, _) => {
            r.wrong("server.issuer", "this key is required");
            None
        }
    }
}

/// An issuer is an https URL without query or fragment (RFC 8414 §2); http only for a loopback host.
fn issuer_is_well_formed(issuer: &str) -> Result<(), String> {
    let url = Url::parse(issuer).map_err(|error| format!("\"{issuer}\" is not a URL: {error}"))?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => return Err("the issuer needs a host".into()),
    };
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("the issuer has no query, fragment or user information (RFC 8414 §2)".into());
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        "http" => Err("an http issuer is allowed for a loopback host only; use https".into()),
        other => Err(format!("\"{other}\" is not a scheme for an issuer; use https")),
    }
}

fn check_lifetimes(r: &mut Reader, section: &LifetimesSection) {
    let day = 24 * 3600;
    let year = 366 * day;
    for (name, value, least, most) in [
        ("code", section.code, 1, 60),
        ("access_token", section.access_token, 1, protocol::Settings::MAX_ACCESS_TOKEN_TTL),
        ("refresh_token", section.refresh_token, 1, year),
        ("refresh_idle", section.refresh_idle, 1, year),
        ("session", section.session, 1, year),
        ("par", section.par, 1, 600),
        ("device_code", section.device_code, 1, 3600),
        ("refresh_grace", section.refresh_grace, 0, 10),
    ] {
        if !(least..=most).contains(&value.0) {
            r.wrong(&format!("lifetimes.{name}"), &format!("must be between {least} and {most} seconds"));
        }
    }
}

fn check_outbound(r: &mut Reader, section: &OutboundSection) {
    for exception in &section.allow {
        let port = exception.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            r.wrong("outbound.allow", &format!("\"{exception}\" is not host:port"));
        }
    }
    if let Some(file) = &section.extra_ca_file
        && let Err(error) = std::fs::metadata(file)
    {
        r.wrong("outbound.extra_ca_file", &format!("{}: {error}", file.display()));
    }
}

fn check_log(r: &mut Reader, section: &LogSection) {
    if !matches!(section.format.as_str(), "human" | "json") {
        r.wrong("log.format", &format!("\"{}\" is not a format; use \"human\" or \"json\"", section.format));
    }
    if let Err(error) = section.filter.parse::<tracing_subscriber::filter::Targets>() {
        r.wrong("log.filter", &format!("\"{}\" cannot be read: {error}", section.filter));
    }
}

#[cfg(test)]
mod tests;
