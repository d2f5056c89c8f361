//! The numbers this server keeps to, as it tells them (`GET /admin/v1/policy`, `doorward policy --json`).
use accounts::password;
use serde_json::{Value, json};

use crate::{Form, Settings, client_auth::Method, grants, id_token};

/// The policy document.
#[must_use]
pub fn policy_json(settings: &Settings) -> Value {
    let seconds = |s: i64| Value::from(format!("{s}s"));
    json!({
        "issuer": settings.issuer,
        "redirect_uri": {
            "required": true, "comparison": "simple string", "loopback_ip": "any port",
            "refused": ["wildcard", "fragment", "javascript:", "data:"],
        },
        "pkce": { "methods": ["S256"], "required": true, "optional_for": "confidential clients with require_pkce=false" },
        "response": { "types": ["code"], "modes": ["query", "form_post"], "iss_parameter": true },
        "grant_types": grants::ALL,
        "token_endpoint_auth_methods": Method::ALL.map(Method::as_str),
        "code": { "ttl": seconds(settings.code_ttl), "max_ttl": "60s", "uses": 1, "second_use": "revokes what the first gave" },
        "leeway": { "accepted": seconds(Settings::LEEWAY), "refused_over": "60s" },
        "access_token": {
            "ttl": seconds(settings.access_token_ttl), "max_ttl": seconds(Settings::MAX_ACCESS_TOKEN_TTL),
            "formats": ["jwt", "opaque"], "signed_with": "ES256",
        },
        "id_token": { "ttl": seconds(id_token::TTL), "default_alg": "RS256" },
        "refresh": {
            "issued_for": "offline_access", "rotated": "each use", "reuse": "ends the family",
            "grace": seconds(settings.refresh_grace), "max_grace": "10s",
            "idle": seconds(settings.refresh_idle), "absolute": seconds(settings.refresh_token_ttl),
        },
        "session": { "ttl": seconds(settings.session_ttl) },
        "interaction": { "ttl": seconds(settings.interaction_ttl) },
        "revocation": { "introspection_here": "at once", "introspection_other_node": "1s", "gateway_p99": "1s", "max_staleness": "5s" },
        "gateway": {
            "401": "missing or invalid credential", "403": "valid but not allowed", "400": "ambiguous request", "429": "limited",
            "credentials_per_request": 1, "default": "deny",
        },
        "path": { "normalisations": 1, "refused": ["encoded slash", "encoded backslash", "NUL", "dot segment after decoding"] },
        "headers": { "identity": "always removed, then set", "refused": ["names outside RFC 9110 tokens", "names with _"] },
        "framing": { "refused": ["CL+TE", "duplicate CL", "TE other than chunked", "bare LF", "obs-fold"] },
        "limits": {
            "url": 8192, "headers": 32768, "header_fields": 100, "form": Form::LIMIT, "json": 262_144, "json_depth": 32,
            "password": 128, "token": tokens::jws::MAX_LEN,
        },
        "password_hash": {
            "algorithm": "argon2id", "memory_kib": password::MEMORY_KIB, "passes": password::PASSES, "lanes": password::LANES,
            "at_a_time": "one a core", "queue_full": 503,
        },
        "rate": { "answer": 429, "headers": ["Retry-After", "RateLimit", "RateLimit-Policy"], "per": ["account", "source"], "ipv6_source": "/64" },
        "outbound": {
            "scheme": "https", "private_addresses": "refused", "redirects": 0, "max_body": 65_536, "timeout": "5s", "exceptions": "allow-list",
        },
        "failure": { "storage_away": 503, "issued_then": "nothing" },
        "sameness": ["unknown user", "wrong password", "disabled", "locked"],
        "audit": { "chained": true, "secrets": "never" },
    })
}
