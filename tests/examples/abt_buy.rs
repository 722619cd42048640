//! The Abt and Buy tables as upsert events through SQS, the real worker and DynamoDB
//! (both of a local engine), then the stored labels against the validation pairs.
//!
//! `cargo run --release -p catalog-labels-tests --example abt_buy -- ../shared/data/pairs/abt-buy`

#![expect(clippy::print_stdout, reason = "a report")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use consumer::app::evaluate::dataset;
use futures::StreamExt;
use serde_json::json;
use shared::{ProductId, Verdict};
use tests::stage::Stage;

/// Messages that the local engine holds without slowing down.
const BACKLOG_MAX: u64 = 900;

#[tokio::main]
async fn main() {
    let folder: PathBuf = std::env::args().nth(1).expect("the folder with tableA.csv, tableB.csv, valid.csv").into();
    let stage = Stage::start(&[]).await;
    let mut events = Vec::new();
    for (table, prefix) in [("tableA.csv", "abt-"), ("tableB.csv", "buy-")] {
        for (id, product) in dataset::read_table(&folder.join(table)).expect("the table is readable") {
            events.push(json!({"schema_version": 1, "type": "upsert", "product_id": format!("{prefix}{id}"),
                "version": 1, "occurred_at": jiff::Timestamp::now(), "product": product}));
        }
    }
    let started = Instant::now();
    for chunk in events.chunks(BACKLOG_MAX as usize / 2) {
        stage.send_events(chunk.iter().cloned()).await;
        stage.backlog_below(BACKLOG_MAX / 2).await;
    }
    stage.drained().await;
    let seconds = started.elapsed().as_secs_f64();

    let (found, missing) = duplicates(&stage, &events).await;
    let (precision, recall, f1, pairs) = score(&folder.join("valid.csv"), &found);
    let scored = metric(&stage.worker().metrics().await, "pairs_scored");
    println!("products: {} (label items missing: {missing})", events.len());
    println!("wall time: {seconds:.1} s, {:.1} events/s", events.len() as f64 / seconds);
    println!("pairs scored: {scored}, {:.1} pairs/s", scored / seconds);
    println!("stored labels on {pairs} validation pairs: precision {precision:.3} recall {recall:.3} f1 {f1:.3}");
    println!("peak memory of the worker: {} MB", stage.worker().peak_memory_kb() / 1024);
    assert!(stage.stop().await.success());
}

/// Every stored duplicate pair, read as search reads them, and the products without labels.
async fn duplicates(stage: &Stage, events: &[serde_json::Value]) -> (HashSet<(String, String)>, usize) {
    let ids: Vec<ProductId> = events
        .iter()
        .map(|event| ProductId::new(event["product_id"].as_str().expect("an id")).expect("a valid id"))
        .collect();
    let answers = futures::stream::iter(ids).map(|id| async move {
        let labels = stage.reader.duplicates_of(&id).await.expect("answered");
        (id, labels)
    });
    let mut found = HashSet::new();
    let mut missing = 0;
    let mut answers = answers.buffer_unordered(16);
    while let Some((id, labels)) = answers.next().await {
        let Some(labels) = labels else {
            missing += 1;
            continue;
        };
        for (other, _) in labels.item.pairs.iter().filter(|(_, entry)| entry.verdict == Verdict::Duplicate) {
            found.insert((id.as_str().to_owned(), other.as_str().to_owned()));
        }
    }
    (found, missing)
}

/// (precision, recall, F1, pairs) of the labelled pairs in `file`.
fn score(file: &Path, found: &HashSet<(String, String)>) -> (f64, f64, f64, usize) {
    let mut reader = csv::Reader::from_path(file).expect("the pairs are readable");
    let (mut hits, mut predicted, mut positives, mut rows) = (0.0, 0.0, 0.0, 0);
    for row in reader.deserialize() {
        let (left, right, label): (String, String, u8) = row.expect("a row of three columns");
        let is_found = found.contains(&(format!("abt-{left}"), format!("buy-{right}")));
        rows += 1;
        positives += f64::from(label);
        predicted += f64::from(u8::from(is_found));
        hits += f64::from(u8::from(is_found && label == 1));
    }
    (hits / predicted, hits / positives, 2.0 * hits / (predicted + positives), rows)
}

/// The sum of a counter over its labels.
fn metric(page: &str, name: &str) -> f64 {
    let lines = page.lines().filter(|line| !line.starts_with('#') && line.contains(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
