//! `doorward explain`: why the gateway would let a request through or refuse it, through the very admission that decides; a table of requests
//! with the decisions expected of them; and, of a running process, why a request was refused.
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use admin::Explains;
use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use edge::RouteTable;
use gateway::{Assumed, Explanation, Gateway, Question, explained::Sought};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, say, say_json},
    config::{Config, Role},
    operations,
    quickstart::call::{Credential, call},
    server::{self, Ground},
    telemetry,
};

/// Octets of a file of tests.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The request that is asked about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// Its method; `GET`.
    pub method: Option<String>,
    /// Its path and query.
    pub path: String,
    /// Its host; default: the gateway's address.
    pub host: Option<String>,
    /// Further header fields.
    pub headers: Map<String, Value>,
    /// Where it comes from; default: this machine.
    pub peer: Option<IpAddr>,
    /// Its bearer token.
    pub token: Option<String>,
    /// Its API key.
    pub api_key: Option<String>,
    /// A caller taken for authenticated, instead.
    pub caller: Option<Assumed>,
}

/// What a test expects; members that are absent are not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expected {
    allowed: Option<bool>,
    status: Option<u16>,
    reason: Option<String>,
    route: Option<String>,
    upstream: Option<String>,
    /// A policy that must be among those that decided.
    by: Option<String>,
}

/// One row of a file of tests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default)]
    name: String,
    request: Asked,
    expect: Expected,
}

/// A file of tests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tests {
    tests: Vec<Row>,
}

impl Asked {
    /// As the gateway takes it. The error is for whoever wrote it, and holds no credential.
    fn question(self, default_host: &str) -> Result<Question, String> {
        let method = self.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "method: not a method".to_owned())?;
        if !self.path.starts_with('/') {
            return Err("path: begins with a slash".into());
        }
        if self.caller.is_some() && (self.token.is_some() || self.api_key.is_some()) {
            return Err("caller: stands instead of a credential".into());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || format!("headers.{name}: not a header field (RFC 9110 §5)");
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.append(field, value.as_str().and_then(|v| HeaderValue::from_str(v).ok()).ok_or_else(wrong)?);
        }
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text).map_err(|_| "the credential is not one that can be sent".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        if let Some(token) = self.token {
            headers.insert(header::AUTHORIZATION, secret(format!("Bearer {token}"))?);
        }
        if let Some(key) = self.api_key {
            headers.insert("x-api-key", secret(key)?);
        }
        let host = self.host.unwrap_or_else(|| default_host.to_owned());
        let peer = self.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Question { method, host, target: self.path, headers, peer, caller: self.caller })
    }
}

/// A gateway's explanations, for the administration API.
pub struct Explainer {
    gateway: Arc<Gateway>,
    host: String,
    default_policy: Option<String>,
}

impl Explainer {
    /// Of this process's gateway.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, config: &Config) -> Arc<Self> {
        let (host, default_policy) = (config.server.gateway_listen.to_string(), config.default_policy.clone());
        Arc::new(Self { gateway, host, default_policy })
    }
}

#[async_trait]
impl Explains for Explainer {
    fn remembered(&self, request_id: &str) -> Option<Value> {
        self.gateway.explained(request_id).map(|told| json!(told))
    }

    fn recent(&self, (route, reason, status): (Option<&str>, Option<&str>, Option<u16>), most: usize) -> Vec<Value> {
        let sought = Sought { route: route.map(str::to_owned), reason: reason.map(str::to_owned), status };
        self.gateway.recently(&sought, most).iter().map(|told| json!(told)).collect()
    }

    async fn explain(&self, request: &Value, candidate: Option<Arc<RouteTable>>) -> Result<Value, String> {
        let asked = Asked::deserialize(request).map_err(|error| error.to_string())?;
        let told = self.gateway.explain_under(candidate, asked.question(&self.host)?).await;
        Ok(json!(told))
    }

    fn default_policy(&self) -> Option<String> {
        self.default_policy.clone()
    }
}

