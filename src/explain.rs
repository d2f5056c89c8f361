//! `doorward explain`: why the gateway would let a request through or refuse it, through the very phases that decide.
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, anyhow};
use gateway::Question;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, say, say_json},
    config::{Config, Role},
    operations,
    server::{self, Ground},
    telemetry,
};

/// The request that is asked about.
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path and query.
    pub path: &'a str,
    /// Its host; default: the gateway's address.
    pub host: Option<&'a str>,
    /// Its bearer token.
    pub token: Option<&'a str>,
}

/// Explains a request against the stored routes.
///
/// # Errors
/// The configuration has no gateway, the request cannot be one, or the database cannot be opened.
pub async fn run(config: &Config, asked: &Asked<'_>, json: bool) -> Result<(), Failure> {
    if !config.plays(Role::Gateway) {
        return Err(Failure::Usage("server.roles has no \"gateway\": there is nothing to explain".into()));
    }
    let question = question(config, asked)?;
    let foundation = operations::readable(config).await?;
    let ground = Ground::new(config, foundation, CancellationToken::new(), telemetry::start_metrics()?)?;
    ground.reload_routes(&config.issuer).await?;
    let told = server::gateway(config, &ground)?.explain(question).await;
    if json {
        return say_json(&serde_json::to_value(&told).map_err(|error| anyhow!(error))?);
    }
    let verdict = match (told.allowed, told.status) {
        (true, _) => "allowed".to_owned(),
        (false, Some(status)) => format!("refused with {status}"),
        (false, None) => "refused".to_owned(),
    };
    say(&format!("{verdict}: {}", told.reason))?;
    told.steps.iter().try_for_each(|step| say(&format!("  {step}")))
}

fn question(config: &Config, asked: &Asked<'_>) -> Result<Question, Failure> {
    let method = Method::from_bytes(asked.method.as_bytes()).map_err(|_| Failure::Usage(format!("{} is not a method", asked.method)))?;
    if !asked.path.starts_with('/') {
        return Err(Failure::Usage("--path begins with a slash".into()));
    }
    let mut headers = HeaderMap::new();
    if let Some(token) = asked.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).context("the token is not one that can be sent")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let host = asked.host.map_or_else(|| config.server.gateway_listen.to_string(), str::to_owned);
    Ok(Question { method, host, target: asked.path.to_owned(), headers, peer: IpAddr::V4(Ipv4Addr::LOCALHOST), caller: None })
}
