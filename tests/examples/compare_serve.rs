//! Several builds or settings of `serve` beside each other, in turn: capacity, latencies at shares of it
//! or at fixed rates, and where the CPU's time goes. `make compare-serve` runs it.
//!
//! A host's speed drifts, so only what ran in the same rounds compares.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a report, and progress")]

use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tests::load::{CLIENTS, Outcome, Target, closed_loop, open_loop};
use tests::queries::queries;
use tests::report::{cpu_s, cpu_s_of, cpu_s_of_threads, machine};
use tests::server::Server;
use tokio::process::Command;

/// How replicas' threads are named.
const REPLICAS: &str = "replica";

#[derive(Parser)]
struct Args {
    /// NAME=COMMAND, once for each: a `serve` with its options but `--address`, such as
    /// `two=target/release/catalog-labels serve --artifact A --http-threads 2`; `env A=B ...` may go before.
    #[arg(long = "serve", required = true, value_parser = named)]
    serves: Vec<(String, Vec<String>)>,
    /// A load as a share of the capacity just measured; any number of them.
    #[arg(long = "share")]
    shares: Vec<f64>,
    /// A load in queries a second; any number of them.
    #[arg(long = "rate")]
    rates: Vec<f64>,
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// How long each load lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

fn named(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("write NAME=COMMAND")?;
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { Err("has no command".to_owned()) } else { Ok((name.to_owned(), words)) }
}

/// What one load found.
struct Measured {
    outcome: Outcome,
    /// Microseconds of CPU a query: replicas, the server's other threads, this process.
    cpu_us: [f64; 3],
    /// Of all cores, the share that these were busy.
    busy: f64,
}

/// Runs a load, which blocks, in a thread of its own.
async fn measured(server: &Server, load: impl FnOnce() -> std::io::Result<Outcome> + Send + 'static) -> Measured {
    let process = server.process();
    let spent = || [cpu_s_of_threads(process, REPLICAS), cpu_s_of(&process.to_string()), cpu_s()];
    let before = spent();
    let outcome = tokio::task::spawn_blocking(load).await.expect("no load panics").expect("the server answers");
    let after = spent();
    let [replicas, all, own] = std::array::from_fn(|of| after[of] - before[of]);
    let answers = outcome.latencies().len() as f64;
    let cpu_us = [replicas, all - replicas, own].map(|s| s * 1e6 / answers);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy = (all + own) / (answers / outcome.rate()) / cores;
    Measured { outcome, cpu_us, busy }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let (queries, queried) = queries();
    let bodies: Vec<String> = queries.into_iter().map(|query| json!({"query": query}).to_string()).collect();
    let lasts = Duration::from_secs(args.seconds);
    let mut loads = vec!["capacity".to_owned()];
    loads.extend(args.shares.iter().map(|share| format!("{:.0}% of it", share * 100.0)));
    loads.extend(args.rates.iter().map(|rate| format!("{rate:.0} a second")));
    let mut found: Vec<Vec<Vec<Measured>>> =
        args.serves.iter().map(|_| loads.iter().map(|_| Vec::new()).collect()).collect();
    for round in 0..args.rounds {
        for ((name, words), of_serve) in args.serves.iter().zip(&mut found) {
            // Alone, since another one's probes and caches would be in its way.
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            let server = Server::run(command).await;
            let target = Target::new(server.address.clone(), "/v1/intent", &bodies);
            let closed = |lasts: Duration| {
                let target = target.clone();
                move || closed_loop(&target, CLIENTS, lasts)
            };
            measured(&server, closed(lasts / 3)).await;
            of_serve[0].push(measured(&server, closed(lasts)).await);
            let capacity = of_serve[0].last().map_or(f64::NAN, |saturated| saturated.outcome.rate());
            let rates = args.shares.iter().map(|share| share * capacity).chain(args.rates.iter().copied());
            for (load, rate) in rates.enumerate() {
                let open = |lasts: Duration, seed: u64| {
                    let target = target.clone();
                    move || open_loop(&target, rate, lasts, seed)
                };
                // Some hosts take back what a load that saturates both cores had too much, from whatever comes next.
                let seed = round * 100 + load as u64;
                measured(&server, open(lasts / 3, seed + 50)).await;
                of_serve[load + 1].push(measured(&server, open(lasts, seed)).await);
            }
            eprintln!("round {round}: {name}: {capacity:.0} queries/s");
        }
    }
    println!("{}; {queried}; {} rounds of {} s, medians (lowest to highest)\n", machine(), args.rounds, args.seconds);
    println!(
        "| serve | load | queries/s | p50 ms | p99 ms | refused | us of CPU a query: replicas | other threads | generator | cores busy |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for ((name, _), of_serve) in args.serves.iter().zip(&found) {
        for (load, rounds) in loads.iter().zip(of_serve) {
            println!("| {name} | {load} | {} |", row(rounds));
        }
    }
}

fn row(rounds: &[Measured]) -> String {
    let of = |value: &dyn Fn(&Measured) -> f64, digits| spread(rounds.iter().map(value).collect(), digits);
    [
        of(&|found| found.outcome.rate(), 0),
        of(&|found| found.outcome.quantile_ms(0.5), 2),
        of(&|found| found.outcome.quantile_ms(0.99), 1),
        rounds.iter().map(|found| found.outcome.refused).sum::<u64>().to_string(),
        of(&|found| found.cpu_us[0], 0),
        of(&|found| found.cpu_us[1], 0),
        of(&|found| found.cpu_us[2], 0),
        of(&|found| found.busy * 100.0, 0) + "%",
    ]
    .join(" | ")
}

/// Median, lowest and highest.
fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    format!("{:.digits$} ({low:.digits$} to {high:.digits$})", values[values.len() / 2])
}
