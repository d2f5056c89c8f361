//! Paths and hosts of requests (RFC 3986 §6.2.2, RFC 9110 §7.2): what passes is normal, stays normal and climbs nowhere.
#![no_main]
use edge::{host::Host, path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(host) = Host::parse(data) {
        assert!(!host.name.is_empty() && !host.name.contains('@'));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(normal) = path::normalise(text) {
        assert!(normal.starts_with('/') && normal.is_ascii() && !normal.contains("//"));
        assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{normal}");
        assert_eq!(path::normalise(&normal).expect("still normal"), normal);
        if path::under(&normal, "/api/") {
            assert!(path::strip(&normal, "/api/").starts_with('/'));
        }
    }
});
