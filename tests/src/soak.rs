//! Workers that are killed over and over while a history passes through them.

use std::time::{Duration, Instant};

use consumer::aws::{AwsOptions, CreatedQueue, create_queue_with_dead_letter, sdk_config, sqs_client};
use consumer::source::{BATCH_MAX, Outgoing, Queue};
use consumer::store::Embedded;

use crate::fleet::{FORETOLD, TextModel};
use crate::history::History;
use crate::ministack::Ministack;
use crate::page;
use crate::proxy::Proxy;
use crate::stage::counts;
use crate::trial::{assert_foretold, assert_only_poison};
use crate::worker::{Launch, Worker, WorkerTarget};

const WORKERS: usize = 3;
/// ministack slows down with deeper backlogs.
const BACKLOG_MAX: u64 = 1_000;
/// Messages of the backlog to have before a kill, so that it hits work.
const LOOK_EVERY: usize = 10;
/// Killed workers' messages are back after this.
const LEASE: Duration = Duration::from_secs(5);
/// A kill counts as a receive. One message may meet many here, so that only poison is
/// parked; production's 5 is for kills that are minutes apart.
const RECEIVES_MAX: u32 = 1_000;
/// Longest wait for the last messages; far more than a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for a worker with nothing to do to have its extra polls back.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// How a soak went; it went well, or it panicked.
#[derive(Clone, Debug)]
pub struct Report {
    pub messages: usize,
    pub poison: usize,
    /// Poison that was parked more than once: killed between its parking and its delete.
    pub parked_again: usize,
    pub kills: usize,
    pub took: Duration,
}

/// Three workers on real engines, and what they share.
struct Fleet {
    target: WorkerTarget,
    workers: Vec<Worker>,
    rng: fastrand::Rng,
    kills: usize,
}

impl Fleet {
    async fn start(target: WorkerTarget, seed: u64) -> Self {
        let mut fleet = Self { target, workers: Vec::new(), rng: fastrand::Rng::with_seed(seed), kills: 0 };
        for _ in 0..WORKERS {
            let worker = fleet.launch().await;
            fleet.workers.push(worker);
        }
        fleet
    }

    async fn launch(&self) -> Worker {
        let arguments = ["--lease", "5s", "--concurrency", "16"];
        let launch =
            Launch { program: "foretold-worker", arguments: &arguments, log_filter: "error", ..Launch::default() };
        Worker::launch(&self.target, launch).await
    }

    /// kill -9 of any of them, and a new one in its place.
    async fn kill_one(&mut self) {
        let victim = self.workers.swap_remove(self.rng.usize(..self.workers.len()));
        victim.kill().await;
        self.kills += 1;
        let worker = self.launch().await;
        self.workers.push(worker);
    }

    /// Nothing is in flight in any of them, and each ends in order: with success, which a
    /// worker reports only once all of its permits are home.
    async fn stop(self) {
        for worker in self.workers {
            let idle = tokio::time::timeout(IDLE_TIME_MAX, until_idle(&worker)).await;
            assert!(idle.is_ok(), "a worker with nothing to do is not idle: {}", worker.metrics().await);
            assert!(worker.stop().await.success());
        }
    }
}

/// Returns once nothing is in flight in a worker and one poll holds its permits. The polls
/// that a busy worker sent beside that one are out for up to a poll's time after the last
/// message, so this is awaited.
async fn until_idle(worker: &Worker) {
    loop {
        let page = worker.metrics().await;
        let in_flight = [consumer::metric::EVENTS_IN_WORK, consumer::metric::LEASES_HELD];
        let permits = page::sum(&page, consumer::metric::PERMITS_TAKEN.name);
        if in_flight.iter().all(|gauge| page::sum(&page, gauge.name) == 0.0) && permits <= BATCH_MAX as f64 {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Sends a history of `messages` to three workers, kills one of them after every
/// `kill_every` messages sent, and checks the tables, the dead letters and the gauges.
///
/// # Panics
/// When anything is not as foretold.
pub async fn soak(seed: u64, messages: usize, kill_every: usize) -> Report {
    let (sqs, tables) = (Ministack::start(), Embedded::memory().expect("memory needs nothing"));
    let engines = Proxy::start(&sqs.endpoint_url(), tables.endpoint_url(), |_| None).await;
    let options = AwsOptions { region: None, endpoint_url: Some(sqs.endpoint_url()) };
    let client = sqs_client(&sdk_config(&options).await);
    let created = create_queue_with_dead_letter(&client, "soak", LEASE, RECEIVES_MAX).await;
    let created = created.expect("the engine is fresh");
    let target = WorkerTarget {
        endpoint_url: engines.url().to_owned(),
        catalog_queue_url: created.queue.url().to_owned(),
        dead_letter_queue_url: created.dead_letters.url().to_owned(),
        table_prefix: "soak-".to_owned(),
    };
    let history = History::new(seed, messages);
    let mut fleet = Fleet::start(target, seed).await;
    let began_at = Instant::now();
    feed(&history, &client, &created, &mut fleet, kill_every).await;
    backlog_below(&client, &created, 1).await;
    let (took, kills) = (began_at.elapsed(), fleet.kills);
    fleet.stop().await;
    assert_foretold(&tables.store("soak-"), &TextModel::new(FORETOLD), &history).await;
    let parked_again = assert_only_poison(&created.dead_letters, &history).await;
    Report { messages, poison: history.poison.len(), parked_again, kills, took }
}

async fn feed(
    history: &History,
    client: &aws_sdk_sqs::Client,
    created: &CreatedQueue,
    fleet: &mut Fleet,
    kill_every: usize,
) {
    let mut sent = 0;
    for (number, batch) in history.bodies.chunks(10).enumerate() {
        if number % LOOK_EVERY == 0 {
            // What is sent until the next look must fit below the bound as well.
            backlog_below(client, created, BACKLOG_MAX - 10 * LOOK_EVERY as u64).await;
        }
        let batch: Vec<Outgoing> = batch.iter().map(Outgoing::new).collect();
        assert!(created.queue.send(&batch).await.expect("it answers").iter().all(Result::is_ok));
        sent += batch.len();
        if sent / kill_every > fleet.kills {
            fleet.kill_one().await;
        }
    }
}

async fn backlog_below(client: &aws_sdk_sqs::Client, created: &CreatedQueue, bound: u64) {
    let is_below = async || {
        let (visible, in_flight) = counts(client, created.queue.url()).await;
        visible + in_flight < bound
    };
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_below().await {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    });
    waited.await.expect("the workers keep up");
}

/// As a row of docs/BENCHMARKS.md.
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { messages, poison, parked_again, kills, took } = self;
        let (seconds, events) = (took.as_secs_f64(), *messages as f64);
        let between = seconds / (*kills).max(1) as f64;
        write!(
            f,
            "{messages} messages, {kills} kills (one every {between:.1} s), {seconds:.0} s, {:.0} events/s, \
             tables as foretold, {poison} poison parked, {parked_again} of them more than once",
            events / seconds
        )
    }
}
