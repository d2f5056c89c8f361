//! Client certificates (RFC 8705 §2, §5; RFC 9440): asked for and never demanded, one method a client, judged anew on every connection.
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::kit::forge::Issuer;
use crate::kit::http::{Go, RUNTIME, b64, client};
use crate::kit::seed::{API, standard};
use crate::kit::{House, Server, Upstream, services, wait_until};

fn openssl(house: &House, args: &str) {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(house.dir()).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
const NAMES: &str = "subjectAltName=DNS:app.example.com,URI:spiffe://example.com/app,IP:192.0.2.7,email:ops@example.com";

/// The server's certificate, two authorities, and clients' certificates: `app` and `other` of the first, `own` and `stray` of nobody.
fn certify(house: &House) {
    openssl(
        house,
        &format!("req -x509 {KEY} -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"),
    );
    for ca in ["ca", "ca2"] {
        openssl(house, &format!("req -x509 {KEY} -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    }
    for (name, names) in [("app", NAMES), ("other", "subjectAltName=DNS:other.example.com")] {
        openssl(
            house,
            &format!("req -new {KEY} -subj /O=Example/CN={name} -addext {names} -keyout {name}.key -out {name}.csr")
                .replace(" -days 2", ""),
        );
        openssl(
            house,
            &format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out {name}.pem"),
        );
    }
    for name in ["own", "stray"] {
        openssl(house, &format!("req -x509 {KEY} -subj /O=Example/CN=app -addext {NAMES} -keyout {name}.key -out {name}.pem"));
    }
}

fn der(house: &House, name: &str) -> String {
    openssl(house, &format!("x509 -in {name}.pem -outform der -out {name}.der"));
    base64::engine::general_purpose::STANDARD.encode(std::fs::read(house.path(&format!("{name}.der"))).expect("DER"))
}

/// The key of a certificate, without the certificate.
fn jwk(house: &House, name: &str) -> Value {
    openssl(house, &format!("pkey -in {name}.key -pubout -outform der -out {name}.pub"));
    let key = std::fs::read(house.path(&format!("{name}.pub"))).expect("DER");
    let (x, y) = key[key.len() - 64..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)})
}

fn holder(id: &str, method: &str, member: &str, value: Value) -> Value {
    json!({
        "client_id": id, "token_endpoint_auth_method": method, "grant_types": ["client_credentials"], "scope": "read",
        "allowed_resources": [API], member: value,
    })
}

fn seed(house: &House, upstream: &Upstream) -> Value {
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().expect("clients");
    for (id, member, name) in [
        ("by-dn", "tls_client_auth_subject_dn", "CN=app,O=Example"),
        ("by-dns", "tls_client_auth_san_dns", "app.example.com"),
        ("by-uri", "tls_client_auth_san_uri", "spiffe://example.com/app"),
        ("by-ip", "tls_client_auth_san_ip", "192.0.2.7"),
        ("by-email", "tls_client_auth_san_email", "ops@example.com"),
    ] {
        clients.push(holder(id, "tls_client_auth", member, json!(name)));
    }
    let own = json!({"keys": [{"kty": "EC", "crv": "P-256", "x5c": [der(house, "own")]}]});
    clients.push(holder("by-key", "self_signed_tls_client_auth", "jwks", json!({"keys": [jwk(house, "own")]})));
    clients.push(holder("self-signed", "self_signed_tls_client_auth", "jwks", own));
    seed
}

/// An https issuer whose public listener asks for certificates of `ca`, and a second listener that takes any.
fn start() -> Option<(House, Server, Upstream)> {
    if !services::has("openssl") || !services::has("curl") {
        services::skip("openssl and curl");
        return None;
    }
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.issuer = house.issuer.replace("http://127.0.0.1", "https://localhost");
    let (issuer, cert, key) = (house.issuer.clone(), house.path("cert.pem"), house.path("key.pem"));
    house.text("server.issuer", &issuer).text("server.mtls_listen", "127.0.0.1:0");
    house.text("server.tls.cert_file", &cert.display().to_string()).text("server.tls.key_file", &key.display().to_string());
    let authorities = json!([house.path("trusted.pem")]).to_string();
    house.set("server.tls.client_ca_files", &authorities);
    certify(&house);
    std::fs::copy(house.path("ca.pem"), house.path("trusted.pem")).expect("a copy");
    house.bootstrap();
    house.seed(&seed(&house, &upstream));
    let server = house.serve();
    Some((house, server, upstream))
}

fn mtls(server: &Server) -> String {
    server.listener("mtls").replace("127.0.0.1", "https://localhost")
}

/// The status of a token request with a certificate, and `error` of the answer; curl's own code where there was no answer.
fn ask(house: &House, origin: &str, id: &str, certificate: Option<&str>, more: &[&str]) -> Result<(u16, String), i32> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--cacert", "cert.pem", "-w", "\n%{http_code}", "--data"]).current_dir(house.dir());
    curl.arg(format!("grant_type=client_credentials&scope=read&client_id={id}"));
    if let Some(name) = certificate {
        curl.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
    }
    let done = curl.args(more).arg(format!("{origin}/token")).output().expect("curl");
    if !done.status.success() {
        return Err(done.status.code().unwrap_or(-1));
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let body: Value = serde_json::from_str(body).expect("JSON");
    Ok((status.parse().expect("a number"), body["error"].as_str().unwrap_or_default().to_owned()))
}

fn given() -> Result<(u16, String), i32> {
    Ok((200, String::new()))
}
fn nobody() -> Result<(u16, String), i32> {
    Ok((401, "invalid_client".into()))
}

#[test]
fn a_certificate_of_a_trusted_authority_names_its_client() {
    let Some((house, server, _upstream)) = start() else { return };
    let (public, mtls) = (server.issuer.clone(), mtls(&server));
    for origin in [&public, &mtls] {
        for id in ["by-dn", "by-dns", "by-uri", "by-ip", "by-email"] {
            assert_eq!(ask(&house, origin, id, Some("app"), &[]), given(), "{origin} {id}");
            assert_eq!(ask(&house, origin, id, Some("other"), &[]), nobody(), "{origin} {id}: another name");
            assert_eq!(ask(&house, origin, id, None, &[]), nobody(), "{origin} {id}: no certificate");
        }
        assert_eq!(ask(&house, origin, "by-dn", Some("app"), &["--tls-max", "1.2"]), given());
        assert_eq!(ask(&house, origin, "by-dn", Some("app"), &["--http1.1"]), given());
        assert_eq!(ask(&house, origin, "machine", Some("app"), &[]), nobody(), "a certificate is not a secret");
    }
    // The right names, vouched for by nobody.
    assert!(ask(&house, &public, "by-dn", Some("stray"), &[]).is_err(), "the listener takes certificates of its authorities only");
    assert_eq!(ask(&house, &mtls, "by-dn", Some("stray"), &[]), nobody());
    // A certificate is never demanded, and says nothing about clients with secrets.
    assert_eq!(ask(&house, &mtls, "machine", None, &["-u", "machine:machine-secret-7f3a1c5e9b2d4860a1b2c3d4e5f60718"]), given());
    assert_eq!(ask(&house, &mtls, "machine", Some("app"), &["-u", "machine:machine-secret-7f3a1c5e9b2d4860a1b2c3d4e5f60718"]), given());
    assert_eq!(ask(&house, &mtls, "by-dn", Some("app"), &["--data", "client_secret=x"]), nobody());
}

#[test]
fn a_self_signed_certificate_counts_for_the_client_that_registered_it() {
    let Some((house, server, _upstream)) = start() else { return };
    let mtls = mtls(&server);
    assert_eq!(ask(&house, &mtls, "self-signed", Some("own"), &[]), given());
    assert_eq!(ask(&house, &mtls, "self-signed", Some("own"), &["--tls-max", "1.2"]), given());
    for other in [Some("stray"), Some("app"), None] {
        assert_eq!(ask(&house, &mtls, "self-signed", other, &[]), nobody(), "{other:?}");
    }
    // Who shows a certificate without its key does not get through the handshake.
    let stolen = ask(&house, &mtls, "self-signed", Some("own"), &["--key", "stray.key"]);
    assert!(stolen.is_err(), "{stolen:?}");
}

#[test]
fn a_registered_key_and_a_certificate_at_an_address_count_as_well() {
    let Some((house, server, _upstream)) = start() else { return };
    let mtls = mtls(&server);
    assert_eq!(ask(&house, &mtls, "by-key", Some("own"), &[]), given());
    assert_eq!(ask(&house, &mtls, "by-key", Some("stray"), &[]), nobody());
    let keys = Issuer::start(&[]);
    let set = |name: &str| json!({"keys": [{"kty": "EC", "x5c": [der(&house, name)]}]});
    keys.publish_set(set("own"));
    drop(server);
    let mut second = house.clone();
    second.set("outbound.allow", &json!([keys.address]).to_string());
    second.seed(&json!({"clients": [holder("fetched", "self_signed_tls_client_auth", "jwks_uri", json!(format!("{}/jwks", keys.url)))]}));
    let server = second.serve();
    let mtls = self::mtls(&server);
    assert_eq!(ask(&house, &mtls, "fetched", Some("own"), &[]), given());
    assert_eq!(ask(&house, &mtls, "fetched", Some("stray"), &[]), nobody());
    keys.publish_set(set("stray"));
    wait_until("the new certificate is found", std::time::Duration::from_secs(30), || {
        ask(&house, &mtls, "fetched", Some("stray"), &[]) == given()
    });
    assert_eq!(ask(&house, &mtls, "fetched", Some("own"), &[]), nobody());
    assert!(keys.asked() <= 8, "{} fetches", keys.asked());
}

#[test]
fn metadata_tells_where_certificates_are_asked_for() {
    let Some((house, server, _upstream)) = start() else { return };
    let mtls = mtls(&server);
    let done = Command::new("curl")
        .args(["-s", "--cacert", "cert.pem", &format!("{mtls}/.well-known/oauth-authorization-server")])
        .current_dir(house.dir())
        .output()
        .expect("curl");
    let metadata: Value = serde_json::from_slice(&done.stdout).expect("metadata");
    assert_eq!(metadata["issuer"], server.issuer.as_str());
    for endpoint in ["token", "introspection", "revocation"] {
        let methods = metadata[format!("{endpoint}_endpoint_auth_methods_supported")].as_array().expect("methods").clone();
        for method in ["private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"] {
            assert!(methods.contains(&json!(method)), "{endpoint} {method}");
        }
    }
    assert_eq!(metadata["mtls_endpoint_aliases"]["token_endpoint"], format!("{mtls}/token"));
    assert_eq!(metadata["mtls_endpoint_aliases"]["introspection_endpoint"], format!("{mtls}/introspect"));
    assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], true);
}

