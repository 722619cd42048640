//! `features`: what the first stage reads of a pair or a query, as a filter, for training.

use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::process::ExitCode;

use models::features::{FEATURES, Sketch, features};
use models::query_cascade::Pieces;
use serde::Deserialize;

use super::CommandResult;

/// Reads `{"a": TEXT, "b": TEXT}` a line and prints the features of each pair as an array; of
/// `{"text": QUERY}`, the buckets of its words and letters.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the names of the features instead, as one array
    #[arg(long)]
    names: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    a: Option<String>,
    b: Option<String>,
    text: Option<String>,
}

pub fn run(args: Args) -> CommandResult {
    let mut out = BufWriter::new(stdout().lock());
    if args.names {
        writeln!(out, "{}", serde_json::to_string(FEATURES.as_slice())?)?;
    } else {
        for (number, line) in stdin().lock().lines().enumerate() {
            let row = serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", number + 1))?;
            let found = match row {
                Row { a: Some(a), b: Some(b), text: None } => {
                    serde_json::to_string(features(&Sketch::of(&a), &Sketch::of(&b)).as_slice())?
                }
                Row { a: None, b: None, text: Some(text) } => serde_json::to_string(&Pieces::of(&text))?,
                Row { .. } => {
                    return Err(format!("line {}: give a and b of a pair, or text of a query", number + 1).into());
                }
            };
            writeln!(out, "{found}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
