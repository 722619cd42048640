//! `key-epoch`: builds the word counts that blocking keys follow from, and rolls them out.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use futures::TryStreamExt;
use indicatif::ProgressBar;
use jiff::Timestamp;
use shared::item::{KeyEpochsItem, ProductItem};
use shared::table::PRODUCTS;

use super::CommandResult;
use super::config::TableArgs;
use super::open::Tables;
use crate::decide::blocking::KeyEpoch;
use crate::decide::rollout::{self, RolloutError};
use crate::flow::{drop_postings, published_epoch};
use crate::store::{Store, WriteOutcome};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Products whose postings are deleted at once by `drop`.
const CONCURRENCY: usize = 32;
/// Parts of the table that are read side by side.
const SEGMENTS: u16 = 4;

/// Build and roll out key epochs: what blocking knows about how common words are
///
/// A roll-out: `build`, `publish`, `begin` (workers write postings under both epochs), ten
/// minutes, `reconcile` (so do products without events), `switch` (look-ups change), `reconcile`.
/// `switch` again is the way back, as long as the roll-out is not ended; `end` stops the
/// writing under the other epoch, `drop` deletes its postings.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Count words and print the key epoch that they make
    Build(BuildArgs),
    /// Store an epoch's file for workers to find
    Publish { file: PathBuf },
    /// Have postings written under a published epoch as well
    Begin { number: u32 },
    /// Let look-ups read the other epoch: forward, and back
    Switch,
    /// Stop writing under the other epoch
    End,
    /// Delete the postings of an epoch that is no longer in use
    Drop { number: u32 },
    /// Show which epochs are in use
    Status,
}

/// Reads texts as `texts` prints them (one JSON string a line) on standard input, or those of
/// the products in the tables.
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// Number of the epoch, which starts every key; larger than any that was ever used
    #[arg(long)]
    number: u32,
    /// Count the products in the tables instead
    #[arg(long)]
    from_tables: bool,
    /// Most products to count; a million say as much as all
    #[arg(long, default_value_t = 1_000_000)]
    sample: usize,
    /// How many products the catalog has; unless given, those that are counted, and with
    /// `--from-tables` at least what DynamoDB says of the table, which counts every six hours
    #[arg(long)]
    products: Option<usize>,
}

pub fn run(args: Args) -> CommandResult {
    if let Action::Build(BuildArgs { number, from_tables: false, products, .. }) = args.action {
        let texts = read_texts()?;
        write!(stdout().lock(), "{}", KeyEpoch::build(number, &texts, products.unwrap_or(texts.len())))?;
        return Ok(ExitCode::SUCCESS);
    }
    tokio::runtime::Runtime::new()?.block_on(act(&args))
}

fn read_texts() -> Result<Vec<String>, BoxError> {
    let mut texts = Vec::new();
    for (index, line) in stdin().lock().lines().enumerate() {
        texts.push(serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", index + 1))?);
    }
    Ok(texts)
}

async fn act(args: &Args) -> CommandResult {
    let tables = Tables::open(&args.tables).await?;
    let said = act_on(&tables.store, &args.action).await;
    tables.close().await?;
    write!(stdout().lock(), "{}", said?)?;
    Ok(ExitCode::SUCCESS)
}

/// Does it and gives what to print.
async fn act_on(store: &Store, action: &Action) -> Result<String, BoxError> {
    let now = Timestamp::now();
    match action {
        Action::Build(args) => {
            let texts = texts_of(store, args.sample).await?;
            let products = match args.products {
                Some(products) => products,
                None => texts.len().max(usize::try_from(store.item_count(&PRODUCTS).await?)?),
            };
            Ok(KeyEpoch::build(args.number, &texts, products).to_string())
        }
        Action::Publish { file } => publish(store, file).await,
        Action::Begin { number } => {
            // A worker that cannot load the epoch would stop.
            published_epoch(store, *number).await?;
            step(store, |item| rollout::begin(item, *number, now)).await
        }
        Action::Switch => step(store, |item| rollout::switch(item, now)).await,
        Action::End => step(store, |item| rollout::end(item, now)).await,
        Action::Status => Ok(status(&current(store).await?)),
        Action::Drop { number } => {
            rollout::may_drop(&current(store).await?, *number, now)?;
            let epoch = published_epoch(store, *number).await?;
            let bar = ProgressBar::no_length();
            let products = drop_postings(store, &epoch, CONCURRENCY, &|done| bar.set_position(done)).await?;
            bar.finish_and_clear();
            Ok(format!("deleted the postings of {products} products under key epoch {number}\n"))
        }
    }
}

async fn publish(store: &Store, path: &PathBuf) -> Result<String, BoxError> {
    let file = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let number = KeyEpoch::parse(&file)?.number;
    if number == 0 {
        return Err("key epoch 0 is the shipped one; build yours with another --number".into());
    }
    match store.put_key_epoch_file(number, &file).await? {
        WriteOutcome::Written => Ok(format!("key epoch {number} is published\n")),
        WriteOutcome::Conflict => {
            Err(format!("key epoch {number} was published before with other words; build it with another --number")
                .into())
        }
    }
}

async fn current(store: &Store) -> Result<KeyEpochsItem, BoxError> {
    Ok(store.key_epochs().await?.unwrap_or_else(rollout::shipped))
}

async fn step(
    store: &Store,
    next: impl FnOnce(&KeyEpochsItem) -> Result<KeyEpochsItem, RolloutError>,
) -> Result<String, BoxError> {
    let item = next(&current(store).await?)?;
    match store.put_key_epochs(&item).await? {
        WriteOutcome::Written => Ok(status(&item)),
        WriteOutcome::Conflict => Err("somebody else took a step at the same time; look at `key-epoch status`".into()),
    }
}

fn status(item: &KeyEpochsItem) -> String {
    let also = match (item.also, item.also_is_complete) {
        (None, _) => String::new(),
        (Some(also), true) => format!(", and every product is written under {also} as well"),
        (Some(also), false) => format!(", and changed products are written under {also} as well"),
    };
    format!("look-ups read key epoch {}{also}, since {:.0}\n", item.active, item.since)
}

async fn texts_of(store: &Store, sample: usize) -> Result<Vec<String>, BoxError> {
    let mut texts = Vec::new();
    let mut pages = store.scan::<ProductItem>(&PRODUCTS, None, SEGMENTS);
    while let Some(page) = pages.try_next().await? {
        texts.extend(page.items.into_iter().filter(|state| !state.deleted).map(|state| state.text));
        if texts.len() >= sample {
            texts.truncate(sample);
            break;
        }
    }
    Ok(texts)
}
