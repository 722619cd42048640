//! `model`: which model's labels readers take, and the switch from one to another.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use shared::ModelId;
use shared::item::{ActiveModelItem, IntentItem, ProductItem};
use shared::table::{INTENTS, PRODUCTS};

use super::CommandResult;
use super::config::{ModelArgs, TableArgs};
use super::open::Tables;
use super::worker::pipeline;
use crate::decide::blocking::KeyEpochs;
use crate::flow::{KnownEpochs, Watched};
use crate::source::Pulse;
use crate::store::{Store, StoreError, WriteOutcome};

/// Parts of a table that are read side by side.
const SEGMENTS: u16 = 4;
/// Queries in work at once, so that they share batches.
const CONCURRENCY: usize = 64;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the active and the previous model, and how much of the catalog each model has labelled
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let readers take this model's labels from now on
    ///
    /// Refused while products or queries are not labelled under it; readers follow within their
    /// pointer's time to live, 30 seconds by default.
    Activate {
        /// The model_id of its manifest
        model: String,
        /// Do not look whether the catalog is labelled under it
        #[arg(long)]
        unchecked: bool,
    },
    /// Label the live queries of the active model under another one, before a switch
    RelabelQueries {
        #[command(flatten)]
        model: ModelArgs,
        /// How long the intent of a query stays good, as for `worker`
        #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_INTENT_TTL")]
        intent_ttl: Duration,
    },
    /// Let readers take the previous model's labels again
    Rollback,
}

#[derive(Debug, thiserror::Error)]
enum ModelError {
    #[error(
        "model {model} has labelled {labelled} of {products} products; backfill the catalog with its artifact, \
         or activate it --unchecked"
    )]
    Unfinished { model: ModelId, labelled: u64, products: u64 },
    #[error(
        "model {model} has labelled {labelled} queries, and the active one {active}; let `model relabel-queries` \
         with its artifact finish, or activate it --unchecked"
    )]
    Queries { model: ModelId, labelled: u64, active: u64 },
    #[error("model {model} is active already")]
    Active { model: ModelId },
    #[error("no model is active under prefix {prefix}; the first worker activates its own")]
    NoneActive { prefix: String },
    #[error("there is nothing to roll back to: {model} is the first model that was active")]
    First { model: ModelId },
    #[error("somebody else has switched models meanwhile; look at `model status` and try again")]
    Switched,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is labelled, and what readers take. The JSON names are a promise.
#[derive(Debug, Serialize)]
struct Status {
    active: Option<ModelId>,
    previous: Option<ModelId>,
    activation_epoch: u64,
    #[serde(flatten)]
    coverage: Coverage,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Coverage {
    /// Products in the catalog, deleted ones left out.
    products: u64,
    /// Of these, how many are labelled for the text that they have now, by model.
    labelled: BTreeMap<ModelId, u64>,
    /// Queries with a live label, by model.
    queries: BTreeMap<ModelId, u64>,
}

pub fn run(args: Args) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let said = runtime.block_on(async {
        let tables = Tables::open(&args.tables).await?;
        let said = answer(&args.what, &tables.store).await;
        tables.close().await?;
        said
    })?;
    writeln!(stdout().lock(), "{said}")?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(what: &What, store: &Store) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    match what {
        What::Status { json } => {
            let status = status(store).await?;
            Ok(if *json { serde_json::to_string_pretty(&status)? } else { text(&status) })
        }
        What::Activate { model, unchecked } => {
            let model = ModelId(model.clone());
            let known = store.active_model().await?;
            if known.as_ref().is_some_and(|known| known.model == model) {
                return Err(ModelError::Active { model }.into());
            }
            if !unchecked {
                check(store, &model, known.as_ref()).await?;
            }
            Ok(switch(store, &model, known.as_ref()).await?)
        }
        What::RelabelQueries { model, intent_ttl } => {
            let known = active(store).await?;
            let model = model.clone();
            let scorer = tokio::task::spawn_blocking(move || model.start()).await??;
            let scorer = Watched { scorer: Box::new(scorer), pulse: Pulse::default() };
            // Queries leave no tombstones.
            let epochs = KnownEpochs::fixed(KeyEpochs::shipped());
            let pipeline = pipeline(store.clone(), Box::new(scorer), epochs, *intent_ttl, Duration::ZERO);
            let tally = pipeline.relabel_queries(&known.model, CONCURRENCY).await?;
            Ok(format!("{} queries of {} labelled by {}", tally.items_written, known.model, pipeline.scorer.model_id()))
        }
        What::Rollback => {
            let known = active(store).await?;
            let previous = known.previous.clone().ok_or_else(|| ModelError::First { model: known.model.clone() })?;
            Ok(switch(store, &previous, Some(&known)).await?)
        }
    }
}

