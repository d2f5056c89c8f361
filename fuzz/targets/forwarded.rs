//! What proxies and clients say about a request in header fields: `Forwarded` and its cousins (RFC 7239), versions in fields and media types.
#![no_main]
use std::net::{IpAddr, Ipv4Addr};

use edge::{
    forwarded,
    version_match::{Selector, VersionMatch},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fuzz_target!(|data: &[u8]| {
    let mut map = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(32) {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(line.len()));
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.strip_prefix(b":").unwrap_or(value).trim_ascii()))
        {
            map.append(name, value);
        }
    }
    let trusted = |address: IpAddr| address == PROXY;
    // Whoever is not trusted is what its connection says, whatever it writes.
    assert_eq!(forwarded::source(CLIENT, &map, trusted), Some(CLIENT));
    let told = forwarded::source(PROXY, &map, trusted);
    let _ = forwarded::scheme(&map);
    // What the near end adds decides: nothing further away changes it.
    if !map.contains_key("forwarded") && told.is_some() {
        let mut longer = map.clone();
        longer.append("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        assert_eq!(forwarded::source(PROXY, &longer, trusted), Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))));
    }
    let by = |text: &str| serde_json::from_str::<VersionMatch>(text).ok().and_then(|given| Selector::new(&given));
    let one = by(r#"{"media_type": "application/vnd.example.{version}+json", "value": "v1"}"#).expect("a selector");
    let two = by(r#"{"media_type": "application/vnd.example.{version}+json", "value": "v2"}"#).expect("a selector");
    assert!(!(one.takes(&map) && two.takes(&map)));
});
