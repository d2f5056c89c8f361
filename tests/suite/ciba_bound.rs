//! Backchannel authentication whose tokens are bound to a client certificate (FAPI-CIBA §5.2.2, RFC 8705 §3).
use std::process::Command;

use serde_json::{Value, json};

use crate::kit::apart::{BANK, CIBA, client as registered};
use crate::kit::http::claims;
use crate::kit::seed::standard;
use crate::kit::visitor::text;
use crate::kit::{House, Upstream, services};

fn openssl(house: &House, args: &str) {
    let done = Command::new("openssl").args(args.split(' ')).current_dir(house.dir()).output().expect("openssl runs");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn fapi_ciba_id1_ensure_mtls_holder_of_key_required() {
    if !services::has("openssl") || !services::has("curl") {
        return services::skip("openssl and curl");
    }
    let (upstream, mut house) = (Upstream::start(), House::new());
    house.issuer = house.issuer.replace("http://127.0.0.1", "https://localhost");
    let (issuer, cert, key) = (house.issuer.clone(), house.path("cert.pem"), house.path("key.pem"));
    house.text("server.issuer", &issuer).text("server.tls.client_certificates", "any");
    house.text("server.tls.cert_file", &cert.display().to_string()).text("server.tls.key_file", &key.display().to_string());
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&house, &format!("{new} -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"));
    openssl(&house, &format!("{new} -subj /CN=one -keyout one.key -out one.pem"));
    let admin = text(&house.bootstrap(), "admin_token");
    house.seed(&standard(&upstream.url()));
    let bound = json!({"backchannel_token_delivery_mode": "poll", "tls_client_certificate_bound_access_tokens": true});
    house.seed(&json!({"clients": [registered(&BANK, &[CIBA], bound)]}));
    let server = house.serve();
    let curl = |certificate: bool, url: &str, more: &[&str]| -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--cacert", "cert.pem", "-w", "\n%{http_code}"]).current_dir(house.dir());
        if certificate {
            curl.args(["--cert", "one.pem", "--key", "one.key"]);
        }
        let done = curl.args(more).arg(url).output().expect("curl");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    };
    let basic = format!("{}:{}", BANK.id, BANK.secret);
    let (status, begun) = curl(true, &server.url("/bc-authorize"), &["-u", &basic, "--data", "scope=openid%20read&login_hint=alice"]);
    assert_eq!(status, 200, "{begun}");
    let id = text(&serde_json::from_str::<Value>(&begun).expect("JSON"), "auth_req_id");
    let data = format!("grant_type={CIBA}&auth_req_id={id}");
    for (certificate, error) in [(false, "invalid_request"), (true, "authorization_pending")] {
        let (status, said) = curl(certificate, &server.url("/token"), &["-u", &basic, "--data", &data]);
        assert_eq!((status, said.contains(error)), (400, true), "before anybody answered: {said}");
    }
    let bearer = format!("Authorization: Bearer {admin}");
    let listener = server.listener("admin").replace("127.0.0.1", "localhost");
    let approve = format!("/admin/v1/backchannel-requests/{id}/approve");
    let (status, said) = match curl(false, &format!("https://{listener}{approve}"), &["-X", "POST", "-H", &bearer]) {
        (0, _) => curl(false, &format!("http://{listener}{approve}"), &["-X", "POST", "-H", &bearer]),
        answered => answered,
    };
    assert_eq!(status, 204, "{said}");
    let (status, said) = curl(false, &server.url("/token"), &["-u", &basic, "--data", &data]);
    assert_eq!((status, said.contains("invalid_request")), (400, true), "{said}");
    let (status, said) = curl(true, &server.url("/token"), &["-u", &basic, "--data", &data]);
    assert_eq!(status, 200, "{said}");
    let token = text(&serde_json::from_str::<Value>(&said).expect("JSON"), "access_token");
    assert!(claims(&token)["cnf"]["x5t#S256"].is_string());
    let gateway = server.listener("gateway").replace("127.0.0.1", "localhost");
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(curl(true, &format!("https://{gateway}/api/x"), &["-H", &bearer]).0, 200);
    assert_eq!(curl(false, &format!("https://{gateway}/api/x"), &["-H", &bearer]).0, 401);
}
