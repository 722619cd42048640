use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Pipeline;
use super::message::{Job, Reached};
use super::report::note;
use crate::fault::{Fault, Faulty};
use crate::source::{Delivery, Disposition, Drained, Shutdown, Source};

/// Tries of a message that others wait for, before all of them go back to their queue.
const TRIES_MAX: u32 = 4;

/// Processes deliveries until the shutdown begins, then drains. As many are in work at
/// once as the source has permits.
pub async fn run(pipeline: Arc<Pipeline>, mut source: Source, shutdown: Shutdown, drain: Duration) -> Drained {
    let mut in_work = JoinSet::new();
    while let Some(delivery) = source.next().await {
        in_work.spawn(deliver(pipeline.clone(), delivery, shutdown.clone()));
        while in_work.try_join_next().is_some() {}
    }
    let drained = source.drain(drain).await;
    in_work.shutdown().await;
    drained
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
