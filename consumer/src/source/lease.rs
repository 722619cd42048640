//! Leases: one heartbeat for each queue extends the visibility of every message in the
//! process, from its receive to its settlement, in batches.
//!
//! A lease is stopped, and an extension under way awaited, before the message is deleted
//! or delayed: an extension that arrives after a delay would undo it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pulse::Pulse;
use super::queue::{BATCH_MAX, Outcome, Queue, QueueError, Receipt, VISIBILITY_MAX, VisibilityChange, with_causes};
use crate::metric;

/// Extensions on the wire at once; with ten messages each, enough for thousands in
/// flight at a third of any visibility timeout in use.
const CONCURRENT_EXTENSIONS_MAX: usize = 8;
/// Shortest time between two extensions of a message, however short its timeout.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The leases of one queue. Cloning gives another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Leases {
    inner: Arc<Inner>,
}

/// One message's lease; ends when dropped. Use [`Lease::stop`] before a delete or delay.
#[derive(Debug)]
pub struct Lease {
    id: u64,
    lost: CancellationToken,
    inner: Arc<Inner>,
}

/// The task that extends; ends when stopped or dropped.
#[derive(Debug)]
pub struct Heartbeat {
    stop: DropGuard,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    queue: Arc<dyn Queue>,
    visibility: Duration,
    state: Mutex<State>,
    /// A first lease is held, and the heartbeat must leave its sleep.
    woken: Notify,
    /// An extension has ended, well or not.
    extended: Notify,
    pulse: Pulse,
    held_gauge: metrics::Gauge,
    extended_count: metrics::Counter,
    lost_count: metrics::Counter,
    error_count: metrics::Counter,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    held: HashMap<u64, Held>,
    /// On the wire now. An id may be here and no longer in `held`.
    extending: HashSet<u64>,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    received_at: Instant,
    extend_at: Instant,
    expires_at: Instant,
    lost: CancellationToken,
}

impl Leases {
    /// Starts the heartbeat of a queue; `pulse` beats with each answer to it.
    pub fn start(queue: Arc<dyn Queue>, pulse: Pulse) -> (Self, Heartbeat) {
        let labels: metric::Labels = &[("queue", queue.name())];
        let inner = Arc::new(Inner {
            visibility: queue.visibility_timeout(),
            state: Mutex::default(),
            woken: Notify::new(),
            extended: Notify::new(),
            pulse,
            held_gauge: metric::LEASES_HELD.gauge(labels),
            extended_count: metric::LEASES_EXTENDED.counter(labels),
            lost_count: metric::LEASES_LOST.counter(labels),
            error_count: metric::LEASE_ERRORS.counter(labels),
            queue,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(inner.clone().beat(stop.clone()));
        (Self { inner }, Heartbeat { stop: stop.drop_guard(), task })
    }

    /// Holds a message from its receive on.
    pub fn hold(&self, receipt: Receipt, received_at: Instant) -> Lease {
        let lost = CancellationToken::new();
        let held = Held {
            receipt,
            received_at,
            extend_at: received_at + self.inner.interval(),
            expires_at: received_at + self.inner.visibility,
            lost: lost.clone(),
        };
        let mut state = self.inner.state();
        let id = state.next_id;
        state.next_id += 1;
        let first = state.held.is_empty();
        state.held.insert(id, held);
        drop(state);
        self.inner.held_gauge.increment(1.0);
        if first {
            self.inner.woken.notify_one();
        }
        Lease { id, lost, inner: self.inner.clone() }
    }

    /// Takes every lease from its holder: each is lost to it, and no extension is under
    /// way when this returns the receipts.
    pub async fn surrender(&self) -> Vec<Receipt> {
        let taken: Vec<(u64, Held)> = self.inner.state().held.drain().collect();
        self.inner.held_gauge.decrement(taken.len() as f64);
        let mut receipts = Vec::with_capacity(taken.len());
        for (id, held) in taken {
            held.lost.cancel();
            self.inner.not_extending(id).await;
            receipts.push(held.receipt);
        }
        receipts
    }
}

impl Lease {
    /// Ends the lease; returns once no extension of it is under way.
    pub async fn stop(self) {
        self.inner.release(self.id);
        self.inner.not_extending(self.id).await;
    }

    /// Cancelled when the lease is lost, not when it ends in order.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.release(self.id);
    }
}

impl Heartbeat {
    /// Ends the heartbeat after the extensions under way.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(panic) = self.task.await {
            tracing::error!(%panic, "the heartbeat had ended before its time");
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }

    /// A third of the timeout leaves two more tries before a message is lost.
    fn interval(&self) -> Duration {
        (self.visibility / 3).max(INTERVAL_MIN)
    }

