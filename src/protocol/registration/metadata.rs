//! Client metadata as a client gives it (RFC 7591 §2, OpenID Connect Registration §2): which members, what defaults, what agrees with what.
use ledger::Record;
use serde_json::{Map, Value, json};
use url::Url;

use super::Refused;
use crate::{Client, Code, Profile, Settings, grants, scope::BUILT_IN_PREFIX};

/// What a client may say of itself. Everything else of a record is its administrator's.
pub const MEMBERS: [&str; 48] = [
    "client_name",
    "client_uri",
    "logo_uri",
    "policy_uri",
    "tos_uri",
    "contacts",
    "redirect_uris",
    "post_logout_redirect_uris",
    "grant_types",
    "response_types",
    "token_endpoint_auth_method",
    "token_endpoint_auth_signing_alg",
    "scope",
    "jwks",
    "jwks_uri",
    "id_token_signed_response_alg",
    "userinfo_signed_response_alg",
    "authorization_signed_response_alg",
    "introspection_signed_response_alg",
    "request_object_signing_alg",
    "request_uris",
    "require_signed_request_object",
    "require_pushed_authorization_requests",
    "default_max_age",
    "default_acr_values",
    "require_auth_time",
    "initiate_login_uri",
    "subject_type",
    "sector_identifier_uri",
    "application_type",
    "software_id",
    "software_version",
    "dpop_bound_access_tokens",
    "tls_client_certificate_bound_access_tokens",
    "tls_client_auth_subject_dn",
    "tls_client_auth_san_dns",
    "tls_client_auth_san_uri",
    "tls_client_auth_san_ip",
    "tls_client_auth_san_email",
    "authorization_details_types",
    "backchannel_logout_uri",
    "backchannel_logout_session_required",
    "frontchannel_logout_uri",
    "frontchannel_logout_session_required",
    "backchannel_token_delivery_mode",
    "backchannel_client_notification_endpoint",
    "backchannel_authentication_request_signing_alg",
    "require_pkce",
];
/// Members whose silence would send in the clear what a client wants encrypted, and others this server cannot honour.
const IMPOSSIBLE: [&str; 11] = [
    "id_token_encrypted_response_alg",
    "id_token_encrypted_response_enc",
    "userinfo_encrypted_response_alg",
    "userinfo_encrypted_response_enc",
    "request_object_encryption_alg",
    "request_object_encryption_enc",
    "authorization_encrypted_response_alg",
    "authorization_encrypted_response_enc",
    "introspection_encrypted_response_alg",
    "introspection_encrypted_response_enc",
    "backchannel_user_code_parameter",
];

/// Entries of any list.
const MOST_ENTRIES: usize = 50;
/// Octets of any text.
const LONGEST_TEXT: usize = 2048;
/// Octets of a whole record.
const LARGEST: usize = 32 * 1024;

/// Reads what a client says of itself; `before` is the record it replaces, whose administrator's members stay.
///
/// # Errors
/// `invalid_redirect_uri` or `invalid_client_metadata`, naming the member.
pub fn read(given: &Map<String, Value>, settings: &Settings, before: Option<&Client>) -> Result<Client, Refused> {
    for name in IMPOSSIBLE {
        if given.get(name).is_some_and(|v| !v.is_null() && *v != Value::Bool(false)) {
            return Err(Refused::at(name, "not supported"));
        }
    }
    let known = |name: &str| MEMBERS.contains(&name);
    let mut members = Map::new();
    for (name, value) in given.iter().filter(|(name, value)| known(name) && !value.is_null()) {
        sized(name, value)?;
        if serde_json::from_value::<Client>(json!({ name.as_str(): value })).is_err() {
            return Err(wrong_type(name));
        }
        members.insert(name.clone(), value.clone());
    }
    if let Some(refused) = Refused::first(crate::signing::mistakes(&members, settings.post_quantum)) {
        return Err(refused);
    }
    if let Some(refused) = Refused::first(crate::signing::forbidden(&members, settings.profile)) {
        return Err(refused);
    }
    let asked_pkce = members.get("require_pkce").and_then(Value::as_bool);
    defaults(&mut members, settings, before)?;
    let mut client: Client =
        serde_json::from_value(Value::Object(members)).map_err(|_| Refused::new(Code::InvalidClientMetadata, "unreadable"))?;
    keep(&mut client, settings, before);
    client.require_pkce = pkce(&client, settings, asked_pkce);
    if let Some(before) = before.filter(|c| c.narrow_only) {
        narrow(&mut client, before);
    }
    agrees(&client)?;
    possible(&client, settings)?;
    addresses(&client)?;
    Ok(client)
}

