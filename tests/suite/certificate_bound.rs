//! Certificate-bound access tokens (RFC 8705 §3): given at the token endpoint, proved at the gateway and at userinfo.
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::kit::http::claims;
use crate::kit::seed::{API, VAULT, route, standard};
use crate::kit::{House, Server, Upstream, services};

fn openssl(house: &House, args: &str) {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(house.dir()).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

struct World {
    house: House,
    server: Server,
    _upstream: Upstream,
}

const SECRET: &str = "certain-secret-1a2b3c4d5e6f708192a3b4c5d6e7f809";

/// An https issuer and gateway that take any client certificate: what it is bound to decides.
fn start(configure: impl FnOnce(&mut House)) -> Option<World> {
    if !services::has("openssl") || !services::has("curl") {
        services::skip("openssl and curl");
        return None;
    }
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.issuer = house.issuer.replace("http://127.0.0.1", "https://localhost");
    let (issuer, cert, key) = (house.issuer.clone(), house.path("cert.pem"), house.path("key.pem"));
    house.text("server.issuer", &issuer).text("server.tls.client_certificates", "any");
    house.text("server.tls.cert_file", &cert.display().to_string()).text("server.tls.key_file", &key.display().to_string());
    configure(&mut house);
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&house, &format!("{new} -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"));
    for name in ["one", "two"] {
        openssl(&house, &format!("{new} -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    }
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let clients = seed["clients"].as_array_mut().unwrap();
    for (id, resource, scope, bound) in [("bound", API, "read", true), ("bound-opaque", VAULT, "open", true), ("free", API, "read", false)]
    {
        clients.push(json!({
            "client_id": id, "client_secret": SECRET, "grant_types": ["client_credentials"], "scope": scope,
            "allowed_resources": [resource], "tls_client_certificate_bound_access_tokens": bound,
        }));
    }
    openssl(&house, "x509 -in one.pem -outform der -out one.der");
    let x5c = base64::engine::general_purpose::STANDARD.encode(std::fs::read(house.path("one.der")).expect("DER"));
    for (id, bound) in [("own-bound", true), ("own-free", false)] {
        clients.push(json!({
            "client_id": id, "grant_types": ["client_credentials"], "scope": "read", "allowed_resources": [API],
            "token_endpoint_auth_method": "self_signed_tls_client_auth", "tls_client_certificate_bound_access_tokens": bound,
            "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x5c": [x5c]}]},
        }));
    }
    let auth = |constraint: Value| json!({"accept": ["jwt"], "audience": API, "scopes": ["read"], "sender_constraint": constraint});
    let routes = seed["routes"].as_array_mut().unwrap();
    routes.push(route("certified", "/certified/", "echo", auth(json!(["mtls"]))));
    routes.push(route("keyed", "/keyed/", "echo", auth(json!(["dpop"]))));
    house.seed(&seed);
    let server = house.serve();
    Some(World { house, server, _upstream: upstream })
}

impl World {
    /// Status and body of a request with a certificate.
    fn curl(&self, certificate: Option<&str>, url: &str, more: &[&str]) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--cacert", "cert.pem", "-w", "\n%{http_code}"]).current_dir(self.house.dir());
        if let Some(name) = certificate {
            curl.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
        }
        let done = curl.args(more).arg(url).output().expect("curl");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    fn ask(&self, certificate: Option<&str>, id: &str) -> (u16, Value) {
        let basic = format!("{id}:{SECRET}");
        let (status, body) =
            self.curl(certificate, &format!("{}/token", self.server.issuer), &["-u", &basic, "--data", "grant_type=client_credentials"]);
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn call(&self, certificate: Option<&str>, path: &str, token: &str) -> u16 {
        let gateway = self.server.listener("gateway").replace("127.0.0.1", "localhost");
        self.curl(certificate, &format!("https://{gateway}{path}"), &["-H", &format!("Authorization: Bearer {token}")]).0
    }

    fn thumbprint(&self, name: &str) -> String {
        openssl(&self.house, &format!("x509 -in {name}.pem -outform der -out {name}.der"));
        let der = std::fs::read(self.house.path(&format!("{name}.der"))).expect("DER");
        crate::kit::http::b64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der))
    }
}

fn token(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
}

#[test]
fn ensure_mtls_holder_of_key_required() {
    let Some(world) = start(|_| {}) else { return };
    let (status, answer) = world.ask(None, "bound");
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{answer}");
    for (id, path) in [("bound", "/api/x"), ("bound-opaque", "/vault/x")] {
        let (status, answer) = world.ask(Some("one"), id);
        assert_eq!((status, &answer["token_type"]), (200, &json!("Bearer")), "{answer}");
        let token = token(&answer);
        if id == "bound" {
            assert_eq!(claims(&token)["cnf"], json!({"x5t#S256": world.thumbprint("one")}));
        }
        assert_eq!(world.call(Some("one"), path, &token), 200, "{id}");
        assert_eq!(world.call(Some("two"), path, &token), 401, "{id}: another certificate");
        assert_eq!(world.call(None, path, &token), 401, "{id}: none");
    }
}

#[test]
fn a_route_may_demand_a_certificate_bound_token() {
    let Some(world) = start(|_| {}) else { return };
    let bound = token(&world.ask(Some("one"), "bound").1);
    let (_, answer) = world.ask(Some("one"), "free");
    let free = token(&answer);
    assert!(claims(&free).get("cnf").is_none(), "bound only where the client is registered so");
    assert_eq!(world.call(Some("one"), "/certified/x", &bound), 200);
    assert_eq!(world.call(Some("one"), "/certified/x", &free), 401);
    assert_eq!(world.call(Some("one"), "/keyed/x", &bound), 401);
    assert_eq!((world.call(Some("one"), "/api/x", &free), world.call(None, "/api/x", &free)), (200, 200));
}

#[test]
fn introspection_and_metadata_tell_of_the_binding() {
    let Some(world) = start(|_| {}) else { return };
    let bound = token(&world.ask(Some("one"), "bound").1);
    let data = format!("token={bound}");
    let caller = format!("{}:{}", crate::kit::seed::GW.id, crate::kit::seed::GW.secret);
    let (_, told) = world.curl(None, &format!("{}/introspect", world.server.issuer), &["-u", &caller, "--data", &data]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["token_type"], &told["cnf"]["x5t#S256"]), (&json!("Bearer"), &json!(world.thumbprint("one"))), "{told}");
    let (_, metadata) = world.curl(None, &format!("{}/.well-known/oauth-authorization-server", world.server.issuer), &[]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], true);
}

#[test]
fn under_fapi2_a_certificate_binds_too() {
    let Some(world) = start(|house| {
        house.text("server.profile", "fapi2");
    }) else {
        return;
    };
    let url = format!("{}/token", world.server.issuer);
    let ask = |certificate, id: &str| {
        let data = format!("grant_type=client_credentials&client_id={id}");
        let (status, body) = world.curl(certificate, &url, &["--data", &data]);
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let (status, answer) = ask(Some("one"), "own-bound");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(claims(&token(&answer))["cnf"], json!({"x5t#S256": world.thumbprint("one")}));
    let (status, answer) = ask(Some("one"), "own-free");
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "a certificate binds where the client is registered so");
}
