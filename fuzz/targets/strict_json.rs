//! JSON read strictly: whatever passes is read the same by the ordinary reader, and is not too deep.
#![no_main]
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(object) = tokens::strict::object(data) {
        let value = Value::Object(object);
        assert!(depth(&value) <= usize::from(tokens::strict::MAX_DEPTH));
        assert_eq!(serde_json::from_slice::<Value>(data).expect("JSON"), value);
    }
});
