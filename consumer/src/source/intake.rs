//! Intake: permits first, then a receive, then leases for the whole batch, then the
//! messages in order. One receive waits while the queue is idle; after each that brings
//! something there are more at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dead_letters::DeadLetters;
use super::drain::Shutdown;
use super::lanes::note_panic;
use super::lease::{Heartbeat, Leases};
use super::order::{self, Predecessor};
use super::permit::{Permit, Permits};
use super::pulse::Pulse;
use super::queue::{BATCH_MAX, Message, Queue, QueueError, WAIT_MAX, with_causes};
use super::retry::Backoff;
use super::settle::{Claim, Disposition, SettleOptions, Settlement, Settler, SettlerTasks};
use crate::fault::{Fault, Faulty};
use crate::lane::Lane;
use crate::metric;

/// Pause after failed receives.
const RECEIVE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
/// Longest pause that a [`Brake`] makes, so that a wrong hint does not stop a worker.
pub const BRAKE_MAX: Duration = Duration::from_secs(30);

/// How much a source takes on.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// What its messages count to.
    pub lane: Lane,
    /// Most messages in the process at once, those that wait for their turn included.
    pub permits: u32,
    /// How long a receive waits for a message; also the longest that a stop waits for
    /// an idle SQS queue. At most 20 s.
    pub wait: Duration,
    /// Most receives at once.
    pub receives_max: usize,
    pub settle: SettleOptions,
    /// Pressed by whoever finds that the rest cannot keep up. Sources may share one.
    pub brake: Brake,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            lane: Lane::Catalog,
            permits: 256,
            wait: WAIT_MAX,
            receives_max: 8,
            settle: SettleOptions::default(),
            brake: Brake::default(),
        }
    }
}

/// One message in the process, with everything that must end when it does.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    /// Name of the queue that it came from.
    pub queue: Arc<str>,
    pub lane: Lane,
    pub received_at: Instant,
    /// Where single events of the message are parked.
    pub dead_letters: DeadLetters,
    in_order: bool,
    predecessor: Predecessor,
    claim: Claim,
}

impl Delivery {
    /// Waits until the messages before this one in its group of a FIFO queue are settled;
    /// no time at all elsewhere. False when one of them failed: release this one. To be
    /// asked once.
    pub async fn comes_next(&mut self) -> bool {
        self.predecessor.is_gone().await
    }

    /// Hands the message over for settlement, at once; the returned future resolves when
    /// the queue has confirmed, and need not be awaited.
    pub fn settle(self, disposition: Disposition) -> impl Future<Output = Settlement> {
        self.claim.settle(self.message, disposition)
    }

    /// True when the order of events must be kept: its queue is a FIFO queue.
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// True when another message of its group waits until this one is settled.
    pub fn is_waited_for(&self) -> bool {
        self.claim.is_waited_for()
    }

    /// True once the message may be with somebody else: work not begun should not begin.
    pub fn is_lost(&self) -> bool {
        self.claim.lost().is_cancelled()
    }

    /// Cancelled when the message may be with somebody else.
    pub fn lost(&self) -> &CancellationToken {
        self.claim.lost()
    }
}

/// Slows intake down, as when a table throttles. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Brake {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Brake {
    /// No receive begins for this long, at most [`BRAKE_MAX`], from now.
    pub fn press(&self, pause: Duration) {
        let until = Instant::now() + pause.min(BRAKE_MAX);
        let mut held = self.until.lock().expect("no code panics while it holds the lock");
        *held = Some(held.map_or(until, |before| before.max(until)));
    }

    async fn released(&self) {
        loop {
            let until = *self.until.lock().expect("no code panics while it holds the lock");
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }
}

/// A queue being consumed.
#[derive(Debug)]
pub struct Source {
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) permits: Permits,
    pub(super) leases: Leases,
    pub(super) heartbeat: Heartbeat,
    pub(super) settling: SettlerTasks,
    pub(super) intake: JoinHandle<()>,
    pub(super) shutdown: Shutdown,
    pub(super) given_back: Vec<Delivery>,
    pulse: Pulse,
}

