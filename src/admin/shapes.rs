//! The shapes of the administered objects (JSON Schema 2020-12), as OpenAPI shows them and documents are checked.
use serde_json::{Map, Value, json};

use crate::limit_shapes;

/// An object schema that knows these members and no others.
pub fn closed(required: &[&str], properties: Value) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("required".into(), required.to_vec().into());
    schema.insert("additionalProperties".into(), false.into());
    schema.insert("properties".into(), properties);
    Value::Object(schema)
}

pub fn text(description: &str) -> Value {
    json!({ "type": "string", "maxLength": 2048, "description": description })
}

fn name(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "description": description })
}

fn secret(description: &str, most: u32) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": most, "writeOnly": true, "description": description })
}

pub fn flag(description: &str, default: bool) -> Value {
    json!({ "type": "boolean", "default": default, "description": description })
}

fn choice(description: &str, of: &[&str]) -> Value {
    json!({ "type": "string", "enum": of, "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn number(description: &str, least: u32, most: u32) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most, "description": description })
}

pub fn texts(description: &str) -> Value {
    json!({ "type": "array", "maxItems": 1000, "items": { "type": "string", "maxLength": 2048 }, "description": description })
}

/// The same where an empty list would say "nobody" and count as "everybody": it is refused.
pub fn some(description: &str) -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": 1000, "items": { "type": "string", "maxLength": 2048 }, "description": description })
}

pub fn duration(description: &str) -> Value {
    json!({ "type": "string", "maxLength": 32, "description": format!("{description} A duration such as `60s`, `5m`, `12h`, `30d`.") })
}

pub fn user() -> Value {
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

pub fn client() -> Value {
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
            "grant_types": texts("`authorization_code`, `refresh_token`, `client_credentials`, and the `urn:` names of device_code, ciba, token-exchange and jwt-bearer."),
            "response_types": texts("`code`; under the profile oidc-dynamic also those with `id_token` and `token`."),
            "token_endpoint_auth_method": choice("RFC 7591 §2.", &[
                "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth", "none",
            ]),
            "token_endpoint_auth_signing_alg": text("How it signs its assertions; absent: PS256, ES256, ES384 or EdDSA."),
            "assertion_audience": choice("What its assertions may be for: the issuer alone, or for old libraries also the endpoint.", &["issuer", "legacy"]),
            "tls_client_auth_subject_dn": text("The subject of its certificate (RFC 4514); exactly one of the five (RFC 8705 §2.1.2)."),
            "tls_client_auth_san_dns": text("A DNS name in its certificate."),
            "tls_client_auth_san_uri": text("A URI in its certificate."),
            "tls_client_auth_san_ip": text("An IP address in its certificate."),
            "tls_client_auth_san_email": text("A mailbox in its certificate."),
            "workload_identity": closed(
                &["issuer", "subject"],
                json!({
                    "issuer": text("A trusted issuer, whose token proves the client (RFC 7523 §3)."),
                    "subject": text("The `sub` of that token, exactly."),
                    "audience": text("Its `aud`; absent: this issuer."),
                }),
            ),
            "jwks_uri": text("Where its public keys are; fetched by the outbound rules."),

            "scope": text("Space-separated: what it may ask for."),
            "allowed_resources": texts("Resource indicators it may ask for (RFC 8707)."),
            "narrow_only": flag("What it says of itself (RFC 7592, its published document) may ask for less than this record, never for more.", false),
            "first_party": flag("No consent page.", false),
            "require_pkce": flag("False is possible for a confidential client only (RFC 7636).", true),
            "access_token_format": choice("Overrides the resource server's.", &["jwt", "opaque"]),
            "access_token_ttl": duration("Overrides the resource server's."),
            "refresh_token_ttl": duration("Absolute lifetime of a refresh family."),
            "id_token_signed_response_alg": text("JOSE name; RS256 when absent."),
            "userinfo_signed_response_alg": text("It gets userinfo as a JWT signed with this algorithm (OpenID Connect Core §5.3.2)."),
            "introspection_signed_response_alg": text("It gets introspection answers as JWTs signed with this algorithm (RFC 9701 §6)."),
            "dpop_bound_access_tokens": flag("Its tokens are bound to a DPoP key, always (RFC 9449 §5.2).", false),
            "tls_client_certificate_bound_access_tokens": flag("Its tokens are bound to its certificate (RFC 8705 §3.4).", false),
            "require_pushed_authorization_requests": flag("It may start at /par only (RFC 9126 §6).", false),
            "require_signed_request_object": flag("Its requests come in signed request objects only (RFC 9101 §10.5).", false),
            "request_object_signing_alg": text("How its request objects are signed; absent: ES256, PS256, EdDSA, ES384, or RS256 where FAPI does not rule."),
            "request_uris": texts("Where its request objects may be fetched (profile oidc-dynamic)."),
            "authorization_signed_response_alg": text("How its JWT authorization responses are signed (JARM §3); RS256 when absent, ES256 under FAPI."),
            "authorization_details_types": texts("What it may ask for in detail (RFC 9396 §10)."),
            "backchannel_token_delivery_mode": choice("How it hears that its person has answered (CIBA Core §4).", &["poll", "ping"]),
            "backchannel_client_notification_endpoint": text("Where it is told of the answer, in the mode ping; called by the outbound rules."),
            "backchannel_authentication_request_signing_alg": choice("How it signs its backchannel requests; absent: it does not.", &["ES256", "ES384", "PS256", "EdDSA"]),
            "token_exchange": closed(
                &[],
                json!({
                    "impersonation": flag("It may act as the subject (RFC 8693 §1.1).", false),
                    "delegation": flag("It may act for the subject; the token says so.", false),
                    "audiences": texts("For which of its allowed_resources; absent: all."),
                    "subject_clients": texts("Whose tokens besides its own."),
                    "issuers": texts("The trusted issuers whose JWTs."),
                    "scopes": texts("What a token of another resource, or one without scope, may become besides the scope it has, which stays at every one of the audiences."),
                }),
            ),
            "default_max_age": count("Seconds (OpenID Connect Registration §2)."),
            "require_auth_time": flag("OpenID Connect Registration §2; the ID token always says it.", false),
            "default_acr_values": texts("OpenID Connect Registration §2."),
            "initiate_login_uri": text("OpenID Connect Core §4."),
            "backchannel_logout_uri": text("Where it hears from this server that a session has ended (OpenID Connect Back-Channel Logout §2.2)."),
            "backchannel_logout_session_required": flag("The session is always named.", false),
            "frontchannel_logout_uri": text("Its page that browsers load when a session ends (OpenID Connect Front-Channel Logout §2)."),
            "frontchannel_logout_session_required": flag("The session is always named.", false),
            "jwks": { "type": "object", "description": "Its public keys (RFC 7517 §5)." },
            "subject_type": choice("OpenID Connect Core §8.", &["public", "pairwise"]),
            "sector_identifier_uri": text("Whose host is the sector of a pairwise client (OpenID Connect Core §8.1)."),
            "application_type": choice("OpenID Connect Registration §2.", &["web", "native"]),
            "software_id": text("RFC 7591 §2."),
            "software_version": text("RFC 7591 §2."),
            "origin": choice("How it came: absent, an administrator made it.", &["registration", "metadata"]),
            "disabled": flag("Nothing of it works; becoming true revokes everything of it.", false),
        }),
    )
}

