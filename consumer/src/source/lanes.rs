//! The work behind [`super::settle`]: batches are collected, sent, and each entry's
//! result is checked.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dead_letters::batches;
use super::drain::Shutdown;
use super::lease::Lease;
use super::order::Successor;
use super::park::Parked;
use super::permit::Permit;
use super::queue::{BATCH_MAX, Message, Outcome, Outgoing, Queue, QueueError, Receipt, VisibilityChange, with_causes};
use super::retry::{REQUEST_BACKOFF, retry_delay};
use super::settle::{SettleOptions, Settlement};
use crate::fault::{Fault, Faulty};
use crate::metric;

/// Unbounded, but every entry carries a permit, and those are bounded.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) deletes: mpsc::UnboundedSender<Entry>,
    pub(super) delays: mpsc::UnboundedSender<Entry>,
    pub(super) parkings: mpsc::UnboundedSender<Parking>,
    pub(super) counters: Arc<Settled>,
    pub(super) dropped: metrics::Counter,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) receipt: Receipt,
    /// None deletes.
    pub(super) timeout: Option<Duration>,
    /// What success is called.
    pub(super) settlement: Settlement,
    pub(super) lease: Option<Lease>,
    pub(super) ticket: Ticket,
}

#[derive(Debug)]
pub(super) struct Parking {
    pub(super) message: Message,
    pub(super) reason: String,
    pub(super) stage: &'static str,
    pub(super) entry: Entry,
}

/// Reports the settlement once, whatever happens to the entry; the permit goes home first.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) settled: Arc<Settled>,
    pub(super) permit: Option<Permit>,
    pub(super) successor: Option<Successor>,
    pub(super) done: Option<oneshot::Sender<Settlement>>,
}

impl Ticket {
    fn finish(mut self, settlement: Settlement) {
        self.report(settlement);
    }

    fn report(&mut self, settlement: Settlement) {
        if let Some(permit) = self.permit.take() {
            self.settled.count(settlement);
            drop(permit);
        }
        if let Some(successor) = self.successor.take() {
            successor.hear_of(settlement);
        }
        if let Some(done) = self.done.take() {
            // Nobody has to listen.
            let _ = done.send(settlement);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.report(Settlement::Unsettled);
    }
}

#[derive(Debug)]
pub(super) struct Settled {
    counters: [(Settlement, metrics::Counter); 6],
}

impl Settled {
    pub(super) fn new(queue: &str) -> Self {
        use Settlement::{Delayed, Deleted, Expired, Parked, Released, Unsettled};
        Self {
            counters: [Deleted, Delayed, Released, Parked, Expired, Unsettled].map(|settlement| {
                let labels: metric::Labels = &[("queue", queue), ("settlement", &settlement.to_string())];
                (settlement, metric::SETTLED.counter(labels))
            }),
        }
    }

    fn count(&self, settlement: Settlement) {
        for (_, counter) in self.counters.iter().filter(|(counted, _)| *counted == settlement) {
            counter.increment(1);
        }
    }
}

impl Lanes {
    // A lane that has closed drops the entry, whose ticket then says that it is unsettled.
    pub(super) fn delete(&self, entry: Entry) {
        let _ = self.deletes.send(entry);
    }

    pub(super) fn delay(&self, entry: Entry) {
        let _ = self.delays.send(entry);
    }

    pub(super) fn park(&self, parking: Parking) {
        let _ = self.parkings.send(parking);
    }
}

pub(super) fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        tracing::error!(%panic, "a settlement task has panicked; its messages come back by their visibility timeouts");
    }
}

/// Runs `execute` on each batch, a few at a time, until `closed` is cancelled and everything
/// received has been executed.
pub(super) async fn run_lane<E, F>(
    mut batches: Batches<E>,
    closed: CancellationToken,
    desk: Arc<Desk>,
    execute: fn(Arc<Desk>, Vec<E>) -> F,
) where
    E: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        let batch = batches.next(&closed).await;
        if batch.is_empty() {
            break;
        }
        while running.len() >= desk.options.requests_max.max(1) {
            if let Some(ended) = running.join_next().await {
                note_panic(ended);
            }
        }
        running.spawn(execute(desk.clone(), batch));
        while let Some(ended) = running.try_join_next() {
            note_panic(ended);
        }
    }
    while let Some(ended) = running.join_next().await {
        note_panic(ended);
    }
}

/// Collects the entries of a lane into batches.
pub(super) struct Batches<E> {
    entries: mpsc::UnboundedReceiver<E>,
    /// Entries that wait for no more.
    full: usize,
    /// Longest wait of the first of a batch. None once a stop has begun: what is waited for
    /// then is the end.
    linger: Duration,
    stop: Shutdown,
}

impl<E> Batches<E> {
    pub(super) fn of(entries: mpsc::UnboundedReceiver<E>, full: usize, linger: Duration, stop: &Shutdown) -> Self {
        Self { entries, full: full.clamp(1, BATCH_MAX), linger, stop: stop.clone() }
    }

    /// A full batch, or what has come by the end of the linger; empty once the lane is closed
    /// and drained.
    async fn next(&mut self, closed: &CancellationToken) -> Vec<E> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut deadline = None;
        while batch.len() < self.full {
            let room = BATCH_MAX - batch.len();
            let lingered = async {
                match deadline {
                    Some(deadline) => tokio::select! {
                        () = tokio::time::sleep_until(deadline) => {}
                        () = self.stop.begun() => {}
                    },
                    None => std::future::pending().await,
                }
            };
            let is_open = !self.entries.is_closed();
            tokio::select! {
                biased;
                received = self.entries.recv_many(&mut batch, room) => {
                    if received == 0 {
                        break;
                    }
                    deadline.get_or_insert_with(|| Instant::now() + self.linger);
                }
                // Closing lets `recv_many` return what is left, and then zero.
                () = closed.cancelled(), if is_open => self.entries.close(),
                () = lingered => break,
            }
        }
        batch
    }
}

