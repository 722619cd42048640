//! Configuration: arguments with environment fall-backs, resolved and checked once, with
//! every problem listed at once.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use models::{Kernel, Lanes, LoadError, Numeric, Scorer, ScorerOptions};
use shared::table::PREFIX_DEFAULT;

use crate::lane::Lane;

/// SQS extends a message's visibility to 12 hours at most.
const LEASE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
const LEASE_MIN: Duration = Duration::from_secs(5);
/// SQS's longest poll.
const POLL_MAX: Duration = Duration::from_secs(20);
/// A stop waits for the poll under way, and then has to finish what it brought.
const POLL_MARGIN: Duration = Duration::from_secs(1);
const CONCURRENCY_MAX: usize = 4096;
const REPLICAS_MAX: usize = 256;
const WEIGHTS: RangeInclusive<u32> = 1..=100;

/// Where the tables are. Global, for commands that have sub-commands.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Tables in a folder of this machine (an engine inside the process), instead of AWS
    #[arg(long, global = true, value_name = "DIR", env = "CATALOG_LABELS_LOCAL", conflicts_with = "endpoint_url")]
    pub local: Option<PathBuf>,
    /// Engine other than AWS, such as http://127.0.0.1:4566
    #[arg(long, global = true, value_name = "URL", env = "CATALOG_LABELS_ENDPOINT_URL")]
    pub endpoint_url: Option<String>,
    /// AWS region; the SDK's own sources are asked where it is left out
    #[arg(long, global = true, env = "CATALOG_LABELS_REGION")]
    pub region: Option<String>,
    /// Precedes every table name
    #[arg(long, global = true, default_value = PREFIX_DEFAULT, env = "CATALOG_LABELS_TABLE_PREFIX")]
    pub table_prefix: String,
}

impl TableArgs {
    /// Adds to `problems` what can be seen to be wrong without asking anybody.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
        if let Some(url) = &self.endpoint_url {
            check_url("endpoint-url", url, problems);
        }
    }
}

/// The model and how many copies of it run.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Folder with manifest.json and the files it names
    #[arg(long, value_name = "DIR", default_value = "models/artifacts/minilm-l6-v6", env = "CATALOG_LABELS_ARTIFACT")]
    pub artifact: PathBuf,
    /// Copies of the model, one thread each; 0 means one for each core
    #[arg(long, default_value_t = 0, env = "CATALOG_LABELS_REPLICAS")]
    pub replicas: usize,
    /// Type in which the linear layers multiply: auto, fp32, bf16 or int8
    #[arg(long, default_value_t = Numeric::Auto, value_name = "PATH", env = "CATALOG_LABELS_NUMERIC")]
    pub numeric: Numeric,
    /// What multiplies: auto, amx, avx512, avx2 or libtorch; auto takes the fastest of this CPU
    #[arg(long, default_value_t = Kernel::Auto, env = "CATALOG_LABELS_KERNEL")]
    pub kernel: Kernel,
}

impl ModelArgs {
    /// Adds to `problems` what can be seen to be wrong without loading it.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
        check_replicas("replicas", self.replicas, problems);
        check_artifact("artifact", &self.artifact, problems);
    }

    /// Loads and verifies the model; blocks for seconds.
    pub fn start(&self) -> Result<Scorer, LoadError> {
        Scorer::start(&self.artifact, self.options())
    }

    /// As [`ModelArgs::start`], with an online lane beside the bulk one that the options
    /// speak of.
    pub fn start_lanes(&self, online_replicas: usize) -> Result<Lanes, LoadError> {
        Scorer::start_lanes(&self.artifact, online_replicas, self.options())
    }

    fn options(&self) -> ScorerOptions {
        ScorerOptions { replicas: given_or(self.replicas, cores()), numeric: self.numeric, kernel: self.kernel }
    }
}

/// A number of threads, where 0 leaves it to us.
pub(super) fn given_or(given: usize, ours: usize) -> usize {
    if given > 0 { given } else { ours }
}

