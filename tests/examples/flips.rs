//! What a numeric path changes of what is decided: verdicts and intents that differ from fp32's,
//! on whole validation sets. `make flips` runs it and writes its section of docs/BENCHMARKS.md.

#![expect(clippy::print_stderr, reason = "progress")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use consumer::app::evaluate::dataset::{LabelledPair, read_pairs, read_queries, read_rows};
use models::{Kernel, Numeric, Scorer, ScorerOptions, TextPair};
use shared::{Intent, Verdict};
use tests::report::{cpu_has, machine, write_section};
use tests::worker::artifact;

const TABLES: [&str; 4] = ["abt-buy", "amazon-google", "walmart-amazon", "walmart-amazon-dirty"];
/// Of offers, in the folder of the sets.
const ROWS: &str = "wdc-products-80cc/valid_medium.jsonl.gz";
const PATHS: [Numeric; 3] = [Numeric::Fp32, Numeric::Bf16, Numeric::Int8];

enum Texts {
    Pairs(Vec<TextPair>),
    Queries(Vec<String>),
}

#[derive(PartialEq)]
enum Decision {
    Pair(Verdict),
    Query(Intent),
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(pairs), Some(queries)) = (arguments.next(), arguments.next()) else {
        panic!("give the folder of the sets of pairs, and a TSV file of queries");
    };
    let sets = sets(&pairs, &queries);
    let mut decisions = Vec::new();
    // Emulated, bf16 is nobody's choice, and takes hours.
    let is_in_hardware = |path: &Numeric| *path != Numeric::Bf16 || cpu_has("avx512_bf16");
    for numeric in PATHS.into_iter().filter(is_in_hardware) {
        // The cascade is the same on every path; each pair is the network's here.
        let kernel = if numeric == Numeric::Fp32 { Kernel::Libtorch } else { Kernel::Auto };
        let options = ScorerOptions { replicas: 2, numeric, kernel };
        match Scorer::start(&artifact(), options) {
            Ok(scorer) => decisions.push((numeric, decide(&scorer.without_cascade(), &sets).await)),
            Err(error) => eprintln!("{numeric}: {error}"),
        }
    }
    write_section("flips", &report(&sets, &decisions));
}

/// Validation sets by name.
fn sets(pairs: &Path, queries: &Path) -> Vec<(String, Texts)> {
    let table = |name: &str| {
        let file = |file: &str| pairs.join(name).join(file);
        read_pairs(&file("tableA.csv"), &file("tableB.csv"), &file("valid.csv"))
    };
    let mut sets: Vec<_> = TABLES.iter().map(|&name| (name.to_owned(), table(name))).collect();
    sets.push((ROWS.to_owned(), read_rows(&pairs.join(ROWS))));
    let texts = |pair: LabelledPair| TextPair { left: pair.left.text.into(), right: pair.right.text.into() };
    let mut sets: Vec<(String, Texts)> = sets
        .into_iter()
        .map(|(name, read)| {
            let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, Texts::Pairs(read.into_iter().map(texts).collect()))
        })
        .collect();
    let read = read_queries(queries, None).unwrap_or_else(|error| panic!("{}: {error}", queries.display()));
    sets.push(("queries".to_owned(), Texts::Queries(read.into_iter().map(|query| query.text).collect())));
    sets
}

async fn decide(scorer: &Scorer, sets: &[(String, Texts)]) -> Vec<Vec<Decision>> {
    let mut decisions = Vec::new();
    for (name, texts) in sets {
        eprintln!("{}: {name}", scorer.numeric());
        decisions.push(match texts {
            Texts::Pairs(pairs) => {
                let scores = scorer.score_pairs(pairs.clone()).await.expect("the pairs are scored");
                scores.into_iter().map(|score| Decision::Pair(score.verdict)).collect()
            }
            Texts::Queries(queries) => {
                let scores = scorer.score_queries(queries.clone()).await.expect("the queries are scored");
                scores.into_iter().map(|score| Decision::Query(score.intent)).collect()
            }
        });
    }
    decisions
}

fn report(sets: &[(String, Texts)], decisions: &[(Numeric, Vec<Vec<Decision>>)]) -> String {
    let Some(((_, reference), others)) = decisions.split_first() else { return String::new() };
    let mut text = format!(
        "## What a numeric path decides otherwise\n\n{}. `make flips PAIRS=FOLDER QUERIES=FILE`: verdicts (duplicate, review, \
         distinct) and intents other than fp32's through libtorch, on whole validation sets, every pair through the \
         network. An option may differ in 0.5%.\n\n| set | rows |",
        machine()
    );
    others.iter().for_each(|(numeric, _)| {
        let _ = write!(text, " {numeric} |");
    });
    text += &format!("\n|---|---:|{}\n", "---:|".repeat(others.len()));
    for (i, (name, _)) in sets.iter().enumerate() {
        let exact = &reference[i];
        let _ = write!(text, "| {name} | {} |", exact.len());
        for (_, found) in others {
            let flips = exact.iter().zip(&found[i]).filter(|(exact, found)| exact != found).count();
            let _ = write!(text, " {flips} ({:.2}%) |", 100.0 * flips as f64 / exact.len() as f64);
        }
        text += "\n";
    }
    text
}
