//! Queues that share the places of one process, through the real flow on embedded tables: what
//! holds many events, what waits for its group and what fails keeps nobody else from work.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use consumer::flow::{Pipeline, RunOptions, Score, Share, run};
use consumer::source::{
    Counts, Drained, InProcessOptions, InProcessQueue, Outgoing, Queue, Redrive, Shutdown, Source, SourceOptions,
    StopReason,
};
use consumer::store::{Embedded, Store};
use models::{IntentScore, PairScore, ScoreError, TextPair};
use serde_json::{Value, json};
use shared::ModelId;
use tests::deliveries::tables;
use tests::events::query;
use tests::fleet::{TextModel, pipeline};
use tokio::sync::{Semaphore, watch};

const PATIENCE: Duration = Duration::from_secs(60);
/// Events of a message before others have their turns.
const CHUNK: usize = 64;

/// Remembers what it is asked for, in order. Queries that say `busy` fail until one that says
/// `other` was asked for; ones that say `gated` wait for the gate.
struct Watchful {
    model: TextModel,
    asked: watch::Sender<Vec<String>>,
    gate: Semaphore,
}

#[async_trait]
impl Score for Watchful {
    fn model_id(&self) -> &ModelId {
        self.model.model_id()
    }

    async fn score_pairs(&self, pairs: Vec<TextPair>) -> Result<Vec<PairScore>, ScoreError> {
        self.model.score_pairs(pairs).await
    }

    async fn score_queries(&self, queries: Vec<String>) -> Result<Vec<IntentScore>, ScoreError> {
        let says = |word: &str| queries.iter().any(|query| query.contains(word));
        self.asked.send_modify(|asked| asked.extend(queries.iter().cloned()));
        if says("busy") && !self.asked.borrow().iter().any(|asked| asked.contains("other")) {
            return Err(ScoreError::Overloaded { retry_after: Duration::ZERO });
        }
        if says("gated") {
            let _open = self.gate.acquire().await.expect("the gate is never closed");
        }
        self.model.score_queries(queries).await
    }

    async fn probe(&self) -> Result<(), ScoreError> {
        Ok(())
    }
}

/// A process with a queue for each name, and what its model was asked.
struct Process {
    shutdown: Shutdown,
    asked: watch::Receiver<Vec<String>>,
    running: tokio::task::JoinHandle<Vec<Drained>>,
}

impl Process {
    fn start(store: &Store, concurrency: usize, queues: &[(&InProcessQueue, u32)]) -> Self {
        let (asked, hears) = watch::channel(Vec::new());
        let model = TextModel::new("watchful");
        let scorer = Box::new(Watchful { model: model.clone(), asked, gate: Semaphore::new(0) });
        let worker = Pipeline { scorer, ..pipeline(store.clone(), &model) };
        let shutdown = Shutdown::new();
        let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
        let share = |(queue, weight): &(&InProcessQueue, u32)| {
            let queue = Arc::new((*queue).clone());
            let source = Source::start(queue, dead_letters.clone(), SourceOptions::default(), shutdown.clone());
            Share { source, weight: *weight }
        };
        let options = RunOptions { concurrency, drain: Duration::ZERO };
        let running =
            tokio::spawn(run(Arc::new(worker), queues.iter().map(share).collect(), options, shutdown.clone()));
        Self { shutdown, asked: hears, running }
    }

    /// How many queries the model had been asked for once `enough` was true of them.
    async fn asked(&mut self, enough: impl Fn(&[String]) -> bool) -> usize {
        let waited = tokio::time::timeout(PATIENCE, self.asked.wait_for(|asked| enough(asked)));
        waited.await.expect("it comes true").expect("the model lives").len()
    }

    async fn stop(self) -> Vec<Drained> {
        self.shutdown.begin(StopReason::Finished);
        self.running.await.expect("the flow does not panic")
    }
}

