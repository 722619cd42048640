//! `backfill`: a whole catalog from a file, labelled in this process or sent to the bulk
//! queue.
//!
//! `rows -> sink -> ledger`. Rows are shuffled within a window and done in any order; the
//! ledger moves the checkpoint on only when every row of a window is done, so that a run
//! that is killed goes on at the first window that was not. Rows of that window are done
//! again, which changes no label, since events are repeatable.

mod ledger;
mod rows;
mod sink;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc::Receiver;

use super::CommandResult;
use super::config::{ConfigError, ModelArgs, TableArgs};
use super::telemetry;
use super::worker::{BoxError, StartScorer};
use ledger::{Ledger, Plan, Progress};
use rows::{Format, Row, Rows, RowsError};
use sink::Sink;

const WINDOW_ROWS_MAX: usize = 1_000_000;
const CONCURRENCY_MAX: usize = 4096;

/// Label a catalog from a CSV, NDJSON or Parquet file, or send it to the bulk queue
///
/// Each row is a product (columns id, title or name, and any other known one; a column
/// `version` where there is one), or, in NDJSON, an event. However a run ends, the same command
/// goes on where it was.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// .csv, .ndjson or .jsonl, each also with .gz, or .parquet
    #[arg(value_name = "FILE")]
    input: PathBuf,
    #[command(flatten)]
    tables: TableArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Send each row to this queue, for a fleet of workers, instead of labelling it here
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_BULK_QUEUE_URL", conflicts_with = "local")]
    bulk_queue_url: Option<String>,
    /// Only read and check every row; write and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Rows a second at most
    #[arg(long, value_name = "ROWS")]
    rate: Option<NonZeroU32>,
    /// Rows in work at once
    #[arg(long, default_value_t = 64, env = "CATALOG_LABELS_CONCURRENCY")]
    concurrency: usize,
    /// Rows that are shuffled together, so that neighbours of one brand do not meet on one
    /// partition; also the most rows that a killed run does again
    #[arg(long, default_value_t = 10_000, value_name = "ROWS")]
    window: usize,
    /// Version of rows that have none of their own; 0 loses to every live event
    #[arg(long, default_value_t = 0, value_name = "N")]
    row_version: u64,
    /// Goes before every id, so that files whose ids overlap can share tables
    #[arg(long, default_value = "", value_name = "PREFIX")]
    id_prefix: String,
    /// Where progress is kept; rejected rows are written beside it [default: FILE.backfill.json]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Forget an earlier run's progress
    #[arg(long)]
    restart: bool,
    /// How long a deleted product is remembered
    #[arg(long, default_value = "28d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_TOMBSTONE_TTL")]
    tombstone_ttl: Duration,
    /// How long the intent of a query stays good
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_INTENT_TTL")]
    intent_ttl: Duration,
}

impl Args {
    /// The input's format, or everything that is wrong with the arguments.
    fn check(&self) -> Result<Format, ConfigError> {
        let mut problems = Vec::new();
        let urls = self.bulk_queue_url.iter().chain(&self.tables.endpoint_url);
        for url in urls.filter(|url| !(url.starts_with("http://") || url.starts_with("https://"))) {
            problems.push(format!("{url:?} is not a URL: it must start with http:// or https://"));
        }
        for (name, value, most) in
            [("--concurrency", self.concurrency, CONCURRENCY_MAX), ("--window", self.window, WINDOW_ROWS_MAX)]
        {
            if !(1..=most).contains(&value) {
                problems.push(format!("{name}: {value} is out of range; it is 1 to {most}"));
            }
        }
        let format = Format::of(&self.input).map_err(|reason| problems.push(reason));
        match format {
            Ok(format) if problems.is_empty() => Ok(format),
            _ => Err(ConfigError { problems }),
        }
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.checkpoint.clone().unwrap_or_else(|| format!("{}.backfill.json", self.input.display()).into())
    }
}

pub fn run(args: Args) -> CommandResult {
    run_with(args, Box::new(|model| Ok(Box::new(model.start()?))))
}

