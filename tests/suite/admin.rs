//! The admin REST API: CRUD, ETag, errors, what a change ends.
use serde_json::{Value, json};

use crate::kit::http::{Go, client};
use crate::kit::seed::{API, APP, GW, HOME, MACHINE, PASSWORD};
use crate::kit::visitor::text;
use crate::kit::{Ask, Landing, Shared, Visitor};

static STAGE: Shared = Shared::new();

#[track_caller]
fn problem(answer: &crate::kit::Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.header("content-type").starts_with("application/problem+json"), "RFC 9457: {}", answer.header("content-type"));
    let body = answer.json();
    assert!(body["title"].is_string() || body["type"].is_string(), "{body}");
    if body["status"].is_number() {
        assert_eq!(body["status"], status);
    }
}

#[test]
fn every_kind_can_be_made_read_changed_and_deleted() {
    let stage = STAGE.get();
    for (path, object, id, change) in [
        ("/users", json!({"username": "eve", "password": PASSWORD, "name": "Eve"}), "eve", ("name", json!("Eve E"))),
        (
            "/clients",
            json!({"client_id": "made", "client_secret": "made-secret-0123456789abcdef0123456789abcdef", "grant_types": ["client_credentials"], "scope": "read", "allowed_resources": [API]}),
            "made",
            ("client_name", json!("Made")),
        ),
        (
            "/upstreams",
            json!({"id": "other", "targets": [{"url": "http://127.0.0.1:9"}]}),
            "other",
            ("targets", json!([{"url": "http://127.0.0.1:10"}])),
        ),
        (
            "/routes",
            json!({"id": "made", "match": {"path_prefix": "/made/"}, "upstream": "echo", "public": true}),
            "made",
            ("match", json!({"path_prefix": "/changed/"})),
        ),
        (
            "/trusted-issuers",
            json!({"issuer": "https://other.example.com", "jwks_uri": "https://other.example.com/jwks", "algorithms": ["ES256"]}),
            "",
            ("algorithms", json!(["RS256"])),
        ),
        (
            "/resource-servers",
            json!({"identifier": "https://made.example.com", "name": "Made", "scopes": [{"name": "made"}]}),
            "",
            ("name", json!("Changed")),
        ),
    ] {
        let made = stage.admin("POST", path).json(&object).go();
        assert_eq!(made.status, 201, "POST {path}: {}", made.text());
        let body = made.json();
        let id = if id.is_empty() { body["id"].as_str().expect("an id").to_owned() } else { id.to_owned() };
        let one = format!("{path}/{id}");
        let got = stage.admin("GET", &one).go().expect(200);
        let etag = got.header("etag").to_owned();
        assert!(!etag.is_empty(), "ETag of {one}");
        let mut next = got.json();
        assert!(next.get("password").is_none() && next.get("client_secret").is_none(), "{next}");
        next[change.0] = change.1.clone();
        problem(&stage.admin("PUT", &one).header("if-match", "\"stale\"").json(&next).go(), 412);
        let put = stage.admin("PUT", &one).header("if-match", &etag).json(&next).go();
        assert!([200, 204].contains(&put.status), "PUT {one}: {}", put.text());
        let now = stage.admin("GET", &one).go().expect(200);
        let same = now.json()[change.0] == change.1 || change.0 == "match" || change.0 == "targets";
        assert!(same, "{}", now.text());
        assert_ne!(now.header("etag"), etag);
        problem(&stage.admin("PUT", &one).header("if-match", &etag).json(&next).go(), 412);
        let gone = stage.admin("DELETE", &one).header("if-match", now.header("etag")).go();
        assert!([200, 204].contains(&gone.status), "DELETE {one}: {}", gone.text());
        problem(&stage.admin("GET", &one).go(), 404);
    }
}

