//! Where rows go: through the pipeline into the tables, or onto the bulk queue.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shared::Event;

use super::ledger::RowOutcome;
use super::rows::{Row, RowsError};
use super::{Args, BoxError};
use crate::app::worker::{StartScorer, activate_first_model, pipeline};
use crate::aws::{AwsOptions, SqsQueue, dynamo, sdk_config, sqs_client};
use crate::fault::{Fault, Faulty};
use crate::flow::{self, EpochFeed, Pipeline};
use crate::source::{BATCH_MAX, Backoff, MESSAGE_BYTES_MAX, Outgoing, Queue, QueueError, Shutdown, with_causes};
use crate::store::{Embedded, Store};

/// Tries of one row or request before the run ends, to go on later.
const ATTEMPTS_MAX: u32 = 12;
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(30) };
/// Only received messages have one, and nothing is received here.
const NO_LEASE: Duration = Duration::ZERO;

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error("row {number} failed {ATTEMPTS_MAX} times; the same command goes on from here")]
    Failing { number: u64, source: BoxError },
    #[error("every row would fail")]
    Fatal { source: BoxError },
}

pub enum Sink {
    Tables { pipeline: Box<Pipeline>, engine: Option<Embedded> },
    Queue(SqsQueue),
    Check,
}

impl Sink {
    pub async fn open(args: &Args, start: StartScorer) -> Result<Self, BoxError> {
        if args.dry_run {
            return Ok(Self::Check);
        }
        let options = AwsOptions { region: args.tables.region.clone(), endpoint_url: args.tables.endpoint_url.clone() };
        if let Some(url) = &args.bulk_queue_url {
            return Ok(Self::Queue(SqsQueue::new(sqs_client(&sdk_config(&options).await), url, NO_LEASE)));
        }
        let engine = args.tables.local.as_deref().map(Embedded::open).transpose()?;
        let store = match &engine {
            Some(engine) => engine.store(&args.tables.table_prefix),
            None => {
                let sdk = sdk_config(&options).await;
                Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), &args.tables.table_prefix)
            }
        };
        if engine.is_some() {
            store.create_tables().await?;
        }
        store.verify_tables().await?;
        let model = args.model.clone();
        let scorer = tokio::task::spawn_blocking(move || start(&model)).await??;
        let (feed, epochs) = EpochFeed::start(store.clone()).await?;
        // It ends with the process.
        tokio::spawn(feed.run(Shutdown::new()));
        let pipeline = pipeline(store, scorer, epochs, args.intent_ttl, args.tombstone_ttl);
        activate_first_model(&pipeline).await?;
        Ok(Self::Tables { pipeline: Box::new(pipeline), engine })
    }

    /// Rows that [`Sink::take`] is best given at once.
    pub fn rows_at_once(&self) -> usize {
        match self {
            Self::Tables { .. } | Self::Check => 1,
            Self::Queue(_) => BATCH_MAX,
        }
    }

    /// Does rows, each with its outcome. Faults that pass are waited out here; an error
    /// ends the run.
    pub async fn take(
        sink: Arc<Self>,
        rows: Vec<Result<Row, RowsError>>,
        receive_count: u32,
    ) -> Result<Vec<(Row, RowOutcome)>, SinkError> {
        let mut done = Vec::with_capacity(rows.len());
        let mut good = Vec::with_capacity(rows.len());
        for row in rows {
            let row = row?;
            match checked(&row) {
                Ok(body) => good.push((row, body)),
                Err(reason) => done.push((row, RowOutcome::Rejected { reason })),
            }
        }
        match &*sink {
            Self::Check => done.extend(good.into_iter().map(|(row, _)| (row, RowOutcome::Checked))),
            Self::Tables { pipeline, .. } => {
                for (row, body) in good {
                    let outcome = label(pipeline, row.number, &body, receive_count).await?;
                    done.push((row, outcome));
                }
            }
            Self::Queue(queue) => done.extend(send(queue, good).await?),
        }
        Ok(done)
    }

    pub async fn close(self: Arc<Self>) -> Result<(), BoxError> {
        if let Some(Self::Tables { engine: Some(engine), .. }) = Arc::into_inner(self) {
            engine.stop().await?;
        }
        Ok(())
    }
}

/// The row's body if it is an event that a worker would take.
fn checked(row: &Row) -> Result<String, String> {
    let body = row.body.clone()?;
    match Event::parse(body.as_bytes(), Timestamp::now()) {
        Ok(_) => Ok(body),
        Err(error) => Err(error.to_string()),
    }
}

async fn label(pipeline: &Pipeline, number: u64, body: &str, receive_count: u32) -> Result<RowOutcome, SinkError> {
    let mut attempt = 1;
    loop {
        let error = match pipeline.process(body, receive_count.max(attempt)).await {
            Ok(processed) if processed.outcome == flow::Outcome::Written => return Ok(RowOutcome::Written),
            Ok(_) => return Ok(RowOutcome::Unchanged),
            Err(error) => error,
        };
        match error.fault() {
            Fault::Poison { reason } => return Ok(RowOutcome::Rejected { reason }),
            fault => wait(number, attempt, fault, error).await?,
        }
        attempt += 1;
    }
}

/// Sends rows in as few requests as their sizes allow; entries that failed go again.
async fn send(queue: &SqsQueue, rows: Vec<(Row, String)>) -> Result<Vec<(Row, RowOutcome)>, SinkError> {
    let mut done = Vec::with_capacity(rows.len());
    let (mut left, mut attempt) = (rows, 0);
    while !left.is_empty() {
        let rest = left.split_off(fitting(&left));
        let messages: Vec<Outgoing> = left.iter().map(|(_, body)| Outgoing::new(body.as_str())).collect();
        let results = match queue.send(&messages).await {
            Ok(results) => results,
            Err(error) => {
                attempt += 1;
                wait(left[0].0.number, attempt, error.fault(), error).await?;
                left.extend(rest);
                continue;
            }
        };
        let mut failed: Option<QueueError> = None;
        let mut again = Vec::new();
        for (row, result) in left.into_iter().zip(results) {
            match result {
                Ok(_) => done.push((row.0, RowOutcome::Sent)),
                Err(error) => {
                    again.push(row);
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed {
            attempt += 1;
            wait(again[0].0.number, attempt, error.fault(), error).await?;
        }
        again.extend(rest);
        left = again;
    }
    Ok(done)
}

/// Rows from the first on that one request carries; at least one.
fn fitting(rows: &[(Row, String)]) -> usize {
    let mut bytes = 0;
    let fits = rows.iter().take_while(|(_, body)| {
        bytes += body.len();
        bytes <= MESSAGE_BYTES_MAX
    });
    fits.count().max(1)
}

/// Waits before another attempt, or ends the run.
async fn wait<E>(number: u64, attempt: u32, fault: Fault, error: E) -> Result<(), SinkError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match fault {
        Fault::Retry { after } if attempt < ATTEMPTS_MAX => {
            let pause = after.unwrap_or_else(|| BACKOFF.delay(attempt, &mut fastrand::Rng::new()));
            tracing::warn!(row = number, attempt, ?pause, error = with_causes(&error), "a row waits");
            tokio::time::sleep(pause).await;
            Ok(())
        }
        Fault::Retry { .. } => Err(SinkError::Failing { number, source: Box::new(error) }),
        Fault::Poison { .. } | Fault::Fatal { .. } => Err(SinkError::Fatal { source: Box::new(error) }),
    }
}
