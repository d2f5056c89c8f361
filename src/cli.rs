//! The command line: what may be asked, and the exit code of each answer (0 done, 1 failed, 2 bad usage or configuration).
use std::{
    fmt,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::{
    config::{self, Config, Mistakes},
    explain, operations, quickstart, serve, telemetry, tls,
};

/// Issues tokens and enforces them at the edge: an OAuth 2.x / OpenID Connect authorization server and an API gateway in one binary.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing to a protected call on this machine, then walks the tour.
    Quickstart {
        /// Where everything is kept.
        #[arg(long, default_value = "./doorward-data")]
        data_dir: PathBuf,
        /// No tour: one ready line on standard output.
        #[arg(long)]
        json: bool,
        /// Do not walk the tour.
        #[arg(long)]
        no_tour: bool,
    },
    /// Runs the parts that the configuration names.
    Serve(ConfigFile),
    /// Makes the database, the keys and one administrator's credential, if they are not there yet.
    Bootstrap {
        #[command(flatten)]
        config: ConfigFile,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Gives the administrator's client a new secret and prints it.
        #[arg(long)]
        rotate: bool,
    },
    /// Makes the stored objects as a seed file says.
    Seed {
        #[command(flatten)]
        config: ConfigFile,
        /// The seed file.
        #[arg(long)]
        file: PathBuf,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Only says what would change.
        #[arg(long)]
        plan: bool,
    },
    /// Validates configuration, keys, database and routes.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Signing keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The ledger as an audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Deletes expired rows.
    Gc {
        #[command(flatten)]
        config: ConfigFile,
        /// One pass over everything, then exit.
        #[arg(long, required = true)]
        once: bool,
    },
    /// Writes everything in the database into one new file (secrets stay sealed; keep the key-encryption key too).
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// The file to write.
        #[arg(long)]
        to: PathBuf,
    },
    /// Fills an empty database from a backup; everything it had let in is ended.
    Restore {
        #[command(flatten)]
        config: ConfigFile,
        /// The file to read.
        #[arg(long)]
        from: PathBuf,
    },
    /// Prints the numbers this version enforces.
    Policy {
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Says why a request would be let through the gateway or refused.
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        /// The request's method.
        #[arg(long, default_value = "GET")]
        method: String,
        /// The request's target: path and query.
        #[arg(long, required_unless_present_any = ["file", "request_id"])]
        path: Option<String>,
        /// The request's host.
        #[arg(long)]
        host: Option<String>,
        /// The bearer token it carries.
        #[arg(long)]
        token: Option<String>,
        /// The API key it carries.
        #[arg(long, conflicts_with = "token")]
        api_key: Option<String>,
        /// A file of tests instead, `{"tests": [{"name", "request", "expect"}]}`: fails if a decision is not the expected one.
        #[arg(long, conflicts_with_all = ["path", "host", "token", "api_key", "request_id"])]
        file: Option<PathBuf>,
        /// Asks the running process why this request (its `X-Request-Id`) was refused.
        #[arg(long, conflicts_with_all = ["path", "host", "token", "api_key"], requires = "admin_token_file")]
        request_id: Option<String>,
        /// Its administration listener, if it is not the configured one.
        #[arg(long, requires = "request_id")]
        admin: Option<SocketAddr>,
        /// A file with an access token for its administration API.
        #[arg(long)]
        admin_token_file: Option<PathBuf>,
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Prints the manual page of the configuration.
    #[command(hide = true)]
    ConfigDocs,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(id = "config", long = "config", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Lists the keys and their states.
    List(ConfigFile),
    /// Makes the next key of each algorithm the signing one.
    Rotate {
        #[command(flatten)]
        config: ConfigFile,
        /// Only this algorithm, e.g. `ES256`.
        #[arg(long)]
        alg: Option<String>,
    },
    /// Revokes a key: everything it signed is dead.
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// The key's id.
        kid: String,
        /// Why; kept in the ledger.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Checks the chain; names a changed, removed or reordered row.
    Verify(ConfigFile),
    /// Writes the events as JSON lines.
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// Starts after this position.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// A file instead of standard output.
        #[arg(long)]
        to: Option<PathBuf>,
    },
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// Bad usage or configuration: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Failed(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why.trim_end()),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Usage(mistakes.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ledger::StoreError> for Failure {
    fn from(error: ledger::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tls::install_provider();
    telemetry::watch_panics();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "doorward: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                Failure::Failed(_) => 1,
            })
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Quickstart { data_dir, json, no_tour } => quickstart::run(&data_dir, json, no_tour),
        Command::Serve(ConfigFile { file }) => serve::run(Config::load(&file)?),
        Command::Policy { json } => operations::policy(json),
        Command::ConfigDocs => say(config::manual::page().trim_end()),
        other => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let outcome = runtime.block_on(offline(other));
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            outcome
        }
    }
}

