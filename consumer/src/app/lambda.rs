//! `lambda`: the same pipeline as a Lambda function behind an SQS event source, for
//! catalogs too small for a fleet.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use clap::Args as ClapArgs;
use lambda_runtime::{LambdaEvent, service_fn};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::CommandResult;
use super::config::{ConfigError, ModelArgs, TableArgs, check_url};
use super::telemetry;
use super::worker::{activate_first_model, open_buckets, pipeline};
use crate::aws::{AwsOptions, SqsQueue, dynamo, sdk_config, sqs_client};
use crate::flow::{EpochFeed, Invocation, Pipeline};
use crate::source::lambda::{queue_name, to_message};
use crate::source::{DeadLetters, Queue};
use crate::store::Store;

/// What the runtime library needs of its environment, and panics without.
const RUNTIME_VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];
/// Lambda's longest time limit.
const MARGIN_MAX: Duration = Duration::from_secs(15 * 60);
/// Nothing is received here, so nothing is leased.
const NO_LEASE: Duration = Duration::ZERO;

#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub tables: TableArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Where messages are parked that can never be labelled; without it they are reported
    /// as failed, and the queue's redrive policy moves them
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_DEAD_LETTER_QUEUE_URL")]
    pub dead_letter_queue_url: Option<String>,
    /// Bucket whose objects messages may point to; give it once for each bucket
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "CATALOG_LABELS_OBJECT_BUCKET")]
    pub object_bucket: Vec<String>,
    /// How long before the function's time limit the rest of a batch is reported as failed
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_DEADLINE_MARGIN")]
    pub deadline_margin: Duration,
    /// How long the intent of a query stays good
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_INTENT_TTL")]
    pub intent_ttl: Duration,
    /// How long a deleted product is remembered
    #[arg(long, default_value = "28d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_TOMBSTONE_TTL")]
    pub tombstone_ttl: Duration,
}

impl Args {
    /// Everything that is wrong with the options, at once.
    pub(super) fn verify(&self) -> Result<(), ConfigError> {
        self.verify_where(|_name| true)
    }

    /// As [`Args::verify`], and what is missing of Lambda's own variables.
    fn verify_where(&self, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        if let Some(url) = &self.dead_letter_queue_url {
            check_url("dead-letter-queue-url", url, &mut problems);
        }
        self.tables.check(&mut problems);
        if self.tables.local.is_some() {
            problems
                .push("--local: a function's disk is gone with it; use --endpoint-url for a local engine".to_owned());
        }
        if self.deadline_margin > MARGIN_MAX {
            problems.push(format!("--deadline-margin: {:?} is more than {MARGIN_MAX:?}", self.deadline_margin));
        }
        self.model.check(&mut problems);
        for name in RUNTIME_VARIABLES.into_iter().filter(|name| !is_set(name)) {
            problems.push(format!("{name}: is not set; Lambda sets it, so this command is for Lambda to start"));
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

pub fn run(args: Args) -> CommandResult {
    telemetry::init_logs()?;
    args.verify_where(|name| std::env::var_os(name).is_some())?;
    tokio::runtime::Runtime::new()?.block_on(serve(args))
}

/// Asks for the first event only when the model is loaded: Lambda then counts the loading to
/// the start, not to an invocation's time limit.
async fn serve(args: Args) -> CommandResult {
    let function = Arc::new(Function::start(args).await?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| {
        let function = function.clone();
        async move { function.invoke(event).await }
    }))
    .await?;
    Ok(ExitCode::SUCCESS)
}

struct Function {
    pipeline: Pipeline,
    /// Renewed with an invocation: between two, a function may be frozen for hours.
    epochs: Mutex<EpochFeed>,
    dead_letter_queue: Option<Arc<dyn Queue>>,
    deadline_margin: Duration,
}

impl Function {
    async fn start(args: Args) -> Result<Self, super::worker::BoxError> {
        let options = AwsOptions { region: args.tables.region.clone(), endpoint_url: args.tables.endpoint_url.clone() };
        // The model loads on other threads meanwhile: most of a cold start.
        let model = args.model.clone();
        let scorer = tokio::task::spawn_blocking(move || model.start());
        let sdk = sdk_config(&options).await;
        let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), &args.tables.table_prefix);
        store.verify_tables().await?;
        let objects = open_buckets(&sdk, &args.object_bucket).await?;
        let dead_letter_queue = args.dead_letter_queue_url.map(|url| {
            let queue: Arc<dyn Queue> = Arc::new(SqsQueue::new(sqs_client(&sdk), url, NO_LEASE));
            queue
        });
        let scorer = scorer.await??;
        let (feed, epochs) = EpochFeed::start(store.clone()).await?;
        let pipeline = pipeline(store, Box::new(scorer), epochs, args.intent_ttl, args.tombstone_ttl);
        let pipeline = Pipeline { objects, ..pipeline };
        activate_first_model(&pipeline).await?;
        Ok(Self { pipeline, epochs: Mutex::new(feed), dead_letter_queue, deadline_margin: args.deadline_margin })
    }

    /// An error fails the whole batch, and Lambda slows down.
    async fn invoke(&self, event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, lambda_runtime::Error> {
        self.epochs.lock().await.renew().await?;
        let queue = event.payload.records.first().map(queue_name).unwrap_or_default();
        let dead_letters = self.dead_letter_queue.clone().map(|dead_letter_queue| DeadLetters {
            queue: dead_letter_queue,
            origin: queue.as_str().into(),
            build: env!("CARGO_PKG_VERSION").into(),
        });
        let invocation = Invocation {
            is_fifo: queue.ends_with(".fifo"),
            messages: event.payload.records.into_iter().map(to_message).collect(),
            queue,
            dead_letters,
            deadline: deadline(event.context.deadline, self.deadline_margin),
        };
        let mut response = SqsBatchResponse::default();
        for id in self.pipeline.invoke(&invocation).await? {
            response.add_failure(id);
        }
        Ok(response)
    }
}

/// `deadline_ms` is in milliseconds since 1970, by the same machine's clock.
fn deadline(deadline_ms: u64, margin: Duration) -> Instant {
    let at = UNIX_EPOCH + Duration::from_millis(deadline_ms);
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.saturating_sub(margin)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let arguments = ["lambda", "--dead-letter-queue-url=dead", "--deadline-margin=1h", "--artifact=/nonexistent"];
        let args = Cli::try_parse_from(arguments).expect("the arguments parse").args;
        let error = args.verify_where(|name| name == "AWS_LAMBDA_FUNCTION_NAME").expect_err("the configuration is bad");
        let given = error.problems.join("\n");
        for name in ["\"dead\" is not a URL", "--deadline-margin", "--artifact", "AWS_LAMBDA_RUNTIME_API"] {
            assert!(given.contains(name), "{name}: {error}");
        }
        assert!(!given.contains("AWS_LAMBDA_FUNCTION_NAME"), "{error}");
    }

    #[test]
    fn the_deadline_leaves_its_margin() {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as u64;
        let left =
            |deadline_ms| deadline(deadline_ms, Duration::from_secs(2)).saturating_duration_since(Instant::now());
        assert!(left(now_ms + 3_600_000) <= Duration::from_secs(3_598));
        assert_eq!(left(now_ms + 1_000), Duration::ZERO);
        assert_eq!(left(0), Duration::ZERO);
    }
}
