//! oauth4webapi (npm) as a FAPI 2.0 client: keys of three algorithms, pushed and signed requests, signed responses, proofs.
use crate::kit::seed::API;
use crate::kit::{Stage, script};

fn goes(profile: &'static str, nonce: bool) {
    let Some(script) = script::node("oauth4webapi_fapi.mjs") else { return };
    let stage = Stage::start(|house| {
        house.set("registration.open", "true").set("registration.resources", &format!("[{API:?}]"));
        house.set("registration.scopes", r#"["openid", "profile", "offline_access", "read"]"#);
        house.set("registration.grant_types", r#"["authorization_code", "refresh_token", "client_credentials"]"#);
        house.text("server.profile", profile).set("server.dpop_nonce", &nonce.to_string());
    });
    let of = |step: &str| ["ES256", "PS256", "EdDSA"].map(|alg| format!("{step} {alg}"));
    let mut steps: Vec<String> = ["registration", "code", "userinfo", "refresh", "client_credentials", "gateway", "refused", "revocation"]
        .into_iter()
        .flat_map(of)
        .collect();
    steps.extend(
        ["par ES256 signed request", "par PS256 plain request", "introspection EdDSA signed", "nonce", "resource metadata"]
            .map(str::to_owned),
    );
    steps.extend(["jarm ES256 jwt", "jarm PS256 query.jwt", "jarm EdDSA form_post.jwt"].map(str::to_owned));
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    script.with("PROFILE", profile).with("DPOP_NONCE", if nonce { "1" } else { "0" }).goes(&stage, &steps);
}

#[test]
fn oauth4webapi_goes_all_the_way_under_fapi_2_with_nonces() {
    goes("fapi2", true);
}

#[test]
fn oauth4webapi_goes_all_the_way_beside_clients_of_other_kinds() {
    goes("standard", false);
}
