//! How fast messages pass: the worker's source, envelope, validation and settlement, with no
//! tables and no model behind them, beside a bare loop of receive and delete.
//!
//! `make bench-queue` runs it. Ratios are of runs that alternate on the same engine;
//! absolute figures are this machine's.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::envelope::{self, Contents};
use consumer::source::{
    Counts, Delivery, Disposition, InProcessOptions, InProcessQueue, Message, Outcome, Outgoing, Queue, QueueError,
    Receipt, Settlement, Shutdown, Source, SourceOptions, VisibilityChange,
};
use jiff::Timestamp;
use shared::Event;
use tests::history::History;
use tests::ministack::Ministack;
use tests::report::cpu_s;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Receives at once, in both loops.
const RECEIVES: usize = 8;
/// Messages in the process: as many as the bare loops have.
const SQS_PERMITS: u32 = RECEIVES as u32 * 10;
const IN_PROCESS_PERMITS: u32 = 512;
const IN_PROCESS_ROUNDS: usize = 7;
const SQS_ROUNDS: usize = 60;
/// ministack slows down with deeper backlogs.
const SQS_MESSAGES: usize = 900;
const IN_PROCESS_MESSAGES: usize = 200_000;
const VISIBILITY: Duration = Duration::from_secs(60);
/// Messages at the start, and as many at the end, that are not timed: see [`Stopwatch`].
const UNTIMED: usize = 100;
/// Nobody waits for messages that do not come: what is timed has a backlog.
const WAIT: Duration = Duration::ZERO;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        println!("cpu: {}", features());
        in_process().await;
        against_sqs().await;
    });
}

/// Events a second on two threads, through a queue that costs next to nothing.
async fn in_process() {
    let bodies = bodies(IN_PROCESS_MESSAGES);
    let (mut figures, mut for_cpu) = (Vec::new(), Vec::new());
    for _ in 0..IN_PROCESS_ROUNDS {
        let options = InProcessOptions { messages_max: bodies.len(), ..InProcessOptions::new("in-process") };
        let queue = InProcessQueue::new(options);
        for body in &bodies {
            queue.send_when_room(Outgoing::new(body.clone())).await.expect("there is room");
        }
        let cpu_before_s = cpu_s();
        figures.push(work(Arc::new(queue.clone()), bodies.len(), IN_PROCESS_PERMITS).await.both);
        for_cpu.push(bodies.len() as f64 / (cpu_s() - cpu_before_s));
        assert_eq!(queue.counts(), Counts { visible: 0, in_flight: 0 });
    }
    println!(
        "in-process queue: {} events/s through receive, envelope, validation and settlement",
        spread(&mut figures)
    );
    println!("in-process queue: {} events for a second of CPU, whoever else is busy", spread(&mut for_cpu));
}

/// The same beside a bare loop, in turns, on one engine.
async fn against_sqs() {
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let bodies = bodies(SQS_MESSAGES);
    let created = create_queue_with_dead_letter(&client, "bench", VISIBILITY, 5).await.expect("the engine is fresh");
    let queue: Arc<dyn Queue> = Arc::new(created.queue);
    let (mut bare_figures, mut worker_figures) = (Vec::new(), Vec::new());
    let (mut ratios, mut ratios_of_deletes) = (Vec::new(), Vec::new());
    // The first round warms connections and engine up, and does not count.
    for round in 0..=SQS_ROUNDS {
        let (mut bare_rates, mut worker_rates) = (Rates::default(), Rates::default());
        // Each is first every other time.
        for turn in [round, round + 1] {
            fill(queue.as_ref(), &bodies).await;
            if turn % 2 == 0 {
                bare_rates = bare(queue.clone(), bodies.len()).await;
            } else {
                worker_rates = work(queue.clone(), bodies.len(), SQS_PERMITS).await;
            }
        }
        if round > 0 {
            bare_figures.push(bare_rates.both);
            worker_figures.push(worker_rates.both);
            ratios.push(worker_rates.both / bare_rates.both);
            ratios_of_deletes.push(worker_rates.deletes / bare_rates.deletes);
        }
    }
    println!("ministack, bare receive and delete: {} messages/s", spread(&mut bare_figures));
    println!("ministack, worker without scoring:  {} messages/s", spread(&mut worker_figures));
    println!("worker / bare: {}", middle(&mut ratios));
    println!("worker / bare, timed by deletes alone: {}", middle(&mut ratios_of_deletes));
}

fn middle(ratios: &mut [f64]) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[(ratios.len() as f64 * share) as usize];
    let (median, low, high) = (at(0.5), at(0.25), at(0.75));
    format!("median {median:.2}, middle half {low:.2} to {high:.2} of {SQS_ROUNDS} alternating rounds")
}

async fn fill(queue: &dyn Queue, bodies: &[String]) {
    for batch in bodies.chunks(10) {
        let batch: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
        assert!(queue.send(&batch).await.expect("it answers").iter().all(Result::is_ok));
    }
}

/// Times the middle of what is counted: how a worker finds out that there is much to do, and
/// how it waits for messages that do not come, is not what is asked.
#[derive(Debug)]
struct Stopwatch {
    done: AtomicUsize,
    from: usize,
    to: usize,
    began_at: OnceLock<Instant>,
    ended_at: OnceLock<Instant>,
    ended: Notify,
}

