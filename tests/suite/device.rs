//! Device authorization (RFC 8628).
use std::sync::Barrier;
use std::time::Duration;

use crate::kit::apart::{DEVICE_CODE, KIOSK, TV, arrive, asked, begin, devices, poll, stage};
use crate::kit::http::{claims, client};
use crate::kit::seed::WEB;
use crate::kit::server::free_port;
use crate::kit::visitor::text;
use crate::kit::{Go, House, Landing, Server, Stage, Upstream, Visitor, services};

static STAGE: std::sync::OnceLock<Stage> = std::sync::OnceLock::new();

fn server() -> &'static Server {
    &STAGE.get_or_init(|| stage(|_| {}, &devices())).server
}

#[test]
fn a_device_gets_its_tokens_once_its_person_said_yes() {
    let server = server();
    let metadata = client().get(server.url("/.well-known/openid-configuration")).go().expect(200).json();
    assert_eq!(metadata["device_authorization_endpoint"], server.url("/device_authorization"));
    let begun = begin(server, &TV, &[("scope", "openid offline_access read")]);
    assert_eq!(begun["verification_uri"], server.url("/device"));
    assert_eq!((begun["interval"].as_i64(), begun["expires_in"].as_i64()), (Some(5), Some(600)));
    let code = text(&begun, "user_code");
    assert!(code.len() == 9 && code.bytes().all(|b| b"BCDFGHJKLMNPQRSTVWXZ-".contains(&b)), "{code}");
    poll(server, &TV, &begun).expect_error(400, "authorization_pending");
    poll(server, &TV, &begun).expect_error(400, "slow_down");
    let mut person = Visitor::new();
    let page = asked(&mut person, server, &begun, "alice");
    assert_eq!(page.text_of("client-name"), "The Television");
    assert!(page.has("scope-read") && page.has("device-warning") && page.text_of("device-code") == code);
    let done = person.send(&page.press("device-approve")).kind("device");
    assert!(done.has("device-approved"));
    // Whoever was hasty is not punished once there is an answer.
    let answer = poll(server, &TV, &begun).expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    let access = text(&tokens, "access_token");
    let told = claims(&text(&tokens, "id_token"));
    assert_eq!(told["aud"], "tv");
    assert!(told["sid"].is_string() && told["at_hash"].is_string() && told["auth_time"].is_i64());
    assert_eq!(claims(&access)["sid"], told["sid"]);
    assert_eq!(server.call("/api/things", &access).status, 200);
    poll(server, &TV, &begun).expect_error(400, "invalid_grant");
    let again = server.refresh(&TV, &text(&tokens, "refresh_token")).expect(200).json();
    assert!(server.active(&text(&again, "access_token")));
    // The grant is the person's to take back.
    let account = arrive(&mut person, &server.url("/account"), "alice");
    assert!(account.answer.text().contains("The Television"));
}

#[test]
fn a_typed_code_is_read_in_any_case_and_needs_a_login_and_a_yes() {
    let server = server();
    let begun = begin(server, &KIOSK, &[]);
    let mut person = Visitor::new();
    let login = person.open(&server.url("/device")).kind("login");
    let page = person.login(&login, "bob", crate::kit::seed::PASSWORD).kind("device");
    assert!(page.has("user-code") && !page.has("device-approve"));
    let typed = text(&begun, "user_code").replace('-', " ").to_lowercase();
    let page = person.send(&page.press("device-continue").fill("user_code", &typed)).kind("device");
    poll(server, &KIOSK, &begun).expect_error(400, "authorization_pending");
    // The prefilled link alone gives nothing away either.
    let prefilled = person.open(begun["verification_uri_complete"].as_str().unwrap()).kind("device");
    assert!(!prefilled.has("device-approve"));
    let done = person.send(&page.press("device-deny")).kind("device");
    assert!(done.has("device-denied"));
    poll(server, &KIOSK, &begun).expect_error(400, "access_denied");
    poll(server, &KIOSK, &begun).expect_error(400, "access_denied");
    // Nobody answers twice.
    assert_eq!(person.send(&page.press("device-approve")).kind("device").status(), 422);
}

