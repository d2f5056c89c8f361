//! Client certificates as a credential of the gateway (RFC 8446 §4.4.2, RFC 5280, RFC 9440): whose count, for whom, and what is told upstream.
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::random;
use crate::kit::pki::{self, Client, Pki, curl, der};
use crate::kit::seed::{API, MACHINE, route, standard};
use crate::kit::{House, Server, Upstream, wait_until};

const SOON: Duration = Duration::from_secs(15);

pub struct World {
    pub house: House,
    pub server: Server,
    pub upstream: Upstream,
    pub root: Pki,
}

/// Routes for certificates beside the standard ones.
fn routes() -> Vec<Value> {
    let auth = |accept: Value, certificate: Value, scopes: Value| json!({"accept": accept, "audience": API, "scopes": scopes, "certificate": certificate});
    let mut plain = route("mtls", "/mtls/", "echo", json!({"accept": ["mtls"]}));
    plain["identity"] =
        json!({"headers": {"X-Who": "sub", "X-Authority": "iss", "X-Scope": "scope", "X-Dns": "san_dns"}, "client_certificate": "chain"});
    let spiffe = json!({
        "subject": "san_uri", "spiffe_trust_domains": ["example.org"],
        "allow": [{"name": "spiffe://example.org/sensor/*", "scopes": ["read"]}, {"name": "spiffe://example.org/admin", "scopes": ["read", "write"]}],
    });
    vec![
        plain,
        route("first", "/first/", "echo", json!({"accept": ["mtls"], "certificate": {"authorities": ["root"]}})),
        route("second", "/second/", "echo", json!({"accept": ["mtls"], "certificate": {"authorities": ["second"]}})),
        route("sensors", "/sensors/", "echo", auth(json!(["mtls"]), spiffe.clone(), json!(["read"]))),
        route("firmware", "/firmware/", "echo", auth(json!(["mtls"]), spiffe, json!(["write"]))),
        route("either", "/either/", "echo", json!({"accept": ["jwt", "mtls"], "audience": API})),
        route("optional-mtls", "/perhaps/", "echo", json!({"accept": ["mtls", "none"]})),
        route("demanding", "/demanding/", "echo", json!({"accept": ["mtls"], "certificate": {"client_usage": true}})),
        route("bound", "/bound/", "echo", json!({"accept": ["jwt"], "audience": API, "sender_constraint": ["mtls"]})),
    ]
}

