//! What becomes of a message at its end: deletes, delays and parkings, in batches of ten
//! with a linger limit, each entry's result checked and failed ones tried again.
//!
//! Three lanes: deletes, delays, and parkings. A parked message is sent to the
//! dead-letter queue first; only a confirmed send hands it on to the deletes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::drain::Shutdown;
use super::lanes::{Batches, Desk, Entry, Lanes, Parking, Settled, Ticket, note_panic, run_lane};
use super::lease::Lease;
use super::order::Successor;
use super::permit::Permit;
use super::queue::{Message, Queue, Receipt};
use super::retry::retry_delay;
use crate::fault::Fault;
use crate::metric;

/// What the pipeline wants done with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is done with.
    Delete,
    /// It failed for now, and becomes visible again after this time.
    RetryAfter(Duration),
    /// It will never succeed: to the dead-letter queue, with the reason.
    Park { reason: String, stage: &'static str },
    /// It was not begun: visible again at once.
    Release,
}

impl Disposition {
    /// What a fault means for the message that met it at `stage` on its
    /// `receive_count`-th receive. A fatal fault gives the message back untouched; that
    /// it must stop intake is the caller's to say ([`Shutdown::fatal`]).
    pub fn of(fault: Fault, stage: &'static str, receive_count: u32, rng: &mut fastrand::Rng) -> Self {
        match fault {
            Fault::Retry { after } => {
                Self::RetryAfter(retry_delay(receive_count, rng).max(after.unwrap_or(Duration::ZERO)))
            }
            Fault::Poison { reason } => Self::Park { reason, stage },
            Fault::Fatal { .. } => Self::Release,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    Deleted,
    Delayed,
    Released,
    /// Confirmed in the dead-letter queue, and deleted.
    Parked,
    /// The receipt had expired: the message is gone, or is delivered to somebody again.
    Expired,
    /// The queue did not confirm in time: the message comes back by its visibility timeout.
    Unsettled,
}

impl fmt::Display for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted",
            Self::Delayed => "delayed",
            Self::Released => "released",
            Self::Parked => "parked",
            Self::Expired => "expired",
            Self::Unsettled => "unsettled",
        })
    }
}

/// How settlements are batched.
#[derive(Clone, Debug)]
pub struct SettleOptions {
    /// Longest wait for a batch of deletes to fill; ends with a stop. Where order is kept it
    /// is `linger`: the rest of a group comes after the delete.
    pub delete_linger: Duration,
    /// Longest wait for a batch of delays or parkings to fill.
    pub linger: Duration,
    /// Requests on the wire at once, for each of deletes, delays and parkings.
    pub requests_max: usize,
    /// Tries of each entry before it is left to its visibility timeout.
    pub tries_max: u32,
    /// Written into parked messages.
    pub build: String,
}

