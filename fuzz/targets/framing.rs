//! Framing of HTTP/1.1 requests (RFC 9112): octets are judged alike, however they are cut into pieces.
#![no_main]
use edge::framing::Scanner;
use libfuzzer_sys::fuzz_target;

/// Feeds pieces of a size; how many octets were released, and what was wrong.
fn fed(data: &[u8], size: usize) -> (usize, Option<&'static str>) {
    let (mut scanner, mut released, mut end) = (Scanner::new(), 0, 0);
    loop {
        match scanner.scan(&data[released..end]) {
            Ok(taken) => released += taken,
            Err((taken, why)) => return (released + taken, Some(why.reason())),
        }
        if end == data.len() {
            return (released, None);
        }
        end = (end + size).min(data.len());
    }
}

fuzz_target!(|data: &[u8]| {
    let whole = fed(data, data.len().max(1));
    for size in [1, 7] {
        let cut = fed(data, size);
        // How much of a bad chunked body was let go before its fault came in depends on the cutting; that there is one never does.
        assert_eq!(cut.1.is_some(), whole.1.is_some());
        assert!(whole.1.is_some() || cut.0 == whole.0);
    }
});
