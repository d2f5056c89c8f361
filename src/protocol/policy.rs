//! The numbers this server keeps to, as it tells them (`GET /admin/v1/policy`, `doorward policy --json`).
use accounts::password;
use serde_json::{Value, json};

use crate::{
    Form, Profile, Settings,
    authorize::{ResponseMode, ResponseType, pushed},
    client_auth::Method,
    grants, id_token, signing,
};

/// The policy document.
#[must_use]
pub fn policy_json(settings: &Settings) -> Value {
    let seconds = |s: i64| Value::from(format!("{s}s"));
    let (front, fapi) = (settings.profile == Profile::OidcDynamic, settings.profile == Profile::Fapi2);
    json!({
        "issuer": settings.issuer,
        "redirect_uri": {
            "required": true, "comparison": "simple string", "loopback_ip": "any port",
            "refused": ["wildcard", "fragment", "javascript:", "data:"],
        },
        "profile": settings.profile.as_str(),
        "pkce": {
            "methods": ["S256"], "required": true,
            "optional_for": if fapi { Value::Null } else { "confidential clients with require_pkce=false".into() },
        },
        "pushed_requests": { "required": fapi, "ttl": seconds(pushed::ttl(settings)) },
        "sender_constrained": { "required": fapi },
        "response": {
            "types": ResponseType::names().filter(|name| front || *name == "code").collect::<Vec<_>>(),
            "modes": ResponseMode::names(front).collect::<Vec<_>>(), "iss_parameter": true,
        },
        "grant_types": grants::ALL.into_iter().chain(front.then_some(grants::IMPLICIT)).collect::<Vec<_>>(),
        "token_endpoint_auth_methods": Method::offered(settings).into_iter().map(Method::as_str).collect::<Vec<_>>(),
        "registration": {
            "served": settings.registration, "grant_types": settings.registration_grant_types, "open": settings.open_registration, "client_id_metadata": settings.client_id_metadata,
        },
        "code": { "ttl": seconds(settings.code_ttl), "max_ttl": "60s", "uses": 1, "second_use": "revokes what the first gave" },
        "leeway": { "accepted": seconds(Settings::LEEWAY), "refused_over": "60s" },
        "access_token": {
            "ttl": seconds(settings.access_token_ttl), "max_ttl": seconds(Settings::MAX_ACCESS_TOKEN_TTL),
            "formats": ["jwt", "opaque"], "signed_with": "ES256",
        },
        "id_token": { "ttl": seconds(id_token::TTL), "default_alg": if fapi { "ES256" } else { "RS256" }, "algs": signing::names(settings) },
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
            "url": 8192, "headers": 32768, "header_fields": 100, "form": Form::LIMIT, "json": 262_144, "json_depth": 32, "idle_body": "30s",
            "password": 128, "token": tokens::jws::MAX_LEN,
        },
        "password_hash": {
            "algorithm": "argon2id", "memory_kib": password::MEMORY_KIB, "passes": password::PASSES, "lanes": password::LANES,
            "at_a_time": "one a core", "queue_full": 503,
        },
        "rate": {
            "answer": 429, "headers": ["Retry-After", "RateLimit", "RateLimit-Policy"], "per": ["account", "source"], "ipv6_source": "/64",
            "route_keys": ["ip", "client", "subject", "api_key", "device", "tenant", "consumer", "route", "header:NAME"], "lease": "1% of the burst",
        },
        "outbound": {
            "scheme": "https", "private_addresses": "refused", "redirects": 0, "max_body": 65_536, "timeout": "5s", "exceptions": "allow-list",
        },
        "failure": { "storage_away": 503, "issued_then": "nothing" },
        "sameness": ["unknown user", "wrong password", "disabled", "locked"],
        "audit": { "chained": true, "secrets": "never" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_profile() {
        let of = |profile| policy_json(&Settings { profile, ..Settings::for_issuer("https://id") });
        let (standard, dynamic, fapi) = (of(Profile::Standard), of(Profile::OidcDynamic), of(Profile::Fapi2));
        let has = |list: &Value, name: &str| list.as_array().is_some_and(|all| all.iter().any(|one| one == name));
        assert_eq!(standard["response"]["types"], json!(["code"]));
        assert_eq!(standard["response"]["modes"], json!(["query", "form_post", "query.jwt", "form_post.jwt", "jwt"]));
        assert!(has(&dynamic["response"]["types"], "code id_token") && has(&dynamic["response"]["modes"], "fragment"));
        assert!(has(&dynamic["grant_types"], "implicit") && !has(&standard["grant_types"], "implicit"));
        let methods = "token_endpoint_auth_methods";
        assert!(has(&standard[methods], "client_secret_basic") && has(&standard[methods], "none"));
        assert_eq!(fapi[methods], json!(["private_key_jwt"]));
        assert!(fapi["pkce"]["optional_for"].is_null() && standard["pkce"]["optional_for"].is_string());
        assert_eq!((&fapi["pushed_requests"]["required"], &fapi["id_token"]["default_alg"]), (&json!(true), &json!("ES256")));
        assert!(!has(&fapi["id_token"]["algs"], "RS256") && has(&standard["id_token"]["algs"], "RS256"));
    }
}
