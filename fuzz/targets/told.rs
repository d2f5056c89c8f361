//! What other parties tell in JSON: subjects and security events (RFC 8417, RFC 9493), AuthZEN questions, the metadata of a login server and
//! what a browser brings back from it, Cedar policies.
#![no_main]
use std::sync::LazyLock;

use edge::login::{Answer, Provider};
use libfuzzer_sys::fuzz_target;
use policy::authzen;
use protocol::signals::{received, subject};
use serde_json::Value;
use tokens::{Alg, jws::Parsed, sign::SigningKey};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Alg::EdDSA).expect("a key").0);

fuzz_target!(|data: &[u8]| {
    if let Ok(provider) = Provider::read(data, "https://id") {
        assert_eq!(provider.issuer, "https://id");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Answer::read(text);
    // Parsing policies is dear, so only what could be one is tried.
    if text.contains("permit") || text.contains("forbid") {
        let _ = policy::compiled::parse("fuzz", text);
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let _ = subject::read(&value);
    let _ = authzen::evaluation(&value);
    if let Ok(authzen::Batch::Many(items, _)) = authzen::evaluations(&value) {
        assert_eq!(items.questions().count(), items.len());
    }
    let signed = KEY.sign_jwt("secevent+jwt", &value).expect("signs");
    if let Ok(parsed) = Parsed::parse(&signed)
        && let Ok(taken) = received::believe(&parsed, &KEY.verifying(), "https://id", "https://us", 1_800_000_000)
    {
        assert!(value["iss"] == "https://id" && !taken.jti.is_empty());
        let _ = taken.change(1_800_000_000_000);
    }
});