async fn opened(config: &Config) -> Result<Arc<Gateway>, Failure> {
    if !config.plays(Role::Gateway) {
        return Err(Failure::Usage("server.roles has no \"gateway\": there is nothing to explain".into()));
    }
    let foundation = operations::readable(config).await?;
    let ground = Ground::new(config, foundation, CancellationToken::new(), telemetry::start_metrics()?)?;
    ground.reload_routes(&config.issuer).await?;
    Ok(server::gateway(config, &ground)?)
}

/// Explains a request against the stored routes.
///
/// # Errors
/// The configuration has no gateway, the request cannot be one, or the database cannot be opened.
pub async fn run(config: &Config, asked: Asked, json: bool) -> Result<(), Failure> {
    let gateway = opened(config).await?;
    let question = asked.question(&config.server.gateway_listen.to_string()).map_err(Failure::Usage)?;
    let told = gateway.explain(question).await;
    if json {
        return say_json(&serde_json::to_value(&told).map_err(|error| anyhow!(error))?);
    }
    say(&format!("{}: {}", verdict(told.allowed, told.status), told.reason))?;
    told.steps.iter().try_for_each(|step| say(&format!("  {step}")))
}

fn verdict(allowed: bool, status: Option<u16>) -> String {
    match (allowed, status) {
        (true, _) => "allowed".to_owned(),
        (false, Some(status)) => format!("refused with {status}"),
        (false, None) => "refused".to_owned(),
    }
}

/// Runs a file of tests: `{"tests": [{"name", "request", "expect"}]}`.
///
/// # Errors
/// A row that cannot be read (all of them are named), or a decision that is not the expected one.
pub async fn test(config: &Config, file: &Path, json: bool) -> Result<(), Failure> {
    let named = || file.display().to_string();
    let length = std::fs::metadata(file).with_context(named)?.len();
    if length > MAX_FILE {
        return Err(Failure::Usage(format!("{}: larger than 16 MiB", file.display())));
    }
    let text = std::fs::read(file).with_context(named)?;
    let tests: Tests = serde_json::from_slice(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let host = config.server.gateway_listen.to_string();
    let (mut questions, mut wrong) = (Vec::new(), Vec::new());
    for (n, row) in tests.tests.into_iter().enumerate() {
        match row.request.question(&host) {
            Ok(question) => questions.push((row.name, question, row.expect)),
            Err(why) => wrong.push(format!("tests[{n}].request.{why}")),
        }
    }
    if questions.is_empty() && wrong.is_empty() {
        wrong.push("tests: at least one is needed".to_owned());
    }
    if !wrong.is_empty() {
        return Err(Failure::Usage(wrong.join("\n")));
    }
    let gateway = opened(config).await?;
    let (all, mut failed, mut rows) = (questions.len(), 0_usize, Vec::new());
    for (n, (name, question, expected)) in questions.into_iter().enumerate() {
        let name = if name.is_empty() { format!("tests[{n}]") } else { name };
        let told = gateway.explain(question).await;
        let differing = expected.differing(&told);
        failed += usize::from(!differing.is_empty());
        if json {
            rows.push(json!({ "name": name, "passed": differing.is_empty(), "differing": differing, "explanation": told }));
            continue;
        }
        say(&format!(
            "{} {name}: {} ({})",
            if differing.is_empty() { "ok  " } else { "FAIL" },
            verdict(told.allowed, told.status),
            told.reason
        ))?;
        if !differing.is_empty() {
            differing.iter().chain(&told.steps).try_for_each(|line| say(&format!("       {line}")))?;
        }
    }
    if json {
        say_json(&json!({ "tests": all, "failed": failed, "results": rows }))?;
    }
    if failed > 0 { Err(Failure::Failed(anyhow!("{failed} of {all} decisions are not the expected ones"))) } else { Ok(()) }
}

impl Expected {
    /// Where a decision is another than this.
    fn differing(&self, told: &Explanation) -> Vec<String> {
        let mut out = Vec::new();
        let mut look = |name: &str, wanted: Option<String>, is: String| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
                out.push(format!("{name}: expected {wanted}, is {is}"));
            }
        };
        look("allowed", self.allowed.map(|a| a.to_string()), told.allowed.to_string());
        look("status", self.status.map(|s| s.to_string()), told.status.map_or_else(|| "none".to_owned(), |s| s.to_string()));
        look("reason", self.reason.clone(), told.reason.clone());
        look("route", self.route.clone(), told.route.as_deref().unwrap_or("none").to_owned());
        look("upstream", self.upstream.clone(), told.upstream.as_deref().unwrap_or("none").to_owned());
        let by = told.policy.as_ref().map(|said| said.by.as_slice()).unwrap_or_default();
        if let Some(wanted) = self.by.as_ref().filter(|wanted| !by.contains(wanted)) {
            out.push(format!("by: expected {wanted}, is {by:?}"));
        }
        out
    }
}