impl Source {
    /// Starts to receive from `queue` until `shutdown` begins; poison goes to
    /// `dead_letters`. Must be called within a tokio runtime.
    pub fn start(
        queue: Arc<dyn Queue>,
        dead_letters: Arc<dyn Queue>,
        options: SourceOptions,
        shutdown: Shutdown,
    ) -> Self {
        let pulse = Pulse::default();
        let permits = Permits::new(queue.name(), options.permits);
        let (leases, heartbeat) = Leases::start(queue.clone(), pulse.clone());
        let settle = options.settle.clone();
        let (settler, settling) =
            Settler::start(queue.clone(), dead_letters.clone(), settle, permits.batch(), shutdown.clone());
        // Each message has a permit, so the channel is never full.
        let (sender, deliveries) = mpsc::channel(permits.total() as usize);
        let dead_letters = DeadLetters {
            queue: dead_letters,
            origin: queue.name().into(),
            build: options.settle.build.as_str().into(),
        };
        let intake = Intake {
            name: queue.name().into(),
            lane: options.lane,
            queue: queue.clone(),
            permits: permits.clone(),
            leases: leases.clone(),
            settler,
            dead_letters,
            shutdown: shutdown.clone(),
            deliveries: sender,
            brake: options.brake,
            pulse: pulse.clone(),
            failures: AtomicU32::new(0),
            counters: Counters::new(queue.name()),
            wait: options.wait.min(WAIT_MAX),
        };
        let intake = tokio::spawn(Arc::new(intake).run(options.receives_max.max(1)));
        let given_back = Vec::new();
        Self { deliveries, queue, permits, leases, heartbeat, settling, intake, shutdown, given_back, pulse }
    }

    /// The next message; none once the shutdown has begun. What was received by then and
    /// not taken from here is released by [`Source::drain`].
    pub async fn next(&mut self) -> Option<Delivery> {
        tokio::select! {
            biased;
            () = self.shutdown.begun() => None,
            delivery = self.deliveries.recv() => delivery,
        }
    }

    /// Takes back a message that did not begin before the shutdown did: released before the
    /// polls under way have ended, it would be received by one of them.
    pub fn give_back(&mut self, delivery: Delivery) {
        self.given_back.push(delivery);
    }

    /// Beats whenever the queue answers.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    pub fn permits(&self) -> &Permits {
        &self.permits
    }
}

struct Intake {
    name: Arc<str>,
    lane: Lane,
    queue: Arc<dyn Queue>,
    permits: Permits,
    leases: Leases,
    settler: Settler,
    dead_letters: DeadLetters,
    shutdown: Shutdown,
    deliveries: mpsc::Sender<Delivery>,
    brake: Brake,
    pulse: Pulse,
    /// Receives that failed since the last that did not.
    failures: AtomicU32,
    counters: Counters,
    wait: Duration,
}

/// How one receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// As many as were asked for: there may be more.
    Full,
    Some,
    Nothing,
    /// It failed, or was given up for a shutdown.
    Failed,
}

impl Intake {
    async fn run(self: Arc<Self>, receives_max: usize) {
        let mut receives = JoinSet::new();
        let mut wanted = 1;
        loop {
            while receives.len() < wanted {
                receives.spawn(self.clone().receive_once());
            }
            let ended = tokio::select! {
                biased;
                () = self.shutdown.begun() => break,
                Some(ended) = receives.join_next() => ended,
            };
            wanted = match ended {
                Ok(Received::Full) => (wanted * 2).min(receives_max),
                // SQS often gives less than a batch of what there is.
                Ok(Received::Some) => (wanted + 1).min(receives_max),
                Ok(Received::Nothing | Received::Failed) => 1,
                Err(panic) => {
                    note_panic(Err(panic));
                    1
                }
            };
        }
        // A receive that is dropped may have taken messages, which would then wait out
        // their visibility timeout; so each runs to its end.
        while let Some(ended) = receives.join_next().await {
            note_panic(ended.map(|_| ()));
        }
    }

