//! Client metadata (RFC 7591 §2) and resource servers: any document is judged, and what has no mistakes can be written again.
#![no_main]
use ledger::Record as _;
use libfuzzer_sys::fuzz_target;
use protocol::{Client, ResourceServer};

fuzz_target!(|data: &[u8]| {
    if let Ok(client) = serde_json::from_slice::<Client>(data)
        && client.mistakes().is_empty()
    {
        let text = serde_json::to_string(&client).expect("JSON");
        assert_eq!(serde_json::from_str::<Client>(&text).expect("reads back"), client);
    }
    if let Ok(server) = serde_json::from_slice::<ResourceServer>(data) {
        let _ = server.mistakes();
    }
});
