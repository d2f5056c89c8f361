//! What registration takes, what it refuses, and what follows.
use ledger::{EventKind, RevocationKind, Step};
use serde_json::json;
use tokens::{Entropy, secret::MacKey};

use super::{
    manage::{Desk, proves, replacing},
    *,
};
use crate::{Client, Profile, grants};

/// Counts instead of guessing.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicU8);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.fill_with(|| self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
}

fn settings() -> Settings {
    Settings { registration: true, ..Settings::for_issuer("https://id.example.com") }
}
fn given(document: &Value) -> Map<String, Value> {
    document.as_object().unwrap().clone()
}
fn minimal() -> Value {
    json!({"redirect_uris": ["https://rp.example.com/cb"]})
}
fn with(name: &str, value: Value) -> Value {
    let mut document = minimal();
    document[name] = value;
    document
}
fn read_of(document: &Value) -> Result<Client, Refused> {
    let client = metadata::read(&given(document), &settings(), None)?;
    let client = Client { client_id: "c".into(), ..client };
    metadata::complete(&client).map(|()| client)
}
fn desk<'a>(settings: &'a Settings, mac: &'a MacKey, entropy: &'a Counting) -> Desk<'a> {
    Desk { settings, mac, entropy, now_ms: 5_000, source: "192.0.2.1" }
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_rfc() {
    let client = read_of(&minimal()).unwrap();
    assert_eq!(client.grant_types, ["authorization_code"]);
    assert_eq!(client.response_types, ["code"]);
    assert_eq!(client.token_endpoint_auth_method, "client_secret_basic");
    assert_eq!(client.scope, "openid profile email address phone offline_access");
    assert!(!client.first_party && client.allowed_resources.is_empty() && client.access_token_format.is_none());
}

#[test]
fn strangers_members_are_ignored_and_an_administrators_cannot_be_taken() {
    let mut document = minimal();
    for (name, value) in [
        ("first_party", json!(true)),
        ("allowed_resources", json!(["https://api"])),
        ("disabled", json!(true)),
        ("client_id", json!("mine")),
        ("client_secret", json!("mine")),
        ("origin", json!("me")),
        ("access_token_ttl", json!("24h")),
        ("unheard_of", json!({"x": 1})),
        ("client_name#ja", json!("x")),
        ("client_uri", Value::Null),
    ] {
        document[name] = value;
    }
    let client = read_of(&document).unwrap();
    assert!(!client.first_party && !client.disabled && client.allowed_resources.is_empty());
    assert!(client.origin.is_none() && client.access_token_ttl.is_none() && client.client_uri.is_none());
}