/// That this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Adds to `problems` what is wrong with the URL that `--flag` names.
pub(super) fn check_url(flag: &str, url: &str, problems: &mut Vec<String>) {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        problems.push(format!("--{flag}: {url:?} is not a URL: it must start with http:// or https://"));
    }
}

pub(super) fn check_replicas(flag: &str, replicas: usize, problems: &mut Vec<String>) {
    if replicas > REPLICAS_MAX {
        problems.push(format!("--{flag}: {replicas} is more than {REPLICAS_MAX}"));
    }
}

/// Adds to `problems` what is wrong with an address to listen on, or gives it.
pub(super) fn parse_address(flag: &str, address: &str, problems: &mut Vec<String>) -> Option<SocketAddr> {
    let parsed = address.parse();
    if let Err(error) = &parsed {
        problems.push(format!("--{flag}: {address:?}: {error}; an example is 0.0.0.0:8080"));
    }
    parsed.ok()
}

fn check_artifact(flag: &str, folder: &Path, problems: &mut Vec<String>) {
    if !folder.join("manifest.json").is_file() {
        let variable = flag.replace('-', "_").to_uppercase();
        let folder = folder.display();
        problems.push(format!("--{flag}: {folder} holds no manifest.json (CATALOG_LABELS_{variable})"));
    }
}

#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub tables: TableArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder of another model whose slot is labelled too, during its roll-out
    #[arg(long, value_name = "DIR", env = "CATALOG_LABELS_NEXT_ARTIFACT")]
    pub next_artifact: Option<PathBuf>,
    /// Queue of catalog events; query events are welcome on it too
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_CATALOG_QUEUE_URL")]
    pub catalog_queue_url: Option<String>,
    /// Queue of query events, where they have one of their own
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_QUERY_QUEUE_URL")]
    pub query_queue_url: Option<String>,
    /// Queue of events that nobody waits for: back-fills, replays, periodic runs
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_BULK_QUEUE_URL")]
    pub bulk_queue_url: Option<String>,
    /// Turns of the catalog queue while others have messages too
    #[arg(long, default_value_t = 4, env = "CATALOG_LABELS_CATALOG_WEIGHT")]
    pub catalog_weight: u32,
    /// Turns of the query queue while others have messages too
    #[arg(long, default_value_t = 4, env = "CATALOG_LABELS_QUERY_WEIGHT")]
    pub query_weight: u32,
    /// Turns of the bulk queue while others have messages too
    #[arg(long, default_value_t = 1, env = "CATALOG_LABELS_BULK_WEIGHT")]
    pub bulk_weight: u32,
    /// Where messages are parked that can never be labelled
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_DEAD_LETTER_QUEUE_URL")]
    pub dead_letter_queue_url: Option<String>,
    /// Bucket whose objects messages may point to; give it once for each bucket
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "CATALOG_LABELS_OBJECT_BUCKET")]
    pub object_bucket: Vec<String>,
    /// Create missing tables at start; on AWS the stack does
    #[arg(long, env = "CATALOG_LABELS_CREATE_TABLES")]
    pub create_tables: bool,
    /// Events in work at once, all queues together
    #[arg(long, default_value_t = 64, env = "CATALOG_LABELS_CONCURRENCY")]
    pub concurrency: usize,
    /// How long a received message stays ours without a heartbeat
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_LEASE")]
    pub lease: Duration,
    /// How long a receive waits for messages; also the longest that a stop waits for one
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_POLL")]
    pub poll: Duration,
    /// How long a stop may take before what is left is released
    #[arg(long, default_value = "25s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_DRAIN")]
    pub drain: Duration,
    /// Instance metadata at another address; without it, EC2's own is asked for drain notices
    #[arg(long, value_name = "URL", env = "CATALOG_LABELS_INSTANCE_METADATA_URL")]
    pub instance_metadata_url: Option<String>,
    /// Auto Scaling lifecycle hook to complete after the drain, where this is the machine's only worker
    #[arg(long, value_name = "NAME", env = "CATALOG_LABELS_LIFECYCLE_HOOK")]
    pub lifecycle_hook: Option<String>,
    /// How long the intent of a query stays good
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_INTENT_TTL")]
    pub intent_ttl: Duration,
    /// How long a deleted product is remembered: the longest of queue and dead-letter
    /// retention and the replay window
    #[arg(long, default_value = "28d", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_TOMBSTONE_TTL")]
    pub tombstone_ttl: Duration,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, default_value = "127.0.0.1:9090", env = "CATALOG_LABELS_HEALTH_ADDRESS")]
    pub health_address: String,
}

