//! One benchmark set as a catalog: both of its tables through SQS, the real worker and
//! DynamoDB (each of a local engine), then the stored labels on its labelled pairs.
//! `make real-input` runs it.

#![expect(clippy::print_stdout, reason = "a report")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tests::page::sum;
use tests::stage::Stage;
use tests::worker::binary;

#[tokio::main]
async fn main() {
    let set = std::env::args().nth(1).expect("give the folder of a set: tableA.csv, tableB.csv, valid.csv");
    let set = Path::new(&set);
    let stage = Stage::start(&[]).await;
    let started = Instant::now();
    stage.send_set(set);
    stage.drained().await;
    let seconds = started.elapsed().as_secs_f64();

    let page = stage.worker().metrics().await;
    let [events, pairs] = ["events_total", "pairs_scored_total"].map(|name| sum(&page, name));
    println!("{events} events, {pairs} pairs scored, {seconds:.1} s, {:.1} pairs/s", pairs / seconds);
    println!("peak memory of the worker: {} MiB", stage.worker().peak_memory_kib() / 1024);
    let judged = Command::new(binary())
        .args(["evaluate", "stored", "--region", "us-east-1", "--endpoint-url", &stage.target.endpoint_url])
        .args(["--table-prefix", &stage.target.table_prefix, "--set"])
        .arg(set)
        .status()
        .expect("it starts");
    assert!(judged.success(), "the labels could not be judged: {judged}");
    assert!(stage.stop().await.success(), "the worker failed");
}
