//! The OpenAPI 3.1 description, made from the table of operations and the schemas documents are checked against.
use http::Method;
use ledger::ObjectKind;
use serde_json::{Map, Value, json};

use crate::{
    operations::{self, Does, Operation, PREFIX, RESOURCES, Takes},
    schema,
};

/// The description of this version's API.
#[must_use]
pub fn document(issuer: &str) -> Value {
    let mut paths = Map::new();
    for operation in operations::all() {
        let item = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(operation.method.as_str().to_ascii_lowercase(), described(operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": {
            "title": "Doorward administration",
            "version": "1",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": format!("Bearer access tokens of {issuer} whose audience is the issuer, with scope `doorward.admin` (or `doorward.admin.read` for GET). \
                Lists take `limit` (at most 200) and `cursor`; objects carry an ETag, honoured in If-Match. Refusals are problem documents (RFC 9457)."),
        },
        "servers": [{ "url": PREFIX }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "description": "RFC 6750; scope `doorward.admin` or `doorward.admin.read`." } },
            "responses": { "Problem": { "description": "Refused (RFC 9457).", "content": { "application/problem+json": { "schema": reference("Problem") } } } },
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn schema_name(kind: ObjectKind) -> &'static str {
    RESOURCES.iter().find(|r| r.kind == kind).map_or("Problem", |r| r.schema)
}

fn schemas() -> Map<String, Value> {
    let mut out = Map::new();
    for resource in RESOURCES {
        out.insert(resource.schema.into(), schema::of(resource.kind).cloned().unwrap_or(Value::Bool(true)));
    }
    let text = json!({ "type": "string" });
    let whole = json!({ "type": "integer" });
    let members = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    out.insert(
        "Problem".into(),
        members(
            &["type", "title", "status"],
            json!({ "type": { "type": "string", "format": "uri" }, "title": text, "status": whole, "detail": text,
                "errors": { "type": "array", "items": members(&["at", "why"], json!({ "at": text, "why": text })) } }),
        ),
    );
    out.insert(
        "Session".into(),
        members(
            &["id", "subject"],
            json!({ "id": text, "subject": text, "auth_time": whole, "amr": { "type": "array", "items": text }, "created_at": whole,
                "expires_at": whole, "ended_at": { "type": ["integer", "null"] }, "document": {} }),
        ),
    );
    out.insert(
        "Grant".into(),
        members(
            &["id", "subject", "client_id"],
            json!({ "id": text, "subject": text, "client_id": text, "session": { "type": ["string", "null"] }, "scope": text, "created_at": whole,
                "expires_at": whole, "ended_at": { "type": ["integer", "null"] }, "document": {} }),
        ),
    );
    out.insert(
        "Event".into(),
        members(
            &["seq", "at_ms", "kind", "hash"],
            json!({ "seq": whole, "at_ms": whole, "kind": text, "sub": text, "client_id": text, "grant": text, "session": text,
                "data": { "type": "object" }, "hash": { "type": "string", "pattern": "^[0-9a-f]{64}$" } }),
        ),
    );
    out.insert(
        "Key".into(),
        members(
            &["kid", "alg", "state"],
            json!({ "kid": text, "alg": text, "state": { "type": "string", "enum": ["next", "current", "retired", "revoked"] },
                "created_at": whole, "changed_at": whole, "jwk": { "type": "object" } }),
        ),
    );
    let judged = members(
        &["allowed", "by"],
        json!({ "allowed": { "type": "boolean" }, "by": { "type": "array", "items": text }, "faults": { "type": "array", "items": text } }),
    );
    out.insert(
        "Explanation".into(),
        members(
            &["allowed", "reason", "steps"],
            json!({ "request_id": text, "at_ms": whole, "allowed": { "type": "boolean" }, "status": whole, "reason": text, "method": text, "path": text,
                "peer": text, "source": text, "route": text, "upstream": text, "demanded": { "type": "object" }, "caller": { "type": "object" }, "lacking": { "type": "array", "items": text },
                "policy": judged, "policy_shadow": judged, "limit": { "type": "object" }, "validation": text, "steps": { "type": "array", "items": text } }),
        ),
    );
    let counts = json!({ "type": "object", "additionalProperties": whole });
    out.insert(
        "Stats".into(),
        members(
            &["rows", "caches", "panics", "jwks_fetches", "build_id"],
            json!({ "rows": counts, "caches": counts, "panics": whole, "jwks_fetches": whole, "feed_lag_ms": { "type": ["integer", "null"] }, "build_id": text,
                "canaries": { "type": "array", "items": members(&["route", "weight"], json!({ "route": text, "weight": whole, "window_s": whole,
                    "answers": whole, "errors": whole, "rolled_back_at": { "type": ["integer", "null"] } })) },
                "upstreams": { "type": "array", "items": members(&["upstream", "target", "up"], json!({ "upstream": text, "target": text, "up": { "type": "boolean" },
                    "healthy": { "type": "boolean" }, "ejected": { "type": "boolean" }, "breaker": text, "requests": whole })) } }),
        ),
    );
    out.insert(
        "Usage".into(),
        members(
            &["route", "consumer", "requests"],
            json!({ "route": text, "consumer": text, "credential": text, "requests": whole, "answers": counts, "seconds": { "type": "number" },
                "p50_ms": { "type": "number" }, "p99_ms": { "type": "number" }, "first_at": whole, "last_at": whole }),
        ),
    );
    out.insert(
        "Revoked".into(),
        members(&["kind", "id", "known"], json!({ "kind": text, "id": text, "known": { "type": "boolean" }, "seq": whole, "key": {} })),
    );
    out
}

fn described(operation: &Operation) -> Value {
    let mut out = Map::new();
    out.insert("operationId".into(), operation.id.as_str().into());
    out.insert("summary".into(), operation.summary.as_str().into());
    out.insert("tags".into(), json!([operation.path.split('/').nth(1).unwrap_or_default()]));
    if operation.access.is_none() {
        out.insert("security".into(), json!([]));
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        out.insert("parameters".into(), Value::Array(parameters));
    }
    if let Some(body) = body(operation.does) {
        out.insert("requestBody".into(), body);
    }
    out.insert("responses".into(), responses(operation));
    Value::Object(out)
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut out = Vec::new();
    for name in ["id", "kid", "auth_req_id"] {
        if operation.path.contains(&format!("{{{name}}}")) {
            out.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" },
                "description": "Percent-encoded. A natural key (username, client_id, identifier, issuer) serves as well as an id." }));
        }
    }
    for name in operation.does.parameters() {
        let shape = match name {
            "limit" => json!({ "type": "integer", "minimum": 1, "maximum": crate::call::MAX_PAGE }),
            "after" => json!({ "type": "integer", "minimum": 0 }),
            _ => json!({ "type": "string" }),
        };
        out.push(json!({ "name": name, "in": "query", "required": false, "schema": shape }));
    }
    if matches!(operation.does, Does::Replace(_) | Does::Patch(_) | Does::Delete(_)) {
        out.push(json!({ "name": "If-Match", "in": "header", "required": false, "schema": { "type": "string" }, "description": "The ETag that is to be changed; another one stored is 412." }));
    }
    out
}

