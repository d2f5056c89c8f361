//! OpenAPI documents and JSON Schema (OpenAPI 3.1): any document is compiled or refused; any request is judged by one, in bounded time.
#![no_main]
use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use schema::{Document, Found, media::MediaType};
use serde_json::Value;

const PETS: &str = include_str!("../seeds/schema/pets.json");
static DOCUMENT: LazyLock<Document> =
    LazyLock::new(|| Document::compile(&serde_json::from_str(PETS).expect("JSON"), None).expect("a document"));

fn asked(document: &Document, method: &str, path: &str, query: &str, content: &str, body: &str) {
    let Found::Operation(operation, named) = document.find(method, path) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(content) {
        headers.insert("content-type", value);
    }
    let _ = operation.check_head(&named, Some(query), &headers, true);
    let Some(expected) = operation.body() else { return };
    if let Some(form) = MediaType::parse(content).and_then(|given| expected.content(&given)) {
        let _ = edge::validation::body(form, body.as_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && let Ok(document) = Document::compile(&value, None)
    {
        for method in ["GET", "POST"] {
            asked(&document, method, "/pets/1", "a=1&b=2", "application/json", r#"{"name": "x", "age": [1, null]}"#);
        }
    }
    let mut lines = text.splitn(4, '\n');
    let [path, query, content, body] = [(); 4].map(|()| lines.next().unwrap_or_default());
    for method in ["GET", "POST"] {
        asked(&DOCUMENT, method, path, query, content, body);
    }
});
