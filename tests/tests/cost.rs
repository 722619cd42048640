//! What an event costs in requests to SQS, counted on the wire.

use std::sync::Arc;
use std::time::Duration;

use consumer::aws::{AwsOptions, SqsQueue, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::metric::REQUESTS;
use consumer::source::{Outgoing, Queue, SourceOptions};
use consumer::store::Embedded;
use metrics_exporter_prometheus::PrometheusBuilder;
use tests::fleet::{TextModel, pipeline};
use tests::history::History;
use tests::ministack::Ministack;
use tests::page;
use tests::proxy::Proxy;
use tests::stage::counts;
use tests::trial::run_until_empty;

const MESSAGES: usize = 800;
/// Requests an event: receive, delete and heartbeat together.
const REQUESTS_MAX: f64 = 0.25;

/// The backlog is there from the start, so this is full load, its last poll included.
#[tokio::test]
async fn at_full_load_an_event_costs_a_quarter_of_a_request_at_most() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (sqs, tables) = (Ministack::start(), Embedded::memory().expect("memory needs nothing"));
    let direct = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
    let direct = sqs_client(&sdk_config(&direct).await);
    let created = create_queue_with_dead_letter(&direct, "q", Duration::from_secs(60), 5).await;
    let created = created.expect("the engine is fresh");
    let bodies: Vec<String> = History::new(31, MESSAGES).events.iter().map(to_json).collect();
    for batch in bodies.chunks(10) {
        let messages: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
        assert!(created.queue.send(&messages).await.expect("it answers").iter().all(Result::is_ok));
    }
    let store = tables.store("c-");
    store.create_tables().await.expect("creates");

    let proxy = Proxy::start(&sqs.endpoint_url(), tables.endpoint_url(), |_| None).await;
    let through = AwsOptions { region: None, endpoint_url: Some(proxy.url().to_owned()) };
    let queue = SqsQueue::new(sqs_client(&sdk_config(&through).await), created.queue.url(), Duration::from_secs(60));
    let before = page::sum(&recorder.handle().render(), REQUESTS.name);
    let url = created.queue.url().to_owned();
    // What a worker takes of it by default, but for the wait of the last polls.
    let options = SourceOptions { wait: Duration::from_secs(1), ..SourceOptions::default() };
    let is_empty = async || counts(&direct, &url).await == (0, 0);
    let pipeline = pipeline(store, &TextModel::new("foretold"));
    run_until_empty(pipeline, Arc::new(queue), Arc::new(created.dead_letters), options, is_empty).await;

    let operations = ["ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch", "SendMessageBatch"];
    let counted: usize = operations.iter().map(|operation| proxy.requests(operation)).sum();
    let for_each = counted as f64 / bodies.len() as f64;
    assert!(for_each <= REQUESTS_MAX, "{counted} requests for {} events: {for_each:.3} each", bodies.len());
    let told = page::sum(&recorder.handle().render(), REQUESTS.name) - before;
    assert_eq!(told, counted as f64, "the worker counts what SQS bills for");
}

fn to_json(event: &shared::CatalogEvent) -> String {
    serde_json::to_string(event).expect("events are JSON")
}
