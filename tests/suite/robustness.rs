//! Nonsense of every kind, at every door: no fault, no panic, and the next honest request is served.
use std::io::Write as _;
use std::time::Duration;

use crate::kit::http::{Go, alone, client};
use crate::kit::seed::{APP, GW, HOME, MACHINE, SAFE, WEB};
use crate::kit::visitor::text;
use crate::kit::{Ask, Shared, Stage, Visitor, raw};

static STAGE: Shared = Shared::new();

const ODD: [&str; 16] = [
    "",
    " ",
    "\0",
    "%",
    "%00%ff",
    "\u{202e}evil\u{feff}",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "../../etc/passwd",
    "\r\nSet-Cookie: a=b",
    "[]",
    "{\"a\":",
    "-1",
    "99999999999999999999999999",
    "a b c",
    "dwc_dwr_dwa_",
];

#[track_caller]
fn unharmed(stage: &Stage) {
    assert_eq!(stage.metric("panics_total"), 0.0);
    assert_eq!(stage.call("/api/x", &stage.machine_token(&MACHINE, &[])).status, 200);
}

#[test]
fn odd_parameters_of_an_authorization_request() {
    let stage = STAGE.get();
    let names = [
        "client_id",
        "redirect_uri",
        "response_type",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
        "response_mode",
        "prompt",
        "max_age",
        "display",
        "ui_locales",
        "id_token_hint",
        "login_hint",
        "acr_values",
        "claims",
        "claims_locales",
        "request",
        "request_uri",
        "resource",
        "registration",
        "dpop_jkt",
        "authorization_details",
    ];
    for name in names {
        for value in ODD.iter().map(|v| (*v).to_owned()).chain(["x".repeat(3000)]) {
            let answer = client().get(Ask::new(&HOME).with(name, &value).url(stage)).go();
            assert!(answer.status < 500, "{name}={value:?}: {} {}", answer.status, answer.text());
            // A cookie of that name; within a name or value of random characters it is nothing.
            let written = answer.headers.contains_key("a") || answer.all_cookies().lines().any(|cookie| cookie.starts_with("a="));
            assert!(!written, "{name}={value:?} wrote a header");
            assert!(!answer.text().contains("<script>alert"), "{name}={value:?} came back as markup");
        }
    }
    unharmed(stage);
}

#[test]
fn odd_parameters_of_the_form_endpoints() {
    let stage = STAGE.get();
    let names = [
        "grant_type",
        "code",
        "redirect_uri",
        "code_verifier",
        "refresh_token",
        "scope",
        "resource",
        "token",
        "token_type_hint",
        "client_assertion",
        "client_assertion_type",
        "audience",
        "subject_token",
    ];
    for name in names {
        for value in ODD {
            for (path, who, base) in [
                (
                    "/token",
                    &WEB,
                    vec![("grant_type", "authorization_code"), ("code", "x"), ("code_verifier", "y"), ("redirect_uri", WEB.redirect)],
                ),
                ("/token", &WEB, vec![("grant_type", "refresh_token"), ("refresh_token", "x")]),
                ("/token", &MACHINE, vec![("grant_type", "client_credentials")]),
                ("/introspect", &GW, vec![("token", "x")]),
                ("/revoke", &GW, vec![("token", "x")]),
            ] {
                let mut form: Vec<(&str, &str)> = base.into_iter().filter(|(k, _)| *k != name).collect();
                form.push((name, value));
                let answer = stage.post(path, who, &form);
                assert!(answer.status < 500, "{path} {name}={value:?}: {} {}", answer.status, answer.text());
            }
        }
    }
    unharmed(stage);
}

#[test]
fn odd_credentials_everywhere() {
    let stage = STAGE.get();
    for value in ODD.iter().filter(|v| !v.contains(['\0', '\r', '\n']) && v.is_ascii()) {
        for scheme in ["Bearer", "Basic", "DPoP", "ApiKey", "bearer"] {
            for url in [
                stage.through("/api/x"),
                stage.url("/userinfo"),
                stage.url("/feed"),
                format!("http://{}/admin/v1/users", stage.listener("admin")),
            ] {
                let answer = client().get(&url).header("authorization", format!("{scheme} {value}")).go();
                assert!([400, 401, 403].contains(&answer.status), "{url} {scheme} {value:?}: {}", answer.status);
            }
        }
    }
    unharmed(stage);
}

#[test]
fn every_spoilt_form_of_every_token_is_refused() {
    let stage = STAGE.get();
    let person = stage.person_tokens(&APP, "alice");
    let refresh = text(&person, "refresh_token");
    let safe = stage.machine_token(&SAFE, &[]);
    for (n, token) in [&refresh, &safe].into_iter().enumerate() {
        for at in (0..token.len()).step_by(7) {
            let mut spoilt = token.clone().into_bytes();
            spoilt[at] = if spoilt[at] == b'A' { b'B' } else { b'A' };
            let spoilt = String::from_utf8(spoilt).unwrap();
            if n == 0 {
                stage.refresh(&APP, &spoilt).expect_error(400, "invalid_grant");
            } else {
                assert!(!stage.active(&spoilt), "position {at}");
            }
        }
        let cut = &token[..token.len() - 4];
        assert!(!stage.active(cut) && !stage.active(&format!("{token}AAAA")) && !stage.active(&format!(" {token}")));
    }
    // None of that touched the real ones.
    assert!(stage.active(&safe));
    stage.refresh(&APP, &refresh).expect(200);
}

