//! The table: every operation of the administration API. The router and the OpenAPI document are both made from it.
use std::sync::LazyLock;

use http::Method;
use ledger::ObjectKind;
use serde_json::{Value, json};

use crate::{schema, shapes::closed, state::Access};

/// Where the API is mounted.
pub const PREFIX: &str = "/admin/v1";

/// A collection of administered objects.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    /// What it holds.
    pub kind: ObjectKind,
    /// Its path, and its member of a seed with `_` for `-`.
    pub path: &'static str,
    /// The name of its schema.
    pub schema: &'static str,
    /// What one is called.
    pub one: &'static str,
}

/// Every collection.
pub const RESOURCES: &[Resource] = &[
    Resource { kind: ObjectKind::User, path: "/users", schema: "User", one: "user" },
    Resource { kind: ObjectKind::Client, path: "/clients", schema: "Client", one: "client" },
    Resource { kind: ObjectKind::ResourceServer, path: "/resource-servers", schema: "ResourceServer", one: "resource server" },
    Resource { kind: ObjectKind::Route, path: "/routes", schema: "Route", one: "route" },
    Resource { kind: ObjectKind::Upstream, path: "/upstreams", schema: "Upstream", one: "upstream" },
    Resource { kind: ObjectKind::TrustedIssuer, path: "/trusted-issuers", schema: "TrustedIssuer", one: "trusted issuer" },
    Resource { kind: ObjectKind::Policy, path: "/policies", schema: "Policy", one: "policy" },
    Resource { kind: ObjectKind::ApiKey, path: "/api-keys", schema: "ApiKey", one: "API key" },
    Resource { kind: ObjectKind::Device, path: "/devices", schema: "Device", one: "device" },
];

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    List(ObjectKind),
    Create(ObjectKind),
    Read(ObjectKind),
    Replace(ObjectKind),
    Patch(ObjectKind),
    Delete(ObjectKind),
    DisableUser,
    EnableUser,
    DisableDevice,
    EnableDevice,
    SetPassword,
    EnrolTotp,
    RemoveTotp,
    RotateSecret,
    RotateApiKey,
    ListSessions,
    ReadSession,
    EndSession,
    ListGrants,
    ReadGrant,
    EndGrant,
    ListEvents,
    ListKeys,
    RotateKeys,
    RevokeKey,
    Revoke,
    ApproveBackchannel,
    DenyBackchannel,
    Stats,
    Analytics,
    Policy,
    DryRun,
    ListExplanations,
    ReadExplanation,
    Explain,
    OpenApi,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// HTTP method.
    pub method: Method,
    /// Below [`PREFIX`]; `{id}` or `{kid}` stands for one path segment.
    pub path: String,
    /// What it does.
    pub does: Does,
    /// What it needs; `None`: anybody may ask.
    pub access: Option<Access>,
    /// OpenAPI `operationId`.
    pub id: String,
    /// OpenAPI `summary`.
    pub summary: String,
}

