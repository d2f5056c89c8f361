//! Request objects, good and bad.
use serde_json::json;
use tokens::sign::SigningKey;

use super::*;

const ISSUER: &str = "https://id.example.com";
const NOW: i64 = 1_000_000;

fn client() -> Client {
    Client { client_id: "rp".into(), ..Client::default() }
}

fn strict() -> Client {
    Client { require_signed_request_object: true, ..client() }
}

fn key(alg: Alg) -> SigningKey {
    SigningKey::generate(alg).expect("a key").0
}

fn claims() -> Value {
    json!({"iss": "rp", "client_id": "rp", "aud": ISSUER, "exp": NOW + 300, "nbf": NOW, "iat": NOW, "jti": "x",
        "response_type": "code", "scope": "openid", "state": "inside", "max_age": 5, "claims": {"userinfo": {"name": null}}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

struct Case {
    client: Client,
    profile: Profile,
    came: Came,
    outside: &'static str,
}

const USUAL: &str = "client_id=rp&scope=openid&state=outside&nonce=outside&request=x";

impl Case {
    fn new(client: Client) -> Self {
        Self { client, profile: Profile::Standard, came: Came::Authorize, outside: USUAL }
    }
    fn read(&self, key: &SigningKey, typ: &str, claims: &Value) -> Result<Params, Refusal> {
        let text = key.sign_jwt(typ, claims).expect("signs");
        let settings = Settings { profile: self.profile, ..Settings::for_issuer(ISSUER) };
        let keys = KeySet::new(vec![key.verifying()]);
        unpack(&text, &Params::parse(self.outside), self.came, (&self.client, &settings), &keys, NOW)
    }
}

fn one(params: &Params, name: &str) -> Option<String> {
    params.one(name).expect("at most one").map(str::to_owned)
}

#[test]
fn what_is_inside_becomes_the_parameters() {
    let key = key(Alg::ES256);
    let read = Case::new(strict()).read(&key, "oauth-authz-req+jwt", &claims()).expect("read");
    assert_eq!(one(&read, "state").as_deref(), Some("inside"));
    assert_eq!(one(&read, "max_age").as_deref(), Some("5"));
    assert_eq!(one(&read, "claims").as_deref(), Some(r#"{"userinfo":{"name":null}}"#));
    assert_eq!((one(&read, "nonce"), one(&read, "exp"), read.is_signed()), (None, None, true));
}

#[test]
fn openid_connect_lets_the_rest_stand_outside_and_nobody_else_does() {
    let key = key(Alg::RS256);
    let read = Case::new(client()).read(&key, "JWT", &claims()).expect("read");
    assert_eq!((one(&read, "state").as_deref(), one(&read, "nonce").as_deref()), (Some("inside"), Some("outside")));
    assert_eq!(one(&read, "request"), None);
    for case in [Case { came: Came::Pushed, ..Case::new(client()) }, Case { outside: "client_id=rp&nonce=outside", ..Case::new(client()) }]
    {
        assert_eq!(one(&case.read(&key, "JWT", &claims()).expect("read"), "nonce"), None);
    }
    let other = Case { outside: "client_id=rp&scope=openid&response_type=id_token", ..Case::new(client()) };
    assert!(other.read(&key, "JWT", &claims()).is_err());
}

#[test]
fn several_audiences_are_fine_when_this_issuer_is_one() {
    let key = key(Alg::PS256);
    let read = |aud: Value| Case::new(strict()).read(&key, "JWT", &with("aud", aud));
    assert!(read(json!([ISSUER, "https://other.example.com"])).is_ok());
    for bad in [json!(["https://other.example.com"]), json!("https://id.example.com/"), json!(5), json!([])] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn whatever_is_wrong_is_an_invalid_request_object() {
    let key = key(Alg::ES256);
    let cases = [
        without("aud"),
        without("iss"),
        without("client_id"),
        without("exp"),
        without("nbf"),
        with("iss", json!("other")),
        with("client_id", json!("other")),
        with("exp", json!(NOW - 60)),
        with("exp", json!("soon")),
        with("exp", json!(NOW + 4000)),
        with("nbf", json!(NOW + 61)),
        with("nbf", json!(NOW - 4200)),
        with("iat", json!(NOW + 61)),
        with("request", json!("x")),
        with("request_uri", json!("urn:x")),
        with("resource", json!([5])),
        with("nbf", json!(1e300)),
    ];
    for claims in cases {
        let refused = Case::new(strict()).read(&key, "JWT", &claims).expect_err("refused");
        assert_eq!(refused.code, Code::InvalidRequestObject, "{claims}");
    }
    assert!(Case::new(strict()).read(&key, "at+jwt", &claims()).is_err());
    assert!(Case::new(strict()).read(&key, "JWT", &with("nbf", json!(NOW + 8))).is_ok());
    assert!(Case::new(strict()).read(&key, "JWT", &with("exp", json!(NOW - 5))).is_ok());
}

#[test]
fn only_the_registered_algorithm_and_never_rs256_where_fapi_rules() {
    let rs = key(Alg::RS256);
    assert!(Case::new(client()).read(&rs, "JWT", &claims()).is_ok());
    assert!(Case::new(strict()).read(&rs, "JWT", &claims()).is_err());
    assert!(Case { profile: Profile::Fapi2, ..Case::new(client()) }.read(&rs, "JWT", &claims()).is_err());
    let pinned = Client { request_object_signing_alg: Some("PS256".into()), ..client() };
    assert!(Case::new(pinned).read(&rs, "JWT", &claims()).is_err());
}

#[test]
fn old_clients_may_leave_the_envelope_out_where_the_profile_is_theirs() {
    let (key, bare) = (key(Alg::RS256), json!({"response_type": "code", "redirect_uri": "https://rp/cb"}));
    assert!(Case::new(client()).read(&key, "JWT", &bare).is_err());
    let old = Case { profile: Profile::OidcDynamic, ..Case::new(client()) };
    assert_eq!(one(&old.read(&key, "JWT", &bare).expect("read"), "client_id").as_deref(), Some("rp"));
}

#[test]
fn unsigned_and_foreign_objects_are_refused() {
    let (mine, other) = (key(Alg::ES256), key(Alg::ES256));
    let settings = Settings::for_issuer(ISSUER);
    let refuse = |text: &str| {
        let keys = KeySet::new(vec![mine.verifying()]);
        unpack(text, &Params::default(), Came::Pushed, (&client(), &settings), &keys, NOW).expect_err("refused").code
    };
    let body = tokens::b64::encode(claims().to_string().as_bytes());
    for text in [
        format!("{}.{body}.", tokens::b64::encode(br#"{"alg":"none"}"#)),
        other.sign_jwt("JWT", &claims()).expect("signs"),
        "x".to_owned(),
        format!("{}.{body}.AAAA", tokens::b64::encode(br#"{"alg":"HS256"}"#)),
    ] {
        assert_eq!(refuse(&text), Code::InvalidRequestObject, "{text}");
    }
}

#[test]
fn a_member_of_another_type_than_its_parameter_is_refused() {
    let key = key(Alg::ES256);
    for (name, value) in [
        ("state", json!(["a"])),
        ("state", json!(5)),
        ("nonce", json!({})),
        ("scope", json!(["openid"])),
        ("redirect_uri", json!(true)),
        ("resource", json!(5)),
        ("max_age", json!(true)),
        ("claims", json!([])),
        ("authorization_details", json!({})),
    ] {
        let read = Case::new(client()).read(&key, "JWT", &with(name, value.clone()));
        assert_eq!(read.map(|_| ()).map_err(|r| r.code), Err(Code::InvalidRequestObject), "{name} {value}");
    }
    let extension = Case::new(client()).read(&key, "JWT", &with("of_somebody_else", json!([1]))).expect("ignored");
    assert!(one(&extension, "of_somebody_else").is_some());
    let text = Case::new(client()).read(&key, "JWT", &with("max_age", json!("7"))).expect("read");
    assert_eq!(one(&text, "max_age").as_deref(), Some("7"));
}

#[test]
fn only_registered_https_addresses_are_fetched() {
    let client = Client { request_uris: vec!["https://rp/ro".into(), "http://rp/plain".into()], ..client() };
    for (uri, may) in [
        ("https://rp/ro", true),
        ("https://rp/ro#hash", true),
        ("https://rp/ro2", false),
        ("http://rp/plain", false),
        ("https://rp/ro?x", false),
        ("", false),
    ] {
        assert_eq!(may_fetch(uri, &client), may, "{uri}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let settings = Settings::for_issuer(ISSUER);
        let _ = unpack(&text, &Params::parse(&text), Came::Authorize, (&client(), &settings), &KeySet::default(), NOW);
    }
}
