//! Request objects (RFC 9101) and the parameters beside them: any text, and any claims under the client's own key.
#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use protocol::{
    Client, Profile, Settings,
    authorize::{
        Params,
        request_object::{self, Came},
    },
};
use tokens::{Alg, jwk::KeySet, sign::SigningKey};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Alg::EdDSA).expect("a key").0);

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = KeySet::new(vec![KEY.verifying()]);
    let outside = Params::parse(text);
    let settings = Settings::for_issuer("https://id");
    let client = Client { client_id: "c".into(), ..Client::default() };
    let _ = (request_object::key_id(text), request_object::may_fetch(text, &client));
    assert!(request_object::unpack(text, &outside, Came::Authorize, (&client, &settings), &keys, 1_800_000_000).is_err());
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let signed = KEY.sign_jwt("oauth-authz-req+jwt", &claims).expect("signs");
    for profile in [Profile::Standard, Profile::OidcDynamic, Profile::Fapi2] {
        let settings = Settings { profile, ..settings.clone() };
        for came in [Came::Authorize, Came::Pushed] {
            if let Ok(params) = request_object::unpack(&signed, &outside, came, (&client, &settings), &keys, 1_800_000_000) {
                // Who asks is settled by who signed, or said beside it.
                let said = outside.one("client_id").ok().flatten();
                assert!(params.one("client_id").ok().flatten().is_none_or(|id| id == "c" || said == Some(id)));
                assert!(params.one("request").ok().flatten().is_none());
            }
        }
    }
});
