//! The sample's way through the real pipeline, and back out as search reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use reader::{LabelReader, Options};
use shared::PairLabel;
use shared::table::PREFIX_DEFAULT;
use shared::text::normalise_query;

use super::{DemoError, ReadBack, RunReport};
use crate::app::config::ModelArgs;
use crate::app::sample::Sample;
use crate::app::telemetry;
use crate::app::worker::{activate_first_model, pipeline};
use crate::decide::blocking::KeyEpochs;
use crate::flow::{KnownEpochs, RunOptions, Share, run};
use crate::source::{
    InProcessOptions, InProcessQueue, Outgoing, Redrive, SettleOptions, Shutdown, Source, SourceOptions, StopReason,
};
use crate::store::Embedded;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// As SQS queues of the stack: five tries, then the dead-letter queue.
const RECEIVES_MAX: u32 = 5;
/// Events in work at once; enough to keep every replica busy while others wait for tables.
const CONCURRENCY: usize = 32;
/// Pause between two looks at the queue, for the progress bar.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
const DRAIN: Duration = Duration::from_secs(30);

/// Publishes every event of `sample` to an in-process queue, runs the worker's pipeline
/// on tables in `folder` until the queue is empty and every permit is home, and stops it.
///
/// `progress` is called with the number of events settled so far.
///
/// # Errors
/// What kept the pipeline from running to the end; a parked message is no error here.
pub async fn label_sample(
    sample: &Sample,
    folder: &Path,
    model: &ModelArgs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<RunReport, DemoError> {
    label(sample, folder, model, progress).await.map_err(DemoError::Pipeline)
}

async fn label(
    sample: &Sample,
    folder: &Path,
    model: &ModelArgs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<RunReport, BoxError> {
    let metrics = telemetry::init_metrics()?;
    let engine = Embedded::open(folder)?;
    let store = engine.store(PREFIX_DEFAULT);
    store.create_tables().await?;
    let model = model.clone();
    let scorer = tokio::task::spawn_blocking(move || model.start()).await??;
    let epochs = KnownEpochs::fixed(KeyEpochs::shipped());
    let pipeline = Arc::new(pipeline(store.clone(), Box::new(scorer), epochs, 30 * DAY, 28 * DAY));
    activate_first_model(&pipeline).await?;

    let parked = InProcessQueue::new(InProcessOptions::new("sample-dead-letters"));
    let redrive = Some(Redrive { dead_letters: parked.clone(), receives_max: RECEIVES_MAX });
    let queue = InProcessQueue::new(InProcessOptions { redrive, ..InProcessOptions::new("sample") });
    let (started, before) = (Instant::now(), store.meter().snapshot());
    let events = publish(sample, &queue).await?;

    let shutdown = Shutdown::new();
    let dead_letters = Arc::new(parked.clone());
    // Nobody bills these requests, so no delete waits for another.
    let settle = SettleOptions { delete_linger: Duration::ZERO, ..SettleOptions::default() };
    let options = SourceOptions { settle, ..SourceOptions::default() };
    let source = Source::start(Arc::new(queue.clone()), dead_letters, options, shutdown.clone());
    let options = RunOptions { concurrency: CONCURRENCY, drain: DRAIN };
    let running = tokio::spawn(run(pipeline, Share::whole(source), options, shutdown.clone()));
    loop {
        let counts = queue.counts();
        let left = (counts.visible + counts.in_flight) as u64;
        progress(events.saturating_sub(left));
        if left == 0 || shutdown.has_begun() {
            break;
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
    shutdown.begin(StopReason::Finished);
    running.await?;
    let elapsed = started.elapsed();
    engine.stop().await?;
    if let Some(StopReason::Fatal(reason)) = shutdown.reason() {
        return Err(reason.clone().into());
    }
    Ok(RunReport {
        events,
        parked: parked.counts().visible as u64,
        pairs_scored: counter(&metrics, "pairs_scored_total"),
        labels_written: counter(&metrics, "label_items_written_total"),
        elapsed,
        usage: store.meter().snapshot().since(&before).total(),
        tables: folder.to_owned(),
    })
}

/// Sends the events as a source would, as JSON; gives their number.
async fn publish(sample: &Sample, queue: &InProcessQueue) -> Result<u64, BoxError> {
    let mut bodies = Vec::new();
    for event in sample.catalog_events() {
        bodies.push(serde_json::to_string(&event)?);
    }
    for event in sample.query_events(Timestamp::now()) {
        bodies.push(serde_json::to_string(&event)?);
    }
    let events = bodies.len() as u64;
    for body in bodies {
        queue.send_when_room(Outgoing::new(body)).await?;
    }
    Ok(events)
}

/// A counter as Prometheus would scrape it, which is how an operator sees it.
fn counter(metrics: &PrometheusHandle, name: &str) -> u64 {
    let page = metrics.render();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    value.unwrap_or_default() as u64
}

/// Reads the labels of every sample product and query from the tables in `folder`,
/// through the `reader` crate only.
///
/// # Errors
/// What kept the reader from an answer; a label that is not there is no error here.
pub async fn read_back(sample: &Sample, folder: &Path) -> Result<ReadBack, DemoError> {
    read(sample, folder).await.map_err(DemoError::ReadBack)
}

async fn read(sample: &Sample, folder: &Path) -> Result<ReadBack, BoxError> {
    let engine = Embedded::open_existing(folder)?;
    let options = Options { deadline: Duration::from_secs(30), consistent: true, ..Options::default() };
    let reader = LabelReader::new(engine.store(PREFIX_DEFAULT).client().clone(), PREFIX_DEFAULT, options);
    let mut read = ReadBack { labels: BTreeMap::new(), intents: BTreeMap::new() };
    for upsert in &sample.upserts {
        let Some(found) = reader.duplicates_of(&upsert.product_id).await? else { continue };
        let labels = found.item.pairs.into_iter().map(|(other, entry)| PairLabel {
            other,
            other_hash: entry.other_hash,
            other_version: entry.other_version,
            score: entry.score,
            verdict: entry.verdict,
            stage: entry.stage,
            labelled_at: entry.labelled_at,
        });
        read.labels.insert(upsert.product_id.clone(), labels.collect());
    }
    for query in &sample.queries {
        if let Some(found) = reader.intent_for(&query.text).await? {
            read.intents.insert(normalise_query(&query.text), found.intent);
        }
    }
    engine.stop().await?;
    Ok(read)
}
