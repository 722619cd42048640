//! A queue inside the process that obeys SQS's contract: visibility timeouts really
//! expire, receives are counted, and what was received too often moves to the
//! dead-letter queue. It reads tokio's clock, so that paused-time tests drive it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::{
    MESSAGE_BYTES_MAX, Message, Outcome, Outgoing, Queue, QueueError, Receipt, VISIBILITY_MAX, VisibilityChange,
    check_batch,
};

/// Ids are unique in the process, so that a message keeps its id in the dead-letter
/// queue, as in SQS.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// How an [`InProcessQueue`] behaves.
#[derive(Clone, Debug)]
pub struct InProcessOptions {
    pub name: String,
    pub visibility_timeout: Duration,
    /// Bound on messages held, visible and in flight; a send beyond it is refused.
    pub messages_max: usize,
    pub redrive: Option<Redrive>,
    /// Keeps the order of each message group, as SQS's FIFO queues do. It does not
    /// deduplicate.
    pub fifo: bool,
}

impl InProcessOptions {
    /// 30 s of visibility (SQS's default), 100,000 messages, no dead-letter queue, no order.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            visibility_timeout: Duration::from_secs(30),
            messages_max: 100_000,
            redrive: None,
            fifo: false,
        }
    }
}

/// Where a message goes that was received `receives_max` times without being deleted.
#[derive(Clone, Debug)]
pub struct Redrive {
    pub dead_letters: InProcessQueue,
    pub receives_max: u32,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub visible: usize,
    pub in_flight: usize,
}

/// Cloning gives another handle on the same queue.
#[derive(Clone)]
pub struct InProcessQueue {
    inner: Arc<Inner>,
}

struct Inner {
    options: InProcessOptions,
    state: Mutex<State>,
    /// Something may have become visible.
    arrived: Notify,
    /// Something was deleted or moved away.
    room: Notify,
}

/// Every id in `messages` is in exactly one of `visible` and `in_flight`.
#[derive(Default)]
struct State {
    messages: HashMap<u64, Stored>,
    /// By place in the line.
    visible: BTreeMap<u64, u64>,
    /// By the end of the visibility timeout.
    in_flight: BTreeSet<(Instant, u64)>,
    /// Place of whoever joins the line next.
    next_place: u64,
    /// See [`InProcessOptions::fifo`].
    fifo: bool,
}

struct Stored {
    body: String,
    attributes: BTreeMap<String, String>,
    group: Option<String>,
    /// In the line of visible messages. In a FIFO queue it is kept for life.
    place: u64,
    sent_at: Timestamp,
    receive_count: u32,
    /// Set while in flight.
    visible_at: Option<Instant>,
}

