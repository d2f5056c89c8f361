//! Header fields and the credentials among them (RFC 9110 §5, RFC 6750, CONTRACT §6): any names and values.
#![no_main]
use edge::{credentials, headers};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut map = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(64) {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            let _ = headers::reserved(name.as_str());
            map.append(name, value);
        }
    }
    let _ = headers::check(&map);
    let query = data.split(|b| *b == b'\n').next_back().and_then(|line| std::str::from_utf8(line).ok());
    let _ = credentials::presented(&map, query, true);
    let _ = credentials::presented(&map, None, false);
    headers::clean_answer(&mut map, &["doorward".to_owned()]);
    let aliases = headers::Aliases::new(["X-Doorward-Subject", "X-Doorward-Scope"]);
    for name in map.keys() {
        let _ = aliases.covers(name.as_str());
    }
});