/// Where a running process is asked.
#[derive(Debug, Clone, Copy)]
pub struct Remembered<'a> {
    /// Holds an access token for its administration API.
    pub token_file: &'a Path,
    /// Its administration listener, if it is not the configured one.
    pub admin: Option<SocketAddr>,
}

/// Asks a running process why a request was refused.
///
/// # Errors
/// It cannot be reached, does not know the request, or does not take the token.
pub async fn remembered(config: &Config, request_id: &str, asked: Remembered<'_>, json: bool) -> Result<(), Failure> {
    let Remembered { token_file, admin } = asked;
    if config.admin_tls.is_some() {
        return Err(Failure::Usage(
            "the administration listener speaks TLS: ask it for /admin/v1/explanations/{request_id} yourself".into(),
        ));
    }
    let token = std::fs::read_to_string(token_file).with_context(|| token_file.display().to_string())?;
    let id: String = request_id.bytes().map(|b| format!("%{b:02X}")).collect();
    let at = admin.unwrap_or(config.server.admin_listen);
    let answer = call(at, &format!("/admin/v1/explanations/{id}"), Credential::Bearer(token.trim()), None).await?;
    let (status, told) = (answer.status.as_u16(), answer.body);
    if status != 200 {
        let why = told.get("detail").or_else(|| told.get("title")).and_then(Value::as_str).unwrap_or("no reason given");
        return Err(Failure::Failed(anyhow!("{status}: {why}")));
    }
    if json {
        return say_json(&told);
    }
    let text = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = told.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
    let allowed = told.get("allowed").and_then(Value::as_bool).unwrap_or(false);
    say(&format!("{} {}: {}: {}", text("method"), text("path"), verdict(allowed, status), text("reason")))?;
    let steps = told.get("steps").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    steps.into_iter().try_for_each(|step| say(&format!("  {step}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_that_is_not_the_expected_one_is_told() {
        let told =
            Explanation { allowed: false, status: Some(403), reason: "policy".into(), route: Some("r".into()), ..Explanation::default() };
        let differs = |expected: Value| serde_json::from_value::<Expected>(expected).unwrap().differing(&told).len();
        assert_eq!(differs(json!({"allowed": false, "status": 403, "reason": "policy", "route": "r"})), 0);
        assert_eq!(differs(json!({"allowed": true, "status": 401, "reason": "scope", "route": "x", "upstream": "u", "by": "p#0"})), 6);
        assert_eq!(differs(json!({})), 0);
    }

    #[test]
    fn what_cannot_be_a_request_is_refused_without_repeating_its_credential() {
        let read = |value: Value| Asked::deserialize(&value).map_err(|e| e.to_string()).and_then(|asked| asked.question("gw:1"));
        assert!(read(json!({"path": "/x", "headers": {"X-A": "1"}, "caller": {"sub": "a"}})).is_ok());
        for bad in [
            json!({"path": "x"}),
            json!({"path": "/", "method": "a b"}),
            json!({"path": "/", "headers": {"a b": "x"}}),
            json!({"path": "/", "token": "t", "caller": {}}),
            json!({"path": "/", "tocken": "t"}),
            json!({"path": "/", "token": "dwa_\nx"}),
        ] {
            let why = read(bad.clone()).unwrap_err();
            assert!(!why.contains("dwa_"), "{why}");
        }
    }
}
