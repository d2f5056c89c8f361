//! Return addresses (RFC 6749 §3.1.2, RFC 8252 §7.3): what is asked for leads only where something registered leads.
#![no_main]
use libfuzzer_sys::fuzz_target;
use protocol::authorize::ReturnAddress;
use url::Url;

const REGISTERED: [&str; 5] =
    ["https://rp.example.com/cb", "https://rp.example.com/cb?x=1", "http://127.0.0.1/cb", "http://[::1]/cb?a=b", "com.example.app:/cb"];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let registered = REGISTERED.map(str::to_owned);
    for asked in [text.to_owned(), format!("http://127.0.0.1:{text}"), format!("http://[::1]{text}")] {
        let Some(address) = ReturnAddress::matched(&asked, &registered) else { continue };
        assert_eq!(address.as_str(), asked);
        let told = Url::parse(&asked).expect("a URL");
        let same = |one: &Url| {
            let home = one.scheme() == "http" && one.host_str() == told.host_str();
            one.path() == told.path() && one.query() == told.query() && (home || one.as_str() == told.as_str())
        };
        assert!(registered.iter().filter_map(|one| Url::parse(one).ok()).any(|one| same(&one)), "{asked}");
    }
    for one in &registered {
        let address = ReturnAddress::matched(one, &registered).expect("its own");
        for whole in [address.with(&[("state", text), ("iss", "https://id")]), address.with_fragment(&[("state", text)])] {
            assert!(whole.bytes().all(|b| b > b' ' && b < 0x7f), "{whole:?}");
            let (before, after) = (Url::parse(one).expect("a URL"), Url::parse(&whole).expect("a URL"));
            assert_eq!((before.origin().ascii_serialization(), before.path()), (after.origin().ascii_serialization(), after.path()));
        }
        let _ = (address.is_claimable(), address.source());
    }
});
