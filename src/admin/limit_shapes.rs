//! The shapes of what a route limits and looks into: quotas, sizes and times, pages of other origins, requests.
use serde_json::{Value, json};

use crate::shapes::{closed, duration, flag, text, texts};

fn number(description: &str, most: u64) -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": most, "description": description })
}

const KEYS: &str = "`ip`, `client`, `subject`, `api_key`, `device`, `tenant`, `consumer` (device, else API key, else client, else subject), `route` or `header:NAME`; a caller that lacks it is counted by its address.";

fn rate() -> Value {
    let most = u64::from(u32::MAX);
    closed(
        &["key", "rate", "period"],
        json!({
            "name": { "type": "string", "minLength": 1, "maxLength": 64, "description": "What it is called in `RateLimit-Policy`; the key when absent." },
            "key": text(KEYS),
            "rate": number("Units a period.", most),
            "period": duration("In which `rate` units come back, evenly (GCRA); `30d` makes a monthly quota."),
            "burst": number("Units at once; `rate` when absent.", most),
            "cost": number("Units one request takes; 1 when absent.", most),
            "shared": { "description": "`true` (default): counted over all nodes, asked with every request; `lease`: over all nodes, a hundredth of the burst at a time; `false`: by each process for itself.", "oneOf": [
                { "type": "boolean" },
                { "type": "string", "enum": ["lease"] },
            ] },
        }),
    )
}

pub fn rate_limit() -> Value {
    json!({ "description": "How often; of several all must allow a request, and one that refuses uses up none.", "oneOf": [
        rate(),
        { "type": "array", "maxItems": 8, "items": rate() },
    ] })
}

pub fn limits() -> Value {
    closed(
        &[],
        json!({
            "body": { "type": "integer", "minimum": 0, "description": "Octets of a request body (413)." },
            "header_bytes": number("Octets of header fields (431).", 32_768),
            "header_fields": number("Header fields (431).", 100),
            "url": number("Octets of path and query (414).", 8_192),
            "request_time": duration("Within which the whole body has to be there after the head (408)."),
            "idle_body": duration("How long the body may pause (408), at most `30s`."),
            "response_time": duration("Within which the head of the answer has to be there, retries included (504)."),
            "stream_time": duration("How long an answer, an event stream or a WebSocket may go on before it is ended."),
            "concurrent": number("Requests at once in one process, until the end of their answers (429).", u64::from(u32::MAX)),
            "concurrency": closed(&["key", "most"], json!({
                "key": text(KEYS),
                "most": number("At once in one process (429).", u64::from(u32::MAX)),
            })),
        }),
    )
}

pub fn cors() -> Value {
    closed(
        &["allow_origins"],
        json!({
            "allow_origins": texts("Origins as browsers spell them (`https://app.example.com`), with the first label open (`https://*.example.com`), `null`, or `*` alone."),
            "allow_methods": texts("Absent: those of the route, else GET, HEAD, POST."),
            "allow_headers": texts("Header names, or `*` alone or beside `Authorization`, which it does not mean."),
            "expose_headers": texts("Header names a page may read, or `*` alone."),
            "allow_credentials": flag("Cookies and client certificates go with a page's requests; not with `*`.", false),
            "max_age": duration("How long a browser may remember the answer to a preflight, at most `1d`."),
            "allow_private_network": flag("Pages of public addresses may call this route at a private one.", false),
        }),
    )
}

pub fn validation() -> Value {
    closed(
        &[],
        json!({
            "openapi": { "type": "object", "description": "An OpenAPI 3.1 document, or as much of one as is needed: `openapi`, `paths`, `components`. References stay inside it." },
            "schema": { "description": "Instead: a JSON Schema (2020-12) for the JSON bodies of POST, PUT and PATCH.", "oneOf": [{ "type": "object" }, { "type": "boolean" }] },
            "base_path": text("What request paths begin with before the document's; absent: the path of its first server."),
            "unknown": { "type": "string", "enum": ["refuse", "pass"], "description": "Requests that are no operation: 404 or 405 (default), or unchecked." },
            "unknown_query": { "type": "string", "enum": ["refuse", "pass"], "description": "Parameters of the query that the document does not know: 400, or they pass (default)." },
            "max_body": number("Octets of a body that is looked into; 262144 when absent.", 4_194_304),
        }),
    )
}
