//! `evaluate`: judges the shipped model on labelled data.

mod blocking;
pub mod dataset;
pub mod metrics;
mod pairs;
mod printing;
mod queries;

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use models::{LoadError, Numeric, Scorer, ScorerOptions};
use tokio::runtime::{Builder, Runtime};

use super::CommandResult;

/// Rows that are scored between two steps of the progress bar. Batches are made among
/// them, so fewer would mean more padding.
const ROWS_PER_STEP: usize = 1_024;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Precision, recall and F1 of the duplicate verdict on labelled pairs of products
    Pairs(pairs::Args),
    /// Accuracy and macro-F1 of the intent on labelled queries
    Queries(queries::Args),
    /// Pair completeness and cost of the worker's own look-ups
    Blocking(blocking::Args),
}

/// Which model judges, and on how many threads.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of the artifact, with its manifest
    #[arg(long, env = "CATALOG_LABELS_ARTIFACT", default_value = "models/artifacts/minilm-l6-v1", value_name = "DIR")]
    artifact: PathBuf,
    /// Threads that each hold the model [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// Type in which the linear layers multiply: auto, fp32 or bf16
    #[arg(long, default_value_t = Numeric::Auto, value_name = "PATH")]
    numeric: Numeric,
}

impl ModelArgs {
    /// Loads and verifies the model.
    pub fn start(&self) -> Result<Scorer, LoadError> {
        let cores = || available_parallelism().map_or(1, usize::from);
        let options = ScorerOptions { replicas: self.replicas.map_or_else(cores, usize::from), numeric: self.numeric };
        Scorer::start(&self.artifact, options)
    }
}

pub fn run(args: Args) -> CommandResult {
    match args.what {
        What::Pairs(args) => pairs::run(args),
        What::Queries(args) => queries::run(args),
        What::Blocking(args) => blocking::run(args),
    }
}

/// The scorer only waits here; the work is done by its replicas.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().build()
}

/// A bar on standard error, where that is a terminal.
fn progress(rows: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {per_sec}  {eta} left")
        .expect("the template is constant and valid");
    let bar = ProgressBar::new(rows as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
