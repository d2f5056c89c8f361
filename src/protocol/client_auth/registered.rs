//! What each authentication method needs of a client's registration (RFC 7591 §2, RFC 8705 §2.1.2), and what metadata says of them.
use serde_json::{Map, Value, json};
use tokens::{Alg, certificate};
use url::Url;

use super::{Keys, Method, assertion, tls};
use crate::{Client, Settings};

/// Most keys a client registers with itself.
const MOST_KEYS: usize = 50;
/// Members that only a private or symmetric key has (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// The longest name, characters.
const LONGEST: usize = 512;

/// What is wrong with a registration, by member.
pub(crate) fn mistakes(client: &Client) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let method = Method::parse(&client.token_endpoint_auth_method);
    if method.is_none() {
        let known = Method::ALL.map(Method::as_str).join(", ");
        found.push(("token_endpoint_auth_method", format!("not supported; one of {known}")));
    }
    keys(client, &mut found);
    let vouched = client.workload_identity.is_some() && method == Some(Method::PrivateKeyJwt);
    let needs_keys = matches!(method, Some(Method::PrivateKeyJwt | Method::SelfSignedTls)) && !vouched;
    if needs_keys && client.jwks.is_none() && client.jwks_uri.is_none() {
        found.push(("jwks", format!("{} needs jwks or jwks_uri", client.token_endpoint_auth_method)));
    }
    names(client, method, &mut found);
    if client.workload_identity.is_some() && method != Some(Method::PrivateKeyJwt) {
        found.push(("workload_identity", "needs token_endpoint_auth_method private_key_jwt".into()));
    }
    if let Some(workload) = &client.workload_identity
        && (Url::parse(&workload.issuer).is_err() || workload.subject.is_empty() || workload.subject.len() > LONGEST)
    {
        found.push(("workload_identity", "needs a trusted issuer's identifier and a subject of 1 to 512 characters".into()));
    }
    if client.token_endpoint_auth_signing_alg.as_deref().is_some_and(|name| Alg::read(name).is_none()) {
        let known = Alg::ALL.map(Alg::as_str).join(", ");
        found.push(("token_endpoint_auth_signing_alg", format!("not supported; one of {known}")));
    }
    if client.assertion_audience.as_deref().is_some_and(|audience| !matches!(audience, "issuer" | "legacy")) {
        found.push(("assertion_audience", "issuer or legacy".into()));
    }
    found
}

fn keys(client: &Client, found: &mut Vec<(&'static str, String)>) {
    if client.jwks.is_some() && client.jwks_uri.is_some() {
        found.push(("jwks_uri", "jwks and jwks_uri exclude each other (RFC 7591 §2)".into()));
    }
    if client.jwks_uri.as_deref().is_some_and(|uri| !is_address(uri)) {
        found.push(("jwks_uri", "must be an https URI without user and fragment".into()));
    }
    let Some(set) = &client.jwks else { return };
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        found.push(("jwks", "must be a JWK Set: an object with an array keys (RFC 7517 §5)".into()));
        return;
    };
    if keys.len() > MOST_KEYS {
        found.push(("jwks", format!("at most {MOST_KEYS} keys")));
    }
    if keys.iter().any(|key| PRIVATE.iter().any(|member| key.get(member).is_some())) {
        found.push(("jwks", "holds a private or shared key: register public keys only, and treat this one as known to others".into()));
    }
    let uses = matches!(Method::parse(&client.token_endpoint_auth_method), Some(Method::PrivateKeyJwt | Method::SelfSignedTls));
    if uses && client.workload_identity.is_none() && !Keys::read(set.to_string().as_bytes()).is_some_and(|keys| keys.knows(None)) {
        found.push(("jwks", "holds no key that can be used here".into()));
    }
}

