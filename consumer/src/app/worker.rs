//! `worker`: consumes events from SQS and keeps the labels fresh, until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::CommandResult;
use super::config::{ModelArgs, QueueConfig, WorkerArgs, WorkerConfig};
use super::eviction;
use super::health::{self, Health, HealthLimits};
use super::telemetry;
use crate::aws::{AwsOptions, BucketError, Buckets, SqsQueue, dynamo, sdk_config, sqs_client};
use crate::decide::blocking::Limits;
use crate::flow::{EpochFeed, KnownEpochs, Pipeline, RunOptions, Score, Share, Versions, Watched, run as run_flow};
use crate::source::{Brake, NoObjects, Objects, Queue, Shutdown, Source, SourceOptions, StopReason};
use crate::store::{Store, WriteOutcome};

pub type Args = WorkerArgs;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often an idle worker scores a probe, so that readiness always speaks of the device.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);

/// No receive begins for this long after a throttled request to the tables: what is in
/// work already asks for more than they give.
const THROTTLE_PAUSE: Duration = Duration::from_secs(1);
/// Messages in the process for each place in work, and for each queue: those in work,
/// those being settled, and those that wait with their leases held, so that a free place
/// is taken at once.
const PERMITS_PER_PLACE: usize = 2;

/// Blocks until a model is loaded.
pub type StartScorer = Box<dyn FnOnce(&ModelArgs) -> Result<Box<dyn Score>, BoxError> + Send>;

pub fn run(args: Args) -> CommandResult {
    run_with(args, Box::new(|model| Ok(Box::new(model.start()?))))
}

/// The whole worker around a model that need not be the configured one.
pub fn run_with(args: Args, start: StartScorer) -> CommandResult {
    telemetry::init_logs()?;
    let config = args.resolve()?;
    tokio::runtime::Runtime::new()?.block_on(work(config, start))
}

async fn work(config: WorkerConfig, start: StartScorer) -> CommandResult {
    let metrics = telemetry::init_metrics()?;
    let shutdown = Shutdown::new();
    shutdown.listen_to_signals()?;
    let health = Health::new(HealthLimits::default(), shutdown.clone());
    let listener = TcpListener::bind(config.health_address)
        .await
        .map_err(|error| format!("--health-address: cannot listen on {}: {error}", config.health_address))?;
    let health_stop = CancellationToken::new();
    let server = tokio::spawn(health::serve(listener, health.clone(), metrics, health_stop.clone()));

    let options = AwsOptions { region: config.tables.region.clone(), endpoint_url: config.tables.endpoint_url.clone() };
    let sdk = sdk_config(&options).await;
    let instance = match &config.instance_metadata_url {
        None if options.is_local() => None,
        url => eviction::find(url.as_deref()).await?,
    };
    if let Some(instance) = instance.clone() {
        eviction::watch(instance, shutdown.clone());
    }
    let brake = Brake::default();
    let (pipeline, epochs) = start_pipeline(&config, &sdk, &health, brake.clone(), start).await?;
    let (pipeline, epochs) = (Arc::new(pipeline), tokio::spawn(epochs.run(shutdown.clone())));
    let probe = tokio::spawn(probe(pipeline.clone(), shutdown.clone()));
    let sources = start_sources(&config, &sdk, &health, &brake, &shutdown).await?;
    let options = RunOptions { concurrency: config.concurrency, drain: config.drain };
    let drained = run_flow(pipeline, sources, options, shutdown.clone()).await;
    probe.abort();
    epochs.abort();
    if let (Some(instance), Some(hook)) = (&instance, &config.lifecycle_hook) {
        eviction::let_go(instance, &sdk, hook).await;
    }
    health_stop.cancel();
    server.await??;
    match shutdown.reason() {
        Some(StopReason::Fatal(reason)) => {
            Err(format!("stopped for a fault that every event would meet: {reason}").into())
        }
        _ if drained.iter().all(|drained| drained.is_clean()) => Ok(ExitCode::SUCCESS),
        _ => Err("the drain deadline passed with events in work; they were released".into()),
    }
}

