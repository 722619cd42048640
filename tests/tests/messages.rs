//! What becomes of a message that holds several events, of objects that break off, and of
//! pairs that cannot be scored: the real flow on embedded tables, with a model that fails as
//! the test says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consumer::fault::{Fault, Faulty};
use consumer::flow::{Invocation, Job, Pipeline, Reached, RunOptions, Score, Share, run};
use consumer::lane::Lane;
use consumer::metric::EVENTS_PARKED;
use consumer::source::{
    DeadLetters, InProcessOptions, InProcessQueue, Message, ObjectAt, ObjectError, Objects, Outgoing, Parked, Queue,
    Receipt, Redrive, Shutdown, Source, SourceOptions, StopReason,
};
use consumer::store::{Embedded, ObjectProgress, Store};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::{SignedDuration, Timestamp};
use metrics_exporter_prometheus::PrometheusBuilder;
use models::{IntentScore, PairScore, ScoreError, TextPair};
use serde_json::{Value, json};
use shared::ModelId;
use tests::events::{query, upsert};
use tests::fleet::{TextModel, pipeline};
use tests::items::id;
use tests::page;

const PATIENCE: Duration = Duration::from_secs(60);

/// Fails for queries that say `busy`, so many times, and for pairs that say `nan`, always.
struct Moody {
    model: TextModel,
    busy: AtomicUsize,
}

#[async_trait]
impl Score for Moody {
    fn model_id(&self) -> &ModelId {
        self.model.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        let rows: Vec<usize> = (0..pairs.len())
            .filter(|row| pairs[*row].left.contains("nan") || pairs[*row].right.contains("nan"))
            .collect();
        if rows.is_empty() { self.model.score_pairs(pairs).await } else { Err(ScoreError::NonFinite { rows }) }
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        let is_busy = queries.iter().any(|query| query.contains("busy"));
        let left =
            self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(usize::from(is_busy)));
        match left {
            Ok(left) if is_busy && left > 0 => Err(ScoreError::Overloaded { retry_after: Duration::ZERO }),
            _ => self.model.score_queries(queries).await,
        }
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

async fn tables() -> (Embedded, Store) {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = engine.store("messages-");
    store.create_tables().await.expect("creates");
    (engine, store)
}

fn moody(store: &Store, busy: usize) -> Pipeline {
    let model = TextModel::new("moody");
    let scorer = Box::new(Moody { model: model.clone(), busy: AtomicUsize::new(busy) });
    Pipeline { scorer, ..pipeline(store.clone(), &model) }
}

fn message(id: &str, body: &Value, group: Option<&str>) -> Message {
    Message {
        id: id.to_owned(),
        body: body.to_string(),
        receipt: Receipt::new("r"),
        receive_count: 1,
        sent_at: None,
        attributes: Default::default(),
        group: group.map(str::to_owned),
    }
}

fn dead_letters() -> (InProcessQueue, DeadLetters) {
    let queue = InProcessQueue::new(InProcessOptions::new("dead"));
    let dead_letters = DeadLetters { queue: Arc::new(queue.clone()), origin: "catalog".into(), build: "1".into() };
    (queue, dead_letters)
}

async fn process(pipeline: &Pipeline, message: &Message, dead_letters: &DeadLetters) -> Result<Reached, Fault> {
    let job = Job {
        message,
        receive_count: 1,
        lane: Lane::Catalog,
        queue: "catalog",
        in_order: false,
        dead_letters: Some(dead_letters),
        seat: None,
        stops: &|| false,
    };
    pipeline.process_message(&job).await.map_err(|error| error.fault())
}

#[tokio::test]
async fn poison_is_parked_once_nothing_of_its_message_is_to_be_tried_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (_engine, store) = tables().await;
    let (queue, dead_letters) = dead_letters();
    let pipeline = moody(&store, 1);
    let list = message("m", &json!([query("one", 1), {"schema_version": 7}, query("busy", 1), query("two", 1)]), None);
    let first = process(&pipeline, &list, &dead_letters).await;
    assert_eq!(first, Err(Fault::Retry { after: None }));
    assert_eq!(queue.counts().visible, 0, "it would be parked again with the next try");
    assert_eq!(process(&pipeline, &list, &dead_letters).await, Ok(Reached::End));
    let parked = queue.receive(10, Duration::ZERO).await.expect("this queue has no faults");
    let parked: Vec<(Parked, String)> = parked.iter().map(|m| Parked::unwrap(&m.body).expect("reads back")).collect();
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].0.part.as_ref().map(|part| part.index), Some(1));
    assert!(parked[0].0.reason.starts_with("schema_version: 7"), "{}", parked[0].0.reason);
    assert_eq!(page::sum_where(&recorder.handle().render(), EVENTS_PARKED.name, "parse"), 1.0);
    for text in ["one", "busy", "two"] {
        let intent = store.intent(text, pipeline.scorer.model_id()).await.expect("the table answers");
        assert!(intent.is_some(), "{text} has no label");
    }
}

