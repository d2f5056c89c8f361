//! Dynamic client registration (RFC 7591, OpenID Connect Registration 1.0).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::forge::{Issuer, Key};
use crate::kit::http::{Go, claims, client, client_from, now, random};
use crate::kit::https::Secure;
use crate::kit::registrant::{assertion, id_of, own, register, registered, somewhere};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Shared, Stage, Visitor};

static CLOSED: Shared = Shared::new();

/// A server where anybody may register, and what its clients publish.
struct Town {
    stage: Stage,
    secure: Secure,
    publisher: Issuer,
    key: Key,
}

fn town() -> &'static Town {
    static TOWN: OnceLock<Town> = OnceLock::new();
    TOWN.get_or_init(|| {
        let (secure, key) = (Secure::start(), Key::new("publisher-1"));
        let publisher = Issuer::start(&[&key]);
        let stage = Stage::start(|house| {
            house.set("registration.open", "true");
            secure.admit(house, &[&publisher.address]);
        });
        Town { stage, secure, publisher, key }
    })
}

impl std::ops::Deref for Town {
    type Target = Stage;
    fn deref(&self) -> &Stage {
        &self.stage
    }
}

fn minimal() -> Value {
    json!({"client_name": "A Relying Party", "redirect_uris": ["https://rp.example.com/cb"]})
}
fn with(name: &str, value: Value) -> Value {
    let mut metadata = minimal();
    metadata[name] = value;
    metadata
}
fn metadata(stage: &Stage) -> Value {
    client().get(stage.url("/.well-known/openid-configuration")).go().expect(200).json()
}

#[test]
fn without_being_configured_there_is_no_registration() {
    let stage = CLOSED.get();
    assert!(metadata(stage).get("registration_endpoint").is_none());
    assert_eq!(client().post(stage.url("/register")).json(&minimal()).go().status, 404);
    assert_eq!(client().get(stage.url("/register/web")).bearer_auth("x").go().status, 404);
}

#[test]
fn a_client_registers_and_lives() {
    let town = town();
    assert_eq!(metadata(town)["registration_endpoint"], town.url("/register"));
    let answer = register(town, &with("first_party", json!(true))).expect(201);
    assert!(answer.header("content-type").starts_with("application/json") && answer.header("cache-control").contains("no-store"));
    let told = answer.json();
    assert_eq!(told["client_name"], "A Relying Party");
    assert_eq!(told["redirect_uris"], json!(["https://rp.example.com/cb"]));
    assert_eq!(told["grant_types"], json!(["authorization_code"]));
    assert_eq!(told["response_types"], json!(["code"]));
    assert_eq!(told["token_endpoint_auth_method"], "client_secret_basic");
    assert_eq!(told["client_secret_expires_at"], 0);
    assert!((told["client_id_issued_at"].as_i64().unwrap() - now()).abs() < 20);
    assert!(told.get("first_party").is_none());
    let id = id_of(&told);
    assert_eq!(told["registration_client_uri"], town.url(&format!("/register/{}", id.id)));
    // A stranger's client: the person is asked.
    let ask = Ask::new(&id).with("scope", "openid email");
    let mut visitor = Visitor::new();
    let login = visitor.open(&ask.url(town)).kind("login");
    let consent = visitor.login(&login, "alice", crate::kit::seed::PASSWORD).kind("consent");
    assert_eq!(consent.text_of("client-name"), "A Relying Party");
    let code = visitor.send(&consent.press("consent-approve")).code(town, &ask);
    let tokens = ask.redeem(town, &code).expect(200).json();
    let userinfo = client().get(town.url("/userinfo")).bearer_auth(text(&tokens, "access_token")).go().expect(200).json();
    assert_eq!(userinfo["email"], "alice@example.com");
    assert_eq!(userinfo["sub"], claims(&text(&tokens, "id_token"))["sub"]);
    assert!(town.house.holds(id.secret).is_none() && town.house.holds(told["registration_access_token"].as_str().unwrap()).is_none());
    // The ledger tells of it once.
    let events = town.admin("GET", "/events?limit=500&kind=object.created").go().expect(200).json();
    let about = |e: &&Value| e["kind"] == "object.created" && e.to_string().contains(id.id);
    let found: Vec<&Value> = events["items"].as_array().unwrap().iter().filter(about).collect();
    assert_eq!(found.len(), 1, "{events}");
    assert!(found[0].to_string().contains("\"actor\":\"registration\""), "{}", found[0]);
}

