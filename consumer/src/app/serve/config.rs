//! The options of `serve`, checked at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::request::DEADLINE_MAX_MS;
use crate::app::config::{ConfigError, ModelArgs, TableArgs, check_replicas, cores, parse_address};

#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub tables: TableArgs,
    /// Score every query; by default a live label of the table is taken first
    #[arg(long, env = "CATALOG_LABELS_WITHOUT_TABLES")]
    pub without_tables: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Copies of the model for queries, one thread each; 0 means one for each core. The
    /// other replicas score pairs, and leave the CPU to these
    #[arg(long, default_value_t = 0, env = "CATALOG_LABELS_ONLINE_REPLICAS")]
    pub online_replicas: usize,
    /// Threads that read and answer requests; 0 means one for every two cores, so that they leave
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
        let deadline_max = Duration::from_millis(DEADLINE_MAX_MS);
        if !(Duration::from_millis(1)..=deadline_max).contains(&self.deadline) {
            problems.push(format!("--deadline: {:?} is not between 1ms and {deadline_max:?}", self.deadline));
        }
        match parse_address("address", &self.address, &mut problems) {
            Some(address) if problems.is_empty() => Ok(ServeConfig {
                tables: (!self.without_tables).then_some(self.tables),
                model: self.model,
                online_replicas: self.online_replicas,
                http_threads: if self.http_threads > 0 { self.http_threads } else { cores().div_ceil(2) },
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

    const ARTIFACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/artifacts/minilm-l6-v5");

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn threads_are_half_as_many_as_cores_where_none_are_given() {
        let threads = |argument| {
            let arguments = ["serve", "--without-tables", "--artifact", ARTIFACT, argument];
            let args = Cli::try_parse_from(arguments).expect("the arguments parse").args;
            args.resolve().expect("the configuration is good").http_threads
        };
        assert_eq!(threads("--http-threads=0"), cores().div_ceil(2));
        assert_eq!(threads("--http-threads=3"), 3);
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
