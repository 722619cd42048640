//! A lost lease: somebody else may have the message, so nothing of it begins any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use consumer::flow::{Pipeline, RunOptions, Score, Share, run};
use consumer::metric::{LEASES_LOST, SETTLED};
use consumer::source::{
    Counts, Drained, InProcessOptions, InProcessQueue, Outgoing, Queue, Shutdown, Source, SourceOptions, StopReason,
};
use consumer::store::Embedded;
use metrics_exporter_prometheus::PrometheusBuilder;
use models::{IntentScore, PairScore, ScoreError, TextPair};
use serde_json::{Value, json};
use shared::ModelId;
use tests::deliveries::tables;
use tests::events::query;
use tests::faulty_queue::{FaultyQueue, Operation, Upset};
use tests::fleet::{TextModel, pipeline};
use tests::page;
use tokio::sync::Semaphore;

const VISIBILITY: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers what it is asked for, and answers once its gate is open.
struct Gated {
    model: TextModel,
    gate: Arc<Semaphore>,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Score for Gated {
    fn model_id(&self) -> &ModelId {
        self.model.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        self.model.score_pairs(pairs).await
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        self.asked.lock().expect("nobody panics with it").extend(queries.iter().cloned());
        let _open = self.gate.acquire().await.expect("the gate is never closed");
        self.model.score_queries(queries).await
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it comes true");
}

/// A list of twenty is in work, and a message waits behind it, when both leases are lost:
/// neither the rest of the list nor the message begins.
#[tokio::test]
async fn of_a_message_whose_lease_is_lost_nothing_more_begins() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "leases-").await;
    let options = InProcessOptions { visibility_timeout: VISIBILITY, ..InProcessOptions::new("q") };
    // No extension ever comes through.
    let extensions_fail = |operation, _| (operation == Operation::ChangeVisibility).then_some(Upset::Throttle);
    let queue = Arc::new(FaultyQueue::new(InProcessQueue::new(options), extensions_fail));
    let list: Vec<Value> = (0..20).map(|number| query(&format!("of the list {number}"), 1)).collect();
    for body in [json!(list), query("behind it", 1)] {
        queue.inner.send_when_room(Outgoing::new(body.to_string())).await.expect("there is room");
    }
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
    let scorer = Box::new(Gated { model: TextModel::new("gated"), gate: gate.clone(), asked: asked.clone() });
    let worker = Pipeline { scorer, ..pipeline(store, &TextModel::new("gated")) };

    let shutdown = Shutdown::new();
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    // As many permits as messages: the worker does not receive them a second time.
    let options = SourceOptions { permits: 2, ..SourceOptions::default() };
    let source = Source::start(queue.clone(), dead_letters, options, shutdown.clone());
    let options = RunOptions { concurrency: 1, drain: PATIENCE };
    let running = tokio::spawn(run(Arc::new(worker), Share::whole(source), options, shutdown.clone()));
    until(|| page::sum(&recorder.handle().render(), LEASES_LOST.name) == 2.0).await;
    let begun = asked.lock().expect("nobody panics with it").clone();
    assert!(!begun.is_empty() && begun.len() < list.len(), "some of the list was in work: {begun:?}");

    // Somebody else has them now, and is done with them.
    let mut elsewhere = Vec::new();
    while elsewhere.len() < 2 {
        elsewhere.extend(queue.inner.receive(10, PATIENCE).await.expect("this queue has no faults"));
    }
    let receipts: Vec<_> = elsewhere.iter().map(|message| message.receipt.clone()).collect();
    queue.inner.delete(&receipts).await.expect("a batch of two");
    gate.add_permits(list.len());
    // What is given back has nobody to take it.
    until(|| page::sum_where(&recorder.handle().render(), SETTLED.name, "unsettled") == 2.0).await;
    shutdown.begin(StopReason::Finished);
    let drained = running.await.expect("the flow does not panic");
    assert!(drained.iter().all(Drained::is_clean), "{drained:?}");
    assert_eq!(*asked.lock().expect("nobody panics with it"), begun, "nothing has begun since");
    assert_eq!(queue.inner.counts(), Counts { visible: 0, in_flight: 0 });
    page::assert_at_zero(&recorder.handle().render());
}