/// Exactly one name says whose certificate it is.
fn names(client: &Client, method: Option<Method>, found: &mut Vec<(&'static str, String)>) {
    let registered: Vec<_> = tls::names(client).into_iter().filter_map(|(member, name, _)| Some((member, name?))).collect();
    if method == Some(Method::TlsClientAuth) && registered.len() != 1 {
        found.push(("tls_client_auth_subject_dn", "tls_client_auth needs exactly one tls_client_auth_* member (RFC 8705 §2.1.2)".into()));
    }
    for (member, name) in registered {
        let good = !name.is_empty()
            && name.len() <= LONGEST
            && match member {
                "tls_client_auth_subject_dn" => certificate::is_name(name),
                "tls_client_auth_san_ip" => name.parse::<std::net::IpAddr>().is_ok(),
                "tls_client_auth_san_uri" => Url::parse(name).is_ok(),
                "tls_client_auth_san_email" => name.contains('@'),
                _ => !name.contains('*'),
            };
        if !good {
            let why = if member.ends_with("_dn") {
                "must be a distinguished name (RFC 4514), as CN=app,O=Example,C=DE"
            } else {
                "is no name of that kind"
            };
            found.push((member, why.into()));
        }
    }
}

/// Whether keys may be fetched there.
fn is_address(uri: &str) -> bool {
    uri.len() <= LONGEST && crate::client::is_callable(uri)
}

/// What metadata says beside the methods themselves (RFC 8414 §2, RFC 8705 §5). Comes after everything that adds endpoints.
pub(crate) fn feature(settings: &Settings, members: &mut Map<String, Value>) {
    let algorithms: Vec<&str> = assertion::registrable(settings).into_iter().map(Alg::as_str).collect();
    for endpoint in ["token", "introspection", "revocation"] {
        members.insert(format!("{endpoint}_endpoint_auth_signing_alg_values_supported"), json!(algorithms));
    }
    let always = [
        ("token_endpoint", "/token"),
        ("introspection_endpoint", "/introspect"),
        ("revocation_endpoint", "/revoke"),
        ("userinfo_endpoint", "/userinfo"),
    ];
    let switched = [
        ("pushed_authorization_request_endpoint", "/par"),
        ("device_authorization_endpoint", "/device_authorization"),
        ("backchannel_authentication_endpoint", "/bc-authorize"),
    ];
    let there: Vec<_> = always.into_iter().chain(switched.into_iter().filter(|(name, _)| members.contains_key(*name))).collect();
    let aliases: Map<String, Value> =
        there.into_iter().filter_map(|(name, path)| Some((name.to_owned(), settings.mtls_url(path)?.into()))).collect();
    if !aliases.is_empty() {
        members.insert("mtls_endpoint_aliases".into(), aliases.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    fn of(method: &str, change: impl FnOnce(&mut Client)) -> Vec<&'static str> {
        let mut client = Client { client_id: "c".into(), token_endpoint_auth_method: method.into(), ..Client::default() };
        change(&mut client);
        mistakes(&client).into_iter().map(|(member, _)| member).collect()
    }
    fn set() -> Value {
        json!({"keys": [tokens::sign::SigningKey::generate(Alg::ES256).unwrap().0.jwk()]})
    }

    #[test]
    fn each_method_needs_what_it_is_checked_with() {
        assert!(of("private_key_jwt", |c| c.jwks = Some(set())).is_empty());
        assert!(of("private_key_jwt", |c| c.jwks_uri = Some("https://rp.example.com/jwks".into())).is_empty());
        assert_eq!(of("private_key_jwt", |_| ()), ["jwks"]);
        assert_eq!(of("self_signed_tls_client_auth", |_| ()), ["jwks"]);
        assert_eq!(of("tls_client_auth", |_| ()), ["tls_client_auth_subject_dn"]);
        assert!(of("tls_client_auth", |c| c.tls_client_auth_san_dns = Some("a.example.com".into())).is_empty());
        let two = |c: &mut Client| {
            c.tls_client_auth_san_dns = Some("a.example.com".into());
            c.tls_client_auth_san_ip = Some("192.0.2.1".into());
        };
        assert_eq!(of("tls_client_auth", two), ["tls_client_auth_subject_dn"]);
        let vouched = |c: &mut Client| {
            let (issuer, subject) = ("https://cluster.example.com".into(), "w".into());
            c.workload_identity = Some(crate::client::Workload { issuer, subject, audience: None });
        };
        assert!(of("private_key_jwt", vouched).is_empty());
        assert_eq!(of("client_secret_basic", vouched), ["workload_identity"]);
    }

    #[test]
    fn keys_are_public_usable_and_in_one_place() {
        let private = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}]});
        assert_eq!(of("client_secret_basic", |c| c.jwks = Some(private)), ["jwks"]);
        assert_eq!(of("private_key_jwt", |c| c.jwks = Some(json!({"keys": []}))), ["jwks"]);
        assert_eq!(of("client_secret_basic", |c| c.jwks = Some(json!([]))), ["jwks"]);
        assert_eq!(of("client_secret_basic", |c| c.jwks_uri = Some("https://u@rp.example.com/".into())), ["jwks_uri"]);
        assert_eq!(of("client_secret_basic", |c| c.jwks_uri = Some("http://rp.example.com/jwks".into())), ["jwks_uri"]);
        assert!(of("client_secret_basic", |c| c.jwks_uri = Some("http://127.0.0.1:8/jwks".into())).is_empty());
        let both = |c: &mut Client| {
            c.jwks = Some(set());
            c.jwks_uri = Some("https://rp.example.com/jwks".into());
        };
        assert_eq!(of("private_key_jwt", both), ["jwks_uri"]);
        assert_eq!(of("tls_client_auth", |c| c.tls_client_auth_subject_dn = Some("nonsense".into())), ["tls_client_auth_subject_dn"]);
        assert_eq!(
            of("client_secret_basic", |c| c.token_endpoint_auth_signing_alg = Some("HS256".into())),
            ["token_endpoint_auth_signing_alg"]
        );
        assert_eq!(of("client_secret_basic", |c| c.assertion_audience = Some("any".into())), ["assertion_audience"]);
    }

    #[test]
    fn metadata_names_certificates_only_where_somebody_asks_for_them() {
        let names = |settings: &Settings| Method::offered(settings).into_iter().map(Method::as_str).collect::<Vec<_>>();
        let plain = Settings::for_issuer("https://id.example.com/t");
        assert_eq!(names(&plain), ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]);
        let fapi =
            Settings { profile: Profile::Fapi2, mtls: true, mtls_origin: Some("https://id.example.com:8443".into()), ..plain.clone() };
        assert_eq!(names(&fapi), ["private_key_jwt", "self_signed_tls_client_auth"], "nobody's chain is trusted");
        let trusting = Settings { mtls_authorities: true, ..fapi.clone() };
        assert_eq!(names(&trusting), ["private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth"]);
        let mut told = Map::new();
        told.insert("pushed_authorization_request_endpoint".into(), "there".into());
        feature(&fapi, &mut told);
        assert_eq!(told["token_endpoint_auth_signing_alg_values_supported"], json!(["PS256", "ES256", "EdDSA"]));
        assert_eq!(told["mtls_endpoint_aliases"]["pushed_authorization_request_endpoint"], "https://id.example.com:8443/t/par");
        assert!(told["mtls_endpoint_aliases"].get("device_authorization_endpoint").is_none());
        let mut told = Map::new();
        feature(&plain, &mut told);
        assert!(told.get("mtls_endpoint_aliases").is_none());
    }
}