#[test]
fn lists_have_pages_and_filters() {
    let stage = STAGE.get();
    let whole = stage.admin("GET", "/clients").go().expect(200).json();
    let count = whole["items"].as_array().unwrap().len();
    assert!(count >= 9 && whole.get("next").is_some(), "{whole}");
    let mut seen = Vec::new();
    let mut path = "/clients?limit=3".to_owned();
    loop {
        let page = stage.admin("GET", &path).go().expect(200).json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(|i| i["client_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/clients?limit=3&cursor={next}"),
            None => break,
        }
    }
    for id in ["machine", "web", "spa", "gw"] {
        assert_eq!(seen.iter().filter(|s| *s == id).count(), 1, "{id}: {seen:?}");
    }
    let bob = stage.admin("GET", "/users?username=bob").go().expect(200).json();
    assert_eq!(bob["items"].as_array().unwrap().len(), 1);
    assert_eq!(bob["items"][0]["username"], "bob");
    for path in ["/sessions", "/grants", "/events", "/keys", "/resource-servers", "/routes", "/upstreams", "/trusted-issuers"] {
        assert!(stage.admin("GET", path).go().expect(200).json()["items"].is_array(), "{path}");
    }
    assert!(stage.admin("GET", "/stats").go().expect(200).json()["panics"] == 0);
    assert!(stage.admin("GET", "/policy").go().expect(200).json().is_object());
    let openapi = stage.admin("GET", "/openapi.json").go().expect(200).json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in ["/admin/v1/users", "/admin/v1/revocations", "/admin/v1/keys/rotate"] {
        let short = path.trim_start_matches("/admin/v1");
        assert!(openapi["paths"].get(path).is_some() || openapi["paths"].get(short).is_some(), "{path}");
    }
}

#[test]
fn only_an_admins_token_opens_it() {
    let stage = STAGE.get();
    let url = format!("http://{}/admin/v1/users", stage.listener("admin"));
    problem(&client().get(&url).go(), 401);
    problem(&client().get(&url).bearer_auth("nonsense").go(), 401);
    problem(&client().get(&url).bearer_auth(stage.machine_token(&MACHINE, &[])).go(), 401);
    let gw = client().get(&url).bearer_auth(stage.machine_token(&GW, &[("scope", "doorward.feed")])).go();
    problem(&gw, 403);
    let person = text(&stage.person_tokens(&HOME, "alice"), "access_token");
    assert!([401, 403].contains(&client().get(&url).bearer_auth(person).go().status));
    let public = client().get(stage.url("/admin/v1/users")).bearer_auth(stage.admin_token()).go();
    assert_eq!(public.status, 404, "the public listener has no admin API");
}

#[test]
fn mistakes_are_problems_and_change_nothing() {
    let stage = STAGE.get();
    for (path, body, status) in [
        ("/clients", json!({"client_id": "x", "unknown_member": 1}), vec![400, 422]),
        ("/clients", json!({"client_id": "x", "redirect_uris": ["javascript:alert(1)"]}), vec![400, 422]),
        ("/clients", json!({"client_id": "x", "redirect_uris": ["https://x.example.com/#f"]}), vec![400, 422]),
        ("/clients", json!({"client_id": "x", "redirect_uris": ["https://*.example.com/cb"]}), vec![400, 422]),
        (
            "/clients",
            json!({"client_id": "x", "token_endpoint_auth_method": "none", "require_pkce": false, "redirect_uris": ["https://x.example.com/"]}),
            vec![400, 422],
        ),
        ("/clients", json!([]), vec![400, 422]),
        ("/users", json!({"username": ""}), vec![400, 422]),
        ("/users", json!({"username": "y", "password": "x".repeat(129)}), vec![400, 422]),
        ("/users", json!({"username": "alice", "password": PASSWORD}), vec![409]),
        (
            "/routes",
            json!({"id": "r", "match": {"path_prefix": "/r/"}, "upstream": "no-such-upstream", "public": true}),
            vec![400, 409, 422],
        ),
        ("/routes", json!({"id": "r", "match": {"path_prefix": "r"}, "upstream": "echo", "public": true}), vec![400, 422]),
        ("/resource-servers", json!({"identifier": "not a uri"}), vec![400, 422]),
        ("/trusted-issuers", json!({"issuer": "ftp://x", "jwks_uri": "x", "algorithms": ["none"]}), vec![400, 422]),
    ] {
        let answer = stage.admin("POST", path).json(&body).go();
        assert!(status.contains(&answer.status), "POST {path} {body}: {} {}", answer.status, answer.text());
        problem(&answer, answer.status);
    }
    let broken = stage.admin("POST", "/users").header("content-type", "application/json").body("{").go();
    problem(&broken, 400);
    let alone = || {
        let url = format!("http://{}/admin/v1/users", stage.listener("admin"));
        crate::kit::http::alone().post(url).bearer_auth(stage.admin_token())
    };
    let deep = alone().header("content-type", "application/json").body("[".repeat(5000)).go();
    assert!((400..500).contains(&deep.status));
    let huge = alone().json(&json!({"username": "z", "name": "n".repeat(300_000)})).go();
    assert!([400, 413].contains(&huge.status), "{}", huge.status);
    assert_eq!(stage.admin("GET", "/clients/x").go().status, 404);
    assert_eq!(stage.metric("panics_total"), 0.0);
}

