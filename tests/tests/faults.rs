//! Faults of the queue: whatever it does, a history ends in the tables that brute force
//! foretells, with exactly the poison parked, and nothing left in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consumer::source::{Counts, InProcessOptions, InProcessQueue, Outgoing, SourceOptions};
use consumer::store::{Embedded, Store};
use jiff::{SignedDuration, Timestamp};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tests::faulty_queue::{FaultyQueue, Operation, Upset};
use tests::fleet::{TextModel, pipeline};
use tests::history::History;
use tests::page;
use tests::trial::{assert_foretold, assert_only_poison, run_until_empty};

const MESSAGES: usize = 200;
/// Short, so that what comes back does so soon; long enough for a heartbeat that a busy machine holds up.
const VISIBILITY: Duration = Duration::from_secs(5);
/// Fewer than the tries of a settlement, after which the worker leaves a message to its visibility timeout.
const FEW: u32 = 2;
const ANY: u32 = u32::MAX;

/// What is left when a history went through a faulty queue.
struct Trial {
    history: History,
    queue: Arc<FaultyQueue<InProcessQueue>>,
    dead_letters: Arc<FaultyQueue<InProcessQueue>>,
    store: Store,
    model: TextModel,
    engine: Embedded,
    metrics: PrometheusHandle,
}

type Plan = fn(Operation, usize) -> Option<Upset>;

impl Trial {
    /// Queue and dead-letter queue follow `plan`, which upsets an entry at most `upsets_max`
    /// times. On a single thread, so that the metrics are this test's own.
    async fn run(seed: u64, clock: fn() -> Timestamp, upsets_max: u32, plan: Plan) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _recording = metrics::set_default_local_recorder(&recorder);
        // Just now, so that a clock that is behind could take them for events of the future.
        let history = History::occurring_at(Timestamp::now(), seed, MESSAGES);
        let options = InProcessOptions { visibility_timeout: VISIBILITY, ..InProcessOptions::new("q") };
        let queue = Arc::new(FaultyQueue::new(InProcessQueue::new(options), plan).at_most(upsets_max));
        let dead_letters =
            Arc::new(FaultyQueue::new(InProcessQueue::new(InProcessOptions::new("dead")), plan).at_most(upsets_max));
        for body in &history.bodies {
            queue.inner.send_when_room(Outgoing::new(body.clone())).await.expect("short messages are taken");
        }
        let engine = Embedded::memory().expect("memory needs nothing");
        let store = engine.store("f-");
        store.create_tables().await.expect("creates");
        let model = TextModel::new("foretold");
        let pipeline = consumer::flow::Pipeline { clock, ..pipeline(store.clone(), &model) };
        let options = SourceOptions { permits: 40, wait: Duration::from_millis(500), ..SourceOptions::default() };
        let is_empty = async || queue.inner.counts() == Counts { visible: 0, in_flight: 0 };
        run_until_empty(pipeline, queue.clone(), dead_letters.clone(), options, is_empty).await;
        let metrics = recorder.handle();
        Self { history, queue, dead_letters, store, model, engine, metrics }
    }

    /// Checks everything, and that nothing is parked twice.
    async fn ends_well_and_parks_once(self) {
        let page = self.metrics.render();
        let queues: Vec<&str> = page.lines().filter(|line| line.starts_with("queue_")).collect();
        assert_eq!(self.ends_well().await, 0, "parked more than once: {queues:#?}");
    }

    /// Checks everything; gives how many parked messages are there more than once.
    async fn ends_well(self) -> usize {
        assert_foretold(&self.store, &self.model, &self.history).await;
        page::assert_at_zero(&self.metrics.render());
        let repeats = assert_only_poison(&self.dead_letters.inner, &self.history).await;
        self.engine.stop().await.expect("it ends");
        repeats
    }

    fn settled(&self, settlement: &str) -> f64 {
        page::sum_where(&self.metrics.render(), "queue_messages_settled_total", settlement)
    }
}

