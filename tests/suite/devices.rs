//! Devices: the registry, what their credentials may do, and that a disabled one is out at once.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateway_live::closed_within_a_second;
use crate::kit::http::{Go, claims, client, random};
use crate::kit::pki::{Pki, curl};
use crate::kit::seed::{API, Id, VAULT, route, standard};
use crate::kit::{House, Server, Upstream, raw, wait_until};
use crate::mtls_gateway::world;
use crate::remote_gateway::gateway_house;

const fn basic(id: &'static str, secret: &'static str, scope: &'static str) -> Id {
    Id { id, secret, method: "client_secret_basic", redirect: "", scope }
}

/// The OAuth client of a temperature sensor.
const SENSOR: Id = basic("sensor-client", "sensor-secret-10f2e3d4c5b6a7988796a5b4c3d2e1f0", "read write");
/// Its opaque sibling.
const METER: Id = basic("meter-client", "meter-secret-20f2e3d4c5b6a7988796a5b4c3d2e1f0", "open");
/// A technician's tool.
const TOOL: Id = basic("tool-client", "tool-secret-30f2e3d4c5b6a7988796a5b4c3d2e1f0", "read write");
/// A client that is no device.
const NOBODY: Id = basic("nobody-client", "nobody-secret-40f2e3d4c5b6a7988796a5b4c3d2e1f0", "read write");

/// What a sensor may do, literally; micro-segmentation by upstream; everything else is refused.
const POLICY: &str = r#"
    @id("readings") permit(principal in DeviceType::"temperature-sensor", action == Action::"POST", resource == Route::"readings");
    @id("stream") permit(principal in DeviceType::"temperature-sensor", action == Action::"GET", resource == Route::"commands");
    @id("firmware") permit(principal in Group::"technicians", action == Action::"PUT", resource in Tag::"firmware");
    @id("plant") permit(principal in Tenant::"acme", action == Action::"GET", resource in Upstream::"acme-plant");
    @id("quarantine") forbid(principal in Group::"quarantine", action, resource);
"#;

fn machine(who: &Id, resource: &str) -> Value {
    json!({"client_id": who.id, "client_secret": who.secret, "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": who.method, "scope": who.scope, "allowed_resources": [resource]})
}

fn seed(url: &str) -> Value {
    let mut seed = standard(url);
    let clients = seed["clients"].as_array_mut().unwrap();
    clients.extend([machine(&SENSOR, API), machine(&METER, VAULT), machine(&TOOL, API), machine(&NOBODY, API)]);
    seed["policies"] = json!([{"id": "plant", "cedar": POLICY}]);
    seed["upstreams"].as_array_mut().unwrap().push(json!({"id": "acme-plant", "targets": [{"url": url}]}));
    let auth = || json!({"accept": ["jwt", "api_key", "mtls"], "audience": API});
    for (id, prefix, upstream) in [
        ("readings", "/readings/", "echo"),
        ("firmware", "/firmware/", "echo"),
        ("commands", "/commands/", "echo"),
        ("plant", "/plant/", "acme-plant"),
    ] {
        let mut route = route(id, prefix, upstream, auth());
        route["policy"] = json!("shared");
        if id == "firmware" {
            route["tags"] = json!(["firmware"]);
        }
        seed["routes"].as_array_mut().unwrap().push(route);
    }
    let mut sealed = route("sealed-readings", "/sealed/", "echo", json!({"accept": ["opaque"], "audience": VAULT}));
    sealed["policy"] = json!(r#"permit(principal is Device, action == Action::"POST", resource) when { principal.type == "meter" };"#);
    seed["routes"].as_array_mut().unwrap().push(sealed);
    seed["devices"] = json!([
        {"id": "sensor-1", "name": "Boiler room", "type": "temperature-sensor", "groups": ["plant-7"], "tenant": "acme", "client_id": SENSOR.id},
        {"id": "sensor-2", "type": "temperature-sensor", "tenant": "acme"},
        {"id": "meter-1", "type": "meter", "client_id": METER.id},
        {"id": "tool-1", "type": "laptop", "groups": ["technicians"], "tenant": "umbrella", "client_id": TOOL.id},
    ]);
    seed
}

struct Plant {
    house: House,
    server: Server,
    upstream: Upstream,
}

fn start() -> Plant {
    let (upstream, house) = (Upstream::start(), House::new());
    house.bootstrap();
    house.seed(&seed(&upstream.url()));
    let server = house.serve();
    Plant { house, server, upstream }
}

fn plant() -> &'static Plant {
    static PLANT: OnceLock<Plant> = OnceLock::new();
    PLANT.get_or_init(start)
}

