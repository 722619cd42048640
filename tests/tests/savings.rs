//! What needs no inference costs none, and an operator sees what was saved: each counter, as
//! `/metrics` renders it.

use std::sync::Arc;
use std::time::Duration;

use consumer::metric::{
    EVENTS, EVENTS_SUPERSEDED, LABEL_ITEMS_WRITTEN, Metric, PAIRS_SCORED, PAIRS_SKIPPED, QUERIES_SCORED,
    TABLE_ITEMS_READ, TABLE_READ_HALF_UNITS, TABLE_REQUESTS, TABLE_WRITE_HALF_UNITS,
};
use consumer::source::{Counts, InProcessOptions, InProcessQueue, Outgoing, SourceOptions};
use consumer::store::{Embedded, Store};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tests::deliveries::{body, tables};
use tests::events::score_pairs;
use tests::fleet::{TextModel, pipeline};
use tests::history::upsert;
use tests::page;
use tests::trial::run_until_empty;

/// The Prometheus page before and after some messages went through the flow.
struct Change {
    before: String,
    after: String,
}

impl Change {
    fn of(&self, metric: Metric) -> f64 {
        page::sum(&self.after, metric.name) - page::sum(&self.before, metric.name)
    }

    /// Of the series with this label value.
    fn with(&self, metric: Metric, value: &str) -> f64 {
        page::sum_where(&self.after, metric.name, value) - page::sum_where(&self.before, metric.name, value)
    }

    fn scored_and_skipped(&self) -> (f64, f64) {
        (self.of(PAIRS_SCORED), self.of(PAIRS_SKIPPED))
    }
}

async fn send(store: &Store, model: &TextModel, page: &PrometheusHandle, bodies: &[String]) -> Change {
    let before = page.render();
    let queue = Arc::new(InProcessQueue::new(InProcessOptions::new("q")));
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    for body in bodies {
        queue.send_when_room(Outgoing::new(body.clone())).await.expect("short messages are taken");
    }
    let options = SourceOptions { wait: Duration::from_millis(100), ..SourceOptions::default() };
    let is_empty = async || queue.counts() == Counts { visible: 0, in_flight: 0 };
    run_until_empty(pipeline(store.clone(), model), queue.clone(), dead_letters.clone(), options, is_empty).await;
    assert_eq!(dead_letters.counts().visible, 0, "nothing is parked");
    Change { before, after: page.render() }
}

#[tokio::test]
async fn each_counter_says_what_was_saved() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let page = recorder.handle();
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "savings-").await;
    let model = TextModel::new("m");
    for (name, title) in [("A", "kettle qx4471z"), ("B", "steel kettle qx4471z"), ("C", "large lamp qx4471z")] {
        send(&store, &model, &page, &[body(&upsert(name, 1, title, 1.0))]).await;
    }
    assert_eq!(page::sum(&page.render(), PAIRS_SCORED.name), 3.0, "each pair of the three once");

    // The model does not read a price, and of an image an event says no more than a new version.
    for event in [upsert("A", 2, "kettle qx4471z", 2.0), upsert("A", 3, "kettle qx4471z", 2.0)] {
        let change = send(&store, &model, &page, &[body(&event)]).await;
        assert_eq!(change.scored_and_skipped(), (0.0, 0.0));
        assert_eq!((change.with(EVENTS, "unchanged"), change.of(LABEL_ITEMS_WRITTEN)), (1.0, 0.0));
        assert_eq!(change.with(TABLE_REQUESTS, "write"), 1.0, "one conditional write");
        assert_eq!((change.with(TABLE_REQUESTS, "read"), change.of(TABLE_ITEMS_READ)), (1.0, 1.0));
        assert!(change.of(TABLE_READ_HALF_UNITS) > 0.0 && change.of(TABLE_WRITE_HALF_UNITS) > 0.0);
    }
    // A text that changes costs its own pairs, and not that of the other two.
    let change = send(&store, &model, &page, &[body(&upsert("C", 2, "lamp qx4471z", 1.0))]).await;
    assert_eq!(change.scored_and_skipped(), (2.0, 0.0));
    assert!(change.of(LABEL_ITEMS_WRITTEN) >= 1.0);
    // Whoever asks for pairs that are labelled is told what is known.
    let asked = score_pairs(9, &[("A", "B"), ("B", "C"), ("C", "A")]).to_string();
    let change = send(&store, &model, &page, &[asked]).await;
    assert_eq!((change.scored_and_skipped(), change.with(TABLE_REQUESTS, "write")), ((0.0, 3.0), 0.0));
    // A stale version costs a read, in a burst as well.
    let burst: Vec<String> = (2..12).map(|version| body(&upsert("B", version, "pot qx4471z", 1.0))).collect();
    let change = send(&store, &model, &page, &burst).await;
    assert_eq!(change.of(PAIRS_SCORED), 2.0, "only the first of the burst changes the text");
    assert!(change.of(EVENTS_SUPERSEDED) >= 1.0 && change.with(EVENTS, "stale") >= change.of(EVENTS_SUPERSEDED));
    // The same query again.
    let query = tests::events::query("Steel Kettle", 1).to_string();
    let change = send(&store, &model, &page, &[query]).await;
    assert_eq!((change.of(QUERIES_SCORED), change.with(TABLE_WRITE_HALF_UNITS, "intents") > 0.0), (1.0, true));
    let again = tests::events::query("steel  kettle", 2).to_string();
    let change = send(&store, &model, &page, &[again]).await;
    assert_eq!((change.of(QUERIES_SCORED), change.with(TABLE_REQUESTS, "write")), (0.0, 0.0));
}