#[test]
fn odd_requests_to_the_admin_api() {
    let stage = STAGE.get();
    for path in [
        "/users?limit=0",
        "/users?limit=-1",
        "/users?limit=abc",
        "/users?limit=999999999",
        "/users?cursor=%00",
        "/users?cursor=zzz",
        "/users?username=%27",
        "/users?nonsense=1",
        "/users/%2e%2e",
        "/users/%00",
        "/users/%ff",
        "/users/a%2fb",
        "/keys/x/revoke",
        "/events?after=-1",
        "/grants/x",
        "/sessions/%22",
        "/nothing",
        "/users/alice/nothing",
        "//users",
    ] {
        for method in ["GET", "DELETE", "POST", "PATCH"] {
            let answer = stage.admin(method, path).go();
            assert!(answer.status < 500, "{method} {path}: {} {}", answer.status, answer.text());
            if answer.status >= 400 {
                assert!(
                    answer.header("content-type").starts_with("application/problem+json"),
                    "{method} {path}: {}",
                    answer.header("content-type")
                );
            }
        }
    }
    for body in [
        "",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{\"username\":1}",
        "{\"username\":\"a\",\"username\":\"b\"}",
        "{\"id\":\"chosen\",\"username\":\"c\"}",
        "\u{feff}{}",
        "{\"kind\":\"token\"}",
        "{\"kind\":\"nonsense\",\"id\":\"x\"}",
        "{\"password\":1}",
    ] {
        for path in
            ["/users", "/clients", "/routes", "/upstreams", "/revocations", "/resource-servers", "/trusted-issuers", "/users/bob/password"]
        {
            let request = stage.admin("POST", path).header("content-type", "application/json");
            let answer = request.body(body).go();
            assert!((200..500).contains(&answer.status), "{path} {body}: {} {}", answer.status, answer.text());
        }
    }
    let plain = stage.admin("POST", "/users").header("content-type", "text/plain").body("{}").go();
    assert!([400, 415, 422].contains(&plain.status), "{}", plain.status);
    unharmed(stage);
}

/// A small generator, the same every time (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("small")
    }
}

#[test]
fn bytes_at_random_at_every_listener() {
    let stage = STAGE.get();
    let token = stage.machine_token(&MACHINE, &[]);
    let honest: Vec<Vec<u8>> = [
        format!("GET /api/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"),
        "POST /public/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
        "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 29\r\n\r\ngrant_type=client_credentials".into(),
        "GET /authorize?client_id=web&response_type=code HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for listener in ["public", "gateway", "admin", "metrics"] {
        let address = stage.listener(listener);
        for _ in 0..120 {
            let mut bytes = honest[dice.roll(honest.len())].clone();
            for _ in 0..=dice.roll(6) {
                let at = dice.roll(bytes.len());
                match dice.roll(4) {
                    0 => bytes[at] = u8::try_from(dice.roll(256)).expect("a byte"),
                    1 => bytes.insert(at, b"\r\n\0 :%\xff"[dice.roll(7)]),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
                if bytes.is_empty() {
                    bytes.push(b' ');
                }
            }
            let mut stream = raw::connect(&address);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let answer = raw::read_rest(&mut stream, Duration::from_millis(400));
            assert!(answer.status != 500, "{listener}: {:?} gave {}", String::from_utf8_lossy(&bytes), answer.text);
        }
    }
    unharmed(stage);
}

#[test]
fn many_connections_that_say_nothing_do_not_stop_the_others() {
    let stage = STAGE.get();
    let idle: Vec<_> = (0..300).flat_map(|_| [raw::connect(&stage.listener("public")), raw::connect(&stage.listener("gateway"))]).collect();
    assert_eq!(alone().get(stage.url("/healthz")).go().status, 200);
    unharmed(stage);
    drop(idle);
}

#[test]
fn a_login_flood_does_not_starve_introspection() {
    let stage = STAGE.get();
    let token = stage.machine_token(&SAFE, &[]);
    std::thread::scope(|scope| {
        for n in 0..12 {
            scope.spawn(move || {
                for _ in 0..6 {
                    let mut visitor = Visitor::from(&format!("127.0.6.{}", n + 1));
                    let page = visitor.open(&Ask::new(&HOME).url(stage)).page();
                    if page.has("login-submit") {
                        visitor.login(&page, "alice", "wrong").page();
                    }
                }
            });
        }
        let mut times: Vec<Duration> = (0..60).map(|_| stage.post("/introspect", &GW, &[("token", &token)]).expect(200).took).collect();
        times.sort();
        assert!(times[30] < Duration::from_millis(100), "median {:?} during a login flood", times[30]);
    });
}
