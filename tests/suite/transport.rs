//! TLS, https issuers, proxies in front: cookies and sources as the outside sees them.
use std::process::Command;

use crate::kit::http::{Go, client};
use crate::kit::seed::{HOME, standard};
use crate::kit::{Ask, House, Page, Upstream, raw, services};

/// A self-signed certificate for localhost in the house's folder.
fn certify(house: &House) {
    let at = |name: &str| house.path(name).display().to_string();
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", &at("key.pem"), "-out", &at("cert.pem")])
        .output()
        .expect("openssl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn listeners_speak_tls_and_only_the_good_versions() {
    if !services::has("openssl") || !services::has("curl") {
        return services::skip("openssl and curl");
    }
    let upstream = Upstream::start();
    let mut house = House::new();
    let port = house.issuer.rsplit(':').next().unwrap().to_owned();
    house.issuer = format!("https://localhost:{port}");
    let (issuer, cert, key) = (house.issuer.clone(), house.path("cert.pem"), house.path("key.pem"));
    house.text("server.issuer", &issuer);
    house.text("server.tls.cert_file", &cert.display().to_string()).text("server.tls.key_file", &key.display().to_string());
    certify(&house);
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    let curl = |more: &[&str], url: &str| {
        let done = Command::new("curl").args(["-s", "--cacert", cert.to_str().unwrap()]).args(more).arg(url).output().expect("curl");
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let metadata = format!("{issuer}/.well-known/openid-configuration");
    let (code, text) = curl(&[], &metadata);
    assert!(code == 0 && text.contains(&issuer), "{code} {text}");
    assert_eq!(curl(&["--tls-max", "1.2", "-o", "/dev/null", "-w", "%{http_code}"], &metadata).1, "200");
    assert_ne!(curl(&["--tls-max", "1.1"], &metadata).0, 0, "TLS 1.1 is over");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_version}"], &metadata).1, "2", "ALPN gives HTTP/2");
    let gateway = server.listener("gateway").replace("127.0.0.1", "localhost");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}"], &format!("https://{gateway}/public/x")).1, "200");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}"], &format!("https://{gateway}/api/x")).1, "401");
    let (_, head) = curl(&["-i", "-o", "-"], &Ask::new(&HOME).url(&server));
    for line in head.lines().filter(|l| l.to_lowercase().starts_with("set-cookie:")) {
        assert!(line.contains("__Host-") && line.contains("Secure") && line.contains("HttpOnly"), "{line}");
    }
    assert!(head.to_lowercase().contains("set-cookie:"), "{head}");
    assert!(head.to_lowercase().contains("strict-transport-security"), "{head}");
    // Plain HTTP to a TLS listener is no answer of ours.
    assert!(raw::get(&server.listener("gateway"), "/public/x", "").status != 200);
}

#[test]
fn a_listener_may_speak_the_newest_version_alone() {
    if !services::has("openssl") || !services::has("curl") {
        return services::skip("openssl and curl");
    }
    let mut house = House::new();
    let port = house.issuer.rsplit(':').next().unwrap().to_owned();
    house.issuer = format!("https://localhost:{port}");
    let (issuer, cert, key) = (house.issuer.clone(), house.path("cert.pem"), house.path("key.pem"));
    house.text("server.issuer", &issuer).text("server.tls.min_version", "1.3");
    house.text("server.tls.cert_file", &cert.display().to_string()).text("server.tls.key_file", &key.display().to_string());
    certify(&house);
    house.bootstrap();
    let server = house.serve();
    let gateway = format!("https://{}/", server.listener("gateway").replace("127.0.0.1", "localhost"));
    for url in [format!("{issuer}/.well-known/openid-configuration"), gateway] {
        let curl = |more: &[&str]| {
            let done =
                Command::new("curl").args(["-s", "-o", "/dev/null", "--cacert", cert.to_str().unwrap()]).args(more).arg(&url).status();
            done.expect("curl").code()
        };
        assert_eq!((curl(&[]), curl(&["--tls-max", "1.2"])), (Some(0), Some(35)), "{url}");
    }
}

