//! openid-client (npm) on https: registration, form_post, request objects, logout, devices, CIBA, token exchange, client certificates.
use serde_json::json;

use crate::kit::authority::certified;
use crate::kit::seed::{API, VAULT};
use crate::kit::{House, Stage, Upstream, script, standard};

#[test]
fn openid_client_goes_every_other_way() {
    let Some(script) = script::node("openid_client_breadth.mjs") else { return };
    let (upstream, mut house) = (Upstream::start(), House::new());
    let Some(authority) = certified(&mut house) else { return };
    house.set("registration.open", "true").set("registration.resources", &format!("[{API:?}]"));
    house.set("registration.scopes", r#"["openid", "profile", "email", "offline_access", "read"]"#);
    let ciba = "urn:openid:params:grant-type:ciba";
    let device = "urn:ietf:params:oauth:grant-type:device_code";
    let grants = json!(["authorization_code", "refresh_token", "client_credentials", device, ciba]);
    house.set("registration.grant_types", &grants.to_string());
    house.bootstrap();
    let mut seed = standard(&upstream.url());
    let secret = "exchanger-secret-4b5c6d7e8f90a1b2c3d4e5f60718293a";
    let exchanger = json!({
        "client_id": "exchanger", "client_secret": secret, "token_endpoint_auth_method": "client_secret_basic",
        "grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange", "client_credentials"],
        "scope": "read open", "allowed_resources": [API, VAULT],
        "token_exchange": {"impersonation": true, "delegation": true, "subject_clients": ["web"], "scopes": ["open"]}
    });
    seed["clients"].as_array_mut().expect("clients").push(exchanger);
    house.seed(&seed);
    let server = house.serve();
    let gateway = server.through("/api/hello").replace("http://127.0.0.1", "https://localhost");
    let stage = Stage { house, server, upstream };
    script
        .with("NODE_EXTRA_CA_CERTS", &authority.file().display().to_string())
        .with("CERTIFICATES", &authority.folder())
        .with("GATEWAY_URL", &gateway)
        .with("EXCHANGER_ID", "exchanger")
        .with("EXCHANGER_SECRET", secret)
        .with("VAULT", VAULT)
        .goes(
            &stage,
            &[
                "registration",
                "form_post",
                "logout",
                "request object",
                "pushed request",
                "device",
                "ciba",
                "token exchange",
                "tls_client_auth",
                "self_signed_tls_client_auth",
            ],
        );
}

#[test]
fn openid_client_reads_answers_that_carry_an_id_token() {
    let Some(script) = script::node("openid_client_front.mjs") else { return };
    let stage = Stage::start(|house| {
        house.text("server.profile", "oidc-dynamic").set("registration.open", "true");
    });
    let steps = ["id_token fragment", "id_token form_post", "code id_token fragment", "code id_token form_post", "refused"];
    script.goes(&stage, &steps);
}
