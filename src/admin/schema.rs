//! JSON Schemas of the administered objects: what OpenAPI shows is what a given document is checked against
//! (JSON Schema 2020-12, the keywords used here).
use std::sync::LazyLock;

use ledger::{Mistake, ObjectKind};
use serde_json::{Map, Value, json};

use crate::json::{nearest, short};

/// The kinds this version administers, in the order a seed is read.
pub const KINDS: [ObjectKind; 6] =
    [ObjectKind::User, ObjectKind::ResourceServer, ObjectKind::Client, ObjectKind::TrustedIssuer, ObjectKind::Upstream, ObjectKind::Route];

/// The schema of a kind's document as it is given (write-only members included); `None` for kinds not administered here.
#[must_use]
pub fn of(kind: ObjectKind) -> Option<&'static Value> {
    static USER: LazyLock<Value> = LazyLock::new(user);
    static CLIENT: LazyLock<Value> = LazyLock::new(client);
    static RESOURCE_SERVER: LazyLock<Value> = LazyLock::new(resource_server);
    static ROUTE: LazyLock<Value> = LazyLock::new(route);
    static UPSTREAM: LazyLock<Value> = LazyLock::new(upstream);
    static TRUSTED_ISSUER: LazyLock<Value> = LazyLock::new(trusted_issuer);
    match kind {
        ObjectKind::User => Some(&USER),
        ObjectKind::Client => Some(&CLIENT),
        ObjectKind::ResourceServer => Some(&RESOURCE_SERVER),
        ObjectKind::Route => Some(&ROUTE),
        ObjectKind::Upstream => Some(&UPSTREAM),
        ObjectKind::TrustedIssuer => Some(&TRUSTED_ISSUER),
        ObjectKind::ApiKey | ObjectKind::Device | ObjectKind::Certificate | ObjectKind::Policy => None,
    }
}

/// The write-only member that holds a kind's secret.
#[must_use]
pub const fn secret_member(kind: ObjectKind) -> Option<&'static str> {
    match kind {
        ObjectKind::User => Some("password"),
        ObjectKind::Client => Some("client_secret"),
        _ => None,
    }
}

/// The member that is a kind's natural key.
#[must_use]
pub const fn key_member(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::User => "username",
        ObjectKind::Client => "client_id",
        ObjectKind::ResourceServer => "identifier",
        ObjectKind::TrustedIssuer => "issuer",
        _ => "id",
    }
}

/// Everything in `value` that its schema does not allow, each with its path.
#[must_use]
pub fn mistakes(schema: &Value, value: &Value) -> Vec<Mistake> {
    let mut out = Vec::new();
    check(schema, value, "", &mut out);
    out
}

fn check(schema: &Value, value: &Value, at: &str, out: &mut Vec<Mistake>) {
    if schema.get("not").is_some() {
        out.push(Mistake::new(at, "is not supported by this version"));
        return;
    }
    if let Some(branches) = schema.get("oneOf").and_then(Value::as_array) {
        match branches.iter().find(|b| admits(b.get("type"), value)) {
            Some(branch) => check(branch, value, at, out),
            None => out.push(Mistake::new(at, format!("must be {}", branches.iter().map(types).collect::<Vec<_>>().join(" or ")))),
        }
        return;
    }
    if !admits(schema.get("type"), value) {
        out.push(Mistake::new(at, format!("must be {}", types(schema))));
        return;
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<String> = choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
        out.push(Mistake::new(at, format!("must be one of {}", choices.join(", "))));
    }
    match value {
        Value::String(text) => length(schema, text, at, out),
        Value::Number(n) => range(schema, n.as_f64(), at, out),
        Value::Array(items) => array(schema, items, at, out),
        Value::Object(members) => object(schema, members, at, out),
        _ => {}
    }
}

fn length(schema: &Value, text: &str, at: &str, out: &mut Vec<Mistake>) {
    let count = text.chars().count() as u64;
    if let Some(most) = schema.get("maxLength").and_then(Value::as_u64).filter(|most| count > *most) {
        out.push(Mistake::new(at, format!("must have at most {most} characters")));
    }
    if let Some(least) = schema.get("minLength").and_then(Value::as_u64).filter(|least| count < *least) {
        out.push(Mistake::new(
            at,
            if least == 1 { "must not be empty".to_owned() } else { format!("must have at least {least} characters") },
        ));
    }
}

fn range(schema: &Value, n: Option<f64>, at: &str, out: &mut Vec<Mistake>) {
    let bound = |name| schema.get(name).and_then(Value::as_f64);
    if let (Some(least), Some(n)) = (bound("minimum"), n)
        && n < least
    {
        out.push(Mistake::new(at, format!("must be at least {least}")));
    }
    if let (Some(most), Some(n)) = (bound("maximum"), n)
        && n > most
    {
        out.push(Mistake::new(at, format!("must be at most {most}")));
    }
}

