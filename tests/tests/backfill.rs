//! `backfill` as people run it: the real binary, the real model, tables in a folder.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use consumer::aws::{AwsOptions, sdk_config, sqs_client};
use consumer::store::Embedded;
use serde_json::Value;
use shared::ProductId;
use shared::table::PREFIX_DEFAULT;
use tempfile::TempDir;
use tests::ministack::Ministack;
use tests::worker::{artifact, binary, peak_memory_kib, repository};

/// Longest wait for a checkpoint; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
const PRODUCTS: usize = 60;

fn backfill(input: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("backfill").arg(input).args(["--replicas", "1", "--window", "10", "--concurrency", "4"]).args(more);
    command.arg("--artifact").arg(artifact()).env("OMP_NUM_THREADS", "1");
    command
}

fn last_line(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout.lines().next_back().unwrap_or_default().to_owned()
}

/// The first products of the sample, as events.
fn sample_rows() -> String {
    let all = std::fs::read_to_string(repository().join("consumer/src/app/sample/products.ndjson")).expect("readable");
    let lines: Vec<&str> = all.lines().take(PRODUCTS).collect();
    lines.join("\n")
}

/// What the label tables say, without the times that differ from run to run.
async fn labels(folder: &Path) -> Vec<Value> {
    let engine = Embedded::open_existing(folder).expect("the tables are there");
    let store = engine.store(PREFIX_DEFAULT);
    let model = store.active_model().await.expect("answered").expect("a model is active").model;
    let mut found = Vec::new();
    for line in sample_rows().lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let id = ProductId::new(event["product_id"].as_str().expect("an id")).expect("a good id");
        let item = store.label_item(&id, &model).await.expect("answered").expect("every product has labels");
        let pairs =
            item.pairs.iter().map(|(other, entry)| (other, entry.verdict, entry.other_hash, entry.score.to_bits()));
        found.push(serde_json::json!([id, format!("{:?}", pairs.collect::<Vec<_>>())]));
    }
    engine.stop().await.expect("stops");
    found
}

