//! `check`: looks at everything that a worker needs on this host and in its account, changes
//! nothing, and says what is wrong and what to do about it.
//!
//! What it cannot see: whether receiving is permitted, since a receive counts as one.

mod devices;
mod environment;
mod finding;
mod queues;

use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use models::Artifact;

use self::finding::{Finding, Severity};
use super::CommandResult;
use super::config::{ConfigError, WorkerArgs, WorkerConfig};
use crate::aws::{AwsOptions, dynamo, sdk_config};
use crate::store::{Store, StoreError, TablesError};

/// Look at configuration, model, devices, tables, queues and permissions, and change nothing
///
/// Takes the options and the environment of `worker`. Ends with 0 where a worker would run;
/// warnings do not change that.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Only configuration and model files; asks no network and no device
    #[arg(long)]
    config_only: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> CommandResult {
    let (config_only, json) = (args.config_only, args.json);
    let findings = tokio::runtime::Runtime::new()?.block_on(findings(args.worker, config_only));
    print(&findings, json)?;
    Ok(if findings.iter().any(Finding::is_error) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn findings(args: WorkerArgs, config_only: bool) -> Vec<Finding> {
    let mut findings = environment::unknown(std::env::vars_os().filter_map(|(name, _value)| name.into_string().ok()));
    for artifact in std::iter::once(&args.model.artifact).chain(&args.next_artifact) {
        findings.extend(of_artifact(artifact));
    }
    if !config_only {
        findings.extend(devices::findings(&devices::Host::this()));
    }
    match args.resolve() {
        Err(error) => findings.extend(of_configuration(error)),
        Ok(config) if !config_only => findings.extend(of_services(&config).await),
        Ok(_) => {}
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_configuration(error: ConfigError) -> Vec<Finding> {
    let fix = "set the flag, or its variable in the environment; docs/CONFIGURATION.md has them all";
    error.problems.into_iter().map(|problem| Finding::error("configuration", problem, fix)).collect()
}

/// Manifest, and the digest of each file that it names. The outputs are checked at load.
fn of_artifact(folder: &Path) -> Vec<Finding> {
    let Err(refused) = Artifact::open(folder) else { return Vec::new() };
    let about = format!("model {}", refused.folder.display());
    let fix = "copy the artifact again, whole, or point --artifact (or --next-artifact) at another";
    refused.problems.iter().map(|problem| Finding::error(&about, problem.to_string(), fix)).collect()
}

/// Tables and queues: how they are made, and what this identity may do with them.
async fn of_services(config: &WorkerConfig) -> Vec<Finding> {
    let options = AwsOptions { region: config.tables.region.clone(), endpoint_url: config.tables.endpoint_url.clone() };
    let sdk = sdk_config(&options).await;
    let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), &config.tables.table_prefix);
    let mut findings = of_tables(&store).await;
    findings.extend(queues::findings(&sdk, config).await);
    findings
}

async fn of_tables(store: &Store) -> Vec<Finding> {
    let mut findings = match store.verify_tables().await {
        Ok(()) => Vec::new(),
        Err(TablesError::Different { differences }) => {
            let fix = "deploy the stack of this build, or make the table as `catalog-labels tables` says";
            differences.into_iter().map(|difference| Finding::error("tables", difference, fix)).collect()
        }
        // Nothing answers: to ask for each permission would only say so again.
        Err(error) => return vec![of_store_error(&error)],
    };
    match store.refused_operations().await {
        Ok(refused) => findings.extend(refused.into_iter().map(|call| {
            let fix =
                format!("allow dynamodb:{} on the table, and its key's use, in the role's policy", call.operation);
            Finding::error("permissions", format!("{call} is denied"), fix)
        })),
        Err(error) => findings.push(of_store_error(&TablesError::Store(error))),
    }
    findings
}

fn of_store_error(error: &TablesError) -> Finding {
    let fix = match error {
        TablesError::Store(StoreError::AccessDenied { .. }) => "check the credentials, and the role's policy",
        _ => "check --region and --endpoint-url, and the way to DynamoDB from here",
    };
    Finding::error("tables", crate::source::with_causes(error), fix)
}

fn print(findings: &[Finding], json: bool) -> Result<(), std::io::Error> {
    let mut out = stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string_pretty(findings).expect("findings are JSON"));
    }
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    writeln!(out, "errors: {}, warnings: {}", count(Severity::Error), count(Severity::Warning))
}
