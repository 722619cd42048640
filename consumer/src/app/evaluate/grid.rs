//! `evaluate grid`: the shapes to compile for NeuronCores, from texts and rates as they are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use models::encode::{EncodeError, Encoded, Encoder};
use models::grid::{Call, Limits, NEURON_TOKEN_TIME, Played, Traffic, choose};
use models::shape::{Grid, Shape};
use models::{Artifact, Manifest, TextPair};
use serde::Serialize;

use super::dataset::{LabelledPair, read_pairs, read_queries};
use super::printing;
use crate::app::CommandResult;

/// What the times of arrivals are drawn with, so that a run can be repeated.
const SEED: u64 = 1;
const BATCH_TOKENS_MAX: usize = 1 << 20;

/// Choose the shapes that `compile_neuron.py --buckets` takes, for pairs and queries as they are
///
/// Plays a backlog of pairs, and queries at the rate given, through the worker's own planner on
/// cores whose time for a batch is that of the public figures for BERT-base. Prints how full each
/// shape runs. No device and no module is needed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV table of products, as `evaluate pairs` reads it; may be repeated, each with its own --right and
    /// --pairs
    #[arg(long, value_name = "CSV", required = true)]
    left: Vec<PathBuf>,
    /// CSV table with the other sides
    #[arg(long, value_name = "CSV", required = true)]
    right: Vec<PathBuf>,
    /// CSV of ltable_id, rtable_id and label: rows with one left side that follow one another are one
    /// event's candidates, as `evaluate blocking --candidates` writes them
    #[arg(long, value_name = "CSV", required = true)]
    pairs: Vec<PathBuf>,
    /// TSV of queries, as `evaluate queries` reads it; each arrives on its own
    #[arg(long, value_name = "TSV")]
    queries: PathBuf,
    /// Folder whose tokenizer, limits and first stages are taken
    #[arg(long, value_name = "DIR", default_value = "models/artifacts/minilm-l6-v6", env = "CATALOG_LABELS_ARTIFACT")]
    artifact: PathBuf,
    /// Events in work at once, as of `worker`
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Queries for the online lane of one host that the first stage leaves to it, at random (Poisson)
    #[arg(long, default_value_t = 2_000.0, value_parser = rate)]
    queries_per_second: f64,
    /// Cores of one host
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    cores: u16,
    /// Modules that fit in a core: nine of BERT-base's size, more of smaller ones
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=64))]
    modules: u16,
    /// Tokens of the largest batch, padding included; the public figures end at 6 rows of 128
    #[arg(long, default_value_t = 768)]
    batch_tokens: usize,
    /// Judge this grid in place of choosing one
    #[arg(long, value_name = "BATCHxLENGTH", num_args = 1.., value_parser = shape)]
    buckets: Vec<Shape>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What is printed; the names are a promise.
#[derive(Debug, Serialize)]
pub struct Report {
    /// As `compile_neuron.py --buckets` takes them.
    pub buckets: Vec<String>,
    pub pairs: Lane,
    pub queries: Lane,
}

/// What a grid does for one lane.
#[derive(Debug, Serialize)]
pub struct Lane {
    pub rows: usize,
    /// Mean of the rows, without padding.
    pub tokens_per_row: f64,
    /// Share of the tokens through the network that are no padding.
    pub fill: f64,
    /// Rows that a core scores in a second while it is busy.
    pub rows_per_core_second: f64,
    /// From arrival to answer.
    pub mean_ms: f64,
    pub shapes: Vec<Use>,
}

#[derive(Debug, Serialize)]
pub struct Use {
    pub bucket: String,
    pub batches: usize,
    /// Mean of the batches.
    pub rows_per_batch: f64,
    pub fill: f64,
}