#[tokio::test]
async fn a_killed_backfill_goes_on_and_ends_as_an_unbroken_one() {
    let folder = TempDir::new().expect("a folder");
    let input = folder.path().join("catalog.ndjson");
    std::fs::write(&input, format!("{}\n{{\"id\": \"no title\"}}\n", sample_rows())).expect("writable");
    let [whole, broken] = ["whole", "broken"].map(|name| folder.path().join(name));
    let arguments = |tables: &Path| ["--local".to_owned(), tables.display().to_string()];

    let [local, tables] = arguments(&whole);
    let checkpoint = folder.path().join("whole.json").display().to_string();
    let done = backfill(&input, &[&local, &tables, "--checkpoint", &checkpoint]).output().expect("runs");
    let line = last_line(&done);
    assert!(line.contains("rejected.ndjson"), "{line}");

    let [local, tables] = arguments(&broken);
    // Slow enough that the kill comes in the middle.
    let more = [local.as_str(), tables.as_str(), "--rate", "20"];
    let mut child = backfill(&input, &more).stdout(Stdio::null()).spawn().expect("runs");
    let checkpoint = folder.path().join("catalog.ndjson.backfill.json");
    let windows = || {
        let content = std::fs::read(&checkpoint).ok()?;
        serde_json::from_slice::<Value>(&content).ok()?["windows"].as_u64()
    };
    let started = Instant::now();
    while windows() < Some(2) {
        assert!(started.elapsed() < PATIENCE, "no window was done");
        assert_eq!(child.try_wait().expect("it can be asked"), None, "it ended before the kill");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ended");
    assert!(windows() < Some(6), "the kill came too late to prove anything");

    let done = backfill(&input, &more[..2]).output().expect("runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(text.contains(&format!("rows={}", PRODUCTS + 1)) && text.contains("rejected=1"), "{text}");
    last_line(&done);
    let rejects = std::fs::read_to_string(folder.path().join("catalog.ndjson.backfill.rejected.ndjson"));
    let rejects = rejects.expect("a row was rejected");
    assert_eq!(rejects.lines().count(), 1, "{rejects}");
    assert!(rejects.contains("a product id is 1 to 64"), "{rejects}");
    assert_eq!(labels(&broken).await, labels(&whole).await);

    let again = last_line(&backfill(&input, &more[..2]).output().expect("runs"));
    assert!(again.contains("was done before"), "{again}");
    let restarted = backfill(&input, &[more[0], more[1], "--restart"]).output().expect("runs");
    let text = String::from_utf8_lossy(&restarted.stdout).into_owned();
    assert!(text.contains(&format!("written=0 unchanged={PRODUCTS}")), "{text}");
}

#[tokio::test]
async fn rows_for_a_fleet_arrive_on_the_bulk_queue_once_each() {
    let engine = Ministack::start();
    let endpoint_url = engine.endpoint_url();
    let options = AwsOptions { region: Some("us-east-1".to_owned()), endpoint_url: Some(endpoint_url.clone()) };
    let sqs = sqs_client(&sdk_config(&options).await);
    let queue_url = sqs.create_queue().queue_name("bulk").send().await.expect("created").queue_url.expect("a URL");
    let folder = TempDir::new().expect("a folder");
    let input = folder.path().join("catalog.ndjson");
    std::fs::write(&input, sample_rows()).expect("writable");
    let aws = ["--endpoint-url", &endpoint_url, "--region", "us-east-1", "--bulk-queue-url", &queue_url];
    let line = last_line(&backfill(&input, &aws).output().expect("runs"));
    assert!(line.contains(&format!("sent={PRODUCTS} ")), "{line}");

    let mut bodies = Vec::new();
    while bodies.len() < PRODUCTS {
        let request = sqs.receive_message().queue_url(&queue_url).max_number_of_messages(10).wait_time_seconds(1);
        let got = request.send().await.expect("it answers").messages.expect("everything that was sent is there");
        bodies.extend(got.into_iter().filter_map(|message| message.body));
    }
    bodies.sort();
    let mut rows: Vec<String> = sample_rows().lines().map(str::to_owned).collect();
    rows.sort();
    assert_eq!(bodies, rows);
}

#[test]
fn a_dry_run_checks_rows_and_bad_arguments_are_listed_at_once() {
    let folder = TempDir::new().expect("a folder");
    let input = folder.path().join("catalog.csv");
    std::fs::write(&input, "id,title\n1,Kettle\n2,\n").expect("writable");
    let line = last_line(&backfill(&input, &["--dry-run"]).output().expect("runs"));
    assert!(line.contains("rejected.ndjson"), "{line}");
    let rejects =
        std::fs::read_to_string(folder.path().join("catalog.csv.backfill.rejected.ndjson")).expect("readable");
    assert!(rejects.contains("product.title: is empty"), "{rejects}");

    let mut bad = Command::new(binary());
    bad.arg("backfill").arg("catalog.xlsx").args(["--window", "0", "--bulk-queue-url", "labels"]);
    let output = bad.output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for problem in ["--window", "is not a URL", ".parquet"] {
        assert!(stderr.contains(problem), "{problem} is not in {stderr}");
    }
}

/// A file of any length is read through two windows.
#[tokio::test]
async fn memory_does_not_grow_with_the_rows() {
    let folder = TempDir::new().expect("a folder");
    let mut peaks_kib = Vec::new();
    for rows in [50_000, 500_000] {
        let input = folder.path().join(format!("{rows}.csv"));
        let row = |number: usize| format!("P{number},Norvik kettle number {number},Boils {} litres\n", number % 9);
        let content = ["id,title,description\n".to_owned()].into_iter().chain((0..rows).map(row)).collect::<String>();
        std::fs::write(&input, content).expect("writable");
        let mut command = Command::new(binary());
        command.arg("backfill").arg(&input).args(["--dry-run", "--window", "1000"]).stdout(Stdio::null());
        peaks_kib.push(peak_memory_kib(command).await);
    }
    // The ids of the other rows alone would be more.
    assert!(peaks_kib[1] < peaks_kib[0] + 8 * 1024, "{peaks_kib:?} KiB");
}