async fn active(store: &Store) -> Result<ActiveModelItem, ModelError> {
    let none = || ModelError::NoneActive { prefix: store.prefix().to_owned() };
    store.active_model().await?.ok_or_else(none)
}

/// One conditional write of one item: all readers follow, or none.
async fn switch(store: &Store, model: &ModelId, known: Option<&ActiveModelItem>) -> Result<String, ModelError> {
    match store.set_active_model(model, known).await? {
        WriteOutcome::Written => Ok(match known {
            Some(known) => format!("{model} is active; {} was", known.model),
            None => format!("{model} is active"),
        }),
        WriteOutcome::Conflict => Err(ModelError::Switched),
    }
}

async fn check(store: &Store, model: &ModelId, known: Option<&ActiveModelItem>) -> Result<(), ModelError> {
    let Coverage { products, labelled, queries } = coverage(store).await?;
    let labelled = labelled.get(model).copied().unwrap_or_default();
    if labelled < products {
        return Err(ModelError::Unfinished { model: model.clone(), labelled, products });
    }
    let queries = |model| queries.get(model).copied().unwrap_or_default();
    let (labelled, active) = (queries(model), known.map_or(0, |known| queries(&known.model)));
    if labelled < active {
        return Err(ModelError::Queries { model: model.clone(), labelled, active });
    }
    Ok(())
}

async fn status(store: &Store) -> Result<Status, StoreError> {
    let (active, coverage) = (store.active_model().await?, coverage(store).await?);
    let activation_epoch = active.as_ref().map_or(0, |active| active.activation_epoch);
    let (active, previous) = active.map_or((None, None), |item| (Some(item.model), item.previous));
    Ok(Status { active, previous, activation_epoch, coverage })
}

/// Reads the whole of the products and of the intents table, once.
async fn coverage(store: &Store) -> Result<Coverage, StoreError> {
    let mut coverage = Coverage::default();
    let mut pages = store.scan::<ProductItem>(&PRODUCTS, None, SEGMENTS);
    while let Some(page) = pages.try_next().await? {
        for product in page.items.into_iter().filter(|product| !product.deleted) {
            coverage.products += 1;
            for (model, marker) in product.labelled {
                *coverage.labelled.entry(model).or_default() += u64::from(marker.text_hash == product.text_hash);
            }
        }
    }
    let now = Timestamp::now().as_second();
    let mut pages = store.scan::<IntentItem>(&INTENTS, None, SEGMENTS);
    while let Some(page) = pages.try_next().await? {
        for intent in page.items.into_iter().filter(|intent| intent.expires_at > now) {
            *coverage.queries.entry(intent.model).or_default() += 1;
        }
    }
    Ok(coverage)
}

fn text(status: &Status) -> String {
    let Status { active, previous, activation_epoch, coverage } = status;
    let name = |model: &Option<ModelId>| model.as_ref().map_or("none".to_owned(), ModelId::to_string);
    let mut lines = vec![
        format!("active    {} (switch {activation_epoch})", name(active)),
        format!("previous  {}", name(previous)),
        format!("products  {}", coverage.products),
    ];
    let labelled = coverage.labelled.iter().map(|(model, count)| format!("labelled  {count} by {model}"));
    lines.extend(labelled);
    lines.extend(coverage.queries.iter().map(|(model, count)| format!("queries   {count} by {model}")));
    lines.join("\n")
}