#[test]
fn what_is_wrong_is_named() {
    for (name, value, code) in [
        ("redirect_uris", json!("https://rp/cb"), Code::InvalidRedirectUri),
        ("redirect_uris", json!(["https://rp/cb#f"]), Code::InvalidRedirectUri),
        ("redirect_uris", json!(["http://rp.example.com/cb"]), Code::InvalidRedirectUri),
        ("redirect_uris", json!(["javascript:alert(1)"]), Code::InvalidRedirectUri),
        ("redirect_uris", json!([]), Code::InvalidRedirectUri),
        ("client_name", json!(5), Code::InvalidClientMetadata),
        ("grant_types", json!(["urn:made-up"]), Code::InvalidClientMetadata),
        ("grant_types", json!([]), Code::InvalidClientMetadata),
        ("response_types", json!(["token"]), Code::InvalidClientMetadata),
        ("token_endpoint_auth_method", json!("client_secret_magic"), Code::InvalidClientMetadata),
        ("id_token_signed_response_alg", json!("HS256"), Code::InvalidClientMetadata),
        ("id_token_encrypted_response_alg", json!("RSA-OAEP"), Code::InvalidClientMetadata),
        ("initiate_login_uri", json!("http://rp.example.com/start"), Code::InvalidClientMetadata),
        ("logo_uri", json!("javascript:alert(1)"), Code::InvalidClientMetadata),
        ("jwks_uri", json!("http://rp.example.com/jwks"), Code::InvalidClientMetadata),
        ("sector_identifier_uri", json!("http://rp.example.com/s"), Code::InvalidClientMetadata),
        ("subject_type", json!("transient"), Code::InvalidClientMetadata),
        ("application_type", json!("toaster"), Code::InvalidClientMetadata),
        ("scope", json!("doorward.admin"), Code::InvalidClientMetadata),
        ("scope", json!("nothing-here"), Code::InvalidClientMetadata),
        ("contacts", json!(["a"; 51].to_vec()), Code::InvalidClientMetadata),
        ("client_uri", json!(format!("https://rp/{}", "a".repeat(2048))), Code::InvalidClientMetadata),
    ] {
        let refused = read_of(&with(name, value.clone())).expect_err(&format!("{name} {value}"));
        assert_eq!(refused.code, code, "{name} {value}: {}", refused.description);
        let said = refused.description.as_str();
        assert!(said.starts_with(name) || (name == "response_types" && said.contains("response")), "{name}: {said}");
        assert!(said.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'), "{said}");
    }
    let both = json!({"redirect_uris": ["https://rp/cb"], "jwks": {"keys": []}, "jwks_uri": "https://rp/jwks"});
    assert!(read_of(&both).unwrap_err().description.starts_with("jwks"));
}

#[test]
fn grant_types_and_response_types_follow_each_other() {
    let device = json!({"grant_types": [grants::DEVICE_CODE]});
    assert!(read_of(&device).unwrap().response_types.is_empty());
    let odd = json!({"redirect_uris": ["https://rp/cb"], "grant_types": [grants::DEVICE_CODE], "response_types": ["code"]});
    assert_eq!(read_of(&odd).unwrap_err().code, Code::InvalidClientMetadata);
    let idle = json!({"redirect_uris": ["https://rp/cb"], "response_types": []});
    assert!(read_of(&idle).is_err());
}

#[test]
fn strangers_use_the_grant_types_that_the_configuration_leaves_them() {
    for grant in [grants::CIBA, grants::JWT_BEARER, grants::TOKEN_EXCHANGE, grants::CLIENT_CREDENTIALS] {
        let asked = json!({"grant_types": [grant], "backchannel_token_delivery_mode": "poll"});
        let refused = read_of(&asked).unwrap_err();
        assert_eq!(refused.code, Code::InvalidClientMetadata, "{grant}");
        assert!(refused.description.starts_with("grant_types"), "{grant}: {}", refused.description);
        let settings = Settings { registration_grant_types: vec![grant.to_owned()], ..settings() };
        assert!(metadata::read(&given(&asked), &settings, None).is_ok(), "{grant}");
    }
}

#[test]
fn the_kind_of_application_decides_where_it_may_be() {
    let app = |uri: &str, kind: &str| {
        read_of(&json!({"redirect_uris": [uri], "application_type": kind, "token_endpoint_auth_method": "none"})).is_ok()
    };
    assert!(app("http://127.0.0.1/cb", "native") && app("com.example.app:/cb", "native") && app("https://rp/cb", "native"));
    assert!(!app("http://127.0.0.1/cb", "web") && !app("com.example.app:/cb", "web") && !app("myapp:/cb", "native"));
}

#[test]
fn scopes_are_narrowed_to_what_may_be_registered() {
    assert_eq!(read_of(&with("scope", json!("openid email read"))).unwrap().scope, "openid email");
    let more = Settings { registration_scopes: vec!["openid".into(), "read".into()], ..settings() };
    let client = metadata::read(&given(&with("scope", json!("openid read write"))), &more, None).unwrap();
    assert_eq!(client.scope, "openid read");
}

#[test]
fn pkce_may_be_left_out_by_confidential_openid_clients_only() {
    let needs = |document: &Value, settings: &Settings| metadata::read(&given(document), settings, None).unwrap().require_pkce;
    assert!(!needs(&minimal(), &settings()));
    assert!(needs(&with("token_endpoint_auth_method", json!("none")), &settings()));
    assert!(needs(&with("require_pkce", json!(true)), &settings()));
    let strict = Settings { registration_require_pkce: true, ..settings() };
    assert!(needs(&minimal(), &strict) && needs(&with("require_pkce", json!(false)), &strict));
}

#[test]
fn a_client_that_its_administrator_narrowed_does_not_widen_itself() {
    let narrowed = Client {
        scope: "openid".into(),
        grant_types: vec!["authorization_code".into()],
        require_pkce: true,
        narrow_only: true,
        ..read_of(&minimal()).unwrap()
    };
    let mut wide = minimal();
    wide["scope"] = json!("openid email");
    wide["grant_types"] = json!(["authorization_code", "refresh_token"]);
    wide["narrow_only"] = json!(false);
    let again = |before: &Client| metadata::read(&given(&wide), &settings(), Some(before)).unwrap();
    let held = again(&narrowed);
    assert_eq!((held.scope.as_str(), held.grant_types.as_slice()), ("openid", ["authorization_code".to_owned()].as_slice()));
    assert!(held.require_pkce && held.narrow_only);
    let free = again(&Client { narrow_only: false, ..narrowed });
    assert_eq!((free.scope.as_str(), free.grant_types.len(), free.require_pkce), ("openid email", 2, false));
}

#[test]
fn under_fapi_nothing_is_signed_with_rs256() {
    let fapi = Settings { profile: Profile::Fapi2, ..settings() };
    let refused = metadata::read(&given(&with("id_token_signed_response_alg", json!("RS256"))), &fapi, None).unwrap_err();
    assert!(refused.description.starts_with("id_token_signed_response_alg"), "{}", refused.description);
}

#[test]
fn a_token_for_something_else_is_no_statement() {
    let key = tokens::sign::SigningKey::generate(tokens::Alg::ES256).unwrap().0;
    let believed = |typ: &str, claims: Value| {
        let given = with(statement::MEMBER, json!(key.sign_jwt(typ, &claims).unwrap()));
        let given = given.as_object().unwrap().clone();
        statement::Presented::of(&given).unwrap().unwrap().believe(Some(&key.verifying()), &settings(), 100)
    };
    let stated = json!({"iss": "https://o", "software_id": "x"});
    assert_eq!(believed("JWT", stated.clone()).unwrap().len(), 1);
    for typ in ["at+jwt", "application/AT+JWT", "logout+jwt", "secevent+jwt"] {
        assert!(believed(typ, stated.clone()).is_err(), "{typ}");
    }
    for claim in ["nonce", "at_hash", "events"] {
        let mut claims = stated.clone();
        claims[claim] = json!("x");
        assert!(believed("JWT", claims).is_err(), "{claim}");
    }
}

#[test]
fn a_profile_limits_who_may_register() {
    let fapi = Settings { profile: Profile::Fapi2, ..settings() };
    let refused = metadata::read(&given(&minimal()), &fapi, None).unwrap_err();
    assert!(refused.description.starts_with("token_endpoint_auth_method"));
    let implicit = json!({"redirect_uris": ["https://rp/cb"], "response_types": ["id_token"]});
    assert!(metadata::read(&given(&implicit), &settings(), None).unwrap_err().description.starts_with("response_types"));
    let dynamic = Settings { profile: Profile::OidcDynamic, ..settings() };
    assert_eq!(metadata::read(&given(&implicit), &dynamic, None).unwrap().grant_types, ["implicit"]);
}

#[test]
fn a_client_is_told_what_was_understood_and_nothing_of_the_house() {
    let (settings, mac, entropy) = (settings(), MacKey::new([7; 32]), Counting::default());
    let client = metadata::read(&given(&with("client_name", json!("RP"))), &settings, None).unwrap();
    let registered = desk(&settings, &mac, &entropy).create(client, Some("gate")).unwrap();
    let told: Value = serde_json::from_slice(&registered.json(&settings, None)).unwrap();
    assert_eq!(told["client_name"], "RP");
    assert_eq!(told["client_secret_expires_at"], 0);
    assert_eq!(told["client_id_issued_at"], 5);
    let id = told["client_id"].as_str().unwrap();
    assert_eq!(told["registration_client_uri"], format!("https://id.example.com/register/{id}"));
    for own in ["first_party", "require_pkce", "origin", "disabled", "allowed_resources"] {
        assert!(told.get(own).is_none(), "{own}");
    }
    let (secret, token) = (told["client_secret"].as_str().unwrap(), told["registration_access_token"].as_str().unwrap());
    let kept = format!("{:?}", registered.change);
    assert!(!kept.contains(secret) && !kept.contains(token), "only MACs are stored");
    let stored = registered.change.steps.iter().find_map(|s| match s {
        Step::PutSecret { slot, value, .. } if slot == manage::SLOT => Some(value.clone()),
        _ => None,
    });
    assert!(proves(token, stored.as_deref(), &mac));
    assert!(!proves(token, None, &mac) && !proves(secret, stored.as_deref(), &mac) && !proves("x", stored.as_deref(), &mac));
    assert_eq!(registered.change.events[0].kind, EventKind::ObjectCreated);
    assert_eq!(registered.change.events[0].data["allowed_by"], "gate");
}

fn stored(client: &Client) -> ledger::Object {
    ledger::Object {
        kind: ledger::ObjectKind::Client,
        id: client.client_id.clone(),
        key: client.client_id.clone(),
        document: json!(client),
        version: 3,
        created_at: 1,
        updated_at: 1,
    }
}

#[test]
fn a_replacement_keeps_what_an_administrator_said() {
    let before = Client {
        client_id: "c".into(),
        first_party: true,
        allowed_resources: vec!["https://api".into()],
        scope: "openid read".into(),
        origin: Some("registration".into()),
        redirect_uris: vec!["https://rp/old".into()],
        client_name: Some("Old".into()),
        ..Client::default()
    };
    let after = metadata::read(&given(&with("scope", json!("openid read email"))), &settings(), Some(&before)).unwrap();
    assert!(after.first_party && after.allowed_resources == ["https://api"] && after.client_id == "c");
    assert_eq!((after.scope.as_str(), after.client_name.as_deref()), ("openid read email", None));
    assert_eq!(after.origin.as_deref(), Some("registration"));
}

#[test]
fn a_secret_follows_the_method() {
    let (settings, mac, entropy) = (settings(), MacKey::new([7; 32]), Counting::default());
    let desk = desk(&settings, &mac, &entropy);
    let client = Client { client_id: "c".into(), redirect_uris: vec!["https://rp/cb".into()], ..Client::default() };
    let kept = mac.mac("client_secret", b"s").to_vec();
    let token = || tokens::secret::Plain::new("t");
    let same = desk.replace(&stored(&client), client.clone(), Some(&kept), Some("s"), token()).unwrap();
    assert_eq!(same.secret.unwrap().expose(), "s");
    assert!(!same.change.steps.iter().any(|s| matches!(s, Step::PutSecret { .. })));
    assert!(desk.replace(&stored(&client), client.clone(), Some(&kept), Some("other"), token()).is_err());
    assert!(desk.replace(&stored(&client), client.clone(), None, Some("s"), token()).is_err());
    let new = desk.replace(&stored(&client), client.clone(), None, None, token()).unwrap();
    assert!(new.secret.is_some() && new.change.steps.iter().any(|s| matches!(s, Step::PutSecret { .. })));
    let public = Client { token_endpoint_auth_method: "none".into(), ..client.clone() };
    let gone = desk.replace(&stored(&client), public, Some(&kept), None, token()).unwrap();
    assert_eq!(gone.change.steps.iter().filter(|s| matches!(s, Step::RemoveSecret { .. })).count(), 2);
    assert!(gone.change.steps.iter().any(|s| matches!(s, Step::ReplaceObject { version: 3, .. })));
}

#[test]
fn a_client_takes_everything_with_it() {
    let (settings, mac, entropy) = (settings(), MacKey::new([7; 32]), Counting::default());
    let change = desk(&settings, &mac, &entropy).remove(&stored(&Client { client_id: "c".into(), ..Client::default() }));
    assert!(matches!(change.steps.first(), Some(Step::DeleteObject { version: Some(3), .. })));
    assert!(change.steps.iter().any(|s| matches!(s, Step::Revoke(r) if r.kind == RevocationKind::Client && r.id == "c")));
    assert!(change.steps.iter().any(|s| matches!(s, Step::EndGrantsOf { subject: None, client_id: Some(c), .. } if c == "c")));
}

#[test]
fn a_replacement_names_its_client_and_nothing_of_the_servers() {
    assert_eq!(replacing(&given(&json!({"client_id": "c", "client_secret": "s"})), "c").unwrap(), Some("s"));
    for bad in [
        json!({}),
        json!({"client_id": "d"}),
        json!({"client_id": "c", "client_id_issued_at": 1}),
        json!({"client_id": "c", "client_secret": 1}),
    ] {
        assert!(replacing(&given(&bad), "c").is_err(), "{bad}");
    }
}

#[test]
fn only_plain_https_urls_with_a_path_are_documents() {
    for good in ["https://app.example.com/client.json", "https://app.example.com:8443/oauth/client", "https://127.0.0.1:9/x"] {
        assert!(document::is_url(good), "{good}");
    }
    for bad in [
        "http://app.example.com/c",
        "https://app.example.com",
        "https://app.example.com/",
        "https://app.example.com/a/../c",
        "https://app.example.com/./c",
        "https://app.example.com/%2e%2e/c",
        "https://app.example.com/c#f",
        "https://app.example.com/c?q",
        "https://u@app.example.com/c",
        "https://APP.example.com/c",
        "https://app.example.com:443/c",
        "https://app.example.com\\c",
        "web",
        "",
    ] {
        assert!(!document::is_url(bad), "{bad}");
    }
    assert!(!document::is_url(&format!("https://app.example.com/{}", "a".repeat(255))));
}

#[test]
fn a_document_says_what_a_registration_says_and_no_secrets() {
    let url = "https://app.example.com/client.json";
    let good = json!({"client_id": url, "client_name": "App", "redirect_uris": ["https://app.example.com/cb"]});
    let read = |document: &Value| document::read(url, document.to_string().as_bytes(), &settings(), None);
    let client = read(&good).unwrap();
    assert!(client.is_public() && client.require_pkce && client.client_id == url && client.origin.as_deref() == Some("metadata"));
    let changed = |name: &str, value: Value| {
        let mut document = good.clone();
        document[name] = value;
        read(&document)
    };
    for (name, value) in [
        ("client_id", json!("https://app.example.com/other")),
        ("client_secret", json!("s")),
        ("client_secret_expires_at", json!(0)),
        ("token_endpoint_auth_method", json!("client_secret_basic")),
        ("token_endpoint_auth_method", Value::Null),
        ("redirect_uris", json!(["http://app.example.com/cb"])),
        ("client_name", json!("a".repeat(11_000))),
    ] {
        assert!(changed(name, value.clone()).is_err(), "{name} {value}");
    }
}

#[test]
fn a_document_is_kept_as_long_as_its_server_says_within_bounds() {
    assert_eq!(document::lifetime(None, None), 300);
    assert_eq!(document::lifetime(Some("public, max-age=3600"), Some("600")), 3000);
    assert_eq!(document::lifetime(Some("max-age=1"), None), 60);
    assert_eq!(document::lifetime(Some("Max-Age=99999999"), None), 86_400);
    assert_eq!(document::lifetime(Some("no-store, max-age=3600"), None), 60);
    assert_eq!(document::lifetime(Some("max-age=-5"), Some("x")), 60);
    assert!(document::is_json("application/json; charset=utf-8") && document::is_json("application/client+json"));
    assert!(!document::is_json("text/html") && !document::is_json("text/x+json") && !document::is_json(""));
}

mod strange {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_value_of_any_member_is_read_or_refused(at in 0usize..metadata::MEMBERS.len(), text in "\\PC{0,40}", n in any::<i64>()) {
            for value in [json!(text), json!(n), json!([text]), json!({"keys": text}), json!([[n]])] {
                let name = metadata::MEMBERS[at];
                if let Err(refused) = read_of(&with(name, value)) {
                    prop_assert!(refused.description.bytes().all(|b| (b' '..=b'~').contains(&b)));
                }
            }
        }
        #[test]
        fn any_text_as_a_client_id_is_a_url_or_not(text in "(https://)?\\PC{0,60}") {
            if document::is_url(&text) {
                prop_assert!(text.starts_with("https://") && !text.contains(['?', '#', '@', '%', '\\']));
            }
        }
    }
}