/// A worker's configuration after every check.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub tables: TableArgs,
    pub model: ModelArgs,
    pub next_model: Option<ModelArgs>,
    /// At least one.
    pub queues: Vec<QueueConfig>,
    pub dead_letter_queue_url: String,
    pub object_buckets: Vec<String>,
    pub create_tables: bool,
    pub concurrency: usize,
    pub lease: Duration,
    pub poll: Duration,
    pub drain: Duration,
    pub instance_metadata_url: Option<String>,
    pub lifecycle_hook: Option<String>,
    pub intent_ttl: Duration,
    pub tombstone_ttl: Duration,
    pub health_address: SocketAddr,
}

/// One queue and its share of the process.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub lane: Lane,
    pub url: String,
    pub weight: u32,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem{}:{}", problems.len(), if problems.len() == 1 { "" } else { "s" }, list(problems))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}

impl WorkerArgs {
    fn queues(&self) -> Vec<QueueConfig> {
        let named = [
            (Lane::Catalog, &self.catalog_queue_url, self.catalog_weight),
            (Lane::Queries, &self.query_queue_url, self.query_weight),
            (Lane::Bulk, &self.bulk_queue_url, self.bulk_weight),
        ];
        let queue = |(lane, url, weight): (Lane, &Option<String>, u32)| {
            url.clone().map(|url| QueueConfig { lane, url, weight })
        };
        named.into_iter().filter_map(queue).collect()
    }

    pub fn resolve(self) -> Result<WorkerConfig, ConfigError> {
        let mut problems = Vec::new();
        let queues = self.queues();
        if queues.is_empty() {
            problems.push(
                "--catalog-queue-url: name at least this, --query-queue-url or --bulk-queue-url \
                 (CATALOG_LABELS_CATALOG_QUEUE_URL, CATALOG_LABELS_QUERY_QUEUE_URL, CATALOG_LABELS_BULK_QUEUE_URL)"
                    .to_owned(),
            );
        }
        for QueueConfig { lane, url, weight } in &queues {
            let flag = if *lane == Lane::Queries { "query" } else { lane.as_str() };
            check_url(&format!("{flag}-queue-url"), url, &mut problems);
            if !WEIGHTS.contains(weight) {
                problems.push(format!("--{flag}-weight: {weight} is not in {}..={}", WEIGHTS.start(), WEIGHTS.end()));
            }
        }
        for (index, QueueConfig { lane, url, .. }) in queues.iter().enumerate() {
            if queues[..index].iter().any(|before| before.url == *url) {
                problems.push(format!("the {lane} queue {url} is another lane's as well; give each lane its own"));
            }
        }
        self.tables.check(&mut problems);
        for (flag, url) in [
            ("dead-letter-queue-url", &self.dead_letter_queue_url),
            ("instance-metadata-url", &self.instance_metadata_url),
        ] {
            if let Some(url) = url {
                check_url(flag, url, &mut problems);
            }
        }
        if self.dead_letter_queue_url.is_none() {
            problems.push(
                "--dead-letter-queue-url: is missing; messages that can never be labelled are parked there \
                 (CATALOG_LABELS_DEAD_LETTER_QUEUE_URL)"
                    .to_owned(),
            );
        }
        let is_worked = |url: &String| queues.iter().any(|queue| queue.url == *url);
        if self.dead_letter_queue_url.as_ref().is_some_and(is_worked) {
            problems.push("--dead-letter-queue-url: is one of the worker's own queues; name another".to_owned());
        }
        if self.tables.local.is_some() {
            problems.push("--local: a worker reads SQS; use --endpoint-url for a local engine, or `demo`".to_owned());
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            problems.push(format!("--concurrency: {} is not in 1..={CONCURRENCY_MAX}", self.concurrency));
        }
        self.model.check(&mut problems);
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            problems.push(format!("--lease: {:?} is not between {LEASE_MIN:?} and {LEASE_MAX:?}", self.lease));
        }
        if self.poll > POLL_MAX || self.poll + POLL_MARGIN > self.drain {
            problems.push(format!(
                "--poll: {:?} is more than {POLL_MAX:?}, or leaves less than {POLL_MARGIN:?} of --drain {:?}",
                self.poll, self.drain
            ));
        }
        let health_address = parse_address("health-address", &self.health_address, &mut problems);
        if let Some(folder) = &self.next_artifact {
            check_artifact("next-artifact", folder, &mut problems);
        }
        let next_model = self.next_artifact.map(|artifact| ModelArgs { artifact, ..self.model.clone() });
        match (health_address, self.dead_letter_queue_url) {
            (Some(health_address), Some(dead_letter_queue_url)) if problems.is_empty() => Ok(WorkerConfig {
                tables: self.tables,
                model: self.model,
                next_model,
                queues,
                dead_letter_queue_url,
                object_buckets: self.object_bucket,
                create_tables: self.create_tables,
                concurrency: self.concurrency,
                lease: self.lease,
                poll: self.poll,
                drain: self.drain,
                instance_metadata_url: self.instance_metadata_url,
                lifecycle_hook: self.lifecycle_hook,
                intent_ttl: self.intent_ttl,
                tombstone_ttl: self.tombstone_ttl,
                health_address,
            }),
            _ => Err(ConfigError { problems }),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: WorkerArgs,
    }