/// The operations that are not those of a collection: method, path, what, id, summary.
const ACTIONS: &[(Method, &str, Does, &str, &str)] = &[
    (Method::POST, "/users/{id}/disable", Does::DisableUser, "disableUser", "Disable a user: sessions and grants end, tokens are revoked"),
    (Method::POST, "/users/{id}/enable", Does::EnableUser, "enableUser", "Enable a user"),
    (Method::POST, "/users/{id}/password", Does::SetPassword, "setPassword", "Set a user's password: sessions and grants end"),
    (Method::POST, "/users/{id}/totp", Does::EnrolTotp, "enrolTotp", "Give a user a new second factor (RFC 6238), returned once"),
    (Method::DELETE, "/users/{id}/totp", Does::RemoveTotp, "removeTotp", "Take a user's second factor away"),
    (Method::POST, "/clients/{id}/rotate-secret", Does::RotateSecret, "rotateClientSecret", "Give a client a new secret, returned once"),
    (
        Method::POST,
        "/api-keys/{id}/rotate",
        Does::RotateApiKey,
        "rotateApiKey",
        "Give an API key another text, returned once; the one before counts for a while",
    ),
    (Method::POST, "/devices/{id}/disable", Does::DisableDevice, "disableDevice", "Disable a device: everything of it ends"),
    (Method::POST, "/devices/{id}/enable", Does::EnableDevice, "enableDevice", "Enable a device"),
    (Method::GET, "/sessions", Does::ListSessions, "listSessions", "List live sessions"),
    (Method::GET, "/sessions/{id}", Does::ReadSession, "getSession", "Read a session"),
    (Method::DELETE, "/sessions/{id}", Does::EndSession, "endSession", "End a session and everything that began in it"),
    (Method::GET, "/grants", Does::ListGrants, "listGrants", "List live grants"),
    (Method::GET, "/grants/{id}", Does::ReadGrant, "getGrant", "Read a grant"),
    (Method::DELETE, "/grants/{id}", Does::EndGrant, "endGrant", "End a grant and revoke everything issued from it"),
    (Method::GET, "/events", Does::ListEvents, "listEvents", "Read the event ledger"),
    (Method::GET, "/keys", Does::ListKeys, "listKeys", "List signing keys (public parts)"),
    (Method::POST, "/keys/rotate", Does::RotateKeys, "rotateKeys", "Make the next keys current"),
    (Method::POST, "/keys/{kid}/revoke", Does::RevokeKey, "revokeKey", "Revoke a key: everything it signed is dead"),
    (Method::POST, "/revocations", Does::Revoke, "revoke", "Revoke a token, grant, session, client, subject, device or key"),
    (
        Method::POST,
        "/backchannel-requests/{auth_req_id}/approve",
        Does::ApproveBackchannel,
        "approveBackchannelRequest",
        "Say yes to a backchannel authentication request in its person's name",
    ),
    (
        Method::POST,
        "/backchannel-requests/{auth_req_id}/deny",
        Does::DenyBackchannel,
        "denyBackchannelRequest",
        "Say no to a backchannel authentication request in its person's name",
    ),
    (Method::GET, "/stats", Does::Stats, "getStats", "Rows, caches and counters of this process"),
    (
        Method::GET,
        "/analytics",
        Does::Analytics,
        "getAnalytics",
        "Who used which route: requests, answers, octets and times since the start",
    ),
    (Method::GET, "/policy", Does::Policy, "getPolicyNumbers", "The policy numbers in force"),
    (
        Method::POST,
        "/policies/dry-run",
        Does::DryRun,
        "dryRunPolicies",
        "Try policies and routes before they count: which decisions would change",
    ),
    (Method::GET, "/explanations", Does::ListExplanations, "listExplanations", "The last requests this process's gateway refused, and why"),
    (Method::GET, "/explanations/{id}", Does::ReadExplanation, "getExplanation", "Why a request was refused, by its X-Request-Id"),
    (Method::POST, "/explanations", Does::Explain, "explain", "What would become of a request at this process's gateway, and why"),
    (Method::GET, "/openapi.json", Does::OpenApi, "getOpenApi", "This description"),
];

/// Every operation.
pub fn all() -> &'static [Operation] {
    static ALL: LazyLock<Vec<Operation>> = LazyLock::new(|| RESOURCES.iter().flat_map(of).chain(ACTIONS.iter().map(action)).collect());
    &ALL
}

fn action((method, path, does, id, summary): &(Method, &str, Does, &str, &str)) -> Operation {
    let access = match does {
        Does::OpenApi => None,
        // They take a body and change nothing.
        Does::DryRun | Does::Explain => Some(Access::Read),
        _ => Some(access(method)),
    };
    Operation {
        method: method.clone(),
        path: (*path).to_owned(),
        does: *does,
        access,
        id: (*id).to_owned(),
        summary: (*summary).to_owned(),
    }
}

fn of(resource: &Resource) -> [Operation; 6] {
    let (kind, one) = (resource.kind, resource.one);
    let item = format!("{}/{{id}}", resource.path);
    let make = |method: Method, path: &str, does, verb: &str, summary: String| Operation {
        access: Some(access(&method)),
        method,
        path: path.to_owned(),
        does,
        id: format!("{verb}{}{}", resource.schema, if verb == "list" { "s" } else { "" }),
        summary,
    };
    [
        make(Method::GET, resource.path, Does::List(kind), "list", format!("List {one}s")),
        make(Method::POST, resource.path, Does::Create(kind), "create", format!("Create a {one}")),
        make(Method::GET, &item, Does::Read(kind), "get", format!("Read a {one}")),
        make(Method::PUT, &item, Does::Replace(kind), "replace", format!("Replace a {one}")),
        make(Method::PATCH, &item, Does::Patch(kind), "patch", format!("Change members of a {one} (RFC 7396)")),
        make(Method::DELETE, &item, Does::Delete(kind), "delete", format!("Delete a {one}")),
    ]
}

fn access(method: &Method) -> Access {
    if method == Method::GET { Access::Read } else { Access::Write }
}

/// What an operation takes as its body.
#[derive(Debug, Clone)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A document of a kind.
    Document(ObjectKind),
    /// A merge patch of such a document.
    MergePatch(ObjectKind),
    /// What this schema says; `bool`: it may be left out.
    Content(Value, bool),
}

