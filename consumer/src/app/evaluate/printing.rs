//! Results on standard output.
#![expect(clippy::print_stdout, reason = "results of a command belong on standard output")]

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use shared::ModelId;

use super::grid;
use super::loss::Loss;
use super::metrics::IntentReport;
use super::pairs::Report;
use super::queries::Cost;
use super::stored;

pub fn json(report: &impl Serialize) -> serde_json::Result<()> {
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}

pub fn pairs(report: &Report, model: &ModelId) {
    println!("model {model}");
    let columns = [
        "pairs",
        "precision",
        "recall",
        "f1",
        "contested",
        "f1_alone",
        "threshold",
        "settled",
        "left_early",
        "read_twice",
        "pairs_per_second",
    ];
    let mut table = table(&columns);
    table.add_row([
        report.pairs.to_string(),
        share(report.precision),
        share(report.recall),
        share(report.f1),
        report.contested.map_or_else(String::new, |contested| contested.to_string()),
        share(report.f1_alone),
        format!("{:.3}", report.threshold),
        report.settled.to_string(),
        report.left_early.to_string(),
        report.read_twice.to_string(),
        format!("{:.1}", report.pairs_per_second),
    ]);
    println!("{}", right_aligned(table, 0));
}

pub fn grid(report: &grid::Report) {
    let mut shapes = table(&["", "bucket", "batches", "rows a batch", "fill"]);
    for (name, lane) in [("pairs", &report.pairs), ("queries", &report.queries)] {
        for of in &lane.shapes {
            let rows = format!("{:.1}", of.rows_per_batch);
            shapes.add_row([name.to_owned(), of.bucket.clone(), of.batches.to_string(), rows, share(of.fill)]);
        }
    }
    println!("{}", right_aligned(shapes, 2));
    let grid::Report { pairs, queries, .. } = report;
    println!(
        "pairs    rows {}  tokens_per_row {:.1}  fill {}  rows_per_core_second {:.0}",
        pairs.rows,
        pairs.tokens_per_row,
        share(pairs.fill),
        pairs.rows_per_core_second
    );
    println!(
        "queries  rows {}  tokens_per_row {:.1}  fill {}  mean_ms {:.1}",
        queries.rows,
        queries.tokens_per_row,
        share(queries.fill),
        queries.mean_ms
    );
    println!("--buckets {}", report.buckets.join(" "));
}

pub fn queries(
    report: &IntentReport,
    cost: &Cost,
    by: Option<&(String, BTreeMap<String, IntentReport>)>,
    model: &ModelId,
) {
    println!("model {model}");
    println!("rows {}  accuracy {}  macro_f1 {}", report.rows, share(report.accuracy), share(report.macro_f1));
    let Cost { settled, left_early, queries_per_second } = cost;
    println!("settled {settled}  left_early {left_early}  queries_per_second {queries_per_second:.1}");
    let mut classes = table(&["class", "precision", "recall", "f1", "support"]);
    for (intent, class) in &report.classes {
        classes.add_row([
            intent.as_str().to_owned(),
            share(class.precision),
            share(class.recall),
            share(class.f1),
            class.support.to_string(),
        ]);
    }
    println!("{}", right_aligned(classes, 1));
    let Some((column, groups)) = by else { return };
    let mut header = vec![column.as_str(), "rows", "accuracy", "macro_f1"];
    let names: Vec<String> = report.classes.iter().map(|(intent, _)| format!("{} f1", intent.as_str())).collect();
    header.extend(names.iter().map(String::as_str));
    let mut table = table(&header);
    for (name, group) in groups {
        let mut row = vec![name.clone(), group.rows.to_string(), share(group.accuracy), share(group.macro_f1)];
        // A class that does not occur has no F1.
        row.extend(group.classes.iter().map(|(_, c)| if c.support == 0 { "-".to_owned() } else { share(c.f1) }));
        table.add_row(row);
    }
    println!("{}", right_aligned(table, 1));
}

/// One line a set, then one for each of its categories.
pub fn stored(report: &stored::Report) {
    println!("labels of model {}, pairs of {}.csv", report.model, report.split);
    let header = ["set", "category", "pairs", "matches", "precision", "recall", "f1"];
    let losses = Loss::ALL.map(|loss| format!("lost: {}", loss.as_str()));
    let header: Vec<&str> = header.into_iter().chain(losses.iter().map(String::as_str)).collect();
    let mut table = table(&header);
    for set in &report.sets {
        let groups = set.by_category.iter().map(|(name, group)| (name.as_str(), group));
        for (category, group) in std::iter::once(("all", &set.all)).chain(groups) {
            let mut row =
                vec![set.set.clone(), category.to_owned(), group.pairs.to_string(), group.matches.to_string()];
            row.extend([group.precision, group.recall, group.f1].map(share));
            row.extend(Loss::ALL.map(|loss| group.lost.get(&loss).copied().unwrap_or_default().to_string()));
            table.add_row(row);
        }
    }
    println!("{}", right_aligned(table, 2));
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// Aligns all columns but the first `names` to the right, as numbers are read.
fn right_aligned(mut table: Table, names: usize) -> Table {
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn share(value: f64) -> String {
    format!("{value:.4}")
}
