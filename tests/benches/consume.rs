//! How fast messages pass: the worker's source, envelope, validation and settlement, with no
//! tables and no model behind them, beside a bare loop of receive and delete.
//!
//! `make bench-queue` runs it. Ratios are of runs that alternate on the same engine;
//! absolute figures are this machine's.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use consumer::aws::{AwsOptions, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::envelope::{self, Contents};
use consumer::source::{
    Counts, Disposition, InProcessOptions, InProcessQueue, Outgoing, Queue, Receipt, Settlement, Shutdown, Source,
    SourceOptions, Sources,
};
use jiff::Timestamp;
use shared::Event;
use tests::history::History;
use tests::ministack::Ministack;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Receives at once, in both loops.
const RECEIVES: usize = 8;
const PERMITS: u32 = 512;
const ROUNDS: usize = 5;
/// ministack slows down with deeper backlogs.
const SQS_MESSAGES: usize = 900;
const IN_PROCESS_MESSAGES: usize = 200_000;
const VISIBILITY: Duration = Duration::from_secs(60);
/// Messages that are received but not timed: see [`Finish`].
const LAST: usize = 100;
const WAIT: Duration = Duration::from_millis(500);

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
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let options = InProcessOptions { messages_max: bodies.len(), ..InProcessOptions::new("in-process") };
        let queue = InProcessQueue::new(options);
        for body in &bodies {
            queue.send_when_room(Outgoing::new(body.clone())).await.expect("there is room");
        }
        figures.push(work(Arc::new(queue.clone()), bodies.len()).await);
        assert_eq!(queue.counts(), Counts { visible: 0, in_flight: 0 });
    }
    println!(
        "in-process queue: {} events/s through receive, envelope, validation and settlement",
        spread(&mut figures)
    );
}

/// The same beside a bare loop, in turns, on one engine.
async fn against_sqs() {
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let bodies = bodies(SQS_MESSAGES);
    let created = create_queue_with_dead_letter(&client, "bench", VISIBILITY, 5).await.expect("the engine is fresh");
    let queue: Arc<dyn Queue> = Arc::new(created.queue);
    let (mut bare_figures, mut worker_figures, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms connections and engine up, and does not count.
    for round in 0..=ROUNDS {
        fill(queue.as_ref(), &bodies).await;
        let bare = bare(queue.clone(), bodies.len()).await;
        fill(queue.as_ref(), &bodies).await;
        let worker = work(queue.clone(), bodies.len()).await;
        if round > 0 {
            bare_figures.push(bare);
            worker_figures.push(worker);
            ratios.push(worker / bare);
        }
    }
    println!("ministack, bare receive and delete: {} messages/s", spread(&mut bare_figures));
    println!("ministack, worker without scoring:  {} messages/s", spread(&mut worker_figures));
    ratios.sort_by(f64::total_cmp);
    let (median, least) = (ratios[ratios.len() / 2], ratios[0]);
    println!("worker / bare: median {median:.2}, least {least:.2} of {ROUNDS} alternating rounds");
}

async fn fill(queue: &dyn Queue, bodies: &[String]) {
    for batch in bodies.chunks(10) {
        let batch: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
        assert!(queue.send(&batch).await.expect("it answers").iter().all(Result::is_ok));
    }
}

/// Counts confirmed deletes, and tells when there are enough. The end of a run, where
/// both loops wait for messages that do not come, is not what is asked.
struct Finish {
    left: AtomicUsize,
    reached: Notify,
}

impl Finish {
    fn after(count: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(count), reached: Notify::new() })
    }

    fn confirm(&self, count: usize) {
        let before =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(count)));
        if before.is_ok_and(|before| before > 0 && before <= count) {
            self.reached.notify_one();
        }
    }
}

/// Messages a second of the worker's source, with as many in work as there are permits.
async fn work(queue: Arc<dyn Queue>, count: usize) -> f64 {
    let dead_letters = Arc::new(InProcessQueue::new(InProcessOptions::new("dead")));
    let options = SourceOptions { permits: PERMITS, receives_max: RECEIVES, wait: WAIT, ..SourceOptions::default() };
    let (enough, finish) = (count - LAST, Finish::after(count - LAST));
    let began_at = Instant::now();
    let mut sources = Sources::one(Source::start(queue, dead_letters, options, Shutdown::new()));
    let confirm = finish.clone();
    let working = tokio::spawn(async move {
        let mut in_work = JoinSet::new();
        for _ in 0..count {
            let delivery = sources.next().await.expect("no shutdown yet");
            let confirm = confirm.clone();
            in_work.spawn(async move {
                let opened = envelope::open(delivery.message.body.as_bytes());
                let Ok(Contents::Event(event)) = opened else { panic!("the history has plain events only") };
                Event::from_value(event, Timestamp::now()).expect("the history has no poison");
                assert_eq!(delivery.settle(Disposition::Delete).await, Settlement::Deleted);
                confirm.confirm(1);
            });
            while in_work.try_join_next().is_some() {}
        }
        in_work.join_all().await;
        sources.drain(VISIBILITY).await;
    });
    finish.reached.notified().await;
    let took = began_at.elapsed();
    working.await.expect("the worker does not panic");
    enough as f64 / took.as_secs_f64()
}

/// Messages a second of loops that receive and delete, and do nothing else.
async fn bare(queue: Arc<dyn Queue>, count: usize) -> f64 {
    let (enough, finish) = (count - LAST, Finish::after(count - LAST));
    let left = Arc::new(AtomicUsize::new(count));
    let began_at = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..RECEIVES {
        let (queue, left, finish) = (queue.clone(), left.clone(), finish.clone());
        loops.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let messages = queue.receive(10, WAIT).await.expect("it answers");
                if messages.is_empty() {
                    continue;
                }
                let receipts: Vec<Receipt> = messages.into_iter().map(|message| message.receipt).collect();
                queue.delete(&receipts).await.expect("it answers");
                left.fetch_sub(receipts.len(), Ordering::Relaxed);
                finish.confirm(receipts.len());
            }
        });
    }
    finish.reached.notified().await;
    let took = began_at.elapsed();
    loops.join_all().await;
    enough as f64 / took.as_secs_f64()
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