impl Does {
    /// What it takes as its body.
    #[must_use]
    pub fn takes(self) -> Takes {
        match self {
            Self::Create(kind) | Self::Replace(kind) => Takes::Document(kind),
            Self::Patch(kind) => Takes::MergePatch(kind),
            Self::SetPassword => Takes::Content(
                closed(&["password"], json!({ "password": { "type": "string", "minLength": 1, "maxLength": 128, "writeOnly": true } })),
                false,
            ),
            Self::RotateSecret => Takes::Content(
                closed(
                    &[],
                    json!({ "keep_previous": { "type": "boolean", "default": false, "description": "The old secret stays valid until the next rotation." } }),
                ),
                true,
            ),
            Self::RotateApiKey => Takes::Content(
                closed(
                    &[],
                    json!({
                        "overlap": { "type": "string", "maxLength": 32, "description": "How long the key before counts beside the new one: `24h` when absent, at most `90d`; `0s` ends it at once." },
                        "api_key": { "type": "string", "minLength": 1, "maxLength": 512, "writeOnly": true, "description": "The new key; generated when absent." },
                    }),
                ),
                true,
            ),
            Self::RotateKeys => Takes::Content(
                closed(
                    &[],
                    json!({ "alg": { "type": "string", "maxLength": 16, "description": "Only this algorithm's keys, e.g. `ES256`." } }),
                ),
                true,
            ),
            Self::RevokeKey => Takes::Content(closed(&[], json!({ "reason": reason() })), true),
            Self::DisableUser | Self::EnableUser | Self::DisableDevice | Self::EnableDevice | Self::EnrolTotp => {
                Takes::Content(closed(&[], json!({})), true)
            }
            Self::ApproveBackchannel => Takes::Content(
                closed(
                    &[],
                    json!({ "amr": { "type": "array", "maxItems": 8, "items": { "type": "string", "minLength": 1, "maxLength": 32 },
                        "description": "How the person was authenticated (RFC 8176), e.g. `pwd`, `otp`, `mfa`; the ID token tells it, and the class it makes." } }),
                ),
                true,
            ),
            Self::Explain => Takes::Content(crate::explanations::request(), false),
            Self::DryRun => Takes::Content(
                closed(
                    &[],
                    json!({
                        "policies": { "type": "array", "maxItems": 200, "items": { "type": "object" }, "description": "Policies that replace or join the stored ones, by their ids." },
                        "remove": { "type": "array", "maxItems": 200, "items": { "type": "string", "maxLength": 128 }, "description": "Ids of stored policies that go." },
                        "routes": { "type": "array", "maxItems": 200, "items": { "type": "object" }, "description": "Routes that replace or join the stored ones; for `requests`." },
                        "questions": { "type": "array", "maxItems": 200, "items": { "type": "object" }, "description": "`{\"principal\": {\"type\", \"id\", \"attributes\", \"parents\": [{\"type\", \"id\"}]}, \"action\", \"resource\", \"context\"}`: asked of the stored policies and of the candidates." },
                        "requests": { "type": "array", "maxItems": 200, "items": crate::explanations::request(), "description": "Decided by the gateway's whole admission, as it is and as it would be." },
                    }),
                ),
                false,
            ),
            Self::Revoke => Takes::Content(
                closed(
                    &["kind", "id"],
                    json!({
                        "kind": { "type": "string", "enum": ["token", "grant", "session", "client", "subject", "device", "key"] },
                        "id": { "type": "string", "minLength": 1, "maxLength": 16384, "description": "The id; of a token its `jti` or the token itself, of a subject also the username, of a key its `kid` or the id of an API key." },
                        "reason": reason(),
                    }),
                ),
                false,
            ),
            _ => Takes::Nothing,
        }
    }

    /// The query parameters it knows.
    #[must_use]
    pub fn parameters(self) -> Vec<&'static str> {
        match self {
            Self::List(ObjectKind::User | ObjectKind::ResourceServer | ObjectKind::TrustedIssuer) => {
                let Self::List(kind) = self else { return Vec::new() };
                vec!["limit", "cursor", "id", schema::key_member(kind)]
            }
            Self::List(kind) => vec!["limit", "cursor", schema::key_member(kind)],
            Self::ListSessions => vec!["limit", "cursor", "subject"],
            Self::ListGrants => vec!["limit", "cursor", "subject", "client_id"],
            Self::ListExplanations => vec!["limit", "route", "reason", "status"],
            Self::ListEvents => vec!["limit", "cursor", "after", "kind"],
            Self::Analytics => vec!["limit", "route", "consumer"],
            _ => Vec::new(),
        }
    }
}

fn reason() -> Value {
    json!({ "type": "string", "maxLength": 255, "description": "Why, for the ledger." })
}
