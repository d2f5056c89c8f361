//! Clients that others wrote: the scripts of `tests/clients`, run against a server and judged by the steps they say.
use std::process::Command;

use super::http::env;
use super::seed::{API, GW, MACHINE, PASSWORD, WEB};
use super::{Stage, services};

/// A script before it runs.
pub struct Script(Command);

/// A script of npm packages; `None` and said out loud where they are not installed.
pub fn node(name: &str) -> Option<Script> {
    let Some(modules) = env("DOORWARD_TEST_NODE_MODULES") else {
        services::skip("npm packages (DOORWARD_TEST_NODE_MODULES)");
        return None;
    };
    let mut node = Command::new("node");
    node.env("NODE_MODULES", modules).arg(path(name));
    Some(Script(node))
}

/// A script of PyPI packages; `None` and said out loud where they are not installed.
pub fn python(name: &str) -> Option<Script> {
    let Some(python) = env("DOORWARD_TEST_PYTHON") else {
        services::skip("PyPI packages (DOORWARD_TEST_PYTHON)");
        return None;
    };
    let mut command = Command::new(python);
    // Nothing is left beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(path(name));
    Some(Script(command))
}

fn path(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

impl Script {
    /// One more word of its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it against a server of the standard seed. Every one of these steps has to be said, each at the beginning of an `ok` line.
    #[track_caller]
    pub fn goes(self, stage: &Stage, steps: &[&str]) {
        let gateway = stage.through("/api/hello");
        let mut script = self
            .with("ISSUER", &stage.issuer)
            .with("USERNAME_", "alice")
            .with("PASSWORD_", PASSWORD)
            .with("RESOURCE", API)
            .with("REDIRECT_URI", WEB.redirect);
        for (name, value) in [
            ("GATEWAY_URL", gateway.as_str()),
            ("WEB_ID", WEB.id),
            ("WEB_SECRET", WEB.secret),
            ("MACHINE_ID", MACHINE.id),
            ("MACHINE_SECRET", MACHINE.secret),
            ("GW_ID", GW.id),
            ("GW_SECRET", GW.secret),
        ] {
            // What a test said before stays.
            if !script.0.get_envs().any(|(known, _)| known == name) {
                script = script.with(name, value);
            }
        }
        let done = script.0.output().expect("the script runs");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "stdout: {out}\nstderr: {err}\nlog: {}", stage.log());
        for step in steps {
            assert!(
                out.lines().any(|line| line.strip_prefix("ok ").is_some_and(|said| said.starts_with(step))),
                "{step} is missing: {out}"
            );
        }
    }
}
