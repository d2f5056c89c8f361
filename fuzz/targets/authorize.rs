//! Parts of authorization requests (RFC 6749 §4.1.1, RFC 9396, OpenID Connect Core §5.5): parameters, scopes, details in any text.
#![no_main]
use libfuzzer_sys::fuzz_target;
use protocol::{
    Client, ResourceServer,
    authorize::{Params, claims, details},
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let params = Params::parse(text);
    for name in ["client_id", "redirect_uri", "scope", "state", "claims", "request"] {
        let _ = params.one(name);
    }
    let types = vec!["payment".to_owned()];
    let client = Client { client_id: "c".into(), authorization_details_types: types.clone(), ..Client::default() };
    let server: ResourceServer =
        serde_json::from_str(r#"{"identifier": "https://api", "authorization_details_types": ["payment"]}"#).expect("a record");
    if let Ok(read) = details::read(text, &client, Some(&server)) {
        let objects = read.as_array().expect("an array");
        assert!(!objects.is_empty() && objects.iter().all(|object| object["type"] == "payment"));
        // What was taken is taken again, as it was.
        assert_eq!(details::read(&read.to_string(), &client, Some(&server)).expect("still good"), read);
    }
    assert!(details::read(text, &Client::default(), Some(&server)).is_err());
    if let Ok(value) = serde_json::from_str(text) {
        assert!(claims::names(Some(&value)).windows(2).all(|pair| pair[0] < pair[1]));
    }
});