/// An https issuer behind a proxy on loopback.
fn behind_a_proxy() -> (House, crate::kit::Server, Upstream) {
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("server.issuer", "https://id.example.com").set("server.trusted_proxies", r#"["127.0.0.1/32"]"#);
    house.issuer = "https://id.example.com".into();
    house.bootstrap();
    house.seed(&standard(&upstream.url()));
    let server = house.serve();
    (house, server, upstream)
}

#[test]
fn an_https_issuer_behind_a_proxy_sets_host_cookies() {
    let (_house, server, _upstream) = behind_a_proxy();
    let path = Ask::new(&HOME).url(&server).replace("https://id.example.com", "");
    let url = format!("http://{}{path}", server.listener("public"));
    let request = || client().get(&url).header("x-forwarded-proto", "https").header("host", "id.example.com");
    let answer = request().header("x-forwarded-for", "203.0.113.9").go();
    let cookies: Vec<&str> = answer.headers.get_all("set-cookie").iter().filter_map(|v| v.to_str().ok()).collect();
    assert!(!cookies.is_empty(), "{} {}", answer.status, answer.text());
    for line in cookies {
        assert!(line.starts_with("__Host-") && line.contains("Secure") && line.contains("Path=/") && !line.contains("Domain"), "{line}");
    }
    let metadata = client()
        .get(format!("http://{}/.well-known/openid-configuration", server.listener("public")))
        .header("x-forwarded-proto", "https")
        .go();
    assert!(metadata.text().contains("\"https://id.example.com/token\""), "{}", metadata.text());
}

/// Fails one login through the proxy as a source the proxy names.
fn fail_as(server: &crate::kit::Server, source: &str) -> u16 {
    let base = format!("http://{}", server.listener("public"));
    let dressed =
        |request: reqwest::RequestBuilder| request.header("x-forwarded-proto", "https").header("x-forwarded-for", source.to_owned());
    let mut cookies = String::new();
    let mut at = format!("{base}{}", Ask::new(&HOME).url(server).replace("https://id.example.com", ""));
    for _ in 0..5 {
        let answer = dressed(client().get(&at)).header("cookie", &cookies).go();
        if let Some(line) = answer.headers.get("set-cookie").and_then(|v| v.to_str().ok()) {
            line.split(';').next().unwrap_or("").clone_into(&mut cookies);
        }
        if (300..400).contains(&answer.status) {
            at = answer.header("location").replace("https://id.example.com", &base);
            if at.starts_with('/') {
                at = format!("{base}{at}");
            }
            continue;
        }
        if answer.status == 429 {
            return 429;
        }
        let press = Page::new(at, answer).press("login-submit").fill("username", "alice").fill("password", "wrong");
        let action = press.action.replace("https://id.example.com", &base);
        return dressed(client().post(action))
            .header("cookie", &cookies)
            .header("origin", "https://id.example.com")
            .form(&press.fields)
            .go()
            .status;
    }
    0
}

#[test]
fn a_trusted_proxy_names_the_source_and_a_stranger_cannot() {
    let (_house, server, _upstream) = behind_a_proxy();
    let statuses: Vec<u16> = (0..40).map(|_| fail_as(&server, "203.0.113.7")).collect();
    assert!(statuses[..10].iter().all(|s| *s != 429 && *s != 0) && statuses.contains(&429), "{statuses:?}");
    assert_ne!(fail_as(&server, "203.0.113.8"), 429, "another source by the same proxy");
    // The right-most address is the one our proxy saw; what a client wrote to its left is its own.
    assert_eq!(fail_as(&server, "198.51.100.1, 203.0.113.7"), 429, "a forged left part changes nothing");
    // One IPv6 /64 is one source.
    let statuses: Vec<u16> = (0..40).map(|n| fail_as(&server, &format!("2001:db8:0:1::{n:x}"))).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_ne!(fail_as(&server, "2001:db8:0:2::1"), 429);
}

#[test]
fn plain_http_away_from_loopback_needs_a_proxy() {
    let mut house = House::new();
    house.text("server.public_listen", "0.0.0.0:0");
    house.run(&["check"]).failed(2);
    let mut house = House::new();
    house.text("server.issuer", "https://id.example.com");
    let ran = house.run(&["check"]);
    assert_ne!(ran.code, 0, "an https issuer on a plain listener without a trusted proxy: {}", ran.said());
}