fn can_log_in(username: &str, password: &str) -> bool {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let page = visitor.open(&Ask::new(&HOME).url(stage)).kind("login");
    matches!(visitor.login(&page, username, password), Landing::Away(_))
}

#[test]
fn disabling_a_person_ends_everything_of_theirs() {
    let stage = STAGE.get();
    let made = stage.admin("POST", "/users").json(&json!({"username": "frank", "password": PASSWORD})).go();
    assert_eq!(made.status, 201, "{}", made.text());
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&APP), "frank");
    let access = text(&tokens, "access_token");
    assert_eq!(stage.call("/api/x", &access).status, 200);
    let done = stage.admin("POST", "/users/frank/disable").go();
    assert!([200, 204].contains(&done.status), "{}", done.text());
    assert_eq!(stage.call("/api/x", &access).status, 401);
    assert!(!stage.active(&access));
    stage.refresh(&APP, &text(&tokens, "refresh_token")).expect_error(400, "invalid_grant");
    let silent = Ask::new(&HOME).with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
    assert!(!can_log_in("frank", PASSWORD));
    let done = stage.admin("POST", "/users/frank/enable").go();
    assert!([200, 204].contains(&done.status));
    assert!(can_log_in("frank", PASSWORD));
    // What was ended stays ended.
    assert_eq!(stage.call("/api/x", &access).status, 401);
}

#[test]
fn a_password_change_ends_sessions_and_grants() {
    let stage = STAGE.get();
    stage.admin("POST", "/users").json(&json!({"username": "gina", "password": PASSWORD})).go().expect(201);
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&APP), "gina");
    let done = stage.admin("POST", "/users/gina/password").json(&json!({"password": "a new and better password"})).go();
    assert!([200, 204].contains(&done.status), "{}", done.text());
    stage.refresh(&APP, &text(&tokens, "refresh_token")).expect_error(400, "invalid_grant");
    let silent = Ask::new(&HOME).with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
    assert!(!can_log_in("gina", PASSWORD));
    assert!(can_log_in("gina", "a new and better password"));
}

