//! `catalog-labels`: see `catalog-labels --help`.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use consumer::app::Cli;
use tikv_jemallocator::Jemalloc;

/// A request to a table is many small blocks, which one thread takes and another one gives back.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run().unwrap_or_else(|error| {
        report(error.as_ref());
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stderr, reason = "the last word of a failed command")]
fn report(error: &dyn Error) {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
}