fn array(schema: &Value, items: &[Value], at: &str, out: &mut Vec<Mistake>) {
    if let Some(most) = schema.get("maxItems").and_then(Value::as_u64).filter(|most| items.len() as u64 > *most) {
        out.push(Mistake::new(at, format!("must have at most {most} entries")));
        return;
    }
    if let Some(inner) = schema.get("items") {
        for (i, item) in items.iter().enumerate() {
            check(inner, item, &format!("{at}[{i}]"), out);
        }
    }
}

fn object(schema: &Value, members: &Map<String, Value>, at: &str, out: &mut Vec<Mistake>) {
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let rest = schema.get("additionalProperties");
    for (name, value) in members {
        let path = below(at, name);
        match (known.get(name), rest) {
            (Some(inner), _) => check(inner, value, &path, out),
            (None, Some(Value::Bool(false))) => out.push(Mistake::new(path, unknown(name, known.keys().map(String::as_str)))),
            (None, Some(inner @ Value::Object(_))) => check(inner, value, &path, out),
            (None, _) => {}
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            out.push(Mistake::new(below(at, name), "is missing"));
        }
    }
}

/// Why an unknown member is refused, with the name that was probably meant.
#[must_use]
pub fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("is not known; did you mean `{near}`?"),
        None => "is not known".to_owned(),
    }
}

/// The path of a member.
#[must_use]
pub fn below(at: &str, name: &str) -> String {
    if at.is_empty() { short(name) } else { format!("{at}.{}", short(name)) }
}

fn admits(types: Option<&Value>, value: &Value) -> bool {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    };
    match types {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}

fn types(schema: &Value) -> String {
    let article = |name: &str| match name {
        "array" | "object" | "integer" => format!("an {name}"),
        "null" => "null".to_owned(),
        _ => format!("a {name}"),
    };
    match schema.get("type") {
        Some(Value::String(name)) => article(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(article).collect::<Vec<_>>().join(" or "),
        _ => "something else".to_owned(),
    }
}

/// An object schema that knows these members and no others.
pub fn closed(required: &[&str], properties: Value) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("required".into(), required.to_vec().into());
    schema.insert("additionalProperties".into(), false.into());
    schema.insert("properties".into(), properties);
    Value::Object(schema)
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "maxLength": 2048, "description": description })
}

fn name(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "description": description })
}

fn secret(description: &str, most: u32) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": most, "writeOnly": true, "description": description })
}

fn flag(description: &str, default: bool) -> Value {
    json!({ "type": "boolean", "default": default, "description": description })
}

fn choice(description: &str, of: &[&str]) -> Value {
    json!({ "type": "string", "enum": of, "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": "array", "maxItems": 1000, "items": { "type": "string", "maxLength": 2048 }, "description": description })
}

fn duration(description: &str) -> Value {
    json!({ "type": "string", "maxLength": 32, "description": format!("{description} A duration such as `60s`, `5m`, `12h`, `30d`.") })
}

fn user() -> Value {
    closed(
        &["username"],
        json!({
            "id": name("The `sub`; generated when absent, never changed."),
            "username": name("What the person types. Unique."),
            "password": secret("Kept as an argon2id hash, never shown. Generated and returned once when a new user has none given.", 128),
            "roles": texts("Roles, for the claim `roles`."),
            "groups": texts("Groups, for the claim `groups`."),
            "disabled": flag("Cannot log in; becoming true ends sessions and grants.", false),
            "name": text("OpenID Connect Core §5.1."),
            "given_name": text("OpenID Connect Core §5.1."),
            "family_name": text("OpenID Connect Core §5.1."),
            "middle_name": text("OpenID Connect Core §5.1."),
            "nickname": text("OpenID Connect Core §5.1."),
            "preferred_username": text("OpenID Connect Core §5.1."),
            "profile": text("OpenID Connect Core §5.1."),
            "picture": text("OpenID Connect Core §5.1."),
            "website": text("OpenID Connect Core §5.1."),
            "email": text("OpenID Connect Core §5.1."),
            "email_verified": flag("OpenID Connect Core §5.1.", false),
            "gender": text("OpenID Connect Core §5.1."),
            "birthdate": text("OpenID Connect Core §5.1, `YYYY-MM-DD`, `0000-MM-DD` or `YYYY`."),
            "zoneinfo": text("OpenID Connect Core §5.1, e.g. `Europe/Paris`."),
            "locale": text("OpenID Connect Core §5.1, a BCP 47 tag."),
            "phone_number": text("OpenID Connect Core §5.1, E.164."),
            "phone_number_verified": flag("OpenID Connect Core §5.1.", false),
            "updated_at": { "type": "integer", "description": "OpenID Connect Core §5.1, seconds since the epoch." },
            "address": closed(&[], json!({
                "formatted": text("OpenID Connect Core §5.1.1."),
                "street_address": text("OpenID Connect Core §5.1.1."),
                "locality": text("OpenID Connect Core §5.1.1."),
                "region": text("OpenID Connect Core §5.1.1."),
                "postal_code": text("OpenID Connect Core §5.1.1."),
                "country": text("OpenID Connect Core §5.1.1."),
            })),
        }),
    )
}

