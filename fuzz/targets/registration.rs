//! What clients say of themselves: registration (RFC 7591), metadata documents, software statements; what is taken can be written and read again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use protocol::{
    Profile, Settings,
    registration::{self, document, metadata, statement},
};

fuzz_target!(|data: &[u8]| {
    let Ok(given) = registration::read(data) else { return };
    for profile in [Profile::Standard, Profile::OidcDynamic, Profile::Fapi2] {
        let settings = Settings { profile, registration: true, ..Settings::for_issuer("https://id") };
        if let Ok(client) = metadata::read(&given, &settings, None)
            && metadata::complete(&client).is_ok()
        {
            // A registered redirect address is never one that a browser runs.
            for address in &client.redirect_uris {
                let scheme = address.split(':').next().unwrap_or_default().to_ascii_lowercase();
                assert!(!matches!(scheme.as_str(), "javascript" | "data" | "vbscript" | "file") && !address.contains('#'), "{address}");
            }
            assert!(!client.first_party && metadata::told(&client).get("client_secret").is_none());
            let again = metadata::read(&metadata::told(&client), &settings, Some(&client));
            assert!(again.is_ok(), "{again:?}");
        }
        let _ = document::read("https://client.example.com/about", data, &settings, None);
    }
    if let Ok(Some(presented)) = statement::Presented::of(&given) {
        assert!(presented.believe(None, &Settings::for_issuer("https://id"), 1_800_000_000).is_err());
    }
});
