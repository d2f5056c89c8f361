//! What cannot change while a process runs: everything but certificates, lifetimes and the patience of a drain.
use super::{Compared as _, Config, TlsFiles};

impl Config {
    /// The keys that differ and take effect with a restart only. Whatever is not named as changeable here is compared: a new field of the
    /// configuration does not compile before somebody decided what it is.
    #[must_use]
    pub fn fixed(&self, new: &Self) -> Vec<String> {
        let Self {
            file: _,
            server,
            issuer,
            public_tls,
            mtls_at: _,
            gateway_tls,
            decision_tls,
            admin_tls,
            storage_url,
            key_file,
            key,
            connections,
            replicas,
            shared_state,
            shared_ca,
            authorization_server,
            gateway_client,
            sessions,
            signed_introspection,
            gateway_identifier,
            max_staleness,
            routes_file,
            default_policy,
            explain_allowed,
            lifetimes: _,
            keys,
            audit,
            outbound,
            registration,
            mail,
            log,
            telemetry,
        } = self;
        let sections = [
            ("server", server.differing(&new.server)),
            ("keys", keys.differing(&new.keys)),
            ("audit", audit.differing(&new.audit)),
            ("outbound", outbound.differing(&new.outbound)),
            ("registration", registration.differing(&new.registration)),
            ("mail", mail.differing(&new.mail)),
            ("log", log.differing(&new.log)),
            ("telemetry", telemetry.differing(&new.telemetry)),
        ];
        let sections = sections.into_iter().flat_map(|(section, keys)| keys.into_iter().map(move |key| format!("{section}.{key}")));
        let others = [
            ("server.issuer", *issuer != new.issuer),
            ("server.tls", !same_listener(public_tls.as_ref(), new.public_tls.as_ref())),
            ("gateway.tls", !same_listener(gateway_tls.as_ref(), new.gateway_tls.as_ref())),
            ("decision.tls", !same_listener(decision_tls.as_ref(), new.decision_tls.as_ref())),
            ("admin.tls", !same_listener(admin_tls.as_ref(), new.admin_tls.as_ref())),
            ("storage.url", *storage_url != new.storage_url),
            ("storage.key_file", *key_file != new.key_file),
            ("storage.key", *key != new.key),
            ("storage.connections", *connections != new.connections),
            ("storage.replicas", *replicas != new.replicas),
            ("shared_state.url", *shared_state != new.shared_state),
            ("shared_state.ca_file", *shared_ca != new.shared_ca),
            ("gateway.authorization_server", *authorization_server != new.authorization_server),
            ("gateway.client_id", *gateway_client != new.gateway_client),
            ("gateway.session", *sessions != new.sessions),
            ("gateway.signed_introspection", *signed_introspection != new.signed_introspection),
            ("gateway.identifier", *gateway_identifier != new.gateway_identifier),
            ("gateway.max_staleness", *max_staleness != new.max_staleness),
            ("gateway.routes_file", *routes_file != new.routes_file),
            ("gateway.default_policy", *default_policy != new.default_policy),
            ("gateway.explain_allowed", *explain_allowed != new.explain_allowed),
        ];
        let mut found: Vec<String> = sections.filter(|key| !key.starts_with("server.drain")).collect();
        found.extend(others.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()));
        found.sort();
        found.dedup();
        found
    }
}

/// Whether nothing but files changes: not whether there is TLS, which version, nor whether and which kind of client certificate it asks for.
fn same_listener(old: Option<&TlsFiles>, new: Option<&TlsFiles>) -> bool {
    let kind = |files: &TlsFiles| {
        let TlsFiles {
            cert_file: _,
            key_file: _,
            client_ca_files,
            any_client,
            newest_only,
            client_depth: _,
            client_crl_files: _,
            crl_hard: _,
            ocsp: _,
        } = files;
        (client_ca_files.is_empty(), *any_client, *newest_only)
    };
    old.map(kind) == new.map(kind)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TLS: &str = "[server.tls]\ncert_file = \"a.pem\"\nkey_file = \"a.key\"\n";

    fn config(server: &str, rest: &str) -> Config {
        let text = format!("[server]\nissuer = \"https://id.example.com\"\n{server}{rest}");
        Config::parse(Path::new("/etc/doorward/doorward.toml"), &text, []).unwrap()
    }

    #[test]
    fn certificates_lifetimes_and_the_drain_may_change() {
        let old = config("", TLS);
        let new = config("drain = \"3s\"\n", &format!("{}[lifetimes]\naccess_token = \"7m\"\n", TLS.replace("a.pem", "b.pem")));
        assert!(old.fixed(&new).is_empty(), "{:?}", old.fixed(&new));
    }

    #[test]
    fn everything_else_is_named_and_waits_for_a_restart() {
        let old = config("", TLS);
        let server = [
            ("roles = [\"auth\"]", "server.roles"),
            ("profile = \"fapi2\"", "server.profile"),
            ("dpop_nonce = true", "server.dpop_nonce"),
            ("cross_site_session_state = true", "server.cross_site_session_state"),
            ("mtls_listen = \"127.0.0.1:0\"", "server.mtls_listen"),
            ("mtls_origin = \"https://m.example.com\"", "server.mtls_origin"),
            ("trusted_proxies = [\"10.0.0.0/8\"]", "server.trusted_proxies"),
            ("max_connections = 100", "server.max_connections"),
        ];
        for (line, key) in server {
            assert_eq!(old.fixed(&config(&format!("{line}\n"), TLS)), [key]);
        }
        let behind = config("trusted_proxies = [\"10.0.0.0/8\"]\n", TLS);
        let believed = "trusted_proxies = [\"10.0.0.0/8\"]\nclient_certificate_header = true\nmtls_origin = \"https://m.example.com\"\n";
        assert_eq!(behind.fixed(&config(believed, TLS)), ["server.client_certificate_header", "server.mtls_origin"]);
        let sections = [
            ("[registration]\nopen = true", "registration.open"),
            ("[registration]\nclient_id_metadata = true", "registration.client_id_metadata"),
            ("[mail]\nsink_dir = \"mail\"", "mail.sink_dir"),
            ("[keys]\npost_quantum = true", "keys.post_quantum"),
            ("[audit]\nkeep = \"7d\"", "audit.keep"),
            ("[outbound]\nallow = [\"10.0.0.1:443\"]", "outbound.allow"),
            ("[log]\nfilter = \"debug\"", "log.filter"),
            ("[storage]\nurl = \"sqlite://other.db\"", "storage.url"),
            ("[shared_state]\nurl = \"redis://127.0.0.1:1\"", "shared_state.url"),
            ("[storage.replicas]\nmax_lag = \"9s\"", "storage.replicas"),
            ("[gateway]\nmax_staleness = \"9s\"", "gateway.max_staleness"),
        ];
        for (text, key) in sections {
            assert_eq!(old.fixed(&config("", &format!("{TLS}{text}\n"))), [key]);
        }
        let asking = old.fixed(&config("", &format!("{TLS}client_certificates = \"any\"\n")));
        assert_eq!(asking, ["admin.tls", "gateway.tls", "server.tls"]);
        let remote = |secret: &str| {
            let gateway =
                format!("[gateway]\nauthorization_server = \"https://id.example.com\"\nclient_id = \"g\"\nclient_secret = \"{secret}\"\n");
            Config::parse(Path::new("/etc/d.toml"), &format!("[server]\nroles = [\"gateway\"]\n{gateway}"), []).unwrap()
        };
        assert_eq!(remote("one").fixed(&remote("two")), ["gateway.client_id"], "a secret shows nothing, and counts");
    }
}