#[derive(Debug, thiserror::Error)]
enum GridError {
    #[error("--left, --right and --pairs: {given:?} of them are given; there must be as many of each")]
    Sets { given: [usize; 3] },
    #[error("no {what} are left for the encoder")]
    Nothing { what: &'static str },
    #[error("--batch-tokens: {given} is out of range; it is 1 to {BATCH_TOKENS_MAX}")]
    BatchTokens { given: usize },
    #[error("--buckets: none is as long as the longest pair, {longest} tokens")]
    TooShort { longest: usize },
}

pub fn run(args: Args) -> CommandResult {
    let artifact = Artifact::open(&args.artifact)?;
    let length_max = artifact.manifest.pair_tokens_max;
    args.check(length_max)?;
    let lanes = args.traffic(&artifact)?;
    let limits = Limits { modules_max: usize::from(args.modules), batch_tokens_max: args.batch_tokens, length_max };
    let shapes = if args.buckets.is_empty() { choose(&lanes, &limits) } else { args.buckets };
    let grid = Grid::new(shapes.iter().copied());
    let [pairs, queries] = lanes.map(|lane| Lane::of(&lane.play(&grid)));
    let report = Report { buckets: shapes.iter().map(Shape::to_string).collect(), pairs, queries };
    if args.json {
        printing::json(&report)?;
    } else {
        printing::grid(&report);
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn check(&self, length_max: usize) -> Result<(), GridError> {
        let given = [&self.left, &self.right, &self.pairs].map(Vec::len);
        if given.iter().any(|&count| count != given[0]) {
            return Err(GridError::Sets { given });
        }
        if !(1..=BATCH_TOKENS_MAX).contains(&self.batch_tokens) {
            return Err(GridError::BatchTokens { given: self.batch_tokens });
        }
        if !self.buckets.is_empty() && self.buckets.iter().all(|shape| shape.length < length_max) {
            return Err(GridError::TooShort { longest: length_max });
        }
        Ok(())
    }

    /// The bulk lane's, then the online lane's.
    fn traffic(&self, artifact: &Artifact) -> Result<[Traffic; 2], Box<dyn std::error::Error + Send + Sync>> {
        let Manifest { pair_tokens_max, query_tokens_max, .. } = artifact.manifest;
        let encoder = Encoder::new(&artifact.tokenizer, pair_tokens_max, query_tokens_max)?;
        let mut pairs = Vec::new();
        for ((left, right), of_set) in self.left.iter().zip(&self.right).zip(&self.pairs) {
            pairs.extend(groups_of_pairs(&read_pairs(left, right, of_set)?, artifact, &encoder)?);
        }
        let first = artifact.query_cascade.as_ref();
        let settles = |query: &str| first.is_some_and(|first| first.settle(&encoder, query).is_some());
        let queries = read_queries(&self.queries, None)?.into_iter().map(|query| query.text);
        let texts: Vec<String> = queries.filter(|query| !settles(query)).collect();
        let queries: Vec<Vec<usize>> = encoder.queries(&texts)?.iter().map(|row| vec![row.ids.len()]).collect();
        for (rows, what) in [(&pairs, "pairs"), (&queries, "queries")] {
            if rows.is_empty() {
                return Err(GridError::Nothing { what }.into());
            }
        }
        let cores = usize::from(self.cores);
        let online = Traffic::online(arrivals(queries, self.queries_per_second), cores);
        Ok([Traffic::bulk(pairs, cores, usize::from(self.concurrency)), online])
    }
}

/// Tokens of the pairs that the cascade leaves to the encoder, together where they are one
/// event's.
fn groups_of_pairs(
    pairs: &[LabelledPair],
    artifact: &Artifact,
    encoder: &Encoder,
) -> Result<Vec<Vec<usize>>, EncodeError> {
    let mut groups = Vec::new();
    for event in pairs.chunk_by(|one, next| one.left.text == next.left.text) {
        let pair = |pair: &LabelledPair| TextPair {
            left: pair.left.text.as_str().into(),
            right: pair.right.text.as_str().into(),
        };
        let texts: Vec<TextPair> = event.iter().map(pair).collect();
        let settled = artifact.cascade.as_ref().map(|cascade| cascade.settle(&texts));
        let settled = settled.unwrap_or_else(|| vec![None; texts.len()]);
        let open = texts.into_iter().zip(settled).filter(|(_, settled)| settled.is_none());
        let rows: Vec<Encoded> = encoder.pairs(&open.map(|(pair, _)| pair).collect::<Vec<_>>())?;
        if !rows.is_empty() {
            groups.push(rows.iter().map(|row| row.ids.len()).collect());
        }
    }
    Ok(groups)
}

/// The groups as calls at random times, so that `rows_per_second` come on the mean.
fn arrivals(groups: Vec<Vec<usize>>, rows_per_second: f64) -> Vec<Call> {
    let rows: usize = groups.iter().map(Vec::len).sum();
    let calls_per_second = rows_per_second * groups.len() as f64 / rows.max(1) as f64;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut at = Duration::ZERO;
    let call = |lengths| {
        at += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / calls_per_second);
        Call { at, lengths }
    };
    groups.into_iter().map(call).collect()
}

impl Lane {
    fn of(played: &Played) -> Self {
        let sum = |of: fn(&models::grid::Runs) -> usize| played.by_shape.values().map(of).sum::<usize>();
        let (rows, tokens) = (sum(|runs| runs.rows), sum(|runs| runs.tokens));
        let busy = NEURON_TOKEN_TIME.as_secs_f64() * played.cost_tokens() as f64;
        let of_shape = |(shape, runs): (&Shape, &models::grid::Runs)| Use {
            bucket: shape.to_string(),
            batches: runs.batches,
            rows_per_batch: runs.rows as f64 / runs.batches.max(1) as f64,
            fill: runs.tokens as f64 / (runs.batches * shape.tokens()).max(1) as f64,
        };
        Self {
            rows,
            tokens_per_row: tokens as f64 / rows.max(1) as f64,
            fill: played.fill(),
            rows_per_core_second: rows as f64 / busy.max(f64::EPSILON),
            mean_ms: 1e3 * played.answer_time.as_secs_f64() / rows.max(1) as f64,
            shapes: played.by_shape.iter().map(of_shape).collect(),
        }
    }
}

fn rate(given: &str) -> Result<f64, String> {
    let rate: f64 = given.parse().map_err(|_| format!("{given:?} is no number"))?;
    if (0.001..=1e6).contains(&rate) { Ok(rate) } else { Err("it is 0.001 to 1000000".to_owned()) }
}

fn shape(given: &str) -> Result<Shape, String> {
    let no_shape = || format!("{given:?} is no bucket; write BATCHxLENGTH, such as 8x32");
    let (rows, length) = given.split_once('x').ok_or_else(no_shape)?;
    let number = |text: &str| text.parse().ok().filter(|number| (1..=BATCH_TOKENS_MAX).contains(number));
    Ok(Shape { rows: number(rows).ok_or_else(no_shape)?, length: number(length).ok_or_else(no_shape)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_given_and_keep_their_groups() {
        let groups: Vec<Vec<usize>> = (0..4_000).map(|i| vec![9; 1 + i % 5]).collect();
        let calls = arrivals(groups.clone(), 300.0);
        assert!(calls.is_sorted_by_key(|call| call.at));
        assert!(calls.iter().map(|call| &call.lengths).eq(&groups));
        let seconds = calls.last().expect("there are calls").at.as_secs_f64();
        let rate = 12_000.0 / seconds;
        assert!((285.0..315.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_lane_says_how_full_its_shapes_run() {
        let lane = Lane::of(
            &Traffic::bulk(vec![vec![8, 4, 16]], 1, 1)
                .play(&Grid::new(["2x8", "1x16"].map(|b| shape(b).expect("good")))),
        );
        assert_eq!((lane.rows, lane.tokens_per_row, lane.fill), (3, 28.0 / 3.0, 28.0 / 32.0));
        let shapes: Vec<(&str, usize, f64)> =
            lane.shapes.iter().map(|of| (of.bucket.as_str(), of.batches, of.rows_per_batch)).collect();
        assert_eq!(shapes, [("2x8", 1, 2.0), ("1x16", 1, 1.0)]);
    }

    #[test]
    fn what_is_no_bucket_or_rate_is_refused() {
        for bad in ["8", "8x", "0x8", "8x0", "axb", "8x9999999999"] {
            assert!(shape(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