/// An https issuer and gateway that trust the authorities `root` and `second`. `prepare` issues, `configure` comes last.
pub fn world(prepare: impl FnOnce(&House, &Pki, &Pki), configure: impl FnOnce(&mut House)) -> Option<World> {
    if !pki::possible() {
        return None;
    }
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.issuer = house.issuer.replace("http://127.0.0.1", "https://localhost");
    let issuer = house.issuer.clone();
    house.text("server.issuer", &issuer);
    let (root, second) = (Pki::root(&house, "root"), Pki::root(&house, "second"));
    root.issue("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    root.client("app", "DNS:app.example.com");
    let (cert, key) = (house.path("server.pem").display().to_string(), house.path("server.key").display().to_string());
    house.text("server.tls.cert_file", &cert).text("server.tls.key_file", &key);
    let authorities = json!([house.path("root.pem"), house.path("second.pem")]).to_string();
    house.set("server.tls.client_ca_files", &authorities);
    prepare(&house, &root, &second);
    configure(&mut house);
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    seed["routes"].as_array_mut().expect("routes").extend(routes());
    seed["clients"].as_array_mut().expect("clients").push(json!({
        "client_id": "by-dns", "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "app.example.com",
        "grant_types": ["client_credentials"], "scope": "read", "allowed_resources": [API], "tls_client_certificate_bound_access_tokens": true,
    }));
    house.seed(&seed);
    let server = house.serve();
    Some(World { house, server, upstream, root })
}

impl World {
    /// `host:port` of the gateway.
    pub fn gateway(&self) -> String {
        self.server.listener("gateway")
    }

    pub fn curl(&self, certificate: Option<&str>, path: &str, more: &[&str]) -> Result<u16, i32> {
        let url = format!("https://{}{path}", self.gateway().replace("127.0.0.1", "localhost"));
        curl(&self.house, certificate, &url, more).0
    }

    /// A request that the upstream records: its headers there.
    fn through(&self, certificate: &str, path: &str, more: &[&str]) -> crate::kit::upstream::Seen {
        let mark = random();
        assert_eq!(self.curl(Some(certificate), &format!("{path}?{mark}"), more), Ok(200), "{certificate} {path}");
        self.upstream.only(&mark)
    }

    /// A request that must not reach the upstream.
    fn refused(&self, certificate: Option<&str>, path: &str, more: &[&str]) -> u16 {
        let mark = random();
        let status = self.curl(certificate, &format!("{path}?{mark}"), more).expect("an answer");
        assert!(self.upstream.seen(&mark).is_empty(), "{path} reached the upstream");
        status
    }

    /// A token of the client that authenticates by its certificate.
    pub fn bound_token(&self) -> (Result<u16, i32>, Value) {
        let form = ["--data", "grant_type=client_credentials&scope=read&client_id=by-dns"];
        let (status, body) = curl(&self.house, Some("app"), &format!("{}/token", self.server.issuer), &form);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }
}

#[test]
fn a_certificate_of_the_listeners_authorities_is_a_caller() {
    let Some(world) = world(
        |house, _, second| {
            second.client("other", "DNS:other.example.com");
            let stray =
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stray -keyout stray.key -out stray.pem";
            pki::openssl(house, &stray.split(' ').collect::<Vec<_>>());
        },
        |_| {},
    ) else {
        return;
    };
    let seen = world.through("app", "/mtls/x", &[]);
    assert_eq!((seen.all("x-who"), seen.all("x-authority"), seen.all("x-scope")), (vec!["app.example.com"], vec!["root"], vec![]));
    assert_eq!(world.through("other", "/mtls/x", &[]).all("x-who"), ["other.example.com"]);
    assert_eq!(world.through("app", "/mtls/x", &["--tls-max", "1.2"]).all("x-who"), ["app.example.com"]);
    assert_eq!(world.through("app", "/mtls/x", &["--http2"]).all("x-who"), ["app.example.com"]);
    // Whoever shows nothing, or what nobody vouches for, is nobody.
    assert_eq!(world.refused(None, "/mtls/x", &[]), 401);
    let url = format!("https://{}/mtls/x", world.gateway());
    let told = curl(&world.house, None, &url, &["-i", "--http1.1"]).1.to_ascii_lowercase();
    assert!(told.contains("\r\nwww-authenticate: mtls\r\n") && !told.contains("bearer"), "{told}");
    assert!(world.curl(Some("stray"), "/mtls/x", &[]).is_err(), "the listener asks for certificates of its authorities");
    assert!(world.curl(Some("app"), "/mtls/x", &["--key", "other.key"]).is_err(), "a certificate without its key");
    // A route may take one authority's alone.
    for (certificate, path, status) in
        [("app", "/first/x", 200), ("other", "/second/x", 200), ("app", "/second/x", 401), ("other", "/first/x", 401)]
    {
        assert_eq!(world.curl(Some(certificate), path, &[]), Ok(status), "{certificate} {path}");
    }
    // Where the credential is optional, nobody is somebody too; a route of tokens takes no certificate for one.
    assert_eq!((world.curl(None, "/perhaps/x", &[]), world.curl(Some("app"), "/perhaps/x", &[])), (Ok(200), Ok(200)));
    assert_eq!(world.refused(Some("app"), "/api/x", &[]), 401);
    wait_until("it is counted", SOON, || {
        world.server.metric("auth_decisions_total{route=\"second\",outcome=\"refused\",reason=\"certificate_authority\"}") == 1.0
    });
}

#[test]
fn a_spiffe_id_is_the_caller_and_its_path_decides_what_it_may() {
    let Some(world) = world(
        |_, root, _| {
            for (name, names) in [
                ("sensor", "URI:spiffe://example.org/sensor/7"),
                ("admin", "URI:spiffe://example.org/admin"),
                ("elsewhere", "URI:spiffe://example.net/sensor/7"),
                ("sideways", "URI:spiffe://example.org/sensors/7"),
                ("double", "URI:spiffe://example.org/sensor/7,URI:https://example.org/"),
                ("crooked", "URI:spiffe://example.org/sensor/../admin"),
            ] {
                root.client(name, names);
            }
        },
        |_| {},
    ) else {
        return;
    };
    for (certificate, sensors, firmware) in [
        ("sensor", 200, 403),
        ("admin", 200, 200),
        ("elsewhere", 401, 401),
        ("sideways", 403, 403),
        ("double", 401, 401),
        ("crooked", 401, 401),
        ("app", 401, 401),
    ] {
        let got = (world.curl(Some(certificate), "/sensors/x", &[]), world.curl(Some(certificate), "/firmware/x", &[]));
        assert_eq!(got, (Ok(sensors), Ok(firmware)), "{certificate}");
    }
    let seen = world.through("sensor", "/mtls/x", &[]);
    assert_eq!(seen.all("x-who"), ["spiffe://example.org/sensor/7"]);
}

#[test]
fn a_certificate_has_to_be_for_clients() {
    let Some(world) = world(
        |_, root, _| {
            root.issue("silent", "/CN=silent", "subjectKeyIdentifier=hash\n");
            root.issue("site", "/CN=site", "extendedKeyUsage=serverAuth\n");
            root.issue("crypt", "/CN=crypt", "extendedKeyUsage=clientAuth\nkeyUsage=keyEncipherment\n");
        },
        |_| {},
    ) else {
        return;
    };
    assert_eq!((world.curl(Some("app"), "/demanding/x", &[]), world.curl(Some("silent"), "/demanding/x", &[])), (Ok(200), Ok(401)));
    assert_eq!(world.curl(Some("silent"), "/mtls/x", &[]), Ok(200), "one that says nothing is for everything (RFC 5280 §4.2.1.12)");
    assert!(world.curl(Some("site"), "/mtls/x", &[]).is_err(), "one for servers ends the handshake");
    assert_eq!(world.refused(Some("crypt"), "/mtls/x", &[]), 401);
}

#[test]
fn chains_lead_to_an_authority_within_their_depth() {
    let prepare = |house: &House, root: &Pki, _: &Pki| {
        let middle = root.below("middle");
        middle.client("leaf", "DNS:leaf.example.com");
        let read = |name: &str| std::fs::read(house.path(name)).expect("a file");
        std::fs::write(house.path("alone.pem"), read("leaf.pem")).expect("written");
        std::fs::write(house.path("alone.key"), read("leaf.key")).expect("written");
        std::fs::write(house.path("leaf.pem"), [read("leaf.pem"), read("middle.pem")].concat()).expect("written");
    };
    let Some(deep) = world(prepare, |_| {}) else { return };
    let seen = deep.through("leaf", "/mtls/x", &[]);
    assert_eq!((seen.all("x-who"), seen.all("x-authority")), (vec!["leaf.example.com"], vec!["root"]));
    // RFC 9440: the certificate, and what is between it and its authority, each a byte sequence.
    assert_eq!(seen.all("client-cert"), [format!(":{}:", der(&deep.house, "leaf"))]);
    assert_eq!(seen.all("client-cert-chain"), [format!(":{}:", der(&deep.house, "middle"))]);
    assert!(deep.curl(Some("alone"), "/mtls/x", &[]).is_err(), "without what is between");
    let shallow = world(prepare, |house| {
        house.set("server.tls.client_depth", "0");
    });
    let shallow = shallow.expect("openssl is here");
    assert!(shallow.curl(Some("leaf"), "/mtls/x", &[]).is_err());
    assert_eq!(shallow.curl(Some("app"), "/mtls/x", &[]), Ok(200));
}

#[test]
fn only_the_gateway_says_what_certificate_it_saw() {
    let Some(world) = world(|_, _, _| {}, |_| {}) else { return };
    let forged =
        ["-H", "Client-Cert: :Zm9yZ2Vk:", "-H", "client-CERT-chain: :Zm9yZ2Vk:", "-H", "Client.Cert: :Zm9yZ2Vk:", "-H", "X-Who: mallory"];
    let seen = world.through("app", "/mtls/x", &forged);
    assert_eq!(seen.all("client-cert"), [format!(":{}:", der(&world.house, "app"))]);
    assert!(seen.all("client-cert-chain").is_empty() && seen.all("client.cert").is_empty());
    assert_eq!(seen.all("x-who"), ["app.example.com"]);
    // Nor where nothing is told.
    let mark = random();
    let token = token(&world);
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(world.curl(Some("app"), &format!("/api/x?{mark}"), &[&forged[..], &["-H", &bearer]].concat()), Ok(200));
    let seen = world.upstream.only(&mark);
    assert!(seen.all("client-cert").is_empty() && seen.all("client-cert-chain").is_empty());
}

fn token(world: &World) -> String {
    let url = format!("{}/token", world.server.issuer);
    let secret = format!("{}:{}", MACHINE.id, MACHINE.secret);
    let (status, body) = curl(&world.house, None, &url, &["-u", &secret, "--data", "grant_type=client_credentials"]);
    assert_eq!(status, Ok(200), "{body}");
    serde_json::from_str::<Value>(&body).expect("JSON")["access_token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_token_beside_a_certificate_is_who_calls() {
    let Some(world) = world(|_, root, _| root.client("thief", "DNS:thief.example.com"), |_| {}) else { return };
    let free = format!("Authorization: Bearer {}", token(&world));
    let seen = world.through("app", "/either/x", &["-H", &free]);
    assert_eq!(seen.all("x-doorward-subject"), ["machine"], "the certificate is the connection's alone");
    assert_eq!(world.through("app", "/either/x", &[]).all("x-doorward-subject"), ["app.example.com"]);
    assert_eq!(
        world.refused(Some("app"), "/either/x", &["-H", "Authorization: Bearer dwa_nonsense"]),
        401,
        "a bad token is not made up for"
    );
    // A certificate and the token that is bound to it are one credential.
    let (status, answer) = world.bound_token();
    assert_eq!(status, Ok(200), "{answer}");
    let bound = format!("Authorization: Bearer {}", answer["access_token"].as_str().expect("a token"));
    for path in ["/either/x", "/bound/x", "/api/x"] {
        assert_eq!(world.curl(Some("app"), path, &["-H", &bound]), Ok(200), "{path}");
        assert_eq!(world.refused(Some("thief"), path, &["-H", &bound]), 401, "{path}: another's certificate");
        assert_eq!(world.refused(None, path, &["-H", &bound]), 401, "{path}: none");
    }
    assert_eq!(world.refused(Some("app"), "/bound/x", &["-H", &free]), 401, "an unbound token where one has to be bound");
}

#[test]
fn a_resumed_session_shows_the_certificate_of_its_first_handshake() {
    let Some(world) = world(|_, _, _| {}, |_| {}) else { return };
    let client = Client::new(&world.house, "app");
    let mut resumed = false;
    for _ in 0..3 {
        let mut wire = client.connect(&world.gateway());
        assert_eq!(wire.get("/mtls/x", ""), 200);
        resumed |= wire.is_resumed();
    }
    assert!(resumed, "no session was resumed");
}

#[test]
fn a_trusted_proxy_passes_certificates_on_to_the_gateway() {
    for believed in [true, false] {
        let configure = |house: &mut House| {
            house.set("server.trusted_proxies", r#"["127.0.0.1/32"]"#);
            house.set("server.client_certificate_header", if believed { "true" } else { "false" });
        };
        let Some(world) = world(|_, root, _| root.client("proxy", "DNS:proxy.example.com"), configure) else { return };
        let passed = format!("Client-Cert: :{}:", der(&world.house, "app"));
        let status = world.curl(None, "/mtls/x", &["-H", &passed]);
        assert_eq!(status, Ok(if believed { 200 } else { 401 }));
        let seen = world.through("proxy", "/mtls/x", &["-H", &passed]);
        assert_eq!(seen.all("x-who"), [if believed { "app.example.com" } else { "proxy.example.com" }]);
        let bare = world.curl(Some("proxy"), "/mtls/x", &[]);
        assert_eq!(bare, Ok(if believed { 401 } else { 200 }), "the proxy is not its client");
        if believed {
            assert_eq!(world.refused(Some("proxy"), "/mtls/x", &["-H", "Client-Cert: nonsense"]), 401);
        }
    }
}

#[test]
fn a_route_with_wrong_rules_is_refused_whole() {
    let Some(World { house, server, upstream: _upstream, .. }) = world(|_, _, _| {}, |_| {}) else { return };
    drop(server);
    let rules = json!({"subject": "shoe", "allow": ["a*b"], "spiffe_trust_domains": ["A"]});
    let bad = route("bad", "/bad/", "echo", json!({"accept": ["mtls"], "scopes": ["read"], "certificate": rules}));
    let ran = house.try_seed(&json!({"routes": [bad]}), &[]).failed(1);
    for at in
        ["auth.certificate.subject", "auth.certificate.allow[0]", "auth.certificate.spiffe_trust_domains[0]", "auth.certificate.allow"]
    {
        assert!(ran.said().contains(at), "{at}: {}", ran.said());
    }
    let stray = route("bad", "/bad/", "echo", json!({"accept": ["jwt"], "audience": API, "certificate": {}}));
    assert!(house.try_seed(&json!({"routes": [stray]}), &[]).failed(1).said().contains("auth.certificate"));
}

#[test]
fn a_certificate_of_a_registered_device_is_that_device() {
    let Some(world) = world(|_, root, _| root.client("pump", "URI:spiffe://example.org/pump/7"), |_| {}) else { return };
    let mut open = Client::new(&world.house, "pump").connect(&world.gateway());
    let mut stream = Client::new(&world.house, "pump").connect(&world.gateway());
    assert_eq!(open.get("/mtls/x", ""), 200, "nobody has registered it");
    let token = admin_token(&world);
    let admin = |method: &str, path: &str, body: Option<&Value>| {
        let (bearer, body) = (format!("Authorization: Bearer {token}"), body.map(Value::to_string).unwrap_or_default());
        let url = format!("https://{}/admin/v1{path}", world.server.listener("admin").replace("127.0.0.1", "localhost"));
        curl(&world.house, None, &url, &["-X", method, "-H", &bearer, "-H", "Content-Type: application/json", "--data", &body])
    };
    let device = json!({"id": "pump-7", "type": "pump", "certificates": [{"san_uri": "spiffe://example.org/pump/7"}]});
    let (status, body) = admin("POST", "/devices", Some(&device));
    assert_eq!(status, Ok(201), "{body}");
    stream.send("GET /mtls/sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_until("it is the device's", SOON, || open.get("/mtls/x", "") == 200);
    assert!(stream.head().starts_with("HTTP/1.1 200"));
    assert_eq!(admin("POST", "/devices/pump-7/disable", None).0.map(|status| status / 100), Ok(2));
    wait_until("the open connection is nobody's", SOON, || open.get("/mtls/x", "") == 401);
    assert!(stream.closes_within(Duration::from_secs(2)), "the event stream is still open");
    assert_eq!(admin("POST", "/devices/pump-7/enable", None).0.map(|status| status / 100), Ok(2));
    wait_until("it may come again", SOON, || open.get("/mtls/x", "") == 200);
}

fn admin_token(world: &World) -> String {
    let said: Value = serde_json::from_str(&std::fs::read_to_string(world.house.path("admin.json")).expect("bootstrap ran")).expect("JSON");
    let secret = format!("{}:{}", said["admin_client_id"].as_str().expect("id"), said["admin_client_secret"].as_str().expect("secret"));
    let form = "grant_type=client_credentials&scope=doorward.admin";
    let (status, body) = curl(&world.house, None, &format!("{}/token", world.server.issuer), &["-u", &secret, "--data", form]);
    assert_eq!(status, Ok(200), "{body}");
    serde_json::from_str::<Value>(&body).expect("JSON")["access_token"].as_str().expect("a token").to_owned()
}