pub fn resource_server() -> Value {
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
            "access_token_signing_alg": text("What signs its JWT access tokens; ES256 when absent."),
            "status_list": flag("Whether its JWT access tokens have a place in a status list (Token Status List).", false),
            "introspection_clients": texts("Client ids that may introspect its tokens (RFC 7662)."),
            "authorization_details_types": texts("Types of authorization_details it understands (RFC 9396)."),
        }),
    )
}

/// A member of the public contract that this version refuses.
fn map(description: &str) -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string", "maxLength": 8192 }, "description": description })
}

fn target() -> Value {
    closed(
        &["url"],
        json!({ "url": text("`http://host:port` or `https://host:port`."), "weight": number("Its share; 1 when absent, 0 takes it out.", 0, 100) }),
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
        "idle_timeout": duration("How long the answer's body may pause; absent: any time."),
        "total_timeout": duration("How long a request may take, with all its tries and its answer's body; absent: any time."),
        "balance": choice("How a target is chosen; absent: `round_robin`.", &["round_robin", "least_requests", "consistent_hash"]),
        "hash_on": text("For `consistent_hash`: `source` (when absent), `path`, `header:NAME`, `cookie:NAME` or `claim:NAME`."),
        "health": closed(&[], json!({
            "path": text("Asked for with GET; absent: a connection that opens is enough."),
            "interval": duration("From one check to the next; absent: 10 s."),
            "timeout": duration("How long one check may take; absent: 5 s."),
            "healthy_after": number("Good checks in a row until a target is up again; absent: 2.", 1, 100),
            "unhealthy_after": number("Bad checks in a row until a target is down; absent: 3.", 1, 100),
            "expect_status": { "type": "array", "minItems": 1, "maxItems": 16, "items": number("A status.", 200, 599), "description": "Good statuses; absent: 200 to 399." },
            "port": number("Another port than the target's.", 1, 65_535),
        })),
        "ejection": closed(&[], json!({
            "failures": number("Faults in a row (no connection, no answer in time, 500, 502, 503, 504) after which a target is passed over; absent: 5.", 1, 10_000),
            "time": duration("For how long the first time, growing up to 30 times that; absent: 10 s."),
            "max_percent": number("At most this share of the targets; absent: 50.", 0, 99),
        })),
        "retries": closed(&[], json!({
            "attempts": number("Further tries of one request (GET, HEAD, OPTIONS, PUT, DELETE without a body only); absent: 1.", 1, 5),
            "on": { "type": "array", "maxItems": 5, "items": choice("What is tried again.", &["connect", "timeout", "502", "503", "504"]), "description": "Absent: `connect` and `503`." },
        })),
        "breaker": closed(&[], json!({
            "error_percent": number("The share of faults that opens it; absent: 50.", 1, 100),
            "window": duration("Over how long; absent: 10 s."),
            "min_requests": number("Of at least how many requests; absent: 20.", 1, 1_000_000),
            "open_for": duration("How long nothing is sent, before one request is; absent: 10 s."),
        })),
        "max_requests": number("Most requests under way at once, of one process.", 1, 1_000_000),
        "max_connections": number("Most connections open at once, of one process.", 1, 1_000_000),
        "max_pending": number("Most requests that wait for one of these, for at most `connect_timeout`; absent: 64.", 0, 1_000_000),
        "tls": closed(&[], json!({
            "ca_file": text("PEM file of the only authorities believed; absent: the deployment's."),
            "ca_pem": { "type": "string", "maxLength": 65_536, "description": "The same as text." },
            "server_name": text("The name asked for and proved, if not the target's host."),
            "client_certificate_file": text("PEM file of the certificate shown to the upstream (mutual TLS); read again when it changes."),
            "client_key_file": text("PEM file of its key."),
            "spiffe_id": text("The SPIFFE ID that the upstream's certificate must have, instead of a name."),
            "verify": flag("Always true: an upstream's certificate is always verified.", true),
        })),
    })
}

