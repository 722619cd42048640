//! `key-epoch`: counts words, so that blocking knows which are common.

use std::io::{BufRead, Write, stdin, stdout};
use std::process::ExitCode;

use super::CommandResult;
use crate::decide::blocking::KeyEpoch;

/// Reads texts as `texts` prints them (one JSON string a line) on standard input and
/// prints the key epoch that they make.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of the epoch, which starts every key; larger than any in use.
    #[arg(long)]
    number: u32,
}

pub fn run(args: Args) -> CommandResult {
    let mut texts: Vec<String> = Vec::new();
    for (index, line) in stdin().lock().lines().enumerate() {
        texts.push(serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", index + 1))?);
    }
    write!(stdout().lock(), "{}", KeyEpoch::build(args.number, &texts))?;
    Ok(ExitCode::SUCCESS)
}