#[test]
fn a_reload_changes_whose_certificates_count() {
    let Some((house, server, _upstream)) = start() else { return };
    let public = server.issuer.clone();
    assert_eq!(ask(&house, &public, "by-dn", Some("app"), &[]), given());
    std::fs::copy(house.path("ca2.pem"), house.path("trusted.pem")).expect("a copy");
    server.signal("HUP");
    wait_until("the authority is gone", std::time::Duration::from_secs(20), || ask(&house, &public, "by-dn", Some("app"), &[]).is_err());
    assert_eq!(ask(&house, &mtls(&server), "by-dn", Some("app"), &[]), nobody());
    std::fs::copy(house.path("ca.pem"), house.path("trusted.pem")).expect("a copy");
    server.signal("HUP");
    wait_until("it is back", std::time::Duration::from_secs(20), || ask(&house, &public, "by-dn", Some("app"), &[]) == given());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a client that keeps one connection with a certificate")]
fn an_open_connection_is_judged_anew_after_a_reload() {
    let Some((house, server, _upstream)) = start() else { return };
    let read = |name: &str| std::fs::read(house.path(name)).expect("a file");
    let identity = reqwest::Identity::from_pem(&[read("app.key"), read("app.pem")].concat()).expect("an identity");
    let http = reqwest::Client::builder().identity(identity).tls_danger_accept_invalid_certs(true);
    let http = RUNTIME.block_on(async { http.build() }).expect("a client");
    let url = format!("{}/token", server.issuer);
    let form = [("grant_type", "client_credentials"), ("scope", "read"), ("client_id", "by-dn")];
    let status = || http.post(&url).form(&form).go().status;
    assert_eq!(status(), 200);
    std::fs::copy(house.path("ca2.pem"), house.path("trusted.pem")).expect("a copy");
    server.signal("HUP");
    // A new connection would not get through its handshake: an answer means that it is the old one.
    wait_until("the open connection is nobody's", std::time::Duration::from_secs(20), || status() == 401);
    assert!(ask(&house, &server.issuer, "by-dn", Some("app"), &[]).is_err());
}

#[test]
fn a_trusted_proxy_passes_certificates_on_and_nobody_else_does() {
    if !services::has("openssl") {
        return services::skip("openssl");
    }
    // What a proxy passes on counts if the configuration says that it removes what its own clients send (RFC 9440 §4).
    for (trusted, sanitises) in [(true, true), (true, false), (false, true)] {
        let (upstream, mut house) = (Upstream::start(), House::new());
        if trusted {
            house.set("server.trusted_proxies", r#"["127.0.0.1/32"]"#);
        }
        if sanitises {
            house.set("server.client_certificate_header", "true");
        }
        house.text("server.mtls_origin", "https://mtls.example.com");
        certify(&house);
        house.bootstrap();
        house.seed(&seed(&house, &upstream));
        let server = house.serve();
        let ask = |id: &str, certificate: &str| {
            let form = [("grant_type", "client_credentials"), ("scope", "read"), ("client_id", id)];
            client().post(server.url("/token")).header("client-cert", certificate).form(&form).go()
        };
        let sent = format!(":{}:", der(&house, "own"));
        let answer = ask("self-signed", &sent);
        assert_eq!(answer.status, if trusted && sanitises { 200 } else { 401 }, "{}", answer.text());
        for bad in [&format!(":{}:", der(&house, "stray")), &der(&house, "own"), "::", ":!:"] {
            ask("self-signed", bad).expect_error(401, "invalid_client");
        }
        // Nobody here has verified a chain.
        ask("by-dn", &format!(":{}:", der(&house, "app"))).expect_error(401, "invalid_client");
        let metadata = client().get(server.url("/.well-known/openid-configuration")).go().expect(200).json();
        assert_eq!(metadata["mtls_endpoint_aliases"]["token_endpoint"], "https://mtls.example.com/token");
    }
}