pub fn upstream() -> Value {
    closed(&["targets"], upstream_members(&name("URL-safe; generated when absent, never changed.")))
}

pub fn trusted_issuer() -> Value {
    closed(
        &["issuer", "algorithms"],
        json!({
            "id": name("Derived from the issuer when absent, never changed."),
            "issuer": text("The `iss` of its tokens, compared exactly. Unique."),
            "jwks_uri": text("Where its JWK set is served; absent: where its metadata says (RFC 8414, OpenID Connect Discovery)."),
            "introspection": closed(
                &["endpoint", "client_id"],
                json!({
                    "endpoint": text("Where it is asked about its opaque tokens (RFC 7662)."),
                    "client_id": name("The gateway's client there."),
                    "auth": choice("How the gateway proves itself; absent: `client_secret_basic`.", &["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"]),
                    "secret": secret("The client's secret, or its private key as PKCS#8 PEM. Kept sealed, never shown.", 16384),
                    "signing_alg": text("What `private_key_jwt` is signed with; absent: what the key is for, of an RSA key `PS256`."),
                    "certificate": { "type": "string", "maxLength": 65536, "description": "The certificate of `tls_client_auth`, PEM, leaf first." },
                    "signed_response": flag("Its answers have to be signed (RFC 9701).", false),
                }),
            ),
            "algorithms": { "type": "array", "maxItems": 16, "items": choice("JOSE name.", &["ES256", "ES384", "RS256", "PS256", "EdDSA", "ML-DSA-65"]), "description": "Nothing else is accepted." },
            "signals_audience": text("The `aud` of security event tokens it may push to `/ssf/receive/{id}`; absent: none are taken."),
            "token_typ": texts("The `typ` of its tokens; `at+jwt` when absent, `[\"JWT\"]` for older servers."),
            "grant": closed(
                &[],
                json!({
                    "claim": choice("The claim that names the subject of its assertions.", &["sub", "email", "preferred_username"]),
                    "subject": choice("`user`: that is a username here. `external`: it stays the issuer's, as `iss|name`.", &["user", "external"]),
                    "clients": texts("The clients that may bring its assertions; absent: every client with the grant type."),
                }),
            ),
            "software_statements": flag("Its software statements are believed where clients register (RFC 7591 §2.3).", false),
        }),
    )
}

