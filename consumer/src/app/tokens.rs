//! `tokens`: the encoder as a filter, for training.

use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use models::encode::{Encoded, Encoder};
use serde::Deserialize;
use serde_json::json;

use super::CommandResult;

/// Rows that are encoded together, so that memory stays bounded.
const CHUNK_ROWS: usize = 4096;

/// Reads `{"a": TEXT, "b": TEXT}` or `{"text": QUERY}` a line and prints `[ids, types]`
/// for each. A pair's texts stay in the order given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `tokenizer.json`
    #[arg(long)]
    tokenizer: PathBuf,
    #[arg(long, default_value_t = 128)]
    pair_tokens_max: usize,
    #[arg(long, default_value_t = 32)]
    query_tokens_max: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Pair { a: String, b: String },
    Query { text: String },
}

pub fn run(args: Args) -> CommandResult {
    let tokenizer = std::fs::read(&args.tokenizer).map_err(|error| format!("{}: {error}", args.tokenizer.display()))?;
    let encoder = Encoder::new(&tokenizer, args.pair_tokens_max, args.query_tokens_max)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut lines = stdin().lock().lines().enumerate();
    loop {
        let mut rows = Vec::with_capacity(CHUNK_ROWS);
        for (number, line) in lines.by_ref().take(CHUNK_ROWS) {
            rows.push(serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", number + 1))?);
        }
        if rows.is_empty() {
            break;
        }
        for Encoded { ids, types, .. } in encode(&encoder, &rows)? {
            writeln!(out, "{}", json!([ids, types]))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// In the order of `rows`.
fn encode(encoder: &Encoder, rows: &[Row]) -> Result<Vec<Encoded>, models::encode::EncodeError> {
    let pairs = rows.iter().filter_map(|row| match row {
        Row::Pair { a, b } => Some((a.as_str(), b.as_str())),
        Row::Query { .. } => None,
    });
    let queries: Vec<String> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Query { text } => Some(text.clone()),
            Row::Pair { .. } => None,
        })
        .collect();
    let (mut pairs, mut queries) = (encoder.ordered_pairs(pairs)?.into_iter(), encoder.queries(&queries)?.into_iter());
    let next = |row: &Row| match row {
        Row::Pair { .. } => pairs.next(),
        Row::Query { .. } => queries.next(),
    };
    Ok(rows.iter().filter_map(next).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_kinds_keep_their_order() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/artifacts/minilm-l6-v6/tokenizer.json");
        let encoder = Encoder::new(&std::fs::read(file).expect("readable"), 128, 32).expect("the tokenizer is good");
        let pair = |a: &str, b: &str| Row::Pair { a: a.to_owned(), b: b.to_owned() };
        let rows = [pair("kettle", "lamp"), Row::Query { text: "zinc".to_owned() }, pair("lamp", "kettle")];
        let found = encode(&encoder, &rows).expect("encoded");
        let alone: Vec<Encoded> =
            rows.iter().flat_map(|row| encode(&encoder, std::slice::from_ref(row)).expect("encoded")).collect();
        assert_eq!(found, alone);
        assert_ne!(found[0].ids, found[2].ids, "a pair stays in the order given");
    }
}