#[test]
fn strangers_ask_nobody_and_stand_for_nobody_unless_the_configuration_lets_them() {
    let town = town();
    let ciba = "urn:openid:params:grant-type:ciba";
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    for grant in ["client_credentials", ciba, exchange, "urn:ietf:params:oauth:grant-type:jwt-bearer"] {
        let asked = json!({"grant_types": [grant], "backchannel_token_delivery_mode": "poll"});
        register(town, &asked).expect_error(400, "invalid_client_metadata");
    }
    // A record from before the configuration was narrowed is held to it.
    let told = registered(town, &minimal());
    let id = id_of(&told);
    let got = town.admin("GET", &format!("/clients/{}", id.id)).go().expect(200);
    let mut record = got.json();
    record["grant_types"] = json!(["authorization_code", "client_credentials", ciba]);
    record["backchannel_token_delivery_mode"] = json!("poll");
    let put = |record: &Value, tag: &str| town.admin("PUT", &format!("/clients/{}", id.id)).header("if-match", tag).json(record).go();
    let tag = put(&record, got.header("etag")).expect(200).header("etag").to_owned();
    town.token(&id, &[("grant_type", "client_credentials")]).expect_error(400, "unauthorized_client");
    for person in ["alice", "nobody"] {
        let form = [("scope", "openid"), ("login_hint", person)];
        let asked = client().post(town.url("/bc-authorize")).basic_auth(id.id, Some(id.secret)).form(&form).go();
        asked.expect_error(400, "unauthorized_client");
    }
    // An administrator who takes it over answers for it.
    record.as_object_mut().unwrap().remove("origin");
    put(&record, &tag).expect(200);
    town.token(&id, &[("grant_type", "client_credentials")]).expect(200);
}

#[test]
fn a_machine_gets_no_scope_of_the_server_itself() {
    let town = &Stage::start(|house| {
        house.set("registration.open", "true").set("registration.grant_types", r#"["client_credentials"]"#);
    });
    register(town, &json!({"grant_types": ["client_credentials"], "scope": "doorward.admin"})).expect_error(400, "invalid_client_metadata");
    let told = registered(town, &json!({"grant_types": ["client_credentials"], "scope": "openid doorward.admin doorward.introspect"}));
    assert_eq!(told["scope"], "openid");
    let id = id_of(&told);
    let form = [("grant_type", "client_credentials"), ("scope", "doorward.admin")];
    town.token(&id, &form).expect_error(400, "invalid_scope");
}

#[test]
fn an_initial_access_token_opens_the_door() {
    let stage = Stage::start(|house| {
        house.set("registration.enabled", "true");
    });
    let post = |token: Option<&str>| {
        let request = somewhere().post(stage.url("/register")).json(&minimal());
        token.map_or(somewhere().post(stage.url("/register")).json(&minimal()), |t| request.bearer_auth(t)).go()
    };
    let none = post(None).expect(401);
    assert!(none.header("www-authenticate").starts_with("Bearer"), "{:?}", none.headers);
    post(Some("nonsense")).expect_error(401, "invalid_token");
    let gate = json!({"client_id": "gate", "client_secret": "gate-secret-3c5e7a9b1d2f4060", "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_basic", "scope": "doorward.register doorward.introspect"});
    stage.admin("POST", "/clients").json(&gate).go().expect(201);
    let token = |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        let answer = client().post(stage.url("/token")).basic_auth("gate", Some("gate-secret-3c5e7a9b1d2f4060")).form(&form).go();
        text(&answer.expect(200).json(), "access_token")
    };
    post(Some(&token("doorward.introspect"))).expect_error(403, "insufficient_scope");
    let told = post(Some(&token("doorward.register"))).expect(201).json();
    let events = stage.admin("GET", "/events?limit=500&kind=object.created").go().expect(200).json().to_string();
    assert!(events.contains("\"allowed_by\":\"gate\""), "{events}");
    // Its own token manages it; another's does not.
    own(&told, "GET").go().expect(200);
}

