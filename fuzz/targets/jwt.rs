//! Compact JWS and access token claims (RFC 7515, RFC 9068): nothing a stranger wrote verifies, nothing panics; what is signed here
//! with any claims at all is judged, too.
#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokens::{
    Alg,
    access::{self, Expected},
    jws::Parsed,
    sign::SigningKey,
};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Alg::EdDSA).expect("a key").0);

const EXPECTED: Expected<'static> =
    Expected { issuer: "https://id", audience: Some("https://api"), typ: &["at+jwt", "JWT"], now: 1_800_000_000, leeway: 10 };

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(parsed) = Parsed::parse(text)
    {
        let _ = (parsed.unverified_issuer(), parsed.is_typ("at+jwt"));
        assert!(access::believe(&parsed, &KEY.verifying(), &EXPECTED).is_err());
    }
    if let Ok(claims) = serde_json::from_slice::<serde_json::Value>(data) {
        let text = KEY.sign_jwt("at+jwt", &claims).expect("signs");
        if let Ok(parsed) = Parsed::parse(&text)
            && let Ok(believed) = access::believe(&parsed, &KEY.verifying(), &EXPECTED)
        {
            assert!(believed.iss == "https://id" && believed.aud.iter().any(|aud| aud == "https://api"));
            assert!(believed.exp > EXPECTED.now - 10);
            let _ = access::facts(&believed, None);
        }
    }
});