fn client() -> Value {
    closed(
        &[],
        json!({
            "client_id": name("Generated when absent, never changed."),
            "client_secret": secret("Kept as a keyed MAC, never shown. Generated and returned once when a confidential client has none.", 512),
            "client_name": text("Shown to people."),
            "client_uri": text("Home page."),
            "logo_uri": text("Shown to people."),
            "policy_uri": text("Shown to people."),
            "tos_uri": text("Shown to people."),
            "contacts": texts("Whom to write to."),
            "redirect_uris": texts("Compared as strings; loopback IP literals with any port."),
            "post_logout_redirect_uris": texts("OpenID Connect RP-Initiated Logout §3.1."),
            "grant_types": texts("`authorization_code`, `refresh_token`, `client_credentials`."),
            "response_types": texts("`code`."),
            "token_endpoint_auth_method": choice("RFC 7591 §2.", &["client_secret_basic", "client_secret_post", "none"]),
            "scope": text("Space-separated: what it may ask for."),
            "allowed_resources": texts("Resource indicators it may ask for (RFC 8707)."),
            "first_party": flag("No consent page.", false),
            "require_pkce": flag("False is possible for a confidential client only (RFC 7636).", true),
            "access_token_format": choice("Overrides the resource server's.", &["jwt", "opaque"]),
            "access_token_ttl": duration("Overrides the resource server's."),
            "refresh_token_ttl": duration("Absolute lifetime of a refresh family."),
            "id_token_signed_response_alg": text("JOSE name; RS256 when absent."),
            "default_max_age": count("Seconds (OpenID Connect Registration §2)."),
            "initiate_login_uri": text("OpenID Connect Core §4."),
            "jwks": { "type": "object", "description": "Its public keys (RFC 7517 §5)." },
            "disabled": flag("Nothing of it works; becoming true revokes everything of it.", false),
        }),
    )
}

fn resource_server() -> Value {
    closed(
        &["identifier"],
        json!({
            "id": name("Derived from the identifier when absent, never changed."),
            "identifier": text("The `aud`: an absolute URI without fragment (RFC 8707 §2). Unique."),
            "name": text("Shown to people."),
            "scopes": { "type": "array", "maxItems": 1000, "description": "What it offers.",
                "items": closed(&["name"], json!({ "name": name("A scope token (RFC 6749 §3.3)."), "description": text("Shown on the consent page.") })) },
            "access_token_format": choice("RFC 9068 JWT, or opaque.", &["jwt", "opaque"]),
            "access_token_ttl": duration("Lifetime of its access tokens."),
            "introspection_clients": texts("Client ids that may introspect its tokens (RFC 7662)."),
        }),
    )
}

/// A member of the public contract that this version refuses.
fn later() -> Value {
    json!({ "not": {}, "description": "Not supported by this version." })
}

fn map(description: &str) -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string", "maxLength": 8192 }, "description": description })
}

fn target() -> Value {
    closed(
        &["url"],
        json!({ "url": text("`http://host:port` or `https://host:port`."), "weight": count("Its share; 1 when absent, 0 takes it out.") }),
    )
}

fn upstream_members(id: &Value) -> Value {
    json!({
        "id": id,
        "name": text("For people."),
        "targets": { "type": "array", "maxItems": 256, "items": target(), "description": "Where requests go." },
        "protocol": choice("How to speak to the targets.", &["auto", "http1", "http2"]),
        "preserve_host": flag("Pass on the request's Host.", true),
        "connect_timeout": duration("To open a connection."),
        "timeout": duration("To the head of the answer."),
        "health": later(),
    })
}

fn upstream() -> Value {
    closed(&["targets"], upstream_members(&name("URL-safe; generated when absent, never changed.")))
}

fn trusted_issuer() -> Value {
    closed(
        &["issuer", "jwks_uri", "algorithms"],
        json!({
            "id": name("Derived from the issuer when absent, never changed."),
            "issuer": text("The `iss` of its tokens, compared exactly. Unique."),
            "jwks_uri": text("Where its JWK set is served."),
            "algorithms": { "type": "array", "maxItems": 16, "items": choice("JOSE name.", &["ES256", "ES384", "RS256", "PS256", "EdDSA"]), "description": "Nothing else is accepted." },
            "token_typ": texts("The `typ` of its tokens; `at+jwt` when absent, `[\"JWT\"]` for older servers."),
        }),
    )
}