fn body(does: Does) -> Option<Value> {
    let json_body =
        |schema: Value, required: bool| json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    match does.takes() {
        Takes::Nothing => None,
        Takes::Document(kind) => Some(json_body(reference(schema_name(kind)), true)),
        Takes::MergePatch(_) => {
            let patch = json!({ "type": "object", "description": "A merge patch: null removes a member (RFC 7396)." });
            Some(
                json!({ "required": true, "content": { "application/merge-patch+json": { "schema": patch }, "application/json": { "schema": patch } } }),
            )
        }
        Takes::Content(schema, optional) => Some(json_body(schema, !optional)),
    }
}

fn responses(operation: &Operation) -> Value {
    let good =
        |description: &str, schema: Value| json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    let page = |item: Value| {
        json!({ "type": "object", "required": ["items", "next"],
            "properties": { "items": { "type": "array", "items": item }, "next": { "type": ["string", "null"] } } })
    };
    let etag = json!({ "ETag": { "schema": { "type": "string" }, "description": "The version, for If-Match." } });
    let with = |mut response: Value, headers: Value| {
        if let Some(members) = response.as_object_mut() {
            members.insert("headers".into(), headers);
        }
        response
    };
    let (status, response) = match operation.does {
        Does::List(kind) => ("200", good("A page.", page(reference(schema_name(kind))))),
        Does::Create(kind) => (
            "201",
            with(
                good("Created; a generated secret is shown this once.", reference(schema_name(kind))),
                json!({
            "ETag": { "schema": { "type": "string" } }, "Location": { "schema": { "type": "string" } } }),
            ),
        ),
        Does::Read(kind) | Does::Replace(kind) | Does::Patch(kind) => {
            ("200", with(good("As it is stored.", reference(schema_name(kind))), etag))
        }
        Does::Delete(_)
        | Does::ApproveBackchannel
        | Does::DenyBackchannel
        | Does::DisableUser
        | Does::EnableUser
        | Does::DisableDevice
        | Does::EnableDevice
        | Does::SetPassword
        | Does::RemoveTotp
        | Does::EndSession
        | Does::EndGrant => ("204", json!({ "description": "Done." })),
        Does::EnrolTotp => (
            "200",
            good(
                "The second factor, shown this once.",
                json!({ "type": "object", "required": ["secret", "otpauth_uri"],
                "properties": { "secret": { "type": "string" }, "otpauth_uri": { "type": "string" } } }),
            ),
        ),
        Does::RotateSecret => (
            "200",
            good(
                "The new secret, shown this once.",
                json!({ "type": "object", "required": ["client_id", "client_secret"],
            "properties": { "client_id": { "type": "string" }, "client_secret": { "type": "string" }, "previous_kept": { "type": "boolean" } } }),
            ),
        ),
        Does::RotateApiKey => (
            "200",
            good(
                "The new key, shown this once unless it was given.",
                json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "string" }, "api_key": { "type": "string" },
                    "previous_expires_at": { "type": "integer" } } }),
            ),
        ),
        Does::ListSessions => ("200", good("A page.", page(reference("Session")))),
        Does::ReadSession => ("200", good("The session.", reference("Session"))),
        Does::ListGrants => ("200", good("A page.", page(reference("Grant")))),
        Does::ReadGrant => ("200", good("The grant.", reference("Grant"))),
        Does::ListEvents => ("200", good("A page, in ledger order.", page(reference("Event")))),
        Does::ListKeys => ("200", good("Every key.", page(reference("Key")))),
        Does::Revoke => ("200", good("Revoked; every edge of this node refuses it already.", reference("Revoked"))),
        Does::Stats => ("200", good("The numbers.", reference("Stats"))),
        Does::Analytics => ("200", good("The busiest first; `next` is always null.", page(reference("Usage")))),
        Does::ListExplanations => ("200", good("The latest first; `next` is always null.", page(reference("Explanation")))),
        Does::ReadExplanation | Does::Explain => ("200", good("What became, or would become, of it.", reference("Explanation"))),
        Does::DryRun => (
            "200",
            good(
                "What would change.",
                json!({ "type": "object", "required": ["changed", "questions"], "properties": { "changed": { "type": "integer" },
                    "questions": { "type": "array", "items": { "type": "object" } }, "requests": { "type": "array", "items": { "type": "object" } } } }),
            ),
        ),
        Does::RotateKeys | Does::RevokeKey | Does::Policy | Does::OpenApi => ("200", good("The result.", json!({ "type": "object" }))),
    };
    let mut out = Map::new();
    out.insert(status.into(), response);
    let mut problems = vec!["400", "503"];
    if operation.access.is_some() {
        problems.extend(["401", "403"]);
    }
    if operation.path.contains('{') {
        problems.push("404");
    }
    if operation.method != Method::GET {
        problems.extend(["409", "413", "415", "422"]);
    }
    if matches!(operation.does, Does::Replace(_) | Does::Patch(_) | Does::Delete(_)) {
        problems.push("412");
    }
    problems.sort_unstable();
    for status in problems {
        out.insert(status.into(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    Value::Object(out)
}
