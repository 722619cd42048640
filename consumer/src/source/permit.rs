//! How many messages are in the process at once. A permit is taken before the receive,
//! travels with the message, and returns when it drops: when all are home, nothing is
//! in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::queue::BATCH_MAX;
use crate::metric;

/// A fixed number of permits; cloning gives another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Permits {
    semaphore: Arc<Semaphore>,
    taken: Arc<Taken>,
    total: u32,
}

/// The right to have one message in the process. Returns itself when dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
    taken: Arc<Taken>,
}

/// Counts permits that are out, for the gauge.
#[derive(Debug)]
struct Taken {
    count: AtomicUsize,
    gauge: metrics::Gauge,
}

impl Permits {
    /// At least one, whatever `total` says: a worker without permits would never work.
    pub fn new(queue: &str, total: u32) -> Self {
        let total = total.max(1);
        let taken = Taken { count: AtomicUsize::new(0), gauge: metric::PERMITS_TAKEN.gauge(&[("queue", queue)]) };
        Self { semaphore: Arc::new(Semaphore::new(total as usize)), taken: Arc::new(taken), total }
    }

    /// What is worth a request of its own: a quarter of all permits, at most ten. More of
    /// them waiting for company would leave too few at work.
    pub fn batch(&self) -> usize {
        (self.total as usize / 4).clamp(1, BATCH_MAX)
    }

    /// Waits for a batch of permits and takes up to `max` (at least 1) of those that are free
    /// by then: under full load, a receive for every single permit that comes home would be
    /// one request for each message.
    pub async fn take_up_to(&self, max: usize) -> Vec<Permit> {
        let batch = self.batch().min(max).max(1) as u32;
        let mut block = self.semaphore.clone().acquire_many_owned(batch).await.expect("the semaphore is never closed");
        let mut permits = Vec::with_capacity(max);
        while let Some(one) = block.split(1) {
            permits.push(self.issue(one));
        }
        while permits.len() < max {
            let Ok(next) = self.semaphore.clone().try_acquire_owned() else { break };
            permits.push(self.issue(next));
        }
        permits
    }

    /// Returns once every permit is home. Only sensible once intake has ended.
    pub async fn all_home(&self) {
        let _all = self.semaphore.acquire_many(self.total).await.expect("the semaphore is never closed");
    }

    pub fn taken(&self) -> usize {
        self.taken.count.load(Ordering::Relaxed)
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    fn issue(&self, permit: OwnedSemaphorePermit) -> Permit {
        self.taken.count.fetch_add(1, Ordering::Relaxed);
        self.taken.gauge.increment(1.0);
        Permit { _permit: permit, taken: self.taken.clone() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.taken.count.fetch_sub(1, Ordering::Relaxed);
        self.taken.gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn takes_what_is_free_and_waits_for_the_first() {
        let permits = Permits::new("q", 3);
        let mut first = permits.take_up_to(2).await;
        assert_eq!(first.len(), 2);
        let rest = permits.take_up_to(10).await;
        assert_eq!((rest.len(), permits.taken()), (1, 3));
        let waiter = permits.clone();
        let waiting = tokio::spawn(async move { waiter.take_up_to(10).await.len() });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        first.pop();
        assert_eq!(waiting.await.expect("the waiter does not panic"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn under_full_load_a_receive_waits_for_a_batch_of_permits() {
        let permits = Permits::new("q", 40);
        let mut out = permits.take_up_to(40).await;
        assert_eq!(out.len(), 40);
        let waiter = permits.clone();
        let waiting = tokio::spawn(async move { waiter.take_up_to(10).await.len() });
        out.truncate(31);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "nine permits are no batch");
        out.truncate(30);
        assert_eq!(waiting.await.expect("the waiter does not panic"), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn all_home_waits_for_the_last_permit() {
        let permits = Permits::new("q", 2);
        let mut out = permits.take_up_to(2).await;
        let home = permits.clone();
        let drained = tokio::spawn(async move { home.all_home().await });
        out.pop();
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        out.pop();
        drained.await.expect("the waiter does not panic");
        assert_eq!(permits.taken(), 0);
    }
}