impl Plant {
    #[track_caller]
    fn call(&self, method: &str, path: &str, token: &str) -> u16 {
        client().request(method.parse().unwrap(), self.server.through(path)).bearer_auth(token).go().status
    }
}

#[test]
fn a_sensor_may_post_readings_and_may_not_touch_firmware_and_a_technician_may() {
    let plant = plant();
    let (sensor, tool) = (plant.server.machine_token(&SENSOR, &[]), plant.server.machine_token(&TOOL, &[]));
    assert_eq!(claims(&sensor)["device"], json!({"id": "sensor-1", "type": "temperature-sensor", "groups": ["plant-7"], "tenant": "acme"}));
    let mark = random();
    assert_eq!(plant.call("POST", &format!("/readings/{mark}"), &sensor), 200);
    assert_eq!(plant.upstream.only(&mark).line.split(' ').next(), Some("POST"));
    let mark = random();
    for (method, path) in [("PUT", "/firmware/"), ("POST", "/firmware/"), ("PUT", "/readings/"), ("DELETE", "/readings/")] {
        assert_eq!(plant.call(method, &format!("{path}{mark}"), &sensor), 403, "{method} {path}");
    }
    assert_eq!(plant.call("POST", &format!("/readings/{mark}"), &tool), 403);
    assert!(plant.upstream.seen(&mark).is_empty(), "the upstream sees nothing of a refusal");
    assert_eq!(plant.call("PUT", &format!("/firmware/{mark}"), &tool), 200);
    plant.upstream.only(&mark);
}

#[test]
fn who_may_reach_which_upstream_is_one_policy_and_the_default_is_nobody() {
    let plant = plant();
    let [sensor, tool, nobody] = [&SENSOR, &TOOL, &NOBODY].map(|who| plant.server.machine_token(who, &[]));
    let mark = random();
    assert_eq!(plant.call("GET", &format!("/plant/{mark}"), &tool), 403, "another tenant");
    assert_eq!(plant.call("GET", &format!("/plant/{mark}"), &nobody), 403, "no device");
    assert_eq!(plant.call("POST", &format!("/readings/{mark}"), &nobody), 403);
    assert!(plant.upstream.seen(&mark).is_empty());
    assert_eq!(plant.call("GET", &format!("/plant/{mark}"), &sensor), 200);
    assert_eq!(claims(&nobody)["device"], Value::Null);
}

#[test]
fn an_api_key_of_a_device_may_what_the_device_may() {
    let plant = plant();
    let made =
        plant.server.admin("POST", "/api-keys").json(&json!({"name": "boiler", "owner": {"device": "sensor-2"}})).go().expect(201).json();
    let key = made["api_key"].as_str().unwrap();
    let call = |method: &str, path: &str| {
        client().request(method.parse().unwrap(), plant.server.through(path)).header("x-api-key", key).go().status
    };
    let mark = random();
    assert_eq!(call("POST", "/readings/x"), 200);
    assert_eq!(call("PUT", &format!("/firmware/{mark}")), 403);
    assert_eq!(call("GET", "/plant/x"), 200);
    assert!(plant.upstream.seen(&mark).is_empty());
    plant.server.admin("PATCH", "/devices/sensor-2").json(&json!({"groups": ["quarantine"]})).go().expect(200);
    assert_eq!(call("POST", "/readings/x"), 403, "moved while its key stayed the same");
    plant.server.admin("POST", "/devices/sensor-2/disable").go().expect(204);
    assert_eq!(call("POST", "/readings/x"), 401);
    plant.server.admin("PATCH", "/devices/sensor-2").json(&json!({"groups": [], "disabled": false})).go().expect(200);
    assert_eq!(call("POST", "/readings/x"), 200, "a key outlives what its device went through");
}

