//! `evaluate pairs`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use models::{PairScore, ScoreError, Scorer, TextPair};
use serde::Serialize;
use shared::{Stage, Verdict};

use super::catalog::Catalog;
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
    /// Judge each pair by its two texts alone. Else, of two tables, a duplicate that another product of them
    /// contests counts as review, as it does for readers of the labels; what look-ups propose for it is scored besides
    #[arg(long, conflicts_with = "file")]
    alone: bool,
    /// Write a CSV of the pairs in the order in which they came: label, probability, verdict as readers take it, stage,
    /// and how sure the label is that contests it
    #[arg(long, value_name = "CSV")]
    verdicts: Option<PathBuf>,
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
    /// Duplicates of the model that count as review, since another product contests them; none where each pair was
    /// judged alone.
    pub contested: Option<usize>,
    /// F1 with each pair judged by its texts alone.
    pub f1_alone: f64,
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
    let (pairs, catalog) = read(&args)?;
    let scorer = args.model.start()?;
    let scorer = if args.no_cascade { scorer.without_cascade() } else { scorer };
    let runtime = runtime()?;
    let started = Instant::now();
    let texts = pairs.iter().map(|pair| text_pair(&pair.left.text, &pair.right.text)).collect();
    let scores = runtime.block_on(score(&scorer, texts))?;
    let seconds = started.elapsed().as_secs_f64();
    let rivals = match catalog {
        Some(catalog) => Some(runtime.block_on(catalog.rivals(&scorer, &scores))?),
        None => None,
    };
    let judged = judged(&pairs, &scores, rivals.as_deref().unwrap_or_default());
    if let Some(path) = &args.verdicts {
        write(&judged, path).map_err(|source| VerdictsError { path: path.clone(), source })?;
    }
    let report = report(&scorer, &judged, &scores, rivals.is_some(), seconds);
    if args.json {
        printing::json(&report)?
    } else {
        printing::pairs(&report, scorer.model_id())
    }
    Ok(ExitCode::SUCCESS)
}

/// The labelled pairs; of two tables their catalog as well, unless each pair is to be judged alone.
fn read(args: &Args) -> Result<(Vec<LabelledPair>, Option<Catalog>), Box<dyn Error + Send + Sync>> {
    match (&args.file, &args.left, &args.right, &args.pairs) {
        (Some(file), ..) => Ok((read_rows(file)?, None)),
        (None, Some(left), Some(right), Some(pairs)) => {
            let labelled = read_pairs(left, right, pairs)?;
            let catalog = if args.alone { None } else { Some(Catalog::read(left, right, pairs)?) };
            Ok((labelled, catalog))
        }
        _ => Err("name --left, --right and --pairs, or --file".into()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("--verdicts {} cannot be written", path.display())]
struct VerdictsError {
    path: PathBuf,
    source: csv::Error,
}

/// One row of `--verdicts`.
#[derive(Debug, Serialize)]
struct Judged {
    /// 1 for a duplicate, 0 otherwise.
    label: u8,
    probability: f32,
    /// As readers take it.
    verdict: Verdict,
    stage: Stage,
    /// Probability of the surest label that contests this one; empty where none does.
    rival: Option<f32>,
    /// Whether the two texts alone make it a duplicate.
    #[serde(skip)]
    is_duplicate: bool,
}

/// `rivals` are empty where each pair is judged alone.
fn judged(pairs: &[LabelledPair], scores: &[PairScore], rivals: &[Option<f32>]) -> Vec<Judged> {
    let rivals = rivals.iter().copied().chain(std::iter::repeat(None));
    let of_pair = |((pair, score), rival): ((&LabelledPair, &PairScore), Option<f32>)| {
        let is_duplicate = score.verdict == Verdict::Duplicate;
        let verdict = if is_duplicate && rival.is_some() { Verdict::Review } else { score.verdict };
        let label = u8::from(pair.duplicate);
        Judged { label, probability: score.probability, verdict, stage: score.stage, rival, is_duplicate }
    };
    pairs.iter().zip(scores).zip(rivals).map(of_pair).collect()
}

fn write(judged: &[Judged], path: &Path) -> Result<(), csv::Error> {
    let mut file = csv::Writer::from_path(path)?;
    judged.iter().try_for_each(|row| file.serialize(row))?;
    Ok(file.flush()?)
}

fn report(scorer: &Scorer, judged: &[Judged], scores: &[PairScore], in_catalog: bool, seconds: f64) -> Report {
    let class = |said: fn(&Judged) -> bool| class_score(judged.iter().map(|row| (said(row), row.label == 1)));
    let as_read = class(|row| row.verdict == Verdict::Duplicate);
    let contested = judged.iter().filter(|row| row.is_duplicate && row.rival.is_some()).count();
    Report {
        pairs: judged.len(),
        precision: as_read.precision,
        recall: as_read.recall,
        f1: as_read.f1,
        contested: in_catalog.then_some(contested),
        f1_alone: class(|row| row.is_duplicate).f1,
        threshold: scorer.manifest().thresholds.duplicate,
        settled: scores.iter().filter(|score| score.stage == Stage::Cascade).count(),
        left_early: scores.iter().filter(|score| score.left_early).count(),
        read_twice: scores.iter().filter(|score| score.read_twice).count(),
        pairs_per_second: judged.len() as f64 / seconds.max(f64::EPSILON),
    }
}

pub fn text_pair(left: &str, right: &str) -> TextPair {
    TextPair { left: left.into(), right: right.into() }
}

/// Scores in the order of `pairs`.
pub async fn score(scorer: &Scorer, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
    let bar = progress(pairs.len());
    let mut scores = Vec::with_capacity(pairs.len());
    for step in pairs.chunks(ROWS_PER_STEP) {
        scores.extend(scorer.score_pairs(step.to_vec()).await?);
        bar.inc(step.len() as u64);
    }
    bar.finish_and_clear();
    Ok(scores)
}
