//! Signature algorithms (RFC 7518 §3.1, RFC 8037) wherever one may be chosen, and the key exchange of the TLS listeners.
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};

use crate::kit::http::{Go, client, jose_header};
use crate::kit::jose::{at_hash, thumbprint, verified};
use crate::kit::seed::{HOME, Id, route, standard};
use crate::kit::visitor::text;
use crate::kit::{Ask, House, Server, Upstream, Visitor, services};

const ALGORITHMS: [&str; 5] = ["ES256", "ES384", "RS256", "PS256", "EdDSA"];

const fn app(id: &'static str) -> Id {
    Id {
        id,
        secret: "algorithms-secret-0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        method: "client_secret_basic",
        redirect: "https://alg.example.com/cb",
        scope: "openid",
    }
}

const APPS: [Id; 5] = [app("app-es256"), app("app-es384"), app("app-rs256"), app("app-ps256"), app("app-eddsa")];
const SIGNER: Id = Id { redirect: "", scope: "use", ..app("signer") };

struct Stage {
    server: Server,
    house: House,
    _upstream: Upstream,
}

fn api(alg: &str) -> String {
    format!("https://{}.example.com", alg.to_lowercase())
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let (upstream, house) = (Upstream::start(), House::new());
        house.bootstrap();
        let mut seed = standard(&upstream.url());
        let mut add = |list: &str, object: Value| seed[list].as_array_mut().expect("a list").push(object);
        for (alg, id) in ALGORITHMS.iter().zip(APPS) {
            add(
                "clients",
                json!({"client_id": id.id, "client_secret": id.secret, "redirect_uris": [id.redirect], "response_types": ["code"],
                    "grant_types": ["authorization_code"], "scope": "openid", "first_party": true, "id_token_signed_response_alg": alg}),
            );
            add("resource_servers", json!({"identifier": api(alg), "scopes": [{"name": "use"}], "access_token_signing_alg": alg, "introspection_clients": ["gw"]}));
            let auth = json!({"accept": ["jwt"], "issuers": ["self"], "audience": api(alg), "scopes": ["use"]});
            add("routes", route(&alg.to_lowercase(), &format!("/{}/", alg.to_lowercase()), "echo", auth));
        }
        let apis: Vec<String> = ALGORITHMS.iter().map(|alg| api(alg)).collect();
        add("clients", json!({"client_id": SIGNER.id, "client_secret": SIGNER.secret, "grant_types": ["client_credentials"], "scope": "use", "allowed_resources": apis}));
        house.seed(&seed);
        Stage { server: house.serve(), house, _upstream: upstream }
    })
}

