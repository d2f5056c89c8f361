//! Forms and queries (RFC 6749 appendix B): what passes is UTF-8 without a parameter lost or made up.
#![no_main]
use libfuzzer_sys::fuzz_target;
use protocol::{Form, authorize::Params, form};

fuzz_target!(|data: &[u8]| {
    let _ = Form::body(Some(data), b"a=b");
    let _ = form::decode(data);
    if let Ok(form) = Form::body(Some(b"application/x-www-form-urlencoded"), data) {
        for name in ["resource", "client_id", "token", "grant_type"] {
            let (all, one) = (form.all(name).count(), form.get(name));
            assert!(one.is_none() || all >= 1);
        }
        let _ = (form.has("scope"), form.duplicated());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let params = Params::parse(text);
        for (name, _) in params.iter() {
            assert!(params.all(name).count() >= 1);
            let _ = params.one(name);
        }
    }
});