#[test]
fn revocations_of_every_kind_reach_the_gateway() {
    let stage = STAGE.get();
    let revoke = |kind: &str, id: &str| {
        let answer = stage.admin("POST", "/revocations").json(&json!({"kind": kind, "id": id, "reason": "test"})).go();
        assert!((200..300).contains(&answer.status), "{kind}: {}", answer.text());
    };
    let token = stage.machine_token(&MACHINE, &[]);
    revoke("token", crate::kit::http::claims(&token)["jti"].as_str().unwrap());
    assert_eq!(stage.call("/api/x", &token).status, 401, "token");
    let (token, tokens) = (stage.machine_token(&MACHINE, &[]), stage.person_tokens(&APP, "carol"));
    let access = text(&tokens, "access_token");
    let sub = crate::kit::http::claims(&access)["sub"].as_str().unwrap().to_owned();
    revoke("subject", &sub);
    assert_eq!(stage.call("/api/x", &access).status, 401, "subject");
    assert_eq!(stage.call("/api/x", &token).status, 200, "somebody else");
    stage.refresh(&APP, &text(&tokens, "refresh_token")).expect_error(400, "invalid_grant");
    // New tokens of the same subject and client are good again: a revocation is about what was issued before.
    assert_eq!(stage.call("/api/x", &text(&stage.person_tokens(&APP, "carol"), "access_token")).status, 200);
}

#[test]
fn a_jwt_is_revoked_by_its_text_only_if_this_server_signed_it() {
    use crate::kit::forge::{Key, good_claims};
    let stage = STAGE.get();
    let revoke = |id: &str| stage.admin("POST", "/revocations").json(&json!({"kind": "token", "id": id})).go();
    let newest = || stage.admin("GET", "/stats").go().expect(200).json()["rows"]["revocations"].clone();
    let (token, stranger, before) = (stage.machine_token(&MACHINE, &[]), Key::new("stranger"), newest());
    let (signed, _) = token.rsplit_once('.').unwrap();
    let mut claims = good_claims("https://other.example.com");
    claims["jti"] = crate::kit::http::claims(&token)["jti"].clone();
    let foreign = stranger.sign(&stranger.header(), &claims);
    claims["iss"] = stage.issuer.as_str().into();
    let forged = stranger.sign(&stranger.header(), &claims);
    for not_ours in [foreign, forged, format!("{signed}.AAAA"), format!("{signed}."), "eyJhbGciOiJub25lIn0.e30.".to_owned()] {
        let told = revoke(&not_ours).expect(422);
        assert!(told.header("content-type").starts_with("application/problem+json"), "{}", told.text());
    }
    assert_eq!(stage.call("/api/x", &token).status, 200, "nothing was recorded");
    assert_eq!(newest(), before);
    assert_eq!(revoke(&token).expect(200).json()["known"], true);
    assert_eq!(stage.call("/api/x", &token).status, 401);
    revoke("an-id-by-itself").expect(200);
}

#[test]
fn an_identifier_that_clients_name_is_not_taken_from_them() {
    let stage = STAGE.get();
    let kept = stage.admin("DELETE", &format!("/resource-servers/{}", API.replace(':', "%3A").replace('/', "%2F"))).go().expect(409);
    assert!(kept.text().contains("allowed_resources"), "{}", kept.text());
    stage.machine_token(&MACHINE, &[]);
    let wrong = stage.admin("POST", "/users").json(&json!({"username": "mailless", "email": "notmail"})).go().expect(422);
    assert!(wrong.text().contains("\"email\""), "{}", wrong.text());
}

