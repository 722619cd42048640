use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Pipeline;
use super::message::{Job, Reached};
use super::report::note;
use crate::fault::{Fault, Faulty};
use crate::lane::Lane;
use crate::metric;
use crate::source::{Delivery, Disposition, Drained, Shutdown, Sources};

/// Tries of a message that others wait for, before all of them go back to their queue.
const TRIES_MAX: u32 = 4;

/// How much is done at once, and how long a stop may take.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Events in work at once, all queues together; at least 1.
    pub concurrency: usize,
    /// Time for what is in work at a stop, before it is released.
    pub drain: Duration,
}

/// Processes deliveries until the shutdown begins, then drains; gives how each queue's
/// drain went. The queues take turns at the places that are free.
pub async fn run(
    pipeline: Arc<Pipeline>,
    mut sources: Sources,
    options: RunOptions,
    shutdown: Shutdown,
) -> Vec<Drained> {
    let mut in_work = JoinSet::new();
    while has_room(&mut in_work, options.concurrency.max(1), &shutdown).await {
        let Some(delivery) = sources.next().await else { break };
        let gauge = InWork::begin(delivery.lane);
        let work = deliver(pipeline.clone(), delivery, shutdown.clone());
        in_work.spawn(async move {
            work.await;
            drop(gauge);
        });
    }
    let drained = sources.drain(options.drain).await;
    in_work.shutdown().await;
    drained
}

/// Waits for a free place; false once the shutdown has begun.
async fn has_room(in_work: &mut JoinSet<()>, concurrency: usize, shutdown: &Shutdown) -> bool {
    while in_work.try_join_next().is_some() {}
    while in_work.len() >= concurrency {
        tokio::select! {
            biased;
            () = shutdown.begun() => return false,
            _ = in_work.join_next() => {}
        }
    }
    !shutdown.has_begun()
}

/// Counts one event in work until it drops, however its task ends.
struct InWork(metrics::Gauge);

impl InWork {
    fn begin(lane: Lane) -> Self {
        let gauge = metric::EVENTS_IN_WORK.gauge(&[("lane", lane.as_str())]);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

async fn deliver(pipeline: Arc<Pipeline>, mut delivery: Delivery, shutdown: Shutdown) {
    let comes_next = tokio::select! {
        biased;
        () = shutdown.begun() => false,
        comes_next = delivery.comes_next() => comes_next,
    };
    if !comes_next || delivery.is_lost() || shutdown.has_begun() {
        drop(delivery.settle(Disposition::Release));
        return;
    }
    let disposition = handle(&pipeline, &delivery, &shutdown).await;
    // Settlement is confirmed, retried and counted by the source; the permit waits for it.
    drop(delivery.settle(disposition));
}

/// What is to become of a message. One that fails for now goes back to its queue at once,
/// unless others wait for it: they would have to go back too, untouched and one receive
/// nearer to the dead-letter queue, so it is tried here a few times first.
async fn handle(pipeline: &Pipeline, delivery: &Delivery, shutdown: &Shutdown) -> Disposition {
    let mut tries = 1;
    loop {
        let job = Job {
            message: &delivery.message,
            receive_count: delivery.message.receive_count.saturating_add(tries - 1),
            queue: &delivery.queue,
            lane: delivery.lane,
            in_order: delivery.is_in_order(),
            dead_letters: Some(&delivery.dead_letters),
            stops: &|| shutdown.has_begun() || delivery.is_lost(),
        };
        let error = match pipeline.process_message(&job).await {
            Ok(Reached::End) => return Disposition::Delete,
            Ok(Reached::Stop) => return Disposition::Release,
            Err(error) => error,
        };
        let fault = error.fault();
        note(&error, &fault, &job, None);
        if let Fault::Fatal { reason } = &fault {
            shutdown.fatal(reason.clone());
        }
        match Disposition::of(fault, error.stage(), job.receive_count, &mut fastrand::Rng::new()) {
            Disposition::RetryAfter(delay) if delivery.is_waited_for() && tries < TRIES_MAX => {
                tries += 1;
                tokio::select! {
                    () = shutdown.begun() => return Disposition::Release,
                    () = delivery.lost().cancelled() => return Disposition::Release,
                    () = tokio::time::sleep(delay) => {}
                }
            }
            disposition => return disposition,
        }
    }
}
