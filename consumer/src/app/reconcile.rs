//! `reconcile`: plans every product once more, so that the labels depend on the newest
//! states alone.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use shared::item::KeyEpochsItem;

use super::CommandResult;
use super::config::{ConfigError, ModelArgs, TableArgs};
use super::open::Tables;
use super::worker::pipeline;
use crate::decide::rollout;
use crate::flow::{EpochFeed, Reconciled, Watched};
use crate::source::{Pulse, Shutdown};
use crate::store::{MeterSnapshot, Store, WriteOutcome};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Plan every product once more, with no new events
///
/// Removes pairs that neither product's candidate search proposes (those that were asked for
/// by name among them), adds those that are missing, fills up items that had dropped
/// look-alikes, and labels everything that the given model has not labelled yet. Pairs that are
/// labelled already cost no inference. Workers may go on meanwhile. A run that was cut off is
/// gone on with by the next one for the same model and key epochs, within a day.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub tables: TableArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Products in work at once
    #[arg(long, default_value_t = 32, env = "CATALOG_LABELS_CONCURRENCY", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// How long a deleted product is remembered, as for `worker`
    #[arg(long, default_value = "28d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_TOMBSTONE_TTL")]
    tombstone_ttl: Duration,
    /// How long the intent of a query stays good, as for `worker`
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_INTENT_TTL")]
    intent_ttl: Duration,
    /// Plan every product, whatever a run that was cut off has done
    #[arg(long)]
    from_start: bool,
    /// Print the result only
    #[arg(long)]
    quiet: bool,
}

impl Args {
    /// Everything that is wrong with the options, at once.
    pub(super) fn verify(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.tables.check(&mut problems);
        self.model.check(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

pub fn run(args: Args) -> CommandResult {
    args.verify()?;
    let (done, cost) = tokio::runtime::Runtime::new()?.block_on(reconcile(&args))?;
    let mut out = stdout().lock();
    let Reconciled { planned, planned_before, tally, failed, reasons } = done;
    writeln!(out, "products planned: {planned}; items that had overflowed: {}", tally.overflows)?;
    if planned_before > 0 {
        writeln!(out, "planned before, by a run that was cut off: {planned_before}")?;
    }
    writeln!(out, "pairs scored: {}, known: {}", tally.pairs_scored, tally.pairs_skipped)?;
    writeln!(out, "queries scored for the new model: {}", tally.queries_scored)?;
    let usage = cost.total();
    writeln!(out, "label items written: {}", tally.items_written)?;
    writeln!(out, "cost: {:.1} read units, {:.1} write units", usage.read_units, usage.write_units)?;
    writeln!(out, "products that cannot be labelled: {failed}")?;
    for (id, reason) in &reasons {
        writeln!(out, "not labelled: {id}: {reason}")?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn reconcile(args: &Args) -> Result<(Reconciled, MeterSnapshot), BoxError> {
    let tables = Tables::open(&args.tables).await?;
    tables.store.verify_tables().await?;
    let (feed, epochs) = EpochFeed::start(tables.store.clone()).await?;
    let complete = completed_roll_out(&tables.store).await?;
    let feed = tokio::spawn(feed.run(Shutdown::new()));
    let model = args.model.clone();
    let scorer = tokio::task::spawn_blocking(move || model.start()).await??;
    let scorer = Watched { scorer: Box::new(scorer), pulse: Pulse::default() };
    let pipeline = pipeline(tables.store.clone(), Box::new(scorer), epochs, args.intent_ttl, args.tombstone_ttl);
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.set_style(ProgressStyle::with_template("{spinner} {pos} products, {per_sec}")?);
    let concurrency = usize::from(args.concurrency);
    if args.from_start {
        pipeline.reconcile_from_start().await?;
    }
    let mut done = pipeline.reconcile(concurrency, &|planned| bar.set_position(planned)).await;
    if let (Ok(done), Some(active)) = (&mut done, tables.store.active_model().await?)
        && active.model != *pipeline.scorer.model_id()
    {
        done.tally += pipeline.relabel_queries(&active.model, concurrency).await?;
    }
    bar.finish_and_clear();
    feed.abort();
    let cost = tables.store.meter().snapshot();
    let noted = match (&done, complete) {
        (Ok(_), Some(complete)) => note(&tables.store, &complete).await,
        _ => Ok(()),
    };
    tables.close().await?;
    let done = done?;
    noted?;
    Ok((done, cost))
}

/// What is to be said of a roll-out of key epochs once this run, which begins now, has planned
/// every product: each has its postings under the new epoch then. (Products that cannot be
/// labelled have theirs as well: postings come before scores.)
///
/// # Errors
/// Workers may not have heard of the roll-out yet, and this run would not complete it.
async fn completed_roll_out(store: &Store) -> Result<Option<KeyEpochsItem>, BoxError> {
    match store.key_epochs().await? {
        Some(item) if item.also.is_some() && !item.also_is_complete => {
            Ok(Some(rollout::complete(&item, Timestamp::now())?))
        }
        _ => Ok(None),
    }
}

async fn note(store: &Store, complete: &KeyEpochsItem) -> Result<(), BoxError> {
    match store.put_key_epochs(complete).await? {
        WriteOutcome::Written => Ok(()),
        WriteOutcome::Conflict => Err("the roll-out of key epochs moved on meanwhile; reconcile again".into()),
    }
}
