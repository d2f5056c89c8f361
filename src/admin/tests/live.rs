//! What is live ends when an administrator says so.
use super::*;

#[tokio::test]
async fn disabling_and_a_new_password_end_sessions_and_grants() {
    let b = bench().await;
    let id = b.ask("POST", "/users", json!({ "username": "dan" })).await.body["id"].as_str().unwrap().to_owned();
    b.live(&id, "web", "one").await;
    assert_eq!(b.ask("POST", "/users/dan/disable", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.alive("one").await, (false, false));
    assert_eq!(b.get("/users/dan").await.body["disabled"], true);
    assert_eq!(b.ask("POST", "/users/dan/enable", json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.get("/users/dan").await.body["disabled"], false);
    b.live(&id, "web", "two").await;
    let head = b.head().await;
    assert_eq!(b.ask("POST", "/users/dan/password", json!({ "password": "a brand new password" })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(b.alive("two").await, (false, false));
    assert_eq!(b.kinds_since(head).await, ["user.password_changed", "secret.rotated", "subject.revoked"]);
    let hash = String::from_utf8(b.secret(ObjectKind::User, &id, "password").await.unwrap()).unwrap();
    assert!(accounts::password::verify(Some(&hash), "a brand new password"));
    for bad in [json!({}), json!({ "password": "short" }), json!({ "password": "x".repeat(129) }), json!({ "password": 7 })] {
        assert_eq!(b.ask("POST", "/users/dan/password", bad).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[tokio::test]
async fn a_client_secret_is_shown_once_rotated_and_kept_only_on_demand() {
    let b = bench().await;
    let made = b
        .ask(
            "POST",
            "/clients",
            json!({ "client_id": "a/b~c", "grant_types": ["client_credentials"], "response_types": [], "scope": "read" }),
        )
        .await;
    assert_eq!((made.status, made.header("location")), (StatusCode::CREATED, "/admin/v1/clients/a%2Fb~c"));
    assert!(made.body["client_secret"].as_str().unwrap().starts_with("dws_"));
    assert!(b.get("/clients/a%2Fb~c").await.body.get("client_secret").is_none());
    let old = b.secret(ObjectKind::Client, "a/b~c", "secret").await;
    let rotated = b.ask("POST", "/clients/a%2Fb~c/rotate-secret", json!({ "keep_previous": true })).await;
    assert_eq!(rotated.status, StatusCode::OK);
    assert_eq!(b.secret(ObjectKind::Client, "a/b~c", "secret_previous").await, old);
    let mac = MacKey::new([7; 32]);
    let now = b.secret(ObjectKind::Client, "a/b~c", "secret").await.unwrap();
    assert!(mac.verify("client_secret", rotated.body["client_secret"].as_str().unwrap().as_bytes(), &now));
    b.ask("POST", "/clients/a%2Fb~c/rotate-secret", Value::Null).await;
    assert_eq!(b.secret(ObjectKind::Client, "a/b~c", "secret_previous").await, None);

    b.live("u", "a/b~c", "one").await;
    assert_eq!(b.ask("PATCH", "/clients/a%2Fb~c", json!({ "disabled": true })).await.status, StatusCode::OK);
    assert!(!b.alive("one").await.1);
    assert!(b.revoked().await.contains(&(RevocationKind::Client, "a/b~c".into())));
}

#[tokio::test]
async fn every_kind_of_revocation_is_one_change() {
    let b = bench().await;
    let user = b.ask("POST", "/users", json!({ "username": "eve" })).await.body["id"].as_str().unwrap().to_owned();
    b.live(&user, "web", "one").await;
    let revoke = |kind: &'static str, id: String| b.ask("POST", "/revocations", json!({ "kind": kind, "id": id, "reason": "test" }));
    assert_eq!(revoke("grant", "g-one".into()).await.body["known"], true);
    assert_eq!(b.alive("one").await, (true, false));
    assert_eq!(revoke("session", "s-one".into()).await.status, StatusCode::OK);
    assert_eq!(b.alive("one").await, (false, false));
    b.live(&user, "web", "two").await;
    assert_eq!(revoke("subject", "eve".into()).await.body["id"], user);
    assert_eq!(b.alive("two").await, (false, false));
    b.live(&user, "web", "three").await;
    assert_eq!(revoke("client", "web".into()).await.body["known"], false);
    assert!(!b.alive("three").await.1);
    assert_eq!(revoke("token", "a-jti".into()).await.status, StatusCode::OK);
    assert_eq!(revoke("token", "e30.e30.b3Vycw".into()).await.body["id"], "from-jwt");
    assert_eq!(revoke("device", "d".into()).await.status, StatusCode::OK);
    assert_eq!(revoke("key", "k1".into()).await.body["key"]["reason"], "test");
    assert_eq!(revoke("key", "k2".into()).await.status, StatusCode::NOT_FOUND);
    let foreign = tokens::b64::encode(br#"{"iss":"https://other.example.com","jti":"from-jwt"}"#);
    let head = b.head().await;
    for not_ours in [format!("e30.{foreign}.c2ln"), "eyJhbGciOiJub25lIn0.e30.c2ln".to_owned()] {
        let told = revoke("token", not_ours.clone()).await;
        assert_eq!((told.status, told.errors()), (StatusCode::UNPROCESSABLE_ENTITY, vec!["id".to_owned()]), "{not_ours}");
    }
    assert_eq!(b.head().await, head, "nothing is recorded");
    for never_in_the_ledger in
        ["dwa_garbage", "dwc_a-code", "dws_a-secret", "dwic_a-request", "dwp_a-request", "dwd_a-device-code", "dwv_a-session"]
    {
        assert_eq!(revoke("token", never_in_the_ledger.into()).await.status, StatusCode::NOT_FOUND, "{never_in_the_ledger}");
    }
    assert_eq!(revoke("moon", "x".into()).await.errors(), ["kind"]);
    let revoked = b.revoked().await;
    for expected in [
        (RevocationKind::Grant, "g-one"),
        (RevocationKind::Session, "s-one"),
        (RevocationKind::Subject, user.as_str()),
        (RevocationKind::Client, "web"),
        (RevocationKind::Token, "a-jti"),
        (RevocationKind::Token, "from-jwt"),
        (RevocationKind::Device, "d"),
    ] {
        assert!(revoked.contains(&(expected.0, expected.1.to_owned())), "{expected:?}");
    }
    let events = b.get("/events?kind=grant.&limit=10").await.body;
    assert_eq!(events["items"][0]["data"]["actor"], "root");
    assert_eq!(events["items"][0]["grant"], "g-one");
}

#[tokio::test]
async fn an_opaque_token_is_revoked_by_its_text_and_a_refresh_token_with_its_family() {
    let b = bench().await;
    b.live("u", "web", "one").await;
    let mac = MacKey::new([7; 32]);
    let dice = Dice(Mutex::new(3));
    for (kind, row, document) in [
        (tokens::secret::SecretKind::Access, ArtefactKind::Access, json!({ "jti": "opaque-jti" })),
        (tokens::secret::SecretKind::Refresh, ArtefactKind::Refresh, json!({})),
    ] {
        let issued = tokens::secret::generate(kind, 1_700_000_000_000, &dice, &mac);
        let artefact = ledger::Artefact {
            kind: row,
            id: issued.id.to_vec(),
            mac: issued.mac.to_vec(),
            grant: Some("g-one".into()),
            document: document.to_string(),
            created_at: 1_700_000_000,
            expires_at: 1_800_000_000,
            consumed_at: None,
            successor: None,
            seq: 0,
        };
        let change = Change::new().step(Step::Put(artefact)).event(NewEvent::new(EventKind::TokenIssued, 1_700_000_000_000));
        assert!(b.store.apply(change).await.unwrap().applied());
        let told = b.ask("POST", "/revocations", json!({ "kind": "token", "id": issued.plain.expose() })).await;
        assert_eq!(told.status, StatusCode::OK);
        assert!(!told.body.to_string().contains(issued.plain.expose()));
    }
    assert_eq!(b.revoked().await, [(RevocationKind::Token, "opaque-jti".to_owned()), (RevocationKind::Grant, "g-one".to_owned())]);
}

#[tokio::test]
async fn what_people_allowed_a_deleted_client_is_forgotten() {
    let b = bench().await;
    let made = json!({ "client_id": "gone", "redirect_uris": ["https://rp.example.com/cb"], "scope": "openid" });
    assert_eq!(b.ask("POST", "/clients", made).await.status, StatusCode::CREATED);
    let consent =
        |client: &str| ledger::Consent { subject: "u".into(), client_id: client.into(), scopes: vec!["openid".into()], granted_at: 1 };
    let told = NewEvent::new(EventKind::ConsentGranted, 1);
    let change = Change::new().step(Step::PutConsent(consent("gone"))).step(Step::PutConsent(consent("kept"))).event(told);
    assert!(b.store.apply(change).await.unwrap().applied());
    assert_eq!(b.ask("DELETE", "/clients/gone", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert!(b.store.consent("u", "gone").await.unwrap().is_none());
    assert!(b.store.consent("u", "kept").await.unwrap().is_some());
}