/// Tables first, then the model: a missing table is found in milliseconds.
async fn start_pipeline(
    config: &WorkerConfig,
    sdk: &SdkConfig,
    health: &Health,
    brake: Brake,
    start: StartScorer,
) -> Result<(Pipeline, EpochFeed), BoxError> {
    let client = dynamo::watched_client(sdk, &dynamo::Limits::default(), move || brake.press(THROTTLE_PAUSE));
    let store = Store::new(client, &config.tables.table_prefix);
    if config.create_tables {
        store.create_tables().await?;
    }
    store.verify_tables().await?;
    health.tables_exist();
    let objects = open_buckets(sdk, &config.object_buckets).await?;
    let (feed, epochs) = EpochFeed::start(store.clone()).await?;
    let model = config.model.clone();
    let scorer = tokio::task::spawn_blocking(move || start(&model)).await??;
    let scorer = Watched { scorer, pulse: health.device() };
    let ttls = (config.intent_ttl, config.tombstone_ttl);
    let mut current = pipeline(store, Box::new(scorer), epochs.clone(), ttls.0, ttls.1);
    current.objects = objects;
    activate_first_model(&current).await?;
    if let Some(model) = config.next_model.clone() {
        let scorer = tokio::task::spawn_blocking(move || model.start()).await??;
        if scorer.model_id() == current.scorer.model_id() {
            return Err(format!("--next-artifact: is {} as well; name another model", scorer.model_id()).into());
        }
        tracing::info!(model = %scorer.model_id(), "labelling the slot of the next model too");
        let scorer = Watched { scorer: Box::new(scorer), pulse: health.device() };
        let next = pipeline(current.store.clone(), Box::new(scorer), epochs, ttls.0, ttls.1);
        current.next = Some(Box::new(next));
    }
    Ok((current, feed))
}

/// The buckets that messages may point to; without any, messages that do are parked.
pub(super) async fn open_buckets(sdk: &SdkConfig, names: &[String]) -> Result<Arc<dyn Objects>, BucketError> {
    if names.is_empty() {
        return Ok(Arc::new(NoObjects));
    }
    Ok(Arc::new(Buckets::open(sdk, names.iter().cloned()).await?))
}

/// A pipeline with the default limits, and with no objects to read.
pub(super) fn pipeline(
    store: Store,
    scorer: Box<dyn Score>,
    epochs: watch::Receiver<KnownEpochs>,
    intent_ttl: Duration,
    tombstone_ttl: Duration,
) -> Pipeline {
    Pipeline {
        store,
        scorer,
        objects: Arc::new(NoObjects),
        epochs,
        limits: Limits::default(),
        versions: Versions::default(),
        intent_ttl,
        tombstone_ttl,
        clock: jiff::Timestamp::now,
        next: None,
    }
}

/// Readers need to be told which model to read. The first worker of an empty table set
/// names its own; later switches are made on purpose, never by a start.
pub(super) async fn activate_first_model(pipeline: &Pipeline) -> Result<(), BoxError> {
    let model = pipeline.scorer.model_id();
    match pipeline.store.active_model().await? {
        Some(active) if active.model != *model => {
            tracing::warn!(active = %active.model, written = %model, "readers take another model's labels");
        }
        Some(_) => {}
        None => {
            if pipeline.store.set_active_model(model, None).await? == WriteOutcome::Written {
                tracing::info!(%model, "first model activated");
            }
        }
    }
    Ok(())
}

async fn start_sources(
    config: &WorkerConfig,
    sdk: &SdkConfig,
    health: &Health,
    brake: &Brake,
    shutdown: &Shutdown,
) -> Result<Vec<Share>, BoxError> {
    let client = sqs_client(sdk);
    let dead_letters = Arc::new(SqsQueue::new(client.clone(), &config.dead_letter_queue_url, config.lease));
    dead_letters.dead_letters().await?;
    let mut shares = Vec::with_capacity(config.queues.len());
    for QueueConfig { lane, url, weight } in &config.queues {
        let queue = SqsQueue::new(client.clone(), url, config.lease);
        if queue.dead_letters().await?.is_none() {
            tracing::warn!(queue = queue.name(), "no redrive policy: a message that kills workers comes back for ever");
        }
        let options = SourceOptions {
            lane: *lane,
            permits: (config.concurrency * PERMITS_PER_PLACE) as u32,
            wait: config.poll,
            brake: brake.clone(),
            ..SourceOptions::default()
        };
        let name = queue.name().to_owned();
        let source = Source::start(Arc::new(queue), dead_letters.clone(), options, shutdown.clone());
        // It just answered; the first long poll may be silent for its whole wait.
        source.pulse().beat();
        health.watch_queue(name, source.pulse());
        shares.push(Share { source, weight: *weight });
    }
    Ok(shares)
}

async fn probe(pipeline: Arc<Pipeline>, shutdown: Shutdown) {
    while !shutdown.has_begun() {
        if let Err(error) = pipeline.scorer.probe().await
            && error.is_fatal()
        {
            shutdown.fatal(format!("the probe failed: {error}"));
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}
