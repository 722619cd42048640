//! Seats at work, which the queues of one process share. A free one goes to the queue whose
//! turn it is; whoever holds one for long gives way to others now and then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio::sync::oneshot;

use super::turns::Turns;
use crate::source::Shutdown;

/// A fixed number of seats. Cloning gives another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Seats {
    state: Arc<Mutex<State>>,
    /// A stop ends every wait: who has no seat by then does not begin.
    shutdown: Shutdown,
}

#[derive(Debug)]
struct State {
    free: usize,
    turns: Turns,
    /// Who waits, by queue; the first has waited longest. Nobody waits while a seat is free.
    waiting: Vec<VecDeque<oneshot::Sender<Seat>>>,
}

/// The right to work on one message. It goes to whose turn it is when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    queue: usize,
    /// False while it is left to others.
    held: AtomicBool,
}

impl Seats {
    /// At least one seat; a queue for each weight.
    pub fn new(count: usize, weights: impl IntoIterator<Item = u32>, shutdown: Shutdown) -> Self {
        let turns = Turns::new(weights);
        let waiting = (0..turns.len()).map(|_| VecDeque::new()).collect();
        let state = State { free: count.max(1), turns, waiting };
        Self { state: Arc::new(Mutex::new(state)), shutdown }
    }

    /// Waits for a seat until it is this queue's turn; none once the shutdown has begun.
    ///
    /// # Panics
    /// When `queue` is none that has a weight.
    pub async fn take(&self, queue: usize) -> Option<Seat> {
        if self.shutdown.has_begun() {
            return None;
        }
        let seat = {
            let mut state = self.state();
            if state.take_free(queue) {
                return Some(self.seat(queue));
            }
            state.join(queue)
        };
        self.wait_for(seat).await
    }

    /// A seat that comes too late is dropped with its channel, and so handed on.
    async fn wait_for(&self, seat: oneshot::Receiver<Seat>) -> Option<Seat> {
        tokio::select! {
            biased;
            seat = seat => seat.ok(),
            () = self.shutdown.begun() => None,
        }
    }

    /// Somebody's seat is free again.
    fn hand_on(&self) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.next();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some((queue, waiting)) = next else { return };
            match waiting.send(self.seat(queue)) {
                Ok(()) => return,
                // Whoever waited has gone meanwhile; this seat was none of theirs yet.
                Err(seat) => seat.held.store(false, Ordering::Relaxed),
            }
        }
    }

    fn seat(&self, queue: usize) -> Seat {
        Seat { seats: self.clone(), queue, held: AtomicBool::new(true) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there was a free one.
    fn take_free(&mut self, queue: usize) -> bool {
        if self.free == 0 {
            return false;
        }
        self.free -= 1;
        self.turns.take(queue);
        true
    }

    fn join(&mut self, queue: usize) -> oneshot::Receiver<Seat> {
        let (sender, seat) = oneshot::channel();
        self.waiting[queue].push_back(sender);
        seat
    }

    /// The one who has waited longest of the queue whose turn it is.
    fn next(&mut self) -> Option<(usize, oneshot::Sender<Seat>)> {
        for waiting in &mut self.waiting {
            waiting.retain(|sender| !sender.is_closed());
        }
        let queue = self.turns.next(|queue| !self.waiting[queue].is_empty())?;
        self.turns.take(queue);
        self.waiting[queue].pop_front().map(|sender| (queue, sender))
    }
}

impl Seat {
    /// To be called after some `events` of a message that has more, with none in work: others
    /// have their turns before the next ones. Without it a message of a million events would
    /// keep a seat from everybody for as long as it takes.
    pub async fn give_way(&self, events: usize) {
        {
            let mut state = self.seats.state();
            state.turns.charge(self.queue, events as u64);
            if state.waiting.iter().all(VecDeque::is_empty) {
                return;
            }
        }
        self.leave();
        self.come_back().await;
    }

    /// Leaves the seat to others while something that others do is waited for: they may need
    /// it for that. Returns without the seat once the shutdown has begun.
    pub async fn leave_for<T>(&self, waited_for: impl Future<Output = T>) -> T {
        let mut waited_for = std::pin::pin!(waited_for);
        if let Some(ready) = waited_for.as_mut().now_or_never() {
            return ready;
        }
        self.leave();
        let ready = waited_for.await;
        self.come_back().await;
        ready
    }

    fn leave(&self) {
        if self.held.swap(false, Ordering::Relaxed) {
            self.seats.hand_on();
        }
    }

    async fn come_back(&self) {
        let seat = {
            let mut state = self.seats.state();
            if state.take_free(self.queue) {
                self.held.store(true, Ordering::Relaxed);
                return;
            }
            state.join(self.queue)
        };
        if let Some(seat) = self.seats.wait_for(seat).await {
            seat.held.store(false, Ordering::Relaxed);
            self.held.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
#[path = "seats_tests.rs"]
mod tests;
