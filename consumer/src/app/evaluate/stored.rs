//! `evaluate stored`: what the labels in the tables are worth, and where true pairs were lost.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use shared::item::{LabelItem, ProductItem};
use shared::product::BadProductId;
use shared::{ModelId, Product, ProductId};

use super::dataset::{self, IdPair};
use super::loss::{Loss, Side, loss};
use super::metrics::class_score;
use super::printing;
use crate::app::CommandResult;
use crate::app::config::TableArgs;
use crate::app::open::Tables;
use crate::decide::blocking::{KeyEpoch, Limits};
use crate::decide::rollout;
use crate::flow::published_epoch;
use crate::store::Store;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Products of one read.
const CHUNK: usize = 1_000;

/// Compare stored labels with known pairs
///
/// A set is a folder with tableA.csv, tableB.csv and a file of labelled pairs. Its products
/// lie in the tables under ids that begin with the folder's name, as these commands put
/// them there: `backfill SET/tableA.csv --id-prefix SET-a-`, the same with tableB.csv and
/// `SET-b-`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a set; may be repeated
    #[arg(long = "set", value_name = "DIR", required = true)]
    sets: Vec<PathBuf>,
    /// Which pairs: SPLIT.csv in each folder
    #[arg(long, value_name = "SPLIT", default_value = "valid")]
    split: String,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Debug, thiserror::Error)]
enum StoredError {
    #[error("--set: {} has no name that can begin an id", .path.display())]
    Name { path: PathBuf },
    #[error("--set: {}: {id:?} cannot be an id", .path.display())]
    Id { path: PathBuf, id: String, source: BadProductId },
    #[error("no model is active under prefix {prefix}; has a worker labelled anything there?")]
    NoActiveModel { prefix: String },
}

/// What is printed; the names are a promise.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: ModelId,
    pub split: String,
    pub sets: Vec<SetReport>,
}

#[derive(Debug, Serialize)]
pub struct SetReport {
    pub set: String,
    #[serde(flatten)]
    pub all: Group,
    /// By the product type of the left product, or of the right one where that has none.
    pub by_category: BTreeMap<String, Group>,
}

#[derive(Debug, Default, Serialize)]
pub struct Group {
    pub pairs: usize,
    pub matches: usize,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Missed matches by the place where they were lost.
    pub lost: BTreeMap<Loss, usize>,
}

/// One labelled pair, and what the tables say.
struct Judged {
    category: String,
    is_match: bool,
    /// Where it was lost; none where the tables call it a duplicate.
    lost: Option<Loss>,
}

/// A set as it is on disk.
struct Set {
    name: String,
    categories: HashMap<ProductId, String>,
    /// Left and right product, and whether they match.
    pairs: Vec<(ProductId, ProductId, bool)>,
}

pub fn run(args: Args) -> CommandResult {
    let sets = args.sets.iter().map(|path| read_set(path, &args.split)).collect::<Result<Vec<_>, _>>()?;
    let report = tokio::runtime::Runtime::new()?.block_on(async {
        let tables = Tables::open(&args.tables).await?;
        let report = report(&args, &tables.store, sets).await;
        tables.close().await?;
        report
    })?;
    if args.json {
        printing::json(&report)?
    } else {
        printing::stored(&report)
    }
    Ok(ExitCode::SUCCESS)
}

fn read_set(path: &Path, split: &str) -> Result<Set, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| StoredError::Name { path: path.to_owned() })?.to_owned();
    let id = |side: char, id: &str| {
        let id = format!("{name}-{side}-{id}");
        ProductId::new(id.as_str()).map_err(|source| StoredError::Id { path: path.to_owned(), id, source })
    };
    let (left, right) = (path.join("tableA.csv"), path.join("tableB.csv"));
    let mut categories = HashMap::new();
    for (side, table) in [('a', &left), ('b', &right)] {
        for (own, product) in dataset::read_table(table)? {
            if let Some(category) = category(&product) {
                categories.insert(id(side, &own)?, category);
            }
        }
    }
    let pair = |pair: IdPair| Ok((id('a', &pair.left)?, id('b', &pair.right)?, pair.duplicate));
    let rows = dataset::read_id_pairs([&left, &right], &path.join(format!("{split}.csv")))?;
    let pairs = rows.into_iter().map(pair).collect::<Result<_, StoredError>>()?;
    Ok(Set { name, categories, pairs })
}

fn category(product: &Product) -> Option<String> {
    product.product_type.as_ref().map(|category| category.trim().to_lowercase()).filter(|category| !category.is_empty())
}

async fn report(args: &Args, store: &Store, sets: Vec<Set>) -> Result<Report, Error> {
    let none = || StoredError::NoActiveModel { prefix: store.prefix().to_owned() };
    let model = store.active_model().await?.ok_or_else(none)?.model;
    let epochs = store.key_epochs().await?.unwrap_or_else(rollout::shipped);
    let epoch = published_epoch(store, epochs.active).await?;
    let mut reports = Vec::with_capacity(sets.len());
    for set in sets {
        let name = set.name.clone();
        let judged = judge(store, &model, &epoch, set).await?;
        reports.push(SetReport { set: name, all: group(judged.iter()), by_category: by_category(&judged) });
    }
    Ok(Report { sets: reports, model, split: args.split.clone() })
}

async fn judge(store: &Store, model: &ModelId, epoch: &KeyEpoch, set: Set) -> Result<Vec<Judged>, Error> {
    let mut ids: Vec<ProductId> = set.pairs.iter().flat_map(|(left, right, _)| [left.clone(), right.clone()]).collect();
    ids.sort();
    ids.dedup();
    let (mut states, mut items) = (HashMap::new(), HashMap::new());
    for chunk in ids.chunks(CHUNK) {
        let found: Vec<ProductItem> = store.products(chunk).await?;
        states.extend(found.into_iter().map(|state| (state.id.clone(), state)));
        let keys: Vec<_> = chunk.iter().map(|id| (id.clone(), model.clone())).collect();
        let found: Vec<LabelItem> = store.label_items(&keys).await?;
        items.extend(found.into_iter().map(|item| (item.id.clone(), item)));
    }
    let category = |id: &ProductId| set.categories.get(id).cloned();
    let judged = set.pairs.iter().map(|(left, right, is_match)| {
        let side = |id| Side::of(states.get(id), items.get(id));
        Judged {
            category: category(left).or_else(|| category(right)).unwrap_or_default(),
            is_match: *is_match,
            lost: loss(side(left), side(right), epoch, &Limits::default()),
        }
    });
    Ok(judged.collect())
}

fn by_category(judged: &[Judged]) -> BTreeMap<String, Group> {
    let mut by_category: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for pair in judged.iter().filter(|pair| !pair.category.is_empty()) {
        by_category.entry(&pair.category).or_default().push(pair);
    }
    by_category.into_iter().map(|(name, judged)| (name.to_owned(), group(judged.into_iter()))).collect()
}

fn group<'a>(judged: impl Iterator<Item = &'a Judged> + Clone) -> Group {
    let rows = judged.clone().map(|pair| (pair.lost.is_none(), pair.is_match));
    let class = class_score(rows);
    let mut lost = BTreeMap::new();
    for loss in judged.clone().filter(|pair| pair.is_match).filter_map(|pair| pair.lost) {
        *lost.entry(loss).or_default() += 1;
    }
    let (precision, recall, f1, matches) = (class.precision, class.recall, class.f1, class.support);
    Group { pairs: judged.count(), matches, precision, recall, f1, lost }
}
