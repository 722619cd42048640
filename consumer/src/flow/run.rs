use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;

use super::Pipeline;
use super::message::{Job, Reached};
use super::report::note;
use super::seats::{Seat, Seats};
use crate::fault::{Fault, Faulty};
use crate::lane::Lane;
use crate::metric;
use crate::source::{Delivery, Disposition, Drained, Shutdown, Source};

/// Tries of a message that others wait for, before all of them go back to their queue.
const TRIES_MAX: u32 = 4;

/// How much is done at once, and how long a stop may take.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Messages in work at once, all queues together; at least 1.
    pub concurrency: usize,
    /// Time for what is in work at a stop, before it is released.
    pub drain: Duration,
}

/// One queue's part of the process.
#[derive(Debug)]
pub struct Share {
    pub source: Source,
    /// Seats that it gets for each one of a queue of weight 1, while both have messages.
    pub weight: u32,
}

impl Share {
    /// Of a queue that has the process to itself.
    pub fn whole(source: Source) -> Vec<Self> {
        vec![Self { source, weight: 1 }]
    }
}

/// Processes the messages of every queue until the shutdown begins, then drains; gives how
/// each queue's drain went. The queues take turns at the seats that are free.
pub async fn run(pipeline: Arc<Pipeline>, shares: Vec<Share>, options: RunOptions, shutdown: Shutdown) -> Vec<Drained> {
    let weights = shares.iter().map(|share| share.weight);
    let seats = Seats::new(options.concurrency, weights, shutdown.clone());
    let sources = shares.into_iter().map(|share| share.source).enumerate();
    let consume = |(queue, source)| {
        let seats = seats.clone();
        let work = Work { pipeline: pipeline.clone(), shutdown: shutdown.clone() };
        work.consume(queue, source, seats, options.drain)
    };
    join_all(sources.map(consume)).await
}

/// What the work on a message takes besides the message.
#[derive(Clone)]
struct Work {
    pipeline: Arc<Pipeline>,
    shutdown: Shutdown,
}

impl Work {
    async fn consume(self, queue: usize, mut source: Source, seats: Seats, drain: Duration) -> Drained {
        let mut in_work = JoinSet::new();
        while let Some(delivery) = source.next().await {
            while in_work.try_join_next().is_some() {}
            let Some(seat) = seats.take(queue).await else {
                source.give_back(delivery);
                break;
            };
            let gauge = InWork::begin(delivery.lane);
            let work = self.clone().deliver(delivery, seat);
            in_work.spawn(async move {
                work.await;
                drop(gauge);
            });
        }
        let drained = source.drain(drain).await;
        in_work.shutdown().await;
        drained
    }

    async fn deliver(self, mut delivery: Delivery, seat: Seat) {
        let Self { pipeline, shutdown } = self;
        let comes_next = tokio::select! {
            biased;
            () = shutdown.begun() => false,
            comes_next = seat.leave_for(delivery.comes_next()) => comes_next,
        };
        if !comes_next || delivery.is_lost() || shutdown.has_begun() {
            drop(delivery.settle(Disposition::Release));
            return;
        }
        let disposition = handle(&pipeline, &delivery, &seat, &shutdown).await;
        // Settlement is confirmed, retried and counted by the source; the permit waits for it.
        drop(delivery.settle(disposition));
    }
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

/// What is to become of a message. One that fails for now goes back to its queue at once,
/// unless others wait for it: they would have to go back too, untouched and one receive
/// nearer to the dead-letter queue, so it is tried here a few times first.
async fn handle(pipeline: &Pipeline, delivery: &Delivery, seat: &Seat, shutdown: &Shutdown) -> Disposition {
    let mut tries = 1;
    loop {
        let job = Job {
            message: &delivery.message,
            receive_count: delivery.message.receive_count.saturating_add(tries - 1),
            queue: &delivery.queue,
            lane: delivery.lane,
            in_order: delivery.is_in_order(),
            dead_letters: Some(&delivery.dead_letters),
            seat: Some(seat),
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
                    // Its group waits for it; nobody else has to.
                    () = seat.leave_for(tokio::time::sleep(delay)) => {}
                }
            }
            disposition => return disposition,
        }
    }
}