fn route_match() -> Value {
    closed(
        &[],
        json!({
            "hosts": texts("Host names without port; absent: any."),
            "path_prefix": text("Start of the normalised path; the longest wins."),
            "methods": texts("Case-sensitive; absent: any."),
            "headers": map("Header names and the exact values they must have."),
        }),
    )
}

fn route_auth() -> Value {
    closed(
        &["accept"],
        json!({
            "accept": { "type": "array", "maxItems": 16, "items": { "type": "string" }, "description": "`jwt`, `opaque`; with `none` the credential is optional." },
            "issuers": texts("`self` or issuers; absent: `self`."),
            "audience": text("Must be among the token's `aud`."),
            "scopes": texts("Must all be in the token's scope."),
            "freshness": choice("`push`: local check and pushed revocations; `introspect`: ask; `offline`: signature and times only.", &["push", "introspect", "offline"]),
            "cache_ttl": duration("How long an introspection answer may be kept."),
            "max_staleness": duration("How old the revocation feed may be."),
            "sender_constraint": { "type": "array", "maxItems": 0, "description": "Not supported by this version." },
        }),
    )
}

fn route() -> Value {
    closed(
        &["match", "upstream"],
        json!({
            "id": name("URL-safe; generated when absent, never changed."),
            "match": route_match(),
            "upstream": { "description": "An upstream's id, or one written out.", "oneOf": [
                { "type": "string", "minLength": 1, "maxLength": 128 },
                closed(&["targets"], upstream_members(&json!({ "type": "string", "maxLength": 128 }))),
            ] },
            "strip_prefix": flag("Removes `match.path_prefix`, keeping the leading slash.", false),
            "auth": route_auth(),
            "rate_limit": closed(&["key", "rate", "period"], json!({
                "key": text("`ip`, `client`, `subject`, `route` or `header:NAME`."),
                "rate": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                "period": duration("In which `rate` requests are let through."),
                "burst": { "type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "At once; `rate` when absent." },
            })),
            "identity": closed(&[], json!({ "headers": map("Header to claim."), "signed_assertion": later() })),
            "limits": closed(&[], json!({ "body": count("Octets of a request body.") })),
            "public": flag("Lets everybody through; must be said.", false),
            "forward_credentials": flag("Passes the caller's credentials on.", false),
            "forwarded": flag("Tells the upstream address, scheme and host in `X-Forwarded-*`.", false),
            "policy": later(),
            "cors": later(),
            "validation": later(),
            "version": later(),
        }),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ledger::Record;

    use super::*;

    fn at(kind: ObjectKind, value: &Value) -> Vec<String> {
        mistakes(of(kind).unwrap(), value).into_iter().map(|m| format!("{}: {}", m.at, m.why)).collect()
    }

    #[test]
    fn every_mistake_is_named_with_its_path_and_the_nearest_name() {
        let given = json!({ "client_idd": "x", "redirect_uris": ["https://a/", 7], "token_endpoint_auth_method": "telepathy", "require_pkce": "yes" });
        assert_eq!(
            at(ObjectKind::Client, &given),
            [
                "client_idd: is not known; did you mean `client_id`?",
                "redirect_uris[1]: must be a string",
                "token_endpoint_auth_method: must be one of client_secret_basic, client_secret_post, none",
                "require_pkce: must be a boolean",
            ]
        );
    }

    #[test]
    fn what_later_versions_bring_is_refused_by_name() {
        let route = json!({ "id": "r", "match": {}, "upstream": { "targets": [], "health": {} }, "cors": {} });
        assert_eq!(
            at(ObjectKind::Route, &route),
            ["upstream.health: is not supported by this version", "cors: is not supported by this version"]
        );
        assert_eq!(at(ObjectKind::Route, &json!({ "match": {}, "upstream": 7 })), ["upstream: must be a string or an object"]);
    }

    /// A member that a record knows and the schema does not would be refused although it is supported.
    #[test]
    fn the_schemas_know_every_member_a_record_writes() {
        fn covered<R: Record + Default>() {
            let written = serde_json::to_value(R::default()).unwrap();
            let written: BTreeSet<&String> = written.as_object().unwrap().keys().collect();
            let known: BTreeSet<&String> = of(R::KIND).unwrap()["properties"].as_object().unwrap().keys().collect();
            let missing: Vec<_> = written.difference(&known).collect();
            assert!(missing.is_empty(), "{:?}: {missing:?}", R::KIND);
        }
        covered::<accounts::User>();
        covered::<protocol::Client>();
        covered::<protocol::ResourceServer>();
        covered::<edge::route::Route>();
        covered::<edge::upstream::Upstream>();
        covered::<edge::issuer::TrustedIssuer>();
    }
}