/// The clock of the worker is an hour behind; the queue's is right.
#[tokio::test]
async fn an_event_is_from_the_future_only_if_it_is_ahead_of_the_queue_too() {
    let (_engine, store) = tables().await;
    let (_queue, dead_letters) = dead_letters();
    let late = || Timestamp::now() - SignedDuration::from_hours(1);
    let pipeline = Pipeline { clock: late, ..moody(&store, 0) };
    let good = message("m", &query("one", 1), None);
    let sent = Message { sent_at: Some(Timestamp::now()), ..good.clone() };
    assert_eq!(process(&pipeline, &sent, &dead_letters).await, Ok(Reached::End));
    let list = Message { body: json!([query("two", 1), query("three", 1)]).to_string(), ..sent };
    assert_eq!(process(&pipeline, &list, &dead_letters).await, Ok(Reached::End));
    assert_eq!(dead_letters.queue.receive(10, Duration::ZERO).await.expect("no faults").len(), 0);
    // By each clock alone it is from the future.
    for sent_at in [None, Some(late())] {
        let processed = process(&pipeline, &Message { sent_at, ..good.clone() }, &dead_letters).await;
        let Err(Fault::Poison { reason }) = processed else { panic!("{sent_at:?}: {processed:?}") };
        assert!(reason.starts_with("occurred_at: "), "{reason}");
    }
}

/// An object whose first reading breaks off after `pieces_left` pieces.
#[derive(Debug)]
struct Breaking {
    bytes: Vec<u8>,
    pieces_left: AtomicUsize,
    read_from: Mutex<Vec<u64>>,
}

#[async_trait]
impl Objects for Breaking {
    async fn read(
        &self,
        at: &ObjectAt,
        from_byte: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        self.read_from.lock().expect("no test panics with it").push(from_byte);
        let pieces = self.bytes[from_byte as usize..].chunks(4_096).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let whole = self.pieces_left.swap(usize::MAX, Ordering::SeqCst);
        let broken = ObjectError::Unavailable { at: at.clone(), source: "the connection broke".into() };
        let mut pieces: Vec<_> = pieces.take(whole).collect();
        if whole != usize::MAX {
            pieces.push(Err(broken));
        }
        Ok(stream::iter(pieces).boxed())
    }
}

#[tokio::test]
async fn a_redelivery_goes_on_in_an_object_where_it_stopped() {
    let (_engine, store) = tables().await;
    let (queue, dead_letters) = dead_letters();
    let lines: Vec<String> = (0..400).map(|n| format!("{}\n", query(&format!("query no. {n}"), 1))).collect();
    let bytes: Vec<u8> = lines.concat().into_bytes();
    let objects = Arc::new(Breaking { bytes, pieces_left: AtomicUsize::new(8), read_from: Mutex::default() });
    let model = TextModel::new("now");
    let pipeline = Pipeline { objects: objects.clone(), ..pipeline(store.clone(), &model) };
    let notification = json!({"version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3",
        "account": "1", "time": "2026-09-01T00:00:00Z", "region": "eu-west-1", "resources": [],
        "detail": {"bucket": {"name": "drops"}, "object": {"key": "k", "etag": "e"}}});
    let message = message("m", &notification, None);

    assert_eq!(process(&pipeline, &message, &dead_letters).await, Err(Fault::Retry { after: None }));
    let start = ObjectProgress::start("s3://drops/k#e");
    let progress = store.object_progress(start.clone()).await.expect("the table answers");
    let done = model.queries_scored();
    assert!(progress.lines > 0 && progress.lines as i64 <= done, "{progress:?}, {done} scored");

    assert_eq!(process(&pipeline, &message, &dead_letters).await, Ok(Reached::End));
    assert_eq!(*objects.read_from.lock().expect("no test panics with it"), [0, progress.bytes]);
    assert_eq!(model.queries_scored(), 400, "no line costs twice");
    assert_eq!(store.object_progress(start.clone()).await.expect("the table answers"), start, "it is forgotten");
    assert_eq!(queue.counts().visible, 0);
}