async fn offline(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bootstrap { config, json, rotate } => operations::bootstrap(&load(&config.file)?, json, rotate).await,
        Command::Seed { config, file, json, plan } => operations::seed(&load(&config.file)?, &file, json, plan).await,
        Command::Check { config, json } => operations::check(&load(&config.file)?, json).await,
        Command::Keys(KeysCommand::List(config)) => operations::keys_list(&load(&config.file)?).await,
        Command::Keys(KeysCommand::Rotate { config, alg }) => operations::keys_rotate(&load(&config.file)?, alg.as_deref()).await,
        Command::Keys(KeysCommand::Revoke { config, kid, reason }) => {
            operations::keys_revoke(&load(&config.file)?, &kid, reason.as_deref()).await
        }
        Command::Audit(AuditCommand::Verify(config)) => operations::audit_verify(&load(&config.file)?).await,
        Command::Audit(AuditCommand::Export { config, after, to }) => {
            operations::audit_export(&load(&config.file)?, after, to.as_deref()).await
        }
        Command::Gc { config, once: _ } => operations::gc(&load(&config.file)?).await,
        Command::Backup { config, to } => operations::backup(&load(&config.file)?, &to).await,
        Command::Restore { config, from } => operations::restore(&load(&config.file)?, &from).await,
        Command::Explain { config, method, path, host, token, api_key, file, request_id, admin, admin_token_file, json } => {
            let config = load(&config.file)?;
            match (file, request_id.zip(admin_token_file)) {
                (Some(file), _) => explain::test(&config, &file, json).await,
                (None, Some((id, token))) => {
                    let asked = explain::Remembered { token_file: &token, admin };
                    explain::remembered(&config, &id, asked, json).await
                }
                (None, None) => {
                    let asked =
                        explain::Asked { method: Some(method), path: path.unwrap_or_default(), host, token, api_key, ..Default::default() };
                    explain::run(&config, asked, json).await
                }
            }
        }
        Command::Quickstart { .. } | Command::Serve(_) | Command::Policy { .. } | Command::ConfigDocs => Ok(()),
    }
}

/// Loads the configuration of an offline command; its warnings go to standard error.
fn load(file: &Path) -> Result<Config, Failure> {
    let mut config = Config::load(file)?;
    "warn".clone_into(&mut config.log.filter);
    config.log.file = None;
    telemetry::start_logs(&config.log)?;
    Ok(config)
}

/// Prints one line on standard output. A reader that has gone away is no failure.
///
/// # Errors
/// Standard output cannot be written to.
pub fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a JSON value on one line.
///
/// # Errors
/// As [`say`].
pub fn say_json(value: &Value) -> Result<(), Failure> {
    say(&value.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bad_configuration_is_told_from_failure() {
        assert!(matches!(Failure::from(Mistakes(vec!["x".into()])), Failure::Usage(_)));
        assert!(matches!(Failure::from(anyhow::anyhow!("x")), Failure::Failed(_)));
    }
}