#[test]
fn a_client_revocation_ends_its_tokens_and_a_deletion_the_client() {
    let stage = STAGE.get();
    let secret = "doomed-secret-0123456789abcdef0123456789abcdef";
    let object = json!({"client_id": "doomed", "client_secret": secret, "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "read", "allowed_resources": [API]});
    stage.admin("POST", "/clients").json(&object).go().expect(201);
    let doomed = crate::kit::Id { id: "doomed", secret: "doomed-secret-0123456789abcdef0123456789abcdef", ..MACHINE };
    let token = stage.machine_token(&doomed, &[]);
    assert_eq!(stage.call("/api/x", &token).status, 200);
    let answer = stage.admin("POST", "/revocations").json(&json!({"kind": "client", "id": "doomed"})).go();
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    assert_eq!(stage.call("/api/x", &token).status, 401);
    let token = stage.machine_token(&doomed, &[]);
    assert_eq!(stage.call("/api/x", &token).status, 200);
    let gone = stage.admin("DELETE", "/clients/doomed").go();
    assert!([200, 204].contains(&gone.status), "{}", gone.text());
    assert_eq!(stage.call("/api/x", &token).status, 401);
    stage.token(&doomed, &[("grant_type", "client_credentials")]).expect_error(401, "invalid_client");
}

#[test]
fn a_rotated_secret_replaces_the_old_one() {
    let stage = STAGE.get();
    let object = json!({"client_id": "rotating", "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic", "scope": "read", "allowed_resources": [API]});
    let made = stage.admin("POST", "/clients").json(&object).go().expect(201).json();
    let first = text(&made, "client_secret");
    let next = stage.admin("POST", "/clients/rotating/rotate-secret").go();
    assert_eq!(next.status, 200, "{}", next.text());
    let second = text(&next.json(), "client_secret");
    assert_ne!(first, second);
    let ask = |secret: &str| {
        client().post(stage.url("/token")).basic_auth("rotating", Some(secret)).form(&[("grant_type", "client_credentials")]).go().status
    };
    assert_eq!((ask(&first), ask(&second)), (401, 200));
}

#[test]
fn sessions_and_grants_can_be_seen_and_ended() {
    let stage = STAGE.get();
    let mut visitor = Visitor::new();
    let tokens = visitor.tokens(stage, &Ask::new(&APP), "bob");
    let access = text(&tokens, "access_token");
    let facts = crate::kit::http::claims(&access);
    let find = |list: &Value, id: &Value| list["items"].as_array().unwrap().iter().any(|i| &i["id"] == id);
    let grants = stage.admin("GET", "/grants?limit=500").go().expect(200).json();
    assert!(find(&grants, &facts["grant"]), "{grants}");
    let gone = stage.admin("DELETE", &format!("/grants/{}", facts["grant"].as_str().unwrap())).go();
    assert!([200, 204].contains(&gone.status), "{}", gone.text());
    assert_eq!(stage.call("/api/x", &access).status, 401);
    let tokens = visitor.tokens(stage, &Ask::new(&APP), "bob");
    let access = text(&tokens, "access_token");
    let sid = crate::kit::http::claims(&text(&tokens, "id_token"))["sid"].clone();
    let gone = stage.admin("DELETE", &format!("/sessions/{}", sid.as_str().unwrap())).go();
    assert!([200, 204].contains(&gone.status), "{}", gone.text());
    assert_eq!(stage.call("/api/x", &access).status, 401);
    let silent = Ask::new(&HOME).with("prompt", "none");
    assert_eq!(visitor.open(&silent.url(stage)).error(stage), "login_required");
}

#[test]
fn a_changed_route_counts_from_the_answer_on() {
    let stage = STAGE.get();
    let route = |prefix: &str| json!({"id": "moving", "match": {"path_prefix": prefix}, "upstream": "echo", "public": true});
    stage.admin("POST", "/routes").json(&route("/moving/")).go().expect(201);
    assert_eq!(client().get(stage.through("/moving/x")).go().status, 200);
    let etag = stage.admin("GET", "/routes/moving").go().expect(200).header("etag").to_owned();
    let put = stage.admin("PUT", "/routes/moving").header("if-match", etag).json(&route("/moved/")).go();
    assert!([200, 204].contains(&put.status), "{}", put.text());
    assert_eq!(client().get(stage.through("/moved/x")).go().status, 200);
    assert!([403, 404].contains(&client().get(stage.through("/moving/x")).go().status));
    stage.admin("DELETE", "/routes/moving").go();
    assert!([403, 404].contains(&client().get(stage.through("/moved/x")).go().status));
}

#[test]
fn keys_rotate_without_a_refused_token_and_a_revoked_key_kills_its_tokens() {
    let stage = crate::kit::Stage::start(|_| {});
    let before = stage.machine_token(&MACHINE, &[]);
    let rotated = stage.admin("POST", "/keys/rotate").go();
    assert!((200..300).contains(&rotated.status), "{}", rotated.text());
    let after = stage.machine_token(&MACHINE, &[]);
    assert_eq!(stage.call("/api/x", &before).status, 200);
    assert_eq!(stage.call("/api/x", &after).status, 200);
    let (old, new) = (crate::kit::http::jose_header(&before)["kid"].clone(), crate::kit::http::jose_header(&after)["kid"].clone());
    assert_ne!(old, new);
    let jwks = client().get(stage.url("/jwks")).go().expect(200).text();
    assert!(jwks.contains(old.as_str().unwrap()) && jwks.contains(new.as_str().unwrap()));
    let done = stage.admin("POST", &format!("/keys/{}/revoke", old.as_str().unwrap())).go();
    assert!((200..300).contains(&done.status), "{}", done.text());
    assert_eq!(stage.call("/api/x", &before).status, 401);
    assert!(!stage.active(&before));
    assert_eq!(stage.call("/api/x", &after).status, 200);
    // The emergency: the key that signs right now. There is a successor at once.
    let done = stage.admin("POST", &format!("/keys/{}/revoke", new.as_str().unwrap())).go();
    assert!((200..300).contains(&done.status), "{}", done.text());
    let fresh = stage.machine_token(&MACHINE, &[]);
    assert_eq!(stage.call("/api/x", &fresh).status, 200);
}

#[test]
fn events_tell_the_story_in_order_and_hold_no_secret() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    stage.revoke(&MACHINE, &token);
    let text = stage.admin("GET", "/events?limit=1000").go().expect(200).text();
    assert!(text.contains("token.revoked"), "{}", &text[..text.len().min(500)]);
    for secret in [MACHINE.secret, PASSWORD, token.as_str(), "dwr_", "dwc_"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn a_disabled_client_is_nobody_and_its_tokens_are_dead() {
    let stage = crate::kit::Stage::start(|_| {});
    let token = stage.machine_token(&MACHINE, &[]);
    assert_eq!(stage.call("/api/x", &token).status, 200);
    let got = stage.admin("GET", "/clients/machine").go().expect(200);
    let mut object = got.json();
    object["disabled"] = json!(true);
    let put = stage.admin("PUT", "/clients/machine").header("if-match", got.header("etag")).json(&object).go();
    assert!([200, 204].contains(&put.status), "{}", put.text());
    assert_eq!(stage.call("/api/x", &token).status, 401);
    assert!(!stage.active(&token));
    stage.token(&MACHINE, &[("grant_type", "client_credentials")]).expect_error(401, "invalid_client");
}

#[test]
fn a_disabled_or_deleted_person_by_whatever_road_is_out() {
    let stage = crate::kit::Stage::start(|_| {});
    for (username, by_put) in [("alice", true), ("bob", false)] {
        let tokens = stage.person_tokens(&APP, username);
        let access = text(&tokens, "access_token");
        let one = format!("/users/{username}");
        let got = stage.admin("GET", &one).go().expect(200);
        let done = if by_put {
            let mut object = got.json();
            object["disabled"] = json!(true);
            stage.admin("PUT", &one).header("if-match", got.header("etag")).json(&object).go()
        } else {
            stage.admin("DELETE", &one).go()
        };
        assert!([200, 204].contains(&done.status), "{}", done.text());
        assert_eq!(stage.call("/api/x", &access).status, 401, "{username}");
        stage.refresh(&APP, &text(&tokens, "refresh_token")).expect_error(400, "invalid_grant");
    }
}

#[test]
fn what_others_need_is_not_deleted_from_under_them() {
    let stage = STAGE.get();
    let answer = stage.admin("DELETE", "/upstreams/echo").go();
    problem(&answer, 409);
    let token = stage.machine_token(&MACHINE, &[]);
    assert_eq!(stage.call("/api/x", &token).status, 200);
}
