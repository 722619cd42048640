//! `evaluate blocking`: how many known duplicates the worker's own look-ups find, and
//! what they cost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use serde::Serialize;
use shared::product::BadProductId;
use shared::{Product, ProductId, ProductText};

use super::dataset::{self, DatasetError};
use crate::app::CommandResult;
use crate::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys, rank, sketch};

/// Measure blocking on two product tables with known matches
///
/// Runs the worker's own planner over an index in memory that answers like the postings
/// table. Case a: the right table is indexed, each left product looks up. Case b (`one
/// catalog`): both tables arrive in random order, each product is indexed, then looks up.
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
    Dataset(#[from] DatasetError),
    #[error("{}, product {id:?}", path.display())]
    Id { path: PathBuf, id: String, source: BadProductId },
    #[error("--candidates {} cannot be written", path.display())]
    Candidates { path: PathBuf, source: csv::Error },
    #[error("no row of --matches has label 1, so there is nothing to measure")]
    NoMatches,
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
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    right_indexed: Measured,
    one_catalog: Measured,
    key_epoch: u32,
}

type Pair = (ProductId, ProductId);

pub fn run(args: Args) -> CommandResult {
    let left = read_products(&args.left, "l:")?;
    let right = read_products(&args.right, "r:")?;
    let matches = read_matches(&args)?;
    let planner =
        Planner { epoch: KeyEpoch::shipped(), limits: Limits { candidates_max: args.limit, ..Limits::default() } };
    let case_a = right_indexed(&planner, &left, &right);
    if let Some(path) = &args.candidates {
        let failed = |source| InputError::Candidates { path: path.clone(), source };
        case_a.write_candidates(&matches, path).map_err(failed)?;
    }
    let report = Report {
        right_indexed: case_a.measured(&matches),
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
        run.index(planner, id, text);
    }
    for (id, text) in left {
        run.look_up(planner, id, text);
    }
    run
}

/// Case b, in the order of the worker: a product's postings are there when it looks up.
fn one_catalog(planner: &Planner, left: &Texts, right: &Texts, matches: &HashSet<Pair>, seed: u64) -> Measured {
    let mut arrivals: Vec<(&ProductId, &String)> = left.iter().chain(right).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut arrivals);
    let mut run = Run::default();
    for (id, text) in arrivals {
        run.index(planner, id, text);
        run.look_up(planner, id, text);
    }
    run.measured(matches)
}

struct Planner {
    epoch: &'static KeyEpoch,
    limits: Limits,
}

/// The postings table, and what look-ups in it gave.
#[derive(Default)]
struct Run {
    /// By key, then by id, as DynamoDB sorts them.
    postings: HashMap<String, BTreeMap<ProductId, Rc<[u8]>>>,
    indexed: usize,
    keys_written: usize,
    proposed: HashSet<Pair>,
    candidates: Series,
    requests: Series,
    items: Series,
}

impl Run {
    fn index(&mut self, planner: &Planner, id: &ProductId, text: &str) {
        let sketch: Rc<[u8]> = sketch(text, planner.epoch).into();
        self.indexed += 1;
        for key in posting_keys(text, planner.epoch) {
            self.keys_written += 1;
            self.postings.entry(key).or_default().insert(id.clone(), Rc::clone(&sketch));
        }
    }

    fn look_up(&mut self, planner: &Planner, id: &ProductId, text: &str) {
        let keys = query_keys(text, planner.epoch, &planner.limits);
        let limit = planner.limits.limit_per_key(keys.len());
        let found: Vec<(ProductId, &Rc<[u8]>)> = keys
            .iter()
            .filter_map(|key| self.postings.get(key))
            .flat_map(|postings| postings.iter().take(limit))
            .map(|(id, sketch)| (id.clone(), sketch))
            .collect();
        let postings_read = found.len();
        let candidates = rank(id, text, planner.epoch, found, &planner.limits);
        // The candidates' texts come by one BatchGetItem.
        self.requests.push(keys.len() + usize::from(!candidates.is_empty()));
        self.items.push(postings_read + candidates.len());
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
        let sizes = self.postings.iter().map(|(key, postings)| (postings.len(), key));
        let (postings_per_key_max, commonest_key) = sizes.max().map_or((0, ""), |(size, key)| (size, key));
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
            keys_written_per_product: self.keys_written as f64 / self.indexed.max(1) as f64,
            postings_per_key_max,
            commonest_key: commonest_key.to_owned(),
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

fn ordered(a: ProductId, b: ProductId) -> Pair {
    if a <= b { (a, b) } else { (b, a) }
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
    let mut count = |name: &str, value: fn(&Measured) -> usize| {
        table.add_row([name.to_owned(), value(a).to_string(), value(b).to_string()]);
    };
    count("candidates, most", |m| m.candidates_max);
    count("requests, most", |m| m.requests_max);
    count("items read, most", |m| m.items_read_max);
    count("postings under one key, most", |m| m.postings_per_key_max);
    count("matches", |m| m.matches);
    count("products that looked up", |m| m.products);
    table
}

type Texts = BTreeMap<ProductId, String>;

/// Product texts by id; `prefix` keeps the ids of two tables apart.
fn read_products(path: &Path, prefix: &str) -> Result<Texts, InputError> {
    let with_prefix = |(id, product): (String, Product)| {
        let bad = |source| InputError::Id { path: path.to_owned(), id: id.clone(), source };
        Ok((ProductId::new(format!("{prefix}{id}")).map_err(bad)?, ProductText::of(&product).text))
    };
    dataset::read_table(path)?.into_iter().map(with_prefix).collect()
}

fn read_matches(args: &Args) -> Result<HashSet<Pair>, InputError> {
    let mut matches = HashSet::new();
    for path in &args.matches {
        for (left, right) in dataset::read_matches(&args.left, &args.right, path)? {
            let bad = |source| InputError::Id { path: path.clone(), id: format!("{left}, {right}"), source };
            let ids = (ProductId::new(format!("l:{left}")), ProductId::new(format!("r:{right}")));
            matches.insert(ordered(ids.0.map_err(bad)?, ids.1.map_err(bad)?));
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

    #[test]
    fn a_key_is_read_up_to_the_limit_in_the_order_of_ids() {
        let right = texts("r:", &["fk2714ss"; 40]);
        let limits = Limits { items_max: 20 + 12, ..Limits::default() };
        let run = |other: &str| {
            let matches = matches(&[("l:000", other)]);
            right_indexed(&planner(limits), &texts("l:", &["fk2714ss"]), &right).measured(&matches)
        };
        assert_eq!((run("r:000").pair_completeness, run("r:039").pair_completeness), (1.0, 0.0));
        assert!(run("r:000").items_read_max <= limits.items_max);
        assert_eq!(run("r:000").postings_per_key_max, 40);
    }
}
