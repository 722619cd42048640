//! `evaluate pairs`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use models::{PairScore, ScoreError, Scorer, TextPair};
use serde::Serialize;
use shared::{Stage, Verdict};

use super::dataset::{LabelledPair, read_pairs, read_rows};
use super::metrics::class_score;
use super::{ModelArgs, ROWS_PER_STEP, printing, progress, runtime};
use crate::app::CommandResult;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV table of products: id, title or name, and any of brand or manufacturer, model_number or
    /// modelno, product_type or category, description, price
    #[arg(long, value_name = "CSV", required_unless_present = "file", requires = "right", requires = "pairs")]
    left: Option<PathBuf>,
    /// CSV table with the other sides
    #[arg(long, value_name = "CSV", requires = "left")]
    right: Option<PathBuf>,
    /// CSV of ltable_id, rtable_id, label (1 for a duplicate, 0 otherwise)
    #[arg(long, value_name = "CSV", requires = "left")]
    pairs: Option<PathBuf>,
    /// JSON lines, gzipped or not, of rows with both records: title_left, title_right, other columns
    /// with these endings, label
    #[arg(long, value_name = "JSONL", conflicts_with_all = ["left", "right", "pairs"])]
    file: Option<PathBuf>,
    /// Ask the whole cross-encoder about every pair; doubtful ones are read in both orders all the same
    #[arg(long)]
    no_cascade: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// What is printed; the names are a promise.
#[derive(Debug, Serialize)]
pub struct Report {
    pub pairs: usize,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// The manifest's, never tuned on what is evaluated.
    pub threshold: f32,
    /// Pairs that the cascade settled, without the cross-encoder.
    pub settled: usize,
    /// Pairs that the network found distinct after its early layers.
    pub left_early: usize,
    /// Pairs that the network read in both orders.
    pub read_twice: usize,
    /// From product texts to verdicts, loading left out.
    pub pairs_per_second: f64,
}

pub fn run(args: Args) -> CommandResult {
    let pairs = match (&args.file, &args.left, &args.right, &args.pairs) {
        (Some(file), ..) => read_rows(file)?,
        (None, Some(left), Some(right), Some(pairs)) => read_pairs(left, right, pairs)?,
        _ => return Err("name --left, --right and --pairs, or --file".into()),
    };
    let scorer = args.model.start()?;
    let scorer = if args.no_cascade { scorer.without_cascade() } else { scorer };
    let started = Instant::now();
    let scores = runtime()?.block_on(score(&scorer, &pairs))?;
    let seconds = started.elapsed().as_secs_f64();
    let said = scores.iter().map(|score| score.verdict == Verdict::Duplicate);
    let class = class_score(said.zip(pairs.iter().map(|pair| pair.duplicate)));
    let report = Report {
        pairs: pairs.len(),
        precision: class.precision,
        recall: class.recall,
        f1: class.f1,
        threshold: scorer.manifest().thresholds.duplicate,
        settled: scores.iter().filter(|score| score.stage == Stage::Cascade).count(),
        left_early: scores.iter().filter(|score| score.left_early).count(),
        read_twice: scores.iter().filter(|score| score.read_twice).count(),
        pairs_per_second: pairs.len() as f64 / seconds.max(f64::EPSILON),
    };
    if args.json {
        printing::json(&report)?
    } else {
        printing::pairs(&report, scorer.model_id())
    }
    Ok(ExitCode::SUCCESS)
}

async fn score(scorer: &Scorer, pairs: &[LabelledPair]) -> Result<Vec<PairScore>, ScoreError> {
    let bar = progress(pairs.len());
    let mut scores = Vec::with_capacity(pairs.len());
    for step in pairs.chunks(ROWS_PER_STEP) {
        let texts = step
            .iter()
            .map(|pair| TextPair { left: pair.left.text.as_str().into(), right: pair.right.text.as_str().into() })
            .collect();
        scores.extend(scorer.score_pairs(texts).await?);
        bar.inc(step.len() as u64);
    }
    bar.finish_and_clear();
    Ok(scores)
}
