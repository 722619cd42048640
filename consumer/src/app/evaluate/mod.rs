//! `evaluate`: judges the shipped model on labelled data.

mod blocking;
mod catalog;
pub mod dataset;
mod grid;
mod index;
mod loss;
pub mod metrics;
mod pairs;
mod printing;
mod queries;
mod stored;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::{Builder, Runtime};

use super::CommandResult;
use super::config::ModelArgs;

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
    /// Shapes of modules for NeuronCores, and how full they run
    Grid(grid::Args),
    /// Precision and recall of the labels in the tables, and where missed pairs were lost
    Stored(stored::Args),
}

pub fn run(args: Args) -> CommandResult {
    match args.what {
        What::Pairs(args) => pairs::run(args),
        What::Queries(args) => queries::run(args),
        What::Blocking(args) => blocking::run(args),
        What::Grid(args) => grid::run(args),
        What::Stored(args) => stored::run(args),
    }
}

/// The scorer only waits here; the work is done by its replicas.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

/// A bar on standard error, where that is a terminal.
fn progress(rows: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {per_sec}  {eta} left")
        .expect("the template is constant and valid");
    let bar = ProgressBar::new(rows as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