#[test]
fn every_algorithm_has_a_signing_and_a_next_key_from_the_first_start() {
    let server = &stage().server;
    let set = client().get(server.url("/jwks")).go().expect(200).json();
    let keys = set["keys"].as_array().unwrap();
    for alg in ALGORITHMS {
        assert_eq!(keys.iter().filter(|key| key["alg"] == alg).count(), 2, "{alg}");
    }
    assert_eq!(keys.len(), 10, "and none of an algorithm that was not asked for");
    for key in keys {
        assert_eq!(key["kid"], thumbprint(key).as_str(), "{key}");
    }
    let metadata = client().get(server.url("/.well-known/openid-configuration")).go().expect(200).json();
    let mut told: Vec<&str> =
        metadata["id_token_signing_alg_values_supported"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    told.sort_unstable();
    let mut all = ALGORITHMS;
    all.sort_unstable();
    assert_eq!(told, all);
}

#[test]
fn a_client_gets_its_id_tokens_in_the_algorithm_it_registered() {
    let server = &stage().server;
    for (alg, id) in ALGORITHMS.into_iter().zip(APPS) {
        let ask = Ask::new(&id);
        let tokens = Visitor::new().tokens(server, &ask, "alice");
        let told = verified(server, &text(&tokens, "id_token"), alg, "JWT");
        assert_eq!((&told["iss"], &told["aud"], &told["nonce"]), (&json!(server.issuer), &json!(id.id), &json!(ask.nonce)));
        assert_eq!(told["at_hash"], at_hash(alg, &text(&tokens, "access_token")).as_str(), "{alg}");
    }
}

#[test]
fn oidcc_idtoken_rs256() {
    let server = &stage().server;
    let tokens = server.person_tokens(&HOME, "alice");
    verified(server, &text(&tokens, "id_token"), "RS256", "JWT");
}

#[test]
fn an_api_gets_its_access_tokens_in_the_algorithm_it_registered_and_the_gateway_believes_them() {
    let server = &stage().server;
    for alg in ALGORITHMS {
        let token = server.machine_token(&SIGNER, &[("resource", &api(alg))]);
        let told = verified(server, &token, alg, "at+jwt");
        assert_eq!((&told["aud"], &told["client_id"]), (&json!(api(alg)), &json!(SIGNER.id)));
        let path = format!("/{}/x", alg.to_lowercase());
        server.call(&path, &token).expect(200);
        assert!(server.active(&token), "{alg}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let bent = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
        server.call(&path, &bent).expect(401);
        // What is signed with one algorithm is not believed under the name of another.
        let mut header = jose_header(&token);
        header["alg"] = json!(if alg == "RS256" { "PS256" } else { "RS256" });
        let renamed = format!("{}.{}", crate::kit::http::b64(header.to_string()), token.split_once('.').unwrap().1);
        server.call(&path, &renamed).expect(401);
        assert!(!server.active(&renamed));
        server.revoke(&SIGNER, &token);
        assert_eq!(server.call(&path, &token).status, 401, "{alg}");
    }
}

#[test]
fn what_nobody_signs_with_cannot_be_registered() {
    let house = &stage().house;
    for member in ["id_token_signed_response_alg", "userinfo_signed_response_alg", "introspection_signed_response_alg"] {
        for alg in ["none", "HS256", "RS512", "ES256K", "es256", "ML-DSA-65"] {
            let client = json!({"client_id": "bad", "redirect_uris": ["https://bad.example.com/cb"], member: alg});
            let done = stage().server.admin("POST", "/clients").json(&client).go();
            assert!(done.status == 400 || done.status == 422, "{member} {alg}: {} {}", done.status, done.text());
            assert!(done.text().contains(member), "{}", done.text());
        }
    }
    let server = json!({"identifier": "https://bad.example.com", "access_token_signing_alg": "HS256"});
    let done = stage().server.admin("POST", "/resource-servers").json(&server).go();
    assert!(done.text().contains("access_token_signing_alg") && done.status >= 400, "{}", done.text());
    assert!(house.run(&["keys", "rotate", "--alg", "HS256"]).code != 0);
}

/// Believes any certificate: these tests look at the key exchange.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The key exchange group that a listener agrees on with a client that knows only these.
fn agreed(at: &str, groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> Option<rustls::NamedGroup> {
    let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut socket = std::net::TcpStream::connect(at).expect("connects");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).ok()?;
    }
    connection.negotiated_key_exchange_group().map(|group| group.name())
}

#[test]
fn every_tls_listener_agrees_on_a_hybrid_post_quantum_key_exchange() {
    if !services::has("openssl") {
        return services::skip("openssl");
    }
    let mut house = House::new();
    let at = |name: &str| house.path(name).display().to_string();
    let done = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", &at("key.pem"), "-out", &at("cert.pem")])
        .output()
        .expect("openssl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (issuer, cert, key) = (house.issuer.replace("http://127.0.0.1", "https://localhost"), at("cert.pem"), at("key.pem"));
    house.text("server.issuer", &issuer).text("server.tls.cert_file", &cert).text("server.tls.key_file", &key);
    house.bootstrap();
    let server = house.serve();
    let hybrid = aws_lc_rs::kx_group::X25519MLKEM768;
    for listener in ["public", "gateway", "admin"] {
        let at = server.listener(listener);
        assert_eq!(agreed(&at, vec![hybrid]), Some(rustls::NamedGroup::X25519MLKEM768), "{listener}");
        // Whoever knows both and prefers the hybrid one gets it, whoever knows only the classical one is served too.
        assert_eq!(agreed(&at, vec![hybrid, aws_lc_rs::kx_group::X25519]), Some(rustls::NamedGroup::X25519MLKEM768), "{listener}");
        assert_eq!(agreed(&at, vec![aws_lc_rs::kx_group::X25519]), Some(rustls::NamedGroup::X25519), "{listener}");
    }
    for name in server.ready.as_object().unwrap().keys() {
        assert!(
            ["ready", "pid", "issuer", "public", "gateway", "admin", "metrics", "mtls"].contains(&name.as_str()),
            "a listener this test does not know: {name}"
        );
    }
}