#[test]
fn a_certificate_of_a_device_may_what_the_device_may() {
    let prepare = |_: &House, root: &Pki, second: &Pki| {
        root.client("boiler", "URI:spiffe://acme/boiler");
        second.client("impostor", "URI:spiffe://acme/boiler");
        root.client("stranger", "DNS:stranger.example.com");
    };
    let Some(world) = world(prepare, |_| {}) else { return };
    let said: Value = serde_json::from_str(&std::fs::read_to_string(world.house.path("admin.json")).unwrap()).unwrap();
    let admin = |method: &str, path: &str, body: &Value| {
        let url = format!("https://{}/admin/v1{path}", world.server.listener("admin").replace("127.0.0.1", "localhost"));
        let (token, body) = (format!("Authorization: Bearer {}", said["admin_token"].as_str().unwrap()), body.to_string());
        let mut args = vec!["-X", method, "-H", &token, "-H", "Content-Type: application/json"];
        if body != "null" {
            args.extend(["--data", &body]);
        }
        let (status, answer) = curl(&world.house, None, &url, &args);
        assert!(matches!(status, Ok(200 | 201 | 204)), "{method} {path}: {status:?} {answer}");
    };
    admin("POST", "/policies", &json!({"id": "plant", "cedar": POLICY}));
    for (id, prefix, tags) in [("readings", "/readings/", json!([])), ("vaulted", "/vaulted/", json!(["firmware"]))] {
        let mut route = route(id, prefix, "echo", json!({"accept": ["mtls"]}));
        (route["policy"], route["tags"]) = (json!("shared"), tags);
        admin("POST", "/routes", &route);
    }
    let certificates = json!([{"san_uri": "spiffe://acme/boiler", "authority": "root"}]);
    admin("POST", "/devices", &json!({"id": "boiler", "type": "temperature-sensor", "certificates": certificates}));
    let call = |certificate: &str, method: &str, path: &str| world.curl(Some(certificate), path, &["-X", method]).unwrap();
    assert_eq!(call("boiler", "POST", "/readings/x"), 200);
    assert_eq!(call("boiler", "PUT", "/vaulted/x"), 403);
    assert_eq!(call("impostor", "POST", "/readings/x"), 403, "another authority's certificate with the device's name");
    assert_eq!(call("stranger", "POST", "/readings/x"), 403);
    admin("POST", "/devices/boiler/disable", &Value::Null);
    assert_eq!(call("boiler", "POST", "/readings/x"), 401);
    admin("POST", "/devices/boiler/enable", &Value::Null);
    assert_eq!(call("boiler", "POST", "/readings/x"), 200, "the certificate is good still, and so is the device");
    admin("PATCH", "/devices/boiler", &json!({"groups": ["quarantine"]}));
    assert_eq!(call("boiler", "POST", "/readings/x"), 403);
}

#[test]
fn an_opaque_token_is_its_device_s_too() {
    let plant = plant();
    let token = plant.server.machine_token(&METER, &[]);
    assert_eq!(plant.server.introspect(&token)["device"], json!({"id": "meter-1", "type": "meter"}));
    assert_eq!((plant.call("POST", "/sealed/x", &token), plant.call("GET", "/sealed/x", &token)), (200, 403));
}

/// Opens an event stream through a gateway and waits for its first event.
fn stream(gateway: &str, token: &str) -> TcpStream {
    let mut stream = raw::connect(gateway);
    let request = format!("GET /commands/sse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let head = raw::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut first = [0u8; 8];
    stream.read_exact(&mut first).unwrap();
    stream
}

#[test]
fn a_disabled_device_is_out_at_once_its_streams_too_and_an_enabled_one_needs_a_new_token() {
    let plant = start();
    let token = plant.server.machine_token(&SENSOR, &[]);
    let other = plant.server.machine_token(&TOOL, &[]);
    let open = stream(&plant.server.listener("gateway"), &token);
    assert_eq!(plant.call("POST", "/readings/x", &token), 200);
    let since = Instant::now();
    assert_eq!(plant.server.admin("POST", "/devices/sensor-1/disable").go().status, 204);
    assert_eq!(plant.call("POST", "/readings/x", &token), 401);
    closed_within_a_second(open, "the event stream", since);
    assert_eq!(plant.server.introspect(&token), json!({"active": false}));
    let refused = plant.server.token(&SENSOR, &[("grant_type", "client_credentials")]);
    assert_eq!((refused.status, refused.json()["error"].as_str()), (401, Some("invalid_client")));
    assert_eq!(plant.call("PUT", "/firmware/x", &other), 200, "nobody else is concerned");
    assert_eq!(plant.server.admin("POST", "/devices/sensor-1/enable").go().status, 204);
    assert_eq!(plant.call("POST", "/readings/x", &token), 401, "what was revoked stays dead");
    let again = plant.server.machine_token(&SENSOR, &[]);
    assert_eq!(plant.call("POST", "/readings/x", &again), 200);
    let answer = plant.server.admin("POST", "/revocations").json(&json!({"kind": "device", "id": "sensor-1"})).go().expect(200).json();
    assert_eq!(answer["known"], true);
    assert_eq!(plant.call("POST", "/readings/x", &again), 401);
    let kinds: Vec<String> = plant.server.admin("GET", "/events?kind=device.").go().expect(200).json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["device.disabled", "device.revoked", "device.enabled", "device.revoked"]);
}