/// What the lanes work with.
pub(super) struct Desk {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) dead_letters: Arc<dyn Queue>,
    pub(super) options: SettleOptions,
    pub(super) shutdown: Shutdown,
    pub(super) lanes: Arc<Lanes>,
}

impl Desk {
    /// Deletes or delays a batch; all entries are of one kind.
    pub(super) async fn acknowledge(self: Arc<Self>, mut entries: Vec<Entry>) {
        for lease in entries.iter_mut().filter_map(|entry| entry.lease.take()) {
            lease.stop().await;
        }
        for attempt in 1..=self.options.tries_max {
            let results = match entries.iter().map(Entry::to_change).collect::<Option<Vec<_>>>() {
                Some(changes) => self.queue.change_visibility(&changes).await,
                None => {
                    let receipts: Vec<Receipt> = entries.iter().map(|entry| entry.receipt.clone()).collect();
                    self.queue.delete(&receipts).await
                }
            };
            entries = self.finish_confirmed(entries, results);
            if entries.is_empty() {
                return;
            }
            self.pause(attempt, "settle", entries.len()).await;
        }
        tracing::error!(
            queue = self.queue.name(),
            messages = entries.len(),
            "messages are not settled; they come back by their visibility timeouts"
        );
    }

    /// Finishes the entries that the queue answered for, and returns the others.
    fn finish_confirmed(
        &self,
        entries: Vec<Entry>,
        results: Result<Vec<Result<Outcome, QueueError>>, QueueError>,
    ) -> Vec<Entry> {
        let results = match results {
            Ok(results) => results,
            Err(error) => {
                self.note_failure(&error);
                return entries;
            }
        };
        let mut failed = Vec::new();
        for (entry, result) in entries.into_iter().zip(results) {
            match result {
                Ok(Outcome::Done) => entry.ticket.finish(entry.settlement),
                Ok(Outcome::Expired) => entry.ticket.finish(Settlement::Expired),
                Err(error) => {
                    self.note_failure(&error);
                    failed.push(entry);
                }
            }
        }
        failed
    }

    /// Sends a batch to the dead-letter queue, and hands on to the deletes what arrived
    /// there. What cannot be sent is delayed: it is tried again with its next receive.
    pub(super) async fn park(self: Arc<Self>, parkings: Vec<Parking>) {
        let now = Timestamp::now();
        let mut unsent: Vec<(Outgoing, Parking)> =
            parkings.into_iter().map(|parking| (self.wrap(&parking, now), parking)).collect();
        for attempt in 1..=self.options.tries_max {
            let mut failed = Vec::new();
            for batch in batches(unsent) {
                failed.extend(self.send_parked(batch).await);
            }
            unsent = failed;
            if unsent.is_empty() {
                return;
            }
            self.pause(attempt, "park", unsent.len()).await;
        }
        for (_, Parking { message, entry, .. }) in unsent {
            tracing::error!(
                queue = self.queue.name(),
                message_id = message.id,
                "a message cannot be parked; it is delayed"
            );
            let delay = retry_delay(message.receive_count, &mut fastrand::Rng::new());
            self.lanes.delay(Entry { timeout: Some(delay), settlement: Settlement::Delayed, ..entry });
        }
    }

    fn wrap(&self, parking: &Parking, now: Timestamp) -> Outgoing {
        let Parking { message, reason, stage, .. } = parking;
        let parked = Parked::new(message, self.queue.name(), stage, reason, &self.options.build, now);
        Outgoing { group: message.group.clone(), ..parked.wrap(&message.body) }
    }

    /// Returns what did not arrive.
    async fn send_parked(&self, batch: Vec<(Outgoing, Parking)>) -> Vec<(Outgoing, Parking)> {
        let (wrapped, parkings): (Vec<Outgoing>, Vec<Parking>) = batch.into_iter().unzip();
        let results = match self.dead_letters.send(&wrapped).await {
            Ok(results) => results,
            Err(error) => {
                self.note_failure(&error);
                return wrapped.into_iter().zip(parkings).collect();
            }
        };
        let mut failed = Vec::new();
        for ((message, parking), result) in wrapped.into_iter().zip(parkings).zip(results) {
            match result {
                Ok(_id) => self.lanes.delete(parking.entry),
                Err(error) => {
                    self.note_failure(&error);
                    failed.push((message, parking));
                }
            }
        }
        failed
    }

    fn note_failure(&self, error: &QueueError) {
        tracing::warn!(queue = self.queue.name(), error = with_causes(error), "a settlement failed");
        if let Fault::Fatal { reason } = error.fault() {
            self.shutdown.fatal(reason);
        }
    }

    async fn pause(&self, attempt: u32, operation: &'static str, entries: usize) {
        if attempt < self.options.tries_max {
            let labels: metric::Labels = &[("queue", self.queue.name()), ("operation", operation)];
            metric::SETTLE_RETRIES.counter(labels).increment(entries as u64);
            tokio::time::sleep(REQUEST_BACKOFF.delay(attempt, &mut fastrand::Rng::new())).await;
        }
    }
}

impl Entry {
    fn to_change(&self) -> Option<VisibilityChange> {
        self.timeout.map(|timeout| VisibilityChange { receipt: self.receipt.clone(), timeout })
    }
}
