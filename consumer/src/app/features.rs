//! `features`: what the cascade reads of a pair, as a filter, for training.

use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::process::ExitCode;

use models::features::{FEATURES, Sketch, features};
use serde::Deserialize;

use super::CommandResult;

/// Reads `{"a": TEXT, "b": TEXT}` a line and prints the features of each pair as an array.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the names of the features instead, as one array
    #[arg(long)]
    names: bool,
}

#[derive(Deserialize)]
struct Pair {
    a: String,
    b: String,
}

pub fn run(args: Args) -> CommandResult {
    let mut out = BufWriter::new(stdout().lock());
    if args.names {
        writeln!(out, "{}", serde_json::to_string(FEATURES.as_slice())?)?;
    } else {
        for (number, line) in stdin().lock().lines().enumerate() {
            let Pair { a, b } =
                serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", number + 1))?;
            let row = features(&Sketch::of(&a), &Sketch::of(&b));
            writeln!(out, "{}", serde_json::to_string(row.as_slice())?)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
