//! Client certificates and the names registered for them (RFC 5280, RFC 4514, RFC 8705).
#![no_main]
use libfuzzer_sys::fuzz_target;
use tokens::certificate::{self, Certificate};

const GOOD: &[u8] = include_bytes!("../seeds/certificate/client.der");

fn ask(certificate: &Certificate, name: &str) {
    let _ = certificate.subject_is(name);
    let _ = (certificate.has_dns(name), certificate.has_uri(name), certificate.has_ip(name), certificate.has_email(name));
    let _ = (certificate.key(), certificate.validity(), certificate.x5t_s256());
}

fuzz_target!(|data: &[u8]| {
    let read = Certificate::new(data);
    ask(&read, "CN=client,O=Example");
    assert!(!read.is_trusted());
    if let Ok(name) = std::str::from_utf8(data) {
        let good = Certificate::new(GOOD);
        ask(&good, name);
        if good.subject_is(name) {
            assert!(certificate::is_name(name));
        }
    }
    if let Ok(document) = serde_json::from_slice(data) {
        let _ = certificate::of_set(&document);
    }
});