    /// What is due this soon is extended together with what is due now, for fuller batches.
    fn slack(&self) -> Duration {
        self.interval() / 4
    }

    fn release(&self, id: u64) {
        if self.state().held.remove(&id).is_some() {
            self.held_gauge.decrement(1.0);
        }
    }

    async fn not_extending(&self, id: u64) {
        loop {
            let mut extended = std::pin::pin!(self.extended.notified());
            extended.as_mut().enable();
            if !self.state().extending.contains(&id) {
                return;
            }
            extended.await;
        }
    }

    async fn beat(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = self.state().held.values().map(|held| held.extend_at).min();
            let due = async {
                match next {
                    // A new lease need not wake us: it is due after a whole interval, and
                    // no other sleeps longer.
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due => self.extend_due().await,
                () = self.woken.notified() => {}
            }
        }
    }

    async fn extend_due(&self) {
        let due = self.take_due(Instant::now());
        futures::stream::iter(due.chunks(BATCH_MAX))
            .for_each_concurrent(CONCURRENT_EXTENSIONS_MAX, |batch| self.extend(batch))
            .await;
    }

    /// Marks what is due as being extended, and what has expired as lost.
    fn take_due(&self, now: Instant) -> Vec<(u64, VisibilityChange)> {
        let mut state = self.state();
        let expired: Vec<u64> =
            state.held.iter().filter(|(_, held)| held.expires_at <= now).map(|(id, _)| *id).collect();
        for id in expired {
            self.lose(&mut state, id);
        }
        let mut due = Vec::new();
        for (id, held) in &mut state.held {
            if held.extend_at > now + self.slack() {
                continue;
            }
            let left = VISIBILITY_MAX.saturating_sub(now.duration_since(held.received_at));
            if left.is_zero() {
                // The queue extends no further; the message is ours until it expires.
                held.extend_at = held.expires_at;
                continue;
            }
            let change = VisibilityChange { receipt: held.receipt.clone(), timeout: self.visibility.min(left) };
            due.push((*id, change));
        }
        state.extending.extend(due.iter().map(|(id, _)| *id));
        due
    }

    async fn extend(&self, batch: &[(u64, VisibilityChange)]) {
        let _under_way = UnderWay { inner: self, batch };
        let changes: Vec<VisibilityChange> = batch.iter().map(|(_, change)| change.clone()).collect();
        // The new timeout counts from the request at the earliest.
        let asked_at = Instant::now();
        match self.queue.change_visibility(&changes).await {
            Ok(results) => {
                self.pulse.beat();
                let mut results = results.into_iter();
                for (id, change) in batch {
                    match results.next() {
                        Some(result) => self.note(*id, asked_at, change.timeout, result),
                        None => self.try_again(*id),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(queue = self.queue.name(), error = with_causes(&error), "leases are not extended");
                for (id, _) in batch {
                    self.try_again(*id);
                }
            }
        }
    }

    fn note(&self, id: u64, asked_at: Instant, timeout: Duration, result: Result<Outcome, QueueError>) {
        match result {
            Ok(Outcome::Done) => {
                self.extended_count.increment(1);
                if let Some(held) = self.state().held.get_mut(&id) {
                    held.expires_at = asked_at + timeout;
                    held.extend_at = (asked_at + self.interval()).min(held.expires_at);
                }
            }
            Ok(Outcome::Expired) => self.lose(&mut self.state(), id),
            Err(error) => {
                tracing::warn!(queue = self.queue.name(), error = with_causes(&error), "a lease is not extended");
                self.try_again(id);
            }
        }
    }

    fn try_again(&self, id: u64) {
        self.error_count.increment(1);
        if let Some(held) = self.state().held.get_mut(&id) {
            // Not later than the expiry, so that a loss is noticed when it happens.
            held.extend_at = (Instant::now() + self.slack() * 2).min(held.expires_at);
        }
    }

    fn lose(&self, state: &mut State, id: u64) {
        let Some(held) = state.held.remove(&id) else { return };
        held.lost.cancel();
        self.held_gauge.decrement(1.0);
        self.lost_count.increment(1);
        tracing::warn!(queue = self.queue.name(), "a lease was lost: the message may be delivered to another worker");
    }
}

/// Says that an extension has ended even where its task panics, so that nobody waits for
/// it in vain.
struct UnderWay<'a> {
    inner: &'a Inner,
    batch: &'a [(u64, VisibilityChange)],
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for (id, _) in self.batch {
            state.extending.remove(id);
        }
        drop(state);
        self.inner.extended.notify_waiters();
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
