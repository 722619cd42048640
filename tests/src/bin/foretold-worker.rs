//! `catalog-labels worker` with a model that can be foretold, for the soak: everything
//! else is the real worker's, its options included.

use std::process::ExitCode;

use clap::Parser;
use consumer::app::worker::{Args, run_with};
use tests::fleet::{FORETOLD, TextModel};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    worker: Args,
}

#[expect(clippy::print_stderr, reason = "the last word of a failed command")]
fn main() -> ExitCode {
    let args = Cli::parse().worker;
    run_with(args, Box::new(|_configured| Ok(Box::new(TextModel::new(FORETOLD))))).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