#[test]
fn a_device_code_is_its_clients_and_nobody_elses() {
    let server = server();
    let begun = begin(server, &TV, &[]);
    poll(server, &KIOSK, &begun).expect_error(400, "invalid_grant");
    poll(server, &WEB, &begun).expect_error(400, "unauthorized_client");
    server.post("/device_authorization", &WEB, &[]).expect_error(400, "unauthorized_client");
    server.post("/device_authorization", &KIOSK, &[("scope", "write")]).expect_error(400, "invalid_scope");
    server.post("/device_authorization", &KIOSK, &[("resource", "https://else.example.com")]).expect_error(400, "invalid_target");
    let detail = ("authorization_details", r#"[{"type":"payment"}]"#);
    server.post("/device_authorization", &KIOSK, &[detail]).expect_error(400, "invalid_authorization_details");
    for code in ["", "nonsense", "dwd_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let code = [("grant_type", DEVICE_CODE), ("device_code", code)];
        assert_eq!(server.token(&TV, &code).status, 400);
    }
    let wrong = crate::kit::Id { secret: "wrong", ..KIOSK };
    server.post("/device_authorization", &wrong, &[]).expect_error(401, "invalid_client");
}

#[test]
fn a_device_form_of_another_site_browser_or_code_does_nothing() {
    let server = server();
    let (first, second) = (begin(server, &TV, &[]), begin(server, &TV, &[]));
    let mut person = Visitor::new();
    let page = asked(&mut person, server, &first, "carol");
    let press = page.press("device-approve");
    assert_eq!(person.send_from(&press, Some("https://evil.example")).page().status(), 403);
    assert_eq!(person.send(&press.clone().fill("user_code", &text(&second, "user_code"))).page().status(), 403);
    let mut other = Visitor::new();
    asked(&mut other, server, &second, "bob");
    assert_eq!(other.send(&press).page().status(), 403);
    assert_eq!(Visitor::new().send(&press).page().status(), 403);
    poll(server, &TV, &first).expect_error(400, "authorization_pending");
}

#[test]
fn guessing_user_codes_is_limited_by_account() {
    let server = server();
    let mut person = Visitor::from("127.0.0.77");
    let mut page = arrive(&mut person, &server.url("/device"), "bob");
    let mut refused = 0;
    for _ in 0..20 {
        let Landing::Page(next) = person.send(&page.press("device-continue").fill("user_code", "BBBB-BBBB")) else { panic!("a page") };
        match next.status() {
            422 => page = next,
            429 => {
                refused += 1;
                assert!(!next.answer.header("retry-after").is_empty());
            }
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 5, "{refused}");
}

#[test]
fn an_expired_device_code_says_so_and_its_user_code_is_none() {
    let stage = stage(
        |house| {
            house.text("lifetimes.device_code", "2s");
        },
        &devices(),
    );
    let begun = begin(&stage, &TV, &[]);
    let mut person = Visitor::new();
    let page = asked(&mut person, &stage, &begun, "alice");
    std::thread::sleep(Duration::from_millis(3100));
    poll(&stage, &TV, &begun).expect_error(400, "expired_token");
    assert_eq!(person.send(&page.press("device-approve")).kind("device").status(), 422);
    poll(&stage, &TV, &begun).expect_error(400, "expired_token");
}

#[test]
fn ending_the_grant_or_the_session_of_an_approval_leaves_the_device_with_nothing() {
    let server = server();
    let begun = begin(server, &KIOSK, &[]);
    let mut person = Visitor::new();
    let page = asked(&mut person, server, &begun, "alice");
    person.send(&page.press("device-approve")).kind("device");
    let bye = person.open(&server.url("/logout")).kind("logout");
    person.send(&bye.press("logout-confirm"));
    poll(server, &KIOSK, &begun).expect_error(400, "invalid_grant");
}

/// Two nodes on one PostgreSQL; yes at one and no at the other in the same moment, then both polled at once.
#[test]
fn yes_and_no_raced_at_two_nodes_have_one_winner_and_the_code_one_use() {
    let Some(database) = services::postgres() else { return };
    let upstream = Upstream::start();
    let mut house = House::new();
    house.text("storage.url", &database);
    house.bootstrap();
    house.seed(&crate::kit::standard(&upstream.url()));
    house.seed(&devices());
    let a = house.serve();
    let mut second = house.another("second.toml");
    second.text("server.public_listen", &format!("127.0.0.1:{}", free_port()));
    let b = second.serve();
    let mut won = (0, 0);
    for _ in 0..12 {
        let begun = begin(&a, &TV, &[("scope", "openid read")]);
        let mut person = Visitor::new();
        let page = asked(&mut person, &a, &begun, "alice");
        let (yes, no) = (page.press("device-approve"), page.press("device-deny"));
        let elsewhere = no.action.replace(&a.issuer, &format!("http://{}", b.listener("public")));
        let cookies = person.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("; ");
        let send = |url: &str, fields: &[(String, String)]| {
            client().post(url).header("origin", &a.issuer).header("cookie", &cookies).form(fields).go().status
        };
        let start = Barrier::new(2);
        let (said_yes, said_no) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                start.wait();
                send(&elsewhere, &no.fields)
            });
            start.wait();
            (send(&yes.action, &yes.fields), other.join().expect("an answer"))
        });
        assert_eq!([said_yes, said_no].iter().filter(|s| **s == 200).count(), 1, "{said_yes} {said_no}");
        let form = [("grant_type", DEVICE_CODE), ("device_code", begun["device_code"].as_str().unwrap())];
        let start = Barrier::new(2);
        let (first, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                start.wait();
                TV.post(&format!("http://{}/token", b.listener("public")), &form).go()
            });
            start.wait();
            (TV.post(&a.url("/token"), &form).go(), other.join().expect("an answer"))
        });
        let good = [first.status, other.status].iter().filter(|s| **s == 200).count();
        assert_eq!(good, usize::from(said_yes == 200), "{} {}", first.text(), other.text());
        if said_yes == 200 { won.0 += 1 } else { won.1 += 1 }
    }
    println!("yes won {} times, no {}", won.0, won.1);
}
