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

use aws_config::SdkConfig;
use models::manifest::{Refused, Target};
use models::{Artifact, Manifest};

use self::finding::{Finding, Severity};
use super::config::{ConfigError, TableArgs, WorkerArgs, WorkerConfig};
use super::open::Tables;
use super::{CommandResult, lambda, reconcile, serve};
use crate::aws::{AwsOptions, Buckets, dynamo, sdk_config};
use crate::store::{Call, Store, StoreError, TablesError};

/// Look at configuration, model, devices, tables, queues and permissions, and change nothing
///
/// Takes the options and the environment of `worker`, or after the name of another command
/// those of that one. Ends with 0 where it would run; warnings do not change that.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(subcommand)]
    other: Option<Other>,
    /// Only configuration and model files; asks no network and no device
    #[arg(long, global = true)]
    config_only: bool,
    /// Print the findings as JSON
    #[arg(long, global = true)]
    json: bool,
}

/// A command that is looked at in place of `worker`.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// What `serve` needs
    Serve(Box<serve::Args>),
    /// What `lambda` needs
    Lambda(Box<lambda::Args>),
    /// What `reconcile` needs
    Reconcile(Box<reconcile::Args>),
}

/// What a command needs of the services, once its options were found to be right.
enum Needs {
    Worker(Box<WorkerConfig>),
    /// None: every query is scored.
    Serve(Option<TableArgs>),
    Lambda(Box<lambda::Args>),
    Reconcile(TableArgs),
}

pub fn run(args: Args) -> CommandResult {
    let (config_only, json) = (args.config_only, args.json);
    let findings = tokio::runtime::Runtime::new()?.block_on(findings(args, config_only));
    print(&findings, json)?;
    Ok(if findings.iter().any(Finding::is_error) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn findings(args: Args, config_only: bool) -> Vec<Finding> {
    let mut findings = environment::unknown(std::env::vars_os().filter_map(|(name, _value)| name.into_string().ok()));
    let mut targets = Vec::new();
    for folder in args.artifacts() {
        match Artifact::open(folder) {
            Ok(artifact) => targets.push(target(&artifact.manifest)),
            Err(refused) => findings.extend(of_refused(&refused)),
        }
    }
    if !config_only {
        findings.extend(devices::findings(&devices::Host::this(), &targets));
    }
    match args.resolve() {
        Err(error) => findings.extend(of_configuration(error)),
        Ok(needs) if !config_only => findings.extend(of_services(needs).await),
        Ok(_) => {}
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

impl Args {
    fn artifacts(&self) -> Vec<&Path> {
        let model = match &self.other {
            None => &self.worker.model,
            Some(Other::Serve(args)) => &args.model,
            Some(Other::Lambda(args)) => &args.model,
            Some(Other::Reconcile(args)) => &args.model,
        };
        let next = self.worker.next_artifact.iter().filter(|_| self.other.is_none());
        std::iter::once(&model.artifact).chain(next).map(|folder| folder.as_path()).collect()
    }

    fn resolve(self) -> Result<Needs, ConfigError> {
        Ok(match self.other {
            None => Needs::Worker(Box::new(self.worker.resolve()?)),
            Some(Other::Serve(args)) => Needs::Serve(args.resolve()?.tables),
            Some(Other::Lambda(args)) => {
                args.verify()?;
                Needs::Lambda(args)
            }
            Some(Other::Reconcile(args)) => {
                args.verify()?;
                Needs::Reconcile(args.tables)
            }
        })
    }
}

fn of_configuration(error: ConfigError) -> Vec<Finding> {
    let fix = "set the flag, or its variable in the environment; docs/CONFIGURATION.md has them all";
    error.problems.into_iter().map(|problem| Finding::error("configuration", problem, fix)).collect()
}

/// Manifest, and the digest of each file that it names. The outputs are checked at load.
fn of_refused(refused: &Refused) -> impl Iterator<Item = Finding> {
    let about = format!("model {}", refused.folder.display());
    let fix = "copy the artifact again, whole, or point --artifact (or --next-artifact) at another";
    refused.problems.iter().map(move |problem| Finding::error(&about, problem.to_string(), fix))
}

/// What a model was made for: where nothing is compiled, libtorch runs it on the CPU.
fn target(manifest: &Manifest) -> Target {
    manifest.compiled.as_ref().map_or(Target::Cpu, |compiled| compiled.device)
}

/// Tables, queues and buckets: how they are made, and what this identity may do with them.
async fn of_services(needs: Needs) -> Vec<Finding> {
    match needs {
        Needs::Worker(config) => {
            let (sdk, mut findings) = of_labelling(&config.tables, &config.object_buckets).await;
            findings.extend(queues::findings(&sdk, &config).await);
            findings
        }
        Needs::Lambda(args) => {
            let (sdk, mut findings) = of_labelling(&args.tables, &args.object_bucket).await;
            if let Some(url) = &args.dead_letter_queue_url {
                findings.extend(queues::of_parking(&sdk, url).await);
            }
            findings
        }
        Needs::Serve(None) => Vec::new(),
        Needs::Serve(Some(args)) => of_opened(&args, Store::refused_look_ups).await,
        Needs::Reconcile(args) => of_opened(&args, Store::refused_walks).await,
    }
}

/// What a command that may also run on tables of this machine needs.
async fn of_opened(
    args: &TableArgs,
    refused: impl AsyncFnOnce(&Store) -> Result<Vec<Call>, StoreError>,
) -> Vec<Finding> {
    match Tables::open(args).await {
        Ok(tables) => of_tables(&tables.store, refused(&tables.store)).await,
        Err(error) => vec![Finding::error("tables", crate::source::with_causes(&error), "check --local")],
    }
}

/// What `worker` and `lambda` both need, and the configuration of the SDK that it was asked with.
async fn of_labelling(tables: &TableArgs, buckets: &[String]) -> (SdkConfig, Vec<Finding>) {
    let options = AwsOptions { region: tables.region.clone(), endpoint_url: tables.endpoint_url.clone() };
    let sdk = sdk_config(&options).await;
    let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), &tables.table_prefix);
    let mut findings = of_tables(&store, store.refused_operations()).await;
    for bucket in buckets {
        if let Err(error) = Buckets::open(&sdk, [bucket.clone()]).await {
            let fix = "check the name, and the role's s3:ListBucket on the bucket and s3:GetObject on its objects";
            findings.push(Finding::error(format!("bucket {bucket}"), crate::source::with_causes(&error), fix));
        }
    }
    (sdk, findings)
}

/// How the tables are made, and what `refused` says once they have answered.
async fn of_tables(store: &Store, refused: impl Future<Output = Result<Vec<Call>, StoreError>>) -> Vec<Finding> {
    let mut findings = match store.verify_tables().await {
        Ok(()) => Vec::new(),
        Err(TablesError::Different { differences }) => {
            let fix = "deploy the stack of this build, or make the table as `catalog-labels tables` says";
            differences.into_iter().map(|difference| Finding::error("tables", difference, fix)).collect()
        }
        // Nothing answers: to ask for each permission would only say so again.
        Err(error) => return vec![of_store_error(&error)],
    };
    match refused.await {
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