pub fn device() -> Value {
    closed(
        &["id"],
        json!({
            "id": name("URL-safe, never changed."),
            "name": text("For people."),
            "type": text("What it is: the `DeviceType` of policies."),
            "groups": { "type": "array", "maxItems": 32, "items": { "type": "string", "maxLength": 128 }, "description": "The `Group`s of policies." },
            "tenant": text("Whose it is: the `Tenant` of policies."),
            "disabled": flag("Nothing of it works; becoming true ends everything of it.", false),
            "certificates": { "type": "array", "maxItems": 16, "description": "The client certificates it is known by.", "items": closed(&[], json!({
                "sha256": text("SHA-256 of the certificate, lower-case hexadecimal."),
                "subject": text("Its subject (RFC 4514)."),
                "san_uri": text("A URI among its alternative names."),
                "authority": text("The authority that must vouch for it, by its name at the listener; absent: any."),
            })) },
            "client_id": text("The OAuth client that is this device. Changing this, type, groups or tenant ends its tokens."),
        }),
    )
}

pub fn policy() -> Value {
    closed(
        &["cedar"],
        json!({
            "id": name("URL-safe; generated when absent, never changed."),
            "description": text("For people."),
            "cedar": { "type": "string", "minLength": 1, "maxLength": 65536, "description": "Cedar policies; what none permits is refused. A `forbid` that cannot be evaluated forbids: ask `context has acr` before `context.acr`." },
            "entities": { "type": "array", "maxItems": 1000, "items": { "type": "object" }, "description": "Entities in Cedar's JSON form." },
            "mode": choice("`shadow`: asked beside the others and decides nothing; where it would differ is counted and logged. Default `enforce`.", &["enforce", "shadow"]),
            "disabled": flag("Left out of every decision.", false),
        }),
    )
}

fn instant(description: &str) -> Value {
    let text = json!({ "type": "string", "maxLength": 64 });
    json!({ "oneOf": [text, { "type": "integer", "minimum": 0 }], "description": format!("{description} A date and time (RFC 3339), or seconds since the epoch.") })
}

