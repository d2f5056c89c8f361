//! Real relying parties: openid-client (npm) and Authlib (PyPI) against the running binary.
use std::process::Command;

use crate::kit::http::env;
use crate::kit::seed::{API, GW, MACHINE, PASSWORD, WEB};
use crate::kit::{Stage, services};

fn run(mut command: Command, script: &str) {
    let stage = Stage::start(|_| {});
    let gateway = stage.through("/api/hello");
    let done = command
        .arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .envs([
            ("ISSUER", stage.issuer.as_str()),
            ("GATEWAY_URL", &gateway),
            ("USERNAME_", "alice"),
            ("PASSWORD_", PASSWORD),
            ("RESOURCE", API),
            ("WEB_ID", WEB.id),
            ("WEB_SECRET", WEB.secret),
            ("REDIRECT_URI", WEB.redirect),
            ("MACHINE_ID", MACHINE.id),
            ("MACHINE_SECRET", MACHINE.secret),
            ("GW_ID", GW.id),
            ("GW_SECRET", GW.secret),
        ])
        .output()
        .expect("the script runs");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "stdout: {out}\nstderr: {err}\nlog: {}", stage.log());
    for step in ["discovery", "code", "userinfo", "refresh", "client_credentials", "introspection", "gateway", "revocation", "refused"] {
        assert!(out.lines().any(|l| l.starts_with(&format!("ok {step}"))), "{step} is missing: {out}");
    }
}

#[test]
fn openid_client_from_npm_goes_all_the_way() {
    let Some(modules) = env("DOORWARD_TEST_NODE_MODULES") else {
        return services::skip("openid-client (DOORWARD_TEST_NODE_MODULES)");
    };
    let mut node = Command::new("node");
    node.env("NODE_MODULES", modules);
    run(node, "openid_client.mjs");
}

#[test]
fn authlib_from_pypi_goes_all_the_way() {
    let Some(python) = env("DOORWARD_TEST_PYTHON") else {
        return services::skip("Authlib (DOORWARD_TEST_PYTHON)");
    };
    run(Command::new(python), "authlib_client.py");
}