#[test]
fn a_device_moved_to_quarantine_loses_what_it_was_given_before() {
    let plant = start();
    let token = plant.server.machine_token(&SENSOR, &[]);
    assert_eq!(plant.call("POST", "/readings/x", &token), 200);
    plant.server.admin("PATCH", "/devices/sensor-1").json(&json!({"groups": ["quarantine"]})).go().expect(200);
    assert_eq!(plant.call("POST", "/readings/x", &token), 401);
    let fresh = plant.server.machine_token(&SENSOR, &[]);
    assert_eq!(claims(&fresh)["device"]["groups"], json!(["quarantine"]));
    assert_eq!(plant.call("POST", "/readings/x", &fresh), 403);
    // A change that no credential tells ends nothing.
    plant.server.admin("PATCH", "/devices/sensor-1").json(&json!({"name": "Cellar"})).go().expect(200);
    assert_eq!(plant.call("POST", "/readings/x", &fresh), 403);
    // Gone, its client is a client like any other.
    assert_eq!(plant.server.admin("DELETE", "/devices/sensor-1").go().status, 204);
    assert_eq!(plant.call("POST", "/readings/x", &fresh), 401);
    assert_eq!(claims(&plant.server.machine_token(&SENSOR, &[]))["device"], Value::Null);
}

#[test]
fn a_mark_belongs_to_one_device_and_what_is_wrong_is_named() {
    let plant = plant();
    let create = |device: Value| plant.server.admin("POST", "/devices").json(&device).go();
    assert_eq!(create(json!({"id": "thief", "client_id": SENSOR.id})).status, 409);
    let owned = plant.server.admin("DELETE", &format!("/clients/{}", TOOL.id)).go();
    assert_eq!(owned.status, 409, "whoever came under its name would be the device");
    assert!(owned.text().contains("tool-1"), "{}", owned.text());
    let digest = "0a".repeat(32);
    create(json!({"id": "badge", "certificates": [{"sha256": digest}, {"san_uri": "spiffe://acme/badge", "authority": "plant"}]}))
        .expect(201);
    let taken = create(json!({"id": "copy", "certificates": [{"sha256": digest}]}));
    assert_eq!(taken.status, 409);
    assert!(taken.text().contains("badge"), "{}", taken.text());
    let wrong = create(json!({"id": "x y", "certificates": [{"subject": "CN=a", "sha256": digest}], "psk": "geheim"}));
    assert_eq!(wrong.status, 422);
    for at in ["id", "certificates[0]", "psk"] {
        assert!(wrong.json()["errors"].as_array().unwrap().iter().any(|e| e["at"] == at), "{at}: {}", wrong.text());
    }
    // Given up by one, taken by another.
    plant.server.admin("PATCH", "/devices/badge").json(&json!({"certificates": []})).go().expect(200);
    create(json!({"id": "copy", "certificates": [{"sha256": digest}]})).expect(201);
    let twice = json!({"devices": [{"id": "a", "client_id": "one"}, {"id": "b", "client_id": "one"}]});
    let ran = plant.house.try_seed(&twice, &["--plan"]);
    assert!(ran.code != 0 && ran.said().contains("devices[1].client_id"), "{}", ran.said());
    let described = plant.server.admin("GET", "/openapi.json").go().expect(200).json();
    for path in [
        "/devices",
        "/devices/{id}",
        "/devices/{id}/disable",
        "/devices/{id}/enable",
        "/policies/dry-run",
        "/explanations",
        "/explanations/{id}",
    ] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn a_gateway_of_its_own_knows_a_device_by_its_token_and_hears_that_it_is_disabled() {
    let plant = start();
    let mut house = gateway_house(&plant.house);
    house.set("outbound.allow", &format!("[\"{}\"]", plant.house.issuer.trim_start_matches("http://")));
    let all = seed(&plant.upstream.url());
    let mut own = json!({});
    for member in ["upstreams", "routes", "policies"] {
        own[member] = all[member].clone();
    }
    // Routes of issuers it does not trust are not its own.
    own["routes"]
        .as_array_mut()
        .unwrap()
        .retain(|route| ["readings", "firmware", "commands", "plant"].contains(&route["id"].as_str().unwrap()));
    house.seed(&own);
    let gateway = house.serve();
    let token = plant.server.machine_token(&SENSOR, &[]);
    let call = |method: &str, path: &str, token: &str| {
        client().request(method.parse().unwrap(), gateway.through(path)).bearer_auth(token).go().status
    };
    wait_until("the gateway joins", Duration::from_secs(10), || call("POST", "/readings/x", &token) == 200);
    assert_eq!(call("PUT", "/firmware/x", &token), 403);
    let open = stream(&gateway.listener("gateway"), &token);
    let since = Instant::now();
    plant.server.admin("POST", "/devices/sensor-1/disable").go().expect(204);
    closed_within_a_second(open, "the event stream", since);
    wait_until("the gateway refuses", Duration::from_secs(5), || call("POST", "/readings/x", &token) == 401);
}
