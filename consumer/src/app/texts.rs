//! `texts`: the serialiser as a filter, for training.

use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::process::ExitCode;

use shared::{Product, ProductText};

use super::CommandResult;

/// Reads one product a line as JSON (the `product` object of an upsert event) and prints
/// its text as a JSON string, one a line.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> CommandResult {
    let mut out = BufWriter::new(stdout().lock());
    for (number, line) in stdin().lock().lines().enumerate() {
        let product: Product = serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", number + 1))?;
        writeln!(out, "{}", serde_json::to_string(&ProductText::of(&product).text)?)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
