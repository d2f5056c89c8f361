//! The rules of the configuration: mistakes all at once, the environment over the file, a fresh manual.
use super::*;

const SMALL: &str = "[server]\nissuer = \"https://id.example.com\"\n";

fn parse(content: &str, environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(Path::new("/etc/doorward/doorward.toml"), content, environment)
}

fn mistakes(content: &str) -> String {
    parse(content, &[]).unwrap_err().to_string()
}

#[test]
fn an_issuer_is_enough() {
    let config = parse(SMALL, &[]).unwrap();
    assert_eq!(config.issuer, "https://id.example.com");
    assert_eq!(config.storage_url.expose(), "sqlite:///etc/doorward/doorward.db");
    assert_eq!(config.settings().access_token_ttl, 300);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let text = mistakes(
        "[server]\nisuer = \"https://id.example.com\"\nroles = [\"auth\", \"devices\"]\nprofile = \"fapi2\"\n\n[lifetimes]\ncode = \"2m\"\nsession = 5\n[storag]\nurl = \"x\"\n",
    );
    for expected in [
        "doorward.toml:2: unknown key server.isuer; the nearest right key is server.issuer",
        "doorward.toml:3: server.roles: the role \"devices\" is not supported by this version",
        "server.issuer: this key is required",
        "doorward.toml:7: lifetimes.code: must be between 1 and 60 seconds",
        "doorward.toml:8: lifetimes.session: a string is expected, not a number",
        "doorward.toml:9: there is no section [storag]; the nearest is [storage]",
    ] {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_like_it() {
    let config = parse(SMALL, &[("DOORWARD_SERVER__PUBLIC_LISTEN", "127.0.0.1:0"), ("DOORWARD_SERVER__ROLES", "auth,admin")]).unwrap();
    assert_eq!(config.server.public_listen.port(), 0);
    assert_eq!(config.server.roles, [Role::Auth, Role::Admin]);
    let text = parse(SMALL, &[("DOORWARD_LIFETIMES__CODES", "1s")]).unwrap_err().to_string();
    assert!(text.contains("environment variable DOORWARD_LIFETIMES__CODES: unknown key lifetimes.codes"), "{text}");
}

#[test]
fn plain_http_leaves_loopback_only_behind_trusted_proxies() {
    let open = "[server]\nissuer = \"https://id.example.com\"\npublic_listen = \"0.0.0.0:8080\"\n";
    assert!(mistakes(open).contains("server.public_listen: plain HTTP"));
    assert!(parse(&format!("{open}trusted_proxies = [\"10.0.0.0/8\"]\n"), &[]).is_ok());
}

#[test]
fn an_http_issuer_is_for_loopback_only() {
    assert!(mistakes("[server]\nissuer = \"http://id.example.com\"\n").contains("loopback host only"));
    assert!(parse("[server]\nissuer = \"http://127.0.0.1:8080\"\n", &[]).is_ok());
}

#[test]
fn a_gateway_of_its_own_needs_a_credential_but_no_issuer() {
    let gateway = "[server]\nroles = [\"gateway\"]\n[gateway]\nauthorization_server = \"https://id.example.com\"\n";
    let text = mistakes(gateway);
    assert!(text.contains("gateway.client_id") && text.contains("gateway.client_secret_file"), "{text}");
    let config = parse(&format!("{gateway}client_id = \"gw\"\nclient_secret = \"s3cret-s3cret\"\n"), &[]).unwrap();
    assert_eq!(config.issuer, "https://id.example.com");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn certificates_are_asked_for_where_the_configuration_says_so() {
    let server = "[server]\nissuer = \"https://id.example.com/t\"\n";
    let tls = "[server.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n";
    assert!(mistakes(&format!("{server}mtls_listen = \"127.0.0.1:8443\"\n")).contains("server.mtls_listen: needs [server.tls]"));
    assert!(mistakes(&format!("{server}mtls_origin = \"https://a.example.com/x\"\n")).contains("server.mtls_origin: must be an origin"));
    let settings = |text: &str| {
        let settings = parse(text, &[]).unwrap().settings();
        (settings.mtls, settings.mtls_url("/token"))
    };
    assert_eq!(settings(&format!("{server}{tls}")), (false, None));
    assert_eq!(settings(&format!("{server}{tls}client_ca_files = [\"ca\"]\n")), (true, None));
    assert_eq!(settings(&format!("{server}{tls}client_certificates = \"any\"\n")), (true, None));
    let second = settings(&format!("{server}mtls_listen = \"127.0.0.1:8443\"\n{tls}"));
    assert_eq!(second, (true, Some("https://id.example.com:8443/t/token".into())));
    let trusting =
        |more: &str| parse(&format!("{server}mtls_listen = \"127.0.0.1:8443\"\n{tls}{more}"), &[]).unwrap().settings().mtls_authorities;
    assert!(trusting("client_ca_files = [\"ca\"]\n") && !trusting("client_certificates = \"any\"\n") && !trusting(""));
    let named = settings(&format!("{server}mtls_origin = \"https://mtls.example.com\"\n"));
    assert_eq!(named, (true, Some("https://mtls.example.com/t/token".into())));
}

#[test]
fn the_oldest_version_of_tls_is_one_of_two() {
    let tls =
        |more: &str| format!("[server]\nissuer = \"https://id.example.com\"\n[server.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n{more}");
    let newest = |text: &str| parse(text, &[]).unwrap().public_tls.unwrap().newest_only;
    assert!(!newest(&tls("")) && !newest(&tls("min_version = \"1.2\"\n")) && newest(&tls("min_version = \"1.3\"\n")));
    assert!(mistakes(&tls("min_version = \"1.1\"\n")).contains("server.tls.min_version: must be"));
}

#[test]
fn broken_toml_is_named_by_line() {
    assert!(mistakes("[server]\nissuer = \n").contains("doorward.toml:2:"));
}

#[test]
fn the_manual_is_fresh() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(stored == manual::page(), "write {} anew with `doorward config-docs`", file.display());
}
