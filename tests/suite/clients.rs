//! Real relying parties: openid-client (npm) and Authlib (PyPI) against the running binary.
use crate::kit::Shared;
use crate::kit::script::{node, python};

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
