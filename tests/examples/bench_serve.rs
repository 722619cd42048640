//! Latency against load of `serve`, beside the same network behind onnxruntime and FastAPI.
//! `make bench-serve` runs it and writes its section of docs/BENCHMARKS.md.

#![expect(clippy::print_stderr, reason = "progress")]

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use models::{Kernel, Numeric, Scorer, ScorerOptions};
use serde_json::json;
use tests::artifacts::network_alone;
use tests::load::{CLIENTS, CONNECTIONS, Outcome, STEP, Target, closed_loop, open_loop};
use tests::page::sum;
use tests::queries::queries;
use tests::report::{machine, write_section};
use tests::server::Server;
use tests::worker::{artifact, repository};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Loads, as shares of what each server answers when it is saturated.
const SHARES: [f64; 6] = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9];
/// Each share is run so often, the servers in turn.
const ROUNDS: u64 = 3;

struct System {
    name: &'static str,
    target: Target,
    capacities: Vec<f64>,
    at_shares: Vec<Vec<Outcome>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let lasts = Duration::from_secs(seconds);
    let (queries, named) = queries();
    let bodies: Vec<String> = queries.into_iter().map(|query| json!({"query": query}).to_string()).collect();
    let options = ["--without-tables", "--replicas", "1", "--deadline", "60s"];
    let network = network_alone();
    let int8 = [&options[..], &["--numeric", "int8"]].concat();
    let mut ours = vec![
        ("catalog-labels serve", Server::start(&options).await),
        ("catalog-labels serve, network alone", Server::start_with(network.path(), &options).await),
    ];
    if has_int8() {
        ours.push(("catalog-labels serve --numeric int8", Server::start(&int8).await));
        let alone = Server::start_with(network.path(), &int8).await;
        ours.push(("catalog-labels serve --numeric int8, network alone", alone));
    }
    let (_fp32, fp32) = peer("fp32").await;
    let (_int8, int8) = peer("int8").await;
    let system = |name, address: String| {
        let target = Target::new(address, "/v1/intent", &bodies);
        System { name, target, capacities: Vec::new(), at_shares: vec![Vec::new(); SHARES.len()] }
    };
    let mut systems: Vec<System> = ours.iter().map(|(name, server)| system(name, server.address.clone())).collect();
    systems.push(system("onnxruntime fp32 + FastAPI", fp32));
    systems.push(system("onnxruntime int8 + FastAPI", int8));
    for system in &mut systems {
        saturated(system, lasts / 2).await;
    }
    for round in 0..ROUNDS {
        for system in &mut systems {
            let capacity = saturated(system, lasts).await.rate();
            eprintln!("round {round}: {}: {capacity:.0} queries/s saturated", system.name);
            system.capacities.push(capacity);
            // At once, for a shared machine may have another capacity in a minute.
            for (i, share) in SHARES.into_iter().enumerate() {
                let (target, rate, seed) = (system.target.clone(), share * capacity, round * 100 + i as u64);
                let outcome = loaded(move || open_loop(&target, rate, lasts, seed)).await;
                eprintln!("round {round}: {}: p99 {:.2} ms at {share}", system.name, outcome.quantile_ms(0.99));
                system.at_shares[i].push(outcome);
            }
        }
    }
    let [settled, early] =
        [share(&ours[0].1, "queries_settled_total").await, share(&ours[0].1, "queries_left_early_total").await];
    write_section("serve", &report(&systems, &named, lasts, settled, early));
}

/// What the clients in a closed loop see.
async fn saturated(system: &System, lasts: Duration) -> Outcome {
    let target = system.target.clone();
    loaded(move || closed_loop(&target, CLIENTS, lasts)).await
}

/// Runs a load, which blocks, in a thread of its own.
async fn loaded(load: impl FnOnce() -> io::Result<Outcome> + Send + 'static) -> Outcome {
    tokio::task::spawn_blocking(load).await.expect("no load panics").expect("the server answers")
}

/// The share of the queries that the server scored which `counter` counts.
async fn share(server: &Server, counter: &str) -> f64 {
    let page = server.metrics().await;
    sum(&page, counter) / sum(&page, "queries_scored_total")
}

/// Whether this CPU has the instructions for it.
fn has_int8() -> bool {
    let options = ScorerOptions { replicas: 1, numeric: Numeric::Int8, kernel: Kernel::Auto };
    Scorer::start(&artifact(), options).is_ok()
}

/// Starts the peer with one of the exported models; killed when dropped.
async fn peer(path: &str) -> (Child, String) {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = free.local_addr().expect("a bound socket has an address");
    drop(free);
    let python: PathBuf = repository().join(".venv-bench/bin/python");
    let child = Command::new(&python)
        .arg(repository().join("models/bench/peer_server.py"))
        .args(["--path", path, "--port", &address.port().to_string(), "--models"])
        .arg(repository().join(".local/bench-models"))
        // A user sets neither; onnxruntime has its own threads.
        .env_remove("OMP_NUM_THREADS")
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}; run make bench-serve", python.display()));
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (child, address.to_string())
}

fn report(systems: &[System], named: &str, lasts: Duration, settled: f64, early: f64) -> String {
    let mut text = format!(
        "## Online intent\n\n{}. `make bench-serve`: one query a request over HTTP on the loopback, {} {named} \
         in turn, {:.0}% of which the first stage settles and {:.0}% leave the network early (*network alone*: \
         without either, as the peers); the load generator shares the machine. *Capacity* is the rate of {CLIENTS} clients in a closed loop, measured anew in \
         each round just before the loads that are shares of it. Latencies are of Poisson arrivals in an open loop over {CONNECTIONS} connections, each from when the request was due, so a \
         stall counts for every request that it held up; requests are sent, and answers read, at steps of {} us, which each latency holds up to twice. \
         {ROUNDS} rounds of {} s each, the servers in turn; a figure \
         is over all rounds, its spread from the lowest to the highest round; *of a second* is the median over single seconds, which leaves out \
         those in which the host takes a core away, where they are fewer than half.\n\n",
        machine(),
        systems[0].target.requests(),
        settled * 100.0,
        early * 100.0,
        STEP.as_micros(),
        lasts.as_secs(),
    );
    text += "| server | capacity, queries/s | spread |\n|---|---|---|\n";
    for System { name, capacities, .. } in systems {
        let (mean, low, high) = spread(capacities);
        let _ = writeln!(text, "| {name} | {mean:.0} | {low:.0} to {high:.0} |");
    }
    text += "\n| server | load | queries/s | p50 ms | p90 ms | p99 ms | spread of p99 | p99 of a second | p99.9 ms | refused |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|\n";
    for System { name, at_shares, .. } in systems {
        for (share, rounds) in SHARES.iter().zip(at_shares) {
            let Some((first, others)) = rounds.split_first() else { continue };
            let mut all = first.clone();
            others.iter().for_each(|round| all.add(round));
            let (_, low, high) = spread(&rounds.iter().map(|round| round.quantile_ms(0.99)).collect::<Vec<_>>());
            let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|quantile| all.quantile_ms(quantile));
            let second = all.median_second_ms(0.99);
            let _ = writeln!(
                text,
                "| {name} | {:.0}% | {:.0} | {p50:.2} | {p90:.2} | **{p99:.2}** | {low:.2} to {high:.2} | {second:.2} | {p999:.2} | {} |",
                share * 100.0,
                all.rate(),
                all.refused,
            );
        }
    }
    text
}

/// Mean, lowest, highest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (mean, low, values.iter().copied().fold(0.0, f64::max))
}
