//! A queue for tests that records what it is asked, and fails or dawdles on demand.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::in_process::{InProcessOptions, InProcessQueue};
use super::queue::{Message, Outcome, Outgoing, Queue, QueueError, Receipt, VisibilityChange};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Receive,
    Delete,
    ChangeVisibility,
    Send,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub enum Upset {
    /// It is carried out, and answered after this time.
    Slow(Duration),
    /// It fails as a whole, for now.
    Unavailable,
    /// It fails as a whole, for ever.
    NoSuchQueue,
    /// This entry fails; the others are carried out.
    Entry(usize),
}

/// One request, from when to when.
#[derive(Clone, Debug)]
pub struct Call {
    pub operation: Operation,
    pub entries: usize,
    pub receipts: Vec<Receipt>,
    pub began_at: Instant,
    pub ended_at: Instant,
}

#[derive(Debug)]
pub struct Watched {
    pub inner: InProcessQueue,
    cancel_safe: bool,
    calls: Mutex<Vec<Call>>,
    once: Mutex<VecDeque<(Operation, Upset)>>,
    always: Mutex<Vec<(Operation, Upset)>>,
    receiving: AtomicUsize,
    receiving_most: AtomicUsize,
}

impl Watched {
    pub fn new(options: InProcessOptions) -> Self {
        Self {
            inner: InProcessQueue::new(options),
            cancel_safe: true,
            calls: Mutex::default(),
            once: Mutex::default(),
            always: Mutex::default(),
            receiving: AtomicUsize::new(0),
            receiving_most: AtomicUsize::new(0),
        }
    }

    /// As SQS: a receive that is dropped may have taken messages.
    pub fn not_cancel_safe(self) -> Self {
        Self { cancel_safe: false, ..self }
    }

    /// The next request of this kind not yet spoken for meets `upset`.
    pub fn once(&self, operation: Operation, upset: Upset) {
        self.once.lock().expect("no test panics with it").push_back((operation, upset));
    }

    /// Every request of this kind meets `upset` from now on.
    pub fn always(&self, operation: Operation, upset: Upset) {
        self.always.lock().expect("no test panics with it").push((operation, upset));
    }

    pub fn calls(&self, operation: Operation) -> Vec<Call> {
        let calls = self.calls.lock().expect("no test panics with it");
        calls.iter().filter(|call| call.operation == operation).cloned().collect()
    }

    /// Most receives that were under way at once.
    pub fn receiving_most(&self) -> usize {
        self.receiving_most.load(Ordering::Relaxed)
    }

    pub async fn fill(&self, messages: usize) {
        for number in 0..messages {
            self.inner.send_when_room(Outgoing::new(number.to_string())).await.expect("short messages are taken");
        }
    }

    fn upset(&self, operation: Operation) -> Option<Upset> {
        let mut once = self.once.lock().expect("no test panics with it");
        if let Some(index) = once.iter().position(|(of, _)| *of == operation) {
            return once.remove(index).map(|(_, upset)| upset);
        }
        let always = self.always.lock().expect("no test panics with it");
        always.iter().find(|(of, _)| *of == operation).map(|(_, upset)| *upset)
    }

    async fn watch<T>(
        &self,
        operation: Operation,
        receipts: Vec<Receipt>,
        entries: usize,
        request: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let began_at = Instant::now();
        let upset = self.upset(operation);
        let fails = |make: fn(String, &'static str, super::queue::BoxError) -> QueueError| {
            Err(make(self.name().to_owned(), "request", "as the test asked".into()))
        };
        let result = match upset {
            Some(Upset::Unavailable) => {
                fails(|queue, operation, source| QueueError::Unavailable { queue, operation, source })
            }
            Some(Upset::NoSuchQueue) => {
                fails(|queue, operation, source| QueueError::NoSuchQueue { queue, operation, source })
            }
            _ => request.await,
        };
        if let Some(Upset::Slow(time)) = upset {
            tokio::time::sleep(time).await;
        }
        let call = Call { operation, entries, receipts, began_at, ended_at: Instant::now() };
        self.calls.lock().expect("no test panics with it").push(call);
        result
    }

    /// The entries to carry out, and the index of the one that must fail.
    fn spare<E: Clone>(&self, operation: Operation, entries: &[E]) -> (Vec<E>, Option<usize>) {
        let failing = match self.peek(operation) {
            Some(Upset::Entry(index)) => Some(index.min(entries.len() - 1)),
            _ => None,
        };
        let kept = entries.iter().enumerate().filter(|(index, _)| Some(*index) != failing);
        (kept.map(|(_, entry)| entry.clone()).collect(), failing)
    }

    fn with_failed<T>(&self, results: &mut Vec<Result<T, QueueError>>, failing: Option<usize>) {
        if let Some(index) = failing {
            let error = QueueError::Entry {
                queue: self.name().to_owned(),
                operation: "request",
                code: "InternalError".to_owned(),
                message: "as the test asked".to_owned(),
                sender_fault: false,
            };
            results.insert(index, Err(error));
        }
    }

    fn peek(&self, operation: Operation) -> Option<Upset> {
        let once = self.once.lock().expect("no test panics with it");
        let always = self.always.lock().expect("no test panics with it");
        once.iter().chain(always.iter()).find(|(of, _)| *of == operation).map(|(_, upset)| *upset)
    }
}

#[async_trait]
impl Queue for Watched {
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
        self.cancel_safe
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let now = self.receiving.fetch_add(1, Ordering::Relaxed) + 1;
        self.receiving_most.fetch_max(now, Ordering::Relaxed);
        let received = self.watch(Operation::Receive, Vec::new(), max, self.inner.receive(max, wait)).await;
        self.receiving.fetch_sub(1, Ordering::Relaxed);
        received
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        let (kept, failing) = self.spare(Operation::Delete, receipts);
        let request = async { if kept.is_empty() { Ok(Vec::new()) } else { self.inner.delete(&kept).await } };
        let mut results = self.watch(Operation::Delete, receipts.to_vec(), receipts.len(), request).await?;
        self.with_failed(&mut results, failing);
        Ok(results)
    }

    async fn change_visibility(
        &self,
        changes: &[VisibilityChange],
    ) -> Result<Vec<Result<Outcome, QueueError>>, QueueError> {
        let receipts = changes.iter().map(|change| change.receipt.clone()).collect();
        let (kept, failing) = self.spare(Operation::ChangeVisibility, changes);
        let request =
            async { if kept.is_empty() { Ok(Vec::new()) } else { self.inner.change_visibility(&kept).await } };
        let mut results = self.watch(Operation::ChangeVisibility, receipts, changes.len(), request).await?;
        self.with_failed(&mut results, failing);
        Ok(results)
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<String, QueueError>>, QueueError> {
        let (kept, failing) = self.spare(Operation::Send, messages);
        let request = async { if kept.is_empty() { Ok(Vec::new()) } else { self.inner.send(&kept).await } };
        let mut results = self.watch(Operation::Send, Vec::new(), messages.len(), request).await?;
        self.with_failed(&mut results, failing);
        Ok(results)
    }
}