#[tokio::test]
async fn a_pair_that_cannot_be_scored_keeps_no_other_from_its_label() {
    let (_engine, store) = tables().await;
    let (_queue, dead_letters) = dead_letters();
    let pipeline = moody(&store, 0);
    for (name, title) in [("a", "kettle qx4471z steel"), ("b", "kettle qx4471z nan"), ("c", "kettle qx4471z grey")] {
        let event = message(name, &upsert(name, 1, title), None);
        let processed = process(&pipeline, &event, &dead_letters).await;
        match name {
            "a" => assert_eq!(processed, Ok(Reached::End)),
            // Its own text, and then the one that is there, make a pair that has no score.
            "b" | "c" => {
                let Err(Fault::Poison { reason }) = processed else { panic!("{name}: {processed:?}") };
                assert!(reason.contains("cannot be scored: its score is not finite"), "{reason}");
                assert!(reason.contains(" b "), "it names the guilty one: {reason}");
            }
            _ => {}
        }
    }
    let model = pipeline.scorer.model_id();
    let item = store.label_item(&id("c"), model).await.expect("the table answers").expect("c has labels");
    let is_known = item.pairs.contains_key(&id("a")) || !item.distinct.is_empty();
    assert!(is_known, "the pair of c and a has no label: {item:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_group_is_tried_again_before_those_behind_it_go_back() {
    let (_engine, store) = tables().await;
    let dead = InProcessQueue::new(InProcessOptions::new("dead"));
    // A second receive of any message would move it away.
    let redrive = Some(Redrive { dead_letters: dead.clone(), receives_max: 1 });
    let queue = InProcessQueue::new(InProcessOptions { fifo: true, redrive, ..InProcessOptions::new("catalog") });
    let texts = ["busy", "one", "two"];
    let messages: Vec<Outgoing> =
        texts.iter().map(|text| Outgoing::in_group(query(text, 1).to_string(), "g")).collect();
    for sent in queue.send(&messages).await.expect("the batch is small") {
        sent.expect("there is room");
    }
    let shutdown = Shutdown::new();
    let source =
        Source::start(Arc::new(queue.clone()), Arc::new(dead.clone()), SourceOptions::default(), shutdown.clone());
    let pipeline = Arc::new(moody(&store, 2));
    let options = RunOptions { concurrency: 64, drain: PATIENCE };
    let running = tokio::spawn(run(pipeline.clone(), Share::whole(source), options, shutdown.clone()));
    let emptied = tokio::time::timeout(PATIENCE, async {
        while queue.counts().visible + queue.counts().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    emptied.await.expect("the group is worked off");
    shutdown.begin(StopReason::Finished);
    running.await.expect("the flow does not panic");
    assert_eq!(dead.counts().visible, 0, "a message was received twice");
    for text in texts {
        let intent = store.intent(text, pipeline.scorer.model_id()).await.expect("the table answers");
        assert!(intent.is_some(), "{text} has no label");
    }
}

#[tokio::test]
async fn a_batch_of_a_fifo_queue_reports_what_follows_a_failure_in_its_group() {
    let (_engine, store) = tables().await;
    let messages = [("m1", "busy", "g"), ("m2", "one", "h"), ("m3", "two", "g"), ("m4", "three", "h")];
    let messages = messages.map(|(id, text, group)| message(id, &query(text, 1), Some(group))).to_vec();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let fifo = Invocation { messages, queue: "catalog.fifo".to_owned(), is_fifo: true, dead_letters: None, deadline };
    assert_eq!(moody(&store, 1).invoke(&fifo).await.expect("no fault is fatal"), ["m1", "m3"]);
    let standard = Invocation { is_fifo: false, ..fifo };
    assert_eq!(moody(&store, 1).invoke(&standard).await.expect("no fault is fatal"), ["m1"]);
}
