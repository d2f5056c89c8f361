//! From nothing to a protected call on one machine: a demo set-up on loopback, and the tour through it over real HTTP.
pub(crate) mod call;
mod tour;
mod upstream;

use std::{fs, io::Write as _, net::SocketAddr, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use admin::Actor;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokens::{Entropy as _, id};
use tokio::time::Instant;

use crate::{
    cli::{Failure, say_json},
    clock::SystemEntropy,
    config::Config,
    foundation::Foundation,
    serve::{self, Running, Signals},
    telemetry,
};

const RESOURCE: &str = "https://api.example.com";
const SCOPE: &str = "read";
const MACHINE: &str = "demo-machine";
const APPLICATION: &str = "demo-app";
const USERNAME: &str = "demo";

/// The demo's secrets, kept in the data directory so that running it again gives the same ones.
#[derive(Serialize, Deserialize)]
struct Secrets {
    client_secret: String,
    password: String,
    code_verifier: String,
}

/// What the demo consists of.
pub struct Demo {
    secrets: Secrets,
    issuer: String,
    public: SocketAddr,
    gateway: SocketAddr,
    upstream: SocketAddr,
}

impl Demo {
    fn protected_url(&self) -> String {
        format!("http://{}/api/hello", self.gateway)
    }

    fn json(&self) -> Value {
        json!({
            "client_id": MACHINE,
            "client_secret": self.secrets.client_secret,
            "resource": RESOURCE,
            "scope": SCOPE,
            "username": USERNAME,
            "password": self.secrets.password,
            "protected_url": self.protected_url(),
        })
    }
}

/// Runs the quickstart until Ctrl-C.
///
/// # Errors
/// A directory that cannot be used, a port that is taken, or a tour that does not end as it must.
pub fn run(data_dir: &Path, json: bool, no_tour: bool) -> Result<(), Failure> {
    let began = Instant::now();
    fs::create_dir_all(data_dir).with_context(|| format!("{}", data_dir.display()))?;
    let data_dir = fs::canonicalize(data_dir).with_context(|| format!("{}", data_dir.display()))?;
    let config = configuration(&data_dir)?;
    telemetry::start_logs(&config.log)?;
    let secrets = secrets(&data_dir)?;
    let runtime = serve::runtime(&config)?;
    let outcome = runtime.block_on(demonstrate(config, secrets, began, json, no_tour));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn demonstrate(config: Config, secrets: Secrets, began: Instant, json: bool, no_tour: bool) -> Result<(), Failure> {
    let metrics = telemetry::start_metrics()?;
    let bound = serve::bind(&config)?;
    let config = config.with_mtls_at(bound.mtls());
    let shutdown = crate::listen::Shutdown::default();
    let upstream = upstream::start(&shutdown).context("no free port for the demo upstream")?;
    let foundation = Foundation::open(&config, true).await?;
    seed(&foundation, &secrets, upstream).await?;
    let running = Running::start(config, foundation, bound, metrics, shutdown).await?;
    let (Some(public), Some(gateway)) = (running.ports.public, running.ports.gateway) else {
        return Err(anyhow::anyhow!("the quickstart needs the roles auth and gateway").into());
    };
    let demo = Demo { secrets, issuer: running.issuer(), public, gateway, upstream };
    let ready = began.elapsed();
    let signals = if json {
        let signals = Signals::listen()?;
        let mut line = running.ready_line();
        if let Some(members) = line.as_object_mut() {
            members.insert("demo".into(), demo.json());
        }
        say_json(&line)?;
        signals
    } else {
        tour::introduce(&demo, &running, ready)?;
        if !no_tour {
            tour::walk(&demo).await?;
        }
        // Until here Ctrl-C ends the tour at once.
        let signals = Signals::listen()?;
        tour::leave(&demo)?;
        signals
    };
    running.until_stopped(signals).await;
    Ok(())
}

/// The configuration of the data directory: written once, so that every other command can use it too.
fn configuration(data_dir: &Path) -> Result<Config, Failure> {
    let file = data_dir.join("doorward.toml");
    if !file.exists() {
        fs::write(&file, CONFIGURATION).with_context(|| format!("{}", file.display()))?;
    }
    Ok(Config::load(&file)?)
}

const CONFIGURATION: &str = r#"# Written by `doorward quickstart`. Every other command works with it: doorward check --config FILE
[server]
roles = ["auth", "gateway", "admin"]
issuer = "http://127.0.0.1:8080"
public_listen = "127.0.0.1:8080"
gateway_listen = "127.0.0.1:8081"
admin_listen = "127.0.0.1:8082"
metrics_listen = "127.0.0.1:8083"

[storage]
url = "sqlite://doorward.db"
key_file = "kek"

[log]
filter = "warn"
"#;

/// The demo's secrets: made at the first run, kept readable by their owner only.
fn secrets(data_dir: &Path) -> anyhow::Result<Secrets> {
    let file = data_dir.join("demo.json");
    match fs::read(&file) {
        Ok(text) => return serde_json::from_slice(&text).with_context(|| format!("{}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{}", file.display())),
    }
    let made = Secrets {
        client_secret: id::random_text(&SystemEntropy, 32),
        password: password(),
        code_verifier: id::random_text(&SystemEntropy, 32),
    };
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
    out.write_all(serde_json::to_string_pretty(&made)?.as_bytes())?;
    out.sync_all()?;
    Ok(made)
}

/// Four groups of four letters without look-alikes: 76 bits that can be typed.
fn password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz234567899";
    let mut octets = [0; 16];
    SystemEntropy.fill(&mut octets);
    let letter = |octet: &u8| LETTERS.get(usize::from(octet % 32)).copied().map_or('x', char::from);
    octets.chunks(4).map(|group| group.iter().map(letter).collect::<String>()).collect::<Vec<_>>().join("-")
}

/// Makes the demo's objects, or brings them up to date.
async fn seed(foundation: &Foundation, secrets: &Secrets, upstream: SocketAddr) -> anyhow::Result<()> {
    let callback = format!("http://{upstream}/callback");
    let seed = json!({
        "users": [{
            "username": USERNAME, "password": secrets.password, "name": "Demo Person", "given_name": "Demo", "family_name": "Person",
            "email": "demo@example.com", "email_verified": true, "roles": ["viewer"],
        }],
        "resource_servers": [{
            "identifier": RESOURCE, "name": "Demo API",
            "scopes": [{ "name": "read", "description": "Read the demo API" }, { "name": "write", "description": "Change the demo API" }],
        }],
        "clients": [
            {
                "client_id": MACHINE, "client_name": "Demo machine", "client_secret": secrets.client_secret,
                "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic",
                "redirect_uris": [], "response_types": [], "scope": "read write", "allowed_resources": [RESOURCE],
            },
            {
                "client_id": APPLICATION, "client_name": "Demo application", "redirect_uris": [callback],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
                "token_endpoint_auth_method": "none", "scope": "openid profile email offline_access read", "allowed_resources": [RESOURCE],
            },
        ],
        "upstreams": [{ "id": "demo", "targets": [{ "url": format!("http://{upstream}") }] }],
        "routes": [{
            "id": "demo", "match": { "path_prefix": "/api/" }, "upstream": "demo",
            "auth": { "accept": ["jwt", "opaque"], "issuers": ["self"], "audience": RESOURCE, "scopes": [SCOPE], "freshness": "push" },
        }],
    });
    let objects = foundation.objects();
    match admin::seed::apply(&objects, seed.to_string().as_bytes(), &Actor::command("quickstart")).await {
        Ok(_) => Ok(()),
        Err(failure) => bail!("the demo could not be set up: {}", crate::operations::tell(&failure)),
    }
}
