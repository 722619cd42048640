//! The options of `serve`, checked at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::request::DEADLINE_MAX_MS;
use crate::app::config::{ConfigError, ModelArgs, TableArgs, check_replicas, cores, given_or, parse_address};

/// A query costs an HTTP thread 17 us of CPU, and the copies of the model 24 to 105 (ADR 36).
const HTTP_THREAD_CORES: usize = 4;

#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub tables: TableArgs,
    /// Score every query; by default a live label of the table is taken first
    #[arg(long, env = "CATALOG_LABELS_WITHOUT_TABLES")]
    pub without_tables: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Copies of the model for queries, one thread each; 0 means one for each core that the HTTP
    /// threads leave. The other replicas score pairs, and leave the CPU to these
    #[arg(long, default_value_t = 0, env = "CATALOG_LABELS_ONLINE_REPLICAS")]
    pub online_replicas: usize,
    /// Threads that read and answer requests; 0 means one for every four cores, so that they leave
    /// the others to the copies of the model
    #[arg(long, default_value_t = 0, env = "CATALOG_LABELS_HTTP_THREADS")]
    pub http_threads: usize,
    /// Address of the API, /healthz, /readyz and /metrics
    #[arg(long, default_value = "127.0.0.1:8080", env = "CATALOG_LABELS_ADDRESS")]
    pub address: String,
    /// How long a request may take that names no time of its own
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_DEADLINE")]
    pub deadline: Duration,
    /// How long a stop waits for requests in work
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, env = "CATALOG_LABELS_DRAIN")]
    pub drain: Duration,
}

/// The options after every check.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// None: every query is scored.
    pub tables: Option<TableArgs>,
    pub model: ModelArgs,
    /// At least 1.
    pub online_replicas: usize,
    /// At least 1.
    pub http_threads: usize,
    pub address: SocketAddr,
    pub deadline: Duration,
    pub drain: Duration,
}

impl ServeArgs {
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let mut problems = Vec::new();
        self.tables.check(&mut problems);
        self.model.check(&mut problems);
        check_replicas("online-replicas", self.online_replicas, &mut problems);
        check_replicas("http-threads", self.http_threads, &mut problems);
        let http_threads = given_or(self.http_threads, cores().div_ceil(HTTP_THREAD_CORES));
        let deadline_max = Duration::from_millis(DEADLINE_MAX_MS);
        if !(Duration::from_millis(1)..=deadline_max).contains(&self.deadline) {
            problems.push(format!("--deadline: {:?} is not between 1ms and {deadline_max:?}", self.deadline));
        }
        match parse_address("address", &self.address, &mut problems) {
            Some(address) if problems.is_empty() => Ok(ServeConfig {
                tables: (!self.without_tables).then_some(self.tables),
                model: self.model,
                online_replicas: given_or(self.online_replicas, cores().saturating_sub(http_threads).max(1)),
                http_threads,
                address,
                deadline: self.deadline,
                drain: self.drain,
            }),
            _ => Err(ConfigError { problems }),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/artifacts/minilm-l6-v6");

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn http_and_copies_share_the_cores_where_nothing_else_is_given() {
        let threads = |arguments: &[&str]| {
            let arguments = [&["serve", "--without-tables", "--artifact", ARTIFACT], arguments].concat();
            let args = Cli::try_parse_from(arguments).expect("the arguments parse").args;
            let config = args.resolve().expect("the configuration is good");
            (config.http_threads, config.online_replicas)
        };
        let http_threads = cores().div_ceil(4);
        assert_eq!(threads(&[]), (http_threads, (cores() - http_threads).max(1)));
        // As many HTTP threads as cores, or more, leave one copy.
        assert_eq!(threads(&["--http-threads=200"]), (200, 1));
        assert_eq!(threads(&["--http-threads=3", "--online-replicas=5"]), (3, 5));
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let arguments = [
            "serve",
            "--address=nowhere",
            "--deadline=2m",
            "--online-replicas=1000",
            "--http-threads=1000",
            "--endpoint-url=ftp://x",
            "--artifact=/nonexistent",
        ];
        let args = Cli::try_parse_from(arguments).expect("the arguments parse").args;
        let error = args.resolve().expect_err("the configuration is bad");
        for argument in &arguments[1..] {
            let flag = argument.split('=').next().expect("a flag");
            assert!(error.problems.iter().any(|problem| problem.starts_with(flag)), "{flag}: {error}");
        }
        assert_eq!(error.problems.len(), 6);
    }
}
