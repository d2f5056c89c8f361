//! TLS towards upstreams: whom nginx has to prove to be, and who the gateway proves to be to it.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::http::{Go, client, random};
use crate::kit::nginx::Nginx;
use crate::kit::{Stage, services, wait_until};

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

fn openssl(dir: &Path, args: &str) {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority and certificates of it; `client.pem` and `later.pem` are for the gateway.
fn certify(dir: &Path) {
    openssl(dir, &format!("req -x509 {KEY} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    for (name, names) in [
        ("server", "DNS:api.example.org"),
        ("workload", "URI:spiffe://example.org/api"),
        ("client", "DNS:gateway.example.org"),
        ("later", "DNS:gateway.example.org"),
    ] {
        openssl(dir, &format!("req -new {KEY} -subj /CN={name} -addext subjectAltName={names} -keyout {name}.key -out {name}.csr"));
        openssl(
            dir,
            &format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out {name}.pem"),
        );
    }
}

/// A stage whose house has the certificates, and an nginx that shows one of them and asks for one.
fn scene(certificate: &str, more: &str) -> Option<(Stage, Nginx)> {
    if !services::has("openssl") {
        services::skip("openssl");
        return None;
    }
    let stage = Stage::start(|_| {});
    certify(stage.house.dir());
    let dir = stage.house.dir().display().to_string();
    let server = format!(
        "listen 127.0.0.1:PORT ssl {more}; ssl_certificate {dir}/{certificate}.pem; ssl_certificate_key {dir}/{certificate}.key; ssl_client_certificate {dir}/ca.pem; ssl_verify_client on; location / {{ return 200 \"$ssl_client_s_dn $server_protocol\"; }}"
    );
    let nginx = Nginx::start(&server)?;
    Some((stage, nginx))
}

/// Asks through an upstream with this TLS: the status and the body.
fn ask(stage: &Stage, nginx: &Nginx, tls: &Value) -> (u16, String) {
    let id = random().replace('-', "a").replace('_', "b");
    let mut upstream = json!({"targets": [{"url": format!("https://127.0.0.1:{}", nginx.port)}]});
    if !tls.is_null() {
        upstream["tls"] = tls.clone();
    }
    let route = json!({"id": id, "match": {"path_prefix": format!("/{id}/")}, "upstream": upstream, "public": true});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    let answer = client().get(stage.through(&format!("/{id}/x"))).go();
    (answer.status, answer.text())
}

#[test]
fn an_upstream_proves_its_name_and_is_shown_who_asks() {
    let Some((stage, nginx)) = scene("server", "") else { return };
    let file = |name: &str| stage.house.path(name).display().to_string();
    let good = json!({"ca_file": file("ca.pem"), "server_name": "api.example.org", "client_certificate_file": file("client.pem"), "client_key_file": file("client.key")});
    assert_eq!(ask(&stage, &nginx, &good), (200, "CN=client HTTP/1.1".into()));
    let mut inline = good.clone();
    inline.as_object_mut().unwrap().remove("ca_file");
    inline["ca_pem"] = json!(std::fs::read_to_string(stage.house.path("ca.pem")).unwrap());
    assert_eq!(ask(&stage, &nginx, &inline).0, 200);
    // Without a certificate nginx lets nobody in.
    assert_eq!(ask(&stage, &nginx, &json!({"ca_file": file("ca.pem"), "server_name": "api.example.org"})).0, 400);
    let wrong = |member: &str, value: Value| {
        let mut tls = good.clone();
        tls[member] = value;
        ask(&stage, &nginx, &tls).0
    };
    assert_eq!(wrong("server_name", json!("other.example.org")), 502);
    assert_eq!(wrong("ca_file", json!(file("client.pem"))), 502, "another authority");
    assert_eq!(wrong("ca_file", json!(file("missing.pem"))), 502);
    assert_eq!(wrong("spiffe_id", json!("spiffe://example.org/api")), 502, "a name is no SPIFFE ID");
    assert_eq!(ask(&stage, &nginx, &Value::Null).0, 502, "the public authorities do not vouch for it");
    let told = stage.house.run(&["check"]).failed(1);
    assert!(told.said().contains("missing.pem") || told.said().contains("tls.ca_file"), "{}", told.said());
}

#[test]
fn an_upstream_may_be_known_by_its_spiffe_id() {
    let Some((stage, nginx)) = scene("workload", "") else { return };
    let file = |name: &str| stage.house.path(name).display().to_string();
    let with = |id: Value| {
        let mut tls =
            json!({"ca_file": file("ca.pem"), "client_certificate_file": file("client.pem"), "client_key_file": file("client.key")});
        if !id.is_null() {
            tls["spiffe_id"] = id;
        }
        ask(&stage, &nginx, &tls).0
    };
    assert_eq!(with(json!("spiffe://example.org/api")), 200);
    assert_eq!(with(json!("spiffe://example.org/other")), 502);
    assert_eq!(with(json!("spiffe://example.org")), 502);
    assert_eq!(with(Value::Null), 502, "it has no name");
}

#[test]
fn files_that_change_are_read_again_and_broken_ones_are_not_taken() {
    let Some((stage, nginx)) = scene("server", "http2") else { return };
    let file = |name: &str| stage.house.path(name).display().to_string();
    let tls = json!({"ca_file": file("ca.pem"), "server_name": "api.example.org", "client_certificate_file": file("client.pem"), "client_key_file": file("client.key")});
    let upstream = json!({"id": "files", "targets": [{"url": format!("https://127.0.0.1:{}", nginx.port)}], "tls": tls});
    stage.admin("POST", "/upstreams").json(&upstream).go().expect(201);
    let route = json!({"id": "files", "match": {"path_prefix": "/files/"}, "upstream": "files", "public": true});
    stage.admin("POST", "/routes").json(&route).go().expect(201);
    let ask = || client().get(stage.through("/files/x")).go().text();
    assert_eq!(ask(), "CN=client HTTP/2.0", "by ALPN");
    let put = |from: &str, to: &str| std::fs::copy(stage.house.path(from), stage.house.path(to)).map(drop).unwrap();
    put("later.key", "client.key");
    put("later.pem", "client.pem");
    wait_until("the new certificate is shown", Duration::from_secs(10), || ask() == "CN=later HTTP/2.0");
    // What is said of it counts for connections that are open, too.
    let name = |name: &str| stage.admin("PATCH", "/upstreams/files").json(&json!({"tls": {"server_name": name}})).go().expect(200);
    let status = || client().get(stage.through("/files/x")).go().status;
    name("other.example.org");
    wait_until("another name has to be proved", Duration::from_secs(10), || status() == 502);
    name("api.example.org");
    wait_until("it is proved", Duration::from_secs(10), || status() == 200);
    std::fs::write(stage.house.path("client.pem"), "nothing").unwrap();
    wait_until("it is said", Duration::from_secs(10), || stage.log().contains("changed TLS files of an upstream cannot be used"));
    assert_eq!(ask(), "CN=later HTTP/2.0", "what was good stays in force");
    assert!(!stage.log().contains("PRIVATE KEY"));
}