/// The last check, when the record is complete: what any registration must satisfy.
///
/// # Errors
/// As [`read`].
pub fn complete(client: &Client) -> Result<(), Refused> {
    if let Some(refused) = Refused::first(client.mistakes()) {
        return Err(refused);
    }
    match serde_json::to_vec(client) {
        Ok(text) if text.len() <= LARGEST => Ok(()),
        _ => Err(Refused::new(Code::InvalidClientMetadata, "the metadata is too large")),
    }
}

fn wrong_type(name: &str) -> Refused {
    let code = if name == "redirect_uris" { Code::InvalidRedirectUri } else { Code::InvalidClientMetadata };
    Refused::new(code, &format!("{name}: is not of the type of RFC 7591 §2"))
}

fn sized(name: &str, value: &Value) -> Result<(), Refused> {
    let long = |v: &Value| v.as_str().is_some_and(|t| t.len() > LONGEST_TEXT);
    let bad = match value {
        Value::Array(items) => items.len() > MOST_ENTRIES || items.iter().any(long),
        Value::Object(_) => value.get("keys").and_then(Value::as_array).is_some_and(|keys| keys.len() > MOST_ENTRIES),
        other => long(other),
    };
    if bad { Err(Refused::at(name, "too long")) } else { Ok(()) }
}

