//! What the keys of a configuration must satisfy alone and together. Each check notes every mistake it finds.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    AuthorizationServer, GatewaySection, LifetimesSection, LogSection, OcspRules, OutboundSection, Reader, Role, Secret, ServerSection,
    SharedStateSection, StorageSection, TelemetrySection, TlsFiles, TlsSection,
};

/// The database as configured.
pub(super) struct Storage {
    pub url: Secret,
    pub key_file: PathBuf,
    pub key: Option<Secret>,
    pub connections: u32,
}

/// A secret given directly or in a file; both is a mistake.
pub(super) fn secret(r: &mut Reader, path: &str, given: Option<Secret>, file: Option<&Path>) -> Option<Option<Secret>> {
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
pub(super) struct TlsChoice(pub Option<TlsFiles>);

pub(super) fn check_tls(r: &mut Reader, path: &str, section: TlsSection) -> TlsChoice {
    if !matches!(section.client_certificates.as_str(), "trusted" | "any") {
        r.wrong(&format!("{path}.client_certificates"), "must be \"trusted\" or \"any\"");
    }
    if !matches!(section.min_version.as_str(), "1.2" | "1.3") {
        r.wrong(&format!("{path}.min_version"), "must be \"1.2\" or \"1.3\"");
    }
    let ocsp = check_ocsp(r, path, &section);
    if !matches!(section.client_crl.as_str(), "hard" | "soft") {
        r.wrong(&format!("{path}.client_crl"), "must be \"hard\" or \"soft\"");
    }
    if section.client_depth > 6 {
        r.wrong(&format!("{path}.client_depth"), "must be at most 6");
    }
    if section.client_ca_files.is_empty() && (ocsp.is_some() || !section.client_crl_files.is_empty()) {
        r.wrong(&format!("{path}.client_ca_files"), "revocation is of certificates of these authorities: name them");
    }
    TlsChoice(match (section.cert_file, section.key_file) {
        (Some(cert_file), Some(key_file)) => Some(TlsFiles {
            cert_file,
            key_file,
            client_ca_files: section.client_ca_files,
            any_client: section.client_certificates == "any",
            newest_only: section.min_version == "1.3",
            client_depth: usize::try_from(section.client_depth).unwrap_or(0),
            client_crl_files: section.client_crl_files,
            crl_hard: section.client_crl == "hard",
            ocsp,
        }),
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

fn check_ocsp(r: &mut Reader, path: &str, section: &TlsSection) -> Option<OcspRules> {
    let url = section.client_ocsp_url.as_deref();
    if url.is_some_and(|url| !Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())) {
        r.wrong(&format!("{path}.client_ocsp_url"), "must be an http or https URL");
    }
    if !(1..=3600).contains(&section.client_ocsp_max_age.0) {
        r.wrong(&format!("{path}.client_ocsp_max_age"), "must be between 1s and 1h");
    }
    let hard = match section.client_ocsp.as_str() {
        "off" => return None,
        "soft" => false,
        "hard" => true,
        _ => {
            r.wrong(&format!("{path}.client_ocsp"), "must be \"off\", \"soft\" or \"hard\"");
            return None;
        }
    };
    Some(OcspRules { hard, url: section.client_ocsp_url.clone(), max_age: section.client_ocsp_max_age.0 })
}

pub(super) fn check_storage(r: &mut Reader, section: StorageSection) -> Option<Storage> {
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

pub(super) fn check_shared(r: &mut Reader, section: SharedStateSection) -> Option<Option<Secret>> {
    let url = secret(r, "shared_state.url", section.url, section.url_file.as_deref())?;
    if let Some(why) = url.as_ref().and_then(|url| store::redis::Redis::open(url.expose(), None).err()) {
        r.wrong("shared_state.url", &why.to_string());
        return None;
    }
    Some(url)
}

pub(super) fn check_authorization_server(r: &mut Reader, section: &GatewaySection) -> Option<AuthorizationServer> {
    if section.authorization_server == "self" {
        return Some(AuthorizationServer::Own);
    }
    if let Err(why) = issuer_is_well_formed(&section.authorization_server) {
        r.wrong("gateway.authorization_server", &why);
    }
    Some(AuthorizationServer::Remote { issuer: section.authorization_server.clone() })
}

pub(super) fn check_server(r: &mut Reader, section: &ServerSection) {
    if protocol::Profile::parse(&section.profile).is_none() {
        let why = format!("\"{}\" is not a profile; use \"standard\", \"fapi2\" or \"oidc-dynamic\"", section.profile);
        r.wrong("server.profile", &why);
    }
    if section.roles.is_empty() {
        r.wrong("server.roles", "at least one role is needed");
    }
    if !(0..=10).contains(&section.drain.0) {
        r.wrong("server.drain", "must be at most 10s");
    }
    if section.drain_notice.0 > 0 && section.drain_notice >= section.drain {
        r.wrong("server.drain_notice", "must be shorter than server.drain, of which it is the first part");
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
pub(super) fn listeners(section: &ServerSection) -> Vec<(&'static str, SocketAddr)> {
    let mut open = Vec::new();
    if section.roles.contains(&Role::Auth) {
        open.push(("public_listen", section.public_listen));
    }
    if let (true, Some(at)) = (section.roles.contains(&Role::Auth), section.mtls_listen) {
        open.push(("mtls_listen", at));
    }
    if section.roles.contains(&Role::Gateway) {
        open.push(("gateway_listen", section.gateway_listen));
    }
    if let (true, Some(at)) = (section.roles.contains(&Role::Gateway), section.decision_listen) {
        open.push(("decision_listen", at));
    }
    if section.roles.contains(&Role::Admin) {
        open.push(("admin_listen", section.admin_listen));
    }
    open.push(("metrics_listen", section.metrics_listen));
    open
}

pub(super) fn check_mtls(r: &mut Reader, section: &ServerSection, tls: bool) {
    if section.mtls_listen.is_some() && !tls {
        r.wrong("server.mtls_listen", "needs [server.tls] with cert_file and key_file");
    }
    let origin = |text: &str| {
        let url = Url::parse(text).ok()?;
        (url.scheme() == "https" && url.origin().ascii_serialization() == text.trim_end_matches('/')).then_some(())
    };
    if section.mtls_origin.as_deref().is_some_and(|text| origin(text).is_none()) {
        r.wrong("server.mtls_origin", "must be an origin: https://host or https://host:port");
    }
}

/// Whoever is believed by its certificate has one that an authority vouches for.
pub(super) fn check_decision_tls(r: &mut Reader, choice: TlsChoice) -> TlsChoice {
    if choice.0.as_ref().is_some_and(|files| files.any_client) {
        r.wrong("decision.tls.client_certificates", "must be \"trusted\": a gateway is believed by its certificate");
    }
    choice
}

/// What is answered there is believed: nobody else may answer in its place.
pub(super) fn check_decision(r: &mut Reader, section: &ServerSection, tls: bool) {
    let Some(at) = section.decision_listen else { return };
    if !section.roles.contains(&Role::Gateway) {
        r.wrong("server.decision_listen", "needs the role gateway");
    }
    if !tls && !at.ip().is_loopback() {
        r.wrong("server.decision_listen", "plain HTTP is served on loopback addresses only: set [decision.tls]");
    }
}

pub(super) fn check_plain(r: &mut Reader, section: &ServerSection, tls: [bool; 3]) {
    let [public, gateway, admin] = tls;
    for (name, at) in listeners(section) {
        let encrypted = match name {
            // One has no plain form: without a certificate it is refused at start. The other has a rule of its own.
            "mtls_listen" | "decision_listen" => true,
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

pub(super) fn check_issuer(r: &mut Reader, section: &ServerSection, at: &AuthorizationServer) -> Option<String> {
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
pub(super) fn issuer_is_well_formed(issuer: &str) -> Result<(), String> {
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

pub(super) fn check_lifetimes(r: &mut Reader, section: &LifetimesSection) {
    let day = 24 * 3600;
    let year = 366 * day;
    for (name, value, least, most) in [
        ("code", section.code, 1, 60),
        ("access_token", section.access_token, 1, protocol::Settings::MAX_ACCESS_TOKEN_TTL),
        ("refresh_token", section.refresh_token, 1, year),
        ("refresh_idle", section.refresh_idle, 1, year),
        ("session", section.session, 1, year),
        ("par", section.par, 1, 1800),
        ("device_code", section.device_code, 1, 3600),
        ("refresh_grace", section.refresh_grace, 0, 10),
    ] {
        if !(least..=most).contains(&value.0) {
            r.wrong(&format!("lifetimes.{name}"), &format!("must be between {least} and {most} seconds"));
        }
    }
}

pub(super) fn check_outbound(r: &mut Reader, section: &OutboundSection) {
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

pub(super) fn check_log(r: &mut Reader, section: &LogSection) {
    if !matches!(section.format.as_str(), "human" | "json") {
        r.wrong("log.format", &format!("\"{}\" is not a format; use \"human\" or \"json\"", section.format));
    }
    if let Err(error) = section.filter.parse::<tracing_subscriber::filter::Targets>() {
        r.wrong("log.filter", &format!("\"{}\" cannot be read: {error}", section.filter));
    }
}

pub(super) fn check_telemetry(r: &mut Reader, section: &TelemetrySection) {
    let bad =
        |endpoint: &&String| !url::Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if section.otlp_endpoint.as_ref().is_some_and(|endpoint| bad(&endpoint)) {
        r.wrong("telemetry.otlp_endpoint", "an address such as http://127.0.0.1:4318 is needed");
    }
    if section.share().is_none() {
        r.wrong("telemetry.sample", &format!("\"{}\" is not a share; use a number from 0 to 1", section.sample));
    }
}
