//! One benchmark set as a catalog: both of its tables through SQS, the real worker and
//! DynamoDB (each of a local engine), then the stored labels on its labelled pairs.
//! `make real-input` runs it.

#![expect(clippy::print_stdout, reason = "a report")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tests::stage::Stage;
use tests::worker::binary;

#[tokio::main]
async fn main() {
    let set = std::env::args().nth(1).expect("give the folder of a set: tableA.csv, tableB.csv, valid.csv");
    let set = Path::new(&set);
    let name = set.file_name().and_then(|name| name.to_str()).expect("a folder with a name in UTF-8");
    let stage = Stage::start(&[]).await;
    let checkpoints = tempfile::tempdir().expect("a folder");

    let started = Instant::now();
    for side in ["a", "b"] {
        let table = set.join(format!("table{}.csv", side.to_uppercase()));
        let checkpoint = checkpoints.path().join(side);
        // The ids of the two tables collide.
        run(Command::new(binary())
            .arg("backfill")
            .args([table.as_path(), "--checkpoint".as_ref(), checkpoint.as_path()])
            .args(["--id-prefix", &format!("{name}-{side}-"), "--region", "us-east-1"])
            .args(["--bulk-queue-url", &stage.target.catalog_queue_url, "--endpoint-url", &stage.target.endpoint_url]));
    }
    stage.drained().await;
    let seconds = started.elapsed().as_secs_f64();

    let page = stage.worker().metrics().await;
    let [events, pairs] = ["events_total", "pairs_scored_total"].map(|name| sum(&page, name));
    println!("{events} events, {pairs} pairs scored, {seconds:.1} s, {:.1} pairs/s", pairs / seconds);
    println!("peak memory of the worker: {} MiB", stage.worker().peak_memory_kib() / 1024);
    run(Command::new(binary())
        .args(["evaluate", "stored", "--region", "us-east-1", "--endpoint-url", &stage.target.endpoint_url])
        .args(["--table-prefix", &stage.target.table_prefix, "--set"])
        .arg(set));
    assert!(stage.stop().await.success(), "the worker failed");
}

/// Runs `command`, whose output is part of the report.
fn run(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{command:?} ended with {status}");
}

/// The sum of a counter over its labels.
fn sum(page: &str, name: &str) -> f64 {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
