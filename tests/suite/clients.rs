//! Real relying parties: openid-client (npm) and Authlib (PyPI) against the running binary.
use crate::kit::script::{node, python};
use crate::kit::seed::API;
use crate::kit::{Shared, Stage};

static STAGE: Shared = Shared::new();

const STEPS: [&str; 9] =
    ["discovery", "code", "userinfo", "refresh", "client_credentials", "introspection", "gateway", "revocation", "refused"];

#[test]
fn openid_client_from_npm_goes_all_the_way() {
    let Some(script) = node("openid_client.mjs") else { return };
    script.goes(STAGE.get(), &STEPS);
}

#[test]
fn authlib_from_pypi_goes_all_the_way() {
    let Some(script) = python("authlib_client.py") else { return };
    script.goes(STAGE.get(), &STEPS);
}

#[test]
fn authlib_registers_itself_signs_what_it_asks_and_reads_signed_answers() {
    let Some(script) = python("authlib_registered.py") else { return };
    let stage = Stage::start(|house| {
        house.set("registration.open", "true").set("registration.resources", &format!("[{API:?}]"));
        house.set("registration.scopes", r#"["openid", "profile", "offline_access", "read"]"#);
        house.set("registration.grant_types", r#"["authorization_code", "refresh_token", "client_credentials"]"#);
    });
    let steps = ["discovery", "registration", "par", "jarm", "code", "refresh", "client_credentials", "revocation", "management"];
    script.goes(&stage, &steps);
}
