//! The operator's commands: bootstrap, seed, check, keys, audit, gc, backup, restore, policy. Those that only read run beside a server.
use std::{
    fs,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use admin::{Actor, Failure as ObjectFailure};
use anyhow::{Context as _, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ledger::{Change, EventKind, Mistake, NewEvent, ObjectKind, chain::Verifier};
use protocol::{
    Client, Scope,
    issue::{self, Context, Order},
};
use serde_json::json;
use store::{Database, Progress, ReplicaReport, Standing};
use tokens::Alg;

use crate::{
    cli::{Failure, say, say_json},
    config::Config,
    foundation::{self, Foundation},
    routes, tls,
};

/// The administrator's client that `bootstrap` makes.
const ADMIN_CLIENT: &str = "doorward-admin";
const ADMIN_SCOPE: &str = "doorward.admin doorward.admin.read";
/// How long the administrator's first access token lives.
const ADMIN_TOKEN_TTL: &str = "1h";
/// Rows deleted in one transaction.
pub const PURGE_BATCH: u32 = 500;

/// Makes the database, the keys and one administrator's credential.
///
/// # Errors
/// Storage or keys cannot be opened.
pub async fn bootstrap(config: &Config, json: bool, rotate: bool) -> Result<(), Failure> {
    let foundation = Foundation::open(config, true).await?;
    let objects = foundation.objects();
    let actor = Actor::command("bootstrap");
    let stored = foundation.store.object(ObjectKind::Client, ADMIN_CLIENT).await?;
    let secret = match (&stored, rotate) {
        (None, _) => {
            let given = json!({
                "client_id": ADMIN_CLIENT, "client_name": "Doorward administration", "grant_types": ["client_credentials"],
                "token_endpoint_auth_method": "client_secret_basic", "scope": ADMIN_SCOPE, "access_token_ttl": ADMIN_TOKEN_TTL,
            });
            let done = objects.create(ObjectKind::Client, given, &actor).await.map_err(failed)?;
            let event = NewEvent::new(EventKind::AdminBootstrapped, foundation.clock.now_ms()).client(ADMIN_CLIENT);
            foundation.store.apply(Change::new().event(actor.sign(event))).await?;
            done.generated
        }
        (Some(_), true) => Some(objects.rotate_secret(ADMIN_CLIENT, false, &actor).await.map_err(failed)?.1),
        (Some(_), false) => None,
    };
    let mut out = json!({ "issuer": config.issuer, "admin_client_id": ADMIN_CLIENT });
    if let (Some(secret), Some(members)) = (secret, out.as_object_mut()) {
        let (token, expires_at) = admin_token(&foundation).await?;
        members.insert("admin_client_secret".into(), secret.expose().into());
        members.insert("admin_token".into(), token.into());
        members.insert("expires_at".into(), rfc3339(expires_at).into());
    }
    if json {
        return say_json(&out);
    }
    for (name, value) in out.as_object().into_iter().flatten() {
        say(&format!("{name:<20} {}", value.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

/// An access token for the administrator's client, through the code that issues every other one.
async fn admin_token(foundation: &Foundation) -> anyhow::Result<(String, i64)> {
    let row = foundation.store.object(ObjectKind::Client, ADMIN_CLIENT).await?.context("the administrator's client is gone")?;
    let client: Client = serde_json::from_value(row.document)?;
    let ring = foundation.keys()?.ring().load_full();
    let mac = foundation.keys()?.mac();
    let (head, _) = foundation.store.head().await?;
    let context = Context {
        settings: &foundation.settings,
        keys: &ring,
        mac: &mac,
        entropy: &*foundation.entropy,
        now_ms: foundation.clock.now_ms(),
        head,
        evidence: &protocol::Evidence::default(),
        slots: None,
    };
    let scope = Scope::parse(ADMIN_SCOPE).map_err(|_| anyhow!("the administrator's scope cannot be read"))?;
    let order = Order {
        client: &client,
        server: None,
        audience: &foundation.settings.issuer,
        subject: ADMIN_CLIENT,
        grant: None,
        session: None,
        scope: &scope,
        authentication: None,
        user: None,
        grant_type: "client_credentials",
        confirmation: None,
        details: None,
        actor: None,
        device: None,
        from: None,
    };
    let access = issue::access_token(&context, &order).map_err(|_| anyhow!("no token could be issued"))?;
    let expires_at = context.now() + access.expires_in;
    if !foundation.store.apply(access.change).await?.applied() {
        bail!("no token could be issued");
    }
    Ok((access.text.expose().to_owned(), expires_at))
}

/// A time as RFC 3339 text.
fn rfc3339(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// Applies a seed file, or says what would change.
///
/// # Errors
/// Every mistake of the file, and nothing is stored; or storage failed.
pub async fn seed(config: &Config, file: &Path, json: bool, only_plan: bool) -> Result<(), Failure> {
    let text = fs::read(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    // One process at a time writes to SQLite: a plan is made beside it. Without a database yet it makes one, as the seed would.
    let beside = only_plan && embedded(config).is_some_and(Path::exists);
    let foundation = if beside { Foundation::reading(config).await? } else { Foundation::open(config, true).await? };
    if foundation.keys.is_none() && holds_secrets(&text) {
        let why = "users, clients and API keys have secrets: seed them with the configuration of the authorization server";
        return Err(Failure::Usage(why.into()));
    }
    let objects = foundation.objects();
    let actor = Actor::command("seed");
    let waiting = spinner("seeding");
    let report = if only_plan {
        admin::seed::plan(&objects, &text, &actor).await.map(|plan| plan.preview())
    } else {
        admin::seed::apply(&objects, &text, &actor).await
    };
    waiting.finish_and_clear();
    let report = report.map_err(failed)?;
    if json {
        return say_json(&report);
    }
    say(&serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?)
}

fn holds_secrets(seed: &[u8]) -> bool {
    let seed: serde_json::Value = serde_json::from_slice(seed).unwrap_or_default();
    let some = |member: &str| seed.get(member).and_then(serde_json::Value::as_array).is_some_and(|list| !list.is_empty());
    some("users") || some("clients") || some("api_keys")
}

/// Validates everything that a start would need, and says what is wrong.
///
/// # Errors
/// All that is wrong.
pub async fn check(config: &Config, json: bool) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for files in [&config.public_tls, &config.gateway_tls, &config.decision_tls, &config.admin_tls].into_iter().flatten() {
        if let Err(error) = tls::check(files) {
            wrong.push(format!("tls: {error:#}"));
        }
    }
    wrong.dedup();
    wrong.extend(config.routes_file.iter().flat_map(|file| crate::routes_file::mistakes(file)));
    match readable(config).await {
        Ok(foundation) => {
            match routes::read(&*foundation.store, &config.issuer, config.default_policy.as_deref()).await? {
                Ok(table) => {
                    wrong.extend(upstreams_tls(&table));
                    wrong.extend(crate::logins::lacking(config, &table));
                }
                Err(mistakes) => wrong.extend(mistakes.iter().map(|mistake| format!("{}: {}", mistake.at, mistake.why))),
            }
            wrong.extend(left_out(&*foundation.database).await);
        }
        Err(error) => wrong.push(format!("{error:#}")),
    }
    if json {
        say_json(&json!({ "ok": wrong.is_empty(), "mistakes": wrong }))?;
    } else if wrong.is_empty() {
        say("configuration, keys, database and routes are in order")?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(anyhow!("{}", wrong.join("\n  ")).into()) }
}

/// What is wrong with the TLS files of upstreams.
fn upstreams_tls(table: &edge::RouteTable) -> Vec<String> {
    let mut wrong: Vec<String> = table
        .upstreams()
        .filter_map(|upstream| upstream.targets.iter().find_map(|target| target.secured.as_ref()))
        .filter_map(|secured| gateway::check_upstream_tls(&secured.tls).err().map(|why| format!("upstreams[{}].{why}", secured.id)))
        .collect();
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Opens what is there; makes nothing.
///
/// # Errors
/// There is nothing, or it cannot be opened.
pub async fn existing(config: &Config) -> anyhow::Result<Foundation> {
    demand(config)?;
    Foundation::open(config, false).await
}

/// Opens what is there for reading only: also beside a doorward that runs on it.
///
/// # Errors
/// There is nothing, or it cannot be opened.
pub async fn readable(config: &Config) -> anyhow::Result<Foundation> {
    demand(config)?;
    Foundation::reading(config).await
}

/// Which replicas would not be asked, and why.
async fn left_out(database: &dyn Database) -> Vec<String> {
    // What has just been committed may be under way.
    for _ in 0..20 {
        database.look_at_replicas().await;
        if !database.replicas().iter().any(|replica| replica.standing == Standing::Behind) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let why = |standing| match standing {
        Standing::Following | Standing::Unknown => None,
        Standing::Behind => Some("is behind the primary"),
        Standing::Away => Some("does not answer"),
        Standing::Strange => Some("is no replica of this database: it was promoted, or follows another one"),
    };
    let told = |replica: ReplicaReport| why(replica.standing).map(|why| format!("storage.replicas: {} {why}", replica.name));
    database.replicas().into_iter().filter_map(told).collect()
}

async fn readable_database(config: &Config) -> anyhow::Result<Arc<dyn Database>> {
    demand(config)?;
    foundation::reading(config).await
}

/// The file of an embedded database.
fn embedded(config: &Config) -> Option<&Path> {
    config.storage_url.expose().strip_prefix("sqlite://").map(Path::new)
}

fn demand(config: &Config) -> anyhow::Result<()> {
    match embedded(config).filter(|path| !path.exists()) {
        Some(path) => bail!("there is no database at {}: run `doorward bootstrap`", path.display()),
        None => Ok(()),
    }
}

/// Lists the signing keys.
///
/// # Errors
/// Storage or keys cannot be opened.
pub async fn keys_list(config: &Config) -> Result<(), Failure> {
    let foundation = readable(config).await?;
    say_json(&foundation.keys()?.list().await?)
}

/// Makes the next keys current.
///
/// # Errors
/// An algorithm of which no keys are kept; storage failed.
pub async fn keys_rotate(config: &Config, alg: Option<&str>) -> Result<(), Failure> {
    let only = match alg {
        None => None,
        Some(name) => Some(Alg::parse(name).ok_or_else(|| Failure::Usage(format!("{name} is not an algorithm this version signs with")))?),
    };
    let foundation = existing(config).await?;
    let told = foundation.keys()?.rotate(only, &Actor::command("keys rotate")).await.map_err(anyhow::Error::from)?;
    say_json(&told)
}

/// Revokes a key.
///
/// # Errors
/// There is no such key; storage failed.
pub async fn keys_revoke(config: &Config, kid: &str, reason: Option<&str>) -> Result<(), Failure> {
    let foundation = existing(config).await?;
    let told = foundation.keys()?.revoke(kid, reason, &Actor::command("keys revoke")).await.map_err(anyhow::Error::from)?;
    say_json(&told)
}

/// Checks the ledger's chain from its checkpoint to its head.
///
/// # Errors
/// The row that is missing, out of order or changed.
pub async fn audit_verify(config: &Config) -> Result<(), Failure> {
    let database = readable_database(config).await?;
    loop {
        let from = database.checkpoint().await?;
        match verified(&*database, from).await {
            // A server beside this one removed old events meanwhile: what is left is checked from its new beginning.
            Err(_) if database.checkpoint().await?.0 > from.0 => {}
            Err(error) => return Err(error.into()),
            Ok((head, hash)) => {
                return say_json(&json!({ "ok": true, "first": from.0 + 1, "head": head, "hash": ledger::chain::hex::encode(&hash) }));
            }
        }
    }
}

/// The head to which the chain holds.
async fn verified(database: &dyn Database, (from, start): (u64, [u8; 32])) -> anyhow::Result<(u64, [u8; 32])> {
    let (head, hash) = database.head().await?;
    let mut verifier = Verifier::after(from, start);
    let progress = bar("verifying", head.saturating_sub(from));
    let mut after = from;
    loop {
        let rows = database.events(after, 1000).await?;
        let Some(last) = rows.last() else { break };
        // Rows written while this runs are beyond the head that was asked for.
        after = last.seq;
        for row in rows.iter().filter(|row| row.seq <= head) {
            verifier.row(row)?;
        }
        progress.set_position(after.saturating_sub(from));
        if after >= head {
            break;
        }
    }
    progress.finish_and_clear();
    verifier.finish(head, &hash)?;
    Ok((head, hash))
}

/// Writes the events as JSON lines.
///
/// # Errors
/// The file cannot be written; storage failed.
pub async fn audit_export(config: &Config, after: u64, to: Option<&Path>) -> Result<(), Failure> {
    let database = readable_database(config).await?;
    let listings = database.listings().unwrap_or_else(|| Arc::new(ledger::listing::Own(database.clone())));
    let mut out: Box<dyn Write + Send> = match to {
        Some(file) => Box::new(BufWriter::new(fs::File::create_new(file).with_context(|| format!("{}", file.display()))?)),
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let mut after = after;
    loop {
        let rows = listings.list_events(after, 1000).await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in &rows {
            let line = serde_json::to_string(row).map_err(anyhow::Error::from)?;
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

/// Deletes everything that has expired.
///
/// # Errors
/// Storage failed.
pub async fn gc(config: &Config) -> Result<(), Failure> {
    let foundation = existing(config).await?;
    let progress = spinner("purging");
    let mut gone = 0;
    loop {
        let batch = foundation.store.purge(foundation.clock.now(), PURGE_BATCH).await?;
        gone += batch;
        progress.set_message(format!("{gone} rows"));
        if batch == 0 {
            break;
        }
    }
    if let Some(keys) = &foundation.keys {
        keys.tick().await.map_err(anyhow::Error::from)?;
    }
    progress.finish_and_clear();
    say_json(&json!({ "purged": gone }))
}

/// Writes a backup file.
///
/// # Errors
/// The file is there already or cannot be written; storage failed.
pub async fn backup(config: &Config, to: &Path) -> Result<(), Failure> {
    let database = readable_database(config).await?;
    let saved = database.backup_to(to, progress("saving")).await.map_err(anyhow::Error::from)?;
    say_json(&json!({ "file": to.display().to_string(), "rows": saved.rows, "head": saved.head }))
}

/// Fills an empty database from a backup; opening it then ends what may have been revoked since: grants, sessions, API keys,
/// and every signing key.
///
/// # Errors
/// The database is not empty, the file is not a whole backup, or the key-encryption key is not the one it was made with.
pub async fn restore(config: &Config, from: &Path) -> Result<(), Failure> {
    let database = foundation::database(config).await?;
    let restored = database.restore_from(from, progress("restoring")).await.map_err(anyhow::Error::from)?;
    Foundation::over(config, database, false).await.context(
        "the backup is restored, but what it lets in is not ended yet; the next command or start on this database goes on with it",
    )?;
    say_json(&json!({ "rows": restored.rows, "head": restored.head, "ended": "grants, sessions, API keys and signing keys of the backup" }))
}

/// Prints the numbers this version enforces.
///
/// # Errors
/// Standard output is closed.
pub fn policy(json: bool) -> Result<(), Failure> {
    let policy = protocol::policy::policy_json(&protocol::Settings::for_issuer("https://issuer.example"));
    let mut policy = policy;
    if let Some(members) = policy.as_object_mut() {
        // Without a configuration there is no issuer; the rest are the defaults.
        members.remove("issuer");
    }
    if json { say_json(&policy) } else { say(&serde_json::to_string_pretty(&policy).map_err(anyhow::Error::from)?) }
}

fn failed(failure: ObjectFailure) -> Failure {
    match &failure {
        ObjectFailure::Invalid(_) => Failure::Failed(anyhow!("{}", tell(&failure))),
        _ => Failure::Failed(failure.into()),
    }
}

/// A refusal with every mistake on a line of its own.
#[must_use]
pub fn tell(failure: &ObjectFailure) -> String {
    match failure {
        ObjectFailure::Invalid(mistakes) => {
            let lines: Vec<String> = mistakes.iter().map(|Mistake { at, why }| format!("  {at}: {why}")).collect();
            format!("nothing was changed; {} mistake{}:\n{}", lines.len(), if lines.len() == 1 { "" } else { "s" }, lines.join("\n"))
        }
        other => other.to_string(),
    }
}

/// Shows how far something is, on a terminal and after a second.
fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), target()).with_style(style).with_prefix(what);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

fn spinner(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::with_draw_target(None, target()).with_style(style).with_prefix(what);
    spinner.enable_steady_tick(Duration::from_secs(1));
    spinner
}

fn target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

fn progress(what: &'static str) -> Progress {
    let bar = bar(what, 0);
    Box::new(move |done, total| {
        bar.set_length(total.max(done));
        bar.set_position(done);
    })
}
