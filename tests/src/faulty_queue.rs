//! A queue that fails as queues do, around any queue: throttles, failures, lost answers,
//! batches done in part, duplicates, disorder, receipts that expire too early.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use consumer::source::{Message, Outcome, Outgoing, Queue, QueueError, Receipt, VisibilityChange};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Receive,
    Delete,
    ChangeVisibility,
    Send,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upset {
    /// Not carried out.
    Throttle,
    /// Carried out; the caller hears of a failure. A receive's messages are on their way
    /// to nobody until their visibility timeout ends.
    LoseAnswer,
    /// Not carried out, and no answer for this long.
    Hang(Duration),
    /// Carried out, and answered after this time.
    Slow(Duration),
    /// The first entry of a batch is not carried out, and says so.
    LeaveOut,
    /// The first receipt counts as expired, though nobody else has the message: it comes
    /// back when its visibility timeout ends.
    Expire,
    /// A receive's messages come in reverse, and each of them again in a later receive,
    /// by a receipt that has expired by then.
    Repeat,
}

/// Which upset the request with this number, counted from 0 for each operation, meets.
type Plan = dyn Fn(Operation, usize) -> Option<Upset> + Send + Sync;

/// `inner`, upset as planned.
pub struct FaultyQueue<Q> {
    pub inner: Q,
    plan: Box<Plan>,
    counts: Mutex<[usize; 4]>,
    /// Upsets that an entry meets at most, and those of each so far, by its operation and its
    /// receipt or body.
    upsets_max: u32,
    upsets: Mutex<HashMap<(usize, String), u32>>,
    /// Messages to be delivered again.
    repeats: Mutex<VecDeque<Message>>,
}

impl<Q: Queue> FaultyQueue<Q> {
    pub fn new(inner: Q, plan: impl Fn(Operation, usize) -> Option<Upset> + Send + Sync + 'static) -> Self {
        Self {
            inner,
            plan: Box::new(plan),
            counts: Mutex::default(),
            upsets_max: u32::MAX,
            upsets: Mutex::default(),
            repeats: Mutex::default(),
        }
    }

    /// Upsets no entry more often than this. A plan goes by the numbers of requests, so that
    /// all tries of a batch may meet it.
    #[must_use]
    pub fn at_most(self, upsets_max: u32) -> Self {
        Self { upsets_max, ..self }
    }

    /// Requests of this operation so far.
    pub fn requests(&self, operation: Operation) -> usize {
        lock(&self.counts)[operation as usize]
    }

    fn upset(&self, operation: Operation) -> Option<Upset> {
        let mut counts = lock(&self.counts);
        let number = counts[operation as usize];
        counts[operation as usize] += 1;
        (self.plan)(operation, number)
    }

    /// The planned upset of a request with these entries, unless one of those that it
    /// touches has met its share of them.
    fn upset_entries<'a>(&self, operation: Operation, entries: impl Iterator<Item = &'a str>) -> Option<Upset> {
        let upset = self.upset(operation)?;
        let touched = if matches!(upset, Upset::LeaveOut | Upset::Expire) { 1 } else { usize::MAX };
        let keys: Vec<_> = entries.take(touched).map(|entry| (operation as usize, entry.to_owned())).collect();
        let mut upsets = lock(&self.upsets);
        if keys.iter().any(|key| upsets.get(key).is_some_and(|count| *count >= self.upsets_max)) {
            return None;
        }
        for key in keys {
            *upsets.entry(key).or_default() += 1;
        }
        Some(upset)
    }

    /// Carries out `request` as `upset` has it.
    async fn carry_out<T>(
        &self,
        upset: Option<Upset>,
        request: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let (queue, operation, source) = (self.name().to_owned(), "request", "as planned".into());
        match upset {
            Some(Upset::Throttle) => Err(QueueError::Throttled { queue, operation, source }),
            Some(Upset::Hang(time)) => {
                tokio::time::sleep(time).await;
                Err(QueueError::TimedOut { queue, operation, source })
            }
            Some(Upset::LoseAnswer) => {
                request.await?;
                Err(QueueError::Unavailable { queue, operation, source })
            }
            Some(Upset::Slow(time)) => {
                let result = request.await;
                tokio::time::sleep(time).await;
                result
            }
            Some(Upset::LeaveOut | Upset::Expire | Upset::Repeat) | None => request.await,
        }
    }

    /// Carries out a batch; `left_out` is the result of an entry that is not.
    async fn batch<E, T>(
        &self,
        upset: Option<Upset>,
        entries: &[E],
        left_out: impl FnOnce() -> Result<T, QueueError>,
        request: impl AsyncFnOnce(&[E]) -> Result<Vec<Result<T, QueueError>>, QueueError>,
    ) -> Result<Vec<Result<T, QueueError>>, QueueError> {
        let spared = matches!(upset, Some(Upset::LeaveOut | Upset::Expire));
        let entries = if spared { &entries[1..] } else { entries };
        let request = async { if entries.is_empty() { Ok(Vec::new()) } else { request(entries).await } };
        let mut results = self.carry_out(upset, request).await?;
        if spared {
            results.insert(0, left_out());
        }
        Ok(results)
    }

    fn entry_error<T>(&self) -> Result<T, QueueError> {
        Err(QueueError::Entry {
            queue: self.name().to_owned(),
            operation: "request",
            code: "InternalError".to_owned(),
            message: "as planned".to_owned(),
            sender_fault: false,
        })
    }

    /// The result of an entry that an upset took out of its batch.
    fn spared(&self, upset: Option<Upset>) -> Result<Outcome, QueueError> {
        if upset == Some(Upset::Expire) { Ok(Outcome::Expired) } else { self.entry_error() }
    }
}

#[async_trait]
impl<Q: Queue> Queue for FaultyQueue<Q> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn visibility_timeout(&self) -> Duration {
        self.inner.visibility_timeout()
    }

    fn is_fifo(&self) -> bool {
        self.inner.is_fifo()
    }

    fn receive_is_cancel_safe(&self) -> bool {
        self.inner.receive_is_cancel_safe()
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let repeated: Vec<Message> = {
            let mut repeats = lock(&self.repeats);
            let count = repeats.len().min(max);
            repeats.drain(..count).collect()
        };
        if !repeated.is_empty() {
            return Ok(repeated);
        }
        let upset = self.upset(Operation::Receive);
        let mut messages = self.carry_out(upset, self.inner.receive(max, wait)).await?;
        if upset == Some(Upset::Repeat) {
            messages.reverse();
            let again = |message: &Message| Message {
                receipt: Receipt::new(format!("repeat.{}", message.receipt.as_str())),
                ..message.clone()
            };
            lock(&self.repeats).extend(messages.iter().map(again));
        }
        Ok(messages)
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        let upset = self.upset_entries(Operation::Delete, receipts.iter().map(Receipt::as_str));
        let request = async |receipts: &[Receipt]| self.inner.delete(receipts).await;
        self.batch(upset, receipts, || self.spared(upset), request).await
    }

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        let entries = changes.iter().map(|change| change.receipt.as_str());
        let upset = self.upset_entries(Operation::ChangeVisibility, entries);
        let request = async |changes: &[VisibilityChange]| self.inner.change_visibility(changes).await;
        self.batch(upset, changes, || self.spared(upset), request).await
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError> {
        let upset = self.upset_entries(Operation::Send, messages.iter().map(|message| message.body.as_str()));
        let request = async |messages: &[Outgoing]| self.inner.send(messages).await;
        self.batch(upset, messages, || self.entry_error(), request).await
    }
}

impl<Q: fmt::Debug> fmt::Debug for FaultyQueue<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyQueue").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}
