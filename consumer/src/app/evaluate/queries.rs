//! `evaluate queries`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use models::{IntentScore, ScoreError, Scorer};
use serde_json::{Map, Value, json};
use shared::{Intent, Stage};

use super::dataset::{LabelledQuery, read_queries};
use super::metrics::IntentReport;
use super::{ModelArgs, ROWS_PER_STEP, printing, progress, runtime};
use crate::app::CommandResult;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TSV without quoting: columns text and label (product, media, help or other), others ignored
    #[arg(long, value_name = "TSV")]
    file: PathBuf,
    /// Print the same for each value of this column as well
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Ask the whole network about every query
    #[arg(long)]
    no_cascade: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: Args) -> CommandResult {
    let queries = read_queries(&args.file, args.by.as_deref())?;
    let scorer = args.model.start()?;
    let scorer = if args.no_cascade { scorer.without_cascade() } else { scorer };
    let started = Instant::now();
    let scores = runtime()?.block_on(score(&scorer, &queries))?;
    let seconds = started.elapsed().as_secs_f64();
    let said = scores.iter().map(|score| score.intent);
    let rows: Vec<(Intent, Intent)> = said.zip(queries.iter().map(|query| query.intent)).collect();
    let report = IntentReport::of(&rows);
    let cost = Cost {
        settled: scores.iter().filter(|score| score.stage == Stage::Cascade).count(),
        left_early: scores.iter().filter(|score| score.left_early).count(),
        queries_per_second: queries.len() as f64 / seconds.max(f64::EPSILON),
    };
    let by = args.by.map(|column| (column, by_group(&queries, &rows)));
    if args.json {
        let mut value = as_json(&report, by.as_ref());
        value["settled"] = cost.settled.into();
        value["left_early"] = cost.left_early.into();
        value["queries_per_second"] = cost.queries_per_second.into();
        printing::json(&value)?;
    } else {
        printing::queries(&report, &cost, by.as_ref(), scorer.model_id());
    }
    Ok(ExitCode::SUCCESS)
}

/// What the answers took; under these names in JSON as well.
pub struct Cost {
    /// Queries that the first stage settled, without the network.
    pub settled: usize,
    /// Queries that the network answered after its early layers.
    pub left_early: usize,
    /// From texts to intents, loading left out.
    pub queries_per_second: f64,
}

async fn score(scorer: &Scorer, queries: &[LabelledQuery]) -> Result<Vec<IntentScore>, ScoreError> {
    let bar = progress(queries.len());
    let mut answers = Vec::with_capacity(queries.len());
    for step in queries.chunks(ROWS_PER_STEP) {
        let texts = step.iter().map(|query| query.text.clone()).collect();
        answers.extend(scorer.score_queries(texts).await?);
        bar.inc(step.len() as u64);
    }
    bar.finish_and_clear();
    Ok(answers)
}

fn by_group(queries: &[LabelledQuery], rows: &[(Intent, Intent)]) -> BTreeMap<String, IntentReport> {
    let mut groups: BTreeMap<&str, Vec<(Intent, Intent)>> = BTreeMap::new();
    for (query, row) in queries.iter().zip(rows) {
        groups.entry(query.group.as_deref().unwrap_or_default()).or_default().push(*row);
    }
    groups.into_iter().map(|(name, rows)| (name.to_owned(), IntentReport::of(&rows))).collect()
}

/// `rows`, `accuracy`, `macro_f1`, `classes.<label>`; with a column C the same for each of
/// its values under `by_C`. The names are a promise.
fn as_json(report: &IntentReport, by: Option<&(String, BTreeMap<String, IntentReport>)>) -> Value {
    let classes: Map<String, Value> = report
        .classes
        .iter()
        .map(|(intent, class)| {
            let values =
                json!({"precision": class.precision, "recall": class.recall, "f1": class.f1, "support": class.support});
            (intent.as_str().to_owned(), values)
        })
        .collect();
    let mut value =
        json!({"rows": report.rows, "accuracy": report.accuracy, "macro_f1": report.macro_f1, "classes": classes});
    if let Some((column, groups)) = by {
        let groups: Map<String, Value> =
            groups.iter().map(|(name, report)| (name.clone(), as_json(report, None))).collect();
        value[format!("by_{column}")] = groups.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_promised_names() {
        let report = IntentReport::of(&[(Intent::Help, Intent::Help), (Intent::Media, Intent::Product)]);
        let by = ("source".to_owned(), BTreeMap::from([("desk".to_owned(), report.clone())]));
        let value = as_json(&report, Some(&by));
        assert_eq!(value["rows"], 2);
        assert_eq!(value["accuracy"], 0.5);
        assert_eq!(value["classes"]["help"], json!({"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}));
        assert_eq!(value["by_source"]["desk"]["macro_f1"], value["macro_f1"]);
        assert!(value["by_source"]["desk"].get("by_source").is_none());
    }
}