impl InProcessQueue {
    pub fn new(options: InProcessOptions) -> Self {
        let state = Mutex::new(State { fifo: options.fifo, ..State::default() });
        let inner = Inner { options, state, arrived: Notify::new(), room: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    pub fn counts(&self) -> Counts {
        let mut state = self.state();
        state.expire(Instant::now());
        Counts { visible: state.visible.len(), in_flight: state.in_flight.len() }
    }

    /// Sends one message and waits for room where the queue is full; gives its id.
    pub async fn send_when_room(&self, message: Outgoing) -> Result<String, QueueError> {
        loop {
            let mut room = std::pin::pin!(self.inner.room.notified());
            room.as_mut().enable();
            match self.push(&message) {
                Err(QueueError::Full { .. }) => room.await,
                sent => return sent,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().expect("no code panics while it holds the lock")
    }

    fn push(&self, message: &Outgoing) -> Result<String, QueueError> {
        let bytes = message.size_bytes();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(QueueError::TooLong { queue: self.inner.options.name.clone(), bytes });
        }
        let stored = Stored {
            body: message.body.clone(),
            attributes: message.attributes.clone(),
            group: message.group.clone(),
            place: 0,
            sent_at: Timestamp::now(),
            receive_count: 0,
            visible_at: None,
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.store(id, stored).map_err(|_refused| QueueError::Full {
            queue: self.inner.options.name.clone(),
            messages_max: self.inner.options.messages_max,
        })?;
        Ok(message_id(id))
    }

    /// Gives the message back where the queue is full.
    fn store(&self, id: u64, stored: Stored) -> Result<(), Stored> {
        let mut state = self.state();
        if state.messages.len() >= self.inner.options.messages_max {
            return Err(stored);
        }
        state.join_line(id, stored);
        drop(state);
        self.inner.arrived.notify_waiters();
        Ok(())
    }

    /// Leases up to `max` visible messages, or says when the next timeout ends.
    fn take(&self, max: usize) -> Result<Vec<Message>, Option<Instant>> {
        let now = Instant::now();
        let mut state = self.state();
        state.expire(now);
        let held = state.held_groups();
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some((place, id)) = state.first_in_line(&held) else { break };
            state.visible.remove(&place);
            if !self.redrive(&mut state, id) {
                taken.push(state.lease(id, now + self.inner.options.visibility_timeout));
            }
        }
        if taken.is_empty() { Err(state.in_flight.first().map(|(visible_at, _)| *visible_at)) } else { Ok(taken) }
    }

    /// Moves a message that used up its receives. A full dead-letter queue leaves it
    /// here for another receive: late is better than lost.
    fn redrive(&self, state: &mut State, id: u64) -> bool {
        let Some(redrive) = &self.inner.options.redrive else { return false };
        let Some(stored) = state.messages.remove(&id) else { return true };
        if stored.receive_count < redrive.receives_max {
            state.messages.insert(id, stored);
            return false;
        }
        match redrive.dead_letters.store(id, stored) {
            Ok(()) => {
                self.inner.room.notify_waiters();
                true
            }
            Err(refused) => {
                state.messages.insert(id, refused);
                false
            }
        }
    }

    fn delete_one(&self, receipt: &Receipt) -> Outcome {
        let mut state = self.state();
        let Some(id) = state.standing(receipt) else { return Outcome::Expired };
        state.remove(id);
        drop(state);
        self.inner.room.notify_waiters();
        if self.inner.options.fifo {
            // The rest of its group may be received now.
            self.inner.arrived.notify_waiters();
        }
        Outcome::Done
    }

    fn change_one(&self, change: &VisibilityChange) -> Outcome {
        let now = Instant::now();
        let mut state = self.state();
        state.expire(now);
        let in_flight = |id: &u64| state.messages.get(id).is_some_and(|stored| stored.visible_at.is_some());
        let Some(id) = state.standing(&change.receipt).filter(in_flight) else { return Outcome::Expired };
        state.hide_until(id, now + change.timeout.min(VISIBILITY_MAX));
        state.expire(now);
        drop(state);
        // Waiting receives must learn of the message, or of its earlier return.
        self.inner.arrived.notify_waiters();
        Outcome::Done
    }
}

impl State {
    /// At the end.
    fn join_line(&mut self, id: u64, mut stored: Stored) {
        stored.place = self.next_place;
        self.next_place += 1;
        self.visible.insert(stored.place, id);
        self.messages.insert(id, stored);
    }

    /// Place and id of the first visible message whose group is not held.
    fn first_in_line(&self, held: &HashSet<String>) -> Option<(u64, u64)> {
        let is_free =
            |id: &u64| held.is_empty() || !self.messages[id].group.as_ref().is_some_and(|group| held.contains(group));
        self.visible.iter().find(|(_, id)| is_free(id)).map(|(place, id)| (*place, *id))
    }

    /// Groups that nothing is received of, since some of their messages are in flight.
    fn held_groups(&self) -> HashSet<String> {
        if !self.fifo {
            return HashSet::new();
        }
        self.in_flight.iter().filter_map(|(_, id)| self.messages[id].group.clone()).collect()
    }

    /// Makes visible what has come to the end of its timeout.
    fn expire(&mut self, now: Instant) {
        while let Some((visible_at, id)) = self.in_flight.first().copied().filter(|(at, _)| *at <= now) {
            self.in_flight.remove(&(visible_at, id));
            let Some(mut stored) = self.messages.remove(&id) else { continue };
            stored.visible_at = None;
            if self.fifo {
                self.visible.insert(stored.place, id);
                self.messages.insert(id, stored);
            } else {
                self.join_line(id, stored);
            }
        }
    }

    fn lease(&mut self, id: u64, visible_at: Instant) -> Message {
        let stored = self.messages.get_mut(&id).expect("a visible id has its message");
        stored.receive_count += 1;
        stored.visible_at = Some(visible_at);
        let message = Message {
            id: message_id(id),
            body: stored.body.clone(),
            receipt: receipt(id, stored.receive_count),
            receive_count: stored.receive_count,
            sent_at: Some(stored.sent_at),
            attributes: stored.attributes.clone(),
            group: stored.group.clone(),
        };
        self.in_flight.insert((visible_at, id));
        message
    }

    /// The message that this receipt may still settle: as in SQS, until it is received
    /// again or gone, even when its timeout has ended.
    fn standing(&self, receipt: &Receipt) -> Option<u64> {
        let (id, receive_count) = receipt.as_str().split_once('.')?;
        let id: u64 = id.parse().ok()?;
        let receive_count: u32 = receive_count.parse().ok()?;
        self.messages.get(&id).filter(|stored| stored.receive_count == receive_count).map(|_| id)
    }

    fn hide_until(&mut self, id: u64, visible_at: Instant) {
        if let Some(stored) = self.messages.get_mut(&id) {
            if let Some(before) = stored.visible_at.replace(visible_at) {
                self.in_flight.remove(&(before, id));
            }
            self.in_flight.insert((visible_at, id));
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(stored) = self.messages.remove(&id) else { return };
        match stored.visible_at {
            Some(visible_at) => {
                self.in_flight.remove(&(visible_at, id));
            }
            // Rare: it is deleted after its timeout ended, before anybody received it.
            None => {
                self.visible.remove(&stored.place);
            }
        }
    }
}

#[async_trait]
impl Queue for InProcessQueue {
    fn name(&self) -> &str {
        &self.inner.options.name
    }

    fn visibility_timeout(&self) -> Duration {
        self.inner.options.visibility_timeout
    }

    fn is_fifo(&self) -> bool {
        self.inner.options.fifo
    }

    /// Nothing is awaited between taking messages and returning them.
    fn receive_is_cancel_safe(&self) -> bool {
        true
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        check_batch(self.name(), "receive", max)?;
        let deadline = Instant::now() + wait;
        loop {
            let mut arrived = std::pin::pin!(self.inner.arrived.notified());
            arrived.as_mut().enable();
            let next_visible_at = match self.take(max) {
                Ok(messages) => return Ok(messages),
                Err(next_visible_at) => next_visible_at,
            };
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            let wake_at = next_visible_at.map_or(deadline, |at| at.min(deadline));
            // A timeout is no failure: it is the moment to look again.
            let _ = tokio::time::timeout_at(wake_at, arrived).await;
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        check_batch(self.name(), "delete", receipts.len())?;
        Ok(receipts.iter().map(|receipt| Ok(self.delete_one(receipt))).collect())
    }

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        check_batch(self.name(), "change_visibility", changes.len())?;
        Ok(changes.iter().map(|change| Ok(self.change_one(change))).collect())
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError> {
        check_batch(self.name(), "send", messages.len())?;
        let bytes = messages.iter().map(Outgoing::size_bytes).sum();
        if messages.len() > 1 && bytes > MESSAGE_BYTES_MAX {
            return Err(QueueError::TooLong { queue: self.name().to_owned(), bytes });
        }
        Ok(messages.iter().map(|message| self.push(message)).collect())
    }
}

impl fmt::Debug for InProcessQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        f.debug_struct("InProcessQueue").field("name", &self.inner.options.name).field("counts", &counts).finish()
    }
}

fn message_id(id: u64) -> String {
    format!("in-process-{id}")
}

fn receipt(id: u64, receive_count: u32) -> Receipt {
    Receipt::new(format!("{id}.{receive_count}"))
}

#[cfg(test)]
#[path = "in_process_tests.rs"]
mod tests;