/// What is not said (RFC 7591 §2): code grant, Basic; grants and response types follow each other.
fn defaults(members: &mut Map<String, Value>, settings: &Settings, before: Option<&Client>) -> Result<(), Refused> {
    let texts = |members: &Map<String, Value>, name: &str| -> Option<Vec<String>> {
        Some(members.get(name)?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    match (texts(members, "grant_types"), texts(members, "response_types")) {
        (None, Some(responses)) => {
            let mut grants = Vec::new();
            if responses.iter().any(|r| has(r, "code")) {
                grants.push(grants::AUTHORIZATION_CODE);
            }
            if responses.iter().any(|r| has(r, "token") || has(r, "id_token")) {
                grants.push(IMPLICIT);
            }
            members.insert("grant_types".into(), grants.into());
        }
        (Some(grants), None) => {
            let responses: &[&str] = if grants.iter().any(|g| g == grants::AUTHORIZATION_CODE) { &["code"] } else { &[] };
            members.insert("response_types".into(), responses.to_vec().into());
        }
        _ => {}
    }
    let offered = || {
        let mut scopes = settings.registration_scopes.clone();
        scopes.extend(before.iter().flat_map(|c| c.scope.split(' ')).map(str::to_owned));
        scopes.retain(|s| !s.is_empty());
        scopes
    };
    let mut scopes: Vec<String> = match members.get("scope").and_then(Value::as_str) {
        // RFC 7591 §2: the server may give less than was asked for; the answer tells what it gave.
        Some(asked) => {
            let offered = offered();
            asked.split(' ').filter(|s| offered.iter().any(|o| o == s)).map(str::to_owned).collect()
        }
        None => before.map_or_else(|| settings.registration_scopes.clone(), |c| c.scope.split(' ').map(str::to_owned).collect()),
    };
    scopes.retain(|s| before.is_some() || !s.starts_with(BUILT_IN_PREFIX));
    scopes.dedup();
    if scopes.is_empty() && members.get("scope").and_then(Value::as_str).is_some_and(|asked| !asked.trim().is_empty()) {
        return Err(Refused::at("scope", "none of it can be had here"));
    }
    members.insert("scope".into(), scopes.join(" ").into());
    Ok(())
}

/// The members that are its administrator's: as they were, or as a stranger's begin.
fn keep(client: &mut Client, settings: &Settings, before: Option<&Client>) {
    let stranger = Client { allowed_resources: settings.registration_resources.clone(), ..Client::default() };
    let kept = before.unwrap_or(&stranger);
    client.client_id.clone_from(&kept.client_id);
    client.first_party = kept.first_party;
    client.narrow_only = kept.narrow_only;
    client.allowed_resources.clone_from(&kept.allowed_resources);
    client.access_token_format.clone_from(&kept.access_token_format);
    client.access_token_ttl.clone_from(&kept.access_token_ttl);
    client.refresh_token_ttl.clone_from(&kept.refresh_token_ttl);
    client.assertion_audience.clone_from(&kept.assertion_audience);
    client.workload_identity.clone_from(&kept.workload_identity);
    client.token_exchange.clone_from(&kept.token_exchange);
    client.origin.clone_from(&kept.origin);
    client.disabled = kept.disabled;
}

/// Leaves of what a client says now only what its record, which its administrator narrowed, says too.
fn narrow(client: &mut Client, before: &Client) {
    client.scope = client.scope.split(' ').filter(|s| before.scope.split(' ').any(|b| b == *s)).collect::<Vec<_>>().join(" ");
    client.grant_types.retain(|g| before.grant_types.contains(g));
    client.response_types.retain(|r| before.response_types.contains(r));
    client.authorization_details_types.retain(|t| before.authorization_details_types.contains(t));
    client.require_pkce |= before.require_pkce;
    client.require_pushed_authorization_requests |= before.require_pushed_authorization_requests;
    client.require_signed_request_object |= before.require_signed_request_object;
    client.dpop_bound_access_tokens |= before.dpop_bound_access_tokens;
    client.tls_client_certificate_bound_access_tokens |= before.tls_client_certificate_bound_access_tokens;
}

/// Public clients always need it. A confidential one does unless it speaks OpenID Connect and the deployment lets it go without.
fn pkce(client: &Client, settings: &Settings, asked: Option<bool>) -> bool {
    let may_go_without = !client.is_public() && !settings.registration_require_pkce && settings.profile != Profile::Fapi2;
    let openid = client.scope.split(' ').any(|s| s == "openid");
    !may_go_without || asked.unwrap_or(!openid)
}

const IMPLICIT: &str = "implicit";

fn has(response_type: &str, word: &str) -> bool {
    response_type.split(' ').any(|w| w == word)
}

/// Grant types and response types belong together (RFC 7591 §2.1); keys are given in one way (§2).
fn agrees(client: &Client) -> Result<(), Refused> {
    let (code, front) =
        (client.response_types.iter().any(|r| has(r, "code")), client.response_types.iter().any(|r| has(r, "token") || has(r, "id_token")));
    if code && !client.may_use(grants::AUTHORIZATION_CODE) {
        return Err(Refused::at("grant_types", "response type code needs authorization_code (RFC 7591 §2.1)"));
    }
    if front && !client.may_use(IMPLICIT) {
        return Err(Refused::at("grant_types", "response types token and id_token need implicit (RFC 7591 §2.1)"));
    }
    if client.may_use(grants::AUTHORIZATION_CODE) && !code {
        return Err(Refused::at("response_types", "authorization_code needs a response type with code (RFC 7591 §2.1)"));
    }
    if client.may_use(IMPLICIT) && !front {
        return Err(Refused::at("response_types", "implicit needs a response type with token or id_token (RFC 7591 §2.1)"));
    }
    if client.grant_types.is_empty() {
        return Err(Refused::at("grant_types", "a client without any can do nothing"));
    }
    if client.jwks.is_some() && client.jwks_uri.is_some() {
        return Err(Refused::at("jwks", "either jwks or jwks_uri (RFC 7591 §2)"));
    }
    Ok(())
}

/// What this deployment does.
fn possible(client: &Client, settings: &Settings) -> Result<(), Refused> {
    if client.grant_types.iter().any(|g| !settings.registration_grant_types.contains(g)) {
        return Err(Refused::at("grant_types", "none but those that registered clients may use here"));
    }
    let plain = |r: &String| r == "code";
    if settings.profile != Profile::OidcDynamic && (!client.response_types.iter().all(plain) || client.may_use(IMPLICIT)) {
        let member = if client.response_types.iter().all(plain) { "grant_types" } else { "response_types" };
        return Err(Refused::at(member, "only the response type code is supported here"));
    }
    let method = client.token_endpoint_auth_method.as_str();
    let keys = matches!(method, "private_key_jwt" | "tls_client_auth" | "self_signed_tls_client_auth");
    if settings.profile == Profile::Fapi2 && !keys {
        return Err(Refused::at(
            "token_endpoint_auth_method",
            "private_key_jwt, tls_client_auth or self_signed_tls_client_auth (FAPI 2.0)",
        ));
    }
    if !settings.mtls && method.contains("tls_client_auth") {
        return Err(Refused::at("token_endpoint_auth_method", "client certificates are not asked for here"));
    }
    if !settings.mtls_authorities && method == "tls_client_auth" {
        return Err(Refused::at("token_endpoint_auth_method", "no authority of client certificates is trusted here"));
    }
    if !settings.mtls && client.tls_client_certificate_bound_access_tokens {
        return Err(Refused::at("tls_client_certificate_bound_access_tokens", "client certificates are not asked for here"));
    }
    Ok(())
}

/// Where a registered client may be sent: by the kind of application it says it is (OpenID Connect Registration §2, RFC 8252 §7).
fn addresses(client: &Client) -> Result<(), Refused> {
    let kind = client.application_type.as_deref();
    if kind.is_some_and(|k| !matches!(k, "web" | "native")) {
        return Err(Refused::at("application_type", "web or native"));
    }
    for (i, uri) in client.redirect_uris.iter().enumerate() {
        let refuse = |why: &str| Err(Refused::new(Code::InvalidRedirectUri, &format!("redirect_uris[{i}]: {why}")));
        let Ok(url) = Url::parse(uri) else { return refuse("must be an absolute URI") };
        match url.scheme() {
            "https" => {}
            _ if kind == Some("web") => return refuse("a web application needs https"),
            "http" => {}
            scheme if !scheme.contains('.') => return refuse("a private-use scheme is a reversed domain name (RFC 8252 §7.1)"),
            _ => {}
        }
    }
    for (member, uri) in [
        ("client_uri", &client.client_uri),
        ("logo_uri", &client.logo_uri),
        ("policy_uri", &client.policy_uri),
        ("tos_uri", &client.tos_uri),
        ("initiate_login_uri", &client.initiate_login_uri),
        ("jwks_uri", &client.jwks_uri),
        ("sector_identifier_uri", &client.sector_identifier_uri),
        ("backchannel_logout_uri", &client.backchannel_logout_uri),
        ("frontchannel_logout_uri", &client.frontchannel_logout_uri),
        ("backchannel_client_notification_endpoint", &client.backchannel_client_notification_endpoint),
    ] {
        let Some(text) = uri else { continue };
        let fine = Url::parse(text).is_ok_and(|u| u.scheme() == "https" && u.host_str().is_some() && u.username().is_empty());
        if !fine {
            return Err(Refused::at(member, "must be an https URI"));
        }
    }
    Ok(())
}

/// What a client is told of its record (RFC 7591 §3.2.1): what it may say, as it was understood.
#[must_use]
pub fn told(client: &Client) -> Map<String, Value> {
    let Ok(Value::Object(mut members)) = serde_json::to_value(client) else { return Map::new() };
    members.retain(|name, _| MEMBERS.contains(&name.as_str()) && name != "require_pkce");
    members
}
