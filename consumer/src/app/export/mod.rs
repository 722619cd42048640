//! `export`: every label that a reader would return now, as one file.

mod file;
mod row;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use shared::ModelId;
use shared::item::{IntentItem, LabelItem};
use shared::table::{INTENTS, LABELS, Table};

use self::file::ExportFile;
use self::row::{IntentRow, PairRow};
use super::CommandResult;
use super::config::TableArgs;
use super::open::Tables;
use crate::store::Store;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Write every live label to one file
///
/// Live is what a reader would return now: both products are in the catalog, and the label
/// is about the texts that they have; an intent has not expired. Each pair is written once.
/// The file appears whole, or not at all. Changes that are made meanwhile may or may not
/// be in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    tables: TableArgs,
    /// Where to write; an ending of .ndjson or .parquet says the format
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Format of a file with another ending
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The labels of this model instead of the active one's
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Parts of the table that are read side by side
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    segments: u16,
    /// No progress bar
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Duplicate and review pairs, by the ids of both products
    Pairs,
    /// Intents of queries
    Intents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Ndjson,
    Parquet,
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("--out: {} ends neither in .ndjson nor in .parquet; rename it, or say --format", .path.display())]
    NoFormat { path: PathBuf },
    #[error("no model is active under prefix {prefix}; name one with --model, or activate one")]
    NoActiveModel { prefix: String },
}

pub fn run(args: Args) -> CommandResult {
    let no_format = || ExportError::NoFormat { path: args.out.clone() };
    let format = args.format.or_else(|| format_of(&args.out)).ok_or_else(no_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let rows = runtime.block_on(async {
        let tables = Tables::open(&args.tables).await?;
        let rows = export(&args, &tables.store, format).await;
        tables.close().await?;
        rows
    })?;
    say(&format!("{rows} rows in {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the result of a command")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

async fn export(args: &Args, store: &Store, format: Format) -> Result<u64, Error> {
    let model = match &args.model {
        Some(model) => ModelId(model.clone()),
        None => {
            let no_model = || ExportError::NoActiveModel { prefix: store.prefix().to_owned() };
            store.active_model().await?.ok_or_else(no_model)?.model
        }
    };
    match args.what {
        What::Pairs => pairs(args, store, &model, ExportFile::create(args.out.clone(), format)?).await,
        What::Intents => intents(args, store, &model, ExportFile::create(args.out.clone(), format)?).await,
    }
}

async fn pairs(args: &Args, store: &Store, model: &ModelId, mut file: ExportFile<PairRow>) -> Result<u64, Error> {
    let bar = progress(args, store, &LABELS).await?;
    let mut pages = store.scan::<LabelItem>(&LABELS, Some(model), args.segments).map_ok(|page| async move {
        let others: Vec<_> = page.items.iter().flat_map(|item| item.pairs.keys()).collect();
        let keys: Vec<_> = others.into_iter().map(|other| (other.clone(), model.clone())).collect();
        let others = store.label_items(&keys).await?;
        Ok((row::pairs_of(&page.items, &others), page.scanned))
    });
    let mut pages = std::pin::pin!(pages.by_ref().try_buffer_unordered(usize::from(args.segments)));
    while let Some((rows, scanned)) = pages.try_next().await? {
        file.write(rows)?;
        bar.inc(scanned);
    }
    bar.finish_and_clear();
    file.finish()
}

async fn intents(args: &Args, store: &Store, model: &ModelId, mut file: ExportFile<IntentRow>) -> Result<u64, Error> {
    let bar = progress(args, store, &INTENTS).await?;
    let mut pages = store.scan::<IntentItem>(&INTENTS, Some(model), args.segments);
    while let Some(page) = pages.next().await {
        let page = page?;
        let now = Timestamp::now().as_second();
        let live = page.items.into_iter().filter(|intent| intent.expires_at > now);
        file.write(live.map(IntentRow::from).collect())?;
        bar.inc(page.scanned);
    }
    bar.finish_and_clear();
    file.finish()
}

/// Over the items of the table, those of other models included.
async fn progress(args: &Args, store: &Store, table: &Table) -> Result<ProgressBar, Error> {
    if args.quiet {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos} of about {len} items  {per_sec}  {eta} left")?;
    let bar = ProgressBar::new(store.item_count(table).await?).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
