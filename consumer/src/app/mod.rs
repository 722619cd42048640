//! The command line and its commands.

pub mod backfill;
pub mod check;
pub mod config;
pub mod demo;
mod descriptors;
pub mod evaluate;
pub mod eviction;
pub mod export;
pub mod features;
pub mod health;
pub mod key_epoch;
pub mod lambda;
pub mod lookup;
pub mod model;
mod open;
pub mod reconcile;
pub mod sample;
pub mod serve;
pub mod tables;
pub mod telemetry;
pub mod texts;
pub mod tokens;
pub mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a command ends in: an exit code, or an error for `main` to print with its causes.
pub type CommandResult = Result<ExitCode, Box<dyn std::error::Error + Send + Sync>>;

/// Keeps duplicate and intent labels of a product catalog fresh.
#[derive(Debug, Parser)]
#[command(name = "catalog-labels", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Backfill(backfill::Args),
    /// Look at configuration, model, devices, tables, queues and permissions, and change nothing
    Check(check::Args),
    /// Label a sample catalog end to end on this machine and print the result
    Demo(demo::Args),
    /// Judge the shipped model, or blocking, on labelled data
    Evaluate(evaluate::Args),
    /// Write every live label to one file, as NDJSON or Parquet
    Export(export::Args),
    /// Print what the first stage reads of pairs and queries (NDJSON in, NDJSON out)
    Features(features::Args),
    /// Build and roll out key epochs: what blocking knows about how common words are
    KeyEpoch(key_epoch::Args),
    /// Label what an SQS event source brings, as a Lambda function
    Lambda(lambda::Args),
    /// Show a product's duplicates or a query's intent
    Lookup(lookup::Args),
    /// Print the definition of the tables as JSON
    Tables(tables::Args),
    /// Show or switch the model whose labels readers take
    Model(model::Args),
    /// Plan every product once more, so that the labels depend on the newest states alone
    Reconcile(reconcile::Args),
    /// Answer intents and duplicates over HTTP
    Serve(serve::Args),
    /// Print the text that the model reads of each product (NDJSON in, NDJSON out)
    Texts(texts::Args),
    /// Print the token ids and types that the model reads of texts (NDJSON in, NDJSON out)
    Tokens(tokens::Args),
    /// Consume events from SQS and keep the labels fresh
    Worker(worker::Args),
}

impl Cli {
    pub fn run(self) -> CommandResult {
        match self.command {
            Command::Backfill(args) => backfill::run(args),
            Command::Check(args) => check::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Evaluate(args) => evaluate::run(args),
            Command::Export(args) => export::run(args),
            Command::Features(args) => features::run(args),
            Command::KeyEpoch(args) => key_epoch::run(args),
            Command::Lambda(args) => lambda::run(args),
            Command::Lookup(args) => lookup::run(args),
            Command::Tables(args) => tables::run(args),
            Command::Model(args) => model::run(args),
            Command::Reconcile(args) => reconcile::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Texts(args) => texts::run(args),
            Command::Tokens(args) => tokens::run(args),
            Command::Worker(args) => worker::run(args),
        }
    }
}