async fn send(queue: &InProcessQueue, body: &Value) {
    queue.send_when_room(Outgoing::new(body.to_string())).await.expect("there is room");
}

fn list(name: &str, events: usize) -> Value {
    json!((0..events).map(|number| query(&format!("{name} {number}"), 1)).collect::<Vec<Value>>())
}

/// Every place is taken by a message of thousands of events when an event comes.
#[tokio::test]
async fn an_event_waits_for_a_turn_of_long_messages_and_not_for_their_end() {
    const CONCURRENCY: usize = 2;
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "long-").await;
    let (catalog, bulk) =
        (InProcessQueue::new(InProcessOptions::new("catalog")), InProcessQueue::new(InProcessOptions::new("bulk")));
    for message in 0..2 * CONCURRENCY {
        send(&bulk, &list(&format!("bulk {message}"), 2_000)).await;
    }
    let mut process = Process::start(&store, CONCURRENCY, &[(&catalog, 4), (&bulk, 1)]);
    let before = process.asked(|asked| asked.len() > 200).await;
    send(&catalog, &query("now", 1)).await;
    let after = process.asked(|asked| asked.iter().any(|text| text == "now")).await;
    // A chunk in each place, and the ones that begin while the event is parsed and looked up.
    assert!(after - before <= 2 * CONCURRENCY * CHUNK, "{} events of bulk were first", after - before);
    process.stop().await;
}

/// There is one place. The first of a group fails until another group's message is through,
/// and a message waits behind it.
#[tokio::test]
async fn a_group_that_waits_leaves_its_place_to_the_other_groups() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "groups-").await;
    let dead = InProcessQueue::new(InProcessOptions::new("moved"));
    // A second receive of any message would move it away.
    let redrive = Some(Redrive { dead_letters: dead.clone(), receives_max: 1 });
    let queue = InProcessQueue::new(InProcessOptions { fifo: true, redrive, ..InProcessOptions::new("fifo") });
    let messages = [("busy", "a"), ("behind it", "a"), ("other", "b")];
    let messages = messages.map(|(text, group)| Outgoing::in_group(query(text, 1).to_string(), group));
    for sent in queue.send(&messages).await.expect("the batch is small") {
        sent.expect("there is room");
    }
    let mut process = Process::start(&store, 1, &[(&queue, 1)]);
    process.asked(|asked| asked.iter().any(|text| text == "behind it")).await;
    let asked = process.asked.borrow().clone();
    assert_eq!(asked, ["busy", "other", "busy", "behind it"]);
    let emptied = tokio::time::timeout(PATIENCE, async {
        while queue.counts() != (Counts { visible: 0, in_flight: 0 }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    emptied.await.expect("all of them are deleted");
    process.stop().await;
    assert_eq!(dead.counts().visible, 0, "a message was received twice");
}

/// Two messages are in work and do not end; the others have not begun.
#[tokio::test]
async fn a_stop_gives_back_what_has_not_begun_of_every_queue() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let store = tables(&engine, "stop-").await;
    let queues = ["catalog", "bulk"].map(|name| InProcessQueue::new(InProcessOptions::new(name)));
    for queue in &queues {
        for number in 0..25 {
            send(queue, &query(&format!("gated {number}"), 1)).await;
        }
    }
    let mut process = Process::start(&store, 2, &[(&queues[0], 1), (&queues[1], 1)]);
    process.asked(|asked| asked.len() == 2).await;
    let received = tokio::time::timeout(PATIENCE, async {
        while queues.iter().any(|queue| queue.counts().in_flight < 25) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    received.await.expect("all of them are received");
    let drained = process.stop().await;
    let sum = |count: fn(&Drained) -> usize| drained.iter().map(count).sum::<usize>();
    assert_eq!((sum(|drained| drained.released), sum(|drained| drained.torn_away)), (48, 2));
    assert_eq!(queues.map(|queue| queue.counts().visible), [25, 25]);
}
