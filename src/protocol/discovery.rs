//! Metadata (OpenID Connect Discovery §3, RFC 8414 §2): what works here, and nothing else.
use openidconnect::{
    AdditionalProviderMetadata, AuthUrl, IssuerUrl, JsonWebKeySetUrl, LanguageTag, ProviderMetadata, ResponseTypes, Scope as ScopeName,
    TokenUrl, UserInfoUrl,
    core::{
        CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType,
        CoreSubjectIdentifierType,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokens::Alg;

use crate::{
    OAuthError, Profile, Settings, acr,
    authorize::{ResponseMode, ResponseType, jarm, pushed, request_object},
    backchannel_logout, ciba, client_auth,
    client_auth::Method,
    evidence, frontchannel_logout, grants, introspect_jwt, scope, session_state, userinfo,
};

/// Members that the `openidconnect` crate leaves to its users.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct More {
    code_challenge_methods_supported: Vec<String>,
    introspection_endpoint: String,
    introspection_endpoint_auth_methods_supported: Vec<String>,
    revocation_endpoint: String,
    revocation_endpoint_auth_methods_supported: Vec<String>,
    authorization_response_iss_parameter_supported: bool,
    prompt_values_supported: Vec<String>,
    end_session_endpoint: String,
    /// What the features of [`FEATURES`] add.
    #[serde(flatten)]
    features: Map<String, Value>,
}

impl AdditionalProviderMetadata for More {}

type Metadata = ProviderMetadata<
    More,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// A feature writes what it offers under these settings into the document.
pub(crate) type Feature = fn(&Settings, &mut Map<String, Value>);

/// Everything beyond the core that works here, each by the file that makes it work.
const FEATURES: &[Feature] = &[
    grants::device::metadata,
    ciba::metadata,
    crate::registration::feature,
    jarm::metadata,
    pushed::metadata,
    request_object::metadata,
    introspect_jwt::feature,
    userinfo::feature,
    evidence::feature,
    acr::feature,
    backchannel_logout::feature,
    frontchannel_logout::feature,
    session_state::feature,
];

/// The path of a well-known document for an issuer with a path: inserted before it (RFC 8414 §3.1).
#[must_use]
pub fn inserted(issuer: &str, name: &str) -> Option<String> {
    let path = issuer_path(issuer);
    (!path.is_empty()).then(|| format!("/.well-known/{name}{path}"))
}

/// The issuer's path without a trailing slash; empty for most.
#[must_use]
pub fn issuer_path(issuer: &str) -> String {
    url::Url::parse(issuer).map(|u| u.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

/// The metadata document (the same one at both well-known addresses).
///
/// # Errors
/// `server_error` if the issuer is no URI.
pub fn document(settings: &Settings, algs: impl IntoIterator<Item = Alg>) -> Result<Vec<u8>, OAuthError> {
    let fault = |e: url::ParseError| OAuthError::fault(format!("issuer: {e}"));
    let algs: Vec<Alg> = algs.into_iter().filter(|alg| crate::signing::allowed(settings.profile, *alg)).collect();
    let signing = algs.iter().copied().filter_map(signing).collect();
    let metadata: Metadata = ProviderMetadata::new(
        IssuerUrl::new(settings.issuer.clone()).map_err(fault)?,
        AuthUrl::new(settings.url("/authorize")).map_err(fault)?,
        JsonWebKeySetUrl::new(settings.url("/jwks")).map_err(fault)?,
        response_types(settings),
        vec![CoreSubjectIdentifierType::Public, CoreSubjectIdentifierType::Pairwise],
        signing,
        more(settings),
    );
    let metadata = metadata
        .set_token_endpoint(Some(TokenUrl::new(settings.url("/token")).map_err(fault)?))
        .set_userinfo_endpoint(Some(UserInfoUrl::new(settings.url("/userinfo")).map_err(fault)?))
        .set_scopes_supported(Some(scope::IDENTITY.iter().map(|s| ScopeName::new((*s).to_owned())).collect()))
        .set_response_modes_supported(Some(ResponseMode::names(front(settings)).map(response_mode).collect()))
        .set_grant_types_supported(Some(
            grants::ALL
                .into_iter()
                .chain(front(settings).then_some(grants::IMPLICIT))
                .map(|g| CoreGrantType::Extension(g.to_owned()))
                .collect(),
        ))
        .set_token_endpoint_auth_methods_supported(Some(Method::offered(settings).into_iter().map(auth_method).collect()))
        .set_claim_types_supported(Some(vec![CoreClaimType::Normal]))
        .set_claims_supported(Some(userinfo::supported().map(|c| CoreClaimName::new(c.to_owned())).collect()))
        .set_claims_parameter_supported(Some(true))
        .set_request_parameter_supported(Some(true))
        .set_request_uri_parameter_supported(Some(request_object::by_reference(settings)))
        .set_ui_locales_supported(Some(vec![LanguageTag::new("en".to_owned())]));
    let mut document = serde_json::to_value(&metadata).map_err(|e| OAuthError::fault(e.to_string()))?;
    if algs.contains(&Alg::MlDsa65)
        && let Some(listed) = document.get_mut("id_token_signing_alg_values_supported").and_then(Value::as_array_mut)
    {
        listed.push(Alg::MlDsa65.as_str().into());
    }
    serde_json::to_vec(&document).map_err(|e| OAuthError::fault(e.to_string()))
}

fn more(settings: &Settings) -> More {
    let names = |methods: &[Method]| methods.iter().map(|m| m.as_str().to_owned()).collect();
    More {
        code_challenge_methods_supported: vec!["S256".into()],
        introspection_endpoint: settings.url("/introspect"),
        introspection_endpoint_auth_methods_supported: names(
            &Method::offered(settings).into_iter().filter(|m| *m != Method::None).collect::<Vec<_>>(),
        ),
        revocation_endpoint: settings.url("/revoke"),
        revocation_endpoint_auth_methods_supported: names(&Method::offered(settings)),
        authorization_response_iss_parameter_supported: true,
        prompt_values_supported: ["none", "login", "consent", "select_account"].map(str::to_owned).to_vec(),
        end_session_endpoint: settings.url("/logout"),
        features: features(settings),
    }
}

fn auth_method(method: Method) -> CoreClientAuthMethod {
    match method {
        Method::Basic => CoreClientAuthMethod::ClientSecretBasic,
        Method::Post => CoreClientAuthMethod::ClientSecretPost,
        Method::PrivateKeyJwt => CoreClientAuthMethod::PrivateKeyJwt,
        Method::None => CoreClientAuthMethod::None,
        Method::TlsClientAuth | Method::SelfSignedTls => CoreClientAuthMethod::Extension(method.as_str().to_owned()),
    }
}

fn features(settings: &Settings) -> Map<String, Value> {
    let mut members = Map::new();
    FEATURES.iter().for_each(|feature| feature(settings, &mut members));
    // After all others: it lists their endpoints again.
    client_auth::registered::feature(settings, &mut members);
    members
}

/// Whether tokens may come back from `/authorize`.
fn front(settings: &Settings) -> bool {
    settings.profile == Profile::OidcDynamic
}

fn response_types(settings: &Settings) -> Vec<ResponseTypes<CoreResponseType>> {
    let word = |word: &str| match word {
        "code" => CoreResponseType::Code,
        "id_token" => CoreResponseType::IdToken,
        _ => CoreResponseType::Token,
    };
    ResponseType::names()
        .filter(|name| front(settings) || *name == "code")
        .map(|name| ResponseTypes::new(name.split(' ').map(word).collect()))
        .collect()
}

fn response_mode(name: &str) -> CoreResponseMode {
    match name {
        "query" => CoreResponseMode::Query,
        "form_post" => CoreResponseMode::FormPost,
        "fragment" => CoreResponseMode::Fragment,
        other => CoreResponseMode::Extension(other.to_owned()),
    }
}

const fn signing(alg: Alg) -> Option<CoreJwsSigningAlgorithm> {
    Some(match alg {
        Alg::RS256 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        Alg::PS256 => CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        Alg::ES256 => CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        Alg::ES384 => CoreJwsSigningAlgorithm::EcdsaP384Sha384,
        Alg::EdDSA => CoreJwsSigningAlgorithm::EdDsa,
        // The crate has no word for it: it is added where the document is written.
        Alg::MlDsa65 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_says_what_works_under_the_issuers_path() {
        let settings = Settings::for_issuer("https://id.example.com/tenant");
        let told: serde_json::Value = serde_json::from_slice(&document(&settings, [Alg::ES256, Alg::RS256]).unwrap()).unwrap();
        assert_eq!(told["issuer"], "https://id.example.com/tenant");
        assert_eq!(told["token_endpoint"], "https://id.example.com/tenant/token");
        assert_eq!(told["response_types_supported"], serde_json::json!(["code"]));
        assert_eq!(told["response_modes_supported"], serde_json::json!(["query", "form_post", "query.jwt", "form_post.jwt", "jwt"]));
        assert_eq!(told["id_token_signing_alg_values_supported"], serde_json::json!(["ES256", "RS256"]));
        assert_eq!(told["code_challenge_methods_supported"], serde_json::json!(["S256"]));
        assert_eq!(told["request_uri_parameter_supported"], false);
        assert_eq!(told["authorization_response_iss_parameter_supported"], true);
        assert_eq!(told["device_authorization_endpoint"], "https://id.example.com/tenant/device_authorization");
        assert_eq!(told["backchannel_authentication_endpoint"], "https://id.example.com/tenant/bc-authorize");
        assert!(told.get("registration_endpoint").is_none());
        let path = "/.well-known/oauth-authorization-server/tenant";
        assert_eq!(inserted(&settings.issuer, "oauth-authorization-server").as_deref(), Some(path));
        assert_eq!(inserted("https://id.example.com", "x"), None);
    }
}