impl Default for SettleOptions {
    fn default() -> Self {
        Self {
            // Full batches from 10 events a second on, which any full load is. The labels are
            // written by then, and the lease is held: waiting costs permits only.
            delete_linger: Duration::from_secs(1),
            linger: Duration::from_millis(100),
            requests_max: 8,
            tries_max: 4,
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The duty to settle one message, with its lease and its permit. Dropped, it asks for a
/// retry: what panicked may do better elsewhere.
#[derive(Debug)]
pub struct Claim {
    duty: Option<Duty>,
    receive_count: u32,
    lost: CancellationToken,
}

#[derive(Debug)]
struct Duty {
    receipt: Receipt,
    lease: Lease,
    permit: Permit,
    settler: Settler,
    successor: Option<Successor>,
}

impl Claim {
    /// `successor` waits for this message in its group.
    pub(super) fn new(
        message: &Message,
        lease: Lease,
        permit: Permit,
        settler: Settler,
        successor: Option<Successor>,
    ) -> Self {
        let lost = lease.lost().clone();
        let duty = Duty { receipt: message.receipt.clone(), lease, permit, settler, successor };
        Self { duty: Some(duty), receive_count: message.receive_count, lost }
    }

    /// Cancelled when the lease is lost: the message may be with somebody else.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// True when the next message of its group waits for this one.
    pub fn is_waited_for(&self) -> bool {
        self.duty.as_ref().is_some_and(|duty| duty.successor.is_some())
    }

    /// Hands the message over for settlement, at once; the returned future resolves when
    /// the queue has confirmed, and need not be awaited. `message` is what the claim is on.
    pub fn settle(mut self, message: Message, disposition: Disposition) -> impl Future<Output = Settlement> {
        let (done, settled) = oneshot::channel();
        if let Some(duty) = self.duty.take() {
            duty.hand_over(Some(message), disposition, Some(done));
        }
        async move { settled.await.unwrap_or(Settlement::Unsettled) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(duty) = self.duty.take() {
            duty.settler.lanes.dropped.increment(1);
            let delay = retry_delay(self.receive_count, &mut fastrand::Rng::new());
            duty.hand_over(None, Disposition::RetryAfter(delay), None);
        }
    }
}

impl Duty {
    fn hand_over(self, message: Option<Message>, disposition: Disposition, done: Option<oneshot::Sender<Settlement>>) {
        let Self { receipt, lease, permit, settler, successor } = self;
        let lanes = settler.lanes;
        let ticket = Ticket { settled: lanes.counters.clone(), permit: Some(permit), successor, done };
        let entry = |timeout, settlement| Entry { receipt, timeout, settlement, lease: Some(lease), ticket };
        match (disposition, message) {
            (Disposition::Delete, _) => lanes.delete(entry(None, Settlement::Deleted)),
            (Disposition::RetryAfter(delay), _) => lanes.delay(entry(Some(delay), Settlement::Delayed)),
            (Disposition::Release, _) => lanes.delay(entry(Some(Duration::ZERO), Settlement::Released)),
            (Disposition::Park { reason, stage }, Some(message)) => {
                lanes.park(Parking { message, reason, stage, entry: entry(None, Settlement::Parked) });
            }
            // Parking is only asked for with a message.
            (Disposition::Park { .. }, None) => lanes.delay(entry(Some(Duration::ZERO), Settlement::Released)),
        }
    }
}

/// Where claims hand their messages over. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Settler {
    lanes: Arc<Lanes>,
}

/// The tasks behind a [`Settler`]; they end by themselves when this is dropped.
#[derive(Debug)]
pub(super) struct SettlerTasks {
    parking_closed: DropGuard,
    closed: DropGuard,
    parking: JoinHandle<()>,
    others: [JoinHandle<()>; 2],
}

impl Settler {
    /// `batch` entries are not kept waiting for more: see [`Permits::batch`].
    ///
    /// [`Permits::batch`]: super::permit::Permits::batch
    pub(super) fn start(
        queue: Arc<dyn Queue>,
        dead_letters: Arc<dyn Queue>,
        options: SettleOptions,
        batch: usize,
        shutdown: Shutdown,
    ) -> (Self, SettlerTasks) {
        let linger = options.linger;
        let delete_linger = if queue.is_fifo() { linger } else { options.delete_linger };
        let (deletes, deletes_in) = mpsc::unbounded_channel();
        let (delays, delays_in) = mpsc::unbounded_channel();
        let (parkings, parkings_in) = mpsc::unbounded_channel();
        let labels: metric::Labels = &[("queue", queue.name())];
        let lanes = Arc::new(Lanes {
            deletes,
            delays,
            parkings,
            counters: Arc::new(Settled::new(queue.name())),
            dropped: metric::DROPPED.counter(labels),
        });
        let stop = shutdown.clone();
        let desk = Arc::new(Desk { queue, dead_letters, options, shutdown, lanes: lanes.clone() });
        let (parking_closed, closed) = (CancellationToken::new(), CancellationToken::new());
        let tasks = SettlerTasks {
            parking: tokio::spawn(run_lane(
                Batches::of(parkings_in, batch, linger, &stop),
                parking_closed.clone(),
                desk.clone(),
                Desk::park,
            )),
            others: [
                tokio::spawn(run_lane(
                    Batches::of(deletes_in, batch, delete_linger, &stop),
                    closed.clone(),
                    desk.clone(),
                    Desk::acknowledge,
                )),
                tokio::spawn(run_lane(
                    Batches::of(delays_in, batch, linger, &stop),
                    closed.clone(),
                    desk,
                    Desk::acknowledge,
                )),
            ],
            parking_closed: parking_closed.drop_guard(),
            closed: closed.drop_guard(),
        };
        (Self { lanes }, tasks)
    }
}

impl SettlerTasks {
    /// Settles what was handed over, without lingering, and ends. What is handed over
    /// later is left to its visibility timeout.
    pub(super) async fn flush(self) {
        // Parkings first: they hand on to the others.
        drop(self.parking_closed);
        note_panic(self.parking.await);
        drop(self.closed);
        for task in self.others {
            note_panic(task.await);
        }
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
