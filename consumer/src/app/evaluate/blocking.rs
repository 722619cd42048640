//! `evaluate blocking`: how many known duplicates the worker's own look-ups find, and
//! what they cost.

use std::collections::{BTreeMap, HashSet};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use shared::item::ProductItem;
use shared::{ProductId, TextHash};

use super::dataset::{self, DatasetError};
use super::index::{Index, LEFT, LookUp, Pair, Planner, ProductsError, RIGHT, Texts, of_table, ordered, read_products};
use crate::app::CommandResult;
use crate::decide::blocking::{KeyEpoch, KeyEpochs, Limits};
use crate::flow::candidates;
use crate::store::{Embedded, EmbeddedError, StoreError, TablesError};

/// Products that the embedded tables are asked about at once.
const AT_ONCE: usize = 8;

/// Measure blocking on two product tables with known matches
///
/// Runs the worker's own planner over an index in memory that answers like the postings
/// table. Case a: the right table is indexed, each left product looks up; the same again in
/// embedded tables says what DynamoDB bills. Case b (`one catalog`): both tables arrive in random
/// order, each product is indexed, then looks up.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV of products: `id`, `title` or `name`, and any of `brand` or `manufacturer`,
    /// `modelno`, `category`, `description`
    #[arg(long)]
    left: PathBuf,
    /// CSV of products, as `--left`
    #[arg(long)]
    right: PathBuf,
    /// CSV with `ltable_id` and `rtable_id`; rows whose `label` is not 1 are left out. May
    /// be repeated
    #[arg(long, required = true)]
    matches: Vec<PathBuf>,
    /// Candidates for each product
    #[arg(long, default_value_t = Limits::default().candidates_max)]
    limit: usize,
    /// Seed of the random order of case b
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what case a proposed to this CSV, as `evaluate pairs --pairs` reads it: label is 1
    /// for a known match
    #[arg(long, value_name = "CSV")]
    candidates: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error(transparent)]
    Products(#[from] ProductsError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("--candidates {} cannot be written", path.display())]
    Candidates { path: PathBuf, source: csv::Error },
    #[error("no row of --matches has label 1, so there is nothing to measure")]
    NoMatches,
}