/// The whole command around a model that need not be the configured one.
pub fn run_with(args: Args, start: StartScorer) -> CommandResult {
    telemetry::init_logs()?;
    let format = args.check()?;
    tokio::runtime::Runtime::new()?.block_on(backfill(&args, format, start))
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
async fn backfill(args: &Args, format: Format, start: StartScorer) -> CommandResult {
    let Args { input, window: window_rows, row_version, id_prefix, .. } = args.clone();
    let rows = Rows { path: input, format, window_rows, row_version, id_prefix };
    let plan = Plan { file_bytes: std::fs::metadata(&args.input)?.len(), window_rows: args.window };
    let mut ledger = Ledger::open(args.checkpoint_path(), plan, args.restart)?;
    if ledger.progress().finished {
        println!("backfill ok: {} was done before; --restart does it again", args.input.display());
        return Ok(ExitCode::SUCCESS);
    }
    let (started, rows_before) = (Instant::now(), ledger.progress().rows());
    let sink = Arc::new(Sink::open(args, start).await?);
    let worked = work(args, &rows, &sink, &mut ledger).await;
    sink.close().await?;
    worked?;
    let (seconds, done) = (started.elapsed().as_secs_f64(), ledger.finish()?);
    let rows_per_second = (done.rows() - rows_before) as f64 / seconds.max(f64::EPSILON);
    let Progress { written, unchanged, sent, checked, rejected, .. } = *done;
    println!(
        "backfill ok: rows={} written={written} unchanged={unchanged} sent={sent} checked={checked} \
         rejected={rejected} seconds={seconds:.1} rows_per_second={rows_per_second:.1}",
        done.rows()
    );
    if rejected > 0 {
        println!("the rejected rows, each with its reason, are in {}", ledger.rejects_path().display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Does and notes every row from the checkpoint on.
async fn work(args: &Args, rows: &Rows, sink: &Arc<Sink>, ledger: &mut Ledger) -> Result<(), BoxError> {
    let progress = ledger.progress();
    let bar = progress_bar(rows.count()?, progress.rows());
    let received = rows.clone().start(progress.windows, progress.started_at, args.concurrency);
    // A killed run may have left labels of a row half written.
    let receive_count = if progress.windows > 0 || ledger.is_resumed() { 2 } else { 1 };
    let batches = paced(received, args.rate).chunks(sink.rows_at_once());
    let mut done = std::pin::pin!(
        batches.map(|batch| Sink::take(sink.clone(), batch, receive_count)).buffer_unordered(args.concurrency)
    );
    while let Some(outcomes) = done.next().await {
        for (row, outcome) in outcomes? {
            ledger.note(&row, outcome)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The rows as they come, at most `rate` a second.
fn paced(
    rows: Receiver<Result<Row, RowsError>>,
    rate: Option<NonZeroU32>,
) -> impl Stream<Item = Result<Row, RowsError>> {
    let pace = rate.map(|rate| {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate.get());
        // A pause is caught up with, so that the rate is kept over any few seconds.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        pace
    });
    futures::stream::unfold((rows, pace), |(mut rows, mut pace)| async move {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        rows.recv().await.map(|row| (row, (rows, pace)))
    })
}

/// On standard error; hidden where that is no terminal.
fn progress_bar(rows: u64, done: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("backfill {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(rows).with_style(style).with_position(done);
    bar.reset_eta();
    bar
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_come_no_faster_than_the_rate_and_catch_up_after_a_pause() {
        let (sender, rows) = channel(100);
        let row = |number| Row { number, window: 0, window_rows: 40, body: Ok(String::new()) };
        for number in 1..=40 {
            sender.send(Ok(row(number))).await.expect("there is room");
        }
        drop(sender);
        let mut rows = std::pin::pin!(paced(rows, NonZeroU32::new(10)));
        let began = tokio::time::Instant::now();
        let mut seconds = Vec::new();
        while let Some(row) = rows.next().await {
            if row.expect("a good row").number == 20 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        let at = |row: usize| seconds[row - 1];
        assert!((at(19) - 1.8).abs() < 0.01, "19 rows take 1.8 s: {seconds:?}");
        assert!((at(30) - at(20)).abs() < 0.01, "10 rows were due in the pause: {seconds:?}");
        assert!((at(40) - 3.9).abs() < 0.01, "40 rows take 3.9 s: {seconds:?}");
    }
}