/// Every request of `operation` whose number leaves `rest` when divided by `every`.
fn each(operation: Operation, asked: Operation, number: usize, every: usize) -> bool {
    operation == asked && number % every == every / 2
}

#[tokio::test]
async fn no_fault_at_all_parks_each_poison_once() {
    let trial = Trial::run(1, Timestamp::now, FEW, |_, _| None).await;
    trial.ends_well_and_parks_once().await;
}

#[tokio::test]
async fn throttles_of_every_operation() {
    let trial = Trial::run(2, Timestamp::now, FEW, |operation, number| {
        let every = if operation == Operation::Receive { 9 } else { 3 };
        each(operation, operation, number, every).then_some(Upset::Throttle)
    })
    .await;
    trial.ends_well_and_parks_once().await;
}

#[tokio::test]
async fn deletes_that_fail_until_they_are_given_up() {
    // Eight batches are on the wire at most: one of them meets a fourth failure.
    let trial = Trial::run(9, Timestamp::now, ANY, |operation, number| {
        (operation == Operation::Delete && number <= 3 * 8).then_some(Upset::Throttle)
    })
    .await;
    assert!(trial.settled("unsettled") > 0.0, "four tries are all");
    // A parking whose delete was given up is sent again.
    trial.ends_well().await;
}

#[tokio::test]
async fn answers_lost_on_the_way() {
    let trial = Trial::run(3, Timestamp::now, ANY, |operation, number| {
        let every = if operation == Operation::Receive { 9 } else { 4 };
        each(operation, operation, number, every).then_some(Upset::LoseAnswer)
    })
    .await;
    assert!(trial.settled("expired") > 0.0, "a delete is asked for again when its answer was lost");
    // A parking whose answer was lost is sent again.
    trial.ends_well().await;
}

#[tokio::test]
async fn requests_that_hang_and_requests_that_are_slow() {
    let trial = Trial::run(4, Timestamp::now, ANY, |operation, number| {
        let slow = each(operation, operation, number, 4).then_some(Upset::Slow(Duration::from_millis(400)));
        let hang = (number == 3).then_some(Upset::Hang(Duration::from_secs(2)));
        hang.or(slow)
    })
    .await;
    trial.ends_well().await;
}

#[tokio::test]
async fn batches_done_in_part() {
    let trial = Trial::run(5, Timestamp::now, FEW, |operation, number| {
        (operation != Operation::Receive && number % 2 == 0).then_some(Upset::LeaveOut)
    })
    .await;
    trial.ends_well_and_parks_once().await;
}

#[tokio::test]
async fn messages_delivered_twice_and_in_reverse() {
    let trial =
        Trial::run(6, Timestamp::now, ANY, |operation, _| (operation == Operation::Receive).then_some(Upset::Repeat))
            .await;
    let sent = trial.history.bodies.len() as f64;
    assert!(trial.settled("deleted") + trial.settled("expired") + trial.settled("parked") >= 1.5 * sent);
    trial.ends_well().await;
}

#[tokio::test]
async fn receipts_that_expire_too_early() {
    let trial = Trial::run(7, Timestamp::now, ANY, |operation, number| {
        let settles = matches!(operation, Operation::Delete | Operation::ChangeVisibility);
        (settles && number % 3 == 1).then_some(Upset::Expire)
    })
    .await;
    assert!(trial.settled("expired") > 0.0 && trial.queue.requests(Operation::Delete) > 0);
    trial.ends_well().await;
}

/// A worker's clock that jumps an hour back or forth with each look.
fn jumping() -> Timestamp {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let hours = [0, -1, 1][(LOOKS.fetch_add(1, Ordering::Relaxed) % 3) as usize];
    Timestamp::now() + SignedDuration::from_hours(hours)
}

#[tokio::test]
async fn clocks_that_jump() {
    let trial = Trial::run(8, jumping, FEW, |_, _| None).await;
    trial.ends_well_and_parks_once().await;
}