#[derive(Debug, thiserror::Error)]
enum UnitsError {
    #[error("no embedded tables")]
    Embedded(#[from] EmbeddedError),
    #[error("the embedded tables cannot be made")]
    Tables(#[from] TablesError),
    #[error("the embedded tables did not answer")]
    Store(#[from] StoreError),
}

/// What the look-ups of one case found and cost. Means and maxima are over products that
/// looked up.
#[derive(Debug, Default, Serialize)]
struct Measured {
    /// Share of the matches that a look-up proposed.
    pair_completeness: f64,
    matches: usize,
    products: usize,
    candidates_per_product: f64,
    candidates_max: usize,
    requests_per_product: f64,
    requests_max: usize,
    items_read_per_product: f64,
    items_read_max: usize,
    keys_written_per_product: f64,
    postings_per_key_max: usize,
    commonest_key: String,
    /// Share of all postings that lie under the 100 keys that have the most: of the writes and
    /// reads that their partitions get.
    largest_100_keys_share: f64,
}

/// What the look-ups of case a cost in tables, in units as the engine reports them.
#[derive(Clone, Copy, Debug, Serialize)]
struct Units {
    /// For each product that looked up: postings and candidate texts.
    read_units_per_product: f64,
    /// For each product indexed: its state and its postings.
    write_units_per_product: f64,
    /// As the tables counted them, to be compared with those in memory.
    requests_per_product: f64,
    items_read_per_product: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    right_indexed: Measured,
    units: Units,
    one_catalog: Measured,
    key_epoch: u32,
}

pub fn run(args: Args) -> CommandResult {
    let left = read_products(&args.left, LEFT)?;
    let right = read_products(&args.right, RIGHT)?;
    let matches = read_matches(&args)?;
    let limits = Limits { candidates_max: args.limit, ..Limits::default() };
    let planner = Planner { epoch: KeyEpoch::shipped(), limits };
    let case_a = right_indexed(&planner, &left, &right);
    if let Some(path) = &args.candidates {
        let failed = |source| InputError::Candidates { path: path.clone(), source };
        case_a.write_candidates(&matches, path).map_err(failed)?;
    }
    let units = tokio::runtime::Runtime::new()?.block_on(units(&planner, &left, &right))?;
    let report = Report {
        right_indexed: case_a.measured(&matches),
        units,
        one_catalog: one_catalog(&planner, &left, &right, &matches, args.seed),
        key_epoch: planner.epoch.number,
    };
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Case a.
fn right_indexed(planner: &Planner, left: &Texts, right: &Texts) -> Run {
    let mut run = Run::default();
    for (id, text) in right {
        run.index.put(planner, id, text);
    }
    for (id, text) in left {
        run.look_up(planner, id, text);
    }
    run
}

/// Case a once more, by the worker's own requests to embedded tables.
async fn units(planner: &Planner, left: &Texts, right: &Texts) -> Result<Units, UnitsError> {
    let engine = Embedded::memory()?;
    let store = engine.store("evaluate-");
    store.create_tables().await?;
    let epochs = KeyEpochs::new(planner.epoch.clone(), None);
    let start = store.meter().snapshot();
    let (tables, epochs) = (&store, &epochs);
    let index = |state: ProductItem| async move {
        tables.put_state(&state, None).await?;
        tables.put_postings(&epochs.postings(&state.id, &state.text)).await
    };
    stream::iter(states(right)).map(index).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let indexed = store.meter().snapshot();
    let look_up =
        |state: ProductItem| async move { candidates(tables, planner.epoch, &planner.limits, &state).await.map(drop) };
    stream::iter(states(left)).map(look_up).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let read = store.meter().snapshot().since(&indexed).total();
    let of_look_up = |sum: f64| sum / left.len().max(1) as f64;
    Ok(Units {
        read_units_per_product: of_look_up(read.read_units),
        write_units_per_product: indexed.since(&start).total().write_units / right.len().max(1) as f64,
        requests_per_product: of_look_up(read.requests() as f64),
        items_read_per_product: of_look_up(read.items_read as f64),
    })
}

fn states(texts: &Texts) -> Vec<ProductItem> {
    texts.iter().map(|(id, text)| state(id, text)).collect()
}

/// A product's state as a worker writes it; of the product its text alone is known here.
fn state(id: &ProductId, text: &str) -> ProductItem {
    ProductItem {
        id: id.clone(),
        version: 1,
        content_hash: TextHash::of(0, text),
        text_hash: TextHash::of(1, text),
        text: text.to_owned(),
        previous_texts: Vec::new(),
        title: text.split(" | ").next().unwrap_or_default().to_owned(),
        deleted: false,
        occurred_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        labelled: BTreeMap::new(),
    }
}

/// Case b, in the order of the worker: a product's postings are there when it looks up.
fn one_catalog(planner: &Planner, left: &Texts, right: &Texts, matches: &HashSet<Pair>, seed: u64) -> Measured {
    let mut arrivals: Vec<(&ProductId, &String)> = left.iter().chain(right).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut arrivals);
    let mut run = Run::default();
    for (id, text) in arrivals {
        run.index.put(planner, id, text);
        run.look_up(planner, id, text);
    }
    run.measured(matches)
}

/// The postings table, and what look-ups in it gave.
#[derive(Default)]
struct Run {
    index: Index,
    proposed: HashSet<Pair>,
    candidates: Series,
    requests: Series,
    items: Series,
}

impl Run {
    fn look_up(&mut self, planner: &Planner, id: &ProductId, text: &str) {
        let LookUp { candidates, keys, postings } = self.index.look_up(planner, id, text);
        // The candidates' texts come by one BatchGetItem.
        self.requests.push(keys + usize::from(!candidates.is_empty()));
        self.items.push(postings + candidates.len());
        self.candidates.push(candidates.len());
        self.proposed.extend(candidates.into_iter().map(|candidate| ordered(id.clone(), candidate)));
    }

    /// Every proposed pair of case a, in the order of its ids, without the tables' prefixes.
    fn write_candidates(&self, matches: &HashSet<Pair>, path: &Path) -> Result<(), csv::Error> {
        let mut proposed: Vec<&Pair> = self.proposed.iter().collect();
        proposed.sort_unstable();
        let mut file = csv::Writer::from_path(path)?;
        file.write_record(["ltable_id", "rtable_id", "label"])?;
        for pair in proposed {
            let of_table = |id: &ProductId| id.as_str().split_once(':').map_or("", |(_, id)| id).to_owned();
            let label = if matches.contains(pair) { "1" } else { "0" };
            file.write_record([of_table(&pair.0), of_table(&pair.1), label.to_owned()])?;
        }
        file.flush()?;
        Ok(())
    }

    fn measured(self, matches: &HashSet<Pair>) -> Measured {
        let found = matches.iter().filter(|pair| self.proposed.contains(pair)).count();
        let mut sizes: Vec<(usize, &str)> = self.index.sizes().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let (postings_per_key_max, commonest_key) = sizes.first().copied().unwrap_or_default();
        let of_largest: usize = sizes.iter().take(100).map(|(size, _)| size).sum();
        Measured {
            pair_completeness: found as f64 / matches.len() as f64,
            matches: matches.len(),
            products: self.requests.count,
            candidates_per_product: self.candidates.mean(),
            candidates_max: self.candidates.max,
            requests_per_product: self.requests.mean(),
            requests_max: self.requests.max,
            items_read_per_product: self.items.mean(),
            items_read_max: self.items.max,
            keys_written_per_product: self.index.keys_written as f64 / self.index.products.max(1) as f64,
            postings_per_key_max,
            commonest_key: commonest_key.to_owned(),
            largest_100_keys_share: of_largest as f64 / self.index.keys_written.max(1) as f64,
        }
    }
}

#[derive(Default)]
struct Series {
    sum: usize,
    count: usize,
    max: usize,
}

impl Series {
    fn push(&mut self, value: usize) {
        self.sum += value;
        self.count += 1;
        self.max = self.max.max(value);
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }
}

fn table(report: &Report) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.set_header(["", "right table indexed", "one catalog"]);
    let (a, b) = (&report.right_indexed, &report.one_catalog);
    let mut mean = |name: &str, value: fn(&Measured) -> f64| {
        table.add_row([name.to_owned(), format!("{:.4}", value(a)), format!("{:.4}", value(b))]);
    };
    mean("pair completeness", |m| m.pair_completeness);
    mean("candidates per product", |m| m.candidates_per_product);
    mean("requests per product", |m| m.requests_per_product);
    mean("items read per product", |m| m.items_read_per_product);
    mean("keys written per product", |m| m.keys_written_per_product);
    mean("share of postings under the 100 largest keys", |m| m.largest_100_keys_share);
    let mut count = |name: &str, value: fn(&Measured) -> usize| {
        table.add_row([name.to_owned(), value(a).to_string(), value(b).to_string()]);
    };
    count("candidates, most", |m| m.candidates_max);
    count("requests, most", |m| m.requests_max);
    count("items read, most", |m| m.items_read_max);
    count("postings under one key, most", |m| m.postings_per_key_max);
    count("matches", |m| m.matches);
    count("products that looked up", |m| m.products);
    for (name, units) in [
        ("read units per product that looked up", report.units.read_units_per_product),
        ("write units per product indexed", report.units.write_units_per_product),
    ] {
        table.add_row([name.to_owned(), format!("{units:.2}"), String::new()]);
    }
    table
}

fn read_matches(args: &Args) -> Result<HashSet<Pair>, InputError> {
    let mut matches = HashSet::new();
    for path in &args.matches {
        for (left, right) in dataset::read_matches(&args.left, &args.right, path)? {
            matches.insert(ordered(of_table(path, LEFT, &left)?, of_table(path, RIGHT, &right)?));
        }
    }
    if matches.is_empty() { Err(InputError::NoMatches) } else { Ok(matches) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(prefix: &str, titles: &[&str]) -> Texts {
        let id = |number: usize| ProductId::new(format!("{prefix}{number:03}")).expect("a valid id");
        titles.iter().enumerate().map(|(number, title)| (id(number), (*title).to_owned())).collect()
    }

    fn planner(limits: Limits) -> Planner {
        Planner { epoch: KeyEpoch::shipped(), limits }
    }

    fn matches(pairs: &[(&str, &str)]) -> HashSet<Pair> {
        let id = |name: &str| ProductId::new(name).expect("a valid id");
        pairs.iter().map(|(left, right)| (id(left), id(right))).collect()
    }

    #[test]
    fn both_cases_count_what_was_found_and_read() {
        let left = texts("l:", &["fenwick kettle fk2714ss", "orbisk lamp"]);
        let right = texts("r:", &["kettle by fenwick fk-2714ss", "norvale desk organiser"]);
        let matches = matches(&[("l:000", "r:000"), ("l:001", "r:001")]);
        let planner = planner(Limits::default());
        let a = right_indexed(&planner, &left, &right).measured(&matches);
        assert_eq!((a.pair_completeness, a.products, a.candidates_max), (0.5, 2, 1));
        for seed in 0..4 {
            let b = one_catalog(&planner, &left, &right, &matches, seed);
            assert_eq!((b.pair_completeness, b.products, b.candidates_max), (0.5, 4, 1));
            assert!(b.items_read_max > a.items_read_max, "a product reads its own postings too");
        }
    }

    #[test]
    fn proposed_pairs_are_written_with_their_labels() {
        let left = texts("l:", &["fenwick kettle fk2714ss"]);
        let right = texts("r:", &["kettle by fenwick fk-2714ss", "fenwick kettle fk2714ss in red"]);
        let run = right_indexed(&planner(Limits::default()), &left, &right);
        let file = tempfile::NamedTempFile::new().expect("a scratch file");
        run.write_candidates(&matches(&[("l:000", "r:000")]), file.path()).expect("it can be written");
        let written = std::fs::read_to_string(file.path()).expect("it was written");
        assert_eq!(written, "ltable_id,rtable_id,label\n000,000,1\n000,001,0\n");
    }

    /// The index in memory and the tables are asked the same and answer the same.
    #[tokio::test]
    async fn the_tables_count_what_the_index_in_memory_does() {
        let left = texts("l:", &["fenwick kettle fk2714ss", "orbisk lamp", "norvale organiser fk2714ss"]);
        let right = texts("r:", &["kettle by fenwick fk-2714ss", "norvale desk organiser", "fk2714ss", "fk2714ss"]);
        let planner = planner(Limits::default());
        let in_memory = right_indexed(&planner, &left, &right).measured(&matches(&[("l:000", "r:000")]));
        let units = units(&planner, &left, &right).await.expect("memory needs nothing");
        assert_eq!(units.requests_per_product, in_memory.requests_per_product);
        assert_eq!(units.items_read_per_product, in_memory.items_read_per_product);
        // A write unit at least for each posting and state; reads are of less than 4 KB each.
        assert!(units.write_units_per_product >= 1.0 + in_memory.keys_written_per_product / 2.0, "{units:?}");
        assert!(units.read_units_per_product > 0.0, "{units:?}");
        assert!(units.read_units_per_product <= units.requests_per_product + units.items_read_per_product, "{units:?}");
    }

    #[test]
    fn a_key_is_read_up_to_the_limit_in_the_order_of_ids() {
        let right = texts("r:", &["fk2714ss"; 40]);
        let limits = Limits { items_max: 20 + 10, ..Limits::default() };
        let run = |other: &str| {
            let matches = matches(&[("l:000", other)]);
            right_indexed(&planner(limits), &texts("l:", &["fk2714ss"]), &right).measured(&matches)
        };
        assert_eq!((run("r:000").pair_completeness, run("r:039").pair_completeness), (1.0, 0.0));
        assert!(run("r:000").items_read_max <= limits.items_max);
        assert_eq!(run("r:000").postings_per_key_max, 40);
    }
}
