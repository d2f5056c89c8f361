//! The tour: token → introspect → call → revoke → the same call refused, each step over real HTTP and measured.
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    APPLICATION, Demo, MACHINE, RESOURCE, SCOPE, USERNAME,
    call::{Answer, Credential, call},
};
use crate::{
    cli::{Failure, say},
    serve::Running,
    telemetry,
};

/// How long the tour waits for a revocation to reach the gateway; the contract is a second.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says what runs where.
///
/// # Errors
/// Standard output is closed.
pub fn introduce(demo: &Demo, running: &Running, ready: Duration) -> Result<(), Failure> {
    let memory = telemetry::resident_memory().map_or_else(String::new, |octets| format!(", {} MiB", octets / (1024 * 1024)));
    say(&format!("Doorward is ready ({:.0} ms{memory}).\n", milliseconds(ready)))?;
    say(&format!("  issuer          {}", demo.issuer))?;
    say(&format!("  gateway         http://{}", demo.gateway))?;
    if let Some(admin) = running.ports.admin {
        say(&format!("  administration  http://{admin}/admin/v1/openapi.json"))?;
    }
    if let Some(metrics) = running.ports.metrics {
        say(&format!("  metrics         http://{metrics}/metrics"))?;
    }
    say(&format!("  data            {}", running.folder().display()))
}

/// Walks the tour.
///
/// # Errors
/// A step that does not end as it must.
pub async fn walk(demo: &Demo) -> Result<(), Failure> {
    say("\nThe tour\n")?;
    let machine = || Credential::Basic(MACHINE, &demo.secrets.client_secret);
    let path = "/api/hello";

    let form = [("grant_type", "client_credentials"), ("scope", SCOPE), ("resource", RESOURCE)];
    let answer = call(demo.public, "/token", machine(), Some(&form)).await?;
    let token = answer.body.get("access_token").and_then(Value::as_str).context("the token endpoint gave no token")?.to_owned();
    let life = answer.body.get("expires_in").and_then(Value::as_i64).unwrap_or(0);
    step(1, "token", &answer, StatusCode::OK, &format!("{MACHINE} is given an access token for {life} s"))?;

    let answer = call(demo.public, "/introspect", machine(), Some(&[("token", &token)])).await?;
    ensure_active(&answer)?;
    step(2, "introspect", &answer, StatusCode::OK, "the authorization server says that it is active")?;

    let answer = call(demo.gateway, path, Credential::Bearer(&token), None).await?;
    step(3, "call", &answer, StatusCode::OK, &format!("GET {path} goes through the gateway to the upstream"))?;

    let answer = call(demo.public, "/revoke", machine(), Some(&[("token", &token)])).await?;
    step(4, "revoke", &answer, StatusCode::OK, "the token is revoked")?;

    let revoked = Instant::now();
    let answer = loop {
        let answer = call(demo.gateway, path, Credential::Bearer(&token), None).await?;
        if answer.status != StatusCode::OK || revoked.elapsed() > PATIENCE {
            break answer;
        }
    };
    let after = milliseconds(revoked.elapsed());
    step(5, "call", &answer, StatusCode::UNAUTHORIZED, &format!("the same call is refused, {after:.1} ms after the revocation"))
}

fn step(number: u8, name: &str, answer: &Answer, expected: StatusCode, what: &str) -> Result<(), Failure> {
    let told = answer.body.get("error").and_then(Value::as_str).map_or_else(String::new, |error| format!(" ({error})"));
    let status = answer.status;
    let line = format!("  {number}  {name:<11} {:>3}  {:>7.1} ms  {what}", status.as_u16(), milliseconds(answer.took));
    if status == expected {
        return say(&line);
    }
    Err(anyhow::anyhow!("step {number} ({name}) was answered {status}{told} instead of {expected}").into())
}

fn ensure_active(answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.body.get("active").and_then(Value::as_bool) == Some(true), "introspection does not say that the token is active");
    Ok(())
}

/// Says how to go on by hand.
///
/// # Errors
/// Standard output is closed.
pub fn leave(demo: &Demo) -> Result<(), Failure> {
    let Demo { secrets, issuer, upstream, .. } = demo;
    let (secret, url) = (&secrets.client_secret, demo.protected_url());
    say("\nBy hand\n")?;
    say(&format!(
        "  TOKEN=$(curl -s -u {MACHINE}:{secret} -d grant_type=client_credentials -d scope={SCOPE} {issuer}/token | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')"
    ))?;
    say(&format!("  curl -i -H \"Authorization: Bearer $TOKEN\" {url}"))?;
    say(&format!("  curl -s -u {MACHINE}:{secret} -d token=$TOKEN {issuer}/introspect"))?;
    say(&format!("  curl -i -u {MACHINE}:{secret} -d token=$TOKEN {issuer}/revoke"))?;
    say(&format!("  curl -i -H \"Authorization: Bearer $TOKEN\" {url}    # 401 now"))?;

    let callback = format!("http://{upstream}/callback");
    let challenge = tokens::hash::s256(&secrets.code_verifier);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("response_type", "code")
        .append_pair("client_id", APPLICATION)
        .append_pair("redirect_uri", &callback)
        .append_pair("scope", "openid profile email read")
        .append_pair("state", "quickstart")
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .finish();
    say(&format!("\nWith a browser, as {USERNAME} with the password {}\n", secrets.password))?;
    say(&format!("  {issuer}/authorize?{query}\n"))?;
    say("  then, with the code that the last page shows:\n")?;
    say(&format!(
        "  curl -s -d grant_type=authorization_code -d client_id={APPLICATION} -d code_verifier={} -d redirect_uri={callback} -d code=CODE {issuer}/token",
        secrets.code_verifier
    ))?;
    say("\nIt runs until Ctrl-C.")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