#[test]
fn what_is_no_metadata_is_refused() {
    let town = town();
    let post = |media: &str, body: String| somewhere().post(town.url("/register")).header("content-type", media).body(body).go();
    for (media, body) in [
        ("application/x-www-form-urlencoded", minimal().to_string()),
        ("text/plain", minimal().to_string()),
        ("application/json", "[]".to_owned()),
        ("application/json", "{".to_owned()),
        ("application/json", r#"{"redirect_uris":["https://rp/cb"],"client_name":"a","client_name":"b"}"#.to_owned()),
        ("application/json", format!(r#"{{"redirect_uris":["https://rp/cb"],"x":{}{}}}"#, "[".repeat(40), "]".repeat(40))),
    ] {
        post(media, body).expect_error(400, "invalid_client_metadata");
    }
    let large = json!({"redirect_uris": ["https://rp/cb"], "x": "a".repeat(70_000)}).to_string();
    assert_eq!(post("application/json", large).status, 413);
    assert_eq!(post("application/json; charset=utf-8", minimal().to_string()).status, 201);
    assert_eq!(client().get(town.url("/register")).go().status, 405);
}

#[test]
fn every_refusal_names_its_member() {
    let town = town();
    for (member, value) in [
        ("grant_types", json!(["password"])),
        ("response_types", json!(["token"])),
        ("token_endpoint_auth_method", json!("none of these")),
        ("id_token_signed_response_alg", json!("HS256")),
        ("userinfo_encrypted_response_alg", json!("RSA-OAEP")),
        ("subject_type", json!("both")),
        ("application_type", json!("device")),
        ("client_name", json!(["a"])),
        ("jwks_uri", json!("http://rp.example.com/jwks")),
        ("logo_uri", json!("data:image/png;base64,AAAA")),
        ("backchannel_logout_uri", json!("http://rp.example.com/bcl")),
    ] {
        let answer = register(town, &with(member, value)).expect_error(400, "invalid_client_metadata");
        assert!(text(&answer.json(), "error_description").contains(member), "{member}: {}", answer.text());
    }
    for bad in ["http://rp.example.com/cb", "javascript:alert(1)", "https://rp.example.com/*", "/cb"] {
        register(town, &json!({"redirect_uris": [bad]})).expect_error(400, "invalid_redirect_uri");
    }
    register(town, &json!({"client_name": "nowhere"})).expect_error(400, "invalid_redirect_uri");
}

#[test]
fn oidcc_redirect_uri_regfrag() {
    register(town(), &json!({"redirect_uris": ["https://rp.example.com/cb#fragment"]})).expect_error(400, "invalid_redirect_uri");
}

#[test]
fn oidcc_redirect_uri_query_ok() {
    let town = town();
    let told = registered(town, &json!({"redirect_uris": ["https://rp.example.com/cb?foo=bar"]}));
    let ask = Ask::new(&id_of(&told)).with("scope", "openid");
    let Landing::Away(url) = Visitor::new().walk(town, &ask, "alice") else { panic!("a redirect") };
    assert!(url.as_str().starts_with("https://rp.example.com/cb?foo=bar&code="), "{url}");
}

#[test]
fn oidcc_redirect_uri_query_mismatch() {
    let town = town();
    let told = registered(town, &json!({"redirect_uris": ["https://rp.example.com/cb?foo=bar"]}));
    let ask = Ask::new(&id_of(&told)).with("redirect_uri", "https://rp.example.com/cb?foo=baz");
    assert_eq!(Visitor::new().open(&ask.url(town)).kind("error").status(), 400);
}

#[test]
fn oidcc_redirect_uri_query_added() {
    let town = town();
    let told = registered(town, &minimal());
    let ask = Ask::new(&id_of(&told)).with("redirect_uri", "https://rp.example.com/cb?foo=bar");
    assert_eq!(Visitor::new().open(&ask.url(town)).kind("error").status(), 400);
}

#[test]
fn oidcc_ensure_redirect_uri_in_authorization_request() {
    let town = town();
    let told = registered(town, &json!({"redirect_uris": ["https://rp.example.com/cb", "https://rp.example.com/2"]}));
    let ask = Ask::new(&id_of(&told)).without("redirect_uri");
    assert_eq!(Visitor::new().open(&ask.url(town)).kind("error").status(), 400);
}

#[test]
fn oidcc_registration_logo_uri_policy_uri_tos_uri() {
    let town = town();
    let mut metadata = minimal();
    for member in ["logo_uri", "policy_uri", "tos_uri"] {
        metadata[member] = json!(format!("https://rp.example.com/{member}"));
    }
    let told = registered(town, &metadata);
    let page = Visitor::new().open(&Ask::new(&id_of(&told)).url(town)).kind("login");
    for (id, member) in [("client-logo", "logo_uri"), ("client-policy", "policy_uri"), ("client-tos", "tos_uri")] {
        assert_eq!(told[member], metadata[member]);
        assert!(page.has(id), "{id}");
        assert!(page.answer.text().contains(metadata[member].as_str().unwrap()), "{member}");
    }
    assert_eq!(page.text_of("client-name"), "A Relying Party");
}

#[test]
fn oidcc_registration_jwks_uri() {
    let town = town();
    let key = Key::new("rp-1");
    let uri = town.secure.put("/jwks/one", &json!({"keys": [key.jwk()]}));
    let mut metadata = with("token_endpoint_auth_method", json!("private_key_jwt"));
    metadata["jwks_uri"] = json!(uri);
    let told = registered(town, &metadata);
    assert_eq!(told["jwks_uri"], json!(uri));
    assert!(told.get("client_secret").is_none());
    let id = id_of(&told);
    let ask = Ask::new(&id).with("scope", "openid");
    let code = Visitor::new().walk(town, &ask, "alice").code(town, &ask);
    let redeem = |assertion: &str| {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", id.redirect),
            ("code_verifier", &ask.verifier),
            ("client_id", id.id),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        client().post(town.url("/token")).form(&form).go()
    };
    let stranger = Key::new("rp-1");
    redeem(&assertion(town, id.id, &stranger)).expect_error(401, "invalid_client");
    redeem(&assertion(town, id.id, &key)).expect(200);
}

#[test]
fn oidcc_registration_sector_uri() {
    let town = town();
    let redirects = json!(["https://one.example.com/cb", "https://two.example.com/cb"]);
    let uri = town
        .secure
        .put("/sector/good", &json!(["https://two.example.com/cb", "https://one.example.com/cb", "https://three.example.com/cb"]));
    let metadata = json!({"redirect_uris": redirects, "subject_type": "pairwise", "sector_identifier_uri": uri});
    let told = registered(town, &metadata);
    assert_eq!(told["sector_identifier_uri"], json!(uri));
    assert_eq!(told["subject_type"], "pairwise");
    let without = json!({"redirect_uris": redirects, "subject_type": "pairwise"});
    register(town, &without).expect_error(400, "invalid_client_metadata");
}

#[test]
fn oidcc_registration_sector_bad() {
    let town = town();
    assert!(metadata(town)["subject_types_supported"].as_array().unwrap().contains(&json!("pairwise")));
    let listed = town.secure.put("/sector/bad", &json!(["https://elsewhere.example.com/cb"]));
    let broken = town.secure.put_raw("/sector/broken", 200, "Content-Type: text/html\r\n", "<html>");
    let moved = town.secure.put_raw("/sector/moved", 302, &format!("Location: {}\r\n", town.secure.url("/sector/all")), "");
    town.secure.put("/sector/all", &json!(["https://rp.example.com/cb"]));
    for uri in [
        listed,
        broken,
        moved,
        town.secure.url("/sector/absent"),
        "https://169.254.169.254/latest".into(),
        "http://rp.example.com/s".into(),
    ] {
        let answer = register(town, &with("sector_identifier_uri", json!(uri))).expect_error(400, "invalid_client_metadata");
        assert!(answer.text().contains("sector_identifier_uri"), "{uri}: {}", answer.text());
    }
    assert_eq!(town.secure.asked("/sector/all"), 0, "a redirect is not followed");
}

#[test]
fn oidcc_3rd_party_init_login() {
    let town = town();
    let told = registered(town, &with("initiate_login_uri", json!("https://rp.example.com/start")));
    assert_eq!(told["initiate_login_uri"], "https://rp.example.com/start");
    let read = own(&told, "GET").go().expect(200).json();
    assert_eq!(read["initiate_login_uri"], "https://rp.example.com/start");
    assert_eq!(read["client_id"], told["client_id"]);
}

#[test]
fn oidcc_3rd_party_init_login_nohttps() {
    let refused = register(town(), &with("initiate_login_uri", json!("http://rp.example.com/start")));
    assert!(refused.expect_error(400, "invalid_client_metadata").text().contains("initiate_login_uri"));
}

/// A software statement of the town's publisher.
fn statement(town: &Town, claims: &Value) -> String {
    let mut all = json!({"iss": town.publisher.url, "iat": now(), "jti": random()});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    town.key.sign(&json!({"alg": "ES256", "kid": town.key.kid}), &all)
}

#[test]
fn a_software_statement_outweighs_what_the_client_says() {
    let town = town();
    let says =
        json!({"client_name": "The Real Name", "software_id": "4NRB1-0XZABZI9E6-5SM3R", "redirect_uris": ["https://real.example.com/cb"]});
    let shown = statement(town, &says);
    let request = with("software_statement", json!(shown));
    // Nobody trusts this publisher yet.
    register(town, &request).expect_error(400, "unapproved_software_statement");
    let issuer = json!({"issuer": town.publisher.url, "jwks_uri": format!("{}/jwks", town.publisher.url), "algorithms": ["ES256"]});
    let created = town.admin("POST", "/trusted-issuers").json(&issuer).go().expect(201).json();
    // Trusted for its access tokens is not trusted for software statements.
    register(town, &request).expect_error(400, "unapproved_software_statement");
    let path = format!("/trusted-issuers/{}", text(&created, "id"));
    town.admin("PATCH", &path)
        .header("content-type", "application/merge-patch+json")
        .body(r#"{"software_statements":true}"#)
        .go()
        .expect(200);
    let told = registered(town, &request);
    assert_eq!(told["client_name"], "The Real Name");
    assert_eq!(told["redirect_uris"], json!(["https://real.example.com/cb"]));
    assert_eq!(told["software_statement"], json!(shown), "told back unmodified");
    let forged = Key::new(&town.key.kid).sign(&json!({"alg": "ES256", "kid": town.key.kid}), &json!({"iss": town.publisher.url}));
    let expired = statement(town, &json!({"exp": now() - 600}));
    let elsewhere = statement(town, &json!({"aud": "https://other.example.com"}));
    let bent = format!("{shown}x");
    for bad in [forged, expired, elsewhere, bent, "not.a.jwt".into(), String::new()] {
        register(town, &with("software_statement", json!(bad))).expect_error(400, "invalid_software_statement");
    }
    register(town, &with("software_statement", json!(5))).expect_error(400, "invalid_software_statement");
}

#[test]
fn a_flood_of_registrations_meets_a_limit() {
    let stage = Stage::start(|house| {
        house.set("registration.open", "true");
    });
    let flooder = client_from("127.8.8.8");
    // The quota fills up again while the flood lasts, so it is the first refusal that is waited for.
    let statuses: Vec<u16> =
        (0..500).map(|_| flooder.post(stage.url("/register")).json(&json!({})).go().status).take_while(|s| *s != 429).collect();
    assert!((40..500).contains(&statuses.len()) && statuses.iter().all(|s| *s == 400), "{statuses:?}");
    let limited = || Some(flooder.post(stage.url("/register")).json(&json!({})).go()).filter(|a| a.status == 429);
    let answer = (0..50).find_map(|_| limited()).expect("limited again");
    assert!(!answer.header("retry-after").is_empty() && answer.header("ratelimit").contains("registration"));
    // Another source is not held up.
    registered(&stage, &minimal());
}

#[test]
fn a_public_client_needs_pkce_and_a_confidential_one_may_go_without() {
    let town = town();
    let public = id_of(&registered(town, &with("token_endpoint_auth_method", json!("none"))));
    assert_eq!(public.secret, "");
    let ask = Ask::new(&public).with("scope", "openid").without("code_challenge").without("code_challenge_method");
    let (_, answer) = Visitor::new().open(&ask.url(town)).away();
    assert_eq!(answer["error"], "invalid_request");
    let confidential = id_of(&registered(town, &minimal()));
    let ask = Ask::new(&confidential).with("scope", "openid").without("code_challenge").without("code_challenge_method");
    let code = Visitor::new().walk(town, &ask, "alice").code(town, &ask);
    let form = [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", confidential.redirect)];
    town.token(&confidential, &form).expect(200);
}

#[test]
fn openid_client_from_npm_registers_itself() {
    let Some(script) = crate::kit::script::node("registering_client.mjs") else { return };
    script.with("REDIRECT_URI", "https://rp.example.com/cb").goes(town(), &["registered", "code", "read", "changed", "removed"]);
}

#[test]
fn an_independent_library_understands_the_answer() {
    use openidconnect::{RedirectUrl, core::CoreClientRegistrationResponse};
    let told = registered(town(), &with("contacts", json!(["ops@rp.example.com"])));
    let read: CoreClientRegistrationResponse = serde_json::from_value(told.clone()).expect("a client information response");
    assert_eq!(read.client_id().as_str(), told["client_id"]);
    assert_eq!(read.client_secret().unwrap().secret(), told["client_secret"].as_str().unwrap());
    assert_eq!(read.redirect_uris(), &[RedirectUrl::new("https://rp.example.com/cb".into()).unwrap()]);
    assert_eq!(read.registration_client_uri().unwrap().as_str(), told["registration_client_uri"]);
}

/// What a certification suite registers: keys of several kinds, everything spelt out, members nobody knows.
#[test]
fn a_client_that_says_everything_is_understood() {
    let town = town();
    let modulus = "u".repeat(342);
    let metadata = json!({
        "client_name": "suite", "redirect_uris": ["https://suite.example.com/test/a/callback", "https://suite.example.com/test/a/callback?dummy1=lorem&dummy2=ipsum"],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "application_type": "web",
        "token_endpoint_auth_method": "client_secret_post", "subject_type": "public", "id_token_signed_response_alg": "RS256",
        "contacts": ["certification@example.com"], "default_max_age": 3600, "require_auth_time": true, "software_id": "suite", "software_version": "1",
        "jwks": {"keys": [{"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "e", "n": modulus, "e": "AQAB"}, Key::new("s").jwk()]},
        "post_logout_redirect_uris": ["https://suite.example.com/test/a/bye"], "not_known_to_anybody": {"a": [1, 2]}, "client_name#de": "Prüfung"
    });
    let told = registered(town, &metadata);
    for (name, value) in metadata.as_object().unwrap().iter().filter(|(n, _)| !n.starts_with("not_") && !n.contains('#')) {
        assert_eq!(&told[name.as_str()], value, "{name}");
    }
}

#[test]
fn a_profile_decides_what_may_be_registered() {
    let dynamic = Stage::start(|house| {
        house.set("registration.open", "true").text("server.profile", "oidc-dynamic");
    });
    let keys = json!({"keys": [Key::new("rp").jwk()]});
    for responses in [json!(["id_token"]), json!(["id_token token"]), json!(["code id_token"]), json!(["code"])] {
        let metadata = json!({
            "redirect_uris": ["https://rp.example.com/cb"], "response_types": responses, "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256", "jwks": keys, "userinfo_signed_response_alg": "RS256", "request_object_signing_alg": "ES256",
            "request_uris": ["https://rp.example.com/request.jwt"], "id_token_signed_response_alg": "RS256"
        });
        let told = registered(&dynamic, &metadata);
        for (name, value) in metadata.as_object().unwrap() {
            assert_eq!(&told[name.as_str()], value, "{name}");
        }
    }
    register(town(), &with("response_types", json!(["id_token"]))).expect_error(400, "invalid_client_metadata");
    let fapi = Stage::start(|house| {
        house.set("registration.open", "true").text("server.profile", "fapi2");
    });
    let refused = register(&fapi, &minimal()).expect_error(400, "invalid_client_metadata");
    assert!(refused.text().contains("token_endpoint_auth_method"));
    let mut good = with("token_endpoint_auth_method", json!("private_key_jwt"));
    good["jwks"] = keys;
    registered(&fapi, &good);
}

#[test]
fn what_can_never_be_called_is_not_registered() {
    let town = town();
    for member in ["jwks_uri", "sector_identifier_uri", "backchannel_logout_uri"] {
        for uri in ["https://169.254.169.254/x", "https://127.0.0.1:1/x", "https://localhost/x", "https://[::1]/x"] {
            let answer = register(town, &with(member, json!(uri)));
            assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_client_metadata")), "{member} {uri}");
        }
    }
}