    fn resolve(arguments: &[&str]) -> Result<WorkerConfig, ConfigError> {
        let with_name = std::iter::once("worker").chain(arguments.iter().copied());
        Cli::try_parse_from(with_name).expect("the arguments parse").args.resolve()
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let arguments = [
            "--concurrency=0",
            "--lease=1s",
            "--health-address=nowhere",
            "--artifact=/nonexistent",
            "--next-artifact=/nowhere",
        ];
        let error = resolve(&arguments).expect_err("the configuration is bad");
        for name in [
            "--catalog-queue-url",
            "--dead-letter-queue-url",
            "--concurrency",
            "--lease",
            "--health-address",
            "--artifact",
            "--next-artifact",
        ] {
            assert!(error.problems.iter().any(|problem| problem.contains(name)), "{name}: {error}");
        }
        assert!(error.to_string().starts_with("the configuration has 7 problems:"), "{error}");
    }

    #[test]
    fn a_queue_is_not_its_own_dead_letter_queue() {
        let arguments = ["--catalog-queue-url=http://q", "--dead-letter-queue-url=http://q"];
        let error = resolve(&arguments).expect_err("the configuration is bad");
        assert!(error.to_string().contains("one of the worker's own queues"), "{error}");
    }

    #[test]
    fn each_lane_has_a_queue_of_its_own_and_a_weight_in_range() {
        let arguments = ["--catalog-queue-url=http://q", "--bulk-queue-url=http://q", "--bulk-weight=0"];
        let error = resolve(&arguments).expect_err("the configuration is bad").to_string();
        assert!(error.contains("--bulk-weight: 0 is not in 1..=100"), "{error}");
        assert!(error.contains("the bulk queue http://q is another lane's as well"), "{error}");
    }

    #[test]
    fn a_good_configuration_resolves() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("manifest.json"), "{}").expect("written");
        let artifact = format!("--artifact={}", folder.path().display());
        let arguments = ["--catalog-queue-url=http://q", "--dead-letter-queue-url=http://d", "--replicas=3", &artifact];
        let config = resolve(&arguments).expect("the configuration is good");
        assert_eq!((config.queues.len(), config.model.replicas), (1, 3));
    }
}