    async fn receive_once(self: Arc<Self>) -> Received {
        let permits = async {
            self.brake.released().await;
            self.permits.take_up_to(BATCH_MAX).await
        };
        let permits = tokio::select! {
            biased;
            () = self.shutdown.begun() => return Received::Failed,
            permits = permits => permits,
        };
        let receive = self.queue.receive(permits.len(), self.wait);
        let received = if self.queue.receive_is_cancel_safe() {
            tokio::select! {
                biased;
                () = self.shutdown.begun() => return Received::Failed,
                received = receive => received,
            }
        } else {
            receive.await
        };
        match received {
            Ok(messages) => self.pass_on(messages, permits).await,
            Err(error) => {
                drop(permits);
                self.back_off(&error).await;
                Received::Failed
            }
        }
    }

    async fn pass_on(&self, messages: Vec<Message>, permits: Vec<Permit>) -> Received {
        let received_at = Instant::now();
        self.pulse.beat();
        self.failures.store(0, Ordering::Relaxed);
        let received = match messages.len() {
            0 => Received::Nothing,
            count if count == permits.len() => Received::Full,
            _ => Received::Some,
        };
        self.counters.count(received, messages.len());
        // All leases first: the last message of the batch waits as long as the first.
        let in_order = self.queue.is_fifo();
        let linked = if in_order {
            order::link(messages)
        } else {
            messages.into_iter().map(|message| (message, Predecessor::default(), None)).collect()
        };
        let deliveries: Vec<Delivery> = linked
            .into_iter()
            .zip(permits)
            .map(|((message, predecessor, successor), permit)| {
                let lease = self.leases.hold(message.receipt.clone(), received_at);
                let claim = Claim::new(&message, lease, permit, self.settler.clone(), successor);
                Delivery {
                    message,
                    queue: self.name.clone(),
                    lane: self.lane,
                    received_at,
                    dead_letters: self.dead_letters.clone(),
                    in_order,
                    predecessor,
                    claim,
                }
            })
            .collect();
        for delivery in deliveries {
            // Where the source is gone, the delivery comes back and asks for a retry.
            if self.deliveries.send(delivery).await.is_err() {
                return Received::Failed;
            }
        }
        received
    }

    async fn back_off(&self, error: &QueueError) {
        let fault = error.fault();
        self.counters.count_error(&fault);
        if let Fault::Fatal { reason } = fault {
            tracing::error!(queue = &*self.name, error = with_causes(error), "intake stops");
            self.shutdown.fatal(reason);
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let pause = RECEIVE_BACKOFF.delay(failures, &mut fastrand::Rng::new());
        tracing::warn!(queue = &*self.name, error = with_causes(error), failures, ?pause, "a receive failed");
        tokio::select! {
            () = self.shutdown.begun() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Counters {
    messages: metrics::Counter,
    full: metrics::Counter,
    some: metrics::Counter,
    empty: metrics::Counter,
    retry_errors: metrics::Counter,
    fatal_errors: metrics::Counter,
}

impl Counters {
    fn new(queue: &str) -> Self {
        let receives = |result| metric::RECEIVES.counter(&[("queue", queue), ("result", result)]);
        let errors = |fault| metric::RECEIVE_ERRORS.counter(&[("queue", queue), ("fault", fault)]);
        Self {
            messages: metric::MESSAGES_RECEIVED.counter(&[("queue", queue)]),
            full: receives("full"),
            some: receives("some"),
            empty: receives("empty"),
            retry_errors: errors("retry"),
            fatal_errors: errors("fatal"),
        }
    }

    fn count(&self, received: Received, messages: usize) {
        self.messages.increment(messages as u64);
        match received {
            Received::Full => self.full.increment(1),
            Received::Some => self.some.increment(1),
            Received::Nothing | Received::Failed => self.empty.increment(1),
        }
    }

    fn count_error(&self, fault: &Fault) {
        match fault {
            Fault::Fatal { .. } => self.fatal_errors.increment(1),
            Fault::Retry { .. } | Fault::Poison { .. } => self.retry_errors.increment(1),
        }
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
