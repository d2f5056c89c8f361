//! `authorization_details` (RFC 9396).
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::fapi::{Client, stage};
use crate::kit::http::claims;
use crate::kit::visitor::text;
use crate::kit::{Ask, Stage, Visitor};

fn scene() -> &'static (Stage, Client) {
    static ONE: OnceLock<(Stage, Client)> = OnceLock::new();
    ONE.get_or_init(|| {
        let who = Client::new("bank", "https://bank.example.com/cb");
        let mut object = who.object();
        object["authorization_details_types"] = json!(["payment", "unheard"]);
        (stage(vec![object], |_| {}), who)
    })
}

fn payments() -> Value {
    json!([
        {"type": "payment", "actions": ["initiate"], "instructedAmount": {"currency": "EUR", "amount": "123.50"}, "creditor": "Merchant A"},
        {"type": "payment", "actions": ["status"], "locations": ["https://api.example.com"]}
    ])
}

#[test]
fn what_was_allowed_in_detail_is_shown_granted_and_told() {
    let (stage, who) = scene();
    let ask = Ask::new(&who.id).with("authorization_details", &payments().to_string());
    let mut visitor = Visitor::new();
    let page = visitor.open(&ask.url(stage)).kind("login");
    let consent = visitor.login(&page, "alice", crate::kit::seed::PASSWORD).kind("consent");
    let shown = consent.answer.text();
    assert!(shown.contains("payment") && shown.contains("Merchant A") && shown.contains("123.50"), "{shown}");
    let code = visitor.send(&consent.press("consent-approve")).code(stage, &ask);
    let tokens = who.redeem(stage, &ask, &code).expect(200).json();
    assert_eq!(tokens["authorization_details"], payments());
    assert_eq!(claims(&text(&tokens, "access_token"))["authorization_details"], payments());
    assert_eq!(stage.introspect(&text(&tokens, "access_token"))["authorization_details"], payments());
    // What was allowed once is asked for again.
    visitor.open(&ask.url(stage)).kind("consent");
}

#[test]
fn a_token_request_takes_less_and_never_more() {
    let (stage, who) = scene();
    let ask = Ask::new(&who.id).with("authorization_details", &payments().to_string());
    let one = json!([payments()[1]]).to_string();
    let more = json!([{"type": "payment", "actions": ["initiate", "refund"]}]).to_string();
    let redeem = |code: &str, details: &str| {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", who.id.redirect),
            ("code_verifier", &ask.verifier),
            ("authorization_details", details),
        ];
        who.token(stage, &form)
    };
    let code = Visitor::new().walk(stage, &ask, "alice").code(stage, &ask);
    redeem(&code, &more).expect_error(400, "invalid_authorization_details");
    let tokens = redeem(&code, &one).expect(200).json();
    assert_eq!(tokens["authorization_details"], json!([payments()[1]]));
    let refresh = |token: &str, details: &[(&str, &str)]| {
        who.token(stage, &[&[("grant_type", "refresh_token"), ("refresh_token", token)][..], details].concat())
    };
    let token = text(&tokens, "refresh_token");
    refresh(&token, &[("authorization_details", &more)]).expect_error(400, "invalid_authorization_details");
    let narrowed = refresh(&token, &[("authorization_details", &one)]).expect(200).json();
    assert_eq!(narrowed["authorization_details"], json!([payments()[1]]));
    let next = narrowed["refresh_token"].as_str().unwrap_or(&token).to_owned();
    assert_eq!(refresh(&next, &[]).expect(200).json()["authorization_details"], payments(), "the grant did not shrink");
}

#[test]
fn unknown_types_and_shapes_are_refused_by_name() {
    let (stage, who) = scene();
    let deep = format!("[{{\"type\":\"payment\",\"x\":{}1{}}}]", "[".repeat(40), "]".repeat(40));
    let long = json!([{"type": "payment", "x": "x".repeat(20_000)}]).to_string();
    for bad in [
        "[]",
        "{}",
        "not json",
        r#"[{"type":"account"}]"#,
        r#"[{"type":"unheard"}]"#,
        r#"[{"no":"type"}]"#,
        r#"[{"type":"payment","locations":["https://other.example.com"]}]"#,
        r#"[{"type":"payment","type":"payment"}]"#,
        &deep,
        &long,
    ] {
        let refused = who.push(stage, &Ask::new(&who.id).with("authorization_details", bad));
        refused.expect_error(400, "invalid_authorization_details");
    }
    let ask = Ask::new(&who.id).with("authorization_details", r#"[{"type":"account"}]"#);
    assert_eq!(Visitor::new().open(&ask.url(stage)).error(stage), "invalid_authorization_details");
}
