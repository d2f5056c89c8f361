//! Client authentication as it comes in (RFC 6749 §2.3, RFC 7617): any header with any form.
#![no_main]
use libfuzzer_sys::fuzz_target;
use protocol::{Form, client_auth};
use tokens::b64;

fuzz_target!(|data: &[u8]| {
    let (header, body) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    let body = body.strip_prefix(&[0]).unwrap_or(body);
    let Ok(form) = Form::body(Some(b"application/x-www-form-urlencoded"), body) else { return };
    let _ = client_auth::present(&[], &form);
    let _ = client_auth::present(&[header], &form);
    let _ = client_auth::present(&[header, body], &form);
    // The same octets as credentials in good base64.
    let mut good = b"Basic ".to_vec();
    good.extend(b64::encode(header).into_bytes());
    while good.len() % 4 != 2 {
        good.push(b'=');
    }
    if let Ok(presented) = client_auth::present(&[&good], &form) {
        assert!(!presented.client_id.is_empty());
    }
});