impl Stopwatch {
    fn new(from: usize, to: usize) -> Self {
        let (began_at, ended_at) = (OnceLock::new(), OnceLock::new());
        Self { done: AtomicUsize::new(0), from, to, began_at, ended_at, ended: Notify::new() }
    }

    fn count(&self, messages: usize) {
        let done = self.done.fetch_add(messages, Ordering::Relaxed) + messages;
        if done >= self.from {
            self.began_at.get_or_init(Instant::now);
        }
        if done >= self.to && self.ended_at.set(Instant::now()).is_ok() {
            self.ended.notify_one();
        }
    }

    /// Counted a second, once there are enough.
    async fn rate(&self) -> f64 {
        self.ended.notified().await;
        let (began_at, ended_at) = (self.began_at.get(), self.ended_at.get());
        let took = ended_at.zip(began_at).map(|(ended_at, began_at)| ended_at.duration_since(*began_at));
        (self.to - self.from) as f64 / took.expect("what has ended has begun").as_secs_f64()
    }
}

/// A queue that times what goes through it.
#[derive(Debug)]
struct Timed {
    inner: Arc<dyn Queue>,
    /// Receives count as deletes do: each is one of the two requests that a batch of messages
    /// costs.
    both: Stopwatch,
    deletes: Stopwatch,
}

impl Timed {
    fn new(inner: Arc<dyn Queue>, messages: usize) -> Arc<Self> {
        let (from, to) = (UNTIMED, messages - UNTIMED);
        Arc::new(Self { inner, both: Stopwatch::new(2 * from, 2 * to), deletes: Stopwatch::new(from, to) })
    }

    async fn rates(&self) -> Rates {
        Rates { both: self.both.rate().await / 2.0, deletes: self.deletes.rate().await }
    }
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// Received and deleted.
    both: f64,
    /// Deleted, whenever they were received.
    deletes: f64,
}

#[async_trait]
impl Queue for Timed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn visibility_timeout(&self) -> Duration {
        self.inner.visibility_timeout()
    }

    fn receive_is_cancel_safe(&self) -> bool {
        self.inner.receive_is_cancel_safe()
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let messages = self.inner.receive(max, wait).await?;
        self.both.count(messages.len());
        Ok(messages)
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        let results = self.inner.delete(receipts).await?;
        self.both.count(receipts.len());
        self.deletes.count(receipts.len());
        Ok(results)
    }

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        self.inner.change_visibility(changes).await
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError> {
        self.inner.send(messages).await
    }
}

/// Messages a second of the worker's source, with as many in work as there are permits.
async fn work(queue: Arc<dyn Queue>, count: usize, permits: u32) -> Rates {
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    let options = SourceOptions { permits, receives_max: RECEIVES, wait: WAIT, ..SourceOptions::default() };
    let timed = Timed::new(queue, count);
    let mut source = Source::start(timed.clone(), dead_letters, options, Shutdown::new());
    let working = tokio::spawn(async move {
        let mut in_work = JoinSet::new();
        for _ in 0..count {
            let delivery = source.next().await.expect("no shutdown yet");
            in_work.spawn(label_nothing(delivery));
            while in_work.try_join_next().is_some() {}
        }
        in_work.join_all().await;
        source.drain(VISIBILITY).await;
    });
    let rates = timed.rates().await;
    working.await.expect("the worker does not panic");
    rates
}

async fn label_nothing(delivery: Delivery) {
    let opened = envelope::open(delivery.message.body.as_bytes());
    let Ok(Contents::Event(event)) = opened else { panic!("the history has plain events only") };
    Event::from_value(event, Timestamp::now()).expect("the history has no poison");
    assert_eq!(delivery.settle(Disposition::Delete).await, Settlement::Deleted);
}

/// Messages a second of loops that receive and delete, and do nothing else.
async fn bare(queue: Arc<dyn Queue>, count: usize) -> Rates {
    let timed = Timed::new(queue, count);
    let left = Arc::new(AtomicUsize::new(count));
    let mut loops = JoinSet::new();
    for _ in 0..RECEIVES {
        let (queue, left) = (timed.clone(), left.clone());
        loops.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let messages = queue.receive(10, WAIT).await.expect("it answers");
                if messages.is_empty() {
                    continue;
                }
                let receipts: Vec<Receipt> = messages.into_iter().map(|message| message.receipt).collect();
                queue.delete(&receipts).await.expect("it answers");
                left.fetch_sub(receipts.len(), Ordering::Relaxed);
            }
        });
    }
    let rates = timed.rates().await;
    loops.join_all().await;
    rates
}

/// Events as a source sends them; all are good.
fn bodies(count: usize) -> Vec<String> {
    let history = History::new(61, 10_000);
    let events: Vec<String> =
        history.events.iter().map(|event| serde_json::to_string(event).expect("events are JSON")).collect();
    events.into_iter().cycle().take(count).collect()
}

/// Median, least and most.
fn spread(figures: &mut [f64]) -> String {
    figures.sort_by(f64::total_cmp);
    format!("{:.0} ({:.0} to {:.0})", figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

/// The CPU's name, cores and load, without which no figure means anything.
fn features() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let name = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{}, {cores} cores, load {load} at the start", name.trim_start_matches([' ', '\t', ':']))
}