pub fn api_key() -> Value {
    closed(
        &[],
        json!({
            "id": name("URL-safe; generated when absent, never changed. Not the key."),
            "name": name("For people."),
            "api_key": secret("The key: visible ASCII without a comma. Kept as a keyed MAC, never shown. Generated and returned once when a new one has none given.", 512),
            "owner": closed(&[], json!({
                "client_id": name("A client."),
                "subject": name("A person, by id or username."),
                "device": name("A device."),
            })),
            "scopes": texts("What it is allowed."),
            "audience": { "oneOf": [text("One."), some("Several.")], "description": "The audiences it is for; absent: that of any route that takes keys." },
            "routes": texts("The ids of the routes it is for; absent or empty: all that take keys."),
            "allowed_cidrs": texts("Networks or addresses it may come from; absent or empty: any."),
            "quota": closed(&["rate", "period"], json!({
                "rate": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                "period": duration("In which `rate` requests are let through, over all routes together."),
                "burst": { "type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "At once; `rate` when absent." },
            })),
            "not_before": instant("When it begins to count."),
            "expires_at": instant("When it ends."),
            "disabled": flag("It does not count.", false),
            "tenant": name("Whose traffic it is, for limits that count by tenant."),
            "last_used_at": count("Told, not given: when it was last used, to about a minute, seconds since the epoch."),
            "previous_expires_at": count("Told, not given: until when the key before the last rotation counts."),
            "revoked": flag("Told, not given: it was revoked, and counts no more until it is rotated.", false),
        }),
    )
}

fn route_match() -> Value {
    closed(
        &[],
        json!({
            "hosts": texts("Host names without port; absent or empty: any."),
            "path_prefix": text("Start of the normalised path; the longest wins."),
            "methods": texts("Case-sensitive; absent or empty: any."),
            "headers": map("Header names and the exact values they must have."),
            "version": closed(&["value"], json!({
                "header": text("The header that names the version."),
                "media_type": text("Or the media type of `Accept` and `Content-Type` that does, with `{version}` in its place: `application/vnd.shop.{version}+json`."),
                "value": name("The version this route is for."),
                "default": flag("Also for requests that name none; one that names another never comes here.", false),
            })),
        }),
    )
}

fn date(description: &str) -> Value {
    json!({ "description": format!("{description} RFC 3339, or seconds since the epoch."), "oneOf": [{ "type": "string", "maxLength": 64 }, { "type": "integer", "minimum": 0 }] })
}

fn version() -> Value {
    closed(
        &[],
        json!({
            "name": text("What people call it."),
            "deprecated_at": date("From when on it is deprecated (`Deprecation`, RFC 9745)."),
            "sunset_at": date("From when on it answers 410 (`Sunset`, RFC 8594)."),
            "successor": text("What replaces it, a URI or a path: `Link`, `rel=\"successor-version\"`."),
            "link": text("What tells more, a URI or a path: `Link`, `rel=\"deprecation\"` and `rel=\"sunset\"`."),
            "brownouts": { "type": "array", "maxItems": 64, "description": "Times before the sunset in which some requests are refused.", "items": closed(&["from", "until"], json!({
                "from": date("Its beginning."),
                "until": date("Its end."),
                "share": number("How many of a hundred slots are dark; 100 when absent.", 1, 100),
                "slot": duration("How long a slot is, `1s` to `1d`; `60s` when absent."),
                "status": { "type": "integer", "enum": [410, 503], "description": "503 when absent." },
            })) },
        }),
    )
}

fn canary() -> Value {
    closed(
        &["upstream"],
        json!({
            "upstream": { "description": "An upstream's id, or one written out.", "oneOf": [
                { "type": "string", "minLength": 1, "maxLength": 128 },
                closed(&["targets"], upstream_members(&json!({ "type": "string", "maxLength": 128 }))),
            ] },
            "weight": number("How many of a hundred callers go there; 0 when absent.", 0, 100),
            "sticky": text("What a caller is known by: `source` (when absent), `subject`, `client` or `header:NAME`."),
            "headers": map("Header names and exact values: a request with all of them goes there whatever the weight."),
            "rollback": closed(&["errors_over"], json!({
                "errors_over": number("More errors (5xx, no answer) than this of a hundred answers: nobody goes there any more.", 0, 99),
                "window": duration("Over how long, `10s` to `1h`; `60s` when absent."),
                "minimum": number("Of so many answers at least; 20 when absent.", 1, u32::MAX),
            })),
        }),
    )
}

fn route_auth() -> Value {
    closed(
        &["accept"],
        json!({
            "accept": { "type": "array", "maxItems": 16, "items": { "type": "string" }, "description": "`jwt`, `opaque`, `api_key`, `mtls`, `session`; with `none` the credential is optional." },
            "issuers": texts("`self` or issuers; absent: `self`."),
            "audience": text("Must be among the token's `aud`."),
            "scopes": texts("Must all be in the token's scope."),
            "freshness": choice("`push`: local check and pushed revocations; `introspect`: ask; `offline`: signature and times only.", &["push", "introspect", "offline"]),
            "cache_ttl": duration("How long an introspection answer may be kept."),
            "max_staleness": duration("How old the revocation feed may be."),
            "sender_constraint": { "type": "array", "maxItems": 2, "items": { "type": "string", "enum": ["dpop", "mtls"] }, "description": "The token must be bound by one of these; absent or empty: it may be." },
            "acr_values": texts("The token's `acr` must be one of these or a stronger one (RFC 9470); absent or empty: any."),
            "max_age": duration("How long ago the person may have logged in (the token's `auth_time`)."),
            "certificate": closed(&[], json!({
                "subject": { "description": "Which name of a certificate is the caller's: the first kind of these that it has. Absent: `san_uri`, `san_dns`, `san_email`, `cn`, `subject_dn`.", "oneOf": [
                    choice("One kind alone.", &["san_uri", "san_dns", "san_email", "cn", "subject_dn", "x5t"]),
                    { "type": "array", "minItems": 1, "maxItems": 6, "items": { "type": "string", "enum": ["san_uri", "san_dns", "san_email", "cn", "subject_dn", "x5t"] } },
                ] },
                "spiffe_trust_domains": some("Only certificates with a SPIFFE ID of one of these trust domains count; absent: any certificate."),
                "authorities": some("Authorities of the listener (`client_ca_files`) by common name, SHA-256 fingerprint or file name; absent: all."),
                "allow": { "type": "array", "minItems": 1, "maxItems": 1024, "description": "Who may come (403 otherwise); absent: whoever has a certificate. A name; a URI that ends in `/*`; `*.` and a DNS name; `*`.", "items": { "oneOf": [
                    { "type": "string", "minLength": 1, "maxLength": 2048 },
                    closed(&["name"], json!({ "name": text("The name."), "scopes": texts("What it may: these count as the token's scopes do.") })),
                ] } },
                "client_usage": flag("The certificate has to say that it is for clients (extended key usage `clientAuth`).", false),
            })),
        }),
    )
}

pub fn route() -> Value {
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
            "rate_limit": limit_shapes::rate_limit(),
            "identity": closed(&[], json!({
                "headers": map("Header to claim."),
                "signed_assertion": { "description": "A short JWT of the gateway's own about the caller; its keys are at `/.well-known/doorward-gateway/jwks.json` of the gateway.", "oneOf": [
                    { "type": "boolean" },
                    closed(&[], json!({
                        "header": text("`X-Doorward-Assertion` when absent; `Authorization` sends it as a bearer token."),
                        "audience": text("Its `aud`; absent: the upstream's id, of a phantom token the route's audience."),
                        "ttl": duration("How long it counts, at most `5m`, `60s` when absent; never longer than the credential."),
                        "claims": { "type": "array", "maxItems": 32, "items": { "type": "string", "minLength": 1, "maxLength": 255 }, "description": "Further claims of the credential that are passed on." },
                        "alg": choice("What it is signed with; `ES256` when absent.", &["ES256", "EdDSA"]),
                        "request": flag("Names the request it is for (`htm`, `htu`); each is then signed anew.", false),
                    })),
                ] },
                "client_certificate": { "description": "Tells the upstream the client certificate in `Client-Cert` (RFC 9440); `chain`: and what is between it and its authority in `Client-Cert-Chain`.", "oneOf": [
                    { "type": "boolean" },
                    { "type": "string", "enum": ["chain"] },
                ] },
                "phantom": flag("The assertion stands in `Authorization: Bearer` where the credential stood: opaque outside, a JWT inside.", false),
            })),
            "limits": limit_shapes::limits(),
            "session": closed(&[], json!({
                "forward_access_token": flag("Sends the upstream the access token of the browser's session as `Authorization: Bearer`.", false),
                "csrf": choice("`origin`: what may change something, or opens a WebSocket, must come from a page of this very host; `off`: the upstream sees to that itself. Absent: `origin`.", &["origin", "off"]),
                "trusted_origins": texts("Origins whose pages may act with the session too."),
            })),
            "public": flag("Lets everybody through; must be said.", false),
            "forward_credentials": flag("Passes the caller's credentials on.", false),
            "token_exchange": closed(&[], json!({
                "resource": text("What the upstream's token is for (RFC 8707), or `audience`."),
                "audience": text("Whom it is for (RFC 8693), or `resource`."),
                "scopes": texts("What it may be used for; absent: what the authorization server leaves."),
            })),
            "forwarded": flag("Tells the upstream address, scheme and host in `X-Forwarded-*`.", false),
            "policy": { "type": "string", "minLength": 1, "maxLength": 65536, "description": "Cedar policies over `User`, `Client`, `Device`, `DeviceType`, `ApiKey`, `Certificate`, `Role`, `Group`, `Tenant`, `Route`, `Upstream`, `Tag`; or `shared`: the stored policies decide." },
            "policy_shadow": { "type": "string", "minLength": 1, "maxLength": 65536, "description": "The same, asked beside `policy` and deciding nothing: where it differs is counted and logged." },
            "tags": { "type": "array", "maxItems": 32, "items": { "type": "string", "minLength": 1, "maxLength": 128 }, "description": "The `Tag`s of policies that the route is in." },
            "cors": limit_shapes::cors(),
            "validation": limit_shapes::validation(),
            "version": version(),
            "canary": canary(),
        }),
    )
}
