//! Logs say nothing of what a product or a query says, whatever happens to it, unless
//! somebody asks for debug.

use std::path::Path;

use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::{Outgoing, Queue};
use consumer::store::Embedded;
use serde_json::{Value, json};
use tests::events::{query, upsert};
use tests::ministack::Ministack;
use tests::proxy::{Call, Proxy, Upset};
use tests::stage::counts;
use tests::worker::{Launch, Worker, WorkerTarget};

/// In every text that is sent, and in no line that is logged. Lower case, letters only:
/// what normalisation does to it, it stays.
const MARKER: &str = "zzyzxmarker";

/// Products, queries, and every kind of poison, each with the marker in its text.
fn bodies() -> Vec<String> {
    let title = format!("Brewline {MARKER} kettle");
    let changed = |field: &str, value: Value| {
        let mut event = upsert("X", 1, &title);
        event["product"][field] = value;
        event.to_string()
    };
    vec![
        upsert("A", 1, &title).to_string(),
        upsert("B", 1, &format!("{title} steel")).to_string(),
        query(&format!("{MARKER} kettle"), 1).to_string(),
        changed(MARKER, json!("an unknown field")),
        changed("title", json!({ MARKER: 1 })),
        changed("price", json!(MARKER)),
        format!("{{\"type\": \"upsert\", \"product\": \"{MARKER}"),
        MARKER.to_owned(),
        upsert(&format!("two words {MARKER}"), 1, &title).to_string(),
    ]
}

/// Some of every request fail, so that errors are logged too.
fn upset(call: Call<'_>) -> Option<Upset> {
    match call.number % 5 {
        1 => Some(Upset::Refuse(500, "InternalServerError")),
        3 => Some(Upset::Reset),
        _ => None,
    }
}

/// The lines that a worker logs while it meets all of it.
async fn lines(log_file: &Path, log_filter: &str) -> Vec<String> {
    let (sqs, tables) = (Ministack::start(), Embedded::memory().expect("memory needs nothing"));
    let direct = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
    let direct = sqs_client(&sdk_config(&direct).await);
    let created = create_queue_with_dead_letter(&direct, "q", std::time::Duration::from_secs(30), 50).await;
    let created = created.expect("the engine is fresh");
    for body in bodies() {
        assert!(created.queue.send(&[Outgoing::new(body)]).await.expect("it answers")[0].is_ok());
    }
    let proxy = Proxy::start(&sqs.endpoint_url(), tables.endpoint_url(), upset).await;
    let target = WorkerTarget {
        endpoint_url: proxy.url().to_owned(),
        catalog_queue_url: created.queue.url().to_owned(),
        dead_letter_queue_url: created.dead_letters.url().to_owned(),
        table_prefix: "l-".to_owned(),
    };
    let launch = Launch { program: "foretold-worker", log_filter, log_file: Some(log_file), ..Launch::default() };
    let worker = Worker::launch(&target, launch).await;
    while counts(&direct, created.queue.url()).await != (0, 0) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(worker.stop().await.success());
    let log = std::fs::read_to_string(log_file).expect("the worker has logged");
    log.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_info_no_line_holds_a_text_and_every_line_is_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = lines(&folder.path().join("log"), "info").await;
    let failures = lines.iter().filter(|line| line.contains("an event failed")).count();
    assert!(failures >= 6, "each poison is told of, in {lines:#?}");
    for line in &lines {
        assert!(!line.to_lowercase().contains(MARKER), "{line}");
        let parsed: Value = serde_json::from_str(line).expect("a log line is JSON");
        assert!(parsed["timestamp"].is_string() && parsed["level"].is_string(), "{line}");
    }
}

/// The test above could not fail if the marker never came near a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_the_reason_of_a_poison_quotes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = lines(&folder.path().join("log"), "info,consumer=debug").await;
    assert!(lines.iter().any(|line| line.contains(MARKER)), "{lines:#?}");
}
